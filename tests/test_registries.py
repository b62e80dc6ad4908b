"""One function and one line adds a thing: this file adds one of each and runs it through the tools.

No other file is touched for an attack with a parameter of its own, a network, a data set, a
criterion, a prune type, a column of rounds.csv and a question of the report.
"""

import json

import numpy as np
import pytest
import torch
from torch import nn

import attacked.cache as cache_module
import main
import plots
import report
import results
import tickets
from archs import ARCHS
from attacks import ATTACKS, PARAMETERS, Attack, Parameter, cross_entropy, input_gradient
from data import DATASETS
from experiment import COLUMNS
from helpers import CPU, go, only, saved_flags
from pruning import CRITERIA, PRUNE_TYPES, Criterion, PruneType
from results import robustness
from results.question import Contrast, Factor, Panel, Question
from results.questions import QUESTIONS
from store.files import read_csv
from utils import Registry, UserError


def mi_fgsm(predict, images, labels, settings, starts):
    """Momentum iterative FGSM (Dong et al. 2018) from a random start, linf."""
    x = (images + 0.1 * settings.epsilon * (2 * starts(0) - 1)).clamp(0, 1)
    moment = torch.zeros_like(x)
    for _ in range(settings.attack_steps):
        gradient = input_gradient(predict, x, lambda logits: cross_entropy(logits, labels))
        length = gradient.abs().flatten(-3).mean(-1)[..., None, None, None]
        moment = settings.decay * moment + gradient / length.clamp_min(1e-12)
        x = x + settings.epsilon / settings.attack_steps * moment.sign()
        x = (images + (x - images).clamp(-settings.epsilon, settings.epsilon)).clamp(0, 1)
    return x


def narrow(in_shape, num_classes):
    """A convolution and a linear layer, with dropout."""
    layers = [nn.Conv2d(in_shape[0], 6, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(6 * (in_shape[1] - 2) * (in_shape[2] - 2), num_classes))


def squares(data_dir):
    """A bright quarter says the class."""
    draw, labels = np.random.default_rng(0), np.arange(400) % 4
    images = draw.integers(0, 120, (400, 1, 6, 6), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 3 * (label // 2) :, 3 * (label % 2) :][:3, :3] += 120
    return images[:300], labels[:300], images[300:], labels[300:]


def largest_gradient(model, masks, batch):
    """|dL/dw| of the trained weights."""
    images, labels = batch(64)
    weights = {name: dict(model.named_parameters())[name] for name in masks}
    loss = nn.functional.cross_entropy(model.eval()(images), labels)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    return {name: value.abs() for name, value in zip(weights, gradients, strict=True)}


def negated(sources):
    """theta_0 with its sign turned."""
    return {name: -value for name, value in sources.rewound.items()}


def weight_norm(tested):
    """The length of all weights together."""
    state = tested.cohort.unstack(tested.cohort.state())
    lengths = [sum(v.square().sum() for v in one.values()).sqrt().item() for one in state]
    return [{"weight_norm": length} for length in lengths]


ENTRIES = [
    (PARAMETERS, "decay", Parameter("of the momentum of mi_fgsm", None)),
    (ATTACKS, "mi_fgsm", {"linf": Attack(mi_fgsm, {"epsilon": (0.3, 8 / 255), "attack_steps": 3,
                                                   "decay": 1.0}, draws=True)}),
    (ARCHS, "narrow", narrow),
    (DATASETS, "squares", ((1, 6, 6), 4, squares)),
    (CRITERIA, "gradient", Criterion(largest_gradient)),
    (PRUNE_TYPES, "negated", PruneType("rewinds to minus theta_0", negated)),
    (COLUMNS, "weight_norm", weight_norm),
    (QUESTIONS, "lr", Question(
        "Does the sign of theta_0 matter?",
        factors={"prune_type": Factor("prune_type", ("lt", "negated"))},
        contrasts={"lt - negated": Contrast("lt is better", "minus theta_0 is better", "prune_type",
                                            ("lt", "negated"), answers=True)},
        panels=(Panel("test_accuracy"), Panel("weight_norm"), Panel("lt - negated")),
        colour="prune_type",
    )),
]  # fmt: skip


@pytest.fixture(scope="module")
def added():
    """The tools with one more entry in every registry."""
    with pytest.MonkeyPatch.context() as patch:
        for registry, name, entry in ENTRIES:
            patch.setitem(registry, name, entry)
        yield
    for registry, name, _ in ENTRIES:
        assert name not in registry
        registry.check()


@pytest.fixture(scope="module")
def runs(added, tmp_path_factory):
    """Runs of everything that was added."""
    folder = tmp_path_factory.mktemp("added")
    flags = ["--dataset=squares_mi_fgsm_attack", "--mix_ratio=0.5", "--decay=0.5", "--epsilon=0.2"]
    flags += ["--arch_type=narrow", "--surrogate=narrow", "--surrogate_epochs=3"]
    flags += ["--criterion=gradient", "--prune_type", "lt", "negated", "--seed", "0", "1"]
    flags += ["--eval_attacks", "mi_fgsm", "fgsm", f"--cache_dir={folder / 'cache'}"]
    flags += ["--prune_iterations=3", "--end_iter=3", "--prune_percent=50", "--lr=0.01"]
    assert go(folder / "runs", *flags) == 0
    return folder / "runs"


def test_an_added_thing_is_a_flag_with_help(added, capsys):
    with pytest.raises(SystemExit):
        main.main(["--help"])
    told = capsys.readouterr().out
    words = ("--decay", "of the momentum of mi_fgsm", "attack_steps 3", "rewinds to minus theta_0")
    assert all(word in told for word in words)
    assert main.main(["--attack=fgsm", "--decay=0.5"]) == 2
    assert "--decay has no effect on these runs: it is of mi_fgsm" in capsys.readouterr().err


def test_main_trains_attacks_prunes_and_measures_with_it(runs):
    lt, negated_run = (only(runs, f"squares-narrow-mi_fgsm0.5-{kind}_gradient-s0-*") for kind in
                       ("lt", "negated"))  # fmt: skip
    rows = read_csv(lt / "rounds.csv")
    assert len(rows) == 3 and rows[2]["kept"] == pytest.approx(rows[0]["total"] / 4, abs=2)
    for row in rows:
        assert row["weight_norm"] > 0 and 0 <= row["whitebox_mi_fgsm_accuracy"] <= 100
        assert 0 <= row["transfer_mi_fgsm_accuracy"] <= 100
    assert rows[0]["test_accuracy"] > 60
    flags = saved_flags(lt)
    assert flags["decay"] == 0.5 and flags["criterion"] == "gradient"
    figures = json.loads((lt / "attack_report.json").read_text())
    assert figures["test"]["max_linf"] == pytest.approx(0.2, abs=1e-3)
    # it starts from minus theta_0, so round 1 differs, and round 0 does not
    other = read_csv(negated_run / "rounds.csv")
    assert other[0]["test_accuracy"] == rows[0]["test_accuracy"] and other[1] != rows[1]


def test_readers_compare_and_draw_it(runs, tmp_path, capsys):
    table = results.load(f"{runs}/*")
    assert set(table.decay) == {0.5} and len(table.arm.cat.categories) == 2
    assert plots.main([f"{runs}/*", "-o", str(tmp_path / "plots")]) == 0
    rows = read_csv(tmp_path / "plots" / "squares-narrow-summary.csv")
    assert {"weight_norm", "whitebox_mi_fgsm_accuracy"} <= set(rows[0])
    lt, other = (only(runs, f"*-{kind}_gradient-s0-*") for kind in ("lt", "negated"))
    assert tickets.main([str(lt), str(other), "-o", str(tmp_path / "tickets")]) == 0
    total = [r for r in read_csv(tmp_path / "tickets" / "overlap.csv") if r["layer"] == "total"]
    assert total[0]["jaccard"] == 1 and total[1]["jaccard"] == 1 and total[2]["jaccard"] < 1
    flags = ["--attacks", "mi_fgsm", "--examples=20", "-o", str(tmp_path / "plots")]
    assert robustness.main(["evaluate", str(lt), *flags]) == 0
    assert (tmp_path / "plots" / "squares-narrow-robustness.png").exists()
    net, masks, _ = results.load_ticket(lt, 2)
    assert net(torch.rand(3, 1, 6, 6, device=CPU)).shape == (3, 4) and len(masks) == 2


def test_the_report_answers_an_added_question(runs, tmp_path):
    assert report.main(["--experiment=lr", f"{runs}/*", "-o", str(tmp_path)]) == 0
    saved = json.loads((tmp_path / "explr.json").read_text())
    assert saved["question"] == "Does the sign of theta_0 matter?"
    comparison = saved["comparisons"][0]
    table = results.load(f"{runs}/*")
    last = table[table["round"] > 0].pivot_table("test_accuracy", "seed", "prune_type")
    assert comparison["difference"] == pytest.approx(
        (last["lt"] - last["negated"]).mean(), abs=1e-6
    )
    assert (
        comparison["family"] == "lt - negated"
        and comparison["n"] == 2
        and (tmp_path / "explr.png").exists()
    )


def test_a_changed_attack_makes_its_images_anew(tmp_path, monkeypatch, capsys):
    """Defect: images from before the attack's code changed were served from the cache."""
    from attacked.cache import code_of

    flags = ["--attack=tint", "--surrogate=fc1", "--surrogate_epochs=1", "--prune_iterations=1"]
    flags += ["--end_iter=1", f"--cache_dir={tmp_path / 'cache'}", "--mix_ratio=0.1"]

    def brighter(predict, images, labels, settings, starts):
        return (images + 0.1).clamp(0, 1)

    def darker(predict, images, labels, settings, starts):
        """Not the same."""
        return (images - 0.1).clamp(0, 1)

    told = []
    for number, make in enumerate((brighter, brighter, darker)):
        with monkeypatch.context() as patch:
            patch.setitem(ATTACKS, "tint", {"linf": Attack(make, {"epsilon": (0.1, 0.1)})})
            assert go(tmp_path / str(number), *flags) == 0
        told.append("attacking 360 test images" in capsys.readouterr().out)
    assert told == [True, False, True]

    def commented(predict, images, labels, settings, starts):
        """What is said of it does not count."""
        return (images + 0.1).clamp(0, 1)  # nor this

    assert code_of(brighter) == code_of(commented) != code_of(darker)


def asked(along="kind", pairs=("lt", "reinit"), **more):
    """A question with one contrast."""
    return Question(
        "Which?", {"kind": Factor("prune_type", ("lt", "reinit"))},
        {"gain": Contrast("above", "below", along, pairs, **more)}, panels=(), colour="kind",
    )  # fmt: skip


@pytest.mark.parametrize(
    "registry, name, entry, says",
    [
        (CRITERIA, "magnitude", Criterion(largest_gradient), "is there already"),
        (CRITERIA, "mine", Criterion(None), "a Criterion is needed"),
        (CRITERIA, "mine", None, "a Criterion is needed"),
        (ATTACKS, "mine", {"linf": Attack(mi_fgsm, {"no_such": 1})}, "'no_such', which is not in"),
        (ATTACKS, "mine", {"l2": mi_fgsm}, "no Attack with a function in 'l2'"),
        (ATTACKS, "mine", {}, "no dict of norm and Attack"),
        (PRUNE_TYPES, "mine", None, "a PruneType is needed"),
        (PARAMETERS, "mine", 3.0, "a Parameter is needed"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_is_told_in_one_line(registry, name, entry, says, capsys):
    before = registry.get(name)
    registry[name] = entry
    try:
        assert main.main([]) == 2
        told = capsys.readouterr().err
        assert says in told and told.count("\n") == 1
    finally:
        del registry[name]
        if before is not None:
            registry[name] = before
    registry.check()


def test_a_registry_names_the_nearest():
    registry = Registry("thing")
    registry["apple"] = len
    with pytest.raises(UserError, match="unknown thing 'aple': did you mean 'apple'"):
        registry.choose("aple")


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda p, x, y, s, t: x + 1, "pixels from"),
        (lambda p, x, y, s, t: (x + 0.5).clamp(0, 1), "an image 0.5 away from its own, in linf"),
        (lambda p, x, y, s, t: x[..., :5], "images of the shape it got"),
        (lambda p, x, y, s, t: x * torch.nan, "pixels from nan to nan"),
        (lambda p, x, y, s, t: None, "NoneType"),
    ],
)
def test_what_no_attack_may_return_is_one_line(make, says, tmp_path, monkeypatch, capsys):
    """Defect: images beyond epsilon, or outside [0, 1], trained without a word."""
    monkeypatch.setitem(ATTACKS, "rude", {"linf": Attack(make, {"epsilon": (0.1, 0.1)})})
    few = ["--prune_iterations=1", "--end_iter=1", "--surrogate=fc1_nobias"]
    few += ["--surrogate_epochs=1", f"--cache_dir={tmp_path / 'cache'}"]
    for number, flags in enumerate(
        (["--attack=rude", "--mix_ratio=0.5"],
         ["--attack=rude", "--mix_ratio=0.5", "--attack_mode=online"],
         ["--eval_attacks", "rude"])
    ):  # fmt: skip
        monkeypatch.setattr(
            cache_module, "code_of", lambda function: "rude"
        )  # a lambda has no name
        assert go(tmp_path / str(number), *few, *flags) == 2
        told = capsys.readouterr().err
        assert says in told and "'rude'" in told and told.count("\n") == 1, told


@pytest.mark.parametrize(
    "scores, says",
    [
        (lambda model, masks, batch: {}, "gave no scores of net.fc1.weight"),
        (lambda model, masks, batch: {n: m[:1].float() for n, m in masks.items()}, "have shape"),
        (lambda model, masks, batch: {n: m * torch.nan for n, m in masks.items()},
         "the weights are, so it is the criterion's own"),
    ],
)  # fmt: skip
def test_what_no_criterion_may_return_is_one_line(scores, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CRITERIA, "rude", Criterion(scores))
    assert go(tmp_path, "--criterion=rude", "--prune_iterations=2", "--end_iter=1") == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1


def test_a_network_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ARCHS, "nowhere", "archs.fc:no_such")
    assert go(tmp_path, "--arch_type=nowhere") == 2
    told = capsys.readouterr().err
    assert "'archs.fc:no_such', which cannot be had" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    "question, says",
    [
        (3.0, "a Question is needed"),
        (asked(along="speed"), "names a factor 'speed'"),
        (asked(pairs=("lt", "fast")), "compares 'fast' in contrast 'gain'"),
        (asked(where={"rate": 0}), "names a factor 'rate'"),
    ],
)
def test_a_question_that_cannot_be_is_one_line(question, says, tmp_path, capsys):
    QUESTIONS["mine"] = question
    try:
        assert report.main(["--experiment=1", "runs/*", "-o", str(tmp_path / "no")]) == 2
    finally:
        del QUESTIONS["mine"]
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1
