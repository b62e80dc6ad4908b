"""How long evaluation takes by the images at a time, on this CPU: why attacks.CPU_BATCH is small.

    OMP_NUM_THREADS=1 python benchmarks/eval_batch.py

Seconds of the process itself (user and system), which other work on the machine moves less than the
clock: the median of REPEATS turns, each size once a turn. Random images of MNIST's shape.
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

import archs
import attacks
import pruning
import train
from engine.cohort import Cohort
from engine.machine import set_threads
from store.files import write_json

SHAPE, SIZES, REPEATS = (1, 28, 28), (32, 64, 128, 256, 1000), 5
IMAGES = {"fc1": 10_000, "lenet5": 2_000, "resnet20": 2_000}


def seconds(cohort, images, labels, size):
    """Seconds of this process that evaluating these images takes, so many at a time."""
    attacks.CPU_BATCH = size
    begin = time.process_time()
    train.evaluate(cohort, images, labels)
    return time.process_time() - begin


def main():
    """Measure, print a line a network, save benchmarks/eval_batch.json."""
    set_threads(1)
    found = {}
    for arch, count in IMAGES.items():
        net = archs.build(arch, SHAPE, 10, ([0.0], [1.0]))
        cohort = Cohort(net, [net.state_dict()], [pruning.ones(net)], torch.device("cpu"))
        images, labels = torch.rand(count, *SHAPE), torch.randint(10, (count,))
        seconds(cohort, images, labels, SIZES[0])
        turns = [[seconds(cohort, images, labels, n) for n in SIZES] for _ in range(REPEATS)]
        medians = [round(statistics.median(column), 3) for column in zip(*turns, strict=True)]
        found[arch] = {"images": count, "seconds": dict(zip(map(str, SIZES), medians, strict=True))}
        print(arch, json.dumps(found[arch]), flush=True)
    write_json(Path(__file__).with_suffix(".json"), {"torch": torch.__version__, **found})


if __name__ == "__main__":
    main()
