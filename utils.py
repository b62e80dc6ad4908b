"""What every room needs: one-line errors, named seed streams, devices, files that appear whole.

torch is imported where it is used, so that `python main.py --help` does not wait for it.
"""

import contextlib
import csv
import difflib
import errno
import functools
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class UserError(Exception):
    """Something the user can mend; shown as one line on stderr, exit code 2."""


def devnull():
    """A text stream that swallows all."""
    return open(os.devnull, "w", encoding="utf-8")


def open_streams():
    """Let print work whatever the program was started with: a closed stream (cron, daemons), or one that cannot encode a ±."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, devnull())
        elif name == "stdout" and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")


def one_line(text):
    """A message, an exception's too, on one line."""
    return " ".join(str(text).split())


def choose(kind, name, names, where=""):
    """Return `name` if it is one of `names`, else raise a UserError with the nearest valid one and all, or `where` to see them."""
    if name in names:
        return name
    near = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "choose a valid one"
    raise UserError(f"unknown {kind} {name!r}: {hint} ({where or 'valid: ' + ', '.join(names)})")


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to stop; `signal` is its number."""

    def __init__(self, number):
        super().__init__()
        self.signal = number


class Stop:
    """What SIGTERM and Ctrl-C do: end the program at once, or where `deferred` note that they came.

    A second one that comes a second later or more ends it all the same; sooner it is the same wish, which reached a process twice.
    """

    def __init__(self):
        self.signal, self.deferred, self.heard = None, False, 0.0

    def listen(self):
        """Take over the two signals; in the main thread only, as Python has it."""
        import signal
        import threading

        if threading.current_thread() is threading.main_thread():
            self.signal, self.deferred = None, False
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._heard)

    @contextlib.contextmanager
    def deferring(self):
        """Within this block the first signal is only noted, in `signal`."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def _heard(self, number, frame):
        first, self.signal = self.signal is None, number
        if first:
            self.heard = time.monotonic()
        if not self.deferred or time.monotonic() - self.heard >= 1:
            raise Interrupted(number)


stop = Stop()

# Seeds ---------------------------------------------------------------------------------------


def stream(seed, *name):
    """A 63-bit seed for the random choice called `name`, e.g. stream(0, "order", round, epoch).

    Nothing depends on what was drawn before, so a resumed run repeats an uninterrupted one, and
    arms with the same seed share their initialisation, split, order and attacked subset.
    """
    text = json.dumps([seed, *name])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed, *name):
    """A CPU torch.Generator that draws from the stream called `name`."""
    import torch

    return torch.Generator().manual_seed(stream(seed, *name))


def permutation(n, seed, *name):
    """A random order of range(n), an int64 CPU tensor drawn from the stream called `name`."""
    import torch

    return torch.randperm(n, generator=generator(seed, *name))


def shuffled(count, seeds, device):
    """A random order of range(count) for each seed (63 bits), (R, count) int64: drawn on `device`, and the same on every device.

    Sorts the numbers that SplitMix64 (Steele, Lea & Flood 2014) counts off from each seed.
    """
    import torch

    def mix(x, shift, factor):  # int64 wraps around, and its shift to the right copies the sign, which the mask removes
        return (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor

    weyl, first, second = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
    x = torch.tensor(seeds, device=device)[:, None] + torch.arange(1, count + 1, device=device) * weyl
    return mix(mix(mix(x, 30, first), 27, second), 31, 1).argsort(dim=1, stable=True)


def eval_examples(total, count):
    """Positions of the `count` of `total` test images that iterative attacks are tried on: the same for every run."""
    return permutation(total, 0, "eval examples")[:count].sort().values


# Devices -------------------------------------------------------------------------------------


def pick_device(wanted, gpu, say=print):
    """The torch.device for `--device` and `--gpu`; `--gpu` without a GPU falls back to the CPU and says so.

    Raises UserError where the device that was asked for does not exist. CUDA_VISIBLE_DEVICES is
    never set here: a scheduler may have set it already.
    """
    import torch

    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if wanted == "cuda":
            raise UserError("--device=cuda: torch sees no CUDA device here; use --device=auto or --device=cpu")
        if gpu is not None:
            say(f"note: --gpu={gpu}: torch sees no CUDA device here, so this runs on the CPU")
        return torch.device("cpu")
    index = gpu or 0
    if index >= torch.cuda.device_count():
        raise UserError(f"--gpu={index}: this machine has GPUs 0 to {torch.cuda.device_count() - 1}")
    torch.cuda.set_device(index)  # DeepRobust moves its tensors to the current device
    return torch.device("cuda", index)


# Files that appear whole, by rename ------------------------------------------------------------


def write_atomic(path, write):
    """Call `write(temporary_path)`, then rename the result to `path`; a kill leaves the old file or the new one. An OSError names `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays: numpy and matplotlib go by it
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        write(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would shut out the rest of a lab
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_text(path, text):
    """Write `text` to `path`, atomically."""
    write_atomic(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path, rows):
    """Write a list of dicts as CSV, atomically; a row that lacks another's key has an empty cell."""

    def write(temporary):
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            # runs of different attacks have different columns
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)

    write_atomic(path, write)


def read_csv(path):
    """Rows of a CSV as dicts; what looks like a number is one. A missing file has no rows; UserError if it is damaged."""
    if not Path(path).exists():
        return []

    def value(text):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                pass
        return text

    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error})") from error
    if any(None in row or None in row.values() for row in rows):
        raise UserError(f"{path} is damaged: its rows are not of one length")
    return [{key: value(text) for key, text in row.items()} for row in rows]


def save_tensors(path, tensors):
    """Write a dict of tensors as safetensors, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

    def write(temporary):
        try:
            save_file(ready, temporary)
        except SafetensorError as error:  # what the system said
            raise OSError(None, str(error)) from error

    write_atomic(path, write)


def save_state(path, state):
    """Write tensors and plain values as torch does, atomically."""
    import torch

    buffer = io.BytesIO()  # torch tells of a full disk by a RuntimeError of its own
    torch.save(state, buffer)
    write_atomic(path, lambda temporary: Path(temporary).write_bytes(buffer.getbuffer()))


def load_tensors(path):
    """Read a dict of CPU tensors from safetensors; UserError if the file is damaged or missing."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type, and OSError
        raise UserError(f"{path} cannot be read ({error})") from error


def misfit(state, wanted):
    """What keeps saved weights from being those of a network whose state_dict is `wanted`, in words; "" if nothing does."""
    for name in [*wanted, *state]:
        if name not in state or name not in wanted:
            return f"{name} is {'missing' if name in wanted else 'not of this network'}"
        found, right = (f"{'x'.join(map(str, each[name].shape)) or 'one'} {each[name].dtype}".replace("torch.", "") for each in (state, wanted))
        if found != right:
            return f"{name} is {found} where this network has {right}"
        if not state[name].isfinite().all():
            return f"{name} holds values that are not finite"
    return ""


def of_the_system(error):
    """Whether a failed read says nothing about the file: too many open files, a disk that is away. zipfile seeks wildly in a damaged one: EINVAL."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL))


def hash8(value):
    """Eight hex digits that stand for a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def fingerprint(*arrays):
    """Sixteen hex digits of the SHA-256 over the bytes and shapes of numpy arrays or CPU tensors."""
    digest = hashlib.sha256()
    for array in arrays:
        array = array.numpy() if hasattr(array, "numpy") else array
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(memoryview(array.reshape(-1)).cast("B"))
    return digest.hexdigest()[:16]


# What a run ran on -----------------------------------------------------------------------------


def provenance(device):
    """Code revision, library versions and device, for config.json."""
    import importlib.metadata as metadata

    import torch

    git = functools.partial(_told, "git", "-C", str(Path(__file__).parent))
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index or 0}")
    names = ["torchvision", "deeprobust", "numpy"]
    return {
        "revision": git("rev-parse", "HEAD") or None,
        "modified": bool(git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **{name: metadata.version(name) for name in names}},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "driver": {"cuda": torch.version.cuda, "driver": _told(*driver)} if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }


@functools.cache  # a cohort's runs ask the same; the code that runs is that of the first answer
def _told(*command):
    """What a command prints; empty if it cannot be run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def prepare_deeprobust():
    """Make `import deeprobust.image` work: it reads a private name that scipy dropped (upstream issue 148)."""
    import importlib
    import sys
    import types

    try:
        module = importlib.import_module("scipy.optimize.optimize")
    except ImportError:
        module = sys.modules["scipy.optimize.optimize"] = types.ModuleType("scipy.optimize.optimize")
    module._status_message = {"success": "", "maxfev": "", "maxiter": ""}


def cores():
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_small(arch):
    """Whether more than one CPU thread only makes this network wait: the fully connected ones."""
    return arch.startswith("fc")


def set_threads(wanted, small=False):
    """Set torch's CPU threads: `wanted`, or for 0 one for small nets (more only wait for each other) and every core else."""
    import torch

    torch.set_num_threads(wanted or (1 if small else cores()))
