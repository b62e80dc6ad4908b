# PYTHON_ARGCOMPLETE_OK: docs/runs.md says how a shell completes flags
"""Find winning lottery tickets in networks trained on clean, attacked or mixed images.

    python main.py                                   # digits: no download
    python main.py --dataset=mnist_fgsm_attack --prune_percent=20 --prune_iterations=15 --end_iter=3
    python main.py --prune_type lt reinit --dataset=mnist --attack=fgsm --mix_ratio 0 0.5 --seed 0 1
    python plots.py runs/* -o plots/

A run is rounds of: train, test, prune, rewind. The same command goes on where it was stopped. torch
is imported once the flags make sense, so that --help and a mistyped flag answer at once.
"""

import importlib.util
import os
import sys

from engine.machine import flush_denormals, wait_briefly
from engine.signals import stop
from utils import UserError, devnull, one_line, open_streams


def main(argv=None):
    """Run what the flags say; returns the exit code.

    0, 1 if a run failed, 2 for flags or files to mend, 128 + a signal's number.
    """
    open_streams()
    stop.listen()
    wait_briefly()
    try:
        from study import yaml_flags  # Ctrl-C is listened for meanwhile
        from study.request import parse_runs

        request = parse_runs(argv)
        check_wandb(request.configs[0].wandb)
        if request.save[0]:
            yaml_flags.write(*request.save)
        if request.print_commands:
            if hasattr(sys.stdout, "reconfigure"):  # a ? in a path would be another path
                sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
            print(*request.commands, sep="\n")
            return 0
        print(*request.notes, sep="\n", end="\n" if request.notes else "")
        return study(request)
    except UserError as error:
        print(f"main.py: error: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stdout = devnull()  # or Python tries again as it ends
        lost = "standard output was closed before the end"
        print(f"main.py: error: {lost}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that turned read-only: what is finished stays
        from study.cohorts import reason

        print(f"main.py: error: {reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("main.py: stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + getattr(error, "signal", 2)


def check_wandb(project):
    """UserError if --wandb cannot write: without the package, or without a key, for which the
    package would ask at the terminal in the middle of a run.
    """
    if not project:
        return
    if importlib.util.find_spec("wandb") is None:
        raise UserError(f"--wandb={project} needs the package wandb: pip install wandb")
    if os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun"):
        return
    import wandb

    if not wandb.api.api_key:
        right = "wandb login, or WANDB_MODE=offline keeps the entry on this machine"
        raise UserError(f"--wandb={project} has no API key: {right}")


def study(request):
    """Train the runs of a Request that are not done yet; returns the exit code."""
    from store.runfolder import RunFolder
    from study.cohorts import failed, new_run
    from study.plan import print_plan, report, run_all

    flush_denormals()
    many = len(request.configs) + len(request.tickets) > 1

    def run_of(config, folder=None):
        return new_run(config, folder, f"{config.run_name}: " if many else "")

    asked = [run_of(config, request.resume or None) for config in request.configs]
    needed = {run.config.ticket for run in asked if not run.folder.done}
    tickets = map(run_of, request.tickets)
    tickets = [run for run in tickets if str(run.folder.path) in needed and not run.folder.done]
    whole, lost = [], []
    for run in (runs := tickets + asked):
        try:
            must_exist = request.resume is not None and run in asked
            run.progress = run.folder.progress(run.config, must_exist).outline()
            whole.append(run)
        except (UserError, OSError) as error:  # one damaged folder does not stop a study
            lost.append(failed(run, error))
    waiting = [run for run in whole if not run.folder.done]
    if request.dry_run:
        if whole:
            print_plan(whole, waiting)
        return report(lost, before=0)
    for run in whole:
        if run.folder.done:
            print(f"done already: {run.folder.path}")
    outcomes = lost + run_all(waiting, len(runs))
    for outcome in outcomes:
        if outcome.state == "held" and RunFolder(outcome.path).done:
            outcome.state = "done"  # by the process that had it
    return report(outcomes, before=len(whole) - len(waiting))


if __name__ == "__main__":
    sys.exit(main())
