"""Attacks against their formulas, the cache on disk, the pool."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import attacks


@pytest.fixture(scope="module")
def target(digits, cache):
    import config

    settings = config.parse([f"--cache_dir={cache}", "--dataset=digits_fgsm_attack", "--surrogate=fc1", "--surrogate_epochs=10"])[0]
    return settings, attacks.surrogate(settings, digits, torch.device("cpu"), say=lambda text: None)


@pytest.fixture
def batch(digits):
    return attacks.to_float(digits.test_images[:64], "cpu"), torch.from_numpy(digits.test_labels[:64])


def draws(count):
    return attacks.start_draws(0, "test", range(count), (1, 28, 28))


def pgd_formula(model, x, y, epsilon, steps, size, start):
    adversarial = (x + epsilon * (2 * torch.from_numpy(start) - 1)).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adversarial), y, reduction="sum"), adversarial)
        step = adversarial.detach() + size * gradient.sign()
        adversarial = (x + (step - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adversarial


def test_deeprobust_fgsm_is_the_formula(target, batch):
    config, model = target
    theirs = attacks.deeprobust_fgsm(model, *batch, None, config)
    assert torch.allclose(theirs, attacks.fgsm(model, *batch, config.epsilon), atol=1e-6)


def test_deeprobust_pgd_is_the_formula_from_the_same_start(target, batch):
    config = dataclasses.replace(target[0], epsilon=0.1, attack_steps=7, attack_step_size=0.03)
    theirs = attacks.deeprobust_pgd(target[1], *batch, draws(64), config)
    assert torch.allclose(theirs, pgd_formula(target[1], *batch, 0.1, 7, 0.03, draws(64)), atol=1e-6)


@pytest.mark.parametrize("make", [attacks.deeprobust_fgsm, attacks.deeprobust_pgd])
@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.3])
def test_attacked_images_are_within_epsilon_and_the_range(target, batch, make, epsilon, digits):
    """Defects: FGSM without clipping gave pixels of -0.2 and 1.2; a cast to uint8 made attacked images black."""
    config = dataclasses.replace(target[0], epsilon=epsilon, attack_steps=5, attack_step_size=0.05)
    levels = attacks.to_levels(make(target[1], *batch, draws(64), config), digits.test_images[:64])
    kept = attacks.from_levels(levels, "cpu")
    assert kept.min() >= 0 and kept.max() <= 1
    assert (kept - batch[0]).abs().max() <= epsilon + 1e-6
    assert kept.mean() > 0.5 * batch[0].mean()
    if epsilon == 0:
        assert torch.equal(kept, batch[0])


def test_attacks_work(target, batch):
    _, model = target
    clean = (model(batch[0]).argmax(1) == batch[1]).float().mean()
    fooled = (model(attacks.fgsm(model, *batch, 0.3)).argmax(1) == batch[1]).float().mean()
    assert clean > 0.9 and fooled < 0.1


def test_an_attack_of_an_image_does_not_depend_on_its_batch(target, batch):
    config = dataclasses.replace(target[0], attack_steps=5, attack_step_size=0.05)
    together = attacks.deeprobust_pgd(target[1], *batch, draws(64), config)
    for i in (0, 31, 63):
        alone = attacks.deeprobust_pgd(target[1], batch[0][i : i + 1], batch[1][i : i + 1], draws(64)[i : i + 1], config)
        assert torch.allclose(alone[0], together[i], atol=1e-6)


def test_an_attack_leaves_model_images_and_random_state_alone(target, batch):
    config, model = target
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, state = batch[0].clone(), np.random.get_state()[1].copy()
    uniform = np.random.uniform
    for make in (attacks.deeprobust_fgsm, attacks.deeprobust_pgd):
        make(model, *batch, draws(64), config)
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(images, batch[0]) and np.random.uniform is uniform
    assert np.array_equal(state, np.random.get_state()[1])


def test_levels_keep_every_uint8_pixel_bit_for_bit():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    clean = attacks.to_float(pixels, "cpu")
    assert torch.equal(attacks.from_levels(attacks.to_levels(clean, pixels), "cpu"), clean)


def count_attacked(monkeypatch):
    counted = []
    original = attacks._attack_missing

    def counting(config, folder, part, images, labels, missing, model):
        counted.append((part, len(missing)))
        return original(config, folder, part, images, labels, missing, model)

    monkeypatch.setattr(attacks, "_attack_missing", counting)
    return counted


def build(config, digits):
    return attacks.build_images([config], digits, torch.device("cpu"), say=lambda text: None)


def test_a_larger_mix_attacks_only_the_missing_images(target, digits, tmp_path, monkeypatch):
    counted = count_attacked(monkeypatch)
    config = dataclasses.replace(target[0], cache_dir=str(tmp_path), mix_ratio=0.1)
    build(config, digits)
    tenth = round(0.1 * 1317) + round(0.1 * 120)
    assert counted == [("train", tenth), ("test", 360)]
    build(config, digits)
    assert len(counted) == 2
    build(dataclasses.replace(config, mix_ratio=0.5), digits)
    assert counted[2:] == [("train", round(0.5 * 1317) + round(0.5 * 120) - tenth)]


def test_a_truncated_cache_file_is_noticed_and_made_again(target, digits, tmp_path, monkeypatch):
    config = dataclasses.replace(target[0], cache_dir=str(tmp_path), mix_ratio=0.1)
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
    quarter, half, whole = (set(attacks.mixed(part, ratio, 1, "train")) for ratio in (0.25, 0.5, 1))
    assert len(quarter) == 250 and quarter < half < whole == set(part)
    assert quarter == set(attacks.mixed(part, 0.25, 1, "train")) != set(attacks.mixed(part, 0.25, 2, "train"))


def test_runs_of_a_pool_are_paired_and_hold_what_they_say(target, digits):
    ratios = [0.0, 0.25, 1.0]
    configs = [dataclasses.replace(target[0], mix_ratio=ratio) for ratio in ratios]
    images = attacks.build_images(configs, digits, torch.device("cpu"), say=lambda text: None)
    train = images.train
    clean = attacks.to_float(digits.train_images, "cpu")
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
    images = build(dataclasses.replace(target[0], mix_ratio=0.5), digits)
    row = images.reports[0]["train"]
    attacked = images.train.images[1437:]
    assert row["images"] == round(0.5 * 1317) + round(0.5 * 120) <= len(attacked)
    test = images.attacked_test[0]
    clean = attacks.to_float(digits.test_images, "cpu")
    model = target[1]
    labels = torch.from_numpy(digits.test_labels)
    figures = images.reports[0]["test"]
    assert figures["mean_l2"] == pytest.approx((test - clean).flatten(1).norm(dim=1).mean().item(), rel=1e-4)
    assert figures["mean_linf"] == pytest.approx((test - clean).flatten(1).abs().amax(1).mean().item(), rel=1e-4)
    assert figures["surrogate_accuracy_after"] == pytest.approx(100 * (model(test).argmax(1) == labels).float().mean().item(), abs=1e-3)
