"""ARCHS: a name -> a network for (in_shape, num_classes), built with torchvision's models where it has one.

A network takes images in [0, 1]; normalising them is its first layer. An entry names
"module:function"; the module is imported when the network is built, so that the names alone cost
nothing.
"""

import pkgutil
import warnings
from collections import OrderedDict

ARCHS = {
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
}


WITH_DROPOUT = {"alexnet"}  # they train in cohorts of one; train.Cohort holds anyone to it


def build(name, in_shape, num_classes, stats, init="glorot_normal", seed=0):
    """A network called `name`, on the CPU, whose weights depend on `seed` (an int) alone.

    in_shape is (C, H, W); stats is (means, standard deviations), one of each a channel; init is
    one of config.INITS. UserError if the network cannot take images of that size.
    """
    import torch

    from archs.parts import Normalise, initialise
    from utils import UserError

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # of layers without weights: the error below says more
                net = pkgutil.resolve_name(ARCHS[name])(in_shape, num_classes)
                logits = net.eval()(torch.rand(2, *in_shape))
        except (RuntimeError, ValueError, ZeroDivisionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{name} (--arch_type or --surrogate) cannot take images of {'x'.join(map(str, in_shape))} ({reason})") from error
        if logits.shape != (2, num_classes):
            raise UserError(f"--arch_type={name} returns {tuple(logits.shape[1:])} values an image where {num_classes} classes need ({num_classes},)")
        if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(2), atol=1e-4):
            raise UserError(f"--arch_type={name} returns probabilities: training and attacks need logits, the values before the softmax")
        initialise(net, init)
    return torch.nn.Sequential(OrderedDict(normalise=Normalise(*stats), net=net))
