"""The lottery ticket experiment (Frankle & Carbin 2019, section 1): train, test, prune, rewind.

A run is rounds of that; `rounds` is the loop. What a round starts from is a prune type's
(pruning.PRUNE_TYPES), which weights go a criterion's (pruning.CRITERIA), and what is measured of a
trained round stands in COLUMNS.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm import tqdm

import archs
import data
import pruning
from attacked import quality
from attacked.pool import Images, build_images, parts_of
from attacks import ATTACKS, attack_test_images, checked, doubt
from config import attack_settings, own_ticket
from engine.adversarial import check_online
from engine.cohort import Cohort
from engine.compiled import kernels_for, step_of
from engine.machine import PAYS, bf16_ratio, pick_device, set_threads
from engine.place import Keeper
from engine.signals import Interrupted, stop
from engine.timing import each_epoch, looks_note, pace, seconds_left
from store.files import load_tensors, misfit, write_json
from store.runfolder import RunFolder, load_masks, read_rounds
from store.saved import provenance
from store.ticket import ticket_place
from store.voice import Voice
from train import Diverged, Stopped, Watcher, evaluate, fit
from utils import Registry, UserError, advice, eval_examples, no_bar, stream, time_in_words

# images that a run trains on, and seconds that it takes, from which its time is foretold
FORETOLD, LONG = 200_000, 20


@dataclass
class Lab:
    """What the runs of a cohort share."""

    model: torch.nn.Module  # of their architecture, with anyone's weights
    fresh: Callable  # (config, round) -> a state_dict drawn from the stream ("init", round)
    images: Images
    device: torch.device
    made: object = None  # compiled kernels, where they compute the steps
    say: Voice = None


@dataclass
class Sources:
    """What the next round could start from (pruning.PruneType.start)."""

    rewound: dict  # theta_0, or the weights after --rewind_epoch
    trained: dict  # the last round's weights, or under one-shot the dense net's
    fresh: Callable  # () -> a fresh draw


def train_cohort(runs, say=tqdm.write):
    """Train runs of one kind (study.cohorts) together, from where they are to the end.

    Returns (run, error) of those that diverged or cannot go on.
    """
    shared, say = runs[0].config, Voice(runs, say)
    device = pick_device(shared.device, shared.gpu, say)
    if shared.precision == "tf32" and device.type == "cpu":
        say("note: --precision=tf32 is of GPUs: this trains in fp32")
    dataset = data.load_as_trained(shared)  # the file that the runs' names are of
    size = (dataset.in_shape, dataset.num_classes)
    stats = data.channel_stats(dataset.train_images)

    def network(config, number):
        draw = [config.reinit_draw] if config.reinit_draw else []
        seed = stream(config.seed, "init", number, *draw)
        return archs.build(config.arch_type, *size, stats, config.init, seed)

    model = network(shared, 0)
    failed, sound = check(runs, model, len(dataset.train_labels))
    if not sound:
        return failed
    say.runs = sound
    images = build_images([run.config for run in sound], dataset, device, say)
    # after a surrogate, which sets its own; config.json tells of these
    set_threads(shared.threads, small=archs.is_small(shared.arch_type, *size))
    made = kernels_for(shared, model, device, say)

    def fresh(config, number):
        return network(config, number).state_dict()

    lab = Lab(model, fresh, images, device, made, say)
    for slot, run in enumerate(sound):
        open_run(lab, run, slot)
    say.begin()
    if shared.precision == "bf16" and device.type == "cpu":
        longest = min(shared.batch_size, len(dataset.train_labels))
        times = bf16_ratio(model, dataset.in_shape, longest)
        if times >= PAYS:
            what = f"a step takes {times:.1f} times as long as in fp32 on this CPU (measured)"
            say(f"warning: --precision=bf16 does not pay: {what}")
    foretell(lab, sound)
    return failed + rounds(lab, sound)


def foretell(lab, runs):
    """Say about how long the rounds that are left take, by steps measured now, if that is long."""
    config, data = runs[0].config, lab.images.train
    parts = data.train_index.shape[1], data.val_index.shape[1], len(lab.images.test_labels)
    first = runs[0].progress.next_round
    # small work is over before it is measured
    if config.prune_iterations * config.end_iter * parts[0] < FORETOLD:
        return
    size = lab.images.test.shape[1:], int(lab.images.test_labels.max()) + 1
    known = pace(config, lab.model, lab.made, len(runs), size, lab.device)
    left = seconds_left(config, known, parts, first)
    if left >= LONG:
        rounds = config.prune_iterations - first
        what = f"{rounds} round{'s' * (rounds > 1)} take about {time_in_words(left)}"
        lab.say(f"{what} (steps measured now)")
        seldom = seconds_left(each_epoch(config), known, parts, first)
        if note := looks_note([config.valid_steps], left, seldom):
            lab.say(note)


def check(runs, model, images):
    """(failed, sound): (run, error) of those that so many images are too few for, or whose files or
    ticket do not fit, and the others.
    """
    failed = []
    for run in runs:
        try:
            parts_of(run.config, images)
            run.folder.check_fits(run.progress, model, run.config)
            check_ticket(run.config, model)
            check_unchanged(run)
        except UserError as error:
            failed.append((run, error))
        partial = run.progress.partial
        if partial and misfit(partial.weights, model.state_dict()):
            run.progress.partial = None  # of another network: the round begins again
    return failed, [run for run in runs if run not in dict(failed)]


def open_run(lab, run, slot):
    """Write what is known of a run before it trains; its progress has masks and theta_0 then."""
    config, progress = run.config, run.progress
    if progress.theta0 is None:
        progress.theta0 = theta0(config, lab.fresh)
    if progress.rewind is None:
        progress.rewind = ticket_rewind(config, lab.fresh)
    if progress.checkpoint.masks is None:
        progress.checkpoint.masks = masks_of_round(lab, config, progress, 0, None, None)
    run.report, samples = lab.images.reports[slot], lab.images.samples(slot)
    draw = None
    if samples:
        from results.figures import draw_samples  # pandas and what it needs

        draw = functools.partial(draw_samples, *samples)
    now = provenance(lab.device, step_of(lab.made))
    run.folder.start(config, now, progress, run.report, draw, lambda text: lab.say.of(run, text))
    if progress.next_round == 0:
        run.folder.log.begin(config, samples)
    lab.say.of(run, f"run folder {run.folder.path}")
    if number := progress.next_round:
        lab.say.of(run, f"going on with round {number} of {config.prune_iterations - 1}")
    if progress.partial:
        lab.say.of(run, f"going on {progress.partial.within()}")
    if run.report:
        lab.say.of(run, quality.describe(config, run.report))
        if config.mix_ratio == 1 and not ATTACKS[config.attack][config.norm].control:
            right = "compare with --mix_ratio below 1"
            what = "every training image is attacked, and such a set teaches the attack itself"
            lab.say.of(run, f"warning: {what} (clean accuracy may be poor): {right}")


def rounds(lab, runs):
    """Every round that is still to do; returns (run, error) of the runs that diverged."""
    diverged = []
    with Bars(runs, lab.say) as bars:
        while runs and (number := runs[0].progress.next_round) < runs[0].config.prune_iterations:
            kept = [run.progress.partial for run in runs if run.progress.partial]
            began = time.perf_counter() - sum(partial.seconds for partial in kept)
            starts = [start_weights(lab, run, number) for run in runs]
            masks = [run.progress.checkpoint.masks for run in runs]
            cohort = Cohort(
                lab.model, starts, masks, lab.device, runs[0].config.precision, lab.made
            )
            try:
                trained = train_round(lab, cohort, runs, number, began, bars)
            except Diverged as error:
                # those runs end alone; the others do this round again without them
                diverged += [(runs[slot], error) for slot in error.runs]
                left = [slot for slot in range(len(runs)) if slot not in error.runs]
                runs, lab.images = [runs[slot] for slot in left], lab.images.only(left)
                continue
            last = cohort.unstack(cohort.state())
            rows = test_round(lab, cohort, runs, number, trained)
            end_round(lab, cohort, runs, trained, last, rows, began, bars)
    for run in runs:
        run.folder.finish(run.config, run.progress)
        lab.say.of(run, f"done: {run.folder.path}")
    return diverged


def train_round(lab, cohort, runs, number, began, bars):
    """The train.Fit of a round; Interrupted once a signal has been obeyed."""

    def write(partials):
        for run, partial in zip(runs, partials, strict=True):
            partial.seconds = (time.perf_counter() - began) / len(runs)
            run.folder.save_partial(run.config, partial)

    begin = [run.progress.partial for run in runs]
    for run in runs:
        run.progress.partial = None
    keeper = Keeper(begin if all(begin) else None, write, runs[0].config.save_freq)
    configs = [run.config for run in runs]
    if configs[0].adversarial:
        check_online(cohort, lab.images.train, configs[0])
    try:
        with stop.deferring():
            return fit(cohort, lab.images.train, configs, number, bars, keeper)
    except Stopped:
        raise Interrupted(stop.signal) from None
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        what = f"batch-norm in {configs[0].arch_type} has one value a channel where a batch is one"
        right = "a --batch_size of 2 or more, or larger images, are needed"
        raise UserError(f"{what} image of this size: {right}") from None


def test_round(lab, cohort, runs, number, trained):
    """R rows of rounds.csv, but for the seconds; the cohort has the selected weights then."""
    configs = [run.config for run in runs]
    clean = lab.images.test, lab.images.test_labels
    last, state = evaluate(cohort, *clean)[1], cohort.state()
    changed = not all(torch.equal(value, trained.best[name]) for name, value in state.items())
    if changed:
        cohort.load(trained.best)
    tested = Tested(lab, cohort, configs, last, changed)
    rows = []
    for run, epochs in zip(runs, trained.rows, strict=True):
        kept, total = pruning.counts(run.progress.checkpoint.masks)
        # max and min keep the earliest of equals
        selected = max(epochs, key=lambda row: row["val_accuracy"])
        stopped = min(epochs, key=lambda row: row["val_loss"])
        rows.append({
            "round": number,
            "kept": kept,
            "total": total,
            "density": kept / total,
            "best_epoch": selected["epoch"],
            "early_stop_iteration": stopped["iteration"],
            "val_accuracy": selected["val_accuracy"],
        })  # fmt: skip
    for measure in COLUMNS.values():
        for row, columns in zip(rows, measure(tested), strict=True):
            row |= columns
    return rows


def end_round(lab, cohort, runs, trained, last, rows, began, bars):
    """Prune, and write the round and what the next one needs, run by run."""
    share = round((time.perf_counter() - began) / len(runs), 3)
    best = cohort.unstack(trained.best)
    rewind = cohort.unstack(trained.rewind) if trained.rewind else [None] * len(runs)
    for slot, run in enumerate(runs):
        row, config, checkpoint = rows[slot], run.config, run.progress.checkpoint
        row["seconds"] = share
        masks = checkpoint.masks
        batch = functools.cache(lab.images.train.some(slot, config.seed))
        advance(lab, run, row["round"], last[slot], rewind[slot], batch)
        checkpoint.rounds.append(row)
        checkpoint.epochs += [{"round": row["round"], **epoch} for epoch in trained.rows[slot]]
        weights = {"best": best[slot], "last": last[slot], "none": None}[config.save_weights]
        if row["round"] == 0 and run.report:
            report_transfer(lab, run, row)
        run.folder.save_round(config, run.progress, masks, weights)
        bars.round(run, row, masks)


def report_transfer(lab, run, row):
    """Add to the report what the attacked set does to the dense net; warn where that is little."""
    clean, attacked = row["test_accuracy"], row[f"transfer_{run.config.test_attack}_accuracy"]
    network = {"accuracy_before": clean, "accuracy_after": attacked}
    write_json(run.folder.report, run.report | {"network": network})
    warning = quality.transfer_warning(run.report, clean, attacked, run.config.mix_ratio)
    if warning and not run.config.omits:  # it trains on no attacked image
        lab.say.of(run, f"warning: {warning}")


# What a round starts from ----------------------------------------------------------------------


def theta0(config, fresh):
    """A run's theta_0: its own draw, or its ticket's."""
    if not config.ticket or own_ticket(config):
        return fresh(config, 0)
    folder, at = ticket_place(config.ticket)
    source = RunFolder(folder)
    if pruning.PRUNE_TYPES[config.prune_type].fresh:
        # its dense net is everybody's; under masks never the ticket's own theta_0, also where the
        # seeds agree, as they do at round 0 of a ticket that begins pruned
        drawn = fresh(config, at or 0)
        if at or not source.theta0.exists():
            return drawn
        own, masks = load_tensors(source.theta0), load_masks(source.masks(0))
        pruned = not all(mask.all() for mask in masks.values())
        same = all(drawn[name].equal(own[name]) for name in masks)
        return fresh(config, 1) if pruned and same else drawn
    return load_tensors(source.theta0) | normalisation(config, fresh)


def ticket_rewind(config, fresh):
    """The later epoch's weights that the rounds of --ticket start from; None if from theta_0."""
    if not (config.ticket and config.first_epoch(1)) or own_ticket(config):
        return None
    source = RunFolder(ticket_place(config.ticket)[0])
    if not source.rewind.exists():
        what = f"--ticket={config.ticket}: {source.rewind}, which its rounds start from, is lost"
        raise UserError(f"{what}: train that run again")
    return load_tensors(source.rewind) | normalisation(config, fresh)


def normalisation(config, fresh):
    """Under another run's weights images are normalised by this run's, as for its controls."""
    return {n: v for n, v in fresh(config, 0).items() if n.startswith("normalise.")}


def start_weights(lab, run, number):
    """The weights a round starts from, before its mask."""
    progress, config = run.progress, run.config
    if number == 0 and not config.first_epoch(0):
        return progress.theta0
    rewound = progress.rewind or progress.theta0
    fresh = functools.partial(lab.fresh, config, number)
    sources = Sources(rewound, progress.checkpoint.trained, fresh)
    return pruning.PRUNE_TYPES[config.prune_type].start(sources)


def masks_of_round(lab, config, progress, number, trained, batch):
    """Masks of a round, before which `trained` were trained under the checkpoint's (None: none).

    batch(count) -> (images, labels) on the device, for criteria that look at them.
    """
    kind = pruning.PRUNE_TYPES[config.prune_type]
    if config.ticket:
        masks = ticket_masks(config, number)
    elif number == 0:
        return pruning.ones(lab.model)
    else:
        masks = pruned(lab, config, progress, number, trained, batch)
    return kind.masks(masks, config.seed, number)


def pruned(lab, config, progress, number, trained, batch):
    """The masks that pruning leaves in this round."""
    every, kind = pruning.ones(lab.model), pruning.PRUNE_TYPES[config.prune_type]
    keep = pruning.kept_in_round({n: m.numel() for n, m in every.items()}, config, number)
    entry = pruning.CRITERIA[config.criterion]
    if entry.of_theta0 and config.prune_scope == "global":
        # over the whole net as one, as the papers have it, whatever the output layer's rate
        keep = [(list(every), sum(count for _, count in keep))]
    anew = entry.of_theta0 or config.prune_schedule == "oneshot"
    masks = every if anew else progress.checkpoint.masks
    if kind.scores:
        return pruning.keep_highest(kind.scores(masks, config.seed), masks, keep)
    device, was = lab.device, {n: v.clone() for n, v in lab.model.state_dict().items()}
    lab.model.load_state_dict(progress.theta0 if entry.of_theta0 else trained)
    try:
        model = lab.model.to(device)
        return pruning.masks_by(config.criterion, model, masks, keep, batch)
    finally:
        lab.model.to("cpu").load_state_dict(was)


def advance(lab, run, number, trained, rewind, batch):
    """Turn a run's progress from round `number` to the next.

    trained: its last weights; rewind: those to rewind to, if round 0 kept any.
    """
    config, progress, checkpoint = run.config, run.progress, run.progress.checkpoint
    if number == 0 and progress.rewind is None:  # else its ticket's
        progress.rewind = rewind
    oneshot = config.prune_schedule == "oneshot"
    goes_on = pruning.PRUNE_TYPES[config.prune_type].goes_on
    if (oneshot and number == 0) or (not oneshot and goes_on):
        checkpoint.trained = trained
    if number + 1 < config.prune_iterations:
        source = checkpoint.trained if oneshot else trained
        checkpoint.masks = masks_of_round(lab, config, progress, number + 1, source, batch)


def ticket_masks(config, number):
    """The masks that --ticket names for this round; UserError if its run has none."""
    path, at = ticket_place(config.ticket)
    folder, wanted = RunFolder(path), number if at is None else at
    rows = read_rounds(folder)
    if wanted >= len(rows):
        right = "train it to its end, or name fewer --prune_iterations"
        raise UserError(f"--ticket={config.ticket} has no finished round {wanted}: {right}")
    with advice(f"bring the ticket {path} back, or train it again"):
        return load_masks(folder.masks(wanted), kept=rows[wanted]["kept"])


def check_ticket(config, model):
    """UserError unless the masks, for every round, and theta_0 of --ticket fit this network."""
    if not config.ticket:
        return

    def shape(masks, name):
        return "x".join(map(str, masks[name].shape)) if name in masks else "none"

    here, own = pruning.ones(model), own_ticket(config)
    if own:  # nobody has looked into a folder that says it is done
        folder = RunFolder(config.ticket)
        again = f"remove {folder.path} to train that ticket again"
        if not folder.config_file.exists():
            raise UserError(f"{folder.path} is no run folder: {again}")
        with advice(again):
            folder.progress(own)
    for number in range(config.prune_iterations):
        there = ticket_masks(config, number)
        for name in sorted(here.keys() | there.keys()):
            if shape(there, name) != shape(here, name):
                shapes = f"{shape(there, name)} where this network has {shape(here, name)}"
                what = f"its mask of {name} has shape {shapes}"
                raise UserError(f"--ticket={config.ticket}: {what}")

    def blank(*_):
        return model.state_dict()

    for weights in (theta0(config, blank), ticket_rewind(config, blank)):
        wrong = weights and misfit(weights, model.state_dict())
        if wrong:
            what = "its initial weights are not of this network"
            raise UserError(f"--ticket={config.ticket}: {what}: {wrong}")


def check_unchanged(run):
    """UserError unless the ticket has the masks still that the finished rounds were trained under.

    Those of the round that comes next are in the checkpoint.
    """
    config, checkpoint = run.config, run.progress.checkpoint
    if not config.ticket:
        return
    had = {row["round"]: load_masks(run.folder.masks(row["round"])) for row in checkpoint.rounds}
    if checkpoint.masks is not None and checkpoint.next_round < config.prune_iterations:
        had[checkpoint.next_round] = checkpoint.masks
    kind = pruning.PRUNE_TYPES[config.prune_type]
    for number, masks in had.items():
        now = kind.masks(ticket_masks(config, number), config.seed, number)
        if not all(torch.equal(mask, masks[name]) for name, mask in now.items()):
            what = f"the ticket {config.ticket} has other masks in round {number} than when"
            right = f"bring it back, or remove {run.folder.path} to start that run again"
            raise UserError(f"{what} {run.folder.path} was trained: {right}")


# What is measured ------------------------------------------------------------------------------


@dataclass
class Tested:
    """A trained round as the columns see it; the cohort has the selected weights."""

    lab: Lab
    cohort: Cohort
    configs: list
    last: torch.Tensor  # (R,) clean test accuracy of the last weights
    changed: bool = True  # whether the selected weights are others than the last


# a name -> function(tested) -> R dicts {column of rounds.csv: number}; the names order the columns
COLUMNS = Registry("column")


def clean_accuracy(tested):
    """Accuracy on the clean test set, of the selected and of the last weights, in percent."""
    images, accuracy = tested.lab.images, tested.last
    if tested.changed:
        accuracy = evaluate(tested.cohort, images.test, images.test_labels)[1]
    pairs = zip(accuracy.tolist(), tested.last.tolist(), strict=True)
    return [{"test_accuracy": best, "test_accuracy_last": last} for best, last in pairs]


COLUMNS["clean"] = clean_accuracy


def transfer_accuracy(tested):
    """Accuracy on the test set that was attacked through the surrogate, in percent."""
    columns, images = [{} for _ in tested.configs], tested.lab.images
    accuracies = {}
    for run, (config, attacked) in enumerate(
        zip(tested.configs, images.attacked_test, strict=True)
    ):
        if attacked is not None:
            if id(attacked) not in accuracies:  # runs that share an attacked set are tested at once
                accuracies[id(attacked)] = evaluate(tested.cohort, attacked, images.test_labels)[1]
            columns[run][f"transfer_{config.test_attack}_accuracy"] = accuracies[id(attacked)][
                run
            ].item()
    return columns


COLUMNS["transfer"] = transfer_accuracy


def whitebox_accuracy(tested):
    """Accuracy under each of --eval_attacks against the net itself, in percent.

    Iterative attacks are tried on eval_examples test images, always the same; of attacks that
    minimise the distance, its mean L2 is reported too.
    """
    images, cohort, configs = tested.lab.images, tested.cohort, tested.configs
    columns, total = [{} for _ in configs], len(images.test)
    colour, lead = images.test.shape[1] > 1, (cohort.size,) if cohort.size > 1 else ()
    cohort.model.eval()
    for name in configs[0].eval_attacks:
        settings_of = [attack_settings(config, name, colour, test=True) for config in configs]
        for settings in dict.fromkeys(settings_of):
            count = min(configs[0].eval_examples, total) if settings.iterative() else total
            chosen = eval_examples(total, count)
            index = chosen.to(images.test.device)
            x, y = images.test[index], images.test_labels[index]

            def reach(done, name=name, count=count):
                far = f"testing with {name}, {done:,} of {count:,} images"
                tested.lab.say.still(lambda: far)

            make = checked(cohort.attack)
            accuracy, l2, unmoved = attack_test_images(
                cohort.logits, lead, settings, x, y, chosen.numpy(), make, reach
            )
            for run in [run for run, own in enumerate(settings_of) if own == settings]:
                column = f"whitebox_{name}_accuracy"
                columns[run][column] = accuracy[run].item()
                if settings.entry().minimal():
                    columns[run][f"whitebox_{name}_l2"] = l2[run].item()
                if why := doubt(settings, accuracy[run].item(), unmoved[run].item()):
                    tested.lab.say(f"warning: {why} ({column})")
    return columns


COLUMNS["whitebox"] = whitebox_accuracy


# What is shown ---------------------------------------------------------------------------------


class Bars(Watcher):
    """Progress bars over rounds and a round's epochs on a terminal; elsewhere a line now and then.

    Everywhere a line a round.
    """

    def __init__(self, runs, say):
        self.runs, self.say, config = runs, say, runs[0].config
        first, total = runs[0].progress.next_round, config.prune_iterations
        hidden = True if config.quiet else no_bar()
        self.over_rounds = tqdm(
            total=total, initial=first, desc="rounds", unit="round", disable=hidden
        )
        self.over_epochs = tqdm(
            total=config.end_iter, desc="epochs", unit="epoch", leave=False, disable=hidden
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.over_epochs.close()
        self.over_rounds.close()

    def step(self, epoch, step, steps):
        """So many of the epoch's steps are done."""
        config, number = self.runs[0].config, self.runs[0].progress.next_round

        def text():
            where = f"round {number} of {config.prune_iterations - 1}"
            within = f", step {step} of {steps}" if step < steps else " done"
            return f"{where}: epoch {epoch + 1} of {config.end_iter}{within}"

        self.say.still(text)

    def epoch(self, epoch, rows):
        """After each epoch: the first run's latest loss and accuracy."""
        config = self.runs[0].config
        if (epoch + 1) % config.print_freq == 0 or epoch + 1 == config.end_iter:
            if rows[0]:
                last = rows[0][-1]
                loss, accuracy = f"{last['train_loss']:.4f}", f"{last['val_accuracy']:.2f} %"
                self.over_epochs.set_postfix(loss=loss, val=accuracy)
            self.over_epochs.update(epoch + 1 - self.over_epochs.n)

    def round(self, run, row, masks):
        """After each round: its accuracies, and in detail the density of each layer."""
        shown = [
            f"{in_short(name, run.config)} {row[name]:.2f} %"
            for name in row
            if name.endswith("accuracy")
        ]
        rounds = f"round {row['round']} of {run.config.prune_iterations - 1}"
        left = f"{100 * row['density']:.3g} % of the weights"
        self.say.of(run, f"{rounds}, {left}: {', '.join(shown)} ({row['seconds']:.1f} s)")
        self.say.of(run, pruning.table(masks), detail=True)
        empty = [name for name, mask in masks.items() if not mask.any()]
        if empty:
            what = "nothing of an image passes there"
            self.say.of(run, f"warning: no weight is left in {', '.join(empty)}: {what}")
        self.over_epochs.reset()
        self.over_rounds.update(row["round"] + 1 - self.over_rounds.n)


def in_short(column, config):
    """A column of accuracies in the words of a run's lines: "val (mixed)", "test (clean)"."""
    kinds = {"transfer_": "through the surrogate", "whitebox_": "white-box"}
    for prefix, how in kinds.items():
        if column.startswith(prefix):
            return f"test ({column.removeprefix(prefix).removesuffix('_accuracy')}, {how})"
    attacked = 0 if config.omits else config.mix_ratio
    val = "attacked" if attacked == 1 else "mixed" if attacked else "clean"
    known = {"val_accuracy": f"val ({val})", "test_accuracy": "test (clean)"}
    known["test_accuracy_last"] = "after the last epoch"
    return known.get(column, column.removesuffix("_accuracy").replace("_", " "))
