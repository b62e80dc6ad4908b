"""Devices, cores and threads of this machine."""

import contextlib
import copy
import ctypes
import os
import time

from utils import UserError

PROBE = 0.3  # seconds of the CPU after which bf16_ratio tries nothing more, if bf16 pays by then
PAYS = 0.95  # bf16 pays if a step takes less than this share of its time in fp32
# mallopt's names for: how much freed memory is given back, and from what size it is not kept
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def pick_device(wanted, gpu, say=print):
    """The torch.device for `--device` and `--gpu`; without a GPU, --gpu means the CPU and says so.

    UserError where the device that was asked for does not exist. Which devices a scheduler shows
    this process is its own matter, and is never changed here.
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
    # by torch's default a GPU's convolutions round what they multiply to tf32
    torch.backends.cudnn.allow_tf32 = False
    # and its fastest gradients add in no fixed order, so that a seed would have two dense nets
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", index)


@contextlib.contextmanager
def products(precision, device):
    """Let matrix products and convolutions on a GPU round what they multiply to tf32, inside, if
    that is the precision: 10 bits of 23, and faster.
    """
    import torch

    if precision != "tf32" or device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def gpus(config):
    """How many GPUs these flags let this machine use; of --gpu one."""
    import torch

    if config.device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count() if config.gpu is None else 1


def bf16_ratio(model, in_shape, batch_size):
    """How many times as long a training step takes in bf16 as in fp32 on this CPU: its own time.

    Measured on a copy of the model (images in [0, 1] of shape in_shape (C, H, W) -> logits), loss
    and gradients: of a few images, then of ever more, since large batches gain more, until it is a
    batch, or PROBE seconds are spent and bf16 pays already, or ten times as many are.
    """
    import torch
    import torch.nn.functional as F

    net = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
    images = torch.rand(batch_size, *in_shape, generator=torch.Generator())
    labels = torch.zeros(batch_size, dtype=torch.long)

    def seconds(count, low):
        began = time.process_time()  # others may use the cores too
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = F.cross_entropy(net(images[:count]), labels[:count])
        torch.autograd.grad(loss, list(net.parameters()))
        return time.process_time() - began

    def least(count, low):
        return min(seconds(count, low), seconds(count, low))  # the first sets its kernels up

    count, began = min(2, batch_size), time.process_time()
    with torch.random.fork_rng(devices=[]):  # of dropout
        while True:
            ratio = least(count, True) / least(count, False)
            # the next size takes four times as long
            spent = time.process_time() - began
            enough = spent > (PROBE if ratio < PAYS else 10 * PROBE)
            if count == batch_size or enough:
                return ratio
            count = min(4 * count, batch_size)


def cores():
    """How many CPU cores this process may use."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def wait_briefly():
    """Let torch's threads sleep when they wait for each other; call it before torch is imported.

    By themselves they spin, and keep from its core the thread that they wait for: a step of
    DeepRobust's CNN on two cores, one of them busy, then took 3.4 times as long as on one thread,
    and so 1.1 times (benchmarks/first_command.py). What the environment says already is left.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"


def keep_memory():
    """Let malloc keep what is freed, where it is glibc's.

    Else each step gives its activations back to the system and gets them anew, page by page, which
    is a tenth of a step of lenet5.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)


def flush_denormals():
    """Let torch and its threads take numbers too small for full precision as 0: an optimiser's
    moments of dead units decay into them, and they are slow.

    Before torch computes anything: a thread of its takes this over when it first works.
    """
    import torch

    torch.set_flush_denormal(True)


def set_threads(wanted, small=False):
    """Set torch's CPU threads: `wanted`, or for 0 one for small nets and every core for others.

    The kernels of small nets only wait for each other.
    """
    import torch

    keep_memory()
    torch.set_num_threads(wanted or (1 if small else cores()))
