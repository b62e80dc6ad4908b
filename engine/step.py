"""The training step on memory that stays where it is: an epoch's batches, rates and losses.

They lie on the device, and the step finds its own place among them.
"""

import math

import torch
import torch.nn.functional as F

from engine.graph import Replay
from engine.machine import products
from engine.optimizer import Optimizer
from pruning import PRUNE_TYPES
from utils import generator, shuffled, stream


class Epochs:
    """A cohort's batches, rates and losses: `start` an epoch, then `advance` through its batches.

    configs: R RunConfigs that differ in nothing but what a cohort's runs may have for their own;
    change(images, labels) -> images, if given, is applied to each batch (online attacks). sizes:
    images of each step's batch; losses: (steps, R), as far as the epoch has come; `optimizer` has
    the moments. `at_once`: steps between which nobody needs to ask whether to stop.
    """

    at_once = 1

    def __init__(self, cohort, data, configs, change=None):
        kinds = {
            (c.first_epoch(0), c.first_epoch(1), PRUNE_TYPES[c.prune_type].last_rate)
            for c in configs
        }
        if len(kinds) > 1:
            what = "begin their rounds at one epoch, and have one schedule of rates"
            raise ValueError(f"runs that train together {what}")
        self.cohort, self.data, self.configs, self.change = cohort, data, configs, change
        self.config, device = configs[0], data.images.device
        self.count = data.train_index.shape[1]
        self.sizes = [
            end - start for start, end in batch_bounds(self.count, self.config.batch_size)
        ]
        self.steps = len(self.sizes)
        self.optimizer = self.make_optimizer()
        self.order = torch.empty_like(data.train_index)
        self.shifts = (
            torch.empty(*self.order.shape, 3, dtype=torch.long, device=device)
            if self.config.augment
            else None
        )
        self.rates = torch.empty(self.steps, len(self.optimizer.groups), device=device)
        self.losses = torch.zeros(self.steps, cohort.size, device=device)
        self.done = 0  # steps of this epoch

    def start(self, round_number, epoch):
        """Lay out an epoch: each run's order and crops, from its own streams (seed, name, round,
        epoch), and learning rates.
        """
        seeds = [config.order_seed for config in self.configs]
        order = shuffled(
            self.count,
            [stream(seed, "order", round_number, epoch) for seed in seeds],
            self.order.device,
        )
        torch.gather(self.data.train_index, 1, order, out=self.order)
        if self.shifts is not None:
            self.shifts.copy_(
                torch.stack(
                    [crop_and_flip_draws(self.count, seed, round_number, epoch) for seed in seeds]
                )
            )
        iterations = range(epoch * self.steps + 1, (epoch + 1) * self.steps + 1)
        if round_number and PRUNE_TYPES[self.config.prune_type].last_rate:
            iterations = [self.config.end_iter * self.steps] * self.steps
        factors = [schedule_factor(self.config, number, self.steps) for number in iterations]
        schedule = torch.tensor(factors, dtype=torch.double)
        self.rates.copy_(
            schedule[:, None]
            * torch.tensor([lr for lr, _ in self.optimizer.groups], dtype=torch.double)
        )
        self.move_to(0)
        # dropout and the random starts of online attacks draw from torch's own generator
        torch.manual_seed(stream(seeds[0], "dropout", round_number, epoch))

    def go_to(self, number, losses):
        """Skip to step `number` of the epoch that was started; losses (number, R) are those of the
        steps before it.
        """
        self.move_to(number)
        self.losses[:number] = losses

    def move_to(self, number):
        """Make step `number` of the epoch the next."""
        self.done = number

    def batch(self, places):
        """(images, labels) at these places (n,) of the epoch's order, cropped and attacked."""
        index = self.cohort.select(self.order.index_select(1, places))
        images, labels = self.data.images[index], self.data.labels[index]
        if self.shifts is not None:
            images = crop_and_flip(images, self.cohort.select(self.shifts.index_select(1, places)))
        return (self.change(images, labels) if self.change else images), labels


class Stepper(Epochs):
    """Steps by torch, on a GPU as a CUDA graph: the step finds its own place in the epoch.

    objective(images, labels) -> (R,) losses to be minimised, if not their cross-entropy.
    """

    def __init__(self, cohort, data, configs, change=None, objective=None):
        super().__init__(cohort, data, configs, change)
        device, self.objective = data.images.device, objective
        # of the step within its epoch, where the step itself can read it
        self.number = torch.zeros(1, dtype=torch.long, device=device)
        # of the longest batch: the last may have an image more, and all are one batch at most
        longest = min(self.config.batch_size, self.count) + 1
        self.range = torch.arange(longest, device=device)
        self.full = Replay(self.step, device, self.written())

    def make_optimizer(self):
        """The optimiser of these runs."""
        return Optimizer(self.cohort.params, self.cohort.masks, self.configs)

    def written(self):
        """Every tensor that a step changes."""
        own = {**self.cohort.params, **self.cohort.buffers}
        return [*own.values(), *self.optimizer.written(), self.losses, self.number]

    def move_to(self, number):
        """Make step `number` of the epoch the next."""
        super().move_to(number)
        self.number.fill_(number)

    def advance(self, count):
        """Train on the epoch's next `count` batches."""
        for _ in range(count):
            size = self.sizes[self.done]
            self.full() if size == self.config.batch_size else self.step(size)
            self.done += 1

    def step(self, size=None):
        """Train on the epoch's next batch: batch_size images, or `size`, which only the last batch
        may have.
        """
        size = size or self.config.batch_size
        places = self.number * self.config.batch_size + self.range[:size]
        images, labels = self.batch(places)
        rates = self.rates.index_select(0, self.number)[0]
        with products(self.config.precision, images.device):
            losses = train_step(self.cohort, images, labels, self.optimizer, rates, self.objective)
        self.losses.index_copy_(0, self.number, losses.view(1, -1))
        self.number += 1


def train_step(cohort, images, labels, optimizer, rates, objective=None):
    """One update of every run, at the learning rates (groups,); returns the losses (R,) before it,
    on the device. objective: as a Stepper's.
    """
    losses = (objective or cohort.losses)(images, labels)
    # the runs share no weight, so the gradient of the sum is each run's own
    gradients = torch.autograd.grad(
        losses.sum() if cohort.size > 1 else losses, list(cohort.params.values())
    )
    # the fused optimisers read memory in order, and some gradients come in another order than their
    # weights
    gradients = [
        gradient if gradient.stride() == param.stride() else torch.empty_like(param).copy_(gradient)
        for gradient, param in zip(gradients, cohort.params.values(), strict=True)
    ]
    optimizer.step(gradients, rates)
    return losses.detach()


def schedule_factor(config, iteration, steps):
    """What the learning rate of an iteration (from 1 on) is multiplied by.

    Linear warm-up over config.warmup_steps; then half a cosine wave to 0 at the round's end if
    config.lr_schedule says so; a tenth after each epoch in config.lr_drops. steps: of an epoch.
    """
    warm = min(1.0, iteration / config.warmup_steps) if config.warmup_steps else 1.0
    drops = sum((iteration - 1) // steps >= int(at) for at in config.lr_drops.split(",") if at)
    wave = 1.0
    if config.lr_schedule == "cosine":
        length = config.end_iter * steps - config.warmup_steps
        after = max(0, iteration - config.warmup_steps - 1)
        wave = (1 + math.cos(math.pi * after / max(1, length))) / 2
    return warm * wave * 0.1**drops


def batch_bounds(count, batch_size):
    """(start, end) of each batch; the last is as short as it comes, but an image alone, which
    batch-norm refuses, joins the batch before.
    """
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1 < batch_size:
        bounds[-2:] = [(bounds[-2][0], count)]
    return bounds


def crop_and_flip_draws(count, seed, round_number, epoch, padding=4):
    """(N, 3) an image: rows and columns to shift by, 0 to 2 * padding, and 1 to flip."""
    draws = generator(seed, "augment", round_number, epoch)
    shift = torch.randint(0, 2 * padding + 1, (count, 2), generator=draws)
    return torch.cat([shift, torch.randint(0, 2, (count, 1), generator=draws)], dim=1)


def crop_and_flip(images, draws, padding=4):
    """Each image (..., C, H, W) shifted within a border of zeros and flipped as its draws (..., 3)
    say.
    """
    shape = images.shape
    images, draws = images.flatten(0, -4), draws.flatten(0, -2)
    height, width = shape[-2:]
    rows = draws[:, 0, None] + torch.arange(height, device=images.device)  # (B, H)
    columns = torch.arange(width, device=images.device).expand(len(draws), width)
    columns = draws[:, 1, None] + torch.where(draws[:, 2, None] == 1, columns.flip(1), columns)
    padded = F.pad(images, [padding] * 4).permute(0, 2, 3, 1)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).reshape(shape)
