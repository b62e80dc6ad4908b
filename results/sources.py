"""The runs that answer a question: of run folders, and of what was published of others."""

import glob
from pathlib import Path

import pandas as pd

from config import RunConfig, all_flags
from results.published import Runs, read, read_saved
from results.table import AUTOATTACK, AUTOATTACKED, EVALUATION, check_columns, epochs, load, run_key
from store.files import read_csv
from store.saved import saved_config
from utils import UserError


def gather(sources):
    """The Runs of run folders, of patterns of them, and of published expN.json files, in order.

    Folders are taken together, in the place of the first. Of a run that several sources have, the
    one that is done or has more rounds counts, else the first. UserError for what cannot be read or
    compared.
    """
    parts = [
        read(path.parent, path.stem, read_saved(path, "name an expN.json that report.py wrote"))
        for path in files(sources)
    ]
    folders = [source for source in sources if not is_published(source)]
    if folders:
        sizes = [size for part in parts for size in _sizes(part.table)]
        before = len(files(sources[: sources.index(folders[0])]))
        parts.insert(before, _from_folders(folders, sizes))
    return join(parts)


def is_published(source):
    """Whether a source of runs is a file that a report wrote, and no run folder."""
    return Path(source).suffix == ".json" and not Path(source).is_dir()


def files(sources):
    """The paths of published files among sources, of patterns too, each once."""
    paths = []
    for source in filter(is_published, sources):
        paths += sorted(map(Path, glob.glob(str(source)))) or [Path(source)]
    return list(dict.fromkeys(paths))


def join(parts):
    """One Runs of several, each run once (`gather` says which one).

    Its hours are the sum of those of the parts that it takes runs of: more than was spent where
    they share some.
    """
    runs, tables, origins, hours, configs = [], [], [], 0.0, {}
    for part, own in zip(parts, _each_once(parts), strict=True):
        for run, config in own:
            places = []
            for place in (run["provenance"], *run.get("resumed", [])):
                origin = part.record["provenance"][place]
                if origin not in origins:
                    origins.append(origin)
                places.append(origins.index(origin))
            kept = {name: run[name] for name in ("run", "done", "rounds")}
            runs.append(kept | {"flags": _told_flags(config)} | _ran_at(places))
        here = {_folder(run): config for run, config in own}
        tables.append(part.table[part.table.folder.isin(here.keys())])
        configs |= here
        hours += part.record["hours"] if own else 0
    names = [run["run"] for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two runs are called {twice}: leave one out")
    first = runs[0]["flags"]
    shared = {n: v for n, v in first.items() if all(run["flags"][n] == v for run in runs)}
    for run in runs:
        run["flags"] = {n: v for n, v in run["flags"].items() if n not in shared}
    table = pd.concat([table for table in tables if len(table)], ignore_index=True)
    _check_alike(table, configs)
    record = {"shared": shared, "runs": runs, "provenance": origins, "hours": round(hours, 2)}
    lines = [line for part in parts for line in part.commands]
    lines = [line for line in lines if not line.startswith("python report.py ")]
    return Runs(table, record, list(dict.fromkeys(lines)))


def _ran_at(places):
    """What a run's record says of its origins: the first, and those that it went on at."""
    first, *more = places
    return {"provenance": first} | ({"resumed": more} if more else {})


def _folder(run):
    """What the table calls a run of the record."""
    return run.get("folder", run["run"])


def _each_once(parts):
    """[(run of the record, its RunConfig)] of each part: what counts of its runs."""
    best, again = {}, []
    for number, part in enumerate(parts):
        for run in part.record["runs"]:
            config = RunConfig.of(part.record["shared"] | run["flags"])
            key, told = run_key(config), (run["done"], run["rounds"])
            if key in best:
                again.append(run["run"])
            if key not in best or told > best[key][0]:
                best[key] = told, number, (run, config)
    if again:
        few = again[0] + (f" and {len(again) - 1} more" if len(again) > 1 else "")
        print(f"note: several sources have {few}: counted once")
    return [[run for _, owner, run in best.values() if owner == n] for n in range(len(parts))]


def _check_alike(table, configs):
    """UserError for runs of one arm of which only one has an accuracy, and for AutoAttack on
    several numbers of images. configs: folder -> RunConfig.
    """
    if len(sizes := _sizes(table)) > 1:
        what = " and ".join(f"{size:,.0f}" for size in sizes)
        raise UserError(f"AutoAttack tried {what} images of these runs: leave one of them out")
    names = [n for n in table if n.endswith("_accuracy") and n != AUTOATTACKED]
    arms = {}
    for folder, rows in table.groupby("folder", sort=False):
        has = {name for name in names if rows[name].notna().any()}
        check_columns(arms, configs[folder], folder, has)


def _sizes(table):
    """On how many images AutoAttack tried a table's nets, ascending."""
    return sorted(table.get("autoattack_examples", pd.Series(dtype=float)).dropna().unique())


def _told_flags(config):
    """The flags that a record tells: not where a run was computed nor its folders."""
    flags = config.flags()
    return {flag.name: flags[flag.name] for flag in all_flags() if flag.result}


def _from_folders(patterns, sizes=()):
    """The Runs of run folders and patterns. sizes: numbers of images that AutoAttack tried of
    what they stand beside.
    """
    table = _with_last_iteration(load(patterns))
    table = _with_autoattack(table, sizes)
    origins, runs = [], []
    for folder, rows in table.groupby("folder", sort=False):
        saved, places = saved_config(folder), []
        for origin in (saved["provenance"], *saved.get("resumed", [])):
            origins.append({k: v for k, v in origin.items() if k not in ("host", "round")})
            places.append(len(origins) - 1)
        runs.append({
            "run": Path(folder).name,
            "folder": folder,
            "done": bool(rows.done.iloc[0]),
            "rounds": len(rows),
            "flags": saved["flags"],
        } | _ran_at(places))  # fmt: skip
    hours = float(table.get("seconds", pd.Series(dtype=float)).sum()) / 3600
    return Runs(table, {"shared": {}, "runs": runs, "provenance": origins, "hours": hours})


def _with_last_iteration(table):
    """The table with the iteration at which each round ended, to tell a censored early stop."""
    here = [folder for folder in table.folder.unique() if (Path(folder) / "epochs.csv").exists()]
    if not here:
        return table
    rows = epochs(table[table.folder.isin(here)])
    last = rows.groupby(["folder", "round"]).iteration.max().rename("last_iteration")
    return table.join(last, on=["folder", "round"])


def _with_autoattack(table, sizes=()):
    """The table with the accuracies that attacks.py evaluate --attacks autoattack has found.

    On one number of images: one of `sizes`, else that by which the most nets were tried.
    """
    found = {}
    kept = dict(zip(table.folder, table.save_weights, strict=True))
    for folder in (name for name, weights in kept.items() if weights != "last"):
        # the other columns are of the best epoch's; a file of another radius has it in its name
        for path in Path(folder).glob("attacked_*.csv"):
            match = EVALUATION.fullmatch(path.name)
            if not match or match[3] or AUTOATTACK not in match[1].split("+"):
                continue
            rows = read_csv(path)
            if any(not isinstance(row.get(AUTOATTACK), int | float) for row in rows):
                right = "remove it and evaluate the run again"
                raise UserError(f"{path} has no accuracies of autoattack: {right}")
            tried = {(folder, row["round"]): row[AUTOATTACK] for row in rows}
            if tried:
                found[int(match[2])] = found.get(int(match[2]), {}) | tried
    if not found:
        return table
    runs = {size: {folder for folder, _ in tried} for size, tried in found.items()}
    size = max(found, key=lambda n: (n in sizes, len(runs[n]), len(found[n]), n))
    if others := set.union(*runs.values()) - runs[size]:
        what = f"{len(others)} of these runs were tried by AutoAttack on other numbers of images"
        print(f"note: {what} than {size}: left out")
    keys = list(zip(table.folder, table["round"], strict=True))
    accuracy = pd.Series(map(found[size].get, keys), table.index, dtype=float)
    examples = pd.Series(float(size), table.index).where(accuracy.notna())
    return table.assign(**{AUTOATTACKED: accuracy, "autoattack_examples": examples})
