"""torchvision's networks with a stem for small images: 3x3, stride 1, no pooling before the first
stage.
"""

from torch import nn
from torchvision import models


def alexnet(in_shape, num_classes):
    """AlexNet: the first convolution is 3x3 and the classifier reads 2x2 positions; has dropout."""
    net = models.alexnet(num_classes=num_classes)
    net.features[0] = nn.Conv2d(in_shape[0], 64, 3, padding=1)
    net.avgpool = nn.AdaptiveAvgPool2d(2)
    net.classifier[1] = nn.Linear(256 * 2 * 2, 4096)
    return net


def vgg16(in_shape, num_classes):
    """VGG-16 with batch-norm and a single linear layer, the small-image variant: 14.7M parameters,
    no dropout.
    """
    features = models.vgg16_bn().features
    features[0] = nn.Conv2d(in_shape[0], 64, 3, padding=1)
    if min(in_shape[1:]) < 32:
        features = features[:-1]  # four poolings leave one pixel of 28; a fifth would leave none
    return nn.Sequential(
        features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes)
    )


def resnet18(in_shape, num_classes):
    """ResNet-18."""
    net = models.resnet18(num_classes=num_classes)
    net.conv1 = nn.Conv2d(in_shape[0], 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def densenet121(in_shape, num_classes):
    """DenseNet-121."""
    net = models.densenet121(num_classes=num_classes)
    net.features.conv0 = nn.Conv2d(in_shape[0], 64, 3, padding=1, bias=False)
    net.features.pool0 = nn.Identity()
    return net
