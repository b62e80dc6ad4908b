"""Pruning at initialisation, to compare with lottery tickets: SNIP, GraSP and SynFlow score theta_0's weights without training them.

A criterion gives every prunable weight a score, higher = keep; the masks are as pruning.py makes them. The dense model that comes
in stays as it is: every gradient is taken on a copy.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

import config
import pruning
from utils import choose

CRITERIA = tuple(name for name in config.CRITERIA if name != "magnitude")
SYNFLOW_STEPS = 100  # Tanaka et al. 2020, section 7


def prune_at_init(criterion, model, images, labels, keep, scope):
    """Masks, a dict name -> bool CPU tensor, of the weights that score highest under `criterion`, one of CRITERIA.

    model: Sequential(normalise, net) with theta_0, dense, and left untouched; images (B, C, H, W) in [0, 1] and labels (B,) on its
    device, one batch; SynFlow reads their shape alone and labels may be None. keep: how many weights to keep, exactly: an int for
    the whole net (scope "global", as the three papers have it) or a dict name -> int (scope "layer"). Of equal scores the first go,
    in the order of the names and then of memory. UserError for an unknown criterion, ValueError for a count that cannot be kept,
    FloatingPointError if a score is not finite.
    """
    choose("criterion", criterion, CRITERIA)
    masks = pruning.ones(model)
    if criterion == "synflow":
        for step in range(1, SYNFLOW_STEPS + 1):
            scores = synflow_scores(model, images.shape[1:], masks)
            masks = keep_highest(scores, masks, synflow_counts(masks, keep, scope, step), scope)
    else:
        scores = (snip_scores if criterion == "snip" else grasp_scores)(model, images, labels)
        masks = keep_highest(scores, masks, keep, scope)
    return {name: mask.cpu() for name, mask in masks.items()}


def snip_scores(model, images, labels):
    """SNIP's connection sensitivity (Lee et al. 2019, section 4.1): |dL/dc| = |w dL/dw| with L of the weights c * w at c = 1.

    L is the mean cross-entropy of images (B, C, H, W) in [0, 1] with labels (B,). Returns a dict name -> tensor of the weight's
    shape. The paper divides by the sum over all weights, which changes no order, and is left out.
    """
    net, weights = _copy_for_gradients(model)
    gradients = torch.autograd.grad(F.cross_entropy(net(images), labels), list(weights.values()))
    return {name: (weights[name] * gradient).abs().detach() for name, gradient in zip(weights, gradients, strict=True)}


def grasp_scores(model, images, labels, temperature=200.0):
    """GraSP's score (Wang et al. 2020, section 4) with the sign turned, so that higher = keep: theta * Hg.

    To first order, taking away weight i changes the squared norm of the gradient g by -2 theta_i (Hg)_i. The paper's importance
    S(-theta) = -theta * Hg is thus high where removing raises the gradient flow, and its highest go. g and H are those of the
    prunable weights and of the mean cross-entropy of images (B, C, H, W) in [0, 1] and labels (B,), the logits divided by
    `temperature`: 200 in the authors' code, 1 for the formula as printed. Returns a dict name -> tensor of the weight's shape.
    """
    net, weights = _copy_for_gradients(model)
    loss = F.cross_entropy(net(images) / temperature, labels)
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    flow = sum((gradient * gradient.detach()).sum() for gradient in gradients)  # its derivative is Hg; that of |g|^2 is 2 Hg
    products = torch.autograd.grad(flow, list(weights.values()))
    return {name: (weights[name] * product).detach() for name, product in zip(weights, products, strict=True)}


def synflow_scores(model, in_shape, masks):
    """SynFlow's synaptic flow (Tanaka et al. 2020, section 6): dR/d|w| * |w|, with R the sum of the logits for an image of ones.

    R is that of a linear net: the weights that `masks` leaves alive at their absolute values, biases and batch-norm's shifts and
    means at zero. Batch-norm is in eval mode, at initialisation the identity, as in the authors' code: statistics of a single image
    would divide the flow out. in_shape: (C, H, W). Returns a dict name -> float64 tensor, for R of a deep net leaves float32's range.
    Pruned step by step, layers in a row are not emptied; a residual branch can be, and the flow then takes the shortcut.
    """
    net = copy.deepcopy(model).double().eval()
    net.normalise = nn.Identity()  # the ones enter the network itself; normalised they could be negative
    for name, tensor in net.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.zero_()
        else:
            tensor.abs_().mul_(masks[name].to(tensor.device) if name in masks else 1)
    weights = {name: weight.requires_grad_() for name, weight in net.named_parameters() if name in masks}
    device = next(iter(weights.values())).device
    flow = net(torch.ones(1, *in_shape, dtype=torch.double, device=device)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()))
    return {name: (weights[name] * gradient).detach() for name, gradient in zip(weights, gradients, strict=True)}


def synflow_counts(masks, keep, scope, step):
    """How many weights are kept after `step` of SYNFLOW_STEPS, in the form of `keep`: the density falls exponentially from 1 to the target.

    Tanaka et al. 2020, algorithm 1.
    """

    def count(names, target):
        total = sum(masks[name].numel() for name in names)
        return round(total * (target / total) ** (step / SYNFLOW_STEPS))

    return count(masks, keep) if scope == "global" else {name: count([name], keep[name]) for name in masks}


def keep_highest(scores, masks, keep, scope):
    """New masks of the `keep` alive weights with the highest scores; keep, scope, ties and errors as for prune_at_init."""
    pools = [(list(masks), keep)] if scope == "global" else [([name], keep[name]) for name in masks]
    new = {}
    for names, count in pools:
        alive = torch.cat([masks[name].reshape(-1) for name in names]).nonzero().squeeze(1)
        score = torch.cat([scores[name].reshape(-1) for name in names])[alive]
        if not torch.isfinite(score).all():
            raise FloatingPointError("a score is not finite, so there is nothing to prune by: another --init may do")
        if not 0 <= count <= len(alive):
            raise ValueError(f"{count} weights to keep of the {len(alive)} that are alive")
        flat = torch.zeros(sum(masks[name].numel() for name in names), dtype=torch.bool, device=alive.device)
        flat[alive[score.sort(stable=True).indices[len(alive) - count :]]] = True
        parts = flat.split([masks[name].numel() for name in names])
        new |= {name: part.reshape(masks[name].shape) for name, part in zip(names, parts, strict=True)}
    return new


def _copy_for_gradients(model):
    """A copy of the model as its first training step would run it, except for dropout, and its prunable weights by name.

    Batch-norm takes the statistics of the batch, as in training: theta_0's running ones are 0 and 1 and normalise nothing, so in eval
    mode the gradients would be those of another net. The copy's running statistics do move; the copy is thrown away. Dropout is off: a
    score should not hang on which units one draw leaves out.
    """
    net = copy.deepcopy(model).train()
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    parameters = dict(net.named_parameters())
    return net, {name: parameters[name].requires_grad_() for name in pruning.prunable(net)}
