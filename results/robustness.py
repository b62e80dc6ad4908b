"""Attack every saved ticket: `python attacks.py evaluate runs/* --attacks all`.

For each round whose trained weights were kept, clean and attacked accuracy on the test set,
white-box. The table goes to the terminal and to attacked_evaluation-<attacks>-<examples>.csv in
each run folder, the figures (results/robustness_figures.py) to a folder of their own. "autoattack"
is pyautoattack, the authors' own package of AutoAttack's standard version (Croce & Hein 2020):
APGD-CE, targeted APGD-DLR, targeted FAB and Square.
"""

import contextlib
import functools
import math
import sys
import tempfile
import types
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import archs
from attacks import ATTACKS, Making, attack_test_images, checked, doubt, eval_batch, is_correct
from config import RunConfig, attack_settings
from engine.machine import pick_device, set_threads
from results.robustness_figures import Evaluated, draw_all, too_short
from results.table import begun, expand
from results.ticket import finished_rounds, load_data, load_ticket, to_float
from store.files import read_csv, write_csv
from store.runfolder import RunFolder, are_numbers
from store.saved import saved_run
from utils import Lazy, OneLineParser, UserError, choose, eval_examples, number, show, whole

torch = Lazy("torch")  # a mistyped flag need not wait for it
AUTOATTACK_STEPS = 1000  # about as many as it takes: for telling how far the work is


def main(argv=None):
    """Evaluate the run folders on the command line; returns the exit code."""
    parser = OneLineParser(prog="attacks.py")
    add_command(parser.add_subparsers(required=True, metavar="evaluate"))
    return parser.run(argv, lambda args: args.work(args))


def untold(title, total, units, say):
    """Stands for a Progress where nobody is told how far the work is."""
    return contextlib.nullcontext(types.SimpleNamespace(done=0, reach=lambda done: None))


def add_command(commands, progress=untold):
    """Add the command `evaluate` to argparse's subparsers.

    progress(title, total, units, say): a context whose value has reach(done), as
    attacked.progress.Progress: readers of runs import nothing of what makes them.
    """
    what = "Clean and attacked accuracy of every saved ticket, as tables and as figures."
    command = commands.add_parser("evaluate", help=what, description=what, allow_abbrev=False)
    add = command.add_argument
    add("runs", nargs="+", help="run folders: runs/*")
    names = ", ".join(Making())
    add("--attacks", nargs="+", default=["fgsm", "pgd"], help=f"all, autoattack, {names}")
    add("--examples", type=int, default=1000, help="test images to attack (default: 1000)")
    which = "only these rounds, for attacks that are dear (default: all whose weights were kept)"
    add("--rounds", type=whole, nargs="+", metavar="N", help=which)
    radius = "radius of the linf attacks (default: the run's, else the data set's)"
    add("--epsilon", type=number, help=radius)
    several = "several radii, rising, for a curve of accuracy against the radius"
    add("--epsilons", type=number, nargs="+", metavar="EPSILON", help=several)
    steps = "steps of the iterative ones within a radius, at their default length "
    steps += "(default: as the run was tested)"
    add("--eval_steps", type=int, default=0, metavar="N", help=steps)
    where = "where PNG and PDF files go (default: plots)"
    add("-o", "--output", default="plots", metavar="FOLDER", help=where)
    add("--force", action="store_true", help="attack again what an earlier call has attacked")
    add("--data_dir", help="where the data set is (default: the run's own)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    command.set_defaults(work=functools.partial(evaluate, progress=progress))


def evaluate(args, progress=untold):
    """Attack the runs of the parsed command line and draw what is found.

    UserError before any work if one is unsound.
    """
    names, radii = asked(args)
    paths = begun(expand(args.runs))
    if not paths:
        raise UserError("none of these folders is a run that has begun")
    check_folder(args.output)
    device = pick_device(args.device, None)
    load = functools.lru_cache(2)(load_data)  # the runs of a study share theirs
    runs = [Job.of(path, saved_run(path), None, names, args) for path in paths]
    there = [len(load(placed(run.config), args.data_dir).test_labels) for run in runs]
    jobs = [
        Job.of(run.path, run.config, radius, names, args, count)
        for run, count in zip(runs, there, strict=True)
        for radius in radii
    ]
    found = {job: job.made_before() for job in jobs}
    left = {job: [n for n in job.rounds if args.force or n not in found[job]] for job in jobs}
    total = sum(len(rounds) * job.steps() for job, rounds in left.items())
    for job in jobs:
        if not left[job]:
            say(f"found {job.file} (--force attacks again)")
    for text in dict.fromkeys(
        [*uneven(runs, names), *(text for job in jobs for text in job.warnings())]
    ):
        say(text)
    with progress("attacking tickets", total, "gradient steps", say) as told:
        for job in jobs:
            if left[job]:
                dataset = load(placed(job.config), args.data_dir)
                if args.force:
                    job.forget(left[job])  # so a stopped call leaves none of them
                found[job] |= attack_run(job, left[job], dataset, args, device, told)
    done = [job.evaluated(found[job]) for job in jobs]
    draw_all(done, names, Path(args.output), bool(args.epsilons), args.data_dir, say)


def say(text):
    """Print a line, above a progress bar where there is one, at once also into a file."""
    tqdm.write(text)
    sys.stdout.flush()


def uneven(runs, names):
    """Warnings of attacks that test some of these Jobs' runs by more steps than others."""
    for name in names:
        values = [dict(job.settings(name).values) for job in runs if name != "autoattack"]
        steps = sorted({value.get("attack_steps", 1) for value in values})
        starts = sorted({value.get("restarts", 1) for value in values})
        some = f"these runs are tested by {name} of"
        if len(steps) > 1:
            right = f"--eval_steps={steps[-1]} makes them comparable"
            right = right if has_radius(name) else "they are not comparable by it"
            yield f"warning: {some} {' or '.join(map(str, steps))} steps: {right}"
        if len(starts) > 1:
            right = "they are not comparable by it"
            yield f"warning: {some} {' or '.join(map(str, starts))} random starts: {right}"


def asked(args):
    """(names of the attacks, radii) of a parsed command line; [None] is each run's own radius.

    UserError if they make no sense.
    """
    known = [*Making(), "autoattack"]
    if args.epsilons and args.attacks == ["all"]:
        known = [name for name in known if has_radius(name)]
    names = [choose("attack", name, known) for name in args.attacks if args.attacks != ["all"]]
    if len(set(names)) < len(names):
        raise UserError(f"--attacks {' '.join(args.attacks)}: each attack once")
    if args.examples < 1:
        raise UserError(f"--examples={args.examples}: at least 1 is needed")
    if args.rounds and len(set(args.rounds)) < len(args.rounds):
        raise UserError(f"--rounds {' '.join(map(str, args.rounds))}: each round once")
    if args.eval_steps < 0:
        raise UserError(f"--eval_steps={args.eval_steps}: at least 1 is needed")
    if args.epsilon is not None and args.epsilons:
        raise UserError("--epsilon and --epsilons both name radii: leave one out")
    for flag, values in (("epsilon", [args.epsilon]), ("epsilons", args.epsilons or [])):
        for value in values:
            if value is not None and not 0 <= value <= 1:
                right = "from 0 to 1 is needed (pixels are on [0, 1]; 8/255 is accepted)"
                raise UserError(f"--{flag}={value:g}: {right}")
    named = [float(f"{one:g}") for one in args.epsilons or ()]  # by which the files are called
    if named != sorted(set(named)):
        shown = " ".join(map(str, map(show, args.epsilons)))
        raise UserError(f"--epsilons {shown}: a list that rises is needed, each radius once")
    without = [name for name in names if args.epsilons and not has_radius(name)]
    if without:
        what = f"{without[0]} has no radius, it looks for the least distance"
        raise UserError(f"--epsilons: {what}: evaluate it in a command of its own")
    return names or known, args.epsilons or [args.epsilon]


def has_radius(name):
    """Whether an attack stays within a radius, and does not look for the least distance."""
    return name == "autoattack" or not next(iter(ATTACKS[name].values())).minimal()


def check_folder(folder):
    """UserError, before any work, unless files can be written to `folder`, which may not be yet."""
    place = Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"-o {folder}: {place} is no folder")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UserError(f"-o {folder}: {place} cannot be written to ({error.strerror})") from None


def placed(config):
    """What of a run says which data set it has, as a key for load_data."""
    return RunConfig().replace(
        dataset=config.dataset, data_dir=config.data_dir, data_id=config.data_id
    )


@dataclass(frozen=True, eq=False)
class Job:
    """What one file tells: a run's rounds, attacked within one radius."""

    path: Path
    names: list  # of the attacks
    config: RunConfig  # as it was trained
    tested: RunConfig  # as it is tested, at the radius
    radius: float | None  # None: its own
    densities: dict  # round -> density, of the finished rounds
    rounds: list  # those that are asked for; their trained weights were kept
    examples: int
    file: Path

    @classmethod
    def of(cls, path, config, radius, names, args, there=math.inf):
        """The Job of a run folder; UserError if it keeps no trained weights.

        there: how many test images there are, whatever is asked for.
        """
        folder, tested, shown = RunFolder(path), config, ""
        if args.eval_steps:
            shown, tested = (
                f"-steps{args.eval_steps}",
                config.replace(eval_steps=args.eval_steps, eval_step_size=None),
            )
        if radius is not None:
            shown, tested = f"{shown}-epsilon{radius:g}", tested.replace(epsilon=radius)
            if config.norm != "linf":  # its own attack has a radius of another kind
                tested = tested.replace(attack=None, norm="linf", attack_steps=1)
        elif "autoattack" in names and config.norm != "linf":
            what = f"--attacks autoattack is in linf, and {path} has an attack in {config.norm}"
            raise UserError(f"{what}: name a radius by --epsilon")
        densities = {row["round"]: row["density"] for row in finished_rounds(folder)}
        kept = [n for n in densities if folder.weights(n).exists()]
        if not kept:
            raise UserError(f"{path} keeps no trained weights: train it with --save_weights=best")
        for asked_for in args.rounds or ():
            if asked_for not in kept:
                right = f"it has those of {', '.join(map(str, kept))}"
                raise UserError(f"--rounds: {path} keeps no weights of round {asked_for}: {right}")
        rounds = [n for n in kept if not args.rounds or n in args.rounds]
        # what it was made with is in its name: another evaluation writes another file
        examples = min(args.examples, there)
        made_with = f"{'+'.join(names)}-{examples}{shown}"
        file = folder.path / f"attacked_evaluation-{made_with}.csv"
        return cls(path, names, config, tested, radius, densities, rounds, examples, file)

    def made_before(self):
        """{round: row} that earlier calls have written, of these attacks.

        They are of finished rounds, all numbers, and no older than the weights that are there.
        """
        try:
            rows = read_csv(self.file)
        except UserError:
            return {}
        columns = ["clean", "clean_of_examples", *self.names]
        columns += [f"{name}_l2" for name in self.names if not has_radius(name)]
        rows = {
            row["round"]: row
            for row in rows
            if row.get("density") == self.densities.get(row.get("round"), math.nan)
            and are_numbers(row, columns)
        }
        weights = [RunFolder(self.path).weights(n) for n in rows]
        newest = max((path.stat().st_mtime_ns for path in weights if path.exists()), default=0)
        return rows if rows and self.file.stat().st_mtime_ns >= newest else {}

    def forget(self, rounds):
        """Take these rounds out of the table."""
        found = {n: row for n, row in self.made_before().items() if n not in rounds}
        if found:
            self.write(found)
        else:
            self.file.unlink(missing_ok=True)

    def write(self, found):
        """Write {round: row} as the table."""
        write_csv(self.file, [found[n] for n in sorted(found)])

    def evaluated(self, found):
        """What the figures are drawn from, of {round: row}."""
        run, radius, rows = str(self.path), self.radius, [found[n] for n in self.rounds]
        return Evaluated(run, self.config, self.tested, radius, self.examples, rows)

    def settings(self, name, colour=False):
        """The AttackSettings that a round is tested with; of autoattack those of its radius."""
        return attack_settings(
            self.tested, "pgd" if name == "autoattack" else name, colour, test=True
        )

    def steps(self):
        """About how many gradients a round takes."""
        return self.examples * sum(self.steps_of(name) for name in self.names)

    def steps_of(self, name):
        """About how many gradients of an image an attack takes."""
        if name == "autoattack":
            return AUTOATTACK_STEPS
        values = dict(self.settings(name).values)
        return values.get("attack_steps", 1) * values.get("restarts", 1)

    def warnings(self):
        """Notes on attacks whose steps are too short for their radius."""
        for name in self.names:
            settings = None if name == "autoattack" else self.settings(name)
            if settings and (far := too_short(settings)):
                what = f"{name} at epsilon {settings.epsilon:.3g}: its steps go {far:.3g} far"
                right = "take more by --eval_steps, such as --eval_steps=40"
                yield f"warning: {what}, so the accuracy overstates robustness; {right}"


def attack_run(job, rounds, dataset, args, device, told):
    """Attack the networks of these rounds of a Job; prints, writes and returns their {round: row}.

    The table is written after each round: a stopped call loses one at most.
    """
    set_threads(0, small=archs.is_small(job.config.arch_type))
    made = {}
    for n in rounds:
        net, _, _ = load_ticket(job.path, n, args.data_dir)
        if all(getattr(module, "channels_last", True) for module in net.modules()):
            net.to(memory_format=torch.channels_last)  # faster for convolutions, as in training
        begin = told.done

        def reach(steps, begin=begin):
            told.reach(begin + steps)

        made[n] = {"round": n, "density": job.densities[n]}
        made[n] |= evaluate_net(net.to(device), job, dataset, device, reach)
        # another process may have attacked other rounds meanwhile
        job.write(job.made_before() | made)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in made[n].items())
        radius = "" if job.radius is None else f" epsilon {job.radius:g}:"
        say(f"{job.path}{radius} {shown}")
        reach(job.steps())
    return made


def evaluate_net(net, job, dataset, device, reach=lambda steps: None):
    """Percent of the test images that a network classifies correctly, as they are and attacked.

    Clean ones: of all, and of the job's `examples` that each attack is tried on; with the mean L2
    of an attack that minimises the distance. reach(n): n gradient steps are done.
    """
    test = to_float(dataset.test_images, device)
    labels = torch.from_numpy(dataset.test_labels).to(device)
    chosen = eval_examples(len(labels), job.examples)
    x, y = test[chosen.to(device)], labels[chosen.to(device)]
    result = {"clean": accuracy(net, test, labels), "clean_of_examples": accuracy(net, x, y)}
    colour, before = dataset.in_shape[0] == 3, 0
    for name in job.names:
        settings, weight = job.settings(name, colour), job.steps_of(name)
        if name == "autoattack":
            result[name] = autoattack(net, x, y, settings.epsilon, dataset.num_classes)
        else:

            def images_done(count, before=before, weight=weight):
                reach(before + count * weight)

            make = checked(functools.partial(settings.entry().make, net))
            given = (net, (), settings, x, y, chosen.numpy(), make)
            percent, l2, without = attack_test_images(*given, reach=images_done)
            result[name] = percent.item()
            if why := doubt(settings, percent.item(), without.item()):
                say(f"warning: {job.path}: {why}")
            if settings.entry().minimal():
                result[f"{name}_l2"] = l2.item()
        before += job.examples * weight
        reach(before)
    return result


def accuracy(net, images, labels):
    """Percent of images (N, C, H, W) that a network in eval mode classifies as labels (N,)."""
    size = eval_batch(labels.device)
    parts = zip(images.split(size), labels.split(size), strict=True)
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
