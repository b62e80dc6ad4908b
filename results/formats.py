"""Tickets in the words of others: state_dicts, torch's pruning, ONNX, torchvision.

Each takes a network as results.ticket.load_ticket gives it: normalisation, then the network, its
pruned weights exactly 0.
"""

import contextlib
import copy
import io
import warnings

import torch
from torch import nn

from utils import UserError, one_line

# torchvision's name of an architecture, and its names for the parts of ours where they differ
TORCHVISION = {
    "alexnet": ("alexnet", {}),
    "densenet121": ("densenet121", {}),
    "resnet18": ("resnet18", {}),
    "vgg16": ("vgg16_bn", {"0": "features", "1": "avgpool", "3": "classifier"}),
}


def dense(net, masks):
    """The network's state_dict, its normalisation included, with zeros where it is pruned."""
    return dict(net.state_dict())


def masked(net, masks):
    """The state_dict of the network under torch.nn.utils.prune: a weight's numbers are NAME_orig,
    its mask of zeros and ones is NAME_mask.
    """
    state = {}
    for name, value in net.state_dict().items():
        if name in masks:
            state |= {f"{name}_orig": value, f"{name}_mask": masks[name].to(value.dtype)}
        else:
            state[name] = value
    return state


def normalisation(net):
    """(means, standard deviations), one of each a channel, that the network normalises by."""
    scale, shift = (
        part.double().reshape(-1) for part in (net.normalise.scale, net.normalise.shift)
    )
    return (-shift / scale).tolist(), (1 / scale).tolist()


# torchvision -------------------------------------------------------------------------------------


def for_torchvision(arch, net, classes):
    """(state, lines): weights under torchvision's names, and the Python that makes the network
    which they fit with strict=True.

    The state lacks the normalisation, which torchvision's networks leave to their input. UserError
    if torchvision has no such network.
    """
    if arch not in TORCHVISION:
        why = f"torchvision has no network of the layers of {arch}, so it can never fit"
        raise UserError(f"--format=torchvision: {why}: --format=dense, masked or onnx serves")
    from torchvision import models

    name, parts = TORCHVISION[arch]
    with torch.device("meta"):  # its layers are looked at; weights would take seconds
        theirs = getattr(models, name)(num_classes=classes)
    lines = [f"net = torchvision.models.{name}(num_classes={classes})"]
    for place, module in replaced(net.net, theirs, parts).items():
        lines.append(f"net.{as_python(place)} = torch.nn.{module!r}")
    state = {there(key, parts): value for key, value in net.net.state_dict().items()}
    return state, lines


def replaced(ours, theirs, parts):
    """{torchvision's name: module} of what must stand in its network to make it ours."""
    mine, other = leaves(ours, parts), leaves(theirs, {})
    changed = {
        name: module for name, module in mine.items() if repr(other.get(name)) != repr(module)
    }
    gone = tuple(f"{name}." for name in changed)
    spare = [name for name in other if name not in mine and not name.startswith(gone)]
    return changed | {name: nn.Identity() for name in spare}


def leaves(net, parts):
    """The modules that hold no others, by torchvision's names, where it has one."""
    found = {there(n, parts): m for n, m in net.named_modules() if not list(m.children())}
    return {name: module for name, module in found.items() if name is not None}


def there(name, parts):
    """Torchvision's name for one of ours; None where it has none."""
    head, dot, rest = name.partition(".")
    if not parts:
        return name
    return parts[head] + dot + rest if head in parts else None


def as_python(name):
    """The name of a module as Python writes it: features.0 -> features[0]."""
    head, *rest = name.split(".")
    return head + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)


# ONNX --------------------------------------------------------------------------------------------


def to_onnx(net, in_shape):
    """The network as the bytes of an ONNX file: images (batch, C, H, W) in [0, 1] -> logits.

    Any number of images at once. UserError without the package onnx, or for a network that torch's
    exporter cannot write.
    """
    need_onnx()
    images, buffer = torch.rand(2, *in_shape, generator=torch.Generator()), io.BytesIO()
    batch = {"images": {0: "batch"}, "logits": {0: "batch"}}
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_axes": batch}
    try:
        with warnings.catch_warnings(action="ignore"):
            # the other exporter needs onnxscript too
            torch.onnx.export(plain_pooling(net, images), (images,), buffer, dynamo=False, **names)
    except Exception as error:  # it raises types of its own, and those of what it calls
        why = f"torch's exporter cannot write this network ({one_line(error)[:150]})"
        raise UserError(f"--format=onnx: {why}: --format=dense serves") from error
    return buffer.getvalue()


def need_onnx():
    """UserError unless the package onnx is installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        what = f"--format=onnx needs the package onnx ({one_line(error)})"
        raise UserError(f"{what}: pip install onnx") from None


def plain_pooling(net, images):
    """A copy of the network whose adaptive poolings are, where they can be, the plain poolings
    that they are at this size of images: ONNX has no other.
    """
    net, sizes = copy.deepcopy(net), {}
    pools = {n: m for n, m in net.named_modules() if isinstance(m, nn.AdaptiveAvgPool2d)}
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for name, pool in pools.items():
            hooks.enter_context(
                pool.register_forward_hook(
                    lambda _, x, y, name=name: sizes.update({name: (x[0].shape[2:], y.shape[2:])})
                )
            )
        net(images)
    for name, (before, after) in sizes.items():
        windows = [window(*pair) for pair in zip(before, after, strict=True)]
        if all(windows):
            kernel, stride = zip(*windows, strict=True)
            net.set_submodule(name, nn.AvgPool2d(kernel, stride))
    return net


def window(size, count):
    """(kernel, stride) of the plain pooling that makes `count` of `size` as the adaptive one does;
    None where its windows are of different lengths.
    """
    stride = size // count
    kernel = size - (count - 1) * stride
    same = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    plain = [(i * stride, i * stride + kernel) for i in range(count)]
    return (kernel, stride) if stride and same == plain else None
