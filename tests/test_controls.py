"""Matched controls: fewer images in as many steps or in fewer, noise as long, another seed."""

import itertools
import json

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

import attacks
import main
import results
from attacked import cache as attacked_cache
from attacked import levels, pool
from attacks import ATTACKS, AttackSettings
from config import attack_settings
from helpers import CPU, fake_run, go, only, saved_flags
from helpers import numbers as numbers_of
from results.table import arm_labels, identity
from store.saved import saved_run
from study.request import parse, parse_runs
from utils import UserError

SMALL = ["--prune_iterations=2", "--end_iter=2", "--prune_percent=60", "--surrogate=fc1"]
SMALL += ["--surrogate_epochs=2"]


def quiet(text):
    """Says nothing."""


# Noise of a length -----------------------------------------------------------------------------


@pytest.fixture
def images(digits):
    return levels.to_float(digits.test_images[:32], "cpu")


def draws(count):
    return torch.from_numpy(attacks.start_draws(0, "test", range(count), (1, 28, 28)))


def noised(images, epsilon, starts=None):
    """Images with noise of that L2 length."""
    starts = draws(len(images)) if starts is None else starts
    labels = torch.zeros(images.shape[:-3], dtype=torch.long)
    settings = AttackSettings("noise", "l2", (("epsilon", epsilon),))
    return settings.entry().make(None, images, labels, settings, lambda restart: starts)


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 1.72, 6.26, 12.0])
def test_the_noise_is_as_long_as_it_says_after_clipping_and_in_levels(images, epsilon, digits):
    made = noised(images, epsilon)
    assert made.dtype == torch.float32 and made.min() >= 0 and made.max() <= 1
    length = attacks.l2_norm((made - images).double())
    assert torch.allclose(length, torch.full_like(length, epsilon), rtol=1e-4, atol=1e-7)
    kept = levels.from_levels(levels.to_levels(made, digits.test_images[:32]), "cpu")
    assert (kept - made).abs().max() <= 1.01 / levels.LEVELS
    length = attacks.l2_norm((kept - images).double())
    assert (length <= epsilon + 1e-5).all() and (length >= epsilon * 0.999 - 5e-4).all()
    if epsilon == 0:
        assert torch.equal(made, images)


@pytest.mark.parametrize("flags", [
    ["--attack=fgsm", "--mix_ratio=0.01"],
    ["--attack=omit", "--mix_ratio=0.01"],
    ["--attack=fgsm", "--attack_mode=online", "--mix_ratio=0.01"],
])  # fmt: skip
def test_a_share_that_comes_to_no_image_is_refused(flags):
    """Defect: such a run was clean training, bit for bit, named attacked or left out."""
    config = parse([*flags, "--train_fraction=0.03", "--batch_size=1000"])[0]
    with pytest.raises(UserError, match="of 40 training images attacks or leaves out none"):
        pool.parts_of(config, 1437)
    assert len(pool.parts_of(config.replace(mix_ratio=0.05), 1437)[0]) == 40


def test_its_scale_is_the_root_that_scipy_finds(images):
    directions = scipy.stats.norm.ppf(draws(32).numpy().astype(np.float64))
    made = noised(images, 6.26)
    for image, direction, own in zip(images.double().numpy(), directions, made, strict=True):

        def over(scale, image=image, direction=direction):
            return np.linalg.norm((image + scale * direction).clip(0, 1) - image) - 6.26

        scale = scipy.optimize.brentq(over, 0, 100, xtol=1e-12)
        expected = (image + scale * direction).clip(0, 1)
        assert np.allclose(own.numpy(), expected, atol=1e-6)


def test_where_the_box_cannot_hold_it_the_noise_is_the_longest(images):
    made = noised(images, 100.0)
    assert torch.equal(made, (draws(32) > 0.5).float())


def test_noise_of_an_image_does_not_depend_on_its_batch_and_is_the_same_for_all_runs(images):
    together = noised(images, 6.26)
    for i in (0, 13, 31):
        assert torch.equal(noised(images[i : i + 1], 6.26, draws(32)[i : i + 1])[0], together[i])
    stacked = noised(images.expand(2, *images.shape), 6.26, draws(32))
    assert torch.equal(stacked, together.expand_as(stacked))


def test_noise_within_a_radius_is_what_it_was():
    """Its images and names are those of older versions."""
    assert attacked_cache.code_of(attacks.noise) == "0cb286ca"
    assert parse(["--attack=noise", "--mix_ratio=0.5"])[0].run_name.endswith("-s0-cf50bc81")
    entry = ATTACKS["noise"]["l2"]
    assert entry.control and entry.draws and entry.signs is None
    assert parse(["--attack=noise", "--norm=l2"])[0].epsilon == entry.default("epsilon", False)


# Left out --------------------------------------------------------------------------------------


@pytest.fixture
def config(cache):
    """An omit run's flags, a third left out."""
    flags = ["--attack=omit", "--mix_ratio=0.3", "--surrogate=fc1", "--surrogate_epochs=2"]
    return parse([*flags, f"--cache_dir={cache}"])[0]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_left_are_the_images_that_an_attack_leaves_clean(config, digits, ratio, seed):
    omit = config.replace(mix_ratio=ratio, seed=seed)
    pair = [omit.replace(attack="fgsm"), omit]
    made = pool.build_images(pair, digits, CPU, say=quiet)
    for index in (made.train.train_index.numpy(), made.train.val_index.numpy()):
        attacked, left = index
        clean = attacked < len(digits.train_labels)
        assert np.array_equal(left[clean], attacked[clean]) and left.shape == attacked.shape
        counts = np.unique(left, return_counts=True)
        assert np.array_equal(counts[0], np.sort(attacked[clean]))
        assert counts[1].max() - counts[1].min() <= 1
    assert made.attacked_test[0] is made.attacked_test[1]
    assert "train" in made.reports[0] and "train" not in made.reports[1]
    assert made.reports[0]["test"] == made.reports[1]["test"]


def test_what_is_left_is_nested_in_the_rate(config):
    kept = [
        [set(part) for part in pool.parts_of(config.replace(mix_ratio=ratio), 1437)]
        for ratio in (0.0, 0.25, 0.5, 0.75)
    ]
    for more, fewer in itertools.pairwise(kept):
        assert more[0] > fewer[0] and more[1] > fewer[1]


def test_its_test_images_are_those_of_fgsm_made_once(config, digits, tmp_path, monkeypatch):
    own, made = config.replace(cache_dir=str(tmp_path)), []
    real = attacked_cache._attack_missing
    monkeypatch.setattr(
        attacked_cache, "_attack_missing", lambda *args: made.append(args[2]) or real(*args)
    )
    left = pool.build_images([own], digits, CPU, say=quiet)
    assert made == ["test"]
    other = pool.build_images([own.replace(attack="fgsm")], digits, CPU, say=quiet)
    assert made == ["test", "train"] and torch.equal(left.attacked_test[0], other.attacked_test[0])
    assert len(list(tmp_path.glob("attacked/*"))) == 1
    assert len(left.train.images) == len(digits.train_labels)  # no attacked training image


def test_omit_beside_attacks_is_bit_for_bit_omit_alone(tmp_path, cache, capsys):
    flags = [*SMALL, f"--cache_dir={cache}", "--attack", "fgsm", "omit", "noise", "--mix_ratio=0.5"]
    flags += ["--eval_attacks", "fgsm", "noise"]
    assert go(tmp_path / "alone", *flags, "--cohort_size=1") == 0
    told = capsys.readouterr().out
    assert go(tmp_path / "together", *flags, "--cohort_size=3") == 0
    found = {}
    for folder in (tmp_path / "alone").iterdir():
        alone, together = numbers_of(folder), numbers_of(tmp_path / "together" / folder.name)
        assert alone[0] == together[0]
        for mine, other in zip(alone[1], together[1], strict=True):
            assert mine == pytest.approx(other)  # a mean loss is rounded as the batch is stacked
        assert all(
            torch.equal(tensor, together[2][path][name])
            for path, tensors in alone[2].items()
            for name, tensor in tensors.items()
        )
        found[saved_flags(folder)["attack"]] = alone
    steps = [[row["iteration"] for row in rows] for _, rows, _ in found.values()]
    assert steps[0] == steps[1] == steps[2]
    assert found["omit"][0][0].keys() == found["fgsm"][0][0].keys()  # transfer_fgsm_accuracy
    assert found["omit"][1] != found["fgsm"][1]
    assert (
        "50 % of the training images left out, others repeated; test images attacked with" in told
    )
    folder = only(tmp_path / "alone", "*-omit0.5-*")
    report = json.loads((folder / "attack_report.json").read_text())
    assert "train" not in report and report["network"]["accuracy_after"] < 50


def test_at_rate_0_it_trains_as_without_an_attack(tmp_path, cache):
    flags = [*SMALL, f"--cache_dir={cache}"]
    assert go(tmp_path / "omit", *flags, "--attack=omit", "--mix_ratio=0") == 0
    assert go(tmp_path / "none", *flags) == 0
    (omit, none) = (numbers_of(only(tmp_path / name)) for name in ("omit", "none"))
    assert omit[1] == none[1]
    for mine, other in zip(omit[0], none[0], strict=True):
        assert {name: mine[name] for name in other} == other
        assert mine.keys() - other.keys() == {"transfer_fgsm_accuracy"}
    for path, tensors in none[2].items():
        assert all(torch.equal(tensor, omit[2][path][name]) for name, tensor in tensors.items())


def test_it_is_tested_within_its_epsilon_as_a_run_without_an_attack_is(config):
    for name in ("fgsm", "pgd", "ddn"):
        own = attack_settings(config.replace(epsilon=0.1), name, False)
        without = parse(["--epsilon=0.1"])[0]
        assert own == attack_settings(without, name, False)
    assert parse(["--preset=course", "--attack=omit", "--mix_ratio=0.5"])[0].epsilon == 0.2


MISTAKES = {
    "a share below 1 is needed": ["--attack=omit"],
    "--mix_ratio=1 (the default) leaves": ["--attack=omit", "--attack_rate=100"],
    "omit attacks no training image": ["--attack=omit", "--mix_ratio=0.5", "--attack_mode=online"],
    "unknown eval_attacks 'omit'": ["--eval_attacks", "omit"],
    "--norm=l2: omit has linf": ["--attack=omit", "--mix_ratio=0.5", "--norm=l2"],
    "--train_fraction=0: more than 0 and at most 1": ["--train_fraction=0"],
    "--train_fraction=1.5: more than 0": ["--train_fraction=1.5"],
    "--train_fraction=nan: more than 0": ["--train_fraction=nan"],
    "'seeds' is not a whole number, nor the word seed": ["--attack_seed=seeds"],
    "'1.5' is not a whole number, nor the word seed": ["--attack_seed=1.5"],
    "--attack_seed=-1: 0 or more is needed": ["--attack=fgsm", "--attack_seed=-1"],
    "names seed twice": ["--attack=fgsm", "--attack_seed", "seed", "seed"],
}


@pytest.mark.parametrize("says", MISTAKES)
def test_a_mistake_is_answered_in_one_line(says, capsys):
    assert main.main(MISTAKES[says]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1


def test_a_share_that_leaves_no_image_fails_its_run_alone(tmp_path, cache, capsys):
    flags = [*SMALL, f"--cache_dir={cache}", "--attack=omit", "--prune_iterations=1"]
    assert go(tmp_path, *flags, "--mix_ratio", "0.5", "0.999", "--cohort_size=2") == 2
    told = capsys.readouterr()
    assert "runs: 1 done, 1 failed" in told.out
    assert "--mix_ratio=0.999 leaves out all 120 validation images" in told.err
    assert go(tmp_path, "--train_fraction=1e-5") == 2
    assert "of 1,317 training images leaves none" in capsys.readouterr().err


def test_evaluate_neither_takes_it_nor_counts_it_among_all(tmp_path, capsys):
    from results import robustness

    assert robustness.main(["evaluate", str(tmp_path), "--attacks", "omit"]) == 2
    assert "unknown attack 'omit'" in capsys.readouterr().err
    assert [*attacks.Making()] == [name for name in ATTACKS if name != "omit"]


# A part of the training images -----------------------------------------------------------------


def test_a_fraction_is_nested_and_leaves_the_validation_part_alone(config):
    clean = config.replace(attack=None, mix_ratio=0.0)
    train, val = pool.parts_of(clean, 1437)
    sizes, before = {0.01: 13, 0.25: 329, 0.5: 658, 1.0: 1317}, set()
    for share, size in sizes.items():
        part, held_out = pool.parts_of(clean.replace(train_fraction=share), 1437)
        assert np.array_equal(held_out, val) and len(part) == len(set(part)) == size
        assert before < set(part) and np.array_equal(part, np.sort(part))
        before = set(part)
    assert np.array_equal(part, train)
    other = pool.parts_of(clean.replace(train_fraction=0.5, seed=1), 1437)[0]
    assert set(other) != set(pool.parts_of(clean.replace(train_fraction=0.5), 1437)[0])


def test_a_fraction_is_trained_on_what_omit_leaves_in_fewer_steps(config, digits):
    for share in (0.25, 0.7):
        left = pool.parts_of(config.replace(mix_ratio=1 - share), 1437)[0]
        part = pool.parts_of(config.replace(attack=None, train_fraction=share), 1437)[0]
        assert len(set(left) ^ set(part)) <= 1 and len(part) < len(left)
    # it comes before mixing
    half = config.replace(attack="fgsm", mix_ratio=0.5, train_fraction=0.5)
    made = pool.build_images([half], digits, CPU, say=quiet)
    index = made.train.train_index[0]
    assert len(index) == 658 and int((index >= 1437).sum()) == 329


def test_at_its_default_a_fraction_changes_no_name():
    assert parse(["--train_fraction=1"])[0].run_name == parse([])[0].run_name
    names = {config.run_name for config in parse_runs(["--train_fraction", "0.5", "1"]).configs}
    assert len(names) == 2


def test_what_an_arms_flags_leave_out_is_called_by_its_default():
    """Defect: a flag of newer versions was called "seed" in the arms of older ones."""
    runs = parse_runs(["--train_fraction", "0.5", "1"]).configs
    assert arm_labels(list(runs)) == ["lt, train_fraction=0.5", "lt, train_fraction=1.0"]


# The attack's seed -----------------------------------------------------------------------------

FOLLOWS = ["--attack=fgsm", "--mix_ratio=0.5", "--attack_seed=seed"]


def test_an_attack_seed_that_follows_is_the_seed_in_all_that_is_made(config, digits):
    own = config.replace(attack="pgd", norm="linf", attack_steps=2, attack_step_size=0.1)
    for seed in (0, 3):
        follows = own.replace(seed=seed, attack_seed="seed", mix_ratio=0.1)
        fixed = follows.replace(attack_seed=seed)
        assert pool.attack_key(follows) == pool.attack_key(fixed)
        one, other = (
            attacked_cache.surrogate(config, digits, CPU, say=quiet) for config in (follows, fixed)
        )
        assert attacked_cache.attack_recipe(follows, digits, one) == attacked_cache.attack_recipe(
            fixed, digits, other
        )
        assert attacked_cache.attack_recipe(follows, digits, one)["seed"] == seed
    # runs of a cohort with one number share one set
    made = pool.build_images([own.replace(attack_seed=s) for s in (0, "seed")], digits, CPU, quiet)
    assert made.attacked_test[0] is made.attacked_test[1]


def test_runs_whose_attack_seed_follows_are_one_arm(tmp_path):
    runs = parse_runs([*FOLLOWS, "--seed", "0", "1"]).configs
    assert len({identity(config) for config in runs}) == 1
    assert len({config.run_name for config in runs}) == 2
    assert identity(runs[0]) != identity(parse([*FOLLOWS[:2], "--seed=0"])[0])
    for seed in (0, 1):
        for attack_seed in (0, "seed"):
            fake_run(tmp_path, [90, 89, 88, 87, 86], seed=seed, mix_ratio=0.5,
                     attack_seed=attack_seed)  # fmt: skip
    table = results.load(f"{tmp_path}/*")
    assert table.arm.cat.categories.tolist() == ["lt, attack_seed=0", "lt, attack_seed=seed"]


def test_a_list_of_attack_seeds_names_runs_and_the_word_is_kept(tmp_path):
    asked = parse_runs([*FOLLOWS[:2], "--attack_seed", "0", "seed", "--seed", "0", "1"])
    assert [config.attack_seed for config in asked.configs] == [0, 0, "seed", "seed"]
    assert "--attack_seed=seed" in asked.commands[2]
    folder = fake_run(tmp_path, [90.0], mix_ratio=0.5, attack_seed="seed", seed=3)
    assert saved_flags(folder)["attack_seed"] == "seed" and saved_run(folder).attack_number == 3
    # of no effect without an attack
    assert parse(["--attack_seed=seed"])[0].run_name == parse([])[0].run_name


@pytest.mark.parametrize("value", ["seeds", "", "3", 1.5, True, None, ["seed"]])
def test_a_damaged_attack_seed_is_no_run(tmp_path, value):
    folder = fake_run(tmp_path, [90.0], mix_ratio=0.5, attack_seed="seed")
    saved = json.loads((folder / "config.json").read_text())
    saved["flags"]["attack_seed"] = value
    (folder / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="attack_seed is"):
        saved_run(folder)
