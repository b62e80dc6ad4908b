"""What the Adversarial Pruning Benchmark asks of an entry, as far as a run has it.

github.com/pralab/AdversarialPruningBenchmark (Piras et al. 2024) compares pruned ResNet-18s and
VGG-16s on CIFAR-10 and SVHN at 90, 95 and 99 % of the weights pruned: a checkpoint of each, its
clean accuracy, its accuracy under AutoAttack and under HO-FMN, whether its images need to be
normalised, and whether its names are those of the benchmark's own base network.
"""

import math
import shlex

from config import attack_settings
from results.formats import TORCHVISION, for_torchvision, normalisation
from results.table import EVALUATION
from store.files import read_csv
from utils import UserError

TARGETS = (90, 95, 99)  # percent of the weights pruned
# the benchmark's names
ARCHS, DATASETS = {"resnet18": "R18", "vgg16": "V16"}, {"cifar10": "CIFAR10", "svhn": "SVHN"}
EPSILON = 8 / 255  # the radius, in linf, of its AutoAttack
NEAR = 1.1  # a density off by a larger factor is told


def nearest_rounds(rows, run):
    """{target: the row of rounds.csv nearest to it}, by the ratio of the densities.

    UserError if one round is the nearest to two targets.
    """
    alive, found = [row for row in rows if row["kept"]], {}
    for target in TARGETS:
        density = 1 - target / 100
        row = min(alive, key=lambda row: abs(math.log(row["density"] / density)))
        for other, same in found.items():
            if same is row:
                what = f"round {row['round']} of {run} (sparsity {sparsity(row):.4g} %)"
                right = "tickets of three sparsities are needed: train more rounds"
                raise UserError(f"{what} is the nearest to both {other} and {target} %: {right}")
        found[target] = row
    return found


def sparsity(row):
    """Percent of the prunable weights that are pruned, of a row of rounds.csv."""
    return 100 * (1 - row["density"])


def radius_of(config, colour):
    """The radius at which an entry's AutoAttack is: the benchmark's, or the run's own on data sets
    that it does not have. colour: whether the images have three channels.
    """
    return EPSILON if config.dataset in DATASETS else own_radius(config, colour)


def own_radius(config, colour):
    """The radius at which attacks.py evaluate tries a run if none is named."""
    return attack_settings(config, "pgd", colour, test=True).epsilon


def autoattacked(folder, config, colour):
    """{round: (accuracy in percent, test images)} under AutoAttack within radius_of(config).

    Of the evaluations in a run folder, of each round the one that tried the most images.
    """
    best, radius = {}, radius_of(config, colour)
    for path in sorted(folder.glob("attacked_evaluation-*.csv")):
        named = EVALUATION.fullmatch(path.name)
        if not named:
            continue
        _, _, other = (named[3] or "").partition("-epsilon")
        tried = float(other) if other else own_radius(config, colour)
        if f"{tried:g}" != f"{radius:g}":  # as files have it in their names
            continue
        rows = read_csv(path)
        if all(is_accuracy(row.get("autoattack")) for row in rows):
            for row in rows:
                found = (row["autoattack"], int(named[2]))
                best[row["round"]] = max(best.get(row["round"], found), found, key=lambda f: f[1])
    return best


def is_accuracy(value):
    """Whether a cell is an accuracy in percent."""
    return isinstance(value, int | float) and 0 <= value <= 100


def checkpoint(arch, net, in_shape, classes):
    """(state, network, why): weights without the normalisation; the Python of the network that
    they fit with strict=True; why the benchmark's base network does not take them, "" if it does.
    """
    state = dict(net.net.state_dict())
    if arch in ("resnet18", "deeprobust_resnet18") and in_shape == (3, 32, 32):
        # its ResNet-18 is the one for CIFAR that DeepRobust has too
        renamed = {
            name.replace("downsample", "shortcut").replace("fc.", "linear."): value
            for name, value in state.items()
        }
        why = "" if classes == 10 else f"base_resnet18 has 10 classes, and this {classes}"
        return renamed, ["base_resnet18"], why
    if arch in TORCHVISION:
        state, lines = for_torchvision(arch, net, classes)
        return (
            state,
            lines,
            "its layers and their names are torchvision's, changed for small images",
        )
    return state, repr(net.net).splitlines(), f"the benchmark has no {arch}"


def entry(config, run, chosen, attacked, net, fits, colour):
    """The entry of three checkpoints, a dict.

    chosen: {target: (file, row)}; attacked: as `autoattacked` gives it; net: one of the networks;
    fits: (network, why) of `checkpoint`; colour: whether the images have three channels.
    """
    mean, std = normalisation(net)
    (network, why), key = fits, model_key(config)
    return {
        "run": config.run_name,
        "architecture": config.arch_type,
        "dataset": config.dataset,
        "structure": "weights, unstructured",
        "pruning": {
            name: getattr(config, name)
            for name in ("prune_type", "criterion", "prune_scope", "prune_schedule")
        },
        "attacked_training_images": {
            name: getattr(config, name)
            for name in ("attack", "attack_mode", "mix_ratio", "epsilon")
        }
        if config.mix_ratio
        else None,
        "normalisation_needed": {"mean": mean, "std": std},
        "base_model_fits": not why,
        "why_not": why,
        "network": network,
        "checkpoints": [
            {
                "file": file,
                "model_key_ends_in": f"{key}_{target}" if key else None,
                "round": row["round"],
                "sparsity": round(sparsity(row), 3),
                "clean_accuracy": clean(config, row),
                "autoattack_accuracy": attacked.get(row["round"], (None, 0))[0],
                "autoattack_epsilon": radius_of(config, colour),
                "autoattack_images": attacked.get(row["round"], (None, 0))[1],
                "ho_fmn_accuracy": None,
            }
            for target, (file, row) in chosen.items()
        ],
        "to_do": to_do(run, chosen, attacked, radius_of(config, colour)),
    }


def model_key(config):
    """The end of the benchmark's name for a model, without the sparsity; "" for what it has no
    place for.
    """
    arch = ARCHS.get(config.arch_type.removeprefix("deeprobust_"))
    dataset = DATASETS.get(config.dataset)
    return f"{arch}_{dataset}_US" if arch and dataset else ""


def clean(config, row):
    """The clean test accuracy of the weights that a run keeps."""
    return row["test_accuracy_last" if config.save_weights == "last" else "test_accuracy"]


def to_do(run, chosen, attacked, radius):
    """What an entry still lacks, and what makes it; radius: of AutoAttack."""
    rest = ["HO-FMN's accuracy and distances: the benchmark's own code, on these checkpoints"]
    rest.append("the method's taxonomy entry: the benchmark's form")
    if any(row["round"] not in attacked for _, row in chosen.values()):
        run = shlex.quote(str(run))
        command = f"python attacks.py evaluate {run} --attacks autoattack --examples 10000"
        command += f" --epsilon={'8/255' if radius == EPSILON else f'{radius:g}'}"
        rest.insert(0, f"AutoAttack's accuracy: {command}, then this again with --force")
    return rest


def notes(config, chosen):
    """Lines on what keeps these checkpoints from being compared with the benchmark's others."""
    lines = []
    if not model_key(config):
        where = "resnet18 and vgg16 on CIFAR-10 and SVHN"
        lines.append(f"the benchmark has {where}, and not {config.arch_type} on {config.dataset}")
    for target, (_, row) in chosen.items():
        if abs(math.log(row["density"] / (1 - target / 100))) > math.log(NEAR):
            what = f"round {row['round']} has sparsity {sparsity(row):.4g} %"
            lines.append(f"{what}, which is not near {target} %")
    return lines
