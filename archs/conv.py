"""Conv-2, Conv-4 and Conv-6 of Frankle & Carbin 2019, figure 2: VGG-like, without batch-norm."""

from collections import OrderedDict

from torch import nn


def conv(widths, in_shape, num_classes):
    """Pairs of 3x3 convolutions with these widths, each pair ending in a 2x2 pooling, then
    256-256-classes.

    The second ReLU of a pair follows the pooling, which gives the same in a quarter of the work.
    """
    channels, height, width = in_shape
    layers = OrderedDict()
    for pair, out in enumerate(widths):
        first, second = 2 * pair + 1, 2 * pair + 2
        layers[f"conv{first}"] = nn.Conv2d(channels, out, 3, padding=1)
        layers[f"relu{first}"] = nn.ReLU()
        layers[f"conv{second}"] = nn.Conv2d(out, out, 3, padding=1)
        layers[f"pool{pair + 1}"] = nn.MaxPool2d(2)
        layers[f"relu{second}"] = nn.ReLU()
        channels, height, width = out, height // 2, width // 2
    return nn.Sequential(
        layers
        | OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels * height * width, 256),
            relu_fc1=nn.ReLU(),
            fc2=nn.Linear(256, 256),
            relu_fc2=nn.ReLU(),
            fc3=nn.Linear(256, num_classes),
        )
    )


def conv2(in_shape, num_classes):
    """Two 3x3x64 convolutions and a 256-256 classifier."""
    return conv([64], in_shape, num_classes)


def conv4(in_shape, num_classes):
    """Four convolutions, 64 to 128 wide."""
    return conv([64, 128], in_shape, num_classes)


def conv6(in_shape, num_classes):
    """Six convolutions, 64 to 256 wide."""
    return conv([64, 128, 256], in_shape, num_classes)
