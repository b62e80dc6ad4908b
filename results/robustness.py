"""Attack every saved ticket: `python attacks.py evaluate runs/* --attacks all`.

For each round whose trained weights were kept, clean and attacked accuracy on the test set,
white-box. The table goes to the terminal and to attacked_evaluation-<attacks>-<examples>.csv in
each run folder. "autoattack" is pyautoattack, the authors' own package of AutoAttack's standard
version (Croce & Hein 2020): APGD-CE, targeted APGD-DLR, targeted FAB and Square.
"""

import archs
from attacks import EVAL_BATCH, Making, attack_test_images, is_correct
from config import attack_settings
from engine.machine import pick_device, set_threads
from results.table import begun, expand
from results.ticket import finished_rounds, load_data, load_ticket, to_float
from store.files import write_csv
from store.runfolder import RunFolder
from store.saved import saved_run
from utils import Lazy, OneLineParser, UserError, choose, eval_examples, number

torch = Lazy("torch")  # a mistyped flag need not wait for it


def main(argv=None):
    """Evaluate the run folders on the command line; returns the exit code."""
    what = "Clean and attacked accuracy of every saved ticket."
    parser = OneLineParser(prog="attacks.py", description=what)
    commands = parser.add_subparsers(required=True, metavar="evaluate")
    add = commands.add_parser("evaluate", help=what, description=what).add_argument
    add("runs", nargs="+", help="run folders: runs/*")
    names = ", ".join(Making())
    add("--attacks", nargs="+", default=["fgsm", "pgd"], help=f"all, autoattack, {names}")
    add("--examples", type=int, default=1000, help="test images to attack (default: 1000)")
    radius = "radius of the linf attacks (default: the run's, else the data set's)"
    add("--epsilon", type=number, help=radius)
    add("--data_dir", help="where the data set is (default: the run's own)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    return parser.run(argv, evaluate)


def evaluate(args):
    """Attack the runs of the parsed command line; UserError before any work if one is unsound."""
    known = [*Making(), "autoattack"]
    names = [choose("attack", name, known) for name in args.attacks if args.attacks != ["all"]]
    if len(set(names)) < len(names):
        raise UserError(f"--attacks {' '.join(args.attacks)}: each attack once")
    if args.examples < 1:
        raise UserError(f"--examples={args.examples}: at least 1 is needed")
    if args.epsilon is not None and not 0 <= args.epsilon <= 1:
        right = "from 0 to 1 is needed (pixels are on [0, 1]; 8/255 is accepted)"
        raise UserError(f"--epsilon={args.epsilon:g}: {right}")
    paths = begun(expand(args.runs))
    if not paths:
        raise UserError("none of these folders is a run that has begun")
    for path, config in [(path, saved_run(path)) for path in paths]:
        evaluate_run(path, config, names or known, args)


def evaluate_run(path, config, names, args):
    """Attack the network of every round of one run; writes and prints its table."""
    folder, radius = RunFolder(path), ""
    if args.epsilon is not None:
        radius = f"-epsilon{args.epsilon:g}"
        config = config.replace(epsilon=args.epsilon)
        if config.norm != "linf":  # its own attack has a radius of another kind
            config = config.replace(attack=None, norm="linf", attack_steps=1)
    device = pick_device(args.device, None)
    rounds = [row for row in finished_rounds(folder) if folder.weights(row["round"]).exists()]
    if not rounds:
        raise UserError(f"{path} keeps no trained weights: train it with --save_weights=best")
    dataset = load_data(config, args.data_dir)
    set_threads(0, small=archs.is_small(config.arch_type))
    rows = []
    for row in rounds:
        net, _, _ = load_ticket(path, row["round"], args.data_dir)
        if all(getattr(module, "channels_last", True) for module in net.modules()):
            net.to(memory_format=torch.channels_last)  # faster for convolutions, as in training
        found = evaluate_net(net.to(device), config, dataset, names, args.examples, device)
        rows.append({"round": row["round"], "density": row["density"], **found})
        told = ", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items())
        print(f"{path} {told}", flush=True)
    # what it was made with is in its name: another evaluation writes another file
    made_with = f"{'+'.join(names)}-{args.examples}{radius}"
    write_csv(folder.path / f"attacked_evaluation-{made_with}.csv", rows)


def evaluate_net(net, config, dataset, names, examples, device):
    """Percent of the test images that a network classifies correctly, as they are and attacked.

    Clean ones: of all, and of the `examples` that each attack is tried on; with the mean L2 of an
    attack that minimises the distance.
    """
    test = to_float(dataset.test_images, device)
    labels = torch.from_numpy(dataset.test_labels).to(device)
    chosen = eval_examples(len(labels), examples)
    x, y = test[chosen.to(device)], labels[chosen.to(device)]
    result = {"clean": accuracy(net, test, labels), "clean_of_examples": accuracy(net, x, y)}
    colour = dataset.in_shape[0] == 3
    for name in names:
        if name == "autoattack":
            epsilon = attack_settings(config, "pgd", colour).epsilon
            result[name] = autoattack(net, x, y, epsilon, dataset.num_classes)
            continue
        settings = attack_settings(config, name, colour, test=True)
        percent, l2, _ = attack_test_images(net, (), settings, x, y, chosen.numpy())
        result[name] = percent.item()
        if settings.entry().minimal():
            result[f"{name}_l2"] = l2.item()
    return result


def accuracy(net, images, labels):
    """Percent of images (N, C, H, W) that a network in eval mode classifies as labels (N,)."""
    parts = zip(images.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True)
    return 100 * sum(is_correct(net, *part).sum().item() for part in parts) / len(labels)


def autoattack(net, images, labels, epsilon, num_classes):
    """Accuracy in percent under AutoAttack's standard version, linf, by the authors' package.

    Its targeted attacks aim at the nine likeliest other classes, or at all where there are fewer.
    UserError for fewer than four classes: the targeted DLR loss takes the four highest logits.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        what = f"--attacks autoattack needs the package pyautoattack ({error})"
        raise UserError(f"{what}: pip install pyautoattack") from error
    if num_classes < 4:
        what = f"the data set has {num_classes} classes, and AutoAttack's targeted attacks need 4"
        raise UserError(f"--attacks autoattack: {what}: name other attacks")
    attack = AutoAttack(net, eps=epsilon, device=images.device, seed=0)
    for targeted in (attack.apgd_targeted, attack.fab):
        targeted.n_target_classes = min(targeted.n_target_classes, num_classes - 1)
    adversarial, *_ = attack.run_standard_evaluation(images, labels)
    return accuracy(net, adversarial, labels)
