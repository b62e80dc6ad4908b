"""What several test files use."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import attacks
import main
import pruning
from config import RunConfig
from engine.cohort import Cohort, Data
from engine.place import Keeper
from engine.signals import stop
from store.files import load_tensors, read_csv
from study.cohorts import new_run, run_cohort

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
