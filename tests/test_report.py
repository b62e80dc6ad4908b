"""The answers: statistics against oracles, verdicts on planted and absent effects, the page."""

import argparse
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

import report
from helpers import DENSITIES, fake_run, fake_study, only
from results import panels, sources, stats, words
from results.answer import Study
from results.declared import rounds_of
from results.question import Contrast, Factor, Panel, Question
from results.questions import QUESTIONS
from results.table import load
from store.files import read_csv, write_csv
from store.saved import saved_run
from utils import UserError


def rate(value, **flags):
    return {"attack": "fgsm", "mix_ratio": float(value), **flags}


def answer(experiment, *folders, **tables):
    """What a question's engine finds, as it is saved, without drawing it."""
    runs = sources.gather([f"{folder}/*" for folder in folders])
    study = Study(QUESTIONS[experiment], runs.table, tables)
    saved = json.loads(json.dumps(words.answer(study), allow_nan=False))
    return saved | {"lines": study.lines.to_dict("records")}


def reported(tmp_path, experiment, *folders, options=()):
    """The saved result of an experiment, by the command."""
    runs = [f"{folder}/*" for folder in folders]
    where = ["-o", str(tmp_path / "report")]
    assert report.main([*runs, f"--experiment={experiment}", *where, *options]) == 0
    return json.loads((tmp_path / "report" / f"exp{experiment}.json").read_text())


def fails(capsys, *argv):
    """The one line that report.py says as it refuses."""
    capsys.readouterr()
    assert report.main([str(part) for part in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("report.py: error: ") and error.count("\n") == 1, error
    return error


def verdicts(saved, family, key="verdict"):
    """label -> verdict of a family, on the declared measure."""
    first = saved["comparisons"][0]
    main = [row for row in saved["comparisons"] if row["family"] == family]
    for name in ("measure", "scale", "summary"):
        main = [row for row in main if row.get(name) in (first[name], None)]
    return {row["label"]: row[key] for row in main}


# Statistics ------------------------------------------------------------------------------------


def test_a_comparison_is_the_paired_t_test():
    a, b = [97.2, 96.9, 97.8, 97.5], [96.8, 96.9, 97.1, 97.0]
    row = stats.compare("x", np.subtract(a, b))
    oracle = scipy_stats.ttest_rel(a, b)
    low, high = oracle.confidence_interval()
    assert row["p"] == pytest.approx(oracle.pvalue) and row["n"] == 4
    ends = row["difference"] - row["interval"], row["difference"] + row["interval"]
    assert ends == pytest.approx((low, high))
    again = stats.interval_p(row["difference"], row["interval"], 4)
    assert again == pytest.approx(oracle.pvalue)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.5], "unknown"),
        ([2.0, 2.0, 2.0], "ties"),
        ([0.0, 0.0], "unknown"),
        ([3.0, 3.1], "unknown"),
        ([1e-14, 3e-14, 2e-14], "ties"),
        ([2.0, 2.1, 2.05], "above"),
        ([-2.0, -2.1, -2.05], "below"),
        ([2.0, -2.1, 0.5], "not distinguishable"),
    ],
)
def test_verdicts_and_what_has_none(values, verdict):
    (row,) = stats.judge([stats.compare("x", values)])
    assert row["verdict"] == verdict
    assert np.isnan([row["interval"], row["p"]]).all() == (verdict in ("unknown", "ties"))


def test_equal_differences_are_said_to_be_ties(tmp_path):
    runs = tmp_path / "runs"
    for value in (0, 0.5):
        for seed, base in enumerate((90.1, 91.3, 92.7)):
            for kind, gain in (("lt", 1.0), ("reinit", 0.0)):
                accuracies = [base] + [base + gain] * 4
                fake_run(runs, accuracies, prune_type=kind, seed=seed, **rate(value))
    saved = answer("1", runs)
    points = [row for row in saved["comparisons"] if row["scale"] == "points"]
    assert {row["verdict"] for row in points} == {"ties"}
    assert all(row["p"] is None and row["interval"] is None for row in points)
    assert "equal in all seeds" in saved["answer"] and "beat" not in saved["answer"]


def test_holm_equals_its_definition():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 3
        ordered = sorted(p)
        for value, adjusted in zip(p, stats.holm(list(p)), strict=True):
            # the smallest level at which the step-down procedure rejects this one
            steps = enumerate(ordered)
            expected = max(min(1, (6 - rank) * one) for rank, one in steps if one <= value)
            assert adjusted == pytest.approx(expected)
    adjusted = stats.holm([0.02, float("nan"), 0.03])
    assert adjusted[0] == pytest.approx(0.04) and np.isnan(adjusted[1])


def test_a_correction_can_take_a_verdict_back():
    values = np.random.default_rng(3).normal(0, 1, 5)
    values += 2.9 * scipy_stats.sem(values) - values.mean()  # p = 0.044
    (alone,) = stats.judge([stats.compare("a", values)])
    assert alone["verdict"] == "above" and alone["p"] < 0.05
    among = stats.judge([stats.compare(name, values) for name in "abc"])
    assert [row["verdict"] for row in among] == ["not distinguishable"] * 3
    words = stats.describe(among, "up", "down")
    assert "not distinguishable" in words and "Holm p = 0.13" in words


@pytest.mark.parametrize(
    ("keep", "rounds", "primary", "second"),
    [
        (0.8, 14, range(4, 14), 11),
        (0.8, 20, range(4, 14), 11),
        (0.9, 35, range(7, 29), 23),
        (0.4, 3, (1, 2), 2),
        (0.5, 6, range(1, 5), 3),
        (0.05, 3, (1,), 2),
        (0.8, 2, (1,), 1),
    ],
)
def test_the_declared_rounds_follow_from_the_plan(keep, rounds, primary, second):
    for reached in {1, 2, rounds}:
        densities = [keep**number for number in range(reached)]
        found = rounds_of(densities, rounds, 100 * (1 - keep))
        assert found == (list(primary), second)


def test_lines_equal_scipy_and_pair_by_seed(tmp_path):
    runs = fake_study(tmp_path / "runs", [(rate(0), 1, 95), (rate(0.5), 1, 95)])
    shutil.rmtree(next(runs.glob("*fgsm0-reinit-s3*")))  # its lt has no partner
    table = load([f"{runs}/*"])
    study = Study(QUESTIONS["1"], table)
    lines = study.lines[study.lines.arm == "lt - reinit, clean data"].set_index("round")
    assert lines.density_percent.tolist() == pytest.approx([100 * d for d in DENSITIES])
    assert (lines.seeds == 4).all()
    wide = table[table.mix_ratio == 0].pivot(
        index=["round", "seed"], columns="prune_type", values="test_accuracy"
    )
    for number in (1, 3):
        pairs = wide.loc[number].dropna()
        low, high = scipy_stats.ttest_rel(pairs["lt"], pairs["reinit"]).confidence_interval()
        row = lines.loc[number]
        assert row["mean"] == pytest.approx((low + high) / 2)
        assert row.interval == pytest.approx((high - low) / 2)


# Verdicts --------------------------------------------------------------------------------------


def test_attack_rate_tells_planted_from_absent(tmp_path):
    conditions = [(rate(0), 1.5, 97), (rate(0.25), 0, 97), (rate(0.5), -1, 96)]
    saved = reported(tmp_path, 1, fake_study(tmp_path / "runs", conditions))
    assert saved["density_percent"] == 10 and "50 to 5 % of the weights" in saved["answer"]
    assert verdicts(saved, "lt - reinit") == {
        "clean data": "above", "25 % fgsm": "same", "50 % fgsm": "below",
    }  # fmt: skip
    assert verdicts(saved, "lead, against clean data") == {
        "25 % fgsm": "below", "50 % fgsm": "below",
    }  # fmt: skip
    dense = verdicts(saved, "an arm - its dense net")
    assert len(dense) == 6 and dense["lt, clean data"] == "above"
    gain = saved["comparisons"][0]["difference"]
    assert gain == pytest.approx(1.5, abs=0.3) and f"+{gain:.2f} ± 0." in saved["answer"]
    assert not any("label leaking" in line for line in saved["details"])
    assert any("not told from what fewer" in line for line in saved["details"])
    rows = read_csv(tmp_path / "report" / "exp1-means.csv")
    assert {row["quantity"] for row in rows} == {
        "test_accuracy", "difference of test_accuracy", "transfer", "whitebox_fgsm_accuracy",
        "early_stop_iteration",
    }  # fmt: skip
    own = [row for row in rows if row["arm"] == "lt, clean data" and row["round"] == 3]
    assert {row["quantity"]: row["mean"] for row in own}["early_stop_iteration"] == 130
    seeds = read_csv(tmp_path / "report" / "exp1.csv")
    assert len(seeds) == 30 * 5 and {row["round"] for row in seeds} == {0, 1, 2, 3, 4}
    saved_rows = read_csv(tmp_path / "report" / "exp1-comparisons.csv")
    assert [row["verdict"] for row in saved_rows] == [r["verdict"] for r in saved["comparisons"]]


def test_not_distinguishable_is_never_the_same(tmp_path):
    conditions = [(rate(0), 0, 90), (rate(0.5), 0, 90)]
    saved = answer("1", fake_study(tmp_path / "runs", conditions, noise=1))
    words = " ".join([saved["answer"], *saved["details"]])
    assert "not distinguishable" in words
    assert not re.search(r"the same|equal|agree|no effect", words.replace("equal in all seeds", ""))


def test_the_same_is_said_within_the_margin_only(tmp_path):
    """Two one-sided tests, against scipy's."""
    conditions = [(rate(0), 0, 90), (rate(0.5), 0, 90)]
    saved = answer("1", fake_study(tmp_path / "runs", conditions, noise=0.05))
    assert set(verdicts(saved, "lt - reinit").values()) == {"same"}
    assert "the same within 0.3 points: clean data" in saved["answer"]
    values = np.array([0.1, -0.05, 0.2, 0.0, 0.02])
    low = scipy_stats.ttest_1samp(values, -0.3, alternative="greater").pvalue
    high = scipy_stats.ttest_1samp(values, 0.3, alternative="less").pvalue
    assert stats.compare("x", values, 0.3)["tost_p"] == pytest.approx(max(low, high))
    (row,) = stats.judge([stats.compare("x", values + 0.15, 0.3)])
    assert row["verdict"] == "above"  # a difference, though a small one
    assert "not distinguishable" in stats.describe(
        stats.judge([stats.compare("x", values * 9, 0.3)]), "a", "b"
    )


def test_one_seed_gives_no_verdict(tmp_path):
    conditions = [(rate(0), 5, 90), (rate(0.5), 5, 90)]
    saved = answer("1", fake_study(tmp_path / "runs", conditions, seeds=(0,)))
    assert {row["verdict"] for row in saved["comparisons"]} == {"unknown"}
    assert "too few seeds (1) to say" in saved["answer"] and "±" not in saved["answer"]
    assert saved["comparisons"][0]["interval"] is None


@pytest.mark.parametrize(
    ("flags", "warned"),
    [({}, True), ({"attack": "noise"}, False), ({"attack_mode": "online"}, False)],
)
def test_label_leaking_is_only_of_static_attacks(tmp_path, flags, warned):
    conditions = [(rate(0) | flags, 1, 97), (rate(1) | flags, 1, 40)]
    saved = answer("1", fake_study(tmp_path / "runs", conditions, seeds=(0, 1)))
    assert any("label leaking" in line for line in saved["details"]) == warned


def test_attack_types(tmp_path):
    types = [
        (rate(0.5), 1, 96),
        (rate(0.5, attack="pgd"), 4, 96),
        (rate(0.5, attack="noise"), 1, 97),
    ]
    saved = answer("2", fake_study(tmp_path / "runs", [(rate(0), 1, 97), *types]))
    assert verdicts(saved, "lead, one attack - another") == {"50 % fgsm − 50 % pgd": "below"}
    assert verdicts(saved, "lead, attacked - noise") == {
        "50 % fgsm − 50 % noise": "same", "50 % pgd − 50 % noise": "above",
    }  # fmt: skip
    kinds = {"50 % fgsm", "50 % pgd", "50 % noise"}
    assert set(verdicts(saved, "tickets, attacked - clean data")) == kinds


def test_the_white_box_column_is_named_by_its_attack(tmp_path):
    for attacks, shown in ((("pgd",), "pgd"), (("ddn", "fgsm"), "fgsm"), (("ddn", "cw"), "cw")):
        folder = tmp_path / "-".join(attacks)
        folder.mkdir()
        flags = {"seeds": (0, 1), "eval_attacks": attacks}
        conditions = [(rate(0), 1, 97), (rate(0.5), 1, 97)]
        study = Study(
            QUESTIONS["1"], load([f"{fake_study(folder / 'runs', conditions, **flags)}/*"])
        )
        names = {name for name in study.lines.quantity if name.startswith("whitebox")}
        assert names == {f"whitebox_{shown}_accuracy"}
        from results.panels import draw

        titles = [axis.get_title() for axis in draw(study).axes]
        assert f"attacked test images: white-box {shown.upper()}" in titles


@pytest.fixture(scope="module")
def two_tickets(tmp_path_factory):
    """Runs of experiment 3: own masks, and the other data's."""
    folder = tmp_path_factory.mktemp("two")
    runs = fake_study(folder / "runs", [(rate(0), 2, 95), (rate(0.5), 2, 95)])
    names = {
        value: saved_run(only(folder / "runs", f"*-fgsm{value:g}-lt-s0-*")).ticket_name
        for value in (0, 0.5)
    }
    rng = np.random.default_rng(1)
    for value in (0, 0.5):
        source = fake_run(folder / "source", [1.0] * 5, seed=9, **rate(value))
        (source / "masks").mkdir()
        for number in range(5):
            (source / "masks" / f"round_{number:02}.safetensors").touch()
        for kind, level in (("lt", 97), ("reinit", 95), ("shuffle", 94)):
            for seed in range(5):
                levels = (level + rng.normal(0, 0.05, 5)).tolist()
                flags = {"ticket": str(source), "ticket_arm": names[value], "ticket_seed": seed}
                under_ticket(folder / "transfer", levels, flags, prune_type=kind, seed=seed,
                             **rate(0.5 - value))  # fmt: skip
    return runs, folder / "transfer"


def under_ticket(folder, levels, ticket, **flags):
    """A fake run of these accuracies that says it has the masks of another run."""
    path = fake_run(folder, levels, **flags)
    config = json.loads((path / "config.json").read_text())
    config["flags"] |= ticket
    (path / "config.json").write_text(json.dumps(config))
    return path


def groups(*gaps, **more):
    """Rows of tickets.py's groups.csv with these differences."""
    fixed = {"theta0s": 5, "between": 0.3, "within": 0.4, "theta0": 0.2, "chance": 0.1}
    fixed |= {"between_interval": 0.01, "within_interval": 0.01, "theta0_interval": 0.01}
    fixed |= {"chance_interval": 0, "difference_interval": 0.02, "p": 0.01, "smallest_p": 0.001}
    return [
        {"round": number, "density_a": density, "density_b": density, "difference": gap}
        | fixed | more
        for number, (density, gap) in enumerate(zip(DENSITIES, gaps, strict=False))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("gaps", "more", "verdict", "words"),
    [
        ([0, 0.1, 0.1, 0.1, 0], {}, "above", "the tickets are not the same"),
        ([0, 0.0, 0.0, -0.1, 0], {}, "below", "more alike"),
        ([0, 0.001, 0.001, 0.001, 0], {}, "not distinguishable", "not distinguishable"),
        ([0, 0.1, 0.1, 0.1, 0], {"difference_interval": ""}, "unknown", "too few seeds"),
    ],
)
def test_same_ticket(tmp_path, two_tickets, gaps, more, verdict, words):
    rows = pd.DataFrame([*groups(*gaps, **more), {"round": "all", "p": 0.02}])
    saved = answer("3", *two_tickets, groups=rows)
    assert "no control was compared" in saved["answer"]
    (row,) = [row for row in saved["comparisons"] if row["family"] == "overlap"]
    assert row["verdict"] == verdict and words in saved["answer"]
    assert row["permutation_p"] == 0.01 and row["difference"] == gaps[3]
    controls = verdicts(saved, "other ticket - controls")
    assert controls["other data's ticket − random ticket, clean data"] == "above"
    assert set(controls.values()) == {"above"} and len(controls) == 4
    lines = saved["lines"]
    ceiling = [
        row["mean"] for row in lines if row["quantity"] == "Jaccard" and "ceiling" in row["arm"]
    ]
    assert ceiling == [0.4] * 5


def test_a_ticket_of_another_attack_or_recipe_is_not_the_other_datas(two_tickets):
    """Defect: any ticket whose name ended in another number was; one of noise was a traceback."""
    ticket = QUESTIONS["3"].factors["ticket"].of
    table = load([f"{two_tickets[1]}/*"]).drop_duplicates("folder")
    flags = table[(table.prune_type == "lt") & (table.mix_ratio == 0)].iloc[0].to_dict()
    assert ticket(flags) == "other data's ticket"
    arm = flags["ticket_arm"]
    for other in ("digits-fc1-omit0.5-lt-0123abcd", "digits-fc1-noise0.5-lt-0123abcd",
                  "digits-fc1-clean-lt-0123abcd", arm[:-1] + ("0" if arm[-1] != "0" else "1"),
                  f"{arm}@3"):  # fmt: skip
        assert "is not the other data's" in ticket(flags | {"ticket_arm": other}), other
    assert "is not the other data's" in ticket(flags | {"ticket_seed": flags["seed"] + 1})


def test_a_ticket_of_noise_is_a_control_of_the_other_datas(tmp_path, two_tickets):
    """What only the attack does: tickets of noise on both data sets; on one alone is an error."""
    config = saved_run(only(two_tickets[0], "*-fgsm0-lt-s0-*"))
    noise = config.replace(attack="noise", mix_ratio=0.5).ticket_name
    source = tmp_path / "source"
    (source / "masks").mkdir(parents=True)
    for value, level in ((0, 96), (0.5, 97.5)):
        for seed in range(5):
            flags = {"ticket": str(source), "ticket_arm": noise, "ticket_seed": seed}
            levels = [level + 0.01 * seed] * 5
            path = under_ticket(tmp_path / f"{value}", levels, flags, seed=seed, **rate(value))
            path.rename(path.with_name(f"noise-{path.name}"))
    rows = pd.DataFrame(groups(0, 0.1, 0.1, 0.1, 0))
    saved = answer("3", *two_tickets, *(tmp_path / f"{v}" for v in (0, 0.5)), groups=rows)
    controls = verdicts(saved, "other ticket - controls")
    assert len(controls) == 6
    assert controls["other data's ticket − ticket of 50 % noise, clean data"] == "above"
    assert controls["other data's ticket − ticket of 50 % noise, 50 % attacked data"] == "below"
    with pytest.raises(UserError, match="no runs of ticket of 50 % noise, 50 % attacked data"):
        answer("3", *two_tickets, tmp_path / "0", groups=rows)


def test_arms_of_two_files_of_one_name_are_not_compared(tmp_path, capsys):
    """Defect: data_id was free between arms, so clean runs of one file met attacked ones of
    another.
    """
    for name, value in (("one", 0), ("two", 0.5)):
        for path in fake_study(tmp_path / name, [(rate(value), 1, 95)]).glob("*/config.json"):
            config = json.loads(path.read_text())
            config["flags"]["data_id"] = name
            path.write_text(json.dumps(config))
    runs = [f"{tmp_path}/{name}/*" for name in ("one", "two")]
    assert "differ in --data_id" in fails(capsys, *runs, "--experiment=1", "-o", tmp_path / "no")


def test_the_overlap_of_other_runs_is_refused(tmp_path, two_tickets, capsys):
    runs = [f"{folder}/*" for folder in two_tickets]
    argv = [*runs, "--experiment=3", "--tickets", tmp_path / "tickets", "-o", tmp_path / "no"]
    assert "groups.csv is not there" in fails(capsys, *argv)
    write_csv(tmp_path / "tickets" / "groups.csv", groups(0, 0.1))
    assert "round 3 at 10 % of the weights is needed" in fails(capsys, *argv)
    write_csv(tmp_path / "tickets" / "groups.csv", [{"round": 0, "between": "x"}])
    assert "damaged" in fails(capsys, *argv)
    assert not (tmp_path / "no").exists()
    write_csv(tmp_path / "tickets" / "groups.csv", groups(0, 0.1, 0.1, 0.1, 0))
    # masks of other arms than these runs': noise as --b, say
    own = [saved_run(only(two_tickets[0], f"*-fgsm{v}-lt-s0-*")).ticket_name for v in ("0", "0.5")]
    others = groups(0, 0.1, 0.1, 0.1, 0, arm_a=own[0], arm_b="digits-fc1-noise0.5-lt-0123abcd")
    write_csv(tmp_path / "tickets" / "groups.csv", others)
    assert "compares masks of digits-fc1-noise0.5-lt" in fails(capsys, *argv)
    sound = groups(0, 0.1, 0.1, 0.1, 0, arm_a=own[0], arm_b=own[1])
    write_csv(tmp_path / "tickets" / "groups.csv", sound)
    options = ["--tickets", str(tmp_path / "tickets")]
    saved = reported(tmp_path, 3, *two_tickets, options=options)
    assert f"--tickets {tmp_path / 'tickets'}" in saved["commands"][-1]
    # what was published has its tables beside it
    again = [str(tmp_path / "report" / "exp3.json"), "--experiment=3", "-o", str(tmp_path / "two")]
    assert report.main(again) == 0
    assert json.loads((tmp_path / "two" / "exp3.json").read_text())["answer"] == saved["answer"]


def test_architectures_and_datasets(tmp_path):
    runs = fake_study(tmp_path / "a", [(rate(0), 1, 97), (rate(0.5), 1, 96)])
    other = {"arch_type": "lenet5", "prune_percent": 30.0}
    fake_study(tmp_path / "b", [(rate(0), 1, 97), (rate(0.5), 3.5, 96)], **other)
    saved = answer("4", runs, tmp_path / "b")
    between = verdicts(saved, "lead, against clean data, one architecture - another")
    assert between == {"fc1 − lenet5, 50 % fgsm": "below"}
    assert {row[0] for row in saved["table"]["rows"]} == {"fc1", "lenet5"}
    assert saved["density_percent"] == {"fc1": 10, "lenet5": 10}
    fake_study(tmp_path / "c", [(rate(0), 0, 97), (rate(0.5), 1, 96)], dataset="fashionmnist")
    saved = answer("5", runs, tmp_path / "c")
    assert verdicts(saved, "lt - reinit")["fc1 on fashionmnist, clean data"] == "same"
    assert not any(" − " in row["label"] for row in saved["comparisons"])  # seeds do not pair
    assert "agree" not in " ".join([saved["answer"], *saved["details"]])


def test_six_places_are_drawn_three_in_a_row(tmp_path):
    """Law: each place's accuracy and its lead stand one above the other."""
    for data in ("mnist", "fashionmnist"):
        for net in ("fc1", "lenet5", "conv2"):
            flags = {"dataset": data, "arch_type": net, "seeds": (0, 1)}
            fake_study(tmp_path / "runs", [(rate(0), 1, 97), (rate(0.5), 1, 96)], **flags)
    study = Study(QUESTIONS["5"], sources.gather([f"{tmp_path}/runs/*"]).table)
    axes = panels.draw(study).axes
    grid = {(cell.rowspan.start, cell.colspan.start): axis.get_title() for axis in axes
            if (cell := axis.get_subplotspec())}  # fmt: skip
    places = [[grid[row, column].partition(": ")[0] for column in range(3)] for row in range(4)]
    assert places[0] == places[1] and places[2] == places[3]
    assert len({*places[0], *places[2]}) == 6
    assert all(grid[row, 0].endswith(": lt - reinit") == (row % 2 == 1) for row in range(4))


def test_oneshot(tmp_path):
    quiet = {"noise": 0.05}
    runs = fake_study(tmp_path / "a", [(rate(0), 2, 96), (rate(0.5), 2, 96)], **quiet)
    schedule = {"prune_schedule": "oneshot"}
    fake_study(tmp_path / "b", [(rate(0), 2, 96), (rate(0.5), 0.5, 96)], **quiet, **schedule)
    saved = answer("6", runs, tmp_path / "b")
    found = verdicts(saved, "one-shot - iterative")
    assert found["lt, 50 % fgsm"] == "below" and found["lt, clean data"] in (
        "same",
        "not distinguishable",
    )
    assert verdicts(saved, "lead, one-shot - iterative")["50 % fgsm"] == "below"
    changes = verdicts(saved, "one-shot - iterative, attacked - clean data")
    assert changes["lt, 50 % fgsm"] == "below"


def test_black_images(tmp_path):
    plain = {"attack": None, "mix_ratio": None}
    conditions = [
        ({"dataset": "digits_black", **plain}, 3, 90),
        ({"dataset": "digits_black_cleantest", **plain}, 0, 10),
        (rate(0), 1, 97),
        (rate(1), 1, 40),
    ]
    saved = answer("black", fake_study(tmp_path / "runs", conditions, noise=0.05))
    assert verdicts(saved, "lt - reinit")["trained and tested on black images"] == "above"
    assert set(saved["density_percent"].values()) == {10} and len(saved["density_percent"]) == 4
    # Defect: what black images are tested on was "clean test images"
    said = " ".join([saved["answer"], *saved["details"]])
    assert "the test images of each arm's own file, black or clean" in saved["answer"]
    assert "clean test images" not in said and "at the rate of the training images" not in said
    assert "share one file of images" in said


def test_a_question_is_a_declaration(tmp_path, monkeypatch, capsys):
    """What CONTRIBUTING shows: nothing but an entry of QUESTIONS."""
    monkeypatch.setattr(QUESTIONS, "wrong", {})
    question = Question(
        "Does the learning rate matter?",
        factors={
            "lr": Factor("lr", label="lr {:g}".format, ordered=True),
            "prune_type": Factor("prune_type", ("lt", "reinit")),
        },
        contrasts={
            "lt - reinit": Contrast("lt wins", "reinit wins", "prune_type", ("lt", "reinit")),
            "change": Contrast("more", "less", "lr", of="lt - reinit", answers=True),
        },
        panels=(Panel("test_accuracy"), Panel("lt - reinit", "lt − reinit")),
        colour="lr",
    )
    monkeypatch.setitem(QUESTIONS, "lr", question)
    runs = fake_study(tmp_path / "runs", [({"lr": 1e-3}, 1, 95), ({"lr": 1e-2}, 3, 95)])
    saved = reported(tmp_path, "lr", runs)
    assert saved["question"] == question.title
    assert verdicts(saved, "change") == {"lr 0.01": "above"}
    assert 'id="explr"' in (tmp_path / "report" / "report.html").read_text()
    assert "valid: 1, 2, 3, 4, 5, 6, 7, frankle, cosentino, large, black, lr" in fails(
        capsys, "x", "--experiment=8"
    )
    assert isinstance(report.make_parser(), argparse.ArgumentParser)
    assert "Does the learning rate matter?" in report.make_parser().format_help()


# Unfinished runs -------------------------------------------------------------------------------


def test_an_unfinished_run_moves_nothing_but_its_own_pair(tmp_path, capsys):
    runs = fake_study(tmp_path / "runs", [(rate(0), 1, 97), (rate(0.5), 1, 97)], seeds=(0, 1, 2))
    whole = answer("1", runs)
    last = max(runs.glob("*fgsm0.5-reinit*"))
    (last / "DONE").unlink()
    write_csv(last / "rounds.csv", read_csv(last / "rounds.csv")[:3])
    saved = reported(tmp_path, 1, runs)
    assert saved["density_percent"] == whole["density_percent"] == 10
    assert saved["answer"].split(",")[0] == whole["answer"].split(",")[0]
    assert saved["runs"]["unfinished"] == 1
    assert any(f"lack a round of the answer: {last}" in line for line in saved["details"])
    assert any("1 of the 12 runs are unfinished" in line for line in saved["details"])
    assert [row["n"] for row in saved["comparisons"][:2]] == [3, 2]
    assert saved["comparisons"][0]["difference"] == whole["comparisons"][0]["difference"]
    rows = read_csv(tmp_path / "report" / "exp1-means.csv")
    seeds = [row["seeds"] for row in rows if row["arm"] == "lt - reinit, 50 % fgsm"]
    assert seeds == [3, 3, 3, 2, 2]
    for folder in runs.glob("*fgsm0.5-reinit*"):
        write_csv(folder / "rounds.csv", read_csv(folder / "rounds.csv")[:3])
    assert "at round 4" in fails(capsys, f"{runs}/*", "--experiment=1", "-o", tmp_path / "no")


def test_a_run_of_the_dense_round_only_has_nothing_to_compare(tmp_path, capsys):
    fake_study(tmp_path / "runs", [(rate(0, prune_iterations=1), 1, 97)], seeds=(0, 1))
    error = fails(capsys, f"{tmp_path}/runs/*", "--experiment=1", "-o", tmp_path / "no")
    assert "is of one round: two rounds or more are compared" in error


# The page --------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Every src, href and tag of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of runs and of the report of two experiments."""
    folder = tmp_path_factory.mktemp("made")
    seeds = {"seeds": (0, 1, 2)}
    runs = fake_study(folder / "a", [(rate(0), 1, 97), (rate(0.5), 1, 96)], **seeds)
    schedule = {"prune_schedule": "oneshot"}
    fake_study(folder / "b", [(rate(0), 2, 96), (rate(0.5), 0.5, 96)], **seeds, **schedule)
    reported(folder, 6, runs, folder / "b")
    command = "python main.py '<script>alert(1)</script>' & \"x\"\nsecond line"
    reported(folder, 1, runs, options=["--command", command])
    return folder


@pytest.fixture
def pages(made, tmp_path):
    """A copy of the report for a test to damage."""
    return shutil.copytree(made / "report", tmp_path / "pages")


def test_the_page_is_whole_and_escaped(pages):
    text = (pages / "report.html").read_text()
    page = Links(text)
    assert page.tags.count("img") == 2 and "script" not in page.tags and "link" not in page.tags
    inside = ("data:image/png;base64,", "#exp")
    beside = {link for link in page.links if not link.startswith(inside)}
    assert beside and all((pages / link).is_file() for link in beside)
    targets = {link[1:] for link in page.links if link.startswith("#")}
    assert targets == {"exp1", "exp6"} and all(f'id="{name}"' in text for name in targets)
    assert not re.search(r"url\(|@import", text)
    typed = "&lt;script&gt;alert(1)&lt;/script&gt;&#x27; &amp; &quot;x&quot;\nsecond line\npython"
    assert f"{typed} report.py --experiment=1" in text
    assert text.index('id="exp1"') < text.index('id="exp6"')
    assert "abcdef0123" in text and "torch 2.0" in text and "12 runs, seeds 0, 1, 2" in text
    for name in ("exp1", "exp6"):
        assert (pages / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (pages / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
        marked = json.loads((pages / f"{name}.json").read_text())["table"]
        assert [marked["rows"][n][0] for n in marked["marked"]] == ["50 %", "25 %", "10 %", "5 %"]
    assert not list(pages.glob(".tmp*"))


def test_the_page_renders_in_a_browser(pages, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("chromium is not on PATH")
    check = (
        "<script>addEventListener('load', () => { document.title = "
        "[...document.images].map(i => i.naturalWidth > 500).join() + ' ' "
        "+ (document.documentElement.scrollWidth <= innerWidth) })</script></body>"
    )
    copy = tmp_path / "copy.html"
    copy.write_text((pages / "report.html").read_text().replace("</body>", check))
    alone = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    alone += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}"]
    alone += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", f"file://{copy}"]
    for width in (1200, 380):  # a desk and a phone
        command = [browser, f"--window-size={width},900", *alone]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert "<title>true,true true</title>" in done.stdout, done.stdout[:300]
        assert "CONSOLE" not in done.stderr, done.stderr


def test_every_link_of_the_page_resolves(pages):
    text = (pages / "report.html").read_text()
    links, ids = re.findall(r'href="([^"]+)"', text), set(re.findall(r'id="([^"]+)"', text))
    assert len(links) > 8 and len(ids) >= 2
    for link in links:
        assert link[1:] in ids if link.startswith("#") else (pages / link).exists(), link


@pytest.mark.parametrize("damage", ["{", "[]", '{"question": 1}', '{"figure": "../../x"}'])
def test_a_damaged_result_of_another_experiment(made, pages, capsys, damage):
    before = (pages / "report.html").read_bytes()
    (pages / "exp6.json").write_text(damage)
    stamp = (pages / "exp1.json").stat().st_mtime_ns
    assert "exp6.json" in fails(capsys, f"{made / 'a'}/*", "--experiment=1", "-o", pages)
    assert (pages / "report.html").read_bytes() == before
    assert (pages / "exp1.json").stat().st_mtime_ns == stamp


# What is wrong is said in one line -------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "conditions", "message"),
    [
        ("9", [(rate(0), 1, 97)], "unknown experiment '9'"),
        ("1", [(rate(0), 1, 97), (rate(0, dataset="mnist"), 1, 97)], "differ in --dataset"),
        (
            "1",
            [(rate(0, prune_schedule="oneshot"), 1, 97), (rate(0.5), 1, 97)],
            "these runs differ in --prune_schedule",
        ),
        ("2", [(rate(0.5), 1, 97)], "attack rate 0 and at one other"),
        ("3", [(rate(0), 1, 97), (rate(0.5), 1, 97)], "no runs of other data's ticket, clean data"),
        ("7", [(rate(0), 1, 97)], "have no whitebox_pgd_accuracy"),
        ("4", [(rate(0), 1, 97), (rate(0.5, dataset="mnist"), 1, 97)], "differ in --dataset"),
        ("5", [(rate(0), 1, 97), (rate(0.5, dataset="mnist"), 1, 97)], "there are no runs of"),
        ("6", [(rate(0), 1, 97)], "no runs of one-shot, lt, clean data"),
        ("black", [(rate(0), 1, 97)], "no runs of trained and tested on black images"),
    ],
)
def test_runs_that_do_not_fit(tmp_path, capsys, experiment, conditions, message):
    runs = fake_study(tmp_path / "runs", conditions, seeds=(0, 1))
    where = tmp_path / "report"
    error = fails(capsys, f"{runs}/*", f"--experiment={experiment}", "-o", where)
    assert message in error and not where.exists()
    if "differ in" in error:
        assert error.count(str(runs)) == 2  # both runs are named


def test_experiment_3_needs_the_overlap(two_tickets, capsys, tmp_path):
    runs = [f"{folder}/*" for folder in two_tickets]
    assert "needs --tickets" in fails(capsys, *runs, "--experiment=3", "-o", tmp_path / "no")


def test_a_missing_arm_a_double_and_what_is_no_run(tmp_path, capsys):
    runs = fake_study(tmp_path / "runs", [(rate(0), 1, 97)], seeds=(0, 1))
    where = ["--experiment=1", "-o", tmp_path / "report"]
    twin = shutil.copytree(next(runs.glob("*-lt-s0*")), tmp_path / "double")
    config = json.loads((twin / "config.json").read_text())
    config["flags"]["data_id"] = "another file"
    (twin / "config.json").write_text(json.dumps(config))
    assert "differ in --data_id" in fails(capsys, f"{runs}/*", twin, *where)
    config["flags"]["data_id"], config["flags"]["trades_beta"] = "", 1.0
    (twin / "config.json").write_text(json.dumps(config))
    assert "differ in --trades_beta" in fails(capsys, f"{runs}/*", twin, *where)
    for folder in runs.glob("*reinit*"):
        shutil.rmtree(folder)
    assert "there are no runs of reinit, clean data" in fails(capsys, f"{runs}/*", *where)
    (tmp_path / "empty").mkdir()
    assert "is not a run folder" in fails(capsys, tmp_path / "empty", *where)
    assert "matches no folder" in fails(capsys, "none/*", *where)
    assert "finished round" in fails(capsys, runs, *where)  # it holds runs and is none
    assert not (tmp_path / "report").exists()


def test_arms_without_a_common_seed(tmp_path, capsys):
    runs = fake_study(tmp_path / "runs", [(rate(0), 1, 97)], seeds=(0, 1))
    for folder in [*runs.glob("*-lt-s0*"), *runs.glob("*-reinit-s1*")]:
        shutil.rmtree(folder)
    error = fails(capsys, f"{runs}/*", "--experiment=1", "-o", tmp_path / "report")
    assert "share no --seed" in error


def test_one_arm_with_other_columns(tmp_path, capsys):
    for seed, columns in enumerate(({}, {"gradient_norm": 1.0})):
        fake_run(tmp_path / "runs", [90.0] * 5, columns, seed=seed)
    error = fails(capsys, f"{tmp_path}/runs/*", "--experiment=1", "-o", tmp_path / "no")
    assert "gradient_norm" in error and "one arm" in error


# What is published -----------------------------------------------------------------------------


def test_everything_is_recomputed_from_what_is_published(made, tmp_path):
    assert report.main(["--from", str(made / "report"), "-o", str(tmp_path / "again")]) == 0
    names = ["exp1.csv", "exp1-comparisons.csv", "exp1-means.csv", "exp6-comparisons.csv"]
    for name in names:
        assert (tmp_path / "again" / name).read_text() == (made / "report" / name).read_text()
    one, other = (
        json.loads((folder / "exp1.json").read_text())
        for folder in (made / "report", tmp_path / "again")
    )
    assert one == other
    assert len(one["record"]["runs"]) == 12 and "host" not in json.dumps(one["record"])
    run = one["record"]["runs"][0]
    flags = one["record"]["shared"] | run["flags"]
    assert flags["prune_iterations"] == 5 and flags["attack"] == "fgsm"


def test_new_runs_are_answered_beside_published_ones(made, tmp_path, capsys):
    """Law: what was published of runs stands for their folders, and a run in both counts once."""
    whole = made / "report"
    for number, more in enumerate(([], [f"{made}/a/000-*"])):
        output = tmp_path / str(number)
        given = [f"{whole}/exp1.json", f"{made}/b/*", *more]
        assert report.main([*given, "--experiment=6", "-o", str(output)]) == 0
        for name in ("exp6-comparisons.csv", "exp6-means.csv"):
            assert (output / name).read_text() == (whole / name).read_text()
        saved, other = (
            json.loads((folder / "exp6.json").read_text()) for folder in (output, whole)
        )
        assert saved["answer"] == other["answer"] and saved["record"]["hours"] > 0
        ours, theirs = (
            {
                run["run"]: (run["done"], run["rounds"], record["shared"] | run["flags"])
                for run in record["runs"]
            }
            for record in (saved["record"], other["record"])
        )
        assert ours == theirs
        # the commands that trained what was published, and this call
        assert saved["commands"][0] == "python main.py '<script>alert(1)</script>' & \"x\""
        assert [line.startswith("python report.py") for line in saved["commands"]] == [0, 0, 1]
        assert (": counted once" in capsys.readouterr().out) == bool(more)


def test_a_finished_run_counts_before_its_unfinished_self(tmp_path, capsys):
    """Defect: what was published of a run that went on stood for it."""
    conditions = [(rate(0), 1, 97), (rate(0.5), 1, 96)]
    runs = fake_study(tmp_path / "runs", conditions, seeds=(0, 1, 2))
    late = next(runs.glob("*-lt-s2-*"))
    whole = (late / "rounds.csv").read_text()
    (late / "rounds.csv").write_text("".join(whole.splitlines(keepends=True)[:4]))
    reported(tmp_path, 1, runs)
    (late / "rounds.csv").write_text(whole)
    report_of = tmp_path / "report" / "exp1.json"
    saved = answer("1", runs)
    joined = sources.gather([str(report_of), f"{runs}/*"])
    assert words.answer(Study(QUESTIONS["1"], joined.table, {}))["answer"] == saved["answer"]
    assert {run["rounds"] for run in joined.record["runs"]} == {5}


def test_one_arm_with_other_columns_in_another_source(tmp_path):
    """Defect: seeds of an arm that lack an accuracy stood beside published ones that have it."""
    reported(tmp_path, 1, fake_study(tmp_path / "a", [(rate(0), 1, 97), (rate(0.5), 1, 96)]))
    fake_run(tmp_path / "b", [97.0] * 5, {"whitebox_own_accuracy": 1.0}, seed=7)
    with pytest.raises(UserError, match="only one of them has whitebox_own_accuracy"):
        sources.gather([str(tmp_path / "report" / "exp1.json"), f"{tmp_path / 'b'}/*"])


def test_what_is_no_published_file_is_told(made, tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    lost = shutil.copytree(made / "report", tmp_path / "lost")
    (lost / "exp1.csv").unlink()
    for source, says in (
        (tmp_path / "other.json", "name an expN.json that report.py wrote"),
        (tmp_path / "none.json", "name an expN.json that report.py wrote"),
        (lost / "exp1.json", "exp1.csv cannot be read"),
    ):
        assert says in fails(capsys, source, "--experiment=1", "-o", tmp_path / "no")
        assert not (tmp_path / "no").exists()


def no_round(table, name):
    return table[(table.run != name) | (table["round"] != 2)]


def no_run(table, name):
    return table[table.run != name]


def one_more(table, name):
    return pd.concat([table, table[table.run == name].assign(run="another")])


def column(name, value):
    return lambda table, _: table.assign(**{name: value})


def without(name):
    return lambda table, _: table.drop(columns=name)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (no_round, "lacks round 2 of lt, seed 1"),
        (no_run, "lacks the run lt, seed 1"),
        (one_more, "has a run that its JSON file does not name: another"),
        (column("test_accuracy", "x"), "test_accuracy has something other than numbers"),
        (column("test_accuracy", -5), "test_accuracy has a value that it cannot have"),
        (column("density", float("inf")), "density has a value that is no number"),
        (column("seed", 3), "it has a flag as a column"),
        (without("density"), "it lacks the column density"),
    ],
)
def test_a_published_table_that_lacks_something(pages, tmp_path, capsys, damage, says):
    table = pd.read_csv(pages / "exp1.csv")
    name = next(name for name in table.run.unique() if "-fgsm0-lt-s1-" in name)
    damage(table, name).to_csv(pages / "exp1.csv", index=False)
    assert says in fails(capsys, "--from", pages, "-o", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_published_table_without_an_arm(pages, tmp_path, capsys):
    table, saved = pd.read_csv(pages / "exp1.csv"), json.loads((pages / "exp1.json").read_text())
    table[~table.run.str.contains("fgsm0-reinit")].to_csv(pages / "exp1.csv", index=False)
    record = saved["record"]
    record["runs"] = [run for run in record["runs"] if "fgsm0-reinit" not in run["run"]]
    (pages / "exp1.json").write_text(json.dumps(saved))
    error = fails(capsys, "--from", pages, "-o", tmp_path / "no")
    assert "there are no runs of reinit, clean data" in error


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--from", "none"], "holds no expN.json"),
        (["--from", "x", "--experiment=1"], "name nothing else"),
        ([], "run folders and --experiment=N are needed"),
        (["x", "--experiment=1", "--tickets=y"], "--tickets is of experiment 3"),
    ],
)
def test_a_call_that_says_too_little_or_too_much(capsys, tmp_path, argv, says):
    assert says in fails(capsys, *argv, "-o", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_page_is_filled_with_what_was_found(made, tmp_path, capsys):
    text = (
        "before\n<!-- exp1 answer -->\nold\n<!-- end -->\n<!-- verdicts -->\n<!-- end -->\n"
        "<!-- basis -->\n<!-- end -->\nafter\n"
    )
    (tmp_path / "page.md").write_text(text)
    where = ["--from", made / "report", "-o", tmp_path / "again", "--fill", tmp_path / "page.md"]
    assert report.main([str(part) for part in where]) == 0
    filled = (tmp_path / "page.md").read_text()
    saved = json.loads((made / "report" / "exp1.json").read_text())
    assert saved["answer"] in filled and "| question |" in filled and "old" not in filled
    assert filled.startswith("before\n") and filled.endswith("<!-- end -->\nafter\n")
    assert "| hours | on |" in filled and "| 1 | fc1 | digits | 5 x 12 |" in filled
    for text, says in (
        ("<!-- exp9 answer -->\n<!-- end -->\n", "a block is of an experiment"),
        ("<!-- exp1 answer -->\nmine\n<!-- exp1 details -->\n<!-- end -->\n", "has no <!-- end"),
        ("<!-- exp1 answer -->\nmine\n", "has no block to fill"),
        ("nothing\n", "has no block to fill"),
    ):
        (tmp_path / "page.md").write_text(text)
        where[3] = tmp_path / "untouched"
        assert says in fails(capsys, *where)
        assert (tmp_path / "page.md").read_text() == text and not where[3].exists()
    # a page with the line ends of Windows, behind a link, keeps both
    page, link = tmp_path / "real.md", tmp_path / "link.md"
    page.write_bytes(b"a\r\n<!-- exp1 answer -->\r\nold\r\n<!-- end -->\r\nb\r\n")
    link.symlink_to(page)
    where[3], where[5] = tmp_path / "again", link
    assert report.main([str(part) for part in where]) == 0
    assert link.is_symlink() and b"old" not in page.read_bytes()
    assert page.read_bytes().startswith(b"a\r\n<!--") and page.read_bytes().endswith(b"b\r\n")
    where[3], where[5] = tmp_path / "untouched", tmp_path / "page.md"
    (tmp_path / "page.md").write_bytes(b"\xff\xfe")
    assert "it is no UTF-8 text" in fails(capsys, *where)


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved.pop("record"),
        lambda saved: saved["record"].pop("shared"),
        lambda saved: saved["record"]["runs"][0].pop("rounds"),
        lambda saved: saved["record"]["runs"][0].update(done="x"),
        lambda saved: saved["record"]["shared"].update(dataset=5),
        lambda saved: saved["record"]["shared"].pop("dataset"),
        lambda saved: saved["record"]["shared"].update(prune_percent=[1]),
        lambda saved: saved["record"]["runs"][1]["flags"].update(seed=True),
        lambda saved: saved.update(commands=None),
    ],
)
def test_a_damaged_record_is_told(pages, tmp_path, capsys, damage):
    saved = json.loads((pages / "exp1.json").read_text())
    damage(saved)
    (pages / "exp1.json").write_text(json.dumps(saved))
    assert "exp1.json cannot be read" in fails(capsys, "--from", pages, "-o", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_arms_that_leave_nothing_to_compare(tmp_path):
    """Defect: tracebacks where no arm is clean, or one attack has no other beside it."""
    runs = fake_study(tmp_path / "a", [(rate(0.25), 1, 97), (rate(0.5), 1, 97)], seeds=(0, 1))
    saved = reported(tmp_path, 1, runs)
    assert any("there is nothing to compare it with" in line for line in saved["details"])
    runs = fake_study(tmp_path / "b", [(rate(0), 1, 97), (rate(0.5), 1, 97)], seeds=(0, 1))
    saved = reported(tmp_path / "two", 2, runs)
    assert "there is nothing to compare it with" in saved["answer"] and saved["verdicts"] == []


def test_autoattack_of_the_last_weights_stands_beside_no_column_of_the_best(tmp_path):
    """Defect: one table mixed the accuracies of two sets of weights."""
    for kept in ("best", "last"):
        run = fake_run(tmp_path / kept, [90.0] * 5, save_weights=kept)
        rows = [{"round": n, "density": d, "autoattack": 5.0} for n, d in enumerate(DENSITIES)]
        write_csv(run / "attacked_evaluation-autoattack-200.csv", rows)
        table = sources.gather([f"{tmp_path / kept}/*"]).table
        assert ("whitebox_autoattack_accuracy" in table) == (kept == "best")


def test_autoattack_is_compared_where_it_tried_the_most_nets(tmp_path):
    """Defect: one round on more images stood in place of a whole table."""
    run = fake_run(tmp_path / "runs", [90.0] * 5)
    rows = [{"round": n, "density": d, "autoattack": 5.0} for n, d in enumerate(DENSITIES)]
    write_csv(run / "attacked_evaluation-autoattack-200.csv", rows)
    write_csv(run / "attacked_evaluation-autoattack-300.csv", rows[:1])
    write_csv(run / "attacked_evaluation-fgsm+autoattack-200.csv", rows[:1])
    table = sources.gather([f"{tmp_path / 'runs'}/*"]).table
    assert table.whitebox_autoattack_accuracy.tolist() == [5.0] * 5
    assert set(table.autoattack_examples) == {200}


def test_autoattack_is_joined_on_one_number_of_images(tmp_path):
    """Law: folders give the number of images that what they stand beside has, or are refused."""
    runs = fake_study(tmp_path / "a", [(rate(0), 1, 97), (rate(0.5), 1, 96)], seeds=(0, 1))
    more = fake_study(tmp_path / "b", [(rate(0), 1, 97), (rate(0.5), 1, 96)], seeds=(2, 3))
    rows = [{"round": n, "density": d, "autoattack": 5.0} for n, d in enumerate(DENSITIES)]
    for folder, size in [(runs, 200), (more, 500)]:
        for run in folder.iterdir():
            write_csv(run / f"attacked_evaluation-autoattack-{size}.csv", rows)
    reported(tmp_path, 1, runs)
    both = [str(tmp_path / "report" / "exp1.json"), f"{more}/*"]
    with pytest.raises(UserError, match="200 and 500 images"):
        sources.gather(both)
    for run in more.iterdir():
        write_csv(run / "attacked_evaluation-autoattack-200.csv", rows)
    assert set(sources.gather(both).table.autoattack_examples) == {200}
    assert set(sources.gather(both[1:]).table.autoattack_examples) == {500}
