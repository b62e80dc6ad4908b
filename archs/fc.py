"""Fully connected networks."""

from collections import OrderedDict
from math import prod

from torch import nn


def fc1(in_shape, num_classes, bias=True):
    """Lenet-300-100 (LeCun 1998), the network of Frankle & Carbin 2019: 266,610 parameters on
    MNIST.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(prod(in_shape), 300, bias=bias),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100, bias=bias),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, num_classes, bias=bias),
        )
    )


def fc1_nobias(in_shape, num_classes):
    """fc1 without biases, as Cosentino et al. 2019 use it."""
    return fc1(in_shape, num_classes, bias=False)
