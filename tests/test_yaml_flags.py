"""A study in a YAML file is the study of its command line."""

import pytest

from main import main
from study.request import parse_runs
from utils import UserError

STUDY = """# a comment
dataset: mnist
attack: fgsm
mix_ratio: [0, 0.5]
prune_type: [lt, reinit]
seed: [0, 1]
epsilon: 8/255
lr: 1e-3
augment: false
end_iter: [1]
eval_attacks: [fgsm, pgd]
verbose: true
ticket: null
"""
TYPED = ["--dataset=mnist", "--attack=fgsm", "--mix_ratio", "0", "0.5", "--prune_type", "lt",
         "reinit", "--seed", "0", "1", "--epsilon=8/255", "--lr=1e-3", "--end_iter=1",
         "--eval_attacks", "fgsm", "pgd", "--verbose"]  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return f"--config={path}"

    return write


def names(*words):
    return [config.run_name for config in parse_runs(list(words)).configs]


def test_a_file_is_its_command_line(file):
    assert names(file(STUDY)) == names(*TYPED) and len(names(*TYPED)) == 8
    assert parse_runs([file(STUDY)]).commands == parse_runs(TYPED).commands


def test_the_command_line_overrides_the_file(file):
    assert names(file(STUDY), "--seed=7", "--augment") == names(*TYPED, "--seed=7", "--augment")
    # the other name of the same flag too
    rate = names(file(STUDY), "--attack_rate=25")
    assert rate == names(*TYPED[:2], "--mix_ratio=0.25", *TYPED[5:])
    preset = names(file("preset: frankle\nprune_percent: 30\n"), "--end_iter=3")
    assert preset == names("--preset=frankle", "--prune_percent=30", "--end_iter=3")


def test_what_is_saved_is_read_again(tmp_path, file, capsys):
    saved = tmp_path / "saved.yaml"
    more = ["--preset=original", f"--save_config={saved}", f"--runs_dir={tmp_path}", "--dry_run"]
    assert main([*TYPED[1:], "--dataset=digits", *more]) == 0
    text = saved.read_text()
    assert "mix_ratio: [0.0, 0.5]" in text and "preset: original" in text
    assert "dry_run" not in text and "save_config" not in text
    again = parse_runs([f"--config={saved}"])
    assert [c.run_name for c in again.configs] == names(
        *TYPED[1:], "--dataset=digits", "--preset=original"
    )
    assert not again.dry_run and again.configs[0].runs_dir == str(tmp_path)
    capsys.readouterr()
    assert main([*TYPED, *more]) == 2
    assert "is there already" in capsys.readouterr().err and saved.read_text() == text


@pytest.mark.parametrize(
    "text, words",
    [
        ("- a\n- b\n", "holds no mapping"),
        ("", "holds no mapping"),
        ("seed: 0\nlr: 0.1\nseed: 1\n", "seed stands twice"),
        ("prune_typ: lt\n", "did you mean '--prune_type'"),
        ("seed: [0, [1]]\n", "'seed' is no flag with a value or a list"),
        ("seed: {a: 1}\n", "'seed' is no flag with a value or a list"),
        ("3: 4\n", "'3' is no flag"),
        ("seed: [0, 1\n", "is no YAML in line"),
        ("seed: zero\n", "'zero'"),
        ("config: other.yaml\n", "config is of the command line"),
        ("resume: runs/x\n", "resume is of the command line"),
        ("a: !!python/object:os.system {}\n", "'a' is no flag"),
        ("prune_type: lost\n", "unknown prune_type 'lost'"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(text, words, file, capsys):
    assert main([file(text), "--dry_run"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1, captured.err


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("nowhere.yaml", "binary.yaml", ""):
        with pytest.raises(UserError, match="cannot be read"):
            parse_runs([f"--config={tmp_path / name}"])


def test_a_value_is_the_text_that_stands_there(file):
    """Defect: YAML's own meanings made seed 8 of 010, and dropped a folder called no."""
    config = parse_runs([file("seed: 010\nruns_dir: no\nlr: 1_0e-4\n")]).configs[0]
    assert config.seed == 10 and config.runs_dir == "no"


@pytest.mark.parametrize(
    ("text", "words"),
    [("seed: 1:30\n", "--seed"), ("seed: !!int x\n", "--seed"), ("augment: no\n", "--augment"),
     ("seed: " + "[" * 3000 + "]" * 3000, "nests lists too deep"),
     ("seed: !!timestamp 5x\n", "5x")],
)  # fmt: skip
def test_odd_values_are_one_line(text, words, file, capsys):
    """Defect: tracebacks of YAML's own types."""
    assert main([file(text), "--dry_run"]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and "Traceback" not in told


def test_the_same_command_goes_on_though_it_saves_its_flags(tmp_path, capsys):
    """Defect: the second call refused the file that the first had written."""
    flags = ["--dataset=digits", f"--save_config={tmp_path / 'one.yaml'}", "--print_commands"]
    assert main(flags) == main(flags) == 0
    capsys.readouterr()
    assert main([*flags, "--seed=3"]) == 2
    assert "is there already, and says other" in capsys.readouterr().err
