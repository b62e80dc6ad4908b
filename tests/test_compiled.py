"""The compiled step against autograd and torch.optim, and against the torch step of a whole run."""

import builtins
import itertools
import json
import os
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archs
import attacks
import engine.net as net_module
import train
from archs.parts import Normalise
from engine import compiled
from engine.cohort import Cohort, Data
from engine.compiled_step import CompiledStepper
from helpers import CONFIG, CPU, ROOT, go, numbers, of_run, only, ordered, same
from store.files import read_csv

pytest.importorskip("numba")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The compiled kernels."""
    return compiled.kernels(str(tmp_path_factory.mktemp("compiled")))


def chain(widths=(20, 9, 7, 3), bias=True, seed=0, channels=1):
    """A network of linear layers with ReLU between."""
    torch.manual_seed(seed)
    parts = OrderedDict(flatten=nn.Flatten())
    for number, (inside, out) in enumerate(itertools.pairwise(widths)):
        parts[f"fc{number}"] = nn.Linear(inside, out, bias=bias)
        if number < len(widths) - 2:
            parts[f"relu{number}"] = nn.ReLU()
    means = [0.3 + 0.1 * channel for channel in range(channels)]
    return nn.Sequential(
        OrderedDict(normalise=Normalise(means, [0.4] * channels), net=nn.Sequential(parts))
    )


def chain_masks(model, density, seed=0):
    """Random masks; a row of each layer has nothing alive, where anything is pruned."""
    draw = torch.Generator().manual_seed(seed)
    masks = {}
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            masks[name] = torch.rand(weight.shape, generator=draw) < density
            if density < 1:
                masks[name][0] = False
    return masks


def chain_data(runs=1, count=130, held_out=30, shape=(1, 4, 5), seed=7):
    """Random images in three classes, each run's own split."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(count + held_out, *shape, generator=draw)
    labels = torch.randint(0, 3, (count + held_out,), generator=draw)
    order = torch.stack([torch.randperm(len(labels), generator=draw) for _ in range(runs)])
    return Data(images, labels, order[:, :count], order[:, count:])


def chain_cohort(made, density=0.3, runs=1, seed=0, **more):
    """R chains with their masks."""
    nets = [chain(seed=seed + run, **more) for run in range(runs)]
    masks = [chain_masks(net, density, run) for run, net in enumerate(nets)]
    return Cohort(nets[0], [net.state_dict() for net in nets], masks, CPU, made=made)


def near(ours, theirs, tolerance=1e-5, floor=1e-11):
    """Assert that two tensors differ by so little, relative to their length, or less than floor."""
    difference = (ours.double() - theirs.double()).norm()
    assert difference <= tolerance * theirs.double().norm() + floor, difference


# Which networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", archs.ARCHS)
def test_fully_connected_nets_are_known_and_others_are_not(name):
    shape = (3, 32, 32) if "resnet18" in name or "densenet" in name else (1, 28, 28)
    if name in ("vgg16", "densenet121", "resnet18", "deeprobust_resnet18", "alexnet"):
        known = None  # large; the law below is of their kinds of modules
    else:
        model = archs.build(name, shape, 10, ([0.1] * shape[0], [0.3] * shape[0]))
        known = net_module.layers_of(model)
    assert (known is not None) == name.startswith("fc1")
    if known:
        assert [layer.weight for layer in known] == [f"net.fc{n}.weight" for n in (1, 2, 3)]
        assert [layer.bias is None for layer in known] == [name == "fc1_nobias"] * 3


def test_what_is_not_linear_layers_with_relu_between_is_not_taken():
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(20, 20)

        def forward(self, x):
            return x + self.inner(x)

    first, last = ("normalise", Normalise([0.1], [0.3])), nn.Linear(20, 3)
    for module in (Skip(), nn.Tanh(), nn.Dropout(0.1), nn.BatchNorm1d(20), Twice(20, 20)):
        net = nn.Sequential(nn.Flatten(), module, last)
        assert net_module.layers_of(nn.Sequential(OrderedDict([first, ("net", net)]))) is None, (
            module
        )
    for net in (nn.Sequential(last, nn.ReLU()), nn.Sequential(nn.Flatten()), Twice(20, 3)):
        assert net_module.layers_of(nn.Sequential(OrderedDict([first, ("net", net)]))) is None, net
    assert net_module.layers_of(nn.Sequential(nn.Flatten(), last)) is None  # nothing normalises
    assert net_module.layers_of(nn.Sequential(OrderedDict([first, ("net", last)])))


@pytest.mark.parametrize("width", [1, 5, 20, 64])
def test_blocks_hold_each_alive_weight_once_and_in_its_row_and_columns(width):
    mask = chain_masks(chain(), 0.4)["net.fc0.weight"]
    positions, begins = net_module.in_blocks(mask, width)
    assert positions.sort().values.tolist() == mask.reshape(-1).nonzero().squeeze(1).tolist()
    blocks = -(-20 // width)
    assert len(begins) == 9 * blocks + 1 and begins[-1] == len(positions)
    for number in range(9 * blocks):
        part = positions[begins[number] : begins[number + 1]]
        assert (part // 20 == number % 9).all() and (part % 20 // width == number // 9).all()


# A step ----------------------------------------------------------------------------------------

RULES = {
    "adam": {},
    "adam, decay": {"weight_decay": 1e-2},
    "sgd": {"optimizer": "sgd", "momentum": 0.0},
    "sgd, momentum, decay": {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-2},
}


def torch_optimizer(config, parameters):
    """torch.optim's own of these flags."""
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


@pytest.mark.parametrize("batch_size", [1, 37, 64, 100])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.3, 0.55, 0.7, 1.0])
@pytest.mark.parametrize("rule", RULES)
def test_each_step_is_autograds_and_torch_optims(rule, density, batch_size, made):
    """From each state of ours, one step of theirs: both the weights and the loss before it."""
    config = CONFIG.replace(batch_size=batch_size, lr=1e-2, **RULES[rule])
    bias, data = density != 0.1, chain_data()
    cohort = chain_cohort(made, density, bias=bias, seed=3)
    stepper = CompiledStepper(cohort, data, [config])
    theirs = chain(bias=bias).double()
    theirs.load_state_dict(cohort.state())
    optimizer = torch_optimizer(config, theirs.parameters())
    stepper.start(0, 0)
    steps = min(6, stepper.steps - 1)
    for step in [*range(steps), stepper.steps - 1]:  # the last batch is of another size
        if step > steps:
            stepper.go_to(step, stepper.losses[:step].clone())
        before = cohort.state()
        places = slice(step * batch_size, step * batch_size + stepper.sizes[step])
        index = stepper.order[0, places]
        theirs.load_state_dict(before)
        optimizer.zero_grad()
        loss = F.cross_entropy(theirs(data.images[index].double()), data.labels[index])
        loss.backward()
        for name, mask in cohort.masks.items():
            theirs.get_parameter(name).grad *= mask
        optimizer.step()
        stepper.advance(1)
        near(stepper.losses[step, 0], loss.detach())
        for name, value in theirs.named_parameters():
            moved = cohort.params[name].detach() - before[name]
            # a float32 weight has moved to within its rounding, a half of 1.2e-7
            near(moved, value.detach() - before[name], 1e-5, 6e-8 * value.detach().norm())
            near(cohort.params[name].detach(), value.detach())
        for name, mask in cohort.masks.items():
            assert not cohort.params[name][~mask].any()


def test_moments_are_torch_optims(made):
    config, data = CONFIG.replace(lr=1e-2), chain_data()
    cohort, theirs = chain_cohort(made, 0.4), chain().double()
    theirs.load_state_dict(cohort.state())
    stepper, optimizer = CompiledStepper(cohort, data, [config]), None
    optimizer = torch_optimizer(config, theirs.parameters())
    stepper.start(0, 0)
    for step in range(2):
        index = stepper.order[0, step * 50 : (step + 1) * 50]
        optimizer.zero_grad()
        F.cross_entropy(theirs(data.images[index].double()), data.labels[index]).backward()
        for name, mask in cohort.masks.items():
            theirs.get_parameter(name).grad *= mask
        optimizer.step()
        stepper.advance(1)
    state = stepper.optimizer.state()
    for name, weight in theirs.named_parameters():
        near(state["first"][name], optimizer.state[weight]["exp_avg"], 1e-4)
        near(state["second"][name], optimizer.state[weight]["exp_avg_sq"], 1e-4)


@pytest.mark.parametrize("widths", [(20, 3), (20, 1, 3), (20, 130, 65, 40, 17, 3)])
@pytest.mark.parametrize("density", [0.05, 0.25, 1.0])
def test_logits_and_the_images_gradient_are_autograds_at_any_depth(density, widths, made):
    cohort = chain_cohort(made, density, widths=widths)
    theirs = chain(widths=widths)
    theirs.load_state_dict(cohort.state())
    for count in (1, 63, 64, 130):
        ours, right = (torch.rand(count, 1, 4, 5, requires_grad=True) for _ in range(2))
        right.data.copy_(ours.data)
        logits, truth = cohort.logits(ours), theirs(right)
        near(logits, truth)
        weight = torch.randn_like(truth)
        (mine,), (true,) = (
            torch.autograd.grad((weight * out).sum(), x)
            for out, x in ((logits, ours), (truth, right))
        )
        near(mine, true)


def test_colour_images_are_normalised_by_their_channels(made):
    cohort = chain_cohort(made, widths=(3 * 8, 6, 3), channels=3)
    theirs = chain(widths=(3 * 8, 6, 3), channels=3)
    theirs.load_state_dict(cohort.state())
    images = torch.rand(70, 3, 2, 4)
    near(cohort.logits(images), theirs(images))


def test_wide_layers_are_cut_into_blocks(made):
    """Wide enough that a row of a sparse layer has several blocks, the last of them narrower."""
    widths = (net_module.BLOCK * 2 + 31, 40, 3)
    cohort = chain_cohort(made, 0.4, widths=widths)
    assert cohort.nets[0].arrays.layers[0, made.passes.BLOCKS] == 3
    theirs = chain(widths=widths)
    theirs.load_state_dict(cohort.state())
    images = torch.rand(70, 1, 1, widths[0])
    near(cohort.logits(images), theirs(images))


# Rounds ------------------------------------------------------------------------------------------

ROUNDS = {
    "plain": {},
    "schedule": {"warmup_steps": 4, "lr_drops": "2", "valid_steps": 2},
    "augmented": {"augment": True},
    "fgsm": {"attack": "fgsm", "attack_steps": 1},
    "pgd": {"attack": "pgd", "attack_steps": 3, "attack_step_size": 0.02, "restarts": 1},
    "noise": {"attack": "noise", "attack_steps": 1},
}
ONLINE = {"attack_mode": "online", "norm": "linf", "mix_ratio": 0.5, "epsilon": 0.05}


def round_config(case):
    """The flags of a case."""
    flags = ROUNDS[case] | (ONLINE if "attack" in ROUNDS[case] else {})
    return CONFIG.replace(end_iter=3, batch_size=40, **flags)


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("case", ROUNDS)
def test_a_round_is_the_torch_steps(case, density, made):
    """Rounding apart: the same order, schedule, crops and random starts."""
    ends = []
    for kernels in (None, made):
        cohort = chain_cohort(kernels, density)
        fit = train.fit(cohort, chain_data(), [round_config(case)], 0)
        ends.append((cohort.state(), fit))
    for name, value in ends[0][0].items():
        near(ends[1][0][name], value, 1e-3)
    for theirs, ours in zip(ends[0][1].rows[0], ends[1][1].rows[0], strict=True):
        assert (theirs["epoch"], theirs["iteration"]) == (ours["epoch"], ours["iteration"])
        for name in ("train_loss", "val_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)


def test_colour_images_are_cropped_and_flipped(made):
    """Defect: a traceback, since crops of several channels do not lie in one piece."""
    ends = []
    for kernels in (None, made):
        cohort = chain_cohort(kernels, widths=(60, 9, 3), channels=3)
        train.fit(cohort, chain_data(shape=(3, 4, 5)), [round_config("augmented")], 0)
        ends.append(cohort.state())
    for name, value in ends[0].items():
        near(ends[1][name], value, 1e-3)


@pytest.mark.parametrize("case", ["plain", "fgsm"])
def test_a_run_of_a_cohort_is_bit_for_bit_the_run_alone(case, made):
    data, configs = chain_data(3), ordered(round_config(case), 0, 1, 2)
    together = chain_cohort(made, runs=3)
    fit = train.fit(together, data, configs, 0)
    for run in range(3):
        net, masks = chain(seed=run), chain_masks(chain(), 0.3, run)
        alone = Cohort(net, [net.state_dict()], [masks], CPU, made=made)
        one = train.fit(alone, of_run(data, run), configs[run : run + 1], 0)
        assert one.rows[0] == fit.rows[run]
        for name, value in alone.state().items():
            if not name.startswith("normalise"):
                assert torch.equal(value, together.state()[name][run]), name


def test_many_steps_at_once_are_the_steps_one_by_one(made, monkeypatch):
    ends = []
    for at_once in (0, 3e7):
        monkeypatch.setattr(CompiledStepper, "WEIGHTS_AT_ONCE", at_once)
        cohort = chain_cohort(made)
        train.fit(cohort, chain_data(), [round_config("plain")], 0)
        ends.append(cohort.state())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw", "deepfool", "ddn"])
def test_attacks_on_a_compiled_net_are_those_on_torchs(name, made):
    norm, entry = next(iter(attacks.ATTACKS[name].items()))
    values = tuple((parameter, entry.default(parameter, False)) for parameter in entry.defaults)
    settings = attacks.AttackSettings(name, norm, values)
    cohort, theirs = chain_cohort(made, 0.5), chain()
    theirs.load_state_dict(cohort.state())
    images, index = chain_data().images[:40], torch.arange(40).numpy()
    labels = theirs(images).argmax(1)  # all of them are classified correctly
    for ours, right in zip(
        attacks.attack_test_images(cohort.logits, (), settings, images, labels, index),
        attacks.attack_test_images(theirs, (), settings, images, labels, index),
        strict=True,
    ):
        assert torch.allclose(ours.double(), right.double(), rtol=0.02, atol=3)


# Runs ------------------------------------------------------------------------------------------

SMALL = ["--prune_percent=60", "--prune_iterations=4", "--end_iter=4"]


def step_of(folder):
    """What config.json says computed the steps."""
    return json.loads((folder / "config.json").read_text())["provenance"]["step"]


@pytest.mark.slow
def test_a_study_is_equal_to_the_torch_steps_within_seed_noise(tmp_path):
    seeds = ["--seed", "0", "1", "2"]
    for step in ("torch", "compiled"):
        assert go(tmp_path / step, *SMALL, *seeds, f"--step={step}") == 0
    folders = sorted((tmp_path / "torch").iterdir())
    assert step_of(folders[0]) == "torch"
    assert step_of(tmp_path / "compiled" / folders[0].name).startswith("compiled by numba")
    accuracy = {step: [] for step in ("torch", "compiled")}
    for folder in folders:
        for step, found in accuracy.items():
            rows = read_csv(tmp_path / step / folder.name / "rounds.csv")
            found.append([row["test_accuracy"] for row in rows])
    torchs, ours = (torch.tensor(accuracy[step]) for step in ("torch", "compiled"))
    spread = torchs.std(0).clamp_min(0.3)  # of digits one image is 0.28 %
    assert ((torchs.mean(0) - ours.mean(0)).abs() < 3 * spread).all(), accuracy


def test_the_same_command_gives_the_same_numbers(tmp_path):
    flags = ["--prune_percent=60", "--prune_iterations=2", "--end_iter=1"]
    for name in ("a", "b"):
        assert go(tmp_path / name, *flags) == 0
    same(numbers(only(tmp_path / "a")), numbers(only(tmp_path / "b")))


def test_where_it_cannot_be_torch_trains_and_a_line_says_why(tmp_path, small_images, capsys):
    flags = ["--prune_iterations=1", "--end_iter=1", "--step=compiled"]
    where = [f"--data_dir={small_images}", "--dataset=small"]
    assert go(tmp_path / "conv", *flags, *where, "--arch_type=conv2") == 0
    assert step_of(only(tmp_path / "conv")) == "torch"
    told = capsys.readouterr()
    assert told.out.count("--step=compiled cannot be (conv2 is not made of linear layers") == 1
    assert go(tmp_path / "bf16", *flags, *where, "--precision=bf16") == 0
    assert "--step=compiled cannot be (it computes in fp32" in capsys.readouterr().out
    trades = ["--attack=pgd", "--attack_mode=trades", "--attack_steps=1"]
    assert go(tmp_path / "trades", *flags, *where, *trades) == 0
    assert step_of(only(tmp_path / "trades")) == "torch"
    assert "--step=compiled cannot be (it has no loss but" in capsys.readouterr().out


def test_without_numba_all_works_with_a_note(tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] in ("numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    compiled.kernels.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    assert go(tmp_path, "--prune_iterations=1", "--end_iter=1", f"--cache_dir={tmp_path}/c") == 0
    told = capsys.readouterr().out
    assert told.count("the compiled step cannot be used (numba is not installed)") == 1
    compiled.kernels.cache_clear()


def test_kernels_that_compute_something_else_are_not_used(tmp_path, monkeypatch, capsys):
    def wrong(*args):
        raise ArithmeticError("its results differ")

    told = []
    compiled.kernels.cache_clear()
    monkeypatch.setattr(net_module.Net, "push", lambda net: None)  # the step is lost
    assert compiled.kernels(str(tmp_path), told.append) is None
    assert "its results differ from torch's" in told[-1]
    monkeypatch.undo()
    compiled.kernels.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["nbc", "nbi"])
def test_damaged_files_of_the_cache_are_made_again(ending, tmp_path):
    """In a process of its own: in this one the kernels are compiled already."""
    code = "import sys; from engine import compiled; print(compiled.kernels(sys.argv[1]))"
    environment = {**os.environ, "NUMBA_CACHE_DIR": "", "OMP_NUM_THREADS": "1"}

    def load():
        call = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert "module 'engine.kernels'" in done.stdout, done.stdout + done.stderr
        return done.stdout

    assert "compiling the step" in load()
    assert "compiling" not in load()
    for path in tmp_path.glob(f"compiled/*/*/*.{ending}"):
        path.write_bytes(path.read_bytes()[:100])
    assert "is damaged" in load()
    assert "compiling" not in load()


def test_a_cache_that_cannot_be_written_is_said_and_the_step_compiled_all_the_same(
    tmp_path, monkeypatch
):
    told, blocked = [], tmp_path / "file"
    blocked.write_text("")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    compiled.kernels.cache_clear()
    assert compiled.kernels(str(blocked), told.append)
    assert "cannot be written" in told[0] and str(blocked) in told[0]
    compiled.kernels.cache_clear()
