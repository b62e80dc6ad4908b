"""What several test files use."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import attacks
import main
import pruning
from config import RunConfig, resolve
from engine.cohort import Cohort, Data
from engine.compiled_step import CompiledStepper
from engine.place import Keeper
from engine.signals import stop
from store.files import load_tensors, read_csv, save_tensors, write_csv, write_json, write_text
from store.runfolder import ROUND_COLUMNS
from study.cohorts import new_run, run_cohort
from study.request import parse
from utils import stream

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
SHORT = ["--prune_iterations=3", "--end_iter=2", "--prune_percent=50"]


# Runs ------------------------------------------------------------------------------------------


def train(config):
    """Train a RunConfig's run in this process; returns its RunFolder."""
    run = new_run(config)
    (outcome,) = run_cohort([run], say=lambda text: None)
    assert outcome.state == "done", outcome
    return run.folder


def go(folder, *flags):
    """main.py in this process, one worker, into that folder of runs; returns its exit code."""
    workers = [] if any(flag.startswith("--workers") for flag in flags) else ["--workers=1"]
    return main.main([f"--runs_dir={folder}", *flags, *workers])


def only(folder, pattern="*"):
    """The one path in a folder that fits."""
    (path,) = Path(folder).glob(pattern)
    return path


def numbers(folder):
    """Everything a run computed: its tables without seconds, its masks, its weights."""
    rounds = read_csv(folder / "rounds.csv")
    rounds = [{name: value for name, value in row.items() if name != "seconds"} for row in rounds]
    paths = sorted(folder.rglob("*.safetensors"))
    tensors = {str(path.relative_to(folder)): load_tensors(path) for path in paths}
    return rounds, read_csv(folder / "epochs.csv"), tensors


def same(a, b):
    """Assert that two runs computed the same, bit for bit; a and b as `numbers` gives them."""
    assert a[0] == b[0] and a[1] == b[1] and a[2].keys() == b[2].keys()
    for path, tensors in a[2].items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, b[2][path][name]), path


def saved_flags(folder):
    """The flags in config.json."""
    return json.loads((Path(folder) / "config.json").read_text())["flags"]


def python(script, *flags, **keywords):
    """A script of the repository in a process of its own, as a user calls it."""
    command = [sys.executable, str(ROOT / script), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **keywords)


def refused(done, says):
    """Assert that a finished process ended with exit code 2 and one line that has these words."""
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr


class StopsAt:
    """Stands for a signal that comes after so many steps of a call of main."""

    def __init__(self, monkeypatch, every):
        self.count, self.every = 0, every
        monkeypatch.setattr(Keeper, "stopping", property(lambda keeper: self.ask()))
        monkeypatch.setattr(CompiledStepper, "WEIGHTS_AT_ONCE", 0)  # it is asked at every step

    def ask(self):
        self.count += 1
        stop.signal = signal.SIGTERM if self.count > self.every else None
        return self.count > self.every


# Small networks and data -----------------------------------------------------------------------

CONFIG = RunConfig.of({"end_iter": 2, "batch_size": 50, "lr": 1e-3})


def ordered(config, *seeds):
    """This configuration once for each order seed."""
    return [config.replace(order_seed=seed) for seed in seeds]


def small_net(channels=1):
    """Everything a cohort must stack: convolution, batch-norm with buffers, linear.

    No bias before batch-norm: its gradient is rounding noise around 0, which Adam blows up to full
    steps.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


def make_data(runs=1, count=130, held_out=30, shape=(1, 8, 8)):
    """Random images in three classes, each run's own split."""
    torch.manual_seed(7)
    images = torch.rand(count + held_out, *shape)
    labels = torch.randint(0, 3, (count + held_out,))
    order = torch.stack([torch.randperm(count + held_out) for _ in range(runs)])
    return Data(images, labels, order[:, :count], order[:, count:])


def of_run(data, run):
    """The Data of one run of a cohort."""
    rows = slice(run, run + 1)
    return Data(data.images, data.labels, data.train_index[rows], data.val_index[rows])


def states(runs, make=small_net):
    """R states of a network."""
    made = []
    for run in range(runs):
        torch.manual_seed(run)
        made.append({name: value.clone() for name, value in make().state_dict().items()})
    return made


def half_masks(runs, density=0.5):
    """R times masks of small_net."""
    generator = torch.Generator().manual_seed(3)
    shapes = {name: mask.shape for name, mask in pruning.ones(small_net()).items()}
    return [
        {n: torch.rand(shape, generator=generator) < density for n, shape in shapes.items()}
        for _ in range(runs)
    ]


def dense_cohort(make=small_net):
    """A cohort of one, nothing pruned."""
    return Cohort(make(), states(1, make), [pruning.ones(make())], CPU)


def whitebox(cohort, settings, images, labels, index):
    """attacks.attack_test_images of a cohort."""
    cohort.model.eval()
    lead = (cohort.size,) if cohort.size > 1 else ()
    return attacks.attack_test_images(cohort.logits, lead, settings, images, labels, index)


# Run folders without training ------------------------------------------------------------------

DENSITIES = [1.0, 0.5, 0.25, 0.1, 0.05]


def fake_run(folder, accuracies, columns=(), done=True, **flags):
    """A run folder with these test accuracies, one a round at DENSITIES; returns its path.

    columns: name -> value of more columns of rounds.csv, or of the usual ones.
    """
    planned = {"attack": "fgsm", "mix_ratio": 0.0, "prune_iterations": len(DENSITIES)}
    config = resolve(planned | flags, (1, 28, 28))
    path = Path(folder) / f"{len(list(Path(folder).glob('*'))):03}-{config.run_name}"
    attacked = {} if config.attack is None else {f"transfer_{config.attack}_accuracy": 50.0}
    whitebox = {f"whitebox_{name}_accuracy": 10.0 for name in config.eval_attacks}
    rows = [
        {"round": number, "kept": round(1000 * density), "total": 1000, "density": density}
        | {"best_epoch": 0, "early_stop_iteration": 100 + 10 * number, "val_accuracy": accuracy}
        | {"test_accuracy": accuracy, "test_accuracy_last": accuracy, "seconds": 1.0}
        | attacked | whitebox | dict(columns)
        for number, (density, accuracy) in enumerate(zip(DENSITIES, accuracies, strict=False))
    ]  # fmt: skip
    ran = {"revision": "abcdef0123456789", "versions": {"torch": "2.0"}, "device": "cpu"}
    write_json(path / "config.json", {"flags": config.flags(), "provenance": ran})
    write_csv(path / "rounds.csv", rows)
    if done:
        write_text(path / "DONE", "")
    return path


def fake_study(folder, conditions, seeds=(0, 1, 2, 3, 4), noise=0.1, **common):
    """lt and reinit runs for each condition; returns the folder.

    A condition is (flags, gain of lt over reinit after round 0, accuracy of the dense net).
    """
    shared, rng = np.random.default_rng(7), np.random.default_rng([*Path(folder).name.encode()])
    Path(folder).mkdir(parents=True, exist_ok=True)
    for flags, gain, dense in conditions:
        for seed in seeds:
            # what the arms of one seed share, ten times the noise
            base = dense + shared.normal(0, 1)
            for kind in ("lt", "reinit"):
                own = base + (gain if kind == "lt" else 0)
                later = [own + rng.normal(0, noise) for _ in DENSITIES[1:]]
                accuracies = np.clip([base, *later], 0, 100).tolist()
                fake_run(folder, accuracies, prune_type=kind, seed=seed, **common, **flags)
    return Path(folder)


# Run folders that nobody trained ---------------------------------------------------------------

MASK_SHAPES = {"net.fc1.weight": (20, 784), "net.fc2.weight": (10, 20)}


def write_run(
    path, seed=0, order=0, flags=(), rounds=3, shapes=MASK_SHAPES, weights=True, share=0.5
):
    """A run folder of nested masks that share theta_0 by `seed`; those alike but for the order
    share more. share: of the weights that a round leaves.
    """
    config = parse([f"--seed={seed}", f"--order_seed={order}", "--prune_iterations=3", *flags])[0]
    names = (seed, "theta0"), (seed, "data", *flags), (seed, "order", *flags, order)
    by_theta0, by_data, by_order = (np.random.default_rng(stream(*name)) for name in names)
    theta0, trained = {}, {}
    for name, shape in shapes.items():
        first = by_theta0.standard_normal(shape)
        noise = 0.5 * by_data.standard_normal(shape) + 0.3 * by_order.standard_normal(shape)
        theta0[name], trained[name] = (torch.from_numpy(x).float() for x in (first, first + noise))
    write_json(path / "config.json", {"flags": config.flags()})
    save_tensors(path / "theta0.safetensors", theta0 | {"net.fc1.bias": torch.zeros(20)})
    rows = []
    for number in range(rounds):
        masks = {n: w.abs() >= w.abs().quantile(1 - share**number) for n, w in trained.items()}
        save_tensors(path / f"masks/round_{number:02}.safetensors", masks)
        if weights:
            alive = {name: trained[name] * masks[name] for name in masks}
            save_tensors(path / f"weights/round_{number:02}.safetensors", alive)
        kept, total = pruning.counts(masks)
        row = dict.fromkeys(ROUND_COLUMNS, 1)
        rows.append(row | {"round": number, "kept": kept, "total": total, "density": kept / total})
    write_csv(path / "rounds.csv", rows)
    return path
