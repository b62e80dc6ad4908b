"""Run folders -> one tidy table: a row a run and round, with every flag and every number."""

import glob
import re
from pathlib import Path

import pandas as pd

from attacks import ATTACKS, PARAMETERS, tested_by
from config import NO_TICKET, RunConfig, all_flags, attack_settings
from store.runfolder import ROUND_COLUMNS, RunFolder, read_epochs, read_rounds
from store.saved import saved_run
from utils import UserError

# what attacks.py evaluate writes: attacks, images, and what was not the run's own, if anything
EVALUATION = re.compile(r"attacked_evaluation-(.+?)-([0-9]+)((?:-steps|-epsilon).+)?\.csv")

CLEAN, EARLY = "test_accuracy", "early_stop_iteration"
AUTOATTACK = "autoattack"  # no attack of attacks.ATTACKS: attacks.py evaluate adds its column
AUTOATTACKED = f"whitebox_{AUTOATTACK}_accuracy"


def expand(patterns):
    """Paths of run folders from names and patterns, each once.

    UserError for a pattern without a match. A folder that is no run but holds some, as a study's
    runs_dir does, is left out with a note.
    """
    found = {}
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        matches = [pattern]
        if not Path(pattern).exists() and glob.has_magic(str(pattern)):
            matches = sorted(path for path in glob.glob(str(pattern)) if Path(path).is_dir())
        if not matches:
            raise UserError(f"{pattern} matches no folder")
        for path in map(Path, matches):
            if inside := _pattern_of_runs(path):
                print(f"note: {path} is no run but holds runs: name them with '{inside}'")
                continue
            if path.resolve() in found:
                print(f"note: {path} is given twice and counted once")
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _pattern_of_runs(path):
    """The pattern of the runs that a folder holds, which is none itself; "" if it holds none."""
    if (path / "config.json").exists():
        return ""
    patterns = ("*/config.json", "*/*/config.json")
    return next((str((path / p).parent) for p in patterns if any(path.glob(p))), "")


def begun(paths):
    """The paths without those whose run has not begun to train yet, with a note."""
    for path in paths:
        if RunFolder(path).not_begun:
            print(f"note: {path} has not begun to train yet and is left out")
    return [path for path in paths if not RunFolder(path).not_begun]


def load(patterns):
    """The runs of folders and patterns as a DataFrame, a row a run and round.

    Its columns are `folder`, `arm`, `done`, every flag and every column of rounds.csv; accuracies
    are in percent, densities from 0 to 1. `arm` is an ordered category: runs of one arm differ in
    nothing but their seeds, and its name says what tells it apart among these runs. UserError for
    no run with a finished round, for a damaged folder, or for an arm whose runs' columns differ.
    """
    runs = []
    for path in begun(expand(patterns)):
        folder = RunFolder(path)
        config, rounds = saved_run(path), read_rounds(folder)
        if not rounds:
            print(f"note: {path} has no finished round yet and is left out")
            continue
        if not folder.done or len(rounds) < config.prune_iterations:
            print(f"note: {path} is unfinished: its {len(rounds)} rounds are used")
        runs.append((str(path), config, rounds, folder.done))
    runs = _without_repeats(runs)
    if not runs:
        raise UserError("none of these folders is a run with a finished round")
    parts, columns = [], {}
    for path, config, rounds, done in runs:
        check_columns(columns, config, path, set(rounds[0]))
        head = {"folder": path, "arm": "", "done": done} | shown_flags(config)
        head = {name: [value] * len(rounds) for name, value in head.items()}
        parts.append(
            pd.DataFrame(head | {name: [row[name] for row in rounds] for name in rounds[0]})
        )
    return with_arms(pd.concat(parts, ignore_index=True))


def check_columns(seen, config, path, columns):
    """Note a run's columns (a set); UserError where another run of its arm has others.

    seen: arm -> the first run's path and columns, which grows.
    """
    first, theirs = seen.setdefault(identity(config), (path, columns))
    if odd := sorted(theirs ^ columns):
        what = f"{first} and {path} are of one arm, and only one of them has"
        raise UserError(f"{what} {', '.join(odd)}: leave one out")


def shown_flags(config):
    """Every flag of a run; the masks of its own ticket are no flag of their own."""
    return config.flags() | {"ticket_arm": config.arm()["ticket_arm"]}


def with_arms(table):
    """The table with its column `arm` named by what tells the runs in it apart."""
    configs = {folder: saved_run(folder) for folder in table.folder.unique()}
    labels = dict(zip(configs, arm_labels(list(configs.values())), strict=True))
    order = in_order(list(configs.values()), list(labels.values()))
    return table.assign(arm=pd.Categorical(table.folder.map(labels), order, ordered=True))


def epochs(table):
    """epochs.csv of the runs in a table: `folder`, `arm`, and its columns, a row a validation."""
    parts = []
    for folder, rows in table.groupby("folder", sort=False):
        part = pd.DataFrame(read_epochs(RunFolder(folder)))
        parts.append(part.assign(folder=folder, arm=rows.arm.iloc[0]))
    return pd.concat(parts, ignore_index=True)


def by_seed(rows, columns):
    """Rows of one arm -> a row a round and seed: several draws of fresh weights are one value."""
    return rows.groupby(["round", "seed"], as_index=False)[columns].mean()


def identity(config):
    """An arm as a tuple that can be a key: its flags, and an order or ticket seed of its own."""
    own = {name: getattr(config, name) for name in ("order_seed", "ticket_seed", "ticket_draw")}
    own = {name: value for name, value in own.items() if value not in (None, "", config.seed)}
    return tuple(sorted((name, str(value)) for name, value in (config.arm() | own).items()))


def run_key(config):
    """What two runs that are each other's repeats have in common: arm, seed and draw."""
    return identity(config), config.seed, config.reinit_draw


def tested_as(flags, name):
    """The settings of an attack on a run's nets, in words; its flags as a row of the table.

    Of AutoAttack, which has no other, the radius of linf.
    """
    names = [flag.name for flag in all_flags()]
    known = {n: flags[n] for n in names if n in flags}
    config = RunConfig.of({n: None if v != v else v for n, v in known.items()})
    # a default by colour is the same for all runs of a data set
    kind = "pgd" if name == AUTOATTACK else name
    settings = attack_settings(config, kind, colour=False, test=True)
    values = settings.values
    if name == AUTOATTACK:
        values = [(key, value) for key, value in values if key == "epsilon"]
    return ", ".join([settings.norm, *(f"{key} {value:g}" for key, value in values)])


def attack_of(column):
    """The attack of a white-box column; None for another column, or one of somebody's own."""
    kind, _, rest = column.partition("_")
    name = rest.rpartition("_")[0]
    return name if kind == "whitebox" and (name in ATTACKS or name == AUTOATTACK) else None


def tests_of(table, column):
    """The settings, in words, by which the runs that have a white-box column were attacked."""
    name = attack_of(column)
    if name is None:
        return []
    runs = table[table[column].notna()].drop_duplicates("folder").to_dict("records")
    return list(dict.fromkeys(tested_as(flags, name) for flags in runs))


def _without_repeats(runs):
    kept = {}
    for run in runs:
        path, config = run[:2]
        if kept.setdefault(run_key(config), run) is not run:
            print(f"note: {path} repeats another run's flags and seed and is left out")
    return list(kept.values())


def in_order(configs, labels):
    """The arms' names in the order that figures and tables have them."""

    def key(pair):
        config = pair[0]
        attack = config.attack if config.mix_ratio else ""
        return str(attack or ""), config.mix_ratio or 0, config.prune_type, identity(config)

    pairs = sorted(zip(configs, labels, strict=True), key=key)
    return list(dict.fromkeys(label for _, label in pairs))


# Columns of rounds.csv -------------------------------------------------------------------------


def attacked_columns(table, kind=""):
    """The columns of accuracies under attack and of distances, in order; of one kind if given."""
    heads = [f"{kind}_"] if kind else ["transfer_", "whitebox_"]
    return sorted(
        name
        for name in table.columns
        if name.startswith(tuple(heads)) and name.endswith(("_accuracy", "_l2"))
    )


def extra_columns(table):
    """The columns of numbers that somebody added to rounds.csv."""
    known = {*ROUND_COLUMNS, "seconds", "folder", "arm", "done", *attacked_columns(table)}
    known |= {flag.name for flag in all_flags()}
    return [n for n in table.columns if n not in known and table[n].dtype.kind in "if"]


def white_box(table):
    """The column of white-box accuracies that is shown where one is: FGSM's, else the first."""
    columns = [n for n in attacked_columns(table, "whitebox") if n.endswith("_accuracy")]
    fgsm = "whitebox_fgsm_accuracy"
    return fgsm if fgsm in columns else next(iter(columns), None)


def column_title(column):
    """What a column of rounds.csv shows, in words."""
    if column == CLEAN:
        return "clean test images"
    kind, _, rest = column.partition("_")
    if kind not in ("transfer", "whitebox") or not rest.endswith(("_accuracy", "_l2")):
        return column.replace("_", " ")
    attack, _, what = rest.rpartition("_")
    kind = "white-box" if kind == "whitebox" else "surrogate's"
    named = "AutoAttack" if attack == AUTOATTACK else attack.upper()
    if what == "l2":
        return f"mean L2 that {named} needs ({kind})"
    return f"attacked test images: {kind} {named}"


# Names of arms ---------------------------------------------------------------------------------


def arm_labels(configs):
    """A name for each run's arm, of what tells these arms apart: "lt, 50 % fgsm, lr=0.01".

    What varies is named. Only the attack's own parameters and norm may go unnamed, where each
    attack has one value; its surrogate, where all attacked runs have one.
    """
    keys = [dict(identity(config)) for config in configs]
    named = [name for name in dict.fromkeys(name for key in keys for name in key)]
    named = [name for name in named if _tells(name, keys)]
    apart = {"attack", "mix_ratio"} & set(named)
    others = [n for n in named if n not in ("prune_type", "attack", "mix_ratio", "data_id")]
    # what is left out of an arm's flags: at its default, or a seed that follows --seed
    unsaid = {name: "seed" for name in named}
    unsaid |= {flag.name: str(flag.default) for flag in all_flags() if flag.late}
    tested = {config.attack for config in configs if not config.mix_ratio}
    labels = {}
    for config, key in zip(configs, keys, strict=True):
        words = [config.prune_type]
        if apart:
            words.append(images_in_words(config.attack, config.mix_ratio))
            if len(tested) > 1 and config.attack in tested - {None} and not config.mix_ratio:
                words[-1] += f" (tested with {config.attack})"
        for name in others:
            value = flag_in_words(name, key.get(name, unsaid[name]))
            said = value if name in NO_TICKET else f"{name}={value}"
            words.append(ticket_words(config) if name == "ticket_arm" else said)
        if "data_id" in named:
            words.append(f"file {config.data_id[:8] or config.dataset}")
        labels[tuple(key.items())] = ", ".join(words)
    labels = _told_apart(labels, named)
    return [labels[tuple(key.items())] for key in keys]


def _told_apart(labels, named):
    """{key: label} where keys that share one (it rounds, or lacks a hash) have their flags too."""
    names, longer = list(labels.values()), {}
    for key, label in labels.items():
        same = [dict(other) for other, name in labels.items() if name == label]
        apart = [name for name in named if len({other.get(name) for other in same}) > 1]
        own = [f"{name}={dict(key)[name]}" for name in apart if name in dict(key)]
        longer[key] = ", ".join([label, *own]) if names.count(label) > 1 else label
    return longer


def flag_in_words(name, value):
    """A flag's value; of the hidden ones of a ticket what they say, which nobody has typed."""
    if name == "ticket_seed":
        return "ticket of its own seed" if value == "seed" else f"ticket of seed {value}"
    if name == "ticket_draw":
        return f"ticket of {value}" if value else "ticket of its own order"
    return value


def images_in_words(attack, mix_ratio):
    """What training images a run has: "clean data", "50 % fgsm", "50 % left out"."""
    if not mix_ratio:
        return "clean data"
    kind = attack if tested_by(attack) == attack else "left out"
    return f"{100 * mix_ratio:g} % {kind}"


def _tells(name, keys):
    """Whether a flag must be named: it varies, and not only because another named one does."""
    values = {key.get(name) for key in keys}
    if len(values) == 1:
        return False
    if name in PARAMETERS or name == "norm":
        return _several(name, "attack", keys)
    if name in ("surrogate", "surrogate_epochs", "attack_seed"):
        attacked = [key for key in keys if key.get("attack") != "None"]
        return len({key.get(name) for key in attacked}) > 1
    return name != "output_prune_percent" or _several(name, "prune_percent", keys)


def _several(name, cause, keys):
    """Whether a flag has several values for one value of another."""
    pairs = {(key.get(cause), key.get(name)) for key in keys}
    return len(pairs) > len({first for first, _ in pairs})


def ticket_words(config):
    """Whose masks a run has, in words: "own masks", "masks of fgsm0.5-lt"."""
    arm = re.sub(r"-[0-9a-f]{8}(?=@|$)", "", config.ticket_arm or "")
    head = f"{config.dataset}-{config.arch_type}-"
    return f"masks of {arm.removeprefix(head)}" if arm else "own masks"
