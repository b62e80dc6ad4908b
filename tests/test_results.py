"""docs/results holds the answers' runs; the figures that pages state are recomputed of them."""

import argparse
import csv
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
    by = ["attack", *cosentino_code.CHOICES, "round"]
    code = pd.read_csv(SOURCE / "cosentino-code.csv").groupby(by)
    dense = pd.read_csv(SOURCE / "cosentino-dense.csv").groupby("flags")
    for table, attacked in ((code, "attacked_accuracy"), (dense, "whitebox_fgsm_accuracy")):
        for column in ("test_accuracy", attacked):
            pairs |= {mean_and_interval(list(values)) for _, values in table[column]}
    pairs = {pair for pair in pairs if all(isinstance(v, float) and v == v for v in pair)}
    return {plain(amount(*pair, digits=digits)) for pair in pairs for digits in (1, 2, 3)}


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
