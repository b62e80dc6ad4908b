"""A fully connected network as compiled kernels take it: its alive weights and biases, flat."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from archs.parts import Normalise

# a layer with a smaller share of its weights alive is sparse; above the second share its rows are
# cut into blocks of so many columns (measured: benchmarks/speed.py --parts crossover)
SPARSE, CUT, BLOCK = 0.6, 0.15, 112


@dataclass(frozen=True)
class Layer:
    """A linear layer: its parameters' names (bias None without one), and whether a ReLU follows."""

    weight: str
    bias: str | None
    relu: bool = False


def layers_of(model):
    """The Layers of a network that is nothing but linear layers with ReLU between, else None.

    model: as archs.build makes it: normalisation, then the network, in Sequentials.
    """
    layers, modules = [], dict(model.named_modules())
    inside = [module for module in modules.values() if type(module) is nn.Sequential]
    if sum(map(len, inside)) != len(modules) - 1:  # something else holds modules: not one chain
        return None
    for name, module in modules.items():
        if type(module) is nn.Linear:
            bias = None if module.bias is None else f"{name}.bias"
            layers.append(Layer(f"{name}.weight", bias))
        elif type(module) is nn.ReLU and layers:
            layers[-1] = replace(layers[-1], relu=True)
        elif type(module) not in (nn.Sequential, nn.Flatten, nn.Identity, Normalise):
            return None
    kinds = [type(module) for module in modules.values() if type(module) is not nn.Sequential]
    normalised = kinds[:1] == [Normalise] and kinds.count(Normalise) == 1
    return layers if normalised and layers and not layers[-1].relu else None


class Layout:
    """How a net's numbers lie in flat arrays: what the kernels know of each of them."""

    def __init__(self):
        self.parts, self.columns, self.alive, self.starts, self.end = [], [], [], [], 0

    def add(self, name, count, positions=None, columns=None, alive=None, spare=0):
        """Give a parameter the next `count` places, and leave `spare` after them; its first place.

        positions: where in the parameter they are, all of it if None; columns: of each its input;
        alive: 1 or 0 of each.
        """
        begin, self.end = self.end, self.end + count + spare
        self.parts.append(Part(name, slice(begin, begin + count), positions))
        self.columns += [torch.zeros(count) if columns is None else columns, torch.zeros(spare)]
        self.alive += [torch.ones(count) if alive is None else alive, torch.ones(spare)]
        return begin

    def arrays(self):
        """(columns, starts, alive) as kernels take them."""
        columns, alive = torch.cat(self.columns).int(), torch.cat(self.alive).float()
        return columns.numpy(), np.array(self.starts or [0], np.int64), alive.numpy()


@dataclass(frozen=True)
class Part:
    """Where a parameter lies among a net's values: at `place`, its numbers at `positions`."""

    name: str
    place: slice
    positions: torch.Tensor | None = None  # flat, in the parameter's own memory; None: all of it


class Net:
    """One run's fully connected network, its alive weights and biases in one flat tensor, `values`.

    made: engine.kernels; model: one that `layers_of` knows; tensors: this run's parameters by name,
    which `pull` reads and `push` writes; masks: bool tensors by name.
    """

    def __init__(self, made, model, tensors, masks):
        self.made, self.tensors, self.rooms, self.unit = made, tensors, {}, made.passes
        layout, below = Layout(), 0
        rows = []
        for layer in layers_of(model):
            rows.append(self._place(layer, layout, below, masks.get(layer.weight)))
            below = rows[-1][self.unit.ABOVE]
        table = [[int(row[field]) for field in range(self.unit.FIELDS)] for row in rows]
        self.parts, self.values = layout.parts, torch.zeros(layout.end)
        self.inputs, self.classes = rows[0][self.unit.INPUTS], rows[-1][self.unit.OUTPUTS]
        self.stride = below + self.classes * self.unit.LANES
        vector = self.unit.VECTOR
        self.width = max(-(-row[self.unit.INPUTS] // vector) for row in rows) * vector
        pixels = self.inputs // len(model.normalise.scale)  # of a channel
        scale, shift = (
            part.detach().reshape(-1).repeat_interleave(pixels).numpy()
            for part in (model.normalise.scale, model.normalise.shift)
        )
        table = np.array(table, np.int64)
        self.arrays = made.passes.Net(table, self.values.numpy(), *layout.arrays(), scale, shift)
        self.pull()

    def _place(self, layer, layout, below, mask):
        """Lay a layer out; its row of the kernels' table. below: where its inputs are."""
        unit, weight = self.unit, self.tensors[layer.weight]
        (outputs, inputs), count = weight.shape, weight.numel()
        density = 1.0 if mask is None else mask.float().mean().item()
        row = {unit.INPUTS: inputs, unit.OUTPUTS: outputs, unit.RELU: layer.relu}
        row |= {unit.BELOW: below, unit.ABOVE: below + inputs * unit.LANES}
        row |= {unit.MASKED: density < 1, unit.SPARSE: density < SPARSE, unit.BLOCKS: 1}
        row |= {unit.STARTS: len(layout.starts), unit.BIASES: -1}
        if density < SPARSE:
            width = BLOCK if density > CUT else inputs
            positions, begins = in_blocks(mask, width)
            row[unit.BLOCKS] = -(-inputs // width)
            layout.starts += [layout.end + begin for begin in begins]
            columns, spare = positions % inputs, unit.GROUP  # the kernels may look so far
            row[unit.WEIGHTS] = layout.add(
                layer.weight, len(positions), positions, columns, spare=spare
            )
        else:
            alive = None if mask is None else mask.reshape(-1)
            row[unit.WEIGHTS] = layout.add(layer.weight, count, alive=alive)
        if layer.bias:
            row[unit.BIASES] = layout.add(layer.bias, outputs)
        return row

    # Its weights ------------------------------------------------------------------------------

    def pull(self):
        """Take over the values of `tensors`."""
        self.pack(self.tensors, self.values)

    def push(self):
        """Write the values to `tensors`."""
        for part in self.parts:
            self._spread(part, self.values, self.tensors[part.name])

    def pack(self, tensors, flat):
        """Write tensors of the parameters' names and shapes into a flat one like `values`."""
        for part in self.parts:
            whole = tensors[part.name].detach().reshape(-1)
            flat[part.place] = whole if part.positions is None else whole[part.positions]

    def unpack(self, flat):
        """{name: tensor of the parameter's shape}, 0 where a weight is pruned."""
        tensors = {part.name: torch.zeros_like(self.tensors[part.name]) for part in self.parts}
        for part in self.parts:
            self._spread(part, flat, tensors[part.name])
        return tensors

    @staticmethod
    def _spread(part, flat, tensor):
        whole = tensor.detach().view(-1)
        if part.positions is None:
            whole.copy_(flat[part.place])
        else:
            whole[part.positions] = flat[part.place]

    # Its computations ---------------------------------------------------------------------------

    def room(self, count):
        """kernels.train's `room`: arrays to compute in, for so many images at once."""
        lanes, batches = self.unit.LANES, -(-count // self.unit.LANES)
        if batches not in self.rooms:
            spare = self.unit.VECTOR * lanes
            acts, rows = batches * self.stride + spare, batches * lanes * self.width
            block, pixels = self.unit.ROWS * self.width, (2, self.inputs * lanes + spare)
            shapes = (acts, acts, len(self.values), rows, block, pixels)
            self.rooms[batches] = tuple(torch.zeros(shape).numpy() for shape in shapes)
        return self.rooms[batches]

    def train(self, moments, images, labels, order, sizes, steps, batch_size, rates, taken, rule,
              signs=None, attacked=None, draws=None):  # fmt: skip
        """Steps from one to before another of an epoch: `values` and moments change.

        moments: (first, second), flat as `values`; signs: the attacks.Signs made on the first
        attacked[step] images of each batch, from draws (N, D) if it starts at random; the others
        are numpy arrays and numbers as kernels.train has them. The losses (len(sizes),), 0 where no
        step was taken.
        """
        losses = np.zeros(len(sizes), np.float32)
        attacked = np.zeros(len(sizes), np.int64) if attacked is None else attacked
        first, second = (moment.numpy() for moment in moments)
        self.made.train(
            self.arrays, first, second, self.room(int(sizes.max())), images, labels, order, sizes,
            *steps, batch_size, rates, taken, rule, attacked, self._draws(draws), bounds_of(signs),
            losses,
        )  # fmt: skip
        return losses

    def _draws(self, starts):
        """Random starts (N, ...) as kernels take them, (N, D); without them no row."""
        if starts is None:
            return np.empty((0, self.inputs), np.float32)
        return starts.flatten(1).contiguous().numpy()

    def logits(self, images):
        """Images (N, C, H, W) in [0, 1] -> logits (N, K), which can be differentiated by them."""
        return Logits.apply(images, self)

    def attack(self, images, labels, signs, starts=None):
        """Images (N, C, H, W) attacked by steps along the gradient's sign, linf, within [0, 1].

        signs: an attacks.Signs; starts: numbers in [0, 1) of the images' shape, or None.
        """
        flat, out = images.flatten(1).contiguous().numpy(), torch.empty(images.shape)
        self.made.attack(
            self.arrays, self.room(1), flat, labels.contiguous().numpy(), self._draws(starts),
            bounds_of(signs), out.view(flat.shape).numpy(),
        )  # fmt: skip
        return out


def bounds_of(signs):
    """An attacks.Signs as kernels take it; zeros for None."""
    return np.array([signs.epsilon, signs.steps, signs.length] if signs else np.zeros(3), float)


class Logits(torch.autograd.Function):
    """A Net's logits; the gradient is the images' alone."""

    @staticmethod
    def forward(ctx, images, net):
        """Images (N, C, H, W) -> (N, K)."""
        flat = images.detach().flatten(1).contiguous()
        acts, _, _, rows, _, _ = net.room(1)
        stride = 0
        if ctx.needs_input_grad[0]:  # backward wants every batch's activations
            batches, stride = -(-len(flat) // net.unit.LANES), net.stride
            acts = np.empty(batches * stride + len(acts), np.float32)
        out = torch.empty(len(flat), net.classes)
        every = np.arange(len(flat))
        net.made.predict(net.arrays, acts, stride, rows, flat.numpy(), every, out.numpy())
        ctx.net, ctx.acts, ctx.shape = net, acts, images.shape
        return out

    @staticmethod
    def backward(ctx, gradient):
        """(N, K) -> (N, C, H, W)."""
        net, out = ctx.net, torch.empty(ctx.shape)
        deltas, flat = net.room(1)[1], out.view(len(out), -1).numpy()
        gradient = gradient.contiguous().numpy()
        net.made.pull_back(net.arrays, ctx.acts, deltas, net.stride, gradient, flat)
        return out, None


def in_blocks(mask, width):
    """(positions, begins) of a mask's alive weights, row by row within blocks of `width` columns.

    positions: (alive,) flat ones in the mask; begins: where each row of each block begins among
    them, and the end: a list of blocks * rows + 1.
    """
    rows, columns = mask.nonzero(as_tuple=True)  # in rows, and there in columns
    blocks = columns.div(width, rounding_mode="floor")
    row = blocks * len(mask) + rows
    order = row.argsort(stable=True)
    counts = row.bincount(minlength=-(-mask.shape[1] // width) * len(mask))
    return (rows * mask.shape[1] + columns)[order], [0, *counts.cumsum(0).tolist()]
