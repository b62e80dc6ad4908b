"""Many runs: which can train together, which process or machine trains them, and how the study stands.

python main.py --prune_type lt reinit --seed 0 1 2 ...                    # this machine: a process a core, or a GPU
python main.py --engine=ray --ray_address=auto --prune_type lt reinit ... # a Ray cluster, whose nodes share --runs_dir
python main.py --print_commands --prune_type lt reinit ... | parallel     # a command a run, for whatever starts commands
"""

import collections
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing import connection, get_context
from pathlib import Path

from archs import WITH_DROPOUT
from utils import Interrupted, UserError, cores, is_small, one_line, stop

TRIES = 3  # of a cohort whose process is killed

# what each run of a cohort can have for its own
OWN = {
    "lr", "prune_type", "seed", "order_seed", "prune_scope", "prune_percent", "output_prune_percent", "prune_schedule", "attack", "mix_ratio", "norm",
    "epsilon", "attack_steps", "attack_step_size", "confidence", "restarts", "attack_seed", "surrogate", "surrogate_epochs",
    "criterion", "ticket", "ticket_arm", "ticket_seed",
}  # fmt: skip


DRAWING = ("pgd", "noise")  # attacks with random draws


@dataclasses.dataclass
class Outcome:
    """What became of a run: "done", "diverged", "failed", "died" (its process was killed) or "held" by another process, and why."""

    path: str
    state: str
    reason: str = ""


# What trains together --------------------------------------------------------------------------


def shared_by_a_cohort(run):
    """What runs must have in common to train together: all flags but OWN, the round and step they are at, and whether they have dropout."""
    config = run.config
    shared = {name: value for name, value in config.flags().items() if name not in OWN}
    partial = run.progress.partial
    shared |= {"round": run.progress.next_round, "place": (partial["epoch"], partial["step"], sorted(partial["moments"])) if partial else None}
    if config.attack_mode == "online":  # one attack is made for all runs of a batch, with one set of random draws
        online = ("attack", "mix_ratio", "norm", "epsilon", "attack_steps", "attack_step_size", "restarts", "order_seed")
        shared |= {name: getattr(config, name) for name in online if name != "order_seed" or config.attack in DRAWING}
    if config.arch_type in WITH_DROPOUT:  # its draws are a run's own, so it trains alone
        shared |= {"alone": str(run.folder.path)}
    return shared


def cohorts(runs):
    """Lists of the runs that can train together, of cohort_size at most, in the order of their first."""
    kinds = {}
    for run in runs:
        kinds.setdefault(json.dumps(shared_by_a_cohort(run), sort_keys=True), []).append(run)
    for members in kinds.values():
        members.sort(key=lambda run: run.config.lr)  # those of one learning rate are updated in one go
        size = members[0].config.cohort_size or default_cohort_size(members[0].config)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def default_cohort_size(config):
    """64 on a GPU, which one small net leaves idle; 1 on a CPU, where stacking runs was measured to save nothing."""
    return 64 if gpus(config) else 1


def gpus(config):
    """How many GPUs these flags let this machine use; of --gpu one."""
    import torch

    if config.device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count() if config.gpu is None else 1


def print_plan(runs, waiting):
    """What --dry_run prints: each run's folder and state, then the cohorts."""
    for run in runs:
        state = "done" if run.folder.done else f"{run.progress.next_round} of {run.config.prune_iterations} rounds done" if run.progress.next_round else "to do"
        print(f"{run.folder.path}  {state}")
    plan = list(cohorts(waiting))
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} done, {len(waiting)} to do in {len(plan)} cohorts of up to {max(map(len, plan), default=0)}")


# Engines ---------------------------------------------------------------------------------------


def run_all(runs, total):
    """Train the cohorts of these runs by --engine; returns an Outcome a run. total: of the whole study, finished runs included.

    Sums depend on how many threads make them, so what is left of a study gets the threads that the whole study has.
    """
    from main import run_cohort

    if not runs:
        return []
    plan, config = list(cohorts(runs)), runs[0].config
    if config.engine == "ray":
        return on_ray(plan, config, total)
    crew = min(total, config.workers or default_workers(config))
    threads = max(1, cores() // crew) if crew > 1 else 0  # 0: as a run alone
    if min(len(plan), crew) > 1:
        return in_processes(plan, min(len(plan), crew), threads)
    for run in runs:
        run.config = with_threads(run.config, threads)
    return [outcome for cohort in plan for outcome in run_cohort(cohort)]


def default_workers(config):
    """A process a GPU; without one, a process a core, 16 at most, where a run alone would leave cores idle or waiting for each other."""
    return gpus(config) or min(cores(), 16)


def failed(run, error):
    """The Outcome of a run that ended with a UserError or OSError."""
    return Outcome(str(run.folder.path), "failed", reason(error))


def reason(error):
    """A UserError or OSError in a line."""
    if not isinstance(error, OSError):
        return one_line(error)
    where = f"{error.filename}: " if error.filename else ""
    return one_line(f"{where}{error.strerror or error}; mend that, and the same command goes on")


def with_threads(config, threads):
    """The same with that many threads, unless --threads or the network, if more would only make it wait, says else."""
    return config if config.threads or is_small(config.arch_type) else dataclasses.replace(config, threads=threads)


def jobs_of(plan, threads):
    """[(config, folder)] of each cohort, with absolute paths and with_threads: what another process needs."""

    def moved(config):
        places = {name: str(Path(getattr(config, name)).absolute()) for name in ("data_dir", "cache_dir", "runs_dir", "ticket") if getattr(config, name)}
        return with_threads(dataclasses.replace(config, **places), threads)

    return [[(moved(run.config), run.folder.path.absolute()) for run in cohort] for cohort in plan]


def work(job, gpu=None):
    """What another process does with a cohort's job, on that GPU where there are several: main.run_cohort."""
    from main import open_run, run_cohort

    job = [(dataclasses.replace(config, gpu=gpu) if gpu is not None else config, folder) for config, folder in job]
    return run_cohort([open_run(config, folder) for config, folder in job])


def serve(do, pipe, parent, gpu):
    """In a worker process: send back what `do` makes of each job that comes through the pipe, until it closes or a signal comes."""
    os.environ["TQDM_DISABLE"] = "1"  # several processes would write over each other's bars
    stop.listen()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the parent too, which passes it on as SIGTERM

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
            with contextlib.suppress(OSError):
                pipe.send(outcomes)


class Worker:
    """A place for a process that does one job after the other. It shares no queue and no lock with others: one that is killed stops nobody."""

    def __init__(self, gpu):
        self.gpu, self.process, self.job = gpu, None, None

    def begin(self, job):
        """Give it a job, in a fresh process if it has none that is alive."""
        if self.process is None or not self.process.is_alive():
            context = get_context("spawn")  # spawned, not forked: torch's threads do not survive a fork
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

    def answer(self):
        """The outcomes of its job; None if the process ended before."""
        self.job = None
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return None

    def ended(self):
        """How its process ended, in words."""
        code = self.process.exitcode
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed with the error above" if code else "was stopped"


def in_processes(plan, workers, threads=1):
    """Each cohort in one of that many processes. What a killed one had in hand goes on in a fresh one, TRIES times in all."""
    devices = gpus(plan[0][0].config)
    print(f"{sum(map(len, plan))} runs in {workers} processes")
    crew = [Worker(place % devices if devices > 1 else None) for place in range(workers)]
    jobs, tries, outcomes = jobs_of(plan, threads), collections.Counter(), []
    try:
        with Board(plan) as board:
            while jobs or any(worker.job for worker in crew):
                for worker in crew:
                    if jobs and not worker.job:
                        worker.begin(jobs.pop(0))
                busy = {worker.pipe: worker for worker in crew if worker.job}
                for worker in map(busy.get, connection.wait(busy, timeout=1)):
                    job, answer = worker.job, worker.answer()
                    if answer is not None:
                        outcomes += answer
                        continue
                    print(f"note: a worker process {worker.ended()}; what it had begun goes on from where it was", file=sys.stderr)
                    folders = [str(folder) for _, folder in job]
                    tries[folders[0]] += 1
                    if tries[folders[0]] < TRIES:
                        jobs.insert(0, job)
                    else:
                        why = f"its process {worker.ended()}, the last of {TRIES} times: out of memory? fewer --workers may help"
                        outcomes += [Outcome(folder, "died", why) for folder in folders]
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


def on_ray(plan, config, total):
    """Each cohort as a Ray task, on whatever node has room: every node sees the same folders, so a task that is killed goes on elsewhere."""
    try:
        import ray
    except ImportError:
        raise UserError("--engine=ray needs Ray: pip install -r requirements-grid.txt") from None
    start_ray(ray, config)
    threads = config.threads or (1 if is_small(config.arch_type) else max(1, int(ray.cluster_resources().get("CPU", 1)) // total))
    share = config.gpu_share if config.device != "cpu" and ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=threads, num_gpus=share, max_retries=TRIES - 1)(ray_work)
    outcomes, failures = [], (ray.exceptions.RayTaskError, ray.exceptions.RaySystemError, ray.exceptions.RayError)
    waiting = {task.remote(job): job for job in jobs_of(plan, threads)}
    print(f"{sum(map(len, plan))} runs in {len(plan)} Ray tasks of {threads} CPU(s)" + (f" and {share:g} GPU" if share else ""))
    with Board(plan) as board:
        try:
            while waiting:
                for done in ray.wait(list(waiting), timeout=1)[0]:
                    job = waiting.pop(done)
                    try:
                        outcomes += ray.get(done)
                    except failures as error:
                        outcomes += [Outcome(str(folder), "died", one_line(str(error).splitlines()[-1])) for _, folder in job]
                board.look(outcomes)
        except KeyboardInterrupt:
            for reference in waiting:
                ray.cancel(reference)
            ray.wait(list(waiting), num_returns=len(waiting), timeout=60)
            raise
        finally:
            ray.shutdown()
    return outcomes


def start_ray(ray, config):
    """Join the cluster at --ray_address, or start one on this machine that listens on the loopback address only."""
    here = {"runtime_env": {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}, "log_to_driver": False, "logging_level": "ERROR"}
    if config.ray_address:
        try:
            host, _, port = config.ray_address.removeprefix("ray://").rpartition(":")
            if port.isdigit():  # Ray itself asks a dead address for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address=config.ray_address, **here)
        except (OSError, ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"--ray_address={config.ray_address}: no Ray cluster answers there ({one_line(error)})") from None
    else:
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **here)


def ray_work(job):
    """`work` in a Ray task."""
    os.environ["TQDM_DISABLE"] = "1"
    stop.listen()
    return work(job)


# How the study stands --------------------------------------------------------------------------


class Board:
    """One bar over the rounds of a whole study, read off the run folders, with the runs that are done, running, failed and to go."""

    def __init__(self, plan):
        from tqdm import tqdm

        self.runs = [run for cohort in plan for run in cohort]
        self.bar = tqdm(total=sum(run.config.prune_iterations for run in self.runs), desc="study", unit="round", disable=None)
        self.bar.update(self._rounds())
        self.bar.start_t, self.bar.initial = time.time(), self.bar.n  # the time left goes by this call's rounds

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def _rounds(self):
        return sum(run.folder.rounds_done() for run in self.runs)

    def look(self, outcomes):
        """Read the folders and show how far they are."""
        if self.bar.disable:
            return
        done, ended = sum(outcome.state == "done" for outcome in outcomes), {str(Path(outcome.path).absolute()) for outcome in outcomes}
        going = [run.folder.path for run in self.runs if str(run.folder.path.absolute()) not in ended]
        running = sum((path / "holder.json").exists() for path in going)
        self.bar.n = self._rounds()
        self.bar.set_postfix_str(f"{done} done, {running} running, {len(ended) - done} failed, {len(going) - running} to go")


def report(outcomes, before):
    """Print what failed and why, and for several runs a table; returns main's exit code. before: how many runs were done already."""
    for outcome in outcomes:
        if outcome.state == "failed" and len(outcomes) + before == 1:
            print(f"main.py: error: {outcome.reason}", file=sys.stderr)
        elif outcome.state != "done":
            where = "" if outcome.path in outcome.reason else f"{outcome.path}: "
            print(f"main.py: {outcome.state}: {where}{outcome.reason}", file=sys.stderr)
    states = {outcome.state for outcome in outcomes}
    if len(outcomes) + before > 1:
        counts = {state: sum(outcome.state == state for outcome in outcomes) for state in ("done", "diverged", "failed", "died", "held")}
        counts["done"] += before
        print("runs: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
    return 1 if states & {"diverged", "died"} else 2 if states & {"held", "failed"} else 0
