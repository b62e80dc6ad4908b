"""Steps by compiled kernels, on a CPU: engine.step.Stepper's place where every layer is linear."""

import numpy as np
import torch

from engine.adversarial import against
from engine.optimizer import BETAS, EPSILON
from engine.step import Epochs, Stepper


def stepper_for(cohort, data, configs):
    """What trains these runs on that data: compiled steps, or torch's."""
    kind = CompiledStepper if cohort.nets else Stepper
    return kind(cohort, data, configs, **against(cohort, configs[0]))


class CompiledStepper(Epochs):
    """Steps of R networks one after another, many at a time unless each batch has to be made.

    Runs share nothing here, so none depends on who trains beside it.
    """

    WEIGHTS_AT_ONCE = 3e7  # some tenths of a second of steps, without a look at signals

    def __init__(self, cohort, data, configs, change=None):
        super().__init__(cohort, data, configs, change)
        self.images, self.labels = data.images.flatten(1).numpy(), data.labels.numpy()
        self.batch_sizes = np.array(self.sizes)
        values = max(len(net.values) for net in cohort.nets)
        self.at_once = max(1, min(128, int(self.WEIGHTS_AT_ONCE / values)))
        config, adam = self.config, self.config.optimizer == "adam"
        decay, momentum = config.weight_decay, config.momentum
        self.rule = np.array([adam, *BETAS, EPSILON, decay, momentum], np.float64)
        # an attack that the kernels make themselves, and on how many images of each batch
        self.signs = change.settings(data.images).signs() if change else None
        self.attacked = np.array([change.count(n) if self.signs else 0 for n in self.sizes])

    def make_optimizer(self):
        """The moments of these runs."""
        return Moments(self.cohort, self.configs)

    def advance(self, count):
        """Train on the epoch's next `count` batches; the cohort's tensors are up to date then."""
        begin, end = self.done, self.done + count
        if self.shifts is not None or (self.change and not self.signs):
            for step in range(begin, end):
                self._train_on(step)
        elif self.signs and self.signs.starts:
            for step in range(begin, end):
                part = self.data.images[: self.attacked[step]]  # for its shape
                self._train(step, step + 1, self.change.starts(part))
        else:
            self._train(begin, end)
        self.done = end
        for net in self.cohort.nets:
            net.push()

    def _train(self, begin, end, draws=None):
        """Train on batches of images as they lie in the pool, attacked from these starts."""
        for run, net in enumerate(self.cohort.nets):
            losses = net.train(
                self.optimizer.flat[run], self.images, self.labels, self.order[run].numpy(),
                self.batch_sizes, (begin, end), self.config.batch_size,
                self.rates[:, run].contiguous().numpy(), self.optimizer.taken, self.rule,
                self.signs, self.attacked, draws,
            )  # fmt: skip
            self.losses[begin:end, run] = torch.from_numpy(losses[begin:end])
        self.optimizer.taken += end - begin

    def _train_on(self, step):
        """Train on one batch that torch has cropped or attacked."""
        size, start = self.sizes[step], step * self.config.batch_size
        images, labels = self.batch(torch.arange(start, start + size))
        images, labels = (part.reshape(self.cohort.size, size, -1) for part in (images, labels))
        for run, net in enumerate(self.cohort.nets):
            losses = net.train(
                self.optimizer.flat[run], images[run].contiguous().numpy(),
                labels[run].flatten().numpy(), np.arange(size), np.array([size]), (0, 1), size,
                self.rates[step, run : run + 1].numpy(), self.optimizer.taken, self.rule,
            )  # fmt: skip
            self.losses[step, run] = losses[0].item()
        self.optimizer.taken += 1


class Moments:
    """What the update keeps of each run's values: engine.optimizer.Optimizer's part of a Stepper.

    flat: R pairs (first, second) like a Net's values; taken: steps of this round so far.
    """

    def __init__(self, cohort, configs):
        self.cohort, self.taken = cohort, 0
        self.groups = [(config.lr, slice(run, run + 1)) for run, config in enumerate(configs)]
        self.kinds = ("first", "second") if configs[0].optimizer == "adam" else ("first",)
        self.flat = [
            (torch.zeros_like(net.values), torch.zeros_like(net.values)) for net in cohort.nets
        ]

    def state(self):
        """{"first": moments by parameter, "second": the same, of Adam}, 0 where one is pruned."""
        pairs = list(zip(self.cohort.nets, self.flat, strict=True))
        return {
            kind: self.cohort.together([net.unpack(flat[number]) for net, flat in pairs])
            for number, kind in enumerate(self.kinds)
        }

    def load(self, state, steps):
        """Take over what `state` gave, after so many steps."""
        self.taken = steps
        for number, kind in enumerate(self.kinds):
            states = self.cohort.unstack(state[kind])
            for net, flat, moments in zip(self.cohort.nets, self.flat, states, strict=True):
                net.pack(moments, flat[number])
