"""Laws of masks, and torch.nn.utils.prune as the oracle."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import archs
import pruning
from config import RunConfig

STATS = ([0.2], [0.3])


@pytest.fixture
def net():
    return archs.build("fc1", (1, 28, 28), 10, STATS, seed=3)


def weights_of(net):
    return {name: value.detach() for name, value in net.named_parameters()}


def test_each_layer_loses_exactly_its_share_of_the_alive_and_masks_only_shrink(net):
    weights, masks = weights_of(net), pruning.ones(net)
    for _ in range(5):
        new = pruning.prune(weights, masks, 20)
        for name, mask in masks.items():
            alive = int(mask.sum())
            assert int(new[name].sum()) == alive - round(0.2 * alive)
            assert not (new[name] & ~mask).any()
        masks = new


def test_the_smallest_magnitudes_go_whatever_their_sign():
    weights = {"w": torch.tensor([-0.9, 0.1, -0.2, 0.8, 0.3])}
    masks = pruning.prune(weights, {"w": torch.ones(5, dtype=torch.bool)}, 40)
    assert masks["w"].tolist() == [True, False, False, True, True]


def test_ties_go_in_memory_order_and_pruned_weights_are_not_counted_again():
    weights = {"w": torch.tensor([0.0, 0.5, 0.5, 0.5, 0.5])}
    masks = {"w": torch.tensor([False, True, True, True, True])}
    assert pruning.prune(weights, masks, 50)["w"].tolist() == [False, False, False, True, True]


def test_pruning_is_pure(net):
    weights, masks = weights_of(net), pruning.ones(net)
    before = {name: value.clone() for name, value in weights.items()}
    pruning.prune(weights, masks, 50, "global")
    assert all(mask.all() for mask in masks.values())
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_two_rounds_equal_torchs_own_pruning(net, scope):
    masks = pruning.ones(net)
    for _ in range(2):
        masks = pruning.prune(weights_of(net), masks, 35, scope)
    layers = [(module, "weight") for module in net.modules() if isinstance(module, nn.Linear)]
    for _ in range(2):
        if scope == "global":
            torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=0.35)
        else:
            for layer in layers:
                torch_prune.l1_unstructured(*layer, amount=0.35)
    for (layer, _), mask in zip(layers, masks.values(), strict=True):
        assert torch.equal(layer.weight_mask.bool(), mask)


def test_the_output_layer_can_have_its_own_rate(net):
    masks = pruning.prune(weights_of(net), pruning.ones(net), 20, output_percent=10)
    assert [int(mask.sum()) for mask in masks.values()] == [188160, 24000, 900]
    masks = pruning.prune(weights_of(net), pruning.ones(net), 20, "global", output_percent=10)
    assert int(masks["net.fc3.weight"].sum()) == 900
    assert pruning.counts(masks)[0] == 900 + 265200 - round(0.2 * 265200)


def test_oneshot_prunes_the_dense_net_to_each_density(net):
    config = RunConfig.of({}).replace(
        prune_percent=20.0, output_prune_percent=20.0, prune_schedule="oneshot"
    )
    previous = pruning.ones(net)
    for number in range(1, 6):
        dense = pruning.ones(net)
        keep = pruning.kept_in_round(
            {name: mask.numel() for name, mask in dense.items()}, config, number
        )
        masks = pruning.masks_by("magnitude", net, dense, keep, None)
        total = pruning.counts(masks)[1]
        assert pruning.counts(masks)[0] == pytest.approx(0.8**number * total, abs=3)
        assert all(not (masks[name] & ~previous[name]).any() for name in masks)
        previous = masks


def test_rounds_of_pruning_keep_what_is_counted_beforehand(net):
    """kept_in_round, by which criteria at theta_0 prune, is the course of iterative pruning."""
    flags = {"prune_percent": 35.0, "output_prune_percent": 20.0}
    for scope in ("layer", "global"):
        config = RunConfig.of(flags | {"prune_scope": scope})
        masks = pruning.ones(net)
        sizes = {name: mask.numel() for name, mask in masks.items()}
        for number in range(1, 6):
            masks = pruning.prune(weights_of(net), masks, 35, scope, output_percent=20)
            keep = pruning.kept_in_round(sizes, config, number)
            assert [
                (names, pruning.counts({n: masks[n] for n in names})[0]) for names, _ in keep
            ] == keep


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="not finite"):
        pruning.prune(
            {"w": torch.tensor([1.0, float("nan")])}, {"w": torch.ones(2, dtype=torch.bool)}, 50
        )


@pytest.mark.slow
def test_biases_and_batch_norm_are_never_pruned():
    """Defect: batch-norm scales were pruned, so that tickets of ResNet and VGG meant something
    else.
    """
    for name in ("resnet20", "vgg16", "densenet121"):
        net = archs.build(name, (1, 28, 28), 10, STATS)
        modules = dict(net.named_modules())
        for weight in pruning.prunable(net):
            assert isinstance(modules[weight.removesuffix(".weight")], (nn.Conv2d, nn.Linear))
        kinds = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in modules.values())
        assert len(pruning.prunable(net)) == kinds
