"""What every network shares: its first layer and its initial weights."""

import torch
from torch import nn

INITIALISERS = {
    "glorot_normal": nn.init.xavier_normal_,
    "glorot_uniform": nn.init.xavier_uniform_,
    "kaiming_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "kaiming_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
}


class Normalise(nn.Module):
    """The first layer: images (B, C, H, W) in [0, 1] -> zero mean and unit variance a channel."""

    def __init__(self, mean, std):
        super().__init__()
        std = torch.tensor(std).reshape(-1, 1, 1)
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -torch.tensor(mean).reshape(-1, 1, 1) / std)

    def forward(self, images):
        return torch.addcmul(self.shift, images, self.scale)  # (images - mean) / std in one pass


def initialise(net, init):
    """Draw the weights of every convolution and linear layer anew and zero their biases; "torch"
    keeps torch's own.
    """
    if init == "torch":
        return
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            INITIALISERS[init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
