"""benchmarks/gpu.sh: what each part would run makes sense, and a piece goes on where it was."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import ROOT, only, refused
from study.request import parse_runs

SCRIPT = ["bash", str(ROOT / "benchmarks" / "gpu.sh")]
NETWORKS = {
    **{arch: (arch, "mnist") for arch in ("lenet5", "resnet20", "alexnet", "vgg16", "resnet18")},
    "densenet121": ("densenet121", "mnist"),
    "cifar10-lenet5": ("lenet5", "cifar10_18k_6000"),
    "cifar10-resnet20": ("resnet20", "cifar10_18k_6000"),
}


def gpu(part, folder, **told):
    """Run a part of the script as its user does, its runs and cache in a folder."""
    told = {
        "RUNS_DIR": folder / "runs",
        "CACHE_DIR": folder / "cache",
        "PYTHON": sys.executable,
    } | told
    told = os.environ | {name: str(value) for name, value in told.items()}
    return subprocess.run([*SCRIPT, *part], capture_output=True, text=True, timeout=300, env=told)


@pytest.fixture
def recorded(tmp_path):
    """A function of a part and a scale: the commands it would run, each a list of arguments."""

    def commands(part, scale, **told):
        recorder, log = tmp_path / "python", tmp_path / "calls"
        record = f"""printf '%s\\0' "$@" >> {log}; printf '\\036\\0' >> {log}"""
        recorder.write_text(f"#!/bin/sh\n{record}\n")
        recorder.chmod(0o755)
        log.unlink(missing_ok=True)
        done = gpu([part], tmp_path, SCALE=scale, PYTHON=recorder, **told)
        assert done.returncode == 0 and f"{part}: done" in done.stdout, done.stderr
        calls = [line.split("\0")[:-1] for line in log.read_text().split("\x1e\0")[:-1]]
        return [call for call in calls if call[0] != "-c"]  # which asks for a GPU

    return commands


@pytest.mark.parametrize("scale", ["paper", "smoke"])
@pytest.mark.parametrize("part", NETWORKS)
def test_a_network_trains_with_three_seeds_and_the_controls(part, scale, recorded, tmp_path):
    arch, dataset = NETWORKS[part]
    images = np.zeros((20, 32, 32, 3), np.uint8)
    arrays = {"train_images": images, "train_labels": np.arange(20) % 10}
    arrays |= {"test_images": images, "test_labels": np.arange(20) % 10}
    np.savez(tmp_path / "cifar10_18k_6000.npz", **arrays)
    *mains, (plots, *_) = recorded(part, scale, DATA_DIR=tmp_path)
    runs = [run for main, *flags in mains for run in parse_runs(flags).configs]
    paper = scale == "paper"
    assert {main for main, *_ in mains} == {"main.py"} and plots == "plots.py"
    assert {run.arch_type for run in runs} == {arch} and len(runs) == (18 if paper else 12)
    assert {run.dataset for run in runs} == {dataset if paper else "digits"}
    assert {run.device for run in runs} == {"cuda" if paper else "auto"}
    assert {(run.attack, run.mix_ratio) for run in runs} == {
        ("fgsm", 0), ("fgsm", 0.5), ("omit", 0.5)
    }  # fmt: skip
    assert all(run.prune_iterations * run.end_iter > 20 for run in runs) == paper


@pytest.mark.parametrize("scale", ["paper", "smoke"])
def test_the_other_parts(scale, recorded):
    (tests,) = recorded("tests", scale)
    assert tests[:2] == ["-m", "pytest"] and len(tests) > 4
    assert all((ROOT / path).exists() for path in tests[3:])
    for part, runs in (("types", 70), ("frankle", 10), ("cosentino", 10)):
        *mains, (report, *_) = recorded(part, scale)
        configs = [c for main, *flags in mains for c in parse_runs(flags).configs]
        assert report == "report.py" and {c.cohort_size for c in configs} == {16}
        assert scale == "smoke" or len(configs) == runs
    (speed,) = recorded("speed", scale)
    assert (ROOT / speed[0]).exists() and ("--cuda" in speed) == (scale == "paper")
    mains = [call for call in recorded("equality", scale) if call[0] == "main.py"]
    one, rounding, other, together = (parse_runs(flags).configs for _, *flags in mains)
    for runs in (rounding, other, together):
        assert [run.results() for run in one] == [run.results() for run in runs]
    assert {run.threads for run in one} != {run.threads for run in rounding}
    assert {run.cohort_size for run in together} == {3} and {run.device for run in one} == {"cpu"}
    runs = parse_runs(recorded("exp1", scale)[0][1:]).configs
    assert {run.prune_iterations for run in runs} == ({35} if scale == "paper" else {3})


@pytest.mark.slow
def test_a_piece_ends_in_time_and_the_next_goes_on_where_it_was(tmp_path):
    flags = "--arch_type=fc1 --prune_iterations=2 --end_iter=20000 --workers=1"
    flags += " --device=cpu --step=torch"
    told, places = {"SCALE": "smoke", "FLAGS": flags}, []
    room = tmp_path / "runs" / "gpu" / "smoke"
    for _ in range(10):  # on a busy machine the surrogate may take the first pieces
        piece = gpu(["lenet5"], tmp_path, LIMIT=12, **told)
        assert piece.returncode == 75 and "the same command goes on" in piece.stdout, piece.stderr
        for path in (room / "lenet5").glob("*/partial.pt"):
            state = torch.load(path, weights_only=True)
            places.append((state["epoch"], state["step"]))
        if places and places[0] < places[-1]:
            break
    assert places[0] < places[-1]
    told["FLAGS"] = flags.replace("20000", "1")
    done = gpu(["lenet5"], tmp_path, **told)
    assert done.returncode == 0 and "lenet5: done in" in done.stdout, done.stderr
    assert len(list((room / "lenet5").glob("*/DONE"))) == 12
    assert only(room / "plots" / "lenet5", "*-accuracy.png").stat().st_size


def test_what_cannot_be_is_told_in_a_line(tmp_path):
    parts = "one of tests equality speed exp1 types frankle cosentino lenet5"
    refused(gpu([], tmp_path), parts)
    refused(gpu(["lenet"], tmp_path), f"PART 'lenet': {parts}")
    refused(gpu(["speed"], tmp_path, SCALE="huge"), "SCALE=huge: paper or smoke is needed")
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    refused(gpu(["speed"], tmp_path, **hidden), "torch sees no CUDA device here: SCALE=smoke")
