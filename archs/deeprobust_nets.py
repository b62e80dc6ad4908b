"""DeepRobust's own networks: the default surrogates, against which attacked data sets are made."""

import torch.nn.functional as F
from torch import nn

from utils import prepare_deeprobust


def cnn(in_shape, num_classes):
    """DeepRobust's CNN: two 5x5 convolutions, 1024 units, 3.3M parameters on 28x28."""
    prepare_deeprobust()
    from deeprobust.image.netmodels.CNN import Net

    class CNN(Net):
        """Theirs in any memory layout, its ReLUs after the pooling: the same function, faster."""

        def forward(self, x):
            x = F.relu(F.max_pool2d(self.conv1(x), 2))
            x = F.relu(F.max_pool2d(self.conv2(x), 2))
            return self.fc2(F.relu(self.fc1(x.flatten(1))))

    channels, height, width = in_shape
    net = CNN(in_channel1=channels, H=height, W=width)
    net.fc2 = nn.Linear(1024, num_classes)  # theirs is fixed to ten classes
    return net


def resnet18(in_shape, num_classes):
    """DeepRobust's ResNet18 for 32x32 images."""
    prepare_deeprobust()
    from deeprobust.image.netmodels.resnet import BasicBlock, Net

    net = Net(BasicBlock, [2, 2, 2, 2], num_classes)
    if in_shape[0] != 3:
        net.conv1 = nn.Conv2d(in_shape[0], 64, 3, padding=1, bias=False)
    return net
