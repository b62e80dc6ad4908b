"""A training loop of the kind people use today, to measure against: DataLoader, PIL, masks through numpy.

It trains correctly (the mask is the mask, not `weight < 1e-6`); only its way of working is the old one.
"""

import numpy as np
import torch
import torchvision
from torch import nn


def make_loader(data_dir, batch_size=60):
    """55,000 MNIST images through PIL, ToTensor and Normalize, one by one."""
    transform = torchvision.transforms.Compose([torchvision.transforms.ToTensor(), torchvision.transforms.Normalize((0.1307,), (0.3081,))])
    images = torchvision.datasets.MNIST(data_dir, train=True, transform=transform)
    part = torch.utils.data.Subset(images, range(55_000))
    return torch.utils.data.DataLoader(part, batch_size=batch_size, shuffle=True, num_workers=0)


def train_epoch(model, loader, optimizer, masks):
    """One epoch; gradients of pruned weights are zeroed through numpy each step. Returns the mean loss."""
    model.train()
    total = 0.0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        for name, parameter in model.named_parameters():
            if name in masks:
                gradient = parameter.grad.data.cpu().numpy()
                parameter.grad.data = torch.from_numpy(np.where(masks[name], gradient, 0))
        optimizer.step()
        total += loss.item()
    return total / len(loader)
