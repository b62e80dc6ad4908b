"""Means, intervals, paired tests and their verdicts: pandas groups them, scipy knows Student's t.

A mean has its 95 % interval (Student's t over seeds); the comparisons that are listed together are
corrected together (Holm 1979).
"""

import numpy as np
import pandas as pd

ALPHA = 0.05
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

    values = np.asarray(values, dtype=float)
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * stats.sem(values) if n > 1 else np.nan
    return values.mean(), half


def compare(label, values):
    """Paired differences, one a seed, against 0: a row of a comparisons table.

    Without a p where one seed, or equal differences of all seeds, give no interval to judge by.
    """
    from scipy.stats import ttest_1samp

    values = np.asarray(values, dtype=float)
    row = {"label": label, "difference": values.mean(), "interval": np.nan, "n": len(values)}
    ties = len(values) > 1 and bool(np.ptp(values) <= TIE)
    if len(values) < 2 or ties:
        return row | {"p": np.nan, "ties": ties}
    test = ttest_1samp(values, 0)
    low, high = test.confidence_interval()
    return row | {"interval": (high - low) / 2, "p": test.pvalue, "ties": False}


def holm(p_values):
    """Holm's (1979) adjusted p-values, in the order given; nan stays nan and does not count."""
    p = pd.Series(p_values, dtype=float)
    ordered = p.dropna().sort_values()
    steps = np.arange(len(ordered), 0, -1)
    return (ordered * steps).clip(upper=1).cummax().reindex(p.index).tolist()


def judge(comparisons):
    """The comparisons of one list with Holm's p and a verdict each.

    above, below, same (not distinguishable), ties (all seeds equal) or unknown (one seed).
    """

    def verdict(row, p):
        if np.isnan(p):
            return "ties" if row["ties"] else "unknown"
        return "same" if p >= ALPHA else "above" if row["difference"] > 0 else "below"

    adjusted = holm([row["p"] for row in comparisons])
    return [
        {name: value for name, value in row.items() if name != "ties"}
        | {"holm_p": p, "verdict": verdict(row, p)}
        for row, p in zip(comparisons, adjusted, strict=True)
    ]


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


# Words -----------------------------------------------------------------------------------------


def amount(mean, half=np.nan, sign=True, digits=2):
    """+1.57 ± 0.26; without ± where there is no interval."""
    value = f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    return value + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def share(density):
    """A density in percent, in words: 8.59 %."""
    return f"{density:.3g} %"


def listed(words):
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def describe(comparisons, above, below):
    """Judged comparisons as one clause a verdict, each with what it covers and by how much."""
    clauses, none = [], "so no interval and no verdict"
    verdicts = {"above": above, "below": below, "same": "not distinguishable"}
    verdicts |= {"ties": f"equal in all seeds, {none}", "unknown": f"one seed, {none}"}
    for verdict, words in verdicts.items():
        rows = [row for row in comparisons if row["verdict"] == verdict]
        if verdict == "same" and len(rows) > 3:  # a list of what was not found hides what was
            largest = max(rows, key=lambda row: abs(row["difference"]))
            which = "all" if len(rows) == len(comparisons) else "the other"
            clauses.append(f"{words}: {which} {len(rows)}, the largest {_with_amount(largest)}")
        elif rows:
            clauses.append(f"{words}: {listed([_with_amount(row) for row in rows])}")
    return "; ".join(clauses)


def _with_amount(row):
    # an interval that excludes 0 beside "not distinguishable" needs its reason
    corrected = row["verdict"] == "same" and abs(row["difference"]) > row["interval"]
    reason = f", Holm p = {row['holm_p']:.2g}" if corrected else ""
    what = "" if row["verdict"] in ("above", "below") else "difference "
    gap = f"{what}{amount(row['difference'], row['interval'])}{reason}"
    return f"{row['label']} ({gap})" if row["label"] else f"({gap})"


def ranges(lines):
    """At how many densities a line's interval lies off 0, each density by itself, in words.

    lines: a DataFrame of density_percent, mean and interval, a row a round.
    """
    found = []
    for words, sign in (("above", 1), ("below", -1)):
        off = lines.density_percent[sign * lines["mean"] > lines.interval]
        if len(off):
            ends = f"{share(off.max())} to {share(off.min())}" if len(off) > 1 else share(off.max())
            found.append(f"{words} 0 at {len(off)} of {len(lines)} densities ({ends})")
    none = "one seed, so no intervals" if lines.interval.isna().all() else "off 0 at none"
    return "; ".join(found) or none
