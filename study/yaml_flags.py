"""Flags in a YAML file: `--config study.yaml` reads them, `--save_config study.yaml` writes them.

    dataset: mnist
    attack: fgsm
    mix_ratio: [0, 0.5]
    seed: [0, 1, 2]

They become words of a command line, so that a file can say what the command line can, and what is
wrong with it is told in the same words. The command line's own flags override the file's.
"""

from pathlib import Path

import yaml

from store.files import write_text
from utils import UserError

# the other name of a flag: what is given under one name overrides both
TWINS = {"attack_rate": "mix_ratio", "reinit_draws": "reinit_draw"}
NOTHING = ("false", "null", "~", "")
NOT_HERE = ("config", "save_config", "resume", "help")  # of the call, not of the study


class Once(yaml.BaseLoader):
    """YAML with every value as the text that stands there, as on a command line: YAML's own
    meanings would make 8 of 010 and 90 of 1:30. It refuses a key that stands twice.
    """

    def construct_mapping(self, node, deep=False):
        """A mapping; UserError for a key that it has already."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(
                    f"line {node.start_mark.line + 1}: {key} stands twice: once will do"
                )
        return super().construct_mapping(node, deep)


def read(path):
    """The flags of a YAML file as words of a command line; UserError if it is no mapping of flags.

    A list becomes several values; true is a flag alone; false, null, nothing and an empty list
    none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            flags = yaml.load(file, Once)
    except UserError as error:
        raise UserError(f"--config={path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"--config={path} cannot be read ({why}): name a YAML file") from None
    except RecursionError:
        raise UserError(
            f"--config={path} nests lists too deep: values and lists are right"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "it cannot be read"
        raise UserError(f"--config={path} is no YAML{where}: {what}") from None
    right = "a line for each flag is needed, such as prune_percent: 20"
    if not isinstance(flags, dict):
        raise UserError(f"--config={path} holds no mapping: {right}")
    words = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        if not str(name).isidentifier() or any(isinstance(one, list | dict) for one in values):
            raise UserError(f"--config={path}: {name!r} is no flag with a value or a list: {right}")
        if name in NOT_HERE:
            raise UserError(f"--config={path}: {name} is of the command line, not of a file")
        values = [one for one in values if one.lower() not in NOTHING]
        if len(values) == 1 and values[0].lower() == "true":
            words.append(f"--{name}")
        elif len(values) == 1:  # a value that begins with a dash stays a value
            words.append(f"--{name}={values[0]}")
        elif values:
            words += [f"--{name}", *values]
    return words


def merged(file, typed):
    """The flags of a file (a dict) under those that were typed, which override them."""
    twins = TWINS | {other: name for name, other in TWINS.items()}
    kept = {name: v for name, v in file.items() if twins.get(name) not in typed}
    return kept | typed


def write(path, flags):
    """Write flags (a dict) as such a file; UserError if another of that name is there already."""
    path = Path(path)
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in flags.items()}
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None)
    try:
        if path.exists():
            if path.is_file() and path.read_bytes() == text.encode():
                return  # the same command once more
            right = "remove it, or name another"
            raise UserError(f"--save_config={path} is there already, and says other: {right}")
        write_text(path, text)
    except OSError as error:
        raise UserError(f"--save_config={path} cannot be written ({error.strerror})") from error
