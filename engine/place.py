"""Where in a round a cohort is: kept as one Partial a run, and gone on with from there."""

import time
from dataclasses import dataclass, field

import torch

from engine.signals import stop
from store.checkpoint import Partial


@dataclass
class Place:
    """What a stopped cohort needs besides its weights and moments; dicts are as Cohort.state()."""

    best: dict
    best_accuracy: torch.Tensor  # (R,)
    rows: list  # R lists of rows of epochs.csv
    counted: int  # iterations whose training losses are in rows
    pending: torch.Tensor  # (n, R) training losses since
    rewind: dict | None = None
    # (iteration, validation loss, accuracy) of this epoch, on the device until it is over
    checks: list = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    saved: tuple | None = None  # (losses, random states) within an epoch, until it is begun again

    @classmethod
    def begin(cls, cohort, counted, device):
        """The place where a round begins."""
        accuracy = torch.full((cohort.size,), -1.0, dtype=torch.double, device=device)
        rows = [[] for _ in range(cohort.size)]
        return cls(cohort.state(), accuracy, rows, counted, torch.empty(0, cohort.size))

    @classmethod
    def resume(cls, cohort, stepper, first, partials):
        """The place that R Partials of one step describe; weights and moments as they were there.

        first: the epoch that the round began with.
        """
        one, device = partials[0], stepper.losses.device
        cohort.load(cohort.together([partial.weights for partial in partials]))
        moments = {
            kind: cohort.together([partial.moments[kind] for partial in partials])
            for kind in one.moments
        }
        stepper.optimizer.load(moments, (one.epoch - first) * stepper.steps + one.step)

        def on_device(values):
            return torch.tensor(values, dtype=torch.double, device=device)

        def stacked(name):
            return torch.stack([getattr(partial, name) for partial in partials], dim=-1)

        checks = [
            (runs[0][0], *(on_device([run[column] for run in runs]) for column in (1, 2)))
            for runs in zip(*(partial.checks for partial in partials), strict=True)
        ]
        rewind = cohort.together([p.rewind for p in partials]) if one.rewind else None
        return cls(
            best=cohort.together([partial.best for partial in partials]),
            best_accuracy=on_device([partial.best_accuracy for partial in partials]),
            rows=[list(partial.rows) for partial in partials],
            counted=one.counted,
            pending=stacked("pending"),
            rewind=rewind,
            checks=checks,
            epoch=one.epoch,
            step=one.step,
            saved=(stacked("losses").to(device), one.random) if one.step else None,
        )

    def reach(self, stepper):
        """Skip to where a stopped epoch was; any other begins at its first step."""
        self.step = self.step if self.saved else 0
        if self.saved:
            losses, random = self.saved
            stepper.go_to(self.step, losses)
            setters = (torch.set_rng_state, torch.cuda.set_rng_state)
            for restore, state in zip(setters, random, strict=False):
                restore(state)
            self.saved = None
        else:
            self.checks = []

    def check(self, iteration, loss, accuracy, cohort):
        """Take note of a validation, (R,) each, and keep the states of the runs that are better."""
        keep_best(self.best, cohort, accuracy > self.best_accuracy)
        self.best_accuracy = torch.maximum(self.best_accuracy, accuracy)
        self.checks.append((iteration, loss, accuracy))

    def end_epoch(self, epoch, losses):
        """Turn an epoch's training losses (steps, R) and validations into rows.

        The training loss of a row is the mean over the steps since the validation before it.
        """
        self.pending = torch.cat([self.pending, losses])
        for iteration, loss, accuracy in self.checks:
            count = iteration - self.counted
            # run by run: a mean over several may add in another order
            trained = [losses.mean().item() for losses in self.pending[:count].T.contiguous()]
            self.pending, self.counted = self.pending[count:], iteration
            for run, table in enumerate(self.rows):
                row = {"epoch": epoch + 1, "iteration": iteration}
                row |= {"train_loss": trained[run], "val_loss": loss[run].item()}
                table.append(row | {"val_accuracy": accuracy[run].item()})

    def partials(self, cohort, stepper, round_number, epoch, step):
        """R Partials, from which step `step` of this epoch can go on."""
        states = stepper.optimizer.state().items()
        moments = {kind: cohort.unstack(values) for kind, values in states}
        weights, best = cohort.unstack(cohort.state()), cohort.unstack(self.best)
        rewind = cohort.unstack(self.rewind) if self.rewind else [{}] * cohort.size
        random = [torch.get_rng_state()]
        if stepper.losses.device.type == "cuda":
            random.append(torch.cuda.get_rng_state())
        within = step > 0
        return [
            Partial(
                round=round_number,
                epoch=epoch,
                step=step,
                weights=weights[run],
                best=best[run],
                rewind=rewind[run],
                moments={kind: values[run] for kind, values in moments.items()},
                best_accuracy=self.best_accuracy[run].item(),
                rows=list(self.rows[run]),
                counted=self.counted,
                pending=self.pending[:, run].clone(),
                losses=stepper.losses[:step, run].cpu().clone(),
                random=random if within else [],
                checks=[(i, a[run].item(), b[run].item()) for i, a, b in self.checks if within],
            )
            for run in range(cohort.size)
        ]


@torch.no_grad()
def keep_best(best, cohort, better):
    """Overwrite `best` with the states of the runs where `better` (R,) is true, on the device."""
    for name, tensor in {**cohort.params, **cohort.buffers}.items():
        axes = [1] * (tensor.dim() - 1)
        where = better.view(-1, *axes) if cohort.size > 1 else better[0]
        best[name] = torch.where(where, tensor, best[name])


class Keeper:
    """Keeps where in a round a cohort is: a kill loses the epoch in hand, of a long one its last
    minute, a signal nothing.

    begin: what the runs kept when they were stopped, for the first round that asks; write: called
    with R Partials. Every `freq` epochs, but where epochs are short only so often that a twentieth
    of the time goes into it.
    """

    SHARE = 20
    LONG = 60.0  # seconds of an epoch after which its steps are kept too

    def __init__(self, begin, write, freq):
        self.begin, self.write, self.freq = begin, write, freq
        self.cost, self.last = 0.0, time.monotonic()

    @property
    def stopping(self):
        """Whether a signal has asked the program to stop."""
        return stop.signal is not None

    def due(self, epoch):
        """Whether to keep the state after `epoch` epochs of the round."""
        rested = time.monotonic() - self.last >= self.SHARE * self.cost
        return epoch % self.freq == 0 and rested

    def late(self):
        """Whether to keep the state within an epoch."""
        return time.monotonic() - self.last >= max(self.LONG, self.SHARE * self.cost)

    def keep(self, partials):
        """Write each run's state."""
        began = time.monotonic()
        self.write(partials)
        self.last = time.monotonic()
        self.cost = self.last - began
