"""What the pages say is so: their commands run, their examples work, their links and numbers are
there.
"""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest

import export
import main
import plots
import report
import tickets
from archs import ARCHS
from attacks import ATTACKS, PARAMETERS
from config import all_flags
from data import DATASETS
from experiment import COLUMNS
from experiments import cosentino_code
from helpers import ROOT, fake_study, only
from pruning import CRITERIA, PRUNE_TYPES
from results.questions import QUESTIONS
from store.files import read_csv
from study import attack_commands
from study.request import make_parser, parse_runs

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = ["--prune_iterations=2", "--end_iter=1", "--workers=1"]
SURROGATE = ["--surrogate=fc1", "--surrogate_epochs=1", "--cache_dir=cache"]
DOWNLOADED = "fashionmnist|mnist|cifar100|cifar10"
REGISTRIES = (ARCHS, ATTACKS, PARAMETERS, DATASETS, COLUMNS, CRITERIA, PRUNE_TYPES, QUESTIONS)


# What is on a page -----------------------------------------------------------------------------


def text_of(name):
    """A page's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def section(name, title):
    """A page's text under a heading, up to the next of its level."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text_of(name), re.M | re.S)[1]


def fenced(name, language):
    """The blocks of a language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.M | re.S)


def commands():
    """Every "python ..." in a block or between backticks, each once, but for README's first two."""
    shown = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in re.findall(r"^ {4,}(python .*)|`(python [^`\n]+)`", text, re.M):
            shown.setdefault("".join(line).strip(), page.name)
    for line in first_two():
        del shown[line]
    return [pytest.param(line, id=f"{page}: {line[:60]}") for line, page in shown.items()]


def first_two():
    """The commands that the README begins with; a test of their own runs them as they are."""
    return re.findall(r"^ {4}(python .*)", section("README.md", "Two commands"), re.M)


def words_of(line):
    """A command's words after "python", without its comment, and what it is piped into."""
    words = shlex.split(line, comments=True)[1:]
    stop = min((words.index(mark) for mark in ("|", ">") if mark in words), default=None)
    return words[:stop]


# The commands ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """The tools with what CONTRIBUTING shows pasted into the files that its examples name."""
    before = [(registry, dict(registry)) for registry in REGISTRIES]
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        for number, block in enumerate(fenced("CONTRIBUTING.md", "python")):
            path = re.match(r"# (\S+)\.py\n", block)[1]
            module = importlib.import_module(path.removesuffix("/__init__").replace("/", "."))
            source = folder / f"example{number}.py"  # a file, so that inspect finds the code
            source.write_text(block, encoding="utf-8")
            names = dict(vars(module))
            exec(compile(block, source, "exec"), names)
            for name in names.keys() - vars(module).keys():
                patch.setattr(module, name, names[name], raising=False)
        for registry in REGISTRIES:
            registry.check()
        new = {registry.kind: set(registry) - set(entries) for registry, entries in before}
        yield new
    for registry, entries in before:
        for name in set(registry) - set(entries):
            del registry[name]


@pytest.fixture(scope="module")
def folder(added, tmp_path_factory):
    """A folder with the runs that the pages' commands name."""
    folder = tmp_path_factory.mktemp("pages")
    flags = ["--prune_percent=60", "--prune_iterations=3", "--end_iter=1", "--workers=1"]
    flags += ["--surrogate=fc1", "--surrogate_epochs=1", f"--cache_dir={folder / 'cache'}"]
    flags += ["--attack=fgsm", "--mix_ratio", "0", "0.5", "--prune_type", "lt", "reinit"]
    flags += ["--seed", "0", "1", f"--runs_dir={folder / 'runs'}"]
    assert main.main(flags) == 0
    for name, pattern in (("A", "*-fgsm0-lt-s0-*"), ("B", "*-fgsm0.5-lt-s0-*")):
        shutil.copytree(only(folder / "runs", pattern), folder / "runs" / name)
    shutil.copytree(folder / "runs" / "A", folder / "runs" / "NAME")
    (folder / "study.yaml").write_text("prune_type: [lt, reinit]\nattack: fgsm\n", "utf-8")
    export = ["export", "--attack=fgsm", *SURROGATE[:2], f"--cache_dir={folder / 'cache'}"]
    assert attack_commands.main([*export, "-o", str(folder / "sets" / "half_fgsm.npz")]) == 0
    fake_study(folder / "runs" / "lr", [({"lr": 1e-3}, 1, 95), ({"lr": 1e-2}, 3, 95)])
    return folder


def embedded(words):
    """A command's words, with digits in place of what would be downloaded."""
    return [re.sub(rf"^--dataset=(?:{DOWNLOADED})(?=_|$)", "--dataset=digits", w) for w in words]


def attack(words):
    """A command of attacks.py, small."""
    if words[0] == "export":
        return [*embedded(words), *SURROGATE[1:], "--force"]
    return [*("runs/A" if word == "runs/*" else word for word in words), "--examples=10"]


def train(words, out):
    """main.py's command, small: run if it names one or two runs, else planned; Ray's only read."""
    words = embedded(words)
    asked = {"--dry_run", "--print_commands"} & set(words)
    words = [*words, *SMALL, *SURROGATE, "--runs_dir=made"]
    if "--save_config=study.yaml" in words:
        Path("study.yaml").unlink()
    request = parse_runs(words)
    assert len({config.run_name for config in request.configs}) == len(request.configs)
    if "--engine=ray" in words:
        return
    count = len(request.configs) + len(request.tickets)
    planned = count > 2 and not asked
    assert main.main([*words, *(["--dry_run"] if planned else [])]) == 0
    if planned or "--dry_run" in asked:
        assert f"{count} runs, " in out()
    elif "--print_commands" in asked:
        assert out().count("python main.py ") == count
    else:
        assert len(re.findall(r"^done(?: already)?: made/", out(), re.M)) == count


COMMANDS = {
    "plots.py": (plots.main, []),
    "tickets.py": (tickets.main, ["--examples=40", "--max_pairs=2"]),
    "report.py": (report.main, []),
    "attacks.py": (attack_commands.main, []),
    "export.py": (export.main, []),
    "experiments.cosentino_code": (
        cosentino_code.main,
        ["--dataset=digits", "--end_iter=1", "--tested_after=1", "--variants=1"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("line", commands())
def test_every_command_runs(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    script, *words = [word for word in words_of(line) if word != "-m"]
    if "--help" in words:
        with pytest.raises(SystemExit) as ended:
            (main.main if script == "main.py" else COMMANDS[script][0])(words)
        assert ended.value.code == 0
    elif script == "main.py":
        train(words, lambda: capsys.readouterr().out)
    else:
        call, small = COMMANDS[script]
        if any(word.startswith("docs/results") for word in words):
            if not list((ROOT / "docs/results").glob("exp*.json")):
                pytest.skip("nothing is published yet")
            words = [str(ROOT / w) if w.startswith("docs/results") else w for w in words]
        if script == "attacks.py":
            words = attack(words)
        assert call([*words, *small]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_the_two_commands_print_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    """Its lines in its order, and the run's name; other numbers depend on the machine."""
    monkeypatch.chdir(tmp_path)
    (_, *flags), (_, *drawn) = map(words_of, first_two())
    assert main.main([*flags, "--workers=1"]) == 0 and plots.main(drawn) == 0
    printed = capsys.readouterr().out.splitlines()
    shown = [line for line in fenced("README.md", "text")[0].splitlines() if line != "..."]
    (name,) = [path.name for path in (tmp_path / "runs").iterdir()]
    assert f"done: runs/{name}" in shown
    rest = iter(re.sub(r"[\d.,]+", "#", line) for line in printed)
    for line in shown:  # each is found after the one before it
        assert re.sub(r"[\d.,]+", "#", line) in rest, line


# The examples ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/run-folder.md"])
def test_the_notebook_works(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {}
    for block in fenced(name, "python"):
        exec(block, names)
    table, net, masks = names["table"], names["net"], names["masks"]
    assert table["round"].max() == 2 and len(table.arm.cat.categories) == 4
    assert set(masks) <= set(net.state_dict())
    assert names["flags"]["dataset"] == "digits"


def test_what_contributing_adds_runs(added, tmp_path, capsys):
    """One run with all of it; a question is answered by the command that the page shows."""
    assert all(added.values()), f"no example of {[k for k, names in added.items() if not names]}"
    name = {kind: next(iter(names)) for kind, names in added.items()}
    flags = [f"--{kind}={name[kind]}" for kind in ("arch_type", "prune_type", "criterion")]
    flags += [f"--dataset={name['data set']}_{name['attack']}_attack", "--mix_ratio=0.5"]
    flags += [f"--{name['attack parameter']}=0.5", "--prune_scope=global", *SMALL, *SURROGATE[:2]]
    flags += [f"--cache_dir={tmp_path / 'cache'}", f"--runs_dir={tmp_path / 'runs'}"]
    assert main.main(flags) == 0
    folder = only(tmp_path / "runs")
    row = read_csv(folder / "rounds.csv")[1]
    assert row[name["column"]] > 0 and 0 < row["density"] < 1
    assert folder.name.startswith("squares-wide-darken0.5-signs_relative-s0-")
    told = capsys.readouterr().out
    assert "attacked with darken in linf" in told


# The text --------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert len(text_of("README.md").split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:", link):
            assert (page.parent / link.split("#")[0]).exists(), link
    for name in re.findall(r"(?<![\w/.-])[\w/-]+\.(?:py|sh)\b", text):
        assert (ROOT / name).exists(), name
    targets = re.search(r"^\.PHONY:(.*)", text_of("Makefile"), re.M)[1].split()
    for target in re.findall(r"^ {4}make (\w+)|`make (\w+)", text, re.M):
        assert "".join(target) in targets, target
    known = set()
    parsers = [module.make_parser() for module in (tickets, report, export)]
    parsers += attack_commands.make_parsers()[1].values()
    for parser in (make_parser(), *parsers):
        known |= {option for action in parser._actions for option in action.option_strings}
    for code in re.findall(r"`([^`\n]+)`", text):
        for flag in re.findall(r"(?<!\S)--\w+", code):
            assert flag in known, flag


def test_the_layout_is_what_is_there():
    names = re.findall(r"`([^`]+)`", section("README.md", "Layout, in reading order"))
    assert len(names) > 15
    for name in names:
        path = ROOT / name
        assert path.is_dir() if name.endswith("/") else path.is_file(), name
    here = {path.name for path in ROOT.glob("*.py")} | {f"{path.parent.name}/" for path in
            ROOT.glob("*/__init__.py")}  # fmt: skip
    assert here <= set(names)


def test_the_readme_names_ten_flags_and_their_defaults():
    rows = section("README.md", "The flags that matter").splitlines()
    rows = [row.split("|")[1:3] for row in rows if row.startswith("| `--")]
    defaults = {f"--{flag.name}": flag.default for flag in all_flags()}
    assert len(rows) == 10
    for flag, default in rows:
        value = defaults[flag.strip(" `")]
        if value is not None:
            assert float(default) == value if isinstance(value, int | float) else value in default


PAIR = r"([+-]?\d+\.\d+) ± (\d+\.\d+)"


def test_the_answers_of_the_readme_are_the_results():
    rows = [r for r in section("README.md", "Answers so far").splitlines() if r[:3] > "| 0"]
    results = " ".join(text_of("docs/results.md").replace("−", "-").split())
    assert len(rows) >= 6
    for row in rows:
        for number in re.findall(rf"{PAIR.replace('(', '(?:')}|\d+\.\d+", row):
            assert number in results, number
