"""Flags: defaults, presets, names of runs, and one clear line for each mistake."""

import subprocess
import sys

import pytest

import config as config_module
from config import PRESET_OF, PRESETS, all_flags
from helpers import ROOT
from pruning import CRITERIA
from study import request
from study.request import make_parser, parse_runs
from utils import UserError


def parse(*flags):
    return request.parse(list(flags))[0]


def test_the_old_command_lines_keep_working():
    config = parse(
        "--prune_type=lt",
        "--arch_type=fc1",
        "--dataset=mnist_fgsm_attack",
        "--prune_percent=10",
        "--prune_iterations=35",
    )
    assert (config.dataset, config.attack, config.mix_ratio, config.epsilon) == (
        "mnist",
        "fgsm",
        1.0,
        0.3,
    )
    assert config == parse("--dataset=mnist", "--attack=fgsm", "--attack_rate=100")
    half = parse("--dataset=mnist", "--attack=pgd", "--attack_rate=50")
    assert half.mix_ratio == 0.5 and half.attack_steps == 40


def test_fractions_and_defaults_by_kind_of_image():
    assert parse("--epsilon=8/255").epsilon == 8 / 255
    assert parse("--dataset=cifar10_fgsm_attack").epsilon == 8 / 255
    assert parse("--dataset=cifar10_fgsm_attack").surrogate == "deeprobust_resnet18"
    assert parse("--dataset=mnist_fgsm_attack").surrogate == "deeprobust_cnn"


def test_presets_are_overridden_by_flags():
    course = parse("--preset=course", "--dataset=mnist_pgd_attack")
    assert (course.optimizer, course.momentum, course.weight_decay) == ("sgd", 0.5, 1e-4)
    assert course.epsilon == 0.1
    assert parse("--preset=course", "--dataset=mnist_fgsm_attack").epsilon == 0.2
    original = parse("--preset=original", "--dataset=mnist")
    assert (original.optimizer, original.weight_decay, original.end_iter) == ("adam", 1e-4, 100)
    frankle = parse("--preset=frankle", "--dataset=mnist", "--prune_percent=30")
    assert (frankle.prune_percent, frankle.output_prune_percent, frankle.valid_steps) == (
        30,
        10,
        100,
    )
    cosentino = parse("--preset=cosentino", "--dataset=mnist_pgd_attack", "--attack_rate=25")
    assert (
        cosentino.attack,
        cosentino.attack_steps,
        cosentino.mix_ratio,
        cosentino.attack_mode,
    ) == ("pgd", 10, 0.25, "online")


def test_no_two_runs_share_a_name():
    """Defect: folders named without seed, rate or percent, so that runs overwrote each other."""
    flags = [
        [],
        ["--seed=1"],
        ["--prune_percent=20"],
        ["--attack=fgsm"],
        ["--attack=fgsm", "--mix_ratio=0.5"],
        ["--lr=0.1"],
        ["--augment"],
    ]
    names = [parse(*some).run_name for some in flags]
    assert len(set(names)) == len(names)
    assert parse(
        "--dataset=mnist", "--attack=fgsm", "--mix_ratio=0.25", "--seed=3"
    ).run_name.startswith("mnist-fc1-fgsm0.25-lt-s3-")


def test_where_a_run_is_computed_does_not_change_its_name():
    assert (
        parse().run_name
        == parse("--device=cpu", "--threads=2", "--cache_dir=elsewhere", "--print_freq=5").run_name
    )


MISTAKES = {
    "did you mean 'mnist'?": ["--dataset=mnits"],
    "did you mean 'fc1'?": ["--arch_type=fc11"],
    "did you mean 'fgsm'?": ["--attack=fgms"],
    "--norm=l2: fgsm has linf": ["--attack=fgsm", "--norm=l2"],
    "--epsilon has no effect on these runs: it is of fgsm": ["--attack=cw", "--epsilon=0.3"],
    "--confidence=-1: 0 or more": ["--attack=cw", "--confidence=-1"],
    "online needs an attack": ["--attack_mode=online"],
    # Defect: such a run was clean training, bit for bit, named as half attacked
    "attacks no training image": [
        "--attack=fgsm",
        "--attack_mode=online",
        "--mix_ratio=0.5",
        "--batch_size=1",
    ],
    "trades needs an attack: add --attack=pgd": ["--attack_mode=trades"],
    "(--attack=pgd)": ["--attack_mode=trades", "--attack=fgsm"],
    "trades with --attack=cw": ["--attack_mode=trades", "--attack=cw"],
    "trades with --attack=noise": ["--attack_mode=trades", "--attack=noise"],
    "(--norm=linf)": ["--attack_mode=trades", "--attack=pgd", "--norm=l2"],
    "(--restarts=1)": ["--attack_mode=trades", "--attack=pgd", "--restarts=2"],
    "--trades_beta=-1: 0 or more": ["--attack_mode=trades", "--attack=pgd", "--trades_beta=-1"],
    "--trades_beta=nan: 0 or more": ["--attack_mode=trades", "--attack=pgd", "--trades_beta=nan"],
    "--trades_beta=inf: 0 or more": ["--trades_beta=inf"],
    "each attack once": ["--eval_attacks", "fgsm", "fgsm"],
    "unknown attack 'fgzm': did you mean 'fgsm'": ["--dataset=mnist_fgzm_attack"],
    "did you mean '--prune_type'?": ["--prune_tpye=lt"],
    "did you mean 'reinit'?": ["--prune_type=reinitt"],
    "did you mean 'frankle'?": ["--preset=franke"],
    "a share between 0 and 1": ["--attack=fgsm", "--mix_ratio=1.5"],
    "says attack 'fgsm' and --attack says 'pgd'": ["--dataset=mnist_fgsm_attack", "--attack=pgd"],
    "needs an attack": ["--mix_ratio=0.5"],
    "differ: leave one out": ["--attack=fgsm", "--mix_ratio=0.5", "--attack_rate=40"],
    "--prune_percent=0: more than 0 and less than 100 is needed": ["--prune_percent=0"],
    "--prune_percent=100:": ["--prune_percent=100"],
    "--epsilon=-0.1: from 0 to 1": ["--attack=fgsm", "--epsilon=-0.1"],
    "--attack_steps=0: at least 1": ["--attack=pgd", "--attack_steps=0"],
    "'many' is not a whole number": ["--end_iter=many"],
    "'8/0' is not a number": ["--epsilon=8/0"],
    "--lr=nan": ["--lr=nan"],
    "--end_iter=0: at least 1 epoch": ["--end_iter=0"],
    "--val_fraction=1:": ["--val_fraction=1"],
    "is for --prune_type=lt": ["--prune_type=finetune", "--rewind_epoch=1"],
    "expected at least one argument": ["--seed"],
    "not a path": ["--dataset=../mnist"],
    "separated by commas": ["--lr_drops=a"],
    "lists go after a space": ["--prune_type=lt", "reinit"],
}


@pytest.mark.parametrize("says", MISTAKES)
def test_a_mistake_is_answered_in_one_line(says):
    with pytest.raises(UserError) as error:
        parse(*MISTAKES[says])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_help_lists_every_flag_and_needs_no_torch():
    code = "import main, sys; from study import request; "
    code += "print(request.make_parser().format_help()); assert 'torch' not in sys.modules"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert process.returncode == 0, process.stderr
    assert all(
        (f"--{flag.name}" in process.stdout) != flag.hidden for flag in config_module.all_flags()
    )


@pytest.mark.parametrize(
    "flags, same",
    [
        (["--momentum=0.5"], []),  # Adam has none
        (
            ["--attack=fgsm", "--attack_mode=online", "--surrogate=fc1"],
            ["--attack=fgsm", "--attack_mode=online"],
        ),
        (
            ["--attack=pgd", "--attack_mode=online", "--trades_beta=2"],
            ["--attack=pgd", "--attack_mode=online"],
        ),
        (
            ["--attack=pgd", "--attack_mode=trades", "--attack_seed=3"],
            ["--attack=pgd", "--attack_mode=trades", "--trades_beta=6"],
        ),
        (["--attack_seed=3"], []),
        (["--valid_steps=10", "--valid_freq=3"], ["--valid_steps=10"]),
        (["--precision=tf32", "--device=cpu"], ["--device=cpu"]),
    ],
)
def test_a_flag_without_effect_makes_no_other_run(flags, same, capsys):
    """Defect: momentum under Adam, tf32 on a CPU and their like made another run of the same
    numbers.
    """
    asked = request.parse_runs(flags)
    assert asked.configs[0].run_name == parse(*same).run_name
    assert len(asked.notes) == 1 and "has no effect" in asked.notes[0]


@pytest.mark.parametrize(
    "flags, of",
    [
        (["--attack=fgsm", "--attack_steps=9"], "it is of pgd, cw, deepfool, ddn"),
        (["--attack=fgsm", "--confidence=5"], "it is of cw"),
        (["--attack=noise", "--restarts=2"], "it is of pgd"),
        (["--attack=deepfool", "--attack_step_size=0.1"], "it is of pgd, cw"),
    ],
)
def test_a_parameter_that_no_attack_of_the_command_has_is_refused(flags, of):
    with pytest.raises(UserError, match=of):
        request.parse_runs(flags)


def test_in_a_list_each_attack_takes_its_own_parameters():
    runs = request.parse_runs(
        ["--attack", "fgsm", "pgd", "cw", "--attack_steps=7", "--epsilon=0.2"]
    )
    assert [(run.attack, run.attack_steps, run.epsilon) for run in runs.configs] == [
        ("fgsm", 1, 0.2), ("pgd", 7, 0.2), ("cw", 7, None)]  # fmt: skip
    assert runs.configs[0].run_name == parse("--attack=fgsm", "--epsilon=0.2").run_name
    twice = request.parse_runs(["--attack", "fgsm", "pgd", "--attack_steps", "7", "9"])
    assert [run.attack for run in twice.configs] == ["fgsm", "pgd", "pgd"] and len(twice.notes) == 1
    # what --eval_attacks have counts too
    tried = parse("--attack=fgsm", "--restarts=3", "--eval_attacks", "pgd")
    assert tried.restarts == 3 and config_module.attack_settings(tried, "pgd", False).restarts == 3


def test_the_value_that_others_have_can_be_asked_for():
    assert parse("--attack=pgd", "--attack_steps=1").attack_steps == 1


def test_an_attack_whose_name_has_an_underscore_is_found_in_a_data_sets_name(monkeypatch):
    """Defect: mnist_mi_fgsm_attack was the data set mnist_mi."""
    from attacks import ATTACKS

    monkeypatch.setitem(ATTACKS, "mi_fgsm", ATTACKS["fgsm"])
    config = parse("--dataset=mnist_mi_fgsm_attack")
    assert (config.dataset, config.attack) == ("mnist", "mi_fgsm")


def test_every_seed_is_blamed_for_itself():
    for name in ("seed", "order_seed", "attack_seed"):
        with pytest.raises(UserError, match=f"--{name}=-3: 0 or more is needed"):
            parse(f"--{name}=-3", "--attack=fgsm")


@pytest.mark.parametrize(
    "flags",
    [["--momentum=nan"], ["--momentum=5"], ["--valid_freq=0", "--valid_steps=4"],
     ["--attack_seed=-1"], ["--surrogate_epochs=-4"]],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_also_where_it_has_no_effect(flags):
    with pytest.raises(UserError, match="is needed"):
        parse(*flags)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_criteria_of_theta0_have_their_papers_scope(criterion, make_config):
    """Over the whole net, unless told otherwise; magnitudes go layer by layer."""
    assert make_config(f"--criterion={criterion}").prune_scope == "global"
    assert make_config(f"--criterion={criterion}", "--prune_scope=layer").prune_scope == "layer"
    assert make_config().prune_scope == "layer"


def test_nets_are_tested_by_as_many_steps_whatever_they_were_trained_by(make_config):
    """Defect: arms trained by 5 steps of PGD were tested by 5, beside others tested by 40."""
    own = ["--attack=pgd", "--attack_mode=online", "--attack_steps=5", "--attack_step_size=0.1"]
    for flags in ([], own, ["--attack=fgsm", "--attack_mode=online"]):
        config = make_config(*flags, "--eval_steps=40", "--epsilon=0.2")
        values = dict(config_module.attack_settings(config, "pgd", False, test=True).values)
        assert values["attack_steps"] == 40 and values["attack_step_size"] == 0.01
        assert values["epsilon"] == 0.2
        long = config.replace(eval_step_size=0.05)
        values = dict(config_module.attack_settings(long, "pgd", False, test=True).values)
        assert values["attack_step_size"] == 0.05
        assert "attack_steps" not in dict(
            config_module.attack_settings(config, "fgsm", False, test=True).values
        )
    made = dict(
        config_module.attack_settings(make_config(*own, "--eval_steps=40"), "pgd", False).values
    )
    assert made["attack_steps"] == 5 and made["attack_step_size"] == 0.1
    before = dict(config_module.attack_settings(make_config(*own), "pgd", False, test=True).values)
    assert before["attack_steps"] == 5


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--prune_percent=0.2"], "a share of 0.2 is --prune_percent=20"),
        (["--augment"], "a flipped 2 is no digit"),
        (
            ["--attack=fgsm", "--attack_mode=online", "--mix_ratio=0.5", "--batch_size=3"],
            "--mix_ratio=0.5 of --batch_size=3 attacks 2 images of each batch, 66.7 %",
        ),
        (["--preset=frankle", "--arch_type=conv2"], "--arch_type=conv2 may need others"),
    ],
)
def test_what_is_legal_and_hardly_meant_is_a_warning(flags, words):
    (warning,) = [line for line in parse_runs(flags).notes if line.startswith("warning: ")]
    assert words in warning
    assert not [n for n in parse_runs(["--preset=frankle"]).notes if n.startswith("warning")]


def test_help_names_every_default_preset_and_criterion():
    text = " ".join(make_parser().format_help().split())
    assert "('" not in text and "main.py [--flag=value] [--flag value value ...]" in text
    assert "--seed SEED ... names" in text and "fgsm, pgd" in text
    for flag in all_flags():
        if flag.default not in (None, "", False) and flag.kind is not bool and not flag.hidden:
            where = text.index(f"--{flag.name} ", text.index("options:"))
            assert "(default: " in text[where : where + 700], flag.name
    for name, flags in PRESETS.items():
        where = text.index(f"{name} {PRESET_OF[name]}")
        assert all(flag in text[where : where + 600] for flag in flags), name
    assert all(entry.why in text for entry in CRITERIA.values())
