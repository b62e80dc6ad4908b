"""The compiled kernels: fully connected nets on a CPU at the cost of their alive weights.

Compiled once a machine, and held against torch each time they are loaded.
"""

import contextlib
import functools
import importlib.metadata
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import nn

from archs.parts import Normalise
from attacks import Signs
from engine.net import Net, layers_of
from utils import hash8, one_line

SOURCES = ("simd", "passes", "kernels")  # of the compiled code


def kernels_for(config, model, device, say):
    """The compiled kernels for runs of this network and these flags, or None: torch trains them.

    `say` is told in a line why --step=compiled cannot be.
    """
    why = ""
    if device.type != "cpu":
        why = "it is of CPUs, and this trains on a GPU"
    elif config.precision == "bf16":
        why = "it computes in fp32, and --precision=bf16 was asked for"
    elif config.attack_mode == "trades":
        why = "it has no loss but the cross-entropy, and --attack_mode=trades was asked for"
    elif layers_of(model) is None:
        why = f"{config.arch_type} is not made of linear layers with ReLU between them alone"
    if why and config.step == "compiled":
        say(f"note: --step=compiled cannot be ({why}): torch computes the steps")
    return None if why or config.step == "torch" else kernels(config.cache_dir, say)


def step_of(made):
    """What computes the steps, in config.json's words."""
    return f"compiled by numba {importlib.metadata.version('numba')}" if made else "torch"


# The kernels -------------------------------------------------------------------------------------


@functools.cache
def kernels(cache_dir, say=print):
    """engine.kernels, compiled, or None where that cannot be: `say` is told why in a line.

    Its code is kept in <cache_dir>/compiled (or NUMBA_CACHE_DIR), if that can be written, by what
    it was made of, and by numba by the processor too. Processes that want it at once make it once.
    """
    try:
        import llvmlite.binding
        import numba

        made_of = [Path(__file__).with_name(f"{n}.py").read_text() for n in SOURCES]
        parent = os.environ.get("NUMBA_CACHE_DIR") or Path(cache_dir).absolute() / "compiled"
        folder = Path(parent) / hash8([*made_of, numba.__version__])
        if not os.environ.get("NUMBA_CPU_NAME"):
            numba.config.CPU_NAME = llvmlite.binding.get_host_cpu_name()
            features = llvmlite.binding.get_host_cpu_features().flatten()
            # LLVM would halve the widest registers of some processors
            numba.config.CPU_FEATURES = f"{features},-prefer-256-bit"
        with _locked(folder, say) as writable:
            numba.config.CACHE_DIR = str(folder)
            from engine import kernels as made

            _load(made, folder, writable, say)
        return made
    except ImportError as error:
        missing = str(error.name).split(".")[0] in ("numba", "llvmlite")
        why = "numba is not installed" if missing else one_line(error)
    except Exception as error:  # numba and LLVM have dozens of types of their own
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
    right = "fully connected nets train by torch, several times slower"
    say(f"note: the compiled step cannot be used ({why}): {right}")
    return None


def _load(made, folder, writable, say):
    """Compile the kernels or load them from the folder; damaged files in it are made again."""
    for _ in range(2):
        if writable:
            for entry in (made.train, made.predict, made.pull_back, made.attack):
                entry.enable_caching()
        files = list(folder.glob("*/*.nb?"))
        if not files:
            what = "the step of fully connected nets, once on this machine"
            say(f"compiling {what} (some ten seconds)")
        try:
            return _check(made)
        except Exception as error:  # of a damaged file pickle and numba raise whatever comes
            if not (files and writable):
                raise
            say(f"note: {folder} is damaged ({one_line(error)[:80]}) and is made again")
            for path in files:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder, say):
    """Hold the folder's lock; yields whether it can be written at all."""
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(folder / ".lock"))
            writable = True
        except OSError as error:
            why = f"{folder} cannot be written ({error.strerror})"
            say(f"note: {why}: the step is compiled anew by each command (some ten seconds)")
            writable = False
        yield writable


def _check(made):
    """Compile everything, and hold a small net against torch; ArithmeticError if it differs."""
    draw = torch.Generator().manual_seed(0)
    parts = {"h": nn.Linear(20, 7), "relu": nn.ReLU(), "t": nn.Linear(7, 3)}
    net = nn.Sequential(OrderedDict({"flatten": nn.Flatten(), **parts}))
    model = nn.Sequential(OrderedDict(normalise=Normalise([0.5], [0.5]), net=net))
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=draw)
    masks = {"net.h.weight": torch.rand(7, 20, generator=draw) < 0.3}
    model.net.h.weight.data *= masks["net.h.weight"]
    images = torch.rand(70, 1, 4, 5, generator=draw, requires_grad=True)
    labels = torch.arange(70) % 3
    tensors = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    mine = Net(made, model, tensors, masks)
    loss = F.cross_entropy(model(images), labels)
    stepped = mine.attack(images.detach(), labels, Signs(0.1, 1, 0.1), None)
    (pulled,) = torch.autograd.grad(F.cross_entropy(mine.logits(images), labels), images)
    (truth,) = torch.autograd.grad(loss, images, retain_graph=True)
    loss.backward()
    losses = mine.train(
        (torch.zeros_like(mine.values), torch.zeros_like(mine.values)),
        images.detach().flatten(1).numpy(), labels.numpy(), np.arange(70), np.array([70]), (0, 1),
        70, np.full(1, 0.1, np.float32), 0, np.zeros(6),
    )  # fmt: skip
    mine.push()
    moved = (images + 0.1 * truth.sign()).clamp(0, 1)
    right = [(truth, pulled), (moved, stepped), (loss, torch.from_numpy(losses)[0])]
    for name, weight in model.named_parameters():
        right.append(((weight - 0.1 * weight.grad) * masks.get(name, 1), tensors[name]))
    if not all(torch.allclose(theirs, ours, rtol=1e-3, atol=1e-4) for theirs, ours in right):
        raise ArithmeticError("its results differ from torch's on this processor")
