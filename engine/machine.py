"""Devices, cores and threads of this machine."""

import os
from pathlib import Path

from utils import UserError


def pick_device(wanted, gpu, say=print):
    """The torch.device for `--device` and `--gpu`; without a GPU, --gpu means the CPU and says so.

    UserError where the device that was asked for does not exist. CUDA_VISIBLE_DEVICES is never set
    here: a scheduler may have set it already.
    """
    import torch

    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if wanted == "cuda":
            right = "use --device=auto or --device=cpu"
            raise UserError(f"--device=cuda: torch sees no CUDA device here; {right}")
        if gpu is not None:
            say(f"note: --gpu={gpu}: torch sees no CUDA device here, so this runs on the CPU")
        return torch.device("cpu")
    index = gpu or 0
    if index >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise UserError(f"--gpu={index}: this machine has GPUs 0 to {last}")
    torch.cuda.set_device(index)  # DeepRobust moves its tensors to the current device
    return torch.device("cuda", index)


def gpus(config):
    """How many GPUs these flags let this machine use; of --gpu one."""
    import torch

    if config.device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count() if config.gpu is None else 1


def has_bf16():
    """Whether the CPU multiplies in bfloat16 itself; asked of Linux on x86, else taken as given."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
    return "flags" not in flags or "amx_bf16" in flags or "avx512_bf16" in flags


def cores():
    """How many CPU cores this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def set_threads(wanted, small=False):
    """Set torch's CPU threads: `wanted`, or for 0 one for small nets and every core for others.

    The kernels of small nets only wait for each other.
    """
    import torch

    torch.set_num_threads(wanted or (1 if small else cores()))
