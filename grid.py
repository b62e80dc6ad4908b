"""Many runs: which can train together, and which process trains them."""

import dataclasses
import json
import os

from archs import WITH_DROPOUT
from utils import cores

# what each run of a cohort can have for its own
OWN = {
    "lr", "prune_type", "seed", "order_seed", "prune_scope", "prune_percent", "output_prune_percent", "prune_schedule", "attack", "mix_ratio", "norm",
    "epsilon", "attack_steps", "attack_step_size", "confidence", "restarts", "attack_seed", "surrogate", "surrogate_epochs",
    "criterion", "ticket", "ticket_arm", "ticket_seed",
}  # fmt: skip


def shared_by_a_cohort(run):
    """What runs must have in common to train together: all flags but OWN, the round they are at, and whether they have dropout."""
    config = run.config
    shared = {name: value for name, value in config.flags().items() if name not in OWN} | {"round": run.progress.next_round}
    if config.attack_mode == "online":  # one attack is made for all runs of a batch
        shared |= {name: getattr(config, name) for name in ("attack", "mix_ratio", "norm", "epsilon", "attack_steps", "attack_step_size", "restarts")}
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
    import torch

    return 64 if config.device != "cpu" and torch.cuda.is_available() else 1


def print_plan(runs, waiting):
    """What --dry_run prints: each run's folder and state, then the cohorts."""
    for run in runs:
        state = "done" if run.folder.done else f"{run.progress.next_round} of {run.config.prune_iterations} rounds done" if run.progress.next_round else "to do"
        print(f"{run.folder.path}  {state}")
    plan = list(cohorts(waiting))
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} done, {len(waiting)} to do in {len(plan)} cohorts of up to {max(map(len, plan), default=0)}")


def run_all(runs):
    """Train the cohorts of these runs, in several processes where there are several; returns how many runs diverged."""
    from main import run_cohort

    plan = list(cohorts(runs))
    workers = min(len(plan), (runs[0].config.workers or default_workers(runs[0].config)) if runs else 1)
    if workers <= 1:
        return sum(len(run_cohort(cohort)) for cohort in plan)

    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    from tqdm import tqdm

    threads = max(1, cores() // workers)
    jobs = [[(dataclasses.replace(run.config, threads=run.config.threads or threads), run.folder.path) for run in cohort] for cohort in plan]
    print(f"{len(runs)} runs in {workers} processes of {jobs[0][0][0].threads} thread(s)")
    # spawned, not forked: torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=no_bars) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        return sum(future.result() for future in tqdm(as_completed(futures), total=len(futures), desc="cohorts", disable=None))


def default_workers(config):
    """One process a core on a CPU, where a run alone would leave them idle or waiting for each other, 16 at most; one on a GPU."""
    import torch

    return 1 if config.device != "cpu" and torch.cuda.is_available() else min(cores(), 16)


def no_bars():
    """In a worker: bars of several processes would write over each other."""
    os.environ["TQDM_DISABLE"] = "1"


def work(job):
    """What a worker does with a cohort: [(config, folder)]; returns how many of its runs diverged."""
    from main import open_run, run_cohort

    try:
        return len(run_cohort([open_run(config, folder if folder.name != config.run_name else None) for config, folder in job]))
    except KeyboardInterrupt:  # the terminal tells every process; the parent says so
        return 0
