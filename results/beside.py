"""Is attacked data special? Other changes of the data as controls of the overlap of two groups.

Any change of the data may make the tickets less alike. So groups of runs with another change (as
many images left out, noise) are compared with group a exactly as group b is. Statistics alone.
"""

import numpy as np
import pandas as pd

from results.declared import FEWEST
from results.overlap import densities, with_mean_round
from results.stats import amount, compare, judge, mean_and_interval


def beside_by_round(pairs, runs):
    """beside.csv as a DataFrame: a row a round and group beside a and b.

    pairs, runs: as groups_by_round takes them; every group but "a" and "b" is a control. Pairs are
    of one theta_0 and of different orders, unless only pairs of one order are there for both the
    control and b (same_order is then 1). `difference` is the control's overlap with a minus b's,
    paired over the theta_0s that have both (t-test), and holm_p is corrected over the controls of
    the round. Round "all" is the mean of the rounds after 0.
    """
    controls = [group for group in dict.fromkeys(runs.group) if group not in ("a", "b")]
    pairs = _with_partners(with_mean_round(pairs), runs)
    rows = []
    for number, mine in pairs.groupby("round", sort=False):
        density = densities(mine).groupby(runs.group).mean()
        head = [{"round": number, "name": name, "density": density[name]} for name in controls]
        rows += judge([row | _compared(mine, row["name"]) for row in head])
    return pd.DataFrame(rows).drop(columns="label").rename(columns={"n": "theta0s"})[COLUMNS]


COLUMNS = [
    *("round", "name", "density", "jaccard", "jaccard_interval", "b_jaccard", "difference"),
    *("difference_interval", "p", "holm_p", "verdict", "theta0s", "pairs", "same_order"),
    *("within", "within_interval"),
]


def _with_partners(pairs, runs):
    """The pairs that share theta_0, with `partner`, the group compared with a or, where `inside`
    it, with itself.
    """
    one, other = (runs.loc[pairs[side]].reset_index(drop=True) for side in "ab")
    inside = one.group == other.group
    partner = np.where(one.group == "a", other.group, one.group)
    pairs = pairs.assign(
        partner=partner, inside=inside, theta0=one.theta0, same_order=one.order == other.order
    )
    with_a = (one.group == "a") | (other.group == "a")
    return pairs[(inside | with_a) & (one.theta0 == other.theta0)]


def _compared(pairs, name):
    """One control's overlap with a, and its difference to b's, at one round."""
    keys = ["partner", "inside", "same_order"]
    means = pairs.groupby([*keys, "theta0"]).jaccard.mean()
    nothing = means[:0].droplevel(keys)

    def overlap(partner, same, inside=False):
        key = (partner, inside, same)
        return means.loc[key] if key in means.index.droplevel("theta0") else nothing

    # like with like: pairs of one order are more alike for that
    options = [(same, overlap(name, same), overlap("b", same)) for same in (False, True)]

    def use(option):
        _, mine, of_b = option
        return mine.index.isin(of_b.index).any(), len(mine) > 0

    same, mine, of_b = max(options, key=use)
    gaps = (mine - of_b).dropna()
    if len(gaps):
        mine, found = mine[gaps.index], compare(name, gaps.to_numpy())
    else:
        found = {"label": name, "difference": np.nan, "interval": np.nan, "n": 0, "p": np.nan}
    row = {("difference_interval" if key == "interval" else key): x for key, x in found.items()}
    row |= {"b_jaccard": of_b.reindex(gaps.index).mean(), "same_order": int(same)}
    used = (pairs.partner == name) & ~pairs.inside & (pairs.same_order == same)
    row["pairs"] = int(used.sum())
    for column, values in (("jaccard", mine), ("within", overlap(name, False, inside=True))):
        mean_half = mean_and_interval(values) if len(values) else (np.nan, np.nan)
        row[column], row[f"{column}_interval"] = map(float, mean_half)
    return row


def special(rows, names):
    """What the rows of one round say of b, as a sentence; names: of a and b.

    Attacked data is special only if b's tickets are less like a's than every control's are.
    """
    a, b = names
    words = {
        "above": f"more like those of {a} than those of {b} are",
        "below": f"less like those of {a} than those of {b} are",
        "not distinguishable": f"not distinguishable from {b} by their overlap with {a}",
        "ties": "not judged, for all theta_0s have the same difference",
        "unknown": f"not judged, for it takes {FEWEST} theta_0s that have all three",
    }
    parts = []
    for row in rows.itertuples():
        gap = amount(row.difference, row.difference_interval, digits=3)
        p = "" if np.isnan(row.holm_p) else f", Holm p = {row.holm_p:.2g}"
        parts.append(f"tickets of {row.name} are {words.get(row.verdict, row.verdict)} ({gap}{p})")
    told = "; ".join(parts)
    if set(rows.verdict) == {"above"}:
        return f"{told}. So {b} does more to tickets than {' and '.join(rows.name)}."
    return f"{told}. So nothing here says that {b} is special."
