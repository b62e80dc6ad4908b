"""Saved tickets under attack: `python attacks.py evaluate`."""

import pytest

import main
from utils import read_csv

FLAGS = ["--prune_iterations=2", "--end_iter=3", "--prune_percent=50"]


@pytest.fixture
def folder(tmp_path):
    assert main.main([*FLAGS, f"--runs_dir={tmp_path / 'runs'}", "--eval_attacks", "fgsm", "pgd", "cw", "--eval_examples=40"]) == 0
    (found,) = (tmp_path / "runs").iterdir()
    return found


def test_every_ticket_is_attacked_and_the_figures_are_the_runs_own(cli, folder):
    done = cli("evaluate", str(folder), "--attacks", "fgsm", "pgd", "cw", "noise", "autoattack", "--examples=40", script="attacks.py")
    assert done.returncode == 0, done.stderr
    rows, rounds = read_csv(folder / "attacked_evaluation-fgsm+pgd+cw+noise+autoattack-40.csv"), read_csv(folder / "rounds.csv")
    assert [row["round"] for row in rows] == [0, 1]
    for row, own in zip(rows, rounds, strict=True):
        assert row["clean"] == pytest.approx(own["test_accuracy"], abs=0.3)
        assert row["pgd"] == pytest.approx(own["whitebox_pgd_accuracy"], abs=2.6)  # one image of 40
        assert row["cw_l2"] == pytest.approx(own["whitebox_cw_l2"], rel=0.05)
        assert row["cw"] == 0 and row["autoattack"] <= row["pgd"] <= row["noise"] <= 100


def test_bad_input_is_one_line(cli, folder, tmp_path):
    for flags, says in [
        ([str(folder), "--attacks", "fgms"], "did you mean 'fgsm'?"),
        ([str(tmp_path)], "is not a run folder"),
        ([str(folder), "--epsilon=-1"], "from 0 to 1"),
        ([str(folder), "--examples=0"], "at least 1"),
        ([str(folder), "--what"], "unknown flag"),
    ]:
        done = cli("evaluate", *flags, script="attacks.py")
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, (flags, done.stderr)
    assert not list(folder.glob("attacked_evaluation*"))
