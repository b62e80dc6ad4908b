"""A study's cohorts as Ray tasks: on this machine, or a cluster whose nodes share the folders."""

import itertools
import os
import socket
from pathlib import Path

from config import own_ticket
from engine.signals import stop
from study.board import Board
from study.cohorts import Outcome, new_run, without_orphans
from study.local import TRIES, work
from utils import UserError, one_line, open_streams


def ray_work(job, *before):
    """`work` in a Ray task; before: the Outcomes of the tasks that train its runs' tickets."""
    os.environ["TQDM_DISABLE"] = "1"
    open_streams()
    stop.listen()
    left, lost = without_orphans([new_run(*one) for one in job], itertools.chain(*before))
    jobs = [(run.config, run.folder.path, run.label) for run in left]
    return lost + (work(jobs) if jobs else [])


def start_ray(config):
    """Ray, joined to the cluster at --ray_address or started on this machine.

    One that is started here listens on the loopback address only. UserError if Ray is missing, or
    no cluster answers.
    """
    try:
        import ray
    except ImportError:
        right = "pip install -r requirements-grid.txt"
        raise UserError(f"--engine=ray needs Ray: {right}") from None
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    here = {"runtime_env": {"env_vars": path}} | quiet
    if not config.ray_address:
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **here)
        return ray
    try:
        host, _, port = config.ray_address.removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray itself asks a dead address for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=config.ray_address, **here)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        what = f"no Ray cluster answers there ({one_line(error)})"
        raise UserError(f"--ray_address={config.ray_address}: {what}") from error
    return ray


def on_ray(jobs_of, plan, config, total, small):
    """Each cohort as a task, on whatever node has room; returns the Outcomes.

    Every node sees the same folders, so a task that is killed goes on elsewhere. jobs_of(threads)
    gives a job a cohort; total: runs of the whole study; small: whether more threads only wait.
    """
    ray = start_ray(config)
    have = ray.cluster_resources()
    threads = config.threads or (1 if small else max(1, int(have.get("CPU", 1)) // total))
    share = config.gpu_share if config.device != "cpu" and have.get("GPU") else 0
    options = {"num_cpus": threads, "num_gpus": share, "max_retries": TRIES - 1}
    task = ray.remote(**options)(ray_work)
    errors = ray.exceptions
    failures = (errors.RayTaskError, errors.RaySystemError, errors.RayError)
    waiting, trains, outcomes = {}, {}, []
    for job in jobs_of(threads):  # tickets come first
        tickets = {str(config.ticket) for config, *_ in job if own_ticket(config)}
        after = dict.fromkeys(trains[path] for path in tickets if path in trains)
        reference = task.remote(job, *after)
        waiting[reference] = job
        trains |= {str(folder): reference for _, folder, _ in job}
    each = f"{threads} CPU(s)" + (f" and {share:g} GPU" if share else "")
    print(f"{sum(map(len, plan))} runs in {len(plan)} Ray tasks of {each}")
    with Board(plan) as board:
        try:
            while waiting:
                for done in ray.wait(list(waiting), timeout=1)[0]:
                    job = waiting.pop(done)
                    try:
                        outcomes += ray.get(done)
                    except failures as error:
                        why = one_line(str(error).splitlines()[-1])
                        outcomes += [Outcome(str(folder), "died", why) for _, folder, _ in job]
                board.look(outcomes)
        except KeyboardInterrupt:
            for reference in waiting:
                ray.cancel(reference)
            ray.wait(list(waiting), num_returns=len(waiting), timeout=60)
            raise
        finally:
            ray.shutdown()
    return outcomes
