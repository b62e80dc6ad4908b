"""Fully connected networks."""

from math import prod

from torch import nn


def fc1(in_shape, num_classes, bias=True):
    """Lenet-300-100 (LeCun 1998), the network of Frankle & Carbin 2019: 266,610 parameters on MNIST."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(in_shape), 300, bias=bias),
        nn.ReLU(),
        nn.Linear(300, 100, bias=bias),
        nn.ReLU(),
        nn.Linear(100, num_classes, bias=bias),
    )


def fc1_nobias(in_shape, num_classes):
    """fc1 without biases, as Cosentino et al. 2019 use it."""
    return fc1(in_shape, num_classes, bias=False)
