"""DATASETS: a name -> training and test images, uint8 (N, C, H, W) with int64 labels.

numpy only: images stay uint8 until they are on the device, in [0, 1]; normalisation is the
model's first layer. torchvision and scikit-learn are imported where they are used.
"""

import functools
import hashlib
import re
import shutil
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils import Registry, UserError, choose, fingerprint, must, permutation

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
# what zipfile, zlib and numpy raise for a file that is cut, encrypted or not what it says
DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
# of one array in an .npz: a header that claims more is refused before it is read
MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class Dataset:
    """Images are uint8 (N, C, H, W), labels int64 (N,) in range(num_classes)."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int

    @functools.cached_property
    def fingerprint(self):
        """Stands for every image and label; hashing them takes a moment, so it is done once."""
        return fingerprint(self.train_images, self.train_labels, self.test_images, self.test_labels)

    @property
    def in_shape(self):
        """(C, H, W)."""
        return self.train_images.shape[1:]


def digits(data_dir):
    """scikit-learn's 1,797 handwritten digits (8x8, 17 grays), resized to 28x28; 360 of them are
    the test set.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    raw = load_digits()
    small = (raw.images * (255 / 16)).round().astype(np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(image).resize((28, 28), Image.BICUBIC)) for image in small]
    )
    order = permutation(len(images), 0, "digits test set").numpy()
    images, labels = _channels_first(images[order]), raw.target[order].astype(np.int64)
    return images[360:], labels[360:], images[:360], labels[:360]


# MD5 sums of the files as they are published, unpacked: torchvision checks what it downloads, not
# what lies there
MNIST = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_MNIST = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def check_sums(class_name, folder, sums):
    """UserError for a file of the folder (a Path) that is there and not the published one."""
    for name, published in sums.items():
        path = folder / name
        if path.exists() and _file_hash(path, path.stat().st_mtime_ns, "md5") != published:
            right = "remove the folder to download it again; other data goes into an .npz"
            raise UserError(f"{path} is not {class_name}'s file of that name: {right}")


def from_torchvision(class_name, folder, sums=()):
    """A loader for a torchvision data set; downloads go to a temporary folder first, so a failure
    leaves nothing. sums: {file in `folder`: MD5} of what torchvision does not check itself.
    """

    def load(data_dir):
        import torchvision

        make = getattr(torchvision.datasets, class_name)
        check_sums(class_name, Path(data_dir) / folder, dict(sums))
        try:
            parts = [make(data_dir, train=train) for train in (True, False)]
        except RuntimeError:  # torchvision's way to say: not there, or not with the right check sum
            _download(make, class_name, Path(data_dir), folder)
            parts = [make(data_dir, train=train) for train in (True, False)]
        # each data set has its own way to fail on a file that is cut short
        except Exception as error:
            where = Path(data_dir) / folder
            raise UserError(
                f"{class_name} in {where} is damaged ({error}): remove it to download it again, or "
                "put whole files there"
            ) from error
        arrays = []
        for part in parts:
            images = np.asarray(part.data)
            arrays += [_channels_first(images), np.asarray(part.targets, dtype=np.int64)]
        return arrays

    load.folder = folder
    return load


def _download(make, class_name, data_dir, folder):
    """Download into a temporary folder beside `data_dir`, then move what came into it."""
    existed = data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download-") as temporary:
            for train in (True, False):
                make(temporary, train=train, download=True)
            shutil.copytree(temporary, data_dir, dirs_exist_ok=True)
    except (OSError, RuntimeError) as error:
        if not existed:
            shutil.rmtree(data_dir, ignore_errors=True)
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{class_name} is not in {data_dir}, or damaged there, and cannot be downloaded "
            f"({reason}): put its files into "
            f"{data_dir / folder}, or use --dataset=digits, which needs none"
        ) from error


DATASETS = Registry(
    "data set",
    must(
        lambda entry: isinstance(entry, tuple) and len(entry) == 3 and callable(entry[2]),
        "((C, H, W), classes, loader)",
    ),
)
# (C, H, W), classes, loader(data_dir) -> train images, train labels, test images, test labels
DATASETS["digits"] = (1, 28, 28), 10, digits
DATASETS["mnist"] = (1, 28, 28), 10, from_torchvision("MNIST", "MNIST/raw", MNIST)
DATASETS["fashionmnist"] = (
    (1, 28, 28), 10, from_torchvision("FashionMNIST", "FashionMNIST/raw", FASHION_MNIST),
)  # fmt: skip
DATASETS["cifar10"] = (3, 32, 32), 10, from_torchvision("CIFAR10", "cifar-10-batches-py")
DATASETS["cifar100"] = (3, 32, 32), 100, from_torchvision("CIFAR100", "cifar-100-python")


def load(name, data_dir):
    """The Dataset called `name`: one of DATASETS, or <data_dir>/<name>.npz.

    UserError if there is none, or it is unsound.
    """
    if name in DATASETS:
        _, num_classes, loader = DATASETS[name]
        return Dataset(name, *loader(data_dir), num_classes)
    path = _npz_path(name, data_dir)
    _, num_classes = describe(name, data_dir)
    arrays = _npz_arrays(path, ARRAYS)
    images = [_channels_first(array) for array in arrays[0::2]]
    labels = [array.astype(np.int64) for array in arrays[1::2]]
    return Dataset(name, images[0], labels[0], images[1], labels[1], num_classes)


def describe(name, data_dir):
    """((C, H, W), number of classes) of a data set; of an .npz only headers and labels are read."""
    if name in DATASETS:
        return DATASETS[name][:2]
    path = _npz_path(name, data_dir)
    return _describe_npz(path, path.stat().st_mtime_ns)


def attacked_already(name, data_dir):
    """Whether a data set is a file of attacked images, as attacks.py export writes them."""
    if name in DATASETS:
        return False
    try:
        with zipfile.ZipFile(_npz_path(name, data_dir)) as archive:
            return "train_attacked.npy" in archive.namelist()
    except DAMAGED:  # which is told where it is read
        return False


@functools.lru_cache  # each run of a study asks
def _describe_npz(path, _):
    headers = _npz_headers(path)
    for part in ("train", "test"):
        _check_headers(path, part, headers)
    train, test = (headers[f"{part}_images"][0][1:] for part in ("train", "test"))
    if train != test:
        what = "train_images and test_images have different shapes"
        raise UserError(f"{path}: {what} {train} and {test}")
    arrays = _npz_arrays(path, ("train_labels", "test_labels"))
    train, test = (labels.astype(np.int64) for labels in arrays)
    classes = int(train.max()) + 1
    if train.min() < 0 or test.min() < 0 or test.max() >= classes or not 2 <= classes <= 10_000:
        raise UserError(
            f"{path}: labels run {train.min()}..{train.max()} (train) and "
            f"{test.min()}..{test.max()} (test): 0..K-1 with K at least 2 is needed in both, with "
            "the highest class among the training images"
        )
    return _chw(headers["train_images"][0]), classes


def _check_headers(path, part, headers):
    """UserError unless these are uint8 images and a whole number for each."""
    (images, pixel), (labels, label) = (headers[f"{part}_{kind}"] for kind in ("images", "labels"))
    if pixel != np.uint8:
        raise UserError(f"{path}: {part}_images is {pixel}: uint8 is needed, 0 to 255")
    colour = len(images) == 4 and images[3] in (1, 3)
    if not (len(images) == 3 or colour) or 0 in images:
        right = "(N, H, W) or (N, H, W, 1 or 3), N at least 1, is needed"
        raise UserError(f"{path}: {part}_images has shape {images}: {right}")
    if label.kind not in "iu" or labels != images[:1]:
        right = f"one whole number an image, {images[:1]}, is needed"
        raise UserError(f"{path}: {part}_labels is {label} {labels}: {right}")


def is_embedded(name):
    """Whether a data set needs no file in data_dir."""
    return name in DATASETS and not hasattr(DATASETS[name][2], "folder")


def identity(name, data_dir):
    """What tells one data set from another of the same name: a hash of an .npz file's bytes, "" for
    the known data sets.
    """
    if name in DATASETS:
        return ""
    path = _npz_path(name, data_dir)
    return _file_hash(path, path.stat().st_mtime_ns, "sha256")[:16]


def load_as_trained(config):
    """The data set of a run that was trained before; UserError if another file has its name now."""
    if identity(config.dataset, config.data_dir) != config.data_id:
        raise UserError(
            f"{_npz_path(config.dataset, config.data_dir)} is another file than the run was "
            "trained on: put that one back"
        )
    return load(config.dataset, config.data_dir)


@functools.lru_cache  # a study of many runs reads its files once
def _file_hash(path, _, kind):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def split(count, val_fraction, seed):
    """Positions of the training and of the validation images among `count`, drawn from the stream
    "split".
    """
    held_out = round(count * val_fraction)
    if not 0 < held_out < count:
        raise UserError(
            f"--val_fraction={val_fraction:g} of {count} images leaves {held_out} to validate on: "
            "choose another share"
        )
    order = permutation(count, seed, "split").numpy()
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def channel_stats(images):
    """Mean and standard deviation of each channel, on [0, 1] pixels, of uint8 (N, C, H, W)."""
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        # a histogram of 256 values is exact, and needs no float copy of the images; bincount makes
        # int64 of what it is given, so it is given little at a time
        pixels, counts = images[:, channel].reshape(-1), 0
        for start in range(0, len(pixels), 1 << 16):
            counts = counts + np.bincount(pixels[start : start + (1 << 16)], minlength=256)
        mean.append(float(np.average(values, weights=counts)))
        std.append(float(np.sqrt(np.average((values - mean[-1]) ** 2, weights=counts))))
    return mean, [max(value, 1e-6) for value in std]


def _channels_first(images):
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W), copied: numpy calls odd strides of one channel
    contiguous, torch then guesses another layout.
    """
    images = images[..., None] if images.ndim == 3 else images
    return images.transpose(0, 3, 1, 2).copy(order="C")


def _chw(shape):
    return (shape[3] if len(shape) == 4 else 1, shape[1], shape[2])


def check_name(name):
    """UserError unless --dataset=NAME can be the name of an .npz file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise UserError(
            f"--dataset={name!r}: a name of letters, digits, '_', '-' and '.' is needed, not a path"
        )


def _npz_path(name, data_dir):
    check_name(name)
    path = Path(data_dir) / f"{name}.npz"
    try:
        if not path.is_file():
            names = [*DATASETS, *sorted(p.stem for p in Path(data_dir).glob("*.npz"))]
            choose("data set", name, names, f"valid: {', '.join(names)}; there is no {path}")
    except OSError as error:
        raise UserError(f"--data_dir={data_dir} cannot be read ({error.strerror})") from error
    return path


def _npz_arrays(path, names):
    """Arrays of an .npz; UserError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({error})") from error


def _npz_headers(path):
    """{array name: (shape, dtype)} from the headers alone; UserError where an array is missing or
    not plain numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            missing = [array for array in ARRAYS if f"{array}.npy" not in archive.namelist()]
            if missing:
                raise UserError(
                    f"{path} lacks {', '.join(missing)}: it must hold {', '.join(ARRAYS)}"
                )
            headers = {}
            for array in ARRAYS:
                with archive.open(f"{array}.npy") as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_BYTES:
                    raise UserError(
                        f"{path}: {array} claims shape {shape}, over {MAX_BYTES >> 30} GiB"
                    )
                headers[array] = (shape, dtype)
            return headers
    except DAMAGED as error:
        raise UserError(f"{path} is not an .npz of plain arrays ({error})") from error
