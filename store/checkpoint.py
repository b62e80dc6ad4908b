"""Where a run is: between two rounds (Checkpoint), and within one (Partial).

Both are plain dataclasses with one way to disk and back, `save` and `load`. How far a run has come
has one truth, the rounds of its checkpoint; rounds.csv is written from them.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from store.files import load_state, of_the_system, save_state
from utils import UserError, fingerprint, hash8


@dataclass
class Checkpoint:
    """What the next round needs besides theta_0 and the weights to rewind to: their own files."""

    masks: dict | None = None  # of the next round; None before round 0
    # what one-shot prunes each time, the dense net's; what finetune goes on with, the last round's
    trained: dict = field(default_factory=dict)
    epochs: list = field(default_factory=list)  # rows of epochs.csv
    rounds: list = field(default_factory=list)  # rows of rounds.csv
    theta0: str = ""  # `total` of the two files, as they were
    rewind: str = ""

    def __post_init__(self):
        numbers = [row["round"] for row in self.rounds]
        if numbers != list(range(len(numbers))):
            raise ValueError("its rounds are not whole")

    @property
    def next_round(self):
        """The round to train next: how far the run is."""
        return len(self.rounds)


@dataclass
class Partial:
    """Where within a round training is, of one run: CPU tensors and plain values."""

    round: int
    epoch: int
    step: int
    weights: dict
    best: dict
    rewind: dict  # {} if round 0 keeps none, or has not yet
    moments: dict  # of the optimiser: {kind: {parameter: tensor}}
    best_accuracy: float
    rows: list  # of epochs.csv, of this round
    counted: int  # iterations whose training losses are in rows
    pending: object  # (n,) training losses since
    losses: object  # (step,) of the epoch that was stopped
    random: list  # states of torch's generators, if it stopped within an epoch
    checks: list  # (iteration, validation loss, accuracy) of that epoch
    seconds: float = 0.0  # that the round has taken so far; older versions did not keep them

    def within(self):
        """Where in a round the run was stopped, in words."""
        after = f" after step {self.step}" if self.step else ""
        return f"in epoch {self.epoch + 1} of round {self.round}{after}"

    def place(self):
        """What runs must have in common to go on together."""
        return self.epoch, self.step, sorted(self.moments)


@dataclass
class Progress:
    """How far a run has come, in memory."""

    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    theta0: dict | None = None
    rewind: dict | None = None  # the weights to go back to, if they are not theta_0
    partial: Partial | None = None  # where within the next round training is, if it has begun

    @property
    def next_round(self):
        """The round to train next."""
        return self.checkpoint.next_round

    def outline(self):
        """The same without large tensors: what tells which runs can train together."""
        rounds = [{"round": row["round"]} for row in self.checkpoint.rounds]
        partial = self.partial and dataclasses.replace(self.partial, weights={}, best={})
        if partial:
            partial.moments = dict.fromkeys(partial.moments)
        return Progress(Checkpoint(rounds=rounds), partial=partial)


def total(tensors):
    """A hash of a dict of tensors, "" for none."""
    return fingerprint(*(tensors[name] for name in sorted(tensors))) if tensors else ""


def save(path, state, run):
    """Write a Checkpoint or Partial of the run that the hash `run` stands for, atomically.

    A digest of all that it holds goes with it: a file that was edited is no state that a run had.
    """
    whole = {"run": run, **vars(state)}
    save_state(path, whole | {"digest": digest(whole)})


def digest(value):
    """Eight hex digits that stand for nested dicts, lists, numbers, texts and tensors."""
    if hasattr(value, "numpy"):
        return fingerprint(value.detach().cpu().contiguous())
    if isinstance(value, dict):
        return hash8(["dict", *((name, digest(value[name])) for name in sorted(value))])
    if isinstance(value, list | tuple):
        return hash8([type(value).__name__, *map(digest, value)])
    return hash8([type(value).__name__, repr(value)])


def load(path, kind, run):
    """The Checkpoint or Partial (`kind`) of that run.

    UserError if the system does not let it be read, ValueError if it is damaged or another run's.
    """
    try:
        state = load_state(path)
        if state["run"] != run:
            raise ValueError("it is another run's")
        # what older versions wrote has none
        if "digest" in state and state.pop("digest") != digest(state):
            raise ValueError("what it holds is not what was written")
        parts = dataclasses.fields(kind)
        needed = [p.name for p in parts if p.name in state or p.default is dataclasses.MISSING]
        return kind(**{name: state[name] for name in needed})
    except Exception as error:  # torch, zipfile and pickle each raise their own types
        if of_the_system(error):
            raise UserError(f"{path} cannot be read ({error})") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(reason) from error


def load_checkpoint(path, run):
    """The Checkpoint of that run; UserError if it is damaged."""
    try:
        return load(path, Checkpoint, run)
    except ValueError as error:
        again = f"remove {Path(path).parent} to start that run again"
        raise UserError(f"{path} is damaged ({error}): {again}") from error


def load_partial(path, number, run):
    """What was kept of round `number`; None if nothing was, or it is damaged.

    The round then begins again.
    """
    if not path.exists():
        return None
    try:
        partial = load(path, Partial, run)
    except ValueError as error:
        if "another run's" not in str(error):
            print(f"note: {path} is damaged; its round begins again")
        return None
    return partial if partial.round == number else None
