"""Whether two networks compute the same: agreement, shared errors, CKA, linear mode connectivity.

`python tickets.py A B --function` prints, saves and draws what this module computes. Test images
are clean; a network is a round's trained weights under its mask.
"""

import copy
from collections import Counter

import numpy as np
import pandas as pd
import torch
from torch import nn

import pruning
from results.ticket import load_data, load_ticket, to_float
from store.runfolder import RunFolder
from utils import UserError, eval_examples, permutation

BATCH = 1000
STABLE = 2  # points of error: the declared bound of a barrier (Frankle et al. 2020, section 2)
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

    Frankle et al. 2020, section 2; below STABLE counts as stable.
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


OTHER = "other theta_0"  # the kind of pair that is the control
KINDS = ("", "between", "within", OTHER)


def choose_pairs(pairs, rounds, max_pairs):
    """At most max_pairs of the pairs of Tickets for --function, with their `block` and `side`.

    pairs: a DataFrame of first, second, kind, group, same_order and theta0, None where it is not
    shared. Those that share it come with their `with_controls`; every theta_0 gets pairs of every
    kind, and a line tells what is left out. UserError unless they are of one data set and some keep
    trained weights.
    """
    chosen = balanced(with_controls(pairs), max_pairs)
    if len(chosen) < len(pairs):
        print(f"note: --function compares {len(chosen)} of {len(pairs)} pairs (", end="")
        print(f"--max_pairs={max_pairs}): {_told(chosen)}; not {_told(pairs.drop(chosen.index))}")
    configs = [ticket.config for ticket in [*chosen["first"], *chosen["second"]]]
    files = sorted({f"{config.dataset} {config.data_id}".strip() for config in configs})
    if len(files) > 1:
        what = f"these are of {' and '.join(files)}"
        raise UserError(f"--function needs runs of one data set: {what}")
    if not any(kept_rounds(pair, rounds) for pair in chosen.itertuples()):
        what = "--function needs trained weights that both runs of a pair keep"
        raise UserError(f"{what}: train with --save_weights=best")
    return chosen


def _told(pairs):
    """How many pairs there are of each kind, in words."""
    kinds = pairs.kind.where(pairs.theta0.notna() | (pairs.kind == "beside"), OTHER)
    kinds = kinds.replace("", "of one theta_0")
    beside = (pairs.kind == "within") & ~pairs.group.isin(["a", "b"])
    kinds = kinds.mask(beside, "beside").mask(
        (kinds == "between") & pairs.same_order, "between in the same order"
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.value_counts(sort=False).items())


def with_controls(pairs):
    """The pairs that share theta_0, and a control: pairs of one group whose theta_0s differ.

    Networks of other theta_0s agree too, and a path between them may be flat, so a low barrier says
    nothing without them. Each theta_0, the `block`, is paired with the next one, their kind is
    OTHER; `side` tells group a's pairs from b's. Between the groups, pairs whose batches came in
    one order are left out where others are left; the groups beside them are left out. Where no pair
    shares theta_0 all are taken as they are.
    """
    control = (pairs.kind == "within") & ~pairs.group.isin(["a", "b"])
    pairs = pairs[(pairs.kind != "beside") & ~control]
    pairs = pairs.assign(block=pairs.theta0.fillna(""), side="")
    if pairs.theta0.isna().all():
        return pairs
    pairs["side"] = pairs.group.where(pairs.kind == "within", "")
    same, other = pairs[pairs.theta0.notna()], pairs[pairs.theta0.isna()]
    for kind in ("between", "within"):
        odd = (same.kind == kind) & same.same_order
        if (odd != (same.kind == kind)).any():
            same = same[~odd]
    if (other.group != "").any():
        other = other[other.group != ""]
    others = (ticket.theta0 for ticket in [*other["first"], *other["second"]])
    blocks = list(dict.fromkeys([*same.theta0, *others]))
    after = dict(zip(blocks, blocks[1:] + blocks[:1], strict=True))
    owners, turns = [], Counter()
    for pair in other.itertuples():
        ends = pair.first.theta0, pair.second.theta0
        owner = [t for t in ends if after[t] in ends and t in set(same.theta0)]
        # of two theta_0s each is the next of the other
        owners.append(owner[turns[pair.group] % len(owner)] if owner else None)
        turns[pair.group] += 1
    other = other.assign(block=owners, kind=OTHER)
    return pd.concat([same, other[other.block.notna()]])


def balanced(pairs, count):
    """At most `count` of the pairs: by turns a whole set of every kind and side for each block.

    A part of a set only where `count` is smaller than the first.
    """
    turn = pairs.groupby(["kind", "side", "block"]).cumcount()
    block = pairs.block.map({name: at for at, name in enumerate(dict.fromkeys(pairs.block))})
    keys = pd.DataFrame({"turn": turn, "block": block, "kind": pairs.kind.map(KINDS.index)})
    order = keys.sort_values(["turn", "block", "kind"], kind="stable")
    sizes = order.groupby(["turn", "block"]).size().cumsum()
    whole = sizes[sizes <= count].max() if (sizes <= count).any() else count
    return pairs.loc[order.index[:whole]]


def kept_rounds(pair, rounds):
    """Those of the rounds of which both runs of a pair keep trained weights."""
    folders = [RunFolder(ticket.path) for ticket in (pair.first, pair.second)]
    return [n for n in rounds if all(folder.weights(n).exists() for folder in folders)]


def compare_runs(pairs, rounds, data_dir, examples, device):
    """function.csv, a DataFrame: compare_networks of every pair at every round both keep.

    pairs: a DataFrame of Tickets first and second, their kind, block and side.
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
            row |= {"kind": pair.kind, "block": pair.block, "side": pair.side, "round": number}
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
    highest = axes[0].get_ylim()[1]
    if highest > 5 * STABLE:  # the control's barriers would flatten the others
        ticks = [0, 1, 2, 5, 10, 20, 50, 100]
        axes[0].set_yscale("symlog", linthresh=STABLE)
        axes[0].set_yticks(ticks, ticks)
        axes[0].minorticks_off()
    axes[0].set_ylim(0, max(2.3, highest))
    for axis, most in zip(axes[1:], (100, 1, 1), strict=True):
        low, high = axis.get_ylim()
        axis.set_ylim(top=min(high, most + 0.03 * (most - low)))
    axes[0].axhline(STABLE, color="gray", linestyle="--", linewidth=0.9)
    where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    where |= {"xytext": (0, 2), "fontsize": "x-small"}
    axes[0].annotate(f"stable below {STABLE}", (0.02, STABLE), **where)
    legend_below(figure, axes[2])
    return figure
