"""What every room needs: errors in a line, registries, named seed streams, hashes.

torch is imported where it is used, so that `python main.py --help` does not wait for it.
"""

import argparse
import contextlib
import difflib
import hashlib
import importlib
import json
import os
import re
import sys
import types
from fractions import Fraction


class UserError(Exception):
    """Something the user can mend; shown as one line on stderr, exit code 2."""


# Errors in a line ------------------------------------------------------------------------------


def no_bar():
    """tqdm's `disable`: no bar in a process that shares a terminal with others, or without one.

    tqdm reads TQDM_DISABLE only where nobody says anything.
    """
    return True if os.environ.get("TQDM_DISABLE") else None


def devnull():
    """A text stream that swallows all."""
    return open(os.devnull, "w", encoding="utf-8")


def open_streams():
    """Let print work whatever the program was started with.

    That is a closed stream (cron, daemons), or one that cannot encode a ±.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, devnull())
        elif name == "stdout" and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")
    # a command only writes files; Jupyter's own choice may name what is not installed here
    os.environ["MPLBACKEND"] = "Agg"


def one_line(text):
    """A message, an exception's too, on one line."""
    return " ".join(str(text).split())


def show(value):
    """A flag's value as a message has it."""
    return f"{value:.6g}" if isinstance(value, float) else value


def time_in_words(seconds):
    """A span of time as people say it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def choose(kind, name, names, where=""):
    """Return `name` if it is one of `names`; else a UserError with the nearest of them.

    where: how to see all names, if the message should not list them.
    """
    if name in names:
        return name
    typed = str(name).lower()
    within = [one for one in names if typed and typed in re.split(r"[^a-z0-9]+", one.lower())]
    near = within or difflib.get_close_matches(typed, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else "choose a valid one"
    valid = where or "valid: " + ", ".join(names)
    raise UserError(f"unknown {kind} {name!r}: {hint} ({valid})")


@contextlib.contextmanager
def advice(what):
    """Add to a UserError what to do about it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}: {what}") from None


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and name the nearest valid flag.

    Where argcomplete is installed and a shell asks it, it completes instead.
    """

    def complete(self):
        """Tell a shell that asks what could follow, and end; else nothing."""
        if "_ARGCOMPLETE" in os.environ:
            with contextlib.suppress(ImportError):
                import argcomplete

                argcomplete.autocomplete(self)

    def parse_args(self, args=None, namespace=None):
        """As argparse's."""
        self.complete()
        return super().parse_args(args, namespace)

    def error(self, message):
        """Raise UserError instead of printing the usage."""
        known = [name for action in self._actions for name in action.option_strings]
        if message.startswith("unrecognized arguments: "):
            flag = message.split(": ", 1)[1].split(" ")[0].split("=")[0]
            if not flag.startswith("-"):
                right = "lists go after a space: --prune_type lt reinit, not --prune_type=lt reinit"
                right = right if "--prune_type" in known else "leave it out, or name its flag"
                raise UserError(f"{flag!r} belongs to no flag: {right}")
            choose("flag", flag, known, "--help lists them")
        alone = re.fullmatch(r"argument (\S+): ignored explicit argument (.*)", message)
        if alone:
            raise UserError(
                f"{alone[1]} takes no value, and not {alone[2]}: name it or leave it out"
            )
        raise UserError(message)

    def run(self, argv, work, parse=None):
        """Call work with the parsed command line; returns the exit code.

        What the user can mend is one line on stderr and 2.
        """
        self.complete()
        open_streams()
        args = None
        try:
            args = (parse or self.parse_args)(argv)
            work(args)
        except UserError as error:
            print(f"{self.prog}: error: {one_line(error)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"{self.prog}: stopped", file=sys.stderr)
            return 130
        except BrokenPipeError:
            sys.stdout = devnull()  # or Python tries again as it ends
            lost = "standard output was closed before the end: what was not written yet is missing"
            print(f"{self.prog}: error: {lost}", file=sys.stderr)
            return 2
        except OSError as error:
            place, why = (
                error.filename or getattr(args, "output", "a file"),
                error.strerror or error,
            )
            print(f"{self.prog}: error: {place} cannot be written ({why})", file=sys.stderr)
            return 2
        return 0


# Values of flags -------------------------------------------------------------------------------


def number(text):
    """A flag's number: 0.3, 1e-4, or a fraction such as 8/255 (pixel values are on [0, 1])."""
    try:
        return float(Fraction(text.replace(" ", ""))) if "/" in text else float(text)
    except (ValueError, ArithmeticError):
        why = f"{text!r} is not a number (0.3, 1e-4 and 8/255 are)"
        raise argparse.ArgumentTypeError(why) from None


def whole(text):
    """A flag's whole number."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if abs(value) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} is too large (at most 2147483647)")
    return value


def nonempty(text):
    """A flag's text."""
    if not text:
        raise argparse.ArgumentTypeError("a value is needed")
    return text


def seed_number(text):
    """A seed of its own: a whole number, or the word seed, which stands for --seed."""
    try:
        return text if text == "seed" else whole(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor the word seed") from None


def words(text):
    """A name in a list of names."""
    return text


# Registries ------------------------------------------------------------------------------------


def must(sound, needs):
    """A function of an entry: what is wrong with it in words, or "", if it is not sound(entry)."""

    def fault(entry):
        plain = isinstance(entry, str | int | float | tuple | None)
        shown = repr(entry) if plain else f"a {type(entry).__name__}"
        return "" if sound(entry) else f"is {shown}: {needs} is needed"

    return fault


class Registry(dict):
    """A dict name -> entry to which one line adds a thing: REGISTRY["name"] = entry.

    A name given twice and an entry with a fault, fault(entry) in words, are told by `check`, when a
    program runs: nothing fails at import.
    """

    def __init__(self, kind, fault=None):
        super().__init__()
        self.kind, self.wrong = kind, {}
        self.fault = fault or must(callable, "a function")

    def __setitem__(self, name, entry):
        if name in self:
            self.wrong[name] = "is there already: choose another name"
        elif fault := self.fault(entry):
            self.wrong[name] = fault
        super().__setitem__(name, entry)

    def __delitem__(self, name):
        self.wrong.pop(name, None)
        super().__delitem__(name)

    def check(self):
        """UserError for the first entry that cannot be."""
        for name, why in self.wrong.items():
            raise UserError(f"the {self.kind} {name!r} {why}")

    def choose(self, name):
        """The entry called `name`; UserError, with the nearest name, if there is none."""
        self.check()
        return self[choose(self.kind, name, list(self))]


class Lazy:
    """A module that is imported when it is first used.

    For the registries whose names `--help` lists and whose functions need torch.
    """

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        value = getattr(importlib.import_module(self._name), name)
        setattr(self, name, value)  # found without a call from now on
        return value


# Seeds -----------------------------------------------------------------------------------------


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


def mix_order(count, seed, part):
    """The order in which the `count` images of a run's part ("train", "val") are attacked.

    It hangs on the seed alone, so what is attacked at 25 % is also attacked at 50 %.
    """
    return permutation(count, seed, "mix", part)


def shuffled(count, seeds, device):
    """A random order of range(count) for each seed (63 bits), (R, count) int64.

    Drawn on `device`, and the same on every device: sorts the numbers that SplitMix64 (Steele,
    Lea & Flood 2014) counts off from each seed.
    """
    import torch

    def mix(x, shift, factor):
        # int64 wraps around, and its shift to the right copies the sign, which the mask removes
        return (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor

    weyl = 0x9E3779B97F4A7C15 - 2**64
    first, second = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64
    x = torch.arange(1, count + 1, device=device) * weyl
    x = torch.tensor(seeds, device=device)[:, None] + x
    return mix(mix(mix(x, 30, first), 27, second), 31, 1).argsort(dim=1, stable=True)


def eval_examples(total, count):
    """Positions of the `count` of `total` test images that are tried: the same for every run."""
    return permutation(total, 0, "eval examples")[:count].sort().values


# Hashes ----------------------------------------------------------------------------------------


def hash8(value):
    """Eight hex digits that stand for a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def fingerprint(*arrays):
    """Sixteen hex digits of the SHA-256 over the bytes and shapes of arrays or CPU tensors."""
    digest = hashlib.sha256()
    for array in arrays:
        array = array.numpy() if hasattr(array, "numpy") else array
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(memoryview(array.reshape(-1)).cast("B"))
    return digest.hexdigest()[:16]


def prepare_deeprobust():
    """Make `import deeprobust.image` work: it reads a private name that scipy has dropped."""
    try:
        module = importlib.import_module("scipy.optimize.optimize")
    except ImportError:
        module = types.ModuleType("scipy.optimize.optimize")
        sys.modules["scipy.optimize.optimize"] = module
    module._status_message = {"success": "", "maxfev": "", "maxiter": ""}
