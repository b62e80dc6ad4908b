"""Data sets: shapes, splits, statistics, and what an .npz may not be."""

import os
from pathlib import Path

import numpy as np
import pytest

import data
from study.cohorts import new_run, run_cohort
from study.request import parse_runs
from utils import UserError


def arrays(**changes):
    rng = np.random.default_rng(0)
    good = {
        "train_images": rng.integers(0, 256, (30, 8, 9, 3), dtype=np.uint8),
        "train_labels": np.arange(30) % 3,
        "test_images": rng.integers(0, 256, (6, 8, 9, 3), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def test_digits_are_mnist_shaped_and_whole(digits):
    assert digits.train_images.shape == (1437, 1, 28, 28) and digits.test_images.shape == (
        360,
        1,
        28,
        28,
    )
    assert digits.train_images.dtype == np.uint8 and digits.train_images.max() == 255
    assert set(digits.train_labels) == set(digits.test_labels) == set(range(10))
    train = {image.tobytes() for image in digits.train_images}
    assert not any(image.tobytes() in train for image in digits.test_images)


def test_colour_images_are_transposed_not_reshaped(tmp_path):
    """Defect: HWC images `reshape`d to CHW were scrambled pictures."""
    good = arrays()
    np.savez(tmp_path / "tiny.npz", **good)
    loaded = data.load("tiny", tmp_path)
    assert loaded.in_shape == (3, 8, 9) and loaded.num_classes == 3
    assert data.describe("tiny", tmp_path) == ((3, 8, 9), 3)
    for channel in range(3):
        assert np.array_equal(
            loaded.train_images[5, channel], good["train_images"][5, :, :, channel]
        )


def test_split_is_disjoint_complete_and_a_matter_of_the_seed():
    train, val = data.split(1200, 1 / 12, seed=4)
    assert len(val) == 100 and sorted([*train, *val]) == list(range(1200))
    assert np.array_equal(val, data.split(1200, 1 / 12, seed=4)[1])
    assert not np.array_equal(val, data.split(1200, 1 / 12, seed=5)[1])


def test_channel_statistics_equal_numpys(tmp_path):
    images = arrays()["train_images"].transpose(0, 3, 1, 2)
    mean, std = data.channel_stats(images)
    assert np.allclose(mean, (images / 255).mean((0, 2, 3))) and np.allclose(
        std, (images / 255).std((0, 2, 3))
    )


def test_mnist_statistics_are_the_known_ones(mnist):
    mean, std = data.channel_stats(mnist.train_images)
    assert mean[0] == pytest.approx(0.1307, abs=1e-4) and std[0] == pytest.approx(0.3081, abs=1e-4)


BAD = {
    "lacks test_labels": arrays(test_labels=None),
    "uint8 is needed": arrays(train_images=np.zeros((30, 8, 9, 3), np.float32)),
    "has shape": arrays(train_images=np.zeros((30, 8), np.uint8)),
    "1 or 3": arrays(test_images=np.zeros((6, 8, 9, 4), np.uint8)),
    "one whole number an image": arrays(train_labels=np.arange(29) % 3),
    "different shapes": arrays(test_images=np.zeros((6, 8, 8, 3), np.uint8)),
    "labels run -1": arrays(train_labels=np.arange(30) % 3 - 1),
    "(test)": arrays(test_labels=np.arange(6)),
    "one whole number an image, (6,)": arrays(test_labels=np.arange(6) / 2),
}


@pytest.mark.parametrize("says", BAD)
def test_an_unsound_npz_is_refused_in_one_line(tmp_path, says):
    np.savez(tmp_path / "bad.npz", **BAD[says])
    with pytest.raises(UserError) as error:
        data.describe("bad", tmp_path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_pickles_and_noise_in_an_npz_are_refused(tmp_path):
    np.savez(tmp_path / "pickled.npz", **arrays(train_labels=np.array([object()] * 30)))
    (tmp_path / "noise.npz").write_bytes(b"not a zip at all")
    for name in ("pickled", "noise"):
        with pytest.raises(UserError):
            data.load(name, tmp_path)


def test_a_name_cannot_leave_the_data_folder(tmp_path):
    with pytest.raises(UserError, match="not a path"):
        data.load("../secret", tmp_path)


def test_a_failed_download_says_where_to_put_the_files_and_leaves_nothing(tmp_path, monkeypatch):
    import torchvision

    def refuse(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", refuse)
    with pytest.raises(UserError, match=r"put its files into .*MNIST/raw, or use --dataset=digits"):
        data.load("mnist", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_altered_mnist_is_refused(mnist, tmp_path):
    """Defect: zeroed labels trained to 88.7 % under the same name; torchvision does not look."""
    there = Path(os.environ.get("LTH_DATA_DIR", "data")) / "MNIST" / "raw"
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in data.MNIST:
        (raw / name).symlink_to((there / name).resolve())
    assert len(data.load("mnist", tmp_path).train_labels) == 60_000
    labels = raw / "train-labels-idx1-ubyte"
    altered = labels.read_bytes()[:-1] + b"\0"
    labels.unlink()
    labels.write_bytes(altered)
    with pytest.raises(UserError, match="train-labels-idx1-ubyte is not MNIST's file of that name"):
        data.load("mnist", tmp_path)


def test_a_file_that_is_replaced_after_the_command_began_is_refused(tmp_path):
    """Defect: later runs of a study trained on the new file under the old file's name."""
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6), np.uint8)
    labels = np.arange(40) % 2

    def write(images):
        parts = {"train_images": images, "train_labels": labels}
        parts |= {"test_images": images, "test_labels": labels}
        np.savez(tmp_path / "mine.npz", **parts)

    write(images)
    flags = ["--dataset=mine", f"--data_dir={tmp_path}", f"--runs_dir={tmp_path / 'runs'}"]
    flags += ["--prune_iterations=1", "--end_iter=1", "--val_fraction=0.2"]
    (config,) = parse_runs(flags).configs
    write(255 - images)
    os.utime(tmp_path / "mine.npz", ns=(1, 1))  # a write within the clock's grain is seen too
    (outcome,) = run_cohort([new_run(config)], print)
    assert outcome.state == "failed" and "another file than the run was" in outcome.reason
    assert not Path(config.runs_dir).exists()
