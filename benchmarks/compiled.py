"""Parts of benchmarks/speed.py on a CPU: the compiled step beside the torch step and the old loop.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data_dir=data --parts compiled whole pair
    OMP_NUM_THREADS=1 python benchmarks/speed.py --data_dir=data --parts growth crossover startup

compiled: whole epochs of fc1 with validation, each density and step and the old loop in turn;
whole: main.py from shell to shell, 12 rounds at 20 % and 35 at 10 %, 3 epochs a round, and how much
of it is not training; pair: two runs on two cores, and two threads against two processes; growth:
seconds an epoch by density, width and images, drawn as docs/growth.png; crossover: dense and sparse
layers, by density and block; startup: what compiling takes, once and from the cache, and digits;
online: adversarial training.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from math import prod
from pathlib import Path

from torch import nn

import archs
import engine.net as net_module
import train
from engine import compiled
from engine.adversarial import against
from engine.cohort import Data
from engine.compiled_step import CompiledStepper
from engine.step import Stepper
from results.figures import plain_log_axis
from study.request import parse

ROOT = Path(__file__).parent.parent
DENSITIES = (1.0, 0.5, 0.25, 0.134, 0.086, 0.03)


def kernels(bench):
    """The compiled kernels, kept in a folder of their own."""
    return compiled.kernels(str(Path(tempfile.gettempdir()) / "lth-benchmarks"))


def config(*flags):
    """The flags that matter to a step: the defaults, and these."""
    return parse(["--dataset=digits", "--end_iter=1", *flags])[0]


def epochs_in_turn(bench):
    """Whole epochs of both steps at each density and of the old loop, in turn; their ratios."""
    made, rounds = kernels(bench), []
    densities = DENSITIES[::4] if bench.quick else DENSITIES
    arms = [(density, kind) for density in densities for kind in (None, made)]
    fits = [
        (bench.cohort("fc1", density=density, made=kind), bench.pool(1)) for density, kind in arms
    ]
    for net, pool in fits:
        train.fit(net, pool, [config()], 0)
    old = bench.baseline_epoch()
    for _ in range(bench.epochs):
        seconds = [
            bench.timed(lambda net=net, pool=pool: train.fit(net, pool, [config()], 0))
            for net, pool in fits
        ]
        rounds.append([*seconds, bench.timed(old)])
    for number, (density, kind) in enumerate(arms):
        how = "compiled" if kind else "torch"
        bench.add("fc1", how, 1, 60, density, statistics.median(row[number] for row in rounds))
    bench.add("fc1", "old loop", 1, 60, 0.5, statistics.median(row[-1] for row in rounds))
    for place, density in enumerate(densities):
        torchs = [row[2 * place] / row[2 * place + 1] for row in rounds]
        olds = [row[-1] / row[2 * place + 1] for row in rounds]
        row = {"network": "fc1", "how": "ratio", "density": density}
        row |= {"torch step / compiled": round(statistics.median(torchs), 2)}
        bench.rows.append(row | {"old loop / compiled": round(statistics.median(olds), 2)})
        print(bench.rows[-1], flush=True)


TIMED = """
import sys, time
began = time.perf_counter()
sys.path.insert(0, "{root}")
import experiment, main
fit, spent = experiment.fit, [0.0]
def timed(*args):
    start = time.perf_counter()
    try:
        return fit(*args)
    finally:
        spent[0] += time.perf_counter() - start
experiment.fit = timed
code = main.main(sys.argv[1:])
print("seconds", time.perf_counter() - began, spent[0])
sys.exit(code)
"""


def command(bench, *flags):
    """(seconds from shell to shell, of them in training and validation) of a command of main.py."""
    with tempfile.TemporaryDirectory() as folder:
        places = [
            f"--runs_dir={folder}/runs",
            f"--cache_dir={tempfile.gettempdir()}/lth-benchmarks",
        ]
        places += [f"--data_dir={Path(bench.data_dir).resolve()}", "--workers=1"]
        code = TIMED.format(root=ROOT)
        began = time.perf_counter()
        call = [sys.executable, "-c", code, *places, *flags]
        done = subprocess.run(call, check=True, capture_output=True, text=True, cwd=folder)
        seconds = time.perf_counter() - began
    return seconds, float(done.stdout.split()[-1])


def whole_runs(bench):
    """Runs of main.py by both steps, in turn."""
    for rounds, percent in ((2, 50),) if bench.quick else ((12, 20), (35, 10)):
        flags = ["--dataset=mnist", f"--prune_iterations={rounds}", f"--prune_percent={percent}"]
        flags += [f"--end_iter={1 if bench.quick else 3}"]
        taken = {"torch": [], "compiled": []}
        # the longer one is long enough to be told once
        for _ in range(1 if bench.quick or rounds > 12 else 2):
            for step, found in taken.items():
                found.append(command(bench, *flags, f"--step={step}"))
        seconds = {step: statistics.median(s for s, _ in found) for step, found in taken.items()}
        pairs = zip(taken["torch"], taken["compiled"], strict=True)
        ratio = statistics.median(theirs[0] / ours[0] for theirs, ours in pairs)
        rest = statistics.median((s - training) / s for s, training in taken["compiled"])
        row = {"network": "fc1", "how": f"whole run, {rounds} rounds at {percent} %"}
        row |= {f"{step} seconds": round(value, 1) for step, value in seconds.items()}
        row |= {"ratio": round(ratio, 2), "not training, percent": round(100 * rest, 1)}
        bench.rows.append(row)
        print(row, flush=True)


def pair(bench):
    """Two runs in two processes beside one; and their steps in two threads of one process."""
    flags = ["--dataset=mnist", "--prune_iterations=12", "--prune_percent=20", "--end_iter=3"]
    flags = flags[:1] + ["--prune_iterations=2", "--end_iter=1"] if bench.quick else flags
    one, two = [], []
    for _ in range(1 if bench.quick else 2):
        one.append(command(bench, *flags, "--seed=0")[0])
        with tempfile.TemporaryDirectory() as folder:
            places = [f"--runs_dir={folder}/runs", f"--data_dir={Path(bench.data_dir).resolve()}"]
            places += [f"--cache_dir={tempfile.gettempdir()}/lth-benchmarks", "--workers=2"]
            call = [sys.executable, str(ROOT / "main.py"), *flags, *places, "--seed", "0", "1"]
            two.append(
                bench.timed(lambda call=call: subprocess.run(call, check=True, capture_output=True))
            )
    ratio = statistics.median(2 * a / b for a, b in zip(one, two, strict=True))
    row = {"network": "fc1", "how": "two runs in two processes", "one": round(min(one), 1)}
    bench.rows.append(row | {"two": round(min(two), 1), "times one": round(ratio, 2)})
    print(bench.rows[-1], flush=True)
    steppers = [
        CompiledStepper(
            bench.cohort("fc1", density=0.2, made=kernels(bench)), bench.pool(1), [config()]
        )
        for _ in range(2)
    ]
    for stepper in steppers:
        stepper.start(0, 0)

    def advance(stepper):
        stepper.move_to(0)
        stepper.advance(min(400, stepper.steps))

    def both():
        threads = [threading.Thread(target=advance, args=(stepper,)) for stepper in steppers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ratios = []
    for _ in range(1 if bench.quick else 5):
        alone = bench.timed(lambda: advance(steppers[0]))
        ratios.append(2 * alone / bench.timed(both))
    row = {"network": "fc1", "how": "steps of two nets in two threads"}
    bench.rows.append(row | {"times one": round(statistics.median(ratios), 2)})
    print(bench.rows[-1], flush=True)


def epoch_seconds(bench, net, pool, steps=120, flags=None):
    """Seconds an epoch of 55,000 images takes by some steps of a cohort."""
    kind, flags = CompiledStepper if net.nets else Stepper, flags or config()
    stepper = kind(net, pool, [flags], **against(net, flags))
    stepper.start(0, 0)
    steps = min(steps, stepper.steps // 4)
    stepper.advance(steps // 4)
    found = [bench.timed(lambda: stepper.advance(steps)) for _ in range(3)]
    return min(found) / steps * stepper.steps


def wide(width):
    """The name of a network like fc1 with another width of its first layer, registered for this."""

    def make(in_shape, num_classes):
        sizes, parts = (prod(in_shape), width, 100, num_classes), OrderedDict(flatten=nn.Flatten())
        for number, (inside, out) in enumerate(itertools.pairwise(sizes)):
            parts[f"fc{number}"] = nn.Linear(inside, out)
            parts[f"relu{number}"] = nn.ReLU()
        parts.popitem()
        return nn.Sequential(parts)

    name = f"fc1 {width} wide"
    if name not in archs.ARCHS:
        archs.ARCHS[name] = make
    return name


def growth(bench):
    """Seconds an epoch against density, width and images, both steps, and the picture."""
    made, points = kernels(bench), {}
    for step, kind in (("compiled", made), ("torch", None)):
        for density in (1.0, 0.7, 0.5, 0.35, 0.25, 0.134, 0.086, 0.05, 0.03, 0.02):
            seconds = epoch_seconds(
                bench, bench.cohort("fc1", density=density, made=kind), bench.pool(1)
            )
            points.setdefault(("density", step), []).append((density, seconds))
        for width in (150, 300, 600, 1200, 2400):
            seconds = epoch_seconds(
                bench, bench.cohort(wide(width), density=0.086, made=kind), bench.pool(1), 60
            )
            points.setdefault(("units in the first layer", step), []).append((width, seconds))
        for count in (6_875, 13_750, 27_500, 55_000):
            whole = bench.pool(1)
            part = Data(whole.images, whole.labels, whole.train_index[:, :count], whole.val_index)
            seconds = epoch_seconds(bench, bench.cohort("fc1", density=0.086, made=kind), part)
            points.setdefault(("training images", step), []).append((count, seconds))
        print(step, points, flush=True)
    for (what, step), found in points.items():
        values = [[x, round(seconds, 4)] for x, seconds in found]
        bench.rows.append({"network": "fc1", "how": f"by {what}", "step": step, "points": values})
    if not bench.quick:
        draw(points, ROOT / "docs" / "growth.png")


def draw(points, path):
    """Three panels: seconds an epoch against each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    names = list(dict.fromkeys(what for what, _ in points))
    for axis, what in zip(figure.subplots(1, len(names)), names, strict=True):
        for step, marker in (("torch", "s"), ("compiled", "o")):
            x, seconds = zip(*points[what, step], strict=True)
            axis.plot(x, seconds, marker=marker, label=f"--step={step}")
        axis.set(xscale="log", yscale="log", xlabel=what, ylabel="seconds an epoch")
        axis.grid(alpha=0.3)
        if what == "density":
            axis.invert_xaxis()
        plain_log_axis(axis)
        axis.set_xticks(list(x), [f"{value:g}" for value in x], rotation=45)
        axis.xaxis.minorticks_off()
    axis.legend()
    figure.suptitle("fc1 on MNIST, batch 60, one thread; density 0.086 in the two on the right")
    figure.savefig(path, dpi=120)


def crossover(bench):
    """Dense and sparse layers at each density, by the width of a sparse layer's blocks."""
    usual = net_module.SPARSE, net_module.CUT, net_module.BLOCK

    def seconds(density, *kind):
        net_module.SPARSE, net_module.CUT, net_module.BLOCK = kind
        return round(
            epoch_seconds(
                bench, bench.cohort("fc1", density=density, made=kernels(bench)), bench.pool(1)
            ),
            3,
        )

    try:
        for density in (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.03):
            row = {"network": "fc1", "how": "crossover", "density": density}
            row |= {
                "dense": seconds(density, 0, 0, 1),
                "sparse, one block": seconds(density, 2, 2, 1),
            }
            row |= {f"blocks of {b}": seconds(density, 2, 0, b) for b in (56, 112, 196, 392)}
            bench.rows.append(row)
            print(row, flush=True)
    finally:
        net_module.SPARSE, net_module.CUT, net_module.BLOCK = usual


def startup(bench):
    """Seconds that compiling takes, at first and from the cache; digits from shell to shell."""
    load = "import time; began = time.perf_counter(); from engine import compiled; "
    load += "import torch; loaded = time.perf_counter(); compiled.kernels('{folder}', str); "
    load += "print(time.perf_counter() - loaded)"
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for _ in range(4):
            call = [sys.executable, "-c", load.format(folder=folder)]
            done = subprocess.run(call, check=True, capture_output=True, text=True, cwd=ROOT)
            found.append(round(float(done.stdout), 2))
    row = {"network": "fc1", "how": "compiling", "seconds at first": found[0]}
    bench.rows.append(row | {"from the cache": statistics.median(found[1:])})
    print(bench.rows[-1], flush=True)
    for flags in (["--prune_percent=20", "--prune_iterations=12", "--end_iter=3"], []):
        seconds = statistics.median(command(bench, *flags)[0] for _ in range(3))
        what = " ".join(["python main.py", *flags])
        bench.rows.append({"network": "fc1", "how": what, "seconds": round(seconds, 2)})
        print(json.dumps(bench.rows[-1]), flush=True)


def online(bench):
    """Adversarial training, half of each batch attacked as it comes, by both steps."""
    made = kernels(bench)
    for attack in (["fgsm"], ["pgd", "--attack_steps=10", "--attack_step_size=0.05"], ["noise"]):
        more = ["--attack_mode=online", "--mix_ratio=0.5", f"--attack={attack[0]}", *attack[1:]]
        for density in (1.0, 0.25, 0.086):
            seconds = [
                epoch_seconds(
                    bench,
                    bench.cohort("fc1", density=density, made=kind),
                    bench.pool(1),
                    40,
                    config(*more),
                )
                for kind in (None, made)
            ]
            row = {"network": "fc1", "how": f"online {attack[0]}", "density": density}
            row |= {"torch": round(seconds[0], 2), "compiled": round(seconds[1], 2)}
            bench.rows.append(row | {"ratio": round(seconds[0] / seconds[1], 1)})
            print(bench.rows[-1], flush=True)


PARTS = {
    "compiled": epochs_in_turn, "whole": whole_runs, "pair": pair, "growth": growth,
    "crossover": crossover, "startup": startup, "online": online,
}  # fmt: skip
