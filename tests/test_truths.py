"""Known truths are planted in runs that nobody trained, and the sentences are read."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from config import resolve
from helpers import DENSITIES
from results import stats
from results.answer import Contrast, Panel, Question, Study
from results.questions import KIND, QUESTIONS
from results.table import shown_flags

ARMS = [{"mix_ratio": 0.0}] + [
    {"attack": attack, "mix_ratio": rate} for rate in (0.25, 0.5) for attack in ("fgsm", "omit")
]


def blank(arms=ARMS, seeds=range(5), **flags):
    """A table of finished runs of lt and reinit, without their accuracies."""
    rows = []
    for arm in arms:
        for kind in ("lt", "reinit"):
            for seed in seeds:
                given = {"attack": "fgsm", "prune_type": kind, "seed": seed, **arm, **flags}
                config = resolve(given | {"prune_iterations": len(DENSITIES)}, (1, 28, 28))
                head = {"folder": config.run_name, "arm": "", "done": True} | shown_flags(config)
                for number, density in enumerate(DENSITIES):
                    rows.append(head | {"round": number, "density": density})
    table = pd.DataFrame(rows)
    more = {"early_stop_iteration": 100 + table["round"], "transfer_fgsm_accuracy": 50.0}
    return table.assign(**more)


def accuracies(table, rng, lead=lambda row: 0.0, spread=0.3, shared=1.0):
    """The table with accuracies: what runs of a seed share, noise of a run, and planted leads."""
    runs = table.drop_duplicates("folder")
    seeds = {seed: rng.normal(95, shared) for seed in runs.seed.unique()}
    own = {
        row.folder: seeds[row.seed]
        + rng.normal(0, spread)
        + (lead(row) if row.prune_type == "lt" else 0)
        for row in runs.itertuples()
    }
    dense = table["round"] == 0
    values = table.folder.map(own).where(~dense, table.seed.map(seeds))
    return table.assign(test_accuracy=values.clip(0, 100))


def answered(name, table):
    return Study(QUESTIONS[name], table).answer()


def claims(study):
    """How many of the comparisons that answer the question claim a difference."""
    return sum(
        row["verdict"] in ("above", "below")
        for name in study.answering()
        for row in study.families[name]
    )


@pytest.mark.slow
def test_of_a_hundred_nulls_ninety_five_claim_nothing():
    """All comparisons of question 1 together (Holm): its error is the family's."""
    table, rng = blank(), np.random.default_rng(2)
    null = [claims(Study(QUESTIONS["1"], accuracies(table, rng))) > 0 for _ in range(100)]
    assert sum(null) <= 5


ONE = Question(
    "One comparison",
    factors={"prune_type": KIND},
    contrasts={
        "lt - reinit": Contrast("tickets win", "reinit wins", "prune_type", ("lt", "reinit"))
    },
    panels=(Panel("test_accuracy"),),
    colour="prune_type",
)


@pytest.mark.slow
@pytest.mark.parametrize("errors", [0.0, 2.0, 4.0])
def test_an_effect_is_claimed_as_often_as_the_power_says(errors):
    """Of two standard errors, with five seeds; the power is that of the noncentral t."""
    table, rng, spread, n = blank(ARMS[:1]), np.random.default_rng(5), 0.3, 5
    error = spread * np.sqrt(2 / n)  # of a difference of two runs
    draws, limit = 150, scipy_stats.t.ppf(0.975, n - 1)
    upper = scipy_stats.nct.sf(limit, n - 1, errors)
    power = upper + scipy_stats.nct.cdf(-limit, n - 1, errors)
    found = 0
    for _ in range(draws):
        study = Study(ONE, accuracies(table, rng, lambda row: errors * error, spread))
        said = study.sentence("lt - reinit", study.families["lt - reinit"])
        assert ("tickets win" in said or "reinit wins" in said) == (claims(study) > 0)
        found += claims(study)
    assert abs(found - draws * power) <= 2.5 * np.sqrt(draws * power * (1 - power))


def test_sameness_is_claimed_seldom_where_the_difference_is_the_margin():
    rng, found = np.random.default_rng(0), 0
    for _ in range(2000):
        row = stats.compare("x", 0.3 + rng.normal(0, 0.05, 5), 0.3)
        found += row["tost_p"] < 0.05
    assert 0.03 < found / 2000 < 0.07


def test_fewer_clean_images_are_told_from_attacked_ones():
    """The lead grows as images go missing, whatever takes their place."""

    def lead(row):
        return 0.8 + 1.6 * row.mix_ratio

    saved = answered("1", accuracies(blank(), np.random.default_rng(1), lead, 0.05))
    clean = [d for d in saved["details"] if d.startswith("lead, attacked - clean data")]
    assert "be it for the attack or for the clean images that are missing" in clean[0]
    assert "larger than leaving as many out" not in saved["answer"]

    def of_the_attack(row):
        return 0.8 + 1.6 * row.mix_ratio * (row.attack == "fgsm")

    saved = answered("1", accuracies(blank(), np.random.default_rng(1), of_the_attack, 0.05))
    assert "attacked images make the lead larger than leaving as many out does" in saved["answer"]


def test_two_seeds_with_equal_differences_are_ties_and_one_is_unknown():
    equal = accuracies(blank(seeds=(0, 1)), np.random.default_rng(3), lambda row: 2.0, 0.0)
    saved = answered("1", equal)
    assert "equal in all seeds, so no verdict" in saved["answer"] and " beat" not in saved["answer"]
    alone = accuracies(blank(seeds=(4,)), np.random.default_rng(3), lambda row: 2.0)
    saved = answered("1", alone)
    assert "one seed, so no verdict" in saved["answer"] and " beat" not in saved["answer"]
    assert all(row["verdict"] == "too few seeds to say" for row in saved["verdicts"])


def test_an_accuracy_that_is_no_number_costs_its_seed_only():
    table = accuracies(blank(), np.random.default_rng(4), lambda row: 2.0)
    lost = (table.seed == 3) & (table.prune_type == "lt") & (table["round"] == 2)
    saved = answered("1", table.assign(test_accuracy=table.test_accuracy.mask(lost)))
    rows = [row["n"] for row in saved["comparisons"] if row["family"] == "lt - reinit"]
    assert rows[:5] == [4, 4, 4, 4, 4]
    assert any(line.startswith("Left out") and "..." in line for line in saved["details"])


def test_a_run_that_stopped_early_is_left_out_and_moves_no_round():
    table = accuracies(blank(), np.random.default_rng(4), lambda row: 2.0)
    run = table.folder.iloc[0]
    cut = table[(table.folder != run) | (table["round"] < 3)]
    whole, saved = answered("1", table), answered("1", cut)
    assert whole["answer"].split(":")[0] == saved["answer"].split(":")[0]
    assert any(line.startswith(f"Left out, for they lack a round of the answer: {run}")
               for line in saved["details"])  # fmt: skip
    first = [row["n"] for row in saved["comparisons"] if row["family"] == "lt - reinit"]
    assert first[:5] == [4, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "The seeds share one surrogate and one attacked set"),
        ({"attack_seed": "seed"}, "Each seed has a surrogate and attacked images of its own"),
    ],
)
def test_whether_intervals_hold_for_other_surrogates_is_said(flags, said):
    table = accuracies(blank(**flags), np.random.default_rng(4))
    assert any(line.startswith(said) for line in answered("1", table)["details"])


def test_several_draws_of_a_seed_are_one_value():
    """They are no seeds: more of them make the value of a seed better, not more seeds."""
    table = accuracies(blank(ARMS[:1]), np.random.default_rng(7), lambda row: 1.0, 0.1)
    again = table[table.prune_type == "reinit"]
    again = again.assign(
        reinit_draw=1, folder=again.folder + "b", test_accuracy=again.test_accuracy - 0.5
    )
    one, two = (answered("1", rows) for rows in (table, pd.concat([table, again])))
    first, second = (saved["comparisons"][0] for saved in (one, two))
    assert second["n"] == first["n"] == 5
    assert second["difference"] == pytest.approx(first["difference"] + 0.25)


def test_early_stopping_at_the_last_validation_is_said_to_be_censored():
    table = accuracies(blank(), np.random.default_rng(4))
    for last, said in ((1000, False), (100, True)):
        saved = answered("1", table.assign(last_iteration=last))
        assert any("not trained to their end" in line for line in saved["details"]) == said


def test_log_odds_can_turn_a_verdict_and_this_is_said():
    """From 50 to 52 and from 98 to 99 % are other steps in odds."""
    table = blank(ARMS[:1])
    rng = np.random.default_rng(0)
    saved = answered("1", accuracies(table, rng, lambda row: 2.0, 0.1, 0.1))
    assert "In log-odds the same differences are found." in saved["details"]
    assert stats.log_odds(50) == 0 and stats.log_odds(100) == pytest.approx(-stats.log_odds(0))
    null = accuracies(table, np.random.default_rng(1))
    assert "In log-odds no difference is found either." in answered("1", null)["details"]
    # the odds of two seeds near the ceiling move by far more than their points
    values = {"lt": [60.0, 99.9, 70.0, 80.0, 99.8], "reinit": [58.0, 99.4, 68.2, 78.1, 99.1]}
    here = [values[kind][seed] for kind, seed in zip(table.prune_type, table.seed, strict=True)]
    turned = answered("1", table.assign(test_accuracy=here))
    rows = [r for r in turned["comparisons"] if r["family"] == "lt - reinit"]
    assert {row["scale"]: row["verdict"] for row in rows[:1] + rows[-1:]}["points"] == "above"


def test_question_7_reads_robustness_and_when_it_breaks():
    rng, names = np.random.default_rng(0), ("fgsm", "pgd")
    arms = [{"attack": None, "mix_ratio": None}]
    arms += [{"attack": n, "attack_mode": "online", "mix_ratio": 1.0} for n in names]
    table = accuracies(blank(arms, eval_attacks=("fgsm", "pgd")), rng, spread=0.05)
    fall = table["round"].map({0: 0, 1: 0, 2: 0, 3: -8, 4: -20})
    fall = fall - 8 * ((table["round"] == 2) & (table.seed == 4))  # one seed breaks a round before
    trained = table.attack_mode == "online"
    lead = 3.0 * (table.prune_type == "lt") * (table["round"] > 0)
    noise = rng.normal(0, 0.2, len(table))
    pgd = (80 + fall + lead + noise).where(trained, 1 + noise.clip(0))
    table = table.assign(whitebox_pgd_accuracy=pgd, whitebox_fgsm_accuracy=pgd + 1)
    saved = answered("7", table)
    assert "white-box PGD" in saved["answer"] and "robustness breaks first" in saved["answer"]
    found = {r["label"]: r["verdict"] for r in saved["comparisons"] if r["family"] == "lt - reinit"}
    assert found["FGSM"] == found["PGD"] == "above"
    assert "PGD 10 %, clean not by 5 %" in saved["answer"]
