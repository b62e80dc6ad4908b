"""The run folder: every file of a run, written whole, and where to go on after a stop.

What reads finished runs needs no code that trains.
"""

import contextlib
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from config import RunConfig
from store.checkpoint import Checkpoint, Progress, load_checkpoint, load_partial, save, total
from store.files import (
    check_writable,
    load_tensors,
    read_csv,
    save_tensors,
    write_atomic,
    write_csv,
    write_json,
    write_text,
)
from store.lock import Hold
from store.log import Log
from store.saved import must_match, saved_config
from store.wandb_log import WandbLog
from utils import UserError, advice, hash8

# what every row of the two tables has; attacks and other columns come and go
ROUND_COLUMNS = (
    "round", "kept", "total", "density", "best_epoch", "early_stop_iteration", "val_accuracy",
    "test_accuracy", "test_accuracy_last",
)  # fmt: skip
EPOCH_COLUMNS = ("round", "epoch", "iteration", "train_loss", "val_loss", "val_accuracy")


class RunFolder:
    """The files of one run."""

    def __init__(self, path):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.theta0 = self.path / "theta0.safetensors"
        self.rewind = self.path / "rewind.safetensors"
        self.checkpoint = self.path / "checkpoint.pt"
        self.partial = self.path / "partial.pt"
        self.epochs = self.path / "epochs.csv"
        self.rounds = self.path / "rounds.csv"
        self.samples = self.path / "attacked_samples.png"
        self.report = self.path / "attack_report.json"
        self.said = self.path / "log.txt"
        self.hold = Hold(self)
        self.log, self.wandb = Log(self.path), WandbLog(self.path)

    def masks(self, number):
        """masks/round_03.safetensors"""
        return self.path / "masks" / f"round_{number:02}.safetensors"

    def weights(self, number):
        """weights/round_03.safetensors"""
        return self.path / "weights" / f"round_{number:02}.safetensors"

    # How far it is ------------------------------------------------------------------------------

    @property
    def done(self):
        """Whether the run is finished."""
        return (self.path / "DONE").exists()

    @property
    def not_begun(self):
        """Whether a process has taken the folder and has not trained in it yet."""
        return (self.path / ".lock").exists() and not self.config_file.exists()

    def rounds_done(self):
        """How many rounds rounds.csv has, for who only looks; 0 where it cannot be read."""
        try:
            return max(0, self.rounds.read_bytes().count(b"\n") - 1)
        except OSError:
            return 0

    def progress(self, config, must_exist=False):
        """How far the run has come, a Progress.

        UserError if the folder belongs to other flags, or is not there and must be.
        """
        if not self.config_file.exists():
            if must_exist:
                right = "leave --resume out to start it"
                raise UserError(f"--resume: there is no run at {self.path}; {right}")
            return Progress()
        saved = saved_config(self.path)["flags"]
        must_match(config, saved, self.path)
        me = hash8(config.results())
        if self.done:  # a study of a thousand finished runs is skipped in seconds
            count = self.rounds_done()
            if count < config.prune_iterations:
                reached = f"{count} of {config.prune_iterations} rounds"
                right = "remove its file DONE, and the same command goes on"
                raise UserError(f"{self.path} is marked as done with {reached}: {right}")
            return Progress(Checkpoint(rounds=[{"round": number} for number in range(count)]))
        kept = saved.get("save_weights", config.save_weights)
        if kept != config.save_weights:  # whoever reads them goes by config.json
            what = f"{self.path} was begun with --save_weights={kept}"
            raise UserError(f"{what}, and not {config.save_weights}: go on with that")
        if not self.checkpoint.exists():
            return Progress(partial=load_partial(self.partial, 0, me))
        checkpoint = load_checkpoint(self.checkpoint, me)
        again = f"remove {self.path} to start that run again"
        with advice(again):
            # a lost theta_0 is drawn again
            theta0 = load_tensors(self.theta0) if self.theta0.exists() else None
            rewind = load_tensors(self.rewind) if checkpoint.rewind else None
            for row in checkpoint.rounds:
                load_masks(self.masks(row["round"]), kept=row["kept"])
        for path, tensors, was in (
            (self.theta0, theta0, checkpoint.theta0),
            (self.rewind, rewind, checkpoint.rewind),
        ):
            if tensors is not None and total(tensors) != was:
                raise UserError(f"{path} is not the one that checkpoint.pt is of: {again}")
        partial = load_partial(self.partial, checkpoint.next_round, me)
        return Progress(checkpoint, theta0, rewind, partial)

    def check_fits(self, progress, model, config):
        """UserError unless what was saved is of this network and reaches up to --start_iter."""
        import pruning

        checkpoint = progress.checkpoint
        if config.start_iter > checkpoint.next_round:
            rounds = f"{self.path} has {checkpoint.next_round} finished rounds"
            right = "start with the first missing one, or an earlier one"
            raise UserError(f"--start_iter={config.start_iter}: {rounds}: {right}")
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        states = [s for s in (progress.theta0, progress.rewind, checkpoint.trained) if s]
        fits = all({name: t.shape for name, t in state.items()} == shapes for state in states)
        masks = {name: mask.shape for name, mask in (checkpoint.masks or {}).items()}
        fits = fits and (not masks or masks == {n: shapes[n] for n in pruning.prunable(model)})
        if checkpoint.next_round and not (
            fits and checkpoint.next_round <= config.prune_iterations
        ):
            again = "remove the folder to start that run again"
            raise UserError(f"{self.path} holds a damaged checkpoint or theta_0: {again}")

    # Writing ------------------------------------------------------------------------------------

    def check_writable(self):
        """UserError unless the folder can be made and written; leaves nothing behind."""
        check_writable(self.path, f"--runs_dir: {self.path}")

    def start(self, config, now, progress, report, draw_samples, say=print):
        """Write what is known before round 0; an existing run keeps what it has.

        now: what it runs on (store.saved.provenance); report: the figures of the attacked images,
        None without; draw_samples(path): a picture of them, or None. UserError if a theta_0 that
        was lost cannot be drawn again.
        """
        checkpoint = progress.checkpoint
        if checkpoint.theta0 not in ("", total(progress.theta0)):
            what = f"{self.theta0} is lost, and this torch draws another from its seed"
            raise UserError(f"{what}: remove {self.path} to start that run again")
        for leftover in self.path.rglob(".tmp-*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not self.theta0.exists():
            save_tensors(self.theta0, progress.theta0)
        if report and not self.report.exists():
            write_json(self.report, report)
        if draw_samples:
            write_atomic(self.samples, draw_samples)
        if not self.config_file.exists():  # last: it makes the folder a run
            write_json(self.config_file, {"flags": config.flags(), "provenance": now})
        else:
            self._note_other_code(now, progress.next_round, say)
        if checkpoint.rounds:  # whatever became of the tables
            write_csv(self.epochs, checkpoint.epochs)
            write_csv(self.rounds, checkpoint.rounds)

    def _note_other_code(self, now, number, say):
        """Say, and add to config.json, that a run goes on under other code, libraries, step,
        device or threads.
        """
        saved = saved_config(self.path)
        before = [saved["provenance"], *saved.get("resumed", [])][-1]
        names = ("revision", "modified", "versions", "step", "device", "threads")
        differing = [name for name in names if before.get(name, now[name]) != now[name]]
        if differing:
            what = "was begun under other code, libraries or hardware and goes on under these"
            say(f"note: {self.path} {what}; config.json has both ({', '.join(differing)})")
            saved.setdefault("resumed", []).append({"round": number, **now})
            write_json(self.config_file, saved)

    def save_round(self, config, progress, masks, weights):
        """Write the round that the last row of the checkpoint is of.

        progress: as the next round needs it; masks: this round's. The checkpoint comes last, so a
        kill in between repeats the round.
        """
        checkpoint = progress.checkpoint
        row = checkpoint.rounds[-1]
        number = row["round"]
        save_tensors(self.masks(number), masks)
        if weights is not None:
            save_tensors(self.weights(number), weights)
        if progress.rewind is not None and not self.rewind.exists():
            save_tensors(self.rewind, progress.rewind)
        write_csv(self.epochs, checkpoint.epochs)
        write_csv(self.rounds, checkpoint.rounds)
        epochs = [epoch for epoch in checkpoint.epochs if epoch["round"] == number]
        self.log.round(row, epochs, masks)
        if config.wandb:
            self.wandb.round(config, row)
        checkpoint.theta0, checkpoint.rewind = total(progress.theta0), total(progress.rewind)
        save(self.checkpoint, checkpoint, hash8(config.results()))
        self.partial.unlink(missing_ok=True)

    def save_partial(self, config, partial):
        """Write where within a round training is."""
        save(self.partial, partial, hash8(config.results()))

    def finish(self, config, progress):
        """Mark the run as done."""
        self.log.end(config, progress.checkpoint.rounds[-1])
        write_text(self.path / "DONE", "")

    def release(self):
        """Close the log and give the run back to others."""
        with contextlib.suppress(OSError):  # a full disk must not keep the lock
            self.log.close()
        self.wandb.close(self.done)
        self.hold.release()


@dataclass(eq=False)
class Run:
    """One run on its way: what it is, where it is kept, how far it has come."""

    config: RunConfig
    folder: RunFolder
    progress: Progress = field(default_factory=Progress)
    report: dict | None = None  # of its attacked images
    label: str = ""  # before each of its lines, where several runs print
    mute: bool = False  # its log cannot be written


def read_rounds(folder):
    """The rows of a run's rounds.csv; UserError if they cannot be what a run wrote."""

    def is_whole(number, row):
        if not are_numbers(row, ROUND_COLUMNS) or row["round"] != number:
            return False
        others = [value for name, value in row.items() if name not in ROUND_COLUMNS]
        if not all(isinstance(value, int | float) for value in others):
            return False
        accuracies = [value for name, value in row.items() if name.endswith("_accuracy")]
        if not all(0 <= value <= 100 for value in accuracies):
            return False
        kept = row["density"] * row["total"]
        return 0 <= row["kept"] <= row["total"] and abs(kept - row["kept"]) < 0.01

    try:
        rows = read_csv(folder.rounds)
    except OSError:
        rows = [{}]
    if not all(is_whole(number, row) for number, row in enumerate(rows)):
        again = "the run's own command, with DONE removed, writes it again"
        raise UserError(f"{folder.rounds} is damaged: {again}")
    return rows


def read_epochs(folder):
    """The rows of a run's epochs.csv; UserError if they are damaged."""
    rows = read_csv(folder.epochs)
    if not all(are_numbers(row, EPOCH_COLUMNS) for row in rows):
        again = "the run's own command, with DONE removed, writes it again"
        raise UserError(f"{folder.epochs} is damaged: {again}")
    return rows


def are_numbers(row, names):
    """Whether a row of a table has finite numbers under these names."""
    values = [row.get(name) for name in names]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def load_masks(path, shapes=None, kept=None):
    """A round's masks, bool tensors by name, in the order of `shapes` (name -> tuple) if given.

    UserError if they are not zeros and ones of those shapes, or not `kept` ones in all.
    """
    import torch

    masks = load_tensors(path)
    here = {name: tuple(mask.shape) for name, mask in masks.items()}
    if shapes is not None and here != shapes:
        what = "its layers or their shapes are not those of the run's other masks"
        raise UserError(f"{path} is damaged: {what}")
    for name, mask in masks.items():
        # a bool of a damaged file may be any byte
        values = mask.view(torch.uint8) if mask.element_size() == 1 else mask
        if not ((values == 0) | (values == 1)).all():
            raise UserError(f"{path} is damaged: {name} holds values other than 0 and 1")
    if kept is not None and sum(int(mask.sum()) for mask in masks.values()) != kept:
        what = "is not the mask that the run's tables tell of: it leaves another number of weights"
        raise UserError(f"{path} {what}")
    return {name: masks[name].bool() for name in shapes or masks}
