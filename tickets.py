"""Are two tickets the same? Masks compared round by round, beside what chance and theta_0 explain.

    python tickets.py runs/A runs/B
    python tickets.py --a 'runs/*-clean-lt-*' --b 'runs/*-fgsm0.5-lt-*' -o tickets

A raw overlap says nothing: two masks of one density overlap by chance (hypergeometric: Grosse &
Backes 2021), and two masks of one theta_0 overlap because large initial weights tend to survive. So
each similarity stands beside both, and two groups of runs stand beside their ceiling: runs of the
same data and theta_0 whose batches only came in another order (Movva et al. 2021).
"""

import argparse
import sys
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd

from results import overlap
from results.figures import save_figure, use_theme
from results.overlap_figures import (
    first_layer_counts,
    first_layer_figure,
    groups_figure,
    layers_figure,
    pairs_figure,
)
from results.table import arm_labels, begun, expand, identity
from results.ticket import natural, open_ticket
from store.files import write_atomic
from utils import OneLineParser, UserError, whole

# What can be compared --------------------------------------------------------------------------


def check_alike(tickets):
    """UserError, with both names, unless all runs are of one architecture and of masks alike."""
    first = tickets[0]
    for other in tickets[1:]:
        one, two = first.config.arch_type, other.config.arch_type
        if one != two:
            what = f"{first.path} is {one} and {other.path} is {two}"
            raise UserError(f"{what}: only tickets of one architecture can be compared")
        for name in first.shapes | other.shapes:
            one, two = (ticket.shapes.get(name, "none") for ticket in (first, other))
            if one != two:
                what = f"the masks of {first.path} and {other.path} differ at {name}"
                raise UserError(f"{what}: {one} and {two}")


def order_of(config):
    """The seed of the order of the batches."""
    return config.seed if config.order_seed is None else config.order_seed


def check_group(tickets, letter):
    """UserError unless a group's runs differ in nothing but --seed and --order_seed.

    Else the overlap within the group would be no ceiling.
    """
    arms = [dict(identity(ticket.config.replace(order_seed=None))) for ticket in tickets]
    for other, arm in zip(tickets, arms, strict=True):
        for name in arms[0] | arm:
            here, there = arms[0].get(name), arm.get(name)
            if here != there:
                raise UserError(
                    f"--{letter}: runs of one group differ in --seed and --order_seed only; "
                    f"{tickets[0].path} and {other.path} differ in {name} ({here} and {there})"
                )


def check_groups(one, other):
    """UserError unless two groups, of which these are runs, prune alike, round by round."""
    names = ("prune_percent", "output_prune_percent", "prune_scope", "prune_schedule")
    values = {name: [getattr(ticket.config, name) for ticket in (one, other)] for name in names}
    kept = zip(one.kept, other.kept, strict=False)
    values |= {f"the weights kept in round {n}": pair for n, pair in enumerate(kept)}
    for name, (here, there) in values.items():
        if here != there:
            what = f"--a and --b differ in {name} ({here} and {there})"
            raise UserError(f"{what}: their rounds are of other densities")


def common_rounds(tickets, wanted):
    """The rounds that every run has, or the wanted one; UserError if a run lacks that."""
    for ticket in tickets:
        rounds, planned = len(ticket.kept), ticket.config.prune_iterations
        if rounds < planned:
            print(f"note: {ticket.path} has {rounds} of {planned} rounds")
        if wanted is not None and not 0 <= wanted < rounds:
            raise UserError(f"--round={wanted}: {ticket.path} has rounds 0 to {rounds - 1}")
    if wanted is not None:
        return [wanted]
    shortest = min(tickets, key=lambda ticket: len(ticket.kept))
    count = len(shortest.kept)
    if any(len(ticket.kept) > count for ticket in tickets):
        print(f"note: rounds 0 to {count - 1} are compared: {shortest.path} goes no further")
    return list(range(count))


def label_runs(configs):
    """A short label for each run, of what tells it from the others: "fgsm 0.5 s1 o0".

    Equal runs have equal labels, "" where all are.
    """
    arms = arm_labels([config.replace(order_seed=None) for config in configs])
    if len(set(arms)) == 1:
        arms = [""] * len(arms)
    elif len({config.prune_type for config in configs}) == 1:
        arms = [arm.split(", ", 1)[1] for arm in arms]
    labels = pd.DataFrame({"arm": arms})
    seeds, orders = [config.seed for config in configs], [order_of(config) for config in configs]
    for letter, values in (("s", seeds), ("o", orders if orders != seeds else [])):
        if len(set(values)) > 1:
            labels[letter] = [f"{letter}{value}" for value in values]
    return labels.agg(" ".join, axis=1).str.strip().tolist()


# Comparing -------------------------------------------------------------------------------------


def pairs_of(tickets, groups):
    """Every pair, a DataFrame of Tickets: first, second, kind ("within" a group or "between" them,
    "" without groups), and the theta0 that they share, or nan.
    """
    rows = []
    for one, other in combinations(tickets, 2):
        same = groups is not None and groups[one.label] == groups[other.label]
        kind = "" if groups is None else "within" if same else "between"
        rows.append((one, other, kind, one.theta0 if one.theta0 == other.theta0 else None))
    return pd.DataFrame(rows, columns=["first", "second", "kind", "theta0"])


def compare_masks(tickets, pairs, rounds):
    """overlap.csv, a DataFrame: every pair at every round, a row a layer and "total".

    One round's masks are in memory at a time, each read once.
    """
    # sorting |theta_0| once serves all rounds of all runs that share it
    owners = {ticket.theta0: ticket for ticket in tickets}
    ranks = {name: overlap.strata(ticket.theta0_weights()) for name, ticket in owners.items()}
    rows = []
    for number in rounds:
        layers = {
            t.label: overlap.examine(t.masks(number), ranks[t.theta0], t.trained_weights(number))
            for t in tickets
        }
        for pair in pairs.itertuples():
            a, b, shared = pair.first.label, pair.second.label, pd.notna(pair.theta0)
            head = {"a": a, "b": b, "kind": pair.kind, "share_theta0": int(shared), "round": number}
            rows += [head | row for row in overlap.count_layers(layers[a], layers[b], shared)]
    return overlap.similarities(pd.DataFrame(rows))


# Printing --------------------------------------------------------------------------------------


def text_table(table):
    """A DataFrame as lines of text; numbers to four places, z to one, nan as -."""

    def show(column):
        places = 1 if column.name.startswith("z") else 4
        return column.map(f"{{:.{places}f}}".format, na_action="ignore")

    table = table.assign(**table.select_dtypes("float").apply(show))
    wide = [len(name) + 1 for name in table.columns]
    return table.to_string(index=False, na_rep="-", col_space=wide)


# as printed: the columns of overlap.csv that it is the mean of
COLUMNS = {
    "density": ["density_a", "density_b"], "Jaccard": ["jaccard"], "chance": ["jaccard_chance"],
    "z": ["z"], "given |t0|": ["jaccard_given_theta0"], "z |t0": ["z_given_theta0"],
    "with own |t0|": ["theta0_jaccard_a", "theta0_jaccard_b"], "overlap": ["overlap"],
    "(chance)": ["overlap_chance"], "Hamming": ["hamming"], "(chance) ": ["hamming_chance"],
    "signs": ["sign_agreement"],
}  # fmt: skip
# columns of groups.csv, as printed
GROUP_COLUMNS = {
    "round": "round", "between": "between", "between_interval": "±",
    "between_same_order": "same order", "within": "ceiling", "theta0": "given |t0|",
    "chance": "chance", "difference": "ceiling - between", "difference_interval": "± ", "p": "p",
}  # fmt: skip


def print_overlap(rows):
    """A line a round for the whole net, then one a layer of the last round.

    Each is the mean over pairs (t0 is theta_0).
    """
    means = {name: rows[columns].mean(axis=1) for name, columns in COLUMNS.items()}
    shown = rows[["round", "layer", "share_theta0", "a", "b"]].assign(**means)

    def table(members, key):
        return text_table(members.groupby(key, sort=False)[[*COLUMNS]].mean().reset_index())

    last = rows["round"].max()
    # a mean over pairs that share theta_0 and pairs that don't would be of two different things
    for shared, members in sorted(shown.groupby("share_theta0"), reverse=True):
        pairs = members.groupby(["a", "b"]).ngroups
        over = f"mean of {pairs} pairs" if pairs > 1 else "one pair"
        print(f"{'one' if shared else 'different'} theta_0: whole net, {over}")
        print(table(members[members.layer == "total"], "round"))
        print(f"  by layer, round {last}")
        print(table(members[members["round"] == last], "layer"))


def print_groups(rows, names):
    """The groups' figures, a line a round, and what the test can say."""
    test = rows.iloc[-1]
    over = f" (± 95 % over {test.theta0s} theta_0s)" if test.theta0s > 1 else ""
    print(f"{names[0]} (a) against {names[1]} (b), Jaccard index of the whole net{over}:")
    print(text_table(rows[[*GROUP_COLUMNS]].rename(columns=GROUP_COLUMNS)))
    if not test.within_pairs:
        why = "needs runs that differ in --order_seed only; so there is no p-value either"
        print(f"ceiling: not available: {why}")
    elif not test.theta0s:
        why = "given |t0| is empty, and there is neither an interval nor a p-value"
        print(f"note: the groups share no theta_0: all pairs are compared, {why}")
    elif not test.relabelings:
        print("note: no theta_0 has pairs both within and between the groups: no p-value")
    else:
        least = f"the smallest p that they can give is {test.smallest_p:.3g}"
        print(f"p: {test.relabelings} relabelings of the runs within each theta_0; {least}")
        if test.smallest_p > 0.05:
            more = "train more --seed or --order_seed"
            print(f"note: with that few runs the test cannot be significant at 0.05: {more}")
    if not np.isnan(test.between_same_order):
        own = "pairs of the same order (their own column) share their batches too"
        print(f"between: pairs of different --order_seed, as the ceiling's are; {own}")


# The command -----------------------------------------------------------------------------------

EPILOG = """what the columns mean (CSV: overlap.csv, one row a pair, round and layer):
  Jaccard       |A and B| / |A or B|, 1 for equal masks; overlap: |A and B| / min(|A|, |B|);
                Hamming: share of equal entries
  chance        the same expected of masks of these densities drawn at random in each layer; z: by
                how many standard deviations the intersection is larger (layers of density 0 or 1
                have none)
  given |t0|    Jaccard expected if the two masks had nothing in common but the rank of the initial
                weights' magnitudes, and z against that; only for runs that share theta_0
  with own |t0| Jaccard of each run's mask with the mask of its largest initial weights
  signs         share of the weights alive in both that trained to the same sign (needs
                --save_weights)
  p             of two groups (groups.csv): is the overlap between them lower than within them?
                Each round's p stands alone, uncorrected for the number of rounds; the row "all" is
                one test of the mean over the rounds after 0

examples:
  python tickets.py runs/A runs/B                   two tickets: every round, every layer
  python tickets.py 'runs/*-lt-*' --round 10        all pairs of many runs, with a heat map
  python tickets.py runs/A runs/B --function        and do the two networks compute the same?
  python tickets.py --a 'runs/*-fgsm0-lt-*' --b 'runs/*-fgsm0.5-lt-*'
                                                    do clean and attacked data give different
  tickets? With the ceiling and a permutation test, if each seed was also trained in other orders:
  python main.py --attack=fgsm --mix_ratio 0 0.5 --seed 0 1 2 --order_seed 0 1 2
"""


def make_parser():
    """The argparse parser of tickets.py."""
    parser = OneLineParser(
        prog="tickets.py",
        usage="python tickets.py (RUN RUN ... | --a RUN ... --b RUN ...) [--flag=value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Are the masks of runs the same, beside what chance and theta_0 give?",
        epilog=EPILOG,
    )
    add, count = parser.add_argument, {"type": whole, "metavar": "N"}
    add("runs", nargs="*", metavar="RUN", help="run folders, or patterns such as 'runs/*-lt-*'")
    add("--a", nargs="+", metavar="RUN", help="first group: runs that differ in seeds only")
    add("--b", nargs="+", metavar="RUN", help="second group")
    add("--round", **count, help="this round only (default: all; pictures show the last)")
    add("-o", "--output", default="tickets", metavar="FOLDER", help="of files (default: tickets)")
    more = "also agreement, shared errors, CKA and linear mode connectivity of the networks"
    add("--function", action="store_true", help=more)
    add("--max_pairs", **count, default=10, help="of --function, at most (default: 10)")
    add("--examples", **count, default=2000, help="test images of --function (default: 2000)")
    add("--data_dir", help="where --function finds the data set (default: the runs' own)")
    devices = ("auto", "cpu", "cuda")
    add("--device", default="auto", choices=devices, help="of --function (default: auto)")
    add("--threads", **count, default=0, help="of the CPU (default: by the network)")
    return parser


def load_all(args):
    """(tickets, groups) of the command line; UserError if they cannot be compared.

    groups: a Series of "a" or "b" by label, or None.
    """
    if bool(args.a) != bool(args.b):
        raise UserError("two groups need both --a and --b")
    if args.a and args.runs:
        raise UserError("name runs by themselves or in the groups --a and --b, not both")
    sides = [begun(expand(names)) for names in ((args.a, args.b) if args.a else (args.runs,))]
    both = {path.resolve() for path in sides[0]} & {path.resolve() for path in sides[-1]}
    if args.a and both:
        raise UserError(f"{min(both)} is in both groups")
    if sum(map(len, sides)) < 2 or not all(sides):
        each = " in each group" if args.a else ": python tickets.py runs/A runs/B"
        raise UserError(f"{'a run is' if args.a else 'at least two runs are'} needed{each}")
    members = [[open_ticket(path) for path in side] for side in sides]
    tickets = list(chain(*members))
    check_alike(tickets)
    if args.a:
        for side, letter in zip(members, "ab", strict=True):
            check_group(side, letter)
        check_groups(members[0][0], members[1][0])
    labels = label_runs([ticket.config for ticket in tickets])
    for ticket, label in zip(tickets, labels, strict=True):
        ticket.label = label if label and labels.count(label) == 1 else str(ticket.path)
    if len(tickets) > 2:  # patterns come in the order of hashes
        members = [sorted(side, key=lambda ticket: natural(ticket.label)) for side in members]
    letters = {t.label: letter for side, letter in zip(members, "ab", strict=False) for t in side}
    return list(chain(*members)), pd.Series(letters) if args.a else None


def group_names(tickets, groups):
    """What tells group a from group b, in words; "a" and "b" if only their seeds do."""
    firsts = [next(t for t in tickets if groups[t.label] == letter) for letter in "ab"]
    names = label_runs([t.config.replace(seed=0, order_seed=0) for t in firsts])
    return names if names[0] != names[1] else ["a", "b"]


def compare(args):
    """Compare and print what the command line asks for.

    Returns ({name: DataFrame}, {name: figure}), which are still to be written.
    """
    import archs
    from engine.machine import pick_device, set_threads

    for name, least in (("max_pairs", 1), ("examples", 1), ("threads", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name}={getattr(args, name)}: at least {least} is needed")
    tickets, groups = load_all(args)
    rounds, pairs = common_rounds(tickets, args.round), pairs_of(tickets, groups)
    set_threads(args.threads, small=archs.is_small(tickets[0].config.arch_type))
    if args.function:
        from results import functions

        chosen = functions.choose_pairs(pairs, rounds, args.max_pairs)
    rows = compare_masks(tickets, pairs, rounds)
    print_overlap(rows)
    if not rows.share_theta0.any():
        print("note: no two of these runs share theta_0: what is given |t0| is empty")
    labels, total = [ticket.label for ticket in tickets], rows[rows.layer == "total"]
    two, last, names = len(tickets) == 2, rounds[-1], None
    tables, figures = {"overlap": rows}, {}
    figures["overlap"] = layers_figure(rows, labels) if two else pairs_figure(total, labels, last)
    if groups is not None:
        names = group_names(tickets, groups)
        runs = pd.DataFrame({"group": groups}, index=labels)
        runs["theta0"] = [ticket.theta0 for ticket in tickets]
        runs["order"] = [order_of(ticket.config) for ticket in tickets]
        tables["groups"] = overlap.groups_by_round(total, runs)
        print_groups(tables["groups"], names)
        figures["groups"] = groups_figure(tables["groups"], f"tickets of {names[0]} and {names[1]}")
    counts = first_layer_counts(tickets, groups, names, last)
    if counts:
        figures["first_layer"] = first_layer_figure(counts, last, groups is not None)
    if args.function:
        device = pick_device(args.device, None)
        found = functions.compare_runs(chosen, rounds, args.data_dir, args.examples, device)
        tables["function"], figures["function"] = found, functions.function_figure(found)
    return tables, figures


def main(argv=None):
    """Compare the tickets on the command line; returns the exit code."""

    def work(args):
        use_theme()
        tables, figures = compare(args)  # an error leaves no file
        output = Path(args.output)
        for name, table in tables.items():
            write_atomic(output / f"{name}.csv", lambda path, t=table: t.to_csv(path, index=False))
        for name, figure in figures.items():
            save_figure(figure, output / name)
            print(output / f"{name}.png")

    return make_parser().run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
