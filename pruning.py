"""Masks as pure functions of dicts keyed by parameter name.

CRITERIA: which weights go. PRUNE_TYPES: what the next round makes of the masks, and starts from.

A mask is a bool tensor of its weight's shape, True where the weight is alive. Prunable are the
weights of convolution and linear layers: no bias, no batch-norm.

A criterion gives every prunable weight a score, the highest stay. It is called as
scores(model, masks, batch): a network with the weights to be judged (trained ones, or theta_0), in
whatever mode; its masks so far; batch(count) -> that many (images, labels) of the training data. It
leaves the model as it was and returns {name: tensor of the weight's shape}.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

from utils import Lazy, Registry, UserError, generator, must, permutation

torch, nn, F = map(Lazy, ("torch", "torch.nn", "torch.nn.functional"))  # --help needs the names

BATCH = 512  # images in the one batch that snip and grasp look at

# Masks -----------------------------------------------------------------------------------------


def prunable(model):
    """Names of the weights of the model's convolution and linear layers, the output last."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    modules = model.named_modules()
    return [f"{name}.weight" for name, module in modules if isinstance(module, kinds)]


def ones(model):
    """Masks with every prunable weight alive."""
    parameters = dict(model.named_parameters())
    return {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in prunable(model)}


def apply(weights, masks):
    """The weights with the pruned ones exactly 0; names without a mask pass unchanged."""
    return {
        name: value * masks[name] if name in masks else value.clone()
        for name, value in weights.items()
    }


def counts(masks):
    """(kept, total) weights over all masks."""
    kept = sum(int(mask.sum()) for mask in masks.values())
    return kept, sum(mask.numel() for mask in masks.values())


def table(masks):
    """The per-layer table of a round, as text: layer, kept, total, density in percent."""
    rows = [(layer_name(name), *counts({name: mask})) for name, mask in masks.items()]
    rows.append(("total", *counts(masks)))
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"  {name:{width}} {kept:>11,} of {total:>11,} {100 * kept / total:7.2f} %"
        for name, kept, total in rows
    )


def layer_name(parameter):
    """ "net.fc1.weight" as people call it: fc1."""
    return parameter.removeprefix("net.").removesuffix(".weight")


# Pruning ---------------------------------------------------------------------------------------


def pools(names, percent, scope="layer", output_percent=None):
    """[(names, percent)] of the layers that are pruned as one list of weights.

    Each layer by itself (scope "layer", Han 2015; Frankle & Carbin 2019, section 2) or the net as a
    whole ("global", same, section 4). output_percent is the output layer's own rate, the last of
    the names; under "global" that layer is then pruned by itself.
    """
    output_percent = percent if output_percent is None else output_percent
    *others, output = names
    if scope == "layer":
        return [*(([name], percent) for name in others), ([output], output_percent)]
    if output_percent == percent or not others:
        return [(names, output_percent)]
    return [(others, percent), ([output], output_percent)]


def prune(weights, masks, percent, scope="layer", output_percent=None):
    """New masks without the `percent` of the alive weights that are smallest in magnitude.

    Exactly round(percent / 100 * alive) weights of each pool go; of equal magnitudes the first, in
    the order of the names and then of memory. FloatingPointError if a weight is not finite.
    """
    if not masks:
        return {}
    keep = []
    for names, rate in pools(list(masks), percent, scope, output_percent):
        alive = sum(int(masks[name].sum()) for name in names)
        keep.append((names, alive - round(rate / 100 * alive)))
    return keep_highest(magnitudes(weights, masks), masks, keep)


def keep_highest(scores, masks, keep):
    """New masks of the alive weights with the highest scores.

    keep: [(names, count)], how many weights each pool of layers keeps. Of equal scores the first
    go, in the order of the names and then of memory. FloatingPointError if a score is not finite,
    ValueError for a count that cannot be kept.
    """
    new = {}
    for names, count in keep:
        flat = torch.cat([masks[name].reshape(-1) for name in names])
        alive = flat.nonzero().squeeze(1)
        score = torch.cat([scores[name].reshape(-1) for name in names])[alive]
        if not torch.isfinite(score).all():
            raise FloatingPointError("a score is not finite, so there is nothing to prune by")
        if not 0 <= count <= len(alive):
            raise ValueError(f"{count} weights to keep of the {len(alive)} that are alive")
        flat[alive[score.sort(stable=True).indices[: len(alive) - count]]] = False
        parts = flat.split([masks[name].numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            new[name] = part.reshape(masks[name].shape)
    return {name: new[name] for name in masks}


def kept_in_round(sizes, config, round_number):
    """[(names, count)]: how many weights are alive in a round, by pool. sizes: weights by name.

    Iterative pruning removes its share of what is alive round by round; one-shot goes from the
    dense net straight to the density (1 - p)^round, in one step.
    """
    rates, rounds = (config.prune_percent, config.output_prune_percent), round_number
    if config.prune_schedule == "oneshot":
        rates = [100 * (1 - (1 - rate / 100) ** round_number) for rate in rates]
        rounds = 1
    kept = []
    for names, rate in pools(list(sizes), rates[0], config.prune_scope, rates[1]):
        count = sum(sizes[name] for name in names)
        for _ in range(rounds):
            count -= round(rate / 100 * count)
        kept.append((names, count))
    return kept


def masks_by(criterion, model, masks, keep, batch):
    """New masks, on the CPU, of the weights that score highest under an entry of CRITERIA.

    model: a network with the weights to be judged; masks: what is alive; keep: as keep_highest
    takes it. A criterion of several steps approaches `keep` by densities that fall exponentially
    (Tanaka et al. 2020, algorithm 1). UserError if a score is not finite.
    """
    entry = CRITERIA.choose(criterion)
    sizes = {name: mask.numel() for name, mask in masks.items()}
    try:
        for step in range(1, entry.steps + 1):
            part = keep
            if entry.steps > 1:
                totals = [sum(sizes[name] for name in names) for names, _ in keep]
                part = [
                    (names, round(total * (count / total) ** (step / entry.steps)))
                    for (names, count), total in zip(keep, totals, strict=True)
                ]
            scores = checked_scores(criterion, entry.scores(model, masks, batch), masks)
            masks = keep_highest(scores, masks, part)
    except FloatingPointError as error:
        sound = all(value.isfinite().all() for value in model.state_dict().values())
        right = "another --init may do" if entry.of_theta0 else "a smaller --lr may train"
        right = "the weights are, so it is the criterion's own" if sound else right
        raise UserError(f"--criterion={criterion}: {error}: {right}") from error
    return {name: mask.cpu() for name, mask in masks.items()}


def checked_scores(criterion, scores, masks):
    """The scores that a criterion gave, where the masks are; UserError unless each mask has one of
    its shape.
    """
    for name, mask in masks.items():
        if name not in scores:
            raise UserError(f"--criterion={criterion} gave no scores of {name}")
        if scores[name].shape != mask.shape:
            shapes = f"{tuple(scores[name].shape)} where the weight has {tuple(mask.shape)}"
            raise UserError(f"--criterion={criterion}: its scores of {name} have shape {shapes}")
    return {name: scores[name].to(mask.device) for name, mask in masks.items()}


# Criteria --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Criterion:
    """One line of CRITERIA."""

    scores: Callable  # (model, masks, batch) -> {name: scores}, the highest stay
    why: str = ""  # what goes, by whose paper
    of_theta0: bool = False  # it judges theta_0 before any training, else the trained weights
    steps: int = 1  # in which it prunes


CRITERIA = Registry(
    "criterion", must(lambda entry: callable(getattr(entry, "scores", None)), "a Criterion")
)


def magnitudes(weights, names):
    """|w| of the weights called `names`, by name."""
    return {name: weights[name].detach().abs() for name in names}


def magnitude(model, masks, batch):
    """The magnitude of the trained weights (Han 2015; Frankle & Carbin 2019)."""
    return magnitudes(dict(model.named_parameters()), masks)


CRITERIA["magnitude"] = Criterion(
    magnitude, "the smallest trained weights go, layer by layer (Frankle & Carbin 2019)"
)


def snip(model, masks, batch):
    """SNIP's connection sensitivity (Lee et al. 2019, section 4.1): |dL/dc| = |w dL/dw|.

    L is the mean cross-entropy of one batch with the weights c * w at c = 1. The paper divides by
    the sum over all weights, which changes no order, and is left out.
    """
    images, labels = batch(BATCH)
    net, weights = copy_for_gradients(model)
    gradients = torch.autograd.grad(F.cross_entropy(net(images), labels), list(weights.values()))
    pairs = zip(weights.items(), gradients, strict=True)
    return {name: (weight * gradient).abs().detach() for (name, weight), gradient in pairs}


CRITERIA["snip"] = Criterion(
    snip, "by |w dL/dw| of one batch at theta_0, over the whole net (Lee et al. 2019)", True
)


def grasp(model, masks, batch, temperature=200.0):
    """GraSP's score (Wang et al. 2020, section 4) with the sign turned: theta * Hg.

    To first order, taking away weight i changes the squared norm of the gradient g by -2 theta_i
    (Hg)_i. The paper's importance S(-theta) = -theta * Hg is thus high where removing raises the
    gradient flow, and its highest go. g and H are those of the prunable weights and of the mean
    cross-entropy of one batch, the logits divided by `temperature`: 200 in the authors' code, 1 for
    the formula as printed.
    """
    images, labels = batch(BATCH)
    net, weights = copy_for_gradients(model)
    loss = F.cross_entropy(net(images) / temperature, labels)
    gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    # its derivative is Hg; that of |g|^2 is 2 Hg
    flow = sum((gradient * gradient.detach()).sum() for gradient in gradients)
    products = torch.autograd.grad(flow, list(weights.values()))
    pairs = zip(weights.items(), products, strict=True)
    return {name: (weight * product).detach() for (name, weight), product in pairs}


CRITERIA["grasp"] = Criterion(
    grasp,
    "by what keeps the gradient large at theta_0, over the whole net (Wang et al. 2020)",
    True,
)


def synflow(model, masks, batch):
    """SynFlow's synaptic flow (Tanaka et al. 2020, section 6): dR/d|w| * |w|.

    R is the sum of the logits for an image of ones, of a linear net: the weights that `masks`
    leaves alive at their absolute values, biases and batch-norm's shifts and means at zero.
    Batch-norm is in eval mode, at initialisation the identity, as in the authors' code: statistics
    of a single image would divide the flow out. Scores are float64, for R of a deep net leaves
    float32's range. Pruned step by step, layers in a row are not emptied; a residual branch can be,
    and the flow then takes the shortcut.
    """
    net = copy.deepcopy(model).double().eval()
    net.normalise = nn.Identity()  # the ones enter the network itself; normalised they could be < 0
    for name, tensor in net.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.zero_()
        else:
            tensor.abs_().mul_(masks[name].to(tensor.device) if name in masks else 1)
    parameters = net.named_parameters()
    weights = {name: weight.requires_grad_() for name, weight in parameters if name in masks}
    device = next(iter(weights.values())).device
    image = torch.ones_like(batch(1)[0], dtype=torch.double, device=device)
    gradients = torch.autograd.grad(net(image).sum(), list(weights.values()))
    pairs = zip(weights.items(), gradients, strict=True)
    return {name: (weight * gradient).detach() for (name, weight), gradient in pairs}


CRITERIA["synflow"] = Criterion(
    synflow,
    "by the flow through theta_0, without data, over the whole net in 100 steps (Tanaka et al. "
    "2020)",
    True,
    steps=100,  # the paper's section 7
)


def copy_for_gradients(model):
    """A copy of the model as its first training step would run it, and its prunable weights.

    Batch-norm takes the statistics of the batch, as in training: theta_0's running ones are 0 and 1
    and normalise nothing, so in eval mode the gradients would be those of another net. Dropout is
    off: a score should not hang on which units one draw leaves out.
    """
    net = copy.deepcopy(model).train()
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    parameters = dict(net.named_parameters())
    return net, {name: parameters[name].requires_grad_() for name in prunable(net)}


# Prune types -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class PruneType:
    """One line of PRUNE_TYPES: a ticket, or what a ticket is compared with."""

    why: str
    start: Callable  # (experiment.Sources) -> the weights that the next round starts from
    masks: Callable = lambda masks, seed, round_number: masks  # what it makes of the ticket's masks
    scores: Callable | None = None  # (masks, seed) -> scores to prune by in the criterion's place
    rewinds: bool = True  # to theta_0, or with --rewind_epoch to a later epoch
    fresh: bool = False  # it never starts from a ticket's own theta_0
    goes_on: bool = False  # with the trained weights
    last_rate: bool = False  # after round 0 it trains at the rate that the schedule ends with
    of_ticket: bool = False  # its masks are the lt run's with the same other flags, trained first
    takes_ticket: bool = True  # it can have the masks of a --ticket instead
    takes_criterion: bool = True  # it can prune by another --criterion than magnitude
    was: str = ""  # what older runs of it are called


PRUNE_TYPES = Registry(
    "prune_type", must(lambda entry: callable(getattr(entry, "start", None)), "a PruneType")
)


def shuffled_within_layers(masks, seed, number):
    """Each mask with its entries permuted, by the stream (seed, "shuffle", round, layer)."""
    order = {n: permutation(mask.numel(), seed, "shuffle", number, n) for n, mask in masks.items()}
    return {n: mask.reshape(-1)[order[n]].reshape(mask.shape) for n, mask in masks.items()}


def random_scores(masks, seed):
    """Scores that rank at random, by the stream (seed, "random masks", 0, layer)."""
    draws = {name: generator(seed, "random masks", 0, name) for name in masks}
    return {name: torch.rand(mask.shape, generator=draws[name]) for name, mask in masks.items()}


PRUNE_TYPES["lt"] = PruneType("rewinds to theta_0 (a ticket)", lambda sources: sources.rewound)
PRUNE_TYPES["reinit"] = PruneType(
    "draws fresh weights each round under the masks of the lt run with the same flags, which is "
    "trained first (Frankle & Carbin 2019)",
    lambda sources: sources.fresh(),
    rewinds=False,
    fresh=True,
    of_ticket=True,
)
PRUNE_TYPES["shuffle"] = PruneType(
    "rewinds to theta_0 under the lt run's masks, permuted within each layer",
    lambda sources: sources.rewound,
    masks=shuffled_within_layers,
    of_ticket=True,
)
PRUNE_TYPES["random"] = PruneType(
    "rewinds to theta_0 and removes as many weights as lt does, at random",
    lambda sources: sources.rewound,
    scores=random_scores,
    takes_ticket=False,
    takes_criterion=False,
)
# with a constant rate these two are one
PRUNE_TYPES["finetune"] = PruneType(
    "prunes alike and goes on with the trained weights, at the last of --lr_schedule's rates",
    lambda sources: sources.trained,
    rewinds=False,
    goes_on=True,
    last_rate=True,
    takes_ticket=False,
    takes_criterion=False,
)
PRUNE_TYPES["rewind_lr"] = PruneType(
    "goes on with the trained weights and rewinds the learning rate: each round trains by the "
    "whole schedule (Renda et al. 2020)",
    lambda sources: sources.trained,
    rewinds=False,
    goes_on=True,
    takes_ticket=False,
    takes_criterion=False,
)
# what the older scripts call reinit, and the first versions of this program too: from its second
# round on its masks are not the ticket's, so it tells nothing of the initial weights alone
PRUNE_TYPES["reinit_chain"] = PruneType(
    "draws fresh weights each round and prunes what they train to, as the older scripts' reinit: "
    "its masks are its own, so it is no control of the ticket's weights",
    lambda sources: sources.fresh(),
    rewinds=False,
    fresh=True,
    takes_ticket=False,
    was="reinit",
)
PRUNE_TYPES["shuffle_chain"] = PruneType(
    "rewinds to theta_0, permutes its masks and prunes what they train to",
    lambda sources: sources.rewound,
    masks=shuffled_within_layers,
    takes_ticket=False,
    was="shuffle",
)
