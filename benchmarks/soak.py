"""Is anything lost when processes die?

A small study whose driver and workers are killed at random moments, against an undisturbed one.

    python benchmarks/soak.py --kills=200        # half an hour on two cores; saves soak.json
    python benchmarks/soak.py --kills=6 --quick  # to see that it works; saves nothing

Each kill is a SIGKILL, of the driver or of one of its workers, whether it trains the surrogate,
attacks, trains or tests; a killed driver is started again with the same command, at times with its
standard output or error closed. Each study begins with an empty cache. A study that ends before the
last kill is compared and begun anew. Every number of every run must be equal: tables (but for
`seconds`), masks, weights. Exit code 1 if one differs or a study is stuck; the folders of a study
that differs are kept, with the undisturbed ones, and it is told what differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from store.files import load_tensors, read_csv, write_json
from store.saved import provenance

# a surrogate of some seconds, and tests that take as long as training, so that kills fall there too
STUDY = [
    "--dataset=digits", "--attack=fgsm", "--surrogate=conv2", "--surrogate_epochs=3",
    "--eval_attacks", "fgsm", "pgd", "--prune_type", "lt", "reinit", "--mix_ratio=0.5",
    "--workers=2",
]  # fmt: skip
SIZE = ["--seed", "0", "1", "--prune_iterations=4", "--end_iter=30"]
QUICK = ["--seed", "0", "--prune_iterations=3", "--end_iter=20"]
STUCK = 300  # seconds in which a study must finish a round, or be killed


def main():
    """Kill, start again, compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of who is killed")
    parser.add_argument(
        "--pause", type=float, default=5.0,
        help="mean seconds between a start or kill and the next kill",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a smaller study; saves nothing")
    args = parser.parse_args()
    size = QUICK if args.quick else SIZE
    draw, began = random.Random(args.seed), time.time()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    whole = folder / "whole"
    command = [sys.executable, str(ROOT / "main.py"), *STUDY, *size]
    subprocess.run([*command, *places(whole)], check=True, stdout=subprocess.DEVNULL)
    expected = contents(whole / "runs")
    runs = {name.split("/")[0] for name in expected}
    kills, studies, differing, stuck = {"driver": 0, "worker": 0}, 0, [], 0
    while sum(kills.values()) < args.kills:
        studies += 1
        cut = folder / f"study-{studies}"
        stuck += not disturbed([*command, *places(cut)], kills, args, draw)
        other = differences(expected, contents(cut / "runs"))
        differing += sorted({name.split("/")[0] for name in other})
        for name in other + differences(contents(whole / "cache"), contents(cut / "cache")):
            print(f"differs: {cut / name}", flush=True)
        if not other:
            shutil.rmtree(cut)
        so_far = f"{sum(kills.values())} kills so far, {len(differing)} differing runs"
        print(f"study {studies}: {so_far}, {stuck} stuck", flush=True)
    if differing:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    result = {
        "kills": kills, "studies": studies, "runs": studies * len(runs),
        "differing_runs": differing, "stuck_studies": stuck, "seconds": round(time.time() - began),
        "command": f"python benchmarks/soak.py --kills={args.kills}",
    }  # fmt: skip
    print(json.dumps(result))
    if not args.quick:
        import torch

        result["provenance"] = provenance(torch.device("cpu"))
        write_json(ROOT / "benchmarks" / "soak.json", result)
    return 1 if differing or stuck else 0


def disturbed(command, kills, args, draw):
    """Run the study to its end through the kills still due; False if it is stuck."""
    last = time.time()
    while True:
        closed = draw.choice(["", "1>&-", "2>&-", "1>&- 2>&-"])
        shell = ["bash", "-c", f'exec "$@" {closed}', "bash", *command]
        driver = subprocess.Popen(shell, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while driver.poll() is None:
            if sum(kills.values()) < args.kills:
                try:
                    driver.wait(draw.expovariate(1 / args.pause))
                    break
                except subprocess.TimeoutExpired:
                    who = draw.choice(["driver", "worker"])
                    kills[who] += kill(driver.pid if who == "driver" else None, driver.pid, draw)
                    last = time.time()
            elif time.time() - last > STUCK:
                driver.kill()
                return False
            else:
                time.sleep(0.5)
        if driver.returncode == 0:
            return True
        if time.time() - last > STUCK:
            return False
        # 2: workers of the driver before still hold their runs; they end within a second or two
        time.sleep(0.2)


def kill(victim, driver, draw):
    """SIGKILL the victim, or one of the driver's workers; returns whether there was one."""
    if victim is None:
        children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
        workers = [int(pid) for pid in children if "spawn_main" in command_line(pid)]
        if not workers:
            return 0
        victim = draw.choice(workers)
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def command_line(pid):
    """A process's command line; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def places(folder):
    """The flags of a study that lies in one folder."""
    return [f"--runs_dir={folder}/runs", f"--cache_dir={folder}/cache"]


def contents(folder):
    """{file: what it says}, of every number below a folder, as text that can be compared."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".csv":
            rows = read_csv(path)
            found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        elif path.suffix == ".safetensors":
            tensors = load_tensors(path).items()
            found[name] = {n: hash(tensor.numpy().tobytes()) for n, tensor in tensors}
        elif path.name == "config.json":
            found[name] = json.loads(path.read_text())["provenance"]["step"]
        elif path.name == "DONE":
            found[name] = True
    return found


def differences(expected, found):
    """The files that differ, or that only one side has."""
    names = sorted(expected.keys() | found.keys())
    return [name for name in names if expected.get(name) != found.get(name)]


if __name__ == "__main__":
    sys.exit(main())
