"""What a run says: whose line it is, what is left out, and what its log keeps."""

import re
from types import SimpleNamespace

import pytest

from helpers import only, parse
from main import main
from store import voice
from store.runfolder import Run, RunFolder
from store.voice import Voice

FLAGS = ["--prune_percent=60", "--prune_iterations=2", "--end_iter=1", "--workers=1"]


@pytest.fixture
def spoken(tmp_path):
    """A function (labels, flags) -> (Voice of as many runs, what it prints)."""

    def make(*labels, flags=()):
        runs = []
        for label in labels:
            folder = RunFolder(tmp_path / label.strip(": "))
            folder.path.mkdir()
            runs.append(Run(parse(flags)[0], folder, label=label))
        said = []
        return Voice(runs, said.append), said

    return make


def test_every_line_of_several_runs_names_its_run(spoken):
    tell, said = spoken("a: ", "b: ")
    tell("one\n  two")
    tell.of(tell.runs[1], "note: three")
    tell.of(tell.runs[0], f"done: {tell.runs[0].folder.path}")  # the path is its name
    assert said[:2] == ["2 runs: one\n2 runs:   two", "note: b: three"]
    assert said[2] == f"done: {tell.runs[0].folder.path}"
    alone, said = spoken("c")
    alone.label = alone.runs[0].label = ""
    alone("one\n  two")
    assert said == ["one\n  two"]


def test_the_log_has_all_and_the_terminal_what_was_asked_for(spoken):
    for flags, expected in (
        ([], ["x: plain", "warning: x: loud"]),
        (["--verbose"], ["x: plain", "x: detail", "warning: x: loud"]),
        (["--quiet"], ["warning: x: loud"]),
    ):
        tell, said = spoken("x: ", flags=flags)
        tell("plain")
        assert not tell.runs[0].folder.said.exists()  # not begun: nothing is left behind
        tell.begin()
        tell.of(tell.runs[0], "detail", detail=True)
        tell("warning: loud")
        assert said == expected
        log = tell.runs[0].folder.said.read_text().splitlines()
        assert [line[20:] for line in log] == ["plain", "detail", "warning: loud"]
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log)
        tell.runs[0].folder.said.unlink()
        tell.runs[0].folder.path.rmdir()


def test_long_silence_is_broken_where_no_bar_is(spoken, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(voice.time, "monotonic", lambda: clock.now)
    tell, said = spoken("x: ")
    tell("begins")
    for seconds in (10, 29, 31, 50, 62):
        clock.now = 100.0 + seconds
        tell.still(lambda: f"at {clock.now:g}")
    assert said == ["x: begins", "x: at 131", "x: at 162"]
    monkeypatch.setattr(voice.sys.stderr, "isatty", lambda: True, raising=False)
    clock.now = 1000.0
    tell.still(lambda: "a bar shows it")
    assert len(said) == 3


def test_a_log_that_cannot_be_written_costs_a_note_not_the_run(spoken):
    tell, said = spoken("x: ")
    tell.runs[0].folder.said.mkdir()  # a folder is in its place
    tell.begin()
    tell("one")
    tell("two")
    assert [line for line in said if "no more lines" in line] and said[-1] == "x: two"
    assert sum("no more lines" in line for line in said) == 1


def test_a_run_says_what_its_accuracies_are_of(tmp_path, capsys, cache):
    places = [f"--runs_dir={tmp_path}", f"--cache_dir={cache}", "--surrogate=fc1"]
    main([*FLAGS, *places, "--attack=fgsm", "--mix_ratio", "0.5", "1"])
    out = capsys.readouterr().out
    for words in ("val (mixed)", "val (attacked)", "test (clean)", "of the weights",
                  "test (fgsm, through the surrogate)", "test (fgsm, white-box)"):  # fmt: skip
        assert words in out, words
    assert "fc2" not in out  # the layers' table
    log = only(tmp_path, "*-fgsm0.5-*").joinpath("log.txt").read_text()
    assert "fc2" in log and "val (mixed)" in log and "val (attacked)" not in log
    main([*FLAGS, *places[:2], "--seed=7", "--quiet"])
    assert capsys.readouterr().out == ""
    main([*FLAGS, *places[:2], "--seed=8", "--verbose"])
    assert "fc2" in capsys.readouterr().out


def test_a_run_that_goes_on_says_where(tmp_path, capsys, monkeypatch):
    import experiment

    def stop(*args):
        raise KeyboardInterrupt

    whole = experiment.end_round
    flags = [*FLAGS, f"--runs_dir={tmp_path}", "--prune_iterations=3"]
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "end_round", lambda *args: (whole(*args), stop()))
        assert main(flags) == 130
    assert "going on" not in capsys.readouterr().out
    assert main(flags) == 0
    assert "going on with round 1 of 2" in capsys.readouterr().out
    log = only(tmp_path).joinpath("log.txt").read_text()
    assert log.count("round 0 of 2") == 1 and "going on with round 1 of 2" in log
