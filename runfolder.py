"""The run folder: every file of a run, written whole, and where to go on after a stop.

Reading functions serve plots.py and whoever compares runs; they never need the code that trained.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from config import must_match
from utils import UserError, load_tensors, provenance, read_csv, save_tensors, write_atomic, write_csv, write_json, write_text


@dataclass
class Progress:
    """What the next round needs. masks are that round's; None before round 0."""

    next_round: int = 0
    masks: dict | None = None
    theta0: dict | None = None
    rewind: dict | None = None  # the weights that lt goes back to, if they are not theta_0
    trained: dict | None = None  # what one-shot prunes each time, the dense net's; what finetune goes on with, the last round's
    epochs: list = field(default_factory=list)  # rows of epochs.csv
    rounds: list = field(default_factory=list)  # rows of rounds.csv


class RunFolder:
    """The files of one run."""

    def __init__(self, path):
        self.path = Path(path)
        self.theta0 = self.path / "theta0.safetensors"
        self.rewind = self.path / "rewind.safetensors"
        self.checkpoint = self.path / "checkpoint.pt"
        self.epochs = self.path / "epochs.csv"
        self.rounds = self.path / "rounds.csv"
        self.tensorboard = None

    @property
    def done(self):
        """Whether the run is finished."""
        return (self.path / "DONE").exists()

    def masks(self, number):
        """masks/round_03.safetensors"""
        return self.path / "masks" / f"round_{number:02}.safetensors"

    def weights(self, number):
        """weights/round_03.safetensors"""
        return self.path / "weights" / f"round_{number:02}.safetensors"

    def flags(self):
        """The saved flags; UserError if this is not a run folder."""
        path = self.path / "config.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))["flags"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} is not a run folder: {path.name} cannot be read ({error})") from None

    def progress(self, config, must_exist=False):
        """How far the run has come; UserError if the folder belongs to other flags, or is not there and must be."""
        if not (self.path / "config.json").exists():
            if must_exist:
                raise UserError(f"--resume: there is no run at {self.path}; leave --resume out to start it")
            return Progress()
        must_match(config, self.flags(), self.path)
        if not self.checkpoint.exists():
            return Progress()
        state = _load_checkpoint(self.checkpoint)
        before = state["next_round"]
        return Progress(
            before,
            state["masks"],
            load_tensors(self.theta0),
            load_tensors(self.rewind) if self.rewind.exists() else None,
            state["trained"] or None,
            state["epochs"],
            state["rounds"],
        )

    def check_fits(self, progress, model, config):
        """UserError unless what was saved is of this network and of as many rounds as its tables have."""
        from pruning import prunable

        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        states = [state for state in (progress.theta0, progress.rewind, progress.trained, progress.masks) if state]
        whole = all(shapes.get(name) == tensor.shape for state in states for name, tensor in state.items())
        whole = whole and all(set(state) == set(shapes) for state in states[:-1]) and (progress.masks is None or set(progress.masks) == set(prunable(model)))
        whole = whole and [row["round"] for row in progress.rounds] == list(range(progress.next_round)) and progress.next_round <= config.prune_iterations
        if progress.next_round and not whole:
            raise UserError(f"{self.path} holds a damaged checkpoint or theta_0: remove the folder to start that run again")

    def check_writable(self):
        """UserError unless the folder can be made and written; leaves nothing behind."""
        parent = next(p for p in [self.path, *self.path.absolute().parents] if p.exists())
        try:
            with tempfile.TemporaryDirectory(dir=parent, prefix=".tmp-"):
                pass
        except OSError as error:
            raise UserError(f"--runs_dir: {self.path} cannot be written ({os.strerror(error.errno)}): name a folder that can") from error

    def start(self, config, device, theta0, report=None, samples=None):
        """Write what is known before round 0; an existing run keeps what it has."""
        for leftover in self.path.rglob(".tmp-*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not self.theta0.exists():
            save_tensors(self.theta0, theta0)
        if report and not (self.path / "attack_report.json").exists():
            self.save_report(report)
        if samples:
            from plots import draw_samples

            write_atomic(self.path / "attacked_samples.png", lambda path: draw_samples(*samples, path))
        if not (self.path / "config.json").exists():  # last: it makes the folder a run
            write_json(self.path / "config.json", {"flags": config.flags(), "provenance": provenance(device)})

    def save_report(self, report):
        """Write the figures of the attacked images."""
        write_json(self.path / "attack_report.json", report)

    def restore_tables(self, progress):
        """Write the tables of the finished rounds as the checkpoint has them, whatever became of the files."""
        if progress.rounds:
            write_csv(self.epochs, progress.epochs)
            write_csv(self.rounds, progress.rounds)

    def save_round(self, progress, masks, weights, row, epochs):
        """Write a finished round; the checkpoint comes last, so a kill in between repeats the round.

        progress: as the next round needs it, the new rows included; masks: this round's.
        """
        import torch

        number = row["round"]
        save_tensors(self.masks(number), masks)
        if weights is not None:
            save_tensors(self.weights(number), weights)
        if progress.rewind is not None and not self.rewind.exists():
            save_tensors(self.rewind, progress.rewind)
        write_csv(self.epochs, progress.epochs)
        write_csv(self.rounds, progress.rounds)
        self._log(row, epochs, masks)
        # the rows too, so that tables which were lost or cut off while they were saved are written again
        state = {"next_round": progress.next_round, "masks": progress.masks, "trained": progress.trained or {}}
        state |= {"epochs": progress.epochs, "rounds": progress.rounds}
        write_atomic(self.checkpoint, lambda path: torch.save(state, path))

    def finish(self, config):
        """Mark the run as done."""
        last = read_csv(self.rounds)[-1]
        flags = {name: value if value is not None else "none" for name, value in config.results().items()}
        metrics = {f"final/{name}": value for name, value in last.items() if name.endswith("accuracy") or name == "density"}
        self._writer().add_hparams(flags, metrics, name="hparams")
        self.tensorboard.close()
        write_text(self.path / "DONE", "")

    def log_samples(self, config, samples):
        """Flags and, with an attack, ten clean test images over their attacked versions, for TensorBoard."""
        import torch

        self._writer().add_text("flags", "\n".join(f"    {name}: {value}" for name, value in config.flags().items()))
        if samples:
            rows = [torch.cat(list(images), dim=2) for images in samples]
            self.tensorboard.add_image("attacked test images", torch.cat(rows, dim=1).numpy())

    def _log(self, row, epochs, masks):
        writer = self._writer()
        for epoch in epochs:
            for name in ("train_loss", "val_loss", "val_accuracy"):
                writer.add_scalar(f"round_{row['round']:02}/{name}", epoch[name], epoch["iteration"])
        for name, value in row.items():
            if name != "round":
                writer.add_scalar(f"rounds/{name}", value, row["round"])
        for name, mask in masks.items():
            writer.add_scalar(f"layer density/{name}", mask.float().mean().item(), row["round"])
        writer.flush()

    def _writer(self):
        if self.tensorboard is None:
            from tensorboardX import SummaryWriter

            self.tensorboard = SummaryWriter(str(self.path / "tb"))
        return self.tensorboard


def _load_checkpoint(path):
    import torch

    try:
        state = torch.load(path, weights_only=True)
        return {name: state[name] for name in ("next_round", "masks", "trained", "epochs", "rounds")}
    except Exception as error:  # torch, zipfile and pickle each raise their own types for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): remove {path.parent} to start that run again") from error
