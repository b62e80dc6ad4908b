"""The update of a cohort's weights: torch's fused kernels on the weights that are alive."""

import torch

# below this density a step gathers the alive weights; above it, masking all of them is faster
# (measured on fc1)
SPARSE = 0.25
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam


class Optimizer:
    """Adam (Kingma & Ba 2015) or SGD with momentum, by torch's fused kernels; pruned weights never
    change.

    Called without torch.optim, whose bookkeeping is a tenth of a step of a small net. Of a layer
    with few weights alive only those are kept and updated, so the work shrinks with the density.
    `groups` are (learning rate, slice of the runs): neighbours of one learning rate are updated
    together.
    """

    def __init__(self, params, masks, configs):
        self.config, self.groups, self.parts, self.names = (
            configs[0],
            runs_by_rate(configs),
            [],
            list(params),
        )
        for _, runs in self.groups:
            own = slice(None) if len(self.groups) == 1 else runs
            self.parts.append(
                [Part(param, masks.get(name), own, self.config) for name, param in params.items()]
            )

    @torch.no_grad()
    def step(self, gradients, rates):
        """Update the parameters in place with these gradients, in the parameters' order; they may
        be overwritten.
        """
        config = self.config
        for group, parts in enumerate(self.parts):
            ready = [part.take(gradient) for part, gradient in zip(parts, gradients, strict=True)]
            params, steps = [part.values for part in parts], [part.steps for part in parts]
            first, second = [part.first for part in parts], [part.second for part in parts]
            if config.optimizer == "adam":
                torch._foreach_add_(steps, 1)
                torch._fused_adam_(
                    params, ready, first, second, [], steps, lr=rates[group], beta1=BETAS[0],
                    beta2=BETAS[1], weight_decay=config.weight_decay, eps=EPSILON, amsgrad=False,
                    maximize=False,
                )  # fmt: skip
            else:
                torch._fused_sgd_(
                    params, ready, first if config.momentum else [], lr=rates[group],
                    momentum=config.momentum, weight_decay=config.weight_decay, dampening=0.0,
                    nesterov=False, maximize=False, is_first_step=False,
                )  # fmt: skip
            for part in parts:
                part.put()

    def state(self):
        """{"first": moments by parameter, "second": the same, of Adam} in the parameters' shapes, 0
        where a weight is pruned.
        """
        kinds = ("first", "second") if self.config.optimizer == "adam" else ("first",)
        return {
            kind: {
                name: torch.cat([part.whole(kind) for part in parts])
                if len(parts) > 1
                else parts[0].whole(kind)
                for name, *parts in self._by_name()
            }
            for kind in kinds
        }

    def load(self, state, steps):
        """Take over what `state` gave, after so many steps."""
        for kind, moments in state.items():
            for name, *parts in self._by_name():
                for part in parts:
                    part.load(kind, moments[name], steps)

    def written(self):
        """Every tensor that a step changes, beside the parameters themselves."""
        parts = [part for parts in self.parts for part in parts]
        tensors = [t for part in parts for t in (part.first, part.second, part.steps, part.values)]
        return [tensor for tensor in tensors if tensor is not None]

    def _by_name(self):
        return zip(self.names, *self.parts, strict=True)


class Part:
    """What the optimiser keeps for one parameter of a group of runs: the values it updates and
    their moments.
    """

    def __init__(self, param, mask, runs, config):
        self.target, self.runs = param.detach()[runs], runs
        # a layer with nothing pruned yet needs no mask
        mask = None if mask is None or mask.all() else mask[runs]
        sparse = mask is not None and self.target.is_contiguous() and mask.float().mean() < SPARSE
        self.alive = mask.reshape(-1).nonzero().squeeze(1) if sparse else None
        self.mask = mask.float() if mask is not None and not sparse else None
        self.values = self.target.view(-1)[self.alive] if sparse else self.target
        # of SGD the momentum: from 0, its first step is the gradient itself
        self.first = torch.zeros_like(self.values)
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
        return (
            torch.zeros_like(self.target)
            .view(-1)
            .index_copy_(0, self.alive, values)
            .view_as(self.target)
        )

    def load(self, kind, moments, steps):
        """Take over a moment of all runs, in the parameter's shape, and the parameter's present
        values.
        """
        moments = moments[self.runs]
        getattr(self, kind).copy_(
            moments if self.alive is None else moments.reshape(-1)[self.alive]
        )
        self.steps.fill_(steps)
        if self.alive is not None:
            self.values.copy_(self.target.view(-1)[self.alive])

    def put(self):
        """Write `values` to the parameter, if they are a copy."""
        if self.alive is not None:
            self.target.view(-1).index_copy_(0, self.alive, self.values)


def runs_by_rate(configs):
    """[(learning rate, slice of runs)], neighbours of one learning rate together."""
    starts = [
        run for run, config in enumerate(configs) if run == 0 or config.lr != configs[run - 1].lr
    ]
    return [
        (configs[start].lr, slice(start, end))
        for start, end in zip(starts, [*starts[1:], len(configs)], strict=True)
    ]
