"""How fast a ticket's compiled forward pass is, beside torch's dense one."""

import statistics
import time

import torch

from engine.compiled import kernels
from engine.machine import set_threads
from engine.net import Net, layers_of

IMAGES = 1000  # random ones
PASSES = 7  # of each, in turns, so that both see the same machine


def forward_ratio(net, masks, in_shape, cache_dir):
    """How many times as fast the compiled forward pass of a network is as torch's dense one.

    By the median seconds of the CPU, on one thread each, which others on the machine change little;
    None for a network that no compiled step takes.
    """
    made = kernels(cache_dir, print) if layers_of(net) else None
    if made is None:
        return None
    set_threads(0, small=True)
    sparse = Net(made, net, dict(net.named_parameters()), masks)
    images = torch.rand(IMAGES, *in_shape, generator=torch.Generator().manual_seed(0))
    taken = {net: [], sparse.logits: []}
    with torch.no_grad():
        for _ in range(PASSES + 1):  # the first sets things up
            for forward, seconds in taken.items():
                began = time.process_time()
                forward(images)
                seconds.append(time.process_time() - began)
    dense, mine = (statistics.median(seconds[1:]) for seconds in taken.values())
    return dense / mine
