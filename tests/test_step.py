"""The step on fixed memory: replayed, it is the eager one; it never asks the host; learning rates
are each run's own.

No GPU is needed: `Recorded` does with a step what a CUDA graph does, on the CPU. Where there is
a GPU the real graph is held to the same.
"""

import random
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import engine.graph as graph
import engine.optimizer as optimizer_module
import engine.step as step
import train
from config import RunConfig
from engine.cohort import Cohort, Data
from helpers import CONFIG, CPU, half_masks, make_data, of_run, ordered, small_net, states
from utils import shuffled

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    ),
]


class Recorded(TorchDispatchMode):
    """Notes each kernel that work() starts and the memory it reads and writes; replay() starts them
    again on that memory.

    As a CUDA graph would, it knows nothing of Python: a tensor that a step binds anew stays the
    one of the capture. Kernels whose result the host must wait for cannot be captured.
    """

    def __init__(self, work):
        super().__init__()
        self.kernels, self.fresh = [], True
        with self:
            work()

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        if kernel.name() in (
            "aten::_local_scalar_dense",
            "aten::nonzero",
            "aten::masked_select",
            "aten::equal",
            "aten::is_nonzero",
        ):
            raise RuntimeError(f"operation not permitted when stream is capturing: {kernel.name()}")
        result = kernel(*args, **(kwargs or {}))
        self.kernels.append((kernel, args, kwargs or {}, result))
        return result

    def replay(self):
        if self.fresh:  # CUDA does not run what it captures; here it has run
            self.fresh = False
            return
        with torch._C._AutoDispatchBelowAutograd():  # where they were recorded
            for kernel, args, kwargs, result in self.kernels:
                again = kernel(*args, **kwargs)
                for old, new in zip(
                    *([x] if isinstance(x, torch.Tensor) else x or [] for x in (result, again)),
                    strict=True,
                ):
                    if (
                        isinstance(old, torch.Tensor)
                        and old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr()
                    ):
                        old.copy_(new)


@pytest.fixture
def graphs(monkeypatch):
    """Let Replay capture on the CPU, by Recorded; the list of what it captured."""
    captured = []
    monkeypatch.setattr(graph, "GRAPHS", {"cpu", "cuda"})

    def capture(work):
        captured.append(Recorded(work))
        return captured[-1]

    monkeypatch.setattr(graph, "capture", capture)
    return captured


CASES = {
    "adam": {},
    "sgd": {"optimizer": "sgd"},
    "augmented": {"augment": True},
    "bf16": {"precision": "bf16"},
    "online": {
        "attack": "fgsm",
        "attack_mode": "online",
        "norm": "linf",
        "mix_ratio": 0.5,
        "epsilon": 0.1,
        "attack_steps": 1,
    },
    "schedule": {"warmup_steps": 5, "lr_drops": "1", "valid_steps": 1},
}


@pytest.mark.parametrize("runs, density", [(1, 0.5), (1, 0.15), (2, 0.5)])
@pytest.mark.parametrize("case", CASES)
def test_a_replayed_step_is_the_eager_step(case, runs, density, graphs, monkeypatch):
    config = CONFIG.replace(end_iter=4, **CASES[case])
    ends = []
    for devices in (set(), {"cpu"}):
        monkeypatch.setattr(graph, "GRAPHS", devices)
        cohort = Cohort(small_net(), states(runs), half_masks(runs, density), CPU, config.precision)
        fit = train.fit(cohort, make_data(runs), ordered(config, *range(runs)), 0)
        ends.append((cohort.state(), fit.best, fit.rows))
    assert len(graphs) == 2  # the step and the validation
    for eager, replayed in zip(ends[0][:2], ends[1][:2], strict=True):
        assert all(torch.equal(value, replayed[name]) for name, value in eager.items())
    assert ends[0][2] == ends[1][2]


def test_the_recording_finds_a_step_that_binds_its_memory_anew_and_one_that_asks_the_host(graphs):
    count = torch.zeros(1)
    kept = {"total": torch.zeros(1)}

    def rebinds():
        kept["total"] = kept["total"] + 1

    replay = graph.Replay(rebinds, CPU)
    for _ in range(graph.EAGER + 3):
        replay()
    # what a graph would do with it
    assert kept["total"].item() == graph.EAGER + 1 != graph.EAGER + 3
    asks = graph.Replay(lambda: count.add_(1) if count.item() < 100 else None, CPU)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(graph.EAGER + 3):
            asks()
    assert count.item() == graph.EAGER + 3  # it went on without
    assert len(told) == 1 and "without a CUDA graph" in str(told[0].message)


def test_running_out_of_memory_in_a_capture_is_told_as_such(monkeypatch):
    monkeypatch.setattr(graph, "GRAPHS", {"cpu"})

    def capture(work):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("the capture failed due to a previous error")

    monkeypatch.setattr(graph, "capture", capture)
    replay = graph.Replay(lambda: None, CPU)
    with pytest.raises(torch.OutOfMemoryError):
        for _ in range(graph.EAGER + 1):
            replay()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_graph_eager_and_cpu_agree(case, runs, monkeypatch):
    config = CONFIG.replace(**({"end_iter": 3, "optimizer": "sgd"} | CASES[case]))
    ends = []
    for device, devices in (("cpu", set()), ("cuda", set()), ("cuda", {"cuda"})):
        monkeypatch.setattr(graph, "GRAPHS", devices)
        data = make_data(runs)
        data = Data(
            *(
                getattr(data, name).to(device)
                for name in ("images", "labels", "train_index", "val_index")
            )
        )
        cohort = Cohort(
            small_net(), states(runs), half_masks(runs), torch.device(device), config.precision
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a capture that failed
            train.fit(cohort, data, ordered(config, *range(runs)), 0)
        ends.append({name: value.cpu().float() for name, value in cohort.state().items()})
    for name, value in ends[2].items():
        assert torch.allclose(value, ends[1][name], atol=1e-4), name
        assert torch.allclose(
            value, ends[0][name], atol=2e-2 if config.precision == "bf16" else 2e-3
        ), name


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_learning_rates_are_each_runs_own(optimizer):
    rates, data = [0.01, 0.001, 0.001, 0.03], make_data(4)
    configs = [
        CONFIG.replace(optimizer=optimizer, lr=lr, order_seed=run, warmup_steps=3)
        for run, lr in enumerate(rates)
    ]
    cohort = Cohort(small_net(), states(4), half_masks(4, 0.2), CPU)
    train.fit(cohort, data, configs, 0)
    assert optimizer_module.runs_by_rate(configs) == [
        (0.01, slice(0, 1)),
        (0.001, slice(1, 3)),
        (0.03, slice(3, 4)),
    ]
    for run in range(4):
        alone = Cohort(
            small_net(), states(4)[run : run + 1], half_masks(4, 0.2)[run : run + 1], CPU
        )
        train.fit(alone, of_run(data, run), configs[run : run + 1], 0)
        for name, value in alone.state().items():
            assert torch.allclose(value.float(), cohort.state()[name][run].float(), atol=1e-4), name


def test_without_momentum_sgd_is_torchs():
    config = RunConfig.of({}).replace(optimizer="sgd", momentum=0.0, lr=0.1, weight_decay=1e-2)
    net = small_net()
    cohort = Cohort(net, [net.state_dict()], [{}], CPU)
    images, labels = torch.rand(20, 1, 8, 8), torch.randint(0, 3, (20,))
    oracle = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=1e-2)
    mine = optimizer_module.Optimizer(cohort.params, {}, [config])
    cohort.model.train()
    net.train()
    for _ in range(3):
        step.train_step(cohort, images, labels, mine, torch.tensor([0.1]))
        oracle.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        oracle.step()
    assert all(
        torch.allclose(value, cohort.params[name], atol=1e-6)
        for name, value in net.named_parameters()
    )


@pytest.mark.parametrize("device", DEVICES)
def test_shuffled_is_splitmix64_sorted_and_a_permutation(device):
    def splitmix64(seed, count):
        state, numbers = seed, []
        for _ in range(count):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            z = state
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
            z ^= z >> 31
            numbers.append(z - 2**64 if z >= 2**63 else z)
        return numbers

    seeds = [0, 1, random.Random(0).getrandbits(63), 2**63 - 1]
    orders = shuffled(500, seeds, torch.device(device)).tolist()
    for seed, order in zip(seeds, orders, strict=True):
        numbers = splitmix64(seed, 500)
        assert order == sorted(range(500), key=numbers.__getitem__) and sorted(order) == list(
            range(500)
        )


def test_shuffled_puts_every_place_everywhere_equally_often():
    orders = shuffled(10, list(range(20_000)), CPU)
    share = torch.stack([(orders == value).double().mean(0) for value in range(10)])
    assert (share - 0.1).abs().max() < 4.5 * (0.1 * 0.9 / 20_000) ** 0.5
    first, second = orders[:, 0], orders[:, 1]
    assert (first < second).double().mean().item() == pytest.approx(0.5, abs=0.015)
