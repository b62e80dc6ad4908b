"""Which runs train together, and a cohort from its folders to their end."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import archs
from attacks import ATTACKS
from config import all_flags, own_ticket
from data import describe
from engine.machine import flush_denormals, gpus
from pruning import PRUNE_TYPES
from store.checkpoint import Progress
from store.runfolder import Run, RunFolder
from utils import UserError, one_line


@dataclass
class Outcome:
    """What became of a run, and why.

    state: "done", "diverged", "failed", "died" (its process was killed) or "held" by another.
    """

    path: str
    state: str
    reason: str = ""


def reason(error):
    """A UserError or OSError in a line."""
    if not isinstance(error, OSError):
        return one_line(error)
    where = f"{error.filename}: " if error.filename else ""
    right = "mend that, and the same command goes on"
    return one_line(f"{where}{error.strerror or error}; {right}")


def failed(run, error):
    """The Outcome of a run that ended with a UserError or OSError."""
    return Outcome(str(run.folder.path), "failed", reason(error))


def new_run(config, folder=None, label=""):
    """The Run of a configuration, in that folder or its own, not looked at yet.

    One that an older version has begun is gone on with where it is.
    """
    paths = [Path(config.runs_dir) / name for name in config.run_names]
    begun = [path for path in paths if path.exists()]
    return Run(config, RunFolder(folder or [*begun, *paths][0]), label=label)


# What trains together --------------------------------------------------------------------------


def shared_by_a_cohort(run):
    """What runs must have in common to train together.

    All flags but those a run may have for its own, and where training is. One attack on the nets
    that train is made for all runs of a batch, with one set of random draws, so there the attack's
    flags are shared too; a network with dropout draws for itself, so it trains alone.
    """
    config, partial = run.config, run.progress.partial
    shared = {}
    for flag in all_flags():
        if not flag.own or (config.adversarial and flag.group == "attack"):
            shared[flag.name] = getattr(config, flag.name)
    # lockstep: one epoch to begin at, and one schedule of rates
    shared["first_epoch"] = config.first_epoch(0), config.first_epoch(1)
    shared["last_rate"] = PRUNE_TYPES[config.prune_type].last_rate
    if config.adversarial and ATTACKS[config.attack][config.norm].draws:
        shared["order_seed"] = config.order_seed
    shared["round"] = run.progress.next_round
    shared["waits"] = waits(run)
    shared["place"] = partial and partial.place()
    if config.cohort_size != 1:
        size = describe(config.dataset, config.data_dir)
        # and bf16 rounds otherwise where several nets' products are taken together
        if config.precision == "bf16" or archs.has_dropout(config.arch_type, *size):
            shared["alone"] = str(run.folder.path)
    return json.dumps(shared, sort_keys=True)


def waits(run):
    """Whether the run's own ticket has to be trained first."""
    return own_ticket(run.config) is not None and not RunFolder(run.config.ticket).done


def cohorts(runs):
    """Lists of the runs that can train together, cohort_size at most, in their first's order."""
    kinds = {}
    for run in runs:
        kinds.setdefault(shared_by_a_cohort(run), []).append(run)
    for members in kinds.values():
        members.sort(key=lambda run: run.config.lr)  # those of one rate are updated in one go
        size = members[0].config.cohort_size or default_cohort_size(members)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def default_cohort_size(runs):
    """How many of these runs train together: on a GPU as many as is measured to be fastest for the
    network; 1 on a CPU, where stacking saves nothing.
    """
    if len(runs) == 1 or not gpus(runs[0].config):
        return 1
    from study.measure import fastest_size

    return fastest_size(runs[0].config)


# A cohort to its end ---------------------------------------------------------------------------


def tickets_of(runs):
    """The Runs whose masks these take and that are not done, each once."""
    found = {}
    for run in runs:
        if waits(run):
            ticket = own_ticket(run.config)
            found[run.config.ticket] = new_run(ticket, run.config.ticket, f"{ticket.run_name}: ")
    return list(found.values())


def without_orphans(runs, outcomes):
    """(left, lost): the runs but those whose own ticket is among these outcomes and did not end,
    and an Outcome of each of those.
    """
    ended = {outcome.path: outcome for outcome in outcomes if outcome.state not in ("done", "held")}
    left, lost = [], []
    for run in runs:
        ticket = own_ticket(run.config) and ended.get(str(run.config.ticket))
        if ticket:
            reason = f"its ticket {ticket.path} {ticket.state}: {ticket.reason}"
            lost.append(Outcome(str(run.folder.path), "failed", reason))
        else:
            left.append(run)
    return left, lost


def train_tickets(runs, say):
    """Train the tickets of these runs that are not done; returns the last Outcome of each.

    One that another process is at is waited for; if that dies, it is trained here.
    """
    outcomes, waiting = {}, tickets_of(runs)
    while waiting:
        for outcome in run_cohort(waiting, say):
            if outcome.state == "held" and outcome.path not in outcomes:
                say(f"waiting for the ticket {outcome.path}: {outcome.reason}")
            outcomes[outcome.path] = outcome
        waiting = [run for run in waiting if outcomes[str(run.folder.path)].state == "held"]
        if waiting:
            time.sleep(1)
    return list(outcomes.values())


def run_cohort(runs, say):
    """Train runs together, from where their folders are to the end; returns an Outcome a run.

    The tickets whose masks they take come first, where they are not done.
    """
    flush_denormals()  # before what stopped runs kept is read
    runs, lost = without_orphans(runs, train_tickets(runs, say))
    outcomes, held = {outcome.path: outcome for outcome in lost}, []
    try:
        for run in runs:
            path = str(run.folder.path)
            outcomes[path] = Outcome(path, "done")
            try:
                run.folder.check_writable()
                if not run.folder.hold.take():
                    why = f"{run.folder.hold.holder()} has it, and it is left to that"
                    outcomes[path] = Outcome(path, "held", why)
                    continue
                held.append(run)
                # now that nobody else can work on it
                run.progress = run.folder.progress(run.config)
            except (UserError, OSError) as error:
                outcomes[path] = failed(run, error)
        sound = [run for run in held if outcomes[str(run.folder.path)].state == "done"]
        for cohort in cohorts([run for run in sound if not run.folder.done]):
            for run, error in train_or_halve(cohort, say):
                path = str(run.folder.path)
                outcomes[path] = Outcome(path, "diverged", str(error))
                if isinstance(error, UserError | OSError):
                    outcomes[path] = failed(run, error)
    finally:
        for run in held:
            run.folder.release()
            run.progress = Progress()  # a study of large nets would not fit the memory
    return list(outcomes.values())


def train_or_halve(runs, say):
    """train_cohort, in halves where memory does not hold the runs.

    Returns (run, error) of those that it did not end.
    """
    import torch

    from experiment import train_cohort

    try:
        return train_cohort(runs, say)
    except torch.OutOfMemoryError as error:
        if len(runs) == 1:
            right = "a smaller --batch_size or --arch_type may"
            what = f"{runs[0].folder.path} does not fit the device's memory: {right}"
            return [(runs[0], UserError(f"{what} ({one_line(error)[:80]})"))]
    except (UserError, OSError) as error:
        return [(run, error) for run in runs if not run.folder.done]
    half = len(runs) // 2
    what = f"{len(runs)} runs together do not fit the device's memory"
    say(f"note: {what}; going on with {half} and {len(runs) - half}")
    torch.cuda.empty_cache()
    for run in runs:
        run.progress = run.folder.progress(run.config)
    parts = [cohort for part in (runs[:half], runs[half:]) for cohort in cohorts(part)]
    return [ended for part in parts for ended in train_or_halve(part, say)]
