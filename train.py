"""Fit and evaluate a cohort: R runs trained in lockstep, whichever engine steps.

The optimiser is elementwise, so each run of a cohort gets exactly the update it would get alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from attacks import EVAL_BATCH
from config import RunConfig, attack_settings
from engine.cohort import Cohort
from engine.compiled_step import CompiledStepper
from engine.graph import Replay
from engine.place import Place
from engine.step import Stepper

EVAL_IMAGES = 16_000  # of all runs of a cohort at a time, so that their activations fit


class Diverged(ArithmeticError):
    """A loss that is not a number; says where, and `runs` which of the cohort."""

    def __init__(self, message, runs):
        super().__init__(message)
        self.runs = runs


class Stopped(Exception):
    """Training was asked to stop, and has kept where it was."""


@dataclass
class Fit:
    """What a round of training leaves: rows a run for epochs.csv, and states as Cohort.state()."""

    rows: list  # R lists of dicts: epoch, iteration, train_loss, val_loss, val_accuracy
    best: dict  # at the validation of the highest accuracy, the earliest of equals
    rewind: dict | None  # after epoch config.rewind_epoch of round 0


def fit(cohort, data, configs, round_number, on_epoch=lambda epoch, rows: None, keeper=None):
    """Train the cohort from its present weights to the end of its last epoch; returns a Fit.

    configs: each run's, which differ only in what a cohort's runs may have for their own. Rounds
    after 0 of a net that was rewound to epoch k start at epoch k. keeper (engine.place.Keeper) says
    where in the round to begin, and when to keep where training is. Diverged if a training loss is
    not finite, Stopped if the keeper was asked to stop.
    """
    config, device = configs[0], data.images.device
    first = config.rewind_epoch if round_number else 0
    online = OnlineAttack(cohort, config) if config.attack_mode == "online" else None
    stepper = (CompiledStepper if cohort.nets else Stepper)(cohort, data, configs, online)
    steps = stepper.steps
    # validation loss and accuracy
    validated = torch.empty(2, cohort.size, dtype=torch.double, device=device)
    look = Replay(
        lambda: torch.stack(validate(cohort, data, online), out=validated), device, [validated]
    )
    if keeper and keeper.begin:
        at = Place.resume(cohort, stepper, first, keeper.begin)
    else:
        at = Place.begin(cohort, first * steps, device)
    for epoch in range(at.epoch or first, config.end_iter):
        stepper.start(round_number, epoch)
        at.reach(stepper)
        cohort.model.train()
        step = at.step
        while step < steps:
            due = steps_until_due(config, epoch * steps + step, steps)
            count = min(stepper.at_once, steps - step, due)
            stepper.advance(count)
            step += count
            if count == due:
                look()
                at.check(epoch * steps + step, *validated.clone(), cohort)
                cohort.model.train()
            if keeper and keeper.stopping and step < steps:
                keeper.keep(at.partials(cohort, stepper, round_number, epoch, step))
                raise Stopped
        losses = stepper.losses.cpu()
        _raise_if_diverged(losses, at.checks, cohort, round_number, epoch, configs)
        at.end_epoch(epoch, losses)
        if round_number == 0 and epoch + 1 == config.rewind_epoch:
            at.rewind = cohort.state()
        on_epoch(epoch, at.rows)
        due = epoch + 1 < config.end_iter and keeper and keeper.due(epoch + 1)
        if keeper and (keeper.stopping or due):
            keeper.keep(at.partials(cohort, stepper, round_number, epoch + 1, 0))
            if keeper.stopping:
                raise Stopped
    return Fit(at.rows, at.best, at.rewind)


def steps_until_due(config, iteration, steps):
    """Steps to the next validation: each valid_steps steps, or valid_freq epochs, and at the end.

    iteration: steps done; steps: of an epoch.
    """
    freq = config.valid_steps or config.valid_freq * steps
    return min(freq - iteration % freq, config.end_iter * steps - iteration)


@torch.no_grad()
def evaluate(cohort, images, labels, index=None, change=None):
    """Mean cross-entropy (R,) and accuracy in percent (R,), on the device.

    images (P, C, H, W) and labels (P,); index: (R, N), each run's own positions; None: all of them.
    change(images, labels) -> images, if given, is applied to each batch.
    """
    if index is None:
        index = torch.arange(len(labels), device=labels.device).expand(cohort.size, -1)
    cohort.model.eval()
    loss, hits = (torch.zeros(cohort.size, device=labels.device) for _ in range(2))
    size = max(1, min(EVAL_BATCH, EVAL_IMAGES // cohort.size))
    for start in range(0, index.shape[1], size):
        chosen = cohort.select(index[:, start : start + size])
        batch, target = images[chosen], labels[chosen]
        logits = cohort.logits(change(batch, target) if change else batch)
        losses = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
        loss += losses.view(cohort.size, -1).sum(1)
        hits += (logits.argmax(-1) == target).view(cohort.size, -1).sum(1)
    return loss.double() / index.shape[1], 100 * hits.double() / index.shape[1]


def validate(cohort, data, change=None):
    """Mean cross-entropy and accuracy (R,) on the validation images, attacked as the training's.

    A static attack is in the index already; online, `change` attacks each batch against the present
    nets.
    """
    return evaluate(cohort, data.images, data.labels, data.val_index, change)


@dataclass
class OnlineAttack:
    """Adversarial training (Goodfellow et al. 2015, section 6; Madry et al. 2018): called with
    (images, labels), it attacks a batch's share of images against the nets as they are.

    images (R, B, C, H, W), (B, C, H, W) when R = 1; the first round(mix_ratio * B) are attacked, in
    eval mode meanwhile, so that batch-norm statistics are of the images that train the nets. The
    batch's order is random, so which images come first is too.
    """

    cohort: Cohort
    config: RunConfig

    def __call__(self, images, labels):
        """The batch with its share attacked."""
        count = self.count(images.shape[-4])
        if not count:
            return images
        part = images.narrow(-4, 0, count)
        rest = images.narrow(-4, count, images.shape[-4] - count)
        model, was_training = self.cohort.model, self.cohort.model.training
        model.eval()
        truth = labels.narrow(-1, 0, count)
        attacked = self.cohort.attack(
            part, truth, self.settings(images), lambda restart: self.starts(part)
        )
        model.train(was_training)
        return torch.cat([attacked, rest], dim=-4)

    def count(self, size):
        """How many of a batch's images are attacked."""
        return round(self.config.mix_ratio * size)

    def settings(self, images):
        """The attack's settings for such images."""
        return attack_settings(self.config, self.config.attack, images.shape[-3] > 1)

    def starts(self, images):
        """Numbers in [0, 1) for (..., B, C, H, W) images, the same for all runs."""
        return torch.rand(images.shape[-4:], device=images.device)


def _raise_if_diverged(losses, checks, cohort, round_number, epoch, configs):
    """Look at an epoch's losses (steps, R), its validation losses and the weights after it."""
    where = f"round {round_number}, epoch {epoch + 1}"

    def fail(what, runs):
        right = f"a smaller --lr (now {configs[runs[0]].lr:g}) or another --init may train"
        raise Diverged(f"{what}: {right}", runs)

    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step, run = bad[0].tolist()
        others = sorted({other for _, other in bad.tolist()} - {run})
        loss = losses[step, run].item()
        fail(f"the training loss is {loss} in {where}, step {step + 1}", [run, *others])
    for _, loss, _ in checks:
        wrong = (~torch.isfinite(loss)).nonzero().flatten().tolist()
        if wrong:
            fail(f"the validation loss is not a number in {where}", wrong)
    weights = [tensor.detach().reshape(cohort.size, -1) for tensor in cohort.params.values()]
    finite = torch.stack([torch.isfinite(tensor).all(1) for tensor in weights]).all(0)
    if not finite.all():
        wrong = (~finite).nonzero().flatten().tolist()
        fail(f"a weight is not a number after {where}", wrong)
