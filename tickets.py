# PYTHON_ARGCOMPLETE_OK: docs/runs.md says how a shell completes flags
"""Are two tickets the same? Masks compared round by round, beside what chance and theta_0 explain.

    python tickets.py runs/A runs/B
    python tickets.py --a 'runs/*-fgsm0-lt-*' --b 'runs/*-fgsm0.5-lt-*' --beside noise \
        'runs/*-noise0.5-lt-*' -o tickets

A raw overlap says nothing: two masks of one density overlap by chance (hypergeometric: Grosse &
Backes 2021), two masks of one theta_0 overlap because large initial weights tend to survive, and
all masks because some pixels and units matter more. So each similarity stands beside all three.
Two groups of runs stand beside their ceiling: runs of the same data and theta_0 whose batches only
came in another order (Movva et al. 2021); and beside controls, for any change of the data may make
tickets less alike: attacked data is special only if its tickets are less alike than the controls'.
"""

import argparse
import sys
from itertools import chain, combinations
from pathlib import Path

import pandas as pd

from results import overlap
from results.beside import beside_by_round
from results.figures import save_figure, use_theme
from results.overlap_figures import (
    first_layer_counts,
    first_layer_figure,
    groups_figure,
    layers_figure,
    pairs_figure,
)
from results.overlap_text import print_beside, print_functions, print_groups, print_overlap
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


def check_group(tickets, flag):
    """UserError unless the runs of a flag's group differ in nothing but --seed and --order_seed.

    Else the overlap within the group would be no ceiling.
    """
    arms = [dict(identity(ticket.config.replace(order_seed=None))) for ticket in tickets]
    for other, arm in zip(tickets, arms, strict=True):
        for name in arms[0] | arm:
            here, there = arms[0].get(name), arm.get(name)
            if here != there:
                raise UserError(
                    f"{flag}: runs of one group differ in --seed and --order_seed only; "
                    f"{tickets[0].path} and {other.path} differ in {name} ({here} and {there})"
                )


def check_groups(one, other, flag="--b"):
    """UserError unless --a and a flag's group, of which these are runs, prune alike, each round."""
    names = ("prune_percent", "output_prune_percent", "prune_scope", "prune_schedule")
    values = {name: [getattr(ticket.config, name) for ticket in (one, other)] for name in names}
    kept = zip(one.kept, other.kept, strict=False)
    values |= {f"the weights kept in round {n}": pair for n, pair in enumerate(kept)}
    for name, (here, there) in values.items():
        if here != there:
            what = f"--a and {flag} differ in {name} ({here} and {there})"
            raise UserError(f"{what}: their rounds are of other densities")


def check_apart(sides):
    """UserError if a folder is in two groups, of {name: folders}."""
    owner = {}
    for name, folders in sides.items():
        for path in folders:
            first = owner.setdefault(path.resolve(), name)
            if first != name:
                raise UserError(f"{path} is in both groups: {flag_of(first)} and {flag_of(name)}")


def check_members(members):
    """UserError unless the groups, {name: Tickets}, can be compared with a."""
    for name, side in members.items():
        check_group(side, flag_of(name))
        if name != "a":
            check_groups(members["a"][0], side[0], flag_of(name))
        shared = {ticket.theta0 for ticket in members["a"]} & {ticket.theta0 for ticket in side}
        if name not in ("a", "b") and not shared:
            why = "train it with the same --seed"
            raise UserError(f"{flag_of(name)} has no theta_0 in common with --a: {why}")


def flag_of(group):
    """What named a group on the command line."""
    return f"--{group}" if group in ("a", "b") else f"--beside {group}"


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
    """A short label for each run, of what tells it from the others: "50 % fgsm s1 o0".

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
    """The pairs that are compared, a DataFrame of Tickets: first, second, kind, the theta0 that
    they share, or nan, the `group` that both are of, or "", and whether their batches came in
    the `same_order`.

    kind is "within" a group, "between" a and b, or "beside": a and a control; "" without groups,
    whose runs are of one `group` if they differ in seeds only.
    """
    arms = {t.label: identity(t.config.replace(order_seed=None)) for t in tickets}
    own = arms if groups is None else groups
    rows = []
    for one, other in combinations(tickets, 2):
        sides = own[one.label], own[other.label]
        same = sides[0] == sides[1]
        kind = "" if groups is None else "within" if same else "beside"
        if kind == "beside" and "b" in sides and "a" in sides:
            kind = "between"
        if kind != "beside" or "a" in sides:
            theta0 = one.theta0 if one.theta0 == other.theta0 else None
            same_order = order_of(one.config) == order_of(other.config)
            rows.append((one, other, kind, theta0, str(sides[0]) if same else "", same_order))
    columns = ["first", "second", "kind", "theta0", "group", "same_order"]
    return pd.DataFrame(rows, columns=columns)


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


def arms_of(tickets, groups):
    """{"arm_a": names, "arm_b": names}: whose masks the groups hold, by which a report knows its
    own.
    """
    found = {}
    for side in "ab":
        mine = [ticket for ticket, group in zip(tickets, groups, strict=True) if group == side]
        found[f"arm_{side}"] = " ".join(sorted({ticket.config.ticket_name for ticket in mine}))
    return found


# The command -----------------------------------------------------------------------------------

EPILOG = """what the columns mean (CSV: overlap.csv, one row a pair, round and layer):
  Jaccard       |A and B| / |A or B|, 1 for equal masks; overlap: |A and B| / min(|A|, |B|);
                Hamming: share of equal entries
  chance        the same expected of masks of these densities drawn at random in each layer; z: by
                how many standard deviations the intersection is larger (layers of density 0 or 1
                have none)
  given |t0|    Jaccard expected if the two masks had nothing in common but the rank of the initial
                weights' magnitudes, and z against that; only for runs that share theta_0
  given all     the same (jaccard_given_margins) if they had nothing in common but those magnitudes,
                how many weights survive at each input pixel (or input channel) and at each unit,
                and how steeply that rises with the magnitude there; z all: z against that. Pairs
                of other theta_0s should have z near 0: by how far they miss it, z is too large
  z (low..high) mean, smallest and largest over pairs
  with own |t0| Jaccard of each run's mask with the mask of its largest initial weights
  signs         share of the weights alive in both that trained to the same sign (needs
                --save_weights)
  p             of two groups (groups.csv): is the overlap between them lower than within them?
                Each round's p stands alone, uncorrected for the number of rounds; the row "all" is
                one test of the mean over the rounds after 0
  beside        a control (beside.csv, one row a round and control): its overlap with a as b's is
                taken; difference: that minus b's, paired over theta_0s; p: paired t-test, Holm p:
                corrected over the controls of the round; "above": more like a than b is. Attacked
                data is special only if every control is above
  --function    (function.csv, one row a pair and round; function-groups.csv, one row a round, kind
                of pairs, control and measure) agreement: same predictions, %; shared errors: of the
                better network's; CKA: mean of the hidden layers; barrier: highest error on the
                straight line between the networks minus that of its ends, points. Controls: pairs
                within a group, and pairs of other theta_0s; "one basin" needs a barrier that is
                distinguishably lower than the latter's and, with its interval, below 2

examples:
  python tickets.py runs/A runs/B                   two tickets: every round, every layer
  python tickets.py 'runs/*-lt-*' --round 10        all pairs of many runs, with a heat map
  python tickets.py runs/A runs/B --function        and do the two networks compute the same?
  python tickets.py --a 'runs/*-fgsm0-lt-*' --b 'runs/*-fgsm0.5-lt-*'
                                                    do clean and attacked data give different
  tickets? With the ceiling and a permutation test, if each seed was also trained in other orders:
  python main.py --attack=fgsm --mix_ratio 0 0.5 --seed 0 1 2 --order_seed 0 1 2
  python tickets.py --a CLEAN RUNS --b ATTACKED RUNS --beside noise NOISE RUNS --beside pgd PGD RUNS
                                                    and does attacked data do more than others?
"""


def make_parser():
    """The argparse parser of tickets.py."""
    parser = OneLineParser(
        prog="tickets.py",
        usage="python tickets.py (RUN RUN ... | --a RUN ... --b RUN ... [--beside NAME RUN ...]) "
        "[--flag=value ...]",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Are the masks of runs the same, beside what chance and theta_0 give?",
        epilog=EPILOG,
    )
    add, count = parser.add_argument, {"type": whole, "metavar": "N"}
    add("runs", nargs="*", metavar="RUN", help="run folders, or patterns such as 'runs/*-lt-*'")
    add("--a", nargs="+", metavar="RUN", help="first group: runs that differ in seeds only")
    add("--b", nargs="+", metavar="RUN", help="second group")
    control = "a control, compared with --a as --b is; can be given again for another"
    add("--beside", nargs="+", action="append", default=[], metavar=("NAME", "RUN"), help=control)
    add("--round", **count, help="this round only (default: all; pictures show the last)")
    add("-o", "--output", default="tickets", metavar="FOLDER", help="of files (default: tickets)")
    more = "also agreement, shared errors, CKA and linear mode connectivity of the networks"
    add("--function", action="store_true", help=more)
    most = "of --function, at most, balanced over theta_0s (default: 25)"
    add("--max_pairs", **count, default=25, help=most)
    add("--examples", **count, default=2000, help="test images of --function (default: 2000)")
    add("--data_dir", help="where --function finds the data set (default: the runs' own)")
    devices = ("auto", "cpu", "cuda")
    add("--device", default="auto", choices=devices, help="of --function (default: auto)")
    add("--threads", **count, default=0, help="of the CPU (default: by the network)")
    return parser


def load_all(args):
    """(tickets, groups) of the command line; UserError if they cannot be compared.

    groups: a Series of "a", "b" or the name of a control by label, or None.
    """
    if bool(args.a) != bool(args.b):
        raise UserError("two groups need both --a and --b")
    if args.a and args.runs:
        raise UserError("name runs by themselves or in the groups --a and --b, not both")
    patterns = {"a": args.a, "b": args.b} if args.a else {"": args.runs}
    for name, words in named(args.beside):
        if not args.a:
            raise UserError(f"--beside {name} needs --a and --b, the groups it stands beside")
        if name in patterns:
            raise UserError(f"--beside {name}: a group of that name is there already")
        patterns[name] = words
    sides = {name: begun(expand(words)) for name, words in patterns.items()}
    if sum(map(len, sides.values())) < 2 or not all(sides.values()):
        each = " in each group" if args.a else ": python tickets.py runs/A runs/B"
        raise UserError(f"{'a run is' if args.a else 'at least two runs are'} needed{each}")
    check_apart(sides)
    members = {name: [open_ticket(path) for path in side] for name, side in sides.items()}
    tickets = list(chain(*members.values()))
    check_alike(tickets)
    if args.a:
        check_members(members)
    labels = label_runs([ticket.config for ticket in tickets])
    for ticket, label in zip(tickets, labels, strict=True):
        ticket.label = label if label and labels.count(label) == 1 else str(ticket.path)
    if len(tickets) > 2:  # patterns come in the order of hashes
        for side in members.values():
            side.sort(key=lambda ticket: natural(ticket.label))
    groups = {t.label: name for name, side in members.items() for t in side}
    return list(chain(*members.values())), pd.Series(groups) if args.a else None


def named(beside):
    """[(name, RUN words)] of the --beside flags; UserError for a name without runs."""
    for name, *words in beside:
        if not name.strip() or (Path(name) / "config.json").exists():
            what = "a name comes before the runs (--beside NAME RUN ...)"
            raise UserError(f"--beside {name or repr('')}: {what}")
        if not words:
            raise UserError(f"--beside {name}: a name and its runs are needed (--beside NAME RUN)")
    return [(name, words) for name, *words in beside]


def group_names(tickets, groups):
    """What tells group a from group b, in words; "a" and "b" if only their seeds do."""
    firsts = [next(t for t in tickets if groups[t.label] == letter) for letter in "ab"]
    names = label_runs([t.config.replace(seed=0, order_seed=0) for t in firsts])
    return names if names[0] != names[1] else ["a", "b"]


def note_densities(rows):
    """Say where two masks of a pair have other densities: then no overlap can be whole."""
    apart = rows[(rows.layer == "total") & ((rows.density_a - rows.density_b).abs() > 1e-3)]
    for row in apart.head(1).itertuples():
        here, there = (f"{100 * density:.3g} %" for density in (row.density_a, row.density_b))
        what = f"in round {row.round} {row.a} has {here} of the weights and {row.b} {there}"
        print(f"note: {what}: the Jaccard index of two densities cannot reach 1")


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
    note_densities(rows)
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
        arms = arms_of(tickets, groups)
        tables["groups"] = overlap.groups_by_round(total, runs).assign(**arms)
        print_groups(tables["groups"], names)
        if args.beside:
            tables["beside"] = beside_by_round(total, runs)
            print_beside(tables["beside"], names)
        figures["groups"] = groups_figure(tables["groups"], names, tables.get("beside"))
    counts = first_layer_counts(tickets, groups, names, last)
    if counts:
        figures["first_layer"] = first_layer_figure(counts, last, groups is not None)
    if args.function:
        device = pick_device(args.device, None)
        found = functions.compare_runs(chosen, rounds, args.data_dir, args.examples, device)
        tables["function"], figures["function"] = found, functions.function_figure(found)
        tables["function-groups"] = print_functions(found)
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
