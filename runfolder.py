"""The run folder: every file of a run, written whole, and where to go on after a stop.

Reading functions serve plots.py and whoever compares runs; they never need the code that trained.
"""

import contextlib
import json
import math
import os
import platform
import re
import shutil
import tempfile
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from config import must_match, saved_config
from utils import (
    UserError,
    fingerprint,
    hash8,
    load_tensors,
    misfit,
    of_the_system,
    provenance,
    read_csv,
    save_state,
    save_tensors,
    write_atomic,
    write_csv,
    write_json,
    write_text,
)

ROUND_COLUMNS = ("round", "kept", "total", "density", "best_epoch", "early_stop_iteration", "val_accuracy", "test_accuracy", "test_accuracy_last")
EPOCH_COLUMNS = ("round", "epoch", "iteration", "train_loss", "val_loss", "val_accuracy")


@dataclass
class Progress:
    """What the next round needs. masks are that round's; None before round 0."""

    next_round: int = 0
    masks: dict | None = None
    theta0: dict | None = None
    theta0_sum: str = ""  # what theta_0 was when the checkpoint was written
    rewind: dict | None = None  # the weights that lt goes back to, if they are not theta_0
    trained: dict | None = None  # what one-shot prunes each time, the dense net's; what finetune goes on with, the last round's
    epochs: list = field(default_factory=list)  # rows of epochs.csv
    rounds: list = field(default_factory=list)  # rows of rounds.csv
    partial: dict | None = None  # where within the next round training is (train.Place.states), if it has begun
    run: str = ""  # stands for the flags: another run's files are not taken for this one's

    def outline(self):
        """The same without tensors: what tells which runs can train together."""
        partial = self.partial and {"epoch": self.partial["epoch"], "step": self.partial["step"], "moments": dict.fromkeys(self.partial["moments"])}
        return Progress(self.next_round, partial=partial)


class RunFolder:
    """The files of one run."""

    def __init__(self, path):
        self.path = Path(path)
        self.theta0 = self.path / "theta0.safetensors"
        self.rewind = self.path / "rewind.safetensors"
        self.checkpoint = self.path / "checkpoint.pt"
        self.partial = self.path / "partial.pt"
        self.lock = None
        self.epochs = self.path / "epochs.csv"
        self.rounds = self.path / "rounds.csv"
        self.tensorboard = None

    @property
    def done(self):
        """Whether the run is finished."""
        return (self.path / "DONE").exists()

    @property
    def not_begun(self):
        """Whether a process has taken the folder, and waits for its attacked images or was killed before it trained."""
        return (self.path / ".lock").exists() and not (self.path / "config.json").exists()

    def masks(self, number):
        """masks/round_03.safetensors"""
        return self.path / "masks" / f"round_{number:02}.safetensors"

    def weights(self, number):
        """weights/round_03.safetensors"""
        return self.path / "weights" / f"round_{number:02}.safetensors"

    def network(self, number, model, kept=None):
        """(weights, masks) of a round's trained network; UserError unless they are of this model (and the masks leave `kept` weights)."""
        from pruning import ones

        weights = load_tensors(self.weights(number))
        wrong = misfit(weights, model.state_dict())
        if wrong:
            raise UserError(f"{self.weights(number)} is not of the run's network on this data set: {wrong}")
        return weights, load_masks(self.masks(number), {name: tuple(mask.shape) for name, mask in ones(model).items()}, kept)

    def rounds_done(self):
        """How many rounds rounds.csv has; 0 where it cannot be read."""
        try:
            return max(0, self.rounds.read_bytes().count(b"\n") - 1)
        except OSError:
            return 0

    def flags(self):
        """The saved flags; UserError if this is not a run folder."""
        return saved_config(self.path)["flags"]

    def progress(self, config, must_exist=False):
        """How far the run has come; UserError if the folder belongs to other flags, or is not there and must be."""
        me = hash8(config.results())
        if not (self.path / "config.json").exists():
            if must_exist:
                raise UserError(f"--resume: there is no run at {self.path}; leave --resume out to start it")
            return Progress(run=me)
        must_match(config, self.flags(), self.path)
        if self.done:  # a study of a thousand finished runs is skipped in seconds
            rounds = self.rounds_done()
            if rounds < config.prune_iterations:
                reached = f"{rounds} of {config.prune_iterations} rounds"
                raise UserError(f"{self.path} is marked as done with {reached}: remove its file DONE, and the same command goes on")
            return Progress(run=me)
        if not self.checkpoint.exists():
            return Progress(run=me, partial=_load_partial(self.partial, 0, me))
        state = _load_checkpoint(self.checkpoint, me)
        before = state["next_round"]
        again = f"remove {self.path} to start that run again"
        with _advice(again):
            theta0 = load_tensors(self.theta0) if self.theta0.exists() else None  # a lost one is drawn again
            rewind = load_tensors(self.rewind) if state["rewind"] else None
            for row in state["rounds"]:
                load_masks(self.masks(row["round"]), kept=row["kept"])
        for path, tensors, was in ((self.theta0, theta0, state["theta0"]), (self.rewind, rewind, state["rewind"])):
            if tensors is not None and _sum(tensors) != was:
                raise UserError(f"{path} is not the one that checkpoint.pt is of: {again}")
        return Progress(
            before,
            state["masks"],
            theta0,
            state["theta0"],
            rewind,
            state["trained"] or None,
            state["epochs"],
            state["rounds"],
            _load_partial(self.partial, before, me),
            me,
        )

    def check_fits(self, progress, model, config):
        """UserError unless what was saved is of this network, of as many rounds as its tables have, and reaches up to --start_iter."""
        from pruning import prunable

        if config.start_iter > progress.next_round:
            rounds = f"{self.path} has {progress.next_round} finished rounds"
            raise UserError(f"--start_iter={config.start_iter}: {rounds}: start with the first missing one, or an earlier one")
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        states = [state for state in (progress.theta0, progress.rewind, progress.trained, progress.masks) if state]
        whole = all(shapes.get(name) == tensor.shape for state in states for name, tensor in state.items())
        whole = whole and all(set(state) == set(shapes) for state in states[:-1]) and (progress.masks is None or set(progress.masks) == set(prunable(model)))
        whole = whole and [row["round"] for row in progress.rounds] == list(range(progress.next_round)) and progress.next_round <= config.prune_iterations
        if progress.next_round and not whole:
            raise UserError(f"{self.path} holds a damaged checkpoint or theta_0: remove the folder to start that run again")
        if progress.partial and {name: tensor.shape for name, tensor in progress.partial["weights"].items()} != shapes:
            progress.partial = None  # of another network: the round begins again

    def check_writable(self):
        """UserError unless the folder can be made and written; leaves nothing behind."""
        parent = next(p for p in [self.path, *self.path.absolute().parents] if p.exists())
        try:
            with tempfile.TemporaryDirectory(dir=parent, prefix=".tmp-"):
                pass
        except OSError as error:
            raise UserError(f"--runs_dir: {self.path} cannot be written ({os.strerror(error.errno)}): name a folder that can") from error

    def start(self, config, device, progress, report=None, samples=None, say=print):
        """Write what is known before round 0; an existing run keeps what it has. UserError if a theta_0 that was lost cannot be drawn again."""
        if progress.theta0_sum not in ("", _sum(progress.theta0)):
            raise UserError(f"{self.theta0} is lost, and this torch draws another from its seed: remove {self.path} to start that run again")
        for leftover in self.path.rglob(".tmp-*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not self.theta0.exists():
            save_tensors(self.theta0, progress.theta0)
        if report and not (self.path / "attack_report.json").exists():
            self.save_report(report)
        if samples:
            from plots import draw_samples

            write_atomic(self.path / "attacked_samples.png", lambda path: draw_samples(*samples, path))
        now = provenance(device)
        if not (self.path / "config.json").exists():  # last: it makes the folder a run
            write_json(self.path / "config.json", {"flags": config.flags(), "provenance": now})
        else:
            self._note_other_code(now, say)

    def _note_other_code(self, now, say):
        """Say, and add to config.json, that a run goes on under another revision or other libraries than it was last trained by."""
        saved = saved_config(self.path)
        before = [saved["provenance"], *saved.get("resumed", [])][-1]
        differing = [name for name in ("revision", "modified", "versions") if before.get(name) != now[name]]
        if differing:
            say(f"note: {self.path} was begun under other code or libraries and goes on under these; config.json has both ({', '.join(differing)})")
            saved.setdefault("resumed", []).append({"round": self.rounds_done(), **now})
            write_json(self.path / "config.json", saved)

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
        state = {"run": progress.run, "next_round": progress.next_round, "masks": progress.masks, "trained": progress.trained or {}}
        state |= {"epochs": progress.epochs, "rounds": progress.rounds, "theta0": _sum(progress.theta0), "rewind": _sum(progress.rewind)}
        save_state(self.checkpoint, state)
        self.partial.unlink(missing_ok=True)

    def save_partial(self, state):
        """Write where within a round training is."""
        save_state(self.partial, state)

    def hold(self):
        """Take the run for this process; False if another has it. The system frees it when the process ends, however it ends."""
        from filelock import FileLock, Timeout

        self.made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        lock = FileLock(self.path / ".lock")
        for attempt in range(10):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=0.5, poll_interval=0.02)
                break
            except Timeout:
                return False
            except (FileNotFoundError, FileExistsError):  # a process that leaves is just removing the folder it had made
                if attempt == 9:
                    raise
                time.sleep(0.02)
        self.lock = lock
        try:
            write_json(self.path / "holder.json", {"host": platform.node(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")})
        except OSError:
            self.release()
            raise
        return True

    def release(self):
        """Give back what `hold` took, and leave no trace of it, nor of a run that never began."""
        if self.lock is None:
            return
        with contextlib.suppress(OSError):  # a full disk must not keep the lock
            self._close_log()
        with contextlib.suppress(OSError):
            (self.path / "holder.json").unlink()
        never_began = not (self.path / "config.json").exists()
        if never_began:  # before the lock is given back: who gets a lock of a file that is gone asks again
            (self.path / ".lock").unlink(missing_ok=True)
        self.lock.release()
        self.lock = None
        if never_began:
            with contextlib.suppress(OSError):
                for path in self.made:
                    path.rmdir()

    def holder(self):
        """Who holds the run, in words."""
        try:
            found = json.loads((self.path / "holder.json").read_text(encoding="utf-8"))
            return f"process {found['process']} on {found['host']} since {found['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def finish(self, config):
        """Mark the run as done."""
        last = read_csv(self.rounds)[-1]
        flags = {name: value if value is not None else "none" for name, value in config.results().items()}
        metrics = {f"final/{name}": value for name, value in last.items() if name.endswith("accuracy") or name == "density"}
        self._writer().add_hparams(flags, metrics, name="hparams")
        self._close_log()
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

    def _close_log(self):
        if self.tensorboard is not None:  # left open, its thread ends the process with a traceback
            self.tensorboard.close()
            self.tensorboard = None


class Keeper:
    """Keeps where in a round the runs of a cohort are, so that a kill loses the epoch in hand at most, and a signal nothing.

    begin: what the runs kept when they were stopped, for the first round that asks. Every save_freq epochs, but where epochs are
    short only so often that a twentieth of the time goes into it.
    """

    SHARE = 20

    def __init__(self, runs, stop):
        self.runs, self.stop, self.cost, self.last = runs, stop, 0.0, time.monotonic()
        partials = [run.progress.partial for run in runs]
        self.begin = partials if all(partials) else None
        for run in runs:
            run.progress.partial = None

    @property
    def stopping(self):
        """Whether a signal has asked the program to stop."""
        return self.stop.signal is not None

    def due(self, epoch):
        """Whether to keep the state after `epoch` epochs of the round."""
        return epoch % self.runs[0].config.save_freq == 0 and time.monotonic() - self.last >= self.SHARE * self.cost

    def keep(self, states):
        """Write each run's state to its folder."""
        began = time.monotonic()
        for run, state in zip(self.runs, states, strict=True):
            run.folder.save_partial(state | {"run": run.progress.run})
        self.last = time.monotonic()
        self.cost = self.last - began


def read_rounds(folder):
    """The rows of a run's rounds.csv; UserError if they cannot be what a run wrote."""

    def whole(number, row):
        attacked = [name for name in row if re.fullmatch(r"(transfer|whitebox)_[a-z]+_(accuracy|l2)", name)]
        finite = [*ROUND_COLUMNS, *(name for name in attacked if not name.endswith("_l2"))]
        if not {*row} <= {*ROUND_COLUMNS, *attacked, "seconds"} or not are_numbers(row, finite):
            return False
        return row["round"] == number and 0 <= row["kept"] <= row["total"] and abs(row["density"] * row["total"] - row["kept"]) < 0.01

    try:
        rows = read_csv(folder.rounds)
    except OSError:
        rows = [{}]
    if not all(whole(number, row) for number, row in enumerate(rows)):
        raise UserError(f"{folder.rounds} is damaged: the run's own command, with DONE removed, writes it again")
    return rows


def are_numbers(row, names):
    """Whether a row of a table has finite numbers under these names."""
    return all(isinstance(row.get(name), int | float) and math.isfinite(row[name]) for name in names)


def load_masks(path, shapes=None, kept=None):
    """A round's masks, bool tensors by name, in the order of `shapes` (name -> tuple) if they are known.

    UserError if they are not zeros and ones of those shapes, or not `kept` ones in all.
    """
    import torch

    masks = load_tensors(path)
    if shapes is not None and {name: tuple(mask.shape) for name, mask in masks.items()} != shapes:
        raise UserError(f"{path} is damaged: its layers or their shapes are not those of the run's other masks")
    for name, mask in masks.items():
        values = mask.view(torch.uint8) if mask.element_size() == 1 else mask  # a bool of a damaged file may be any byte
        if not ((values == 0) | (values == 1)).all():
            raise UserError(f"{path} is damaged: {name} holds values other than 0 and 1")
    if kept is not None and sum(int(mask.sum()) for mask in masks.values()) != kept:
        raise UserError(f"{path} is not the mask that the run's tables tell of: it leaves another number of weights")
    return {name: masks[name].bool() for name in shapes or masks}


@contextlib.contextmanager
def _advice(what):
    """Add to a UserError what to do about it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}: {what}") from None


def _sum(tensors):
    """A hash of a dict of tensors, "" for None."""
    return fingerprint(*(tensors[name] for name in sorted(tensors))) if tensors else ""


def load_whole(path):
    """A torch file of tensors and plain values, after its check sums: torch itself does not look at them."""
    import torch

    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad:
        raise ValueError(f"its part {bad} has another check sum")
    return torch.load(path, weights_only=True)


def _load_partial(path, number, run):
    """What was kept of round `number` of this run; None if nothing was, or it is damaged: the round then begins again."""
    if not path.exists():
        return None
    try:
        state = load_whole(path)
        names = ("epoch", "step", "weights", "best", "rewind", "moments", "best_accuracy", "rows", "counted", "pending", "losses", "random", "checks")
        return state if state["run"] == run and state["round"] == number and all(name in state for name in names) else None
    except Exception as error:  # torch, zipfile and pickle each raise their own types for a damaged file
        if of_the_system(error):
            raise UserError(f"{path} cannot be read ({error})") from error
        print(f"note: {path} is damaged; its round begins again")
        return None


def _load_checkpoint(path, run):
    try:
        state = load_whole(path)
        if state["run"] != run:
            raise ValueError("it is another run's")
        if [row["round"] for row in state["rounds"]] != list(range(state["next_round"])):
            raise ValueError("its rounds are not whole")
        return {name: state[name] for name in ("next_round", "masks", "trained", "epochs", "rounds", "theta0", "rewind")}
    except Exception as error:  # torch, zipfile and pickle each raise their own types for a damaged file
        if of_the_system(error):
            raise UserError(f"{path} cannot be read ({error})") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): remove {path.parent} to start that run again") from error
