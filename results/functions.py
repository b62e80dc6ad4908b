"""Whether two networks compute the same: agreement, shared errors, CKA, linear mode connectivity.

`python tickets.py A B --function` prints, saves and draws what this module computes. Test images
are clean; a network is a round's trained weights under its mask.
"""

import copy

import numpy as np
import pandas as pd
import torch
from torch import nn

import pruning
from results.ticket import load_data, load_ticket, to_float
from store.runfolder import RunFolder
from utils import UserError, eval_examples, permutation

BATCH = 1000
POINTS = 30  # of the path between two networks, as Frankle et al. 2020
CKA_EXAMPLES = 1000
NORM_EXAMPLES = 1000  # training images that batch-norm statistics are estimated on

# Two networks ----------------------------------------------------------------------------------


def error_overlap(wrong_a, wrong_b):
    """Share of the better network's errors that the other makes too, and that of independent ones.

    wrong_a, wrong_b: (N,) bool, where each network errs: |both| / min(|a|, |b|). Nan where a
    network makes no error.
    """
    a, b, n = int(wrong_a.sum()), int(wrong_b.sum()), len(wrong_a)
    if not min(a, b):
        return np.nan, np.nan
    return int((wrong_a & wrong_b).sum()) / min(a, b), a * b / n / min(a, b)


def aligned(gram_x, gram_y):
    """Linear centred kernel alignment, from 0 to 1, of two layers on the same N images.

    From the (N, N) Gram matrices of their centred features (Kornblith et al. 2019, section 3). Nan
    where the features of one do not vary.
    """
    gram_x, gram_y = gram_x.double(), gram_y.double()
    norms = gram_x.norm() * gram_y.norm()
    return ((gram_x * gram_y).sum() / norms).item() if norms > 0 else np.nan


def gram(features):
    """The (N, N) Gram matrix of features (N, ...), centred."""
    features = features.flatten(1).float()
    # before the product: the float32 of a large mean would drown the rest
    features = features - features.mean(0)
    return features @ features.T


@torch.no_grad()
def hidden_grams(model, images):
    """{layer: Gram matrix} of the outputs of every hidden convolution and linear layer.

    images (N, C, H, W) pass at once and each output is reduced as it appears, so that one layer's
    features are in memory at a time.
    """
    grams, modules, handles = {}, dict(model.named_modules()), []
    for name in pruning.prunable(model)[:-1]:

        def reduce(module, inputs, output, name=name):
            grams[pruning.layer_name(name)] = gram(output).cpu()

        module = modules[name.removesuffix(".weight")]
        handles.append(module.register_forward_hook(reduce))
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return grams


@torch.no_grad()
def predict(model, images):
    """Predicted classes (N,) of images (N, C, H, W); the model is in eval mode."""
    return torch.cat([model(part).argmax(1) for part in images.split(BATCH)])


def batch_norms(model):
    """The layers whose running statistics a point between two networks must estimate anew."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@torch.no_grad()
def refresh_batch_norm(model, images):
    """Estimate every batch-norm's running statistics anew on images (N, C, H, W); ends in eval
    mode. They are the plain mean over batches.
    """
    norms = batch_norms(model)
    momenta = [norm.momentum for norm in norms]
    model.eval()  # dropout stays off
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative: every batch counts the same
        norm.train()
    for part in images.chunk(-(-len(images) // 250)):
        model(part)  # equal parts: a last batch of one image has no variance
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def path_errors(model, state_a, state_b, images, labels, norm_images=None, points=POINTS):
    """Errors in percent, (points,), at evenly spaced points of the line from state_a to state_b.

    The ends are included; images (N, C, H, W). The linear path of Frankle et al. 2020, section 2,
    over every parameter; between two masks it has the union of both alive. Batch-norm statistics
    are estimated anew at each point, the ends too, on norm_images. The model is left at state_b.
    """
    errors = []
    for share in np.linspace(0, 1, points).tolist():
        # lerp is exact at both ends and where a and b agree
        state = {
            name: torch.lerp(a, state_b[name], share) if a.is_floating_point() else a
            for name, a in state_a.items()
        }
        model.load_state_dict(state)
        model.eval()
        if batch_norms(model):
            refresh_batch_norm(model, norm_images)
        errors.append(_percent(predict(model, images) != labels))
    return np.array(errors)


def _percent(flags):
    return 100 * flags.double().mean().item()


def barrier(errors):
    """Highest error on a path minus the mean of its ends, percentage points.

    Frankle et al. 2020, section 2; below 2 counts as stable.
    """
    return max(errors) - (errors[0] + errors[-1]) / 2


def compare_networks(model, state_a, state_b, images, labels, norm_images=None, points=POINTS):
    """Every comparison of two states of one model on images (N, C, H, W) with labels (N,).

    The model's weights are overwritten. A dict: error_a, error_b, agreement, path_error (the
    highest on the path) in percent, barrier in points, error_overlap and error_overlap_chance from
    0 to 1, cka (the mean of the layers') and "cka LAYER". path_end_a and path_end_b, from which the
    barrier is measured, are error_a and error_b but for batch-norm's statistics.
    """
    predictions, grams = [], []
    for state in (state_a, state_b):
        model.load_state_dict(state)
        model.eval()
        predictions.append(predict(model, images))
        grams.append(hidden_grams(model, images[:CKA_EXAMPLES]))
    wrong_a, wrong_b = (prediction != labels for prediction in predictions)
    shared, chance = error_overlap(wrong_a, wrong_b)
    alignment = {f"cka {name}": aligned(first, grams[1][name]) for name, first in grams[0].items()}
    errors = path_errors(model, state_a, state_b, images, labels, norm_images, points)
    return {
        "error_a": _percent(wrong_a),
        "error_b": _percent(wrong_b),
        "agreement": _percent(predictions[0] == predictions[1]),
        "error_overlap": shared,
        "error_overlap_chance": chance,
        "barrier": barrier(errors),
        "path_error": max(errors),
        "path_end_a": errors[0],
        "path_end_b": errors[-1],
        "cka": float(np.mean(list(alignment.values()))) if alignment else np.nan,
        **alignment,
    }


# Pairs of runs ---------------------------------------------------------------------------------


def choose_pairs(pairs, rounds, max_pairs):
    """At most max_pairs of the pairs of Tickets, as many of each kind and theta_0 as of the others.

    pairs: a DataFrame of first, second, kind and theta0, None where it is not shared. Pairs that
    share it come alone, if there are any: a path between networks of different theta_0 says nothing
    of their masks. UserError unless they are of one data set and some keep trained weights.
    """
    chosen = spread(pairs, max_pairs)
    if len(chosen) < len(pairs):
        which = f"those that share theta_0, at most --max_pairs={max_pairs}"
        print(f"note: --function compares {len(chosen)} of {len(pairs)} pairs: {which}")
    configs = [ticket.config for ticket in [*chosen["first"], *chosen["second"]]]
    files = sorted({f"{config.dataset} {config.data_id}".strip() for config in configs})
    if len(files) > 1:
        what = f"these are of {' and '.join(files)}"
        raise UserError(f"--function needs runs of one data set: {what}")
    if not any(kept_rounds(pair, rounds) for pair in chosen.itertuples()):
        what = "--function needs trained weights that both runs of a pair keep"
        raise UserError(f"{what}: train with --save_weights=best")
    return chosen


def spread(pairs, count):
    """The first `count` pairs by turns of kind and theta_0, of those that share it, if any do."""
    if pairs.theta0.notna().any():
        pairs = pairs[pairs.theta0.notna()]
    turns = pairs.groupby(["kind", "theta0"], dropna=False).cumcount()
    return pairs.loc[turns.sort_values(kind="stable").index[:count]].sort_index()


def kept_rounds(pair, rounds):
    """Those of the rounds of which both runs of a pair keep trained weights."""
    folders = [RunFolder(ticket.path) for ticket in (pair.first, pair.second)]
    return [n for n in rounds if all(folder.weights(n).exists() for folder in folders)]


def compare_runs(pairs, rounds, data_dir, examples, device):
    """function.csv, a DataFrame: compare_networks of every pair at every round both keep.

    pairs: a DataFrame of Tickets first and second, and their kind.
    """
    dataset = load_data(pairs["first"].iloc[0].config, data_dir)
    chosen = eval_examples(len(dataset.test_labels), examples).numpy()
    images = to_float(dataset.test_images[chosen], device)
    labels = torch.from_numpy(dataset.test_labels[chosen]).to(device)
    for_norm = permutation(len(dataset.train_images), 0, "batch-norm examples")[:NORM_EXAMPLES]
    norm_images = to_float(dataset.train_images[for_norm.numpy()], device)
    rows = []
    for pair in pairs.itertuples():
        for number in kept_rounds(pair, rounds):
            row, states = {"a": pair.first.label, "b": pair.second.label}, []
            row |= {"kind": pair.kind, "round": number}
            for side, ticket in zip("ab", (pair.first, pair.second), strict=True):
                net, masks, _ = load_ticket(ticket.path, number, data_dir)
                kept, total = pruning.counts(masks)
                row[f"density_{side}"] = kept / total
                states.append(copy.deepcopy(net.to(device).state_dict()))
            row["examples"] = len(labels)
            rows.append(row | compare_networks(net, *states, images, labels, norm_images))
            told = ", ".join(f"{name} {rows[-1][name]:.3g}" for name in BRIEF)
            told = told.replace("_", " ")
            print(f"  {row['a']} with {row['b']}, round {number}: {told}", flush=True)
    return pd.DataFrame(rows)


BRIEF = ("agreement", "error_overlap", "error_overlap_chance", "cka", "barrier")
PANELS = {
    "barrier": "error barrier (points)",
    "agreement": "same prediction (%)",
    "error_overlap": "errors shared (share of the fewer)",
    "cka": "linear CKA, mean of hidden layers",
}


def function_figure(rows):
    """Barrier, agreement, shared errors and CKA against density, of the rows of function.csv.

    A thin line a pair, a thick one the mean of each kind of pair.
    """
    from results.figures import legend_below, new_figure, palette, remaining_axis

    figure, axes = new_figure("networks of two tickets compared on clean test images", 2, rows=2)
    rows = rows.assign(density=50 * (rows.density_a + rows.density_b))
    kinds = rows.groupby("kind", sort=False)
    for (kind, mine), colour in zip(kinds, palette(kinds.ngroups), strict=True):
        pairs = [pair for _, pair in mine.groupby(["a", "b"], sort=False)]
        mean = mine.groupby("round")[["density", "error_overlap_chance", *PANELS]].mean()
        look, name = {"color": colour, "markersize": 3.5}, kind or "pairs"
        for axis, column in zip(axes, PANELS, strict=True):
            for pair in pairs if len(pairs) > 1 else []:
                axis.plot(pair.density, pair[column], color=colour, linewidth=0.7, alpha=0.4)
            label = f"{name} (n={len(pairs)})"
            axis.plot(mean.density, mean[column], marker="o", label=label, **look)
        chance, label = mean.error_overlap_chance, f"{name}: if errors were independent"
        axes[2].plot(mean.density, chance, ":", marker=".", label=label, **look)
    for axis, name in zip(axes, PANELS.values(), strict=True):
        axis.set_title(name)
        remaining_axis(axis, rows.density)
    axes[0].set_ylim(0, max(2.3, axes[0].get_ylim()[1]))
    for axis, most in zip(axes[1:], (100, 1, 1), strict=True):
        low, high = axis.get_ylim()
        axis.set_ylim(top=min(high, most + 0.03 * (most - low)))
    axes[0].axhline(2, color="gray", linestyle="--", linewidth=0.9)
    where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes[0].annotate("stable below 2", (0.02, 2), xytext=(0, 2), fontsize="x-small", **where)
    legend_below(figure, axes[2])
    return figure
