"""Attack every saved ticket: `python attacks.py evaluate runs/* --attacks all`.

For each round whose trained weights were kept, clean and attacked accuracy on the test set, white-box. The table goes
to the terminal and to attacked_evaluation-<attacks>-<examples>.csv in each run folder. "autoattack" is pyautoattack, the authors' own package
of AutoAttack's standard version (Croce & Hein 2020): APGD-CE, targeted APGD-DLR, targeted FAB and Square.
"""

import dataclasses

from commandline import OneLineParser
from config import ATTACKS, RunConfig, attack_settings, number
from runfolder import RunFolder, read_rounds
from utils import UserError, choose, eval_examples, is_small, pick_device, set_threads, write_csv


def main(argv=None):
    """Evaluate the run folders on the command line; returns the exit code."""
    parser = OneLineParser(prog="attacks.py", description="Clean and attacked accuracy of every saved ticket.")
    command = parser.add_subparsers(required=True, metavar="evaluate").add_parser("evaluate", help=parser.description, description=parser.description)
    command.add_argument("runs", nargs="+", help="run folders: runs/*")
    command.add_argument("--attacks", nargs="+", default=["fgsm", "pgd"], metavar="NAME", help=f"all, autoattack, {', '.join(ATTACKS)}")
    command.add_argument("--examples", type=int, default=1000, help="test images to attack (default: 1000)")
    command.add_argument("--epsilon", type=number, help="radius of the linf attacks (default: the run's, else the data set's)")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")

    def work(args):
        names = [*ATTACKS, "autoattack"] if args.attacks == ["all"] else [choose("attack", name, [*ATTACKS, "autoattack"]) for name in args.attacks]
        if args.examples < 1:
            raise UserError(f"--examples={args.examples}: at least 1 is needed")
        if args.epsilon is not None and not 0 <= args.epsilon <= 1:
            raise UserError(f"--epsilon={args.epsilon:g}: from 0 to 1 is needed (pixels are on [0, 1]; 8/255 is accepted)")
        folders = [RunFolder(path) for path in args.runs]
        flags = [folder.flags() for folder in folders]  # a folder that is not a run is found before the work starts
        for folder, saved in zip(folders, flags, strict=True):
            evaluate_run(folder, saved, names, args)

    return parser.run(argv, work)


def evaluate_run(folder, flags, names, args):
    """Attack the network of every round of one run; writes and prints its table."""
    import archs
    import data
    import train

    config = RunConfig.of(flags)
    if args.epsilon is not None:
        config = dataclasses.replace(config, epsilon=args.epsilon, **({} if config.norm == "linf" else {"attack": None, "norm": "linf", "attack_steps": 1}))
    device = pick_device(args.device, None)
    set_threads(0, small=is_small(config.arch_type))
    dataset = data.load_as_trained(config)
    model = archs.build(config.arch_type, dataset.in_shape, dataset.num_classes, data.channel_stats(dataset.train_images))
    found = []
    for row in read_rounds(folder):
        if not folder.weights(row["round"]).exists():
            continue
        weights, masks = folder.network(row["round"], model, row["kept"])
        cohort = train.Cohort(model, [weights], [masks], device)
        result = {"round": row["round"], "density": row["density"], **evaluate_net(cohort, config, dataset, names, args.examples, device)}
        found.append(result)
        print(f"{folder.path} " + ", ".join(f"{name} {value:.4g}" for name, value in result.items()), flush=True)
    if not found:
        raise UserError(f"{folder.path} keeps no trained weights: train it with --save_weights=best")
    radius = "" if args.epsilon is None else f"-epsilon{args.epsilon:g}"
    # what it was made with is in its name: another evaluation writes another file
    write_csv(folder.path / f"attacked_evaluation-{'+'.join(names)}-{args.examples}{radius}.csv", found)


def evaluate_net(cohort, config, dataset, names, examples, device):
    """Clean accuracy on the whole test set, and each attack's accuracy (and, where it minimises the distance, mean L2) on `examples` of it."""
    import torch

    import pool
    import train

    test, labels = pool.to_float(dataset.test_images, device), torch.from_numpy(dataset.test_labels).to(device)
    chosen = eval_examples(len(labels), examples)
    x, y = test[chosen.to(device)], labels[chosen.to(device)]
    result = {"clean": train.evaluate(cohort, test, labels)[1].item(), "clean_of_examples": train.evaluate(cohort, x, y)[1].item()}
    for name in names:
        if name == "autoattack":
            epsilon = attack_settings(config, "pgd", dataset.in_shape).epsilon
            result[name] = autoattack(cohort.model, x, y, epsilon)
            continue
        settings = attack_settings(config, name, dataset.in_shape)
        accuracy, l2, _ = train.attack_whitebox(cohort, settings, x, y, chosen.numpy())
        result[name] = accuracy.item()
        if settings.epsilon is None:
            result[f"{name}_l2"] = l2.item()
    return result


def autoattack(model, images, labels, epsilon):
    """Accuracy in percent under AutoAttack's standard version, linf, by the authors' package."""
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise UserError(f"--attacks autoattack needs the package pyautoattack ({error}): pip install pyautoattack") from error
    from attacks import is_correct

    model.eval()
    adversarial, *_ = AutoAttack(model, eps=epsilon, device=images.device, seed=0).run_standard_evaluation(images, labels)
    return 100 * is_correct(model, adversarial, labels).float().mean().item()
