"""Find winning lottery tickets in networks trained on clean, attacked or mixed images.

    python main.py                                   # digits: no download
    python main.py --dataset=mnist_fgsm_attack --prune_percent=20 --prune_iterations=15 --end_iter=3
    python main.py --dataset=mnist --prune_type=reinit --prune_percent=20 --prune_iterations=15 --end_iter=3
    python main.py --prune_type lt reinit --dataset=mnist --attack=fgsm --mix_ratio 0 0.5 --seed 0 1 2     # 12 runs
    python plots.py runs/* -o plots/

A run is rounds of: train, test, prune, rewind. The same command goes on where it was stopped.
torch is imported once the flags make sense, so that --help and a mistyped flag answer at once.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import grid
from commandline import parse_runs
from config import RunConfig, attack_settings
from runfolder import Keeper, Progress, RunFolder
from utils import Interrupted, UserError, eval_examples, is_small, one_line, open_streams, pick_device, set_threads, stop, stream


@dataclass(eq=False)
class Run:
    """One run on its way: what it is, where it is kept, how far it has come."""

    config: RunConfig
    folder: RunFolder
    progress: Progress
    report: dict | None = None  # of its attacked images


def main(argv=None):
    """Run what the flags say; returns the exit code: 0, 1 if a run failed, 2 for flags or files to mend, 128 + a signal's number."""
    open_streams()
    stop.listen()
    try:
        request = parse_runs(argv)
        if request.print_commands:
            print(*request.commands, sep="\n")
            return 0
        runs, failed = [open_run(config, request.resume) for config in request.configs], []
        for run in runs:
            try:
                run.progress = run.folder.progress(run.config, must_exist=request.resume is not None).outline()
            except (UserError, OSError) as error:  # one damaged folder does not stop a study
                failed.append(grid.failed(run, error))
        whole = [run for run in runs if str(run.folder.path) not in [outcome.path for outcome in failed]]
        waiting = [run for run in whole if not run.folder.done]
        if request.dry_run:
            grid.print_plan(whole, waiting)
            return grid.report(failed, before=0)
        for run in whole:
            if run.folder.done:
                print(f"done already: {run.folder.path}")
        return grid.report(failed + grid.run_all(waiting, len(runs)), before=len(whole) - len(waiting))
    except UserError as error:
        print(f"main.py: error: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that turned read-only: what is finished stays
        print(f"main.py: error: {grid.reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("main.py: stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + getattr(error, "signal", 2)


def open_run(config, folder=None):
    """The Run of a configuration, in that folder or its own; how far it has come is not looked at yet."""
    return Run(config, RunFolder(folder or Path(config.runs_dir) / config.run_name), Progress())


def run_cohort(runs):
    """Train runs together, from where their folders are to the end; returns a grid.Outcome a run."""
    outcomes, held = {}, []
    try:
        for run in runs:
            path = str(run.folder.path)
            outcomes[path] = grid.Outcome(path, "done")
            try:
                run.folder.check_writable()
                if not run.folder.hold():
                    outcomes[path] = grid.Outcome(path, "held", f"{run.folder.holder()} has it, and it is left to that")
                    continue
                held.append(run)
                run.progress = run.folder.progress(run.config)  # now that nobody else can work on it
            except (UserError, OSError) as error:
                outcomes[path] = grid.failed(run, error)
        for cohort in grid.cohorts([run for run in held if outcomes[str(run.folder.path)].state == "done" and not run.folder.done]):
            try:
                ended = train_or_halve(cohort)
            except (UserError, OSError) as error:
                ended = [(run, error) for run in cohort if not run.folder.done]
            for run, error in ended:
                path = str(run.folder.path)
                outcomes[path] = grid.failed(run, error) if isinstance(error, UserError | OSError) else grid.Outcome(path, "diverged", str(error))
    finally:
        for run in held:
            run.folder.release()
            run.progress = Progress()  # a study of large nets would not fit the memory
    return list(outcomes.values())


def train_or_halve(runs):
    """train_cohort, in halves where memory does not hold the runs; returns (run, error) of those that it did not end."""
    import torch

    try:
        return train_cohort(runs)
    except torch.OutOfMemoryError as error:
        if len(runs) == 1:
            raise UserError(f"{runs[0].folder.path} does not fit the device's memory: a smaller --batch_size or --arch_type may") from error
    half = len(runs) // 2
    print(f"note: {len(runs)} runs together do not fit the device's memory; going on with {half} and {len(runs) - half}")
    torch.cuda.empty_cache()
    for run in runs:
        run.progress = run.folder.progress(run.config)
    return [failed for part in (runs[:half], runs[half:]) for cohort in grid.cohorts(part) for failed in train_or_halve(cohort)]


def train_cohort(runs):
    """Train runs of one kind (grid.shared_by_a_cohort) together; returns (run, error) of those that diverged or cannot go on."""
    import torch
    from tqdm import tqdm

    import archs
    import data
    import pool
    import rewinding

    shared = runs[0].config
    if any(grid.shared_by_a_cohort(run) != grid.shared_by_a_cohort(runs[0]) for run in runs):
        raise ValueError("these runs cannot train together: they differ in more than " + ", ".join(sorted(grid.OWN)))
    device = pick_device(shared.device, shared.gpu, tqdm.write)
    torch.set_float32_matmul_precision("high" if shared.precision == "tf32" else "highest")
    torch.set_flush_denormal(True)  # the optimiser's moments of dead units decay into denormals, which are slow
    dataset = data.load(shared.dataset, shared.data_dir)
    stats = data.channel_stats(dataset.train_images)

    def fresh(config, number):
        """A network with the weights of the stream ("init", round); round 0's are theta_0."""
        seed = stream(config.seed, "init", number)
        return archs.build(config.arch_type, dataset.in_shape, dataset.num_classes, stats, config.init, seed)

    model = fresh(shared, 0)
    failed = []
    for run in runs:
        try:
            run.folder.check_fits(run.progress, model, run.config)
            rewinding.check_ticket(run.config, model)
        except UserError as error:
            failed.append((run, error))
    runs = [run for run in runs if run not in dict(failed)]
    if not runs:
        return failed
    surrogates = {run.config.surrogate for run in runs if run.config.surrogate}
    set_threads(shared.threads, small=all(is_small(arch) for arch in surrogates))
    images = pool.build_images([run.config for run in runs], dataset, device, tqdm.write)
    for run, report, samples in zip(runs, images.reports, images.samples, strict=True):
        run.progress.theta0 = run.progress.theta0 or rewinding.theta0(run.config, fresh)
        run.progress.masks = run.progress.masks or rewinding.masks_of_round(run.config, run.progress, 0, None, model, None)
        run.report = report
        run.folder.start(run.config, device, run.progress, report, samples, tqdm.write)
        run.folder.restore_tables(run.progress)
        if run.progress.next_round == 0:
            run.folder.log_samples(run.config, samples)
        tqdm.write(f"run folder {run.folder.path}")
        if report:
            tqdm.write(pool.describe_report(run.config, report))
    set_threads(shared.threads, small=is_small(shared.arch_type))
    return failed + rounds(runs, model, fresh, images, device)


def rounds(runs, model, fresh, images, device):
    """The lottery ticket experiment (Frankle & Carbin 2019, section 1): train, test, prune, rewind, round by round.

    Returns (run, error) of those that diverged.
    """
    import rewinding
    import train

    diverged = []
    with Bars(runs) as bars:
        number = runs[0].progress.next_round
        while runs and number < runs[0].config.prune_iterations:
            began = time.perf_counter()
            starts = [rewinding.start_weights(run.config, run.progress, number, fresh) for run in runs]
            cohort = train.Cohort(model, starts, [run.progress.masks for run in runs], device, runs[0].config.precision)
            keeper = Keeper(runs, stop)
            try:
                with stop.deferring():
                    fit = train.fit(cohort, images.train, [run.config for run in runs], number, bars.epoch, keeper)
            except train.Stopped:
                raise Interrupted(stop.signal) from None
            except train.Diverged as error:  # those runs end alone; the others do this round again without them
                diverged += [(runs[place], error) for place in error.runs]
                kept = [place for place in range(len(runs)) if place not in error.runs]
                runs, images = [runs[place] for place in kept], images.only(kept)
                continue
            last = cohort.unstack(cohort.state())
            tests = test(cohort, fit, images, [run.config for run in runs], bars.tqdm.write)
            for place, each in enumerate(zip(runs, last, cohort.unstack(fit.best), split(cohort, fit.rewind), fit.rows, tests, strict=True)):
                run, trained, best, rewind, epochs, tested = each
                row, masks = round_row(run, number, epochs, tested, began), run.progress.masks
                rewinding.advance(run.config, run.progress, number, trained, rewind, model, images.train.some(place, run.config.seed))
                save_round(run, masks, {"best": best, "last": trained, "none": None}[run.config.save_weights], row, epochs, bars.tqdm.write)
                bars.round(run, row, masks)
            number += 1
    for run in runs:
        run.folder.finish(run.config)
        print(f"done: {run.folder.path}")
    return diverged


def split(cohort, state):
    """A state of the cohort as R states, or R times None."""
    return cohort.unstack(state) if state else [None] * cohort.size


def test(cohort, fit, images, configs, say):
    """R dicts of test accuracies in percent; the attacked ones are of the weights that validation selected.

    Iterative attacks are tried on eval_examples test images, always the same; of attacks that minimise the
    distance, its mean L2 is reported too.
    """
    import train

    clean = images.test, images.test_labels
    last = train.evaluate(cohort, *clean)[1]
    cohort.load(fit.best)
    selected = train.evaluate(cohort, *clean)[1]
    tests = [{"test_accuracy": selected[run].item(), "test_accuracy_last": last[run].item()} for run in range(cohort.size)]
    for run, (row, attacked) in enumerate(zip(tests, images.attacked_test, strict=True)):
        if attacked is not None:
            row[f"transfer_{configs[run].attack}_accuracy"] = train.evaluate(cohort, attacked, images.test_labels)[1][run].item()
    for name in configs[0].eval_attacks:
        each = [attack_settings(config, name, images.test.shape[1:]) for config in configs]
        for settings in dict.fromkeys(each):
            count = len(images.test) if settings.steps == 1 else min(configs[0].eval_examples, len(images.test))
            chosen = eval_examples(len(images.test), count)
            index = chosen.to(images.test.device)
            found = train.attack_whitebox(cohort, settings, images.test[index], images.test_labels[index], chosen.numpy())
            for run, (accuracy, l2, unmoved) in enumerate(zip(*found, strict=True)):
                if each[run] == settings:
                    tests[run][f"whitebox_{name}_accuracy"] = accuracy.item()
                    if settings.epsilon is None:
                        tests[run][f"whitebox_{name}_l2"] = l2.item()
                    elif settings.epsilon > 0 and unmoved > 1:
                        say(
                            f"warning: {name} finds no gradient for {unmoved:.1f} % of the images: whitebox_{name}_accuracy overstates robustness by up to that"
                        )
    return tests


def round_row(run, number, epochs, tests, began):
    """The row of rounds.csv of a round that has been trained and tested."""
    import pruning

    kept, total = pruning.counts(run.progress.masks)
    selected = max(epochs, key=lambda row: row["val_accuracy"])  # max and min keep the earliest of equals
    return {
        "round": number,
        "kept": kept,
        "total": total,
        "density": kept / total,
        "best_epoch": selected["epoch"],
        "early_stop_iteration": min(epochs, key=lambda row: row["val_loss"])["iteration"],
        "val_accuracy": selected["val_accuracy"],
        **tests,
        "seconds": round(time.perf_counter() - began, 3),
    }


def save_round(run, masks, weights, row, epochs, say):
    """Write a finished round to its run folder; run.progress is the next round's already."""
    import pool

    config, progress = run.config, run.progress
    if row["round"] == 0 and run.report:
        transferred = row[f"transfer_{config.attack}_accuracy"]
        run.folder.save_report(run.report | {"network": {"accuracy_before": row["test_accuracy"], "accuracy_after": transferred}})
        warning = pool.transfer_warning(run.report, row["test_accuracy"], transferred, config.mix_ratio)
        if warning:
            say(f"warning: {warning}")
    epochs = [{"round": row["round"], **epoch} for epoch in epochs]
    progress.epochs += epochs
    progress.rounds.append(row)
    run.folder.save_round(progress, masks, weights, row, epochs)


class Bars:
    """Progress bars over rounds and over a round's epochs, on a terminal; elsewhere one line and table a round."""

    def __init__(self, runs):
        from tqdm import tqdm

        self.tqdm, self.runs, config = tqdm, runs, runs[0].config
        first = runs[0].progress.next_round
        self.over_rounds = tqdm(total=config.prune_iterations, initial=first, desc="rounds", unit="round", disable=None)
        self.over_epochs = tqdm(total=config.end_iter, desc="epochs", unit="epoch", leave=False, disable=None)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.over_epochs.close()
        self.over_rounds.close()

    def epoch(self, epoch, rows):
        """After each epoch: the first run's latest loss and accuracy."""
        config = self.runs[0].config
        if (epoch + 1) % config.print_freq == 0 or epoch + 1 == config.end_iter:
            if rows[0]:
                self.over_epochs.set_postfix(loss=f"{rows[0][-1]['train_loss']:.4f}", val=f"{rows[0][-1]['val_accuracy']:.2f} %")
            self.over_epochs.update(epoch + 1 - self.over_epochs.n)

    def round(self, run, row, masks):
        """After each round: its accuracies and the density of each layer."""
        import pruning

        accuracies = ", ".join(f"{name.removesuffix('_accuracy')} {row[name]:.2f} %" for name in row if name.endswith("accuracy"))
        last = run.config.prune_iterations - 1
        self.tqdm.write(f"round {row['round']} of {last}: density {row['density']:.4f}, {accuracies} ({row['seconds']:.1f} s)")
        self.tqdm.write(pruning.table(masks))
        empty = [name for name, mask in masks.items() if not mask.any()]
        if empty:
            self.tqdm.write(f"warning: no weight is left in {', '.join(empty)}: the network's output no longer depends on its input")
        self.over_epochs.reset()
        self.over_rounds.update(row["round"] + 1 - self.over_rounds.n)


if __name__ == "__main__":
    sys.exit(main())
