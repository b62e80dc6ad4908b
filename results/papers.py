"""What two papers report, and this tool's runs of their protocols beside it, figure by figure.

Their figures are means of five trials without a spread, so ours are held against them by a
tolerance that was declared (results/declared.py), or, where there is none, by whether the 95 %
interval of ours contains theirs.
"""

import numpy as np

from config import PRESETS, RunConfig, all_flags, resolve
from results.declared import CLEAN_TOLERANCE, FEWEST, ROBUST_TOLERANCE
from results.stats import amount, mean_and_interval
from results.table import CLEAN, EARLY, tested_as
from utils import UserError

FGSM, PGD = "whitebox_fgsm_accuracy", "whitebox_pgd_accuracy"
# Cosentino et al. 2019, the table for MNIST: training -> percent of the weights -> accuracies
COSENTINO = {
    "FGSM": {
        100: {CLEAN: 98.25, FGSM: 94.30},
        51.3: {CLEAN: 98.13, FGSM: 97.09},
        16.9: {CLEAN: 97.90, FGSM: 97.46},
        8.7: {CLEAN: 97.54, FGSM: 97.02},
        3.6: {CLEAN: 97.00, FGSM: 95.23},
        1.8: {CLEAN: 95.49, FGSM: 90.15},
    },
    "PGD": {
        100: {CLEAN: 98.38, PGD: 45.32},
        51.3: {CLEAN: 98.07, PGD: 60.14},
        16.9: {CLEAN: 97.73, PGD: 59.91},
        8.7: {CLEAN: 97.20, PGD: 57.60},
        3.6: {CLEAN: 95.58, PGD: 48.81},
        1.8: {CLEAN: 92.67, PGD: 38.23},
    },
}
SHORT = {CLEAN: "clean test images", FGSM: "white-box FGSM", PGD: "white-box PGD"}


def cosentino(study):
    """Cosentino's table beside tickets of his protocol: clean and attacked accuracy."""
    tickets = of_preset(study, "cosentino", "lt")
    theirs = resolve(PRESETS["cosentino"] | {"dataset": "mnist", "attack": "pgd"}, (1, 28, 28))
    theirs = tested_as(theirs.flags(), "pgd")
    by_theirs = [tested_as(flags, "pgd") == theirs for flags in tickets.to_dict("records")]
    if PGD in tickets and not all(by_theirs):
        print(f"note: runs that PGD tests by other than {theirs} are not held against the paper's")
        tickets = tickets.assign(**{PGD: tickets[PGD].where(by_theirs)})
    rows = []
    for training, table in COSENTINO.items():
        here = tickets[tickets.training == training]
        for density, figures in table.items() if len(here) else ():
            number = round_at(here, density)
            at = here[here["round"] == number] if number is not None else here[:0]
            for column, figure in figures.items():
                if column not in at:  # they were not tested by it
                    continue
                tolerance = CLEAN_TOLERANCE if column == CLEAN else ROBUST_TOLERANCE
                what = f"{training}-trained, {SHORT[column]} (%)"
                row = beside(what, density, figure, at[column].dropna(), tolerance)
                rows.append(row and row | {"column": column, "arm": training})
    natural = tickets[tickets.training == "standard"]
    for column, (low, high) in {FGSM: (4, 12), PGD: (1, 4)}.items() if len(natural) else ():
        if column not in natural or natural[natural[column].notna()].seed.nunique() < FEWEST:
            continue
        means = natural.groupby("round")[column].mean().dropna()
        inside = low <= means.min() and means.max() <= high
        rows.append({
            "what": f"standard, {SHORT[column]} (%), lowest to highest round",
            "density_percent": "",
            "theirs": f"{low} to {high}",
            "ours": f"{means.min():.1f} to {means.max():.1f}",
            "seeds": natural[natural[column].notna()].seed.nunique(),
            "verdict": "within theirs" if inside else "not within theirs",
        })  # fmt: skip
    return [row for row in rows if row]


def frankle(study):
    """What Frankle & Carbin's text states of Lenet-300-100 beside runs of their protocol."""
    runs = of_preset(study, "frankle")
    if not {"lt", "reinit"} <= set(runs.prune_type):
        return []
    clean, early = (
        runs.pivot_table(column, ["prune_type", "round"], "seed") for column in (CLEAN, EARLY)
    )
    dense = {values.name: values for _, values in clean.loc["lt"].iterrows()}[0]
    stated = [
        ("early stopping, lt against its dense net (%)", 21.1, -38,
         lambda n: 100 * (early.loc["lt", n] / early.loc["lt", 0] - 1)),
        ("early stopping, reinit over lt (times)", 21.1, 2.51,
         lambda n: early.loc["reinit", n] / early.loc["lt", n]),
        ("accuracy, lt - reinit (points)", 21.1, 0.5,
         lambda n: clean.loc["lt", n] - clean.loc["reinit", n]),
        ("accuracy, lt - its dense net (points)", 13.5, 0.3,
         lambda n: clean.loc["lt", n] - dense),
        ("accuracy, lt - its dense net (points)", 3.6, 0,
         lambda n: clean.loc["lt", n] - dense),
    ]  # fmt: skip
    rows = []
    for what, density, theirs, of in stated:
        number = round_at(runs, density)
        if number is not None:
            rows.append(beside(what, density, theirs, of(number).dropna()))
    densities = 100 * runs.groupby("round").density.mean()
    for kind, theirs in (("reinit", 21.1), ("lt", 2.9)):
        above = clean.loc[kind].mean(axis="columns") >= dense.mean()
        last = above[above].index.max() + 1  # the round after the last that is as good
        what = f"weights left where {kind} falls below its dense net for good (%)"
        if last not in densities:
            continue
        row = {"what": what, "density_percent": "", "theirs": theirs}
        row |= {"ours": f"{densities[last]:.3g}", "seeds": int(dense.notna().sum())}
        # a round more or less
        near = 0.8 / 1.01 <= densities[last] / theirs <= 1.01 / 0.8
        verdict = "within a round" if near else "more than a round away"
        rows.append(row | {"verdict": verdict})
    return [row for row in rows if row]


# what a run of a paper's protocol may have for its own: how long and how often it trains, whose
# draws it has, how it is tested, and what static attacked images would be made with
OPEN = {
    "prune_type",
    "prune_iterations",
    "end_iter",
    "seed",
    "order_seed",
    "reinit_draw",
    "data_id",
}
OPEN |= {"ticket_seed", "ticket_draw", "eval_attacks", "eval_examples", "eval_steps"}
OPEN |= {"eval_step_size", "valid_freq", "valid_steps", "attack_seed", "surrogate"}
OPEN |= {"surrogate_epochs", "confidence", "restarts"}


def of_preset(study, name, prune_type=""):
    """The study's finished runs of a preset's protocol on MNIST, whatever their epochs are.

    A line says which flag of others keeps them from it.
    """
    table, other = study.table, {}
    for folder, rows in table.groupby("folder"):
        flag = deviation(rows.iloc[0].to_dict(), name)
        if flag:
            other.setdefault(flag, []).append(folder)
    for flag, folders in other.items():
        what = f"{len(folders)} runs have another {flag} than --preset={name}"
        print(f"note: {what}: they are not held against the paper")
    table = table[~table.folder.isin([folder for folders in other.values() for folder in folders])]
    return table[table.done & ((table.prune_type == prune_type) | (not prune_type))]


def deviation(flags, name):
    """The first flag, as --flag, by which a run is not of a preset's protocol on MNIST; or ""."""
    flags = {n: None if value != value else value for n, value in flags.items()}  # pandas' NaN
    attack, ratio = flags["attack"], flags["mix_ratio"]
    given = {"attack": None, "mix_ratio": None} | PRESETS[name] | {"dataset": "mnist"}
    if given["attack"]:  # the paper's other attack, and its net that is trained on none
        given |= {"mix_ratio": given["mix_ratio"] if ratio else 0.0}
        given |= {"attack": attack} if ratio else {}
    try:
        wanted = resolve(given, (1, 28, 28)).results()
    except UserError:  # the protocol cannot be with it
        return "--attack"
    had = RunConfig.of(flags).results()
    # what trains on no attacked image is of no attack
    idle = {flag.name for flag in all_flags() if flag.group == "attack" and not ratio}
    idle -= {"mix_ratio"}
    if given["attack"]:
        idle -= {"epsilon", "norm"}  # by which it is tested
    named = [flag.name for flag in all_flags() if flag.result]
    names = [name for name in named if name not in OPEN | idle]
    other = next((f"--{n}" for n in names if had.get(n) != wanted.get(n)), "")
    return "--ticket" if other == "--ticket_arm" else other  # as the user named it


def round_at(table, density):
    """The round with that percentage of the weights; None if none is within a tenth of it."""
    densities = 100 * table.groupby("round").density.mean()
    if densities.empty:
        return None
    nearest = (np.log(densities / density)).abs().idxmin()
    return int(nearest) if abs(densities[nearest] / density - 1) < 0.1 else None


def beside(what, density, theirs, ours, tolerance=None):
    """A row: their figure, the mean of ours with its interval, and whether they agree; or None.

    ours: a value a seed.
    """
    if len(ours) < FEWEST:
        return None
    mean, half = mean_and_interval(list(ours))
    gap = mean - theirs
    if tolerance is None:
        verdict = "the interval contains theirs" if abs(gap) <= half else "another"
    else:
        verdict = f"{'within' if abs(gap) <= tolerance else 'not within'} {tolerance:g}"
    return {
        "what": what,
        "density_percent": density,
        "theirs": theirs,
        "ours": round(float(mean), 6),
        "interval": round(float(half), 6),
        "seeds": len(ours),
        "difference": round(float(gap), 6),
        "verdict": verdict,
    }


def in_a_line(study):
    """A study's verdicts beside a paper's figures, counted; "" where there are none.

    It says whether the runs have the epochs of the paper's protocol.
    """
    rows, preset = study.paper, PRESETS.get(study.question.paper[0])
    if not rows:
        return ""
    verdicts = [row["verdict"] for row in rows]
    counts = "; ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    epochs, theirs = sorted({*study.table.end_iter}), preset["end_iter"]
    cut = f" These runs have {'/'.join(map(str, epochs))} epochs a round, theirs {theirs}."
    return f"Beside the paper's {len(rows)} figures: {counts}.{cut * (epochs != [theirs])}"


def shown(rows):
    """The rows for a page: what, at which density, theirs, ours with its interval, verdict."""
    table = []
    for row in rows:
        ours, density = row["ours"], row["density_percent"]
        table.append({
            "what": row["what"],
            "weights left": f"{density} %" if density else "",
            "the paper": row["theirs"],
            "here": amount(ours, row["interval"], sign=False) if "interval" in row else ours,
            "verdict": row["verdict"],
        })  # fmt: skip
    return table
