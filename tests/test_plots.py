"""Figures from run folders, and the statistics they show."""

import csv

import numpy as np
import pytest
from scipy import stats

import main
import plots
import tickets
from config import resolve
from runfolder import RunFolder


@pytest.fixture
def runs(tmp_path):
    for prune_type in ("lt", "reinit"):
        for seed in (0, 1):
            flags = [f"--prune_type={prune_type}", f"--seed={seed}", "--prune_iterations=3", "--end_iter=1", "--prune_percent=50"]
            assert main.main([*flags, f"--runs_dir={tmp_path / 'runs'}"]) == 0
    return sorted((tmp_path / "runs").iterdir())


def test_the_interval_is_students():
    values = [97.1, 97.9, 98.4, 97.7]
    mean, half = plots.mean_and_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean - half == pytest.approx(low) and mean + half == pytest.approx(high)
    assert np.isnan(plots.mean_and_interval([1.0])[1])


def test_figures_and_table_of_real_runs(cli, runs, tmp_path):
    done = cli(*map(str, runs), "-o", str(tmp_path / "plots"), script="plots.py")
    assert done.returncode == 0, done.stderr
    for name in plots.FIGURES:
        png = tmp_path / "plots" / f"digits-fc1-{name}.png"
        assert str(png) in done.stdout
        assert png.stat().st_size > 10_000 and png.with_suffix(".pdf").read_bytes()[:4] == b"%PDF"
    with open(tmp_path / "plots" / "digits-fc1-summary.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["seeds"]) for row in rows] == [("lt", "2")] * 3 + [("reinit", "2")] * 3
    first = [plots.load_run(path)["rounds"][1]["test_accuracy"] for path in runs if "-lt-" in path.name]
    assert float(rows[1]["test_accuracy"]) == pytest.approx(np.mean(first), abs=1e-3)
    assert float(rows[1]["test_accuracy_interval"]) == pytest.approx(plots.mean_and_interval(first)[1], abs=1e-3)


def test_arms_are_what_differs_but_the_seed(runs):
    loaded = [plots.load_run(path) for path in runs]
    loaded[0]["flags"] |= {"attack": "fgsm", "mix_ratio": 0.5}
    assert {label: len(members) for label, members in plots.group_arms(loaded).items()} == {"lt, fgsm 0.5": 1, "lt, clean": 1, "reinit, clean": 2}


def test_what_is_not_a_run_is_refused_in_one_line(cli, tmp_path):
    done = cli(str(tmp_path), script="plots.py")
    assert done.returncode == 2 and "is not a run folder" in done.stderr and done.stderr.count("\n") == 1


def test_the_sample_picture_shows_three_rows(tmp_path):
    clean = np.random.default_rng(0).random((10, 3, 8, 8))
    plots.draw_samples(clean, np.clip(clean + 0.1, 0, 1), tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 5_000


def with_flags(**flags):
    return {"flags": resolve(flags).flags(), "folder": RunFolder("runs/x"), "rounds": [], "epochs": []}


@pytest.mark.parametrize("shuffle", range(4))
def test_runs_of_other_orders_are_arms_of_their_own_and_none_is_lost(shuffle):
    grid = [with_flags(seed=seed, order_seed=order) for seed in range(3) for order in range(3)] + [with_flags(seed=seed) for seed in (3, 4)]
    np.random.default_rng(shuffle).shuffle(grid)
    arms = plots.group_arms(grid)
    # seed 1 in its own order is one of the runs whose order follows their seed, whoever asked for it
    assert {label: sorted(run["flags"]["seed"] for run in members) for label, members in arms.items()} == {
        "lt, order_seed=seed": [0, 1, 2, 3, 4], "lt, order_seed=0": [1, 2], "lt, order_seed=1": [0, 2], "lt, order_seed=2": [0, 1],
    }  # fmt: skip


def test_what_follows_is_not_named_and_long_labels_fit():
    runs = [with_flags(prune_percent=rate, end_iter=epochs, seed=1) for rate in (10.0, 40.0) for epochs in (3, 12)]
    assert sorted(plots.group_arms(runs))[0] == "lt, end_iter=12, prune_percent=10.0"
    figure, (axis,) = plots.new_figure("x")
    axis.plot([1, 2], [1, 2], label=", ".join(f"flag_{number}=value" for number in range(20)))
    plots.legend_below(figure, axis)
    figure.canvas.draw()
    assert figure.legends[0].get_window_extent().width < figure.bbox.width


def test_a_run_that_has_not_begun_is_left_out(runs, tmp_path, capsys):
    waiting = tmp_path / "runs" / "waiting"
    waiting.mkdir()
    (waiting / ".lock").touch()
    (waiting / "holder.json").write_text("{}")
    assert plots.main([*map(str, runs), str(waiting), "-o", str(tmp_path / "plots")]) == 0
    assert tickets.main([f"{tmp_path / 'runs'}/*", "-o", str(tmp_path / "tickets")]) == 0
    assert capsys.readouterr().out.count("waiting has not begun to train yet and is left out") == 2
