"""What the first command takes, and where: from an empty cache to the first ticket.

    python benchmarks/first_command.py --data_dir=data                   # all, about 15 minutes
    python benchmarks/first_command.py --data_dir=data --parts command   # or step transfer bf16

command: the command itself, by stages, with this CPU's instructions and as if it had AVX2 alone.
step: a training step of DeepRobust's CNN by threads, on a quiet machine and beside a process that
keeps a core busy. transfer: fc1's accuracy under FGSM made against surrogates of one to three
epochs. bf16: engine.machine.bf16_ratio of some networks. `others` are the cores that other
processes used meanwhile. Saved as benchmarks/first_command.json, part by part.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from store.files import write_json

COMMAND = [
    "--dataset=mnist_fgsm_attack", "--prune_percent=20", "--prune_iterations=2", "--end_iter=3",
]  # fmt: skip
# the line that a stage begins with
STAGES = {
    "surrogate": "training the surrogate", "training images": "attacking 60,000",
    "test images": "attacking 10,000", "rounds": "run folder",
}  # fmt: skip
SEEDS, EPOCHS = (0, 1, 2), (1, 2, 3)
STEP_SECONDS, TURNS = 4, 3
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
AVX2["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"
INSTRUCTIONS = {"all": {}, "AVX2 alone": AVX2}


def main():
    """Measure the parts asked for, print and save them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    path = ROOT / "benchmarks" / "first_command.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    for part in args.parts:
        began, used = time.perf_counter(), busy()
        rows = PARTS[part](str(Path(args.data_dir).resolve()))
        others = round((busy() - used) / (time.perf_counter() - began), 2)
        found[part] = {"machine": processor(), "others": others, "rows": rows}
        print(part, f"(others used {others} cores)", *rows, sep="\n  ", flush=True)
        write_json(path, found)


def processor():
    """The CPU's name and cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def busy():
    """Core seconds that processes other than this one and its children have used since boot."""
    user, nice, system, _, _, irq, soft, steal = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    total = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return total - sum(os.times()[:4])


def command(data_dir):
    """Seconds of the command's stages, from an empty cache, and of all cores together."""
    return [{"instructions": name} | stages(data_dir, env) for name, env in INSTRUCTIONS.items()]


def stages(data_dir, environment):
    """One row of `command`."""
    with tempfile.TemporaryDirectory() as folder:
        places = [f"--data_dir={data_dir}", f"--cache_dir={folder}/c", f"--runs_dir={folder}/r"]
        began, at = time.perf_counter(), {"start": 0.0}
        run = [sys.executable, "-u", "main.py", *COMMAND, *places]
        how = {"cwd": ROOT, "env": os.environ | environment, "text": True}
        before = os.times()
        with subprocess.Popen(run, stdout=subprocess.PIPE, **how) as process:
            for line in process.stdout:
                for stage, opening in STAGES.items():
                    if line.startswith(opening):
                        at[stage] = time.perf_counter() - began
    whole, used = time.perf_counter() - began, os.times()
    if process.returncode or len(at) < len(STAGES) + 1:
        raise SystemExit(f"the command failed: {process.returncode}")
    ends = [*list(at.values())[1:], whole]
    seconds = {name: round(end - at[name], 1) for name, end in zip(at, ends, strict=True)}
    core_seconds = sum(used[2:4]) - sum(before[2:4])  # of children
    return seconds | {"whole": round(whole, 1), "core_seconds": round(core_seconds, 1)}


STEP = """
import statistics, sys, time
from engine.machine import set_threads, wait_briefly
if sys.argv[2] == "brief":
    wait_briefly()
import torch, archs
torch.set_flush_denormal(True)
set_threads(int(sys.argv[1]))
net = archs.build("deeprobust_cnn", (1, 28, 28), 10, ([0.1], [0.3]))
net = net.to(memory_format=torch.channels_last)
adam = torch.optim.Adam(net.parameters(), fused=True)
images, labels = torch.rand(128, 1, 28, 28), torch.arange(128) % 10
seconds, end = [], time.perf_counter() + float(sys.argv[3])
while time.perf_counter() < end:
    began = time.perf_counter()
    adam.zero_grad()
    torch.nn.functional.cross_entropy(net(images), labels).backward()
    adam.step()
    seconds.append(time.perf_counter() - began)
print(1000 * statistics.mean(seconds[2:]))
"""


def step(data_dir):
    """Milliseconds of a step of 128 images, means, medians of turns: one thread, all, brief."""
    cores, rows = os.cpu_count(), []
    kinds = {"one thread": ("1", "spin"), "all, spinning": (str(cores), "spin")}
    kinds["all, waiting briefly"] = (str(cores), "brief")
    for loaded in (False, True):
        load = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if loaded else None
        try:
            turns = [
                {name: float(python(STEP, *how, STEP_SECONDS)) for name, how in kinds.items()}
                for _ in range(TURNS)
            ]
        finally:
            if load:
                load.kill()
                load.wait()
        row = {name: round(statistics.median(turn[name] for turn in turns), 1) for name in kinds}
        rows.append({"a core busy": loaded, **row})
    return rows


def python(code, *arguments, **environment):
    """What a program prints, in a process of its own."""
    run = [sys.executable, "-c", code, *map(str, arguments)]
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(run, cwd=ROOT, env=env | environment, capture_output=True, check=True)
    return done.stdout.decode()


def transfer(data_dir):
    """Accuracy of five clean fc1 nets (3 epochs) on FGSM test images by each surrogate."""
    import torch

    import data
    from attacked.cache import attacked_set, surrogate
    from attacked.levels import from_levels
    from engine.machine import set_threads
    from study.request import parse

    torch.set_flush_denormal(True)
    set_threads(0)
    mnist, cpu, rows = data.load("mnist", data_dir), torch.device("cpu"), []
    nets, every = clean_nets(mnist, data_dir), range(len(mnist.test_labels))
    labels = torch.from_numpy(mnist.test_labels)
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            for epochs in EPOCHS:
                flags = [f"--attack_seed={seed}", f"--surrogate_epochs={epochs}"]
                flags += [f"--cache_dir={folder}", f"--data_dir={data_dir}"]
                config = parse(["--dataset=mnist_fgsm_attack", *flags])[0]
                model = surrogate(config, mnist, cpu)
                made = attacked_set(config, mnist, "test", list(every), model)
                attacked = from_levels(made.pixels, cpu)
                hits = [(net(attacked).argmax(1) == labels).double().mean() for net in nets]
                row = {"attack_seed": seed, "epochs": epochs}
                row["surrogate"] = round(100 * float(made.before.mean()), 2)
                row["fc1"] = round(100 * float(sum(hits)) / len(hits), 2)
                rows.append(row)
    return rows


def clean_nets(mnist, data_dir):
    """fc1 trained on clean MNIST as a run's dense round does, by five seeds."""
    import torch

    import archs
    import data
    import pruning
    from attacked.levels import to_float
    from engine.cohort import Cohort, Data
    from study.request import parse
    from train import fit
    from utils import stream

    images, labels = to_float(mnist.train_images, "cpu"), torch.from_numpy(mnist.train_labels)
    stats, nets = data.channel_stats(mnist.train_images), []
    for seed in range(5):
        flags = ["--dataset=mnist", f"--data_dir={data_dir}", "--end_iter=3", f"--seed={seed}"]
        config, first = parse(flags)[0], stream(seed, "init", 0)
        net = archs.build("fc1", mnist.in_shape, 10, stats, config.init, first)
        split = [
            torch.from_numpy(part)[None] for part in data.split(len(labels), 1 / 12, config.seed)
        ]
        cohort = Cohort(net, [net.state_dict()], [pruning.ones(net)], torch.device("cpu"))
        net.load_state_dict(fit(cohort, Data(images, labels, *split), [config], 0).best)
        nets.append(net.eval().requires_grad_(False))
    return nets


RATIO = """
import sys, time, torch, archs
from engine.machine import bf16_ratio, set_threads
set_threads(1)
for name, shape in (("fc1", (1, 28, 28)), ("lenet5", (1, 28, 28)), ("resnet20", (3, 32, 32)),
                    ("vgg16", (3, 32, 32)), ("resnet18", (3, 32, 32))):
    net = archs.build(name, shape, 10, ([0.1] * shape[0], [0.3] * shape[0]))
    began = time.perf_counter()
    print(name, bf16_ratio(net, shape, 60), time.perf_counter() - began)
"""


def bf16(data_dir):
    """A step in bf16 over one in fp32, and what the measurement takes."""
    rows = []
    for instructions, environment in INSTRUCTIONS.items():
        for line in python(RATIO, **environment).splitlines():
            name, ratio, seconds = line.split()
            row = {"network": name, "instructions": instructions, "ratio": round(float(ratio), 2)}
            rows.append(row | {"seconds": round(float(seconds), 2)})
    return rows


PARTS = {"command": command, "step": step, "transfer": transfer, "bf16": bf16}

if __name__ == "__main__":
    main()
