"""How good an attacked set is: its figures, and why they could not be trusted."""

import numpy as np
import torch

import attacks
from attacked.levels import LEVELS, to_float
from config import attack_settings

CHUNK = 4096  # images at a time: the differences of a whole data set are large
TRIED = 256  # test images that the warnings look at


def figures(dataset, attacked, picked):
    """Figures of the attacked images a run uses, as a dict.

    attacked: a pool.Attacked; picked: the training and validation images the run takes. Accuracies
    and shares are in percent; L2 and linf are on [0, 1] pixels, over the images that changed;
    failures are images that the surrogate classified correctly and still does.
    """
    result = {}
    for part, whole in (("train", attacked.train), ("test", attacked.test)):
        rows = np.isin(whole.index, picked) if part == "train" else np.full(len(whole.index), True)
        if not rows.any():
            continue
        clean = getattr(dataset, f"{part}_images")[whole.index[rows]]
        l2, linf = perturbation_norms(whole.pixels[rows], clean)
        changed = linf > 0
        result[part] = {
            "images": int(rows.sum()),
            "surrogate_accuracy_before": 100 * float(whole.before[rows].mean()),
            "surrogate_accuracy_after": 100 * float(whole.after[rows].mean()),
            "changed_percent": 100 * float(changed.mean()),
            "failures": int((whole.before & whole.after)[rows].sum()),
            "seconds": float(whole.seconds[rows].sum()),
        }
        for name, values in (("l2", l2[changed]), ("linf", linf[changed])):
            for kind in ("mean", "median", "max"):
                value = float(getattr(np, kind)(values)) if changed.any() else 0.0
                result[part][f"{kind}_{name}"] = value
    return result | {"warnings": list(attacked.warnings)}


def perturbation_norms(pixels, clean):
    """L2 and linf length (N,) of what tells uint16 levels from uint8 images, on [0, 1] pixels."""
    l2, linf = [], []
    for start in range(0, len(pixels), CHUNK):
        part = slice(start, start + CHUNK)
        base = clean[part].astype(np.float32) * (LEVELS // 255)
        difference = (pixels[part].astype(np.float32) - base) / LEVELS
        flat = np.abs(difference.reshape(len(difference), -1))
        l2.append(np.sqrt((flat**2).sum(1)))
        linf.append(flat.max(1))
    return np.concatenate(l2), np.concatenate(linf)


def warnings_of(config, dataset, test, model):
    """Why figures of this attacked set cannot be trusted, in plain words.

    After auto-attack's checks (Croce & Hein 2020). test: the AttackedSet of the test images.
    """
    warnings = []
    settings = attack_settings(config, config.attack, dataset.in_shape[0] > 1)
    control, device = settings.entry().control, next(model.parameters()).device
    x = to_float(dataset.test_images[:TRIED], device)
    y = torch.from_numpy(dataset.test_labels[:TRIED]).to(device)
    gradient = attacks.input_gradient(model, x, lambda logits: attacks.cross_entropy(logits, y))
    zero = 100 * (gradient.flatten(1) == 0).all(1).float().mean().item()
    if zero > 1 and not control:
        what = f"the surrogate's gradient is exactly zero for {zero:.0f} % of the images"
        warnings.append(f"{what}, so an attack by gradients leaves them as they are")
    if config.attack == "pgd":
        starts = attacks.starts_for(config.attack_number, "test", range(len(x)), x)
        after = []
        for steps in (settings.attack_steps, 2 * settings.attack_steps):
            longer = attack_settings(config.replace(attack_steps=steps), "pgd", x.shape[1] > 1)
            attacked = attacks.pgd(model, x, y, longer, starts)
            after.append(attacks.is_correct(model, attacked, y).float().mean().item())
        if after[1] < after[0] - 0.02:
            what = f"twice the steps leave {100 * after[1]:.0f} % correct instead of"
            few = f"--attack_steps={settings.attack_steps} is too few"
            warnings.append(f"{what} {100 * after[0]:.0f} %: {few}")
    drop = 100 * (test.before.mean() - test.after.mean())
    nothing = dict(settings.values).get("epsilon") == 0
    if drop < 10 and not control and not nothing:
        what = f"the attack costs its own surrogate only {drop:.1f} points"
        warnings.append(f"{what}: these images are hardly attacked")
    return warnings


def transfer_warning(report, clean, transferred, mix_ratio):
    """A warning where a net trained on clean images hardly minds the attacked test set, or None."""
    before, after = (report["test"][f"surrogate_accuracy_{when}"] for when in ("before", "after"))
    if mix_ratio or before - after <= 10 or not clean:
        return None
    # shares: a net that is right on little has little to lose
    drop, lost = 1 - after / before, max(0, 1 - transferred / clean)
    if lost >= drop / 4:
        return None
    costs = f"the surrogate loses {100 * drop:.0f} % of what it has right, the network under study"
    return (
        f"this set barely transfers: {costs} {100 * lost:.0f} %; training on it is nearly training "
        "on clean images (for cw, raise --confidence)"
    )


def describe(config, report):
    """The figures as the lines a run prints."""
    radius = f" (epsilon {config.epsilon:.4g})" if config.epsilon is not None else ""
    made = f"{config.test_attack} in {config.norm}{radius} against {config.surrogate}:"
    head = f"attacked with {made}"
    if config.omits:
        share = f"{100 * config.mix_ratio:g} % of the training images"
        head = f"{share} left out, others repeated; test images {head}"
    lines = [head]
    for part in ("train", "test"):
        if part in report:
            row = report[part]
            lines.append(
                f"  {part:5} {row['images']:>7,} images: "
                f"surrogate {row['surrogate_accuracy_before']:.2f} % -> "
                f"{row['surrogate_accuracy_after']:.2f} %, {row['failures']:,} failures, "
                f"{row['changed_percent']:.1f} % changed, L2 {row['mean_l2']:.3f} mean "
                f"{row['median_l2']:.3f} median {row['max_l2']:.3f} max, "
                f"linf {row['mean_linf']:.4f} mean {row['max_linf']:.4f} max, {row['seconds']:.0f} "
                "s"
            )
    return "\n".join(lines + [f"  warning: {text}" for text in report["warnings"]])
