"""Means, intervals, paired tests and their verdicts: pandas groups them, scipy knows Student's t.

A mean has its 95 % interval (Student's t over seeds); the comparisons that are listed together are
corrected together (Holm 1979).
"""

import numpy as np
import pandas as pd

ALPHA = 0.05
NULL = "not distinguishable"  # which does not say that two are equal
DECLARED = 0.08  # of the weights: tickets of the literature still win there, reinitialised nets lag
TIE = 1e-9  # values that differ by less are equal: far below one test image, above float residue


def summarise(groups):
    """mean, interval (half-width of the 95 % t-interval) and seeds of a pandas groupby's values.

    One value, and values that are all equal (a tie), have no interval: nan.
    """
    from scipy.stats import t

    found = groups.agg(["mean", "sem", "count", "min", "max"])
    spread = found["sem"].where(found["max"] - found["min"] > TIE)
    found["interval"] = spread * t.ppf(0.975, found["count"] - 1)
    return found.rename(columns={"count": "seeds"})[["mean", "interval", "seeds"]]


def mean_and_interval(values):
    """Mean and half-width of the 95 % t-interval of a list; the half-width of one value is nan."""
    from scipy import stats

    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * stats.sem(values) if n > 1 else np.nan
    return np.mean(values), half


def compare(label, values):
    """Paired differences, one a seed, against 0: a row of a comparisons table.

    Without an interval and a p where there is one seed, or all differences are equal (ties).
    """
    from scipy.stats import ttest_1samp

    row = {"label": label, "difference": np.mean(values), "interval": np.nan, "n": len(values)}
    if np.ptp(values) <= TIE:
        return row | {"p": np.nan}
    test = ttest_1samp(values, 0)
    low, high = test.confidence_interval()
    return row | {"interval": (high - low) / 2, "p": test.pvalue}


def holm(p_values):
    """Holm's (1979) adjusted p-values, in the order given; nan stays nan and does not count."""
    p = pd.Series(p_values, dtype=float)
    ordered = p.dropna().sort_values()
    steps = np.arange(len(ordered), 0, -1)
    return (ordered * steps).clip(upper=1).cummax().reindex(p.index).tolist()


def judge(comparisons):
    """The comparisons of one list with Holm's p and a verdict each.

    above, below, same (not distinguishable), ties (all seeds equal) or unknown (too few seeds).
    """

    def verdict(row, p):
        if np.isnan(p):
            return "ties" if row["n"] > 1 else "unknown"
        return NULL if p >= ALPHA else "above" if row["difference"] > 0 else "below"

    adjusted = holm([row["p"] for row in comparisons])
    pairs = zip(comparisons, adjusted, strict=True)
    return [row | {"holm_p": p, "verdict": verdict(row, p)} for row, p in pairs]


def interval_p(mean, half, count):
    """The two-sided p of a mean saved with the half-width of its 95 % t-interval over `count`.

    nan where there is none.
    """
    from scipy.stats import t

    if not half > 0:
        return np.nan
    return float(2 * t.sf(abs(mean) / half * t.ppf(0.975, count - 1), count - 1))


def declared_round(densities, prune_iterations, prune_percent):
    """The round that answers are read at, known before any result: the last with 8 % of the
    weights, or the last of all if only the dense net has that many.

    densities: of the rounds that any run has reached, from the dense one on. A round to come has
    --prune_percent less than the one before it.
    """
    plan = list(densities)
    while len(plan) < prune_iterations:
        plan.append(plan[-1] * (1 - prune_percent / 100))
    fitting = [number for number, density in enumerate(plan) if density >= DECLARED]
    return max(fitting) or len(plan) - 1


def amount(mean, half=np.nan, sign=True, digits=2):
    """+1.57 ± 0.26; without ± where there is no interval."""
    if np.isnan(mean):
        return "unknown"
    value = f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return value + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def describe(comparisons, above, below):
    """Judged comparisons as one clause a verdict, each with what it covers and by how much."""
    words = {"above": above, "below": below, NULL: NULL}
    words |= {"ties": "equal in all seeds, so no verdict", "unknown": "one seed, so no verdict"}
    clauses = []
    for verdict, text in words.items():
        rows = [row for row in comparisons if row["verdict"] == verdict]
        if verdict == NULL and len(rows) > 3:  # a list of what was not found hides what was
            text += f" in {len(rows)} comparisons, the largest"
            rows = [max(rows, key=lambda row: abs(row["difference"]))]
        if rows:
            clauses.append(f"{text}: {', '.join(map(_with_amount, rows))}")
    return "; ".join(clauses)


def _with_amount(row):
    digits = 3 if row.get("unit") == "Jaccard" else 2
    gap = amount(row["difference"], row["interval"], digits=digits)
    # an interval that excludes 0 beside "not distinguishable" needs its reason
    if row["verdict"] == NULL and abs(row["difference"]) > row["interval"]:
        gap += f", Holm p = {row['holm_p']:.2g}"
    return f"{row['label']} ({gap})".strip()
