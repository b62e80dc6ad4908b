"""Fit and evaluate a cohort: R runs trained in lockstep, whichever engine steps.

The optimiser is elementwise, so each run of a cohort gets exactly the update it would get alone.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from attacks import eval_batch
from engine.adversarial import Validation
from engine.compiled_step import stepper_for
from engine.graph import Replay
from engine.place import Place

EVAL_IMAGES = 16_000  # of all runs of a cohort at a time, so that their activations fit


class Diverged(ArithmeticError):
    """A loss that is not a number; says where, and `runs` which of the cohort."""

    def __init__(self, message, runs):
        super().__init__(message)
        self.runs = runs


class Stopped(Exception):
    """Training was asked to stop, and has kept where it was."""


class Watcher:
    """What fit tells of its way; this one does nothing with it."""

    def step(self, epoch, step, steps):
        """So many of the epoch's steps are done."""

    def epoch(self, epoch, rows):
        """The epoch has ended; rows: R lists of rows of epochs.csv, of this round so far."""


@dataclass
class Fit:
    """What a round of training leaves: rows a run for epochs.csv, and states as Cohort.state()."""

    rows: list  # R lists of dicts: epoch, iteration, train_loss, val_loss, val_accuracy
    best: dict  # at the validation of the highest accuracy, the earliest of equals
    rewind: dict | None  # after the epoch of round 0 that later rounds begin at


def fit(cohort, data, configs, round_number, watcher=None, keeper=None):
    """Train the cohort from its present weights to the end of its last epoch; returns a Fit.

    configs: each run's, which differ only in what a cohort's runs may have for their own. Rounds
    after 0 of a net that was rewound to epoch k start at epoch k. keeper (engine.place.Keeper) says
    where in the round to begin, and when to keep where training is. Diverged if a training loss is
    not finite, Stopped if the keeper was asked to stop.
    """
    config, device, watcher = configs[0], data.images.device, watcher or Watcher()
    first = config.first_epoch(round_number)
    stepper = stepper_for(cohort, data, configs)
    attacked = Validation(cohort, data, configs) if config.adversarial else None
    steps = stepper.steps
    # validation loss and accuracy
    validated = torch.empty(2, cohort.size, dtype=torch.double, device=device)
    look = Replay(
        lambda: torch.stack(validate(cohort, data, attacked), out=validated), device, [validated]
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
            watcher.step(epoch, step, steps)
            if count == due:
                look()
                at.check(epoch * steps + step, *validated.clone(), cohort)
                cohort.model.train()
            if keeper and step < steps and (keeper.stopping or keeper.late()):
                keeper.keep(at.partials(cohort, stepper, round_number, epoch, step))
                if keeper.stopping:
                    raise Stopped
        losses = stepper.losses.cpu()
        _raise_if_diverged(losses, at.checks, cohort, round_number, epoch, configs)
        at.end_epoch(epoch, losses)
        if round_number == 0 and epoch + 1 == config.first_epoch(1):
            at.rewind = cohort.state()
        watcher.epoch(epoch, at.rows)
        # after the last one too, so that a kill while the net is tested loses no training
        if keeper and (keeper.stopping or keeper.due(epoch + 1)):
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
    change(images, labels, begin) -> images, if given, is applied to each batch; begin: its first
    place in the index. Batches of another size give the same but for the network's own rounding.
    """
    if index is None:
        index = torch.arange(len(labels), device=labels.device).expand(cohort.size, -1)
    cohort.model.eval()
    losses, hits = [], torch.zeros(cohort.size, device=labels.device)
    size = max(1, min(eval_batch(labels.device), EVAL_IMAGES // cohort.size))
    for start in range(0, index.shape[1], size):
        chosen = cohort.select(index[:, start : start + size])
        batch, target = images[chosen], labels[chosen]
        logits = cohort.logits(change(batch, target, start) if change else batch)
        each = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
        losses.append(each.view(cohort.size, -1))
        hits += (logits.argmax(-1) == target).view(cohort.size, -1).sum(1)
    # run by run: a sum over several may add in another order
    loss = torch.stack([row.sum(dtype=torch.double) for row in torch.cat(losses, 1)])
    return loss / index.shape[1], 100 * hits.double() / index.shape[1]


def validate(cohort, data, attacked=None):
    """Mean cross-entropy and accuracy (R,) on the validation images, attacked as the training's.

    A static attack is in the index already; `attacked`: the engine.adversarial.Validation of nets
    that train against attacks on themselves.
    """
    index = attacked.index if attacked else data.val_index
    return evaluate(cohort, data.images, data.labels, index, attacked)


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
