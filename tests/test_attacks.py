"""Attacks against their formulas, the cache on disk, the pool."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import attacks
from attacked import cache as attacked_cache
from attacked import levels, pool, quality
from config import attack_settings
from helpers import CPU, ROOT, whitebox
from study.request import parse


@pytest.fixture(scope="module")
def target(digits, cache):
    settings = parse(
        [
            f"--cache_dir={cache}",
            "--dataset=digits_fgsm_attack",
            "--surrogate=fc1",
            "--surrogate_epochs=10",
        ]
    )[0]
    return settings, attacked_cache.surrogate(settings, digits, CPU, say=lambda text: None)


@pytest.fixture
def batch(digits):
    return levels.to_float(digits.test_images[:64], "cpu"), torch.from_numpy(
        digits.test_labels[:64]
    )


def draws(count):
    return attacks.start_draws(0, "test", range(count), (1, 28, 28))


def starts(count):
    return lambda restart: torch.from_numpy(draws(count))


def settings(name="fgsm", norm=None, **changes):
    flags = [f"--attack={name}", *([f"--norm={norm}"] if norm else [])]
    made = attack_settings(parse(flags)[0], name, False)
    return dataclasses.replace(made, values=tuple((dict(made.values) | changes).items()))


def pgd_formula(model, x, y, epsilon, steps, size, start):
    adversarial = (x + epsilon * (2 * torch.from_numpy(start) - 1)).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(
            F.cross_entropy(model(adversarial), y, reduction="sum"), adversarial
        )
        step = adversarial.detach() + size * gradient.sign()
        adversarial = (x + (step - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adversarial


KINDS = [(name, norm) for name in attacks.Making() for norm in attacks.ATTACKS[name]]
MINIMAL = [name for name, norm in KINDS if attacks.ATTACKS[name][norm].minimal()]


def small(name, norm, **changes):
    """Settings that are quick on fc1."""
    steps = {"cw": 60, "pgd": 10}.get(name)
    own = {"attack_steps": steps} if steps else {}
    own |= {"attack_step_size": 0.05 if norm == "linf" else 0.3} if name == "pgd" else {}
    return settings(name, norm, **(own | changes))


def run(setting, predict, batch, count=None):
    return setting.entry().make(predict, *batch, setting, starts(count or len(batch[1])))


def test_deeprobust_fgsm_is_the_formula(target, batch):
    theirs = attacks.deeprobust_fgsm(target[1], *batch, settings())
    assert torch.allclose(theirs, attacks.fgsm(target[1], *batch, settings()), atol=1e-6)


def test_deeprobust_pgd_is_the_formula_from_the_same_start(target, batch):
    setting = settings("pgd", epsilon=0.1, attack_steps=7, attack_step_size=0.03)
    theirs = attacks.deeprobust_pgd(target[1], *batch, setting, starts(64))
    assert torch.allclose(
        theirs, pgd_formula(target[1], *batch, 0.1, 7, 0.03, draws(64)), atol=1e-6
    )
    assert torch.allclose(theirs, attacks.pgd(target[1], *batch, setting, starts(64)), atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.3])
@pytest.mark.parametrize("name, norm", [kind for kind in KINDS if kind[0] not in MINIMAL])
def test_attacked_images_are_within_epsilon_and_the_range(
    target, batch, name, norm, epsilon, digits
):
    """Defects: FGSM without clipping gave pixels of -0.2 and 1.2; a cast to uint8 made attacked
    images black.
    """
    setting = small(name, norm, epsilon=epsilon)
    made = attacked_cache.maker(setting)(target[1], *batch, setting, starts(64))
    kept = levels.from_levels(levels.to_levels(made, digits.test_images[:64]), "cpu")
    assert kept.min() >= 0 and kept.max() <= 1
    difference = (kept - batch[0]).flatten(1)
    assert difference.norm(dim=1, p=2 if norm == "l2" else torch.inf).max() <= epsilon + 1e-5
    assert kept.mean() > 0.5 * batch[0].mean()
    if epsilon == 0:
        assert torch.equal(kept, batch[0])


@pytest.mark.parametrize("name", MINIMAL)
def test_attacks_of_least_distance_fool_and_are_shorter_than_fgsm(target, batch, name):
    model, adversarial = target[1], run(small(name, "l2"), target[1], batch)
    correct = attacks.is_correct(model, *batch)
    assert not attacks.is_correct(model, adversarial, batch[1]).any()
    # only what is classified correctly is attacked
    assert torch.equal(adversarial[~correct], batch[0][~correct])
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    fgsm = run(settings("fgsm", epsilon=0.1), model, batch)
    length, other = (
        attacks.l2_norm(images - batch[0])[correct].mean() for images in (adversarial, fgsm)
    )
    assert length < 0.8 * other


@pytest.mark.parametrize(
    "name, norm", [("pgd", "l2"), ("cw", "l2"), ("deepfool", "l2"), ("ddn", "l2")]
)
def test_a_failure_returns_the_original(target, batch, name, norm):
    weak = {
        "pgd": {"epsilon": 0.05},
        "cw": {"confidence": 1e6},
        "deepfool": {"attack_steps": 1},
        "ddn": {"attack_steps": 2},
    }[name]
    adversarial = run(small(name, norm, **weak), target[1], batch)
    still = attacks.is_correct(target[1], adversarial, batch[1])
    assert still.any()
    assert torch.equal(adversarial[still], batch[0][still])


def test_confidence_is_the_lead_of_the_wrong_class(target, batch):
    adversarial = run(small("cw", "l2", confidence=2.0), target[1], batch)
    moved = attacks.l2_norm(adversarial - batch[0]) > 0
    assert (
        moved.any() and (attacks.margin(target[1](adversarial), batch[1])[moved] <= -2 + 1e-4).all()
    )


def test_more_epsilon_and_more_steps_never_help_the_network(target, batch):
    def accuracy(setting):
        return (
            attacks.is_correct(target[1], run(setting, target[1], batch), batch[1])
            .float()
            .mean()
            .item()
        )

    for name, norm in [("fgsm", "linf"), ("pgd", "linf"), ("pgd", "l2")]:
        radii = [0.0, 0.05, 0.1, 0.5] if norm == "linf" else [0.0, 0.5, 1.0, 20.0]
        found = [
            accuracy(small(name, norm, epsilon=radius, attack_step_size=radius / 4 or 0.1))
            for radius in radii
        ]
        assert found == sorted(found, reverse=True) and found[-1] == 0, (name, found)
    steps = [
        accuracy(small("pgd", "linf", epsilon=0.05, attack_step_size=0.01, attack_steps=count))
        for count in (1, 5, 40)
    ]
    assert steps == sorted(steps, reverse=True)
    assert accuracy(
        small("pgd", "linf", epsilon=0.05, attack_step_size=0.01, attack_steps=40)
    ) <= accuracy(settings("fgsm", epsilon=0.05))
    assert accuracy(small("pgd", "linf", epsilon=0.03, restarts=3)) <= accuracy(
        small("pgd", "linf", epsilon=0.03)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name, norm", KINDS)
def test_an_attack_of_an_image_does_not_depend_on_its_batch(target, batch, name, norm):
    setting = small(name, norm)
    together = run(setting, target[1], batch)
    for i in (0, 31, 63):
        draw = draws(64)[i : i + 1]
        alone = setting.entry().make(
            target[1],
            batch[0][i : i + 1],
            batch[1][i : i + 1],
            setting,
            lambda restart, draw=draw: torch.from_numpy(draw),
        )
        # iterating amplifies the last bit of a batch's matrix products
        assert torch.allclose(alone[0], together[i], atol=2e-3), (
            (alone[0] - together[i]).abs().max()
        )


@pytest.mark.slow
@pytest.mark.parametrize("name, norm", KINDS)
def test_networks_attacked_together_are_attacked_as_if_alone(target, digits, name, norm):
    import archs
    import pruning
    from engine.cohort import Cohort

    stats = ([0.3], [0.3])
    nets = [archs.build("fc1", (1, 28, 28), 10, stats, seed=seed) for seed in (0, 1)]
    masks = [pruning.prune(dict(net.named_parameters()), pruning.ones(net), 50) for net in nets]
    images, labels, index = (
        levels.to_float(digits.test_images[:20], "cpu"),
        torch.from_numpy(digits.test_labels[:20]),
        np.arange(20),
    )
    states = [net.state_dict() for net in nets]
    setting = small(name, norm, **({} if name in MINIMAL else {"epsilon": 0.05}))
    together = whitebox(Cohort(nets[0], states, masks, CPU), setting, images, labels, index)
    for run_number in range(2):
        cohort = Cohort(nets[0], [states[run_number]], [masks[run_number]], CPU)
        alone = whitebox(cohort, setting, images, labels, index)
        assert together[0][run_number].item() == pytest.approx(alone[0].item(), abs=1e-3)
        assert together[1][run_number].item() == pytest.approx(alone[1].item(), rel=1e-2)


def test_an_attack_leaves_model_images_and_random_state_alone(target, batch):
    before = {name: value.clone() for name, value in target[1].state_dict().items()}
    images, state = batch[0].clone(), np.random.get_state()[1].copy()
    uniform, torch_state = np.random.uniform, torch.get_rng_state()
    for name, norm in KINDS:
        for function in {attacked_cache.maker(small(name, norm)), small(name, norm).entry().make}:
            function(target[1], *batch, small(name, norm), starts(64))
    assert not target[1].training and all(
        p.grad is None and not p.requires_grad for p in target[1].parameters()
    )
    assert all(torch.equal(value, before[name]) for name, value in target[1].state_dict().items())
    assert torch.equal(images, batch[0]) and np.random.uniform is uniform
    assert np.array_equal(state, np.random.get_state()[1]) and torch.equal(
        torch_state, torch.get_rng_state()
    )


@pytest.mark.parametrize("name, norm", KINDS)
def test_what_the_cache_gives_back_fools_as_before(target, digits, tmp_path, name, norm):
    flags = [
        "--surrogate=fc1",
        "--surrogate_epochs=10",
        f"--attack={name}",
        f"--norm={norm}",
        "--mix_ratio=0.02",
        f"--cache_dir={tmp_path}",
    ]
    own = parse([*flags, *(["--attack_steps=40"] if name == "cw" else [])])[0]
    made = attacked_cache.attacked_set(
        own, digits, "test", np.arange(50), target[1], say=lambda text: None
    )
    again = attacked_cache.attacked_set(
        own, digits, "test", np.arange(50), target[1], say=lambda text: None
    )
    assert np.array_equal(made.pixels, again.pixels)
    labels = torch.from_numpy(digits.test_labels[:50])
    assert np.array_equal(
        attacks.is_correct(target[1], levels.from_levels(again.pixels, "cpu"), labels).numpy(),
        made.after,
    )
    if name in MINIMAL:
        assert not made.after.any()  # rounding to levels undid no success


foolbox = pytest.importorskip(
    "foolbox", reason="foolbox, the oracle of these tests, is not installed"
)


def oracle(model, attack, batch, epsilon=None):
    """foolbox's adversarial images."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack(wrapped, *batch, epsilons=epsilon)[1]


def robust(model, images, labels):
    return int(attacks.is_correct(model, images, labels).sum())


def test_fgsm_and_pgd_leave_what_foolboxs_leave(target, batch):
    import eagerpy

    model = target[1]
    theirs = oracle(model, foolbox.attacks.FGSM(random_start=False), batch, 0.05)
    assert (
        abs(
            robust(model, run(settings("fgsm", epsilon=0.05), model, batch), batch[1])
            - robust(model, theirs, batch[1])
        )
        <= 1
    )

    class SameStart(foolbox.attacks.LinfPGD):
        def get_random_start(self, x0, epsilon):
            return eagerpy.astensor(
                (x0.raw + epsilon * (2 * torch.from_numpy(draws(64)) - 1)).clamp(0, 1)
            )

    theirs = oracle(model, SameStart(steps=20, abs_stepsize=0.01), batch, 0.04)
    ours = run(settings("pgd", epsilon=0.04, attack_steps=20, attack_step_size=0.01), model, batch)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_l2_pgd_is_at_or_below_foolboxs(target, batch):
    model = target[1]
    theirs = oracle(model, foolbox.attacks.L2PGD(steps=40, abs_stepsize=0.1), batch, 1.0)
    assert (
        robust(model, run(settings("pgd", "l2", epsilon=1.0), model, batch), batch[1])
        <= robust(model, theirs, batch[1]) + 1
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MINIMAL)
def test_attacks_of_least_distance_are_no_longer_than_foolboxs(target, batch, name):
    model = target[1]
    theirs = {
        "cw": foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=6, steps=100, stepsize=0.05, initial_const=1
        ),
        "deepfool": foolbox.attacks.L2DeepFoolAttack(),
        "ddn": foolbox.attacks.DDNAttack(),
    }[name]
    theirs = oracle(model, theirs, batch)
    correct = attacks.is_correct(model, *batch)
    ours = run(settings(name, "l2"), model, batch)
    assert robust(model, ours, batch[1]) == 0
    lengths = [
        attacks.l2_norm(images - batch[0])[correct].mean().item() for images in (ours, theirs)
    ]
    assert lengths[0] <= 1.02 * lengths[1], lengths


def test_levels_keep_every_uint8_pixel_bit_for_bit():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    clean = levels.to_float(pixels, "cpu")
    assert torch.equal(levels.from_levels(levels.to_levels(clean, pixels), "cpu"), clean)


def count_attacked(monkeypatch):
    counted = []
    original = attacked_cache._attack_missing

    def counting(config, folder, part, dataset, missing, model, say):
        counted.append((part, len(missing)))
        return original(config, folder, part, dataset, missing, model, say)

    monkeypatch.setattr(attacked_cache, "_attack_missing", counting)
    return counted


def build(config, digits):
    return pool.build_images([config], digits, CPU, say=lambda text: None)


def test_a_larger_mix_attacks_only_the_missing_images(target, digits, tmp_path, monkeypatch):
    counted = count_attacked(monkeypatch)
    config = target[0].replace(cache_dir=str(tmp_path), mix_ratio=0.1)
    build(config, digits)
    tenth = round(0.1 * 1317) + round(0.1 * 120)
    assert counted == [("train", tenth), ("test", 360)]
    build(config, digits)
    assert len(counted) == 2
    build(config.replace(mix_ratio=0.5), digits)
    assert counted[2:] == [("train", round(0.5 * 1317) + round(0.5 * 120) - tenth)]


def test_a_truncated_cache_file_is_noticed_and_made_again(target, digits, tmp_path, monkeypatch):
    config = target[0].replace(cache_dir=str(tmp_path), mix_ratio=0.1)
    first = build(config, digits)
    for path in tmp_path.rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:-200])
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-200])
    counted = count_attacked(monkeypatch)
    again = build(config, digits)
    assert [part for part, _ in counted] == ["train", "test"]
    assert torch.equal(first.train.images, again.train.images)


def test_attacked_subsets_are_nested_and_a_matter_of_the_seed():
    part = np.arange(1000) * 3
    quarter, half, whole = (set(pool.mixed(part, ratio, 1, "train")) for ratio in (0.25, 0.5, 1))
    assert len(quarter) == 250 and quarter < half < whole == set(part)
    assert (
        quarter
        == set(pool.mixed(part, 0.25, 1, "train"))
        != set(pool.mixed(part, 0.25, 2, "train"))
    )


def test_runs_of_a_pool_are_paired_and_hold_what_they_say(target, digits):
    ratios = [0.0, 0.25, 1.0]
    configs = [target[0].replace(mix_ratio=ratio) for ratio in ratios]
    images = pool.build_images(configs, digits, CPU, say=lambda text: None)
    train = images.train
    clean = levels.to_float(digits.train_images, "cpu")
    assert torch.equal(train.images[: len(clean)], clean)
    for run, ratio in enumerate(ratios):
        index = train.train_index[run]
        attacked = index >= len(clean)
        assert int(attacked.sum()) == round(ratio * len(index))
        assert torch.equal(train.labels[index], train.labels[train.train_index[0]])
        distance = (train.images[index] - train.images[train.train_index[0]]).abs().amax((1, 2, 3))
        assert torch.equal(distance > 0, attacked) and distance.max() <= 0.3 + 1e-6
        assert not set(index.tolist()) & set(train.val_index[run].tolist())


def test_the_report_counts_what_was_attacked(target, digits):
    images = build(target[0].replace(mix_ratio=0.5), digits)
    row = images.reports[0]["train"]
    attacked = images.train.images[1437:]
    assert row["images"] == round(0.5 * 1317) + round(0.5 * 120) <= len(attacked)
    test = images.attacked_test[0]
    clean = levels.to_float(digits.test_images, "cpu")
    model = target[1]
    labels = torch.from_numpy(digits.test_labels)
    figures = images.reports[0]["test"]
    assert figures["mean_l2"] == pytest.approx(
        (test - clean).flatten(1).norm(dim=1).mean().item(), rel=1e-4
    )
    assert figures["mean_linf"] == pytest.approx(
        (test - clean).flatten(1).abs().amax(1).mean().item(), rel=1e-4
    )
    assert figures["surrogate_accuracy_after"] == pytest.approx(
        100 * (model(test).argmax(1) == labels).float().mean().item(), abs=1e-3
    )


WORKER = """
import sys, numpy, torch, data
from attacked import cache
from study.request import parse
settings = parse(sys.argv[1:])[0]
digits = data.load("digits", "data")
model = cache.surrogate(settings, digits, torch.device("cpu"))
cache.attacked_set(settings, digits, "test", numpy.arange(360), model)
"""


@pytest.mark.slow
def test_two_processes_that_want_the_same_set_make_it_once(tmp_path):
    flags = [
        "--dataset=digits_pgd_attack",
        "--surrogate=fc1",
        "--surrogate_epochs=5",
        f"--cache_dir={tmp_path}",
    ]
    command = [sys.executable, "-c", WORKER, *flags]
    both = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert all(process.returncode == 0 for process in both), printed
    assert sum(text.count("training the surrogate") for text in printed) == 1
    assert sum(text.count("attacking 360 test images") for text in printed) == 1
    assert len(list(tmp_path.rglob("test-*.npz"))) == 1


def test_the_same_seed_makes_the_same_set_and_another_another(target, digits, tmp_path):
    sets = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        own = target[0].replace(
            attack="noise", epsilon=0.1, attack_seed=seed, cache_dir=str(tmp_path / folder)
        )
        sets.append(
            attacked_cache.attacked_set(
                own, digits, "test", np.arange(20), target[1], say=lambda text: None
            ).pixels
        )
    assert np.array_equal(sets[0], sets[1]) and not np.array_equal(sets[0], sets[2])


def test_a_hundred_configurations_fit_in_ten_gigabytes(target, digits, tmp_path):
    """The worst of the attacks for compression, per image of 28x28, times MNIST's 70,000 images and
    100 configurations.
    """
    own = target[0].replace(
        attack="pgd", attack_steps=10, attack_step_size=0.05, cache_dir=str(tmp_path)
    )
    attacked_cache.attacked_set(
        own, digits, "test", np.arange(360), target[1], say=lambda text: None
    )
    size = sum(path.stat().st_size for path in tmp_path.rglob("test-*.npz"))
    assert size / 360 * 70_000 * 100 < 10e9


def test_warnings_say_what_cannot_be_trusted(target, digits):
    own = target[0].replace(
        attack="pgd", epsilon=0.1, attack_steps=1, attack_step_size=0.01, norm="linf"
    )
    test = attacked_cache.AttackedSet(
        np.arange(2), None, np.array([True, True]), np.array([True, True]), None
    )
    found = " ".join(quality.warnings_of(own, digits, test, target[1]))
    assert "too few" in found and "hardly attacked" in found
    confident = copy.deepcopy(target[1])
    with torch.no_grad():
        for parameter in confident.parameters():
            parameter.mul_(30)
    assert any("exactly zero" in text for text in quality.warnings_of(own, digits, test, confident))
    report = {"test": {"surrogate_accuracy_before": 98.0, "surrogate_accuracy_after": 0.0}}
    assert "barely transfers" in quality.transfer_warning(report, 97.0, 90.0, 0.0)
    assert (
        quality.transfer_warning(report, 97.0, 40.0, 0.0) is None
        and quality.transfer_warning(report, 97.0, 90.0, 0.5) is None
    )
    # defect: 23 points are little beside the surrogate's 98, and three quarters of what it had
    assert quality.transfer_warning(report, 30.6, 7.5, 0.0) is None
    assert quality.transfer_warning(report, 0.0, 0.0, 0.0) is None
    assert "study 0 %" in quality.transfer_warning(report, 30.6, 32.0, 0.0)


def test_an_accuracy_without_a_gradient_is_told_from_one_that_withstands():
    """Defect: L2 PGD gives back what it could not fool, which counted as no gradient; linf PGD
    starts at random, so that its images moved where there was none.
    """
    still = lambda images: 0 * images.flatten(-3)[..., :2] + torch.tensor([1.0, 0.0])  # noqa: E731
    steep = lambda images: torch.stack(  # noqa: E731
        [50 + images.flatten(-3).sum(-1), -images.flatten(-3).sum(-1)], -1
    )
    images, labels = torch.rand(6, 1, 4, 4) * 0.5 + 0.25, torch.zeros(6, dtype=torch.int64)
    for net, expected in ((still, 100), (steep, 0)):
        for name, norm in (("pgd", "linf"), ("pgd", "l2"), ("fgsm", "linf")):
            own = settings(name, norm, epsilon=0.05)
            given = (net, (), own, images, labels, np.arange(6))
            accuracy, _, without = attacks.attack_test_images(*given)
            assert accuracy.item() == 100 and without.item() == expected, (name, norm)
            assert bool(attacks.doubt(own, 100, without.item())) == bool(expected)
