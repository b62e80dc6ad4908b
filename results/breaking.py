"""Question 7's own part: at which density robustness and accuracy break."""

import pandas as pd

from results.declared import BREAK, SOME
from results.stats import compare, describe, judge
from results.table import CLEAN

PGD = "whitebox_pgd_accuracy"
LASTS = ("robustness lasts longer than accuracy", "robustness breaks first")


def breaks(study, tables):
    """At which density accuracies of tickets fall BREAK points below their dense nets'.

    Rounds are compared, seed by seed: a negative difference says that robustness breaks first. Runs
    that are unfinished are left out, nets that have no robustness to lose, and seeds in which
    neither breaks, of which nothing is known. Where one breaks, what does not by the last round
    counts as the round after it, so that the difference is a bound then.
    """
    density, found, weak = study.density[""], [], {}
    last = density.index.max()
    rows = study.table[study.table.prune_type == "lt"].sort_values("round")
    for (training, _), run in rows.groupby(["training", "seed"], sort=False):
        if run["round"].max() < last:
            continue
        if run[PGD].iloc[0] < SOME:
            weak.setdefault(training, []).append(run[PGD].iloc[0])
            continue
        first = {"training": training}
        for name in (PGD, CLEAN):
            below = run["round"][run[name] < run[name].iloc[0] - BREAK]
            first[name] = below.min() if len(below) else last + 1
        found.append(first)
    of = rows.groupby("training").seed.nunique()
    none = "; ".join(
        f"{name} has none to lose in {len(values)} of {of[name]} seeds "
        f"({sum(values) / len(values):.1f} % under PGD when dense)"
        for name, values in weak.items()
    )
    if not found:
        return f"Robustness: {none or 'no run is finished'}.", {}, pd.DataFrame()
    found = pd.DataFrame(found)
    groups = found.groupby("training", sort=False)
    neither = (found[[PGD, CLEAN]] > last).all(axis=1)
    broken = found[~neither].groupby("training", sort=False)
    judged = judge([compare(name, part[PGD] - part[CLEAN]) for name, part in broken])
    judged = [row | {"unit": "rounds", "basis": "every round down to the last"} for row in judged]

    def share(rounds):
        # of an even number of seeds the middle two may be two rounds: both are told
        middle = {int(rounds.quantile(0.5, interpolation=side)) for side in ("lower", "higher")}
        if min(middle) > last:
            return f"not by {density[last]:.3g} %"
        told = [f"{density[n]:.3g} %" if n <= last else "later" for n in sorted(middle)]
        return " or ".join(told)

    shown = "; ".join(
        f"{name}: PGD {share(part[PGD])}, clean {share(part[CLEAN])}" for name, part in groups
    )
    line = (
        f"Rounds until tickets are {BREAK:g} points below their dense net, PGD - clean: "
        f"{describe(judged, *LASTS) or 'nothing to compare'} "
        f"(at which density, median over seeds: {shown})"
    )
    if neither.any():
        lasting = neither.groupby(found.training, sort=False).agg(["sum", "count"])
        names = [f"{name} in {n} of {of} seeds" for name, (n, of) in lasting.iterrows() if n]
        line += f"; neither breaks with {', '.join(names)}, which are left out"
    if (found.loc[~neither, [PGD, CLEAN]] > last).any(axis=None):
        line += "; where one does not break by the end the difference is a bound"
    line += f". Robustness: {none}." if none else "."
    return line, {"rounds until it breaks, PGD - clean": judged} if judged else {}, pd.DataFrame()
