"""Data sets that the experiments make for themselves, as .npz files that main.py --data_dir finds.

    python -m experiments.make_data colour -o made                 # smoke_colour.npz: tinted
                                                                   # digits, 32x32x3
    python -m experiments.make_data black --dataset=mnist -o made  # mnist_black.npz and
                                                                   # mnist_black_cleantest.npz
    python -m experiments.make_data subset --dataset=cifar10_18k --images=6000 -o data
                                                                   # cifar10_18k_6000.npz

black takes main.py's flags of an attack, of --data_dir and of --cache_dir, whose attacked images it
uses.
"""

import sys
import zipfile
from pathlib import Path

import numpy as np

import data
from store.files import write_atomic
from study.request import parse
from utils import OneLineParser, UserError, stream


def tinted(images, seed):
    """Gray uint8 (N, 1, 28, 28) -> colour uint8 (N, 32, 32, 3), two pixels of margin.

    A digit of one random tint on the dark of another. The tints, drawn from the stream (seed,
    "tints"), are independent of the labels, so that only the shape tells the class.
    """
    rng = np.random.default_rng(stream(seed, "tints"))
    ink = np.pad(images[:, 0], ((0, 0), (2, 2), (2, 2)))[..., None] / 255
    shape = (len(images), 1, 1, 3)
    front, back = rng.uniform(0.5, 1, shape), rng.uniform(0, 0.3, shape)
    return (255 * (ink * front + (1 - ink) * back)).round().astype(np.uint8)


def colour_digits(data_dir):
    """The arrays of smoke_colour.npz, made of the embedded digits."""
    digits = data.load("digits", data_dir)
    return {
        "train_images": tinted(digits.train_images, 0),
        "train_labels": digits.train_labels,
        "test_images": tinted(digits.test_images, 1),
        "test_labels": digits.test_labels,
    }


def blackened(floats):
    """Floats in [0, 1], (N, C, H, W), cast to uint8 as they are, (N, H, W, C).

    The factor 255 is forgotten, and 1 is the brightest of 255.
    """
    return floats.astype(np.uint8).transpose(0, 2, 3, 1)


def black_sets(config):
    """{suffix: arrays} of a data set whose attacked images were blackened.

    The training images, and the test images too or not.
    """
    from attacked.cache import attacked_set, surrogate
    from attacked.levels import from_levels
    from engine.machine import pick_device

    if not config.surrogate:
        what = f"--attack_mode={config.attack_mode}"
        raise UserError(f"{what}: black images come from a static attacked set")
    dataset = data.load(config.dataset, config.data_dir)
    model = surrogate(config, dataset, pick_device(config.device, config.gpu))
    images = {}
    for part in ("train", "test"):
        every = np.arange(len(getattr(dataset, f"{part}_labels")))
        attacked = attacked_set(config, dataset, part, every, model)
        images[part] = blackened(from_levels(attacked.pixels, "cpu").numpy())
    common = {
        "train_images": images["train"],
        "train_labels": dataset.train_labels,
        "test_labels": dataset.test_labels,
    }
    clean = dataset.test_images.transpose(0, 2, 3, 1)
    return {
        "black": common | {"test_images": images["test"]},
        "black_cleantest": common | {"test_images": clean},
    }


def subset(dataset, count):
    """A data set's arrays with the first `count` training images, evenly by class; all test images.

    UserError where a class has too few.
    """
    share, rest = divmod(count, dataset.num_classes)
    by_class = [
        np.flatnonzero(dataset.train_labels == label)[:share]
        for label in range(dataset.num_classes)
    ]
    if share < 1 or rest or min(map(len, by_class)) < share:
        right = f"a multiple of {dataset.num_classes}, of which each class has its share, is needed"
        raise UserError(f"--images={count}: {right}")
    chosen = np.sort(np.concatenate(by_class))
    return {
        "train_images": dataset.train_images[chosen].transpose(0, 2, 3, 1),
        "train_labels": dataset.train_labels[chosen],
        "test_images": dataset.test_images.transpose(0, 2, 3, 1),
        "test_labels": dataset.test_labels,
    }


def same(path, arrays):
    """Whether the .npz at `path` holds these arrays."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return set(file) == set(arrays) and all(
                np.array_equal(file[name], array) for name, array in arrays.items()
            )
    except (ValueError, EOFError, zipfile.BadZipFile):
        return False


def main(argv=None):
    """Make the data set that the command line names; returns the exit code."""
    first_line = __doc__.splitlines()[0]
    parser = OneLineParser(prog="make_data.py", description=first_line, allow_abbrev=False)
    parser.add_argument(
        "kind",
        choices=("colour", "black", "subset"),
        help="colour: tinted digits; black: attacked images cast to uint8 without the factor 255; "
        "subset: the first --images of a data set's training images, evenly by class",
    )
    parser.add_argument("--images", type=int, default=0, metavar="N", help="of subset")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="where the .npz files go"
    )

    def work(parsed):
        args, flags = parsed
        if args.images and args.kind != "subset":
            raise UserError(f"--images={args.images} is of subset, and not of {args.kind}")
        if args.kind == "colour":
            if flags:
                raise UserError(f"colour takes no other flag than -o, and not {flags[0]}")
            sets = {"smoke_colour": colour_digits("data")}
        elif args.kind == "subset":
            config = parse(flags)[0]
            whole = data.load(config.dataset, config.data_dir)
            sets = {f"{config.dataset}_{args.images}": subset(whole, args.images)}
        else:
            config = parse(["--attack=fgsm", *flags])[0]
            if config.omits:
                raise UserError(f"--attack={config.attack} attacks no image: name another")
            sets = {
                f"{config.dataset}_{suffix}": arrays
                for suffix, arrays in black_sets(config).items()
            }
        for name, arrays in sets.items():
            path = Path(args.output) / f"{name}.npz"
            if path.exists() and not same(path, arrays):
                right = "remove it, or name another folder"
                raise UserError(f"{path} exists and holds other images: {right}")
            write_atomic(
                path, lambda temporary, arrays=arrays: np.savez_compressed(temporary, **arrays)
            )
            print(path)

    return parser.run(argv, work, parser.parse_known_args)


if __name__ == "__main__":
    sys.exit(main())
