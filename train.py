"""Fit and evaluate a cohort: R runs trained in lockstep.

Everything a run owns carries a leading run axis (R, ...). The loss is written for one run and
vmapped when R > 1; R = 1 takes the same code without the vmap and without the axis. The
optimiser is elementwise, so each run of a cohort gets exactly the update it would get alone.
"""

import contextlib
import copy
import pkgutil
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.optim.adam import adam
from torch.optim.sgd import sgd

import attacks
import pruning
from config import attack_settings
from utils import permutation, stream

EVAL_BATCH = 1000
ATTACK_BATCH = 64  # images of an iterative attack on a CPU: measured fastest of 32 to 256 for the CNN; a GPU takes EVAL_BATCH


class Diverged(ArithmeticError):
    """A loss that is not a number; says where, and `runs` which of the cohort."""

    def __init__(self, message, runs):
        super().__init__(message)
        self.runs = runs


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


def fit(cohort, data, config, seeds, round_number, on_epoch=lambda epoch, rows: None):
    """Train the cohort from its present weights to the end of its last epoch; returns a Fit.

    config: the settings that the runs share; seeds: R order seeds. Rounds after 0 of a net that
    was rewound to epoch k start at epoch k. Diverged if a training loss is not finite.
    """
    first = config.rewind_epoch if round_number else 0
    steps = len(batch_bounds(data.train_index.shape[1], config.batch_size))
    optimizer = Optimizer(cohort.params, cohort.masks, config)
    best, best_accuracy, rewind, rows = cohort.state(), torch.full((cohort.size,), -1.0, dtype=torch.double), None, [[] for _ in seeds]
    best_accuracy = best_accuracy.to(data.images.device)
    pending, counted = torch.empty(0, cohort.size), first * steps  # training losses since the last validation
    for epoch in range(first, config.end_iter):
        batches = epoch_batches(data, config, seeds, round_number, epoch)
        losses = torch.empty(steps, cohort.size, device=data.images.device)
        checks = []  # (iteration, validation loss, accuracy), left on the device until the epoch is over
        cohort.model.train()
        for step, (images, labels) in enumerate(batches(cohort)):
            if config.attack_mode == "online":
                images = attack_online(cohort, images, labels, config)
            iteration = epoch * steps + step + 1
            losses[step] = train_step(cohort, images, labels, optimizer, learning_rate(config, iteration, epoch))
            if is_due(config, iteration, steps):
                loss, accuracy = validate(cohort, data, config)
                keep_best(best, cohort, accuracy > best_accuracy)
                best_accuracy = torch.maximum(best_accuracy, accuracy)
                checks.append((iteration, loss, accuracy))
                cohort.model.train()
        losses = losses.cpu()
        _raise_if_diverged(losses, checks, [p.detach() for p in cohort.params.values()], round_number, epoch, config)
        pending = torch.cat([pending, losses])
        for iteration, loss, accuracy in checks:
            count = iteration - counted
            _append_rows(rows, epoch, iteration, pending[:count].mean(0), loss, accuracy)
            pending, counted = pending[count:], iteration
        if round_number == 0 and epoch + 1 == config.rewind_epoch:
            rewind = cohort.state()
        on_epoch(epoch, rows)
    return Fit(rows, best, rewind)


def train_step(cohort, images, labels, optimizer, lr):
    """One update of every run; returns the losses (R,) before it, on the device."""
    losses = cohort.losses(images, labels)
    # the runs share no weight, so the gradient of the sum is each run's own
    gradients = torch.autograd.grad(losses.sum() if cohort.size > 1 else losses, list(cohort.params.values()))
    # the fused optimisers read memory in order, and some gradients come in another order than their weights
    gradients = [
        gradient if gradient.stride() == param.stride() else torch.empty_like(param).copy_(gradient)
        for gradient, param in zip(gradients, cohort.params.values(), strict=True)
    ]
    optimizer.step(gradients, lr)
    return losses.detach()


SPARSE = 0.25  # below this density a step gathers the alive weights; above it, masking all of them is faster (measured on fc1)


class Optimizer:
    """Adam (Kingma & Ba 2015) or SGD with momentum, by torch.optim's own functions, fused; pruned weights never change.

    Called without torch.optim's classes, whose bookkeeping is a tenth of a step of a small net. Of a layer with few
    weights alive only those are kept and updated, so the work shrinks with the density.
    """

    def __init__(self, params, masks, config):
        self.config, self.targets, self.masks, self.alive = config, list(params.values()), [], []
        for name, param in params.items():
            mask = masks.get(name)
            sparse = mask is not None and param.is_contiguous() and mask.float().mean() < SPARSE
            self.alive.append(mask.reshape(-1).nonzero().squeeze(1) if sparse else None)
            # a layer with nothing pruned yet needs no mask
            self.masks.append(mask.float() if mask is not None and not sparse and not mask.all() else None)
        self.params = [p.detach() if a is None else p.detach().view(-1)[a] for p, a in zip(self.targets, self.alive, strict=True)]
        is_adam = config.optimizer == "adam"
        self.first = [torch.zeros_like(p) for p in self.params] if is_adam else [None] * len(self.params)
        self.second = [torch.zeros_like(p) for p in self.params] if is_adam else []
        self.steps = [torch.zeros((), device=p.device) for p in self.params]

    @torch.no_grad()
    def step(self, gradients, lr):
        """Update the parameters in place with these gradients, in the parameters' order; they may be overwritten."""
        config, ready = self.config, []
        for gradient, mask, alive in zip(gradients, self.masks, self.alive, strict=True):
            if alive is not None:
                gradient = gradient.view(-1).index_select(0, alive)
            elif mask is not None:
                gradient.mul_(mask)
            ready.append(gradient)
        if config.optimizer == "adam":
            adam(
                self.params, ready, self.first, self.second, [], self.steps, fused=True, amsgrad=False,
                beta1=0.9, beta2=0.999, lr=lr, weight_decay=config.weight_decay, eps=1e-8, maximize=False,
            )  # fmt: skip
        else:
            sgd(
                self.params, ready, self.first, fused=True, weight_decay=config.weight_decay,
                momentum=config.momentum, lr=lr, dampening=0.0, nesterov=False, maximize=False,
            )  # fmt: skip
        for target, param, alive in zip(self.targets, self.params, self.alive, strict=True):
            if alive is not None:
                target.view(-1).index_copy_(0, alive, param)


def learning_rate(config, iteration, epoch):
    """Linear warm-up over config.warmup_steps, then a tenth after each epoch in config.lr_drops."""
    warm = min(1.0, iteration / config.warmup_steps) if config.warmup_steps else 1.0
    drops = sum(epoch >= int(at) for at in config.lr_drops.split(",") if at)
    return config.lr * warm * 0.1**drops


def is_due(config, iteration, steps):
    """Whether to validate now: each valid_steps steps, or each valid_freq epochs; always at the very end."""
    if iteration == config.end_iter * steps:
        return True
    return iteration % (config.valid_steps or config.valid_freq * steps) == 0


def epoch_batches(data, config, seeds, round_number, epoch):
    """A function of the cohort that yields this epoch's (images, labels), the last batch as short as it comes.

    Order and crops are drawn from each run's own streams (seed, name, round, epoch).
    """
    count, device = data.train_index.shape[1], data.images.device
    order = torch.stack([permutation(count, seed, "order", round_number, epoch) for seed in seeds]).to(device)
    order = data.train_index.gather(1, order)  # (R, N) positions in the pool
    shifts = None
    if config.augment:
        shifts = torch.stack([crop_and_flip_draws(count, seed, round_number, epoch) for seed in seeds]).to(device)

    def batches(cohort):
        # dropout and the random starts of online attacks draw from torch's own generator
        torch.manual_seed(stream(seeds[0], "dropout", round_number, epoch))
        for start, end in batch_bounds(count, config.batch_size):
            index = cohort.select(order[:, start:end])
            images = data.images[index]
            if shifts is not None:
                images = crop_and_flip(images, cohort.select(shifts[:, start:end]))
            yield images, data.labels[index]

    return batches


def batch_bounds(count, batch_size):
    """(start, end) of each batch; the last is as short as it comes, but an image alone, which batch-norm refuses, joins the batch before."""
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1 < batch_size:
        bounds[-2:] = [(bounds[-2][0], count)]
    return bounds


def crop_and_flip_draws(count, seed, round_number, epoch, padding=4):
    """(N, 3) whole numbers an image: rows and columns to shift by, 0 to 2 * padding, and 1 to flip."""
    generator = torch.Generator().manual_seed(stream(seed, "augment", round_number, epoch))
    shift = torch.randint(0, 2 * padding + 1, (count, 2), generator=generator)
    return torch.cat([shift, torch.randint(0, 2, (count, 1), generator=generator)], dim=1)


def crop_and_flip(images, draws, padding=4):
    """Each image (..., C, H, W) shifted within a border of zeros and flipped as its draws (..., 3) say."""
    shape = images.shape
    images, draws = images.flatten(0, -4), draws.flatten(0, -2)
    height, width = shape[-2:]
    rows = draws[:, 0, None] + torch.arange(height, device=images.device)  # (B, H)
    columns = torch.arange(width, device=images.device).expand(len(draws), width)
    columns = draws[:, 1, None] + torch.where(draws[:, 2, None] == 1, columns.flip(1), columns)  # (B, W)
    padded = F.pad(images, [padding] * 4).permute(0, 2, 3, 1)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).reshape(shape)


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
    for start in range(0, index.shape[1], EVAL_BATCH):
        chosen = cohort.select(index[:, start : start + EVAL_BATCH])
        batch, target = images[chosen], labels[chosen]
        logits = cohort.logits(change(batch, target) if change else batch)
        each = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
        loss += each.view(cohort.size, -1).sum(1)
        hits += (logits.argmax(-1) == target).view(cohort.size, -1).sum(1)
    return loss / index.shape[1], 100 * hits.double() / index.shape[1]


def validate(cohort, data, config):
    """Mean cross-entropy and accuracy (R,) on the validation images, with the share of them attacked that the training images have.

    A static attack is in the index already; online, the first round(mix_ratio * V) are attacked against the present nets.
    """
    if config.attack_mode == "static":
        return evaluate(cohort, data.images, data.labels, data.val_index)
    return evaluate(cohort, data.images, data.labels, data.val_index, lambda images, labels: attack_online(cohort, images, labels, config))


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


def _raise_if_diverged(losses, checks, state, round_number, epoch, config):
    """Look at an epoch's losses (steps, R), its validation losses and the weights after it."""
    where = f"round {round_number}, epoch {epoch + 1}"
    hint = f"a smaller --lr (now {config.lr:g}) or another --init may train"
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step, run = bad[0].tolist()
        what = f"the training loss is {losses[step, run].item()} in {where}, step {step + 1}"
        raise Diverged(f"{what}: {hint}", sorted(set(bad[:, 1].tolist())))
    for _, loss, _ in checks:
        if not torch.isfinite(loss).all():
            raise Diverged(f"the validation loss is not a number in {where}: {hint}", (~torch.isfinite(loss)).nonzero().flatten().tolist())
    finite = torch.stack([torch.isfinite(tensor.reshape(losses.shape[1], -1)).all(1) for tensor in state]).all(0)
    if not finite.all():
        raise Diverged(f"a weight is not a number after {where}: {hint}", (~finite).nonzero().flatten().tolist())


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
