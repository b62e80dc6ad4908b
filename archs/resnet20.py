"""ResNet-20 for small images (He et al. 2016, section 4.2), which Frankle & Carbin 2019 call
ResNet-18.

Shortcuts that change the width are 1x1 convolutions with batch-norm.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions with batch-norm and a shortcut."""

    def __init__(self, inside, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity()
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet20(in_shape, num_classes):
    """Three stages of three blocks, 16-32-64 wide."""
    layers = OrderedDict(
        conv=nn.Conv2d(in_shape[0], 16, 3, padding=1, bias=False),
        bn=nn.BatchNorm2d(16),
        relu=nn.ReLU(),
    )
    inside = 16
    for number, out in enumerate([16] * 3 + [32] * 3 + [64] * 3):
        layers[f"block{number + 1}"] = Block(inside, out, stride=1 if inside == out else 2)
        inside = out
    layers |= OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(64, num_classes)
    )
    return nn.Sequential(layers)
