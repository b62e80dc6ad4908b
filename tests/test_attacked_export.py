"""Attacked data sets as files: `python attacks.py export`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
import main
from attacked.cache import kept_surrogate
from attacked.export import correct
from attacked.levels import LEVELS, from_levels, to_bytes, to_levels
from attacked.pool import PARTS, build_images, chosen, parts_of
from helpers import CPU, go, only, python, refused
from results.ticket import load_ticket, to_float
from store.files import read_csv
from study import attack_commands
from study.request import parse

SURROGATE = ["--surrogate=fc1", "--surrogate_epochs=2"]


@pytest.fixture
def export(cache, tmp_path, monkeypatch, capsys):
    """attacks.py export in this process and in tmp_path: returncode, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        capsys.readouterr()
        words = ["export", *SURROGATE, f"--cache_dir={cache}", *map(str, flags)]
        code = attack_commands.main(words)
        told = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=told.out, stderr=told.err)

    return run


def read(path):
    """The arrays of an .npz, its description as a dict."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays.pop("description")))


def config_of(cache, *flags):
    return parse([*SURROGATE, f"--cache_dir={cache}", *flags])[0]


def test_what_is_attacked_is_what_a_run_attacks_and_nothing_else(export, cache, digits):
    flags = ["--dataset=digits_fgsm_attack", "--mix_ratio=0.5", "--seed=3", "--epsilon=0.2"]
    done = export(*flags, "-o", "made/half.npz")
    assert done.returncode == 0, done.stderr
    arrays, description = read("made/half.npz")
    config = config_of(cache, *flags)
    parts = parts_of(config, len(digits.train_labels))
    picked = [chosen(config, part, name) for part, name in zip(parts, PARTS, strict=True)]
    taken = arrays["train_attacked"]
    assert np.array_equal(np.flatnonzero(taken), np.sort(np.concatenate(picked)))
    assert np.array_equal(arrays["train_positions"], np.arange(1437))
    assert np.array_equal(arrays["test_positions"], np.arange(360))
    assert np.array_equal(arrays["train_labels"], digits.train_labels)
    assert np.array_equal(arrays["test_labels"], digits.test_labels)
    clean, made = digits.train_images[:, 0], arrays["train_images"]
    assert made.dtype == np.uint8 and np.array_equal(made[~taken], clean[~taken])
    step = made[taken].astype(int) - clean[taken]
    assert np.abs(step).max() == 51 and (np.abs(step).reshape(len(step), -1).max(1) > 0).all()
    assert np.array_equal(arrays["test_images_clean"], digits.test_images[:, 0])
    assert np.abs(arrays["test_images"].astype(int) - digits.test_images[:, 0]).max() == 51
    assert description["fingerprint"] == digits.fingerprint and description["seed"] == 3
    assert description["recipe"]["epsilon"] == 0.2 and description["recipe"]["attack"] == "fgsm"
    assert "test_accuracy of a run on it is accuracy on attacked images" in done.stdout
    assert f"{taken.sum()} of them attacked" in done.stdout and "label leaking" not in done.stdout


def test_images_that_are_as_they_were_are_counted(export, cache):
    """Defect: PGD in L2 gives images back that it cannot fool, and "all attacked" was said."""
    flags = ["--attack=pgd", "--norm=l2", "--epsilon=0.01", "--attack_steps=2", "--mix_ratio=0.5"]
    done = export("--dataset=digits", *flags, "-o", "vain.npz")
    assert done.returncode == 0, done.stderr
    arrays, _ = read("vain.npz")
    test = (arrays["test_images"] == arrays["test_images_clean"]).reshape(360, -1).all(1).sum()
    assert test > 200 and f"360 test images, all attacked, {test} left as they are" in done.stdout


def test_a_run_on_the_file_sees_the_images_of_the_run_that_attacks(export, cache, digits):
    """Law: same seed, same split, same images in the same places, but for the rounding."""
    flags = ["--dataset=digits", "--attack=pgd", "--attack_steps=3", "--mix_ratio=0.25", "--seed=1"]
    assert export(*flags, "-o", "quarter.npz").returncode == 0
    attacking = config_of(cache, *flags)
    plain = parse(["--dataset=quarter", "--data_dir=.", "--seed=1"])[0]
    theirs = build_images([attacking], digits, CPU, say=lambda text: None)
    ours = build_images([plain], data.load("quarter", "."), CPU)
    for name in ("train_index", "val_index"):
        mine, other = (getattr(x.train, name)[0] for x in (ours, theirs))
        difference = ours.train.images[mine] - theirs.train.images[other]
        assert difference.abs().max() < 1 / 255
        assert torch.equal(ours.train.labels[mine], theirs.train.labels[other])
    assert (ours.test - theirs.attacked_test[0]).abs().max() < 1 / 255


def test_rounding_keeps_within_a_radius_or_goes_to_the_nearest():
    """Oracle: numpy's own rounding of the floats."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 256, (50, 1, 6, 6), np.uint8)
    for radius in (8 / 255, 0.3, 0.5 / 255, 0):
        moved = clean / 255 + radius * rng.choice([-1, 1, 0.4], clean.shape)
        floats = torch.from_numpy(moved.clip(0, 1)).float()
        levels = to_levels(floats, clean)
        towards = to_bytes(levels, clean)
        reach = np.abs(towards.astype(int) - clean)
        assert reach.max() <= np.floor(255 * radius + 1e-6)
        assert (np.abs(towards - 255 * floats.numpy()) < 1.01).all()
        nearest = to_bytes(to_levels(floats, clean, nearest=True), clean, nearest=True)
        assert (np.abs(nearest - 255 * floats.numpy()) <= 0.5 + 256 / LEVELS).all()
        whole = to_bytes(clean.astype(np.uint16) * 257, clean)
        assert np.array_equal(whole, clean)


def test_the_cost_of_rounding_is_what_the_surrogate_says(export, cache, digits):
    """Attacks of least distance stop at the boundary: rounding undoes some, and it is said."""
    flags = ["--dataset=digits", "--attack=deepfool", "--mix_ratio=0.3"]
    done = export(*flags, "-o", "least.npz")
    assert done.returncode == 0, done.stderr
    _, description = read("least.npz")
    model = kept_surrogate(config_of(cache, *flags), digits, CPU)
    with np.load("least.npz") as file:
        images = torch.from_numpy(file["test_images"][:, None]).float() / 255
    labels, row = torch.from_numpy(digits.test_labels), description["test"]
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).numpy()
        before = (model(to_float(digits.test_images, CPU)).argmax(1) == labels).numpy()
    assert row["surrogate_accuracy_rounded"] == pytest.approx(100 * right.mean())
    assert row["surrogate_accuracy_clean"] == pytest.approx(100 * before.mean())
    assert row["surrogate_accuracy_attacked"] < 1 < row["surrogate_accuracy_rounded"]
    assert row["undone_by_rounding"] == (before & right).sum() > 10
    assert description["rounded"] == "to the nearest"
    assert f"{row['undone_by_rounding']:,} of {row['fooled']:,} that fooled it are undone" in (
        done.stdout
    )
    assert "warning: rounding undoes" in done.stdout
    assert abs(row["mean_l2_rounded"] / row["mean_l2_attacked"] - 1) < 0.01
    assert np.array_equal(correct(model, digits.test_images, digits.test_labels), before)


def test_levels_and_bytes_agree_on_clean_pixels():
    clean = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    levels = to_levels(to_float(clean, CPU), clean)
    assert np.array_equal(to_bytes(levels, clean, nearest=True), clean)
    assert torch.equal(from_levels(levels, CPU), to_float(clean, CPU))


def test_main_trains_on_the_file_and_its_test_accuracy_is_on_attacked_images(
    export, tmp_path, digits
):
    assert export("--attack=fgsm", "--mix_ratio=0.5", "-o", "sets/mine.npz").returncode == 0
    flags = ["--dataset=mine", f"--data_dir={tmp_path / 'sets'}", "--prune_iterations=1"]
    assert go(tmp_path / "runs", *flags, "--end_iter=2") == 0
    run = only(tmp_path / "runs")
    net, _, _ = load_ticket(run, 0)
    arrays, _ = read("sets/mine.npz")
    with torch.no_grad():
        found = net(torch.from_numpy(arrays["test_images"][:, None]).float() / 255).argmax(1)
    (row,) = read_csv(run / "rounds.csv")
    percent = 100 * (found.numpy() == digits.test_labels).mean()
    assert row["test_accuracy"] == pytest.approx(percent, abs=0.3)
    known = {*data.ARRAYS, "train_attacked", "train_positions", "test_positions"}
    assert set(arrays) == known | {"test_images_clean"}


def test_the_same_flags_make_the_same_bytes(export, tmp_path):
    """So that a run of the file keeps its name when the file is made again."""
    flags = ["--attack=noise", "--mix_ratio=0.5", "-o", "same.npz"]
    assert export(*flags).returncode == 0
    first = (tmp_path / "same.npz").read_bytes()
    assert export(*flags, "--force").returncode == 0
    assert (tmp_path / "same.npz").read_bytes() == first
    assert str(tmp_path) not in json.dumps(read("same.npz")[1])  # no machine's paths


def test_colour_images_and_a_part_of_the_training_images(export, tmp_path):
    """Images stay (N, H, W, 3); --train_fraction leaves out what its run leaves out."""
    draw, labels = np.random.default_rng(0), np.arange(100) % 4
    images = draw.integers(0, 256, (120, 9, 7, 3), np.uint8)
    parts = {"train_images": images[:100], "train_labels": labels}
    np.savez("tiny.npz", **parts, test_images=images[100:], test_labels=labels[:20])
    flags = ["--dataset=tiny", "--data_dir=.", "--attack=fgsm", "--mix_ratio=0.5"]
    flags += ["--train_fraction=0.5", "--val_fraction=0.2"]
    done = export(*flags, "-o", "part.npz")
    assert done.returncode == 0, done.stderr
    arrays, description = read("part.npz")
    assert arrays["train_images"].shape == (60, 9, 7, 3) and description["train_images"] == 60
    at, taken = arrays["train_positions"], arrays["train_attacked"]
    assert (np.diff(at) > 0).all() and np.array_equal(arrays["train_labels"], labels[at])
    assert np.array_equal(arrays["train_images"][~taken], images[at][~taken])
    step = arrays["train_images"][taken].astype(int) - images[at][taken]
    assert 0 < np.abs(step).max() <= 8 and taken.sum() == 30
    assert data.load("part", ".").in_shape == (3, 9, 7)


def test_none_of_the_training_images_may_be_attacked_too(export):
    done = export("--attack=fgsm", "--mix_ratio=0", "-o", "none.npz")
    arrays, description = read("none.npz")
    assert done.returncode == 0 and not arrays["train_attacked"].any()
    assert description["train"] == {} and description["test"]["attacked"] == 360


def test_flags_that_change_no_image_are_told(export):
    done = export("--attack=fgsm", "--prune_percent=20", "--end_iter=3", "-o", "f.npz")
    assert done.returncode == 0
    assert "note: --prune_percent, --end_iter: no effect on the images" in done.stdout
    assert "label leaking" in done.stdout  # every image is attacked


def test_bad_input_is_one_line_and_no_file(export, tmp_path):
    (tmp_path / "here.npz").write_bytes(b"mine")
    (tmp_path / "folder.npz").mkdir()
    draw = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
    parts = {"train_images": draw, "train_labels": np.arange(20) % 2}
    np.savez(tmp_path / "tiny.npz", **parts, test_images=draw, test_labels=np.arange(20) % 2)
    source = (tmp_path / "tiny.npz").read_bytes()
    attack, before = "--attack=fgsm", sorted(tmp_path.rglob("*"))
    for flags, says in [
        ([attack], "-o"),
        (["-o", "a.npz"], "no attack is named"),
        ([attack, "-o", "here.npz"], "--force"),
        ([attack, "-o", "a.npy"], "ends in .npz"),
        ([attack, "-o", "a"], "ends in .npz"),
        ([attack, "-o", "a b.npz"], "a name of letters"),
        ([attack, "-o", "digits.npz"], "the tool's own"),
        ([attack, "-o", "mnist_fgsm_attack.npz"], "a data set and an attack"),
        ([attack, "-o", "folder.npz"], "is a folder"),
        ([attack, "-o", "here.npz/a.npz"], "is no folder"),
        (["--attack=omit", "--mix_ratio=0.5", "-o", "a.npz"], "attacks no training image"),
        (["--attack=omit", "-o", "a.npz"], "leaves no training image"),
        ([attack, "--attack_mode=online", "-o", "a.npz"], "attacks each batch anew"),
        (["--attack=fgms", "-o", "a.npz"], "did you mean 'fgsm'?"),
        ([attack, "--seed", "0", "1", "-o", "a.npz"], "2 runs where one is needed"),
        ([attack, "--dry_run", "-o", "a.npz"], "export makes none"),
        ([attack, "--confidence=5", "-o", "a.npz"], "it is of cw"),
        ([attack, "--epsilon=2", "-o", "a.npz"], "from 0 to 1"),
        ([attack, "--epsilonn=0.2", "-o", "a.npz"], "did you mean"),
        ([attack, "--dataset=none", "-o", "a.npz"], "there is no"),
        ([attack, "--dataset=tiny", "--data_dir=.", "--force", "-o", "tiny.npz"], "is attacked"),
    ]:
        done = export(*flags)
        refused(done, says)
        assert done.stdout == "" or done.stdout.startswith("note")
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "here.npz").read_bytes() == b"mine"
    assert (tmp_path / "tiny.npz").read_bytes() == source


@pytest.mark.slow
def test_the_script_itself(cache, tmp_path):
    flags = [*SURROGATE, f"--cache_dir={cache}", "--attack=fgsm", "-o", tmp_path / "whole.npz"]
    done = python("attacks.py", "export", *flags)
    assert done.returncode == 0 and (tmp_path / "whole.npz").exists(), done.stderr
    refused(python("attacks.py", "export", *flags), "exists")
    refused(python("attacks.py", "exprot"), "invalid choice")
    for words in (["--help"], ["export", "--help"]):
        done = python("attacks.py", *words)
        assert done.returncode == 0 and "an attacked data set as an .npz" in done.stdout


def test_a_run_on_such_a_file_is_told_what_clean_means(export, tmp_path, capsys):
    """Defect: it called attacked images clean, without a word."""
    assert (
        export("--dataset=digits", "--attack=fgsm", "--mix_ratio=0.5", "-o", "half.npz").returncode
        == 0
    )
    flags = ["--prune_iterations=1", "--end_iter=1", "--dry_run", f"--runs_dir={tmp_path}"]
    assert main.main(["--dataset=half", f"--data_dir={tmp_path}", *flags]) == 0
    assert "warning: half holds attacked images" in capsys.readouterr().out
    assert main.main(["--dataset=digits", *flags]) == 0
    assert "holds attacked images" not in capsys.readouterr().out


def test_flags_of_a_config_file_count_as_typed_ones(export, tmp_path):
    """Defect: dry_run in the file was passed over, and a set was written."""
    flags = ["--dataset=digits", "--attack=fgsm", "-o", "a.npz", "--config=f.yaml"]
    (tmp_path / "f.yaml").write_text("dry_run: true\n")
    done = export(*flags)
    assert done.returncode == 2 and "--dry_run is of runs" in done.stderr
    (tmp_path / "f.yaml").write_text("lr: 0.5\n")
    assert "note: --lr: no effect on the images" in export(*flags).stdout
