"""Files that appear whole, by rename, and the reading of what was written so."""

import csv
import errno
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

from utils import UserError


def check_writable(path, named):
    """UserError, of what the message calls `named`, unless `path` can be made; nothing stays."""
    above = next(place for place in path.absolute().parents if place.exists())
    parent = path if path.is_dir() else above
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=".tmp-"):
            pass
    except OSError as error:
        why = f"cannot be written ({os.strerror(error.errno)}): name a folder that can"
        raise UserError(f"{named} {why}") from error


def write_atomic(path, write):
    """Call `write(temporary_path)`, then rename the result to `path`. An OSError names `path`.

    A kill leaves the old file or the new one.
    """
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
    """Write a list of dicts as CSV, atomically; where a row lacks a key its cell is empty."""

    def write(temporary):
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            # runs of different attacks have different columns
            columns = dict.fromkeys(name for row in rows for name in row)
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(rows)

    write_atomic(path, write)


def read_csv(path):
    """Rows of a CSV as dicts; what looks like a number is one.

    A missing file has no rows; UserError if it is damaged.
    """
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

    ready = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}

    def write(temporary):
        try:
            save_file(ready, temporary)
        except SafetensorError as error:  # what the system said
            raise OSError(None, str(error)) from error

    write_atomic(path, write)


def load_tensors(path):
    """Read a dict of CPU tensors from safetensors; UserError if it is damaged or missing."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type, and OSError
        raise UserError(f"{path} cannot be read ({error})") from error


def save_state(path, state):
    """Write tensors and plain values as torch does, atomically."""
    import torch

    buffer = io.BytesIO()  # torch tells of a full disk by a RuntimeError of its own
    torch.save(state, buffer)
    write_atomic(path, lambda temporary: Path(temporary).write_bytes(buffer.getbuffer()))


def load_state(path):
    """A file of tensors and plain values, after its check sums: torch does not look at them."""
    import torch

    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad:
        raise ValueError(f"its part {bad} has another check sum")
    return torch.load(path, weights_only=True)


def of_the_system(error):
    """Whether a failed read says nothing about the file: too many open files, a disk that is away.

    zipfile seeks wildly in a damaged one: EINVAL.
    """
    system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
    return system or isinstance(error, MemoryError)


def misfit(state, wanted):
    """What keeps saved weights from being those of a network whose state_dict is `wanted`.

    In words; "" if nothing does.
    """

    def kind(tensor):
        return f"{'x'.join(map(str, tensor.shape)) or 'one'} {tensor.dtype}".replace("torch.", "")

    for name in [*wanted, *state]:
        if name not in state or name not in wanted:
            return f"{name} is {'missing' if name in wanted else 'not of this network'}"
        here, right = kind(state[name]), kind(wanted[name])
        if here != right:
            return f"{name} is {here} where this network has {right}"
        if not state[name].isfinite().all():
            return f"{name} holds values that are not finite"
    return ""
