"""config.json of a run folder: what was asked for and what it ran on, checked as it is read."""

import functools
import importlib.metadata
import json
import math
import platform
import subprocess
from pathlib import Path

from attacks import ATTACKS
from config import RunConfig, all_flags, present_names
from utils import UserError, number, seed_number, whole, words


def saved_config(folder):
    """What config.json of a run folder holds, with "flags" and "provenance".

    UserError if it is no run folder.
    """
    path = Path(folder) / "config.json"
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(saved, dict):
            raise TypeError("no flags in it")
        saved = {"provenance": {}} | saved
        resumed = saved.get("resumed", [])
        if not isinstance(saved["flags"], dict) or not isinstance(resumed, list):
            raise TypeError("no flags in it")
        saved["flags"] = present_names(saved["flags"])
        for record in (saved["provenance"], *resumed):
            if not isinstance(record, dict) or not isinstance(record.get("versions", {}), dict):
                raise TypeError("its provenance is damaged")
        check_flags(saved["flags"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{path.name} cannot be read ({error})"
        raise UserError(f"{folder} is not a run folder: {why}") from None
    return saved


def check_flags(flags):
    """ValueError for the first of a saved run's flags that has a value it cannot have."""
    for flag in all_flags():
        if not _can_be(flag, flags.get(flag.name, flag.default)):
            raise ValueError(f"{flag.name} is {flags[flag.name]!r}")
    attack, norm = flags.get("attack") or "fgsm", flags.get("norm", "linf")
    if "norm" in flags and norm not in ATTACKS[attack]:
        raise ValueError(f"norm is {norm!r}, and {attack} has {' and '.join(ATTACKS[attack])}")
    for name in ATTACKS[attack][norm].defaults if "norm" in flags else ():
        if flags.get(name, True) is None:
            raise ValueError(f"{name} is None, and {attack} has one")


def saved_run(folder):
    """The RunConfig of a run folder; UserError if it is none."""
    return RunConfig.of(saved_config(folder)["flags"])


def _can_be(flag, value):
    """Whether a saved value is one that this flag can have."""
    if value is None:
        return flag.default is None
    if flag.kind is words:
        return isinstance(value, list | tuple) and all(name in flag.names for name in value)
    if flag.kind is seed_number and value == "seed":
        return True
    if flag.kind in (whole, seed_number):
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    if flag.kind is number:
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return plain and math.isfinite(value)
    known = not flag.names or value in flag.names
    return isinstance(value, bool if flag.kind is bool else str) and known


def must_match(config, saved, folder):
    """Raise UserError if `config` would give other results than the flags `saved` in `folder`."""
    new, old = config.results(), RunConfig.of(saved).results()
    usual = {flag.name: flag.default for flag in all_flags()}  # what a late flag is, left out
    new, old = ({key: flags.get(key, usual[key]) for key in new | old} for flags in (new, old))
    differing = [
        f"{key} is {old[key]!r} there and {new[key]!r} here" for key in new if new[key] != old[key]
    ]
    if differing:
        raise UserError(f"{folder} belongs to another run: {'; '.join(differing)}")


def provenance(device, step="torch"):
    """Code revision, library versions, device and what computes the steps, for config.json."""
    import torch

    git = functools.partial(_told, "git", "-C", str(Path(__file__).parent))
    query = ("--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index or 0}")
    on_gpu = device.type == "cuda"
    libraries = ("torchvision", "deeprobust", "numpy")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {
        "revision": git("rev-parse", "HEAD") or None,
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        "versions": versions | {name: importlib.metadata.version(name) for name in libraries},
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "driver": {"cuda": torch.version.cuda, "driver": _told("nvidia-smi", *query)}
        if on_gpu
        else None,
        "step": step,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }


@functools.cache  # a cohort's runs ask the same; the code that runs is that of the first answer
def _told(*command):
    """What a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
