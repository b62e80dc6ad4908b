"""Saved tickets under attack: `python attacks.py evaluate`."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from helpers import go, only, python
from results import robustness
from store.files import read_csv, write_json
from store.saved import saved_config

FLAGS = ["--prune_iterations=2", "--end_iter=3", "--prune_percent=50", "--eval_examples=40"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two rounds."""
    folder = tmp_path_factory.mktemp("runs")
    assert go(folder, *FLAGS, "--eval_attacks", "fgsm", "pgd", "cw") == 0
    return only(folder)


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def evaluate(*flags):
    return robustness.main(["evaluate", *map(str, flags)])


def test_every_ticket_is_attacked_and_the_figures_are_the_runs_own(folder):
    names = ["fgsm", "pgd", "cw", "noise", "autoattack"]
    assert evaluate(folder, "--attacks", *names, "--examples=40") == 0
    rows = read_csv(folder / f"attacked_evaluation-{'+'.join(names)}-40.csv")
    rounds = read_csv(folder / "rounds.csv")
    assert [row["round"] for row in rows] == [0, 1]
    for row, own in zip(rows, rounds, strict=True):
        assert row["density"] == own["density"]
        assert row["clean"] == pytest.approx(own["test_accuracy"], abs=0.3)
        assert row["pgd"] == pytest.approx(own["whitebox_pgd_accuracy"], abs=2.6)  # one image of 40
        assert row["cw_l2"] == pytest.approx(own["whitebox_cw_l2"], rel=0.05)
        assert row["cw"] == 0 and row["autoattack"] <= row["pgd"] <= row["noise"] <= 100


def test_the_radius_is_in_the_files_name(folder):
    assert evaluate(folder, "--attacks=fgsm", "--examples=40", "--epsilon=0") == 0
    (row, _) = read_csv(folder / "attacked_evaluation-fgsm-40-epsilon0.csv")
    assert row["fgsm"] == row["clean_of_examples"]


def test_bad_input_is_one_line(folder, tmp_path, capsys):
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("weights"))
    mixed_up = shutil.copytree(folder, tmp_path / "mixed_up")
    shutil.copy(mixed_up / "masks/round_01.safetensors", mixed_up / "masks/round_00.safetensors")
    (tmp_path / "empty").mkdir()
    for flags, says in [
        ([folder, "--attacks", "fgms"], "did you mean 'fgsm'?"),
        ([tmp_path / "empty"], "is not a run folder"),
        ([folder, tmp_path / "nothing-*"], "matches no folder"),
        ([folder, "--epsilon=-1"], "from 0 to 1"),
        ([folder, "--examples=0"], "at least 1"),
        ([folder, "--what"], "unknown flag"),
        ([bare], "--save_weights=best"),
        ([mixed_up], "is not the mask"),
    ]:
        assert evaluate(*flags) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, (flags, error)
    assert not list(tmp_path.glob("*/attacked_evaluation*"))


@pytest.mark.slow
def test_the_script_itself(folder):
    done = python("attacks.py", "evaluate", folder, "--attacks=fgsm", "--examples=40")
    assert done.returncode == 0 and "round 1" in done.stdout, done.stderr
    assert (folder / "attacked_evaluation-fgsm-40.csv").exists()


def with_flags(folder, **flags):
    write_json(folder / "config.json", {"flags": saved_config(folder)["flags"] | flags})


def test_data_that_is_not_there_is_one_line_and_no_folder(folder, tmp_path, capsys):
    with_flags(folder, dataset="mnist", data_dir=str(tmp_path / "gone"))
    before = sorted(tmp_path.rglob("*"))
    for flags in ([], [f"--data_dir={tmp_path / 'neither'}"]):
        assert evaluate(folder, *flags) == 2
        error = capsys.readouterr().err
        assert "--data_dir" in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_data_is_found_where_it_lies_now(folder, tmp_path, digits):
    """The run's own place is gone; the file is the same."""
    import data

    arrays = {name: getattr(digits, name) for name in data.ARRAYS}
    arrays |= {name: value[:, 0] for name, value in arrays.items() if "images" in name}
    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "here/mine.npz", **arrays)
    same = data.identity("mine", tmp_path / "here")
    with_flags(folder, dataset="mine", data_dir=str(tmp_path / "gone"), data_id=same)
    flags = ["--attacks=fgsm", "--examples=40"]
    assert evaluate(folder, *flags) == 2
    assert evaluate(folder, *flags, f"--data_dir={tmp_path / 'here'}") == 0
    with_flags(folder, data_id="another")
    assert evaluate(folder, *flags, f"--data_dir={tmp_path / 'here'}") == 2


def test_autoattack_of_few_classes():
    """It aims at as many classes as there are; its targeted loss needs four."""
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % 4
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    percent = robustness.autoattack(net, images, labels, 0.3, 4)
    assert 0 <= percent <= robustness.accuracy(net, images, labels)
    with pytest.raises(robustness.UserError, match="3 classes"):
        robustness.autoattack(net, images, labels, 0.3, 3)
