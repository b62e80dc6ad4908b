"""main.py's command line: flags from config.all_flags, lists of them, and what is to be done.

    request = parse_runs(["--dataset=mnist_fgsm_attack", "--seed", "0", "1"])

Nothing here imports torch, so that `--help` and a mistyped flag answer at once.
"""

import argparse
import itertools
import re
import shlex
import textwrap
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from attacks import ATTACKS, PARAMETERS
from config import (
    NO_TICKET,
    PRESET_OF,
    PRESETS,
    REGISTRIES,
    RunConfig,
    all_flags,
    own_ticket,
    resolve,
)
from data import attacked_already, describe, identity
from pruning import CRITERIA, PRUNE_TYPES
from store.saved import must_match, saved_config
from store.ticket import PRUNING, ticket_flags
from study import yaml_flags
from utils import OneLineParser, UserError, choose, nonempty, number, show, whole, words

# what is done with a study is not the study's
ONCE = ("dry_run", "print_commands", "resume")
GROUPS = {
    "experiment": "what is run",
    "pruning": "how weights are removed",
    "attack": "attacked images (all values on [0, 1] pixels)",
    "training": "how each round trains",
    "machine": "where it runs and what it keeps; none of these changes a result",
}
WHAT = (
    "Find winning lottery tickets in networks trained on clean, attacked or mixed images. Where a "
    "flag shows ..., it takes several values after a space, and the command trains the product of "
    "all such lists."
)
EXAMPLES = """examples:
  python main.py                                     dense and 34 pruned nets, no download
  python main.py --dataset=mnist_fgsm_attack --prune_percent=20 --prune_iterations=15 --end_iter=3
  python main.py --dataset=mnist --attack=pgd --epsilon=0.1 --mix_ratio=0.5 --prune_type=reinit
  python main.py --preset=frankle --dataset=mnist --seed=1
  python main.py --prune_type lt reinit --attack=fgsm --mix_ratio 0 0.5 1 --seed 0 1 2
                                                     the product of the lists: 18 runs
then: python plots.py runs/* -o plots/"""


def make_parser():
    """The argparse parser of main.py; unset flags are left out of its result."""
    for registry in REGISTRIES:
        registry.check()
    parser = OneLineParser(
        prog="main.py",
        usage="python main.py [--flag=value] [--flag value value ...] ...",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=Layout,
        description=textwrap.fill(WHAT, 98),
        epilog="\n\n".join(
            [
                _entries("prune types", PRUNE_TYPES),
                _entries("criteria", CRITERIA),
                _attacks(),
                _presets(),
                EXAMPLES,
            ]
        ),
    )
    groups = {name: parser.add_argument_group(name, why) for name, why in GROUPS.items()}
    for flag in all_flags():
        if flag.hidden:
            continue
        unset = flag.default is None or flag.default is False or flag.default == ""
        shown = " ".join(flag.default) if flag.kind is words else show(flag.default)
        default = "" if unset else f" (default: {shown})"
        default = " (default: the table below)" if flag.name in PARAMETERS else default
        names = f" [{', '.join(flag.names)}]" if flag.names else ""
        why = flag.why.replace("%", "%%") + default + names
        options = {"help": why}
        if flag.kind is bool:
            options["action"] = "store_true"
        elif flag.kind is words:
            options |= {"nargs": "+", "metavar": "NAME"}
        else:
            kind = nonempty if flag.kind is str else flag.kind
            options |= {"type": kind, "metavar": flag.name.upper()}
            # what changes a result can be a list: the command runs the product of its lists
            if flag.result or flag.name == "ticket":
                options["nargs"] = "+"
        added = groups[flag.group].add_argument(f"--{flag.name}", **options)
        if flag.names:
            added.completer = lambda names=tuple(flag.names), **_: names  # for a shell
    _add_what_is_no_flag_of_a_run(groups)
    return parser


def _add_what_is_no_flag_of_a_run(groups):
    groups["attack"].add_argument(
        "--attack_rate", type=number, metavar="PERCENT", nargs="+", help="mix_ratio in percent"
    )
    groups["pruning"].add_argument(
        "--reinit_draws",
        type=whole,
        metavar="K",
        help="K draws of fresh weights for each reinit run, a run each; answers take their mean",
    )
    presets = ", ".join(PRESETS)
    groups["experiment"].add_argument(
        "--preset", metavar="NAME", help=f"flags of the table below; explicit ones win [{presets}]"
    )
    groups["experiment"].add_argument(
        "--config", type=nonempty, metavar="FILE",
        help="a YAML file of flags, lists included; those of the command line override it",
    )  # fmt: skip
    groups["experiment"].add_argument(
        "--save_config", type=nonempty, metavar="FILE",
        help="write the explicit flags of this command as such a file, then do what it says",
    )  # fmt: skip
    machine = groups["machine"]
    machine.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="insist on going on with a run: FOLDER's, with its flags, or the one these flags name "
        "(the same command goes on by itself where it was)",
    )
    machine.add_argument(
        "--print_commands",
        action="store_true",
        help="print a command for each run, for GNU parallel or Slurm; run nothing",
    )
    machine.add_argument(
        "--dry_run",
        action="store_true",
        help="print the runs, done or to do, what is still to be attacked, and about how long it "
        "takes here (some steps are measured); run nothing",
    )


class Layout(argparse.RawDescriptionHelpFormatter):
    """argparse's layout, with `--seed SEED ...` for a list."""

    def _format_args(self, action, default_metavar):
        if action.nargs == "+":
            return f"{action.metavar or default_metavar} ..."
        return super()._format_args(action, default_metavar)


def _rows(title, rows):
    """A table of the epilog: (name, what it is) in two columns."""
    lines = [f"{title}:"]
    for name, text in rows:
        lines += textwrap.wrap(text, 98, initial_indent=f"  {name:15}", subsequent_indent=" " * 17)
    return "\n".join(lines)


def _entries(title, registry):
    return _rows(title, [(name, entry.why) for name, entry in registry.items()])


def _presets():
    """What each preset sets."""

    def text(value):
        if isinstance(value, dict):
            return " and ".join(f"{show(v)} for {attack}" for attack, v in value.items())
        return str(show(value))

    rows = []
    for name, flags in PRESETS.items():
        sets = ", ".join(f"{flag} {text(value)}" for flag, value in flags.items())
        rows.append((name, f"{PRESET_OF[name]}: {sets}"))
    return _rows("presets, which explicit flags override", rows)


def _attacks():
    """The table of the attacks and their parameters' defaults."""

    def text(value):
        if isinstance(value, tuple):
            gray, colour = value
            colour = f"{colour:g}" if colour > 1 else Fraction(colour).limit_denominator(255)
            return f"{gray:g} / {colour}"
        return f"{value:g}"

    lines = ["attacks and the defaults of their flags, gray / colour where images differ:"]
    for name, norms in ATTACKS.items():
        for norm, entry in norms.items():
            maker = " (data sets by DeepRobust)" if entry.dataset else ""
            maker = f" (of the test images, by {entry.omits})" if entry.omits else maker
            flags = ", ".join(f"{key} {text(value)}" for key, value in entry.defaults.items())
            lines.append(f"  {name:10}{norm:6}{flags}{maker}")
    return "\n".join(lines)


# Runs ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A command line: its runs, a command for each of them alone, and what is to be done.

    resume is None, "" or a folder; notes are lines to print first. tickets: the runs whose masks
    some of these take, where they are not among them; they are trained first. save: the YAML file
    that the explicit flags are to be written to, or None, and those flags.
    """

    configs: list
    tickets: list
    commands: list
    notes: list
    resume: str | None
    save: tuple
    dry_run: bool
    print_commands: bool


def parse_runs(argv=None):
    """Turn the command line into a Request, whose runs are the product of the flags' lists.

    UserError if it makes no sense.
    """
    given = explicit_flags(argv)
    save = given.pop("save_config", None)
    saved = {name: value for name, value in given.items() if name not in ONCE}
    resume, preset = given.pop("resume", None), given.pop("preset", None)
    _name_draws(given)
    asked = {name: given.pop(name, False) for name in ("dry_run", "print_commands")}
    kinds = {flag.name: flag.kind for flag in all_flags()}
    lists = {n: v for n, v in given.items() if isinstance(v, list) and kinds.get(n) is not words}
    for name, values in lists.items():
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise UserError(f"--{name} names {show(twice[0])} twice: each value once")
    products = itertools.product(*lists.values())
    combinations = [given | dict(zip(lists, values, strict=True)) for values in products]
    if resume and len(combinations) > 1:
        raise UserError(f"--resume={resume} goes on with one run: no flag can have several values")
    others = {"preset": preset, "resume": resume}
    others = {name: value for name, value in others.items() if value is not None}
    runs, used = {}, set()
    for flags in combinations:
        config, idle = one_run(dict(flags), resume, preset)
        used |= flags.keys() - idle
        run = (config, command_line(flags | others), flags, idle)
        *_, before, idle_before = runs.setdefault(config.run_name, run)
        differing = {name for name in flags if flags[name] != before[name]}
        if differing - idle - idle_before:
            what = f"two combinations of these flags are the same run, {config.run_name}"
            raise UserError(f"{what}: leave one out")
    notes = _notes_of_what_is_idle(given.keys() - used)
    notes += _warnings(combinations, [config for config, *_ in runs.values()], preset)
    if "reinit_draw" in lists and not any(run[0].prune_type == "reinit" for run in runs.values()):
        notes.append(
            f"note: --reinit_draws has no effect on these runs: {_why_idle('reinit_draw')}"
        )
    if len(runs) < len(combinations):
        same = f"{len(combinations) - len(runs)} of the {len(combinations)} combinations"
        what = "differ in flags that have no effect on them only, and are one run each"
        notes.append(f"note: {same} {what}")
    # a ticket comes before those that take its masks
    ordered = sorted(runs.values(), key=lambda run: own_ticket(run[0]) is not None)
    configs, commands, *_ = map(list, zip(*ordered, strict=True))
    tickets = _tickets(ordered, others)
    if tickets:
        kinds = sorted({config.prune_type for config in configs if own_ticket(config)})
        what = f"{' and '.join(kinds)} runs take the masks of the lt run with the same flags"
        notes.append(f"note: {what}, which is trained first if it is not there")
    commands = [command for _, command in tickets] + commands
    tickets = [config for config, _ in tickets]
    return Request(configs, tickets, commands, notes, resume, (save, saved), **asked)


def _warnings(given, configs, preset):
    """A line for each thing that is legal and hardly meant. given: explicit flags of each run."""
    lines, flags = [], PRESETS.get(preset, {})
    few = sorted({config.prune_percent for config in configs if config.prune_percent < 1})
    if few:
        what = f"--prune_percent={few[0]:g} removes {few[0]:g} percent of the weights a round"
        lines.append(f"{what}: a share of {few[0]:g} is --prune_percent={100 * few[0]:g}")
    if any(config.augment and config.dataset in ("digits", "mnist") for config in configs):
        lines.append("--augment flips and crops digits, and a flipped 2 is no digit")
    for name, place in dict.fromkeys((config.dataset, config.data_dir) for config in configs):
        if attacked_already(name, place):
            what = f"{name} holds attacked images, in training and all of the test images"
            lines.append(f'{what}: "clean" in lines, names and figures means as the file has them')
    for config in configs:
        count, size = config.attacked_of(config.batch_size), config.batch_size
        if config.adversarial and abs(count / size - config.mix_ratio) > 0.005:
            what = f"--mix_ratio={config.mix_ratio:g} of --batch_size={size}"
            lines.append(f"{what} attacks {count} images of each batch, {100 * count / size:.3g} %")
    last = [c for c in configs if PRUNE_TYPES[c.prune_type].last_rate and c.lr_schedule == "cosine"]
    if last:
        what = f"{last[0].prune_type} trains at the last rate of the schedule, and cosine ends at 0"
        right = "it hardly trains after pruning; rewind_lr runs the schedule again"
        lines.append(f"{what}: {right}")
    for name in ("arch_type", "dataset"):
        theirs = flags.get(name)
        others = [one[name] for one in given if theirs and one.get(name, theirs) != theirs]
        if others:
            what = f"--preset={preset} is of {theirs}, and its settings are tuned for that"
            lines.append(f"{what}: --{name}={others[0]} may need others")
    return [f"warning: {line}" for line in dict.fromkeys(lines)]


def explicit_flags(argv):
    """The explicit flags of a command line (a dict), over those of its --config file."""
    parser = make_parser()
    typed = vars(parser.parse_args(argv))
    path = typed.pop("config", None)
    if path is None:
        return typed
    words = yaml_flags.read(path)
    try:
        file = vars(parser.parse_args(words))
    except UserError as error:
        raise UserError(f"--config={path}: {error}") from None
    return yaml_flags.merged(file, typed)


def _tickets(runs, others):
    """(config, command) of each ticket that runs of parse_runs need and that is none of them."""
    names, found = {config.run_name for config, *_ in runs}, {}
    for config, _, flags, _ in runs:
        ticket = own_ticket(config)
        if ticket and ticket.run_name not in names:
            flags = {name: value for name, value in flags.items() if name != "reinit_draw"}
            command = command_line(flags | {"prune_type": "lt"} | others)
            found[ticket.run_name] = ticket, command
    return list(found.values())


def _name_draws(given):
    """`--reinit_draws=k` becomes reinit_draw 0 to k - 1."""
    draws = given.pop("reinit_draws", None)
    if draws is None:
        return
    if not 1 <= draws <= 1000:
        raise UserError(f"--reinit_draws={draws}: from 1 to 1000 is needed")
    if given.setdefault("reinit_draw", list(range(draws))) != list(range(draws)):
        raise UserError("--reinit_draw and --reinit_draws both name draws: leave one out")


def _notes_of_what_is_idle(names):
    """A note for each flag that none of the runs uses; UserError for a parameter of an attack."""
    notes = [f"--{name} has no effect on these runs: {_why_idle(name)}" for name in sorted(names)]
    if names & PARAMETERS.keys():
        raise UserError(next(note for note in notes if note[2:].split()[0] in PARAMETERS))
    return [f"note: {note}" for note in notes]


def parse(argv=None):
    """Turn the command line of one run into (RunConfig, resume)."""
    request = parse_runs(argv)
    if len(request.configs) != 1:
        raise UserError(f"these flags name {len(request.configs)} runs where one is needed")
    return request.configs[0], request.resume


def command_line(flags):
    """The shell command of one run, from its explicit flags."""
    parts = ["python", "main.py"]
    for name, value in flags.items():
        if value is True:
            parts.append(f"--{name}")
        elif isinstance(value, list):
            parts += [f"--{name}", *value]
        else:
            parts.append(f"--{name}={value!r}" if isinstance(value, float) else f"--{name}={value}")
    return shlex.join(parts)


def one_run(given, resume=None, preset=None):
    """(RunConfig, names of the flags in `given` that have no effect on it).

    given: explicit flags, over a preset or over the flags of the folder `resume`.
    """
    # what these two say is explicit and overrides a preset's, or must match a saved run's
    _split_dataset_name(given)
    _rate_to_ratio(given)
    explicit = dict(given)
    if preset:
        choose("preset", preset, list(PRESETS))
        own = (*PRUNING, "prune_iterations") if given.get("ticket") else ()  # a ticket's, then
        given = {n: v for n, v in PRESETS[preset].items() if n not in own} | given
    config = of_folder(given, resume) if resume else configure(given)
    resolved = config.flags()
    idle = {n for n in resolved if n in explicit and not _same(n, explicit[n], resolved[n])}
    return config, idle - {"ticket"}


def configure(given):
    """The RunConfig of flags, after a look at the data set and the ticket that they name."""
    given = given | ticket_flags(given)
    name = given.get("dataset", "digits")
    folder = given.get("data_dir", "data")
    in_shape, _ = describe(name, folder)
    return resolve(given, in_shape, identity(name, folder))


def of_folder(given, folder):
    """The RunConfig of the run in a folder, with what `given` says of where it is computed.

    What changes a result is the saved run's, word for word: an older version kept flags in its hash
    that have no effect on the run. UserError if `given` asks for another result.
    """
    saved = saved_config(folder)["flags"]
    names = {flag.name for flag in all_flags()}
    if own_ticket(RunConfig.of(saved)):  # it is found again, wherever the folders are now
        names -= NO_TICKET.keys()
    known = {name: saved[name] for name in saved.keys() & names}
    known["runs_dir"] = str(Path(folder).parent)
    if Path(folder).name in ("", "..", "."):  # named from within
        known["runs_dir"] = str(Path(folder).resolve().parent)
    try:
        before, config = configure(dict(known)), configure(known | given)
    except (TypeError, AttributeError, ValueError) as error:
        what = f"its config.json is damaged ({error})"
        raise UserError(f"--resume={folder}: {what}") from None
    must_match(config, before.flags(), folder)
    places = {flag.name: getattr(config, flag.name) for flag in all_flags() if not flag.result}
    return RunConfig.of(saved).replace(**places)


def _same(name, given, resolved):
    return tuple(given) == tuple(resolved) if isinstance(given, list) else given == resolved


def _why_idle(name):
    """What a flag is for, in words."""
    if name in PARAMETERS:
        norms = {a: entries.values() for a, entries in ATTACKS.items()}
        having = [a for a, entries in norms.items() if any(name in e.defaults for e in entries)]
        return f"it is of {', '.join(having)}; see the table in --help"
    reasons = {
        "momentum": "it is of --optimizer=sgd",
        "trades_beta": "it is of --attack_mode=trades",
        "precision": "tf32 is of GPUs",
        "valid_freq": "--valid_steps says when to validate",
        "reinit_draw": "it is of --prune_type=reinit",
    }
    return reasons.get(name, "it is of attacks that are made beforehand")


def _split_dataset_name(given):
    """`mnist_fgsm_attack` becomes dataset mnist, attack fgsm; two different attacks are an error.

    An attack's own name may have underscores, so a known one is looked for first.
    """
    name = given.get("dataset", "")
    match = re.fullmatch(r"(.+)_([^_]+)_attack", name)
    if not match:
        return
    known = [attack for attack in ATTACKS if re.fullmatch(rf".+_{re.escape(attack)}_attack", name)]
    attack = max(known, key=len) if known else choose("attack", match[2], list(ATTACKS))
    if given.get("attack") not in (None, attack):
        other = f"--attack says {given['attack']!r}"
        raise UserError(f"--dataset={name} says attack {attack!r} and {other}: leave one out")
    given["dataset"] = name.removesuffix(f"_{attack}_attack")
    given["attack"] = attack


def _rate_to_ratio(given):
    rate = given.pop("attack_rate", None)
    if rate is not None:
        if given.get("mix_ratio") not in (None, rate / 100):
            ratio = f"--mix_ratio={given['mix_ratio']:g}"
            raise UserError(f"--attack_rate={rate:g} (percent) and {ratio} differ: leave one out")
        given["mix_ratio"] = rate / 100
