"""Fit and evaluate a cohort: R runs trained in lockstep.

Everything a run owns carries a leading run axis (R, ...). The loss is written for one run and
vmapped when R > 1; R = 1 takes the same code without the vmap and without the axis. The
optimiser is elementwise, so each run of a cohort gets exactly the update it would get alone.
"""

import contextlib
import copy
import pkgutil
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import attacks
import pruning
from config import attack_settings
from step import Replay, Stepper
from utils import shuffled, stream

EVAL_BATCH = 1000  # images of a run at a time in evaluation
EVAL_IMAGES = 16_000  # of all runs of a cohort at a time, so that their activations fit
ATTACK_BATCH = 64  # images of an iterative attack on a CPU: measured fastest of 32 to 256 for the CNN; a GPU takes EVAL_BATCH


class Diverged(ArithmeticError):
    """A loss that is not a number; says where, and `runs` which of the cohort."""

    def __init__(self, message, runs):
        super().__init__(message)
        self.runs = runs


class Stopped(Exception):
    """Training was asked to stop, and has kept where it was."""


@dataclass
class Data:
    """The pool and what each run of the cohort takes from it, on the device.

    images: (P, C, H, W) floats in [0, 1], clean images first, their attacked versions after them;
    labels: (P,); train_index and val_index: (R, N) and (R, V) positions in the pool.
    """

    images: torch.Tensor
    labels: torch.Tensor
    train_index: torch.Tensor
    val_index: torch.Tensor

    def some(self, run, seed):
        """A function of a count: that many (images, labels) of a run's training data, by the stream (seed, "some")."""

        def take(count):
            index = self.train_index[run, shuffled(self.train_index.shape[1], [stream(seed, "some")], self.labels.device)[0, :count]]
            return self.images[index], self.labels[index]

        return take


class Cohort:
    """R networks of one architecture with their masks.

    states: R dicts name -> tensor with every parameter and buffer; masks: R dicts as pruning.py
    makes them. Pruned weights are 0 from the start and stay so: their gradients are masked.
    """

    def __init__(self, model, states, masks, device, precision="fp32"):
        self.size, self.precision = len(states), precision
        self.model = copy.deepcopy(model).to(device)
        self.has_dropout = any(isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules())
        if self.has_dropout and self.size > 1:
            raise ValueError("a network with dropout trains in cohorts of one: its draws are the run's own")
        self.masks = {name: self._stack([mask[name] for mask in masks], device) for name in masks[0]}
        state = {name: self._stack([state[name] for state in states], device) for name in states[0]}
        state = pruning.apply(state, self.masks)
        if self.size == 1:  # the module's own tensors: calling it costs less than functional_call
            self.model.load_state_dict(state)
            if all(getattr(module, "channels_last", True) for module in self.model.modules()):
                self.model.to(memory_format=torch.channels_last)  # a tenth to a fifth faster for convolutions
            self.params, self.buffers = dict(self.model.named_parameters()), dict(self.model.named_buffers())
        else:
            self.params = {name: state.pop(name).requires_grad_() for name, _ in model.named_parameters()}
            self.buffers = state

    def _stack(self, tensors, device):
        stacked = torch.stack([tensor.to(device) for tensor in tensors])
        return stacked if self.size > 1 else stacked[0]

    def logits(self, images):
        """(R, B, C, H, W) images in [0, 1], (B, C, H, W) when R = 1 -> logits (R, B, K), (B, K) when R = 1."""
        if self.size == 1:
            return self.model(images)

        def one(params, buffers, x):
            return functional_call(self.model, (params, buffers), (x,))

        return torch.vmap(one)(self.params, self.buffers, images)

    def losses(self, images, labels):
        """Mean cross-entropy of each run, (R,), or a scalar when R = 1, in self.precision; images and labels as for `logits`."""

        def one(params, buffers, x, y):
            return F.cross_entropy(functional_call(self.model, (params, buffers), (x,)), y)

        low = self.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16) if low else contextlib.nullcontext():
            if self.size == 1:
                return F.cross_entropy(self.model(images), labels)
            return torch.vmap(one)(self.params, self.buffers, images, labels)

    def select(self, index):
        """An index (R, B) as this cohort takes it: (B,) when R = 1."""
        return index if self.size > 1 else index[0]

    def state(self):
        """Clones of every parameter and buffer, by name, with the run axis only when R > 1."""
        return {name: tensor.detach().clone() for name, tensor in {**self.params, **self.buffers}.items()}

    def together(self, states):
        """R dicts of tensors -> one on the device, as `state` gives it."""
        return {name: self._stack([state[name] for state in states], next(iter(self.params.values())).device) for name in states[0]}

    def load(self, state):
        """Take over the values of `state`."""
        with torch.no_grad():
            for name, tensor in {**self.params, **self.buffers}.items():
                tensor.copy_(state[name])

    def unstack(self, state):
        """A dict with a run axis -> R dicts of CPU tensors without it."""
        if self.size == 1:
            return [{name: tensor.cpu() for name, tensor in state.items()}]
        return [{name: tensor[run].cpu() for name, tensor in state.items()} for run in range(self.size)]


@dataclass
class Fit:
    """What a round of training leaves: rows per run for epochs.csv, and states as Cohort.state() gives them."""

    rows: list  # R lists of dicts: epoch, iteration, train_loss, val_loss, val_accuracy
    best: dict  # at the validation of the highest accuracy, the earliest of equals
    rewind: dict | None  # after epoch config.rewind_epoch of round 0


def fit(cohort, data, configs, round_number, on_epoch=lambda epoch, rows: None, keeper=None):
    """Train the cohort from its present weights to the end of its last epoch; returns a Fit.

    configs: each run's, which differ only in what a cohort's runs may have for their own. Rounds after 0 of a net that
    was rewound to epoch k start at epoch k. keeper (runfolder.Keeper) says where in the round to begin, and when to keep where
    training is. Diverged if a training loss is not finite, Stopped if the keeper was asked to stop.
    """
    config, device = configs[0], data.images.device
    first = config.rewind_epoch if round_number else 0
    online = (lambda images, labels: attack_online(cohort, images, labels, config)) if config.attack_mode == "online" else None
    stepper = Stepper(cohort, data, configs, online)
    steps, full = stepper.steps, Replay(stepper.step, device)
    found = torch.empty(2, cohort.size, dtype=torch.double, device=device)  # validation loss and accuracy
    look = Replay(lambda: torch.stack(validate(cohort, data, online), out=found), device)
    at = _resume(cohort, stepper, first, keeper.begin) if keeper and keeper.begin else _begin(cohort, first * steps, found)
    for epoch in range(at.epoch or first, config.end_iter):
        stepper.start(round_number, epoch)
        at.reach(epoch, stepper)
        cohort.model.train()
        for step in range(at.step, steps):
            full() if stepper.sizes[step] == config.batch_size else stepper.step(stepper.sizes[step])
            iteration = epoch * steps + step + 1
            if is_due(config, iteration, steps):
                look()
                loss, accuracy = found.clone()
                keep_best(at.best, cohort, accuracy > at.best_accuracy)
                at.best_accuracy = torch.maximum(at.best_accuracy, accuracy)
                at.checks.append((iteration, loss, accuracy))
                cohort.model.train()
            if keeper and keeper.stopping and step + 1 < steps:
                keeper.keep(at.states(cohort, stepper, round_number, epoch, step + 1))
                raise Stopped
        losses = stepper.losses.cpu()
        _raise_if_diverged(losses, at.checks, [p.detach() for p in cohort.params.values()], round_number, epoch, configs)
        at.end_epoch(epoch, losses)
        if round_number == 0 and epoch + 1 == config.rewind_epoch:
            at.rewind = cohort.state()
        on_epoch(epoch, at.rows)
        if keeper and (keeper.stopping or (epoch + 1 < config.end_iter and keeper.due(epoch + 1))):
            keeper.keep(at.states(cohort, stepper, round_number, epoch + 1, 0))
            if keeper.stopping:
                raise Stopped
    return Fit(at.rows, at.best, at.rewind)


@dataclass
class Place:
    """Where in a round training is: what a stopped run needs besides its weights and moments."""

    best: dict
    best_accuracy: torch.Tensor  # (R,)
    rows: list
    counted: int  # iterations whose training losses are in rows
    pending: torch.Tensor  # (n, R) training losses since
    rewind: dict | None = None
    checks: list = field(default_factory=list)  # (iteration, validation loss, accuracy) of this epoch, left on the device until it is over
    epoch: int = 0
    step: int = 0
    saved: dict | None = None  # what was kept within an epoch, until that epoch has been started again

    def reach(self, epoch, stepper):
        """Skip to where a stopped epoch was; 0 is where any other begins."""
        self.step = self.step if self.saved else 0
        if self.saved:
            stepper.go_to(self.step, self.saved["losses"])
            for restore, state in zip((torch.set_rng_state, torch.cuda.set_rng_state), self.saved["random"], strict=False):
                restore(state)
            self.saved = None
        else:
            self.checks = []

    def end_epoch(self, epoch, losses):
        """Turn an epoch's training losses (steps, R) and validations into rows."""
        self.pending = torch.cat([self.pending, losses])
        for iteration, loss, accuracy in self.checks:
            count = iteration - self.counted
            _append_rows(self.rows, epoch, iteration, self.pending[:count].mean(0), loss, accuracy)
            self.pending, self.counted = self.pending[count:], iteration

    def states(self, cohort, stepper, round_number, epoch, step):
        """R dicts of CPU tensors and plain values, from which step `step` of this epoch can go on."""
        moments = {kind: cohort.unstack(each) for kind, each in stepper.optimizer.state().items()}
        weights, best = cohort.unstack(cohort.state()), cohort.unstack(self.best)
        rewind = cohort.unstack(self.rewind) if self.rewind else [{}] * cohort.size
        random = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if stepper.losses.device.type == "cuda" else [])
        return [
            {
                "round": round_number, "epoch": epoch, "step": step, "weights": weights[run], "best": best[run], "rewind": rewind[run],
                "moments": {kind: each[run] for kind, each in moments.items()}, "best_accuracy": self.best_accuracy[run].item(),
                "rows": list(self.rows[run]), "counted": self.counted, "pending": self.pending[:, run].clone(),
                "losses": stepper.losses[:step, run].cpu().clone(), "random": random if step else [],
                "checks": [(i, loss[run].item(), accuracy[run].item()) for i, loss, accuracy in self.checks] if step else [],
            }
            for run in range(cohort.size)
        ]  # fmt: skip


def _begin(cohort, counted, found):
    """The place where a round begins."""
    return Place(cohort.state(), torch.full_like(found[1], -1.0), [[] for _ in found[1]], counted, torch.empty(0, cohort.size))


def _resume(cohort, stepper, first, saved):
    """The place that R dicts of Place.states describe, all of the same step, with weights and moments as they were there."""
    one, device = saved[0], stepper.losses.device
    cohort.load(cohort.together([each["weights"] for each in saved]))
    moments = {kind: cohort.together([each["moments"][kind] for each in saved]) for kind in one["moments"]}
    stepper.optimizer.load(moments, (one["epoch"] - first) * stepper.steps + one["step"])

    def stacked(name, **kind):
        return torch.stack([torch.as_tensor(each[name], **kind) for each in saved], dim=-1)

    checks = [
        (each[0][0], *(torch.tensor([run[k] for run in each], dtype=torch.double, device=device) for k in (1, 2)))
        for each in zip(*(each["checks"] for each in saved), strict=True)
    ]
    return Place(
        cohort.together([each["best"] for each in saved]), stacked("best_accuracy", dtype=torch.double).to(device),
        [list(each["rows"]) for each in saved], one["counted"], stacked("pending"),
        cohort.together([each["rewind"] for each in saved]) if one["rewind"] else None, checks, one["epoch"], one["step"],
        {"losses": stacked("losses").to(device), "random": one["random"]} if one["step"] else None,
    )  # fmt: skip


def is_due(config, iteration, steps):
    """Whether to validate now: each valid_steps steps, or each valid_freq epochs; always at the very end."""
    if iteration == config.end_iter * steps:
        return True
    return iteration % (config.valid_steps or config.valid_freq * steps) == 0


@torch.no_grad()
def keep_best(best, cohort, better):
    """Overwrite `best` with the present state of the runs for which `better` (R,) is true, without asking the host."""
    for name, tensor in {**cohort.params, **cohort.buffers}.items():
        where = better.view(-1, *[1] * (tensor.dim() - 1)) if cohort.size > 1 else better[0]
        best[name] = torch.where(where, tensor, best[name])


@torch.no_grad()
def evaluate(cohort, images, labels, index=None, change=None):
    """Mean cross-entropy (R,) and accuracy in percent (R,), on the device.

    images (P, C, H, W) and labels (P,); index: (R, N), each run's own positions; None: all of them. change(images, labels) -> images,
    if given, is applied to each batch.
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
        each = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
        loss += each.view(cohort.size, -1).sum(1)
        hits += (logits.argmax(-1) == target).view(cohort.size, -1).sum(1)
    return loss.double() / index.shape[1], 100 * hits.double() / index.shape[1]


def validate(cohort, data, change=None):
    """Mean cross-entropy and accuracy (R,) on the validation images, with the share of them attacked that the training images have.

    A static attack is in the index already; online, `change` attacks each batch against the present nets.
    """
    return evaluate(cohort, data.images, data.labels, data.val_index, change)


def attack_online(cohort, images, labels, config):
    """The batch (R, B, C, H, W) with its first round(mix_ratio * B) images attacked against the present nets; (B, C, H, W) when R = 1.

    Adversarial training (Goodfellow et al. 2015, section 6; Madry et al. 2018). The nets are in eval mode meanwhile, so that
    batch-norm statistics are of the images that train them. The batch's order is random, so which images come first is too.
    """
    settings = attack_settings(config, config.attack, images.shape[-3:])
    count = round(config.mix_ratio * images.shape[-4])
    if not count:
        return images
    part, rest = images.narrow(-4, 0, count), images.narrow(-4, count, images.shape[-4] - count)
    was_training = cohort.model.training
    cohort.model.eval()

    def starts(restart):
        return torch.rand(part.shape[-4:], device=images.device)

    attacked = pkgutil.resolve_name(settings.line.batched)(cohort.logits, part, labels.narrow(-1, 0, count), settings, starts)
    cohort.model.train(was_training)
    return torch.cat([attacked, rest], dim=-4)


def attack_whitebox(cohort, settings, images, labels, index):
    """Images (P, C, H, W) attacked against each run's own network.

    Returns accuracy in percent (R,), mean L2 (R,) of those changed, and the percent (R,) that the attack left as they were though
    classified correctly: a zero gradient, not robustness. index: (P,) numpy positions of the images in the test set, which name their random starts.
    """
    attack = pkgutil.resolve_name(settings.line.batched)
    cohort.model.eval()
    hits, length, changed, unmoved = (torch.zeros(cohort.size, device=labels.device) for _ in range(4))
    batch = ATTACK_BATCH if settings.steps > 1 and labels.device.type == "cpu" else EVAL_BATCH
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        x = cohort.select(images[part].expand(cohort.size, *images[part].shape))
        y = cohort.select(labels[part].expand(cohort.size, -1))
        adversarial = attack(cohort.logits, x, y, settings, attacks.starts_for(0, "test", index[part], x))
        l2 = attacks.l2_norm(adversarial - x).view(cohort.size, -1)
        correct = attacks.is_correct(cohort.logits, adversarial, y).view(cohort.size, -1)
        hits, unmoved = hits + correct.sum(1), unmoved + (correct & (l2 == 0)).sum(1)
        length, changed = length + l2.sum(1), changed + (l2 > 0).sum(1)
    return 100 * hits.double() / len(labels), length / changed.clamp_min(1), 100 * unmoved / len(labels)


def _raise_if_diverged(losses, checks, params, round_number, epoch, configs):
    """Look at an epoch's losses (steps, R), its validation losses and the weights after it."""
    where = f"round {round_number}, epoch {epoch + 1}"

    def fail(what, runs):
        raise Diverged(f"{what}: a smaller --lr (now {configs[runs[0]].lr:g}) or another --init may train", runs)

    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step, run = bad[0].tolist()
        others = sorted({other for _, other in bad.tolist()} - {run})
        fail(f"the training loss is {losses[step, run].item()} in {where}, step {step + 1}", [run, *others])
    for _, loss, _ in checks:
        if not torch.isfinite(loss).all():
            fail(f"the validation loss is not a number in {where}", (~torch.isfinite(loss)).nonzero().flatten().tolist())
    finite = torch.stack([torch.isfinite(tensor.reshape(losses.shape[1], -1)).all(1) for tensor in params]).all(0)
    if not finite.all():
        fail(f"a weight is not a number after {where}", (~finite).nonzero().flatten().tolist())


def _append_rows(rows, epoch, iteration, train_loss, val_loss, accuracy):
    """One row a run for a validation; its training loss is the mean over the steps since the validation before it."""
    for run, table in enumerate(rows):
        table.append({
            "epoch": epoch + 1,
            "iteration": iteration,
            "train_loss": train_loss[run].item(),
            "val_loss": val_loss[run].item(),
            "val_accuracy": accuracy[run].item(),
        })  # fmt: skip
