"""ARCHS: a name -> a network for (in_shape, num_classes), built with torchvision's models where it
has one.

A network takes images in [0, 1]; normalising them is its first layer. An entry names
"module:function"; the module is imported when the network is built, so that the names alone cost
nothing.
"""

import functools
import pkgutil
import warnings
from collections import OrderedDict

from utils import Registry, UserError, must

# the initialisers, in archs/parts.py; "torch" is each layer's own default
INITS = (
    "glorot_normal", "glorot_uniform", "kaiming_normal", "kaiming_uniform", "orthogonal", "torch",
)  # fmt: skip
ARCHS = Registry(
    "arch_type",
    must(lambda entry: callable(entry) or ":" in str(entry), 'a function or "module:function"'),
)
for _name, _where in {
    "fc1": "archs.fc:fc1",
    "fc1_nobias": "archs.fc:fc1_nobias",
    "lenet5": "archs.conv:conv2",  # the network people call LeNet5 is Frankle & Carbin's Conv-2
    "conv2": "archs.conv:conv2",
    "conv4": "archs.conv:conv4",
    "conv6": "archs.conv:conv6",
    "resnet20": "archs.resnet20:resnet20",
    "alexnet": "archs.vision:alexnet",
    "vgg16": "archs.vision:vgg16",
    "resnet18": "archs.vision:resnet18",
    "densenet121": "archs.vision:densenet121",
    "deeprobust_cnn": "archs.deeprobust_nets:cnn",
    "deeprobust_resnet18": "archs.deeprobust_nets:resnet18",
}.items():
    ARCHS[_name] = _where


def make(name, in_shape, num_classes):
    """The network itself, without normalisation, its weights as torch draws them."""
    entry = ARCHS.choose(name)
    try:
        function = pkgutil.resolve_name(entry) if isinstance(entry, str) else entry
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"the arch_type {name!r} is {entry!r}, which cannot be had: {error}"
        ) from error
    return function(in_shape, num_classes)


@functools.cache
def layers(name, in_shape=(3, 32, 32), num_classes=10):
    """The types of a network's modules, asked of it without weights."""
    import torch

    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            modules = make(name, in_shape, num_classes).modules()
    except (RuntimeError, ValueError, ZeroDivisionError):
        return set()  # `build` says why this size cannot be
    return {type(module) for module in modules}


def has_dropout(name, *size):
    """Whether a network draws random numbers as it trains. size: (in_shape, num_classes)."""
    from torch.nn.modules.dropout import _DropoutNd

    return any(issubclass(kind, _DropoutNd) for kind in layers(name, *size))


def is_small(name, *size):
    """Whether more than one CPU thread only makes this network wait: one without convolutions."""
    from torch.nn.modules.conv import _ConvNd

    return not any(issubclass(kind, _ConvNd) for kind in layers(name, *size))


def build(name, in_shape, num_classes, stats, init="glorot_normal", seed=0):
    """A network called `name`, on the CPU, whose weights depend on `seed` (an int) alone.

    in_shape is (C, H, W); stats is (means, standard deviations), one of each a channel; init is
    one of INITS. UserError if the network cannot take images of that size.
    """
    import torch

    from archs.parts import Normalise, initialise

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            # of layers without weights: the error below says more
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):
                net = make(name, in_shape, num_classes)
                logits = net.eval()(torch.rand(2, *in_shape))
        except (RuntimeError, ValueError, ZeroDivisionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{name} (--arch_type or --surrogate) cannot take images of "
                f"{'x'.join(map(str, in_shape))} ({reason})"
            ) from error
        if logits.shape != (2, num_classes):
            raise UserError(
                f"--arch_type={name} returns {tuple(logits.shape[1:])} values an image where "
                f"{num_classes} classes need ({num_classes},)"
            )
        if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(2), atol=1e-4):
            raise UserError(
                f"--arch_type={name} returns probabilities: training and attacks need logits, the "
                "values before the softmax"
            )
        initialise(net, init)
    return torch.nn.Sequential(OrderedDict(normalise=Normalise(*stats), net=net))
