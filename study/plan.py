"""A study: its runs in cohorts, handed to the engine that --engine names.

python main.py --prune_type lt reinit --seed 0 1 2 ...        # processes: one a core, or a GPU
python main.py --engine=ray --ray_address=auto --seed 0 1 ... # a Ray cluster
python main.py --print_commands --seed 0 1 2 ... | parallel   # a command a run
"""

import sys
from pathlib import Path

from tqdm import tqdm

import archs
from data import describe
from engine.machine import cores, gpus
from study.cohorts import cohorts, run_cohort, waits, without_orphans
from study.local import in_processes
from study.on_ray import on_ray


def print_plan(runs, waiting):
    """What --dry_run prints: each run's folder and state, then the cohorts."""
    for run in runs:
        print(f"{run.folder.path}  {standing(run)}")
    plan = list(cohorts(waiting))
    largest = max(map(len, plan), default=0)
    done = f"{len(runs)} run{'s' * (len(runs) != 1)}, {len(runs) - len(waiting)} done"
    together = f" in {len(plan)} cohorts of up to {largest} runs" if largest > 1 else ""
    print(f"{done}, {len(waiting)} to do{together}")
    if plan:
        from study.estimate import lines  # what trains, which a finished study needs no more

        crew, threads = crew_of(waiting[0].config, len(runs))
        for run in waiting:
            run.config = with_threads(run.config, threads)
        print(*lines(plan, min(len(plan), crew)), sep="\n")


def standing(run):
    """How far a run has come, in words, and which process is at it."""
    if run.folder.done:
        return "done"
    count, partial = run.progress.next_round, run.progress.partial
    words = f"{count} of {run.config.prune_iterations} rounds done" if count else "to do"
    if run.folder.hold.busy():
        return f"running, {run.folder.hold.holder()}" + (f", {words}" if count else "")
    if partial:
        words = f"stopped {partial.within()}"
    return words + (f", after its ticket {run.config.ticket}" if waits(run) else "")


def run_all(runs, total):
    """Train the cohorts of these runs by --engine; returns an Outcome a run.

    total: of the whole study, finished runs included. Sums depend on how many threads make them, so
    what is left of a study gets the threads that the whole study has.
    """
    if not runs:
        return []
    plan, config = list(cohorts(runs)), runs[0].config
    small = is_small(config)
    if config.engine == "ray":
        return on_ray(lambda threads: jobs_of(plan, threads), plan, config, total, small)
    crew, threads = crew_of(config, total)
    if min(len(plan), crew) > 1:
        return in_processes(jobs_of(plan, threads), plan, min(len(plan), crew))
    for run in runs:
        run.config = with_threads(run.config, threads)
    outcomes = []
    for cohort in plan:
        left, lost = without_orphans(cohort, outcomes)
        outcomes += lost + (run_cohort(left, tqdm.write) if left else [])
    return outcomes


def crew_of(config, total):
    """(processes, threads of each) for a study of so many runs; 0 threads: as a run alone."""
    crew = min(total, config.workers or default_workers(config))
    return crew, max(1, cores() // crew) if crew > 1 else 0


def default_workers(config):
    """A process a GPU; without one a process a core, 16 at most."""
    return gpus(config) or min(cores(), 16)


def is_small(config):
    """Whether more threads would only make the network wait."""
    return archs.is_small(config.arch_type, *describe(config.dataset, config.data_dir))


def with_threads(config, threads):
    """The same with that many threads, unless --threads or the network has its own mind."""
    return config if config.threads or is_small(config) else config.replace(threads=threads)


def jobs_of(plan, threads):
    """[(config, folder, label)] of each cohort, with absolute paths: what another process needs."""

    def moved(config):
        names = [n for n in ("data_dir", "cache_dir", "runs_dir", "ticket") if getattr(config, n)]
        places = {name: str(Path(getattr(config, name)).absolute()) for name in names}
        return with_threads(config.replace(**places), threads)

    return [
        [(moved(run.config), run.folder.path.absolute(), run.label) for run in cohort]
        for cohort in plan
    ]


def report(outcomes, before):
    """Print what failed and why, and for several runs a table; returns main's exit code.

    before: how many runs were done already.
    """
    for outcome in outcomes:
        if outcome.state == "failed" and len(outcomes) + before == 1:
            print(f"main.py: error: {outcome.reason}", file=sys.stderr)
        elif outcome.state != "done":
            where = "" if outcome.path in outcome.reason else f"{outcome.path}: "
            print(f"main.py: {outcome.state}: {where}{outcome.reason}", file=sys.stderr)
    states = [outcome.state for outcome in outcomes] + ["done"] * before
    if len(states) > 1:
        names = [s for s in ("done", "diverged", "failed", "died", "held") if s in states]
        print("runs: " + ", ".join(f"{states.count(name)} {name}" for name in names))
    if {"diverged", "died"} & set(states):
        return 1
    return 2 if {"held", "failed"} & set(states) else 0
