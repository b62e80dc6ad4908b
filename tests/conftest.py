"""What several tests share: digits, a trained surrogate, the command line as a user calls it."""

import contextlib
import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
import main
from helpers import ROOT
from study.request import parse

torch.set_num_threads(1)
# compiled once, not by each process that a test starts
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "compiled"))


@pytest.fixture(scope="session")
def digits():
    """The embedded data set."""
    return data.load("digits", "data")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache folder for the whole session, so that the surrogate of digits trains once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_config(cache, tmp_path):
    """RunConfig from flags, with a small surrogate and folders of the test's own."""

    def make(*flags):
        folders = [
            f"--cache_dir={cache}",
            f"--runs_dir={tmp_path / 'runs'}",
            f"--data_dir={tmp_path / 'data'}",
        ]
        return parse([*folders, *flags])[0]

    return make


@pytest.fixture
def cli(cache, tmp_path, monkeypatch):
    """main.py on digits as its user calls it, but in this process: returncode, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        folders = {"cache_dir": cache, "runs_dir": tmp_path / "runs", "data_dir": tmp_path / "data"}
        places = [f"--{name}={path}" for name, path in folders.items()]
        told = [io.StringIO(), io.StringIO()]
        with contextlib.redirect_stdout(told[0]), contextlib.redirect_stderr(told[1]):
            code = main.main([*places, *map(str, flags)])
        return SimpleNamespace(
            returncode=code, stdout=told[0].getvalue(), stderr=told[1].getvalue()
        )

    return run


@pytest.fixture(scope="session")
def mnist():
    """Real MNIST from $LTH_DATA_DIR (default data); skipped where it is not."""
    folder = os.environ.get("LTH_DATA_DIR", str(ROOT / "data"))
    if not (Path(folder) / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {folder}; set LTH_DATA_DIR to where it is")
    return data.load("mnist", folder)


@pytest.fixture(scope="session")
def small_images(tmp_path_factory):
    """A folder with small.npz: 100 training and 20 test images of 12x12 pixels, on which
    convolutions take no time.
    """
    folder, draw = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (120, 12, 12), np.uint8), np.arange(120) % 4
    parts = {"train_images": images[:100], "train_labels": labels[:100]}
    np.savez(folder / "small.npz", **parts, test_images=images[100:], test_labels=labels[100:])
    return folder
