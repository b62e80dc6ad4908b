"""An attacked data set as arrays of an .npz, which --dataset reads like any other.

The tool itself trains on attacked images as 16-bit levels (attacked/levels.py). A file of images
has 8 bits a pixel, so the arrays are rounded here, and what that costs is measured.
"""

import numpy as np
import torch

import attacks
from attacked import quality
from attacked.cache import attack_recipe, surrogate, surrogate_recipe
from attacked.levels import LEVELS, to_bytes, to_float
from attacked.pool import PARTS, attack, chosen, parts_of
from config import attack_settings

CHUNK = 1024  # images at a time: their levels are widened
UNDONE = 1.0  # percent of the images that fooled; more undone by the rounding earn a warning


def export(config, dataset, device, say=print):
    """(arrays, description, report): the data set with the images attacked that a run attacks.

    arrays: name -> array, images uint8 (N, H, W) or (N, H, W, 3). The training images are those
    that the run of these flags trains or validates on, in the data set's order, `train_attacked`
    of them attacked; the test images are all attacked, with `test_images_clean` beside them.
    description: JSON-able; accuracies in percent. report: as quality.figures makes it.
    """
    split = parts_of(config, len(dataset.train_labels))
    picked = np.concatenate(
        [chosen(config, part, name) for part, name in zip(split, PARTS, strict=True)]
    )
    attacked = attack(config, dataset, picked, 0, device, say)
    model = surrogate(config, dataset, device, say)
    settings = attack_settings(config, config.attack, dataset.in_shape[0] > 1)
    nearest = settings.norm != "linf"  # rounding to the nearest hardly changes an L2 length
    rounded, costs = {}, {}
    for part, whole in (("train", attacked.train), ("test", attacked.test)):
        clean = getattr(dataset, f"{part}_images")[whole.index]
        rounded[part] = in_bytes(whole.pixels, clean, nearest)
        labels = getattr(dataset, f"{part}_labels")[whole.index]
        costs[part] = cost_of_rounding(model, whole, rounded[part], labels, clean)
    description = {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "recipe": attack_recipe(config, dataset, model),
        "surrogate_recipe": surrogate_recipe(config, dataset),
        "mix_ratio": config.mix_ratio,
        "seed": config.seed,
        "val_fraction": config.val_fraction,
        "train_fraction": config.train_fraction,
        "rounded": "to the nearest" if nearest else "towards the clean pixels",
        "train_images": int(sum(map(len, split))),
        "test_images": "all attacked; clean ones are test_images_clean",
        "train": costs["train"],
        "test": costs["test"],
    }
    report = quality.figures(dataset, attacked, picked)
    return (
        arrays_of(dataset, np.sort(np.concatenate(split)), attacked, rounded),
        description,
        report,
    )


def in_bytes(levels, clean, nearest):
    """levels.to_bytes of many images, some at a time."""
    parts = [
        to_bytes(levels[start : start + CHUNK], clean[start : start + CHUNK], nearest)
        for start in range(0, len(levels), CHUNK)
    ]
    return np.concatenate(parts) if parts else clean


def cost_of_rounding(model, whole, rounded, labels, clean):
    """What the surrogate makes of an AttackedSet before and after rounding; {} for no images.

    Percent of the images that it classifies correctly: clean, attacked, and attacked and rounded;
    how many it got wrong by the attack, and how many of these are undone: right again; how many are
    as they were, for the attack found nothing or it is rounded away. Lengths are those of the
    perturbation, the largest linf and the mean L2 on [0, 1] pixels.
    """
    if not len(labels):
        return {}
    now, fooled = correct(model, rounded, labels), whole.before & ~whole.after
    result = {
        "attacked": len(labels),
        "surrogate_accuracy_clean": 100 * float(whole.before.mean()),
        "surrogate_accuracy_attacked": 100 * float(whole.after.mean()),
        "surrogate_accuracy_rounded": 100 * float(now.mean()),
        "fooled": int(fooled.sum()),
        "undone_by_rounding": int((fooled & now).sum()),
        "unchanged": int((rounded == clean).reshape(len(labels), -1).all(1).sum()),
    }
    as_levels = rounded.astype(np.uint16) * (
        LEVELS // 255
    )  # every uint8 pixel is one of the levels
    for name, pixels in (("attacked", whole.pixels), ("rounded", as_levels)):
        l2, linf = quality.perturbation_norms(pixels, clean)
        result |= {f"mean_l2_{name}": float(l2.mean()), f"max_linf_{name}": float(linf.max())}
    return result


def correct(model, images, labels):
    """Whether the model classifies uint8 images (N, C, H, W) as labels (N,): bool (N,)."""
    device, found = next(model.parameters()).device, []
    for start in range(0, len(labels), CHUNK):
        truth = torch.from_numpy(labels[start : start + CHUNK]).to(device)
        x = to_float(images[start : start + CHUNK], device)
        found.append(attacks.is_correct(model, x, truth).cpu().numpy())
    return np.concatenate(found)


def arrays_of(dataset, used, attacked, rounded):
    """The arrays of the .npz: name -> array.

    used: positions (N,) of its training images, ascending; attacked: a pool.Attacked; rounded:
    {part: uint8 (M, C, H, W)} of its images.
    """
    train, clean = dataset.train_images[used], dataset.test_images
    taken = np.isin(used, attacked.train.index)
    train[taken] = rounded["train"]
    return {
        "train_images": channels_last(train),
        "train_labels": dataset.train_labels[used],
        "test_images": channels_last(rounded["test"]),
        "test_labels": dataset.test_labels,
        "train_attacked": taken,
        "train_positions": used.astype(np.int64),
        "test_positions": attacked.test.index.astype(np.int64),
        "test_images_clean": channels_last(clean),
    }


def channels_last(images):
    """(N, C, H, W) -> (N, H, W) of one channel, (N, H, W, C) of more."""
    return images[:, 0] if images.shape[1] == 1 else images.transpose(0, 2, 3, 1)


def told(description):
    """What rounding to 8 bits costs, as the lines that are printed."""
    lines = [f"rounded to 8 bits a pixel, {description['rounded']}:"]
    for part in ("train", "test"):
        if row := description[part]:
            right = "surrogate_accuracy"
            lines.append(
                f"  {part:5} {row['attacked']:>7,} images: surrogate {row[f'{right}_clean']:.2f} % "
                f"on clean, {row[f'{right}_attacked']:.2f} % on attacked floats, "
                f"{row[f'{right}_rounded']:.2f} % on rounded ones; "
                f"{row['undone_by_rounding']:,} of {row['fooled']:,} that fooled it are undone"
            )
            share = 100 * row["undone_by_rounding"] / max(1, row["fooled"])
            if share > UNDONE:
                what = f"rounding undoes {share:.0f} % of the {part} images that fooled"
                right = "python main.py with the same attack flags trains on the floats"
                lines.append(f"  warning: {what}; {right}")
    return "\n".join(lines)


def meaning(arrays, description):
    """What a run on the file measures, as the lines that are printed."""
    count, taken = len(arrays["train_labels"]), int(arrays["train_attacked"].sum())
    tests = len(arrays["test_labels"])
    left = {part: description[part].get("unchanged", 0) for part in ("train", "test")}
    left = {part: f", {n:,} left as they are" * bool(n) for part, n in left.items()}
    seed = f"those that a run of --seed={description['seed']} attacks"
    lines = [
        f"{count:,} training images, {taken:,} of them attacked{left['train']} ({seed}, for "
        f"training and for validation); {tests:,} test images, all attacked{left['test']}",
        "test_accuracy of a run on it is accuracy on attacked images, not on clean ones, which "
        "are its test_images_clean",
    ]
    if taken == count:
        leak = "a network can learn the attack itself from them (label leaking)"
        lines.append(f"note: every training image is attacked: {leak}; see docs/attacks.md")
    return "\n".join(lines)
