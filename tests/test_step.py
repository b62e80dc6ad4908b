"""The step: its optimiser is torch's, its learning rates each run's own, its orders random."""

import random

import pytest
import torch

import engine.optimizer as optimizer_module
import engine.step as step
import train
from config import RunConfig
from engine.cohort import Cohort
from helpers import CONFIG, CPU, half_masks, make_data, of_run, small_net, states
from utils import shuffled

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    ),
]


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
