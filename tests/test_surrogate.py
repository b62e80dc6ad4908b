"""The surrogate: its networks, a stop while it trains or attacks, what is said meanwhile."""

import re
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import archs
import attacks
from attacked import cache as attacked_cache
from attacked import progress as attacked_progress
from attacked import training
from attacked.levels import to_float
from config import attack_settings
from engine.place import Keeper
from engine.signals import Interrupted, stop
from helpers import CPU
from study.request import parse

FLAGS = ["--dataset=digits_fgsm_attack", "--surrogate=fc1", "--surrogate_epochs=3"]


@pytest.fixture
def config(tmp_path):
    return parse([*FLAGS, f"--cache_dir={tmp_path / 'cache'}"])[0]


@pytest.fixture
def stopping(monkeypatch):
    """A function that lets a signal come when Keeper is asked for the n-th time."""

    def at(count):
        asked = iter(range(10**6))

        def stopped(self):
            stop.signal = signal.SIGTERM if next(asked) >= count else None
            return stop.signal is not None

        monkeypatch.setattr(Keeper, "stopping", property(stopped))

    yield at
    stop.signal = None


def theirs(net, images):
    """DeepRobust's own forward pass of its CNN."""
    x = F.max_pool2d(F.relu(net.conv1(images)), 2, 2)
    x = F.max_pool2d(F.relu(net.conv2(x)), 2, 2)
    return net.fc2(F.relu(net.fc1(x.reshape(len(x), -1))))


def relu_first(net, images):
    """conv2 with its layers in the paper's order."""
    x = F.max_pool2d(F.relu(net.conv2(F.relu(net.conv1(images)))), 2)
    return net.fc3(F.relu(net.fc2(F.relu(net.fc1(x.flatten(1))))))


@pytest.mark.parametrize("name, oracle", [("deeprobust_cnn", theirs), ("lenet5", relu_first)])
@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 14, 10)])
def test_pooling_before_the_relu_is_the_same_network_bit_for_bit(name, oracle, shape):
    net = archs.build(name, shape, 4, ([0.3] * shape[0], [0.3] * shape[0])).net
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5) % 4
    found = []
    for forward in (net, lambda x: oracle(net, x)):
        logits = forward(images)
        loss = F.cross_entropy(logits, labels)
        found.append((logits, *torch.autograd.grad(loss, list(net.parameters()))))
    assert all(torch.equal(ours, other) for ours, other in zip(*found, strict=True))
    faster = net.to(memory_format=torch.channels_last)
    assert torch.allclose(faster(images), found[0][0], atol=1e-5)


def test_the_cnn_is_deeprobusts_by_its_own_code():
    net = archs.build("deeprobust_cnn", (1, 28, 28), 10, ([0.3], [0.3])).net
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(net(images), type(net).__base__.forward(net, images))


@pytest.mark.parametrize("count", [0, 4, 13])  # in the first epoch, in the second, at an end
def test_a_stopped_surrogate_goes_on_to_the_same_weights(config, digits, tmp_path, stopping, count):
    """Defect: a stop lost minutes of training."""
    whole = attacked_cache.surrogate(config, digits, CPU, say=lambda text: None)
    other, told = config.replace(cache_dir=str(tmp_path / "other")), []
    stopping(count)
    with pytest.raises(Interrupted) as raised:
        attacked_cache.surrogate(other, digits, CPU, say=told.append)
    assert raised.value.signal == signal.SIGTERM
    assert not list(tmp_path.glob("other/**/weights.safetensors"))
    stopping(10**6)
    again = attacked_cache.surrogate(other, digits, CPU, say=told.append)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert any("going on where the surrogate was, after" in text for text in told)
    assert not list(tmp_path.glob("**/partial.pt"))


def test_a_kill_loses_the_epoch_in_hand_alone(config, digits, monkeypatch, tmp_path):
    class Killed(BaseException):
        """What ends a process with no time for anything."""

    real = training.Telling

    class Telling(real):
        def epoch(self, epoch, rows):
            super().epoch(epoch, rows)
            if epoch == 1:
                raise Killed

    monkeypatch.setattr(training, "Telling", Telling)
    with pytest.raises(Killed):
        attacked_cache.surrogate(config, digits, CPU, say=lambda text: None)
    monkeypatch.setattr(training, "Telling", real)
    told = []
    attacked_cache.surrogate(config, digits, CPU, say=told.append)
    assert [text for text in told if "after 11 of 33 batches" in text], told


def test_what_was_kept_of_another_recipe_or_is_damaged_is_not_gone_on_with(
    config, digits, tmp_path, stopping
):
    stopping(4)
    with pytest.raises(Interrupted):
        attacked_cache.surrogate(config, digits, CPU, say=lambda text: None)
    (partial,) = tmp_path.glob("cache/**/partial.pt")
    stopping(10**6)
    longer, told = config.replace(surrogate_epochs=4), []
    attacked_cache.surrogate(longer, digits, CPU, say=told.append)
    partial.write_bytes(partial.read_bytes()[:-100])
    attacked_cache.surrogate(config, digits, CPU, say=told.append)
    assert not [text for text in told if "going on" in text]


def test_epochs_that_were_asked_for_are_trained_and_named_exactly(config, digits):
    for epochs in (1, 2):
        told = []
        own = config.replace(surrogate_epochs=epochs)
        attacked_cache.surrogate(own, digits, CPU, say=told.append)
        assert told[0].endswith(f"digits ({epochs} epoch{'s' * (epochs > 1)})")
        assert told[-1].startswith(f"  surrogate epoch {epochs} of {epochs}: loss ")


def test_a_stop_while_attacking_keeps_what_was_attacked(config, digits, monkeypatch):
    model = attacked_cache.surrogate(config, digits, CPU, say=lambda text: None)
    real, batches, told = attacked_cache._attack_batch, [], []

    def batch(*args):
        batches.append(args)
        stop.signal = signal.SIGINT if len(batches) == 2 else None
        return real(*args)

    monkeypatch.setattr(attacked_cache, "_attack_batch", batch)
    monkeypatch.setattr(attacked_cache, "SMALL_NETS_BATCH", 64)
    every = np.arange(360)
    try:
        with pytest.raises(Interrupted):
            attacked_cache.attacked_set(config, digits, "test", every, model, told.append)
    finally:
        stop.signal = None
    made = attacked_cache.attacked_set(config, digits, "test", every, model, told.append)
    assert told[-1].startswith("attacking 232 test images of digits with fgsm (128 were cached)")
    assert sum(len(args[4]) for args in batches) == 360
    alone = real(0, *batches[0][1:])
    assert np.array_equal(made.pixels[:64], alone[1]) and np.array_equal(made.after[:64], alone[3])


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "ddn", "noise"])
def test_what_was_correct_before_is_what_the_surrogate_says_of_clean_images(config, digits, attack):
    model = attacked_cache.surrogate(config, digits, CPU, say=lambda text: None)
    own = parse([f"--dataset=digits_{attack}_attack", *FLAGS[1:], "--mix_ratio=0.5"])[0]
    settings, passes = attack_settings(own, attack, False), []
    handle = model.register_forward_hook(lambda *given: passes.append(given))
    made = attacked_cache._attack_batch(0, settings, "test", digits, np.arange(64), model)
    handle.remove()
    clean, truth = to_float(digits.test_images[:64], CPU), torch.from_numpy(digits.test_labels[:64])
    assert np.array_equal(made[2], attacks.is_correct(model, clean, truth).numpy())
    assert 0 < made[2].sum() < 64
    assert not model._forward_hooks
    if attack in ("fgsm", "noise"):  # one pass to attack with, none, and one over what was made
        assert len(passes) == 2


def test_slow_attacks_are_kept_each_minute(config, digits, monkeypatch, tmp_path):
    monkeypatch.setattr(attacked_cache, "SHARD_SECONDS", 0)
    monkeypatch.setattr(attacked_cache, "SMALL_NETS_BATCH", 64)
    model = attacked_cache.surrogate(config, digits, CPU, say=lambda text: None)
    attacked_cache.attacked_set(config, digits, "test", np.arange(360), model, lambda text: None)
    assert len(list(tmp_path.glob("cache/**/test-*.npz"))) == 6  # of 64 images, the last of 40


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self):
        return self.now


def test_the_time_left_is_told_once_measured_then_now_and_then(monkeypatch):
    clock, told = Clock(), []
    monkeypatch.setattr(attacked_progress, "time", clock)
    clock.now += 30  # what comes before the first image is not measured
    with attacked_progress.Progress("attacking", 1000, "images", told.append, done=100) as progress:
        for done in range(110, 1001, 10):
            progress.reach(done)
            clock.now += 1
    assert told[0] == "  attacking takes about 88 s more, by 10 images"
    shown = [re.fullmatch(r"  attacking: (\d+) of 1,000 images, about (\d+) s more", line)
             for line in told[1:]]  # fmt: skip
    assert len(shown) == 4 and all(shown)
    for found in shown:
        done, seconds = map(int, found.groups())
        assert seconds == (1000 - done) // 10


def test_short_work_needs_no_word(monkeypatch):
    clock, told = Clock(), []
    monkeypatch.setattr(attacked_progress, "time", clock)
    with attacked_progress.Progress("attacking", 40, "images", told.append) as progress:
        for done in range(1, 41):
            progress.reach(done)
            clock.now += 0.1
    assert told == []


@pytest.mark.parametrize(
    "flags",
    [["--lr_schedule=cosine"], ["--lr_drops=1"], ["--warmup_steps=9"], ["--optimizer=sgd"],
     ["--lr=0.1"], ["--weight_decay=0.1"], ["--batch_size=7"], ["--rewind_epoch=1"],
     ["--valid_steps=3"], ["--prune_type=finetune"], ["--init=orthogonal"], ["--seed=5"],
     ["--order_seed=5"], ["--val_fraction=0.3"], ["--train_fraction=0.5"]],
)  # fmt: skip
def test_no_flag_of_a_run_changes_its_surrogate(flags, tmp_path, digits):
    """Defect: under --lr_schedule=cosine the surrogate had that schedule, and stayed in the cache
    as everybody's.
    """
    nets = []
    for number, more in enumerate(([], flags)):
        place = [f"--cache_dir={tmp_path / str(number)}", "--end_iter=2", "--surrogate_epochs=2"]
        config = parse([*FLAGS[:2], *place, *more])[0]
        nets.append(attacked_cache.surrogate(config, digits, CPU, say=lambda text: None))
    one, other = (net.state_dict() for net in nets)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
