"""Weights & Biases as a writer beside the run folder: an entry a run, and never a lost run."""

import sys
from types import SimpleNamespace

import pytest

import main
from helpers import numbers, only, same

FLAGS = ["--prune_iterations=3", "--end_iter=1", "--workers=1"]


class Fake:
    """As much of wandb as a run calls."""

    Settings = staticmethod(lambda **settings: settings)
    api = SimpleNamespace(api_key="a key")

    def __init__(self, fails=False):
        self.entries, self.fails = [], fails

    def init(self, **given):
        if self.fails:
            raise ConnectionError("no network")
        entry = SimpleNamespace(given=given, rows=[], ended=None)
        entry.log = lambda row, step: entry.rows.append((step, row))
        entry.finish = lambda exit_code: setattr(entry, "ended", exit_code)
        self.entries.append(entry)
        return entry


def test_a_run_is_an_entry_with_its_flags_and_rounds(tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: True)
    assert main.main([*FLAGS, f"--runs_dir={tmp_path}", "--wandb=tickets"]) == 0
    (entry,) = fake.entries
    folder = only(tmp_path)
    assert entry.given["project"] == "tickets" and entry.given["id"] == folder.name
    assert entry.given["config"]["prune_percent"] == 10 and entry.ended == 0
    assert [step for step, _ in entry.rows] == [0, 1, 2]
    assert entry.rows[2][1]["density"] == pytest.approx(0.81, abs=0.001)


def test_what_fails_there_costs_the_entry_not_the_run(tmp_path, monkeypatch, capsys):
    assert main.main([*FLAGS, f"--runs_dir={tmp_path / 'whole'}"]) == 0
    monkeypatch.setitem(sys.modules, "wandb", Fake(fails=True))
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: True)
    capsys.readouterr()
    assert main.main([*FLAGS, f"--runs_dir={tmp_path / 'cut'}", "--wandb=tickets"]) == 0
    said = capsys.readouterr().out
    assert said.count("no more events for Weights & Biases (no network)") == 1
    same(numbers(only(tmp_path / "cut")), numbers(only(tmp_path / "whole")))


def test_a_package_that_is_not_there_is_one_line_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None)
    assert main.main([f"--runs_dir={tmp_path}", "--wandb=tickets"]) == 2
    assert "--wandb=tickets needs the package wandb: pip install wandb" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_key_it_is_one_line_before_any_work(tmp_path, monkeypatch, capsys):
    """Defect: it asked at the terminal, in the middle of a run, for an account."""
    fake = Fake()
    fake.api = SimpleNamespace(api_key=None)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: True)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert main.main([f"--runs_dir={tmp_path}", "--wandb=tickets"]) == 2
    told = capsys.readouterr().err
    assert "has no API key: wandb login" in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
def test_the_real_package_keeps_an_entry_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main.main([*FLAGS, f"--runs_dir={tmp_path}", "--wandb=tickets"]) == 0
    assert list(only(tmp_path).glob("wandb/offline-run-*/*.wandb"))
