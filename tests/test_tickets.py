"""Overlap of tickets against oracles, chance and theta_0; groups; the command; load_ticket."""

import json
import shutil
from itertools import combinations

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special as special_functions
from scipy import stats
from scipy.optimize import brentq

import tickets
from config import RunConfig
from helpers import MASK_SHAPES as SHAPES
from helpers import SHORT, go, only, python, refused, write_run
from results import load_ticket, margins
from results import overlap as sim
from results.beside import beside_by_round, special
from results.overlap_figures import pixel_counts
from results.overlap_text import text_table
from results.ticket import open_ticket
from store.files import load_tensors, read_csv, save_tensors, write_json
from study.request import parse
from utils import UserError


def compare(masks_a, masks_b, ranks=None):
    """Rows of two tickets' masks as overlap.csv has them."""
    layers = [sim.examine(masks, ranks) for masks in (masks_a, masks_b)]
    rows = sim.similarities(pd.DataFrame(sim.count_layers(*layers, ranks is not None)))
    return rows.to_dict("records")


def alike(a, b):
    """The three similarities of two masks."""
    row = compare({"w": a}, {"w": b})[0]
    return {name: row[name] for name in ("jaccard", "overlap", "hamming")}


def draw(rng, n, kept):
    mask = np.zeros(n, dtype=bool)
    mask[rng.permutation(n)[:kept]] = True
    return mask


# Two masks ----------------------------------------------------------------------------------------


def test_similarities_equal_plain_loops():
    rng = np.random.default_rng(0)
    a, b = draw(rng, 60, 25), draw(rng, 60, 14)
    first, second = ({i for i in range(60) if mask[i]} for mask in (a, b))
    found = alike(torch.from_numpy(a).view(6, 10), torch.from_numpy(b).view(6, 10))
    assert found["jaccard"] == len(first & second) / len(first | second)
    assert found["overlap"] == len(first & second) / 14
    assert found["hamming"] == sum((i in first) == (i in second) for i in range(60)) / 60


def test_a_mask_with_itself_and_with_its_complement():
    mask = draw(np.random.default_rng(1), 100, 50)
    assert alike(mask, mask) == {"jaccard": 1, "overlap": 1, "hamming": 1}
    assert alike(mask, ~mask) == {"jaccard": 0, "overlap": 0, "hamming": 0}
    empty = np.zeros(4, dtype=bool)
    assert np.isnan(alike(empty, empty)["jaccard"]) and np.isnan(alike(empty, ~empty)["overlap"])


@pytest.mark.parametrize(
    ("n", "a", "b"), [(50, 20, 10), (1000, 30, 990), (7, 7, 3), (1, 1, 0), (300, 100, 100)]
)
def test_chance_is_hypergeometric(n, a, b):
    oracle = stats.hypergeom(n, a, b)
    mean, variance = sim.intersection_chance(n, a, b)
    assert mean == pytest.approx(oracle.mean()) and variance == pytest.approx(
        oracle.var() if n > 1 else 0, abs=1e-12
    )
    sizes = np.arange(min(a, b) + 1)
    exact = (oracle.pmf(sizes) * sizes / (a + b - sizes)).sum()
    assert sim.jaccard_chance(a, b, mean, variance) == pytest.approx(exact, rel=2e-3)


def test_rows_of_layers_and_their_total():
    rng = np.random.default_rng(2)
    kept = {"net.x.weight": (400, 100, 150), "net.y.weight": (90, 30, 30)}
    masks = [{name: draw(rng, n, k[side]) for name, (n, *k) in kept.items()} for side in (0, 1)]
    rows = compare(*masks)
    assert [row["layer"] for row in rows] == ["x", "y", "total"]
    oracles = [stats.hypergeom(*size) for size in kept.values()]
    both = [int((masks[0][name] & masks[1][name]).sum()) for name in kept]
    for row, oracle, k in zip(rows[:2], oracles, both, strict=True):
        assert row["kept_both"] == k and row["z"] == pytest.approx(
            (k - oracle.mean()) / oracle.std()
        )
    total = rows[2]
    assert (total["weights"], total["kept_a"], total["kept_b"], total["kept_both"]) == (
        490,
        130,
        180,
        sum(both),
    )
    assert total["z"] == pytest.approx(
        (sum(both) - sum(o.mean() for o in oracles)) / sum(o.var() for o in oracles) ** 0.5
    )
    assert total["jaccard"] == sum(both) / (310 - sum(both))
    mean = sum(o.mean() for o in oracles)
    assert total["overlap_chance"] == pytest.approx(mean / 130) and total[
        "hamming_chance"
    ] == pytest.approx((490 - 310 + 2 * mean) / 490)
    assert (
        np.isnan(total["jaccard_given_theta0"])
        and np.isnan(total["theta0_jaccard_a"])
        and np.isnan(total["sign_agreement"])
    )


def test_where_nothing_can_vary_there_is_no_z():
    full, part = np.ones(20, dtype=bool), draw(np.random.default_rng(3), 20, 5)
    for other in (full, part, ~full):
        row = compare({"w": full}, {"w": other})[-1]
        assert np.isnan(row["z"])
    assert row["jaccard"] == 0 and row["density_b"] == 0


@pytest.mark.slow
def test_random_masks_are_within_three_standard_deviations():
    rng = np.random.default_rng(4)
    n = 2000
    found = np.array(
        [compare(*({"w": draw(rng, n, kept)} for kept in (300, 500)))[0]["z"] for _ in range(400)]
    )
    assert (np.abs(found) < 3).mean() > 0.98 and (np.abs(found) < 1.96).mean() == pytest.approx(
        0.95, abs=0.035
    )
    assert found.mean() == pytest.approx(0, abs=0.2) and found.std() == pytest.approx(1, abs=0.15)


def test_masks_independent_given_theta0_exceed_chance_but_not_what_theta0_explains():
    rng = np.random.default_rng(5)
    theta0 = torch.from_numpy(rng.standard_normal(40_000)).float()
    ranks = sim.strata({"w": theta0})
    found = []
    for density in (0.5, 0.1, 0.02):
        for _ in range(10):
            trained = [
                np.abs(theta0.numpy() + 0.3 * rng.standard_normal(len(theta0))) for _ in range(2)
            ]
            masks = [{"w": values >= np.quantile(values, 1 - density)} for values in trained]
            row = compare(*masks, ranks)[0]
            assert (
                row["z"] > 50
                and row["jaccard_given_theta0"] > 2 * row["jaccard_chance"] * density**0.5
            )
            assert row["jaccard"] == pytest.approx(row["jaccard_given_theta0"], rel=0.1)
            found.append(row["z_given_theta0"])
    assert np.abs(found).max() < 3.5 and abs(np.mean(found)) < 0.6


def test_masks_with_more_in_common_than_theta0_show_it():
    rng = np.random.default_rng(6)
    theta0 = torch.from_numpy(rng.standard_normal(5000)).float()
    common = theta0.numpy() + 0.5 * rng.standard_normal(5000)
    masks = [{"w": np.abs(common + 0.1 * rng.standard_normal(5000)) > 1.5} for _ in range(2)]
    assert compare(*masks, sim.strata({"w": theta0}))[0]["z_given_theta0"] > 10


def test_given_theta0_is_hypergeometric_in_each_stratum():
    rng = np.random.default_rng(7)
    theta0 = torch.from_numpy(rng.standard_normal(205)).float()
    ranks = sim.strata({"w": theta0})
    order, bins = np.argsort(-theta0.abs().numpy()), ranks["w"][1]
    assert (ranks["w"][0][order] == np.arange(205)).all() and bins[order].tolist() == [
        i * 20 // 205 for i in range(205)
    ]
    a, b = draw(rng, 205, 80), draw(rng, 205, 50)
    parts = [
        stats.hypergeom(int((bins == s).sum()), int(a[bins == s].sum()), int(b[bins == s].sum()))
        for s in range(20)
    ]
    row = compare({"w": a}, {"w": b}, ranks)[0]
    mean, variance = sum(p.mean() for p in parts), sum(p.var() for p in parts)
    assert row["z_given_theta0"] == pytest.approx((row["kept_both"] - mean) / variance**0.5)
    assert row["jaccard_given_theta0"] == pytest.approx(mean / (130 - mean), rel=0.01)
    largest = np.isin(np.arange(205), order[:80])
    assert row["theta0_jaccard_a"] == pytest.approx(alike(a, largest)["jaccard"])


def test_signs_of_the_weights_alive_in_both():
    masks = [
        {"w": np.array([1, 1, 1, 0, 1], dtype=bool)},
        {"w": np.array([1, 1, 1, 1, 0], dtype=bool)},
    ]
    weights = [
        {"w": torch.tensor([1.0, -1.0, 2.0, 3.0, 4.0])},
        {"w": torch.tensor([0.5, 1.0, 0.1, -3.0, -4.0])},
    ]
    layers = [sim.examine(mask, None, weight) for mask, weight in zip(masks, weights, strict=True)]
    rows = sim.similarities(pd.DataFrame(sim.count_layers(*layers, False)))
    assert rows.sign_agreement[0] == 2 / 3


# Given pixel and unit -----------------------------------------------------------------------------


def logistic(rng, theta0, density):
    """Draws of masks whose log odds are a unit's, a pixel's and |theta_0|'s effects, added."""
    units, pixels = theta0.shape
    odds = rng.standard_normal(units)[:, None] + rng.standard_normal(pixels) + 1.5 * np.abs(theta0)
    level = brentq(lambda level: special_functions.expit(odds + level).mean() - density, -30, 30)
    return lambda: rng.random(theta0.shape) < special_functions.expit(odds + level)


def moved(rng, theta0, density):
    """Draws of masks of weights that move from theta_0, by more at some units and pixels.

    One pixel in five is never lit: its weights stay.
    """
    units, pixels = theta0.shape
    scale = np.exp(0.7 * rng.standard_normal(pixels)) * (rng.random(pixels) > 0.2)
    scale = scale * np.exp(0.3 * rng.standard_normal(units))[:, None]

    def draw_mask():
        weights = np.abs(theta0 + scale * rng.standard_normal(theta0.shape))
        return weights >= np.quantile(weights, 1 - density)

    return draw_mask


@pytest.mark.parametrize(
    ("how", "density", "draws", "miss"),
    [(logistic, 0.3, 200, 0.25), (logistic, 0.03, 200, 0.4), (moved, 0.2, 60, 0.8)],
)
def test_masks_independent_given_pixel_and_unit_exceed_what_theta0_explains(
    how, density, draws, miss
):
    """z given the margins is standard normal; given |theta_0| alone it is many."""
    rng = np.random.default_rng(8)
    theta0 = rng.standard_normal((60, 100))
    ranks, draw_mask = sim.strata({"w": torch.from_numpy(theta0)}), how(rng, theta0, density)
    rows = [compare({"w": draw_mask()}, {"w": draw_mask()}, ranks)[0] for _ in range(draws)]
    found = pd.DataFrame(rows)
    assert abs(found.z_given_margins.mean()) < miss
    assert found.z_given_margins.std() == pytest.approx(1, abs=0.2)
    assert found.z_given_theta0.mean() > 4
    assert found.jaccard.mean() == pytest.approx(found.jaccard_given_margins.mean(), rel=0.03)


def test_masks_that_share_more_than_margins_show_it():
    rng = np.random.default_rng(9)
    theta0 = rng.standard_normal((60, 100))
    ranks = sim.strata({"w": torch.from_numpy(theta0)})
    common = theta0 + 0.7 * rng.standard_normal(theta0.shape)
    pair = [{"w": np.abs(common + 0.3 * rng.standard_normal(theta0.shape)) > 1.5} for _ in "ab"]
    row = compare(*pair, ranks)[0]
    assert row["z_given_margins"] > 10 and row["jaccard_given_margins"] < row["jaccard"] - 0.1
    # two filters of one convolution, whose input channels stand for pixels
    conv = [{"w": pair[side]["w"].reshape(20, 30, 5, 2)} for side in (0, 1)]
    assert compare(*conv, ranks)[0]["z_given_margins"] > 5


def test_the_expected_sums_are_the_observed_ones():
    rng = np.random.default_rng(10)
    theta0 = rng.standard_normal((40, 70))
    mask = logistic(rng, theta0, 0.3)()
    _, bins, size = sim.strata({"w": torch.from_numpy(theta0)})["w"]
    rest, effects = margins.residuals(mask, bins, size)
    spread = np.abs(rest) * (1 - np.abs(rest))
    for sums, variance in (
        (rest.reshape(40, 70).sum(0), spread.reshape(40, 70).sum(0)),
        (rest.reshape(40, 70).sum(1), spread.reshape(40, 70).sum(1)),
        (np.bincount(bins, weights=rest), np.bincount(bins, weights=spread)),
    ):
        assert np.abs(sums / np.sqrt(variance + 1)).max() < 2 * margins.CLOSE
    # slopes where units and pixels keep ten weights and more: 840 kept, 12 a pixel
    assert effects == 40 + 70 - 2 + len(np.bincount(bins)) + 40 + 70
    assert (rest[mask.reshape(-1)] >= 0).all() and (rest[~mask.reshape(-1)] <= 0).all()


def test_one_stratum_is_hypergeometric_and_an_effect_a_weight_explains_all():
    rng = np.random.default_rng(11)
    a, b = draw(rng, 300, 120), draw(rng, 300, 50)
    oracle, both = stats.hypergeom(300, 120, 50), int((a & b).sum())
    excess, variance = margins.beyond_margins(a - 0.4, 1, b - 50 / 300, 1)
    assert excess == pytest.approx(both - oracle.mean())
    assert variance == pytest.approx(oracle.var())
    assert margins.beyond_margins(a - 0.4, 300, b - 0.2, 400) == (0, 0)
    for mask in (np.ones((4, 5), dtype=bool), np.zeros((4, 5), dtype=bool)):
        rest, effects = margins.residuals(mask, np.zeros(20, dtype=int), np.zeros(20))
        assert not rest.any() and effects == 0


# Two groups ---------------------------------------------------------------------------------------


def runs_of(blocks, orders, effect, rng, noise=0.01):
    """(similarity, labels, blocks) of runs of two groups in each block, whose pairs of two groups
    are less alike by `effect`.
    """
    labels = np.array(["a", "b"] * orders * blocks)
    block = np.repeat(np.arange(blocks), 2 * orders)
    similarity = (
        0.5 + noise * rng.standard_normal((len(labels),) * 2) - effect * (labels[:, None] != labels)
    )
    return (similarity + similarity.T) / 2, labels, block


def test_the_permutation_test_enumerates_all_relabelings():
    similarity, labels, blocks = runs_of(2, 2, 0.02, np.random.default_rng(0))
    found = sim.permutation_test(similarity, labels, blocks)

    def statistic(marks):
        gaps = []
        for block in (0, 1):
            pairs = [(i, j) for i, j in combinations(np.flatnonzero(blocks == block), 2)]
            within = [similarity[i, j] for i, j in pairs if marks[i] == marks[j]]
            between = [similarity[i, j] for i, j in pairs if marks[i] != marks[j]]
            gaps.append(np.mean(within) - np.mean(between))
        return np.mean(gaps)

    choices = [
        {*one, *other}
        for one in combinations(range(4), 2)
        for other in combinations(range(4, 8), 2)
    ]
    values = [statistic([i in chosen for i in range(8)]) for chosen in choices]
    assert (
        found["statistic"] == pytest.approx(statistic(labels == "a")) and found["relabelings"] == 36
    )
    assert found["p"] == pytest.approx(
        np.mean([value >= found["statistic"] - 1e-12 for value in values])
    )
    assert found["smallest_p"] == pytest.approx(
        4 / 36
    )  # each block's labels can be exchanged whole


def test_the_p_value_is_calibrated_and_finds_a_planted_difference():
    rng = np.random.default_rng(1)
    null = np.array([sim.permutation_test(*runs_of(3, 3, 0, rng))["p"] for _ in range(400)])
    assert (null <= 0.05).mean() <= 0.08 and null.mean() == pytest.approx(0.5, abs=0.05)
    assert all(sim.permutation_test(*runs_of(3, 3, 0.05, rng))["p"] <= 0.01 for _ in range(5))
    # the other way round, more alike between than within, is no evidence
    assert sim.permutation_test(*runs_of(3, 3, -0.05, rng))["p"] > 0.9


def test_orders_that_both_groups_share_do_not_make_differences():
    """Runs of one order are alike for that: set aside, they neither hide a difference nor make
    one.
    """
    rng = np.random.default_rng(5)
    orders, labels, blocks = (
        np.tile([0, 0, 1, 1, 2, 2], 3),
        np.array(["a", "b"] * 9),
        np.repeat([0, 1, 2], 6),
    )

    def p(effect):
        scores = 0.5 * rng.standard_normal((3, 3, 200))[blocks, orders] + 0.5 * rng.standard_normal(
            (18, 200)
        )
        scores = (
            scores
            + rng.standard_normal((3, 200))[blocks]
            + effect * rng.standard_normal((3, 2, 200))[blocks, (labels == "a").astype(int)]
        )
        masks = scores > 1
        similarity = np.array([[(x & y).sum() / (x | y).sum() for y in masks] for x in masks])
        return sim.permutation_test(
            np.where(orders[:, None] != orders, similarity, np.nan), labels, blocks
        )["p"]

    null = np.array([p(0) for _ in range(60)])
    assert (null <= 0.05).mean() <= 0.08 and 0.35 < null.mean() < 0.65
    assert p(1) <= 0.01


def test_many_relabelings_are_drawn_at_random_and_repeat():
    case = runs_of(1, 12, 0, np.random.default_rng(2))
    first, again = (sim.permutation_test(*case, draws=999) for _ in range(2))
    assert (
        first == again
        and first["relabelings"] == 1000
        and 0.001 <= first["smallest_p"] <= first["p"] <= 1
    )
    drawn = sim.permutation_test(
        *runs_of(3, 3, 0.01, np.random.default_rng(3)), limit=10, draws=4000
    )
    exact = sim.permutation_test(*runs_of(3, 3, 0.01, np.random.default_rng(3)))
    assert drawn["p"] == pytest.approx(exact["p"], abs=0.02)


def test_blocks_without_both_kinds_of_pairs_say_nothing():
    similarity, labels, blocks = runs_of(2, 2, 0.1, np.random.default_rng(4))
    alone = sim.permutation_test(similarity[:4, :4], labels[:4], blocks[:4])
    assert alone["relabelings"] == 6 and alone["smallest_p"] == pytest.approx(1 / 3)
    blocks = np.array([0, 0, 0, 0, 1, 2, 3, 4])
    assert sim.permutation_test(similarity, labels, blocks) == alone
    assert np.isnan(sim.permutation_test(similarity, labels, np.arange(8))["p"])


def groups_of(similarity, names, group, theta0, order):
    """The row of groups.csv of one round in which the runs are as similar as this (N, N)."""
    runs = pd.DataFrame({"group": group, "theta0": theta0, "order": order}, index=names)
    (row,) = sim.groups_by_round(pd.DataFrame(total_rows(similarity, names)), runs).to_dict(
        "records"
    )
    return row


def total_rows(similarity, names, number=1):
    same = {"round": number, "density_a": 0.5, "density_b": 0.5}
    same |= {"jaccard_chance": 0.33, "jaccard_given_theta0": 0.4, "jaccard_given_margins": 0.45}
    same |= dict.fromkeys(sim.NULLS, 2.0)
    pairs = combinations(range(len(names)), 2)
    return [{"a": names[i], "b": names[j], "jaccard": similarity[i, j]} | same for i, j in pairs]


def test_pairs_of_one_order_are_set_aside_where_others_are_left():
    names = [f"{group}{seed}{order}" for seed in (0, 1, 2) for group in "ab" for order in (0, 1)]
    labels, blocks, orders = ([name[at] for name in names] for at in (0, 1, 2))
    similarity = np.array(
        [[0.7 if x[0] == y[0] else 0.9 if x[2] == y[2] else 0.6 for y in names] for x in names]
    )
    similarity[:4, :4] -= 0.1
    similarity[8:, 8:] += 0.1
    row = groups_of(similarity, names, labels, blocks, orders)
    assert (row["between"], row["between_same_order"], row["within"]) == pytest.approx(
        (0.6, 0.9, 0.7)
    )
    assert (row["between_pairs"], row["within_pairs"], row["theta0s"]) == (6, 6, 3)
    assert row["difference"] == pytest.approx(0.1) and row["difference_interval"] == pytest.approx(
        0, abs=1e-9
    )
    assert row["between_interval"] == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / 3**0.5)
    # defect: two theta_0s had intervals, and question 3 a verdict from them
    two = groups_of(similarity[:8, :8], names[:8], labels[:8], blocks[:8], orders[:8])
    assert np.isnan(two["between_interval"]) and np.isnan(two["difference_interval"])
    assert (row["chance"], row["theta0"]) == pytest.approx((0.33, 0.4))
    # of 6 x 6 relabelings, those with a0 and b0 in one group leave no pair of different orders
    # within it
    assert two["relabelings"] == 16 and two["smallest_p"] == two["p"] == 0.25


def test_without_a_second_order_there_is_no_ceiling():
    names = ["a0", "b0", "a1", "b1"]
    similarity = np.full((4, 4), 0.6)
    labels, blocks = [name[0] for name in names], [name[1] for name in names]
    row = groups_of(similarity, names, labels, blocks, blocks)
    assert (
        row["between"] == pytest.approx(0.6) and row["between_pairs"] == 2 and row["theta0s"] == 2
    )
    assert np.isnan(row["within"]) and np.isnan(row["p"]) and row["within_pairs"] == 0
    # of no common theta_0: all pairs, no interval
    row = groups_of(similarity, names, labels, names, blocks)
    assert (
        row["between_pairs"] == 4
        and row["theta0s"] == 0
        and np.isnan(row["between_interval"])
        and np.isnan(row["p"])
    )


# Beside them --------------------------------------------------------------------------------------


def beside_of(overlaps, orders=2, rounds=(1,)):
    """beside.csv of runs of which a's have these overlaps, {group: one a theta_0}, with a group's.

    Pairs of one order are more alike by 0.2.
    """
    runs = pd.DataFrame(
        [
            (f"{group}{seed}{order}", group, str(seed), order)
            for group in ("a", *overlaps)
            for seed in range(len(overlaps.get(group, overlaps["b"])))
            for order in range(orders)
        ],
        columns=["name", "group", "theta0", "order"],
    ).set_index("name")
    similarity = np.zeros((len(runs), len(runs)))
    for (i, one), (j, other) in combinations(enumerate(runs.itertuples()), 2):
        if one.theta0 == other.theta0:
            value = 0.9 if one.group == other.group else overlaps[other.group][int(one.theta0)]
            similarity[i, j] = value + 0.2 * (one.order == other.order)
    pairs = [pd.DataFrame(total_rows(similarity, runs.index, number)) for number in rounds]
    return beside_by_round(pd.concat(pairs), runs)


def test_a_control_is_compared_with_b_over_theta0s():
    of_b, near, same = [0.5, 0.52, 0.49], [0.61, 0.6, 0.6], [0.5, 0.53, 0.48]
    rows = beside_of({"b": of_b, "near": near, "same": same}, rounds=(0, 1, 2))
    assert rows["round"].tolist() == [0, 0, 1, 1, 2, 2, "all", "all"]
    tests = [stats.ttest_rel(other, of_b) for other in (near, same)]
    for row, other, test in zip(rows[-2:].itertuples(), (near, same), tests, strict=True):
        low, high = test.confidence_interval()
        assert row.jaccard == pytest.approx(np.mean(other))
        assert row.b_jaccard == pytest.approx(np.mean(of_b))
        assert row.difference == pytest.approx(np.mean(other) - np.mean(of_b))
        assert row.difference_interval == pytest.approx((high - low) / 2)
        assert row.p == pytest.approx(test.pvalue) and row.theta0s == 3
        assert (row.pairs, row.same_order, row.within) == (6, 0, 0.9)
    assert rows.holm_p[6] == pytest.approx(2 * tests[0].pvalue) and rows.holm_p[7] == rows.p[7]
    assert rows.verdict[6:].tolist() == ["above", "not distinguishable"]
    words = special(rows[-2:], ["clean", "fgsm"])
    assert "nothing here says that fgsm is special" in words
    assert "So fgsm does more to tickets than near." in special(rows[6:7], ["clean", "fgsm"])


@pytest.mark.parametrize(
    ("control", "verdict"), [([0.3, 0.31, 0.3], "below"), ([0.4, 0.4, 0.4], "ties")]
)
def test_attacked_data_is_special_only_where_the_control_is_above(control, verdict):
    rows = beside_of({"b": [0.4, 0.4, 0.4], "noise": control})
    assert rows.verdict.tolist() == [verdict]
    assert "nothing here says" in special(rows, ["clean", "fgsm"])


def test_a_control_with_one_common_theta0_has_no_verdict():
    (row,) = beside_of({"b": [0.5, 0.5, 0.5], "noise": [0.6]}).to_dict("records")
    assert (row["theta0s"], row["verdict"]) == (1, "unknown") and np.isnan(row["p"])
    assert row["difference"] == pytest.approx(0.1)


def test_like_is_compared_with_like_where_there_is_one_order_only():
    rows = beside_of({"b": [0.5, 0.5], "noise": [0.6, 0.7]}, orders=1)
    assert rows.same_order.tolist() == [1] and rows.jaccard[0] == pytest.approx(0.85)
    assert rows.difference[0] == pytest.approx(0.15) and np.isnan(rows.within[0])


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two groups, three seeds, two orders."""
    folder = tmp_path_factory.mktemp("runs")
    attack = ["--attack=fgsm", "--mix_ratio=0.5"]
    for seed in (0, 1, 2):
        for order in (0, 1):
            write_run(folder / f"clean-s{seed}o{order}", seed, order)
            write_run(folder / f"fgsm-s{seed}o{order}", seed, order, attack)
        write_run(folder / f"noise-s{seed}o0", seed, 0, ["--attack=noise", "--mix_ratio=0.5"])
    return folder


def test_two_runs(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert tickets.main([str(runs / "clean-s0o0"), str(runs / "fgsm-s0o0"), "-o", str(out)]) == 0
    rows = read_csv(out / "overlap.csv")
    assert [(row["round"], row["layer"]) for row in rows] == [
        (number, layer) for number in range(3) for layer in ("fc1", "fc2", "total")
    ]
    assert {(row["a"], row["b"]) for row in rows} == {("clean data", "50 % fgsm")}
    assert rows[0]["z"] == "" and rows[0]["jaccard"] == 1.0  # dense
    assert (
        rows[-1]["z"] > rows[-1]["z_given_theta0"]
        and rows[-1]["jaccard"] > rows[-1]["jaccard_chance"]
    )
    assert 0.8 < rows[-1]["sign_agreement"] <= 1 and rows[-1]["density_a"] == pytest.approx(
        0.25, abs=0.01
    )
    text = capsys.readouterr().out
    assert "one theta_0" in text and "round 2" in text
    for name in ("overlap", "first_layer"):
        assert f"{out / name}.png" in text and has_colours(out / f"{name}.png")
        assert (out / f"{name}.pdf").read_bytes()[:4] == b"%PDF"


def has_colours(path):
    """Whether a picture shows something in colour: an empty figure is black and white."""
    image = matplotlib.image.imread(path)[..., :3]
    return (np.ptp(image, axis=-1) > 0.2).mean() > 0.02


def test_the_printed_table_has_the_numbers(runs, tmp_path, capsys):
    table = pd.DataFrame({"round": [0, 1], "Jaccard": [1.0, 0.23456], "z": [np.nan, 12.345]})
    assert text_table(table).split() == [
        "round",
        "Jaccard",
        "z",
        "0",
        "1.0000",
        "-",
        "1",
        "0.2346",
        "12.3",
    ]


def test_the_csv_is_what_the_masks_say(runs, tmp_path):
    assert (
        tickets.main(
            [str(runs / "clean-s0o0"), str(runs / "clean-s0o1"), "--round=2", "-o", str(tmp_path)]
        )
        == 0
    )
    (row,) = [row for row in read_csv(tmp_path / "overlap.csv") if row["layer"] == "fc1"]
    pair = [open_ticket(runs / name) for name in ("clean-s0o0", "clean-s0o1")]
    masks = [ticket.masks(2)["net.fc1.weight"].numpy() for ticket in pair]
    assert row["jaccard"] == pytest.approx(alike(*masks)["jaccard"]) and row["a"] == "o0"
    counts = pixel_counts(pair[0], 2)
    assert (
        counts.shape == (28, 28)
        and counts.sum() == masks[0].sum()
        and counts[1, 2] == masks[0][:, 30].sum()
    )


def test_groups(runs, tmp_path, capsys):
    assert (
        tickets.main(["--a", f"{runs}/clean-*", "--b", f"{runs}/fgsm-*", "-o", str(tmp_path)]) == 0
    )
    rows = read_csv(tmp_path / "groups.csv")
    assert [row["round"] for row in rows] == [0, 1, 2, "all"]
    row = rows[2]
    # these groups have nothing but theta_0 in common
    assert (
        row["within"] > row["between"] + 0.1
        and row["between"] == pytest.approx(row["theta0"], abs=0.02)
        and row["theta0"] > row["chance"] + 0.1
    )
    assert row["theta0s"] == 3 and row["between_pairs"] == row["within_pairs"] == 6
    assert (
        row["difference"] == pytest.approx(row["within"] - row["between"])
        and row["p"] == row["smallest_p"] == 0.125
    )
    text = capsys.readouterr().out
    assert "clean data (a) against 50 % fgsm (b)" in text
    assert "0.05" in text and "different theta_0" in text
    assert "clean data s0 o0" in {line["a"] for line in read_csv(tmp_path / "overlap.csv")}
    assert (tmp_path / "groups.png").exists() and (tmp_path / "first_layer.pdf").exists()
    assert not (tmp_path / "beside.csv").exists()
    # the range of z over the pairs between the groups, of other orders
    pairs = pd.read_csv(tmp_path / "overlap.csv").query("layer == 'total' and round == 2")
    apart = pairs[(pairs.kind == "between") & (pairs.share_theta0 == 1)]
    apart = apart[apart.a.str[-2:] != apart.b.str[-2:]]
    for name in sim.NULLS:
        ends = row[f"{name}_min"], row[f"{name}_max"]
        assert ends == pytest.approx((apart[name].min(), apart[name].max()))
        assert f"{ends[0]:.1f}..{ends[1]:.1f}" in text
    others = pairs[pairs.share_theta0 == 0]
    assert abs(others.z_given_margins.mean()) < 0.5 and others.z_given_theta0.isna().all()


def test_controls_beside_the_groups(runs, tmp_path, capsys):
    one = write_run(tmp_path / "pgd", 0, 0, ["--attack=pgd", "--mix_ratio=0.5"])
    flags = ["--a", f"{runs}/clean-*", "--b", f"{runs}/fgsm-*", "-o", str(tmp_path / "out")]
    flags += ["--beside", "noise 50 %", f"{runs}/noise-*", "--beside", "pgd", str(one)]
    assert tickets.main(flags) == 0
    rows = read_csv(tmp_path / "out" / "beside.csv")
    assert [(row["round"], row["name"]) for row in rows] == [
        (number, name) for number in (0, 1, 2, "all") for name in ("noise 50 %", "pgd")
    ]
    noise, pgd = rows[4:6]
    assert noise["jaccard"] - noise["b_jaccard"] == pytest.approx(noise["difference"])
    assert noise["theta0s"] == 3 and noise["pairs"] == 3 and noise["verdict"] != "unknown"
    assert noise["holm_p"] == noise["p"] and (pgd["p"], pgd["theta0s"]) == ("", 1)
    groups = read_csv(tmp_path / "out" / "groups.csv")
    assert noise["b_jaccard"] == pytest.approx(groups[2]["between"])
    text = capsys.readouterr().out
    assert "note: pgd: a, b and it have 1 theta_0 in common" in text
    assert "nothing here says that 50 % fgsm is special" in text
    kinds = pd.read_csv(tmp_path / "out" / "overlap.csv").kind
    assert set(kinds) == {"within", "between", "beside"}


def test_controls_that_cannot_be_compared_are_refused(runs, tmp_path, capsys):
    noise = ["--attack=noise", "--mix_ratio=0.5"]
    elsewhere = str(write_run(tmp_path / "elsewhere", 7, 0, noise))
    denser = str(write_run(tmp_path / "denser", 0, 0, noise, share=0.6))
    two = ["--a", f"{runs}/clean-*", "--b", f"{runs}/fgsm-*"]
    controls = f"{runs}/noise-*"
    for flags, says in [
        ([*two, "--beside", "noise"], "--beside noise: a name and its runs are needed"),
        ([*two, "--beside"], "--beside"),
        ([*two, *2 * ["--beside", "x", controls]], "a group of that name is there already"),
        ([*two, "--beside", "b", controls], "a group of that name is there already"),
        ([*two, "--beside", "x", controls, "--beside", "y", controls], "--beside x and --beside y"),
        ([*two, "--beside", "x", f"{runs}/fgsm-*"], "is in both groups: --b and --beside x"),
        ([f"{runs}/clean-*", "--beside", "x", controls], "--beside x needs --a and --b"),
        ([*two, "--beside", "x", denser], "--a and --beside x differ in the weights kept"),
        ([*two, "--beside", "x", elsewhere], "--beside x has no theta_0 in common with --a"),
        ([*two, "--beside", "x", f"{runs}/none-*"], "matches no folder"),
    ]:
        check_refused(flags, says, tmp_path, capsys)
    other = changed(runs, tmp_path, "noise-s1*", prune_percent=11.0)
    mixed = [*two, "--beside", "x", f"{runs}/noise-s0*", other]
    check_refused(mixed, "--beside x: runs of one group differ in --seed", tmp_path, capsys)


@pytest.mark.slow
def test_groups_without_another_order_or_another_theta0(runs, tmp_path, capsys):
    assert (
        tickets.main(["--a", f"{runs}/clean-*o0", "--b", f"{runs}/fgsm-*o0", "-o", str(tmp_path)])
        == 0
    )
    assert "--order_seed only" in capsys.readouterr().out
    assert {row["p"] for row in read_csv(tmp_path / "groups.csv")} == {""}
    assert (
        tickets.main(["--a", f"{runs}/clean-s0*", "--b", f"{runs}/fgsm-s1*", "-o", str(tmp_path)])
        == 0
    )
    assert "share no theta_0" in capsys.readouterr().out
    assert read_csv(tmp_path / "groups.csv")[1]["between_pairs"] == 4


def test_runs_without_common_theta0_or_weights(tmp_path, capsys):
    pair = [str(write_run(tmp_path / f"s{seed}", seed, seed, weights=False)) for seed in (0, 1)]
    assert tickets.main([*pair, "-o", str(tmp_path / "out")]) == 0
    assert "no two of these runs share theta_0" in capsys.readouterr().out
    row = read_csv(tmp_path / "out" / "overlap.csv")[-1]
    assert (
        row["z_given_theta0"] == row["jaccard_given_theta0"] == row["sign_agreement"] == ""
        and abs(row["z"]) < 4
    )
    assert 0 < row["theta0_jaccard_a"] < 1


def test_networks_with_convolutions_have_no_picture_of_pixels(tmp_path):
    shapes = {"net.conv.weight": (8, 1, 3, 3), "net.fc.weight": (10, 784)}
    pair = [str(write_run(tmp_path / f"o{order}", 0, order, shapes=shapes)) for order in (0, 1)]
    assert tickets.main([*pair, "-o", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "first_layer.png").exists()


def test_unfinished_runs_and_repeated_ones_are_noted(runs, tmp_path, capsys):
    short = write_run(tmp_path / "short", 0, 5, rounds=2)
    one = str(runs / "clean-s0o0")
    assert (
        tickets.main(
            [
                one,
                str(runs / ".." / runs.name / "clean-s0o0"),
                str(short),
                "-o",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert (
        "is given twice" in text
        and f"note: {short} has 2 of 3 rounds" in text
        and "rounds 0 to 1 are compared" in text
    )
    assert {row["round"] for row in read_csv(tmp_path / "out" / "overlap.csv")} == {0, 1}


def labels(*commands):
    return tickets.label_runs([parse(command.split())[0] for command in commands])


def test_labels_name_what_differs():
    assert labels("--seed=1", "--seed=1 --attack=pgd") == ["clean data", "100 % pgd"]
    assert labels("--seed=1", "--seed=2") == ["s1", "s2"]
    assert labels("--order_seed=1", "--seed=2") == ["s0 o1", "s2 o2"]
    assert labels("--lr=0.1", "--prune_type=random") == ["lt, lr=0.1", "random, lr=0.0012"]
    assert labels("--seed=3", "--seed=3") == ["", ""]
    mixed = labels("--seed=0", "--attack=pgd --epsilon=0.1", "--attack=pgd --epsilon=0.2")
    assert mixed[1:] == ["100 % pgd, epsilon=0.1", "100 % pgd, epsilon=0.2"] and "clean" in mixed[0]


def test_many_rounds_are_in_one_order(tmp_path):
    names = [f"net.fc{number}.weight" for number in (10, 9, 1)]
    run = write_run(tmp_path / "a", shapes=dict.fromkeys(names, (2, 2)))
    assert list(open_ticket(run).shapes) == names[::-1]


def damaged(tmp_path, change):
    run = write_run(tmp_path / "damaged")
    change(run)
    return str(run)


def break_values(run):
    save_tensors(
        run / "masks/round_01.safetensors",
        {name: torch.full(shape, 0.5) for name, shape in SHAPES.items()},
    )


def thin_out(run):
    """A mask of another round in this one's place."""
    shutil.copy(run / "masks/round_02.safetensors", run / "masks/round_01.safetensors")


def remove_masks(run):
    for file in (run / "masks").iterdir():
        file.unlink()


def break_shape(run):
    save_tensors(
        run / "masks/round_01.safetensors",
        {name: torch.ones(3, 3, dtype=torch.bool) for name in SHAPES},
    )


BAD = {
    "not 0 or 1": (break_values, "values other than 0 and 1"),
    "shape": (break_shape, "round_01.safetensors is damaged"),
    "cut": (lambda run: (run / "masks/round_01.safetensors").write_bytes(b"12"), "cannot be read"),
    "missing": (
        lambda run: (run / "masks/round_01.safetensors").unlink(),
        "lacks masks/round_01.safetensors",
    ),
    "last missing": (
        lambda run: (run / "masks/round_02.safetensors").unlink(),
        "lacks masks/round_02",
    ),
    "another round's": (thin_out, "round_01.safetensors is not the mask"),
    "table": (
        lambda run: (run / "rounds.csv").write_text("round\n0\n1\n2\n"),
        "rounds.csv is damaged",
    ),
    "theta0": (
        lambda run: save_tensors(run / "theta0.safetensors", {}),
        "does not fit the run's masks",
    ),
    "no masks": (remove_masks, "lacks masks/round_00.safetensors"),
    "none": (lambda run: (run / "rounds.csv").unlink(), "no finished round"),
    "weights": (
        lambda run: save_tensors(run / "weights/round_02.safetensors", {}),
        "does not fit the run's masks",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_damaged_runs_are_refused_in_one_line(what, runs, tmp_path, capsys):
    change, says = BAD[what]
    check_refused([damaged(tmp_path, change), str(runs / "clean-s0o0")], says, tmp_path, capsys)


def check_refused(flags, says, tmp_path, capsys):
    out = tmp_path / "never"
    assert tickets.main([*flags, "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("tickets.py: error: ") and error.count("\n") == 1, (
        error
    )
    assert not out.exists()


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    a, b = str(runs / "clean-s0o0"), str(runs / "fgsm-s0o0")
    other = write_run(tmp_path / "other", shapes=SHAPES | {"net.fc2.weight": (10, 30)})
    vgg = write_run(tmp_path / "vgg", flags=["--arch_type=vgg16"])
    (tmp_path / "empty").mkdir()
    for flags, says in [
        ([], "at least two runs"),
        ([a], "at least two runs"),
        ([a, a], "at least two runs"),
        ([a, str(tmp_path / "empty")], "is not a run folder"),
        ([a, str(tmp_path)], "at least two runs"),
        ([a, str(tmp_path / "nothing-*")], "matches no folder"),
        ([a, str(other)], "differ at net.fc2.weight: (10, 20) and (10, 30)"),
        ([a, str(vgg)], "is fc1 and"),
        ([a, b, "--round=9"], "--round=9: " + a + " has rounds 0 to 2"),
        ([a, b, "--round=-1"], "--round=-1"),
        (["--a", a], "both --a and --b"),
        (["--a", a, "--b", a], "is in both groups"),
        ([a, "--a", a, "--b", b], "not both"),
        (["--a", a, b, "--b", str(runs / "fgsm-s1o0")], "differ in attack"),
        ([a, b, "--max_pairs=0"], "at least 1"),
        ([a, b, "--fuction"], "did you mean '--function'?"),
    ]:
        check_refused(flags, says, tmp_path, capsys)


@pytest.mark.slow
def test_the_script_itself(runs):
    done = python("tickets.py", "--help")
    assert done.returncode == 0 and "examples:" in done.stdout and "--function" in done.stdout
    refused(python("tickets.py", runs / "clean-s0o0"), "tickets.py: error: ")


def test_a_mask_is_refused_before_it_is_used(tmp_path):
    run = write_run(tmp_path / "run")
    ticket = open_ticket(run)
    break_values(run)
    with pytest.raises(UserError, match="other than 0 and 1"):
        ticket.masks(1)


def changed(runs, folder, pattern, **flags):
    """Copies of runs whose config.json has other flags; returns a pattern for them."""
    for path in runs.glob(pattern):
        saved = json.loads((shutil.copytree(path, folder / path.name) / "config.json").read_text())
        write_json(folder / path.name / "config.json", {"flags": saved["flags"] | flags})
    return f"{folder}/{pattern}"


def test_groups_that_prune_otherwise_are_refused(runs, tmp_path, capsys):
    other = changed(runs, tmp_path, "fgsm-*", prune_percent=11.0)
    flags = ["--a", f"{runs}/clean-*", "--b", other]
    check_refused(flags, "--a and --b differ in prune_percent", tmp_path, capsys)
    # whatever made them: the tables tell how many weights are left
    flags[-1] = str(write_run(tmp_path / "denser", 0, 9, ["--attack=fgsm"], share=0.6))
    check_refused(flags, "weights kept in round 1", tmp_path, capsys)


def test_runs_of_another_file_are_no_group(runs, tmp_path, capsys):
    other = changed(runs, tmp_path, "clean-s1*", data_id="0123456789abcdef")
    flags = ["--a", f"{runs}/clean-s0*", other, "--b", f"{runs}/fgsm-*"]
    check_refused(flags, "differ in data_id", tmp_path, capsys)
    assert (
        len(set(tickets.label_runs([RunConfig.of({"data_id": x}) for x in ("1234", "5678")]))) == 2
    )


# A ticket as a network ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of digits, trained."""
    folder = tmp_path_factory.mktemp("trained")
    assert go(folder, *SHORT) == 0
    return only(folder)


def test_a_ticket_is_a_network_for_pixels(trained, digits):
    net, masks, flags = load_ticket(trained, 1)
    rows, weights = read_csv(trained / "rounds.csv"), net.state_dict()
    assert flags["prune_percent"] == 50 and flags["arch_type"] == "fc1" and not net.training
    assert sum(int(mask.sum()) for mask in masks.values()) == rows[1]["kept"]
    saved = load_tensors(trained / "weights/round_01.safetensors")
    for name, tensor in weights.items():
        mask = masks.get(name)
        assert torch.equal(tensor, saved[name]) and (mask is None or not tensor[~mask].any())
    pixels = torch.from_numpy(digits.test_images).float() / 255
    hits = net(pixels).argmax(1) == torch.from_numpy(digits.test_labels)
    assert 100 * hits.double().mean() == pytest.approx(rows[1]["test_accuracy"])


def test_a_ticket_at_theta0(trained):
    net, masks, _ = load_ticket(trained, 2, weights="theta0")
    theta0 = load_tensors(trained / "theta0.safetensors")
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, theta0[name] * masks[name] if name in masks else theta0[name])


def test_tickets_that_are_not_there_are_refused(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    shutil.copy(copy / "masks/round_02.safetensors", copy / "masks/round_01.safetensors")
    (copy / "weights/round_00.safetensors").unlink()
    for number, more, says in [
        (3, {}, "rounds 0 to 2"),
        (-1, {}, "rounds 0 to 2"),
        (0, {}, "--save_weights=best"),
        (1, {}, "is not the mask"),
        (1, {"weights": "theta0"}, "is not the mask"),
        (2, {"weights": "best"}, "unknown weights"),
    ]:
        with pytest.raises(UserError, match=says):
            load_ticket(copy, number, **more)
    assert load_ticket(copy, 0, weights="theta0")
    with pytest.raises(UserError, match="is not a run folder"):
        load_ticket(tmp_path, 0)
    (copy / "rounds.csv").unlink()
    with pytest.raises(UserError, match="no finished round"):
        load_ticket(copy, 0)


def test_masks_of_two_densities_are_told(tmp_path, capsys):
    """Defect: 20 % against 80 % a round printed "density 0.5, Jaccard 0.25" without a word."""
    runs = []
    for percent in (20, 80):
        flags = [f"--prune_percent={percent}", "--prune_iterations=2", "--end_iter=1"]
        assert go(tmp_path / str(percent), *flags) == 0
        runs.append(str(only(tmp_path / str(percent))))
    capsys.readouterr()
    assert tickets.main([*runs, "-o", str(tmp_path / "out")]) == 0
    said = "cannot reach 1"
    assert said in capsys.readouterr().out
