"""Every network on both kinds of images, and its initial weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archs
import pruning
from utils import UserError

SHAPES = [(1, 28, 28), (3, 32, 32)]


def build(name, shape, **keywords):
    return archs.build(name, shape, 10, ([0.3] * shape[0], [0.2] * shape[0]), **keywords)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=["28x28x1", "32x32x3"])
@pytest.mark.parametrize("name", archs.ARCHS)
def test_forward_and_backward(name, shape):
    net = build(name, shape)
    logits = net(torch.rand(2, *shape))
    assert logits.shape == (2, 10)
    F.cross_entropy(logits, torch.tensor([1, 7])).backward()
    for weight in pruning.prunable(net):
        gradient = net.get_parameter(weight).grad
        assert torch.isfinite(gradient).all() and gradient.any()


# Frankle & Carbin 2019, figure 2, and their ResNet-18, which is a ResNet-20
@pytest.mark.parametrize(
    "name, shape, weights",
    [("fc1", SHAPES[0], 266_200), ("conv2", SHAPES[1], 4_300_992), ("conv4", SHAPES[1], 2_424_762)],
)
def test_sizes_are_the_papers(name, shape, weights):
    net = build(name, shape)
    assert pruning.counts(pruning.ones(net))[1] == pytest.approx(weights, rel=2e-4)


def test_resnet20_has_the_papers_size():
    assert sum(p.numel() for p in build("resnet20", SHAPES[1]).parameters()) == pytest.approx(
        272_000, rel=0.01
    )


def test_glorot_normal_weights_and_zero_biases():
    net = build("lenet5", SHAPES[0])
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
            assert module.weight.std().item() == pytest.approx(
                (2 / (fan_in + fan_out)) ** 0.5, rel=0.15
            )
            assert not module.bias.any()


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = build("fc1", SHAPES[0], seed=5).state_dict()
    torch.manual_seed(2)
    two, other = (
        build("fc1", SHAPES[0], seed=5).state_dict(),
        build("fc1", SHAPES[0], seed=6).state_dict(),
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["net.fc1.weight"], other["net.fc1.weight"])


def test_building_a_network_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    build("fc1", SHAPES[0], seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_normalisation_is_the_first_layer_and_the_same_for_every_image():
    """Defect: attacked images were not normalised, clean and test images were."""
    net = build("fc1", SHAPES[1])
    images = torch.rand(4, 3, 32, 32)
    assert torch.allclose(net(images), net.net((images - 0.3) / 0.2))


@pytest.mark.slow
def test_a_network_says_which_image_size_it_cannot_take():
    with pytest.raises(
        UserError, match=r"vgg16 \(--arch_type or --surrogate\) cannot take images of 1x6x6"
    ):
        build("vgg16", (1, 6, 6))


def test_a_network_that_returns_probabilities_or_too_few_values_is_refused(monkeypatch):
    for layers, says in (
        ([nn.Linear(784, 10), nn.Softmax(1)], "returns probabilities"),
        ([nn.Linear(784, 7)], r"returns \(7,\) values"),
    ):
        monkeypatch.setattr(
            "archs.fc.fc1",
            lambda in_shape, num_classes, layers=layers: nn.Sequential(nn.Flatten(), *layers),
        )
        with pytest.raises(UserError, match=says):
            build("fc1", SHAPES[0])
