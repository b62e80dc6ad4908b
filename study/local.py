"""The processes of this machine that share a study's cohorts."""

import collections
import contextlib
import io
import os
import signal
import sys
import threading
import time
from multiprocessing import connection, get_context

from config import own_ticket
from engine.machine import gpus
from engine.signals import Interrupted, stop
from study.board import Board
from study.cohorts import Outcome, new_run, run_cohort, without_orphans
from utils import open_streams

TRIES = 3  # of a cohort whose process is killed


def work(job, gpu=None, say=print):
    """What another process does with a job, [(config, folder, label)], on that GPU if there are
    several.
    """
    if gpu is not None:
        job = [(config.replace(gpu=gpu), *rest) for config, *rest in job]
    return run_cohort([new_run(*one) for one in job], say)


class Lines(io.TextIOBase):
    """A stream that hands what is printed to the parent, which prints it above its own bar.

    What is printed at once, lines together, stays together.
    """

    def __init__(self, pipe):
        self.pipe, self.rest = pipe, ""

    def write(self, text):
        self.rest += text
        if self.rest.endswith("\n"):
            with contextlib.suppress(OSError):
                self.pipe.send(self.rest[:-1])
            self.rest = ""
        return len(text)

    def end(self):
        """Send what no newline has followed."""
        if self.rest:
            self.write("\n")


def serve(do, pipe, parent, gpu):
    """In a worker process: send back what `do` makes of each job that comes through the pipe.

    Until it closes or a signal comes.
    """
    os.environ["TQDM_DISABLE"] = "1"  # several processes would write over each other's bars
    open_streams()
    sys.stdout = Lines(pipe)
    stop.listen()
    # a terminal's Ctrl-C reaches the parent too, which passes it on as SIGTERM
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                job = pipe.recv()
            except (EOFError, OSError):  # the parent has closed the pipe or is gone
                return
            outcomes = do(job, gpu)
            sys.stdout.end()
            with contextlib.suppress(OSError):
                pipe.send(outcomes)


class Worker:
    """A place for a process that does one job after the other.

    It shares no queue and no lock with others: one that is killed stops nobody.
    """

    def __init__(self, gpu):
        self.gpu, self.process, self.job = gpu, None, None

    def begin(self, job):
        """Give it a job, in a fresh process if it has none that is alive."""
        if self.process is None or not self.process.is_alive():
            context = get_context("spawn")  # torch's threads do not survive a fork
            self.pipe, theirs = context.Pipe()
            process = context.Process(target=serve, args=(work, theirs, os.getpid(), self.gpu))
            with stop.deferring():  # a half-started process could not be told to stop
                process.start()
            self.process = process
            theirs.close()  # the process has it alone, so that its end closes the pipe
            if stop.signal is not None:
                raise Interrupted(stop.signal)
        self.job = job
        with contextlib.suppress(OSError):  # killed this very moment: the answer will say so
            self.pipe.send(job)

    def hear(self):
        """A line that it prints (a str), the outcomes of its job (a list), or None at its end."""
        try:
            heard = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            heard = None
        if not isinstance(heard, str):
            self.job = None
        return heard

    def ended(self):
        """How its process ended, in words."""
        code = self.process.exitcode
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return "failed with the error above" if code else "was stopped"


def in_processes(jobs, plan, workers):
    """Each job, of a cohort of `plan`, in one of that many processes; returns the Outcomes.

    What a killed one had in hand goes on in a fresh one, TRIES times in all.
    """
    devices = gpus(plan[0][0].config)
    print(f"{sum(map(len, plan))} runs in {workers} processes")
    crew = [Worker(number % devices if devices > 1 else None) for number in range(workers)]
    jobs, tries, outcomes = list(jobs), collections.Counter(), []
    try:
        with Board(plan) as board:
            while jobs or any(worker.job for worker in crew):
                for worker in crew:
                    outcomes += _drop_orphans(jobs, outcomes)
                    at = None if worker.job else _first_ready(jobs, crew)
                    if at is not None:
                        worker.begin(jobs.pop(at))
                busy = {worker.pipe: worker for worker in crew if worker.job}
                for worker in map(busy.get, connection.wait(busy, timeout=1)):
                    job, heard = worker.job, worker.hear()
                    if isinstance(heard, str):
                        board.write(heard)
                    elif heard is not None:
                        outcomes += heard
                    else:
                        outcomes += _after_a_death(worker, job, jobs, tries)
                board.look(outcomes)
    except KeyboardInterrupt:
        for worker in crew:
            if worker.process:
                worker.process.terminate()
        raise
    finally:
        for worker in crew:
            if worker.process:
                worker.pipe.close()
                worker.process.join()
    return outcomes


def _first_ready(jobs, crew):
    """The place of the first job whose tickets nobody has in hand or has still to train."""
    begun = [worker.job for worker in crew if worker.job]
    ahead = {str(folder) for job in begun + jobs for _, folder, _ in job}
    for place, job in enumerate(jobs):
        tickets = {str(config.ticket) for config, *_ in job if own_ticket(config)}
        if not tickets & ahead:
            return place
    return None


def _drop_orphans(jobs, outcomes):
    """Take runs out of `jobs` whose ticket did not end; returns their Outcomes."""
    kept, lost = [], []
    for job in jobs:
        left, gone = without_orphans([new_run(*one) for one in job], outcomes)
        kept.append([(run.config, run.folder.path, run.label) for run in left] if gone else job)
        lost += gone
    jobs[:] = [job for job in kept if job]
    return lost


def _after_a_death(worker, job, jobs, tries):
    """Put the job of a process that ended back into `jobs`, or give it up: its Outcomes."""
    what = f"a worker process {worker.ended()}"
    print(f"note: {what}; what it had begun goes on from where it was", file=sys.stderr)
    folders = [str(folder) for _, folder, _ in job]
    tries[folders[0]] += 1
    if tries[folders[0]] < TRIES:
        jobs.insert(0, job)
        return []
    times = f"the last of {TRIES} times: out of memory? fewer --workers may help"
    why = f"its process {worker.ended()}, {times}"
    return [Outcome(folder, "died", why) for folder in folders]
