"""Means, intervals, paired tests and their verdicts: pandas groups them, scipy knows Student's t.

A mean has its 95 % interval (Student's t over seeds), uncorrected; the verdicts of comparisons that
are listed together are corrected together (Holm 1979). "Not distinguishable" does not say that two
are equal: that is said where two one-sided tests (Schuirmann 1987) put their difference within a
margin that was declared.
"""

import numpy as np
import pandas as pd

from results.declared import ALPHA, FEWEST

NULL, SAME = "not distinguishable", "same"
# the floor of the spread: differences that vary by less are ties and have no verdict. Far below
# one test image, above float residue
TIE = 1e-9


def summarise(groups):
    """mean, interval (half-width of the 95 % t-interval) and seeds of a pandas groupby's values.

    Under FEWEST values, and values that are all equal (a tie), have no interval: nan.
    """
    from scipy.stats import t

    found = groups.agg(["mean", "sem", "count", "min", "max"])
    enough = (found["max"] - found["min"] > TIE) & (found["count"] >= FEWEST)
    spread = found["sem"].where(enough)
    found["interval"] = spread * t.ppf(0.975, found["count"] - 1)
    return found.rename(columns={"count": "seeds"})[["mean", "interval", "seeds"]]


def mean_and_interval(values):
    """Mean and half-width of the 95 % t-interval of a list; under FEWEST values that is nan."""
    from scipy import stats

    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * stats.sem(values) if n >= FEWEST else np.nan
    return np.mean(values), half


def compare(label, values, margin=None):
    """Paired differences, one a seed, against 0: a row of a comparisons table.

    margin: what a difference must be within to count as none, or None. tost_p: of the two one-sided
    tests that it is. Without an interval and a p where there are under FEWEST seeds, or where all
    differences are equal to TIE (ties): a t-test would call any of them certain.
    """
    from scipy.stats import sem, t, ttest_1samp

    values = np.asarray(values, dtype=float)
    mean, n = float(np.mean(values)), len(values)
    row = {"label": label, "difference": mean, "interval": np.nan, "n": n}
    row |= {"p": np.nan, "margin": margin, "tost_p": np.nan}
    if n < FEWEST or np.ptp(values) <= TIE:
        return row
    test, error = ttest_1samp(values, 0), sem(values)
    low, high = test.confidence_interval()
    row |= {"interval": float(high - low) / 2, "p": float(test.pvalue)}
    if margin is not None:
        row["tost_p"] = float(t.sf((margin - abs(mean)) / error, n - 1))
    return row


def holm(p_values):
    """Holm's (1979) adjusted p-values, in the order given; nan stays nan and does not count."""
    p = pd.Series(p_values, dtype=float)
    ordered = p.dropna().sort_values()
    steps = np.arange(len(ordered), 0, -1)
    return (ordered * steps).clip(upper=1).cummax().reindex(p.index).tolist()


def judge(comparisons):
    """The comparisons of one family with Holm's p, of both kinds of test, and a verdict each.

    above, below, same (within the margin), not distinguishable, ties (all seeds equal) or unknown
    (too few seeds).
    """

    def verdict(row, p, same_p):
        if row["n"] < FEWEST:
            return "unknown"
        if np.isnan(p):
            return "ties"
        if p < ALPHA:
            return "above" if row["difference"] > 0 else "below"
        return SAME if same_p < ALPHA else NULL

    adjusted = holm([row["p"] for row in comparisons])
    within = holm([row.get("tost_p", np.nan) for row in comparisons])
    return [
        row | {"holm_p": p, "holm_tost_p": same_p, "verdict": verdict(row, p, same_p)}
        for row, p, same_p in zip(comparisons, adjusted, within, strict=True)
    ]


def interval_p(mean, half, count):
    """The two-sided p of a mean saved with the half-width of its 95 % t-interval over `count`.

    nan where there is none.
    """
    from scipy.stats import t

    if not half > 0:
        return np.nan
    return float(2 * t.sf(abs(mean) / half * t.ppf(0.975, count - 1), count - 1))


def log_odds(percent):
    """ln(p / (1 - p)) of an accuracy in percent, which 0 and 100 have none of: 0.05 is added to
    both sides, half an image of a thousand.
    """
    percent = np.asarray(percent, dtype=float)
    return np.log((percent + 0.05) / (100.05 - percent))


def amount(mean, half=np.nan, sign=True, digits=2):
    """+1.57 ± 0.26; without ± where there is no interval."""
    if np.isnan(mean):
        return "unknown"
    value = f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return value + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def describe(comparisons, above, below):
    """Judged comparisons as one clause a verdict, each with what it covers and by how much."""
    margins = {row["margin"] for row in comparisons if row.get("margin") is not None}
    same = f"the same within {', '.join(f'{m:g}' for m in sorted(margins))} points"
    words = {"above": above, "below": below, SAME: same, NULL: NULL}
    few = ", ".join(sorted({str(row["n"]) for row in comparisons if row["verdict"] == "unknown"}))
    words |= {"ties": "equal in all seeds, so no verdict"}
    words |= {"unknown": f"too few seeds ({few}) to say"}
    clauses = []
    for verdict, text in words.items():
        rows = [row for row in comparisons if row["verdict"] == verdict]
        if verdict == NULL and len(rows) > 3:  # a list of what was not found hides what was
            text += f" in {len(rows)} comparisons, the largest"
            rows = [max(rows, key=lambda row: abs(row["difference"]))]
        if rows:
            clauses.append(f"{text}: {', '.join(map(with_amount, rows))}")
    return "; ".join(clauses)


def with_amount(row):
    """A comparison's label and difference, with what its verdict needs beside it."""
    digits = 3 if row.get("unit") == "Jaccard" else 2
    gap = amount(row["difference"], row["interval"], digits=digits)
    # an interval that excludes 0 beside "not distinguishable" needs its reason
    if row["verdict"] in (NULL, SAME) and abs(row["difference"]) > row["interval"]:
        gap += f", Holm p = {row['holm_p']:.2g}"
    if row["verdict"] in ("above", "below") and row.get("holm_tost_p", 1) < ALPHA:
        gap += f", less than {row['margin']:g}"
    return f"{row['label']} ({gap})".strip()
