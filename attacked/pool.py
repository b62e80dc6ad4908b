"""The pool that runs draw from: clean images first, their attacked versions after them.

Images are (N, C, H, W) floats in [0, 1]; labels are the true ones.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

import data
from attacked import quality
from attacked.cache import attacked_folder, attacked_set, surrogate
from attacked.levels import from_levels, to_float
from attacks import PARAMETERS
from engine.cohort import Data
from store.files import write_json
from utils import UserError, mix_order

SHOWN = 10  # test images of attacked_samples.png
PARTS = ("train", "val")  # names of a run's training and validation part
# beside the attack's parameters, what tells one run's attacked set from another's
KEY = ("test_attack", "attack_mode", "norm", "surrogate", "surrogate_epochs", "attack_number")


@dataclass
class Images:
    """What a cohort trains and is tested on, on the device."""

    train: Data
    test: torch.Tensor  # (T, C, H, W), clean
    test_labels: torch.Tensor  # (T,)
    attacked_test: list  # per run: (T, C, H, W), or None without an attack
    seen: list  # per run: as Attacked has it, or None
    reports: list  # per run: a dict, or None

    def only(self, runs):
        """The same for some of the runs, by place."""
        index = torch.tensor(runs, dtype=torch.long, device=self.test.device)
        rows = {n: getattr(self.train, n)[index] for n in ("train_index", "val_index")}
        attacked = [self.attacked_test[run] for run in runs]
        reports, seen = [[part[run] for run in runs] for part in (self.reports, self.seen)]
        train = dataclasses.replace(self.train, **rows)
        more = {"attacked_test": attacked, "reports": reports, "seen": seen}
        return dataclasses.replace(self, train=train, **more)

    def samples(self, run):
        """(clean, attacked, classes) of a run's first test images, or None without an attack.

        Images are (SHOWN, C, H, W); classes are three lists: true, and as the surrogate sees them.
        """
        attacked = self.attacked_test[run]
        if attacked is None:
            return None
        classes = [self.test_labels[:SHOWN].tolist(), *self.seen[run]]
        return self.test[:SHOWN].cpu(), attacked[:SHOWN].cpu(), classes


@dataclass
class Attacked:
    """An attacked set as the pool has it."""

    train: object  # AttackedSet
    test: object
    offset: int  # where its training images begin in the pool
    test_images: torch.Tensor
    seen: list  # what the surrogate takes the first SHOWN test images for, clean and attacked
    warnings: list


def build_images(configs, dataset, device, say=print):
    """The pool, index vectors and test sets of runs that share a data set, each attack's once."""
    clean = to_float(dataset.train_images, device)
    labels = torch.from_numpy(dataset.train_labels).to(device)
    test = to_float(dataset.test_images, device)
    splits = [parts_of(config, len(clean)) for config in configs]
    # of each run: positions of its attacked images, of the training and of the validation part
    picked = [
        [chosen(config, part, name) for part, name in zip(split, PARTS, strict=True)]
        for config, split in zip(configs, splits, strict=True)
    ]
    sets, pools, size = {}, [clean], len(clean)
    for config in configs:
        key = attack_key(config)
        if config.attack is None or config.adversarial or key in sets:
            continue
        same = [
            parts for parts, other in zip(picked, configs, strict=True) if attack_key(other) == key
        ]
        wanted = np.concatenate([positions for parts in same for positions in parts])
        sets[key] = attack(config, dataset, wanted, size, device, say)
        pools.append(from_levels(sets[key].train.pixels, device))
        size += len(pools[-1])
    mine = [sets.get(attack_key(config)) for config in configs]
    index = [
        [in_pool(part, hit, attacked) for part, hit in zip(split, parts, strict=True)]
        for split, parts, attacked in zip(splits, picked, mine, strict=True)
    ]
    train_index, val_index = (
        torch.from_numpy(np.stack(part)).to(device) for part in zip(*index, strict=True)
    )
    copies = [labels[torch.from_numpy(s.train.index).to(device)] for s in sets.values()]
    pool = torch.cat(pools) if len(pools) > 1 else clean
    reports = [
        attacked and quality.figures(dataset, attacked, np.concatenate(parts))
        for attacked, parts in zip(mine, picked, strict=True)
    ]
    return Images(
        Data(pool, torch.cat([labels, *copies]), train_index, val_index),
        test,
        torch.from_numpy(dataset.test_labels).to(device),
        [attacked and attacked.test_images for attacked in mine],
        [attacked and attacked.seen for attacked in mine],
        reports,
    )


def attack(config, dataset, wanted, offset, device, say):
    """The Attacked of a run's flags: the training images `wanted` and the whole test set."""
    model = surrogate(config, dataset, device, say)
    train = attacked_set(config, dataset, "train", wanted, model, say)
    every = np.arange(len(dataset.test_labels))
    test = attacked_set(config, dataset, "test", every, model, say)
    warnings = quality.warnings_of(config, dataset, test, model)
    images = from_levels(test.pixels, device)
    with torch.no_grad():
        first = to_float(dataset.test_images[:SHOWN], device), images[:SHOWN]
        seen = [model(part).argmax(-1).tolist() for part in first]
    attacked = Attacked(train, test, offset, images, seen, warnings)
    folder = attacked_folder(config, dataset, model)
    write_json(folder / "report.json", quality.figures(dataset, attacked, train.index))
    return attacked


def attack_key(config):
    """What tells the attacked set of one run of a cohort from another's."""
    return tuple(getattr(config, name) for name in (*KEY, *PARAMETERS))


def parts_of(config, count):
    """The training and the validation part of a run: positions among `count` images, a place each.

    Of an attack that omits some positions are there twice or more. UserError for an empty part, and
    for a share of attacked images that comes to none.
    """
    train, val = data.split(count, config.val_fraction, config.seed)
    parts = [fraction(train, config.train_fraction, config.seed), val]
    # adversarial training attacks so many of each batch, others so many of all
    whole = len(parts[0])
    whole = min(config.batch_size, whole) if config.adversarial else whole
    if config.mix_ratio and not config.attacked_of(whole):
        what = f"--mix_ratio={config.mix_ratio:g} of {whole:,} training images"
        raise UserError(f"{what} attacks or leaves out none: a larger share is needed")
    if config.omits:
        parts = [without(part, config, name) for part, name in zip(parts, PARTS, strict=True)]
    return parts


def fraction(part, share, seed):
    """The round(share * N) positions of the training part that are used, ascending.

    They are the last to be attacked, or left out, of the whole part: a half is trained on the
    images (but for one where N is odd) that a half attacked leaves clean. Nested in the share.
    """
    count = round(share * len(part))
    if not count:
        what = f"--train_fraction={share:g} of {len(part):,} training images leaves none"
        raise UserError(f"{what}: a larger share is needed")
    return np.sort(part[mix_order(len(part), seed, "train").numpy()[len(part) - count :]])


def without(part, config, name):
    """The positions of `part` where those that an attack would take are left out.

    In their places the others are repeated, in a drawn order, so that counts differ by one at most.
    """
    order = mix_order(len(part), config.seed, name).numpy()
    count = config.attacked_of(len(part))
    if count == len(part):
        what = f"--attack={config.attack} --mix_ratio={config.mix_ratio} leaves out all"
        images = f"{count:,} {'training' if name == 'train' else 'validation'} images"
        raise UserError(f"{what} {images}: a smaller share is needed, such as --mix_ratio=0.5")
    kept = part.copy()
    kept[order[:count]] = part[np.resize(order[count:], count)]
    return kept


def chosen(config, part, name):
    """The positions of `part` that are attacked beforehand in this run."""
    ratio = 0 if config.adversarial or config.omits else config.mix_ratio
    return mixed(part, ratio, config.seed, name)


def mixed(part, mix_ratio, seed, name):
    """The positions of `part` that are attacked: the first round(mix_ratio * N) of a drawn order.

    The order depends on the seed alone, so what is attacked at 25 % is also attacked at 50 %.
    """
    order = mix_order(len(part), seed, name).numpy()
    return part[order[: round(mix_ratio * len(part))]]


def in_pool(part, picked, attacked):
    """Positions in the pool for the images `part`, those in `picked` as attacked versions."""
    if not len(picked):
        return part
    place = attacked.offset + np.searchsorted(attacked.train.index, part)
    return np.where(np.isin(part, picked), place, part)
