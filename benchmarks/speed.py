"""How long an epoch takes: beside the old kind of loop, by network, by runs trained together, batch size, density and precision.

    OMP_NUM_THREADS=1 python benchmarks/speed.py --data_dir=data      # CPU: about ten minutes
    python benchmarks/speed.py --data_dir=data --cuda                 # the same on a GPU, with R up to 256
    python benchmarks/speed.py --data_dir=data --quick                # everything, small, to see that it works

One epoch is 55,000 images of MNIST. fc1 and the old loop take whole epochs in turn in one process, so that a noisy machine
slows both; the others are timed over some steps, times the steps of an epoch. `floor` is the network's arithmetic alone, at the rate
of a large matrix product on the same device and threads. Figures are medians. Saved as benchmarks/speed.json (speed-cuda.json)
and drawn as docs/speed.png (speed-cuda.png).
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

EPOCH = 55_000


def main():
    """Measure, print a table, save and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of fc1 and of the old loop, in turn")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--quick", action="store_true", help="one epoch and few steps; writes nothing")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if args.cuda else "cpu")
    bench = Bench(args.data_dir, device, steps=3 if args.quick else 10)
    whole_epochs(bench, args.data_dir, 1 if args.quick else args.epochs)
    together = (1, 4, 16, 64, 256) if args.cuda else (1, 4, 16)
    for arch in ("fc1", "lenet5", "conv4", "resnet20", "vgg16", "resnet18"):
        for precision in ("fp32",) if arch == "fc1" and not args.cuda else ("fp32", "bf16"):
            bench.network(arch, precision=precision)
        if arch in ("fc1", "lenet5"):
            bench.old_loop(arch, args.data_dir)
    for runs in together[:2] if args.quick else together:
        bench.network("fc1", runs=runs)
    for batch_size in (60, 240, 960):
        bench.network("fc1", batch_size=batch_size)
    for density in (1.0, 0.5, 0.2, 0.086, 0.02):
        bench.network("fc1", density=density)
    if args.quick:
        return
    machine = torch.cuda.get_device_name() if args.cuda else f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    result = {"machine": machine, "torch": torch.__version__, "threads": args.threads, "rows": bench.rows}
    if not args.cuda:
        result["fc1_epoch_by_threads"] = {count: thread_seconds(bench, count) for count in sorted({1, 2, os.cpu_count()})}
        result["run_peak_memory_mb"] = peak_memory(args.data_dir)
        print(f"fc1 by threads: {result['fc1_epoch_by_threads']}; a whole run of main.py peaks at {result['run_peak_memory_mb']} MB")
    name = "speed-cuda" if args.cuda else "speed"
    (ROOT / "benchmarks" / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(bench.rows, machine, ROOT / "docs" / f"{name}.png")


class Bench:
    """MNIST on a device, the device's rate, and the rows measured so far."""

    def __init__(self, data_dir, device, steps):
        self.device, self.steps, self.rows = device, steps, []
        self.dataset = data.load("mnist", data_dir)
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
        """Time some training steps and keep and print a row."""
        config = config_module.parse(["--dataset=digits", f"--batch_size={batch_size}", f"--arch_type={arch}"])[0]
        cohort = self.cohort(arch, runs, density, precision)
        optimizer = train.Optimizer(cohort.params, cohort.masks, config)
        batches = train.epoch_batches(self.pool(runs), config, list(range(runs)), 0, 0)(cohort)
        cohort.model.train()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def steps(count):
            for _, (images, labels) in zip(range(count), batches, strict=False):
                train.train_step(cohort, images, labels, optimizer, config.lr)

        count = self.steps * (20 if arch == "fc1" and runs == 1 else 1)
        count = min(count, EPOCH // batch_size // 4)
        steps(2)
        seconds = statistics.median(self.timed(lambda: steps(count)) / count for _ in range(3))
        memory = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.add(arch, precision, runs, batch_size, density, seconds * EPOCH / batch_size, runs * self.flops(arch) / self.rate, memory)

    def flops(self, arch):
        """Floating point operations of an epoch of one run, forward and backward."""
        from torch.utils.flop_counter import FlopCounterMode

        net = archs.build(arch, self.dataset.in_shape, 10, ([0.1], [0.3])).to(self.device)
        with FlopCounterMode(display=False) as counter:
            net(self.images[:60]).sum().backward()
        return counter.get_total_flops() * EPOCH / 60

    def old_loop(self, arch, data_dir):
        """Time some steps of the old kind of loop."""
        step = old_step(arch, data_dir, self.device)
        step()
        seconds = statistics.median(self.timed(step) for _ in range(3 * self.steps))
        self.add(arch, "old loop", 1, 60, 1.0, seconds * EPOCH / 60, None, None)

    def add(self, arch, how, runs, batch_size, density, seconds, floor, memory):
        """Keep and print a row."""
        row = {"network": arch, "how": how, "runs": runs, "batch_size": batch_size, "density": density, "seconds": round(seconds, 3)}
        row |= {"seconds_per_run": round(seconds / runs, 3), "floor": floor and round(floor, 3), "peak_mb": memory and round(memory / 2**20)}
        self.rows.append(row)
        floor, memory = ("-" if value is None else value for value in (row["floor"], row["peak_mb"]))
        print(f"{arch:12}{how:10}{runs:>5}{batch_size:>7}{density:>9}{seconds:>10.2f}{seconds / runs:>13.3f}{floor:>8}{memory:>8}", flush=True)


def whole_epochs(bench, data_dir, epochs):
    """fc1 and the old loop, whole epochs with validation in turn: the ratio that the README quotes."""
    ours, theirs = our_epoch(data_dir, device=bench.device), baseline_epoch(data_dir, bench.device)
    dense, sparse = our_epoch(data_dir, 1.0, bench.device), our_epoch(data_dir, 0.086, bench.device)
    ours(), dense(), sparse()
    seconds = [tuple(map(bench.timed, (ours, dense, sparse, theirs))) for _ in range(epochs)]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    ratio = statistics.median(row[3] / row[0] for row in seconds)
    for how, density, value in zip(("epoch", "epoch", "epoch", "old epoch"), (0.5, 1.0, 0.086, 0.5), medians, strict=True):
        bench.add("fc1", how, 1, 60, density, value, None, None)
    bench.rows.append({"network": "fc1", "how": "ratio old epoch / epoch", "ratio": round(ratio, 2), "epochs": [[round(s, 3) for s in row] for row in seconds]})
    print(f"ratio {ratio:.2f}")


def our_epoch(data_dir, density=0.5, device="cpu"):
    """A function that trains one epoch as a round does, validation included."""
    device = torch.device(device)
    bench_data = data.load("mnist", data_dir)
    config = config_module.parse(["--dataset=mnist", f"--data_dir={data_dir}", "--end_iter=1"])[0]
    model = archs.build("fc1", bench_data.in_shape, 10, data.channel_stats(bench_data.train_images))
    split = [torch.from_numpy(part)[None].to(device) for part in data.split(60_000, 1 / 12, 0)]
    images, labels = torch.from_numpy(bench_data.train_images).float().div_(255), torch.from_numpy(bench_data.train_labels)
    pool = train.Data(images.to(device), labels.to(device), *split)
    masks = pruning.prune(dict(model.named_parameters()), pruning.ones(model), 100 * (1 - density))
    cohort = train.Cohort(model, [model.state_dict()], [masks], device)
    return lambda: train.fit(cohort, pool, config, [0], 0)


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

    cohorts = [row for row in rows if row["network"] == "fc1" and row.get("how") == "fp32" and row["batch_size"] == 60 and row["density"] == 1]
    points = {row["runs"]: row["seconds"] for row in cohorts}
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(list(points), list(points.values()), marker="o", label="trained together")
    axis.plot(list(points), [points[1] * runs for runs in points], linestyle="--", label="one after another")
    axis.set(xscale="log", yscale="log", xlabel="runs in a cohort", ylabel="seconds an epoch, all runs", title=f"fc1 on MNIST, batch 60\n{machine}")
    axis.set_xticks(list(points), [str(runs) for runs in points])
    axis.minorticks_off()
    axis.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
