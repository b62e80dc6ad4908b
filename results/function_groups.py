"""Do the networks of two groups differ more than two of one group, and less than any two networks?

From the rows of function.csv: means within each theta_0, tests paired over theta_0s.
"""

import numpy as np
import pandas as pd

from results.declared import FEWEST
from results.functions import OTHER, STABLE
from results.stats import amount, compare, judge, mean_and_interval

MEASURES = {  # column of function.csv: its name and the digits it is shown with
    "agreement": ("agreement (%)", 2),
    "error_overlap": ("shared errors", 3),
    "cka": ("CKA", 3),
    "barrier": ("barrier (points)", 2),
}
CONTRASTS = (("between", "within"), ("between", OTHER), ("within", OTHER), ("", OTHER))


def function_groups(rows):
    """function-groups.csv, a DataFrame: a row a round, contrast of two kinds of pairs and measure.

    rows: function.csv. A mean is over a theta_0's pairs, those of each group first, and then over
    the theta_0s that have both kinds; difference: kind - control, paired over them (t-test).
    holm_p is corrected over the measures of one contrast at one round. A control pair has two
    theta_0s and counts for one of them, so that those differences are not quite independent.
    one_basin, for the barrier against the control of another theta_0: whether it is distinguishably
    lower than that and, with its interval, below STABLE. Empty if the pairs are of one kind.
    """
    found = []
    for number, here in rows.groupby("round", sort=True):
        means = here.groupby(["kind", "block", "side"])[[*MEASURES]].mean()
        means = means.groupby(["kind", "block"]).mean()
        kinds = set(here.kind)
        for kind, control in CONTRASTS:
            if {kind, control} <= kinds:
                head = {"round": number, "kind": kind, "control": control}
                pairs = means.loc[kind], means.loc[control]
                tests = judge([_test(*pairs, measure) for measure in MEASURES])
                found += [head | test for test in tests]
    table = pd.DataFrame(found, columns=[*COLUMNS, "label", "n"])
    table = table.assign(theta0s=table.n)
    basin = (table.measure == "barrier") & (table.control == OTHER)
    upper = table["mean"] + table["mean_interval"].fillna(0)
    low = (table.verdict == "below") & (upper < STABLE)
    return table.assign(one_basin=low.astype(int).where(basin))[COLUMNS]


COLUMNS = [
    *("round", "kind", "control", "measure", "mean", "mean_interval", "control_mean"),
    *("control_interval", "difference", "difference_interval", "p", "holm_p", "verdict"),
    *("theta0s", "one_basin"),
]


def _test(mine, control, measure):
    both = pd.concat([mine[measure], control[measure]], axis=1, keys=["mean", "control_mean"])
    both = both.dropna()
    row = {"measure": measure, "n": len(both), "p": np.nan, "difference": np.nan}
    if both.empty:
        return row
    found = compare(measure, (both["mean"] - both.control_mean).to_numpy())
    row |= found | {"difference_interval": found["interval"]}
    for name, interval in (("mean", "mean_interval"), ("control_mean", "control_interval")):
        row[name], row[interval] = map(float, mean_and_interval(both[name]))
    return row


def told(table):
    """What the last round says, as lines of text: one a contrast, and one a word on basins."""
    last = table[table["round"] == table["round"].max()]
    return [
        f"round {number}: {_named(kind)}, against {_named(control)}: {_clauses(mine)}"
        for (number, kind, control), mine in last.groupby(["round", "kind", "control"], sort=False)
    ] + [_basin(row) for row in last[last.one_basin.notna()].itertuples()]


def _named(kind):
    words = {"between": "pairs between the groups", "within": "pairs within a group"}
    words |= {OTHER: "pairs of other theta_0s", "": "pairs of one theta_0"}
    return words[kind]


def _clauses(rows):
    if (rows.theta0s < 2).all():
        return f"no verdict, for it takes {FEWEST} theta_0s (--max_pairs may leave some out)"
    words = {"above": "higher", "below": "lower", "ties": "no verdict (all theta_0s equal)"}
    words["unknown"] = f"no verdict (it takes {FEWEST} theta_0s)"
    parts = []
    for row in rows.itertuples():
        name, digits = MEASURES[row.measure]
        gap = amount(row.difference, row.difference_interval, digits=digits)
        p = "" if np.isnan(row.holm_p) else f", Holm p = {row.holm_p:.2g}"
        parts.append(f"{name} {words.get(row.verdict, row.verdict)} ({gap}{p})")
    return "; ".join(parts)


def _basin(row):
    barrier = amount(row.mean, row.mean_interval, sign=False)
    numbers = f"barrier {barrier} points, {amount(row.control_mean, sign=False)} across theta_0s"
    if row.one_basin:
        return f"round {row.round}: {_named(row.kind)} lie in one basin: {numbers}"
    missing = []
    if row.verdict != "below":
        missing.append("it is not distinguishably lower than the control")
    if not row.mean + (0 if np.isnan(row.mean_interval) else row.mean_interval) < STABLE:
        missing.append(f"with its interval it is not below {STABLE}")
    why = " and ".join(missing)
    return f"round {row.round}: no word on a basin for {_named(row.kind)}: {numbers}; {why}"
