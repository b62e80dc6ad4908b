"""How many runs of a network train together in the least time each, measured on the device.

A GPU that one small net leaves idle trains many at once, but stacked convolutions become grouped
ones, which are slower, so it depends on the network. It is asked for once: --cache_dir keeps it.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

import archs
from attacked.cache import cache_folder, locked
from config import RunConfig, attack_settings
from data import describe
from engine.machine import pick_device
from engine.timing import random_stepper, step_seconds
from store.files import write_json
from utils import UserError, one_line

VERSION = 1  # of how it is measured
SIZES = (1, 4, 16, 64)
FLAGS = ("arch_type", "batch_size", "precision", "optimizer", "momentum", "augment")


def fastest_size(config):
    """The cohort size of SIZES that takes the least time a run, of those within 5 % the smallest.

    1 where it cannot be measured, which is said.
    """
    recipe = what_counts(config)
    folder = cache_folder(config.cache_dir, "cohorts", config.arch_type, recipe)
    path = folder / "seconds.json"
    with locked(folder):
        seconds = kept(path)
        if not seconds:
            what = f"how many runs of {config.arch_type} train together fastest"
            print(f"measuring {what} on {recipe['device']} (kept in {path})", flush=True)
            try:
                seconds = in_its_own_process(config)
            except UserError as error:
                print(f"note: that cannot be measured, so they train alone: {error}")
                return 1
            write_json(path, {"recipe": recipe, "seconds": seconds})
    least = min(seconds.values())
    return min(int(size) for size, value in seconds.items() if value <= 1.05 * least)


def what_counts(config):
    """What the time of a step depends on."""
    shape, classes = describe(config.dataset, config.data_dir)
    device = torch.cuda.get_device_name(config.gpu or 0) if torch.cuda.is_available() else "cpu"
    recipe = {"device": device, "torch": torch.__version__, "version": VERSION}
    recipe |= {"images": list(shape), "classes": classes}
    recipe |= {name: getattr(config, name) for name in FLAGS}
    if config.adversarial:
        settings = attack_settings(config, config.attack, shape[0] > 1)
        recipe |= {"attack": settings.attack, "norm": settings.norm, **dict(settings.values)}
        recipe["mix_ratio"] = config.mix_ratio
    if config.attack_mode == "trades":
        recipe["attack_mode"] = config.attack_mode
    return recipe


def kept(path):
    """{size: seconds} as `fastest_size` wrote it; empty where there is none, or it is damaged."""
    try:
        seconds = json.loads(path.read_text())["seconds"]
        return {str(int(size)): float(value) for size, value in seconds.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def in_its_own_process(config):
    """{size: seconds a run and step}, from a process whose memory of the device is free afterwards.

    UserError, with the last thing that it said, where it fails.
    """
    flags = config.replace(data_dir=str(Path(config.data_dir).absolute())).flags()
    done = subprocess.run(
        [sys.executable, "-m", "study.measure"], input=json.dumps(flags), text=True,
        capture_output=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(one_line(said[-1]))
    return json.loads(done.stdout.splitlines()[-1])


def seconds_by_size(config, device):
    """{size: seconds a run and step}, up to where the device's memory ends or it only gets slower.

    OutOfMemoryError where not even one run fits.
    """
    shape, classes = describe(config.dataset, config.data_dir)
    model = archs.build(config.arch_type, shape, classes, ([0.5] * shape[0], [0.3] * shape[0]))
    found = {}
    for size in SIZES:
        try:
            seconds = step_seconds(random_stepper(config, model, size, shape, classes, device))
        except torch.OutOfMemoryError:
            if not found:
                raise
            break
        found[str(size)] = seconds / size
        if seconds / size > 1.5 * min(found.values()):
            break
    return found


if __name__ == "__main__":
    asked = RunConfig.of(json.load(sys.stdin))
    place = pick_device(asked.device, asked.gpu, say=lambda text: None)
    print(json.dumps(seconds_by_size(asked, place)))
