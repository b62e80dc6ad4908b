"""The experiments' scripts, from data to page."""

import json
import os
import subprocess
import sys

import numpy as np

from helpers import ROOT, refused


def test_black_images_are_the_casts_of_attacked_ones(tmp_path, cache):
    from experiments import make_data

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


def test_the_scripts_from_data_to_page(tmp_path):
    """All six and the appendix, in runs as short as can be."""
    names = ("RUNS_DIR", "CACHE_DIR", "DATA_DIR", "REPORT")
    told = os.environ | {name: str(tmp_path / name.split("_")[0].lower()) for name in names}
    told |= {"SCALE": "smoke", "PYTHON": sys.executable, "ARCHS": "fc1 fc1_nobias"}
    told |= {"FLAGS": "--prune_iterations=2 --end_iter=1 --workers=1", "OMP_NUM_THREADS": "1"}
    folder = ROOT / "experiments"
    for script in [*sorted(folder.glob("exp*.sh")), folder / "black_images.sh"]:
        keywords = {"capture_output": True, "text": True, "timeout": 1800, "env": told}
        done = subprocess.run(["bash", str(script)], cwd=tmp_path, **keywords)
        assert done.returncode == 0, done.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    for name in [f"exp{number}" for number in (*range(1, 7), "black")]:
        assert f'id="{name}"' in page and (tmp_path / "report" / f"{name}.pdf").exists()
    assert not (tmp_path / "data").exists()  # the user's data folder is only read
    commands = json.loads((tmp_path / "report" / "exp3.json").read_text())["commands"]
    assert any("tickets.py --a" in line for line in commands)
    assert commands[-1].startswith("python report.py --experiment=3")


def test_an_unknown_scale_is_one_line():
    script = str(ROOT / "experiments" / "exp1_attack_rate.sh")
    told = os.environ | {"SCALE": "huge", "PYTHON": sys.executable}
    done = subprocess.run(["bash", script], capture_output=True, text=True, env=told)
    refused(done, "SCALE=huge: smoke, small or paper is needed")
