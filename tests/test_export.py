"""Tickets that leave: what others read from the file is the ticket, weight for weight."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import prune

import archs
import engine.forward
import export
import pruning
import results
from config import resolve
from helpers import ROOT
from results import entry, formats
from store.files import load_tensors, save_tensors, write_csv, write_json, write_text
from store.runfolder import ROUND_COLUMNS
from study.request import parse

DENSITIES = (1.0, 0.5, 0.1, 0.05, 0.01)
SIZE = (1, 28, 28), 10  # of digits
PRUNABLE = (nn.Conv2d, nn.Linear)


def random_net(arch, in_shape, classes, stats=None):
    """A network with batch-norm statistics that show, and masks of half its weights."""
    draw = torch.Generator().manual_seed(0)
    net = archs.build(arch, in_shape, classes, stats or ([0.4] * in_shape[0], [0.2] * in_shape[0]))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
    masks = {n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in pruning.ones(net).items()}
    net.load_state_dict(pruning.apply(net.state_dict(), masks))
    return net.eval(), masks


def lay_run(path, *flags, densities=DENSITIES, done=True):
    """A run folder on digits of random weights under nested random masks."""
    config = parse([f"--prune_iterations={len(DENSITIES)}", *flags])[0]
    channels = SIZE[0][0]
    net = archs.build(config.arch_type, *SIZE, ([0.3] * channels, [0.4] * channels))
    score = {name: torch.rand(mask.shape) for name, mask in pruning.ones(net).items()}
    write_json(path / "config.json", {"flags": config.flags()})
    save_tensors(path / "theta0.safetensors", net.state_dict())
    rows = []
    for number, density in enumerate(densities):
        masks = {name: value <= density for name, value in score.items()}
        save_tensors(path / f"masks/round_{number:02}.safetensors", masks)
        state = pruning.apply(net.state_dict(), masks)
        save_tensors(path / f"weights/round_{number:02}.safetensors", state)
        kept, total = pruning.counts(masks)
        row = dict.fromkeys(ROUND_COLUMNS, 1) | {"round": number, "kept": kept, "total": total}
        rows.append(row | {"density": kept / total, "test_accuracy": 90 + number})
    write_csv(path / "rounds.csv", rows)
    if done:
        write_text(path / "DONE", "")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A laid run that nothing changes."""
    return lay_run(tmp_path_factory.mktemp("laid") / "run")


@pytest.fixture
def run(made, monkeypatch):
    """That run, exported without timing it."""
    monkeypatch.setattr(engine.forward, "kernels", lambda *_: None)
    return made


def leave(*words):
    """export.py in this process; its exit code."""
    return export.main([*map(str, words)])


def same(one, other):
    """Assert that two state_dicts are equal, bit for bit."""
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


# Formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "load"), [("t.pt", torch.load), ("t.safetensors", load_file)])
def test_dense_is_the_network_with_zeros(run, tmp_path, name, load):
    assert leave(f"{run}@2", "-o", tmp_path / name) == 0
    net, masks, _ = results.load_ticket(run, 2)
    state = load(tmp_path / name)
    same(state, net.state_dict())
    assert all(not state[name][~mask].any() for name, mask in masks.items())
    archs.build("fc1", *SIZE, ([0.0], [1.0])).load_state_dict(state, strict=True)


@pytest.mark.parametrize("how", ["identity", "custom_from_mask"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_masked_is_what_torch_prune_has(run, tmp_path, how, suffix):
    path = tmp_path / f"masked{suffix}"
    assert leave(f"{run}@2", "-o", path, "--format=masked") == 0
    net, masks, _ = results.load_ticket(run, 2)
    theirs = archs.build("fc1", *SIZE, ([0.0], [1.0]), seed=9)
    modules = [module for module in theirs.modules() if isinstance(module, PRUNABLE)]
    for module, mask in zip(modules, masks.values(), strict=True):
        if how == "identity":
            prune.identity(module, "weight")
        else:
            prune.custom_from_mask(module, "weight", mask)
    state = load_file(path) if suffix == ".safetensors" else torch.load(path)
    for name, value in theirs.state_dict().items():
        assert state[name].dtype == value.dtype, name
    theirs.load_state_dict(state, strict=True)
    images = torch.rand(5, 1, 28, 28)
    assert torch.equal(theirs(images), net(images))
    for module in modules:
        prune.remove(module, "weight")
    same(theirs.state_dict(), net.state_dict())


def test_the_lines_that_are_printed_load_the_file(run, tmp_path, capsys):
    net = results.load_ticket(run, 3)[0]
    for kind in ("dense", "masked"):
        assert leave(f"{run}@3", "-o", tmp_path / f"{kind}.pt", f"--format={kind}") == 0
        told = [line[2:] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "][1:]
        names = {}
        exec("\n".join(told), names)
        images = torch.rand(3, 1, 28, 28)
        assert torch.equal(names["net"](images), net(images))


SMALL = [("fc1", (1, 8, 8)), ("lenet5", (1, 12, 12)), ("resnet20", (3, 16, 16))]
LARGE = [(arch, (3, 32, 32)) for arch in ("resnet18", "vgg16", "alexnet", "deeprobust_resnet18")]


@pytest.mark.parametrize(
    ("arch", "in_shape"),
    [*SMALL, *(pytest.param(*pair, marks=pytest.mark.slow, id=pair[0]) for pair in LARGE)],
)
def test_onnx_computes_what_torch_does(arch, in_shape):
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    net, _ = random_net(arch, in_shape, 7)
    content = formats.to_onnx(net, in_shape)
    assert str(ROOT).encode() not in content
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    for count in (1, 3):  # the batch is of any size
        images = torch.rand(count, *in_shape)
        (logits,) = ReferenceEvaluator(model).run(None, {"images": images.numpy()})
        assert torch.allclose(torch.from_numpy(logits), net(images), rtol=1e-4, atol=1e-4)


def test_plain_pooling_is_the_adaptive_one():
    row, plain = torch.rand(1, 1, 60), 0
    for size in range(1, 12):
        for count in range(1, size + 2):
            found = formats.window(size, count)
            if found:
                mine = nn.functional.avg_pool1d(row[..., :size], *found)
                right = nn.functional.adaptive_avg_pool1d(row[..., :size], count)
                assert torch.allclose(mine, right), (size, count)
            plain += found is not None
            assert size % count or found
    assert formats.window(3, 2) and formats.window(5, 3) is None and plain > 30


@pytest.mark.parametrize(
    ("arch", "in_shape"),
    [("resnet18", (3, 32, 32)), ("vgg16", (1, 28, 28)),
     pytest.param("vgg16", (3, 32, 32), marks=pytest.mark.slow),
     pytest.param("densenet121", (3, 32, 32), marks=pytest.mark.slow),
     pytest.param("alexnet", (1, 28, 28), marks=pytest.mark.slow)],
)  # fmt: skip
def test_torchvision_computes_the_same_once_normalised(arch, in_shape):
    import torchvision

    net, _ = random_net(arch, in_shape, 7)
    state, lines = formats.for_torchvision(arch, net, 7)
    names = {"torch": torch, "torchvision": torchvision}
    with torch.device("meta"):  # drawing weights that are replaced takes seconds
        exec("\n".join(lines), names)
    theirs = names["net"].eval()
    theirs.load_state_dict(state, strict=True, assign=True)
    assert type(theirs).__module__.startswith("torchvision.models")
    images, stats = torch.rand(2, *in_shape), formats.normalisation(net)
    normalised = torchvision.transforms.Normalize(*stats)(images)
    assert torch.allclose(theirs(normalised), net(images), rtol=1e-4, atol=1e-4)


def test_torchvision_differs_in_its_stem_alone():
    net, masks = random_net("resnet18", (3, 32, 32), 10)
    _, lines = formats.for_torchvision("resnet18", net, 10)
    assert [line.split(" = ")[0] for line in lines] == ["net", "net.conv1", "net.maxpool"]
    config = parse(["--arch_type=resnet18", "--dataset=cifar10"])[0]
    ticket = export.Leaving("run", None, config, [], 0, net, masks, ((3, 32, 32), 10))
    told = "\n".join(export.as_torchvision(ticket)[1])
    assert "resnet18, of large images, differs in conv1, maxpool and does not take it" in told
    assert "Normalize([0.4, 0.4, 0.4], [0.2, 0.2, 0.2])" in told


# What is printed -------------------------------------------------------------------------------


def test_what_is_said_of_a_ticket(made, tmp_path, capsys):
    """Its numbers are those of the tables and of the file; the forward pass is timed."""
    path = tmp_path / "t.pt"
    assert leave(made, "-o", path) == 0  # without a round: the last
    told = capsys.readouterr().out
    assert "round 4 (fc1 on digits, lt, seed 0)" in told and "test 94 %" in told
    assert f"{path.stat().st_size:,} bytes" in told and "with gzip" in told
    assert "nothing smaller or faster" in told and "times as fast" in told


def test_compressed_is_what_gzip_and_xz_make(tmp_path):
    import gzip
    import lzma

    path = tmp_path / "file"
    path.write_bytes(torch.rand(100_000).numpy().tobytes() + bytes(1_500_000))
    sizes, content = export.compressed(path), path.read_bytes()
    assert sizes["xz -1"] == len(lzma.compress(content, preset=1))
    assert abs(sizes["gzip"] - len(gzip.compress(content, 6))) < 100


def test_weights_of_the_last_epoch_have_its_accuracy(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engine.forward, "kernels", lambda *_: None)
    run = lay_run(tmp_path / "run", "--save_weights=last")
    assert leave(f"{run}@1", "-o", tmp_path / "t.pt") == 0
    told = capsys.readouterr().out
    assert "accuracy: test_accuracy_last 1 %" in told and "91 %" not in told


# Which ticket ----------------------------------------------------------------------------------


def test_a_folder_with_an_at_in_its_name(run, tmp_path):
    for name, number in (("a@home", 1), ("run@3", 2)):
        place = shutil.copytree(run, tmp_path / name)
        for words, right in ((place, 4), (f"{place}@{number}", number)):
            assert leave(words, "-o", tmp_path / "t.pt", "--force") == 0
            same(torch.load(tmp_path / "t.pt"), results.load_ticket(run, right)[0].state_dict())


def test_an_unfinished_run_leaves_up_to_its_last_round(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engine.forward, "kernels", lambda *_: None)
    run = lay_run(tmp_path / "run", densities=DENSITIES[:2], done=False)
    assert leave(run, "-o", tmp_path / "t.pt") == 0
    told = capsys.readouterr().out
    assert f"note: {run} is unfinished: 2 of 5 rounds" in told and "round 1 (" in told


def test_theta0_of_the_zoo(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engine.forward, "kernels", lambda *_: None)
    words = ["zoo:mnist-fc1-clean@13", "-o", tmp_path / "t.pt", f"--cache_dir={tmp_path / 'c'}"]
    assert leave(*words) == 2
    assert "add --weights=theta0" in capsys.readouterr().err
    assert leave(*words, "--weights=theta0") == 0
    where = {"weights": "theta0", "cache_dir": tmp_path / "c"}
    net, _, _ = results.load_ticket("zoo:mnist-fc1-clean", 13, **where)
    same(torch.load(tmp_path / "t.pt"), net.state_dict())


# An entry of the benchmark ---------------------------------------------------------------------


def test_an_entry_has_three_tickets_and_says_what_it_lacks(run, tmp_path, capsys):
    run = shutil.copytree(run, tmp_path / "run")
    rows = [{"round": n, "density": 1, "autoattack": 50 + n} for n in range(len(DENSITIES))]
    for name in ("autoattack-100", "pgd+autoattack-500", "autoattack-900-epsilon0.5"):
        write_csv(run / f"attacked_evaluation-{name}.csv", rows)
        rows = [row | {"autoattack": row["autoattack"] + 10} for row in rows]
    out = tmp_path / "entry"
    assert leave(run, "-o", out, "--format=benchmark") == 0
    told, made = capsys.readouterr().out, json.loads((out / "entry.json").read_text())
    assert [one["round"] for one in made["checkpoints"]] == [2, 3, 4]
    assert [one["clean_accuracy"] for one in made["checkpoints"]] == [92, 93, 94]
    # the evaluation of the most images, at the run's own radius
    assert [one["autoattack_accuracy"] for one in made["checkpoints"]] == [62, 63, 64]
    assert {one["autoattack_images"] for one in made["checkpoints"]} == {500}
    assert {one["autoattack_epsilon"] for one in made["checkpoints"]} == {0.3}
    assert all(one["ho_fmn_accuracy"] is None for one in made["checkpoints"])
    assert "not fc1 on digits" in told and "HO-FMN" in told and "attacks.py evaluate" not in told
    mean, std = made["normalisation_needed"]["mean"], made["normalisation_needed"]["std"]
    assert mean == pytest.approx([0.3]) and std == pytest.approx([0.4])
    for one in made["checkpoints"]:
        net, _, _ = results.load_ticket(run, one["round"])
        same(torch.load(out / one["file"]), net.net.state_dict())
    for path in run.glob("attacked_evaluation-*"):
        path.unlink()
    assert leave(run, "-o", out, "--format=benchmark") == 2
    assert leave(run, "-o", out, "--format=benchmark", "--force") == 0
    assert f"attacks.py evaluate {run} --attacks autoattack" in capsys.readouterr().out


def test_a_resnet18_fits_the_network_for_cifar():
    """DeepRobust's, whose names and layers are those of the benchmark's base network."""
    net, _ = random_net("resnet18", (3, 32, 32), 10)
    state, network, why = entry.checkpoint("resnet18", net, (3, 32, 32), 10)
    theirs = archs.make("deeprobust_resnet18", (3, 32, 32), 10).eval()
    theirs.load_state_dict(state, strict=True)
    images = torch.rand(2, 3, 32, 32)
    logits = theirs(net.normalise(images))
    assert torch.allclose(logits, net(images), rtol=1e-4, atol=1e-4)
    assert network == ["base_resnet18"] and not why


# What cannot be --------------------------------------------------------------------------------

REFUSED = {
    "no round": (["{run}@9", "-o", "t.pt"], "has rounds 0 to 4, and no round 9"),
    "no run": (["nowhere", "-o", "t.pt"], "nowhere is not a run folder"),
    "no run with a round": (["nowhere@2", "-o", "t.pt"], "nowhere is not a run folder"),
    "foreign": ([".", "-o", "t.pt"], ". is not a run folder"),
    "there": (["{run}", "-o", "there.pt"], "there.pt is there already: name another, or add"),
    "suffix": (["{run}", "-o", "t.onnx"], "--format=dense ends in .pt or .pth or .safetensors"),
    "onnx suffix": (["{run}", "-o", "t.pt", "--format=onnx"], "--format=onnx ends in .onnx"),
    "no suffix": (["{run}", "-o", "t"], "ends in .pt"),
    "folder": (["{run}", "-o", "folder.pt"], "folder.pt is a folder"),
    "file": (["{run}", "-o", "there.pt", "--format=benchmark"], "there.pt is a file"),
    "below a file": (["{run}", "-o", "there.pt/t.pt"], "-o there.pt/t.pt cannot be written (Not a"),
    "entry there": (["{run}", "-o", "there.pt/t", "--format=benchmark"], "cannot be written (Not"),
    "nowhere": (["{run}", "-o", "/proc/t.pt"], "-o /proc/t.pt cannot be written"),
    "no output": (["{run}"], "required: -o/--output"),
    "format": (["{run}", "-o", "t.pt", "--format=tf"], "invalid choice: 'tf'"),
    "flag": (["{run}", "-o", "t.pt", "--fromat=onnx"], "did you mean '--format'?"),
    "empty": (["", "-o", "t.pt"], "a value is needed"),
    "torchvision": (["{run}", "-o", "t.pt", "--format=torchvision"], "fc1, so it can never fit"),
    "zoo": (["zoo:mnist-fc1-claen", "-o", "t.pt"], "did you mean 'mnist-fc1-clean'?"),
    "zoo round": (["zoo:mnist-fc1-clean@99", "-o", "t.pt", "--weights=theta0"], "and no round 99"),
    "entry round": (["{run}@2", "-o", "t", "--format=benchmark"], "leave @ROUND out"),
    "entry theta0": (
        ["{run}", "-o", "t", "--format=benchmark", "--weights=theta0"],
        "leave --weights out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(run, tmp_path, monkeypatch, capsys, case):
    words, says = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    write_text("there.pt", "mine")
    (tmp_path / "folder.pt").mkdir()
    assert leave(*(word.replace("{run}", str(run)) for word in words)) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    left = {path.name for path in tmp_path.iterdir()} - {"cache"}
    assert left == {"there.pt", "folder.pt"} and (tmp_path / "there.pt").read_text() == "mine"


def test_without_onnx(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert leave(run, "-o", tmp_path / "t.onnx", "--format=onnx") == 2
    error = capsys.readouterr().err
    assert "--format=onnx needs the package onnx" in error and "pip install onnx" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


def spoil(path):
    """Damage a file in its middle."""
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])


DAMAGE = {
    "weights": (lambda run: spoil(run / "weights/round_04.safetensors"), "cannot be read"),
    "masks": (lambda run: spoil(run / "masks/round_04.safetensors"), "cannot be read"),
    "mask": (
        lambda run: shutil.copy(
            run / "masks/round_03.safetensors", run / "masks/round_04.safetensors"
        ),
        "not the mask that the run's tables tell of",
    ),
    "rounds": (lambda run: spoil(run / "rounds.csv"), "rounds.csv is damaged"),
    "config": (lambda run: spoil(run / "config.json"), "is not a run folder"),
    "none yet": (lambda run: (run / "rounds.csv").unlink(), "no finished round yet"),
    "not kept": (
        lambda run: shutil.rmtree(run / "weights"),
        "keeps no trained weights of round 4: train it with --save_weights=best, or add",
    ),
    "another net": (
        lambda run: save_tensors(
            run / "weights/round_04.safetensors", {"net.fc1.weight": torch.ones(2, 2)}
        ),
        "is not of the run's network",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged(run, tmp_path, capsys, case):
    damage, says = DAMAGE[case]
    place = shutil.copytree(run, tmp_path / "run")
    damage(place)
    assert leave(place, "-o", tmp_path / "t.pt") == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "t.pt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_too_few_rounds_for_an_entry(tmp_path, capsys):
    run = lay_run(tmp_path / "run", densities=DENSITIES[:3])
    assert leave(run, "-o", tmp_path / "entry", "--format=benchmark") == 2
    assert "is the nearest to both 90 and 95 %" in capsys.readouterr().err
    assert not (tmp_path / "entry").exists()


def test_a_file_replaced_by_force_is_whole(run, tmp_path):
    write_text(tmp_path / "t.pt", "mine")
    assert leave(f"{run}@1", "-o", tmp_path / "t.pt", "--force", "--weights=theta0") == 0
    masks = load_tensors(run / "masks/round_01.safetensors")
    theta0 = load_tensors(run / "theta0.safetensors")
    same(torch.load(tmp_path / "t.pt"), pruning.apply(theta0, masks))


def test_an_entry_tells_autoattack_at_the_benchmarks_radius(tmp_path):
    """Defect: a run on CIFAR-10 was entered at its own radius, 0.01, and the entry named none."""
    config = resolve({"dataset": "cifar10", "attack": "fgsm", "mix_ratio": 0.0, "epsilon": 0.01},
                     (3, 32, 32))  # fmt: skip
    for shown, accuracy in {"": 85, "-epsilon0.0313725": 80, "-epsilon0.3": 0}.items():
        rows = [{"round": 4, "density": 0.1, "autoattack": accuracy}]
        write_csv(tmp_path / f"attacked_evaluation-autoattack-20{shown}.csv", rows)
    assert entry.autoattacked(tmp_path, config, True) == {4: (80, 20)}
    same = config.replace(epsilon=8 / 255)  # at its own radius, which is the benchmark's
    (tmp_path / "attacked_evaluation-autoattack-20-epsilon0.0313725.csv").unlink()
    assert entry.autoattacked(tmp_path, same, True) == {4: (85, 20)}
    assert entry.autoattacked(tmp_path, config, True) == {}
    (command, *_) = entry.to_do("runs/a", {90: ("file", {"round": 4})}, {}, entry.EPSILON)
    assert "--epsilon=8/255" in command
