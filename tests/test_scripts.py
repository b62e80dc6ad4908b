"""The experiments' scripts, from data to page."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import data
import main
import report
import tickets
from experiments import make_data
from helpers import ROOT, refused


@pytest.mark.slow
def test_black_images_are_the_casts_of_attacked_ones(tmp_path, cache):
    flags = ["black", "--dataset=digits", "--attack=fgsm", "--surrogate=fc1", "--epsilon=0.3"]
    assert make_data.main([*flags, f"--cache_dir={cache}", "-o", str(tmp_path)]) == 0
    black = dict(np.load(tmp_path / "digits_black.npz"))
    clean_test = dict(np.load(tmp_path / "digits_black_cleantest.npz"))
    assert set(np.unique(black["train_images"])) == {0, 1}
    assert black["train_images"].shape == (1437, 28, 28, 1)
    assert clean_test["test_images"].max() == 255
    assert (clean_test["train_images"] == black["train_images"]).all()
    assert make_data.main(["colour", "-o", str(tmp_path / "file" / "x"), "--seed=1"]) == 2
    assert make_data.main(["colour", "-o", str(tmp_path)]) == 0
    images = np.load(tmp_path / "smoke_colour.npz")["train_images"]
    assert images.shape == (1437, 32, 32, 3) and images.dtype == np.uint8


def test_a_subset_is_the_first_images_evenly_by_class(tmp_path, capsys):
    flags = ["subset", "--dataset=digits", "-o", str(tmp_path)]
    assert make_data.main([*flags, "--images=200"]) == 0
    part, whole = np.load(tmp_path / "digits_200.npz"), data.load("digits", "data")
    assert (np.bincount(part["train_labels"]) == 20).all()
    for label in range(10):
        first = whole.train_images[whole.train_labels == label][:20]
        mine = part["train_images"][part["train_labels"] == label]
        assert (mine.transpose(0, 3, 1, 2) == first).all()
    assert (part["test_labels"] == whole.test_labels).all()
    for images in ("0", "-10", "201", "100000"):
        assert make_data.main([*flags, f"--images={images}"]) == 2
        assert "a multiple of 10" in capsys.readouterr().err


def calls_of(script, told, folder):
    """The command lines that a script would run, without running them: lists of arguments."""
    recorder, log = folder / "python", folder / "calls"
    recorder.write_text(
        f"""#!/bin/sh\nprintf '%s\\0' "$@" >> {log}; printf '\\036\\0' >> {log}\n"""
    )
    recorder.chmod(0o755)
    log.unlink(missing_ok=True)
    keywords = {"capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(["bash", script], env=told | {"PYTHON": str(recorder)}, **keywords)
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in log.read_text().split("\x1e\0")[:-1]]


PROGRAMS = {
    "main.py": main.main,
    "tickets.py": tickets.main,
    "report.py": report.main,
    "-m": lambda argv: make_data.main(argv[1:]),
}


@pytest.mark.slow
def test_the_scripts_from_data_to_page(tmp_path, monkeypatch):
    """All seven and the appendices, in the shortest runs; their commands run in this process."""
    monkeypatch.chdir(ROOT)  # as the scripts do
    names = ("RUNS_DIR", "CACHE_DIR", "DATA_DIR", "REPORT")
    told = os.environ | {name: str(tmp_path / name.split("_")[0].lower()) for name in names}
    told |= {"SCALE": "smoke", "ARCHS": "fc1 fc1_nobias"}
    told |= {"FLAGS": "--prune_iterations=2 --end_iter=1 --workers=1"}
    folder = ROOT / "experiments"
    appendices = [
        folder / f"{name}.sh" for name in ("frankle", "cosentino", "large", "black_images")
    ]
    for script in [*sorted(folder.glob("exp*.sh")), *appendices]:
        for program, *argv in calls_of(script, told, tmp_path):
            assert PROGRAMS[program](argv) == 0, (script, program, argv)
    page = (tmp_path / "report" / "report.html").read_text()
    numbers = (*range(1, 8), "frankle", "cosentino", "large", "black")
    for name in [f"exp{number}" for number in numbers]:
        assert f'id="{name}"' in page and (tmp_path / "report" / f"{name}.pdf").exists()
    assert not (tmp_path / "data").exists()  # the user's data folder is only read
    commands = json.loads((tmp_path / "report" / "exp3.json").read_text())["commands"]
    assert any("tickets.py --a" in line for line in commands)
    assert commands[-1].startswith("python report.py --experiment=3")


def test_an_unknown_scale_is_one_line():
    script = str(ROOT / "experiments" / "exp1_attack_rate.sh")
    told = os.environ | {"SCALE": "huge", "PYTHON": sys.executable}
    done = subprocess.run(["bash", script], capture_output=True, text=True, env=told)
    refused(done, "SCALE=huge: smoke, small, long or paper is needed")
