"""A training loop of the kind people use today, to measure against: DataLoader, PIL, masks through numpy.

It trains correctly (the mask is the mask, not `weight < 1e-6`); only its way of working is the old one.
"""

import numpy as np
import torch
import torchvision
from torch import nn


def make_loaders(data_dir, batch_size=60):
    """55,000 training and 5,000 validation images of MNIST through PIL, ToTensor and Normalize, one by one."""
    transform = torchvision.transforms.Compose([torchvision.transforms.ToTensor(), torchvision.transforms.Normalize((0.1307,), (0.3081,))])
    images = torchvision.datasets.MNIST(data_dir, train=True, transform=transform)
    train, val = torch.utils.data.Subset(images, range(55_000)), torch.utils.data.Subset(images, range(55_000, 60_000))
    loader = torch.utils.data.DataLoader(train, batch_size=batch_size, shuffle=True, num_workers=0)
    return loader, torch.utils.data.DataLoader(val, batch_size=batch_size, num_workers=0)


def train_epoch(model, loader, optimizer, masks, device="cpu"):
    """One epoch; gradients of pruned weights are zeroed through numpy each step. Returns the mean loss."""
    model.train()
    total = 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        for name, parameter in model.named_parameters():
            if name in masks:
                gradient = parameter.grad.data.cpu().numpy()
                parameter.grad.data = torch.from_numpy(np.where(masks[name], gradient, 0)).to(device)
        optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def accuracy(model, loader, device="cpu"):
    """Accuracy in percent over a loader."""
    model.eval()
    hits = sum((model(images.to(device)).argmax(1) == labels.to(device)).sum().item() for images, labels in loader)
    return 100 * hits / len(loader.dataset)
