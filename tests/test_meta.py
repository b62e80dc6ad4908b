"""The step, the evaluation and the attacks as a GPU would run them, on devices that hold no values.

On torch's meta device whatever asks for a value fails, so nothing waits for the host. Under
FakeTensorMode the device is called cuda, and kernels refuse tensors of two devices. What both let
pass, an index or a copy from the CPU, which make a GPU wait, `OneDevice` refuses.
"""

import copy
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import archs
import attacks
import pruning
import train
from attacks import ATTACKS, AttackSettings
from engine.adversarial import Validation, against
from engine.cohort import Cohort
from engine.step import Stepper
from helpers import CONFIG, CPU, half_masks, make_data, ordered, small_net, states

COPIES = {"aten::copy_", "aten::_to_copy"}


class OneDevice(TorchDispatchMode):
    """Refuses a kernel that takes a tensor of another device; one number may be the CPU's."""

    def __init__(self, device):
        super().__init__()
        self.device, self.kernels = device, 0

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        self.kernels += 1
        one = kernel.name() not in COPIES  # a copy waits even for one number
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor) and not (one and tensor.dim() == 0):
                assert tensor.device.type == self.device, f"{kernel.name()} takes {tensor.device}"
        result = kernel(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.dim():
                assert tensor.device.type == self.device, f"{kernel.name()} makes {tensor.device}"
        return result


@pytest.fixture(params=["meta", "cuda"])
def device(request, monkeypatch):
    """A device without values, and stand-ins for what cannot run there: the fused optimisers, and
    autograd on a cuda that is not there.
    """

    def fused(*lists, lr, **settings):
        for tensor in tree_leaves((lists, [] if isinstance(lr, float) else lr)):
            assert tensor.device.type == request.param and tensor.dtype == torch.float32

    for name in ("_fused_adam_", "_fused_sgd_"):
        monkeypatch.setattr(torch, name, fused)
    if request.param == "meta":
        yield "meta"
        return
    with FakeTensorMode():
        try:
            torch.empty(2, device="cuda")[:1]
        except RuntimeError as error:  # torch 2.9 does
            pytest.skip(f"this torch wants a driver for it: {str(error).splitlines()[0]}")
        monkeypatch.setattr(
            torch.autograd,
            "grad",
            lambda of, inputs, **_: [torch.empty_like(x) for x in tree_leaves(inputs)],
        )
        yield "cuda"


@pytest.fixture
def there(device, monkeypatch):
    """A function of an object made on the CPU: the same with its tensors on the device.

    They are moved once whatever names them, as parameters that a module and a cohort share.
    """

    def moved(tensor, memo):
        if id(tensor) not in memo:
            like = {"dtype": tensor.dtype, "device": device}
            new = torch.empty_strided(tensor.shape, tensor.stride(), **like)
            memo[id(tensor)] = new.requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]

    def move(thing):
        with monkeypatch.context() as patch:
            for kind in (torch.Tensor, torch.nn.Parameter):
                patch.setattr(kind, "__deepcopy__", moved)
            return copy.deepcopy(thing)

    return move


def stepper_on_cpu(configs, make=small_net, density=1, shape=(1, 8, 8)):
    """A Stepper of a network a configuration and its Validation, if it trains against attacks, made
    where setting up may ask for values.
    """
    runs = len(configs)
    with unset_fake_temporarily():
        masks = half_masks(runs, density) if density < 1 else [pruning.ones(make())] * runs
        cohort = Cohort(make(), states(runs, make), masks, CPU)
        data = make_data(runs, shape=shape)
        stepper = Stepper(cohort, data, configs, **against(cohort, configs[0]))
        return stepper, Validation(cohort, data, configs) if configs[0].adversarial else None


def train_and_validate(stepper, attacked, device):
    """A full step, a short one and a validation."""
    with OneDevice(device) as watch:
        stepper.cohort.model.train()
        stepper.step()
        stepper.step(7)
        loss, accuracy = train.validate(stepper.cohort, stepper.data, attacked)
    assert watch.kernels > 50
    assert loss.shape == accuracy.shape == (stepper.cohort.size,)
    assert {tensor.device.type for tensor in stepper.written()} == {device}


CASES = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "momentum": 0.9},
    "rates": {},
    "augmented": {"augment": True},
    "fgsm": {"attack": "fgsm"},
    "pgd": {"attack": "pgd", "attack_steps": 2, "attack_step_size": 0.05, "restarts": 2},
    "ddn": {"attack": "ddn", "norm": "l2", "attack_steps": 2},
    "trades": {"attack_mode": "trades", "attack": "pgd", "attack_steps": 2, "restarts": 1}
    | {"attack_step_size": 0.05},
}


@pytest.mark.parametrize("runs, density", [(1, 0.5), (1, 0.1), (2, 0.5), (2, 0.1)])
@pytest.mark.parametrize("case", CASES)
def test_a_step_and_a_validation_neither_wait_nor_leave_the_device(
    case, runs, density, device, there
):
    settings, online = CASES[case], "attack" in CASES[case]
    if online:
        settings = {"attack_mode": "online", "norm": "linf", "mix_ratio": 0.5, "epsilon": 0.1}
        settings |= CASES[case]
    configs = ordered(CONFIG.replace(**settings), *range(runs))
    if case == "rates":  # each run its own
        configs = [config.replace(lr=0.1 / (run + 1)) for run, config in enumerate(configs)]
    train_and_validate(*there(stepper_on_cpu(configs, density=density)), device)


LARGE = ("alexnet", "vgg16", "resnet18", "densenet121")


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(
    "arch", [pytest.param(arch, marks=[pytest.mark.slow] * (arch in LARGE)) for arch in archs.ARCHS]
)
def test_every_network_steps_and_validates_on_the_device(arch, runs, device, there):
    shape = (3, 32, 32) if arch == "deeprobust_resnet18" else (1, 28, 28)
    with unset_fake_temporarily():
        if runs > 1 and archs.has_dropout(arch, shape, 10):
            pytest.skip("a network with dropout trains alone")

        def make():
            return archs.build(arch, shape, 10, ([0.5] * shape[0], [0.3] * shape[0]))

    train_and_validate(*there(stepper_on_cpu([CONFIG] * runs, make, shape=shape)), device)


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize(
    "attack, norm", [(name, norm) for name, norms in ATTACKS.items() for norm in norms]
)
def test_an_attack_neither_waits_nor_leaves_the_device(
    attack, norm, runs, device, there, monkeypatch
):
    """But where cw and deepfool ask which images are still open, to leave out the others."""
    cohort = there(stepper_on_cpu([CONFIG] * runs))[0].cohort
    cohort.model.eval()
    entry, asked = ATTACKS[attack][norm], []

    def still_open(done):
        asked.append(attack)
        return torch.arange(done.shape[-1], device=device)

    monkeypatch.setattr(attacks, "still_open", still_open)
    values = {name: entry.default(name, False) for name in entry.defaults}
    values |= {"attack_steps": 2} if "attack_steps" in values else {}
    settings = AttackSettings(attack, norm, tuple(values.items()))
    lead = (runs,) if runs > 1 else ()
    images = torch.empty(*lead, 6, 1, 8, 8, device=device)
    labels = torch.empty(*lead, 6, dtype=torch.long, device=device)
    with OneDevice(device):
        attacked = entry.make(
            cohort.logits, images, labels, settings, lambda _: torch.rand(6, 1, 8, 8, device=device)
        )
    assert attacked.shape == images.shape and attacked.device.type == device
    assert bool(asked) == (attack in ("cw", "deepfool"))


def test_what_would_make_a_gpu_wait_is_refused(device):
    values, index = torch.empty(5, device=device), torch.empty(2, dtype=torch.long, device=device)
    with unset_fake_temporarily():
        here = torch.arange(2)
    asks = [
        lambda: values.sum().item(),
        lambda: values.nonzero().shape[0] + 1,
        lambda: values[values > 0],
        lambda: 1 if values.sum() > 0 else 0,
    ]
    for ask in asks:
        with pytest.raises((RuntimeError, NotImplementedError)):
            ask()
    crosses = [
        lambda: values[here],
        lambda: values[:2].copy_(here),
        lambda: torch.arange(3),
        lambda: values.to("cpu"),
        lambda: torch.cat([values, here]),
    ]
    for cross in crosses:
        with OneDevice(device), pytest.raises((AssertionError, RuntimeError)):
            cross()
    with OneDevice(device):
        assert math.isclose((values[index] * 2.5).numel(), 2)
