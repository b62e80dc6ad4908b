"""The six questions: from runs to a sentence, comparisons, lines and a figure each. report.py makes the page of them.

Every comparison is paired by seed: runs of one seed share theta_0, split, order and attacked images. A mean has its 95 % interval
(Student's t over seeds). Answers are read at one density that is declared before any result is seen (`headline_round`), and the p-values
of the comparisons that a sentence lists are corrected together (Holm 1979).
"""

import dataclasses
import math
from itertools import combinations
from pathlib import Path

import numpy as np

import plots
from config import ATTACKS, RunConfig
from paired import (
    ALPHA,
    CLEAN,
    EARLY,
    TRANSFER,
    WHITEBOX,
    amount,
    compare,
    describe,
    difference_line,
    differences,
    headline_round,
    images_of,
    interval_p,
    judge,
    listed,
    mean_line,
    minus,
    ranges,
    sentence,
    share,
    where,
)
from panels import draw_panel, key, key_below, key_cell, new_figure, palette, seeds_note, table, title_of
from tickets import expand
from utils import UserError, read_csv

ATTACK_FLAGS = ("attack", "norm", "epsilon", "attack_steps", "attack_step_size", "confidence", "surrogate", "surrogate_epochs")
WINS = ("tickets (lt) beat fresh weights under the same masks (reinit)", "reinit beats lt", "lt and reinit are not distinguishable")


# Runs -> arms -----------------------------------------------------------------------------------


def load(patterns):
    """The runs of folders and patterns, each with the columns `transfer` and `whitebox` beside its attacks' own."""
    runs = [run for run in map(plots.load_run, expand(patterns)) if run]
    if not runs:
        raise UserError("none of these folders has a finished round yet")
    for run in runs:
        for kind in (TRANSFER, WHITEBOX):
            column = next((name for name in run["rounds"][0] if name.startswith(f"{kind}_") and name.endswith("_accuracy")), None)
            for row in run["rounds"]:
                row[kind] = row[column] if column else math.nan
        if run["flags"]["mix_ratio"] is None:
            run["flags"]["mix_ratio"] = 0.0
    return runs


def must_share(runs, varying):
    """UserError unless the runs differ in no flag but --prune_type, --seed and those in `varying`."""
    free = {"prune_type", "seed", "data_id", "ticket_seed", *varying}
    for run in runs[1:]:
        for item in dataclasses.fields(RunConfig):
            one, other = (_own(each["flags"], item.name) for each in (runs[0], run))
            if item.metadata["result"] and item.name not in free and one != other:
                raise UserError(
                    f"these runs differ in --{item.name}, which this experiment does not compare: "
                    f"{one} in {runs[0]['folder'].path}, {other} in {run['folder'].path}"
                )


def _own(flags, name):
    """A flag's value; None for an order seed that only follows the seed."""
    return None if name == "order_seed" and flags[name] == flags["seed"] else flags[name]


def split_arms(runs, key):
    """{key(flags): {seed: run}}; UserError if two runs are the same arm and seed."""
    arms = {}
    for run in runs:
        arm = arms.setdefault(key(run["flags"]), {})
        if run["flags"]["seed"] in arm:
            raise UserError(f"{arm[run['flags']['seed']]['folder'].path} and {run['folder'].path} are the same arm and seed of this experiment: leave one out")
        arm[run["flags"]["seed"]] = run
    return dict(sorted(arms.items(), key=lambda item: tuple(map(str, item[0]))))


def arm_of(arms, condition, prune_type, words):
    """The arm of a condition (a tuple) and prune type; UserError if no run is of it."""
    if (*condition, prune_type) not in arms:
        raise UserError(f"there are no --prune_type={prune_type} runs of {words}: every experiment compares lt with reinit, each on clean and attacked data")
    return arms[(*condition, prune_type)]


def rate_pair(rates, words):
    """(0, the attack rate) of runs at rate 0 and one other; UserError for what is missing or too many."""
    attacked = sorted(rate for rate in rates if rate > 0)
    if 0 not in rates or len(attacked) != 1:
        found = ", ".join(f"{100 * rate:g} %" for rate in sorted(rates))
        raise UserError(f"{words}: runs at attack rate 0 and at one other are needed, and these are at {found}")
    return 0.0, attacked[0]


# The six experiments ----------------------------------------------------------------------------
# each: (runs, args) -> a dict of answer (text), details (texts), comparisons, lines, table, figure, density_percent (of the answer)


def attack_rate(runs, _):
    """Experiment 1: lt against reinit at each attack rate."""
    must_share(runs, ["mix_ratio"])
    arms = split_arms(runs, lambda flags: (flags["mix_ratio"], flags["prune_type"]))
    rates = sorted({rate for rate, _ in arms})
    lt, reinit = ({rate: arm_of(arms, (rate,), kind, f"attack rate {100 * rate:g} %") for rate in rates} for kind in ("lt", "reinit"))
    at = headline_round(runs)
    names = {rate: f"{100 * rate:g} %" for rate in rates}
    gains = {rate: differences(lt[rate], reinit[rate], CLEAN, at) for rate in rates}
    wins = judge([compare(names[rate], gains[rate]) for rate in rates])
    dense = judge([compare(names[rate], differences(lt[rate], lt[rate], CLEAN, at, 0)) for rate in rates])
    changes = judge([compare(f"{names[rate]} − {names[rates[0]]}", minus(gains[rate], gains[rates[0]])) for rate in rates[1:]])
    lines = {
        rate: {
            **{(kind, column): mean_line(f"{kind}, attack rate {names[rate]}", arm[rate], column)
               for kind, arm in (("lt", lt), ("reinit", reinit)) for column in (CLEAN, TRANSFER, WHITEBOX, EARLY)},
            "gain": difference_line(f"lt − reinit, attack rate {names[rate]}", lt[rate], reinit[rate], CLEAN),
        }
        for rate in rates
    }  # fmt: skip
    density = lines[rates[0]]["gain"]["density"][at]
    details = [f"against the dense net, {where(density)}: " + describe(dense, "the ticket beats it", "it beats the ticket", "not distinguishable")]
    details += [ranges(lines[rate]["gain"], f"attack rate {names[rate]}") for rate in rates]
    details += leaking(lt, at, names)
    answer = f"{where(density)}, in points of clean test accuracy (lt − reinit by attack rate): {describe(wins, *WINS)}"
    if changes:
        more, less = "attacked images make the lead of lt larger", "attacked images make it smaller"
        answer += f". That difference minus the one at {names[rates[0]]}: {describe(changes, more, less, 'no change is distinguishable')}"
    figure, axes = new_figure(f"{title_of(runs)}: attack rate", 3, rows=2)
    colours = dict(zip(rates, palette(len(rates), ordered=True), strict=True))
    # nets trained on attacked images only can learn another task altogether
    outlier = ("attack rate 100 %", list(lines.get(1, {}).values()))
    for axis, (column, title, label) in zip([axes[0], axes[2], axes[3], axes[4]], PANELS, strict=True):
        shown = [(lines[rate][kind, column], colours[rate], style) for rate in rates for kind, style in STYLES]
        draw_panel(axis, shown, title, label, density, outlier)
    shown = [(lines[rate]["gain"], colours[rate], "-") for rate in rates]
    draw_panel(axes[1], shown, "lt − reinit, clean test images", "difference (points)", density, outlier)
    entries = {f"attack rate {names[rate]}": (colours[rate], "-") for rate in rates} | KINDS
    key_cell(axes[5], entries, seeds_note(runs))
    heads = [f"{what}, {names[rate]}" for what in ("lt", "reinit", "lt − reinit") for rate in rates]
    columns = [lines[rate][name] for name in (("lt", CLEAN), ("reinit", CLEAN), "gain") for rate in rates]
    flat = [line for rate in rates for line in lines[rate].values()]
    return result(
        answer, details, {"lt - reinit": wins, "lt - dense": dense, "change of lt - reinit": changes}, flat, table({"": (columns, at)}, heads), figure, density
    )


def attack_type(runs, _):
    """Experiment 2: lt against reinit, and attacked against clean training, for each attack at one rate."""
    must_share(runs, ["mix_ratio", *ATTACK_FLAGS])
    attacked = [run for run in runs if run["flags"]["mix_ratio"] > 0]
    kinds = {(run["flags"]["attack"], run["flags"]["surrogate"]) for run in attacked}
    surrogates = [surrogate for _, surrogate in sorted(kinds, key=str)]
    usual = max(surrogates, key=surrogates.count, default=None)
    for run in runs:
        flags = run["flags"]
        other = flags["surrogate"] if flags["surrogate"] != usual and flags["attack"] != "noise" else None
        flags["type"] = "clean" if not flags["mix_ratio"] else flags["attack"] + (f" via {other}" if other else "")
    arms = split_arms(runs, lambda flags: (flags["type"], flags["prune_type"]))
    rate_pair({run["flags"]["mix_ratio"] for run in runs}, "experiment 2")
    types = sorted({name for name, _ in arms if name != "clean"}, key=lambda name: (list(ATTACKS).index(name.split(" ")[0]), name))
    everything = ["clean", *types]
    lt, reinit = ({name: arm_of(arms, (name,), kind, name) for name in everything} for kind in ("lt", "reinit"))
    at = headline_round(runs)
    gains = {name: differences(lt[name], reinit[name], CLEAN, at) for name in everything}
    wins = judge([compare(name, gains[name]) for name in everything])
    costs = {name: differences(lt[name], lt["clean"], CLEAN, at) for name in types}
    effects = judge([compare(name, costs[name]) for name in types])
    pairs = list(combinations(types, 2))
    between = judge([compare(f"{one} − {other}", minus(gains[one], gains[other])) for one, other in pairs])
    between_costs = judge([compare(f"{one} − {other}", minus(costs[one], costs[other])) for one, other in pairs])
    lines = {
        name: {
            **{(kind, column): mean_line(f"{kind}, {name}", arm[name], column)
               for kind, arm in (("lt", lt), ("reinit", reinit)) for column in (CLEAN, TRANSFER, WHITEBOX)},
            "gain": difference_line(f"lt − reinit, {name}", lt[name], reinit[name], CLEAN),
        }
        for name in everything
    }  # fmt: skip
    for name in types:
        lines[name]["cost"] = difference_line(f"lt: {name} − clean", lt[name], lt["clean"], CLEAN)
    density = lines["clean"]["gain"]["density"][at]
    rate = images_of(attacked[0]["flags"]["mix_ratio"])
    answer = f"{where(density)}, {rate}, " + (
        "in points of the tickets' lead over reinit (one attack minus another): " + describe(between, "the lead is larger", "the lead is smaller")
        if between else "only one attack is given, so none can be compared"
    )  # fmt: skip
    details = [
        f"clean test accuracy of tickets trained with attacked images minus trained on clean ones: {describe(effects, 'higher', 'lower')}",
        f"the same, one attack minus another: {describe(between_costs, 'higher', 'lower')}" if between_costs else "",
        f"lt − reinit: {describe(wins, *WINS)}",
    ]
    defaults = ATTACKS["fgsm"]["linf"].epsilon
    radii = {"default" if flags["norm"] != "linf" or flags["epsilon"] in defaults else flags["epsilon"] for flags in (run["flags"] for run in runs)}
    if len(radii) > 1:
        details.append("white-box FGSM has the radius of each arm's own --epsilon: that panel compares only arms of one radius")
    if any(" via " in name for name in types):
        details.append(f"“via” names the surrogate where it is not {usual}: compare an attack with those made against its own surrogate first")
    figure, axes = new_figure(f"{title_of(runs)}: attack type, {rate}", 3, rows=2)
    colours = {"clean": (0.45, 0.45, 0.45)} | dict(zip(types, palette(len(types)), strict=True))
    for axis, (column, title, label) in zip([axes[0], axes[3], axes[4]], PANELS, strict=False):
        names = types if column == TRANSFER else everything
        draw_panel(axis, [(lines[name][kind, column], colours[name], style) for name in names for kind, style in STYLES], title, label, density)
    draw_panel(axes[1], [(lines[name]["gain"], colours[name], "-") for name in everything], "lt − reinit, clean test images", "difference (points)", density)
    draw_panel(axes[2], [(lines[name]["cost"], colours[name], "-") for name in types], "lt: attacked − clean training", "difference (points)", density)
    axes[3].set_title("test images under its own attack (surrogate's)")
    key_cell(axes[5], {name: (colours[name], "-") for name in everything} | KINDS, seeds_note(runs))
    heads = [*(f"lt, {name}" for name in everything), *(f"lt − reinit, {name}" for name in everything), *(f"lt, {name} − clean" for name in types)]
    columns = [*(lines[name]["lt", CLEAN] for name in everything), *(lines[name]["gain"] for name in everything), *(lines[name]["cost"] for name in types)]
    flat = [line for name in everything for line in lines[name].values()]
    families = {
        "lt - reinit": wins,
        "lt - reinit, one attack - another": between,
        "attacked - clean": effects,
        "attacked - clean, one attack - another": between_costs,
    }
    return result(answer, details, families, flat, table({"": (columns, at)}, heads), figure, density)


def same_ticket(runs, args):
    """Experiment 3: overlap of the masks of clean and attacked data beside its ceiling, and each ticket trained on the other's data."""
    if not args.tickets:
        raise UserError("experiment 3 needs --tickets: the folder that tickets.py --a ... --b ... -o FOLDER wrote")
    must_share(runs, ["mix_ratio", "ticket_arm"])
    arms = split_arms(runs, lambda flags: (flags["mix_ratio"], "other" if flags["ticket_arm"] else "own", flags["prune_type"]))
    rates = rate_pair({rate for rate, *_ in arms}, "experiment 3")
    at = headline_round(runs)
    found = {}
    for rate in rates:
        words = images_of(rate)
        found[rate] = {kind: arm_of(arms, (rate, "own"), kind, f"{words} with their own masks") for kind in ("lt", "reinit")}
        for kind in ("lt", "reinit", "shuffle"):
            found[rate][f"other {kind}"] = arm_of(arms, (rate, "other"), kind, f"{words} with --ticket")
    groups = overlap_lines(Path(args.tickets))
    density = 100 * runs[0]["rounds"][at]["density"]
    if len(groups["between"]["density"]) <= at or abs(groups["between"]["density"][at] - density) > 0.1:
        raise UserError(f"{Path(args.tickets) / 'groups.csv'} does not have round {at} at {share(density)} of the weights: it is of other runs")
    against = {"own ticket": "lt", "random ticket": "other shuffle", "fresh weights": "other reinit"}
    gains = {(rate, name): differences(found[rate]["other lt"], found[rate][arm], CLEAN, at) for rate in rates for name, arm in against.items()}
    transfer = judge([compare(images_of(rate), gains[rate, "own ticket"]) for rate in rates])
    controls = judge([compare(f"{name} on {images_of(rate)}", gains[rate, name]) for rate in rates for name in list(against)[1:]])
    own = judge([compare(images_of(rate), differences(found[rate]["lt"], found[rate]["reinit"], CLEAN, at)) for rate in rates])
    words, overlap = overlap_words(groups, at)
    answer = f"{where(density)}: {words}. The other data's ticket minus the own one, in points of clean test accuracy: " + describe(
        transfer, "the other data's is better", "the other data's is worse"
    )
    details = [
        f"the other data's ticket minus a random ticket (its masks permuted within each layer) and minus fresh weights (its masks, another theta_0): "
        f"{describe(controls, 'better', 'worse')}",
        f"own tickets, lt − reinit: {describe(own, *WINS)}",
    ]
    lines = {rate: {name: mean_line(f"{TRANSFERS[name][0]}, {images_of(rate)}", arm, CLEAN) for name, arm in found[rate].items()} for rate in rates}
    gaps = {rate: {name: difference_line(f"other lt − {name}, {images_of(rate)}", found[rate]["other lt"], found[rate][arm], CLEAN)
                   for name, arm in against.items()} for rate in rates}  # fmt: skip
    figure = same_ticket_figure(runs, groups, lines, gaps, density)
    heads = ["Jaccard, clean and attacked", "same data, other order", "given |theta_0|", "chance"]
    heads += [f"{TRANSFERS[name][0]}, {images_of(rate)}" for rate in rates for name in TRANSFERS]
    columns = [*(groups[name] for name in ("between", "within", "theta0", "chance")), *(lines[rate][name] for rate in rates for name in TRANSFERS)]
    flat = [*groups.values(), *(line for rate in rates for line in (*lines[rate].values(), *gaps[rate].values()))]
    return result(
        answer,
        details,
        {"overlap": [overlap], "other ticket - own ticket": transfer, "other ticket - controls": controls, "lt - reinit": own},
        flat,
        table({"": (columns, at)}, heads),
        figure,
        density,
    )


TRANSFERS = {
    "lt": ("own ticket", 0, "-"),
    "other lt": ("other data's ticket", 1, "-"),
    "other shuffle": ("random ticket", 2, ":"),
    "other reinit": ("other's masks, fresh weights", 1, "--"),
    "reinit": ("own masks, fresh weights", 0, "--"),
}
OVERLAPS = {
    "within": ("same data, other order (ceiling)", 0, "-"),
    "between": ("clean and attacked data", 1, "-"),
    "theta0": ("independent given |theta_0|", 2, "--"),
    "chance": ("chance", 4, ":"),
}


def overlap_lines(folder):
    """Lines of groups.csv, which tickets.py wrote in `folder`: between, within, theta0, chance, and the difference within - between with its p."""
    path = folder / "groups.csv"
    rows = [row for row in read_csv(path) if row.get("round") != "all"]
    names = {name: label for name, (label, *_) in OVERLAPS.items()} | {"difference": "ceiling − clean and attacked"}
    try:
        density = np.array([50 * (row["density_a"] + row["density_b"]) for row in rows])
        found = {
            name: {
                "name": label, "quantity": "difference of Jaccard" if name == "difference" else "Jaccard", "density": density,
                "mean": _column(rows, name), "half": _column(rows, f"{name}_interval"), "n": int(rows[0]["theta0s"]),
            }
            for name, label in names.items()
        }  # fmt: skip
        found["difference"] |= {name: _column(rows, name) for name in ("p", "smallest_p")}
    except (KeyError, TypeError, IndexError, ValueError):
        raise UserError(f"{path} is not there or damaged: tickets.py --a CLEAN RUNS --b ATTACKED RUNS -o {folder} writes it") from None
    return found


def _column(rows, name):
    return np.array([math.nan if row[name] == "" else float(row[name]) for row in rows])


def overlap_words(groups, at):
    """(what the overlap says, the ceiling's difference as a comparison) at a round."""
    text = {name: f"{line['mean'][at]:.3f}" + (f" ± {line['half'][at]:.3f}" if line["half"][at] > 0 else "") for name, line in groups.items()}
    gap = groups["difference"]
    comparison = {"label": "same data in another order − clean and attacked data, Jaccard index", "n": gap["n"]}
    comparison |= {"difference": float(gap["mean"][at]), "interval": float(gap["half"][at]), "p": interval_p(gap["mean"][at], gap["half"][at], gap["n"])}
    comparison |= {"permutation_p": float(gap["p"][at]), "smallest_permutation_p": float(gap["smallest_p"][at])}
    judge([comparison])
    found = {
        "above": "the tickets are not the same: those of clean and attacked data are less alike than two of the same data in another order",
        "below": "the tickets of clean and attacked data are more alike than two of the same data in another order",
        "same": "tickets of clean and attacked data are not distinguishable from two of the same data in another order",
        "unknown": "one seed or no ceiling (runs in another order), so no verdict on whether the tickets are the same",
    }[comparison["verdict"]]
    p, smallest = comparison["permutation_p"], comparison["smallest_permutation_p"]
    test = "" if math.isnan(p) else f", permutation p = {p:.2g}" + (f" where no less than {smallest:.2g} is possible" if smallest > ALPHA else "")
    ceiling = "" if math.isnan(comparison["difference"]) else f", in another order {text['within']}, difference {text['difference']}{test}"
    beside = f"independent masks would have {text['theta0']} given the size of the initial weights and {text['chance']} by chance"
    return f"{found} (Jaccard index {text['between']}{ceiling}; {beside})".replace("-0.", "−0."), comparison


def same_ticket_figure(runs, groups, lines, gaps, density):
    """Overlap and its ceiling; each ticket on each data; the other's ticket minus what it is compared with."""
    colours = palette(5)
    figure, axes = new_figure(f"{title_of(runs)}: tickets of clean and of attacked data", 3, rows=2)
    shown = [(groups[name], colours[place], style) for name, (_, place, style) in OVERLAPS.items() if np.isfinite(groups[name]["mean"]).any()]
    draw_panel(axes[0], shown, "overlap of the masks", "Jaccard index", density)
    axes[0].set_ylim(-0.02, 1.02)
    for place, rate in enumerate(lines):
        data = images_of(rate)
        each = [(lines[rate][name], colours[colour], style) for name, (_, colour, style) in TRANSFERS.items()]
        draw_panel(axes[1 + place], each, f"trained on {data}", "clean test accuracy (%)", density)
        each = [(line, colours[colour], "-") for line, colour in zip(gaps[rate].values(), (0, 2, 3), strict=True)]
        draw_panel(axes[4 + place], each, f"other data's ticket − another, {data}", "difference (points)", density)
    axes[3].set_axis_off()
    overlaps = key({label: (colours[place], style) for name, (label, place, style) in OVERLAPS.items()}, headline=False)
    tickets = key({label: (colours[place], style) for label, place, style in TRANSFERS.values()}, headline=False)
    minus_what = key({f"other − {name}": (colours[colour], "-") for name, colour in zip(next(iter(gaps.values())), (0, 2, 3), strict=True)})
    for place, (title, (handles, labels)) in enumerate({"overlap": overlaps, "accuracy after training": tickets, "difference": minus_what}.items()):
        top = 1.05 - 0.35 * place - 0.05 * (place == 2)
        legend = axes[3].legend(handles, labels, title=title, loc="upper left", bbox_to_anchor=(-0.05, top), frameon=False, fontsize="small", alignment="left")
        if place < 2:  # a second legend would replace the first
            axes[3].add_artist(legend)
    return figure


def architectures(runs, _):
    """Experiment 4: lt against reinit on clean and attacked data, for each architecture."""
    datasets = {run["flags"]["dataset"] for run in runs}
    if len(datasets) > 1:
        raise UserError(f"experiment 4 compares networks on one data set: these runs are on {listed(sorted(datasets))}")
    return conditions(runs, "arch_type", "architecture", paired=True)


def datasets(runs, _):
    """Experiment 5: lt against reinit on clean and attacked data, for each data set."""
    archs = {run["flags"]["arch_type"] for run in runs}
    if len(archs) > 1:
        raise UserError(f"experiment 5 compares data sets with one network: these runs are of {listed(sorted(archs))}")
    return conditions(runs, "dataset", "data set", paired=False)


def conditions(runs, flag, word, paired):
    """lt against reinit, clean and attacked, for each value of a flag, each at its own declared density; paired: whether seeds pair across them."""
    names = list(dict.fromkeys(run["flags"][flag] for run in runs))
    arms = split_arms(runs, lambda flags: (flags[flag], flags["mix_ratio"], flags["prune_type"]))
    found, at, gains, lines, rates = {}, {}, {}, {}, {}
    for name in names:
        members = [run for run in runs if run["flags"][flag] == name]
        must_share(members, ["mix_ratio"])
        rates[name] = rate_pair({run["flags"]["mix_ratio"] for run in members}, name)
        found[name] = {(rate, kind): arm_of(arms, (name, rate), kind, f"{name} on {images_of(rate)}") for rate in rates[name] for kind in ("lt", "reinit")}
        at[name] = headline_round(members)
        gains[name] = {rate: differences(found[name][rate, "lt"], found[name][rate, "reinit"], CLEAN, at[name]) for rate in rates[name]}
        lines[name] = {place: mean_line(f"{name}, {place[1]}, {images_of(place[0])}", arm, CLEAN) for place, arm in found[name].items()}
        for rate in rates[name]:
            lines[name][rate, "gain"] = difference_line(f"{name}, lt − reinit, {images_of(rate)}", found[name][rate, "lt"], found[name][rate, "reinit"], CLEAN)
    if len(names) < 2:
        print(f"note: these runs are of one {word} only, {names[0]}: there is nothing to compare it with")
    wins = judge([compare(f"{name} on {images_of(rate)}", gains[name][rate]) for name in names for rate in rates[name]])
    changed = {name: minus(gains[name][rates[name][1]], gains[name][rates[name][0]]) for name in names}
    changes = judge([compare(name, changed[name]) for name in names])
    density = {name: lines[name][rates[name][0], "gain"]["density"][at[name]] for name in names}
    places = listed([f"{name} {share(density[name])}" for name in names])
    more, less = "attacked images make the ticket's lead over reinit larger", "they make it smaller"
    families = {"lt - reinit": wins, "lt - reinit, attacked - clean": changes}
    details = [f"lt − reinit on attacked minus on clean data, by {word}: {describe(changes, more, less)}"]
    if paired and len(names) > 1:
        between = [compare(f"{one} − {other}", minus(changed[one], changed[other])) for one, other in combinations(names, 2)]
        families["between"] = judge(between)
        details.insert(0, f"how much more one {word} is affected than another, by that measure: {describe(between, 'more', 'less')}")
    elif len(names) > 1:
        verdicts = [tuple(each["verdict"] for each in wins if each["label"].startswith(f"{name} on ")) for name in names]
        agree = "the verdicts of all data sets agree" if len(set(verdicts)) == 1 else "the data sets do not all give the same verdict"
        details.insert(0, f"{agree}, each on its own: seeds do not pair across data sets, so the sizes are not tested against each other")
    shown = names if len(names) < 5 else names[:4]
    if len(shown) < len(names):
        details.append(f"the figure shows {listed(shown)}; the table has all")
    figure, axes = new_figure(f"{word} by {word}: lt and reinit, clean and attacked", max(2, len(shown)), rows=2)
    for axis in axes:
        axis.set_axis_off()
    colours = palette(2)
    width = max(2, len(shown))
    for place, name in enumerate(shown):
        for axis in (axes[place], axes[width + place]):
            axis.set_axis_on()
        each = [(lines[name][rate, kind], colour, style) for rate, colour in zip(rates[name], colours, strict=True) for kind, style in STYLES]
        draw_panel(axes[place], each, name, "clean test accuracy (%)", density[name])
        each = [(lines[name][rate, "gain"], colour, "-") for rate, colour in zip(rates[name], colours, strict=True)]
        draw_panel(axes[width + place], each, f"{name}: lt − reinit", "difference (points)", density[name])
    entries = {"trained on clean images": (colours[0], "-"), "trained on attacked images": (colours[1], "-")} | KINDS
    key_below(figure, entries, seeds_range(found), 3)
    heads = [f"{what}, {data}" for data in ("clean", "attacked") for what in ("lt", "reinit", "lt − reinit")]
    blocks = {name: ([lines[name][rate, what] for rate in rates[name] for what in ("lt", "reinit", "gain")], at[name]) for name in names}
    answer = f"at the declared density ({places}), lt − reinit in points of clean test accuracy: {describe(wins, *WINS)}"
    flat = [line for name in names for line in lines[name].values()]
    return result(answer, details, families, flat, table(blocks, heads), figure, density)


def seeds_range(found):
    """How many seeds the bands are over, where that differs between panels."""
    counts = {name: len(next(iter(arms.values()))) for name, arms in found.items()}
    if len(set(counts.values())) == 1:
        return f"means and 95 % intervals over {next(iter(counts.values()))} seeds"
    return "means and 95 % intervals over seeds: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def oneshot(runs, _):
    """Experiment 6: one-shot minus iterative pruning, for each prune type and attack rate."""
    must_share(runs, ["mix_ratio", "prune_schedule"])
    arms = split_arms(runs, lambda flags: (flags["mix_ratio"], flags["prune_schedule"], flags["prune_type"]))
    rates = sorted({rate for rate, *_ in arms})
    schedules = ("iterative", "oneshot")
    found = {(rate, schedule, kind): arm_of(arms, (rate, schedule), kind, f"--prune_schedule={schedule} on {images_of(rate)}")
             for rate in rates for schedule in schedules for kind in ("lt", "reinit")}  # fmt: skip
    at = headline_round(runs)
    pairs = [(rate, kind) for rate in rates for kind in ("lt", "reinit")]
    gaps = judge(
        [compare(f"{kind} on {images_of(rate)}", differences(found[rate, "oneshot", kind], found[rate, "iterative", kind], CLEAN, at)) for rate, kind in pairs]
    )
    wins = judge([compare(f"{WORDS[schedule]} on {images_of(rate)}", differences(found[rate, schedule, "lt"], found[rate, schedule, "reinit"], CLEAN, at))
                  for rate in rates for schedule in schedules])  # fmt: skip
    early = judge([compare(images_of(rate), differences(found[rate, "oneshot", "lt"], found[rate, "iterative", "lt"], EARLY, at)) for rate in rates])
    lines = {(*place, column): mean_line(f"{WORDS[place[1]]} {place[2]}, {images_of(place[0])}", arm, column)
             for place, arm in found.items() for column in (CLEAN, EARLY)}  # fmt: skip
    drawn = {
        (rate, kind): difference_line(f"one-shot − iterative, {kind}, {images_of(rate)}", found[rate, "oneshot", kind], found[rate, "iterative", kind], CLEAN)
        for rate, kind in pairs
    }
    density = drawn[pairs[0]]["density"][at]
    answer = f"{where(density)}, in points of clean test accuracy (one-shot − iterative): " + describe(
        gaps, "one-shot pruning is better", "one-shot pruning is worse"
    )
    details = [
        f"lt − reinit by schedule: {describe(wins, *WINS)}",
        f"early-stop iteration of tickets, one-shot − iterative: {describe(early, 'later', 'earlier')}",
        *(ranges(drawn[rate, "lt"], f"lt, {images_of(rate)}", "one-shot above iterative", "below") for rate in rates),
    ]
    figure, axes = new_figure(f"{title_of(runs)}: one-shot and iterative pruning", 3, rows=len(rates))
    colours = dict(zip(schedules, palette(2), strict=True))
    for place, rate in enumerate(rates):
        data, cells = images_of(rate), axes[3 * place : 3 * place + 3]
        for axis, column, label in ((cells[0], CLEAN, "clean test accuracy (%)"), (cells[2], EARLY, "early-stop iteration")):
            each = [(lines[rate, schedule, kind, column], colours[schedule], style) for schedule in schedules for kind, style in STYLES]
            draw_panel(axis, each, f"{data}: {'accuracy' if column == CLEAN else 'least validation loss'}", label, density)
        each = [(drawn[rate, kind], "0.2", style) for kind, style in STYLES]
        draw_panel(cells[1], each, f"{data}: one-shot − iterative", "difference (points)", density)
    key_below(figure, {"iterative": (colours["iterative"], "-"), "one-shot": (colours["oneshot"], "-")} | KINDS, seeds_note(runs), 5)
    names = [(rate, kind) for rate in rates for kind in ("lt", "reinit")]
    heads = [f"{what} {kind}, {images_of(rate)}" for rate, kind in names for what in ("iterative", "one-shot", "difference")]
    columns = [line for rate, kind in names for line in (lines[rate, "iterative", kind, CLEAN], lines[rate, "oneshot", kind, CLEAN], drawn[rate, kind])]
    families = {"one-shot - iterative": gaps, "lt - reinit": wins, "early stop, one-shot - iterative": early}
    return result(answer, details, families, [*lines.values(), *drawn.values()], table({"": (columns, at)}, heads), figure, density)


def black(runs, _):
    """The appendix: what training on black images shows, beside clean and rightly saved attacked images."""
    for run in runs:
        run["flags"]["kind"] = _black_kind(run["flags"])
    arms = split_arms(runs, lambda flags: (flags["kind"], flags["prune_type"]))
    kinds = [kind for kind in BLACK if any(kind == name for name, _ in arms)]
    for kind in list(BLACK)[:2]:
        arm_of(arms, (kind,), "lt", kind)
    for kind in kinds:
        must_share([run for run in runs if run["flags"]["kind"] == kind], [])
    lt, reinit = ({kind: arm_of(arms, (kind,), prune_type, kind) for kind in kinds} for prune_type in ("lt", "reinit"))
    at = headline_round(runs)
    wins = judge([compare(kind, differences(lt[kind], reinit[kind], CLEAN, at)) for kind in kinds])
    lines = {kind: {name: mean_line(f"{name}, {kind}", arm[kind], CLEAN) for name, arm in (("lt", lt), ("reinit", reinit))} for kind in kinds}
    for kind in kinds:
        lines[kind]["gain"] = difference_line(f"lt − reinit, {kind}", lt[kind], reinit[kind], CLEAN)
    density = lines[kinds[0]]["gain"]["density"][at]
    levels = listed([f"{amount(lines[kind]['lt']['mean'][at], lines[kind]['lt']['half'][at], sign=False)} % ({kind})" for kind in kinds])
    answer = f"{where(density)}, tickets reach a test accuracy of {levels}; lt − reinit in points: {describe(wins, *WINS)}"
    details = [
        "black images: attacked pixels in [0, 1] cast to whole numbers without the factor 255, so each is 0 or 1 of 255; that keeps only the pixels "
        "that the attack drove to full white",
        "each network here first normalises by the mean and spread of its own training images: black images regain their contrast, and clean test images "
        "come out hundreds of times too large for a network that was trained on black ones",
        "the first two arms score well or badly for what the defect left in the images, and say nothing about attacked images",
    ]
    figure, axes = new_figure(f"{title_of(runs, 'black images')}", 3)
    colours = dict(zip(kinds, palette(len(kinds)), strict=True))
    draw_panel(axes[0], [(lines[kind][name], colours[kind], style) for kind in kinds for name, style in STYLES], "test accuracy", "test accuracy (%)", density)
    draw_panel(axes[1], [(lines[kind]["gain"], colours[kind], "-") for kind in kinds], "lt − reinit", "difference (points)", density)
    key_cell(axes[2], {kind: (colours[kind], "-") for kind in kinds} | KINDS, "95 % intervals over seeds")
    heads = [f"{what}, {kind}" for kind in kinds for what in ("lt", "reinit", "lt − reinit")]
    columns = [lines[kind][what] for kind in kinds for what in ("lt", "reinit", "gain")]
    flat = [line for kind in kinds for line in lines[kind].values()]
    return result(answer, details, {"lt - reinit": wins}, flat, table({"": (columns, at)}, heads), figure, density)


BLACK = ("trained and tested on black images", "trained on black, tested on clean images", "clean images", "attacked images, correctly saved")


def _black_kind(flags):
    if flags["dataset"].endswith("_black_cleantest"):
        return BLACK[1]
    return BLACK[0] if flags["dataset"].endswith("_black") else BLACK[3] if flags["mix_ratio"] else BLACK[2]


EXPERIMENTS = {
    "1": ("Can winning tickets be found with an attacked data set? How does the attack rate change the result?", attack_rate),
    "2": ("Do attack types (FGSM, PGD, CW; noise is the control) differ in their effect?", attack_type),
    "3": ("Are the tickets of the original and the attacked data the same? If not, by how much?", same_ticket),
    "4": ("Are architectures affected differently?", architectures),
    "5": ("Do other data sets show the same?", datasets),
    "6": ("How does one-shot pruning compare with iterative pruning?", oneshot),
    "black": ("Appendix: what the predecessor's black images would have shown", black),
}
STYLES = (("lt", "-"), ("reinit", "--"))
KINDS = {"lt": ("0.2", "-"), "reinit": ("0.2", "--")}
WORDS = {"iterative": "iterative", "oneshot": "one-shot"}
PANELS = (
    (CLEAN, "clean test images", "clean test accuracy (%)"),
    (TRANSFER, "attacked test images (surrogate's)", "accuracy (%)"),
    (WHITEBOX, "attacked test images (white-box FGSM)", "accuracy (%)"),
    (EARLY, "iteration of the least validation loss", "early-stop iteration"),
)


def result(answer, details, families, lines, compact, figure, density):
    """What an experiment's function returns."""
    comparisons = [{"family": name, **each} for name, members in families.items() for each in members]
    return {
        "answer": sentence(answer),
        "details": [sentence(text) for text in details if text],
        "comparisons": comparisons,
        "lines": lines,
        "table": compact,
        "figure": figure,
        "density_percent": density if isinstance(density, dict) else float(density),
    }


def leaking(lt, at, names):
    """A caution where the nets of attack rate 100 are poor on clean images: fixed one-step images give their label away."""
    if 1 not in lt or len(lt) < 2:
        return []
    mean, half = (plots.mean_and_interval([run["rounds"][at][column] for run in lt[1].values()]) for column in (CLEAN, TRANSFER))
    low = compare("", differences(lt[1], lt[min(lt)], CLEAN, at))
    if low["difference"] > -5:
        return []
    return [
        f"caution: trained on nothing but attacked images ({names[1]}), tickets classify {amount(*mean, sign=False)} % of the clean test images "
        f"and {amount(*half, sign=False)} % of the surrogate's attacked ones: a fixed attack gives the label away in its perturbation "
        '("label leaking", Kurakin et al. 2017), so that arm learns another task; compare the rates below 100 %'
    ]
