"""A training loop of the kind people use today, to measure against.

It has a DataLoader, PIL, masks through numpy. It trains correctly (the mask is the mask, not
`weight < 1e-6`); only its way of working is the old one.
"""

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import transforms


def make_loaders(data_dir, batch_size=60):
    """55,000 training and 5,000 validation images of MNIST.

    Through PIL, ToTensor and Normalize, one by one.
    """
    normalise = transforms.Normalize((0.1307,), (0.3081,))
    transform = transforms.Compose([transforms.ToTensor(), normalise])
    images = torchvision.datasets.MNIST(data_dir, train=True, transform=transform)
    train, val = Subset(images, range(55_000)), Subset(images, range(55_000, 60_000))
    loader = DataLoader(train, batch_size=batch_size, shuffle=True, num_workers=0)
    return loader, DataLoader(val, batch_size=batch_size, num_workers=0)


def train_epoch(model, loader, optimizer, masks, device="cpu"):
    """One epoch, the gradients of pruned weights zeroed through numpy; returns the mean loss."""
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
                parameter.grad.data = torch.from_numpy(np.where(masks[name], gradient, 0)).to(
                    device
                )
        optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def accuracy(model, loader, device="cpu"):
    """Accuracy in percent over a loader."""
    model.eval()
    hits = 0
    for images, labels in loader:
        hits += (model(images.to(device)).argmax(1) == labels.to(device)).sum().item()
    return 100 * hits / len(loader.dataset)
