"""Every flag of a run, its default and its reason; presets; what follows from what.

    config = resolve({"dataset": "mnist", "attack": "fgsm", "prune_percent": 20.0}, (1, 28, 28))

`RunConfig` is what a run is: it is saved whole in the run folder, and the hash in the folder's name
covers every flag that changes the result. The attacks' parameters are declared in attacks.py; they
are flags like the others. Nothing here imports torch or reads a file, so that `--help` and a
mistyped flag answer at once.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from archs import ARCHS, INITS
from attacks import ATTACKS, PARAMETERS, AttackSettings, Making, tested_by
from data import DATASETS
from pruning import CRITERIA, PRUNE_TYPES
from utils import UserError, choose, hash8, number, seed_number, show, whole, words

REGISTRIES = (ARCHS, ATTACKS, CRITERIA, DATASETS, PARAMETERS, PRUNE_TYPES)
TRADES_BETA = 6.0  # of the paper's main experiments
NO_TICKET = {"ticket": None, "ticket_arm": "", "ticket_seed": None, "ticket_draw": ""}
SEEDS = ("seed", "order_seed", "ticket_seed", "ticket_draw", "reinit_draw")


@dataclass(frozen=True)
class Flag:
    """A flag: what it is, what it may be, and what hangs on it."""

    name: str
    default: object
    why: str
    kind: Callable  # of its text: number, whole, seed_number, words, bool, str
    group: str = "experiment"
    names: object = None  # the names it may have, if they are known; a registry may grow
    valid: Callable | None = None
    right: str = ""  # what `valid` wants, in words
    result: bool = True  # it changes the numbers of the run
    own: bool = False  # the runs of a cohort may differ in it
    late: bool = False  # left out of the hash at its default: older runs keep their names
    hidden: bool = False  # derived, and no flag of the command line


def flag(default, why, group="experiment", kind=None, **more):
    """A field of RunConfig that is also a flag; `more` as Flag has it."""
    kinds = {bool: bool, int: whole, float: number, tuple: words}
    kind = kind or kinds.get(type(default), str)
    return field(default=default, metadata={"why": why, "kind": kind, "group": group} | more)


def at_least(least):
    """The `valid` and `right` of a flag that counts."""
    return {"valid": lambda value: value >= least, "right": f"{least} or more"}


@dataclass(frozen=True)
class RunConfig:
    """One run, whole. None means: derived from the other flags by `resolve`."""

    prune_type: str = flag(
        "lt", "what each round starts from; see the table below", names=PRUNE_TYPES, own=True
    )
    arch_type: str = flag(
        "fc1",
        "the network; lenet5 is what the older script calls so: 3.3 million weights, not LeCun's",
        names=ARCHS,
    )
    dataset: str = flag(
        "digits",
        f"{', '.join(DATASETS)}, or NAME for <data_dir>/NAME.npz; NAME_fgsm_attack is NAME with "
        "--attack=fgsm",
    )
    prune_percent: float = flag(
        10.0,
        "percent of the weights still alive that each round removes",
        own=True,
        valid=lambda value: 0 < value < 100,
        right="more than 0 and less than 100",
    )
    prune_iterations: int = flag(
        35,
        "rounds, the dense one included: densities run (1-p)^0 ... (1-p)^(n-1)",
        valid=lambda value: value >= 1,
        right="at least 1 (the dense round)",
    )
    start_iter: int = flag(
        0, "first round to run: the rounds before it must be in the run folder", result=False
    )
    end_iter: int = flag(
        12, "epochs of training a round", valid=lambda value: value >= 1, right="at least 1 epoch"
    )
    seed: int = flag(
        0,
        "names every random choice: initialisation, split, order, attacked subset",
        own=True,
        **at_least(0),
    )
    order_seed: int = flag(
        None,
        "a seed of its own for the order of the batches (default: --seed)",
        kind=whole,
        own=True,
        **at_least(0),
    )

    prune_scope: str = flag(
        None,
        "layer: each layer loses its share; global: the smallest weights of the whole net go "
        "(default: layer; global for snip, grasp and synflow, as their papers have it)",
        "pruning",
        str,
        names=("layer", "global"),
        own=True,
    )
    output_prune_percent: float = flag(
        None,
        "a gentler rate for the output layer, as Frankle & Carbin use (default: prune_percent)",
        "pruning",
        number,
        own=True,
        valid=lambda value: 0 <= value < 100,
        right="at least 0 and less than 100",
    )
    prune_schedule: str = flag(
        "iterative",
        "iterative: train, prune, rewind, again; oneshot: prune the dense net to each density",
        "pruning",
        names=("iterative", "oneshot"),
        own=True,
    )
    criterion: str = flag(
        "magnitude",
        "which weights go: the smallest trained ones, or by SNIP, GraSP or SynFlow at theta_0, "
        "before any training",
        "pruning",
        names=CRITERIA,
        own=True,
    )
    ticket: str = flag(
        None,
        "FOLDER[@ROUND]: take the masks and theta_0 of that run (and what it rewinds to), round by "
        "round or of one round, instead of pruning; a folder pattern that one run matches will do, "
        "and {seed} in it is --seed; zoo:NAME[@ROUND] is one of those in zoo/",
        "pruning",
        str,
        result=False,
        own=True,
    )
    reinit_draw: int = flag(
        0,
        "of reinit: which draw of fresh weights; --reinit_draws=3 names draws 0, 1 and 2",
        "pruning",
        own=True,
        late=True,
        **at_least(0),
    )
    rewind_epoch: int = flag(
        0,
        "rewind to the weights after this epoch of round 0 and train from there; 0 is theta_0",
        "pruning",
    )

    attack: str = flag(
        None,
        "what makes the attacked images (default: the data set's suffix, else none); omit makes "
        "none and leaves out as many, so that as many steps show fewer images",
        "attack",
        str,
        names=ATTACKS,
        own=True,
    )
    mix_ratio: float = flag(
        None,
        "share of the training images that are attacked, or of omit left out, the others repeated "
        "in their places (default: 1 with an attack, else 0)",
        "attack",
        number,
        own=True,
    )
    attack_mode: str = flag(
        "static",
        "static: a fixed set, made against the surrogate; online: against the net being trained; "
        "trades: clean images, plus --trades_beta times KL(p(x) || p(x')), where the steps of "
        "--attack=pgd drive x' away from x (Zhang et al. 2019, equation 5)",
        "attack",
        names=("static", "online", "trades"),
    )
    trades_beta: float = flag(
        TRADES_BETA,
        "of --attack_mode=trades: weight of its second term, the paper's 1/lambda; 0 trains clean",
        "attack",
        late=True,
        valid=lambda value: 0 <= value < math.inf,
        right="0 or more",
    )
    norm: str = flag(
        None,
        "norm of the attack (default: its first in the table below)",
        "attack",
        str,
        names=("linf", "l2"),
        own=True,
    )
    parameters: tuple = ()  # (name, value) of each of attacks.PARAMETERS: flags like the others
    eval_attacks: tuple = flag(
        ("fgsm",),
        "attacks on each pruned net, white-box, every round",
        "attack",
        names=Making(),
        valid=lambda value: len(set(value)) == len(value),
        right="each attack once",
    )
    eval_examples: int = flag(
        1000,
        "test images that iterative attacks are tried on, every round (one-step ones: all)",
        "attack",
        **at_least(1),
    )
    eval_steps: int = flag(
        0,
        "steps of the iterative ones within a radius, whatever trains the net; 0: as many as the "
        "run's own attack has, which trains a net rather than tests it, others their default",
        "attack",
        late=True,
        **at_least(0),
    )
    eval_step_size: float = flag(
        None,
        "length of each of --eval_steps (default: the attack's own)",
        "attack",
        number,
        late=True,
        valid=lambda value: 0 < value < math.inf,
        right="more than 0",
    )
    attack_seed: int = flag(
        0,
        "seeds the surrogate and the attack's random starts; runs that share it share one "
        "attacked data set. The word seed stands for --seed, so that intervals over seeds hold "
        "what another surrogate does",
        "attack",
        seed_number,
        own=True,
        valid=lambda value: value == "seed" or value >= 0,
        right="0 or more",
    )
    surrogate: str = flag(
        None,
        "network the attacked images are made against (default: DeepRobust's CNN, for 32x32 its "
        "ResNet18)",
        "attack",
        str,
        names=ARCHS,
        own=True,
    )
    surrogate_epochs: int = flag(
        None,
        "epochs of its training (default: 3 passes or 300 steps; 15 passes for colour images)",
        "attack",
        whole,
        own=True,
        valid=lambda value: value >= 0,
        right="0 (chosen by size) or more",
    )

    optimizer: str = flag("adam", "update rule", "training", names=("adam", "sgd"))
    lr: float = flag(
        1.2e-3,
        "learning rate, the same in every round",
        "training",
        own=True,
        valid=lambda value: 0 < value < math.inf,
        right="more than 0",
    )
    momentum: float = flag(
        0.9,
        "of SGD",
        "training",
        valid=lambda value: 0 <= value < 1,
        right="at least 0 and less than 1",
    )
    weight_decay: float = flag(
        0.0,
        "L2 penalty; pruned weights stay exactly 0 under it",
        "training",
        valid=lambda value: 0 <= value < math.inf,
        right="0 or more",
    )
    warmup_steps: int = flag(
        0,
        "steps over which the learning rate rises linearly from 0 (Frankle: 10000 for VGG and "
        "ResNet)",
        "training",
        **at_least(0),
    )
    lr_drops: str = flag(
        "",
        "epochs after which the learning rate falls to a tenth, such as 80,120",
        "training",
        valid=lambda text: re.fullmatch(r"([0-9]{1,9}(,[0-9]{1,9})*)?", text),
        right="epochs separated by commas, such as 80,120",
    )
    lr_schedule: str = flag(
        "constant",
        "of each round's learning rate after its warm-up, beside --lr_drops; cosine: half a wave "
        "from --lr down to 0 (Loshchilov & Hutter 2017, equation 5)",
        "training",
        names=("constant", "cosine"),
        late=True,
    )
    batch_size: int = flag(60, "images a step", "training", **at_least(1))
    precision: str = flag(
        "fp32",
        "of training; bf16 is 1.6 to 3.7 times as fast for convolutions on CPUs that have it (AMX, "
        "AVX512-BF16), and slower on others; tf32 is of GPUs; evaluation stays fp32",
        "training",
        names=("fp32", "tf32", "bf16"),
    )
    init: str = flag(
        "glorot_normal",
        "distribution of the initial weights (torch: each layer's own default)",
        "training",
        names=INITS,
    )
    val_fraction: float = flag(
        1 / 12,
        "share of the training images held out to select the best epoch (5,000 of MNIST's 60,000)",
        "training",
        valid=lambda value: 0 < value < 1,
        right="more than 0 and less than 1",
    )
    train_fraction: float = flag(
        1.0,
        "share of the training images, those to validate on apart, that is used at all: fewer "
        "images, and as many fewer steps",
        "training",
        late=True,
        valid=lambda value: 0 < value <= 1,
        right="more than 0 and at most 1",
    )
    augment: bool = flag(
        False, "random crops (padding 4) and horizontal flips of the training images", "training"
    )
    valid_freq: int = flag(1, "validate each so many epochs", "training", **at_least(1))
    valid_steps: int = flag(
        0,
        "validate each so many steps instead (Frankle: 100); 0 goes by --valid_freq",
        "training",
        **at_least(0),
    )

    device: str = flag(
        "auto", "where to compute", "machine", names=("auto", "cpu", "cuda"), result=False
    )
    step: str = flag(
        "auto",
        "what computes the steps; compiled: fully connected nets on a CPU, at the cost of their "
        "alive weights (needs numba); torch: every network; auto: compiled where it can be",
        "machine",
        names=("auto", "torch", "compiled"),
        result=False,
    )
    gpu: int = flag(None, "which GPU", "machine", whole, result=False, **at_least(0))
    threads: int = flag(
        0,
        "CPU threads; 0: one for small nets, where more are slower, and all cores for convolutions",
        "machine",
        result=False,
        valid=lambda value: 0 <= value <= max(os.cpu_count() or 1, 64),
        right="from 0 (chosen by the network) to the number of cores",
    )
    data_dir: str = flag(
        "data", "where data sets are found or downloaded to", "machine", result=False
    )
    cache_dir: str = flag(
        "cache", "where surrogates and attacked images are kept", "machine", result=False
    )
    runs_dir: str = flag("runs", "where run folders go", "machine", result=False)
    cohort_size: int = flag(
        0,
        "runs that train together; 0: what fits the device and helps (one on a CPU)",
        "machine",
        result=False,
        valid=lambda value: value >= 0,
        right="0 (chosen by the device) or more",
    )
    engine: str = flag(
        "local",
        "what trains the runs of a list: processes on this machine, or a Ray cluster",
        "machine",
        names=("local", "ray"),
        result=False,
    )
    workers: int = flag(
        0,
        "local: processes that share the runs; 0: one a GPU, or on a CPU one a core, 16 at most",
        "machine",
        result=False,
        valid=lambda value: 0 <= value <= 1024,
        right="from 0 (chosen by the device) to 1024",
    )
    ray_address: str = flag(
        "",
        "ray: the cluster's address, such as auto; without it, one is started on this machine",
        "machine",
        result=False,
    )
    gpu_share: float = flag(
        1.0,
        "ray: the share of a GPU that a cohort asks for; 0.5 puts two on each",
        "machine",
        result=False,
        valid=lambda value: 0 < value <= 1,
        right="more than 0 and at most 1",
    )
    save_weights: str = flag(
        "best",
        "which trained weights to keep each round",
        "machine",
        names=("best", "last", "none"),
        result=False,
    )
    save_freq: int = flag(
        1,
        "keep where training is each so many epochs, if saving takes no more than a twentieth of "
        "the time; a kill loses what came after",
        "machine",
        result=False,
        **at_least(1),
    )
    wandb: str = flag(
        "",
        "a project of Weights & Biases that each run becomes an entry of (pip install wandb)",
        "machine",
        result=False,
    )
    quiet: bool = flag(
        False,
        "print warnings and how it ends alone; each run's log.txt has the rest",
        "machine",
        result=False,
    )
    verbose: bool = flag(
        False, "print the layers' densities after each round too", "machine", result=False
    )
    print_freq: int = flag(
        1, "refresh the progress bar each so many epochs", "machine", result=False, **at_least(1)
    )

    data_id: str = flag(
        "", "which file an .npz data set is: another one of its name is another run", hidden=True
    )
    ticket_arm: str = flag(
        "", "what run --ticket is, its seed left out, and the round", own=True, hidden=True
    )
    ticket_seed: int = flag(None, "the seed of that run", kind=whole, own=True, hidden=True)
    ticket_draw: str = flag(
        "", "its other seeds, where they are not the run's own", own=True, hidden=True, late=True
    )

    def __getattr__(self, name):
        for key, value in self.__dict__.get("parameters", ()):
            if key == name:
                return value
        raise AttributeError(f"a run has no {name}")

    @property
    def adversarial(self):
        """Whether attacks are made on the net that trains, anew for each batch."""
        return self.attack_mode != "static"

    @property
    def test_attack(self):
        """The attack that makes the attacked test images, or None."""
        return self.attack and tested_by(self.attack)

    @property
    def omits(self):
        """Whether training images are left out in place of being attacked."""
        return self.test_attack != self.attack

    @property
    def attack_number(self):
        """The number that --attack_seed stands for."""
        return self.seed if self.attack_seed == "seed" else self.attack_seed

    def flags(self):
        """Every flag as a plain dict, as config.json keeps it."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return own | dict(own.pop("parameters"))

    @classmethod
    def of(cls, flags):
        """The RunConfig of a saved run's flags, whatever version wrote them.

        What no flag is called any more, or not yet, is kept among the attack's parameters.
        """
        flags = {known.name: known.default for known in all_flags()} | flags
        fields = [f.name for f in dataclasses.fields(cls) if f.name != "parameters"]
        known = {name: flags.pop(name) for name in fields}
        known["eval_attacks"] = tuple(known["eval_attacks"])
        return cls(**known, parameters=tuple(flags.items()))

    def replace(self, **flags):
        """The same run with other flags, the attack's parameters among them."""
        return RunConfig.of(self.flags() | flags)

    def results(self):
        """The flags that change the result: what the hash covers and a resumed run must match."""
        flags = self.flags()
        # a run that was called otherwise keeps its hash; new ones of that name have a ticket_arm
        flags["prune_type"] = PRUNE_TYPES[self.prune_type].was or self.prune_type
        return {
            known.name: flags[known.name]
            for known in all_flags()
            if known.result and not (known.late and flags[known.name] == known.default)
        }

    def arm(self):
        """What makes two runs the same arm: every flag that changes a result, but the seeds.

        The masks of a run's own ticket follow from the others.
        """
        arm = self.results() | {"prune_type": self.prune_type}
        if own_ticket(self):
            arm["ticket_arm"] = ""
        return {name: value for name, value in arm.items() if name not in SEEDS}

    def arm_name(self, prune_type=""):
        """<dataset>-<arch>-<attack><mix>-<prune_type>, and whose masks, if not its own."""
        images = f"{self.attack}{self.mix_ratio:g}" if self.attack else "clean"
        masks = "" if self.criterion == "magnitude" else f"_{self.criterion}"
        masks = "_ticket" if self.ticket and not own_ticket(self) else masks
        return f"{self.dataset}-{self.arch_type}-{images}-{prune_type or self.prune_type}{masks}"

    @property
    def run_name(self):
        """The run folder's name, readable and shared by no two runs.

        <dataset>-<arch>-<attack><mix>-<prune_type>-s<seed>-<hash8>
        """
        return f"{self.arm_name()}-s{self.seed}-{hash8(self.results())}"

    @property
    def run_names(self):
        """The names that its folder can have: the present one, and that of older versions."""
        was = PRUNE_TYPES[self.prune_type].was
        old = f"{self.arm_name(was)}-s{self.seed}-{hash8(self.results())}"
        return [self.run_name, *([old] if was else [])]

    @property
    def ticket_name(self):
        """What this run's masks are called in the runs that take them (--ticket), seed apart."""
        return f"{self.arm_name()}-{hash8(self.arm())}"

    def attacked_of(self, size):
        """How many of so many images are attacked, or left out: of a batch, or of a whole part."""
        return round(self.mix_ratio * size)

    def ticket_identity(self, order_seed):
        """{flag: value} by which a run of that --order_seed knows whose masks it takes."""
        draws = [f"order {self.order_seed}"] if self.order_seed != order_seed else []
        if self.ticket and (self.ticket_seed != self.seed or self.ticket_draw):
            draws.append(f"ticket {self.ticket_seed} {self.ticket_draw}".rstrip())
        if self.reinit_draw:
            draws.append(f"draw {self.reinit_draw}")
        names = {"ticket_arm": self.ticket_name, "ticket_seed": self.seed}
        return names | {"ticket_draw": ", ".join(draws)}

    def first_epoch(self, round_number):
        """The epoch that a round begins at: a net that is rewound to a later one begins there."""
        later = round_number or self.begins_later
        return self.rewind_epoch if later and PRUNE_TYPES[self.prune_type].rewinds else 0

    @property
    def begins_later(self):
        """Whether round 0 is a later round of its --ticket, FOLDER@5."""
        return bool(re.search(r"@[1-9][0-9]*$", self.ticket_arm))


def ticket_of(config):
    """The lt run with the same other flags: whose masks a control has that names no --ticket."""
    return config.replace(prune_type="lt", reinit_draw=0, **NO_TICKET)


@functools.lru_cache(maxsize=8192)  # names and arms ask again and again
def own_ticket(config):
    """The RunConfig of the run whose masks this one has without being told to, or None."""
    if not PRUNE_TYPES[config.prune_type].of_ticket or not config.ticket_arm:
        return None
    ticket = ticket_of(config)
    named = ticket.ticket_identity(config.order_seed)
    return ticket if all(getattr(config, name) == named[name] for name in named) else None


def with_own_ticket(config):
    """The config with its own ticket named, where its prune type takes one and none is given."""
    if not PRUNE_TYPES[config.prune_type].of_ticket or config.ticket:
        return config
    ticket = ticket_of(config)
    path = str(Path(config.runs_dir) / ticket.run_name)
    return config.replace(ticket=path, **ticket.ticket_identity(config.order_seed))


def present_names(flags):
    """A saved run's flags with what older versions called otherwise by its present name."""
    kind = flags.get("prune_type")
    named = [name for name, entry in PRUNE_TYPES.items() if kind and entry.was == kind]
    return flags | {"prune_type": named[0]} if named and not flags.get("ticket_arm") else flags


def all_flags():
    """Every Flag: RunConfig's fields, then the attacks' parameters."""
    fields = [f for f in dataclasses.fields(RunConfig) if f.name != "parameters"]
    flags = [Flag(f.name, f.default, **f.metadata) for f in fields]
    for name, entry in PARAMETERS.items():
        flags.append(
            Flag(name, entry.absent, entry.why, entry.kind, "attack", own=True, late=entry.late)
        )
    return flags


PRESET_OF = {
    "frankle": "Frankle & Carbin 2019, Lenet-300-100 on MNIST",
    "cosentino": "Cosentino et al. 2019, half of each batch attacked",
    "original": "the older lottery-ticket script's defaults",
    "course": "the course project's on attacked images",
}
PRESETS = {
    # Frankle & Carbin 2019, Lenet-300-100: 50k iterations of 60 images are 55 epochs of 55k
    "frankle": dict(
        arch_type="fc1", optimizer="adam", lr=1.2e-3, batch_size=60, init="glorot_normal",
        val_fraction=1 / 12, prune_percent=20.0, output_prune_percent=10.0, prune_iterations=21,
        end_iter=55, valid_steps=100,
    ),
    # Cosentino 2019: half clean, half adversarial, made against the net being trained; 30k
    # iterations of 60 images are 36 epochs of 50k
    "cosentino": dict(
        arch_type="fc1_nobias", optimizer="adam", lr=1.2e-3, batch_size=60, val_fraction=1 / 6,
        prune_percent=20.0, output_prune_percent=10.0, prune_iterations=21, end_iter=36,
        attack="fgsm", attack_mode="online", mix_ratio=0.5, epsilon=0.3,
        attack_steps={"pgd": 10}, attack_step_size={"pgd": 0.05},
    ),
    # the two scripts that this program rewrites, as far as their settings make sense
    "original": dict(
        optimizer="adam", lr=1.2e-3, weight_decay=1e-4, batch_size=60, prune_percent=10.0,
        prune_iterations=35, end_iter=100,
    ),
    "course": dict(
        optimizer="sgd", lr=1.2e-3, momentum=0.5, weight_decay=1e-4, batch_size=60,
        prune_percent=10.0, prune_iterations=35, end_iter=100, epsilon={"fgsm": 0.2, "pgd": 0.1},
    ),
}  # fmt: skip


# What follows from what ------------------------------------------------------------------------


def resolve(given, in_shape, data_id=""):
    """Fill in what follows from the flags in `given` (a dict), check everything; a RunConfig.

    in_shape: (C, H, W) of the data set; data_id: which file it is. A preset may name a value per
    attack. UserError for the first flag that makes no sense.
    """
    for registry in REGISTRIES:
        registry.check()
    flags = {known.name: known for known in all_flags()}
    for name in given:
        choose("flag", name, sorted(flags))
    given = {
        name: None if name in PARAMETERS else known.default for name, known in flags.items()
    } | given
    for name, known in flags.items():
        values = given[name] if known.kind is words else [given[name]]
        for value in values:
            if known.names and value is not None:
                choose(name, value, list(known.names))
    given["mix_ratio"] = _mix_ratio(given)
    given |= _attack_flags(given, in_shape[0] > 1, in_shape[1:] == (32, 32))
    given["output_prune_percent"] = _first(given["output_prune_percent"], given["prune_percent"])
    given["order_seed"] = _first(given["order_seed"], given["seed"])
    usual = "global" if CRITERIA[given["criterion"]].of_theta0 else "layer"
    given["prune_scope"] = _first(given["prune_scope"], usual)
    config = RunConfig.of(given | {"data_id": data_id})
    _check(config)
    return with_own_ticket(config.replace(**without_effect(config)))


def _first(value, default):
    return default if value is None else value


def _mix_ratio(given):
    ratio = _first(given["mix_ratio"], 1.0 if given["attack"] else 0.0)
    if not 0 <= ratio <= 1:
        right = "a share between 0 and 1 is needed (--attack_rate is in percent)"
        raise UserError(f"--mix_ratio={ratio:g}: {right}")
    if ratio > 0 and not given["attack"]:
        right = "add --attack=fgsm or --dataset=..._fgsm_attack"
        raise UserError(f"--mix_ratio={ratio:g} needs an attack: {right}")
    if ratio == 1 and given["attack"] != tested_by(given["attack"] or "fgsm"):
        what = f"--attack={given['attack']} --mix_ratio=1 (the default) leaves no training image"
        raise UserError(f"{what}: a share below 1 is needed, such as --mix_ratio=0.5")
    return ratio


def _attack_flags(given, colour, is_32):
    """The attack's norm, parameters and surrogate for these images.

    Without an attack the parameters are FGSM's: the radius at which the pruned nets are tested.
    """
    attack = given["attack"] or "fgsm"
    norm = given["norm"] or next(iter(ATTACKS[attack]))
    if norm not in ATTACKS[attack]:
        raise UserError(f"--norm={norm}: {attack} has {' and '.join(ATTACKS[attack])}")
    entry, derived = ATTACKS[attack][norm], {"norm": norm}
    tried = [line for name in given["eval_attacks"] for line in ATTACKS[name].values()]
    for name, parameter in PARAMETERS.items():
        value = given[name]
        value = value.get(tested_by(attack)) if isinstance(value, dict) else value
        carried = parameter.carries and any(name in line.defaults for line in tried)
        if name in entry.defaults:
            derived[name] = _first(value, entry.default(name, colour))
        else:
            derived[name] = _first(value, parameter.absent) if carried else parameter.absent
        if value is not None and not parameter.valid(value, norm):
            raise UserError(f"--{name}={show(value)}: {parameter.right} is needed")
    _check_mode(given["attack_mode"], given["attack"], derived)
    # DeepRobust's two networks fix their image size: the CNN is made for it, the ResNet18 for 32x32
    usual = "deeprobust_resnet18" if is_32 else "deeprobust_cnn"
    derived["surrogate"] = given["surrogate"] or usual
    derived["surrogate_epochs"] = _first(given["surrogate_epochs"], 15 if colour else 0)
    return derived


def _check_mode(mode, attack, derived):
    """UserError unless the attack, with its norm and parameters, is one that the mode can make."""
    if mode != "static" and not attack:
        which = "add --attack=pgd" if mode == "trades" else "add --attack=fgsm or --attack=pgd"
        raise UserError(f"--attack_mode={mode} needs an attack: {which}")
    if mode != "static" and tested_by(attack) != attack:
        right = "leave --attack_mode out"
        raise UserError(f"--attack_mode={mode}: {attack} attacks no training image; {right}")
    if mode != "trades":
        return
    for name, value, right in (
        ("attack", attack, "pgd"),
        ("norm", derived["norm"], "linf"),
        ("restarts", derived["restarts"], 1),
    ):
        if value != right:
            why = "TRADES takes the steps of one pgd in linf from one random start"
            raise UserError(f"--attack_mode=trades with --{name}={value}: {why} (--{name}={right})")


def without_effect(config):
    """{flag: value} of the flags that change nothing in this run, so that they make no other run.

    The attack's parameters that it does not have are at their `absent` value already.
    """
    idle = {}
    if config.optimizer != "sgd":
        idle["momentum"] = 0.9
    if not config.attack or config.adversarial:
        idle |= {"surrogate": None, "surrogate_epochs": None, "attack_seed": 0}
    if config.attack_mode != "trades":
        idle["trades_beta"] = TRADES_BETA
    if config.valid_steps:
        idle["valid_freq"] = 1
    if config.prune_type != "reinit":
        idle["reinit_draw"] = 0
    if config.precision == "tf32" and config.device == "cpu":
        idle["precision"] = "fp32"
    return idle


def attack_settings(config, attack, colour, test=False):
    """AttackSettings of the run's own attack, or of another at its defaults.

    Another one is tried within the run's radius where the norms agree. An attack that makes no
    images is the one that it is tested by. colour: whether the images have three channels. test:
    as the pruned nets are tested (--eval_steps), not as the run's own images are made.
    """
    attack = tested_by(attack)
    own = attack == (config.test_attack or "fgsm")
    norm = config.norm if own else next(iter(ATTACKS[attack]))
    entry, values = ATTACKS[attack][norm], {}
    for name in entry.defaults:
        value, parameter = getattr(config, name), PARAMETERS[name]
        shared = parameter.carries and value != parameter.absent
        shared = shared or (name == "epsilon" and norm == config.norm and value is not None)
        values[name] = value if own or shared else entry.default(name, colour)
        if test and parameter.transfers:
            values[name] = parameter.absent
    if test and config.eval_steps and "attack_steps" in values and not entry.minimal():
        length = config.eval_step_size or entry.default("attack_step_size", colour)
        steps = {"attack_steps": config.eval_steps, "attack_step_size": length}
        values |= {name: value for name, value in steps.items() if name in values}
    return AttackSettings(attack, norm, tuple(values.items()))


def _check(config):
    """Raise UserError for the first flag whose value makes no sense."""
    for known in all_flags():
        value = getattr(config, known.name)
        if isinstance(value, str) and not value.isprintable():
            raise UserError(f"--{known.name}={value!r}: printable text (UTF-8) is needed")
        if known.valid and value is not None and not known.valid(value):
            raise UserError(f"--{known.name}={show(value)}: {known.right} is needed")
    for name, end in (("start_iter", "prune_iterations"), ("rewind_epoch", "end_iter")):
        if not 0 <= getattr(config, name) < getattr(config, end):
            right = f"0 or more and less than {end} is needed"
            raise UserError(f"--{name}={getattr(config, name)}: {right}")
    kind = PRUNE_TYPES[config.prune_type]
    if config.rewind_epoch and not (config.ticket or kind.rewinds or kind.of_ticket):
        rewinding = "|".join(name for name, e in PRUNE_TYPES.items() if e.rewinds or e.of_ticket)
        what = f"--rewind_epoch={config.rewind_epoch} is for --prune_type={rewinding}"
        raise UserError(f"{what}: {config.prune_type} rewinds to nothing")
    if config.adversarial and config.mix_ratio and not config.attacked_of(config.batch_size):
        what = f"--mix_ratio={config.mix_ratio:g} of --batch_size={config.batch_size}"
        right = "more than half an image of each batch is needed"
        mode = f"--attack_mode={config.attack_mode}"
        raise UserError(f"{what} attacks no training image with {mode}: {right}")
    if config.eval_step_size and not config.eval_steps:
        what = f"--eval_step_size={show(config.eval_step_size)} needs to know how many steps"
        raise UserError(f"{what}: add --eval_steps=10")
    able = [name for name, entry in PRUNE_TYPES.items() if entry.takes_ticket]
    if config.ticket and not kind.takes_ticket:
        theirs = f"cannot take those of --ticket={config.ticket}: {', '.join(able)} can"
        raise UserError(f"--prune_type={config.prune_type} makes masks of its own and {theirs}")
    if config.criterion != "magnitude" and not kind.takes_criterion:
        theirs = f"cannot take those of --criterion={config.criterion}: {', '.join(able)} can"
        raise UserError(f"--prune_type={config.prune_type} makes masks of its own and {theirs}")
