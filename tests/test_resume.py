"""Nothing lost: stopped at any step, killed after any epoch, a run ends as if nothing had happened;
one process at a time works on it.
"""

import errno
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from torch import nn

import engine.place
import experiment
import main
import pruning
import study.cohorts
import study.local as local
import study.plan
import train
from engine.cohort import Cohort
from engine.compiled_step import CompiledStepper
from engine.place import Keeper
from engine.signals import Stop, stop
from helpers import (
    CONFIG,
    CPU,
    ROOT,
    StopsAt,
    make_data,
    numbers,
    only,
    ordered,
    same,
    small_net,
    states,
)
from store.checkpoint import load_partial, save
from store.files import read_csv, save_state
from store.runfolder import RunFolder
from store.saved import saved_run
from study.cohorts import Outcome, new_run
from study.request import parse_runs
from utils import hash8

pytestmark = pytest.mark.slow
FLAGS = ["--prune_iterations=3", "--end_iter=3", "--prune_percent=60", "--workers=1"]
CASES = {
    "adam": [],
    "sgd": ["--optimizer=sgd", "--lr=0.05", "--lr_drops=1", "--warmup_steps=40"],
    "augmented": ["--augment", "--valid_steps=7"],
    "rewound": ["--rewind_epoch=1"],
    "oneshot": ["--prune_schedule=oneshot"],
    "reinit": ["--prune_type=reinit"],
    "finetune": ["--prune_type=finetune", "--valid_freq=2"],
    "online": [
        "--attack=pgd",
        "--attack_mode=online",
        "--mix_ratio=0.2",
        "--attack_steps=2",
        "--epsilon=0.1",
    ],
    "trades": [
        "--attack=pgd",
        "--attack_mode=trades",
        "--mix_ratio=0.5",
        "--attack_steps=2",
        "--epsilon=0.1",
        "--valid_steps=7",
        "--end_iter=2",
    ],
}


def go(folder, *flags):
    return main.main([f"--runs_dir={folder}", *FLAGS, *flags])


@pytest.mark.parametrize("case", CASES)
def test_stopped_again_and_again_it_ends_as_undisturbed(case, tmp_path, monkeypatch):
    assert go(tmp_path / "whole", *CASES[case]) == 0
    expected = numbers(next((tmp_path / "whole").iterdir()))
    stops = 0
    with monkeypatch.context() as patch:
        # each time a little further, at another place of an epoch
        for every in range(0, 10_000, 3):
            stopping = StopsAt(patch, 11 + every)
            code = go(tmp_path / "cut", *CASES[case])
            if code == 0:
                break
            assert code == 128 + signal.SIGTERM and stopping.count >= every
            stops += 1
    assert stops >= 4
    folder = next((tmp_path / "cut").iterdir())
    same(numbers(folder), expected)
    assert not (folder / "partial.pt").exists()


class StopAfter:
    """A keeper for train.fit that stops after so many steps and has then kept the states."""

    def __init__(self, steps, begin=None):
        self.left, self.begin, self.states = steps, begin, None

    @property
    def stopping(self):
        self.left -= 1
        return self.left < 0

    def due(self, epoch):
        return False

    late = functools.partialmethod(due, 0)

    def keep(self, states):
        self.states = states
        self.left = 0


TRADES = {"attack": "pgd", "attack_mode": "trades", "norm": "linf", "restarts": 1}
TRADES |= {"mix_ratio": 0.5, "epsilon": 0.1, "attack_steps": 2, "attack_step_size": 0.05}


def dropout_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(), nn.Linear(16, 3))


@pytest.mark.parametrize(
    "make, runs",
    [(small_net, 1), (small_net, 2), (dropout_net, 1)],
    ids=["batch-norm", "two", "dropout"],
)
@pytest.mark.parametrize("mode", ["static", "trades"])
@pytest.mark.parametrize("steps", range(0, 8))
def test_a_fit_stopped_at_any_step_goes_on_bit_for_bit(make, runs, mode, steps):
    def cohort():
        return Cohort(make(), states(runs, make), [pruning.ones(make())] * runs, CPU)

    flags = TRADES if mode == "trades" else {}
    configs, data = ordered(CONFIG.replace(end_iter=3, **flags), *range(runs)), make_data(runs)
    whole = cohort()
    expected = train.fit(whole, data, configs, 0)
    keeper = StopAfter(steps)
    with pytest.raises(train.Stopped):
        train.fit(cohort(), data, configs, 0, keeper=keeper)
    torch.rand(5)  # what ran in between does not matter
    again = cohort()
    found = train.fit(again, data, configs, 0, keeper=StopAfter(1000, keeper.states))
    assert found.rows == expected.rows
    for a, b in ((again.state(), whole.state()), (found.best, expected.best)):
        assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_cohort_that_is_stopped_goes_on_as_a_cohort(tmp_path, monkeypatch):
    lists = ["--seed", "0", "1", "--lr", "1e-3", "2e-3", "--cohort_size=4"]
    assert go(tmp_path / "whole", *lists) == 0
    with monkeypatch.context() as patch:
        StopsAt(patch, 30)
        assert go(tmp_path / "cut", *lists) == 143
    sizes, fit = [], study.cohorts.cohorts
    monkeypatch.setattr(
        study.cohorts,
        "cohorts",
        lambda runs: [sizes.append(len(cohort)) or cohort for cohort in fit(runs)],
    )
    assert go(tmp_path / "cut", *lists) == 0
    assert set(sizes) == {4}
    for folder in (tmp_path / "whole").iterdir():
        same(numbers(tmp_path / "cut" / folder.name), numbers(folder))


def test_killed_after_any_epoch_it_goes_on_from_there(tmp_path, monkeypatch):
    assert go(tmp_path / "whole") == 0
    kept, began, save, keep = [], [], RunFolder.save_partial, Keeper.__init__

    def die(self, config, partial):
        save(self, config, partial)
        kept.append((partial.round, partial.epoch))
        raise KeyboardInterrupt

    def note(self, begin, write, freq):
        keep(self, begin, write, freq)
        began.append(begin and (begin[0].round, begin[0].epoch))

    monkeypatch.setattr(RunFolder, "save_partial", die)
    monkeypatch.setattr(Keeper, "__init__", note)
    monkeypatch.setattr(Keeper, "SHARE", 0)
    while go(tmp_path / "cut") == 130:
        pass
    assert kept == [(r, e) for r in range(3) for e in (1, 2, 3)]
    assert began == [at for r in range(3) for at in (None, (r, 1), (r, 2), (r, 3))]
    same(numbers(next((tmp_path / "cut").iterdir())), numbers(next((tmp_path / "whole").iterdir())))


def test_saving_takes_a_twentieth_of_the_time_at_most(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(engine.place.time, "monotonic", lambda: now[0])

    def write(partials):
        now[0] += 1.0

    keeper, saved = Keeper(None, write, freq=2), []
    for epoch in range(1, 101):
        now[0] += 3.0
        if keeper.due(epoch):
            keeper.keep([{}])
            saved.append(epoch)
    assert saved[:3] == [2, 10, 18] and all(epoch % 2 == 0 for epoch in saved)


class Killed(BaseException):
    """What ends a process with no time for anything."""


def test_a_kill_while_a_round_is_tested_loses_no_training(tmp_path, monkeypatch):
    """Defect: the epochs since the last save, the last one always, were trained again."""
    begun, whole = [], experiment.fit

    def fit(*args):
        begun.append(args[-1].begin and args[-1].begin[0].epoch)
        return whole(*args)

    def die(*args):
        raise Killed

    assert go(tmp_path / "whole") == 0
    monkeypatch.setattr(experiment, "fit", fit)
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "SHARE", 0)
        patch.setattr(experiment, "test_round", die)
        with pytest.raises(Killed):
            go(tmp_path / "cut")
    assert go(tmp_path / "cut") == 0
    assert begun == [None, 3, None, None]  # of three epochs none is left to train
    whole, cut = (next((tmp_path / name).iterdir()) for name in ("whole", "cut"))
    same(numbers(cut), numbers(whole))


def test_a_kill_within_a_long_epoch_loses_its_last_minute(tmp_path, monkeypatch, capsys):
    """Defect: epochs of minutes, killed again and again, never came to their end."""
    assert go(tmp_path / "whole") == 0
    steps, whole = [], experiment.Bars.step

    def step(self, epoch, at, count):
        whole(self, epoch, at, count)
        steps.append((epoch, at))
        if len(steps) == 7:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "LONG", 0)
        patch.setattr(Keeper, "SHARE", 0)
        patch.setattr(CompiledStepper, "WEIGHTS_AT_ONCE", 1)  # one step at a time
        patch.setattr(experiment.Bars, "step", step)
        with pytest.raises(Killed):
            go(tmp_path / "cut")
        kept = torch.load(next((tmp_path / "cut").glob("*/partial.pt")), weights_only=True)
        assert (kept["epoch"], kept["step"]) == (0, 6)
        steps.append(None)  # no more kills
        assert go(tmp_path / "cut", "--dry_run") == 0
        assert "stopped in epoch 1 of round 0 after step 6" in capsys.readouterr().out
        assert go(tmp_path / "cut") == 0
    assert steps[8] == (0, 7)  # it went on after step 6
    whole, cut = (next((tmp_path / name).iterdir()) for name in ("whole", "cut"))
    same(numbers(cut), numbers(whole))


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_a_damaged_partial_state_costs_its_round_only(damage, tmp_path, monkeypatch):
    assert go(tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        StopsAt(patch, 40)
        assert go(tmp_path / "cut") == 143
    partial = next((tmp_path / "cut").glob("*/partial.pt"))
    if damage == "cut":
        partial.write_bytes(partial.read_bytes()[:1000])
    elif damage == "empty":
        partial.write_bytes(b"")
    else:
        state = torch.load(partial, weights_only=True)
        state["weights"] = {"net.other.weight": torch.zeros(3)}
        torch.save(state, partial)
    assert go(tmp_path / "cut") == 0
    same(numbers(partial.parent), numbers(next((tmp_path / "whole").iterdir())))


def start(folder, cache, *flags):
    command = [
        sys.executable,
        str(ROOT / "main.py"),
        f"--cache_dir={cache}",
        f"--runs_dir={folder}",
        *flags,
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder.parent
    )


def wait_for(found, seconds=120):
    deadline = time.time() + seconds
    while not found() and time.time() < deadline:
        time.sleep(0.01)
    assert found()


# long enough for another process to start meanwhile
LONG = ["--prune_iterations=2", "--end_iter=250", "--prune_percent=60"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_keep_the_state_and_exit_with_the_conventional_code(number, code, cache, tmp_path):
    process = start(tmp_path / "runs", cache, *LONG)
    wait_for(lambda: list((tmp_path / "runs").glob("*/partial.pt")))
    before = time.time()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (
        process.returncode == code
        and error.startswith("main.py: stopped; the same command goes on where it was")
        and error.count("\n") == 1
    )
    partial = next((tmp_path / "runs").glob("*/partial.pt"))
    assert partial.stat().st_mtime > before - 1 and not list(partial.parent.glob("holder.json"))


def test_a_lost_theta0_is_drawn_again(tmp_path, monkeypatch, capsys):
    flags = ["--prune_iterations=2", "--end_iter=2"]
    assert go(tmp_path, *flags) == 0
    folder = next(tmp_path.iterdir())
    expected = numbers(folder)
    (folder / "DONE").unlink()
    (folder / "theta0.safetensors").unlink()
    assert go(tmp_path, *flags) == 0
    same(numbers(folder), expected)
    (folder / "DONE").unlink()
    (folder / "theta0.safetensors").unlink()
    # as a torch that draws otherwise
    monkeypatch.setattr("experiment.theta0", lambda config, fresh: fresh(config, 1))
    assert go(tmp_path, *flags) == 2
    assert (
        "draws another from its seed: remove" in capsys.readouterr().err
        and not (folder / "theta0.safetensors").exists()
    )


def test_the_second_process_on_a_run_says_who_has_it_and_a_dead_ones_lock_is_taken_over(
    cache, tmp_path, cli
):
    first = start(tmp_path / "runs", cache, *LONG)
    wait_for(lambda: list((tmp_path / "runs").glob("*/partial.pt")))
    second = cli(*LONG)
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert "main.py: held: " in second.stderr and f"process {first.pid} on " in second.stderr
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    third = cli(*LONG)
    assert third.returncode == 0 and "done: " in third.stdout, third.stderr
    fourth = cli(*LONG)
    assert "done already" in fourth.stdout
    assert (only(tmp_path / "runs") / "DONE").exists()


def test_a_killed_worker_is_replaced(cache, tmp_path, monkeypatch):
    """And one that is killed again and again is given up, with the reason."""
    lists = ["--seed", "0", "1", "2", "--prune_iterations=2", "--end_iter=25", "--prune_percent=60"]
    process = start(tmp_path / "runs", cache, *lists, "--workers=2")
    wait_for(lambda: len(list((tmp_path / "runs").glob("*/partial.pt"))) >= 1)
    (holder, *_) = (tmp_path / "runs").glob("*/holder.json")
    os.kill(int(json.loads(holder.read_text())["process"]), signal.SIGKILL)
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0 and "a worker process was killed by SIGKILL" in error, error
    assert len(list((tmp_path / "runs").glob("*/DONE"))) == 3
    assert main.main([f"--runs_dir={tmp_path / 'alone'}", *lists, "--workers=1"]) == 0
    for folder in (tmp_path / "alone").iterdir():
        same(numbers(tmp_path / "runs" / folder.name), numbers(folder))


def in_processes(plan, workers):
    return local.in_processes(study.plan.jobs_of(plan, 1), plan, workers)


def kills_itself(job, gpu):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_always_killed_is_given_up(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "work", kills_itself)
    runs = [
        new_run(config)
        for config in parse_runs([f"--runs_dir={tmp_path}", "--seed", "0", "1"]).configs
    ]
    outcomes = in_processes([runs[:1], runs[1:]], 1)
    assert sorted((outcome.path, outcome.state) for outcome in outcomes) == sorted(
        (str(run.folder.path), "died") for run in runs
    )
    assert study.plan.report(outcomes, before=1) == 1
    told = capsys.readouterr()
    assert (
        told.err.count("its process was killed by SIGKILL, the last of 3 times") == 2
        and "runs: 1 done, 2 died" in told.out
    )


def kills_the_other(job, gpu):
    """Seed 0 ends at once; seed 1, as deaf to signals as a training step, kills seed 0's idle
    process and then ends.
    """
    ((config, folder, _),) = job
    mine = folder.parent / f"pid{config.seed}"
    mine.write_text(str(os.getpid()))
    if config.seed == 1:
        with stop.deferring():
            other = folder.parent / "pid0"
            wait_for(lambda: other.exists() and other.read_text())
            time.sleep(0.5)
            os.kill(int(other.read_text()), signal.SIGKILL)
            time.sleep(0.5)
    return [Outcome(str(folder), "done")]


def test_an_idle_worker_that_is_killed_stops_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "work", kills_the_other)
    runs = [
        new_run(config)
        for config in parse_runs([f"--runs_dir={tmp_path}", "--seed", "0", "1"]).configs
    ]
    outcomes = in_processes([runs[:1], runs[1:]], 2)
    assert {(outcome.path, outcome.state) for outcome in outcomes} == {
        (str(run.folder.path), "done") for run in runs
    }


def fails(job, gpu):
    raise RuntimeError("a defect")


def test_a_defect_in_one_run_ends_that_run(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(local, "work", fails)
    runs = [
        new_run(config)
        for config in parse_runs([f"--runs_dir={tmp_path}", "--seed", "0", "1"]).configs
    ]
    outcomes = in_processes([runs[:1], runs[1:]], 2)
    assert [outcome.state for outcome in outcomes] == [
        "died",
        "died",
    ] and "failed with the error above" in outcomes[0].reason
    assert "RuntimeError: a defect" in capfd.readouterr().err


def test_a_worker_is_told_its_gpu(tmp_path, monkeypatch):
    """A GPU a place; one that is killed is replaced on the same."""
    monkeypatch.setattr(local, "gpus", lambda config: 2)
    monkeypatch.setattr(local, "work", notes_its_gpu)
    runs = [
        new_run(config)
        for config in parse_runs([f"--runs_dir={tmp_path}", "--seed", "0", "1", "2", "3"]).configs
    ]
    outcomes = in_processes([[run] for run in runs], 2)
    assert {outcome.reason for outcome in outcomes} == {"0", "1"}


def notes_its_gpu(job, gpu):
    time.sleep(0.5)
    return [Outcome(str(job[0][1]), "done", str(gpu))]


def starts_late(job, gpu):
    time.sleep(60)


@pytest.mark.parametrize("delay", [0.01, 0.03, 0.05, 0.08])
def test_a_signal_while_workers_start_stops_them_all(tmp_path, monkeypatch, delay):
    monkeypatch.setattr(local, "work", starts_late)
    runs = [
        new_run(config)
        for config in parse_runs([f"--runs_dir={tmp_path}", "--seed", *map(str, range(6))]).configs
    ]
    stop.listen()
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGTERM))
    try:
        with pytest.raises(KeyboardInterrupt):
            timer.start()  # within: on a busy machine the signal comes at once
            in_processes([[run] for run in runs], 6)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stop.signal = None
    assert not multiprocessing.active_children()


def test_the_same_signal_twice_at_once_is_one(monkeypatch):
    """A process group gets it from outside, and its workers again from their parent."""
    asked = Stop()
    with asked.deferring():
        asked._heard(signal.SIGTERM, None)
        asked._heard(signal.SIGTERM, None)
        assert asked.signal == signal.SIGTERM
        monkeypatch.setattr("time.monotonic", lambda now=time.monotonic: now() + 1.5)
        with pytest.raises(KeyboardInterrupt):
            asked._heard(signal.SIGTERM, None)


def hold_again_and_again(folder, seconds, counts):
    """Take the run, which never begins, and give it back; counts those moments at which another had
    it too, and the takings.
    """
    inside, taken = folder.parent / "inside", 0
    deadline = time.time() + seconds
    while time.time() < deadline:
        run = RunFolder(folder)
        if run.hold.take():
            try:
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                inside.unlink()
            except FileExistsError:
                counts[0] += 1
            taken += 1
            run.release()
    counts[1] += taken


def test_a_run_that_never_began_is_held_by_one_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    counts = context.Array("i", 2)
    crew = [
        context.Process(target=hold_again_and_again, args=(tmp_path / "runs" / "run", 3, counts))
        for _ in range(3)
    ]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    assert [each.exitcode for each in crew] == [0, 0, 0] and counts[0] == 0 and counts[1] > 20


def test_a_disk_that_is_full_keeps_no_lock(tmp_path, monkeypatch, capsys):
    def full(path, state):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("store.checkpoint.save_state", full)
        patch.setattr("store.log.Log.close", lambda log: full("tb", None))
        assert go(tmp_path) == 2
    (folder,) = tmp_path.iterdir()
    assert (
        capsys.readouterr().err
        == f"main.py: error: {folder / 'partial.pt'}: No space left on device; "
        "mend that, and the same command goes on\n"
    )
    assert not (folder / "holder.json").exists() and go(tmp_path) == 0


def test_torchs_files_tell_of_a_full_disk_as_others_do(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        save_state(tmp_path / "checkpoint.pt", {"a": torch.zeros(3)})
    assert raised.value.filename == str(tmp_path / "checkpoint.pt") and not list(tmp_path.iterdir())


def test_workers_end_with_their_parent(cache, tmp_path):
    process = start(tmp_path / "runs", cache, "--seed", "0", "1", *LONG, "--workers=2")
    wait_for(lambda: len(list((tmp_path / "runs").glob("*/holder.json"))) == 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not list((tmp_path / "runs").glob("*/holder.json")), seconds=30)
    assert not list((tmp_path / "runs").glob("*/DONE"))


def test_a_log_that_fails_costs_the_log_only(tmp_path, monkeypatch, capsys):
    """Defects: a clock set back ended tensorboardX's thread, and the run waited for its queue; a
    full tb/ ended it in thirteen lines.
    """
    from store import log

    def full(self, event):
        raise OSError(28, "No space left on device")

    flags = ["--prune_iterations=3", "--end_iter=1", "--workers=1"]
    assert main.main([f"--runs_dir={tmp_path / 'whole'}", *flags]) == 0
    capsys.readouterr()
    monkeypatch.setattr(log.Direct, "add_event", full)
    assert main.main([f"--runs_dir={tmp_path / 'cut'}", *flags]) == 0
    said = capsys.readouterr()
    assert said.out.count("no more events for TensorBoard") == 1 and not said.err
    whole, cut = (next((tmp_path / name).iterdir()) for name in ("whole", "cut"))
    same(numbers(cut), numbers(whole))


def test_a_clock_that_is_set_back_stops_nothing(tmp_path, monkeypatch):
    began, calls = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: began - 86_400 * next(calls))
    threads = threading.active_count()
    flags = ["--prune_iterations=3", "--end_iter=1", "--workers=1"]
    assert main.main([f"--runs_dir={tmp_path}", *flags]) == 0
    assert threading.active_count() <= threads  # nobody else writes
    (run,) = tmp_path.iterdir()
    assert len(list((run / "tb").rglob("events.out.tfevents.*"))) == 1 + 3  # and one a round


FLUSHED = """
import sys, torch
import experiment, main
from store.runfolder import RunFolder
from store.saved import saved_run
torch.set_num_threads(2)
progress = RunFolder.progress

def reading(*args, **more):
    torch.rand(1_000_000).sum()  # all threads look at what a stopped run kept
    return progress(*args, **more)

def probe(runs, say):
    torch.set_num_threads(2)
    print("denormals:", int((torch.full((1_000_000,), 1e-30) * 1e-10 != 0).sum()))
    return []

RunFolder.progress, experiment.train_cohort = reading, probe
main.main(sys.argv[1:])
"""


def test_every_thread_of_a_resumed_run_flushes_denormals(tmp_path):
    """Defect: it was set once the run's files were read, so that torch's helpers did without."""
    command = [sys.executable, "-c", FLUSHED, f"--runs_dir={tmp_path}", "--workers=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "denormals: 0\n" in done.stdout


def test_a_run_goes_on_with_the_weights_that_it_keeps(tmp_path, capsys):
    """Defect: later rounds kept the last epoch's weights, and config.json said the best one's."""
    flags = [*FLAGS, f"--runs_dir={tmp_path}"]
    assert main.main(flags) == 0
    (tmp_path / only(tmp_path).name / "DONE").unlink()
    assert main.main([*flags, "--save_weights=last"]) == 2
    assert "was begun with --save_weights=best" in capsys.readouterr().err


def test_a_rounds_seconds_include_those_before_a_stop(tmp_path, monkeypatch):
    """Defect: a study that was stopped often had taken no time."""
    with monkeypatch.context() as patch:
        StopsAt(patch, 40)
        assert go(tmp_path) == 128 + signal.SIGTERM
    folder = next(tmp_path.iterdir())
    me = hash8(saved_run(folder).results())
    number = RunFolder(folder).rounds_done()
    partial = load_partial(folder / "partial.pt", number, me)
    assert 0 < partial.seconds < 100
    partial.seconds = 1000.0
    save(folder / "partial.pt", partial, me)
    assert go(tmp_path) == 0
    rows = read_csv(folder / "rounds.csv")
    assert [row["seconds"] > 1000 for row in rows] == [row["round"] == number for row in rows]
