"""How long training takes on this machine, from steps that are measured now on random images."""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

import pruning
from attacks import AttackSettings
from config import attack_settings
from engine.cohort import Cohort, Data
from engine.compiled_step import stepper_for
from engine.graph import EAGER
from utils import time_in_words

IMAGES = 1000  # random ones; what they show takes no other time
STEPS = 100  # of the epoch that is laid out
LEAST = 0.1  # seconds of steps from which a pace is told
DENSITIES = (1.0, 0.3, 0.1, 0.03)  # where a compiled net's pace is measured
ONE_GRADIENT = AttackSettings("fgsm", "linf", (("epsilon", 0.1),))
# gradients of an image that an attack without a fixed count takes: a guess
MINIMAL_GRADIENTS = 300


@dataclass(frozen=True)
class Pace:
    """Seconds of a cohort's step, of one image through its nets, and of one image's gradient, at
    some densities.
    """

    densities: tuple  # ascending
    step: tuple
    image: tuple
    gradient: tuple  # of an image, as white-box attacks want it

    def at(self, density):
        """Seconds of (a step, an image, a gradient) at a density between the measured ones."""
        kinds = self.step, self.image, self.gradient
        return tuple(np.interp(density, self.densities, values) for values in kinds)


def pace(config, model, made, runs, size, device):
    """The Pace of so many runs of a network; size: (in_shape, classes).

    made: compiled kernels, or None; torch's steps take the same at every density.
    """
    densities = sorted(DENSITIES) if made else (1.0,)
    found = [_measured(config, model, made, runs, size, device, density) for density in densities]
    return Pace(tuple(densities), *zip(*found, strict=True))


def _measured(config, model, made, runs, size, device, density):
    """Seconds of (a step, an image, a gradient) at a density."""
    stepper = random_stepper(config, model, runs, *size, device, made, density)

    def advance(count):
        stepper.move_to(0)
        stepper.advance(count)
        wait_for(device)

    step, images = _seconds(advance, EAGER + 2 if device.type == "cuda" else 1), stepper.data.images
    # a step is about three passes of its batch: as many images as take LEAST seconds
    most = int(np.clip(3 * config.batch_size * LEAST / step, 10, IMAGES))
    index = stepper.data.train_index[:, :most]
    cohort, chosen = stepper.cohort, stepper.cohort.select(index)
    cohort.model.eval()

    def look(count):
        with torch.no_grad():
            for _ in range(count):
                cohort.logits(images[chosen])
        wait_for(device)

    def differentiate(count):
        for _ in range(count):
            cohort.attack(images[chosen], stepper.data.labels[chosen], ONE_GRADIENT, None)
        wait_for(device)

    return step, _seconds(look) / index.shape[1], _seconds(differentiate) / index.shape[1]


def _seconds(work, warm=1):
    """Seconds of one unit of work(count), after `warm` of them."""
    began = time.perf_counter()
    work(warm)
    first, count = (time.perf_counter() - began) / warm, 1
    while True:
        began = time.perf_counter()
        work(count)
        seconds = time.perf_counter() - began
        if seconds >= LEAST or 2 * count > STEPS or first > LEAST:
            return seconds / count
        count *= 2


def wait_for(device):
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_stepper(config, model, runs, shape, classes, device, made=None, density=1.0):
    """A stepper of so many runs of a network on random images, its epoch of STEPS laid out."""
    draw = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(mask.shape, generator=draw) <= density
        for name, mask in pruning.ones(model).items()
    }
    cohort = Cohort(
        model, [model.state_dict()] * runs, [masks] * runs, device, config.precision, made
    )
    index = torch.randint(IMAGES, (runs, config.batch_size * STEPS), generator=draw).to(device)
    images = torch.rand(IMAGES, *shape, generator=draw).to(device)
    labels = torch.randint(classes, (IMAGES,), generator=draw).to(device)
    stepper = stepper_for(cohort, Data(images, labels, index, index[:, :1]), [config] * runs)
    stepper.start(0, 0)
    cohort.model.train()
    return stepper


def step_seconds(stepper, steps=20):
    """Median seconds of a step, after what a GPU's capture takes."""

    def timed(count):
        began = time.perf_counter()
        stepper.advance(count)
        wait_for(stepper.losses.device)
        return time.perf_counter() - began

    timed(EAGER + 2)
    return statistics.median(timed(steps) / steps for _ in range(3))


def seconds_left(config, known, counts, first=0):
    """Seconds that the rounds of a run from `first` on take at that Pace.

    counts: its training, validation and test images. What is neither training nor testing (saving,
    pruning) is not in it.
    """
    train, val, test = counts
    steps = -(-train // config.batch_size)
    of_look, of_tests = _gradients_of_look(config, val), _gradients_of_tests(config, test)
    total = 0.0
    for number in range(first, config.prune_iterations):
        step, image, gradient = known.at((1 - config.prune_percent / 100) ** number)
        epochs = config.end_iter - config.first_epoch(number)
        every = config.valid_steps or config.valid_freq * steps
        looks = -(-epochs * steps // every)
        total += epochs * steps * step + image * (looks * val + 2 * test)
        total += gradient * (looks * of_look + of_tests)
    return total


def each_epoch(config):
    """That RunConfig, validated once an epoch."""
    return config.replace(valid_steps=0, valid_freq=1)


def looks_note(valid_steps, often, seldom):
    """What --valid_steps costs, in a line, where it is more than a third of the time; else "".

    valid_steps: that of each run. often: seconds that the runs take; seldom: what they would take
    as each_epoch has them.
    """
    steps = sorted({steps for steps in valid_steps if steps})
    if not steps or often <= 1.5 * seldom:
        return ""
    right = f"--valid_steps=0, once an epoch, would take about {time_in_words(seldom)}"
    each = " or ".join(map(str, steps))
    return f"note: much of that is validation, each {each} steps: {right}"


def _gradients_of_look(config, count):
    """Gradients of images in one look at so many validation images."""
    if not config.adversarial:  # they are attacked beforehand, if at all
        return 0
    return _gradients(attack_settings(config, config.attack, False), config.attacked_of(count))


def _gradients_of_tests(config, count):
    """Gradients of images in the white-box tests of a round on so many images."""
    total = 0
    for name in config.eval_attacks:
        settings = attack_settings(config, name, False, test=True)
        tried = min(config.eval_examples, count) if settings.iterative() else count
        total += _gradients(settings, tried)
    return total


def _gradients(settings, count):
    """Gradients of images that it takes to attack so many."""
    if settings.entry().minimal():
        return MINIMAL_GRADIENTS * count
    return count * (settings.attack_steps if settings.iterative() else 1)
