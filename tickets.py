"""Are two tickets the same? The masks of runs compared round by round, beside what chance and theta_0 explain.

    python tickets.py runs/A runs/B
    python tickets.py --a 'runs/*-clean-lt-*' --b 'runs/*-fgsm0.5-lt-*' -o tickets

A raw overlap says nothing: two masks of one density overlap by chance (hypergeometric: Grosse & Backes 2021), and two masks of one
theta_0 overlap because large initial weights tend to survive. So each similarity stands beside both, and two groups of runs stand
beside their ceiling: runs of the same data and theta_0 whose batches only came in another order (Movva et al. 2021).
"""

import argparse
import glob
import math
import re
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from commandline import OneLineParser
from config import RunConfig, whole, with_defaults
from runfolder import RunFolder
from runfolder import load_masks as saved_masks
from similarity import compare_layers, examine, groups_by_round, matrices, strata
from utils import UserError, fingerprint, is_small, load_tensors, pick_device, read_csv, set_threads, write_csv

# Run folders ------------------------------------------------------------------------------------


@dataclass
class Ticket:
    """A run whose masks are compared."""

    path: Path
    flags: dict
    rounds: int  # that have a mask
    shapes: dict  # of the masks, by name
    theta0: str  # stands for the prunable weights of theta_0
    label: str = ""


def load_ticket(path):
    """The Ticket of a run folder, unfinished ones up to their last round; UserError if it is no run or a file of it is damaged or missing."""
    folder = RunFolder(path)
    flags = with_defaults(folder.flags())
    numbers = {int(file.stem.removeprefix("round_")) for file in (folder.path / "masks").glob("round_*.safetensors") if file.stem[6:].isdigit()}
    count = max([len(numbers), *(number + 1 for number in numbers), len(read_csv(folder.rounds))])
    missing = sorted(set(range(count)) - numbers)
    if missing:
        raise UserError(f"{path} lacks {folder.masks(missing[0]).relative_to(path)}, the mask of a finished round: its masks cannot be compared")
    if not count:
        raise UserError(f"{path} has no finished round yet: there is no mask to compare")
    masks = load_tensors(folder.masks(0))
    # safetensors keeps no order: fc2 before fc10
    names = sorted(masks, key=_natural)
    ticket = Ticket(folder.path, flags, count, {name: tuple(masks[name].shape) for name in names}, "")
    ticket.theta0 = fingerprint(*load_theta0(ticket).values())
    return ticket


def _natural(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def load_theta0(ticket):
    """The prunable weights of a run's theta_0, by name; UserError if they don't fit its masks."""
    path = RunFolder(ticket.path).theta0
    theta0 = load_tensors(path)
    for name, shape in ticket.shapes.items():
        if name not in theta0 or tuple(theta0[name].shape) != shape:
            raise UserError(f"{path} does not fit the run's masks: {name} is {tuple(theta0[name].shape) if name in theta0 else 'missing'}, not {shape}")
    return {name: theta0[name] for name in ticket.shapes}


def load_masks(ticket, number):
    """A round's masks as numpy bools by name, in one order for all runs; UserError if they aren't masks of the run's shapes."""
    return {name: mask.numpy() for name, mask in saved_masks(RunFolder(ticket.path).masks(number), ticket.shapes).items()}


def load_signed(ticket, number):
    """A round's trained weights by name, or None if the run did not keep them; UserError if they don't fit the masks."""
    path = RunFolder(ticket.path).weights(number)
    if not path.exists():
        return None
    weights = load_tensors(path)
    for name, shape in ticket.shapes.items():
        if name not in weights or tuple(weights[name].shape) != shape:
            raise UserError(f"{path} does not fit the run's masks at {name}")
    return weights


def check_alike(tickets):
    """UserError, with both names and the layer, unless all runs are of one architecture and their masks of the same shapes."""
    first = tickets[0]
    for other in tickets[1:]:
        archs = [ticket.flags["arch_type"] for ticket in (first, other)]
        if archs[0] != archs[1]:
            raise UserError(f"{first.path} is {archs[0]} and {other.path} is {archs[1]}: only tickets of one architecture can be compared")
        for name in first.shapes | other.shapes:
            shapes = [ticket.shapes.get(name) for ticket in (first, other)]
            if shapes[0] != shapes[1]:
                raise UserError(f"the masks of {first.path} and {other.path} differ at {name}: {shapes[0] or 'none'} and {shapes[1] or 'none'}")


def label_runs(flags):
    """A short label for each dict of flags, of what tells them apart: "fgsm 0.5 s1 o0"; equal flags have equal labels."""
    result = [name for name, item in RunConfig.__dataclass_fields__.items() if item.metadata["result"] and name != "data_id"]
    images = ["clean" if not f["attack"] or not f["mix_ratio"] else f"{f['attack']} {f['mix_ratio']:g}" for f in flags]
    own_order = any(order_of(f) != f["seed"] for f in flags)
    short = {"arch_type": "{}", "dataset": "{}", "prune_type": "{}", "seed": "s{}", "order_seed": "o{}"}
    columns = {name: [short.get(name, name + "={}").format(f[name]) for f in flags] for name in result}
    columns |= {"attack": images, "order_seed": [f"o{order_of(f)}" if own_order else "" for f in flags]}
    del columns["mix_ratio"]
    # what follows from the images, as the surrogate does, need not be named
    varying = [
        name
        for name, values in columns.items()
        if len(set(values)) > 1 and (name in ("attack", *short) or len(set(zip(images, values, strict=True))) > len(set(images)))
    ]
    order = ["dataset", "arch_type", "prune_type", "attack"]
    varying = sorted(varying, key=lambda name: order.index(name) if name in order else 9 if name in short else 5)
    return [" ".join(columns[name][at] for name in varying if columns[name][at]) for at in range(len(flags))]


def order_of(flags):
    """The seed of the order of the batches."""
    return flags["seed"] if flags["order_seed"] is None else flags["order_seed"]


def name_tickets(tickets):
    """Set the labels of tickets so that no two are equal."""
    labels = label_runs([ticket.flags for ticket in tickets])
    for ticket, label in zip(tickets, labels, strict=True):
        ticket.label = label if label and labels.count(label) == 1 else str(ticket.path)


def check_group(tickets, letter):
    """UserError unless a group's runs differ in nothing but --seed and --order_seed: else within-group overlap is no ceiling."""
    for other in tickets[1:]:
        for name, item in RunConfig.__dataclass_fields__.items():
            values = [ticket.flags[name] for ticket in (tickets[0], other)]
            if item.metadata["result"] and name not in ("seed", "order_seed") and values[0] != values[1]:
                raise UserError(
                    f"--{letter}: runs of one group differ in --seed and --order_seed only; "
                    f"{tickets[0].path} and {other.path} differ in {name} ({values[0]} and {values[1]})"
                )


def check_densities(one, other):
    """UserError unless two groups prune alike, round by round."""
    for name in ("prune_percent", "output_prune_percent", "prune_scope", "prune_schedule"):
        if one.flags[name] != other.flags[name]:
            raise UserError(f"--a and --b differ in {name} ({one.flags[name]} and {other.flags[name]}): their rounds are of other densities")


def compare_runs(tickets, rounds, kinds=None):
    """Rows of overlap.csv: every pair of tickets at every round, one row a layer and "total".

    kinds: dict (label, label) -> "between" or "within", if there are groups. One round's masks are in memory at a time, each read once.
    """
    ranks = {}
    for ticket in tickets:  # sorting |theta_0| once serves all rounds of all runs that share it
        if ticket.theta0 not in ranks:
            ranks[ticket.theta0] = strata(load_theta0(ticket))
    rows = []
    for number in rounds:
        examined = [examine(load_masks(ticket, number), ranks[ticket.theta0], load_signed(ticket, number)) for ticket in tickets]
        for (one, layers_a), (other, layers_b) in combinations(zip(tickets, examined, strict=True), 2):
            shared = one.theta0 == other.theta0
            head = {"a": one.label, "b": other.label, "kind": (kinds or {}).get((one.label, other.label), ""), "share_theta0": int(shared), "round": number}
            rows += [head | row for row in compare_layers(layers_a, layers_b, shared)]
    return rows


def pixel_counts(ticket, number):
    """(H, W) how many weights of the first layer survive at each pixel, or None unless the net is fully connected on square images.

    The first layer's weight is (units, C * H * W), the images flattened channel by channel; the count is over units and channels.
    """
    shapes = list(ticket.shapes.values())
    if any(len(shape) != 2 for shape in shapes):
        return None
    for channels in (1, 3):
        side = math.isqrt(shapes[0][1] // channels)
        if side > 1 and channels * side * side == shapes[0][1]:
            mask = load_masks(ticket, number)[next(iter(ticket.shapes))]
            return mask.reshape(-1, channels, side, side).sum((0, 1))
    return None


# Figures ----------------------------------------------------------------------------------------


def pairs_figure(rows, labels, number):
    """Jaccard index between all runs at one round, a cell a pair."""
    import seaborn

    from plots import new_figure

    total = [row for row in rows if row["layer"] == "total" and row["round"] == number]
    matrix = matrices(total, labels)[number]
    density, chance, values = np.mean(matrix["density"]), matrix["jaccard_chance"], matrix["jaccard"]
    figure, (axis,) = new_figure("")
    side = max(4.0, 1.6 + 0.48 * len(labels))
    figure.set_size_inches(side + 1.2, side)
    seaborn.heatmap(
        values, mask=np.isnan(values), annot=len(labels) <= 24, fmt=".2f", annot_kws={"fontsize": 7}, square=True, ax=axis, cmap="viridis",
        xticklabels=labels, yticklabels=labels, cbar_kws={"label": "Jaccard index of the masks", "shrink": 0.8},
    )  # fmt: skip
    axis.grid(False)
    axis.tick_params(axis="x", rotation=90)
    axis.tick_params(axis="y", rotation=0)
    figure.suptitle(f"round {number}: {100 * density:.3g} % of the weights kept, {np.nanmean(chance):.3g} expected by chance")
    return figure


def layers_figure(rows, labels):
    """Jaccard index minus chance of two runs, a row a round, a column a layer."""
    import seaborn

    from plots import new_figure

    layers, numbers = (list(dict.fromkeys(row[key] for row in rows)) for key in ("layer", "round"))
    values = np.array([row["jaccard"] - row["jaccard_chance"] for row in rows]).reshape(len(numbers), len(layers))
    density = {row["round"]: 50 * (row["density_a"] + row["density_b"]) for row in rows if row["layer"] == "total"}
    figure, (axis,) = new_figure(f"{labels[0]} and {labels[1]}: Jaccard index minus chance")
    figure.set_size_inches(max(5.0, 2.4 + 0.5 * len(layers)), max(3.0, 1.4 + 0.28 * len(numbers)))
    seaborn.heatmap(
        values, annot=len(layers) <= 20, fmt=".2f", annot_kws={"fontsize": 7}, ax=axis, cmap="vlag", center=0,
        xticklabels=layers, yticklabels=[f"{number} ({density[number]:.3g} %)" for number in numbers],
    )  # fmt: skip
    axis.grid(False)
    axis.set(xlabel="layer", ylabel="round (weights kept)")
    axis.tick_params(axis="x", rotation=90 if len(layers) > 6 else 0)
    axis.tick_params(axis="y", rotation=0)
    return figure


def first_layer_figure(counts, number, difference):
    """Surviving first-layer weights at each pixel: a panel for each name in counts, {name: (H, W)}; difference: and the first minus the second."""
    from plots import new_figure

    columns = min(6, len(counts) + difference)
    lines = -(-(len(counts) + difference) // columns)
    figure, axes = new_figure(f"first-layer weights that survive, by pixel, round {number}", columns, lines)
    figure.set_size_inches(max(2.6 * columns + 0.8, 5), 0.5 + 2.5 * lines)
    low, high = min(count.min() for count in counts.values()), max(count.max() for count in counts.values())
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, count) in zip(axes, counts.items(), strict=False):
        shown = axis.imshow(count, cmap="viridis", vmin=low, vmax=high)
        axis.set_title(name, fontsize="small")
    figure.colorbar(shown, ax=axes[: len(counts)], shrink=0.8, aspect=25, label="weights")
    if difference:
        first, second = counts
        gap = counts[first] - counts[second]
        largest = max(np.abs(gap).max(), 1e-9)
        shown = axes[2].imshow(gap, cmap="vlag", vmin=-largest, vmax=largest)
        axes[2].set_title(f"{first} − {second}", fontsize="small")
        figure.colorbar(shown, ax=axes[2], shrink=0.8, aspect=25, label="difference")
    return figure


CURVES = {
    "within": "ceiling: same data and theta_0, other order",
    "between": "between groups",
    "theta0": "independent given |theta_0|",
    "chance": "chance",
}


def groups_figure(rows, title):
    """Between-group overlap, its ceiling, theta_0's share and chance against density, with 95 % bands over theta_0s."""
    import seaborn

    from plots import legend_below, new_figure, remaining_axis

    rows = [row for row in rows if row["round"] != "all"]
    x = np.array([50 * (row["density_a"] + row["density_b"]) for row in rows])
    figure, (axis,) = new_figure(title)
    for (name, label), colour, style in zip(CURVES.items(), seaborn.color_palette("colorblind"), ("-", "-", "--", ":"), strict=False):
        mean, half = (np.array([row[key] for row in rows]) for key in (name, f"{name}_interval"))
        if np.isfinite(mean).any():
            axis.plot(x, mean, marker="o", markersize=3.5, color=colour, linestyle=style, label=label)
            axis.fill_between(x, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("Jaccard index of the masks")
    remaining_axis(axis, x)
    legend_below(figure, axis)
    return figure


# The command ------------------------------------------------------------------------------------


def text_table(rows):
    """Dicts as lines of text in columns; numbers to four places, z to one, nan as -."""

    def show(name, value):
        if isinstance(value, float):
            return "-" if np.isnan(value) else f"{value:.1f}" if name.startswith("z") else f"{value:.4f}"
        return str(value)

    table = [list(rows[0]), *([show(name, value) for name, value in row.items()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in table)


COLUMNS = {
    "density": ("density_a", "density_b"),
    "Jaccard": ("jaccard",),
    "chance": ("jaccard_chance",),
    "z": ("z",),
    "given |t0|": ("jaccard_given_theta0",),
    "z |t0": ("z_given_theta0",),
    "with own |t0|": ("theta0_jaccard_a", "theta0_jaccard_b"),
    "overlap": ("overlap",),
    "(chance)": ("overlap_chance",),
    "Hamming": ("hamming",),
    "(chance) ": ("hamming_chance",),
    "signs": ("sign_agreement",),
}


def print_overlap(rows):
    """One line a round for the whole net, then one a layer of the last round, each the mean over pairs (t0 is theta_0)."""

    def mean(members, columns):
        values = [row[column] for row in members for column in columns if not np.isnan(row[column])]
        return float(np.mean(values)) if values else np.nan

    def table(key, members):
        each = {value: [row for row in members if row[key] == value] for value in dict.fromkeys(row[key] for row in members)}
        return text_table([{key: value, **{name: mean(some, columns) for name, columns in COLUMNS.items()}} for value, some in each.items()])

    last = rows[-1]["round"]
    # a mean over pairs that share theta_0 and pairs that don't would be of two different things
    for shared in (1, 0):
        members = [row for row in rows if row["share_theta0"] == shared]
        pairs = len({(row["a"], row["b"]) for row in members})
        if members:
            print(f"{'one theta_0' if shared else 'different theta_0'}: whole net, {f'mean of {pairs} pairs' if pairs > 1 else 'one pair'}")
            print(table("round", [row for row in members if row["layer"] == "total"]))
            print(f"  by layer, round {last}")
            print(table("layer", [row for row in members if row["round"] == last]))


def print_groups(rows, names):
    """The groups' figures, a line a round, and what the test can say."""
    over = f" (± 95 % over {rows[0]['theta0s']} theta_0s)" if rows[0]["theta0s"] > 1 else ""
    print(f"{names[0]} (a) against {names[1]} (b), Jaccard index of the whole net{over}:")
    shown = {"between": "between", "±": "between_interval", "same order": "between_same_order", "ceiling": "within", "given |t0|": "theta0"}
    shown |= {"chance": "chance", "ceiling - between": "difference", "± ": "difference_interval", "p": "p"}
    print(text_table([{"round": str(row["round"]), **{name: row[column] for name, column in shown.items()}} for row in rows]))
    test = rows[-1]
    if not test["within_pairs"]:
        print("ceiling: not available: needs runs that differ in --order_seed only; so there is no p-value either")
    elif not test["theta0s"]:
        print("note: the groups share no theta_0: all pairs are compared, given |t0| is empty, and there is neither an interval nor a p-value")
    elif not test["relabelings"]:
        print("note: no theta_0 has pairs both within and between the groups: no p-value")
    else:
        print(f"p: {test['relabelings']} relabelings of the runs within each theta_0; the smallest p that they can give is {test['smallest_p']:.3g}")
        if test["smallest_p"] > 0.05:
            print("note: with that few runs the test cannot be significant at 0.05: train more --seed or --order_seed")
    if not np.isnan(test["between_same_order"]):
        print("between: pairs of different --order_seed, as the ceiling's are; pairs of the same order (their own column) share their batches too")


EPILOG = """what the columns mean (CSV: overlap.csv, one row a pair, round and layer):
  Jaccard       |A and B| / |A or B|, 1 for equal masks; overlap: |A and B| / min(|A|, |B|); Hamming: share of equal entries
  chance        the same expected of masks of these densities drawn at random in each layer; z: by how many standard deviations
                the intersection is larger (layers of density 0 or 1 have none)
  given |t0|    Jaccard expected if the two masks had nothing in common but the rank of the initial weights' magnitudes, and z
                against that; only for runs that share theta_0
  with own |t0| Jaccard of each run's mask with the mask of its largest initial weights
  signs         share of the weights alive in both that trained to the same sign (needs --save_weights)
  p             of two groups (groups.csv): is the overlap between them lower than within them? Each round's p stands alone, uncorrected
                for the number of rounds; the row "all" is one test of the mean over the rounds after 0

examples:
  python tickets.py runs/A runs/B                       two tickets: every round, every layer
  python tickets.py 'runs/*-lt-*' --round 10            all pairs of many runs, one round, with a heat map
  python tickets.py --a 'runs/*-fgsm0-lt-*' --b 'runs/*-fgsm0.5-lt-*'
                                                        do clean and attacked data give different tickets? With the ceiling and a
                                                        permutation test, if each seed was also trained in other orders:
  python main.py --attack=fgsm --mix_ratio 0 0.5 --seed 0 1 2 --order_seed 0 1 2
  python tickets.py runs/A runs/B --function            and do the two networks compute the same?
"""


def make_parser():
    """The argparse parser of tickets.py."""
    parser = OneLineParser(
        prog="tickets.py",
        usage="python tickets.py (RUN RUN ... | --a RUN ... --b RUN ...) [--flag=value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Say whether the tickets (masks) of runs are the same, beside what chance and theta_0 explain.",
        epilog=EPILOG,
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders, or quoted patterns such as 'runs/*-lt-*'")
    parser.add_argument("--a", nargs="+", metavar="RUN", help="first group: runs that differ in --seed and --order_seed only")
    parser.add_argument("--b", nargs="+", metavar="RUN", help="second group")
    parser.add_argument("--round", type=whole, metavar="R", help="compare this round only (default: all that every run has; pictures show the last)")
    parser.add_argument("-o", "--output", default="tickets", metavar="FOLDER", help="where CSV, PNG and PDF files go (default: tickets)")
    parser.add_argument("--function", action="store_true", help="also agreement, shared errors, CKA and linear mode connectivity of the trained networks")
    parser.add_argument("--max_pairs", type=whole, default=10, metavar="N", help="pairs that --function compares at most (default: 10)")
    parser.add_argument("--examples", type=whole, default=2000, metavar="N", help="test images that --function takes at most (default: 2000)")
    parser.add_argument("--data_dir", default="data", help="where --function finds the data set (default: data)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where --function computes: auto, cpu, cuda (default: auto)")
    parser.add_argument("--threads", type=whole, default=0, metavar="N", help="CPU threads (default: one for fully connected nets, else all cores)")
    return parser


def expand(patterns):
    """Paths of run folders from the command line's names and patterns; UserError for a pattern without a match."""
    paths = []
    for pattern in patterns:
        matches = sorted(path for path in glob.glob(pattern) if Path(path).is_dir()) if not Path(pattern).exists() and glob.has_magic(pattern) else [pattern]
        if not matches:
            raise UserError(f"{pattern} matches no folder")
        paths += matches
    unique = {}
    for path in paths:
        if Path(path).resolve() in unique:
            print(f"note: {path} is given twice and counted once")
        unique.setdefault(Path(path).resolve(), Path(path))
    return list(unique.values())


def begun(paths):
    """The paths without those whose run has not begun to train yet."""
    for path in paths:
        if RunFolder(path).not_begun:
            print(f"note: {path} has not begun to train yet and is left out")
    return [path for path in paths if not RunFolder(path).not_begun]


def load_all(args):
    """(tickets, groups) of the command line: groups is {label: "a" or "b"} or None; UserError if they cannot be compared."""
    if bool(args.a) != bool(args.b):
        raise UserError("two groups need both --a and --b")
    if args.a and args.runs:
        raise UserError("name runs either by themselves or in the groups --a and --b, not both")
    sides = [begun(expand(names)) for names in ((args.a, args.b) if args.a else (args.runs,))]
    if args.a:
        both = {path.resolve() for path in sides[0]} & {path.resolve() for path in sides[1]}
        if both:
            raise UserError(f"{min(both)} is in both groups")
    if sum(map(len, sides)) < 2:
        raise UserError("at least two runs are needed: python tickets.py runs/A runs/B (see --help)")
    members = [[load_ticket(path) for path in side] for side in sides]
    tickets = [ticket for side in members for ticket in side]
    check_alike(tickets)
    for side, letter in zip(members, "ab", strict=False):
        if args.a:
            check_group(side, letter)
    if args.a:
        check_densities(*(side[0] for side in members))
    name_tickets(tickets)
    if len(tickets) > 2:  # patterns come in the order of hashes
        members = [sorted(side, key=lambda ticket: _natural(ticket.label)) for side in members]
    groups = {ticket.label: letter for side, letter in zip(members, "ab", strict=False) for ticket in side}
    return [ticket for side in members for ticket in side], groups if args.a else None


def common_rounds(tickets, wanted):
    """The rounds to compare: all that every run has, or the wanted one; UserError if a run lacks it."""
    for ticket in tickets:
        planned = ticket.flags["prune_iterations"]
        if ticket.rounds < planned:
            print(f"note: {ticket.path} has {ticket.rounds} of {planned} rounds")
    if wanted is not None:
        for ticket in tickets:
            if not 0 <= wanted < ticket.rounds:
                raise UserError(f"--round={wanted}: {ticket.path} has rounds 0 to {ticket.rounds - 1}")
        return [wanted]
    shortest = min(tickets, key=lambda ticket: ticket.rounds)
    if any(ticket.rounds > shortest.rounds for ticket in tickets):
        print(f"note: rounds 0 to {shortest.rounds - 1} are compared, which is as far as {shortest.path} goes")
    return list(range(shortest.rounds))


def run(args):
    """Compare, print, then write every file: an error leaves none. Returns the paths of the pictures."""
    for name, value in (("max_pairs", args.max_pairs), ("examples", args.examples), ("threads", args.threads + 1)):
        if value < 1:
            raise UserError(f"--{name}={getattr(args, name)}: {'0 or more' if name == 'threads' else 'at least 1'} is needed")
    tickets, groups = load_all(args)
    rounds = common_rounds(tickets, args.round)
    set_threads(args.threads, small=is_small(tickets[0].flags["arch_type"]))
    labels = [ticket.label for ticket in tickets]
    kinds = {(a, b): "within" if groups[a] == groups[b] else "between" for a, b in combinations(labels, 2)} if groups else {}
    pairs = pairs_of(tickets, kinds, args) if args.function else []
    if pairs:
        from function import check_pairs

        check_pairs(pairs, rounds)
    shared = len({ticket.theta0 for ticket in tickets}) < len(tickets)
    rows = compare_runs(tickets, rounds, kinds)
    print_overlap(rows)
    if not shared:
        print("note: no two of these runs share theta_0: what is given |t0| is empty")
    files, figures = {"overlap": rows}, {}
    figures["overlap"] = layers_figure(rows, labels) if len(tickets) == 2 else pairs_figure(rows, labels, rounds[-1])
    names = group_names(tickets, groups) if groups else None
    if groups:
        total = [row for row in rows if row["layer"] == "total"]
        by_label = {ticket.label: ticket for ticket in tickets}
        blocks, orders = ({label: of(ticket) for label, ticket in by_label.items()} for of in (lambda t: t.theta0, lambda t: order_of(t.flags)))
        files["groups"] = groups_by_round(total, groups, blocks, orders)
        print_groups(files["groups"], names)
        figures["groups"] = groups_figure(files["groups"], f"tickets of {names[0]} and {names[1]}")
    counts = first_layer_counts(tickets, groups, names, rounds[-1])
    if counts:
        figures["first_layer"] = first_layer_figure(counts, rounds[-1], difference=bool(groups))
    if pairs:
        import function

        files["function"] = function.compare_runs(pairs, rounds, args.data_dir, args.examples, pick_device(args.device, None))
        figures["function"] = function.function_figure(files["function"], "networks of two tickets compared on clean test images")
    return write_all(Path(args.output), files, figures)


def pairs_of(tickets, kinds, args):
    """The pairs that --function compares, as dicts: first, second, kind, block (theta_0, None if it is not shared)."""
    from function import choose_pairs

    pairs = [
        {"first": one, "second": other, "kind": kinds.get((one.label, other.label), ""), "block": one.theta0 if one.theta0 == other.theta0 else None}
        for one, other in combinations(tickets, 2)
    ]
    chosen = choose_pairs(pairs, args.max_pairs)
    if len(chosen) < len(pairs):
        print(f"note: --function compares {len(chosen)} of {len(pairs)} pairs: those that share theta_0, at most --max_pairs={args.max_pairs}")
    return chosen


def group_names(tickets, groups):
    """What tells group a from group b, in words; "a" and "b" if only their seeds do."""
    firsts = [next(ticket for ticket in tickets if groups[ticket.label] == letter) for letter in "ab"]
    names = label_runs([{**ticket.flags, "seed": 0, "order_seed": 0} for ticket in firsts])
    return names if all(names) and names[0] != names[1] else ["a", "b"]


def first_layer_counts(tickets, groups, names, number):
    """{name: (H, W)} for the picture of the first layer: each group's mean, or up to twelve runs; empty where there is no such picture."""
    if pixel_counts(tickets[0], number) is None:
        return {}
    if not groups:
        if len(tickets) > 12:
            print("note: the picture of the first layer shows the first 12 runs")
        return {ticket.label: pixel_counts(ticket, number) for ticket in tickets[:12]}
    each = {letter: [pixel_counts(ticket, number) for ticket in tickets if groups[ticket.label] == letter] for letter in "ab"}
    return {name: np.mean(each[letter], axis=0) for name, letter in zip(names, "ab", strict=True)}


def write_all(output, files, figures):
    """Write tables and figures; returns the paths of the PNGs."""
    from plots import save_figure

    for name, rows in files.items():
        # an empty cell, not the word nan
        write_csv(output / f"{name}.csv", [{key: "" if isinstance(value, float) and np.isnan(value) else value for key, value in row.items()} for row in rows])
    for name, figure in figures.items():
        save_figure(figure, output / name)
    return [output / f"{name}.png" for name in figures]


def main(argv=None):
    """Compare the tickets on the command line; returns the exit code."""

    def work(args):
        import seaborn  # here: --help need not wait for it

        seaborn.set_theme(style="whitegrid", context="paper")
        for path in run(args):
            print(path)

    return make_parser().run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
