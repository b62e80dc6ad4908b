"""What the code of Cosentino et al. 2019 does and their paper does not say, one thing at a time.

    python -m experiments.cosentino_code --attack=fgsm --seed 0 1 2 -o cosentino-code.csv
    python -m experiments.cosentino_code --prune_iterations=4 --variants=1 --end_iter=60 \\
        --tested_after 30 60 -o cosentino-code.csv

Their code (github.com/justincosentino/robust-sparse-networks) trains on labels smoothed by 0.1; its
attacks, cleverhans 3's, are against the label that the net predicts, in training and in testing; it
does not normalise pixels; 60 clean images go with the same 60 attacked, half of the loss each; the
initial weights are Glorot's uniform ones, validation chooses none; and its pruned nets start from
the weights of the trained dense net, which it takes for the initial ones. This trains the dense net
so (pruned ones too, if more rounds are asked for), and with each of the first three as main.py has
it. They train each net for 60 epochs, prune it then, and read their table's figures where their log
has 30,000 iterations; it counts an epoch of 834 batches as 1,000, so that is after 30 epochs, not
the paper's 36. A ticket's weights have had the dense net's epochs by then too, so --controls trains
nets from theta_0 under the same masks for as many, and --unpruned goes on with the dense net.

A plain loop in torch, its attacks by engine/kernels.py: none of this is a flag of main.py. A row of
the table is a net at an age; what stands in it already is not trained again.
"""

import argparse
import copy
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from tqdm import tqdm

import archs
import attacks
import data
import pruning
from config import PRESETS, RunConfig, attack_settings, resolve
from engine.compiled import kernels_for
from engine.machine import flush_denormals, set_threads
from engine.net import Net
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
# what names a row; start: "theta_0", "trained" (the dense net's weights), or "control"
NAMES = (
    "attack", *CHOICES, "seed", "end_iter", "dataset", "start", "round", "tested_after",
)  # fmt: skip


def variants():
    """Their code's choices (a dict), then with each of them as main.py has it, then with all."""
    theirs = {name: theirs for name, (theirs, _) in CHOICES.items()}
    others = [theirs | {name: ours} for name, (_, ours) in CHOICES.items()]
    return [theirs, *others, {name: ours for name, (_, ours) in CHOICES.items()}]


@dataclass(frozen=True)
class Training:
    """How nets are trained and tested: on what data, by what choice (a dict of CHOICES), flags and
    attack (an AttackSettings).
    """

    dataset: data.Dataset
    choice: dict
    config: RunConfig
    settings: attacks.AttackSettings

    def attacked(self, net, images, labels, draws, quick=None):
        """Images (N, C, H, W) as the attack makes them of the net as it is.

        Against `labels` or against what the net predicts, as the choice says. draws: a
        torch.Generator of random starts; quick: the net's engine.net.Net, which does it at the cost
        of the weights alive.
        """
        if self.choice["attacked_for"] == "predictions":
            with torch.no_grad():
                labels = net(images).argmax(1)
        starts, signs = torch.rand(images.shape, generator=draws), self.settings.signs()
        if quick and signs:
            quick.pull()
            return quick.attack(images, labels, signs, starts if signs.starts else None)
        make = self.settings.entry().make
        return make(net, images, labels, self.settings, lambda restart: starts)

    def train(self, masks, start, epochs, look=lambda *_: None):
        """A net under the masks, trained for so many epochs.

        It starts from the weights `start` (a dict), or from theta_0 where there are none. After
        each epoch, look(epochs so far, net, its Net or None) is called.
        """
        dataset, config = self.dataset, self.config
        chosen, _ = data.split(len(dataset.train_labels), config.val_fraction, config.seed)
        images = to_float(dataset.train_images[chosen], "cpu")
        labels = torch.from_numpy(dataset.train_labels[chosen])
        stats = data.channel_stats(dataset.train_images[chosen])
        if self.choice["pixels"] == "raw":
            stats = ([0.0] * len(stats[0]), [1.0] * len(stats[1]))
        size = (dataset.in_shape, dataset.num_classes)
        net = archs.build(config.arch_type, *size, stats, "glorot_uniform", config.seed)
        if start:
            net.load_state_dict(start)
        weights = dict(net.named_parameters())
        keep_to(masks, weights)
        made = kernels_for(config, net, torch.device("cpu"), print)
        quick = Net(made, net, weights, masks) if made else None
        optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
        smoothing = SMOOTHING if self.choice["trained_for"] == "smoothed labels" else 0.0
        draws = generator(config.seed, "starts")
        for epoch in tqdm(range(epochs), unit="epoch", leave=False, disable=None):
            order = permutation(len(labels), config.seed, "order", epoch)
            for index in order.split(config.batch_size):
                x, y = images[index], labels[index]
                both = torch.cat([x, self.attacked(net, x, y, draws, quick)])
                loss = F.cross_entropy(net(both), torch.cat([y, y]), label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                keep_to(masks, weights)
            look(epoch + 1, net, quick)
        return net

    def tested(self, net, quick):
        """Accuracy in percent on all test images, clean and attacked as the net was trained."""
        images = to_float(self.dataset.test_images, "cpu")
        labels = torch.from_numpy(self.dataset.test_labels)
        draws = generator(self.config.seed, "test starts")
        moved = self.attacked(net, images, labels, draws, quick)
        right = [attacks.is_correct(net, each, labels).double().mean() for each in (images, moved)]
        names = ("test_accuracy", "attacked_accuracy")
        return {n: round(100 * float(share), 4) for n, share in zip(names, right, strict=True)}


def keep_to(masks, weights):
    """Set what the masks have pruned to 0, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)


def work(args):
    """Train what the table lacks, a row after each net and age."""
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
    check(args, configs[0])
    rows = read_csv(args.output)
    lacks = [name for name in NAMES if name not in (rows[0] if rows else {})]
    if Path(args.output).exists() and lacks:
        what = f"{args.output} is no table of this experiment (it lacks {', '.join(lacks)})"
        raise UserError(f"{what}: name another file")
    for config, choice in itertools.product(configs, variants()[: args.variants]):
        settings = attack_settings(config, args.attack, dataset.in_shape[0] > 1)
        Chain(args, Training(dataset, choice, config, settings)).work()


def check(args, config):
    """UserError for ages that no net reaches and for controls of rounds that are not trained."""
    if odd := [n for n in args.tested_after if not 1 <= n <= config.end_iter]:
        what = f"nets are trained for {config.end_iter} epochs"
        raise UserError(f"--tested_after={odd[0]}: {what}, and 1 to {config.end_iter} are right")
    last = config.prune_iterations - 1
    if odd := [n for n in args.controls if not 0 <= n <= last]:
        raise UserError(f"--controls={odd[0]} is none of the rounds: 0 to {last} are right")
    if args.rewind and (args.controls or args.unpruned):
        what = "--controls and --unpruned are of tickets that start from trained weights"
        raise UserError(f"{what}: drop them or --rewind")


@dataclass(frozen=True)
class Chain:
    """One seed's nets by one choice, each pruned from the one before, and their controls.

    args: the command line's.
    """

    args: argparse.Namespace
    training: Training

    def lacking(self, start, number, before=0):
        """The rows that the table lacks of a round's net (dicts of NAMES), the youngest first.

        before: epochs that a control's net is older than the net that it is the control of.
        """
        config = self.training.config
        row = {"attack": self.args.attack, **self.training.choice, "seed": config.seed}
        row |= {"end_iter": config.end_iter, "dataset": self.args.dataset}
        row |= {"start": start, "round": number}
        ages = sorted(set(self.args.tested_after or [config.end_iter]))
        rows = [row | {"tested_after": before + age} for age in ages]
        return [row for row in rows if not stands(self.args.output, row)]

    def fit(self, masks, start, epochs, rows):
        """A trained net; these rows are added as it comes to their ages."""

        def look(epoch, net, quick):
            for row in rows:
                if row["tested_after"] == epoch:
                    kept, total = pruning.counts(masks or pruning.ones(net))
                    scores = self.training.tested(net, quick)
                    add_row(self.args.output, row | {"density": kept / total} | scores)

        return self.training.train(masks, start, epochs, look)

    def work(self):
        """Train what the table lacks; a net that stands in it is trained again if a later one hangs
        on its masks.
        """
        args, config = self.args, self.training.config
        later = "theta_0" if args.rewind else "trained"
        starts = ["theta_0", *[later] * (config.prune_iterations - 1)]
        chain = [self.lacking(start, number) for number, start in enumerate(starts)]
        controls = {
            number: self.lacking("control", number, config.end_iter) for number in args.controls
        }
        again = self.lacking("trained", 0) if args.unpruned else []
        planned = [*enumerate(chain), *controls.items(), (0, again)]
        left = [number for number, rows in planned if rows]
        masks, start = {}, {}
        for number in range(max(left, default=-1) + 1):
            if rows := controls.get(number):
                self.fit(masks, {}, rows[-1]["tested_after"], rows)
            if number == max(left) and not chain[number] and (number or not again):
                return
            net = self.fit(masks, start, config.end_iter, chain[number])
            if number == 0:
                masks = pruning.ones(net)
                start = {} if args.rewind else copy.deepcopy(net.state_dict())
                if again:
                    self.fit(masks, start, again[-1]["tested_after"], again)
            weights = dict(net.named_parameters())
            rates = (config.prune_percent, config.prune_scope, config.output_prune_percent)
            masks = pruning.prune(weights, masks, *rates)


def add_row(path, row):
    """Print a row and add it to the table at `path`, to which other processes add theirs."""
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    with FileLock(Path(path).with_name(f".{Path(path).name}.lock")):
        write_csv(path, [*read_csv(path), row])


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
    parser.add_argument(
        "--end_iter", type=whole,
        help="epochs, after which a net is pruned (default: the protocol's 36; theirs are 60)",
    )  # fmt: skip
    parser.add_argument(
        "--tested_after", type=whole, nargs="+", default=[], metavar="N",
        help="epochs after which a net is tested, a row each (default: the last)",
    )  # fmt: skip
    parser.add_argument(
        "--controls", type=whole, nargs="+", default=[], metavar="N",
        help="rounds whose masks are trained from theta_0 too, for the dense net's epochs and the "
        "pruned net's together; 0 is the dense net (default: none)",
    )  # fmt: skip
    what = "go on with the trained dense net, unpruned, as with a ticket: a further control"
    parser.add_argument("--unpruned", action="store_true", help=what)
    parser.add_argument("--dataset", default="mnist", help="the data set (default: mnist)")
    parser.add_argument("--data_dir", default="data", help="where it is (default: data)")
    parser.add_argument(
        "-o", "--output", required=True, metavar="CSV", help="the table that rows are added to"
    )
    return parser.run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
