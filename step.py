"""The training step on memory that stays where it is: what a CUDA graph repeats without Python, and a CPU does eagerly.

A step of a small net is a few dozen kernels of some microseconds each; starting them from Python takes longer than they do.
So an epoch's order, learning rates and losses lie on the device, and the step finds its own place among them.
"""

import warnings

import torch
import torch.nn.functional as F

from utils import generator, shuffled, stream

GRAPHS = {"cuda"}  # devices on which Replay captures
EAGER = 3  # calls before the capture, in which cuBLAS and cuDNN set themselves up


class Replay:
    """work(), a function that only reads and writes tensors that stay where they are, made cheap to repeat.

    On a GPU, after some eager calls, it is captured as a CUDA graph and each later call is one replay; where it cannot be
    captured, and on a CPU, each call is eager. Either way a call does work() once.
    """

    def __init__(self, work, device):
        self.work, self.calls, self.graph = work, 0, None
        self.graphable = device.type in GRAPHS

    def __call__(self):
        """Do work() once."""
        if self.graphable and self.calls == EAGER:
            self.graph = self._try()
        self.calls += 1
        if self.graph:
            self.graph.replay()
        else:
            self.work()

    def _try(self):
        try:
            return capture(self.work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):  # the capture's own end fails after it, too
                raise error.__context__ from None
            warnings.warn(f"training goes on without a CUDA graph, slower: {str(error).splitlines()[0]}", stacklevel=3)
            return None


def capture(work):
    """work() as a CUDA graph, captured but not run: CUDA notes its kernels and their addresses."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


class Stepper:
    """A cohort's training steps: `start` an epoch, then `step` through its batch `sizes`; `losses` (steps, R) fill up on the device.

    configs: R RunConfigs that differ in nothing but what a cohort's runs may have for their own; change(images, labels) -> images,
    if given, is applied to each batch (online attacks).
    """

    def __init__(self, cohort, data, configs, change=None):
        self.cohort, self.data, self.configs, self.change = cohort, data, configs, change
        self.config, device = configs[0], data.images.device
        self.count = data.train_index.shape[1]
        self.sizes = [end - start for start, end in batch_bounds(self.count, self.config.batch_size)]
        self.steps = len(self.sizes)
        self.optimizer = Optimizer(cohort.params, cohort.masks, configs)
        self.order = torch.empty_like(data.train_index)
        self.shifts = torch.empty(*self.order.shape, 3, dtype=torch.long, device=device) if self.config.augment else None
        self.rates = torch.empty(self.steps, len(self.optimizer.groups), device=device)
        self.losses = torch.empty(self.steps, cohort.size, device=device)
        self.number = torch.zeros(1, dtype=torch.long, device=device)  # of the step within its epoch
        self.range = torch.arange(self.config.batch_size + 1, device=device)

    def start(self, round_number, epoch):
        """Lay out an epoch: each run's order and crops, from its own streams (seed, name, round, epoch), and learning rates."""
        seeds = [config.order_seed for config in self.configs]
        order = shuffled(self.count, [stream(seed, "order", round_number, epoch) for seed in seeds], self.order.device)
        torch.gather(self.data.train_index, 1, order, out=self.order)
        if self.shifts is not None:
            self.shifts.copy_(torch.stack([crop_and_flip_draws(self.count, seed, round_number, epoch) for seed in seeds]))
        schedule = torch.tensor([schedule_factor(self.config, epoch * self.steps + step + 1, epoch) for step in range(self.steps)], dtype=torch.double)
        self.rates.copy_(schedule[:, None] * torch.tensor([lr for lr, _ in self.optimizer.groups], dtype=torch.double))
        self.number.zero_()
        # dropout and the random starts of online attacks draw from torch's own generator
        torch.manual_seed(stream(seeds[0], "dropout", round_number, epoch))

    def go_to(self, number, losses):
        """Skip to step `number` of the epoch that was started; losses (number, R) are those of the steps before it."""
        self.number.fill_(number)
        self.losses[:number] = losses

    def step(self, size=None):
        """Train on the epoch's next batch: batch_size images, or `size`, which only the last batch may have."""
        size = size or self.config.batch_size
        places = self.number * self.config.batch_size + self.range[:size]
        index = self.cohort.select(self.order.index_select(1, places))
        images, labels = self.data.images[index], self.data.labels[index]
        if self.shifts is not None:
            images = crop_and_flip(images, self.cohort.select(self.shifts.index_select(1, places)))
        if self.change:
            images = self.change(images, labels)
        losses = train_step(self.cohort, images, labels, self.optimizer, self.rates.index_select(0, self.number)[0])
        self.losses.index_copy_(0, self.number, losses.view(1, -1))
        self.number += 1


def train_step(cohort, images, labels, optimizer, rates):
    """One update of every run, at the learning rates (groups,); returns the losses (R,) before it, on the device."""
    losses = cohort.losses(images, labels)
    # the runs share no weight, so the gradient of the sum is each run's own
    gradients = torch.autograd.grad(losses.sum() if cohort.size > 1 else losses, list(cohort.params.values()))
    # the fused optimisers read memory in order, and some gradients come in another order than their weights
    gradients = [
        gradient if gradient.stride() == param.stride() else torch.empty_like(param).copy_(gradient)
        for gradient, param in zip(gradients, cohort.params.values(), strict=True)
    ]
    optimizer.step(gradients, rates)
    return losses.detach()


SPARSE = 0.25  # below this density a step gathers the alive weights; above it, masking all of them is faster (measured on fc1)


class Optimizer:
    """Adam (Kingma & Ba 2015) or SGD with momentum, by torch's fused kernels; pruned weights never change.

    Called without torch.optim, whose bookkeeping is a tenth of a step of a small net. Of a layer with few weights alive only
    those are kept and updated, so the work shrinks with the density. `groups` are (learning rate, slice of the runs): neighbours
    of one learning rate are updated together.
    """

    def __init__(self, params, masks, configs):
        self.config, self.groups, self.parts, self.names = configs[0], runs_by_rate(configs), [], list(params)
        for _, runs in self.groups:
            own = slice(None) if len(self.groups) == 1 else runs
            self.parts.append([Part(param, masks.get(name), own, self.config) for name, param in params.items()])

    @torch.no_grad()
    def step(self, gradients, rates):
        """Update the parameters in place with these gradients, in the parameters' order; they may be overwritten."""
        config = self.config
        for group, parts in enumerate(self.parts):
            ready = [part.take(gradient) for part, gradient in zip(parts, gradients, strict=True)]
            params, steps = [part.values for part in parts], [part.steps for part in parts]
            first, second = [part.first for part in parts], [part.second for part in parts]
            if config.optimizer == "adam":
                torch._foreach_add_(steps, 1)
                torch._fused_adam_(
                    params, ready, first, second, [], steps, lr=rates[group], beta1=0.9, beta2=0.999,
                    weight_decay=config.weight_decay, eps=1e-8, amsgrad=False, maximize=False,
                )  # fmt: skip
            else:
                torch._fused_sgd_(
                    params, ready, first if config.momentum else [], lr=rates[group], momentum=config.momentum,
                    weight_decay=config.weight_decay, dampening=0.0, nesterov=False, maximize=False, is_first_step=False,
                )  # fmt: skip
            for part in parts:
                part.put()

    def state(self):
        """{"first": moments by parameter, "second": the same, of Adam} in the parameters' shapes, 0 where a weight is pruned."""
        kinds = ("first", "second") if self.config.optimizer == "adam" else ("first",)
        return {
            kind: {name: torch.cat([each.whole(kind) for each in parts]) if len(parts) > 1 else parts[0].whole(kind) for name, *parts in self._by_name()}
            for kind in kinds
        }

    def load(self, state, steps):
        """Take over what `state` gave, after so many steps."""
        for kind, moments in state.items():
            for name, *parts in self._by_name():
                for part in parts:
                    part.load(kind, moments[name], steps)

    def _by_name(self):
        return zip(self.names, *self.parts, strict=True)


class Part:
    """What the optimiser keeps for one parameter of a group of runs: the values it updates and their moments."""

    def __init__(self, param, mask, runs, config):
        self.target, self.runs = param.detach()[runs], runs
        mask = None if mask is None or mask.all() else mask[runs]  # a layer with nothing pruned yet needs no mask
        sparse = mask is not None and self.target.is_contiguous() and mask.float().mean() < SPARSE
        self.alive = mask.reshape(-1).nonzero().squeeze(1) if sparse else None
        self.mask = mask.float() if mask is not None and not sparse else None
        self.values = self.target.view(-1)[self.alive] if sparse else self.target
        self.first = torch.zeros_like(self.values)  # of SGD the momentum: from 0, its first step is the gradient itself
        self.second = torch.zeros_like(self.values) if config.optimizer == "adam" else None
        self.steps = torch.zeros((), device=param.device)

    def take(self, gradient):
        """The gradient of `values`, from that of the whole parameter."""
        gradient = gradient[self.runs]
        if self.alive is not None:
            return gradient.reshape(-1).index_select(0, self.alive)
        return gradient if self.mask is None else gradient.mul_(self.mask)

    def whole(self, kind):
        """A moment in the parameter's own shape."""
        values = getattr(self, kind)
        if self.alive is None:
            return values.clone()
        return torch.zeros_like(self.target).view(-1).index_copy_(0, self.alive, values).view_as(self.target)

    def load(self, kind, moments, steps):
        """Take over a moment of all runs, in the parameter's shape, and the parameter's present values."""
        moments = moments[self.runs]
        getattr(self, kind).copy_(moments if self.alive is None else moments.reshape(-1)[self.alive])
        self.steps.fill_(steps)
        if self.alive is not None:
            self.values.copy_(self.target.view(-1)[self.alive])

    def put(self):
        """Write `values` to the parameter, if they are a copy."""
        if self.alive is not None:
            self.target.view(-1).index_copy_(0, self.alive, self.values)


def runs_by_rate(configs):
    """[(learning rate, slice of runs)], neighbours of one learning rate together."""
    starts = [run for run, config in enumerate(configs) if run == 0 or config.lr != configs[run - 1].lr]
    return [(configs[start].lr, slice(start, end)) for start, end in zip(starts, [*starts[1:], len(configs)], strict=True)]


def schedule_factor(config, iteration, epoch):
    """What the learning rate is multiplied by: linear warm-up over config.warmup_steps, then a tenth after each epoch in config.lr_drops."""
    warm = min(1.0, iteration / config.warmup_steps) if config.warmup_steps else 1.0
    drops = sum(epoch >= int(at) for at in config.lr_drops.split(",") if at)
    return warm * 0.1**drops


def batch_bounds(count, batch_size):
    """(start, end) of each batch; the last is as short as it comes, but an image alone, which batch-norm refuses, joins the batch before."""
    bounds = [(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1 < batch_size:
        bounds[-2:] = [(bounds[-2][0], count)]
    return bounds


def crop_and_flip_draws(count, seed, round_number, epoch, padding=4):
    """(N, 3) whole numbers an image: rows and columns to shift by, 0 to 2 * padding, and 1 to flip."""
    draws = generator(seed, "augment", round_number, epoch)
    shift = torch.randint(0, 2 * padding + 1, (count, 2), generator=draws)
    return torch.cat([shift, torch.randint(0, 2, (count, 1), generator=draws)], dim=1)


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
