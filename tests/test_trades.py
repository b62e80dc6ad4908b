"""TRADES (Zhang et al. 2019): its loss is the paper's, its search stays within epsilon and raises
the divergence, and nets that train by it are robuster.
"""

import copy

import pytest
import torch
from torch import nn

import train
from config import attack_settings
from engine.adversarial import Trades, farthest
from engine.cohort import Cohort
from helpers import (
    CONFIG,
    CPU,
    dense_cohort,
    go,
    half_masks,
    make_data,
    only,
    ordered,
    small_net,
    states,
)
from store.files import read_csv

FLAGS = {"attack": "pgd", "attack_mode": "trades", "norm": "linf", "restarts": 1, "epsilon": 0.1}
TRADES = CONFIG.replace(
    **FLAGS, attack_steps=5, attack_step_size=0.03, mix_ratio=1.0, trades_beta=6.0
)
SETTINGS = attack_settings(TRADES, "pgd", False)


def plain_net():
    """Without batch-norm, and sure enough of itself for the divergence to be large."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 3))
    nn.init.normal_(net[3].weight)
    return net


def some_images(count=20):
    """(images, labels) of classes at random."""
    torch.manual_seed(5)
    return torch.rand(count, 1, 8, 8), torch.arange(count) % 3


def by_hand(net, images, labels, count, noise, last=lambda p, q: (p, q)):
    """The loss of the paper in float64, step by step, and its gradients by every parameter.

    last: changes the two sides of the divergence in the loss itself.
    """
    net, x = copy.deepcopy(net).double(), images.double()

    def apart(clean, moved, sides=lambda p, q: (p, q)):
        p, q = sides(net(clean).softmax(1), net(moved).softmax(1))
        return (p * (p / q).log()).sum()

    part = x[:count]
    moved = part + 0.001 * noise.double()
    for _ in range(TRADES.attack_steps):
        moved = moved.detach().requires_grad_()
        (slope,) = torch.autograd.grad(apart(part, moved), moved)
        moved = moved.detach() + TRADES.attack_step_size * slope.sign()
        moved = torch.min(torch.max(moved, part - TRADES.epsilon), part + TRADES.epsilon)
        moved = moved.clamp(0, 1)
    clean = -net(x).softmax(1)[torch.arange(len(x)), labels].log().mean()
    loss = clean + TRADES.trades_beta * apart(part, moved, last) / len(x)
    return loss.detach(), torch.autograd.grad(loss, list(net.parameters()))


def distance(ours, theirs):
    """Of two lists of gradients, relative to the second."""
    ours, theirs = (
        torch.cat([part.flatten().double() for part in both]) for both in (ours, theirs)
    )
    return (ours - theirs).norm() / theirs.norm()


@pytest.mark.parametrize("mix_ratio", [1.0, 0.5])
def test_the_loss_and_its_gradients_are_the_papers(mix_ratio):
    (images, labels), net = some_images(), plain_net()
    cohort, count = Cohort(net, [net.state_dict()], [{}], CPU), round(20 * mix_ratio)
    torch.manual_seed(9)
    noise = torch.randn(count, 1, 8, 8)
    expected, slopes = by_hand(net, images, labels, count, noise)
    torch.manual_seed(9)
    found = Trades(cohort, TRADES.replace(mix_ratio=mix_ratio))(images, labels)
    # a gradient next to 0 may have another sign in fp32, and that pixel another step
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    mine = torch.autograd.grad(found, list(cohort.params.values()))
    assert distance(mine, slopes) < 0.01
    # and of no other reading of it: the other direction, a side without gradient, no second term
    for last in (
        lambda p, q: (q, p),
        lambda p, q: (p.detach(), q),
        lambda p, q: (p, q.detach()),
        lambda p, q: (p, p),
    ):
        assert distance(mine, by_hand(net, images, labels, count, noise, last)[1]) > 0.05


def test_the_search_stays_within_its_bounds_and_raises_the_divergence():
    (images, _), net = some_images(200), plain_net()
    images[:40], images[40:80] = 0, 1  # pixels at both ends
    noise = torch.randn(images.shape)

    def apart(moved):
        with torch.no_grad():
            p, q = net(images).log_softmax(1), net(moved).log_softmax(1)
        return (p.exp() * (p - q)).sum(1)

    moved = farthest(net, images, SETTINGS, noise)
    assert (moved - images).abs().max() <= TRADES.epsilon + 1e-6
    assert moved.min() >= 0 and moved.max() <= 1
    control = (images + TRADES.epsilon * noise.sign()).clamp(0, 1)
    assert (apart(moved) > apart(images + 0.001 * noise)).all()
    assert (apart(moved) >= apart(control)).float().mean() > 0.99
    assert apart(moved).mean() > 5 * apart(control).mean()


@pytest.mark.parametrize("flags", [{"trades_beta": 0.0}, {"mix_ratio": 0.0}], ids=str)
@pytest.mark.parametrize("runs", [1, 2])
def test_without_its_second_term_it_is_clean_training_bit_for_bit(runs, flags):
    ends = []
    for config in (CONFIG, TRADES.replace(**flags)):
        cohort = Cohort(small_net(), states(runs), half_masks(runs), CPU)
        fit = train.fit(cohort, make_data(runs), ordered(config, *range(runs)), 0)
        losses = [[row["train_loss"] for row in rows] for rows in fit.rows]
        ends.append((cohort.state(), losses, torch.get_rng_state()))
    assert all(torch.equal(value, ends[1][0][name]) for name, value in ends[0][0].items())
    assert ends[0][1] == ends[1][1] and torch.equal(ends[0][2], ends[1][2])


def test_the_attack_is_in_eval_mode_and_the_loss_in_train_mode():
    """Batch-norm counts two batches a loss, the clean and the moved one, whatever the steps."""
    cohort, (images, labels) = dense_cohort(), some_images()
    cohort.model.train()
    for steps in (1, 7):
        before = cohort.state()["1.num_batches_tracked"]
        Trades(cohort, TRADES.replace(attack_steps=steps))(images, labels)
        assert cohort.model.training
        assert cohort.state()["1.num_batches_tracked"] == before + 2


def test_one_image_in_a_batch_may_have_the_second_term():
    """Batch-norm would refuse an image alone."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    cohort, (images, labels) = Cohort(net, [net.state_dict()], [{}], CPU), some_images()
    cohort.model.train()
    assert torch.isfinite(Trades(cohort, TRADES.replace(mix_ratio=0.05))(images, labels))


@pytest.mark.slow
def test_a_net_trained_by_it_is_robuster_under_pgd(tmp_path):
    flags = ["--prune_iterations=2", "--prune_percent=50", "--end_iter=6", "--lr=0.003"]
    flags += ["--eval_attacks=pgd", "--eval_examples=150", "--epsilon=0.15", "--attack=pgd"]
    flags += ["--attack_steps=3", "--attack_step_size=0.06"]
    assert go(tmp_path / "clean", *flags, "--attack_mode=online", "--mix_ratio=0") == 0
    assert go(tmp_path / "trades", *flags, "--attack_mode=trades") == 0
    clean, trades = (read_csv(only(tmp_path / n) / "rounds.csv") for n in ("clean", "trades"))
    for before, after in zip(clean, trades, strict=True):
        assert after["whitebox_pgd_accuracy"] > before["whitebox_pgd_accuracy"] + 10
        assert after["test_accuracy"] > 80
