"""Fully connected nets as compiled kernels take them: on a CPU, at the cost of their alive weights.

`kernels` compiles engine/kernels.py, once a machine, or loads it; a `Net` is one run's network.
"""

import contextlib
import functools
import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import nn

from archs.parts import Normalise
from utils import hash8, one_line

# a layer with a smaller share of its weights alive is sparse; above the second share its rows are
# cut into blocks of so many columns (measured: benchmarks/speed.py --parts crossover)
SPARSE, CUT, BLOCK = 0.6, 0.15, 112


# Which networks ----------------------------------------------------------------------------------


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


def kernels_for(config, model, device, say):
    """The compiled kernels for runs of this network and these flags, or None: torch trains them.

    `say` is told in a line why --step=compiled cannot be.
    """
    why = ""
    if device.type != "cpu":
        why = "it is of CPUs, and this trains on a GPU"
    elif config.precision == "bf16":
        why = "it computes in fp32, and --precision=bf16 was asked for"
    elif layers_of(model) is None:
        why = f"{config.arch_type} is not made of linear layers with ReLU between them alone"
    if why and config.step == "compiled":
        say(f"note: --step=compiled cannot be ({why}): torch computes the steps")
    return None if why or config.step == "torch" else kernels(config.cache_dir, say)


# The kernels -------------------------------------------------------------------------------------


@functools.cache
def kernels(cache_dir, say=print):
    """engine.kernels, compiled, or None where that cannot be: `say` is told why in a line.

    Its code is kept in <cache_dir>/compiled (or NUMBA_CACHE_DIR), if that can be written, by what it
    was made of, and by numba by the processor too. Processes that want it at once make it once.
    """
    try:
        import llvmlite.binding
        import numba

        made_of = [Path(__file__).with_name(f"{n}.py").read_text() for n in ("simd", "kernels")]
        parent = os.environ.get("NUMBA_CACHE_DIR") or Path(cache_dir).absolute() / "compiled"
        folder = Path(parent) / hash8([*made_of, numba.__version__])
        if not os.environ.get("NUMBA_CPU_NAME"):
            numba.config.CPU_NAME = llvmlite.binding.get_host_cpu_name()
            features = llvmlite.binding.get_host_cpu_features().flatten()
            # LLVM would halve the widest registers of some processors
            numba.config.CPU_FEATURES = f"{features},-prefer-256-bit"
        with _locked(folder, say) as writable:
            numba.config.CACHE_DIR = str(folder)
            from engine import kernels as made

            if writable:
                for entry in (made.train, made.predict, made.pull_back):
                    entry.enable_caching()
            if not list(folder.glob("**/*.nbc")):
                what = "the step of fully connected nets, once on this machine"
                say(f"compiling {what} (some ten seconds)")
            _check(made)
        return made
    except ImportError as error:
        missing = str(error.name).split(".")[0] in ("numba", "llvmlite")
        why = "numba is not installed" if missing else one_line(error)
    except Exception as error:  # numba and LLVM have dozens of types of their own
        why = f"{type(error).__name__}: {one_line(error)[:200]}"
    right = "fully connected nets train by torch, several times slower"
    say(f"note: the compiled step cannot be used ({why}): {right}")
    return None


@contextlib.contextmanager
def _locked(folder, say):
    """Hold the folder's lock; yields whether it can be written at all."""
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(folder / ".lock"))
            writable = True
        except OSError as error:
            why = f"{folder} cannot be written ({error.strerror})"
            say(f"note: {why}: the step is compiled anew by each command (some ten seconds)")
            writable = False
        yield writable


def _check(made):
    """Compile everything, and hold a small net against torch; ArithmeticError if it differs."""
    draw = torch.Generator().manual_seed(0)
    parts = {"h": nn.Linear(20, 7), "relu": nn.ReLU(), "t": nn.Linear(7, 3)}
    net = nn.Sequential(OrderedDict({"flatten": nn.Flatten(), **parts}))
    model = nn.Sequential(OrderedDict(normalise=Normalise([0.5], [0.5]), net=net))
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=draw)
    masks = {"net.h.weight": torch.rand(7, 20, generator=draw) < 0.3}
    model.net.h.weight.data *= masks["net.h.weight"]
    images = torch.rand(70, 1, 4, 5, generator=draw, requires_grad=True)
    labels = torch.arange(70) % 3
    tensors = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    mine = Net(made, model, tensors, masks)
    loss = F.cross_entropy(model(images), labels)
    (pulled,) = torch.autograd.grad(F.cross_entropy(mine.logits(images), labels), images)
    (truth,) = torch.autograd.grad(loss, images, retain_graph=True)
    loss.backward()
    moments = torch.zeros_like(mine.values), torch.zeros_like(mine.values)
    flat, losses = images.detach().flatten(1).numpy(), np.zeros(1, np.float32)
    mine.train(
        moments, flat, labels.numpy(), np.arange(70), np.array([70]), (0, 1), 70,
        np.full(1, 0.1, np.float32), 0, np.zeros(6), losses,
    )  # fmt: skip
    mine.push()
    right = [(truth, pulled), (loss, torch.from_numpy(losses)[0])]
    for name, weight in model.named_parameters():
        right.append(((weight - 0.1 * weight.grad) * masks.get(name, 1), tensors[name]))
    if not all(torch.allclose(theirs, ours, rtol=1e-3, atol=1e-4) for theirs, ours in right):
        raise ArithmeticError("its results differ from torch's on this processor")


# One run's network -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Where a parameter lies among a net's values: at `place`, its numbers at `positions`."""

    name: str
    place: slice
    positions: torch.Tensor | None = None  # flat, in the parameter's own memory; None: all of it


class Net:
    """One run's fully connected network, its alive weights and biases in one flat tensor, `values`.

    model: one that `layers_of` knows; tensors: this run's parameters by name, which `pull` reads
    and `push` writes; masks: bool tensors by name.
    """

    def __init__(self, made, model, tensors, masks):
        self.made, self.tensors, self.parts, self.rooms = made, tensors, [], {}
        table, starts, columns, alive = [], [], [], []
        end = below = 0
        for layer in layers_of(model):
            weight = tensors[layer.weight]
            (outputs, inputs), mask = weight.shape, masks.get(layer.weight)
            density = 1.0 if mask is None else mask.float().mean().item()
            row = {made.INPUTS: inputs, made.OUTPUTS: outputs, made.RELU: layer.relu}
            row |= {made.WEIGHTS: end, made.STARTS: len(starts), made.MASKED: density < 1}
            row |= {made.BELOW: below, made.ABOVE: below + inputs * made.LANES}
            row |= {made.SPARSE: 0, made.BLOCKS: 1, made.BIASES: -1}
            if density < SPARSE:
                width = BLOCK if density > CUT else inputs
                positions, begins = in_blocks(mask, width)
                starts += [end + begin for begin in begins]
                row |= {made.SPARSE: 1, made.BLOCKS: -(-inputs // width)}
                self.parts.append(Part(layer.weight, slice(end, end + len(positions)), positions))
                spare = torch.zeros(made.GROUP, dtype=torch.long)  # the kernels may look so far
                columns.append(torch.cat([positions % inputs, spare]))
                alive.append(torch.ones(len(columns[-1])))
            else:
                self.parts.append(Part(layer.weight, slice(end, end + weight.numel())))
                alive.append(torch.ones(weight.numel()) if mask is None else mask.view(-1).float())
                columns.append(torch.zeros(weight.numel(), dtype=torch.long))
            end += len(columns[-1])
            if layer.bias:
                row[made.BIASES] = end
                self.parts.append(Part(layer.bias, slice(end, end + outputs)))
                columns.append(torch.zeros(outputs, dtype=torch.long))
                alive.append(torch.ones(outputs))
                end += outputs
            below = row[made.ABOVE]
            table.append([int(row[field]) for field in range(made.FIELDS)])
        self.values, self.classes = torch.zeros(end), outputs
        self.stride = below + outputs * made.LANES
        self.width = max(-(-row[made.INPUTS] // made.VECTOR) for row in table) * made.VECTOR
        pixels = table[0][made.INPUTS] // len(model.normalise.scale)  # of a channel
        scale, shift = (
            part.detach().reshape(-1).repeat_interleave(pixels)
            for part in (model.normalise.scale, model.normalise.shift)
        )
        numbers = [self.values, torch.cat(columns).int(), torch.tensor(starts or [0])]
        arrays = (*numbers, torch.cat(alive), scale, shift)
        self.arrays = made.Net(np.array(table, np.int64), *(a.numpy() for a in arrays))
        self.pull()

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

    def logits(self, images):
        """Images (N, C, H, W) in [0, 1] -> logits (N, K), which can be differentiated by them."""
        return Logits.apply(images, self)

    def train(self, moments, images, labels, order, sizes, steps, batch_size, rates, taken, rule,
              losses):  # fmt: skip
        """Steps from one to before another of an epoch; numpy arrays as kernels.train has them."""
        room = self._room(int(sizes.max()))
        first, second = (moment.numpy() for moment in moments)
        self.made.train(
            self.arrays, first, second, room, images, labels, order, sizes, *steps, batch_size,
            rates, taken, rule, losses,
        )  # fmt: skip

    def _room(self, count):
        """Arrays that the kernels compute in, for so many images at once."""
        batches = -(-count // self.made.LANES)
        if batches in self.rooms:
            return self.rooms[batches]
        acts = batches * self.stride + self.made.VECTOR * self.made.LANES
        rows = batches * self.made.LANES * self.width
        lengths = (acts, acts, len(self.values), rows, self.made.ROWS * self.width)
        self.rooms[batches] = tuple(torch.zeros(length).numpy() for length in lengths)
        return self.rooms[batches]


class Logits(torch.autograd.Function):
    """A Net's logits; the gradient is the images' alone."""

    @staticmethod
    def forward(ctx, images, net):
        """Images (N, C, H, W) -> (N, K)."""
        flat = images.detach().flatten(1).contiguous()
        keep = ctx.needs_input_grad[0]
        acts, _, _, rows, _ = net._room(1)
        if keep:
            batches = -(-len(flat) // net.made.LANES)
            acts = np.empty(batches * net.stride + len(acts), np.float32)
        out = torch.empty(len(flat), net.classes)
        every = np.arange(len(flat))
        net.made.predict(
            net.arrays, acts, net.stride if keep else 0, rows, flat.numpy(), every, out.numpy()
        )
        ctx.net, ctx.acts, ctx.shape = net, acts, images.shape
        return out

    @staticmethod
    def backward(ctx, gradient):
        """(N, K) -> (N, C, H, W)."""
        net, out = ctx.net, torch.empty(ctx.shape)
        deltas = net._room(1)[1]
        flat = out.view(len(out), -1).numpy()
        net.made.pull_back(
            net.arrays, ctx.acts, deltas, net.stride, gradient.contiguous().numpy(), flat
        )
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
