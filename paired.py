"""Comparisons paired by seed, and their words: runs of one seed share theta_0, split, order and attacked images.

A mean has its 95 % interval (Student's t over seeds). Answers are read at one density that is declared before any result is seen
(`headline_round`), and the p-values of the comparisons that a sentence lists are corrected together (Holm 1979).
"""

import math

import numpy as np

import plots
from utils import UserError

HEADLINE = 0.08  # of the weights: where the literature's tickets still win clearly and reinitialised nets already fall behind
ALPHA = 0.05
CLEAN, TRANSFER, WHITEBOX, EARLY = "test_accuracy", "transfer", "whitebox", "early_stop_iteration"


def headline_round(runs):
    """The round that answers are read at: the last with at least 8 % of the weights, or the last of all if only the dense net has that many."""
    count = min(len(run["rounds"]) for run in runs)
    if count < 2:
        raise UserError(f"{min(runs, key=lambda run: len(run['rounds']))['folder'].path} has its dense round only: nothing is pruned yet")
    fitting = [number for number in range(count) if runs[0]["rounds"][number]["density"] >= HEADLINE]
    return fitting[-1] if fitting[-1] else count - 1


def differences(a, b, column, number, number_b=None):
    """{seed: a - b} of `column` at a round, over the seeds that both arms ({seed: run}) have; number_b: b's round if it is another."""
    number_b = number if number_b is None else number_b
    return {seed: a[seed]["rounds"][number][column] - b[seed]["rounds"][number_b][column] for seed in common_seeds(a, b)}


def minus(first, second):
    """{seed: first - second} over the seeds that both have: the difference of two paired differences."""
    return {seed: value - second[seed] for seed, value in first.items() if seed in second}


def common_seeds(a, b):
    """The seeds that two arms share, in order; UserError if there is none."""
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        one, other = (next(iter(arm.values()))["folder"].path for arm in (a, b))
        raise UserError(f"runs such as {one} and {other} share no --seed: comparisons are paired by seed")
    return seeds


def compare(label, values):
    """A comparison: mean and half-width of the 95 % t-interval of paired differences {seed: value}, and the two-sided p of their being 0."""
    mean, half = plots.mean_and_interval(list(values.values()))
    return {"label": label, "difference": float(mean), "interval": float(half), "n": len(values), "p": interval_p(mean, half, len(values))}


def interval_p(mean, half, count):
    """The two-sided p of a mean that is given with the half-width of its 95 % t-interval over `count` values; nan without an interval."""
    from scipy.stats import t

    if count < 2 or math.isnan(half):
        return math.nan
    return float(2 * t.sf(abs(mean) / half * t.ppf(0.975, count - 1), count - 1)) if half > 0 else float(mean == 0)


def holm(p_values):
    """Holm's (1979) adjusted p-values, in the order given; nan stays nan and does not count."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, largest = list(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[place] = largest
    return adjusted


def judge(comparisons):
    """The comparisons of one sentence, with Holm's p and a verdict each: above, below, same (not distinguishable) or unknown (one seed)."""
    for each, p in zip(comparisons, holm([each["p"] for each in comparisons]), strict=True):
        each["holm_p"] = p
        each["verdict"] = "unknown" if math.isnan(p) else "same" if p >= ALPHA else "above" if each["difference"] > 0 else "below"
    return comparisons


def mean_line(name, arm, column):
    """An arm's mean of `column` with its interval at every round."""
    x, mean, half, count = plots.curve(list(arm.values()), column)
    return {"name": name, "quantity": column, "density": x, "mean": mean, "half": half, "n": count}


def difference_line(name, a, b, column):
    """The mean paired difference a - b of `column` with its interval at every round."""
    seeds = common_seeds(a, b)
    rounds = range(min(len(run["rounds"]) for run in (*a.values(), *b.values())))
    pairs = np.array([plots.mean_and_interval(list(differences(a, b, column, number).values())) for number in rounds])
    x = np.array([100 * np.mean([a[seed]["rounds"][number]["density"] for seed in seeds]) for number in rounds])
    return {"name": name, "quantity": f"difference of {column}", "density": x, "mean": pairs[:, 0], "half": pairs[:, 1], "n": len(seeds)}


def amount(mean, half, sign=True, digits=2):
    """+1.57 ± 0.26; without ± where one seed gives no interval."""
    return f"{mean:{'+' if sign else ''}.{digits}f}".replace("-", "−") + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def share(density):
    """A density in percent, in words: 8.59 %."""
    return f"{density:.3g} %"


def listed(words):
    """a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def describe(comparisons, above, below, same="not distinguishable", unknown="one seed, so no interval and no verdict"):
    """Judged comparisons as one clause a verdict, each with what it covers and by how much."""
    clauses = []
    for verdict, words in (("above", above), ("below", below), ("same", same), ("unknown", unknown)):
        members = [each for each in comparisons if each["verdict"] == verdict]
        if verdict == "same" and len(members) > 3:  # a list of what was not found hides what was
            largest = max(members, key=lambda each: abs(each["difference"]))
            clauses.append(f"{words}: {'all' if len(members) == len(comparisons) else 'the other'} {len(members)}, the largest {_with_amount(largest)}")
        elif members:
            clauses.append(f"{words}: {listed([_with_amount(each) for each in members])}")
    return "; ".join(clauses)


def _with_amount(each):
    # an interval that excludes 0 beside "not distinguishable" needs its reason
    corrected = each["verdict"] == "same" and abs(each["difference"]) > each["interval"]
    what = "difference " if each["verdict"] in ("same", "unknown") else ""
    reason = f", Holm p = {each['holm_p']:.2g}" if corrected else ""
    return f"{each['label']} ({what}{amount(each['difference'], each['interval'])}{reason})"


def sentence(text):
    """The text with a full stop and a capital, but for lt, which is a name."""
    return (text[:1] if text.startswith("lt ") else text[:1].upper()) + text[1:] + ("" if text.endswith(".") else ".")


def where(density):
    """How a sentence names the declared density."""
    return f"at {share(density)} of the weights"


def images_of(rate):
    """What training images a mix ratio means, in words."""
    return "clean data" if rate == 0 else f"{100 * rate:g} % attacked data"


def ranges(line, label, above="lt above reinit", below="lt below reinit"):
    """At which densities a line's interval lies above or below 0, each density by itself, and its value at the middle and last one."""
    number, last = len(line["mean"]) // 2, len(line["mean"]) - 1
    found = []
    for words, holds in ((above, line["mean"] - line["half"] > 0), (below, line["mean"] + line["half"] < 0)):
        if holds.any():
            found.append(f"{words} {spans(line['density'], holds)}")
    at = ", ".join(f"{amount(line['mean'][n], line['half'][n])} at {share(line['density'][n])}" for n in (number, last))
    none = "one seed, so no intervals" if np.isnan(line["half"]).all() else "no density's interval lies off 0"
    return f"{label}, densities one by one: {'; '.join(found) or none} (difference {at})"


def spans(density, holds):
    """Where `holds` (bools) is true, in words: "from 80 % down to 8.59 % and at 2 %"."""
    starts = [at for at in np.flatnonzero(holds) if at == 0 or not holds[at - 1]]
    ends = [at for at in np.flatnonzero(holds) if at == len(holds) - 1 or not holds[at + 1]]
    words = [f"at {share(density[a])}" if a == b else f"from {share(density[a])} down to {share(density[b])}" for a, b in zip(starts, ends, strict=True)]
    return listed(words)
