"""What a study has still to make, and about how long that takes here: --dry_run's last lines."""

import json
from dataclasses import dataclass

import numpy as np

import archs
import data
from attacked.cache import (
    attacked_folder,
    cached_positions,
    kept_surrogate,
    ready,
    seconds_an_image,
    surrogate_epochs,
    untrained_surrogate,
)
from attacked.pool import PARTS, attack_key, chosen, parts_of
from attacked.training import settings_of
from engine.compiled import kernels_for
from engine.machine import pick_device, set_threads
from engine.timing import each_epoch, looks_note, pace, seconds_left
from study.measure import what_counts
from utils import time_in_words

DEAR = 600  # seconds of attacking from which a cheaper surrogate is named
CHEAP = "fc1"


@dataclass
class Making:
    """An attacked set that is not whole: how many images are missing, and how long they take."""

    what: str  # in words
    seconds: float
    surrogate: float  # seconds that its surrogate trains; 0: it is there


def lines(plan, workers, say=print):
    """What the cohorts of a plan have to make, in lines, with about how long it takes.

    Measured now: steps of each kind of run, and a batch of each attack.
    """
    runs = [run for cohort in plan for run in cohort]
    config = runs[0].config
    device, told = pick_device(config.device, config.gpu, say), []
    makings = missing_sets([run.config for run in runs], device)
    for making in makings:
        told.append(f"{making.what}, about {time_in_words(making.seconds)}")
    surrogates = sum(making.surrogate for making in makings)
    if surrogates:
        count = sum(making.surrogate > 0 for making in makings)
        what = "the surrogate" if count == 1 else f"{count} surrogates"
        told.append(f"{what} to train first, about {time_in_words(surrogates)}")
    attacking = sum(making.seconds for making in makings)
    if attacking > DEAR and config.surrogate != CHEAP:
        cheap = [run.config.replace(surrogate=CHEAP) for run in runs if run.config.surrogate]
        less = sum(m.seconds + m.surrogate for m in missing_sets(cheap, device))
        right = f"--surrogate={CHEAP} would take about {time_in_words(less)}"
        told.append(f"note: {right}, and is another attack: docs/attacks.md")
    often, seldom = map(sum, zip(*cohort_seconds(plan, device, say), strict=True))
    by = f"in {workers} processes" if workers > 1 else "in one process"
    told.append(f"training takes about {time_in_words(often / workers)} {by} (steps measured now)")
    each = [run.config.valid_steps for run in runs]
    if note := looks_note(each, often / workers, seldom / workers):
        told.append(note)
    return told


# Training --------------------------------------------------------------------------------------


def cohort_seconds(plan, device, say):
    """Seconds that each cohort trains from where it is, by a step of each kind of run, and those
    that it would if it validated once an epoch: pairs.
    """
    paces, datasets, found = {}, {}, []
    for cohort in plan:
        config = cohort[0].config
        kind = json.dumps([what_counts(config), len(cohort)], sort_keys=True)
        place = (config.dataset, config.data_dir)
        if place not in datasets:
            datasets[place] = data.load(*place)
        dataset = datasets[place]
        size = (dataset.in_shape, dataset.num_classes)
        if kind not in paces:
            set_threads(config.threads, small=archs.is_small(config.arch_type, *size))
            channels = dataset.in_shape[0]
            model = archs.build(config.arch_type, *size, ([0.5] * channels, [0.3] * channels))
            made = kernels_for(config, model, device, say)
            paces[kind] = pace(config, model, made, len(cohort), size, device)
        train, val = parts_of(config, len(dataset.train_labels))
        counts = len(train), len(val), len(dataset.test_labels)
        first = cohort[0].progress.next_round
        found.append([
            seconds_left(each, paces[kind], counts, first) for each in (config, each_epoch(config))
        ])  # fmt: skip
    return found


# Attacked images -------------------------------------------------------------------------------


def missing_sets(configs, device):
    """A Making of each attacked set of these runs that is not whole in the cache."""
    sets, found = {}, []
    for config in configs:
        if config.attack and not config.adversarial:
            key = (config.dataset, config.data_dir, attack_key(config))
            sets.setdefault(key, []).append(config)
    datasets, surrogates = {}, {}
    for (name, folder, _), runs in sets.items():
        if (name, folder) not in datasets:
            datasets[name, folder] = data.load(name, folder)
        dataset, config = datasets[name, folder], runs[0]
        known = (name, folder, config.surrogate, config.surrogate_epochs, config.attack_number)
        first = known not in surrogates
        if first:
            set_threads(config.threads)
            surrogates[known] = kept_surrogate(config, dataset, device)
        model, trains = surrogates[known], 0.0
        missing = _missing(runs, dataset, model)
        if not any(missing.values()):
            continue
        if model is None:
            model = untrained_surrogate(config, dataset)
            trains = _surrogate_seconds(config, dataset, model, device) if first else 0.0
            model = ready(model, device)
        seconds = sum(missing.values()) * seconds_an_image(config, dataset, model)
        counts = " and ".join(f"{missing[part]:,} {part}" for part in missing if missing[part])
        what = f"attacking {counts} images of {name} with {config.test_attack}"
        what += f" against {config.surrogate}"
        found.append(Making(what, seconds, trains))
    return found


def _missing(runs, dataset, model):
    """{part: how many images} of an attacked set that its runs want and the cache lacks."""
    wanted = [
        chosen(config, part, name)
        for config in runs
        for part, name in zip(parts_of(config, len(dataset.train_labels)), PARTS, strict=True)
    ]
    wanted = {
        "training": np.unique(np.concatenate(wanted)), "test": np.arange(len(dataset.test_labels)),
    }  # fmt: skip
    if model is None:
        return {part: len(positions) for part, positions in wanted.items()}
    folder = attacked_folder(runs[0], dataset, model)
    stored = {"training": "train", "test": "test"}
    return {
        part: len(np.setdiff1d(positions, cached_positions(folder, stored[part])))
        for part, positions in wanted.items()
    }


def _surrogate_seconds(config, dataset, model, device):
    """Seconds that a surrogate trains."""
    epochs = surrogate_epochs(config, dataset)
    settings = settings_of(config, epochs).replace(
        arch_type=config.surrogate, prune_iterations=1, attack=None, mix_ratio=0.0,
        attack_mode="static", eval_attacks=(),
    )  # fmt: skip
    size = (dataset.in_shape, dataset.num_classes)
    set_threads(config.threads, small=archs.is_small(config.surrogate, *size))
    known = pace(settings, model, None, 1, size, device)
    count = len(dataset.train_labels)
    return seconds_left(settings, known, (count - count // 12, count // 12, 0))
