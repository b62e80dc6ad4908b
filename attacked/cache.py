"""The cache: the surrogate that data sets are attacked against, and every attacked image.

Both are made once. An entry's name covers everything that made it, the attack's code included, and
a larger --mix_ratio attacks only what is missing.
"""

import ast
import contextlib
import functools
import importlib.metadata
import inspect
import textwrap
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

import archs
import attacks
import data
from attacked.levels import LEVELS, from_levels, settle, to_float
from attacked.progress import Progress
from attacked.training import TRAINING, train_surrogate
from config import attack_settings
from engine.machine import set_threads
from engine.signals import Interrupted, stop
from store.files import load_tensors, misfit, of_the_system, save_tensors, write_atomic, write_json
from utils import UserError, fingerprint, hash8, one_line, stream

VERSION = 1  # of how attacked images are made here; a change that changes them needs another
BATCH = 64  # fastest on a CPU, where most sets are made; a GPU takes a whole file
SMALL_NETS_BATCH = 512  # of nets without convolutions: CW against fc1 takes two thirds of the time
SHARD, SHARD_SECONDS = 4096, 60  # images a file, or as many as take so long: what a kill can lose


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
        why = f"cannot be written ({error.strerror}): name a folder that can"
        raise UserError(f"--cache_dir: {folder} {why}") from error
    try:
        yield
    finally:
        lock.release()


# The surrogate ---------------------------------------------------------------------------------


def surrogate(config, dataset, device, say=print):
    """The network the data set is attacked against, in eval mode with frozen weights.

    It trains on clean images with Adam 1e-3 and batches of 128, on a split of its own
    (--attack_seed), and keeps its best epoch on the held-out part (attacked/training.py).
    The CPU threads are set for it, whatever the runs that want it: their count moves its weights.
    """
    set_threads(config.threads, small=_is_small(config, dataset))
    net, recipe = untrained_surrogate(config, dataset), surrogate_recipe(config, dataset)
    folder = surrogate_folder(config, recipe)
    path, partial = folder / "weights.safetensors", folder / "partial.pt"
    with locked(folder):
        state = _load_surrogate(path, net, say)
        if state is None:
            epochs = recipe["epochs"]
            on = f"on clean {dataset.name} ({epochs} epoch{'s' if epochs > 1 else ''})"
            say(f"training the surrogate {config.surrogate} {on}")
            write_json(folder / "recipe.json", recipe)
            own = (partial, hash8(recipe))
            state = train_surrogate(net, config, dataset, epochs, device, *own, say)
            save_tensors(path, state)
            partial.unlink(missing_ok=True)
    net.load_state_dict(state)
    return ready(net, device)


def _is_small(config, dataset):
    return archs.is_small(config.surrogate, dataset.in_shape, dataset.num_classes)


def kept_surrogate(config, dataset, device):
    """The surrogate as the cache has it, or None; nothing is trained, and nothing is removed."""
    net = untrained_surrogate(config, dataset)
    folder = surrogate_folder(config, surrogate_recipe(config, dataset))
    state = _state_of(folder / "weights.safetensors", net)
    if state is None:
        return None
    net.load_state_dict(state)
    return ready(net, device)


def untrained_surrogate(config, dataset):
    """The network that becomes the surrogate, with the weights that its training begins with."""
    stats = data.channel_stats(dataset.train_images)
    seed = stream(config.attack_number, "surrogate")
    size = (dataset.in_shape, dataset.num_classes)
    return archs.build(config.surrogate, *size, stats, "torch", seed)


def ready(net, device):
    """The network as data sets are attacked against it: frozen, in eval mode, on the device."""
    # convolutions are a sixth to a third faster so
    net = net.to(device, memory_format=torch.channels_last)
    return net.eval().requires_grad_(False)


def surrogate_recipe(config, dataset):
    """Everything that makes a surrogate what it is."""
    return {
        "dataset": dataset.name,
        "images": fingerprint(dataset.train_images, dataset.train_labels),
        "arch": config.surrogate,
        "epochs": surrogate_epochs(config, dataset),
        "seed": config.attack_number,
        "training": TRAINING,
    }


def surrogate_folder(config, recipe):
    """Where the surrogate of a recipe is kept."""
    name = f"{recipe['dataset']}-{recipe['arch']}"
    return cache_folder(config.cache_dir, "surrogates", name, recipe)


def surrogate_epochs(config, dataset):
    """--surrogate_epochs; for 0 three passes, more for a small data set: 300 batches of 128.

    Fewer make images that other networks mind more, not only sooner ones: docs/attacks.md.
    """
    return config.surrogate_epochs or max(3, -(-300 * 128 // len(dataset.train_labels)))


def _load_surrogate(path, net, say):
    if not path.exists():
        return None
    state = _state_of(path, net)
    if state is None:
        say(f"note: {path} is damaged and is made again")
        path.unlink()
    return state


def _state_of(path, net):
    """The tensors of a file that fit a network; None if it is not there, damaged or another's."""
    try:
        state = load_tensors(path)
    except UserError:
        return None
    return None if misfit(state, net.state_dict()) else state


# Attacked images -------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttackedSet:
    """Attacked versions of some images of a data set, as the cache keeps them.

    index: (N,) positions in the data set's part, ascending; pixels: (N, C, H, W) uint16 levels of
    1/65535; before, after: (N,) bool, whether the surrogate classified the clean and the attacked
    image correctly; seconds: (N,) that each took.
    """

    index: np.ndarray
    pixels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    seconds: np.ndarray


def attacked_set(config, dataset, part, wanted, model, say=print):
    """The AttackedSet of the images `wanted` (positions) of `part` ("train" or "test").

    Only missing ones are attacked.
    """
    folder, wanted = attacked_folder(config, dataset, model), np.unique(wanted)
    with locked(folder):
        have = _read_shards(folder, part, dataset.in_shape, say)
        missing = np.setdiff1d(wanted, have.index)
        if len(missing):
            write_json(folder / "recipe.json", attack_recipe(config, dataset, model))
            cached = f"({len(wanted) - len(missing):,} were cached)"
            what = f"{len(missing):,} {part} images of {dataset.name}"
            say(f"attacking {what} with {config.test_attack} {cached}")
            _attack_missing(config, folder, part, dataset, missing, model, say)
            have = _read_shards(folder, part, dataset.in_shape, say)
    rows = np.searchsorted(have.index, wanted)
    picked = (have.pixels, have.before, have.after, have.seconds)
    return AttackedSet(wanted, *(values[rows] for values in picked))


def attacked_folder(config, dataset, model):
    """Where the attacked images of these flags are kept."""
    name = f"{dataset.name}-{config.test_attack}-{config.surrogate}"
    recipe = attack_recipe(config, dataset, model)
    return cache_folder(config.cache_dir, "attacked", name, recipe)


def cached_positions(folder, part):
    """The positions of `part` whose attacked images a folder has; nothing is removed or written.

    A shard that cannot be read counts as none.
    """
    found = [np.empty(0, np.int64)]
    for path in folder.glob(f"{part}-*.npz"):
        # zipfile, zlib and numpy each have their own type of error
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as file:
            found.append(file["index"])
    return np.unique(np.concatenate(found))


def seconds_an_image(config, dataset, model):
    """Seconds that the attack of these flags takes for an image: one batch is attacked, and
    dropped. Of attacks without a fixed count of steps a small one, where a net has convolutions.

    What the model says is taken for the truth: an attack of least distance leaves alone what is
    classified wrongly already, and an untrained model does so with nearly all.
    """
    settings = attack_settings(config, config.attack, dataset.in_shape[0] > 1)
    size = batch_size(config, dataset, model)
    few = settings.entry().minimal() and size == BATCH
    index = np.arange(min(len(dataset.test_labels), 8 if few else BATCH))
    clean = to_float(dataset.test_images[index], next(model.parameters()).device)
    with torch.no_grad():
        labels = model(clean).argmax(-1).cpu().numpy()
    dataset = replace(dataset, test_labels=labels)
    made = functools.partial(_attack_batch, config.attack_number, settings, "test", dataset)
    if not settings.entry().minimal():
        made(index[:2], model)  # kernels set themselves up
    began = time.perf_counter()
    made(index, model)
    return (time.perf_counter() - began) / len(index)


def batch_size(config, dataset, model):
    """How many images are attacked at once: what is fastest against this surrogate."""
    if next(model.parameters()).device.type != "cpu":
        return SHARD
    return SMALL_NETS_BATCH if _is_small(config, dataset) else BATCH


def attack_recipe(config, dataset, model):
    """Everything that makes an attacked image what it is."""
    settings = attack_settings(config, config.attack, dataset.in_shape[0] > 1)
    return {
        "dataset": dataset.name,
        "images": dataset.fingerprint,
        "surrogate": config.surrogate,
        "surrogate_weights": fingerprint(*(v.cpu() for v in model.state_dict().values())),
        "attack": settings.attack,
        "norm": settings.norm,
        **dict(settings.values),
        "seed": config.attack_number,
        "levels": LEVELS,
        "version": VERSION,
        "code": code_of(maker(settings)),
        "deeprobust": importlib.metadata.version("deeprobust"),
    }


def maker(settings):
    """The function that makes data sets with these settings."""
    return settings.entry().dataset or settings.entry().make


def code_of(function):
    """A hash of a function's code and of all that it calls in its own module.

    Comments, docstrings and layout do not count, so that only a change of the code makes attacked
    images anew.
    """
    parts, waiting = {}, [function]
    while waiting:
        one = waiting.pop()
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        if one is function:  # called otherwise it does the same
            tree.body[0].name = "attack"
        parts[one.__qualname__ if one is not function else "attack"] = ast.unparse(tree)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for name in sorted(names & one.__globals__.keys()):
            value = one.__globals__[name]
            if isinstance(value, int | float | str):
                parts[name] = repr(value)
            elif inspect.isfunction(value) and value.__module__ == function.__module__:
                waiting += [value] if value.__qualname__ not in parts else []
    return hash8(parts)


def _attack_missing(config, folder, part, dataset, missing, model, say=print):
    """Attack these images in batches and write them in shards, each of which appears whole.

    A signal is obeyed after a batch and loses nothing, a kill loses a shard.
    """
    settings = attack_settings(config, config.attack, dataset.in_shape[0] > 1)
    size = batch_size(config, dataset, model)
    made, began = [], time.perf_counter()
    title = f"attacking {part} images"
    with Progress(title, len(missing), "images", say) as progress, stop.deferring():
        for start in range(0, len(missing), size):
            index = missing[start : start + size]
            made.append(_attack_batch(config.attack_number, settings, part, dataset, index, model))
            progress.reach(start + len(index))
            seconds, whole = time.perf_counter() - began, size * len(made) >= SHARD
            if whole or seconds > SHARD_SECONDS or stop.signal or progress.done == len(missing):
                _write_shard(folder, part, made, seconds)
                made, began = [], time.perf_counter()
            if stop.signal:
                raise Interrupted(stop.signal)


def _attack_batch(seed, settings, part, dataset, index, model):
    """(index, levels, before, after) of the images at these positions, as AttackedSet has them."""
    images, device = getattr(dataset, f"{part}_images")[index], next(model.parameters()).device
    clean = to_float(images, device)
    truth = torch.from_numpy(getattr(dataset, f"{part}_labels")[index]).to(device)
    starts = attacks.starts_for(seed, part, index, clean)
    with first_pass(model) as first:
        attacked = maker(settings)(model, clean, truth, settings, starts)
    attacks.check_made(settings, clean, attacked)
    levels = settle(model, images, truth, attacked, keep_within=not settings.entry().minimal())
    if first and torch.equal(first[0], clean):  # as attacks begin, a fifth of the work of FGSM
        before = first[1].argmax(-1) == truth
    else:
        before = attacks.is_correct(model, clean, truth)
    after = attacks.is_correct(model, from_levels(levels, device), truth)
    return index, levels, before.cpu().numpy(), after.cpu().numpy()


@contextlib.contextmanager
def first_pass(model):
    """A list that gets the images and the logits of the model's first pass within this block."""
    first = []

    def keep(model, given, logits):
        if not first:
            first.extend((given[0].detach(), logits.detach()))

    handle = model.register_forward_hook(keep)
    try:
        yield first
    finally:
        handle.remove()


def _write_shard(folder, part, made, seconds):
    """Write what batches made (_attack_batch) in so many seconds."""
    columns = map(np.concatenate, zip(*made, strict=True))
    arrays = dict(zip(("index", "pixels", "before", "after"), columns, strict=True))
    count = len(arrays["index"])
    arrays["seconds"] = np.full(count, seconds / count, np.float32)
    path = folder / f"{part}-{fingerprint(arrays['index'])}.npz"
    write_atomic(path, lambda name: np.savez_compressed(name, **arrays))


def _read_shards(folder, part, shape, say):
    """Every cached image of `part`; a shard that cannot be read is removed, to be made again."""
    kinds = {"index": np.int64, "pixels": np.uint16, "before": bool, "after": bool}
    kinds["seconds"] = np.float32
    empty = [np.empty((0, *shape) if n == "pixels" else 0, kind) for n, kind in kinds.items()]
    shards = [empty]
    for path in sorted(folder.glob(f"{part}-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in kinds}
            count = len(arrays["index"])
            whole = all(a.dtype == kinds[n] and len(a) == count for n, a in arrays.items())
            whole = whole and arrays["pixels"].shape[1:] == tuple(shape)
            if not whole or arrays["index"].min(initial=0) < 0:
                raise ValueError("its arrays are not an attacked set's")
            shards.append(list(arrays.values()))
        except Exception as error:  # zipfile, zlib and numpy each have their own type
            if of_the_system(error):
                why = one_line(error) or type(error).__name__
                raise UserError(f"{path} cannot be read ({why})") from error
            say(f"note: {path} is damaged ({error}) and is made again")
            path.unlink()
    index, *others = map(np.concatenate, zip(*shards, strict=True))
    index, rows = np.unique(index, return_index=True)
    return AttackedSet(index, *(values[rows] for values in others))
