"""Every flag, its default and its reason; presets; validation.

    config = resolve({"dataset": "mnist", "attack": "fgsm", "prune_percent": 20.0})

`RunConfig` is what a run is: it is saved whole in the run folder, and the hash in the folder's
name covers every field that changes the result. Nothing here imports torch, so that `--help` and
a mistyped flag answer at once.
"""

import argparse
import dataclasses
import glob
import json
import math
import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import data
from archs import ARCHS
from utils import UserError, choose, hash8


@dataclass(frozen=True)
class Attack:
    """One line of ATTACKS: where the attack is made, and its defaults, (gray, colour) where images differ."""

    make: str  # "module:function" for the data set generator, called as make(model, images, labels, settings, starts)
    batched: str  # the same for R networks at once, called with `predict` in place of the model
    epsilon: tuple  # radius on [0, 1] pixels; (None, None): the attack minimises the distance instead
    steps: int
    step_size: tuple  # on [0, 1] pixels; of cw the learning rate


#    attack    norm (the first is the default)   made by                  for R networks      epsilon          steps  step size
ATTACKS = {
    "fgsm": {"linf": Attack("attacks:deeprobust_fgsm", "attacks:fgsm", (0.3, 8 / 255), 1, (None, None))},
    "pgd": {
        "linf": Attack("attacks:deeprobust_pgd", "attacks:pgd", (0.3, 8 / 255), 40, (0.01, 2 / 255)),
        "l2": Attack("attacks:pgd", "attacks:pgd", (2.0, 0.5), 40, (0.1, 0.05)),
    },
    "cw": {"l2": Attack("attacks:cw", "attacks:cw", (None, None), 100, (0.1, 0.01))},
    "deepfool": {"l2": Attack("attacks:deepfool", "attacks:deepfool", (None, None), 50, (None, None))},
    "ddn": {"l2": Attack("attacks:ddn", "attacks:ddn", (None, None), 100, (None, None))},
    "noise": {"linf": Attack("attacks:noise", "attacks:noise", (0.3, 8 / 255), 1, (None, None))},
}


@dataclass(frozen=True)
class AttackSettings:
    """An attack with all its parameters, as its function takes them; None where it has no such parameter."""

    attack: str
    norm: str
    epsilon: float | None
    steps: int
    step_size: float | None
    confidence: float
    restarts: int

    @property
    def line(self):
        """The attack's line in ATTACKS."""
        return ATTACKS[self.attack][self.norm]


PRUNE_TYPES = ("lt", "reinit", "shuffle", "random", "finetune")
REWINDING = ("lt", "shuffle", "random")  # which go back to theta_0, or with --rewind_epoch to a later epoch
CRITERIA = ("magnitude", "snip", "grasp", "synflow")
INITS = ("glorot_normal", "glorot_uniform", "kaiming_normal", "kaiming_uniform", "orthogonal", "torch")


def number(text):
    """A flag's number: 0.3, 1e-4, or a fraction such as 8/255 (pixel values are on [0, 1])."""
    try:
        return float(Fraction(text.replace(" ", ""))) if "/" in text else float(text)
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number (0.3, 1e-4 and 8/255 are)") from None


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
        raise argparse.ArgumentTypeError("a value is needed after the =")
    return text


def words(text):
    """A name in a list of names."""
    return text


def flag(default, why, kind=None, group="experiment", names=None, result=True):
    """A field of RunConfig that is also a flag. `result=False`: it does not change any number of the run."""
    kind = kind or {bool: bool, int: whole, float: number, tuple: words}.get(type(default), str)
    return field(default=default, metadata={"why": why, "kind": kind, "group": group, "names": names, "result": result})


@dataclass(frozen=True)
class RunConfig:
    """One run, whole. None means: derived from the other flags by `resolve`."""

    prune_type: str = flag(
        "lt",
        "lt rewinds to theta_0 (a ticket). Its controls: reinit draws fresh weights under the same masks; shuffle keeps theta_0 and permutes the "
        "masks within each layer; random keeps theta_0 and removes random weights; finetune prunes alike and goes on with the trained weights",
        names=PRUNE_TYPES,
    )
    arch_type: str = flag("fc1", "the network", names=tuple(ARCHS))
    dataset: str = flag("digits", f"{', '.join(data.DATASETS)}, or NAME for <data_dir>/NAME.npz; NAME_fgsm_attack is NAME with --attack=fgsm")
    prune_percent: float = flag(10.0, "percent of the weights still alive that each round removes")
    prune_iterations: int = flag(35, "rounds, the dense one included: densities run (1-p)^0 ... (1-p)^(n-1)")
    start_iter: int = flag(0, "first round to run: the rounds before it must already be in the run folder", result=False)
    end_iter: int = flag(12, "epochs of training a round")
    seed: int = flag(0, "names every random choice: initialisation, split, order, attacked subset")
    order_seed: int = flag(None, "a seed of its own for the order of the batches (default: --seed)", kind=whole)

    prune_scope: str = flag("layer", "layer: each layer loses its share; global: the smallest weights of the whole net go", "", "pruning", ("layer", "global"))
    output_prune_percent: float = flag(None, "a gentler rate for the output layer, as Frankle & Carbin use (default: prune_percent)", number, "pruning")
    prune_schedule: str = flag(
        "iterative", "iterative: train, prune, rewind, again; oneshot: prune the dense net to each density", "", "pruning", ("iterative", "oneshot")
    )
    criterion: str = flag(
        "magnitude",
        "which weights go: the smallest trained ones, or by SNIP, GraSP or SynFlow at theta_0, before any training",
        "",
        "pruning",
        CRITERIA,
    )
    ticket: str = flag(
        None,
        "FOLDER[@ROUND]: take the masks and theta_0 of that run, round by round or of one round, instead of pruning; a folder pattern that one run "
        "matches will do, and {seed} in it is --seed",
        str,
        "pruning",
        result=False,
    )
    rewind_epoch: int = flag(0, "lt, shuffle and random rewind to the weights after this epoch of round 0 and train from there; 0 is theta_0", group="pruning")

    attack: str = flag(None, "the attack that makes the attacked images (default: the data set's suffix, else none)", str, "attack", tuple(ATTACKS))
    mix_ratio: float = flag(None, "share of the training images that are attacked, 0 to 1 (default: 1 with an attack, else 0)", number, "attack")
    attack_mode: str = flag(
        "static", "static: a fixed set, made against the surrogate; online: against the net being trained", "", "attack", ("static", "online")
    )
    norm: str = flag(None, "norm of the attack (default: its first in the table below)", str, "attack", ("linf", "l2"))
    epsilon: float = flag(None, "radius of the attack on [0, 1] pixels, such as 0.3 or 8/255 (default: the table below)", number, "attack")
    attack_steps: int = flag(None, "steps of an iterative attack (default: the table below)", whole, "attack")
    attack_step_size: float = flag(None, "length of one step on [0, 1] pixels (default: the table below)", number, "attack")
    confidence: float = flag(0.0, "kappa of cw: by how much the wrong logit must lead; more transfers better", group="attack")
    restarts: int = flag(1, "random starts of pgd; an image keeps its first that fools", group="attack")
    eval_attacks: tuple = flag(("fgsm",), "attacks on each pruned net, white-box, every round", None, "attack", tuple(ATTACKS))
    eval_examples: int = flag(1000, "test images that iterative attacks are tried on, every round (fgsm and noise: all of them)", group="attack")
    attack_seed: int = flag(0, "seeds the surrogate and the attack's random starts; runs that share it share one attacked data set", group="attack")
    surrogate: str = flag(None, "network the attacked images are made against (default: DeepRobust's CNN, for 32x32 its ResNet18)", str, "attack", tuple(ARCHS))
    surrogate_epochs: int = flag(None, "epochs of its training (default: 3 passes or 300 steps; 15 passes for colour images)", whole, "attack")

    optimizer: str = flag("adam", "update rule", group="training", names=("adam", "sgd"))
    lr: float = flag(1.2e-3, "learning rate, the same in every round", group="training")
    momentum: float = flag(0.9, "of SGD", group="training")
    weight_decay: float = flag(0.0, "L2 penalty; pruned weights stay exactly 0 under it", group="training")
    warmup_steps: int = flag(0, "steps over which the learning rate rises linearly from 0 (Frankle: 10000 for VGG and ResNet)", group="training")
    lr_drops: str = flag("", "epochs after which the learning rate falls to a tenth, such as 80,120", group="training")
    batch_size: int = flag(60, "images a step", group="training")
    precision: str = flag(
        "fp32",
        "of training; bf16 is 1.6 to 3.7 times as fast for convolutions on CPUs with AMX; evaluation stays fp32",
        group="training",
        names=("fp32", "tf32", "bf16"),
    )
    init: str = flag("glorot_normal", "distribution of the initial weights (torch: each layer's own default)", group="training", names=INITS)
    val_fraction: float = flag(1 / 12, "share of the training images held out to select the best epoch (5,000 of MNIST's 60,000)", group="training")
    augment: bool = flag(False, "random crops (padding 4) and horizontal flips of the training images", group="training")
    valid_freq: int = flag(1, "validate each so many epochs", group="training")
    valid_steps: int = flag(0, "validate each so many steps instead (Frankle: 100); 0 goes by --valid_freq", group="training")

    device: str = flag("auto", "where to compute", group="machine", names=("auto", "cpu", "cuda"), result=False)
    gpu: int = flag(None, "which GPU", whole, "machine", result=False)
    threads: int = flag(0, "CPU threads; 0: one for small nets, where more are slower, and all cores for convolutions", group="machine", result=False)
    data_dir: str = flag("data", "where data sets are found or downloaded to", group="machine", result=False)
    cache_dir: str = flag("cache", "where surrogates and attacked images are kept", group="machine", result=False)
    runs_dir: str = flag("runs", "where run folders go", group="machine", result=False)
    cohort_size: int = flag(0, "runs that train together; 0: what fits the device and helps (one on a CPU)", group="machine", result=False)
    engine: str = flag("local", "what trains the runs of a list: processes on this machine, or a Ray cluster", "", "machine", ("local", "ray"), result=False)
    workers: int = flag(0, "local: processes that share the runs; 0: one a GPU, or on a CPU one a core, 16 at most", group="machine", result=False)
    ray_address: str = flag("", "ray: the cluster's address, such as auto; without it, one is started on this machine", group="machine", result=False)
    gpu_share: float = flag(1.0, "ray: the share of a GPU that a cohort asks for; 0.5 puts two on each", group="machine", result=False)
    save_weights: str = flag("best", "which trained weights to keep each round", group="machine", names=("best", "last", "none"), result=False)
    save_freq: int = flag(
        1,
        "keep where training is each so many epochs, if saving takes no more than a twentieth of the time; a kill loses what came after",
        group="machine",
        result=False,
    )
    print_freq: int = flag(1, "refresh the progress bar each so many epochs", group="machine", result=False)

    data_id: str = flag("", "not a flag: which file an .npz data set is, so that another one of its name is another run")
    ticket_arm: str = flag("", "not a flag: what run --ticket is, its seed left out, and the round")
    ticket_seed: int = flag(None, "not a flag: the seed of that run", whole)

    def flags(self):
        """Every field as a plain dict, as config.json keeps it."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, saved):
        """The RunConfig of a saved run's flags, whatever version wrote them."""
        saved = with_defaults(saved)
        return cls(**{item.name: saved[item.name] for item in dataclasses.fields(cls)})

    def results(self):
        """The fields that change the result: what the folder's hash covers and a resumed run must match."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata["result"]}

    @property
    def run_name(self):
        """<dataset>-<arch>-<attack><mix>-<prune_type>-s<seed>-<hash8>: readable, and no two runs share it."""
        return f"{arm_name(self)}-s{self.seed}-{hash8(self.results())}"


def arm_name(config):
    """<dataset>-<arch>-<attack><mix>-<prune_type>, and what masks it has if they are not its own magnitudes'."""
    images = f"{config.attack}{config.mix_ratio:g}" if config.attack else "clean"
    masks = "_ticket" if config.ticket else "" if config.criterion == "magnitude" else f"_{config.criterion}"
    return f"{config.dataset}-{config.arch_type}-{images}-{config.prune_type}{masks}"


PRESETS = {
    # Frankle & Carbin 2019, Lenet-300-100: 50k iterations of 60 images are 55 epochs of 55k
    "frankle": dict(
        arch_type="fc1", optimizer="adam", lr=1.2e-3, batch_size=60, init="glorot_normal", val_fraction=1 / 12,
        prune_percent=20.0, output_prune_percent=10.0, prune_iterations=21, end_iter=55, valid_steps=100,
    ),
    # Cosentino 2019: half clean, half adversarial, made against the net being trained; 30k iterations of 60 images are 36 epochs of 50k
    "cosentino": dict(
        arch_type="fc1_nobias", optimizer="adam", lr=1.2e-3, batch_size=60, val_fraction=1 / 6,
        prune_percent=20.0, output_prune_percent=10.0, prune_iterations=21, end_iter=36,
        attack="fgsm", attack_mode="online", mix_ratio=0.5, epsilon=0.3, attack_steps={"pgd": 10}, attack_step_size={"pgd": 0.05},
    ),
    # the two scripts this program rewrites
    "original": dict(
        optimizer="sgd", lr=1.2e-3, momentum=0.5, weight_decay=1e-4, batch_size=60, prune_percent=10.0,
        prune_iterations=35, end_iter=100, epsilon={"fgsm": 0.2, "pgd": 0.1},
    ),
}  # fmt: skip


def saved_config(folder):
    """What config.json of a run folder holds, with "flags" and "provenance"; UserError if it is no run folder."""
    path = Path(folder) / "config.json"
    try:
        saved = {"provenance": {}} | json.loads(path.read_text(encoding="utf-8"))
        resumed = saved.get("resumed", [])
        if not isinstance(saved["flags"], dict) or not isinstance(resumed, list):
            raise TypeError("no flags in it")
        if not all(isinstance(each, dict) and isinstance(each.get("versions", {}), dict) for each in (saved["provenance"], *resumed)):
            raise TypeError("its provenance is damaged")
        for item in dataclasses.fields(RunConfig):
            if not _is_of(item, saved["flags"].get(item.name, item.default)):
                raise ValueError(f"{item.name} is {saved['flags'][item.name]!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{folder} is not a run folder: {path.name} cannot be read ({error})") from None
    return saved


def _is_of(item, value):
    """Whether a saved value is one that this field of RunConfig can have."""
    kind, names = item.metadata["kind"], item.metadata["names"]
    if value is None:
        return item.default is None
    if kind is words:
        return isinstance(value, list | tuple) and all(name in names for name in value)
    if kind is whole:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    if kind is number:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, bool if kind is bool else str) and (not names or value in names)


def with_defaults(flags):
    """The flags of a saved run, those that it was too early to have at their defaults."""
    flags = {item.name: item.default for item in dataclasses.fields(RunConfig)} | flags
    return flags | {"eval_attacks": tuple(flags["eval_attacks"])}


def must_match(config, saved, folder):
    """Raise UserError if `config` would give other results than the flags `saved` in `folder`."""
    new = json.loads(json.dumps(config.results()))  # as config.json keeps them: a tuple is a list there
    differing = [f"{key} is {saved.get(key)!r} there and {new[key]!r} here" for key in new if saved.get(key) != new[key]]
    if differing:
        raise UserError(f"{folder} belongs to another run: {'; '.join(differing)}")


def resolve(given):
    """Fill in what follows from the flags in `given` (a dict), check everything, return a RunConfig."""
    given = dict(given)
    known = sorted(f.name for f in dataclasses.fields(RunConfig))
    for name in given:
        choose("flag", name, known)
    _resolve_mix(given)
    _resolve_ticket(given)
    config = RunConfig(**{key: None if isinstance(value, dict) else value for key, value in given.items()})
    config = dataclasses.replace(config, eval_attacks=tuple(config.eval_attacks))
    for item in dataclasses.fields(RunConfig):
        value = getattr(config, item.name)
        for name in value if isinstance(value, tuple) else [value]:
            if item.metadata["names"] and name is not None:
                choose(item.name, name, list(item.metadata["names"]))
    in_shape, _ = data.describe(config.dataset, config.data_dir)
    derived = _attack_defaults(config, given, in_shape)
    derived["output_prune_percent"] = _first(config.output_prune_percent, config.prune_percent)
    derived["data_id"] = data.identity(config.dataset, config.data_dir)
    derived["order_seed"] = _first(config.order_seed, config.seed)
    config = dataclasses.replace(config, **derived)
    _check(config)
    return config


def _resolve_mix(given):
    if given.get("mix_ratio") is None:
        given["mix_ratio"] = 1.0 if given.get("attack") else 0.0
    if not 0 <= given["mix_ratio"] <= 1:
        raise UserError(f"--mix_ratio={given['mix_ratio']:g}: a share between 0 and 1 is needed (--attack_rate is in percent)")
    if given["mix_ratio"] > 0 and not given.get("attack"):
        raise UserError(f"--mix_ratio={given['mix_ratio']:g} needs an attack: add --attack=fgsm or --dataset=..._fgsm_attack")


def ticket_place(ticket):
    """(folder, round or None) of FOLDER[@ROUND]; an @ that no number follows is the folder's."""
    folder, at = re.fullmatch(r"(.+?)(?:@([0-9]{1,9}))?", ticket).groups()
    return folder, None if at is None else int(at)


def _resolve_ticket(given):
    """The run that --ticket names: its place, who it is, and how it was pruned, which these flags take over."""
    if not given.get("ticket"):
        return
    pattern, at = ticket_place(given["ticket"].replace("{seed}", str(given.get("seed", 0))))
    here = f"--ticket={given['ticket']}"
    found = [pattern] if (Path(pattern) / "config.json").exists() else sorted(glob.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{here}: {len(found) or 'no'} run folders match {pattern} where one is needed" + (f", such as {found[0]}" if found else ""))
    folder = Path(found[0])
    source = RunConfig.of(saved_config(folder)["flags"])
    rounds = len(list((folder / "masks").glob("round_*.safetensors")))
    if at is not None and at >= rounds:
        raise UserError(f"{here}: {folder} has rounds 0 to {rounds - 1}")
    rounds = rounds if at is None else 1
    wanted = given.setdefault("prune_iterations", rounds)
    if wanted > rounds:
        raise UserError(f"--prune_iterations={wanted}: {here} has {'one round' if rounds == 1 else f'{rounds} rounds'}")
    if given.get("arch_type", RunConfig.arch_type) != source.arch_type:
        raise UserError(f"{here} is a ticket of {source.arch_type}: add --arch_type={source.arch_type}")
    for name in ("prune_percent", "output_prune_percent", "prune_scope", "prune_schedule", "criterion"):
        if given.get(name, getattr(source, name)) != getattr(source, name):
            raise UserError(f"--{name}={given[name]}: the masks are those of {here}, where it is {getattr(source, name)}; leave it out")
        given[name] = getattr(source, name)
    arm = {name: value for name, value in source.results().items() if name not in ("seed", "order_seed", "ticket_seed")}
    suffix = "" if at is None else f"@{at}"
    given |= {"ticket": f"{folder}{suffix}", "ticket_seed": source.seed, "ticket_arm": f"{arm_name(source)}-{hash8(arm)}{suffix}"}


def _attack_defaults(config, given, in_shape):
    """The attack's parameters for these images; a preset may name a value per attack.

    Without an attack, they are FGSM's: the radius at which the pruned nets are tested.
    """
    attack, colour = config.attack or "fgsm", in_shape[0] > 1
    norm = config.norm or next(iter(ATTACKS[attack]))
    if norm not in ATTACKS[attack]:
        raise UserError(f"--norm={norm}: {attack} has {' and '.join(ATTACKS[attack])}")
    line = ATTACKS[attack][norm]
    table = {"epsilon": line.epsilon[colour], "attack_steps": line.steps, "attack_step_size": line.step_size[colour]}
    for key, default in table.items():
        value = given.get(key)
        value = value.get(attack) if isinstance(value, dict) else value
        if value is not None and default is None:
            raise UserError(f"--{key}={value:g}: {attack} in {norm} has no {key}; see the table in --help")
        table[key] = _first(value, default)
    table["norm"] = norm
    if config.attack_mode == "online" and not config.attack:
        raise UserError("--attack_mode=online needs an attack: add --attack=fgsm or --attack=pgd")
    if config.attack and config.attack_mode == "static":
        # DeepRobust's two networks fix their image size: the CNN is made for it, the ResNet18 for 32x32
        table["surrogate"] = config.surrogate or ("deeprobust_resnet18" if in_shape[1:] == (32, 32) else "deeprobust_cnn")
        table["surrogate_epochs"] = _first(config.surrogate_epochs, 15 if colour else 0)
    return table


def attack_settings(config, attack, in_shape):
    """AttackSettings of the run's own attack, or of another at its defaults; within the run's radius where the norms agree."""
    if attack == (config.attack or "fgsm"):
        norm = config.norm
        own = (config.epsilon, config.attack_steps, config.attack_step_size)
    else:
        norm, colour = next(iter(ATTACKS[attack])), in_shape[0] > 1
        line = ATTACKS[attack][norm]
        epsilon = config.epsilon if config.norm == norm and config.epsilon is not None and line.epsilon[colour] is not None else line.epsilon[colour]
        own = (epsilon, line.steps, line.step_size[colour])
    return AttackSettings(attack, norm, *own, config.confidence, config.restarts)


def _check(config):
    """Raise UserError for the first flag whose value makes no sense."""
    drops = re.fullmatch(r"([0-9]{1,9}(,[0-9]{1,9})*)?", config.lr_drops)
    radius = "from 0 to 1 (pixels are on [0, 1]; 8/255 is accepted)" if config.norm == "linf" else "from 0 to 100"
    rules = [
        (0 < config.prune_percent < 100, "prune_percent", "more than 0 and less than 100"),
        (0 <= config.output_prune_percent < 100, "output_prune_percent", "at least 0 and less than 100"),
        (config.prune_iterations >= 1, "prune_iterations", "at least 1 (the dense round)"),
        (0 <= config.start_iter < max(config.prune_iterations, 1), "start_iter", "0 or more and less than prune_iterations"),
        (config.end_iter >= 1, "end_iter", "at least 1 epoch"),
        (config.seed >= 0 and config.order_seed >= 0 and config.attack_seed >= 0, "seed", "0 or more (as order_seed, attack_seed)"),
        (0 <= config.rewind_epoch < max(config.end_iter, 1), "rewind_epoch", "0 or more and less than end_iter"),
        (config.epsilon is None or 0 <= config.epsilon <= (1 if config.norm == "linf" else 100), "epsilon", radius),
        (config.attack_steps >= 1, "attack_steps", "at least 1"),
        (config.attack_step_size is None or 0 < config.attack_step_size < math.inf, "attack_step_size", "more than 0"),
        (0 <= config.confidence < math.inf, "confidence", "0 or more"),
        (config.restarts >= 1, "restarts", "at least 1"),
        (config.eval_examples >= 1, "eval_examples", "at least 1"),
        (len(set(config.eval_attacks)) == len(config.eval_attacks), "eval_attacks", "each attack once"),
        (config.surrogate_epochs is None or config.surrogate_epochs >= 0, "surrogate_epochs", "0 (chosen by size) or more"),
        (0 < config.lr < math.inf, "lr", "more than 0"),
        (0 <= config.momentum < 1, "momentum", "at least 0 and less than 1"),
        (0 <= config.weight_decay < math.inf, "weight_decay", "0 or more"),
        (config.warmup_steps >= 0, "warmup_steps", "0 or more"),
        (drops is not None, "lr_drops", "epochs separated by commas, such as 80,120"),
        (config.batch_size >= 1, "batch_size", "at least 1"),
        (0 < config.val_fraction < 1, "val_fraction", "more than 0 and less than 1"),
        (config.valid_freq >= 1, "valid_freq", "at least 1"),
        (config.valid_steps >= 0, "valid_steps", "0 or more"),
        (config.print_freq >= 1, "print_freq", "at least 1"),
        (config.save_freq >= 1, "save_freq", "at least 1"),
        (0 <= config.threads <= max(os.cpu_count() or 1, 64), "threads", "from 0 (chosen by the network) to the number of cores"),
        (config.cohort_size >= 0, "cohort_size", "0 (chosen by the device) or more"),
        (0 <= config.workers <= 1024, "workers", "from 0 (chosen by the device) to 1024"),
        (config.gpu is None or config.gpu >= 0, "gpu", "0 or more"),
        (0 < config.gpu_share <= 1, "gpu_share", "more than 0 and at most 1"),
    ]
    for name, value in config.flags().items():
        if isinstance(value, str) and not value.isprintable():
            raise UserError(f"--{name}={value!r}: printable text (UTF-8) is needed")
    for holds, name, right in rules:
        if not holds:
            raise UserError(f"--{name}={show(getattr(config, name))}: {right} is needed")
    if config.rewind_epoch and (config.prune_type not in REWINDING or config.ticket):
        which = "--ticket rewinds to what its run did" if config.ticket else f"{config.prune_type} rewinds to nothing"
        raise UserError(f"--rewind_epoch={config.rewind_epoch} is for --prune_type={'|'.join(REWINDING)}: {which}")
    if config.prune_type in ("random", "finetune") and (config.ticket or config.criterion != "magnitude"):
        own = f"--ticket={config.ticket}" if config.ticket else f"--criterion={config.criterion}"
        right = "shuffle permutes its masks" if config.prune_type == "random" else "it needs trained weights to go on with"
        raise UserError(f"--prune_type={config.prune_type} makes masks of its own and cannot take those of {own}: {right}")


def _first(value, default):
    return default if value is None else value


def show(value):
    return f"{value:.6g}" if isinstance(value, float) else value
