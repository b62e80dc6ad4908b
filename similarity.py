"""How alike masks are, beside what chance and theta_0 explain, and whether two groups of runs differ: statistics alone, no files.

Masks are dicts of bool tensors by layer, as pruning.py makes them. tickets.py reads them from run folders.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

# bins of the rank of |theta_0|, fewer where a layer has under ten weights a bin. With 100, masks of VGG-16 that were independent given theta_0
# had z = 16 at a density of 3 %, for the magnitudes within a bin still told which survive; with 1000, z = 1.6
STRATA = 1000
RELABELINGS = 20_000  # up to so many are enumerated
DRAWS = 9_999  # random ones where there are more


# Statistics of two masks ------------------------------------------------------------------------


def intersection_chance(n, a, b):
    """Mean and variance of how many of n weights two independent masks both keep that keep a and b of them (hypergeometric).

    Numbers or arrays. Masks of fixed densities without structure: Grosse & Backes 2021.
    """
    n, a, b = (np.asarray(value, dtype=float) for value in (n, a, b))
    mean = a * b / np.maximum(n, 1)
    return mean, mean * (n - a) * (n - b) / np.maximum(n * (n - 1), 1)


def jaccard_chance(a, b, mean, variance):
    """Expected Jaccard index of masks that keep a and b weights, both of them `mean` with this variance; second-order in the variance."""
    union = a + b - mean
    return mean / union + variance * (a + b) / union**3 if union > 0 else np.nan


def overlap(mask_a, mask_b):
    """Similarity of two masks (bool tensors or arrays of one shape), each from 0 to 1, by name; nan where both or one keep nothing.

    jaccard: |A and B| / |A or B| (Paganini & Forde 2020); overlap: |A and B| / min(|A|, |B|); hamming: share of equal entries.
    """
    mask_a, mask_b = (np.asarray(mask, dtype=bool) for mask in (mask_a, mask_b))
    return _similarities(mask_a.size, mask_a.sum(), mask_b.sum(), (mask_a & mask_b).sum())


def _similarities(n, a, b, both):
    return {"jaccard": _ratio(both, a + b - both), "overlap": _ratio(both, min(a, b)), "hamming": _ratio(n - a - b + 2 * both, n)}


def _ratio(part, whole_):
    return float(part / whole_) if whole_ else np.nan


def _z(value, mean, variance):
    return float((value - mean) / math.sqrt(variance)) if variance > 1e-9 else np.nan


def strata(theta0):
    """{name: (rank, bins)} of each weight by |theta_0| within its layer: rank 0 the largest, bins up to STRATA quantiles of the rank.

    theta0: dict of tensors; the arrays are flat, int32 and uint16.
    """
    found = {}
    for name, weight in theta0.items():
        order = np.argsort(-weight.detach().float().abs().reshape(-1).numpy(), kind="stable")
        n, rank = len(order), np.empty(len(order), dtype=np.int32)
        rank[order] = np.arange(n, dtype=np.int32)
        count = min(STRATA, max(1, n // 10))
        bins = np.empty(n, dtype=np.uint16)
        bins[order] = np.arange(n) * count // n
        found[name] = rank, bins
    return found


@dataclass
class Layer:
    """One layer of a ticket as `compare_layers` takes it; arrays are flat."""

    mask: np.ndarray
    kept: int
    of_theta0: int | None = None  # how many of its weights are among the `kept` largest of |theta_0|
    bins: np.ndarray | None = None  # weights kept in each stratum
    sizes: np.ndarray | None = None  # weights in each stratum
    positive: np.ndarray | None = None  # trained weight > 0


def examine(masks, ranks=None, weights=None):
    """{name: Layer} of masks, with theta_0's `strata` and trained weights if they are known."""
    layers = {}
    for name, mask in masks.items():
        mask = np.asarray(mask, dtype=bool).reshape(-1)
        layer = layers[name] = Layer(mask, int(np.count_nonzero(mask)))
        if ranks is not None:
            rank, bins = ranks[name]
            layer.of_theta0 = int(np.count_nonzero(mask & (rank < layer.kept)))
            layer.sizes = np.bincount(bins)
            layer.bins = np.bincount(bins[mask], minlength=len(layer.sizes))
        if weights is not None:
            layer.positive = np.asarray(weights[name] > 0).reshape(-1)
    return layers


def compare(masks_a, masks_b, ranks=None):
    """Rows of two tickets' masks (dicts of one set of names): one a layer and "total"; ranks: `strata` of the theta_0 they share."""
    return compare_layers(examine(masks_a, ranks), examine(masks_b, ranks), ranks is not None)


def compare_layers(layers_a, layers_b, share_theta0):
    """Rows of two examined tickets, one a layer and "total", as overlap.csv has them.

    Chance is two masks of these densities drawn independently in each layer; "given_theta0" is the same within each stratum of
    |theta_0|, so what the two masks have in common beyond the initial magnitudes shows in z_given_theta0. z is that of the size of the
    intersection, and thereby of all three similarities, which rise with it. Nan where nothing can vary. theta0_jaccard_a: of a's mask
    with that of its largest |theta_0| at the same densities. sign_agreement: share of the weights alive in both whose trained
    signs agree.
    """
    parts = {name: _parts(layers_a[name], layer_b, share_theta0) for name, layer_b in layers_b.items()}
    # a sum over independent layers: means and variances add
    total = {key: sum(part[key] for part in parts.values()) for key in next(iter(parts.values()))}
    return [_row(name, part) for name, part in [*parts.items(), ("total", total)]]


def _parts(a, b, share_theta0):
    """What adds up over layers."""
    common = a.mask & b.mask
    part = {"n": len(a.mask), "a": a.kept, "b": b.kept, "both": int(np.count_nonzero(common))}
    part["mean"], part["variance"] = intersection_chance(part["n"], a.kept, b.kept)
    part["mean_given"], part["variance_given"] = np.nan, np.nan
    if share_theta0:
        part["mean_given"], part["variance_given"] = (value.sum() for value in intersection_chance(a.sizes, a.bins, b.bins))
    part |= {f"of_theta0_{side}": np.nan if layer.of_theta0 is None else layer.of_theta0 for side, layer in (("a", a), ("b", b))}
    signed = a.positive is not None and b.positive is not None
    part["same_sign"] = int(np.count_nonzero(common & (a.positive == b.positive))) if signed else np.nan
    return part


def _row(name, part):
    n, a, b, both = (part[key] for key in ("n", "a", "b", "both"))
    mean, given = part["mean"], part["mean_given"]
    found, chance = _similarities(n, a, b, both), _similarities(n, a, b, mean)
    chance["jaccard"] = jaccard_chance(a, b, mean, part["variance"])
    row = {"layer": name.removeprefix("net.").removesuffix(".weight"), "weights": n, "kept_a": a, "kept_b": b, "kept_both": both}
    row |= {"density_a": a / n, "density_b": b / n}
    for key, value in found.items():
        row |= {key: value, f"{key}_chance": float(chance[key])}
    row["z"] = _z(both, mean, part["variance"])
    row["jaccard_given_theta0"] = float(jaccard_chance(a, b, given, part["variance_given"])) if given == given else np.nan
    row["z_given_theta0"] = _z(both, given, part["variance_given"])
    for side, kept in (("a", a), ("b", b)):
        of_theta0 = part[f"of_theta0_{side}"]
        row[f"theta0_jaccard_{side}"] = _ratio(of_theta0, 2 * kept - of_theta0)
    row["sign_agreement"] = _ratio(part["same_sign"], both)
    return row


# Statistics of two groups of runs ---------------------------------------------------------------


def permutation_test(similarity, labels, blocks, limit=RELABELINGS, draws=DRAWS, seed=0):
    """Test that runs of one group are more alike than runs of different groups; a dict of statistic, p, relabelings, smallest_p, blocks.

    similarity: (N, N), nan for pairs left out; labels: N values of two kinds; blocks: N values, the runs of one theta_0. The statistic is
    the mean over blocks of (mean within pairs - mean between pairs), pairs only of one block. The groups' labels are permuted within
    blocks: all relabelings up to `limit` of them, else `draws` random ones and p = (1 + hits) / (1 + draws). Relabelings that leave a
    block without a pair of either kind don't count. smallest_p is what the most extreme relabeling would give. p is nan if no block
    has pairs of both kinds.
    """
    similarity, labels, blocks = np.asarray(similarity, dtype=float), np.asarray(labels), np.asarray(blocks)
    informative = []
    for block in dict.fromkeys(blocks.tolist()):
        members = np.flatnonzero(blocks == block)
        marks = labels[members] == labels[0]
        inside = similarity[np.ix_(members, members)]
        if np.isfinite(_within_minus_between(inside, marks[None])[0]):
            informative.append((inside, marks))
    if not informative:
        return {"statistic": np.nan, "p": np.nan, "relabelings": 0, "smallest_p": np.nan, "blocks": 0}
    observed = np.mean([_within_minus_between(inside, marks[None])[0] for inside, marks in informative])
    exact = math.prod(math.comb(len(marks), int(marks.sum())) for _, marks in informative) <= limit
    rng, totals = np.random.default_rng(seed), np.zeros(1 if exact else draws)
    for inside, marks in informative:
        if exact:
            each = _within_minus_between(inside, _relabelings(marks))
            totals = np.add.outer(totals, each[np.isfinite(each)]).reshape(-1)
        else:
            totals = totals + _within_minus_between(inside, rng.permuted(np.tile(marks, (draws, 1)), axis=1))
    totals = totals[np.isfinite(totals)] / len(informative)
    extra = 0 if exact else 1  # the observed labels are among all relabelings, and one more beside random ones
    count = len(totals) + extra
    # a relabeling as extreme as the observed counts, whatever its last bit
    p, smallest = ((extra + np.count_nonzero(totals >= level - 1e-12)) / count for level in (observed, max([observed, *totals])))
    return {"statistic": float(observed), "p": p, "relabelings": count, "smallest_p": smallest, "blocks": len(informative)}


def _relabelings(marks):
    """(L, M) every way to give as many of the M places the first label as `marks` does."""
    chosen = list(combinations(range(len(marks)), int(marks.sum())))
    found = np.zeros((len(chosen), len(marks)), dtype=bool)
    for line, places in zip(found, chosen, strict=True):
        line[list(places)] = True
    return found


def _within_minus_between(similarity, marks):
    """(L,) mean similarity of pairs of one label minus that of pairs of two, for (L, M) labels; nan where one kind has no pair."""
    first, second = np.triu_indices(len(similarity), 1)
    values = similarity[first, second]
    first, second, values = (array[np.isfinite(values)] for array in (first, second, values))
    same = marks[:, first] == marks[:, second]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (same @ values) / same.sum(1) - (~same @ values) / (~same).sum(1)


def groups_by_round(rows, labels, blocks, orders):
    """Rows of groups.csv from the total rows of overlap.csv: between-group overlap beside the ceiling, theta_0's share and chance.

    labels, blocks, orders: dicts by run label of its group "a" or "b", of what theta_0 it has, and of its order seed. Pairs are formed
    among runs of one theta_0, if the groups share any, else over all; means are taken within each theta_0 first, intervals (half-widths,
    95 %, Student's t) over them. Runs of one order have seen the same batches and are more alike for that, which the ceiling's pairs are
    not: "between" leaves them out where others are left, and "between_same_order" has them. Round "all" is the mean of the rounds
    after 0.
    """
    group, block, order = (np.array([values[run] for run in labels]) for values in (labels, blocks, orders))
    between, same_order, within, shared = _pair_kinds(group, block, order)
    strata_of = block if shared else np.zeros(len(block), dtype=int)
    found = []
    for number, matrix in matrices(rows, list(labels)).items():
        jaccard = matrix["jaccard"]
        row = {"round": number, **{f"density_{side}": float(matrix["density"][group == side].mean()) for side in ("a", "b")}}
        gap = _block_means(jaccard, within, strata_of) - _block_means(jaccard, between, strata_of)
        means = {
            "between": _block_means(jaccard, between, strata_of),
            "within": _block_means(jaccard, within, strata_of),
            "theta0": _block_means(matrix["jaccard_given_theta0"], between, strata_of),
            "chance": _block_means(matrix["jaccard_chance"], between, strata_of),
            "difference": gap if shared else gap * np.nan,  # else it would be theta_0's doing
            "between_same_order": _block_means(jaccard, same_order, strata_of),
            "within_a": _block_means(jaccard, within & (group == "a"), strata_of),
            "within_b": _block_means(jaccard, within & (group == "b"), strata_of),
        }
        row |= {"theta0s": int(np.isfinite(means["between"]).sum()) if shared else 0, "between_pairs": int(between.sum()), "within_pairs": int(within.sum())}
        for name, values in means.items():
            row[name], row[f"{name}_interval"] = _mean_and_interval(values)
        test = permutation_test(np.where(shared & (order[:, None] != order), jaccard, np.nan), group, block)
        found.append(row | {name: test[name] for name in ("p", "relabelings", "smallest_p")})
    return found


def _pair_kinds(group, block, order):
    """(N, N) bool, upper triangles: pairs between groups, those of them set aside for their common order, pairs within; and if theta_0s are shared."""
    upper = np.triu(np.ones((len(group), len(group)), dtype=bool), 1)
    same_group, same_block, same_order = (values[:, None] == values for values in (group, block, order))
    within = upper & same_group & same_block & ~same_order
    between = upper & ~same_group
    shared = bool((between & same_block).any())
    if shared:
        between &= same_block
    others = between & ~same_order
    return (others, between & same_order, within, shared) if shared and others.any() else (between, between & False, within, shared)


def matrices(rows, runs):
    """{round: {column: (N, N) symmetric}} of the total rows, and "density" (N,); "all" is the mean over the rounds after 0."""
    place = {run: at for at, run in enumerate(runs)}
    matrices = {}
    for row in rows:
        new = {name: np.full((len(runs), len(runs)), np.nan) for name in ("jaccard", "jaccard_chance", "jaccard_given_theta0")}
        matrix = matrices.setdefault(row["round"], new | {"density": np.full(len(runs), np.nan)})
        i, j = place[row["a"]], place[row["b"]]
        for name in new:
            matrix[name][i, j] = matrix[name][j, i] = row[name]
        matrix["density"][[i, j]] = row["density_a"], row["density_b"]
    later = [matrix for number, matrix in matrices.items() if number]
    if len(later) > 1:
        matrices["all"] = {name: np.mean([matrix[name] for matrix in later], axis=0) for name in later[0]}
    return matrices


def _block_means(matrix, chosen, block):
    """Mean of the chosen pairs (N, N) of each block; nan where it has none."""
    values = [matrix[chosen & (block == one)[:, None]] for one in dict.fromkeys(block.tolist())]
    return np.array([found.mean() if len(found) else np.nan for found in values])


def _mean_and_interval(values):
    from plots import mean_and_interval

    values = values[np.isfinite(values)]
    return tuple(map(float, mean_and_interval(values))) if len(values) else (np.nan, np.nan)
