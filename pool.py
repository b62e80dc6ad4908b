"""The pool that runs draw from: clean images first, their attacked versions after them.

The surrogate that attacked data sets are made against is trained once and cached; so is every attacked
image, so that a larger --mix_ratio attacks only what is missing. Images are (N, C, H, W) floats in
[0, 1]; labels are the true ones.
"""

import contextlib
import dataclasses
import importlib.metadata
import pkgutil
import time
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

import archs
import attacks
import data
import pruning
import train
from config import attack_settings
from utils import UserError, fingerprint, hash8, load_tensors, misfit, of_the_system, one_line, permutation, save_tensors, stream, write_atomic, write_json

LEVELS = 65535  # attacked pixels are kept as uint16; 65535 = 257 * 255, so every uint8 pixel is one of its levels exactly
VERSION = 1  # of how surrogates and attacked images are made; a change that changes them needs another
BATCH = 64  # fastest on a CPU, where most sets are made; a GPU takes 4,096
SHARD = 4096  # images a file of the cache: what a kill can lose


# The surrogate -------------------------------------------------------------------------------


def surrogate(config, dataset, device, say=print):
    """The network the attacked data set is made against, in eval mode with frozen weights; trained once, then cached.

    It trains on clean images with Adam 1e-3 and batches of 128, on a split of its own (--attack_seed), and
    keeps its best epoch on the held-out part.
    """
    stats = data.channel_stats(dataset.train_images)
    net = archs.build(config.surrogate, dataset.in_shape, dataset.num_classes, stats, "torch", stream(config.attack_seed, "surrogate"))
    recipe = {
        "dataset": dataset.name,
        "images": fingerprint(dataset.train_images, dataset.train_labels),
        "arch": config.surrogate,
        "epochs": surrogate_epochs(config, dataset),
        "seed": config.attack_seed,
        "training": f"adam 1e-3, batch 128, version {VERSION}",
    }
    folder = cache_folder(config.cache_dir, "surrogates", f"{dataset.name}-{config.surrogate}", recipe)
    path = folder / "weights.safetensors"
    with locked(folder):
        if path.exists():
            state = _load_surrogate(path, net)
            if state is None:
                say(f"note: {path} is damaged and is made again")
                path.unlink()
        if not path.exists():
            say(f"training the surrogate {config.surrogate} on clean {dataset.name} ({recipe['epochs']} epochs)")
            state = _train_surrogate(net, config, dataset, recipe["epochs"], device, say)
            write_json(folder / "recipe.json", recipe)
            save_tensors(path, state)
    net.load_state_dict(state)
    return net.to(device).eval().requires_grad_(False)


def surrogate_epochs(config, dataset):
    """--surrogate_epochs, or for 0: three passes, more for a small data set so that it sees 300 batches of 128."""
    return config.surrogate_epochs or max(3, -(-300 * 128 // len(dataset.train_labels)))


def _load_surrogate(path, net):
    try:
        state = load_tensors(path)
    except UserError:
        return None
    return None if misfit(state, net.state_dict()) else state


def _train_surrogate(net, config, dataset, epochs, device, say):
    """Train through the same code as the runs: a cohort of one, nothing pruned."""
    settings = dataclasses.replace(
        config, optimizer="adam", lr=1e-3, batch_size=128, weight_decay=0.0, end_iter=epochs, rewind_epoch=0,
        warmup_steps=0, lr_drops="", precision="fp32", augment=False, valid_freq=1, valid_steps=0,
        order_seed=stream(config.attack_seed, "surrogate order"),
    )  # fmt: skip
    split = data.split(len(dataset.train_labels), 1 / 12, stream(config.attack_seed, "surrogate split"))
    train_index, val_index = (torch.from_numpy(part)[None].to(device) for part in split)
    pool = train.Data(to_float(dataset.train_images, device), torch.from_numpy(dataset.train_labels).to(device), train_index, val_index)
    cohort = train.Cohort(net, [net.state_dict()], [pruning.ones(net)], device)
    with tqdm(total=epochs, desc="surrogate", unit="epoch", leave=False, disable=None) as bar:

        def on_epoch(epoch, rows):
            last = rows[0][-1]
            bar.set_postfix(loss=f"{last['train_loss']:.4f}", val=f"{last['val_accuracy']:.2f} %")
            bar.update()
            if bar.disable and (epoch + 1) % max(1, epochs // 5) == 0:  # a log is told now and then that work goes on
                say(f"  surrogate epoch {epoch + 1} of {epochs}: loss {last['train_loss']:.4f}, validation {last['val_accuracy']:.2f} %")

        fit = train.fit(cohort, pool, [settings], 0, on_epoch)
    return cohort.unstack(fit.best)[0]


# The cache of attacked images ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class AttackedSet:
    """Attacked versions of some images of a data set, as the cache keeps them.

    index: (N,) positions in the data set's part, ascending; pixels: (N, C, H, W) uint16 levels of 1/65535;
    before, after: (N,) bool, whether the surrogate classified the clean and the attacked image correctly;
    seconds: (N,) that each took.
    """

    index: np.ndarray
    pixels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    seconds: np.ndarray


def attacked_set(config, dataset, part, wanted, model, say=print):
    """The AttackedSet of the images `wanted` (positions) of `part` ("train" or "test"); only missing ones are attacked."""
    images, labels = getattr(dataset, f"{part}_images"), getattr(dataset, f"{part}_labels")
    folder = attacked_folder(config, dataset, model)
    wanted = np.unique(wanted)
    with locked(folder):
        have = _read_shards(folder, part, dataset.in_shape, say)
        missing = np.setdiff1d(wanted, have.index)
        if len(missing):
            write_json(folder / "recipe.json", attack_recipe(config, dataset, model))
            say(f"attacking {len(missing):,} {part} images of {dataset.name} with {config.attack} ({len(wanted) - len(missing):,} were cached)")
            _attack_missing(config, folder, part, images, labels, missing, model, say)
            have = _read_shards(folder, part, dataset.in_shape, say)
    rows = np.searchsorted(have.index, wanted)
    return AttackedSet(wanted, have.pixels[rows], have.before[rows], have.after[rows], have.seconds[rows])


def attacked_folder(config, dataset, model):
    """Where the attacked images of these flags are kept."""
    return cache_folder(config.cache_dir, "attacked", f"{dataset.name}-{config.attack}-{config.surrogate}", attack_recipe(config, dataset, model))


def attack_recipe(config, dataset, model):
    """Everything that makes an attacked image what it is."""
    return {
        "dataset": dataset.name,
        "images": dataset.fingerprint,
        "surrogate": config.surrogate,
        "surrogate_weights": fingerprint(*(value.cpu() for value in model.state_dict().values())),
        **dataclasses.asdict(attack_settings(config, config.attack, dataset.in_shape)),
        "seed": config.attack_seed,
        "levels": LEVELS,
        "version": VERSION,
        "deeprobust": importlib.metadata.version("deeprobust"),
    }


def cache_folder(cache_dir, kind, name, recipe):
    """<cache_dir>/<kind>/<name>-<hash8 of the recipe>."""
    return Path(cache_dir) / kind / f"{name}-{hash8(recipe)}"


@contextlib.contextmanager
def locked(folder):
    """Hold the folder's lock, so that two processes that want the same thing make it once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"--cache_dir: {folder} cannot be written ({error.strerror}): name a folder that can") from error
    try:
        yield
    finally:
        lock.release()


def _attack_missing(config, folder, part, images, labels, missing, model, say=print):
    """Attack images[missing] in batches and write them as shards, each of which appears whole."""
    settings = attack_settings(config, config.attack, images.shape[1:])
    make = pkgutil.resolve_name(settings.line.make)
    device = next(model.parameters()).device
    with tqdm(total=len(missing), desc=f"{config.attack} {part}", unit="image", leave=False, disable=None) as bar:
        for first in range(0, len(missing), SHARD):
            began, found = time.perf_counter(), []
            shard = missing[first : first + SHARD]
            batch = BATCH if device.type == "cpu" else SHARD
            for start in range(0, len(shard), batch):
                index = shard[start : start + batch]
                clean, truth = to_float(images[index], device), torch.from_numpy(labels[index]).to(device)
                adversarial = make(model, clean, truth, settings, attacks.starts_for(config.attack_seed, part, index, clean))
                levels = settle(model, images[index], truth, adversarial, keep_within=settings.epsilon is not None)
                before = attacks.is_correct(model, clean, truth)
                after = attacks.is_correct(model, from_levels(levels, device), truth)
                found.append((index, levels, before.cpu().numpy(), after.cpu().numpy()))
                bar.update(len(index))
            arrays = dict(zip(("index", "pixels", "before", "after"), map(np.concatenate, zip(*found, strict=True)), strict=True))
            arrays["seconds"] = np.full(len(shard), (time.perf_counter() - began) / len(shard), np.float32)
            write_atomic(folder / f"{part}-{fingerprint(shard)}.npz", lambda path, a=arrays: np.savez_compressed(path, **a))
            if bar.disable and first + SHARD < len(missing):  # a log is told now and then that work goes on
                say(f"  {first + SHARD:,} of {len(missing):,}")


def settle(model, clean, labels, adversarial, keep_within):
    """Attacked images (tensor) as uint16 levels that still fool where the floats did.

    Within an epsilon, pixels are rounded towards the clean ones. Attacks of least distance stop on the class
    boundary, where rounding can undo them: those images are pushed on by 0.2 % of their perturbation, up to 2 %.
    """
    if keep_within:
        return to_levels(adversarial, clean)
    levels, origin = to_levels(adversarial, clean, nearest=True), to_float(clean, adversarial.device)
    fooled = ~attacks.is_correct(model, adversarial, labels)
    for push in range(1, 11):
        undone = fooled & attacks.is_correct(model, from_levels(levels, origin.device), labels)
        if not undone.any():
            break
        further = (origin + (1 + 0.002 * push) * (adversarial - origin)).clamp(0, 1)
        rows = undone.cpu().numpy()
        levels[rows] = to_levels(further[undone], clean[rows], nearest=True)
    return levels


def _read_shards(folder, part, shape, say):
    """Every cached image of `part`, as one AttackedSet; a shard that cannot be read is removed, to be made again."""
    empty = {"index": np.int64, "pixels": np.uint16, "before": bool, "after": bool, "seconds": np.float32}
    found = [tuple(np.empty((0, *shape) if name == "pixels" else 0, kind) for name, kind in empty.items())]
    for path in sorted(folder.glob(f"{part}-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in empty}
                whole = all(array.dtype == empty[name] and len(array) == len(arrays["index"]) for name, array in arrays.items())
                if not whole or arrays["pixels"].shape[1:] != tuple(shape) or arrays["index"].min(initial=0) < 0:
                    raise ValueError("its arrays are not an attacked set's")
                found.append(tuple(arrays.values()))
        except Exception as error:  # zipfile, zlib and numpy each have their own type for a damaged file
            if of_the_system(error):
                raise UserError(f"{path} cannot be read ({one_line(error) or type(error).__name__})") from error
            say(f"note: {path} is damaged ({error}) and is made again")
            path.unlink()
    index, *others = map(np.concatenate, zip(*found, strict=True))
    index, rows = np.unique(index, return_index=True)
    return AttackedSet(index, *(values[rows] for values in others))


def to_float(images, device):
    """uint8 numpy images -> float32 in [0, 1] on the device."""
    return torch.from_numpy(images).to(device).float().div_(255)


def to_levels(adversarial, clean, nearest=False):
    """Floats in [0, 1] (tensor) -> uint16 levels, rounded towards the clean uint8 images, so that no epsilon is exceeded, or to the nearest."""
    base = clean.astype(np.int64) * (LEVELS // 255)
    step = adversarial.double().cpu().numpy() * LEVELS - base
    # 0.01 of a level forgives the rounding of float32, which would cost a whole level at 8/255
    step = np.rint(step) if nearest else np.trunc(step + 0.01 * np.sign(step))
    return (base + step.astype(np.int64)).clip(0, LEVELS).astype(np.uint16)


def from_levels(levels, device):
    """uint16 levels -> float32 in [0, 1] on the device; an unchanged pixel is bit-equal to its clean float."""
    return torch.from_numpy(levels.astype(np.float32)).to(device).div_(LEVELS)


# The pool ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Images:
    """What a cohort trains and is tested on, on the device."""

    train: train.Data
    test: torch.Tensor  # (T, C, H, W), clean
    test_labels: torch.Tensor  # (T,)
    attacked_test: list  # per run: (T, C, H, W), or None without an attack
    reports: list  # per run: a dict, or None
    samples: list  # per run: (clean, attacked) test images (10, C, H, W), or None

    def only(self, runs):
        """The same for some of the runs, by place."""
        index = torch.tensor(runs, dtype=torch.long, device=self.test.device)
        train_data = dataclasses.replace(self.train, train_index=self.train.train_index[index], val_index=self.train.val_index[index])
        per_run = {name: [getattr(self, name)[run] for run in runs] for name in ("attacked_test", "reports", "samples")}
        return dataclasses.replace(self, train=train_data, **per_run)


def build_images(configs, dataset, device, say=print):
    """The pool, index vectors and test sets of runs that share a data set: clean images once, then each attacked set once."""
    clean = to_float(dataset.train_images, device)
    pool, labels = [clean], [torch.from_numpy(dataset.train_labels).to(device)]
    test, test_labels = to_float(dataset.test_images, device), torch.from_numpy(dataset.test_labels).to(device)
    splits = [data.split(len(clean), config.val_fraction, config.seed) for config in configs]
    chosen = [
        [mixed(part, config.mix_ratio if config.attack_mode == "static" else 0, config.seed, name) for part, name in zip(split, ("train", "val"), strict=True)]
        for split, config in zip(splits, configs, strict=True)
    ]
    sets, size = {}, len(clean)
    for config in configs:
        key = attack_key(config)
        if config.attack is None or config.attack_mode == "online" or key in sets:
            continue
        wanted = np.concatenate([np.concatenate(c) for c, other in zip(chosen, configs, strict=True) if attack_key(other) == key])
        model = surrogate(config, dataset, device, say)
        parts = {"train": attacked_set(config, dataset, "train", wanted, model, say)}
        parts["test"] = attacked_set(config, dataset, "test", np.arange(len(test)), model, say)
        warnings = warnings_of(config, dataset, parts, model)
        folder = attacked_folder(config, dataset, model)
        write_json(folder / "report.json", report(dataset, parts, parts["train"].index, warnings))
        sets[key] = parts, size, from_levels(parts["test"].pixels, device), warnings
        pool.append(from_levels(parts["train"].pixels, device))
        labels.append(labels[0][torch.from_numpy(parts["train"].index).to(device)])
        size += len(pool[-1])
    runs = list(zip(configs, splits, chosen, strict=True))
    index = [[positions(part, picked, sets.get(attack_key(c))) for part, picked in zip(s, p, strict=True)] for c, s, p in runs]
    stacked = [torch.from_numpy(np.stack(part)).to(device) for part in zip(*index, strict=True)]
    found = [sets.get(attack_key(config)) for config in configs]
    return Images(
        train.Data(torch.cat(pool) if len(pool) > 1 else clean, torch.cat(labels), *stacked),
        test,
        test_labels,
        [each and each[2] for each in found],
        [each and report(dataset, each[0], np.concatenate(picked), each[3]) for each, picked in zip(found, chosen, strict=True)],
        [each and (test[:10].cpu(), each[2][:10].cpu()) for each in found],
    )


def attack_key(config):
    """What tells the attacked set of one run of a cohort from another's."""
    attack = (config.attack, config.attack_mode, config.norm, config.epsilon, config.attack_steps, config.attack_step_size)
    return (*attack, config.confidence, config.restarts, config.surrogate, config.surrogate_epochs, config.attack_seed)


def mixed(part, mix_ratio, seed, name):
    """The positions of `part` that are attacked: the first round(mix_ratio * N) of an order drawn from "mix".

    The order depends on the seed alone, so what is attacked at 25 % is also attacked at 50 %.
    """
    order = permutation(len(part), seed, "mix", name).numpy()
    return part[order[: round(mix_ratio * len(part))]]


def positions(part, picked, found):
    """Positions in the pool for the images `part`, those in `picked` replaced by their attacked versions."""
    if not len(picked):
        return part
    parts, offset, *_ = found
    return np.where(np.isin(part, picked), offset + np.searchsorted(parts["train"].index, part), part)


# The report ------------------------------------------------------------------------------------


def report(dataset, parts, picked, warnings=()):
    """Figures of the attacked images a run uses: of the training images `picked` (with validation) and of the test set.

    Accuracies and shares are in percent; L2 and linf are on [0, 1] pixels, over the images that changed; failures
    are images that the surrogate classified correctly and still does.
    """
    result = {}
    for part, whole in parts.items():
        rows = np.isin(whole.index, picked) if part == "train" else np.ones(len(whole.index), bool)
        pixels, clean = whole.pixels[rows], getattr(dataset, f"{part}_images")[whole.index[rows]]
        if not len(pixels):
            continue
        l2, linf = perturbation_norms(pixels, clean)
        changed = linf > 0
        result[part] = {
            "images": len(pixels),
            "surrogate_accuracy_before": 100 * float(whole.before[rows].mean()),
            "surrogate_accuracy_after": 100 * float(whole.after[rows].mean()),
            "changed_percent": 100 * float(changed.mean()),
            "failures": int((whole.before & whole.after)[rows].sum()),
            "seconds": float(whole.seconds[rows].sum()),
        }
        for name, values in (("l2", l2[changed]), ("linf", linf[changed])):
            for kind in ("mean", "median", "max"):
                result[part][f"{kind}_{name}"] = float(getattr(np, kind)(values)) if changed.any() else 0.0
    return result | {"warnings": list(warnings)}


def warnings_of(config, dataset, parts, model):
    """Why figures of this attacked set cannot be trusted, in plain words; after auto-attack's checks (Croce & Hein 2020)."""
    found = []
    settings = attack_settings(config, config.attack, dataset.in_shape)
    device = next(model.parameters()).device
    x, y = to_float(dataset.test_images[:256], device), torch.from_numpy(dataset.test_labels[:256]).to(device)
    gradient = attacks.input_gradient(model, x, lambda logits: attacks.cross_entropy(logits, y))
    zero = 100 * (gradient.flatten(1) == 0).all(1).float().mean().item()
    if zero > 1 and config.attack != "noise":
        found.append(f"the surrogate's gradient is exactly zero for {zero:.0f} % of the images, so an attack by gradients leaves them as they are")
    if config.attack == "pgd":
        starts = attacks.starts_for(config.attack_seed, "test", range(len(x)), x)
        after = [
            attacks.is_correct(model, attacks.pgd(model, x, y, dataclasses.replace(settings, steps=steps), starts), y).float().mean().item()
            for steps in (settings.steps, 2 * settings.steps)
        ]
        if after[1] < after[0] - 0.02:
            found.append(f"twice the steps leave {100 * after[1]:.0f} % correct instead of {100 * after[0]:.0f} %: --attack_steps={settings.steps} is too few")
    drop = 100 * (parts["test"].before.mean() - parts["test"].after.mean())
    if drop < 10 and config.attack != "noise" and settings.epsilon != 0:
        found.append(f"the attack costs its own surrogate only {drop:.1f} points: these images are hardly attacked")
    return found


def transfer_warning(report, clean, transferred, mix_ratio):
    """A warning where a network trained on clean images hardly minds the attacked test set; None where all is well, or it cannot be told."""
    drop = report["test"]["surrogate_accuracy_before"] - report["test"]["surrogate_accuracy_after"]
    if mix_ratio == 0 and drop > 10 and clean - transferred < drop / 4:
        return (
            f"this set barely transfers: it costs the surrogate {drop:.0f} points and the network under study {clean - transferred:.0f}; "
            "training on it is nearly training on clean images (for cw, raise --confidence)"
        )
    return None


def perturbation_norms(pixels, clean):
    """L2 and linf length (N,) of the difference between uint16 levels and uint8 images, on [0, 1] pixels."""
    l2, linf = [], []
    for start in range(0, len(pixels), SHARD):  # in parts: the differences of a whole data set are large
        part = slice(start, start + SHARD)
        difference = (pixels[part].astype(np.float32) - clean[part].astype(np.float32) * (LEVELS // 255)) / LEVELS
        flat = np.abs(difference.reshape(len(difference), -1))
        l2.append(np.sqrt((flat**2).sum(1)))
        linf.append(flat.max(1))
    return np.concatenate(l2), np.concatenate(linf)


def describe_report(config, figures):
    """The report as the lines a run prints."""
    radius = f" (epsilon {config.epsilon:.4g})" if config.epsilon is not None else ""
    lines = [f"attacked with {config.attack} in {config.norm}{radius} against {config.surrogate}:"]
    for part in ("train", "test"):
        if part in figures:
            row = figures[part]
            lines.append(
                f"  {part:5} {row['images']:>7,} images: surrogate {row['surrogate_accuracy_before']:.2f} % -> "
                f"{row['surrogate_accuracy_after']:.2f} %, {row['failures']:,} failures, {row['changed_percent']:.1f} % changed, "
                f"L2 {row['mean_l2']:.3f} mean {row['median_l2']:.3f} median {row['max_l2']:.3f} max, "
                f"linf {row['mean_linf']:.4f} mean {row['max_linf']:.4f} max, {row['seconds']:.0f} s"
            )
    return "\n".join(lines + [f"  warning: {text}" for text in figures["warnings"]])
