"""What the code of Cosentino et al. 2019 does and their paper does not say, one thing at a time.

    python -m experiments.cosentino_code --attack=fgsm --seed 0 1 2 -o cosentino-code.csv
    python -m experiments.cosentino_code --prune_iterations=4 --variants=1 -o cosentino-code.csv

Their code (github.com/justincosentino/robust-sparse-networks) trains on labels smoothed by 0.1; its
attacks, cleverhans 3's, are against the label that the net predicts, in training and in testing; it
does not normalise pixels; 60 clean images go with the same 60 attacked, half of the loss each; the
initial weights are Glorot's uniform ones, the last ones are tested; and its pruned nets start from
the weights of the trained dense net, which it takes for the initial ones. This trains the dense net
so (pruned ones too, if more rounds are asked for), and with each of the first three as main.py has
it. A plain loop in torch: none of this is a flag of main.py. A row of the table is a net; what
stands in it already is not trained again.
"""

import copy
import itertools
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from tqdm import tqdm

import archs
import attacks
import data
import pruning
from config import PRESETS, attack_settings, resolve
from engine.machine import flush_denormals, set_threads
from results.ticket import to_float
from store.files import check_writable, read_csv, write_csv
from utils import OneLineParser, UserError, generator, permutation, whole

SMOOTHING = 0.1
# what differs: as their code has it, and as main.py has it
CHOICES = {
    "pixels": ("raw", "normalised"),
    "trained_for": ("smoothed labels", "labels"),
    "attacked_for": ("predictions", "labels"),
}


def variants():
    """Their code's choices (a dict), then with each of them as main.py has it, then with all."""
    theirs = {name: theirs for name, (theirs, _) in CHOICES.items()}
    others = [theirs | {name: ours} for name, (_, ours) in CHOICES.items()]
    return [theirs, *others, {name: ours for name, (_, ours) in CHOICES.items()}]


def attacked(net, images, labels, choice, settings, draws):
    """Images (N, C, H, W) as the run's attack makes them of the net as it is.

    Against `labels` or against what the net predicts, as choice["attacked_for"] says. draws: a
    torch.Generator of random starts.
    """
    if choice["attacked_for"] == "predictions":
        with torch.no_grad():
            labels = net(images).argmax(1)
    starts = torch.rand(images.shape, generator=draws)
    return settings.entry().make(net, images, labels, settings, lambda restart: starts)


def train(dataset, choice, config, settings, masks, start):
    """A net under the masks, trained for config.end_iter epochs by the choices (a dict of CHOICES).

    It starts from the weights `start` (a dict), or from theta_0 where there are none.
    """
    chosen, _ = data.split(len(dataset.train_labels), config.val_fraction, config.seed)
    images = to_float(dataset.train_images[chosen], "cpu")
    labels = torch.from_numpy(dataset.train_labels[chosen])
    stats = data.channel_stats(dataset.train_images[chosen])
    if choice["pixels"] == "raw":
        stats = ([0.0] * len(stats[0]), [1.0] * len(stats[1]))
    size = (dataset.in_shape, dataset.num_classes)
    net = archs.build(config.arch_type, *size, stats, "glorot_uniform", config.seed)
    if start:
        net.load_state_dict(start)
    weights = dict(net.named_parameters())
    keep_to(masks, weights)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    smoothing = SMOOTHING if choice["trained_for"] == "smoothed labels" else 0.0
    draws = generator(config.seed, "starts")
    for epoch in tqdm(range(config.end_iter), unit="epoch", leave=False, disable=None):
        order = permutation(len(labels), config.seed, "order", epoch)
        for index in order.split(config.batch_size):
            x, y = images[index], labels[index]
            both = torch.cat([x, attacked(net, x, y, choice, settings, draws)])
            loss = F.cross_entropy(net(both), torch.cat([y, y]), label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            keep_to(masks, weights)
    return net


def keep_to(masks, weights):
    """Set what the masks have pruned to 0, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)


def tested(net, dataset, choice, settings, seed):
    """Accuracy in percent on all test images, clean and attacked as the net was trained."""
    images = to_float(dataset.test_images, "cpu")
    labels = torch.from_numpy(dataset.test_labels)
    moved = attacked(net, images, labels, choice, settings, generator(seed, "test starts"))
    shares = [attacks.is_correct(net, each, labels).double().mean() for each in (images, moved)]
    return {
        f"{name}_accuracy": round(100 * float(share), 4)
        for name, share in zip(("test", "attacked"), shares, strict=True)
    }


def work(args):
    """Train what the table lacks, a row after each net."""
    check_writable(Path(args.output), "--output")
    flush_denormals()
    set_threads(1)
    given = PRESETS["cosentino"] | {"dataset": args.dataset, "attack": args.attack}
    given["prune_iterations"] = args.prune_iterations
    given |= {} if args.end_iter is None else {"end_iter": args.end_iter}
    if not 1 <= args.variants <= len(variants()):
        raise UserError(f"--variants={args.variants}: 1 to {len(variants())} are right")
    dataset = data.load(args.dataset, args.data_dir)
    configs = [resolve(given | {"seed": seed}, dataset.in_shape) for seed in args.seed]
    lock = Path(args.output).with_name(f".{Path(args.output).name}.lock")
    names = ("attack", *CHOICES, "seed", "end_iter", "dataset", "start", "round")
    rows = read_csv(args.output)
    if Path(args.output).exists() and not (rows and set(names) <= set(rows[0])):
        raise UserError(f"{args.output} is no table of this experiment: name another file")
    for config, choice in itertools.product(configs, variants()[: args.variants]):
        settings = attack_settings(config, args.attack, dataset.in_shape[0] > 1)
        run = {"attack": args.attack, **choice, "seed": config.seed, "end_iter": config.end_iter}
        run |= {"dataset": args.dataset}
        starts = ["theta_0"] + ["theta_0" if args.rewind else "trained"] * args.prune_iterations
        nets = [
            run | {"start": starts[number], "round": number}
            for number in range(config.prune_iterations)
        ]
        left = [number for number, net in enumerate(nets) if not stands(args.output, net)]
        masks, start = {}, {}
        for number in range(max(left, default=-1) + 1):
            net = train(dataset, choice, config, settings, masks, start)
            if number == 0:
                masks = pruning.ones(net)
                start = {} if args.rewind else copy.deepcopy(net.state_dict())
            kept, total = pruning.counts(masks)
            row = nets[number] | {"density": kept / total}
            row |= tested(net, dataset, choice, settings, config.seed)
            if number in left:
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                with FileLock(lock):  # other processes add theirs
                    write_csv(args.output, [*read_csv(args.output), row])
            weights = dict(net.named_parameters())
            rates = (config.prune_percent, config.prune_scope, config.output_prune_percent)
            masks = pruning.prune(weights, masks, *rates)


def stands(path, net):
    """Whether the table at `path` has a net (a dict of the columns that name it)."""
    return any(net.items() <= row.items() for row in read_csv(path))


def main(argv=None):
    """Train the nets that the command line names; returns the exit code."""
    parser = OneLineParser(
        prog="cosentino_code", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--attack", choices=("fgsm", "pgd"), default="fgsm", help="trained on")
    parser.add_argument("--seed", type=whole, nargs="+", default=[0], help="seeds")
    parser.add_argument(
        "--variants", type=whole, default=5, metavar="N",
        help="their code; then with main.py's pixels, labels, labels attacked for; then with all "
        "three: the first N of these five (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--prune_iterations", type=whole, default=1, metavar="N",
        help="rounds, the dense one included (default: 1)",
    )  # fmt: skip
    what = "rewind pruned nets to theta_0 (default: to the trained dense net's weights, as they do)"
    parser.add_argument("--rewind", action="store_true", help=what)
    parser.add_argument("--end_iter", type=whole, help="epochs (default: the protocol's 36)")
    parser.add_argument("--dataset", default="mnist", help="the data set (default: mnist)")
    parser.add_argument("--data_dir", default="data", help="where it is (default: data)")
    parser.add_argument(
        "-o", "--output", required=True, metavar="CSV", help="the table that rows are added to"
    )
    return parser.run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
