"""How alike masks are, beside what chance and theta_0 explain, and whether groups of runs differ.

Statistics alone, no files. Masks are dicts of bool tensors by layer, as pruning.py makes them.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from pruning import layer_name
from results.margins import beyond_margins, residuals
from results.stats import mean_and_interval

# bins of the rank of |theta_0|, fewer where a layer has under ten weights a bin. With 100, masks of
# VGG-16 that were independent given theta_0 had z = 16 at a density of 3 %, for the magnitudes
# within a bin still told which survive; with 1000, z = 1.6
STRATA = 1000
RELABELINGS = 20_000  # up to so many are enumerated
DRAWS = 9_999  # random ones where there are more

# Two masks -------------------------------------------------------------------------------------


def intersection_chance(n, a, b):
    """Mean and variance of how many of n weights two independent masks both keep.

    They keep a and b of them (numbers or arrays); the count is hypergeometric. Masks of fixed
    densities without structure: Grosse & Backes 2021.
    """
    n, a, b = (np.asarray(value, dtype=float) for value in (n, a, b))
    mean = a * b / np.maximum(n, 1)
    return mean, mean * (n - a) * (n - b) / np.maximum(n * (n - 1), 1)


def jaccard_chance(a, b, mean, variance):
    """Expected Jaccard index of masks that keep a and b weights, second-order in the variance.

    mean, variance: of how many weights both keep.
    """
    union = a + b - mean
    return mean / union + variance * (a + b) / union**3


def strata(theta0):
    """{name: (rank, bins, size)} of each weight by |theta_0| in its layer, from a dict of tensors.

    Rank 0 is the largest, int32; bins are up to STRATA quantiles of the rank, uint16; size is
    |theta_0| with mean 0 and standard deviation 1, float32; all flat.
    """
    ranks = {}
    for name, weight in theta0.items():
        size = weight.detach().float().abs().reshape(-1).numpy()
        order = np.argsort(-size, kind="stable")
        n, rank = len(order), np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(n, dtype=np.int32)
        bins = np.empty(n, dtype=np.uint16)
        bins[order] = np.arange(n) * min(STRATA, max(1, n // 10)) // n
        ranks[name] = rank, bins, (size - size.mean()) / max(size.std(), 1e-12)
    return ranks


@dataclass
class Layer:
    """One layer of a ticket as `count_layers` takes it; arrays are flat."""

    mask: np.ndarray
    kept: int
    of_theta0: float = np.nan  # how many of its weights are among the `kept` largest of |theta_0|
    bins: np.ndarray | None = None  # weights kept in each stratum
    sizes: np.ndarray | None = None  # weights in each stratum
    positive: np.ndarray | None = None  # trained weight > 0
    rest: np.ndarray | None = None  # mask - P(kept) given |theta_0|, pixel and unit
    effects: int = 0  # fitted for that


def examine(masks, ranks=None, weights=None):
    """{name: Layer} of masks, with theta_0's `strata` and trained weights if they are known."""
    layers = {}
    for name, mask in masks.items():
        whole = np.asarray(mask, dtype=bool)
        mask = whole.reshape(-1)
        layer = layers[name] = Layer(mask, int(np.count_nonzero(mask)))
        if ranks is not None:
            rank, bins, size = ranks[name]
            layer.of_theta0 = int(np.count_nonzero(mask & (rank < layer.kept)))
            layer.sizes = np.bincount(bins)
            layer.bins = np.bincount(bins[mask], minlength=len(layer.sizes))
            if whole.ndim > 1:
                layer.rest, layer.effects = residuals(whole, bins, size)
        if weights is not None:
            layer.positive = np.asarray(weights[name] > 0).reshape(-1)
    return layers


def count_layers(layers_a, layers_b, share_theta0):
    """What two examined tickets have in common: dicts, one a layer and "total".

    `similarities` makes the columns of overlap.csv of them.
    """
    counts = {name: _count(layer, layers_b[name], share_theta0) for name, layer in layers_a.items()}
    # a sum over independent layers: means and variances add
    names = next(iter(counts.values()))
    counts["total"] = {name: sum(count[name] for count in counts.values()) for name in names}
    return [{"layer": layer_name(name)} | count for name, count in counts.items()]


def _count(a, b, share_theta0):
    common, n = a.mask & b.mask, len(a.mask)
    mean, variance = intersection_chance(n, a.kept, b.kept)
    given = variance_given = excess = variance_margins = same_sign = np.nan
    if share_theta0:
        given, variance_given = (x.sum() for x in intersection_chance(a.sizes, a.bins, b.bins))
    if a.rest is not None and b.rest is not None:
        excess, variance_margins = beyond_margins(a.rest, a.effects, b.rest, b.effects)
    if a.positive is not None and b.positive is not None:
        same_sign = int(np.count_nonzero(common & (a.positive == b.positive)))
    return {
        "weights": n, "kept_a": a.kept, "kept_b": b.kept, "kept_both": int(common.sum()),
        "expected": float(mean), "variance": float(variance),
        "given": float(given), "variance_given": float(variance_given),
        "beyond_margins": excess, "variance_margins": variance_margins,
        "of_theta0_a": a.of_theta0, "of_theta0_b": b.of_theta0, "same_sign": same_sign,
    }  # fmt: skip


def similarities(counts):
    """A DataFrame of `count_layers`'s rows with the columns of overlap.csv in the counts' place.

    jaccard: |A and B| / |A or B| (Paganini & Forde 2020); overlap: |A and B| / min(|A|, |B|);
    hamming: share of equal entries. Chance is two masks of these densities drawn independently in
    each layer; "given_theta0" is the same within each stratum of |theta_0|, so what two masks have
    in common beyond the initial magnitudes shows in z_given_theta0; "given_margins" is given
    |theta_0|, pixel and unit (results/margins.py), each mask by its own theta_0. z is that of the
    size of the intersection, and thereby of all three similarities, which rise with it.
    theta0_jaccard_a: of a's mask with that of its largest |theta_0| at the same densities.
    sign_agreement: share of the weights alive in both whose trained signs agree. Nan where nothing
    can vary or is kept.
    """
    n, a, b, both = counts.weights, counts.kept_a, counts.kept_b, counts.kept_both
    mean, given, own_a, own_b = (
        counts[name] for name in ("expected", "given", "of_theta0_a", "of_theta0_b")
    )
    excess, margins = counts.beyond_margins, counts.variance_margins
    return counts.loc[:, :"kept_both"].assign(
        density_a=a / n,
        density_b=b / n,
        jaccard=both / (a + b - both),
        jaccard_chance=jaccard_chance(a, b, mean, counts.variance),
        overlap=both / np.minimum(a, b),
        overlap_chance=mean / np.minimum(a, b),
        hamming=(n - a - b + 2 * both) / n,
        hamming_chance=(n - a - b + 2 * mean) / n,
        z=_z(both - mean, counts.variance),
        jaccard_given_theta0=jaccard_chance(a, b, given, counts.variance_given),
        z_given_theta0=_z(both - given, counts.variance_given),
        jaccard_given_margins=jaccard_chance(a, b, both - excess, margins),
        z_given_margins=_z(excess, margins),
        theta0_jaccard_a=own_a / (2 * a - own_a),
        theta0_jaccard_b=own_b / (2 * b - own_b),
        sign_agreement=counts.same_sign / both,
    )


def _z(excess, variance):
    return excess / np.sqrt(variance.where(variance > 1e-9))


# Two groups of runs ----------------------------------------------------------------------------


def permutation_test(similarity, labels, blocks, limit=RELABELINGS, draws=DRAWS, seed=0):
    """Test that runs of one group are more alike than runs of different groups.

    similarity: (N, N), nan for pairs left out; labels: N values of two kinds; blocks: N values, the
    runs of one theta_0. The statistic is the mean over blocks of (mean within pairs - mean between
    pairs), pairs only of one block. The groups' labels are permuted within blocks: all relabelings
    up to `limit` of them, else `draws` random ones and p = (1 + hits) / (1 + draws). Relabelings
    that leave a block without a pair of either kind don't count. Returns a dict of statistic, p,
    relabelings, smallest_p (what the most extreme relabeling would give), blocks; p is nan if no
    block has pairs of both kinds.
    """
    similarity = np.asarray(similarity, dtype=float)
    labels, blocks = np.asarray(labels), np.asarray(blocks)
    informative = []
    for block in dict.fromkeys(blocks.tolist()):
        members = np.flatnonzero(blocks == block)
        marks = labels[members] == labels[0]
        inside = similarity[np.ix_(members, members)]
        gap = _within_minus_between(inside, marks[None])[0]
        if np.isfinite(gap):
            informative.append((inside, marks, gap))
    if not informative:
        nothing = {"statistic": np.nan, "p": np.nan, "relabelings": 0}
        return nothing | {"smallest_p": np.nan, "blocks": 0}
    observed = np.mean([gap for *_, gap in informative])
    ways = math.prod(math.comb(len(marks), int(marks.sum())) for _, marks, _ in informative)
    exact = ways <= limit
    rng, totals = np.random.default_rng(seed), np.zeros(1 if exact else draws)
    for inside, marks, _ in informative:
        if exact:
            gaps = _within_minus_between(inside, _relabelings(marks))
            totals = np.add.outer(totals, gaps[np.isfinite(gaps)]).reshape(-1)
        else:
            drawn = rng.permuted(np.tile(marks, (draws, 1)), axis=1)
            totals = totals + _within_minus_between(inside, drawn)
    totals = totals[np.isfinite(totals)] / len(informative)
    # the observed labels are among all relabelings, and one more beside random ones
    extra = 0 if exact else 1
    count = len(totals) + extra
    # a relabeling as extreme as the observed counts, whatever its last bit
    p, smallest = (
        (extra + np.count_nonzero(totals >= level - 1e-12)) / count
        for level in (observed, max([observed, *totals]))
    )
    found = {"statistic": float(observed), "p": p, "relabelings": count, "smallest_p": smallest}
    return found | {"blocks": len(informative)}


def _relabelings(marks):
    """(L, M) every way to give as many of the M places the first label as `marks` does."""
    chosen = np.array(list(combinations(range(len(marks)), int(marks.sum()))))
    ways = np.zeros((len(chosen), len(marks)), dtype=bool)
    np.put_along_axis(ways, chosen, True, axis=1)
    return ways


def _within_minus_between(similarity, marks):
    """(L,) mean similarity of pairs of one label minus that of pairs of two, for (L, M) labels.

    Nan where one kind has no pair.
    """
    first, second = np.triu_indices(len(similarity), 1)
    values = similarity[first, second]
    first, second, values = (x[np.isfinite(values)] for x in (first, second, values))
    same = marks[:, first] == marks[:, second]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (same @ values) / same.sum(1) - (~same @ values) / (~same).sum(1)


NULLS = ("z", "z_given_theta0", "z_given_margins")


def with_mean_round(pairs):
    """The pairs with rows of round "all": each pair's mean over the rounds after 0, if several."""
    later = pairs[pairs["round"] > 0]
    if later["round"].nunique() < 2:
        return pairs.reset_index(drop=True)
    mean = later.groupby(["a", "b"], sort=False).mean(numeric_only=True).reset_index()
    return pd.concat([pairs, mean.assign(round="all")], ignore_index=True)


def groups_by_round(pairs, runs):
    """groups.csv as a DataFrame: between-group overlap beside the ceiling, theta_0 and chance.

    pairs: the total rows of overlap.csv; runs: a row a run, its index the labels, with its `group`
    (those of "a" and "b" count here), what `theta0` it has and its `order` seed. Pairs are formed
    among runs of one theta_0, if the groups share any, else over all; means are taken within each
    theta_0 first, intervals (half-widths, 95 %, Student's t) over them. z_min and z_max are of the
    pairs between the groups. Round "all" is the mean of the rounds after 0.
    """
    runs = runs[runs.group.isin(["a", "b"])]
    pairs = pairs[pairs.a.isin(runs.index) & pairs.b.isin(runs.index)]
    pairs, shared = _with_roles(with_mean_round(pairs), runs)
    order = runs["order"].to_numpy()
    testable = shared & (order[:, None] != order)
    rows = []
    for number, mine in pairs.groupby("round", sort=False):
        means = _means(mine, runs, shared)
        density = densities(mine).groupby(runs.group).mean()
        counts = {
            "theta0s": int(means["between"].notna().sum()) if shared else 0,
            "difference_theta0s": int(means["difference"].notna().sum()) if shared else 0,
            "between_pairs": int((mine.role == "between").sum()),
            "within_pairs": int((mine.role == "within").sum()),
        }
        row = {"round": number, "density_a": density["a"], "density_b": density["b"]} | counts
        for name, values in means.items():
            values = values.dropna()
            mean_half = mean_and_interval(values) if len(values) else (np.nan, np.nan)
            row[name], row[f"{name}_interval"] = map(float, mean_half)
        spread = mine.loc[mine.role == "between", [*NULLS]].agg(["min", "max"])
        row |= {f"{name}_{end}": spread.loc[end, name] for name in NULLS for end in spread.index}
        similarity = np.where(testable, square(mine, runs.index, "jaccard"), np.nan)
        test = permutation_test(similarity, runs.group, runs.theta0)
        rows.append(row | {name: test[name] for name in ("p", "relabelings", "smallest_p")})
    return pd.DataFrame(rows)


def _with_roles(pairs, runs):
    """The pairs with their `role` and `block`, and whether the groups share a theta_0.

    Runs of one order have seen the same batches and are more alike for that, which the pairs of the
    ceiling ("within") are not: "between" leaves them out where others are left, and
    "between_same_order" has them.
    """
    one, other = (runs.loc[pairs[side]].reset_index(drop=True) for side in "ab")
    same = one == other
    within, between = same.group & same.theta0 & ~same.order, ~same.group
    shared = bool((between & same.theta0).any())
    if shared:
        between &= same.theta0
    apart = shared and (between & ~same.order).any()
    roles = [within, between & same.order & apart, between]
    role = np.select(roles, ["within", "between_same_order", "between"], "")
    return pairs.assign(role=role, block=one.theta0 if shared else ""), shared


def _means(pairs, runs, shared):
    """{column of groups.csv: a Series of the mean over each theta_0's pairs}."""

    def mean(role, column="jaccard", group=""):
        rows = pairs[pairs.role == role]
        if group:
            rows = rows[(runs.group[rows.a] == group).to_numpy()]
        return rows.groupby("block", sort=False)[column].mean()

    within, between = mean("within"), mean("between")
    return {
        "between": between,
        "within": within,
        "theta0": mean("between", "jaccard_given_theta0"),
        "margins": mean("between", "jaccard_given_margins"),
        "chance": mean("between", "jaccard_chance"),
        # between groups of different theta_0s it would be theta_0's doing
        "difference": (within - between) if shared else between * np.nan,
        "between_same_order": mean("between_same_order"),
        "within_a": mean("within", group="a"),
        "within_b": mean("within", group="b"),
    }


def square(pairs, names, column):
    """(N, N) symmetric DataFrame of a column of one round's pairs, the diagonal nan."""
    half = pairs.pivot(index="a", columns="b", values=column).reindex(index=names, columns=names)
    return half.fillna(half.T)


def densities(pairs):
    """Each run's density, a Series by label, from one round's pairs."""
    sides = [pairs.set_index(side)[f"density_{side}"] for side in "ab"]
    return pd.concat(sides).groupby(level=0).first()
