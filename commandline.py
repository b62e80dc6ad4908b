"""The command line: main.py's flags from RunConfig's fields, lists of them, and how every program tells of an error.

    request = parse_runs(["--dataset=mnist_fgsm_attack", "--seed", "0", "1"])

Nothing here imports torch, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import dataclasses
import itertools
import re
import shlex
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from config import ATTACKS, PRESETS, RunConfig, must_match, nonempty, number, resolve, saved_config, show, whole, words
from utils import UserError, choose, devnull, one_line, open_streams

GROUPS = {
    "experiment": "what is run",
    "pruning": "how weights are removed",
    "attack": "attacked images (all values on [0, 1] pixels)",
    "training": "how each round trains",
    "machine": "where it runs and what it keeps; none of these changes a result",
}


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and name the nearest valid flag."""

    def error(self, message):
        """Raise UserError instead of printing the usage."""
        known = [name for action in self._actions for name in action.option_strings]
        if message.startswith("unrecognized arguments: "):
            choose("flag", message.split(": ", 1)[1].split(" ")[0].split("=")[0], known, "--help lists them")
        raise UserError(message)

    def run(self, argv, work, parse=None):
        """Call work with the parsed command line; returns the exit code. What the user can mend is one line on stderr and 2."""
        open_streams()
        args = None
        try:
            args = (parse or self.parse_args)(argv)
            work(args)
        except UserError as error:
            print(f"{self.prog}: error: {one_line(error)}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            sys.stdout = devnull()  # or Python tries again as it ends
            print(f"{self.prog}: error: standard output was closed before the end: what was not written yet is missing", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"{self.prog}: error: {error.filename or getattr(args, 'output', 'a file')} cannot be written ({error.strerror or error})", file=sys.stderr)
            return 2
        return 0


def make_parser():
    """The argparse parser of main.py, built from RunConfig's fields; unset flags are left out of its result."""
    parser = OneLineParser(
        prog="main.py",
        usage="python main.py [--flag=value ...]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Find winning lottery tickets in networks trained on clean, attacked or mixed images.",
        epilog=_epilog(),
    )
    groups = {name: parser.add_argument_group(name, why) for name, why in GROUPS.items()}
    for item in dataclasses.fields(RunConfig):
        note, group = item.metadata, groups[item.metadata["group"]]
        if note["why"].startswith("not a flag"):
            continue
        default = "" if item.default in (None, "", False) else f" (default: {show(item.default)})"
        why = note["why"].replace("%", "%%") + default
        if note["kind"] is bool:
            group.add_argument(f"--{item.name}", action="store_true", help=why)
            continue
        if note["kind"] is words:
            group.add_argument(f"--{item.name}", nargs="+", metavar="NAME", help=f"{why} [{', '.join(note['names'])}]")
            continue
        if note["names"]:
            why += f" [{', '.join(note['names'])}]"
        # what changes a result can be a list: the command runs the product of its lists
        several = {"nargs": "+"} if note["result"] or item.name == "ticket" else {}
        kind = note["kind"] if note["kind"] in (number, whole) else nonempty
        group.add_argument(f"--{item.name}", type=kind, metavar=item.name.upper(), help=why, **several)
    groups["attack"].add_argument("--attack_rate", type=number, metavar="PERCENT", nargs="+", help="mix_ratio in percent")
    groups["experiment"].add_argument("--preset", metavar="NAME", help=f"a set of flags that explicit flags override [{', '.join(PRESETS)}]")
    groups["machine"].add_argument(
        "--resume", nargs="?", const="", metavar="FOLDER",
        help="insist on going on with a run: FOLDER's, with its flags, or the one these flags name "
        "(the same command goes on by itself where it was)",
    )  # fmt: skip
    groups["machine"].add_argument("--print_commands", action="store_true", help="print a command for each run, for GNU parallel or Slurm; run nothing")
    groups["machine"].add_argument("--dry_run", action="store_true", help="print the runs, done or to do, and which would train together; run nothing")
    return parser


@dataclass(frozen=True)
class Request:
    """A command line: its runs, a command for each of them alone, and what is to be done with them. resume is None, "" or a folder."""

    configs: list
    commands: list
    resume: str | None
    dry_run: bool
    print_commands: bool


def parse_runs(argv=None):
    """Turn the command line into a Request, whose runs are the product of the flags' lists; UserError if it makes no sense."""
    given = vars(make_parser().parse_args(argv))
    resume, preset = given.pop("resume", None), given.pop("preset", None)
    dry_run, print_commands = given.pop("dry_run", False), given.pop("print_commands", False)
    lists = {name: values for name, values in given.items() if isinstance(values, list) and name != "eval_attacks"}
    for name, values in lists.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"--{name} names {show(twice[0])} twice: each value once")
    each = [given | dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    others = {name: value for name, value in (("preset", preset), ("resume", resume)) if value is not None}
    commands = [command_line(flags | others) for flags in each]
    configs = [_one_run(flags, resume, preset) for flags in each]
    for name, same in itertools.groupby(sorted(configs, key=lambda c: c.run_name), key=lambda c: c.run_name):
        if len(list(same)) > 1:
            raise UserError(f"two combinations of these flags are the same run, {name}: leave one out")
    if resume and len(configs) > 1:
        raise UserError(f"--resume={resume} goes on with one run: no flag can have several values")
    return Request(configs, commands, resume, dry_run, print_commands)


def command_line(flags):
    """The shell command of one run, from its explicit flags."""
    words = ["python", "main.py"]
    for name, value in flags.items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *value]
        else:
            words.append(f"--{name}={value!r}" if isinstance(value, float) else f"--{name}={value}")
    return shlex.join(words)


def parse(argv=None):
    """Turn the command line of one run into (RunConfig, resume)."""
    request = parse_runs(argv)
    if len(request.configs) != 1:
        raise UserError(f"these flags name {len(request.configs)} runs where one is needed")
    return request.configs[0], request.resume


def _one_run(given, resume, preset):
    """The RunConfig of one combination of explicit flags, over a preset or over the flags of the folder `resume`."""
    # what these two say is explicit and overrides a preset's, or must match a saved run's
    _split_dataset_name(given)
    _rate_to_ratio(given)
    if preset:
        choose("preset", preset, list(PRESETS))
        given = PRESETS[preset] | given
    if not resume:
        return resolve(given)
    saved = saved_config(resume)["flags"]
    try:
        config = resolve({**saved, "runs_dir": str(Path(resume).parent), **given})
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"--resume={resume}: its config.json is damaged ({error})") from None
    must_match(config, saved, resume)
    return config


def _split_dataset_name(given):
    """`mnist_fgsm_attack` becomes dataset mnist, attack fgsm; two different attacks are an error."""
    name = given.get("dataset", "")
    match = re.fullmatch(r"(.+)_([^_]+)_attack", name)
    if not match:
        return
    given["dataset"], attack = match.groups()
    choose("attack", attack, list(ATTACKS))
    if given.get("attack") not in (None, attack):
        raise UserError(f"--dataset={name} says attack {attack!r} and --attack says {given['attack']!r}: leave one out")
    given["attack"] = attack


def _rate_to_ratio(given):
    rate = given.pop("attack_rate", None)
    if rate is not None:
        if given.get("mix_ratio") not in (None, rate / 100):
            raise UserError(f"--attack_rate={rate:g} (percent) and --mix_ratio={given['mix_ratio']:g} differ: leave one out")
        given["mix_ratio"] = rate / 100


def _epilog():
    def pair(values):
        return "-" if values[0] is None else f"{values[0]:g} / {Fraction(values[1]).limit_denominator(255)}"

    table = [f"  {'attack':10}{'norm':6}{'epsilon gray / colour':>23}{'steps':>7}{'step size gray / colour':>25}   made by"]
    for name, norms in ATTACKS.items():
        for norm, a in norms.items():
            maker = "DeepRobust" if "deeprobust" in a.make else "attacks.py"
            table.append(f"  {name:10}{norm:6}{pair(a.epsilon):>23}{a.steps:>7}{pair(a.step_size):>25}   {maker}")
    return "defaults of the attacks, by kind of image:\n" + "\n".join(table) + (
        "\n\nexamples:\n"
        "  python main.py                                     dense and 34 pruned nets on digits, no download\n"
        "  python main.py --dataset=mnist_fgsm_attack --prune_percent=20 --prune_iterations=15 --end_iter=3\n"
        "  python main.py --dataset=mnist --attack=pgd --epsilon=0.1 --mix_ratio=0.5 --prune_type=reinit\n"
        "  python main.py --preset=frankle --dataset=mnist --seed=1\n"
        "  python main.py --prune_type lt reinit --attack=fgsm --mix_ratio 0 0.5 1 --seed 0 1 2     the product: 18 runs\n"
        "then: python plots.py runs/* -o plots/"
    )  # fmt: skip
