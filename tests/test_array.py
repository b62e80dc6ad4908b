"""The Slurm array's script: what a signal before the time limit does, without a Slurm."""

import os
import signal
import subprocess
import sys
import time

import pytest

from helpers import ROOT

SCRIPT = ROOT / "experiments" / "array.sbatch"


@pytest.fixture
def task(tmp_path):
    """A function that starts the script on the second line of a file of commands."""
    commands, fake = tmp_path / "commands.txt", tmp_path / "bin" / "scontrol"
    fake.parent.mkdir()
    # as the real one, it ends the task that asks
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nkill -KILL $PPID\n')
    fake.chmod(0o755)
    told = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}"}
    told |= {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}

    def begin(line):
        commands.write_text(f"exit 9\n{line}\nexit 9\n")
        return subprocess.Popen(["bash", str(SCRIPT), str(commands)], env=told, cwd=tmp_path)

    return begin


def python(code):
    return f"{sys.executable} -c '{code}'"


def test_a_run_that_keeps_its_step_is_put_back_into_the_queue(task, tmp_path):
    run = task(python(
        "import signal, sys, time, pathlib; "
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(143))); "
        'pathlib.Path("ready").touch(); time.sleep(60)'
    ))  # fmt: skip
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)  # Slurm's B: to the shell alone
    run.wait(timeout=20)
    assert (tmp_path / "asked").read_text() == "requeue 7_2\n"


@pytest.mark.parametrize("code", [0, 2])
def test_a_run_that_ends_by_itself_is_not(code, task, tmp_path):
    assert task(python(f"raise SystemExit({code})")).wait(timeout=20) == code
    assert not (tmp_path / "asked").exists()
