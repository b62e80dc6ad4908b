"""How long an epoch takes.

Beside the old kind of loop, by network, by runs trained together, batch size, data size, density
and precision.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data_dir=data     # CPU: about ten minutes
    python benchmarks/speed.py --data_dir=data --cuda                # the same on a GPU, R up to
                                                                     # 256, and experiment 1
    python benchmarks/speed.py --data_dir=data --quick [--cuda]      # all, small: does it work?
    bash benchmarks/gpu.sh speed                                     # on a GPU, in pieces
    python benchmarks/speed.py --data_dir=data --cuda --parts study  # a part of it: epochs networks
                                                                     # cohorts sizes study

One epoch is 55,000 images of MNIST. fc1 and the old loop take whole epochs in turn in one process,
so that a noisy machine slows both; the others are timed over some steps, times the steps of an
epoch. `floor` is the network's arithmetic alone, at the rate of a large matrix product on the same
device and threads. Figures are medians. `study` times main.py itself on experiment 1: 10 attack
rates, lt and reinit, 5 seeds, 35 rounds of 12 epochs, attacked images made before the clock starts.
The parts compiled, whole, pair, growth, crossover and startup are of benchmarks/compiled.py.
Saved as benchmarks/speed.json (speed-cuda.json) and drawn as docs/speed.png (speed-cuda.png); a run
of some parts keeps the others' figures of the same machine.
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
import data
import pruning
import train
from attacked.levels import to_float
from benchmarks import baseline_loop, compiled
from engine.cohort import Cohort, Data
from engine.graph import EAGER, Replay
from engine.machine import pick_device
from engine.step import Stepper
from results.figures import plain_log_axis
from store.files import write_json
from study.request import parse

EPOCH = 55_000


def main():
    """Measure, print a table, save and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--epochs", type=int, default=5, help="epochs of fc1 and of the old loop, in turn"
    )
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument(
        "--quick", action="store_true", help="small, to see that it works; saves nothing"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        help="default: all of them, without study on a CPU",
    )
    parser.add_argument(
        "--go_on", action="store_true", help="pass over parts that this machine has measured"
    )
    args = parser.parse_args()
    usual = [part for part in PARTS if part not in ("study", *compiled.PARTS)]
    usual += ["study"] if args.cuda or args.quick else []
    usual += [] if args.cuda else list(compiled.PARTS)
    args.parts = args.parts or usual
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    bench = Bench(args)
    processor = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    machine = torch.cuda.get_device_name() if args.cuda else processor
    name = "speed-cuda" if args.cuda else "speed"
    path = ROOT / "benchmarks" / f"{name}.json"
    made_on = {"machine": machine, "torch": torch.__version__, "threads": args.threads}
    before = json.loads(path.read_text()) if path.exists() else {}
    parts = before.get("parts", {}) if before.items() >= made_on.items() else {}
    for part in args.parts:
        if args.go_on and part in parts:
            continue
        bench.rows = []
        PARTS[part](bench)
        parts[part] = bench.rows
        if not args.quick:  # after each part: a machine that is taken away leaves what was measured
            write_json(path, made_on | {"parts": parts})
    if "cohorts" in args.parts and not args.quick:
        draw(parts["cohorts"], machine, ROOT / "docs" / f"{name}.png")


def networks(bench):
    """Every network at each precision that helps it, the old loop beside two."""
    for arch in ("fc1", "lenet5", "conv4", "resnet20", "vgg16", "resnet18"):
        helpful = ("fp32", "tf32", "bf16") if bench.cuda else ("fp32", "bf16")
        for precision in ("fp32",) if arch == "fc1" and not bench.cuda else helpful:
            bench.network(arch, precision=precision)
        if arch in ("fc1", "lenet5"):
            bench.old_loop(arch)


def cohorts(bench):
    """Runs trained together."""
    sizes = (1, 4, 16, 64, 256) if bench.cuda else (1, 4, 16)
    for runs in sizes[:2] if bench.quick else sizes:
        bench.network("fc1", runs=runs)
    if bench.cuda:
        for runs in (64, 256):
            bench.network("fc1", runs=runs, precision="tf32")
        for runs in (4, 16, 64):
            bench.network("lenet5", runs=runs)
            bench.network("resnet20", runs=runs)


def sizes(bench):
    """By batch size, density, images and, on a CPU, threads and the memory of a whole run."""
    for batch_size in (60, 240, 960):
        bench.network("fc1", batch_size=batch_size)
    for density in (1.0, 0.5, 0.2, 0.086, 0.02):
        bench.network("fc1", density=density)
    for count in (13_750, 27_500, 55_000):
        epoch = our_epoch(bench.data_dir, device=bench.device, count=count)
        epoch()
        seconds = [bench.timed(epoch) for _ in range(1 if bench.quick else 3)]
        bench.add("fc1", f"{count} images", 1, 60, 0.5, statistics.median(seconds))
    if not bench.cuda:
        counts = sorted({1, 2, os.cpu_count()})
        by_threads = {count: thread_seconds(bench, count) for count in counts}
        peak = peak_memory(bench.data_dir)
        bench.rows.append({"network": "fc1", "how": "epoch by threads", "seconds": by_threads})
        bench.rows.append({"network": "fc1", "how": "peak MB of a whole run", "peak_mb": peak})
        print(f"fc1 by threads: {by_threads}; a whole run of main.py peaks at {peak} MB")


def study(bench):
    """Experiment 1 by main.py itself; with --quick, eight short runs on digits."""
    rates = ["0", "50"] if bench.quick else [str(rate) for rate in range(0, 100, 10)]
    seeds, rounds, epochs = (["0", "1"], 3, 2) if bench.quick else (list("01234"), 35, 12)
    flags = [
        f"--dataset={'digits' if bench.quick else 'mnist'}", "--attack=fgsm",
        "--attack_rate", *rates, "--prune_type", "lt", "reinit", "--seed", *seeds,
        f"--prune_iterations={rounds}", f"--end_iter={epochs}",
        f"--data_dir={Path(bench.data_dir).resolve()}", f"--device={bench.device.type}",
        f"--cohort_size={4 if bench.quick else 0}", "--workers=1", "--save_weights=none",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "main.py"), *flags, f"--cache_dir={folder}/cache"]
        quiet = {"check": True, "cwd": ROOT, "stdout": subprocess.DEVNULL}
        # surrogate and attacked images
        short = [f"--runs_dir={folder}/first", "--prune_iterations=1", "--end_iter=1"]
        subprocess.run([*command, *short], **quiet)
        began = time.perf_counter()
        subprocess.run([*command, f"--runs_dir={folder}/runs"], **quiet)
        seconds = time.perf_counter() - began
        done = len(list(Path(folder, "runs").glob("*/DONE")))
    count, size = len(rates) * 2 * len(seeds), f"{rounds} rounds x {epochs} epochs"
    how = f"{count} runs of {size}"
    bench.rows.append({"network": "fc1", "how": how, "runs": done, "seconds": round(seconds, 1)})
    print(f"experiment 1: {done} of {count} runs x {size} took {seconds:.0f} s")


class Bench:
    """MNIST on a device, the device's rate, and the rows measured so far."""

    def __init__(self, args):
        self.data_dir, self.cuda, self.quick = args.data_dir, args.cuda, args.quick
        self.epochs, self.steps = (1, 3) if args.quick else (args.epochs, 10)
        self.device, self.rows = pick_device("cuda" if args.cuda else "cpu", None), []
        self.dataset = data.load("mnist", args.data_dir)
        self.images, self.labels, *self.split = on_device(self.dataset, self.device)
        self.rate = self._rate()
        print(f"a large fp32 matrix product runs at {self.rate / 1e9:.0f} GFLOP/s")
        title = f"{'network':12}{'':10}{'runs':>5}{'batch':>7}{'density':>9}{'s/epoch':>10}"
        print(f"{title}{'s/epoch/run':>13}{'floor':>8}{'MB':>8}", flush=True)

    def _rate(self):
        a = torch.rand(2048, 2048, device=self.device)
        seconds = [self.timed(lambda: a @ a) for _ in range(6)]
        return 2 * 2048**3 / min(seconds)

    def timed(self, function):
        """Seconds that one call takes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def cohort(self, arch, runs=1, density=1.0, precision="fp32", made=None):
        """R networks with random weights and masks of this density; made: compiled kernels."""
        stats, shape = data.channel_stats(self.dataset.train_images), self.dataset.in_shape
        nets = [archs.build(arch, shape, 10, stats, seed=seed) for seed in range(min(runs, 4))]
        nets = [nets[run % len(nets)] for run in range(runs)]
        masks = [masks_of(net, density) for net in nets]
        states = [net.state_dict() for net in nets]
        return Cohort(nets[0], states, masks, self.device, precision, made)

    def pool(self, runs):
        """Data of `runs` runs on the clean images."""
        return Data(self.images, self.labels, *(part.expand(runs, -1) for part in self.split))

    def network(self, arch, runs=1, batch_size=60, density=1.0, precision="fp32"):
        """Time some training steps and keep and print a row.

        A device too small for it is said, and passed over.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = self.step_seconds(arch, runs, batch_size, density, precision)
        except torch.OutOfMemoryError:
            print(f"{arch} {precision}, {runs} runs: does not fit this device's memory")
            return
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated()
        seconds, floor = seconds * EPOCH / batch_size, runs * self.flops(arch) / self.rate
        self.add(arch, precision, runs, batch_size, density, seconds, floor, memory)

    def step_seconds(self, arch, runs, batch_size, density, precision):
        """Median seconds of a training step of all runs, after what a GPU's capture takes."""
        flags = [f"--batch_size={batch_size}", f"--arch_type={arch}", f"--precision={precision}"]
        config = parse(["--dataset=digits", *flags])[0]
        configs = [config.replace(order_seed=run) for run in range(runs)]
        cohort = self.cohort(arch, runs, density, precision)
        stepper = Stepper(cohort, self.pool(runs), configs)
        cohort.model.train()
        stepper.start(0, 0)
        one = Replay(stepper.step, self.device, stepper.written())

        def steps(count):
            for _ in range(count):
                one()

        quick = (self.cuda and runs < 64) or (arch == "fc1" and (self.cuda or runs == 1))
        count = self.steps * (20 if quick else 1)
        warm = EAGER + 2 if self.device.type == "cuda" else 2
        steps(warm)
        count = min(count, (stepper.steps - 1 - warm) // 3)
        return statistics.median(self.timed(lambda: steps(count)) / count for _ in range(3))

    def flops(self, arch):
        """Floating point operations of an epoch of one run, forward and backward."""
        from torch.utils.flop_counter import FlopCounterMode

        net = archs.build(arch, self.dataset.in_shape, 10, ([0.1], [0.3])).to(self.device)
        with FlopCounterMode(display=False) as counter:
            net(self.images[:60]).sum().backward()
        return counter.get_total_flops() * EPOCH / 60

    def old_loop(self, arch):
        """Time some steps of the old kind of loop."""
        one = old_step(arch, self.data_dir, self.device)
        one()
        seconds = statistics.median(self.timed(one) for _ in range(3 * self.steps))
        self.add(arch, "old loop", 1, 60, 1.0, seconds * EPOCH / 60)

    def baseline_epoch(self):
        """A function that trains and validates one epoch the old way."""
        return baseline_epoch(self.data_dir, self.device)

    def add(self, arch, how, runs, batch_size, density, seconds, floor=None, memory=None):
        """Keep and print a row."""
        row = {
            "network": arch,
            "how": how,
            "runs": runs,
            "batch_size": batch_size,
            "density": density,
            "seconds": round(seconds, 3),
            "seconds_per_run": round(seconds / runs, 3),
            "floor": floor and round(floor, 3),
            "peak_mb": memory and round(memory / 2**20),
        }
        self.rows.append(row)
        last = ("-" if row[name] is None else row[name] for name in ("floor", "peak_mb"))
        line = f"{arch:12}{how:10}{runs:>5}{batch_size:>7}{density:>9}{seconds:>10.2f}"
        print(line + "{:>13.3f}{:>8}{:>8}".format(seconds / runs, *last), flush=True)


def whole_epochs(bench):
    """fc1 and the old loop, whole epochs with validation in turn: the ratio of the README."""
    densities = (0.5, 1.0, 0.086)
    epochs = [our_epoch(bench.data_dir, density, bench.device) for density in densities]
    for epoch in epochs:
        epoch()
    epochs.append(baseline_epoch(bench.data_dir, bench.device))
    seconds = [tuple(map(bench.timed, epochs)) for _ in range(bench.epochs)]
    ratio = statistics.median(row[3] / row[0] for row in seconds)
    columns = zip((*densities, 0.5), zip(*seconds, strict=True), strict=True)
    for number, (density, column) in enumerate(columns):
        how = "epoch" if number < 3 else "old epoch"
        bench.add("fc1", how, 1, 60, density, statistics.median(column))
    row = {"network": "fc1", "how": "ratio old epoch / epoch", "ratio": round(ratio, 2)}
    bench.rows.append(row | {"epochs": [[round(value, 3) for value in row] for row in seconds]})
    print(f"ratio {ratio:.2f}")


def on_device(dataset, device):
    """Images (60000, ...) in [0, 1], labels, and positions of the training and validation part."""
    labels = torch.from_numpy(dataset.train_labels).to(device)
    split = [torch.from_numpy(part).to(device) for part in data.split(60_000, 1 / 12, 0)]
    return to_float(dataset.train_images, device), labels, *split


def masks_of(net, density):
    """Masks of this density, by the net's own weights."""
    return pruning.prune(dict(net.named_parameters()), pruning.ones(net), 100 * (1 - density))


def our_epoch(data_dir, density=0.5, device="cpu", count=None):
    """A function that trains one epoch as a round does, on `count` images, validation included."""
    device, mnist = torch.device(device), data.load("mnist", data_dir)
    config = parse(["--dataset=mnist", f"--data_dir={data_dir}", "--end_iter=1"])[0]
    model = archs.build("fc1", mnist.in_shape, 10, data.channel_stats(mnist.train_images))
    images, labels, *split = on_device(mnist, device)
    pool = Data(images, labels, *(part[None, :count] for part in split))
    cohort = Cohort(model, [model.state_dict()], [masks_of(model, density)], device)
    return lambda: train.fit(cohort, pool, [config], 0)


def old_parts(arch, data_dir, device):
    """Model, masks, optimiser and loaders of the old kind of loop."""
    model = archs.build(arch, (1, 28, 28), 10, ([0.0], [1.0]))  # its loader normalises
    # half of the weights, scattered: as many as the original's `weight < 1e-6` froze, and as slow
    # for numpy.where
    masks = {name: mask.numpy() for name, mask in masks_of(model, 0.5).items()}
    optimizer = torch.optim.Adam(model.to(device).parameters(), lr=1.2e-3)
    return model, masks, optimizer, baseline_loop.make_loaders(data_dir)


def baseline_epoch(data_dir, device="cpu"):
    """A function that trains and validates one epoch the old way."""
    model, masks, optimizer, (loader, val_loader) = old_parts("fc1", data_dir, device)

    def epoch():
        baseline_loop.train_epoch(model, loader, optimizer, masks, device)
        baseline_loop.accuracy(model, val_loader, device)

    return epoch


def old_step(arch, data_dir, device):
    """A function that loads a batch and trains one step the old way."""
    model, masks, optimizer, (loader, _) = old_parts(arch, data_dir, device)
    batches = iter(loader)

    def step():
        baseline_loop.train_epoch(model, [next(batches)], optimizer, masks, device)

    return step


def thread_seconds(bench, count):
    """Seconds an epoch of fc1 with `count` threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    bench.network("fc1")
    torch.set_num_threads(threads)
    return bench.rows.pop()["seconds"]


def peak_memory(data_dir):
    """Megabytes a whole run of main.py takes at its peak: fc1 on MNIST, two rounds of one epoch."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--data_dir={Path(data_dir).resolve()}", f"--runs_dir={folder}"]
        flags += ["--dataset=mnist", "--prune_iterations=2", "--end_iter=1"]
        # VmHWM is of this program alone; ru_maxrss would count what this process had when it
        # started the other
        own = "[line for line in open('/proc/self/status') if 'VmHWM' in line]"
        code = f"import sys, main; main.main(sys.argv[1:]); print({own}[0].split()[1])"
        command = [sys.executable, "-c", code, *flags]
        run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return int(run.stdout.split()[-1]) // 1024


def draw(rows, machine, path):
    """Seconds an epoch against the runs trained together, for fc1."""
    from matplotlib.figure import Figure

    fc1 = [row for row in rows if row["network"] == "fc1" and row["how"] == "fp32"]
    points = {row["runs"]: row["seconds"] for row in fc1}
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(list(points), list(points.values()), marker="o", label="trained together")
    alone = [points[1] * runs for runs in points]
    axis.plot(list(points), alone, linestyle="--", label="one after another")
    axis.set(xscale="log", xlabel="runs in a cohort", ylabel="seconds an epoch, all runs")
    axis.set_title(f"fc1 on MNIST, batch 60\n{machine}")
    axis.set_xticks(list(points), [str(runs) for runs in points])
    axis.minorticks_off()
    plain_log_axis(axis)
    axis.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


PARTS = {
    "epochs": whole_epochs, "networks": networks, "cohorts": cohorts, "sizes": sizes,
    "study": study, **compiled.PARTS,
}  # fmt: skip

if __name__ == "__main__":
    main()
