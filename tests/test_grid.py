"""Engines: the same folders whichever ran them; a lost node; a thousand finished runs; commands
that name the same runs.
"""

import json
import os
import shlex
import subprocess
import sys
import time

import pytest

import main
import study.board
import study.cohorts
import study.plan
from helpers import ROOT, numbers, same
from store.runfolder import RunFolder
from study.cohorts import Outcome, new_run
from study.request import parse_runs
from utils import UserError

STUDY = [
    "--prune_type",
    "lt",
    "reinit",
    "--seed",
    "0",
    "1",
    "--prune_iterations=2",
    "--end_iter=2",
    "--prune_percent=50",
]


def test_print_commands_names_the_same_runs_one_each(capsys):
    flags = [
        *STUDY,
        "--preset=original",
        "--attack=fgsm",
        "--epsilon=8/255",
        "--attack_rate",
        "25",
        "50",
        "--eval_attacks",
        "fgsm",
        "pgd",
        "--augment",
    ]
    assert main.main([*flags, "--print_commands"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [config.run_name for config in parse_runs(flags).configs]
    assert len(lines) == 8 and all(line.startswith("python main.py ") for line in lines)
    assert [parse_runs(shlex.split(line)[2:]).configs[0].run_name for line in lines] == names


@pytest.mark.slow
def test_a_thousand_finished_runs_are_skipped_in_seconds(tmp_path, capsys):
    flags = [f"--runs_dir={tmp_path}", "--seed", *map(str, range(1000))]
    for config in parse_runs(flags).configs:
        folder = tmp_path / config.run_name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"flags": config.flags()}))
        (folder / "rounds.csv").write_text("round\n" + "0\n" * config.prune_iterations)
        (folder / "DONE").touch()
    assert main.main(flags) == 0
    out = capsys.readouterr().out
    assert out.count("done already") == 1000 and "runs: 1000 done" in out


@pytest.mark.slow
def test_one_bad_run_does_not_stop_the_study(tmp_path, capsys):
    flags = [
        f"--runs_dir={tmp_path}",
        "--seed",
        "0",
        "1",
        *STUDY[6:],
        "--workers=1",
        "--cohort_size=1",
    ]
    first = tmp_path / parse_runs(flags).configs[0].run_name
    assert main.main([*flags, "--end_iter=2"]) == 0
    (first / "DONE").unlink()
    (first / "checkpoint.pt").write_bytes(b"not a checkpoint")
    second = tmp_path / parse_runs(flags).configs[1].run_name
    (second / "DONE").unlink()
    capsys.readouterr()
    assert main.main(flags) == 2
    told = capsys.readouterr()
    assert (
        "main.py: failed: " in told.err
        and "is damaged" in told.err
        and "runs: 1 done, 1 failed" in told.out
    )
    assert not (first / "DONE").exists() and (second / "DONE").exists()


def test_one_bad_run_does_not_stop_its_cohort(tmp_path, capsys, monkeypatch):
    """One that is found out only when the network is built, in the middle of three that train
    together.
    """
    flags = [
        f"--runs_dir={tmp_path}",
        "--seed",
        "0",
        "1",
        "2",
        "--prune_iterations=1",
        "--end_iter=1",
        "--workers=1",
        "--cohort_size=3",
    ]
    bad = parse_runs(flags).configs[1]

    def check_fits(folder, progress, model, config):
        if config == bad:
            raise UserError("it does not fit")

    monkeypatch.setattr(RunFolder, "check_fits", check_fits)
    assert main.main(flags) == 2
    told = capsys.readouterr()
    assert (
        f"main.py: failed: {tmp_path / bad.run_name}: it does not fit" in told.err
        and "runs: 2 done, 1 failed" in told.out
    )
    assert len(list(tmp_path.glob("*/DONE"))) == 2 and not list(tmp_path.glob("*/holder.json"))


def test_runs_whose_attack_draws_share_a_cohort_only_with_the_same_draws(tmp_path):
    flags = [
        f"--runs_dir={tmp_path}",
        "--attack_mode=online",
        "--epsilon=0.1",
        "--prune_type",
        "lt",
        "random",
        "--seed",
        "0",
        "1",
        "--cohort_size=4",
    ]
    sizes = {
        name: [len(cohort) for cohort in study.cohorts.cohorts(plan([*flags, f"--attack={name}"]))]
        for name in ("fgsm", "pgd", "noise")
    }
    assert sizes == {"fgsm": [4], "pgd": [2, 2], "noise": [2, 2]}


def plan(flags):
    return [new_run(config) for config in parse_runs(flags).configs]


@pytest.mark.parametrize("arch, done, threads", [("fc1", 0, 0), ("lenet5", 0, 8), ("lenet5", 3, 8)])
def test_threads_hang_on_the_study_and_not_on_what_is_left_of_it(
    tmp_path, monkeypatch, arch, done, threads
):
    """Fully connected nets take one, whatever the machine; others their part of the cores, also
    when most runs are done.
    """
    runs = plan(
        [
            f"--runs_dir={tmp_path}",
            "--seed",
            "0",
            "1",
            "2",
            "3",
            "--workers=4",
            f"--arch_type={arch}",
        ]
    )
    seen = []
    monkeypatch.setattr(study.plan, "cores", lambda: 32)
    monkeypatch.setattr(
        study.plan,
        "in_processes",
        lambda jobs, plan, workers: seen.extend(config for job in jobs for config, *_ in job) or [],
    )
    monkeypatch.setattr(
        study.plan,
        "run_cohort",
        lambda cohort, say: seen.extend(run.config for run in cohort) or [],
    )
    study.plan.run_all(runs[done:], len(runs))
    assert [config.threads for config in seen] == [threads] * (4 - done)


def test_what_another_process_gets_has_absolute_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main(["--prune_iterations=2", "--end_iter=1", "--workers=1"]) == 0
    (((config, folder, _),),) = study.plan.jobs_of(
        [plan(["--ticket=runs/*@1", "--prune_type=reinit"])], 1
    )
    assert folder.is_absolute() and config.ticket == str(next(tmp_path.glob("runs/*"))) + "@1"
    assert config.run_name == folder.name  # places are not in the name


def test_the_board_counts_each_run_once(tmp_path, monkeypatch):
    """Also one that another process has, and one that died and left its holder.json."""
    runs = plan([f"--runs_dir={tmp_path}", "--seed", "0", "1", "2"])
    for run in runs[:2]:
        run.folder.path.mkdir()
        (run.folder.path / "holder.json").write_text("{}")
    board, told = study.board.Board([runs]), []
    monkeypatch.setattr(
        board,
        "bar",
        type(
            "Bar", (), {"disable": False, "set_postfix_str": lambda self, text: told.append(text)}
        )(),
    )
    board.look(
        [Outcome(str(runs[0].folder.path), "held"), Outcome(str(runs[2].folder.path), "done")]
    )
    assert told == ["1 done, 1 running, 1 failed"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert main.main([f"--runs_dir={folder}", "--workers=1", *STUDY]) == 0
    return folder


def equal(folder, alone):
    names = sorted(path.name for path in alone.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == names
    for name in names:
        same(numbers(folder / name), numbers(alone / name))


def test_ray_without_ray_says_what_to_install(monkeypatch, tmp_path, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    assert main.main([f"--runs_dir={tmp_path / 'none'}", "--engine=ray", *STUDY]) == 2
    assert (
        "pip install -r requirements-grid.txt" in capsys.readouterr().err
        and not (tmp_path / "none").exists()
    )


@pytest.mark.soak
def test_ray_trains_what_local_trains(alone, tmp_path, capsys):
    ray = pytest.importorskip("ray", reason="requirements-grid.txt is not installed")
    assert main.main([f"--runs_dir={tmp_path}", "--engine=ray", *STUDY]) == 0
    assert not ray.is_initialized() and "runs: 4 done" in capsys.readouterr().out
    equal(tmp_path, alone)


@pytest.mark.soak
def test_three_ray_nodes_one_of_which_dies(alone, tmp_path):
    pytest.importorskip("ray", reason="requirements-grid.txt is not installed")
    from threading import Thread

    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        lost = []

        def lose_a_node():
            while not list(tmp_path.glob("*/holder.json")):
                time.sleep(0.05)
            time.sleep(0.5)
            lost.append(nodes[0])
            cluster.remove_node(nodes[0], allow_graceful=False)

        thread = Thread(target=lose_a_node)
        thread.start()
        code = main.main(
            [f"--runs_dir={tmp_path}", "--engine=ray", f"--ray_address={cluster.address}", *STUDY]
        )
        thread.join()
    finally:
        cluster.shutdown()
    assert code == 0 and lost
    equal(tmp_path, alone)


def test_no_cluster_at_an_address_says_so(tmp_path, capsys):
    pytest.importorskip("ray", reason="requirements-grid.txt is not installed")
    assert (
        main.main(
            [f"--runs_dir={tmp_path / 'none'}", "--engine=ray", "--ray_address=127.0.0.1:1", *STUDY]
        )
        == 2
    )
    assert "no Ray cluster answers there" in capsys.readouterr().err


def test_the_table_names_what_failed_and_why(capsys):
    outcomes = [
        Outcome("runs/a", "done"),
        Outcome("runs/b", "diverged", "the loss is nan"),
        Outcome("runs/c", "failed", "no disk"),
    ]
    assert study.plan.report(outcomes, before=2) == 1
    told = capsys.readouterr()
    assert told.out == "runs: 3 done, 1 diverged, 1 failed\n"
    assert (
        told.err == "main.py: diverged: runs/b: the loss is nan\nmain.py: failed: runs/c: no disk\n"
    )
    assert (
        study.plan.report(outcomes[:1], before=0) == 0
        and study.plan.report([Outcome("r", "held", "x")], before=0) == 2
    )


def test_printed_commands_keep_every_letter_of_a_path(tmp_path):
    """Defect: under an ASCII locale ??? stood in the paths of printed commands."""
    folder = tmp_path / "grüße"
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", f"--runs_dir={folder}", "--print_commands"],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=120,
    )
    assert str(folder) in done.stdout.decode("utf-8")
