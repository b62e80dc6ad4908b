"""Find winning lottery tickets in networks trained on clean, attacked or mixed images.

    python main.py                                   # digits: no download
    python main.py --dataset=mnist_fgsm_attack --prune_percent=20 --prune_iterations=15 --end_iter=3
    python main.py --dataset=mnist --prune_type=reinit --prune_percent=20 --prune_iterations=15 --end_iter=3
    python plots.py runs/* -o plots/

A run is rounds of: train, test, prune, rewind. The same command goes on where it was stopped.
torch is imported once the flags make sense, so that --help and a mistyped flag answer at once.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from config import RunConfig, parse
from runfolder import Progress, RunFolder
from utils import UserError, pick_device, set_threads, stream


@dataclass
class Run:
    """One run on its way: what it is, where it is kept, how far it has come."""

    config: RunConfig
    folder: RunFolder
    progress: Progress


def main(argv=None):
    """Run what the flags say; returns the exit code: 0, 1 if training diverged, 2 for flags or files to mend."""
    try:
        config, resume = parse(argv)
        folder = RunFolder(Path(resume) if resume else Path(config.runs_dir) / config.run_name)
        run = Run(config, folder, folder.progress(config, must_exist=resume is not None))
        if folder.done:
            print(f"done already: {folder.path}")
            return 0
        run_cohort([run])
    except UserError as error:
        print(f"main.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ArithmeticError as error:
        print(f"main.py: diverged: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("main.py: stopped; the same command goes on with the round it was in", file=sys.stderr)
        return 130
    print(f"done: {folder.path}")
    return 0


def run_cohort(runs):
    """Runs that share data set, network and schedule, from their folders' last round to the end."""
    import torch
    from tqdm import tqdm

    import archs
    import attacks
    import data
    import pruning

    shared = runs[0].config
    for run in runs:
        if run.config.start_iter > run.progress.next_round:
            raise UserError(
                f"--start_iter={run.config.start_iter}: {run.folder.path} has {run.progress.next_round} finished rounds: "
                "start with the first missing one, or an earlier one"
            )
        run.folder.check_writable()
    device = pick_device(shared.device, shared.gpu, tqdm.write)
    torch.set_flush_denormal(True)  # the optimiser's moments of dead units decay into denormals, which are slow
    dataset = data.load(shared.dataset, shared.data_dir)
    stats = data.channel_stats(dataset.train_images)

    def fresh(config, number):
        """A network with the weights of the stream ("init", round); round 0's are theta_0."""
        seed = stream(config.seed, "init", number)
        return archs.build(config.arch_type, dataset.in_shape, dataset.num_classes, stats, config.init, seed)

    model = fresh(shared, 0)
    set_threads(shared.threads)  # attacked images are made with every core
    images = attacks.build_images([run.config for run in runs], dataset, device, tqdm.write)
    for run, report, samples in zip(runs, images.reports, images.samples, strict=True):
        run.progress.theta0 = run.progress.theta0 or fresh(run.config, 0).state_dict()
        run.progress.masks = run.progress.masks or pruning.ones(model)
        run.folder.start(run.config, device, run.progress.theta0, report, samples)
        tqdm.write(f"run folder {run.folder.path}")
        if report:
            tqdm.write(attacks.describe_report(run.config, report))
    set_threads(shared.threads, small=shared.arch_type.startswith("fc"))
    rounds(runs, model, fresh, images, device)


def rounds(runs, model, fresh, images, device):
    """The lottery ticket experiment (Frankle & Carbin 2019, section 1): train, test, prune, rewind, round by round."""
    import train

    shared = runs[0].config
    seeds = [run.config.order_seed for run in runs]
    with Bars(runs) as bars:
        for number in range(runs[0].progress.next_round, shared.prune_iterations):
            began = time.perf_counter()
            starts = [start_weights(run, fresh, number) for run in runs]
            cohort = train.Cohort(model, starts, [run.progress.masks for run in runs], device)
            fit = train.fit(cohort, images.train, shared, seeds, number, bars.epoch)
            last = cohort.unstack(cohort.state())
            tests = test(cohort, fit, images, shared)
            for each in zip(runs, fit.rows, last, cohort.unstack(fit.best), split(cohort, fit.rewind), tests, strict=True):
                bars.round(*finish_round(number, began, *each))
    for run in runs:
        run.folder.finish(run.config)


def start_weights(run, fresh, number):
    """The weights a round starts from, before its mask: theta_0 or the rewinding point for lt, a fresh draw for reinit."""
    if number == 0:
        return run.progress.theta0
    if run.config.prune_type == "reinit":
        return fresh(run.config, number).state_dict()
    return run.progress.rewind or run.progress.theta0


def split(cohort, state):
    """A state of the cohort as R states, or R times None."""
    return cohort.unstack(state) if state else [None] * cohort.size


def test(cohort, fit, images, config):
    """R dicts of test accuracies in percent; the attacked ones are of the weights that validation selected."""
    from functools import partial

    import attacks
    import train

    clean = images.test, images.test_labels
    columns = {"test_accuracy_last": train.evaluate(cohort, *clean)[1]}
    cohort.load(fit.best)
    columns = {"test_accuracy": train.evaluate(cohort, *clean)[1]} | columns
    tests = [{name: value[run].item() for name, value in columns.items()} for run in range(cohort.size)]
    for run, attacked in enumerate(images.attacked_test):
        if attacked is not None:
            accuracy = train.evaluate(cohort, attacked, images.test_labels)[1][run].item()
            tests[run][f"transfer_{config.attack}_accuracy"] = accuracy
    whitebox = train.attacked_accuracy(cohort, partial(attacks.fgsm, epsilon=config.epsilon), *clean)
    for run, row in enumerate(tests):
        row["whitebox_fgsm_accuracy"] = whitebox[run].item()
    return tests


def finish_round(number, began, run, epochs, last, best, rewind, tests):
    """Write a round to its run folder and prune for the next; returns (run, row of rounds.csv, masks)."""
    import pruning

    config, progress, masks = run.config, run.progress, run.progress.masks
    kept, total = pruning.counts(masks)
    selected = max(epochs, key=lambda row: row["val_accuracy"])  # max and min keep the earliest of equals
    row = {
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
    if number == 0:
        progress.rewind = rewind
        progress.dense = last if config.prune_schedule == "oneshot" else None
    progress.next_round = number + 1
    progress.masks = pruning.prune_to_round(progress.dense or last, masks, config, number + 1)
    epochs = [{"round": number, **epoch} for epoch in epochs]
    progress.epochs += epochs
    progress.rounds.append(row)
    weights = {"best": best, "last": last, "none": None}[config.save_weights]
    run.folder.save_round(progress, masks, weights, row, epochs)
    return run, row, masks


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
