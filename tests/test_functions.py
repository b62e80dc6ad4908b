"""Functional comparison of two networks: oracles and identities, and `tickets.py --function` on two
trained runs.
"""

import copy
import shutil
from collections import OrderedDict
from itertools import combinations

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import tickets
from helpers import go
from results import functions
from results.function_groups import function_groups, told
from store.files import load_tensors, read_csv, save_tensors, write_json
from store.saved import saved_config


def bools(*values):
    return torch.tensor(values, dtype=torch.bool)


def test_error_overlap_equals_counting():
    a, b = bools(1, 1, 1, 0, 0, 0, 0, 0, 0, 0), bools(1, 1, 0, 1, 1, 0, 0, 0, 0, 0)
    shared, chance = functions.error_overlap(a, b)
    assert shared == 2 / 3 and chance == pytest.approx(3 * 4 / 10 / 3)
    assert functions.error_overlap(a, a)[0] == 1
    assert np.isnan(functions.error_overlap(a, bools(*[0] * 10))).all()


def test_independent_errors_overlap_as_expected():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(20_000, generator=generator) < rate for rate in (0.1, 0.3))
    shared, chance = functions.error_overlap(a, b)
    assert chance == pytest.approx(0.3, abs=0.01) and shared == pytest.approx(chance, abs=0.03)


def plain_cka(x, y):
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the centring matrix written out (Kornblith et
    al. 2019, equations 2 to 4).
    """
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, el = x @ x.T, y @ y.T

    def hsic(first, second):
        return np.trace(first @ centre @ second @ centre) / (n - 1) ** 2

    return hsic(k, el) / np.sqrt(hsic(k, k) * hsic(el, el))


def cka(x, y):
    """Linear CKA of two layers' features on the same images, (N, P) and (N, Q)."""
    return functions.aligned(functions.gram(x), functions.gram(y))


@pytest.mark.parametrize(("p", "q"), [(5, 7), (60, 8), (50, 70)])
def test_cka_equals_the_plain_formula(p, q):
    rng = np.random.default_rng(p)
    x = rng.standard_normal((40, p)) + 3
    y = np.tanh(x @ rng.standard_normal((p, q))) + rng.standard_normal((40, q))
    assert cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(plain_cka(x, y), rel=1e-5)


def test_cka_ignores_rotation_and_scale_and_nothing_else():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 12, generator=generator, dtype=torch.double)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.double)).Q
    assert cka(x, x) == pytest.approx(1)
    assert cka(x, -2.5 * x @ rotation + 7) == pytest.approx(1)
    assert cka(x, x * torch.linspace(0.01, 5, 12)) < 0.95
    assert np.isnan(cka(x, torch.ones(50, 3)))


def net(seed=0):
    torch.manual_seed(seed)
    parts = OrderedDict(
        conv=nn.Conv2d(1, 4, 3),
        bn=nn.BatchNorm2d(4),
        relu=nn.ReLU(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(144, 8),
        out=nn.Linear(8, 3),
    )
    return nn.Sequential(OrderedDict(net=nn.Sequential(parts))).eval()


def test_grams_are_those_of_the_hidden_layers_outputs():
    model, images = net(), torch.rand(20, 1, 8, 8) + 100
    grams = functions.hidden_grams(model, images)
    assert list(grams) == ["conv", "fc1"]
    features = model.net[:5](images).detach().double()
    features = features - features.mean(0)
    assert torch.allclose(
        grams["fc1"].double(),
        features @ features.T,
        rtol=1e-3,
        atol=1e-4 * grams["fc1"].abs().max().item(),
    )
    assert not any(module._forward_hooks for module in model.modules())


def test_a_net_and_itself_are_one():
    model, images = net(), torch.rand(60, 1, 8, 8)
    state = copy.deepcopy(model.state_dict())
    labels = (model(images).argmax(1) + (torch.arange(60) % 4 == 0)) % 3
    found = functions.compare_networks(model, state, copy.deepcopy(state), images, labels, images)
    assert found["agreement"] == 100 and found["error_a"] == found["error_b"] == 25
    assert found["error_overlap"] == 1 and found["error_overlap_chance"] == 0.25
    assert found["barrier"] == 0
    assert found["cka"] == pytest.approx(1) == found["cka conv"]


def linear(weights):
    return {"0.weight": torch.tensor(weights), "0.bias": torch.zeros(2)}


def test_the_path_of_a_linear_net_is_as_computed_by_hand():
    """Logits (w x, 0): class 0 where w x > 0.

    Every point of the way from w to -w errs on none before its middle and on all after it.
    """
    model, images, labels = (
        nn.Sequential(nn.Linear(1, 2)),
        torch.rand(40, 1) + 0.1,
        torch.zeros(40, dtype=torch.long),
    )
    one, other = linear([[1.0], [0.0]]), linear([[-1.0], [0.0]])
    errors = functions.path_errors(model, one, other, images, labels, points=30)
    assert errors.tolist() == [0] * 15 + [100] * 15 and functions.barrier(errors) == 50
    assert (
        functions.barrier(functions.path_errors(model, one, linear([[3.0], [0.0]]), images, labels))
        == 0
    )
    # two nets that are right, with a barrier between them: (x, y) -> relu units exchanged
    hidden = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    bias = torch.tensor([0.0, 0.4])
    one = {
        "0.weight": torch.tensor([[1.0], [-1.0]]),
        "2.weight": torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        "2.bias": bias,
    }
    other = {
        "0.weight": torch.tensor([[-1.0], [1.0]]),
        "2.weight": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        "2.bias": bias,
    }
    # at t the larger unit gives |1 - 2t| max(t, 1 - t) x: 0 in the middle, so x = 1 falls below the
    # bias 0.4
    errors = functions.path_errors(
        hidden, one, other, torch.ones(10, 1), torch.zeros(10, dtype=torch.long), points=30
    )
    expected = [0 if abs(1 - 2 * t) * max(t, 1 - t) > 0.4 else 100 for t in np.linspace(0, 1, 30)]
    assert errors.tolist() == expected and functions.barrier(errors) == 100


def test_batch_norm_statistics_are_those_of_the_images():
    model, images = net(), torch.rand(500, 1, 8, 8)
    functions.refresh_batch_norm(model, images)
    norm, features = model.net.bn, model.net.conv(images)
    assert torch.allclose(norm.running_mean, features.mean((0, 2, 3)), atol=1e-5)
    # the mean over two batches of each one's unbiased variance
    halves = torch.stack([half.transpose(0, 1).flatten(1).var(1) for half in features.split(250)])
    assert torch.allclose(norm.running_var, halves.mean(0), atol=1e-5)
    assert norm.momentum == 0.1 and not any(module.training for module in model.modules())


class Fake:
    """A Ticket's theta_0, all that the choice of pairs asks for."""

    def __init__(self, theta0):
        self.theta0 = theta0

    def __repr__(self):
        return self.theta0


def pairs_of(theta0s, groups="ab", orders=2):
    """tickets.py's pairs of runs of every group, theta_0 and order."""
    runs = [(g, t, o) for g in groups for t in theta0s for o in range(orders)]
    rows = []
    for (g, t, o), (h, u, p) in combinations(runs, 2):
        kind = "within" if g == h else "between" if {g, h} == {"a", "b"} else "beside"
        shared, group = t if t == u else None, g if g == h else ""
        rows.append((Fake(t), Fake(u), kind, shared, group, o == p))
    columns = ["first", "second", "kind", "theta0", "group", "same_order"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("count", [4, 5, 10, 16, 1000])
@pytest.mark.parametrize("theta0s", ["xy", "xyz", "vwxyz"])
def test_every_theta0_gets_pairs_of_every_kind(theta0s, count):
    pairs = functions.with_controls(pairs_of(theta0s, groups="abn"))
    assert not ((pairs.kind == "between") & pairs.same_order).any()
    chosen = functions.balanced(pairs, count)
    assert len(chosen) <= count and chosen.index.is_unique
    sets = chosen.groupby("block")[["kind", "side"]].apply(lambda x: set(map(tuple, x.to_numpy())))
    other = functions.OTHER
    whole = {("between", ""), *((kind, side) for kind in ("within", other) for side in "ab")}
    assert len(sets) == min(len(theta0s), max(1, count // 5))
    assert all(kinds == whole for kinds in sets) if count > 4 else len(chosen) == 4
    # a control is of one group and of a theta_0 with the next
    for pair in chosen[chosen.kind == other].itertuples():
        assert pair.first.theta0 != pair.second.theta0 and pair.group == pair.side
        assert pair.block in (pair.first.theta0, pair.second.theta0)


def test_pairs_without_groups_or_without_a_common_theta0():
    plain = pairs_of("xy", groups="a").assign(kind="", group="arm")
    chosen = functions.balanced(functions.with_controls(plain), 4)
    assert sorted(chosen.kind) == ["", "", functions.OTHER, functions.OTHER]
    assert sorted(chosen.block) == ["x", "x", "y", "y"]
    alone = functions.with_controls(pairs_of("xy", groups="a", orders=1))
    assert alone.kind.tolist() == ["within"] and alone.block.tolist() == [""]


def function_rows(values, barrier):
    """function.csv of a round, from {kind: agreement of each theta_0} and {kind: barrier of each}.

    b's pairs within agree by 1 point more than a's, which are twice as many.
    """
    rows = []
    for kind, agreements in values.items():
        sides = [("", 0)] if kind in ("", "between") else [("a", -0.5), ("a", -0.5), ("b", 0.5)]
        for block, agreement in enumerate(agreements):
            for side, shift in sides:
                row = {"round": 3, "kind": kind, "block": str(block), "side": side}
                row |= {"agreement": agreement + shift, "barrier": barrier[kind][block]}
                rows.append(row | {"error_overlap": 0.5, "cka": np.nan})
    return pd.DataFrame(rows)


BETWEEN, WITHIN = [97.0, 97.2, 96.9], [98.0, 98.3, 97.8]


def test_agreement_between_groups_is_tested_against_that_within_them():
    values = {"between": BETWEEN, "within": WITHIN}
    barrier = {kind: [1.0, 1.1, 1.0] for kind in values}
    table = function_groups(function_rows(values, barrier)).set_index("measure")
    row, test = table.loc["agreement"], stats.ttest_rel(BETWEEN, WITHIN)
    low, high = test.confidence_interval()
    assert (row["kind"], row.control, row.theta0s) == ("between", "within", 3)
    assert row.difference == pytest.approx(np.mean(BETWEEN) - np.mean(WITHIN))
    assert row.control_mean == pytest.approx(np.mean(WITHIN))
    assert row.difference_interval == pytest.approx((high - low) / 2)
    # corrected with the one other measure that can vary: none here
    assert row.p == row.holm_p == pytest.approx(test.pvalue) and row.verdict == "below"
    assert table.verdict["error_overlap"] == "ties" and table.theta0s["cka"] == 0
    assert table.one_basin.isna().all()
    (line,) = told(table.reset_index())
    assert "agreement (%) lower (−1.00 ± " in line and "CKA no verdict" in line


@pytest.mark.parametrize(
    ("barrier", "control", "says"),
    [
        ([0.3, 0.4, 0.5], [20.0, 25.0, 22.0], "lie in one basin: barrier 0.40 ± 0.25 points"),
        # a flat path that is no flatter than between any two networks says nothing
        ([0.3, 0.4, 0.5], [0.5, 0.3, 0.6], "it is not distinguishably lower than the control"),
        ([4.0, 5.0, 4.5], [20.0, 25.0, 22.0], "with its interval it is not below 2"),
        ([1.0, 2.5, 1.5], [20.0, 25.0, 22.0], "with its interval it is not below 2"),
        ([0.3], [20.0], "it is not distinguishably lower than the control"),
    ],
)
def test_one_basin_needs_the_control_and_the_bound(barrier, control, says):
    kinds = {"": barrier, functions.OTHER: control}
    rows = function_rows({kind: BETWEEN[: len(barrier)] for kind in kinds}, kinds)
    table = function_groups(rows)
    (basin,) = table.one_basin.dropna()
    lines = told(table)
    assert says in lines[-1] and ("lie in one basin" in lines[-1]) == basin
    assert basin == says.startswith("lie")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of digits that share theta_0, in two orders."""
    folder = tmp_path_factory.mktemp("runs")
    assert go(folder, *TRAINED, "--order_seed", "0", "1") == 0
    return sorted(map(str, folder.iterdir()))


TRAINED = ["--prune_iterations=2", "--end_iter=2", "--prune_percent=50"]


@pytest.mark.slow
def test_trained_runs(runs, tmp_path, capsys):
    assert tickets.main([*runs, "--function", "-o", str(tmp_path)]) == 0
    rows = read_csv(tmp_path / "function.csv")
    assert [row["round"] for row in rows] == [0, 1] and rows[0]["examples"] == 360
    for side, path in (("a", runs[0]), ("b", runs[1])):
        for row, own in zip(rows, read_csv(f"{path}/rounds.csv"), strict=True):
            assert 100 - row[f"error_{side}"] == pytest.approx(own["test_accuracy"], abs=0.3)
    for row in rows:
        assert 50 < row["agreement"] < 100 and row["error_overlap"] > row["error_overlap_chance"]
        assert 0 < row["cka"] < 1 and row["cka"] == pytest.approx(
            (row["cka fc1"] + row["cka fc2"]) / 2
        )
        assert (row["path_end_a"], row["path_end_b"]) == pytest.approx(
            (row["error_a"], row["error_b"])
        )
        assert row["barrier"] == pytest.approx(
            row["path_error"] - (row["error_a"] + row["error_b"]) / 2
        )
    image = matplotlib.image.imread(tmp_path / "function.png")[..., :3]
    assert (np.ptp(image, axis=-1) > 0.2).any() and (tmp_path / "function.pdf").exists()
    assert "round 1" in capsys.readouterr().out


@pytest.mark.slow
def test_trained_runs_beside_another_theta0(runs, tmp_path, capsys):
    assert go(tmp_path / "other", *TRAINED, "--seed=1") == 0
    (other,) = map(str, (tmp_path / "other").iterdir())
    out = tmp_path / "out"
    assert tickets.main([*runs, other, "--function", "--max_pairs=2", "-o", str(out)]) == 0
    rows = read_csv(out / "function.csv")
    assert [row["kind"] for row in rows] == ["", "", functions.OTHER, functions.OTHER]
    assert [row["round"] for row in rows] == [0, 1, 0, 1]
    assert rows[1]["barrier"] < rows[3]["barrier"] / 2
    found = read_csv(out / "function-groups.csv")
    measures = ["agreement", "error_overlap", "cka", "barrier"]
    assert [row["measure"] for row in found] == 2 * measures
    assert {row["verdict"] for row in found} == {"unknown"} and found[-1]["one_basin"] == 0
    text = capsys.readouterr().out
    assert "note: --function compares 2 of 3 pairs" in text and "not 1 other theta_0" in text
    assert "no word on a basin" in text and f"{out / 'function.png'}" in text


def test_refused_in_one_line(runs, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(runs[0], bare, ignore=shutil.ignore_patterns("weights"))
    torn = tmp_path / "torn"
    shutil.copytree(runs[0], torn)
    weights = load_tensors(torn / "weights" / "round_01.safetensors")
    weights.pop("net.fc1.bias")
    save_tensors(torn / "weights" / "round_01.safetensors", weights)
    other_file = shutil.copytree(runs[0], tmp_path / "other_file")
    config = saved_config(other_file)
    write_json(other_file / "config.json", {"flags": config["flags"] | {"data_id": "01234567"}})
    for other, flags, says in [
        (bare, [], "--save_weights=best"),
        (torn, [], "is not of"),
        (runs[0], ["--examples=0"], "at least 1"),
        (other_file, [], "of one data set"),
    ]:
        assert (
            tickets.main([runs[1], str(other), "--function", *flags, "-o", str(tmp_path / "never")])
            == 2
        )
        error = capsys.readouterr().err
        assert says in error and error.startswith("tickets.py: error: ") and error.count("\n") == 1
        assert not (tmp_path / "never").exists()
