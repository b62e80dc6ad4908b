"""`python attacks.py`: saved tickets attacked and drawn, and attacked data sets written to files.

    python attacks.py evaluate runs/* --attacks fgsm pgd -o plots
    python attacks.py export --dataset=digits --attack=fgsm --mix_ratio=0.5 -o data/digits_fgsm.npz

torch is imported once the flags make sense.
"""

import json
from pathlib import Path

import data
from attacked.progress import Progress
from attacks import Making
from config import all_flags
from results import robustness
from study.request import explicit_flags, parse
from utils import OneLineParser, UserError

# flags of main.py that change an attacked data set, or say where and how fast it is made
USED = {"dataset", "seed", "val_fraction", "train_fraction", "attack_rate", "preset", "config"}
USED |= {flag.name for flag in all_flags() if flag.group == "attack"}
USED -= {"eval_attacks", "eval_examples", "eval_steps", "eval_step_size"}
USED |= {"device", "gpu", "threads", "data_dir", "cache_dir"}


def main(argv=None):
    """Evaluate tickets or export images as the command line says; returns the exit code."""
    parser, commands = make_parsers()

    def read(argv):
        args, rest = parser.parse_known_args(argv)
        if rest and args.work is not export:
            commands["evaluate"].error(f"unrecognized arguments: {' '.join(rest)}")
        args.flags = rest
        return args

    return parser.run(argv, lambda args: args.work(args), read)


def make_parsers():
    """The parser of `python attacks.py`, and those of its commands by their names (a dict)."""
    parser = OneLineParser(prog="attacks.py", description="Attack saved tickets, or data sets.")
    commands = parser.add_subparsers(required=True, metavar="evaluate|export")
    robustness.add_command(commands, Progress)
    add_export(commands)
    return parser, commands.choices


def add_export(commands):
    """Add the command `export` to argparse's subparsers."""
    what = "Write an attacked data set as an .npz that --dataset reads."
    command = commands.add_parser(
        "export",
        help=what,
        description=what,
        usage="python attacks.py export --dataset=NAME --attack=NAME [main.py's flags] -o FILE.npz",
        epilog="Every other flag is main.py's: --dataset, --attack, --mix_ratio, --seed, "
        "--epsilon, --norm, --surrogate, --data_dir and so on; python main.py --help explains them "
        "all.",
        allow_abbrev=False,
    )
    where = "the .npz to write; main.py reads it by --dataset=NAME --data_dir=FOLDER"
    command.add_argument("-o", "--output", required=True, metavar="FILE", help=where)
    command.add_argument("--force", action="store_true", help="replace FILE if it is there")
    command.set_defaults(work=export)


def export(args):
    """Write the data set that the flags name to args.output; UserError, before any work, if not."""
    config, path = config_of(args.flags), Path(args.output)
    check_attack(config)
    check_file(path, config, args.force)
    import numpy as np

    from attacked import export as attacked_export
    from attacked import quality
    from engine.machine import flush_denormals, pick_device
    from store.files import write_atomic

    flush_denormals()  # a surrogate is the same whoever trains it
    dataset = data.load(config.dataset, config.data_dir)
    device = pick_device(config.device, config.gpu)
    arrays, description, report = attacked_export.export(config, dataset, device)
    whole = arrays | {"description": np.array(json.dumps(description, indent=2))}
    write_atomic(path, lambda temporary: np.savez_compressed(temporary, **whole))
    print(quality.describe(config, report))
    print(attacked_export.told(description))
    print(attacked_export.meaning(arrays, description))
    print(f"{path}: read it by --dataset={path.stem} --data_dir={path.parent}")


def config_of(flags):
    """The RunConfig of main.py's flags; notes those that change nothing in a data set."""
    named = explicit_flags(flags)
    for name in ("resume", "dry_run", "print_commands", "save_config"):
        if name in named:
            raise UserError(f"--{name} is of runs, and export makes none: leave it out")
    config, _ = parse(flags)
    if idle := [f"--{name}" for name in named if name not in USED]:
        print(f"note: {', '.join(idle)}: no effect on the images of a data set")
    return config


def check_attack(config):
    """UserError unless a run of these flags has images that are attacked beforehand."""
    if not config.attack:
        names = ", ".join(Making())
        raise UserError(f"no attack is named: add --attack=NAME, one of {names}")
    if config.omits:
        raise UserError(f"--attack={config.attack} attacks no training image: it leaves some out")
    if config.adversarial:
        what = f"--attack_mode={config.attack_mode} attacks each batch anew"
        raise UserError(f"{what}: there is no attacked set to write (leave --attack_mode out)")


def check_file(path, config, force):
    """UserError unless `path` is a file that can be written, and read by --dataset afterwards."""
    if path.suffix != ".npz":
        raise UserError(f"-o {path}: a name that ends in .npz is needed: --dataset reads no other")
    data.check_name(path.stem)
    if path.stem in data.DATASETS:
        what = f"--dataset={path.stem} is a data set of the tool's own"
        raise UserError(f"-o {path}: {what}, so this file would never be read: name it otherwise")
    if path.stem.endswith("_attack"):
        what = f"--dataset={path.stem} would be read as a data set and an attack on it"
        raise UserError(f"-o {path}: {what}: name it otherwise")
    source = Path(config.data_dir) / f"{config.dataset}.npz"
    if path.exists() and source.exists() and path.samefile(source):
        raise UserError(f"-o {path} is the data set that is attacked: name another file")
    if path.is_dir():
        raise UserError(f"-o {path} is a folder: name a file in it")
    if path.exists() and not force:
        raise UserError(f"{path} exists: remove it, name another file, or replace it by --force")
    robustness.check_folder(path.parent)
