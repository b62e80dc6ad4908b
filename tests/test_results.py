"""docs/results holds the answers' runs; the figures that pages state are recomputed of them."""

import argparse
import csv
import itertools
import json
import re

import pandas as pd
import pytest

import report
from experiments import cosentino_code
from helpers import ROOT
from results.page import fill
from results.stats import amount, mean_and_interval

SOURCE = ROOT / "docs" / "results"
PAGES = [ROOT / "README.md", ROOT / "docs" / "results.md"]
NUMBER = r"[+−-]?\d+(?:\.\d+)?"


@pytest.fixture(scope="module")
def found():
    """{experiment: (saved, study, runs, tables)} from the published tables alone."""
    asked = argparse.Namespace(source=str(SOURCE), runs=[], experiment=None, tickets=None)
    return report.from_published(asked)


def plain(text):
    """A number as it is compared: no plus, an ASCII minus."""
    return text.replace("−", "-").lstrip("+")


def stated(found):
    """Every "mean ± interval" that the tables give, at one to three digits."""
    pairs = set()
    for saved, study, _, tables in found.values():
        for table in tables.values():
            names = [n for n in table if f"{n}_interval" in table]
            pairs |= {p for n in names for p in zip(table[n], table[f"{n}_interval"], strict=True)}
        pairs |= {(row["difference"], row["interval"]) for row in saved["comparisons"]}
        pairs |= set(zip(study.lines["mean"], study.lines.interval, strict=True))
        pairs |= {(row["ours"], row["interval"]) for row in saved["paper"] if "interval" in row}
    by = ["attack", *cosentino_code.CHOICES, "end_iter", "start", "round", "tested_after"]
    code = pd.read_csv(SOURCE / "cosentino-code.csv").groupby(by)
    dense = pd.read_csv(SOURCE / "cosentino-dense.csv").groupby("flags")
    for table, attacked in ((code, "attacked_accuracy"), (dense, "whitebox_fgsm_accuracy")):
        for column in ("test_accuracy", attacked):
            pairs |= {mean_and_interval(list(values)) for _, values in table[column]}
    pairs |= of_the_same_images() | of_their_epochs()
    pairs = {pair for pair in pairs if all(isinstance(v, float) and v == v for v in pair)}
    return {plain(amount(*pair, digits=digits)) for pair in pairs for digits in (1, 2, 3)}


def of_the_same_images():
    """What PGD and AutoAttack leave of the same 200 images: round by round, and by what question 7
    compares, over its rounds and over the sparser ones.
    """
    table = pd.read_csv(SOURCE / "autoattack-images.csv")
    table[["kind", "seed"]] = table.run.str.extract(r"-(lt|reinit)-s(\d)-")
    values, attacks = table.groupby(["kind", "round"]), ["pgd", "autoattack"]
    pairs = {mean_and_interval(list(v)) for name in attacks for _, v in values[name]}
    dense = table[table["round"] == 0].set_index(["kind", "seed"])[attacks]
    for first in (4, 10):
        nets = table[table["round"] >= first].groupby(["kind", "seed"])[attacks].mean()
        gains, lead = nets - dense, nets.loc["lt"] - nets.loc["reinit"]
        for name in attacks:
            pairs |= {mean_and_interval(list(gains.loc[kind, name])) for kind in ("lt", "reinit")}
            pairs.add(mean_and_interval(list(lead[name])))
    return pairs


def of_their_epochs():
    """What pruning, start and epochs make in Cosentino's code, trained on PGD: each net less each
    control, and less itself when it was younger.
    """
    table = pd.read_csv(SOURCE / "cosentino-code.csv").query("end_iter == 60 and attack == 'pgd'")
    groups = table.groupby(["start", "round", "tested_after"])
    nets = {name: rows.set_index("seed") for name, rows in groups}
    pairs = set()
    for net, other in itertools.permutations(nets, 2):
        if other[0] == "control" or other[1] == 0 or net[:2] == other[:2]:
            for column in ("test_accuracy", "attacked_accuracy"):
                pairs.add(mean_and_interval(list(nets[net][column] - nets[other][column])))
    return pairs


def test_the_same_images_are_those_of_question_7():
    """AutoAttack's accuracies stand in two tables."""
    images = pd.read_csv(SOURCE / "autoattack-images.csv").set_index(["run", "round"])
    rows = pd.read_csv(SOURCE / "exp7.csv").set_index(["run", "round"]).loc[images.index]
    assert (images.autoattack == rows.whitebox_autoattack_accuracy).all()
    assert (rows.autoattack_examples == 200).all()
    assert (images.autoattack <= images.pgd).all()
    assert (images.pgd <= images.clean_of_examples).all()


def test_what_is_published_is_what_its_tables_say(found):
    for name, (saved, *_) in found.items():
        published = json.loads((SOURCE / f"exp{name}.json").read_text(encoding="utf-8"))
        again = json.loads(json.dumps(saved))
        for part in ("answer", "details", "verdicts", "table", "record"):
            assert published[part] == again[part], (name, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_interval_that_a_page_states_is_recomputed(found, page):
    text, known = page.read_text(encoding="utf-8"), stated(found)
    intervals = re.findall(rf"({NUMBER}) ± (\d+\.\d+)", text)
    assert intervals
    missing = [pair for pair in intervals if f"{plain(pair[0])} ± {pair[1]}" not in known]
    assert not missing


def test_the_blocks_of_the_page_are_what_is_found(found):
    page = ROOT / "docs" / "results.md"
    text = page.read_text(encoding="utf-8")
    saved = {name: found[name][0] for name in found}
    assert fill(text, saved, page) == text


def test_the_record_of_reinit_beside_its_older_variant():
    with open(SOURCE / "reinit-record.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["round"] == "11"]
    kinds = {row["prune_type"]: [] for row in rows}
    for row in rows:
        kinds[row["prune_type"]].append(float(row["test_accuracy"]))
    means = {kind: f"{sum(values) / len(values):.2f}" for kind, values in kinds.items()}
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    said = re.search(
        r"`lt` reaches ([\d.]+), `reinit` ([\d.]+) and `reinit_chain` ([\d.]+): the lead is "
        r"([\d.]+)",
        " ".join(text.split()),
    )
    assert list(said.groups()[:3]) == [means[n] for n in ("lt", "reinit", "reinit_chain")]
    assert float(said[4]) == pytest.approx(float(means["lt"]) - float(means["reinit"]), abs=0.006)
