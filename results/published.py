"""What a report publishes of its runs, so that others recompute it: every seed at every round.

expN.csv is one tidy table, a row a run and round; expN.json says of each run its flags, the code's
revision and what it ran on. results/sources.py joins what was published with run folders.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from config import RunConfig, all_flags
from results.table import shown_flags
from store.saved import check_flags
from utils import UserError

HEAD = ("folder", "arm", "done")  # of a table, before the flags and the columns of rounds.csv


@dataclass
class Runs:
    """The runs of an experiment: a table as results.table.load makes it, and where they come from.

    record: {"shared": flags, "runs": [{"run", "done", "rounds", "flags", "provenance", "resumed"}],
    "provenance": [...], "hours"}: the flags and origins of all runs, each once, and how long their
    rounds took together. commands: those that trained runs which were published, and reported them.
    """

    table: pd.DataFrame
    record: dict
    commands: list = field(default_factory=list)


def tidy(runs):
    """expN.csv, a DataFrame: run, round and every number of the round."""
    flags = {flag.name for flag in all_flags()}
    names = [n for n in runs.table.columns if n not in flags and n not in HEAD]
    table = runs.table[names].dropna(axis="columns", how="all")
    table.insert(0, "run", [Path(folder).name for folder in runs.table.folder])
    return table.drop(columns="seconds", errors="ignore")


# columns that a question may read; without them a table says nothing
NEEDED = ("round", "total", "density", "test_accuracy", "early_stop_iteration")


def read(folder, stem, saved):
    """The Runs of <folder>/<stem>.csv and the contents of its JSON file (`read_saved`).

    UserError, in a line, for a table that lacks a run or a round of those that the JSON names, or
    that holds what no run writes.
    """
    path, record = Path(folder) / f"{stem}.csv", saved["record"]
    try:
        head = path.read_text(encoding="utf-8-sig").split("\n", 1)[0].strip().split(",")
        table = pd.read_csv(path)
        if wrong := _wrong_columns(head, table):
            raise ValueError(wrong)
        here = table.groupby("run")["round"].agg(list)
    except (OSError, ValueError) as error:
        why = f"cannot be read ({error})"
        raise UserError(f"{path} {why}: report.py writes it anew from the run folders") from None
    wanted = {run["run"]: run for run in record["runs"]}
    for name, run in wanted.items():
        flags = record["shared"] | run["flags"]
        who = f"{flags['prune_type']}, seed {flags['seed']} ({name})"
        if name not in here:
            raise UserError(f"{path} lacks the run {who}, which its JSON file names")
        missing = sorted(set(range(run["rounds"])) - set(here[name]))
        if missing or len(here[name]) != run["rounds"]:
            what = f"lacks round {missing[0]}" if missing else "has a round twice or too many"
            raise UserError(f"{path} {what} of {who}")
    if more := sorted(set(here.index) - wanted.keys()):
        raise UserError(f"{path} has a run that its JSON file does not name: {more[0]}")
    rows = []
    for name, part in table.groupby("run", sort=False):
        run = wanted[name]
        flags = shown_flags(RunConfig.of(record["shared"] | run["flags"]))
        head = {"folder": name, "arm": "", "done": run["done"]} | flags
        head = pd.DataFrame({n: [v] * len(part) for n, v in head.items()}, part.index)
        rows.append(head.join(part.drop(columns="run")))
    return Runs(pd.concat(rows, ignore_index=True), record, saved.get("commands", []))


def _wrong_columns(head, table):
    """What is wrong with a published table, in words; "" for nothing. head: its first line."""
    numbers = table.drop(columns="run", errors="ignore")
    flags = {flag.name for flag in all_flags()} | {*HEAD}
    if lacking := {"run", *NEEDED} - {*head}:
        return f"it lacks the column {min(lacking)}"
    if len({*head}) < len(head) or flags & {*head}:
        return "it has a column twice" if len({*head}) < len(head) else "it has a flag as a column"
    for name in numbers:
        values = numbers[name]
        if values.dtype.kind not in "if":
            return f"{name} has something other than numbers"
        if np.isinf(values).any() or (name in NEEDED and values.isna().any()):
            return f"{name} has a value that is no number"
        top = 100 if name.endswith("_accuracy") else 1 if name == "density" else math.inf
        if ((values < 0) | (values > top)).any():
            return f"{name} has a value that it cannot have"
    return ""


def origins(record):
    """What the runs ran on: code revision, libraries and device, each combination once."""
    lines = []
    for known in record["provenance"]:
        code = str(known.get("revision") or "unknown")[:10]
        code += " with changes" if known.get("modified") else ""
        versions = [f"{name} {version}" for name, version in (known.get("versions") or {}).items()]
        lines.append(", ".join([f"code {code}", *versions, f"device {known.get('device')}"]))
    return list(dict.fromkeys(lines))


def read_saved(path, right="run the experiment again, or remove it"):
    """The contents of expN.json; UserError if it is damaged, with what would be right."""
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
        record = saved["record"]
        kinds = [(record["shared"], dict), (record["runs"], list), (record["provenance"], list)]
        kinds += [(saved.get("commands", []), list), (record["runs"][0], dict)]
        kinds += [(record["hours"], float)]
        kinds += [(origin, dict) for origin in record["provenance"]]
        kinds += [(origin.get("versions") or {}, dict) for origin in record["provenance"]]
        if not 0 <= record["hours"] < math.inf:
            raise ValueError(f"hours is {record['hours']}")
        needed = {flag.name for flag in all_flags() if flag.result and not flag.late}
        for run in record["runs"]:
            kinds += [(run["run"], str), (run["done"], bool), (run["flags"], dict)]
            kinds += [(run["rounds"], int), (run["provenance"], int)]
            flags = record["shared"] | run["flags"]
            if lacking := needed - flags.keys():
                raise ValueError(f"{run['run']} has no {min(lacking)}")
            check_flags(flags)
            for place in (run["provenance"], *run.get("resumed", [])):
                kinds += [(place, int)]
                if not 0 <= place < len(record["provenance"]):
                    raise ValueError(f"{run['run']} has no provenance")
        kinds += [(line, str) for line in saved.get("commands", [])]
        for value, kind in kinds:
            if not isinstance(value, kind):
                raise TypeError(f"{value!r} is no {kind.__name__}")
        return saved
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        why = f"cannot be read ({type(error).__name__}: {error})"
        raise UserError(f"{path} {why}: {right}") from None
