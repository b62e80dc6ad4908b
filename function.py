"""Whether two networks compute the same function: agreement, shared errors, CKA, linear mode connectivity.

`python tickets.py A B --function` prints, saves and draws what this module computes. Test images are clean; a network is a round's
trained weights under its mask.
"""

import numpy as np
import torch
from torch import nn

import pruning
from config import RunConfig
from runfolder import RunFolder
from utils import UserError, eval_examples, permutation

BATCH = 1000
POINTS = 30  # of the path between two networks, as Frankle et al. 2020
CKA_EXAMPLES = 1000
NORM_EXAMPLES = 1000  # training images that batch-norm statistics are estimated on


def error_overlap(wrong_a, wrong_b):
    """(share of the better network's errors that the other makes too, the share expected if errors were independent).

    wrong_a, wrong_b: (N,) bool, where each network errs: |both| / min(|a|, |b|). Nan where a network makes no error.
    """
    a, b, n = int(wrong_a.sum()), int(wrong_b.sum()), len(wrong_a)
    if not min(a, b):
        return np.nan, np.nan
    return int((wrong_a & wrong_b).sum()) / min(a, b), a * b / n / min(a, b)


def linear_cka(x, y):
    """Linear centred kernel alignment, from 0 to 1, of two layers' features on the same N images (Kornblith et al. 2019, section 3).

    x: (N, P), y: (N, Q) tensors. Nan where the features of one do not vary. Of the two equal forms, the one with the smaller
    matrices is taken: P x Q when features are fewer than images, else N x N.
    """
    x, y = (features.double() - features.double().mean(0) for features in (x, y))
    if max(x.shape[1], y.shape[1]) < len(x):
        cross, own_x, own_y = (x.T @ y).square().sum(), (x.T @ x).norm(), (y.T @ y).norm()
        return (cross / (own_x * own_y)).item() if own_x * own_y > 0 else np.nan
    return aligned(x @ x.T, y @ y.T)


def aligned(gram_x, gram_y):
    """Linear CKA from the (N, N) Gram matrices of centred features."""
    norms = gram_x.double().norm() * gram_y.double().norm()
    return ((gram_x.double() * gram_y.double()).sum() / norms).item() if norms > 0 else np.nan


def hidden_grams(model, images):
    """{layer: (N, N) Gram matrix} of the centred outputs of every hidden convolution and linear layer; images (N, C, H, W).

    All images pass at once and each output is reduced as it appears, so that one layer's features are in memory at a time.
    """
    grams, modules, handles = {}, dict(model.named_modules()), []

    def hook(name):
        def reduce(module, inputs, output):
            features = output.flatten(1).float()
            features = features - features.mean(0)  # before the product: the float32 of a large mean would drown the rest
            grams[name] = (features @ features.T).cpu()

        return reduce

    for name in pruning.prunable(model)[:-1]:
        name = name.removesuffix(".weight")
        handles.append(modules[name].register_forward_hook(hook(name.removeprefix("net."))))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return grams


@torch.no_grad()
def predict(model, images):
    """Predicted classes (N,) of images (N, C, H, W); the model is in eval mode."""
    return torch.cat([model(part).argmax(1) for part in images.split(BATCH)])


def has_batch_norm(model):
    """Whether the model keeps running statistics that a point between two networks must estimate anew."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@torch.no_grad()
def refresh_batch_norm(model, images):
    """Estimate every batch-norm's running statistics anew on images (N, C, H, W), as the plain mean over batches; ends in eval mode."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()  # dropout stays off
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative: every batch counts the same
        norm.train()
    for part in images.chunk(-(-len(images) // 250)):  # equal parts: a last batch of one image has no variance
        model(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def path_errors(model, state_a, state_b, images, labels, norm_images=None, points=POINTS):
    """Errors in percent, (points,), on images (N, C, H, W) at evenly spaced points of the line from state_a to state_b, the ends included.

    The linear path of Frankle et al. 2020, section 2, over every parameter; between two masks it has the union of both alive.
    Batch-norm statistics are estimated anew at each point, the ends too, on norm_images. The model is left at state_b.
    """
    renew, errors = has_batch_norm(model), []
    for share in np.linspace(0, 1, points):
        # lerp is exact at both ends and where a and b agree
        state = {name: torch.lerp(a, state_b[name], float(share)) if a.is_floating_point() else a for name, a in state_a.items()}
        model.load_state_dict(state)
        model.eval()
        if renew:
            refresh_batch_norm(model, norm_images)
        errors.append(100 * (predict(model, images) != labels).double().mean().item())
    return np.array(errors)


def barrier(errors):
    """Highest error on a path minus the mean of its ends, percentage points (Frankle et al. 2020, section 2; below 2 counts as stable)."""
    return max(errors) - (errors[0] + errors[-1]) / 2


def compare_networks(model, state_a, state_b, images, labels, norm_images=None, points=POINTS):
    """Every comparison of two states of one model on images (N, C, H, W) with labels (N,), as a dict; the model's weights are overwritten.

    error_a, error_b, agreement, path_error (the highest on the path) in percent, barrier in points, error_overlap and
    error_overlap_chance from 0 to 1, cka (the mean of the layers') and "cka LAYER". path_end_a and path_end_b, from which the barrier
    is measured, are error_a and error_b but for batch-norm's statistics.
    """
    predictions, grams = [], []
    for state in (state_a, state_b):
        model.load_state_dict(state)
        model.eval()
        predictions.append(predict(model, images))
        grams.append(hidden_grams(model, images[:CKA_EXAMPLES]))
    wrong_a, wrong_b = (prediction != labels for prediction in predictions)
    shared, chance = error_overlap(wrong_a, wrong_b)
    alignment = {f"cka {name}": aligned(gram, grams[1][name]) for name, gram in grams[0].items()}
    errors = path_errors(model, state_a, state_b, images, labels, norm_images, points)
    return {
        "error_a": 100 * wrong_a.double().mean().item(),
        "error_b": 100 * wrong_b.double().mean().item(),
        "agreement": 100 * (predictions[0] == predictions[1]).double().mean().item(),
        "error_overlap": shared,
        "error_overlap_chance": chance,
        "barrier": barrier(errors),
        "path_error": max(errors),
        "path_end_a": errors[0],
        "path_end_b": errors[-1],
        "cka": float(np.mean(list(alignment.values()))) if alignment else np.nan,
        **alignment,
    }


def choose_pairs(pairs, max_pairs):
    """At most max_pairs of the pairs (each with "kind", "block"), as many of each kind and theta_0 as of the others.

    Pairs that share theta_0 come alone, if there are any: a path between networks of different theta_0 says nothing of their masks.
    """
    pairs = [pair for pair in pairs if pair["block"] is not None] or pairs
    turns, seen = [], {}
    for pair in pairs:
        key = pair["kind"], pair["block"]
        seen[key] = seen.get(key, 0) + 1
        turns.append(seen[key])
    order = sorted(range(len(pairs)), key=lambda at: turns[at])
    return [pairs[at] for at in sorted(order[:max_pairs])]


def kept_rounds(first, second, rounds):
    """Those of the rounds of which both run folders keep trained weights."""
    return [number for number in rounds if all(RunFolder(path).weights(number).exists() for path in (first, second))]


def check_pairs(pairs, rounds):
    """UserError unless the pairs of tickets are of one data set and some keep trained weights; before any work is done."""
    flags = [pair[side].flags for pair in pairs for side in ("first", "second")]
    datasets = sorted({item["dataset"] for item in flags})
    if len(datasets) > 1:
        raise UserError(f"--function needs runs of one data set: these are of {' and '.join(datasets)}")
    if not any(kept_rounds(pair["first"].path, pair["second"].path, rounds) for pair in pairs):
        raise UserError("--function needs trained weights that both runs of a pair keep: train with --save_weights=best")


def compare_runs(pairs, rounds, data_dir, examples, device, say=print):
    """Rows of function.csv: compare_networks of every pair of tickets (dicts: first, second, kind) at every round both keep weights of."""
    import archs
    import data
    from pool import to_float

    flags = pairs[0]["first"].flags
    dataset = data.load_as_trained(RunConfig.of(flags | {"data_dir": str(data_dir)}))
    model = archs.build(flags["arch_type"], dataset.in_shape, dataset.num_classes, data.channel_stats(dataset.train_images)).to(device)
    chosen = eval_examples(len(dataset.test_labels), examples).numpy()
    images, labels = to_float(dataset.test_images[chosen], device), torch.from_numpy(dataset.test_labels[chosen]).to(device)
    for_norm = permutation(len(dataset.train_images), 0, "batch-norm examples")[:NORM_EXAMPLES].numpy()
    norm_images = to_float(dataset.train_images[for_norm], device) if has_batch_norm(model) else None
    rows = []
    for pair in pairs:
        first, second = pair["first"], pair["second"]
        for number in kept_rounds(first.path, second.path, rounds):
            (state_a, density_a), (state_b, density_b) = (load_state(ticket.path, number, model, device) for ticket in (first, second))
            found = compare_networks(model, state_a, state_b, images, labels, norm_images)
            names = {"a": first.label, "b": second.label, "kind": pair["kind"], "round": number, "density_a": density_a, "density_b": density_b}
            rows.append({**names, "examples": len(labels), **found})
            brief = ", ".join(
                f"{name.replace('_', ' ')} {found[name]:.3g}" for name in ("agreement", "error_overlap", "error_overlap_chance", "cka", "barrier")
            )
            say(f"  {first.label} with {second.label}, round {number}: {brief}", flush=True)
    return rows


def load_state(path, number, model, device):
    """(state dict of a round's trained network on the device, its density); UserError if it is not of this model."""
    weights, masks = RunFolder(path).network(number, model)
    kept, total = pruning.counts(masks)
    return {name: tensor.to(device) for name, tensor in pruning.apply(weights, masks).items()}, kept / total


PANELS = {
    "barrier": "error barrier (points)",
    "agreement": "same prediction (%)",
    "error_overlap": "errors shared (share of the fewer)",
    "cka": "linear CKA, mean of hidden layers",
}


def function_figure(rows, title):
    """Barrier, agreement, shared errors and CKA against density: a thin line a pair, a thick one the mean of each kind of pair."""
    import seaborn

    from plots import legend_below, new_figure, remaining_axis

    figure, axes = new_figure(title, 2, rows=2)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind, colour in zip(kinds, seaborn.color_palette("colorblind", max(3, len(kinds))), strict=False):
        mine = [row for row in rows if row["kind"] == kind]
        pairs = [[row for row in mine if (row["a"], row["b"]) == pair] for pair in dict.fromkeys((row["a"], row["b"]) for row in mine)]
        for axis, column in zip(axes, PANELS, strict=True):
            for members in pairs if len(pairs) > 1 else []:
                axis.plot([_density(row) for row in members], [row[column] for row in members], color=colour, linewidth=0.7, alpha=0.4)
            axis.plot(*_mean_curve(mine, column), color=colour, marker="o", markersize=3.5, label=f"{kind or 'pairs'} (n={len(pairs)})")
            if column == "error_overlap":
                chance = _mean_curve(mine, "error_overlap_chance")
                axis.plot(*chance, color=colour, linestyle=":", marker=".", label=f"{kind or 'pairs'}: if errors were independent")
    for axis, name in zip(axes, PANELS.values(), strict=True):
        axis.set_title(name)
        remaining_axis(axis, [_density(row) for row in rows])
    axes[0].set_ylim(0, max(2.3, axes[0].get_ylim()[1]))
    for axis, most in zip(axes[1:], (100, 1, 1), strict=True):
        low, high = axis.get_ylim()
        axis.set_ylim(top=min(high, most + 0.03 * (most - low)))
    axes[0].axhline(2, color="gray", linestyle="--", linewidth=0.9)
    axes[0].annotate("stable below 2", (0.02, 2), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points", fontsize="x-small")
    legend_below(figure, axes[2])
    return figure


def _density(row):
    return 50 * (row["density_a"] + row["density_b"])


def _mean_curve(rows, column):
    """Densities in percent and the mean of `column` over the pairs, a point a round, cut where there is no value."""
    numbers = sorted({row["round"] for row in rows})
    each = [[row for row in rows if row["round"] == number] for number in numbers]
    values = [[row[column] for row in members if not np.isnan(row[column])] for members in each]
    return [np.mean([_density(row) for row in members]) for members in each], [np.mean(found) if found else np.nan for found in values]
