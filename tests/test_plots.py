"""Figures from run folders, what they name, and the statistics they show."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

import plots
from config import resolve
from helpers import DENSITIES, ROOT, fake_run, fake_study, go
from results import figures, panels
from results.answer import Study
from results.questions import QUESTIONS
from results.robustness_figures import seeds_in_words
from results.stats import mean_and_interval
from results.table import arm_labels, column_title, load
from store.files import read_csv, write_csv


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """lt and reinit of three seeds, trained on digits."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    short = ["--prune_iterations=3", "--end_iter=1", "--prune_percent=50"]
    kinds = ["--prune_type", "lt", "reinit", "--seed", "0", "1", "2"]
    assert go(folder, *short, *kinds) == 0
    return folder


@pytest.fixture
def draws(monkeypatch):
    """Make plots.py draw the curves only: forged runs have no epochs and no masks.

    And save nothing but names, which takes most of the time.
    """
    for name in ("training", "layers"):
        monkeypatch.delitem(plots.FIGURES, name)
    touch = lambda figure, path: path.with_name(f"{path.name}.png").touch()  # noqa: E731
    monkeypatch.setattr(figures, "save_figure", touch)


def arms_of(**flags_by_run):
    """The names of arms of runs with these flags."""
    return arm_labels([resolve(flags, (1, 28, 28)) for flags in flags_by_run.values()])


def fails(capsys, *argv):
    """The one line that plots.py says as it refuses."""
    capsys.readouterr()
    assert plots.main([str(part) for part in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("plots.py: error: ") and error.count("\n") == 1, error
    return error


def test_the_interval_is_students():
    values = [97.1, 97.9, 98.4, 97.7]
    mean, half = mean_and_interval(values)
    sem = scipy_stats.sem(values)
    low, high = scipy_stats.t.interval(0.95, 3, loc=np.mean(values), scale=sem)
    assert mean - half == pytest.approx(low) and mean + half == pytest.approx(high)
    assert np.isnan(mean_and_interval([1.0])[1])


@pytest.mark.slow
def test_figures_and_table_of_real_runs(trained, tmp_path, capsys):
    paths = sorted(trained.iterdir())
    assert plots.main([*map(str, paths), "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for name in ("accuracy", "attacked", "early_stop", "training", "layers"):
        png = tmp_path / f"digits-fc1-{name}.png"
        assert str(png) in out and png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert png.with_suffix(".pdf").read_bytes()[:4] == b"%PDF"
    rows = read_csv(tmp_path / "digits-fc1-summary.csv")
    assert [(row["arm"], row["seeds"]) for row in rows] == [("lt", 3)] * 3 + [("reinit", 3)] * 3
    own = [
        read_csv(path / "rounds.csv")[1]["test_accuracy"] for path in paths if "-lt-" in path.name
    ]
    mean, half = mean_and_interval(own)
    assert rows[1]["test_accuracy"] == pytest.approx(mean, abs=1e-3)
    assert rows[1]["test_accuracy_interval"] == pytest.approx(half, abs=1e-3)


def test_every_epoch_and_layer_is_drawn(trained):
    table = load(f"{trained}/*")
    table = table[table.arm == "lt"]
    training = plots.training_figure(table, "x")
    losses = [line.get_ydata() for line in training.axes[0].lines]
    first = read_csv(f"{table.folder.iloc[0]}/epochs.csv")
    assert [float(value) for line in losses for value in line] == [r["train_loss"] for r in first]
    layers = plots.density_figure(table, "x").axes[0].lines
    assert [line.get_label() for line in layers] == ["every layer (3)"]  # one diagonal
    assert layers[0].get_ydata() == pytest.approx([100, 50, 25], abs=0.1)


def test_arms_are_what_differs_but_the_seed(tmp_path):
    for seed in (0, 1):
        for kind in ("lt", "reinit"):
            fake_run(tmp_path, [90.0] * 5, seed=seed, prune_type=kind, attack=None, mix_ratio=None)
    fake_run(tmp_path, [90.0] * 5, mix_ratio=0.5)
    table = load(f"{tmp_path}/*")
    counts = table.groupby("arm", observed=True).folder.nunique().to_dict()
    assert counts == {"lt, clean data": 2, "reinit, clean data": 2, "lt, 50 % fgsm": 1}


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"end_iter": 3}, "end_iter=3"),
        ({"lr": 0.01}, "lr=0.01"),
        ({"surrogate": "fc1"}, "surrogate=fc1"),
        ({"batch_size": 30}, "batch_size=30"),
    ],
)
def test_what_tells_arms_apart_is_named(flags, name):
    """Even where each attack has one value of it, as the attack's own radius may go unnamed."""
    clean = {"attack": "fgsm", "mix_ratio": 0.0, "epsilon": 0.1}
    labels = arms_of(a=clean, b={"attack": "pgd", "mix_ratio": 0.5, "epsilon": 0.2} | flags)
    assert name in labels[1]
    assert "epsilon" not in labels[1]


def test_runs_of_other_files_and_tickets_are_named():
    other = resolve({"dataset": "mine"}, (1, 28, 28), "0123456789")
    one = resolve({"dataset": "mine"}, (1, 28, 28), "fedcba9876")
    assert arm_labels([one, other]) == ["lt, file fedcba98", "lt, file 01234567"]
    masked = one.replace(ticket="runs/x", ticket_arm="mine-fc1-fgsm0.5-lt-01234567")
    assert arm_labels([one, masked]) == ["lt, own masks", "lt, masks of fgsm0.5-lt"]


@pytest.mark.parametrize("shuffle", range(4))
def test_runs_of_other_orders_are_arms_of_their_own_and_none_is_lost(tmp_path, shuffle):
    grid = [{"seed": seed, "order_seed": order} for seed in range(3) for order in range(3)]
    grid += [{"seed": seed} for seed in (3, 4)]
    np.random.default_rng(shuffle).shuffle(grid)
    for flags in grid:
        fake_run(tmp_path, [90.0] * 5, **flags)
    table = load(f"{tmp_path}/*")
    # seed 1 in its own order is one of the runs whose order follows their seed
    seeds = table.groupby("arm", observed=True).seed.unique().map(sorted).to_dict()
    assert seeds == {
        "lt, order_seed=seed": [0, 1, 2, 3, 4], "lt, order_seed=0": [1, 2],
        "lt, order_seed=1": [0, 2], "lt, order_seed=2": [0, 1],
    }  # fmt: skip


def test_names_are_of_what_differs_within_a_figure(tmp_path, draws):
    for arch, epochs in (("fc1", 3), ("lenet5", 12)):
        for kind in ("lt", "reinit"):
            flags = {"arch_type": arch, "end_iter": epochs, "prune_type": kind}
            fake_run(tmp_path / "runs", [90.0] * 5, **flags)
    assert plots.main([f"{tmp_path}/runs/*", "-o", str(tmp_path / "out")]) == 0
    for arch in ("fc1", "lenet5"):
        rows = read_csv(tmp_path / "out" / f"digits-{arch}-summary.csv")
        assert {row["arm"] for row in rows} == {"lt", "reinit"}


def test_columns_of_ones_own_are_drawn(tmp_path, draws):
    for seed in (0, 1):
        columns = {"gradient_norm": 2.0 + seed, "whitebox_mi_fgsm_accuracy": 20.0 + seed}
        columns |= {"whitebox_mi_fgsm_l2": 1.5}
        fake_run(tmp_path / "runs", [90.0 + seed] * 5, columns, seed=seed)
    fake_run(tmp_path / "runs", [90.0] * 5, seed=0, prune_type="reinit")  # has none of them
    table = load(f"{tmp_path}/runs/*")
    titles = [axis.get_title() for axis in plots.FIGURES["attacked"](table, "x").axes]
    assert "attacked test images: white-box MI_FGSM" in titles
    assert "mean L2 that MI_FGSM needs (white-box)" in titles
    (axis,) = plots.FIGURES["columns"](table, "x").axes
    assert [float(y) for y in axis.lines[0].get_ydata()] == [2.5] * 5
    assert axis.get_ylabel() == "gradient norm"
    assert plots.main([f"{tmp_path}/runs/*", "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "digits-fc1-columns.png").exists()
    row = read_csv(tmp_path / "out" / "digits-fc1-summary.csv")[0]
    assert row["gradient_norm"] == 2.5 and row["whitebox_mi_fgsm_accuracy"] == 20.5


@pytest.mark.parametrize(
    ("column", "title"),
    [
        ("test_accuracy", "clean test images"),
        ("transfer_mi_fgsm_accuracy", "attacked test images: surrogate's MI_FGSM"),
        ("whitebox_pgd_accuracy", "attacked test images: white-box PGD"),
        ("whitebox_cw_l2", "mean L2 that CW needs (white-box)"),
        ("gradient_norm", "gradient norm"),
        ("transfer_time", "transfer time"),
    ],
)
def test_titles_of_columns(column, title):
    assert column_title(column) == title


def test_an_unfinished_run_keeps_the_other_rounds(tmp_path, draws, capsys):
    fake_run(tmp_path / "runs", [90.0, 80, 70, 60, 50], seed=0)
    fake_run(tmp_path / "runs", [92.0, 82], done=False, seed=1)
    assert plots.main([f"{tmp_path}/runs/*", "-o", str(tmp_path / "out")]) == 0
    assert "is unfinished: its 2 rounds are used" in capsys.readouterr().out
    rows = read_csv(tmp_path / "out" / "digits-fc1-summary.csv")
    assert [(row["seeds"], row["test_accuracy"]) for row in rows] == [
        (2, 91), (2, 81), (1, 70), (1, 60), (1, 50),
    ]  # fmt: skip
    assert [row["density"] for row in rows] == DENSITIES


def test_a_dollar_in_a_name_is_no_mathematics(tmp_path):
    """Defect: a folder called $\\frac$ was a traceback of matplotlib's."""
    figures.use_theme()
    figure, (axis,) = figures.new_figure(r"$\frac$")
    axis.plot([1, 2], [1, 2], label=r"$\frac$ and $x")
    figures.plain_log_axis(axis)
    figures.legend_below(figure, axis)
    figures.save_figure(figure, tmp_path / "x")


def test_long_labels_fit():
    figure, (axis,) = figures.new_figure("x")
    label = ", ".join(f"flag_{number}=value" for number in range(20))
    axis.plot([1, 2], [1, 2], label=label)
    figures.legend_below(figure, axis)
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().width < figure.bbox.width


def test_an_interval_without_neighbours_is_drawn_too():
    """Defect: beside a dense net without one, the only pruned round had no interval."""
    numbers = pd.DataFrame({"x": [100.0, 16.0], "mean": [0.0, 5.0], "interval": [np.nan, 2.0]})
    axis, both = figures.new_figure("x", 2)[1]
    figures.draw_lines(axis, [figures.Line(numbers, "C0")], "x")
    figures.draw_lines(both, [figures.Line(numbers.fillna(1.0), "C0")], "x")
    bars = [[p.vertices.tolist() for p in c.get_paths()] for c in axis.collections[1:]]
    assert bars == [[[[16.0, 3.0], [16.0, 7.0]]]]
    assert not both.collections[1].get_paths()


def test_many_arms_leave_the_panel_its_height():
    """Defect: the legend of 18 arms lay over the curves, and matplotlib warned."""
    heights = []
    for count in (2, 30):
        figure, (axis,) = figures.new_figure("x")
        for number in range(count):
            axis.plot([1, 2], [1, 2], label=f"an arm of rather many words, number {number}")
        figures.legend_below(figure, axis)
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert legend.y1 < axis.get_window_extent().y0 and legend.y0 >= 0
        heights.append(axis.get_window_extent().height)
    assert heights[1] > 0.8 * heights[0]


def test_the_sample_picture_shows_three_rows_and_what_is_seen(tmp_path, monkeypatch):
    from matplotlib.axes import Axes
    from matplotlib.image import imread

    said, whole = [], Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda *a, **k: (said.append(a[1]), whole(*a, **k))[1])
    clean, classes = np.full((10, 3, 8, 8), 0.75), [list(range(10)), [1] * 10, [7] * 10]
    figures.draw_samples(clean, clean - 0.5, classes, tmp_path / "samples.png")
    assert said[:2] == ["0 seen as 1", "as 7"] and said[-1] == "as 7" and len(said) == 20
    picture = imread(tmp_path / "samples.png")[:, :, 0]
    column = picture[:, (abs(picture - 0.25) < 0.02).sum(0).argmax()]  # through three images
    shades = [column[n] for n in range(len(column)) if (column[n : n + 40] == column[n]).all()]
    order = [shade for n, shade in enumerate(shades) if n == 0 or shade != shades[n - 1]]
    # between them the white of the page
    assert [s for s in order if s < 0.9] == pytest.approx([0.75, 0.25, 0], abs=0.02)


def test_arms_that_differ_in_prune_type_alone_share_a_colour():
    looks = plots.looks_of(["lt, clean data", "reinit, clean data", "lt, 50 % fgsm"])
    assert looks["lt, clean data"][0] == looks["reinit, clean data"][0] != looks["lt, 50 % fgsm"][0]
    assert looks["lt, clean data"][1] == looks["lt, 50 % fgsm"][1] == "-"
    assert looks["reinit, clean data"][1] == "--"
    alone = plots.looks_of(["lt", "reinit"])
    assert alone["lt"][0] != alone["reinit"][0]


# What is no run --------------------------------------------------------------------------------


def test_a_run_that_has_not_begun_is_left_out(tmp_path, draws, capsys):
    fake_run(tmp_path / "runs", [90.0] * 5)
    waiting = tmp_path / "runs" / "waiting"
    waiting.mkdir()
    (waiting / ".lock").touch()
    (waiting / "holder.json").write_text("{}")
    assert plots.main([f"{tmp_path}/runs/*", "-o", str(tmp_path / "out")]) == 0
    assert "waiting has not begun to train yet and is left out" in capsys.readouterr().out


def test_folders_of_runs_beside_runs_are_noted(tmp_path, draws, capsys):
    fake_run(tmp_path / "runs", [90.0] * 5)
    fake_run(tmp_path / "runs" / "smoke" / "main", [90.0] * 5)
    paths = sorted(map(str, (tmp_path / "runs").iterdir()))
    assert plots.main([*paths, "-o", str(tmp_path / "out")]) == 0
    assert "smoke is no run but holds runs: name them with" in capsys.readouterr().out
    smoke = tmp_path / "runs" / "smoke"
    assert "none of these folders" in fails(capsys, smoke, "-o", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_nothing_damaged_and_odd_runs_are_refused(tmp_path, draws, capsys):
    out = ["-o", tmp_path / "no"]
    (tmp_path / "empty").mkdir()
    assert "is not a run folder" in fails(capsys, tmp_path / "empty", *out)
    assert "matches no folder" in fails(capsys, f"{tmp_path}/none*", *out)
    run = fake_run(tmp_path / "runs", [90.0] * 5)
    rows = read_csv(run / "rounds.csv")
    for change in ({"test_accuracy": "x"}, {"test_accuracy": 101}, {"density": 0.3}):
        write_csv(run / "rounds.csv", [rows[0] | change, *rows[1:]])
        assert "is damaged" in fails(capsys, run, *out)
    shutil.rmtree(run)
    for seed, columns in enumerate(({}, {"gradient_norm": 1.0})):
        fake_run(tmp_path / "runs", [90.0] * 5, columns, seed=seed)
    error = fails(capsys, f"{tmp_path}/runs/*", *out)
    assert "one arm" in error and "gradient_norm" in error
    assert not (tmp_path / "no").exists()


def test_a_backend_that_is_not_here_is_not_asked_for(trained, tmp_path):
    """Defect: Jupyter's MPLBACKEND in a terminal's environment ended commands in a traceback."""
    command = [sys.executable, ROOT / "plots.py", str(trained / "*"), "-o", tmp_path / "plots"]
    environment = os.environ | {"MPLBACKEND": "module://not_installed"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "plots").glob("*.png"))


def test_a_legend_counts_the_seeds_of_its_points():
    """Defect: n=3 stood at a line whose later points were of two runs, one being unfinished."""
    whole = pd.DataFrame({"round": [0, 1] * 3, "seed": [0, 0, 1, 1, 2, 2], "density": [1, 0.8] * 3,
                          "test_accuracy": 90.0})  # fmt: skip
    assert plots.seeds_told(plots.curve(whole, "test_accuracy")) == "n=3"
    assert plots.seeds_told(plots.curve(whole[:-1], "test_accuracy")) == "n=2 to 3"
    assert plots.seeds_told(plots.curve(whole[:0], "test_accuracy")) == "n=0"


def test_the_figures_of_reports_and_of_evaluate_count_the_seeds_of_their_points(tmp_path):
    """Defect: both told of as many seeds as any arm has."""
    runs = fake_study(tmp_path / "runs", [({"mix_ratio": rate}, 1, 95) for rate in (0.0, 0.5)])
    table = load([f"{runs}/*"])
    for count, told in (
        (5, "over 5 seeds"),
        (3, "over 3 or 5 seeds"),
        (2, "over 2 or 5 seeds (under 3 have none)"),
    ):
        few = (table.mix_ratio > 0) & (table["round"] == 4) & (table.seed >= count)
        figure = panels.draw(Study(QUESTIONS["1"], table[~few]))
        assert figure.legends[0].get_title().get_text() == f"bands: 95 % intervals {told}"
    columns = {"arm": "a", "prune_type": "lt", "radius": np.nan}
    rows = pd.DataFrame({"seed": [0, 0, 1, 1, 2, 2], "round": [0, 1] * 3}).assign(**columns)
    assert seeds_in_words(rows) == "means over 3 seeds; bands: 95 % intervals"
    few = "means over 2 or 3 seeds; bands: 95 % intervals (fewer than 3 have none)"
    assert seeds_in_words(rows[:-1]) == few


def test_white_box_accuracies_at_several_radii_are_told(tmp_path, capsys, draws):
    """Defect: one panel drew white-box accuracies at 0.3 and at 0.05, untold."""
    fake_run(tmp_path / "runs", [90.0] * 5)
    fake_run(tmp_path / "runs", [90.0] * 5, mix_ratio=0.5)
    plots.main([f"{tmp_path}/runs/*", "-o", str(tmp_path / "plots")])
    assert "not one attack" not in capsys.readouterr().out
    fake_run(tmp_path / "runs", [90.0] * 5, mix_ratio=0.5, epsilon=0.05)
    plots.main([f"{tmp_path}/runs/*", "-o", str(tmp_path / "plots")])
    said = "white-box FGSM is not one attack in these runs: linf, epsilon 0.3; linf, epsilon 0.05"
    assert said in capsys.readouterr().out


def test_arms_whose_names_round_alike_have_two_names():
    """Defect: runs under masks of two runs that differ in --lr alone were one arm of six."""
    both = [{"ticket": f"x-{end}", "ticket_arm": f"digits-fc1-clean-lt-{end}@2", "ticket_seed": 0}
            for end in ("b45afc62", "db529f9c")]  # fmt: skip
    plain = resolve({"dataset": "digits"}, (1, 28, 28))
    labels = arm_labels([plain.replace(**flags) for flags in both])
    assert len(set(labels)) == 2 and "b45afc62" in labels[0] and "db529f9c" in labels[1]
    shares = arms_of(one={"attack": "fgsm", "mix_ratio": 1 / 3},
                     other={"attack": "fgsm", "mix_ratio": 0.333333})  # fmt: skip
    assert len(set(shares)) == 2
