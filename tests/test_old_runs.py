"""Run folders that an older version of this program wrote are read, compared and gone on with."""

import shutil
from collections import OrderedDict
from math import prod
from pathlib import Path

import pytest
from torch import nn

import main
import plots
import report
import results
import tickets
from archs import ARCHS
from helpers import numbers, only
from store.files import read_csv
from store.saved import saved_run
from study.request import parse_runs

OLD = Path(__file__).parent / "data" / "old"
FLAGS = ["--dataset=squares", "--arch_type=tiny", "--prune_percent=50", "--prune_iterations=3"]
FLAGS += ["--end_iter=2", "--batch_size=20", "--lr=0.01", "--workers=1", "--threads=1"]


def tiny(in_shape, num_classes):
    """The network of those runs."""
    first, last = nn.Linear(prod(in_shape), 12), nn.Linear(12, num_classes)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc1=first, relu1=nn.ReLU(), fc2=last))


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the old folders, in the present directory; `tiny` is a network."""
    monkeypatch.setitem(ARCHS, "tiny", tiny)
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_every_old_run_keeps_its_name_and_its_numbers(old):
    table = results.load("runs/*")
    assert table.folder.nunique() == 11
    for folder, rows in table.groupby("folder"):
        assert Path(folder).name == saved_run(folder).run_names[-1]
        saved = read_csv(Path(folder) / "rounds.csv")
        assert rows.test_accuracy.tolist() == [row["test_accuracy"] for row in saved]
        assert rows.density.tolist() == [1.0, 0.5, 0.25]
    assert table.groupby("arm", observed=True).seed.nunique().max() == 2


def test_the_same_flags_find_their_old_folders(old, capsys):
    flags = [*FLAGS, "--data_dir=.", "--surrogate=tiny", "--surrogate_epochs=3", "--attack=fgsm"]
    flags += ["--mix_ratio", "0", "0.5", "--prune_type", "lt", "reinit_chain", "--seed", "0", "1"]
    assert main.main(flags) == 0
    assert capsys.readouterr().out.count("done already: runs/squares-tiny-fgsm") == 8
    online = ["--attack=pgd", "--attack_mode=online", "--mix_ratio=0.5", "--attack_steps=2"]
    names = parse_runs([*FLAGS, "--data_dir=.", *online]).configs
    assert [config.run_name for config in names] == ["squares-tiny-pgd0.5-lt-s0-aeec5bfe"]


@pytest.mark.slow
def test_plots_and_tickets_take_old_runs_and_the_report_says_which_control_it_needs(old, capsys):
    assert plots.main(["runs/*fgsm*", "-o", "drawn"]) == 0
    rows = read_csv("drawn/squares-tiny-summary.csv")
    assert len(rows) == 12 and {row["seeds"] for row in rows} == {2}
    assert tickets.main(["runs/*-fgsm0-lt-*", "runs/*-fgsm0.5-lt-*", "-o", "compared"]) == 0
    total = [row for row in read_csv("compared/overlap.csv") if row["layer"] == "total"]
    assert {row["kept_a"] for row in total} == {156, 78, 39}
    assert {row["arm"].split(",")[0] for row in rows} == {"lt", "reinit_chain"}
    assert report.main(["--experiment=1", "runs/*fgsm*", "-o", "answered"]) == 2
    assert "there are no runs of reinit" in capsys.readouterr().err
    _, masks, flags = results.load_ticket(only("runs", "*-fgsm0.5-lt-s0-*"), 2, data_dir=".")
    assert sum(int(mask.sum()) for mask in masks.values()) == 39 and flags["mix_ratio"] == 0.5


def test_an_old_run_that_was_stopped_within_a_round_goes_on(old):
    """Its first round is the file's; the others are close: a machine rounds in its own way."""
    run, whole = only("stopped"), only("whole")
    assert (run / "partial.pt").exists() and (run / "checkpoint.pt").exists()
    flags = [*FLAGS, "--data_dir=.", "--seed=7", "--rewind_epoch=1", "--end_iter=3"]
    assert main.main([*flags, "--runs_dir=stopped", "--resume"]) == 0
    ended, expected = numbers(run), numbers(whole)
    assert (run / "DONE").exists() and ended[0][0] == expected[0][0]
    assert [row["kept"] for row in ended[0]] == [row["kept"] for row in expected[0]]
    for row, other in zip(ended[0], expected[0], strict=True):
        assert abs(row["test_accuracy"] - other["test_accuracy"]) < 10
    for row, other in zip(ended[1], expected[1], strict=True):
        assert row["iteration"] == other["iteration"]
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)
