"""Images as 16-bit levels, as the cache keeps them, and as floats in [0, 1]."""

import numpy as np
import torch

import attacks

LEVELS = 65535  # 65535 = 257 * 255, so every uint8 pixel is one of its levels exactly


def to_float(images, device):
    """uint8 numpy images -> float32 in [0, 1] on the device."""
    return torch.from_numpy(images).to(device).float().div_(255)


def to_levels(attacked, clean, nearest=False):
    """Floats in [0, 1] (tensor) -> uint16 levels.

    Rounded towards the clean uint8 images, so that no epsilon is exceeded, or to the nearest.
    """
    base = clean.astype(np.int64) * (LEVELS // 255)
    step = attacked.double().cpu().numpy() * LEVELS - base
    # 0.01 of a level forgives the rounding of float32, which would cost a whole level at 8/255
    step = np.rint(step) if nearest else np.trunc(step + 0.01 * np.sign(step))
    return (base + step.astype(np.int64)).clip(0, LEVELS).astype(np.uint16)


def from_levels(levels, device):
    """uint16 levels -> float32 in [0, 1]; an unchanged pixel is bit-equal to its clean float."""
    return torch.from_numpy(levels.astype(np.float32)).to(device).div_(LEVELS)


def to_bytes(levels, clean, nearest=False):
    """uint16 levels -> uint8 images, as image files have them.

    Rounded towards the clean uint8 images, so that no linf radius is exceeded, or to the nearest.
    """
    step = (levels - clean.astype(np.float64) * (LEVELS // 255)) / (LEVELS // 255)
    return (clean + (np.rint(step) if nearest else np.trunc(step))).clip(0, 255).astype(np.uint8)


def settle(model, clean, labels, attacked, keep_within):
    """Attacked images (tensor) as uint16 levels that still fool where the floats did.

    Within an epsilon, pixels are rounded towards the clean ones. Attacks of least distance stop on
    the class boundary, where rounding can undo them: those images are pushed on by 0.2 % of their
    perturbation, up to 2 %.
    """
    if keep_within:
        return to_levels(attacked, clean)
    levels, origin = to_levels(attacked, clean, nearest=True), to_float(clean, attacked.device)
    fooled = ~attacks.is_correct(model, attacked, labels)
    for push in range(1, 11):
        now = attacks.is_correct(model, from_levels(levels, origin.device), labels)
        undone = fooled & now
        if not undone.any():
            break
        further = (origin + (1 + 0.002 * push) * (attacked - origin)).clamp(0, 1)
        rows = undone.cpu().numpy()
        levels[rows] = to_levels(further[undone], clean[rows], nearest=True)
    return levels
