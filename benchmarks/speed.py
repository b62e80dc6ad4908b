"""How long an epoch takes: beside the old kind of loop, by network, by runs trained together, batch size, data size, density and precision.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data_dir=data      # CPU: about ten minutes
    python benchmarks/speed.py --data_dir=data --cuda                 # the same on a GPU, R up to 256, and experiment 1's 100 runs
    python benchmarks/speed.py --data_dir=data --quick [--cuda]       # everything, small, to see that it works
    python benchmarks/speed.py --data_dir=data --cuda --parts study   # a part of it: epochs networks cohorts sizes study

One epoch is 55,000 images of MNIST. fc1 and the old loop take whole epochs in turn in one process, so that a noisy machine
slows both; the others are timed over some steps, times the steps of an epoch. `floor` is the network's arithmetic alone, at the rate
of a large matrix product on the same device and threads. Figures are medians. `study` times main.py itself on experiment 1: 10 attack
rates, lt and reinit, 5 seeds, 35 rounds of 12 epochs, attacked images made before the clock starts. Saved as benchmarks/speed.json
(speed-cuda.json) and drawn as docs/speed.png (speed-cuda.png); a run of some parts keeps the others' figures of the same machine.
"""

import argparse
import dataclasses
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
import step
import train
from benchmarks import baseline_loop
from commandline import parse
from plots import plain_log_axis

EPOCH = 55_000


def main():
    """Measure, print a table, save and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of fc1 and of the old loop, in turn")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small, to see that it works; saves nothing")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="default: all of them, without study on a CPU")
    args = parser.parse_args()
    args.parts = args.parts or [part for part in PARTS if part != "study" or args.cuda or args.quick]
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    bench = Bench(args)
    machine = torch.cuda.get_device_name() if args.cuda else f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    name = "speed-cuda" if args.cuda else "speed"
    path = ROOT / "benchmarks" / f"{name}.json"
    result = {"machine": machine, "torch": torch.__version__, "threads": args.threads, "parts": {}}
    if path.exists() and (old := json.loads(path.read_text())).items() >= {k: v for k, v in result.items() if k != "parts"}.items():
        result["parts"] = old.get("parts", {})
    for part in args.parts:
        bench.rows = []
        PARTS[part](bench)
        result["parts"][part] = bench.rows
        if not args.quick:  # after each part: a machine that is taken away leaves what was measured
            path.write_text(json.dumps(result, indent=2) + "\n")
    if "cohorts" in args.parts and not args.quick:
        draw(result["parts"]["cohorts"], machine, ROOT / "docs" / f"{name}.png")


def networks(bench):
    """Every network at each precision that helps it, the old loop beside two."""
    for arch in ("fc1", "lenet5", "conv4", "resnet20", "vgg16", "resnet18"):
        for precision in ("fp32",) if arch == "fc1" and not bench.cuda else ("fp32", "tf32", "bf16") if bench.cuda else ("fp32", "bf16"):
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
    """By batch size, density, images and, on a CPU, threads; what a whole run of main.py takes of memory."""
    for batch_size in (60, 240, 960):
        bench.network("fc1", batch_size=batch_size)
    for density in (1.0, 0.5, 0.2, 0.086, 0.02):
        bench.network("fc1", density=density)
    for count in (13_750, 27_500, 55_000):
        epoch = our_epoch(bench.data_dir, device=bench.device, count=count)
        epoch()
        bench.add("fc1", f"{count} images", 1, 60, 0.5, statistics.median(bench.timed(epoch) for _ in range(1 if bench.quick else 3)), None, None)
    if not bench.cuda:
        by_threads = {count: thread_seconds(bench, count) for count in sorted({1, 2, os.cpu_count()})}
        peak = peak_memory(bench.data_dir)
        bench.rows.append({"network": "fc1", "how": "epoch by threads", "seconds": by_threads})
        bench.rows.append({"network": "fc1", "how": "peak MB of a whole run", "peak_mb": peak})
        print(f"fc1 by threads: {by_threads}; a whole run of main.py peaks at {peak} MB")


def study(bench):
    """Experiment 1 by main.py itself; with --quick, eight short runs on digits."""
    rates = ["0", "50"] if bench.quick else [str(rate) for rate in range(0, 100, 10)]
    seeds, rounds, epochs = (["0", "1"], 3, 2) if bench.quick else (list("01234"), 35, 12)
    flags = ["--dataset=digits" if bench.quick else "--dataset=mnist", "--attack=fgsm", "--attack_rate", *rates, "--prune_type", "lt", "reinit"]
    flags += ["--seed", *seeds, f"--prune_iterations={rounds}", f"--end_iter={epochs}", f"--data_dir={Path(bench.data_dir).resolve()}"]
    flags += [f"--device={bench.device.type}", f"--cohort_size={4 if bench.quick else 0}", "--workers=1", "--save_weights=none"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "main.py"), *flags, f"--cache_dir={folder}/cache"]
        quiet = {"check": True, "cwd": ROOT, "stdout": subprocess.DEVNULL}
        subprocess.run([*command, f"--runs_dir={folder}/first", "--prune_iterations=1", "--end_iter=1"], **quiet)  # surrogate and attacked images
        began = time.perf_counter()
        subprocess.run([*command, f"--runs_dir={folder}/runs"], **quiet)
        seconds = time.perf_counter() - began
        done = len(list(Path(folder, "runs").glob("*/DONE")))
    count = len(rates) * 2 * len(seeds)
    bench.rows.append({"network": "fc1", "how": f"{count} runs of {rounds} rounds x {epochs} epochs", "runs": done, "seconds": round(seconds, 1)})
    print(f"experiment 1: {done} of {count} runs x {rounds} rounds x {epochs} epochs took {seconds:.0f} s")


class Bench:
    """MNIST on a device, the device's rate, and the rows measured so far."""

    def __init__(self, args):
        self.data_dir, self.cuda, self.quick, self.epochs = args.data_dir, args.cuda, args.quick, 1 if args.quick else args.epochs
        self.device, self.steps, self.rows = torch.device("cuda" if args.cuda else "cpu"), 3 if args.quick else 10, []
        device, self.dataset = self.device, data.load("mnist", args.data_dir)
        self.images = torch.from_numpy(self.dataset.train_images).to(device).float().div_(255)
        self.labels = torch.from_numpy(self.dataset.train_labels).to(device)
        self.split = [torch.from_numpy(part).to(device) for part in data.split(60_000, 1 / 12, 0)]
        self.rate = self._rate()
        print(f"a large fp32 matrix product runs at {self.rate / 1e9:.0f} GFLOP/s")
        print(f"{'network':12}{'':10}{'runs':>5}{'batch':>7}{'density':>9}{'s/epoch':>10}{'s/epoch/run':>13}{'floor':>8}{'MB':>8}", flush=True)

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

    def cohort(self, arch, runs, density, precision):
        """R networks with random weights and masks of this density."""
        stats = data.channel_stats(self.dataset.train_images)
        nets = [archs.build(arch, self.dataset.in_shape, 10, stats, seed=seed) for seed in range(min(runs, 4))]
        nets = [nets[run % len(nets)] for run in range(runs)]
        masks = [pruning.prune(dict(net.named_parameters()), pruning.ones(net), 100 * (1 - density)) for net in nets]
        return train.Cohort(nets[0], [net.state_dict() for net in nets], masks, self.device, precision)

    def pool(self, runs):
        """train.Data of `runs` runs on the clean images."""
        return train.Data(self.images, self.labels, *(part.expand(runs, -1) for part in self.split))

    def network(self, arch, runs=1, batch_size=60, density=1.0, precision="fp32"):
        """Time some training steps and keep and print a row; a device too small for it is said, and passed over."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds = self.step_seconds(arch, runs, batch_size, density, precision)
        except torch.OutOfMemoryError:
            print(f"{arch} {precision}, {runs} runs: does not fit this device's memory")
            return
        memory = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.add(arch, precision, runs, batch_size, density, seconds * EPOCH / batch_size, runs * self.flops(arch) / self.rate, memory)

    def step_seconds(self, arch, runs, batch_size, density, precision):
        """Median seconds of a training step of all runs, after what a GPU's capture takes."""
        flags = ["--dataset=digits", f"--batch_size={batch_size}", f"--arch_type={arch}", f"--precision={precision}"]
        config = parse(flags)[0]
        cohort = self.cohort(arch, runs, density, precision)
        stepper = step.Stepper(cohort, self.pool(runs), [dataclasses.replace(config, order_seed=run) for run in range(runs)])
        cohort.model.train()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        stepper.start(0, 0)
        one = step.Replay(stepper.step, self.device)

        def steps(count):
            for _ in range(count):
                one()

        count = self.steps * (20 if self.device.type == "cuda" or (arch == "fc1" and runs == 1) else 1)
        warm = step.EAGER + 2 if self.device.type == "cuda" else 2
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
        self.add(arch, "old loop", 1, 60, 1.0, seconds * EPOCH / 60, None, None)

    def add(self, arch, how, runs, batch_size, density, seconds, floor, memory):
        """Keep and print a row."""
        row = {"network": arch, "how": how, "runs": runs, "batch_size": batch_size, "density": density, "seconds": round(seconds, 3)}
        row |= {"seconds_per_run": round(seconds / runs, 3), "floor": floor and round(floor, 3), "peak_mb": memory and round(memory / 2**20)}
        self.rows.append(row)
        floor, memory = ("-" if value is None else value for value in (row["floor"], row["peak_mb"]))
        print(f"{arch:12}{how:10}{runs:>5}{batch_size:>7}{density:>9}{seconds:>10.2f}{seconds / runs:>13.3f}{floor:>8}{memory:>8}", flush=True)


def whole_epochs(bench):
    """fc1 and the old loop, whole epochs with validation in turn: the ratio that the README quotes."""
    ours, theirs = our_epoch(bench.data_dir, device=bench.device), baseline_epoch(bench.data_dir, bench.device)
    dense, sparse = (our_epoch(bench.data_dir, density, bench.device) for density in (1.0, 0.086))
    ours(), dense(), sparse()
    seconds = [tuple(map(bench.timed, (ours, dense, sparse, theirs))) for _ in range(bench.epochs)]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    ratio = statistics.median(row[3] / row[0] for row in seconds)
    for how, density, value in zip(("epoch", "epoch", "epoch", "old epoch"), (0.5, 1.0, 0.086, 0.5), medians, strict=True):
        bench.add("fc1", how, 1, 60, density, value, None, None)
    bench.rows.append({"network": "fc1", "how": "ratio old epoch / epoch", "ratio": round(ratio, 2), "epochs": [[round(s, 3) for s in row] for row in seconds]})
    print(f"ratio {ratio:.2f}")


def our_epoch(data_dir, density=0.5, device="cpu", count=None):
    """A function that trains one epoch as a round does, on `count` images, validation included."""
    device = torch.device(device)
    mnist = data.load("mnist", data_dir)
    config = parse(["--dataset=mnist", f"--data_dir={data_dir}", "--end_iter=1"])[0]
    model = archs.build("fc1", mnist.in_shape, 10, data.channel_stats(mnist.train_images))
    split = [torch.from_numpy(part)[None, :count].to(device) for part in data.split(60_000, 1 / 12, 0)]
    images, labels = torch.from_numpy(mnist.train_images).float().div_(255), torch.from_numpy(mnist.train_labels)
    pool = train.Data(images.to(device), labels.to(device), *split)
    masks = pruning.prune(dict(model.named_parameters()), pruning.ones(model), 100 * (1 - density))
    cohort = train.Cohort(model, [model.state_dict()], [masks], device)
    return lambda: train.fit(cohort, pool, [config], 0)


def old_parts(arch, data_dir, device):
    """Model, masks, optimiser and loaders of the old kind of loop."""
    model = archs.build(arch, (1, 28, 28), 10, ([0.0], [1.0])).to(device)  # its loader normalises
    # half of the weights, scattered: as many as the original's `weight < 1e-6` froze, and as slow for numpy.where
    masks = {name: mask.numpy() for name, mask in pruning.prune(dict(model.cpu().named_parameters()), pruning.ones(model), 50).items()}
    model.to(device)
    return model, masks, torch.optim.Adam(model.parameters(), lr=1.2e-3), baseline_loop.make_loaders(data_dir)


def baseline_epoch(data_dir, device="cpu"):
    """A function that trains and validates one epoch the old way."""
    model, masks, optimizer, (loader, val_loader) = old_parts("fc1", data_dir, device)
    return lambda: (baseline_loop.train_epoch(model, loader, optimizer, masks, device), baseline_loop.accuracy(model, val_loader, device))


def old_step(arch, data_dir, device):
    """A function that loads a batch and trains one step the old way."""
    model, masks, optimizer, (loader, _) = old_parts(arch, data_dir, device)
    batches = iter(loader)
    return lambda: baseline_loop.train_epoch(model, [next(batches)], optimizer, masks, device)


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
        flags = ["--dataset=mnist", f"--data_dir={Path(data_dir).resolve()}", f"--runs_dir={folder}", "--prune_iterations=2", "--end_iter=1"]
        # VmHWM is of this program alone; ru_maxrss would count what this process had when it started the other
        code = "import sys, main; main.main(sys.argv[1:]); print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1])"
        run = subprocess.run([sys.executable, "-c", code, *flags], check=True, capture_output=True, text=True, cwd=ROOT)
    return int(run.stdout.split()[-1]) // 1024


def draw(rows, machine, path):
    """Seconds an epoch against the runs trained together, for fc1."""
    from matplotlib.figure import Figure

    points = {row["runs"]: row["seconds"] for row in rows if row["network"] == "fc1" and row["how"] == "fp32"}
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(list(points), list(points.values()), marker="o", label="trained together")
    axis.plot(list(points), [points[1] * runs for runs in points], linestyle="--", label="one after another")
    axis.set(xscale="log", xlabel="runs in a cohort", ylabel="seconds an epoch, all runs", title=f"fc1 on MNIST, batch 60\n{machine}")
    axis.set_xticks(list(points), [str(runs) for runs in points])
    axis.minorticks_off()
    plain_log_axis(axis)
    axis.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


PARTS = {"epochs": whole_epochs, "networks": networks, "cohorts": cohorts, "sizes": sizes, "study": study}

if __name__ == "__main__":
    main()
