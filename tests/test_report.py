"""The six answers: statistics against oracles, sentences for planted and absent effects, the page, and the scripts end to end."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

import answers
import paired
import report
from config import resolve
from conftest import ROOT
from utils import UserError, read_csv, write_csv, write_json, write_text

DENSITIES = [1.0, 0.5, 0.25, 0.1, 0.05]


def fake_run(folder, accuracies, densities=DENSITIES, **flags):
    """A run folder with these test accuracies, one a round."""
    settings = resolve({"attack": "fgsm", "mix_ratio": 0.0, "prune_iterations": len(accuracies)} | flags).flags()
    name = f"{len(list(folder.glob('*'))):03}-{settings['dataset']}-{settings['prune_type']}-s{settings['seed']}"
    attacked = f"transfer_{settings['attack'] or 'fgsm'}_accuracy"
    rows = [
        {"round": number, "kept": round(1000 * density), "total": 1000, "density": density, "best_epoch": 0, "early_stop_iteration": 100 + 10 * number,
         "val_accuracy": accuracy, "test_accuracy": accuracy, "test_accuracy_last": accuracy, attacked: accuracy - 1,
         "whitebox_fgsm_accuracy": accuracy / 10, "seconds": 1.0}
        for number, (density, accuracy) in enumerate(zip(densities, accuracies, strict=False))
    ]  # fmt: skip
    write_json(
        folder / name / "config.json", {"flags": settings, "provenance": {"revision": "abcdef0123456789", "versions": {"torch": "2.0"}, "device": "cpu"}}
    )
    write_csv(folder / name / "rounds.csv", rows)
    write_text(folder / name / "DONE", "")
    return folder / name


def study(folder, conditions, seeds=(0, 1, 2, 3, 4), noise=0.1, **common):
    """lt and reinit runs for each condition: (flags, gain of lt over reinit after round 0, accuracy of the dense net)."""
    rng = np.random.default_rng(7)
    folder.mkdir(exist_ok=True)
    for flags, gain, dense in conditions:
        for seed in seeds:
            base = dense + rng.normal(0, 1)  # what the arms of one seed share, ten times the noise
            for kind in ("lt", "reinit"):
                later = [base + (gain if kind == "lt" else 0) + rng.normal(0, noise) for _ in DENSITIES[1:]]
                fake_run(folder, [base, *later], prune_type=kind, seed=seed, **common, **flags)
    return folder


def rate(value, **flags):
    return {"attack": "fgsm", "mix_ratio": value, **flags}


def answer(tmp_path, experiment, *folders, options=()):
    """The saved result of an experiment."""
    code = report.main([*(f"{folder}/*" for folder in folders), f"--experiment={experiment}", "-o", str(tmp_path / "report"), *options])
    assert code == 0
    return json.loads((tmp_path / "report" / f"exp{experiment}.json").read_text())


# Statistics ---------------------------------------------------------------------------------------


def test_a_comparison_is_the_paired_t_test():
    a, b = [97.2, 96.9, 97.8, 97.5], [96.8, 96.9, 97.1, 97.0]
    found = paired.compare("x", dict(enumerate(x - y for x, y in zip(a, b, strict=True))))
    oracle = stats.ttest_rel(a, b)
    low, high = oracle.confidence_interval()
    assert found["p"] == pytest.approx(oracle.pvalue) and found["n"] == 4
    assert (found["difference"] - found["interval"], found["difference"] + found["interval"]) == pytest.approx((low, high))


def test_a_comparison_of_one_seed_or_without_spread():
    assert np.isnan(paired.compare("x", {0: 1.5})["interval"]) and np.isnan(paired.compare("x", {0: 1.5})["p"])
    assert paired.compare("x", {0: 0.0, 1: 0.0})["p"] == 1 and paired.compare("x", {0: 2.0, 1: 2.0})["p"] == 0


def test_holm_equals_its_definition():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.random(6) ** 3
        ordered = sorted(p)
        for value, adjusted in zip(p, paired.holm(list(p)), strict=True):
            # the smallest level at which the step-down procedure rejects this one
            expected = max(min(1, (6 - rank) * each) for rank, each in enumerate(ordered) if each <= value)
            assert adjusted == pytest.approx(expected)
    found = paired.holm([0.02, float("nan"), 0.03])
    assert found[0] == pytest.approx(0.04) and np.isnan(found[1])


def test_a_correction_can_take_a_verdict_back():
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, 5)
    values += 2.9 * stats.sem(values) - values.mean()  # p = 0.044
    alone = paired.judge([paired.compare("a", dict(enumerate(values)))])[0]
    assert alone["verdict"] == "above" and alone["p"] < 0.05
    among = paired.judge([paired.compare(name, dict(enumerate(values))) for name in "abc"])
    assert [each["verdict"] for each in among] == ["same"] * 3
    assert "not distinguishable" in paired.describe(among, "up", "down") and "Holm p = 0.13" in paired.describe(among, "up", "down")


def test_runs_pair_by_seed_and_only_where_both_have_it():
    a, b = ({seed: {"rounds": [{"x": value}]} for seed, value in arm.items()} for arm in ({0: 5.0, 2: 7.0, 3: 1.0}, {3: 0.5, 0: 1.0}))
    assert paired.differences(a, b, "x", 0) == {0: 4.0, 3: 0.5}
    assert paired.minus({0: 4.0, 3: 0.5}, {3: 1.0, 9: 1.0}) == {3: -0.5}


@pytest.mark.parametrize(("keep", "rounds", "expected"), [(0.8, 12, 11), (0.8, 20, 11), (0.9, 35, 23), (0.4, 3, 2), (0.05, 3, 2), (0.5, 2, 1)])
def test_the_declared_density(keep, rounds, expected):
    assert paired.headline_round([{"rounds": [{"density": keep**number} for number in range(rounds)]}]) == expected


def test_lines_equal_scipy(tmp_path):
    runs = answers.load([f"{study(tmp_path / 'runs', [(rate(0), 1, 95)])}/*"])
    arms = answers.split_arms(runs, lambda flags: (flags["prune_type"],))
    line = paired.difference_line("x", arms[("lt",)], arms[("reinit",)], "test_accuracy")
    for number in (1, 3):
        lt, reinit = ([arms[(kind,)][seed]["rounds"][number]["test_accuracy"] for seed in range(5)] for kind in ("lt", "reinit"))
        low, high = stats.ttest_rel(lt, reinit).confidence_interval()
        assert (line["mean"][number] - line["half"][number], line["mean"][number] + line["half"][number]) == pytest.approx((low, high))
    assert line["density"] == pytest.approx([100 * density for density in DENSITIES])


# Sentences ----------------------------------------------------------------------------------------


def test_attack_rate_tells_planted_from_absent(tmp_path):
    found = answer(tmp_path, 1, study(tmp_path / "runs", [(rate(0), 1.5, 97), (rate(0.25), 0, 97), (rate(0.5), -1, 96)]))
    text = found["answer"]
    assert text.startswith("At 10 % of the weights")
    assert re.search(r"beat fresh weights under the same masks \(reinit\): 0 % \(\+1\.\d\d ± 0\.\d\d\); reinit beats lt: 50 % \(−", text), text
    assert re.search(r"not distinguishable: 25 % \(difference [+−]0\.\d\d ± 0\.\d\d\)", text), text
    assert "attacked images make it smaller: 25 % − 0 % (−" in text and "50 % − 0 % (−" in text
    own = [row for row in found["comparisons"] if row["family"] == "lt - reinit"]
    assert [row["verdict"] for row in own] == ["above", "same", "below"]
    assert any("lt above reinit from 50 % down to 5 %" in line for line in found["details"])
    assert not any("label leaking" in line for line in found["details"])
    rows = read_csv(tmp_path / "report" / "exp1.csv")
    assert {row["quantity"] for row in rows} >= {"test_accuracy", "difference of test_accuracy", "whitebox", "transfer", "early_stop_iteration"}


def test_one_seed_gives_no_verdict(tmp_path):
    found = answer(tmp_path, 1, study(tmp_path / "runs", [(rate(0), 5, 90), (rate(0.5), 5, 90)], seeds=(0,)))
    assert "one seed, so no interval and no verdict: 0 % (difference +" in found["answer"] and "±" not in found["answer"]
    assert found["comparisons"][0]["interval"] is None


def test_poor_clean_accuracy_at_full_rate_is_explained(tmp_path):
    found = answer(tmp_path, 1, study(tmp_path / "runs", [(rate(0), 1, 97), (rate(1), 1, 40)]))
    assert any("label leaking" in line and "gives the label away" in line for line in found["details"])


def test_attack_types(tmp_path):
    conditions = [(rate(0), 1, 97), (rate(0.5), 1, 96), (rate(0.5, attack="pgd"), 4, 96), (rate(0.5, attack="noise"), 1, 97)]
    found = answer(tmp_path, 2, study(tmp_path / "runs", conditions))
    assert "the lead is smaller: fgsm − pgd (−" in found["answer"] and "the lead is larger: pgd − noise (+" in found["answer"]
    assert "not distinguishable: fgsm − noise" in found["answer"]


def test_same_ticket(tmp_path):
    runs = study(tmp_path / "runs", [(rate(0), 2, 95), (rate(0.5), 2, 95)])
    rng, transfer = np.random.default_rng(1), tmp_path / "transfer"
    transfer.mkdir()
    for value in (0, 0.5):
        source = fake_run(tmp_path / "runs", [1.0] * 5, prune_type="random", seed=9, **rate(value))
        (source / "masks").mkdir()
        for number in range(5):
            (source / "masks" / f"round_{number:02}.safetensors").touch()
        for kind, level in (("lt", 97), ("reinit", 95), ("shuffle", 94)):
            for seed in range(5):
                other = list(level + rng.normal(0, 0.05, 5))
                fake_run(transfer, other, prune_type=kind, seed=seed, ticket=str(source), **rate(0.5 - value))
        shutil.rmtree(source)
    groups = [
        {"round": number, "density_a": density, "density_b": density, "theta0s": 5, "between": 0.3, "between_interval": 0.01, "within": 0.4,
         "within_interval": 0.01, "theta0": 0.2, "theta0_interval": 0.01, "chance": 0.1, "chance_interval": 0, "difference": gap, "difference_interval": 0.02,
         "p": 0.01, "smallest_p": 0.001}
        for number, (density, gap) in enumerate(zip(DENSITIES, (0, 0.1, 0.1, 0.1, 0.0), strict=True))
    ]  # fmt: skip
    write_csv(tmp_path / "tickets" / "groups.csv", groups)
    options = ["--tickets", str(tmp_path / "tickets")]
    found = answer(tmp_path, 3, runs, transfer, options=options)
    assert "the tickets are not the same" in found["answer"] and "difference 0.100 ± 0.020, permutation p = 0.01" in found["answer"]
    assert any("better: random ticket on clean data (+" in line for line in found["details"])
    write_csv(tmp_path / "tickets" / "groups.csv", [row | {"difference": 0.001} for row in groups])
    assert "not distinguishable from two of the same data" in answer(tmp_path, 3, runs, transfer, options=options)["answer"]
    write_csv(tmp_path / "tickets" / "groups.csv", groups[:2])
    assert report.main([f"{runs}/*", f"{transfer}/*", "--experiment=3", *options, "-o", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()


def test_architectures_and_datasets(tmp_path):
    runs = study(tmp_path / "a", [(rate(0), 1, 97), (rate(0.5), 1, 96)])
    study(tmp_path / "b", [(rate(0), 1, 97), (rate(0.5), 4, 96)], arch_type="lenet5", prune_percent=30.0)
    found = answer(tmp_path, 4, runs, tmp_path / "b")
    assert "less: fc1 − lenet5 (−3" in found["details"][0]
    assert "lenet5 on 50 % attacked data (+3.9" in found["answer"]
    assert {row[0] for row in found["table"]["rows"]} == {"fc1", "lenet5"}
    study(tmp_path / "c", [(rate(0), 0, 97), (rate(0.5), 1, 96)], dataset="fashionmnist")
    found = answer(tmp_path, 5, runs, tmp_path / "c")
    assert "do not all give the same verdict" in found["details"][0]
    assert "not distinguishable: fashionmnist on clean data" in found["answer"]


def test_oneshot(tmp_path):
    runs = study(tmp_path / "a", [(rate(0), 2, 96), (rate(0.5), 2, 96)], noise=0.05)
    study(tmp_path / "b", [(rate(0), 2, 96), (rate(0.5), 0.5, 96)], noise=0.05, prune_schedule="oneshot")
    found = answer(tmp_path, 6, runs, tmp_path / "b")
    assert "one-shot pruning is worse: lt on 50 % attacked data (−1." in found["answer"]
    assert "not distinguishable: lt on clean data" in found["answer"]


def test_black_images(tmp_path):
    from data import load

    digits = load("digits", "data")
    for name in ("digits_black", "digits_black_cleantest"):
        arrays = {f"{part}_{what}": getattr(digits, f"{part}_{what}")[:20] for part in ("train", "test") for what in ("images", "labels")}
        np.savez(tmp_path / f"{name}.npz", **arrays | {"train_labels": np.arange(20) % 10, "train_images": arrays["train_images"].transpose(0, 2, 3, 1),
                                                       "test_images": arrays["test_images"].transpose(0, 2, 3, 1)})  # fmt: skip
    plain = {"attack": None, "data_dir": str(tmp_path)}
    conditions = [({"dataset": "digits_black", **plain}, 3, 90), ({"dataset": "digits_black_cleantest", **plain}, 0, 10), (rate(0), 1, 97), (rate(1), 1, 40)]
    found = answer(tmp_path, "black", study(tmp_path / "runs", conditions, noise=0.05))
    assert "tested on clean images" in found["answer"] and "(trained and tested on black images)" in found["answer"]
    assert "Appendix" in (tmp_path / "report" / "report.html").read_text()


# The page -----------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Every src, href and tag of a page."""

    def __init__(self, text):
        super().__init__()
        self.found, self.tags, self.rows = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of runs and of the report of two experiments."""
    folder = tmp_path_factory.mktemp("made")
    runs = study(folder / "a", [(rate(0), 1, 97), (rate(0.5), 1, 96)])
    study(folder / "b", [(rate(0), 2, 96), (rate(0.5), 0.5, 96)], prune_schedule="oneshot")
    answer(folder, 6, runs, folder / "b")
    answer(folder, 1, runs, options=["--command", "python main.py '<script>alert(1)</script>' & \"x\"\nsecond line"])
    return folder


@pytest.fixture
def pages(made, tmp_path):
    """A copy of the report for a test to damage."""
    return shutil.copytree(made / "report", tmp_path / "pages")


def test_the_page_is_whole_and_escaped(pages):
    text = (pages / "report.html").read_text()
    links = Links(text)
    assert links.tags.count("img") == 2 and "script" not in links.tags and "link" not in links.tags
    assert all(link.startswith(("data:image/png;base64,", "#exp")) for link in links.found)
    assert not re.search(r"url\(|@import", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#x27; &amp; &quot;x&quot;\nsecond line\npython report.py --experiment=1" in text
    assert text.index('id="exp1"') < text.index('id="exp6"')
    assert "abcdef0123" in text and "torch 2.0" in text and "20 runs, seeds 0, 1, 2, 3, 4" in text
    for name in ("exp1.json", "exp1.csv", "exp1.png", "exp1.pdf", "exp6.json"):
        assert (pages / name).stat().st_size > 300
    assert not list(pages.glob(".tmp*"))


def test_the_page_renders_in_a_browser(pages, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("chromium is not on PATH")
    check = "<script>addEventListener('load', () => { document.title = [...document.images].map(i => i.naturalWidth > 500).join() + ' '"
    check += " + (document.documentElement.scrollWidth <= innerWidth) })</script></body>"
    copy = tmp_path / "copy.html"
    copy.write_text((pages / "report.html").read_text().replace("</body>", check))
    for width in (1200, 380):  # a desk and a phone
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--enable-logging=stderr", "--v=0", f"--window-size={width},900"]
        command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", f"file://{copy}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert "<title>true,true true</title>" in done.stdout, done.stdout[:300]
        assert "CONSOLE" not in done.stderr, done.stderr


# What is wrong is said in one line ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "conditions", "message"),
    [
        ("7", [(rate(0), 1, 97)], "unknown experiment '7'"),
        ("1", [(rate(0), 1, 97), (rate(0, dataset="mnist"), 1, 97)], "these runs differ in --dataset"),
        ("1", [(rate(0, prune_schedule="oneshot"), 1, 97), (rate(0.5), 1, 97)], "these runs differ in --prune_schedule"),
        ("2", [(rate(0.5), 1, 97)], "attack rate 0 and at one other"),
        ("3", [(rate(0), 1, 97)], "needs --tickets"),
        ("4", [(rate(0), 1, 97), (rate(0.5, dataset="mnist"), 1, 97)], "one data set"),
        ("5", [(rate(0), 1, 97), (rate(0.5, arch_type="lenet5"), 1, 97)], "one network"),
        ("6", [(rate(0), 1, 97)], "no --prune_type=lt runs of --prune_schedule=oneshot on clean data"),
        ("black", [(rate(0), 1, 97)], "no --prune_type=lt runs of trained and tested on black images"),
    ],
)
def test_runs_that_do_not_fit(tmp_path, capsys, experiment, conditions, message):
    study(tmp_path / "runs", conditions, seeds=(0, 1))
    assert report.main([f"{tmp_path / 'runs'}/*", f"--experiment={experiment}", "-o", str(tmp_path / "report")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("report.py: error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "report").exists()


def test_a_missing_arm_a_double_and_what_is_no_run(tmp_path, capsys):
    runs = study(tmp_path / "runs", [(rate(0), 1, 97)], seeds=(0, 1))
    for folder in runs.glob("*reinit*"):
        shutil.rmtree(folder)
    bad = [([f"{runs}/*"], "no --prune_type=reinit runs of attack rate 0 %"), ([str(tmp_path)], "is not a run folder"), (["none/*"], "matches no folder")]
    shutil.copytree(next(runs.glob("*-lt-s0")), tmp_path / "double")
    bad.append(([f"{runs}/*", str(tmp_path / "double")], "are the same arm and seed"))
    for paths, message in bad:
        assert report.main([*paths, "--experiment=1", "-o", str(tmp_path / "report")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "report").exists()


def test_arms_without_a_common_seed(tmp_path, capsys):
    runs = study(tmp_path / "runs", [(rate(0), 1, 97)], seeds=(0, 1))
    for folder in [*runs.glob("*-lt-s0"), *runs.glob("*-reinit-s1")]:
        shutil.rmtree(folder)
    assert report.main([f"{runs}/*", "--experiment=1", "-o", str(tmp_path / "report")]) == 2
    assert "share no --seed" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "[]", '{"question": 1}', '{"figure": "../../x"}'])
def test_a_damaged_result_of_another_experiment(made, pages, capsys, damage):
    before = (pages / "report.html").read_bytes()
    (pages / "exp6.json").write_text(damage)
    stamp = (pages / "exp1.json").stat().st_mtime_ns
    assert report.main([f"{made / 'a'}/*", "--experiment=1", "-o", str(pages)]) == 2
    error = capsys.readouterr().err
    assert "exp6.json" in error and error.count("\n") == 1
    assert (pages / "report.html").read_bytes() == before and (pages / "exp1.json").stat().st_mtime_ns == stamp


# The scripts --------------------------------------------------------------------------------------


def test_black_images_are_the_casts_of_attacked_ones(tmp_path, cache):
    from experiments import make_data

    flags = ["black", "--dataset=digits", "--attack=fgsm", "--surrogate=fc1", "--epsilon=0.3", f"--cache_dir={cache}", "-o", str(tmp_path)]
    assert make_data.main(flags) == 0
    with np.load(tmp_path / "digits_black.npz") as black_set, np.load(tmp_path / "digits_black_cleantest.npz") as clean_test:
        assert set(np.unique(black_set["train_images"])) == {0, 1} and black_set["train_images"].shape == (1437, 28, 28, 1)
        assert clean_test["test_images"].max() == 255 and (clean_test["train_images"] == black_set["train_images"]).all()
    assert make_data.main(["colour", "-o", str(tmp_path / "file" / "x"), "--seed=1"]) == 2
    assert make_data.main(["colour", "-o", str(tmp_path)]) == 0
    with np.load(tmp_path / "smoke_colour.npz") as colour:
        assert colour["train_images"].shape == (1437, 32, 32, 3) and colour["train_images"].dtype == np.uint8


def test_the_scripts_from_data_to_page(tmp_path):
    """All six and the appendix, in runs as short as can be."""
    folders = {name: str(tmp_path / name.split("_")[0].lower()) for name in ("RUNS_DIR", "CACHE_DIR", "DATA_DIR", "REPORT")}
    environment = (
        os.environ
        | folders
        | {
            "SCALE": "smoke",
            "PYTHON": sys.executable,
            "ARCHS": "fc1 fc1_nobias",
            "FLAGS": "--prune_iterations=2 --end_iter=1 --workers=1",
            "OMP_NUM_THREADS": "1",
        }
    )
    for script in [*sorted((ROOT / "experiments").glob("exp*.sh")), ROOT / "experiments" / "black_images.sh"]:
        done = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=1800, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    names = [f"exp{number}" for number in (*range(1, 7), "black")]
    text = (tmp_path / "report" / "report.html").read_text()
    assert [name for name in names if f'id="{name}"' in text and (tmp_path / "report" / f"{name}.pdf").exists()] == names
    assert not (tmp_path / "data").exists()  # the user's data folder is only read
    found = json.loads((tmp_path / "report" / "exp3.json").read_text())
    assert any("tickets.py --a" in line for line in found["commands"]) and found["commands"][-1].startswith("python report.py --experiment=3")


def test_an_unknown_scale_is_one_line():
    done = subprocess.run(["bash", str(ROOT / "experiments" / "exp1_attack_rate.sh")], capture_output=True, text=True, env=os.environ | {"SCALE": "huge"})
    assert done.returncode == 2 and done.stderr == "SCALE=huge: smoke, small or paper is needed\n"


def test_a_run_with_the_dense_round_only_has_nothing_to_compare():
    class Folder:
        path = "runs/x"

    with pytest.raises(UserError, match="dense round only"):
        paired.headline_round([{"rounds": [{"density": 1.0}], "folder": Folder}])


def test_unfinished_runs_are_said_to_be(tmp_path):
    runs = study(tmp_path / "runs", [(rate(0), 1, 97), (rate(0.5), 1, 97)], seeds=(0, 1, 2))
    last = max(runs.iterdir())
    (last / "DONE").unlink()
    write_csv(last / "rounds.csv", read_csv(last / "rounds.csv")[:3])
    found = answer(tmp_path, 1, runs)
    assert found["runs"]["unfinished"] == 1 and any("1 of the 12 runs are unfinished" in line for line in found["details"])
    assert found["density_percent"] == 25
