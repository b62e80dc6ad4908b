"""Runs that take the masks of another run, which is trained first, in every engine."""

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import main
import plots
import results
from config import own_ticket
from helpers import ROOT, numbers, only, same
from store.files import load_tensors, read_csv, save_tensors
from store.runfolder import RunFolder
from study.cohorts import new_run, train_tickets
from study.request import parse_runs

SHORT = ["--prune_percent=50", "--prune_iterations=3", "--end_iter=2", "--val_fraction=0.1"]


def go(folder, *flags):
    return main.main([f"--runs_dir={folder}", *SHORT, *flags])


def masks(run, number):
    return load_tensors(run / "masks" / f"round_{number:02}.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """lt, reinit with two draws, and shuffle of two seeds, by one process."""
    folder = tmp_path_factory.mktemp("trained")
    kinds = ["--prune_type", "reinit", "shuffle", "--reinit_draws=2", "--seed", "0", "1"]
    assert go(folder, *kinds, "--workers=1") == 0
    return folder


def test_the_ticket_is_trained_first_and_once(trained):
    names = sorted("-".join(path.name.split("-")[3:5]) for path in trained.iterdir())
    assert names == ["lt-s0", "lt-s1", *["reinit-s0"] * 2, *["reinit-s1"] * 2] + [
        "shuffle-s0",
        "shuffle-s1",
    ]
    for seed in (0, 1):
        ticket = only(trained, f"*-lt-s{seed}-*")
        for number in range(3):
            there = masks(ticket, number)
            for run in trained.glob(f"*-reinit-s{seed}-*"):
                assert all(torch.equal(mask, there[n]) for n, mask in masks(run, number).items())
            moved = masks(only(trained, f"*-shuffle-s{seed}-*"), number)
            assert all(mask.sum() == moved[name].sum() for name, mask in there.items())


def test_draws_are_other_weights_under_the_same_masks(trained):
    first, second = trained.glob("*-reinit-s0-*")
    for number in (0, 1):
        assert (
            read_csv(first / "rounds.csv")[number]["val_accuracy"]
            != read_csv(second / "rounds.csv")[number]["val_accuracy"]
        )
    assert not torch.equal(
        load_tensors(first / "theta0.safetensors")["net.fc1.weight"],
        load_tensors(second / "theta0.safetensors")["net.fc1.weight"],
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--workers=2"],
        ["--cohort_size=4", "--workers=1"],
        pytest.param(["--engine=ray"], marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_every_way_to_train_them_gives_the_same(flags, trained, tmp_path):
    if "--engine=ray" in flags:
        pytest.importorskip("ray")
    kinds = ["--prune_type", "reinit", "shuffle", "--reinit_draws=2", "--seed", "0", "1"]
    assert go(tmp_path, *kinds, *flags) == 0
    for folder in trained.iterdir():
        here, there = numbers(tmp_path / folder.name)[2], numbers(folder)[2]
        assert here.keys() == there.keys()  # a cohort's losses are summed in another order
        for name, tensors in there.items():
            assert all(torch.equal(tensor, here[name][n]) for n, tensor in tensors.items()), name


@pytest.mark.slow
def test_printed_commands_can_run_at_once(trained, tmp_path, capsys):
    """A run whose ticket another process trains waits for it."""
    assert go(tmp_path, "--prune_type=reinit", "--print_commands") == 0
    commands = capsys.readouterr().out.splitlines()
    kinds = [word for line in commands for word in line.split() if "prune_type" in word]
    assert kinds == ["--prune_type=lt", "--prune_type=reinit"]
    parts = [[sys.executable, ROOT / "main.py", *line.split()[2:]] for line in commands]
    both = [subprocess.Popen(parts[0], stdout=subprocess.DEVNULL)]
    deadline = time.time() + 60
    while not list(tmp_path.glob("*/holder.json")) and time.time() < deadline:
        time.sleep(0.01)
    both.append(subprocess.Popen(parts[1], stdout=subprocess.DEVNULL))
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    for folder in tmp_path.iterdir():
        same(numbers(folder), numbers(trained / folder.name))


def test_one_that_another_process_trains_is_waited_for(trained, tmp_path):
    flags = [f"--runs_dir={tmp_path}", *SHORT, "--prune_type=reinit"]
    (config,) = parse_runs(flags).configs
    ticket = RunFolder(config.ticket)
    assert ticket.hold.take()

    def finish():
        time.sleep(1.5)
        whole = trained / Path(config.ticket).name
        shutil.copytree(whole, config.ticket, dirs_exist_ok=True)
        ticket.hold.release()

    said, other = [], threading.Thread(target=finish)
    other.start()
    (outcome,) = train_tickets([new_run(config)], said.append)
    other.join()
    assert outcome.state == "done" and "waiting for the ticket" in said[0]


def test_a_ticket_that_cannot_be_trained_fails_its_runs_in_a_line(tmp_path, capsys):
    flags = ["--prune_type", "lt", "reinit", "--workers=1"]
    assert go(tmp_path, *flags, "--lr=1e30") == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "diverged" in said[0] and "its ticket" in said[1]


def test_a_ticket_that_is_changed_meanwhile_is_told(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "runs")
    run, ticket = (only(tmp_path / "runs", f"*-{kind}-s1-*") for kind in ("shuffle", "lt"))
    (run / "DONE").unlink()
    name = ticket / "masks" / "round_01.safetensors"
    other = {layer: mask.flip(0) for layer, mask in masks(ticket, 1).items()}
    save_tensors(name, other)
    assert main.main([f"--resume={run}"]) == 2
    error = capsys.readouterr().err
    assert "has other masks in round 1" in error and error.count("\n") == 1
    other["net.fc1.weight"][0, 0] ^= True  # and another number of weights
    save_tensors(name, other)
    assert main.main([f"--resume={run}"]) == 2
    assert "is not the mask that the run's tables tell of" in capsys.readouterr().err


def test_a_ticket_that_was_removed_is_trained_again(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")
    run, ticket = (only(tmp_path / "runs", f"*-{kind}-s1-*") for kind in ("shuffle", "lt"))
    (run / "DONE").unlink()
    shutil.rmtree(ticket)
    assert main.main([f"--resume={run}"]) == 0
    same(numbers(ticket), numbers(trained / ticket.name))
    shutil.rmtree(ticket)
    assert main.main([f"--resume={run}"]) == 0  # a finished run needs it no more
    assert not ticket.exists()


def test_a_named_ticket_that_is_the_own_one_is_the_same_run(trained):
    ticket = only(trained, "*-lt-s0-*")
    flags = [f"--runs_dir={trained}", *SHORT, "--prune_type=reinit"]
    (own,) = parse_runs(flags).configs
    (named,) = parse_runs([*flags, f"--ticket={ticket}"]).configs
    assert own == named and own_ticket(named).run_name == ticket.name


def test_a_rewound_ticket_lends_its_masks_too(tmp_path):
    """reinit trains all epochs, as many as the ticket has had with those before rewinding."""
    assert go(tmp_path, "--prune_type", "reinit", "shuffle", "--rewind_epoch=1", "--workers=1") == 0
    ticket, reinit, shuffle = (
        only(tmp_path, f"*-{kind}-*") for kind in ("lt", "reinit", "shuffle")
    )
    epochs = {
        run.name.split("-")[3]: [e["epoch"] for e in read_csv(run / "epochs.csv") if e["round"]]
        for run in (ticket, reinit, shuffle)
    }
    assert epochs == {"lt": [2, 2], "shuffle": [2, 2], "reinit": [1, 2, 1, 2]}
    state = "rewind.safetensors"
    assert not (reinit / state).exists()
    early, same_early = (load_tensors(run / state) for run in (ticket, shuffle))
    assert all(torch.equal(tensor, same_early[name]) for name, tensor in early.items())


def test_random_removes_as_many_weights_as_the_ticket(tmp_path):
    flags = ["--prune_type", "lt", "random", "--prune_scope", "layer", "global", "--workers=1"]
    assert go(tmp_path, *flags, "--output_prune_percent=20") == 0
    kept = {path.name.split("-")[3]: [] for path in tmp_path.iterdir()}
    for path in sorted(tmp_path.iterdir()):
        kept[path.name.split("-")[3]].append([r["kept"] for r in read_csv(path / "rounds.csv")])
    assert sorted(kept["lt"]) == sorted(kept["random"])


def test_tickets_that_go_in_a_circle_are_told(trained, tmp_path, capsys):
    folders = [tmp_path / name for name in "ab"]
    for folder, other in zip(folders, reversed(folders), strict=True):
        shutil.copytree(only(trained, "*-lt-s0-*"), folder)
        saved = json.loads((folder / "config.json").read_text())
        saved["flags"]["ticket"] = str(other)
        (folder / "config.json").write_text(json.dumps(saved))
    assert main.main([f"--ticket={folders[0]}", f"--runs_dir={tmp_path}", *SHORT[2:]]) == 2
    error = capsys.readouterr().err
    assert "go in a circle" in error and error.count("\n") == 1


def test_a_named_ticket_that_is_unfinished_or_of_other_rounds_is_told(trained, tmp_path, capsys):
    ticket = Path(shutil.copytree(only(trained, "*-lt-s0-*"), tmp_path / "ticket"))
    flags = [f"--ticket={ticket}", f"--runs_dir={tmp_path / 'runs'}", "--prune_type=reinit"]
    assert main.main([*flags, "--prune_iterations=5"]) == 2
    assert "has 3 rounds" in capsys.readouterr().err
    (ticket / "masks" / "round_02.safetensors").unlink()
    assert main.main([*flags, "--prune_iterations=3"]) == 2
    assert "has 2 rounds" in capsys.readouterr().err
    shutil.rmtree(ticket)
    assert main.main(flags) == 2
    assert "no run folders match" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_readers_take_the_mean_of_a_seeds_draws(trained, tmp_path):
    """Defect: all draws but one were left out as repeats of a run."""
    table = results.load([f"{trained}/*-lt-*", f"{trained}/*-reinit-*"])
    assert table.folder.nunique() == 6
    assert plots.main([f"{trained}/*-lt-*", f"{trained}/*-reinit-*", "-o", str(tmp_path)]) == 0
    rows = read_csv(tmp_path / "digits-fc1-summary.csv")
    assert {row["seeds"] for row in rows} == {2}
    last = table[(table.prune_type == "reinit") & (table["round"] == 2)].test_accuracy
    (row,) = [row for row in rows if row["arm"] == "reinit" and row["round"] == 2]
    assert row["test_accuracy"] == pytest.approx(last.mean(), abs=1e-3)


def test_a_ticket_folder_that_is_not_what_it_says_is_told(trained, tmp_path, capsys):
    """Defect: whatever lay in a folder of that name and had a file DONE lent its masks."""
    runs, name = tmp_path / "runs", only(trained, "*-lt-s1-*").name
    for make, says in (
        (lambda: shutil.copytree(only(trained, "*-lt-s0-*"), runs / name), "belongs to another"),
        (lambda: (runs / name / "config.json").unlink(), "is no run folder"),
    ):
        make()
        assert go(runs, "--prune_type=reinit", "--seed=1", "--workers=1") == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error


def test_resume_named_from_within(trained, tmp_path, monkeypatch):
    """Defect: the ticket was trained into the run's own folder."""
    run = Path(shutil.copytree(only(trained, "*-shuffle-s1-*"), tmp_path / "runs" / "mine"))
    (run / "DONE").unlink()
    monkeypatch.chdir(run)
    assert main.main(["--resume=."]) == 0
    assert sorted(path.name[:17] for path in run.parent.iterdir()) == ["digits-fc1-clean-", "mine"]
