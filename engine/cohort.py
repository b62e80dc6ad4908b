"""A cohort: R runs trained in lockstep, and the images that they take.

Everything a run owns carries a leading run axis (R, ...). The loss is written for one run and
vmapped when R > 1; R = 1 takes the same code without the vmap and without the axis.
"""

import contextlib
import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import pruning
from engine.net import Net
from utils import shuffled, stream


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
        """A function of a count: that many (images, labels) of a run's training data, by the stream
        (seed, "some").
        """

        def take(count):
            index = self.train_index[
                run,
                shuffled(self.train_index.shape[1], [stream(seed, "some")], self.labels.device)[
                    0, :count
                ],
            ]
            return self.images[index], self.labels[index]

        return take


def mean_cross_entropy(net, images, labels):
    """The loss of one run's batch."""
    return F.cross_entropy(net(images), labels)


class Cohort:
    """R networks of one architecture with their masks.

    states: R dicts name -> tensor with every parameter and buffer; masks: R dicts as pruning.py
    makes them. Pruned weights are 0 from the start and stay so: their gradients are masked.
    made: compiled kernels (engine.compiled.kernels) that compute in torch's place, or None.
    """

    def __init__(self, model, states, masks, device, precision="fp32", made=None):
        self.size, self.precision = len(states), precision
        self.model = copy.deepcopy(model).to(device)
        self.has_dropout = any(
            isinstance(module, nn.modules.dropout._DropoutNd) for module in model.modules()
        )
        if self.has_dropout and self.size > 1:
            raise ValueError(
                "a network with dropout trains in cohorts of one: its draws are the run's own"
            )
        self.masks = {
            name: self._stack([mask[name] for mask in masks], device) for name in masks[0]
        }
        state = {name: self._stack([state[name] for state in states], device) for name in states[0]}
        state = pruning.apply(state, self.masks)
        if self.size == 1:  # the module's own tensors: calling it costs less than functional_call
            self.model.load_state_dict(state)
            if all(getattr(module, "channels_last", True) for module in self.model.modules()):
                # a tenth to a fifth faster for convolutions
                self.model.to(memory_format=torch.channels_last)
            self.params, self.buffers = (
                dict(self.model.named_parameters()),
                dict(self.model.named_buffers()),
            )
        else:
            self.params = {
                name: state.pop(name).requires_grad_() for name, _ in model.named_parameters()
            }
            self.buffers = state
        self.nets = [self._net(made, run) for run in range(self.size)] if made else None

    def _net(self, made, run):
        """A run's compiled network: its tensors are the cohort's own memory."""
        tensors, masks = (
            {name: tensor.detach() if self.size == 1 else tensor.detach()[run]
             for name, tensor in parts.items()}
            for parts in (self.params, self.masks)
        )  # fmt: skip
        return Net(made, self.model, tensors, masks)

    def _stack(self, tensors, device):
        stacked = torch.stack([tensor.to(device) for tensor in tensors])
        return stacked if self.size > 1 else stacked[0]

    def logits(self, images):
        """(R, B, C, H, W) images in [0, 1], (B, C, H, W) when R = 1 -> logits (R, B, K), (B, K)
        when R = 1.
        """
        if self.nets:
            return self._by_net(Net.logits, images)
        if self.size == 1:
            return self.model(images)

        def one(params, buffers, x):
            return functional_call(self.model, (params, buffers), (x,))

        return torch.vmap(one)(self.params, self.buffers, images)

    def attack(self, images, labels, settings, starts):
        """Images (R, B, C, H, W), (B, C, H, W) when R = 1, attacked against these networks.

        settings: attacks.AttackSettings; starts(restart): numbers in [0, 1), one for each pixel.
        """
        signs = settings.signs() if self.nets else None
        if not signs:
            return settings.entry().make(self.logits, images, labels, settings, starts)
        draws = [starts(0).expand(images.shape)] if signs.starts else []

        def attack(net, x, y, *draw):
            return net.attack(x, y, signs, *draw)

        return self._by_net(attack, images, labels, *draws)

    def _by_net(self, compute, *batches):
        """compute(net, ...) of each compiled net and its part of the batches, stacked."""
        if self.size == 1:
            return compute(self.nets[0], *batches)
        parts = zip(self.nets, *batches, strict=True)
        return torch.stack([compute(net, *part) for net, *part in parts])

    def losses(self, *batch, loss=mean_cross_entropy):
        """loss(net, *batch) of each run, (R,), or a scalar when R = 1, in self.precision.

        batch: images and labels as for `logits`, and what else the loss takes; net: a function from
        images to logits.
        """

        def one(params, buffers, *batch):
            def net(x):
                return functional_call(self.model, (params, buffers), (x,))

            return loss(net, *batch)

        low, where = self.precision == "bf16", batch[0].device.type
        with torch.autocast(where, torch.bfloat16) if low else contextlib.nullcontext():
            if self.size == 1:
                return loss(self.model, *batch)
            return torch.vmap(one)(self.params, self.buffers, *batch)

    def select(self, index):
        """An index (R, B) as this cohort takes it: (B,) when R = 1."""
        return index if self.size > 1 else index[0]

    def state(self):
        """Clones of every parameter and buffer, by name, with the run axis only when R > 1."""
        return {
            name: tensor.detach().clone()
            for name, tensor in {**self.params, **self.buffers}.items()
        }

    def together(self, states):
        """R dicts of tensors -> one on the device, as `state` gives it."""
        return {
            name: self._stack(
                [state[name] for state in states], next(iter(self.params.values())).device
            )
            for name in states[0]
        }

    def load(self, state):
        """Take over the values of `state`."""
        with torch.no_grad():
            for name, tensor in {**self.params, **self.buffers}.items():
                tensor.copy_(state[name])
        for net in self.nets or ():
            net.pull()

    def unstack(self, state):
        """A dict with a run axis -> R dicts of CPU tensors without it."""
        if self.size == 1:
            return [{name: tensor.cpu() for name, tensor in state.items()}]
        return [
            {name: tensor[run].cpu() for name, tensor in state.items()} for run in range(self.size)
        ]
