"""What an engine takes to hand out a cohort, beside its start.

Runs that are finished are handed out, looked at and given back.

    python benchmarks/scheduling.py            # saves benchmarks/scheduling.json

Seconds a cohort are the slope between a short and a long study, so that the start of processes
or of Ray is not in it.
"""

import argparse
import contextlib
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from store.files import write_csv, write_json
from store.saved import provenance
from study.cohorts import new_run
from study.plan import run_all
from study.request import parse_runs

SHORT = 4


def main():
    """Measure both engines, print and save; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cohorts", type=int, default=1000, help="of the long study (default: 1000)"
    )
    parser.add_argument("--quick", action="store_true", help="saves nothing")
    args = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    result = {"cohorts": args.cohorts, "workers": 2}
    for engine in ("local", "ray"):
        if engine == "ray" and importlib.util.find_spec("ray") is None:
            print("ray: requirements-grid.txt is not installed")
            continue
        study(engine, SHORT)  # warms the caches of the disk
        seconds = {count: study(engine, count) for count in (SHORT, args.cohorts)}
        slope = (seconds[args.cohorts] - seconds[SHORT]) / (args.cohorts - SHORT)
        start = round(seconds[SHORT] - SHORT * slope, 2)
        result[engine] = {"start": start, "each_cohort": round(slope, 4)}
        print(f"{engine}: {slope:.4f} s a cohort, {start} s to start and end")
    if not args.quick:
        import torch

        result["provenance"] = provenance(torch.device("cpu"))
        write_json(ROOT / "benchmarks" / "scheduling.json", result)
    return 0


def study(engine, count):
    """Seconds that `count` finished runs take an engine with two workers."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--runs_dir={folder}", "--device=cpu", "--workers=2", f"--engine={engine}"]
        configs = parse_runs([*flags, "--seed", *map(str, range(count))]).configs
        runs = [new_run(config) for config in configs]
        for run in runs:
            run.folder.path.mkdir()
            write_json(run.folder.config_file, {"flags": run.config.flags()})
            rounds = range(run.config.prune_iterations)
            write_csv(run.folder.rounds, [{"round": number} for number in rounds])
            (run.folder.path / "DONE").touch()
        began = time.perf_counter()
        with contextlib.redirect_stdout(None):
            outcomes = run_all(runs, count)
        seconds = time.perf_counter() - began
    assert [outcome.state for outcome in outcomes] == ["done"] * count
    return seconds


if __name__ == "__main__":
    sys.exit(main())
