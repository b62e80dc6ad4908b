"""Seconds an epoch of fc1 on MNIST, batch 60, beside the old kind of loop, in one process; and a run's peak memory.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data_dir=data

The two take turns, so that a noisy machine slows both; figures are medians. Saved as benchmarks/speed.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import torch

import archs
import config as config_module
import data
import pruning
import train
from benchmarks import baseline_loop


def main():
    """Measure, print a table, save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each loop, alternating")
    parser.add_argument("--output", default=str(ROOT / "benchmarks" / "speed.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    ours, theirs = our_epoch(args.data_dir), baseline_epoch(args.data_dir)
    ours(), theirs()  # warm-up
    seconds = {"ours": [], "baseline": []}
    for _ in range(args.epochs):
        seconds["ours"].append(timed(ours))
        seconds["baseline"].append(timed(theirs))
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    result = {
        "what": "seconds an epoch, fc1 on MNIST (55,000 images), batch 60, density 0.5",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "threads": args.threads,
        **medians,
        "ratio": round(statistics.median(b / o for o, b in zip(seconds["ours"], seconds["baseline"], strict=True)), 2),
        "all": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "threads_compared": {count: thread_seconds(ours, count) for count in sorted({1, 2, os.cpu_count()})},
        "peak_memory_mb": peak_memory(args.data_dir),
    }
    print(f"one epoch of fc1 on MNIST, batch 60, {args.threads} thread(s): ours {result['ours']:.2f} s, baseline {result['baseline']:.2f} s")
    print(f"ratio {result['ratio']:.1f}; by threads {result['threads_compared']}; a run's peak memory {result['peak_memory_mb']} MB")
    Path(args.output).write_text(json.dumps(result, indent=2) + "\n")


def timed(function):
    """Seconds that one call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def thread_seconds(function, count):
    """Median seconds of three calls with `count` threads."""
    torch.set_num_threads(count)
    return round(statistics.median(timed(function) for _ in range(3)), 3)


def our_epoch(data_dir, density=1.0):
    """A function that trains one epoch as a round does, validation included."""
    config = config_module.parse(["--dataset=mnist", f"--data_dir={data_dir}", "--end_iter=1"])[0]
    dataset = data.load("mnist", data_dir)
    model = archs.build("fc1", dataset.in_shape, 10, data.channel_stats(dataset.train_images))
    split = [torch.from_numpy(part)[None] for part in data.split(60_000, 1 / 12, 0)]
    pool = train.Data(torch.from_numpy(dataset.train_images).float().div_(255), torch.from_numpy(dataset.train_labels), *split)
    masks = pruning.prune(dict(model.named_parameters()), pruning.ones(model), 100 * (1 - density))
    cohort = train.Cohort(model, [model.state_dict()], [masks], torch.device("cpu"))
    return lambda: train.fit(cohort, pool, config, [0], 0)


def baseline_epoch(data_dir):
    """A function that trains and validates one epoch the old way."""
    model = archs.build("fc1", (1, 28, 28), 10, ([0.0], [1.0]))  # its loader normalises
    masks = {name: mask.numpy() for name, mask in pruning.prune(dict(model.named_parameters()), pruning.ones(model), 50).items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3)
    loader, val_loader = baseline_loop.make_loaders(data_dir)
    return lambda: (baseline_loop.train_epoch(model, loader, optimizer, masks), baseline_loop.accuracy(model, val_loader))


def peak_memory(data_dir):
    """Megabytes a whole run of main.py takes at its peak: fc1 on MNIST, two rounds of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--dataset=mnist", f"--data_dir={data_dir}", f"--runs_dir={folder}", "--prune_iterations=2", "--end_iter=1"]
        subprocess.run([sys.executable, str(ROOT / "main.py"), *flags], check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


if __name__ == "__main__":
    main()
