"""Masks as pure functions of dicts keyed by parameter name.

A mask is a bool tensor of its weight's shape, True where the weight is alive. Prunable are the
weights of convolution and linear layers: no bias, no batch-norm.
"""

import torch
from torch import nn


def prunable(model):
    """Names of the weights of the model's convolution and linear layers, in the model's order; the last is the output layer."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)]


def ones(model):
    """Masks with every prunable weight alive."""
    parameters = dict(model.named_parameters())
    return {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in prunable(model)}


def prune(weights, masks, percent, scope="layer", output_percent=None):
    """New masks without the `percent` of the alive weights that are smallest in magnitude.

    weights, masks: dicts by name, the last mask being the output layer's. Exactly
    round(percent / 100 * alive) weights go, of each layer (scope "layer", Han 2015; Frankle & Carbin
    2019, section 2) or of the net as a whole ("global", same, section 4); of equal magnitudes the
    first go, in the order of the names and then of memory. output_percent is the output layer's own
    rate; under "global" that layer is then pruned by itself. FloatingPointError if a weight is not finite.
    """
    new = {}
    for names, rate in _pools(list(masks), percent, scope, output_percent):
        new |= _prune_pool(weights, {name: masks[name] for name in names}, rate)
    return {name: new[name] for name in masks}


def _pools(names, percent, scope, output_percent):
    """[(names, percent)] of the layers that are pruned as one list of weights."""
    *others, output = names or [None]
    output_percent = percent if output_percent is None else output_percent
    if scope == "layer":
        pools = [*(([name], percent) for name in others), ([output], output_percent)]
    elif output_percent == percent:
        pools = [(names, percent)]
    else:
        pools = [(others, percent), ([output], output_percent)]
    return [pool for pool in pools if pool[0] and names]


def _prune_pool(weights, masks, percent):
    """Prune these layers as one list of weights."""
    alive = torch.cat([masks[name].reshape(-1) for name in masks]).nonzero().squeeze(1)
    magnitude = torch.cat([weights[name].detach().reshape(-1) for name in masks]).abs()[alive]
    if not torch.isfinite(magnitude).all():
        raise FloatingPointError("a trained weight is not finite, so there is no magnitude to prune by: a smaller --lr may train")
    count = round(percent / 100 * len(alive))
    goes = alive[magnitude.sort(stable=True).indices[:count]]
    flat = torch.cat([masks[name].reshape(-1) for name in masks])
    flat[goes] = False
    parts = flat.split([masks[name].numel() for name in masks])
    return {name: part.reshape(masks[name].shape) for name, part in zip(masks, parts, strict=True)}


def prune_to_round(weights, masks, config, round_number):
    """Masks of round `round_number`: from the last round's trained weights and masks, or for "oneshot" from the dense net's.

    One-shot goes from the dense net straight to the density (1 - p)^round, in one step.
    """
    if config.prune_schedule == "oneshot":
        masks = {name: torch.ones_like(mask) for name, mask in masks.items()}
    percent, output = _rates(config, round_number)
    return prune(weights, masks, percent, config.prune_scope, output)


def _rates(config, round_number):
    """(percent, output layer's percent) of the step that leads to this round."""
    rates = config.prune_percent, config.output_prune_percent
    return rates if config.prune_schedule == "iterative" else tuple(100 * (1 - (1 - rate / 100) ** round_number) for rate in rates)


def kept_in_round(sizes, config, round_number):
    """How many weights prune_to_round leaves alive: by layer, but under one key for layers that are pruned as one. sizes: weights by name."""
    kept, (percent, output) = {}, _rates(config, round_number)
    for names, rate in _pools(list(sizes), percent, config.prune_scope, output):
        kept[names[0]] = sum(sizes[name] for name in names)
        for _ in range(1 if config.prune_schedule == "oneshot" else round_number):
            kept[names[0]] -= round(rate / 100 * kept[names[0]])
    return kept


def apply(weights, masks):
    """The weights with the pruned ones exactly 0; names without a mask pass unchanged."""
    return {name: value * masks[name] if name in masks else value.clone() for name, value in weights.items()}


def counts(masks):
    """(kept, total) weights over all masks."""
    return sum(int(mask.sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())


def table(masks):
    """The per-layer table that each round prints, as text: layer, kept, total, density in percent."""
    rows = [(name.removeprefix("net.").removesuffix(".weight"), *counts({name: mask})) for name, mask in masks.items()]
    rows.append(("total", *counts(masks)))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {name:{width}} {kept:>11,} of {total:>11,} {100 * kept / total:7.2f} %" for name, kept, total in rows)
