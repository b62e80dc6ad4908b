"""What an engine takes to hand out a cohort, beside its start: runs that are finished are handed out, looked at and given back.

    python benchmarks/scheduling.py            # saves benchmarks/scheduling.json

Seconds a cohort are the slope between a short and a long study, so that the start of processes or of Ray is not in it.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import grid
import main as program
from commandline import parse_runs
from utils import provenance, write_json

SHORT = 4


def main():
    """Measure both engines, print and save; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", type=int, default=1000, help="of the long study (default: 1000)")
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
        each = (seconds[args.cohorts] - seconds[SHORT]) / (args.cohorts - SHORT)
        result[engine] = {"start": round(seconds[SHORT] - SHORT * each, 2), "each_cohort": round(each, 4)}
        print(f"{engine}: {each:.4f} s a cohort, {result[engine]['start']} s to start and end")
    if not args.quick:
        import torch

        write_json(ROOT / "benchmarks" / "scheduling.json", result | {"provenance": provenance(torch.device("cpu"))})
    return 0


def study(engine, count):
    """Seconds that `count` finished runs take an engine with two workers."""
    with tempfile.TemporaryDirectory() as folder:
        configs = parse_runs([f"--runs_dir={folder}", "--device=cpu", "--workers=2", f"--engine={engine}", "--seed", *map(str, range(count))]).configs
        for config in configs:
            run = Path(folder, config.run_name)
            run.mkdir()
            (run / "config.json").write_text(json.dumps({"flags": config.flags()}))
            (run / "rounds.csv").write_text("round\n" + "0\n" * config.prune_iterations)
            (run / "DONE").touch()
        runs = [program.open_run(config) for config in configs]
        began = time.perf_counter()
        with contextlib.redirect_stdout(None):
            outcomes = grid.run_all(runs, count)
        seconds = time.perf_counter() - began
    assert [outcome.state for outcome in outcomes] == ["done"] * count
    return seconds


if __name__ == "__main__":
    sys.exit(main())
