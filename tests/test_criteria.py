"""SNIP, GraSP and SynFlow against finite differences, a plain Hessian and conservation of flow;
laws of their masks.
"""

from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import archs
import pruning
from archs.parts import Normalise, initialise
from utils import Registry, UserError, must

SMALL = [
    name
    for name in archs.ARCHS
    if name not in ("alexnet", "vgg16", "resnet18", "densenet121", "deeprobust_resnet18")
]  # the others take seconds


def model_of(*layers, seed=0, stats=([0.2], [0.3])):
    """Sequential(normalise, net) as archs.build makes it, of these layers."""
    net = nn.Sequential(*layers)
    torch.manual_seed(seed)
    initialise(net, "kaiming_normal")
    return nn.Sequential(OrderedDict(normalise=Normalise(*stats), net=net))


def tiny():
    """A smooth net of 36 weights in double precision, with its gradients switched off: the criteria
    ask for their own.
    """
    layers = [
        nn.Conv2d(1, 3, 2),
        nn.Tanh(),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(3, 4),
        nn.Tanh(),
        nn.Linear(4, 3, bias=False),
    ]
    return model_of(*layers).double().requires_grad_(False)


def conv_chain(seed=0):
    """Narrow and wide convolutions in a row without biases: 46,808 weights, four fifths of them in
    one layer.
    """
    layers, inside = [], 1
    for out in (8, 8, 64, 64, 8):
        layers += [nn.Conv2d(inside, out, 3, padding=1, bias=False), nn.ReLU()]
        inside = out
    return model_of(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10, bias=False), seed=seed
    )


def batch(size=16, dtype=torch.float, classes=10):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size, 1, 8, 8, generator=generator, dtype=dtype), torch.arange(size) % classes


def tiny_batch():
    images, labels = batch(7, torch.double, classes=3)
    return images[:, :, :4, :4], labels


def given(images, labels):
    """The `batch` that a criterion is handed: always these."""
    return lambda count: (images, labels)


def snip_scores(model, images, labels):
    return pruning.snip(model, pruning.ones(model), given(images, labels))


def grasp_scores(model, images, labels, temperature=200.0):
    return pruning.grasp(model, pruning.ones(model), given(images, labels), temperature)


def synflow_scores(model, in_shape, masks):
    return pruning.synflow(model, masks, lambda count: (torch.rand(count, *in_shape), None))


def pools(masks, keep):
    """`keep` as pruning takes it: a number for the whole net, or one a layer."""
    return (
        [([name], keep[name]) for name in masks]
        if isinstance(keep, dict)
        else [(list(masks), keep)]
    )


def keep_highest(scores, masks, keep):
    return pruning.keep_highest(scores, masks, pools(masks, keep))


def prune_at_init(criterion, model, images, labels, keep):
    masks = pruning.ones(model)
    return pruning.masks_by(criterion, model, masks, pools(masks, keep), given(images, labels))


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def weights_of(model):
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach() for name in pruning.prunable(model)}


def tiny_loss(model, images, labels, temperature=1.0):
    """The loss as a function of all prunable weights in one vector, and that vector."""
    weights = weights_of(model)

    def loss(vector):
        parts = vector.split([weight.numel() for weight in weights.values()])
        replaced = {
            name: part.reshape(weights[name].shape)
            for name, part in zip(weights, parts, strict=True)
        }
        return F.cross_entropy(functional_call(model, replaced, (images,)) / temperature, labels)

    return loss, flat(weights)


def test_snip_is_the_derivative_by_a_multiplicative_mask():
    model, (images, labels) = tiny(), tiny_batch()
    loss, theta = tiny_loss(model, images, labels)
    step, expected = 1e-6, torch.empty_like(theta)
    for i in range(len(theta)):
        mask = torch.ones_like(theta)
        mask[i] += step
        up = loss(mask * theta)
        mask[i] -= 2 * step
        expected[i] = (up - loss(mask * theta)).abs() / (2 * step)
    assert torch.allclose(flat(snip_scores(model, images, labels)), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_is_theta_times_the_plain_hessian_times_the_gradient(temperature):
    model, (images, labels) = tiny(), tiny_batch()
    loss, theta = tiny_loss(model, images, labels, temperature)
    hessian = torch.autograd.functional.hessian(loss, theta)
    gradient = torch.func.grad(loss)(theta)
    scores = flat(grasp_scores(model, images, labels, temperature))
    assert torch.allclose(scores, theta * (hessian @ gradient), rtol=1e-8, atol=1e-16)
    assert scores.abs().max() > 1e-6 / temperature**2


@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_removes_first_what_raises_the_gradient_norm(temperature):
    """The common mistake is the sign: the paper's own score, -theta * Hg, is high where a weight
    should go.
    """
    model, (images, labels) = tiny(), tiny_batch()
    loss, theta = tiny_loss(model, images, labels, temperature)
    scores = flat(grasp_scores(model, images, labels, temperature))
    # a small share of each weight is taken away: the score is a first-order one
    order, share = scores.argsort(), 1e-4

    def norm_after(chosen):
        changed = theta.clone()
        changed[chosen] *= 1 - share
        return torch.func.grad(loss)(changed).square().sum()

    dense, low, high = norm_after([]), norm_after(order[:5]), norm_after(order[-5:])
    assert low > dense > high
    assert float(low - dense) == pytest.approx(
        float(-2 * share * scores[order[:5]].sum()), rel=0.01
    )
    assert float(high - dense) == pytest.approx(
        float(-2 * share * scores[order[-5:]].sum()), rel=0.01
    )


def test_synflow_is_the_same_in_every_layer_and_equals_the_flow():
    """Tanaka et al. 2020, theorem 2, for layers in a row, each a cut of the net."""
    model = conv_chain()
    half = keep_highest(
        synflow_scores(model, (1, 8, 8), pruning.ones(model)), pruning.ones(model), 23000
    )
    for masks in (pruning.ones(model), half):
        scores = synflow_scores(model, (1, 8, 8), masks)
        linear = {
            name.removeprefix("net."): weight.abs().double()
            for name, weight in pruning.apply(weights_of(model), masks).items()
        }
        flow = (
            functional_call(model.net, linear, (torch.ones(1, 1, 8, 8, dtype=torch.double),))
            .sum()
            .detach()
        )
        for name, score in scores.items():
            assert (
                score.dtype == torch.double and (score >= 0).all() and not score[~masks[name]].any()
            )
            assert float(score.sum()) == pytest.approx(float(flow), rel=1e-10)


def test_synflow_conserves_the_flow_of_our_networks_whatever_their_biases():
    for name in ("fc1", "conv2"):
        model = archs.build(name, (1, 8, 8), 10, ([0.2], [0.3]), init="torch")
        sums = [
            float(score.sum())
            for score in synflow_scores(model, (1, 8, 8), pruning.ones(model)).values()
        ]
        assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-10)


@pytest.mark.slow
def test_synflow_leaves_no_layer_empty_where_one_step_does():
    model, (images, _) = conv_chain(), batch()
    dense = pruning.ones(model)
    keep = pruning.counts(dense)[1] // 100
    once = keep_highest(synflow_scores(model, (1, 8, 8), dense), dense, keep)
    assert min(int(mask.sum()) for mask in once.values()) == 0
    masks = prune_at_init("synflow", model, images, None, keep)
    assert min(int(mask.sum()) for mask in masks.values()) >= 40
    assert pruning.counts(masks)[0] == keep
    assert float(flat(synflow_scores(model, (1, 8, 8), masks)).sum()) > 0


@pytest.mark.slow
def test_synflow_of_a_deep_net_is_finite_beyond_float32():
    model = archs.build("densenet121", (1, 8, 8), 10, ([0.2], [0.3]))
    scores = flat(synflow_scores(model, (1, 8, 8), pruning.ones(model)))
    assert torch.isfinite(scores).all() and scores.max() > torch.finfo(torch.float).max


@pytest.mark.slow
def test_synflow_reads_neither_images_nor_normalisation():
    images, labels = batch()
    masks = prune_at_init("synflow", conv_chain(), images, None, 1000)
    other = conv_chain()
    other.normalise = Normalise([0.9], [0.01])
    again = prune_at_init("synflow", other, images * 0, labels, 1000)
    assert all(torch.equal(masks[name], again[name]) for name in masks)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_weights_pruned_along_synflows_schedule_stay_pruned(scope, monkeypatch):
    steps, original = [], pruning.keep_highest
    monkeypatch.setattr(
        pruning, "keep_highest", lambda *arguments: steps.append(original(*arguments)) or steps[-1]
    )
    model = conv_chain()
    total = {name: mask.numel() for name, mask in pruning.ones(model).items()}
    keep = 468 if scope == "global" else {name: count // 100 for name, count in total.items()}
    prune_at_init("synflow", model, batch()[0], None, keep)
    assert len(steps) == 100
    for number, (before, after) in enumerate(pairwise(steps), start=2):
        assert all(not (after[name] & ~before[name]).any() for name in after)
        if scope == "global":
            assert pruning.counts(after)[0] == round(46808 * (468 / 46808) ** (number / 100))


def test_ties_go_in_the_order_of_names_and_memory():
    scores = {"a": torch.tensor([1.0, 1.0, 2.0]), "b": torch.tensor([1.0, -3.0])}
    masks = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True, True])}
    kept = keep_highest(scores, masks, 2)
    assert [mask.tolist() for mask in kept.values()] == [[False, True, False], [True, False]]
    kept = keep_highest(scores, masks, {"a": 1, "b": 0})
    assert [mask.tolist() for mask in kept.values()] == [[False, True, False], [False, False]]


def test_what_cannot_be_done_is_refused():
    model, (images, labels) = tiny(), tiny_batch()
    for count in (-1, 1000):
        with pytest.raises(ValueError, match="weights to keep"):
            prune_at_init("snip", model, images, labels, count)
    with pytest.raises(UserError, match="did you mean 'snip'"):
        prune_at_init("snap", model, images, labels, 5)
    with pytest.raises(UserError, match="not finite"):
        prune_at_init("grasp", model, images * float("nan"), labels, 5)


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_dropout_is_off_and_batch_norm_takes_the_statistics_of_the_batch(criterion):
    def scores(dropout, shift):
        model = model_of(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(144, 10),
        )
        model.net[1].running_mean += shift
        model.eval()
        return flat(getattr(pruning, criterion)(model, pruning.ones(model), given(*batch())))

    assert torch.equal(scores(0.0, 0), scores(0.9, 0))
    assert torch.equal(scores(0.0, 0), scores(0.0, 100))


AT_INIT = [name for name, entry in pruning.CRITERIA.items() if entry.of_theta0]


@pytest.mark.slow
@pytest.mark.parametrize("criterion", AT_INIT)
@pytest.mark.parametrize("arch", SMALL)
def test_every_arch_keeps_exact_counts_twice_the_same_and_is_left_untouched(
    arch, criterion, monkeypatch
):
    quick = Registry("criterion", must(lambda entry: callable(entry.scores), "a Criterion"))
    quick.update(pruning.CRITERIA)
    quick["quick synflow"] = pruning.Criterion(pruning.synflow, of_theta0=True, steps=3)
    monkeypatch.setattr(pruning, "CRITERIA", quick)
    criterion = "quick synflow" if criterion == "synflow" else criterion
    model, (images, labels) = archs.build(arch, (1, 8, 8), 10, ([0.2], [0.3])), batch()
    model.eval()
    next(model.parameters()).requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    totals = {name: mask.numel() for name, mask in pruning.ones(model).items()}
    layer = {name: round(0.07 * count) for name, count in totals.items()}
    for scope, keep in (("layer", layer), ("global", 1234)):
        masks = prune_at_init(criterion, model, images, labels, keep)
        assert list(masks) == pruning.prunable(model)
        assert all(
            mask.dtype == torch.bool and mask.shape == before[name].shape
            for name, mask in masks.items()
        )
        kept = {name: int(mask.sum()) for name, mask in masks.items()}
        assert (kept if scope == "layer" else sum(kept.values())) == keep
    again = prune_at_init(criterion, model, images, labels, 1234)
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * (
        len(list(model.parameters())) - 1
    )
    assert all(parameter.grad is None for parameter in model.parameters())
