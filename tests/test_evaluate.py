"""Saved tickets under attack: `python attacks.py evaluate`, its tables and its figures."""

import math
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from attacks import ATTACKS
from config import attack_settings, resolve
from helpers import DENSITIES, fake_run, go, only, python
from results import robustness
from results import robustness_figures as drawn
from results.table import EVALUATION
from store.files import read_csv, write_json
from store.saved import saved_config, saved_run
from study import attack_commands
from utils import UserError

FLAGS = ["--prune_iterations=2", "--end_iter=3", "--prune_percent=50", "--eval_examples=40"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two rounds."""
    folder = tmp_path_factory.mktemp("runs")
    assert go(folder, *FLAGS, "--eval_attacks", "fgsm", "pgd", "cw") == 0
    return only(folder)


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Figures go to plots/ where the command is typed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*flags):
    return attack_commands.main(["evaluate", *map(str, flags)])


@pytest.mark.slow
def test_every_ticket_is_attacked_and_the_figures_are_the_runs_own(folder):
    names = ["fgsm", "pgd", "cw", "noise", "autoattack"]
    assert evaluate(folder, "--attacks", *names, "--examples=40") == 0
    rows = read_csv(folder / f"attacked_evaluation-{'+'.join(names)}-40.csv")
    rounds = read_csv(folder / "rounds.csv")
    assert [row["round"] for row in rows] == [0, 1]
    for row, own in zip(rows, rounds, strict=True):
        assert row["density"] == own["density"]
        assert row["clean"] == pytest.approx(own["test_accuracy"], abs=0.3)
        assert row["pgd"] == pytest.approx(own["whitebox_pgd_accuracy"], abs=2.6)  # one image of 40
        assert row["cw_l2"] == pytest.approx(own["whitebox_cw_l2"], rel=0.05)
        assert row["cw"] == 0 and row["autoattack"] <= row["pgd"] <= row["noise"] <= 100


@pytest.mark.slow
def test_the_radius_is_in_the_files_name(folder):
    assert evaluate(folder, "--attacks=fgsm", "--examples=40", "--epsilon=0") == 0
    (row, _) = read_csv(folder / "attacked_evaluation-fgsm-40-epsilon0.csv")
    assert row["fgsm"] == row["clean_of_examples"]


@pytest.mark.slow
def test_bad_input_is_one_line(folder, tmp_path, capsys):
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("weights"))
    mixed_up = shutil.copytree(folder, tmp_path / "mixed_up")
    shutil.copy(mixed_up / "masks/round_01.safetensors", mixed_up / "masks/round_00.safetensors")
    (tmp_path / "empty").mkdir()
    for flags, says in [
        ([folder, "--attacks", "fgms"], "did you mean 'fgsm'?"),
        ([tmp_path / "empty"], "is not a run folder"),
        ([folder, tmp_path / "nothing-*"], "matches no folder"),
        ([folder, "--epsilon=-1"], "from 0 to 1"),
        ([folder, "--examples=0"], "at least 1"),
        ([folder, "--eval_steps=-1"], "at least 1"),
        ([folder, "--epsilons"], "expected at least one argument"),
        ([folder, "--epsilons", "0.3", "0.1"], "a list that rises"),
        ([folder, "--epsilons", "0.1", "0.1"], "each radius once"),
        ([folder, "--epsilons", "0.1", "1.5"], "from 0 to 1"),
        ([folder, "--epsilons", "nan"], "from 0 to 1"),
        ([folder, "--epsilons", "0.1", "--epsilon=0.2"], "leave one out"),
        ([folder, "--epsilons", "0.1", "--attacks", "fgsm", "ddn"], "ddn has no radius"),
        ([folder, "-o", folder / "config.json"], "is no folder"),
        ([folder, "-o", folder / "config.json" / "plots"], "is no folder"),
        ([folder, "--what"], "unknown flag"),
        ([bare], "--save_weights=best"),
        ([mixed_up], "is not the mask"),
    ]:
        assert evaluate(*flags) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, (flags, error)
    assert not list(tmp_path.glob("*/attacked_evaluation*")) and not (tmp_path / "plots").exists()


@pytest.mark.slow
def test_the_script_itself(folder):
    done = python("attacks.py", "evaluate", folder, "--attacks=fgsm", "--examples=40")
    assert done.returncode == 0 and "round 1" in done.stdout, done.stderr
    assert (folder / "attacked_evaluation-fgsm-40.csv").exists()


def with_flags(folder, **flags):
    write_json(folder / "config.json", {"flags": saved_config(folder)["flags"] | flags})


@pytest.mark.slow
def test_data_that_is_not_there_is_one_line_and_no_folder(folder, tmp_path, capsys):
    with_flags(folder, dataset="mnist", data_dir=str(tmp_path / "gone"))
    before = sorted(tmp_path.rglob("*"))
    for flags in ([], [f"--data_dir={tmp_path / 'neither'}"]):
        assert evaluate(folder, *flags) == 2
        error = capsys.readouterr().err
        assert "--data_dir" in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_data_is_found_where_it_lies_now(folder, tmp_path, digits):
    """The run's own place is gone; the file is the same."""
    import data

    arrays = {name: getattr(digits, name) for name in data.ARRAYS}
    arrays |= {name: value[:, 0] for name, value in arrays.items() if "images" in name}
    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "here/mine.npz", **arrays)
    same = data.identity("mine", tmp_path / "here")
    with_flags(folder, dataset="mine", data_dir=str(tmp_path / "gone"), data_id=same)
    flags = ["--attacks=fgsm", "--examples=40"]
    assert evaluate(folder, *flags) == 2
    assert evaluate(folder, *flags, f"--data_dir={tmp_path / 'here'}") == 0
    with_flags(folder, data_id="another")
    assert evaluate(folder, *flags, f"--data_dir={tmp_path / 'here'}") == 2


def test_autoattack_of_few_classes():
    """It aims at as many classes as there are; its targeted loss needs four."""
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % 4
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    percent = robustness.autoattack(net, images, labels, 0.3, 4)
    assert 0 <= percent <= robustness.accuracy(net, images, labels)
    with pytest.raises(UserError, match="3 classes"):
        robustness.autoattack(net, images, labels, 0.3, 3)


# Figures ---------------------------------------------------------------------------------------

NAMES = ["fgsm", "pgd"]


def names_of(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.slow
def test_curves_are_drawn_and_a_second_call_attacks_nothing(folder, place, capsys, monkeypatch):
    flags = ["--attacks", *NAMES, "--examples=40", "--epsilons", "0", "0.1", "0.2"]
    assert evaluate(folder, *flags) == 0
    kinds = {f"digits-fc1-{name}.{end}" for name in ("robustness", "security") for end in
             ("png", "pdf")}  # fmt: skip
    assert names_of(place / "plots") == kinds
    files = {path: path.read_bytes() for path in sorted(folder.glob("attacked_*"))}
    radii = {path.stem.rpartition("-")[2] for path in files}
    assert radii == {"epsilon0", "epsilon0.1", "epsilon0.2"} and len(files) == 3
    monkeypatch.setattr(robustness, "attack_run", None)  # nothing calls it
    capsys.readouterr()
    assert evaluate(folder, *flags, "-o", place / "other") == 0
    assert capsys.readouterr().out.count("found ") == 3 and names_of(place / "other") == kinds
    assert {path: path.read_bytes() for path in folder.glob("attacked_*")} == files


@pytest.mark.slow
def test_what_is_cut_or_older_than_the_weights_is_attacked_again(folder):
    flags = [folder, "--attacks=fgsm", "--examples=20"]
    assert evaluate(*flags) == 0
    file = folder / "attacked_evaluation-fgsm-20.csv"
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    for text in ("".join(lines[:2]), lines[0], whole[:-30], whole.replace(lines[1][:8], "0,x", 1)):
        file.write_text(text)
        assert evaluate(*flags) == 0 and file.read_text() == whole
    wrong = whole.replace("\n0,1.0,", "\n0,1.0,1", 1)
    file.write_text(wrong)
    assert evaluate(*flags) == 0 and file.read_text() == wrong  # whole, and believed
    assert evaluate(*flags, "--force") == 0 and file.read_text() == whole
    file.write_text(wrong)
    os.utime(file, (1, 1))
    assert evaluate(*flags) == 0 and file.read_text() == whole


@pytest.mark.slow
def test_rounds_are_attacked_by_themselves_and_a_stopped_call_goes_on(folder, capsys, monkeypatch):
    flags = [folder, "--attacks=fgsm", "--examples=20"]
    file, attacked, once = folder / "attacked_evaluation-fgsm-20.csv", [], robustness.evaluate_net

    def counted(*args):
        attacked.append(1)
        return once(*args)

    def stopped(*args):
        if attacked:
            raise KeyboardInterrupt
        return counted(*args)

    monkeypatch.setattr(robustness, "evaluate_net", counted)
    assert evaluate(*flags) == 0 and len(attacked) == 2
    whole = file.read_text()
    file.unlink()
    attacked.clear()
    assert evaluate(*flags, "--rounds", 1) == 0 and len(attacked) == 1
    assert [row["round"] for row in read_csv(file)] == [1]
    assert evaluate(*flags, "--rounds", 1) == 0 and len(attacked) == 1
    assert evaluate(*flags, "--rounds", 1, "--force") == 0 and len(attacked) == 2
    assert evaluate(*flags) == 0 and len(attacked) == 3 and file.read_text() == whole
    assert evaluate(*flags, "--rounds", 0, "--force") == 0 and file.read_text() == whole
    file.unlink()
    attacked.clear()
    monkeypatch.setattr(robustness, "evaluate_net", stopped)
    assert evaluate(*flags) == 130 and [row["round"] for row in read_csv(file)] == [0]
    monkeypatch.setattr(robustness, "evaluate_net", counted)
    assert evaluate(*flags) == 0 and len(attacked) == 2 and file.read_text() == whole
    wrong = re.sub(r"[^,\n]+$", "77", whole, flags=re.M).replace("77", "fgsm", 1)
    file.write_text(wrong)
    attacked.clear()
    monkeypatch.setattr(robustness, "evaluate_net", stopped)
    assert evaluate(*flags, "--force") == 130 and "77" not in file.read_text()
    monkeypatch.setattr(robustness, "evaluate_net", counted)
    assert evaluate(*flags) == 0 and file.read_text() == whole

    def with_another(*args):
        monkeypatch.setattr(robustness, "evaluate_net", once)
        assert evaluate(*flags, "--rounds", 0) == 0  # as another process would
        return once(*args)

    file.unlink()
    monkeypatch.setattr(robustness, "evaluate_net", with_another)
    assert evaluate(*flags, "--rounds", 1) == 0 and file.read_text() == whole
    (folder / "weights" / "round_01.safetensors").unlink()
    assert evaluate(*flags, "--force") == 0 and file.read_text() == whole  # 1 cannot be made again
    capsys.readouterr()
    wrong = {"2": "no weights of round 2: it has those of 0", "1 1": "each round once"}
    for rounds, words in (wrong | {"-1": "of round -1", "x": "'x' is not a whole"}).items():
        assert evaluate(*flags, "--rounds", *rounds.split()) == 2
        assert words in capsys.readouterr().err and file.read_text() == whole


@pytest.mark.slow
def test_steps_are_in_the_files_name_and_do_what_they_say(folder):
    for steps in (1, 40):
        assert evaluate(folder, "--attacks=pgd", "--examples=40", f"--eval_steps={steps}") == 0
    few, many = (read_csv(folder / f"attacked_evaluation-pgd-40-steps{n}.csv") for n in (1, 40))
    assert all(more["pgd"] < less["pgd"] for less, more in zip(few, many, strict=True))


@pytest.mark.slow
def test_progress_is_told_in_gradient_steps(folder, capsys, monkeypatch):
    told = []

    class Told:
        def __init__(self, title, total, units, say):
            self.total, self.done = total, 0

        def __enter__(self):
            return self

        def __exit__(self, *error):
            told.append(("end", self.total))

        def reach(self, done):
            assert done >= self.done
            self.done = done
            told.append(done)

    monkeypatch.setattr(attack_commands, "Progress", Told)
    assert evaluate(folder, "--attacks", "fgsm", "pgd", "--examples=80") == 0
    steps = 2 * 80 * (1 + 40)  # rounds, images, and the gradients of each
    assert told[-1] == ("end", steps) and told[-2] == steps and len(told) > 8


def evaluated(folder, accuracies, radius=None, **flags):
    """An Evaluated that nobody attacked; `accuracies` a round under FGSM, twice that clean."""
    path = fake_run(folder, accuracies, **flags)
    config = saved_run(path)
    rows = [
        {"round": n, "density": d, "clean": 90, "clean_of_examples": 2 * value, "fgsm": value}
        | {"pgd": value / 2}
        for n, (d, value) in enumerate(zip(DENSITIES, accuracies, strict=False))
    ]
    tested = config if radius is None else config.replace(epsilon=radius)
    return drawn.Evaluated(str(path), config, tested, radius, 100, rows)


def test_a_line_is_the_mean_over_seeds_of_one_arm(tmp_path):
    values = {0: [40, 30], 1: [42, 36], 2: [44, 36]}
    done = [evaluated(tmp_path, value, seed=seed) for seed, value in values.items()]
    done += [evaluated(tmp_path, [10, 20], prune_type="reinit", seed=seed) for seed in values]
    done += [evaluated(tmp_path, [1, 2], mix_ratio=0.5)]
    table = drawn.tidy(done)
    assert list(table.arm.unique()) == [
        "trained on clean images",
        "trained on images, 50 % attacked by FGSM",
    ]
    rows = table[(table.arm == table.arm.iloc[0]) & (table.prune_type == "lt")]
    line = drawn.over_density(rows, "fgsm")
    assert list(line["mean"]) == [42, 34] and list(line.density_percent) == [100, 50]
    # Student's t over three seeds: 4.303 standard errors
    assert line.interval[0] == pytest.approx(4.3027 * 2 / math.sqrt(3), rel=1e-4)


def test_a_curve_begins_at_the_clean_accuracy(tmp_path):
    done = [
        evaluated(tmp_path, [40 - 100 * radius, 20], radius=radius, seed=seed)
        for seed in (0, 1)
        for radius in (0.0, 0.1, 0.2)
    ]
    for one in done:  # the same images at every radius
        one.rows[0]["clean_of_examples"] = 80
    rows = drawn.near(drawn.tidy(done), 1.0)
    curve = drawn.over_epsilon(rows.assign(run=rows.seed), "fgsm")
    assert list(curve.epsilon) == [0, 0.1, 0.2] and list(curve["mean"]) == [80, 30, 20]


def test_the_densities_and_the_radius_that_are_drawn():
    assert drawn.spread([0.5, 1, 0.25, 0.1, 0.05, 1]) == [1, 0.25, 0.05]
    assert drawn.spread([1.0]) == [1.0] and drawn.spread([1, 0.5]) == [1, 0.5]
    assert drawn.one_radius([0, 0.1, 0.3], {0.3}) == 0.3
    assert (
        drawn.one_radius([0, 0.1, 0.3], {0.2}) == drawn.one_radius([0, 0.1, 0.3], {0, 0.3}) == 0.1
    )
    rows = pd.DataFrame({"run": "a", "density": [1, 0.511, 0.49, 0.26]})
    assert list(drawn.near(rows, 0.5).density) == [0.49] and drawn.near(rows, 0.1).empty
    slow = pd.DataFrame({"run": list("aabb"), "density": [1, 0.97, 1, 0.99]})
    assert list(drawn.near(slow, 1).density) == [1, 1]  # not the mean of rounds beside them


def test_steps_too_short_for_their_radius_are_known():
    """Law: what walks less than its radius cannot have searched the ball."""
    flags = {"attack": "pgd", "mix_ratio": 1.0, "attack_mode": "online", "attack_steps": 5}
    for radius, length, far in ((0.1, 0.03, 0), (0.2, 0.03, 0.15), (0.3, 0.06, 0)):
        config = resolve(flags | {"epsilon": radius, "attack_step_size": length}, (1, 28, 28))
        assert drawn.too_short(attack_settings(config, "pgd", False, test=True)) == pytest.approx(
            far
        )
    for name in ("fgsm", "cw", "ddn", "noise"):
        assert not drawn.too_short(attack_settings(config, name, False))


def test_legends_are_in_words(tmp_path):
    """No flag's name, and each attack with what it is."""
    kinds = ["lt", "reinit", "shuffle", "random", "finetune"]
    done = [evaluated(tmp_path, [40, 30], prune_type=kind, radius=0.1) for kind in kinds]
    done += [
        evaluated(tmp_path, [40, 30], radius=0.1, attack="pgd", mix_ratio=1.0, attack_mode=mode)
        for mode in ("online", "trades")
    ]
    figure_of = drawn.figures_of(done, NAMES, True, False, "fc1 on digits")
    for figure in figure_of.values():
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        texts += [axis.get_title() for axis in figure.axes] + [figure.get_suptitle()]
        assert not [text for text in texts if "_" in text or "=" in text], texts
        assert len(set(texts)) >= len(kinds) and "ticket: rewound to its own first weights" in texts
        styles = {str(line.get_linestyle()) for line in figure.legends[0].get_lines()}
        assert len(styles) >= len(kinds) - 1
    assert {name for name in figure_of} == {"robustness", "security"}
    assert len(figure_of["robustness"].axes) >= 3 and len(figure_of["security"].axes) == 6
    titles = [axis.get_title() for axis in figure_of["robustness"].axes]
    assert "adversarially trained with PGD" in titles and "trained by TRADES with PGD" in titles


def test_each_data_set_and_network_has_figures_of_its_own(tmp_path):
    done = [evaluated(tmp_path / "runs", [40, 30], arch_type=arch) for arch in ("fc1", "lenet5")]
    told = []
    drawn.draw_all(done, NAMES, tmp_path / "out", say=told.append)
    assert [line.rpartition("/")[2] for line in told] == [
        "digits-fc1-robustness.png",
        "digits-lenet5-robustness.png",
    ]


def test_a_radius_is_said_in_grays_where_images_have_colours():
    config = resolve({"attack": "pgd", "mix_ratio": 1.0}, (3, 32, 32))
    assert drawn.attack_in_words(config, "pgd", True) == "PGD, 40 steps of 0.00784, epsilon 8/255"
    config = resolve({"attack": "pgd", "norm": "l2", "mix_ratio": 1.0}, (3, 32, 32))
    assert drawn.attack_in_words(config, "pgd", True).endswith("epsilon 0.5")
    assert drawn.attack_in_words(config, "pgd", True).startswith("PGD in L2")


def test_every_attack_has_words():
    for name, norms in ATTACKS.items():
        for norm in norms:
            share = {"mix_ratio": 0.5}
            config = resolve({"attack": name, "norm": norm, **share}, (1, 28, 28))
            words = drawn.attack_in_words(config, name, False)
            assert words and "_" not in words and drawn.trained_on(config).startswith("trained on")


def test_autoattack_has_no_radius_of_an_l2_attack(folder, capsys):
    """Defect: it attacked in linf at the radius of the run's l2 attack, and saved 0 %."""
    steps = {"attack_steps": 3, "attack_step_size": 0.5}
    with_flags(folder, attack="pgd", norm="l2", mix_ratio=0.5, epsilon=2.0, **steps)
    assert evaluate(folder, "--attacks", "autoattack", "--examples=5") == 2
    told = capsys.readouterr().err
    assert "name a radius by --epsilon" in told and told.count("\n") == 1


def test_radii_that_one_file_would_have_are_refused(folder, capsys):
    flags = ["--attacks", "fgsm", "--epsilons", "0.1", "0.10000001"]
    assert evaluate(folder, *flags) == 2
    assert "each radius once" in capsys.readouterr().err


def test_a_files_name_says_what_was_not_the_runs_own():
    """Defect: radius 1e-05 was read as 5 images at the run's own."""
    for name, parts in {
        "fgsm+autoattack-100": ("fgsm+autoattack", "100", None),
        "autoattack-1000-epsilon1e-05": ("autoattack", "1000", "-epsilon1e-05"),
        "pgd-10-steps40-epsilon0.1": ("pgd", "10", "-steps40-epsilon0.1"),
    }.items():
        assert EVALUATION.fullmatch(f"attacked_evaluation-{name}.csv").groups() == parts


def test_more_images_than_there_are_is_all_of_them(folder):
    """Defect: the figure and the entry of a benchmark told of 10,000 images of 360."""
    assert evaluate(folder, "--attacks=fgsm", "--examples=10000") == 0
    assert [path.name for path in folder.glob("attacked_evaluation-*")] == [
        "attacked_evaluation-fgsm-360.csv"
    ]


@pytest.mark.parametrize(
    "one, other",
    [
        (
            {"attack": "fgsm", "mix_ratio": 0.0},
            {"attack": "pgd", "mix_ratio": 0.0, "epsilon": 0.01},
        ),
        ({"trades_beta": 0.1}, {"trades_beta": 20.0}),
        ({"attack": "fgsm", "mix_ratio": 0.125}, {"attack": "fgsm", "mix_ratio": 0.1254}),
    ],
)
def test_runs_of_two_arms_are_never_one_line(one, other):
    """Defect: two radii, two betas and two rates were averaged as seeds of one arm."""
    common = {}
    if "trades_beta" in one:
        common = {"attack": "pgd", "attack_mode": "trades", "attack_step_size": 0.03,
                  "attack_steps": 5, "epsilon": 0.1, "mix_ratio": 1.0}  # fmt: skip
    pairs = [(flags, seed) for flags in (one, other) for seed in (0, 1)]
    configs = [resolve(common | flags | {"seed": seed}, (1, 28, 28)) for flags, seed in pairs]
    words = drawn.arms_in_words(configs)
    assert words[0] == words[1] and words[2] == words[3] and words[0] != words[2]


def test_cw_tests_at_no_confidence_whatever_made_the_training_images():
    """Defect: after training on CW at kappa 50 the dense net "withstood" CW at 90 %: images fooled
    by less than kappa counted as robust.
    """
    config = resolve({"attack": "cw", "confidence": 5.0, "mix_ratio": 0.5}, (1, 28, 28))
    assert attack_settings(config, "cw", False).confidence == 5
    assert attack_settings(config, "cw", False, test=True).confidence == 0
    other = resolve({"attack": "fgsm", "mix_ratio": 0.5, "confidence": 0.0}, (1, 28, 28))
    assert attack_settings(other, "cw", False, test=True) == attack_settings(
        config, "cw", False, test=True
    )


def test_eval_steps_are_of_attacks_within_a_radius(folder, capsys):
    """Defect: ten steps of 0.03 made CW fail on 55 % of the images, told as robustness."""
    config = resolve({"eval_steps": 10, "eval_step_size": 0.03}, (1, 28, 28))
    assert attack_settings(config, "pgd", False, test=True).attack_steps == 10
    for name in ("cw", "ddn", "deepfool"):
        assert attack_settings(config, name, False, test=True) == attack_settings(
            config, name, False
        )
    own = {"norm": "l2", "epsilon": None, "attack_steps": 2, "attack_step_size": 0.01}
    with_flags(folder, attack="cw", mix_ratio=0.5, **own)
    assert evaluate(folder, "--attacks=cw", "--examples=20") == 0
    assert "cw finds nothing that fools for" in capsys.readouterr().out


def test_more_random_starts_are_not_more_steps(tmp_path, capsys):
    """Defect: --eval_steps=120 was advised, and then 360."""
    flags = {"attack": "pgd", "mix_ratio": 0.5}
    runs = [resolve(flags | {"restarts": count}, (1, 28, 28)) for count in (1, 3)]
    jobs = [robustness.Job(None, ["pgd"], run, run, None, {}, [], 10, None) for run in runs]
    (line,) = robustness.uneven(jobs, ["pgd"])
    assert "1 or 3 random starts" in line and "steps" not in line
    assert "3 random starts" in drawn.attack_in_words(runs[1], "pgd", False)
