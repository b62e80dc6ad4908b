"""Adversarial images, one attack a screen.

    python attacks.py evaluate runs/* --attacks all     # clean and attacked accuracy of every saved ticket

Images are (..., N, C, H, W) floats in [0, 1] and labels (..., N) the true classes; `predict` turns such images
into logits (..., N, K). Leading axes are the runs of a cohort, attacked together. An attack is called as
attack(predict, images, labels, settings, starts): settings is a config.AttackSettings, and starts(restart) gives
random numbers in [0, 1), each image's own, so that an image's attack does not depend on its batch.

DeepRobust makes the FGSM and linf PGD data sets. Its L2 PGD, CW and DeepFool do not work on batches of images in
[0, 1] with true labels, so those are written here. They attack only what is classified correctly, keep the best
result of each image, and return the original where they fail.
"""

import contextlib
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.adam import adam

from utils import prepare_deeprobust, stream

# Pieces --------------------------------------------------------------------------------------


def wide(values):
    """(...) -> (..., 1, 1, 1), to go with images."""
    return values[..., None, None, None]


def l2_norm(difference):
    """L2 length (...) of each image's difference (..., C, H, W)."""
    return difference.flatten(-3).norm(dim=-1)


def is_correct(predict, images, labels):
    """Whether each image is classified as its label, (...) bool."""
    with torch.no_grad():
        return predict(images).argmax(-1) == labels


def cross_entropy(logits, labels):
    """Cross-entropy summed over images, so that each image's gradient is its own."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum")


def input_gradient(predict, images, loss):
    """Gradient (..., C, H, W) of loss(logits), a sum over images, with respect to the images."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        return torch.autograd.grad(loss(predict(x)), x)[0]


def margin(logits, labels):
    """Logit of the true class less the highest other one, (...): negative where the image is misclassified."""
    true = logits.gather(-1, labels[..., None])
    other = logits.scatter(-1, labels[..., None], -math.inf).amax(-1)
    return true.squeeze(-1) - other


def rows(tensor, index, after):
    """Take `index` of the image axis, which has `after` axes behind it, whatever leads."""
    return tensor.index_select(tensor.dim() - 1 - after, index)


def put_rows(tensor, index, values, after):
    """Write what `rows` took back in place."""
    tensor.index_copy_(tensor.dim() - 1 - after, index, values)


def still_open(done):
    """Positions of the images that some run has not finished with; asks the host, so call it seldom."""
    return (~done).reshape(-1, done.shape[-1]).any(0).nonzero().squeeze(1)


# Within epsilon --------------------------------------------------------------------------------


def fgsm(predict, images, labels, settings, starts=None):
    """Fast gradient sign method (Goodfellow et al. 2015), linf: clip(x + epsilon * sign(dL/dx), 0, 1)."""
    gradient = input_gradient(predict, images, lambda logits: cross_entropy(logits, labels))
    return (images + settings.epsilon * gradient.sign()).clamp(0, 1)


def pgd(predict, images, labels, settings, starts):
    """Projected gradient descent (Madry et al. 2018, section 2.1), linf or L2, from a random start within epsilon.

    The last iterate; of several restarts each image's first that fools. L2 steps are along the gradient's direction.
    """
    once = _pgd_linf if settings.norm == "linf" else _pgd_l2
    adversarial = once(predict, images, labels, settings, starts(0))
    for restart in range(1, settings.restarts):
        open_ = is_correct(predict, adversarial, labels)
        adversarial = torch.where(wide(open_), once(predict, images, labels, settings, starts(restart)), adversarial)
    return adversarial


def _pgd_linf(predict, images, labels, settings, start):
    x = (images + settings.epsilon * (2 * start - 1)).clamp(0, 1)
    for _ in range(settings.steps):
        gradient = input_gradient(predict, x, lambda logits: cross_entropy(logits, labels))
        x = x + settings.step_size * gradient.sign()
        x = (images + (x - images).clamp(-settings.epsilon, settings.epsilon)).clamp(0, 1)
    return x


def _pgd_l2(predict, images, labels, settings, start):
    """Keeps the first iterate of each image that fools; a failure returns the original. The start's direction and radius are random."""
    direction, radius = 2 * start - 1, settings.epsilon * start[..., :1, :1, :1]
    x = (images + radius * direction / wide(l2_norm(direction)).clamp_min(1e-12)).clamp(0, 1)
    best, open_ = images.clone(), is_correct(predict, images, labels)
    for _ in range(settings.steps + 1):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = predict(x)
            (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), x)
        x, fooled = x.detach(), logits.argmax(-1) != labels
        best = torch.where(wide(open_ & fooled), x, best)
        open_ = open_ & ~fooled
        delta = x - images + settings.step_size * gradient / wide(l2_norm(gradient)).clamp_min(1e-12)
        delta = delta * (settings.epsilon / wide(l2_norm(delta)).clamp_min(1e-12)).clamp_max(1)
        x = (images + delta).clamp(0, 1)
    return best


def noise(predict, images, labels, settings, starts):
    """Uniform noise within epsilon, linf: the control that tells "attacked" from "perturbed"."""
    return (images + settings.epsilon * (2 * starts(0) - 1)).clamp(0, 1)


def deeprobust_fgsm(model, images, labels, settings, starts=None):
    """DeepRobust's FGSM, linf, clipped to [0, 1] (its default is not). images (N, C, H, W), labels (N,)."""
    prepare_deeprobust()
    from deeprobust.image.attack.fgsm import FGSM

    attack = FGSM(model, images.device.type)
    return attack.generate(images, labels, epsilon=settings.epsilon, clip_min=0, clip_max=1).detach()


def deeprobust_pgd(model, images, labels, settings, starts):
    """DeepRobust's PGD, linf, from a random start; of several restarts each image's first that fools. (N, C, H, W).

    Its L2 variant takes the norm over the whole batch; L2 is `pgd` above.
    """
    if settings.norm == "l2":
        return pgd(model, images, labels, settings, starts)
    prepare_deeprobust()
    from deeprobust.image.attack.pgd import PGD

    adversarial = images
    for restart in range(settings.restarts):
        open_ = is_correct(model, adversarial, labels) | (restart == 0)
        with random_starts(starts(restart).cpu().numpy()):
            new = PGD(model, images.device.type).generate(
                images, labels, epsilon=settings.epsilon, num_steps=settings.steps, step_size=settings.step_size,
                clip_min=0.0, clip_max=1.0, bound="linf",
            )  # fmt: skip
        adversarial = torch.where(wide(open_), new.detach(), adversarial)
    return adversarial


@contextlib.contextmanager
def random_starts(draws):
    """Hand DeepRobust's PGD these draws in [0, 1) where it would take them from numpy's global state."""
    uniform = np.random.uniform
    np.random.uniform = lambda low, high, shape: (low + (high - low) * draws).reshape(shape)
    try:
        yield
    finally:
        np.random.uniform = uniform


# Of least distance -----------------------------------------------------------------------------

CW_SEARCHES = 5
CW_FIRST_C = 10.0
CW_INTERVAL = 0.2  # an image leaves the search for c when its interval is this narrow, relative to its upper end


def cw(predict, images, labels, settings, starts=None):
    """Carlini & Wagner 2017, section V, L2, untargeted with the true label; settings.confidence is their kappa.

    Minimises |x' - x|^2 + c * max(margin + kappa, 0) over w, x' = (tanh(w) + 1) / 2, with Adam
    (settings.step_size, settings.steps), and searches c by bisection for each image. A search starts from the
    best image of the last one, and images whose c is known well enough leave the batch.
    """
    best, best_l2 = images.clone(), torch.full(labels.shape, math.inf, device=images.device)
    lower, upper = torch.zeros_like(best_l2), torch.full_like(best_l2, math.inf)
    c = torch.full_like(best_l2, CW_FIRST_C)
    done = ~is_correct(predict, images, labels)
    for _ in range(CW_SEARCHES):
        index = still_open(done)
        if not len(index):
            break
        x, y, now_c, now_done = rows(images, index, 3), *(rows(value, index, 0) for value in (labels, c, done))
        found, found_l2 = _cw_descend(predict, x, y, rows(best, index, 3), now_c, settings)
        success = torch.isfinite(found_l2)
        now_lower, now_upper, now_l2 = (rows(value, index, 0) for value in (lower, upper, best_l2))
        better = (found_l2 < now_l2) & ~now_done
        put_rows(best, index, torch.where(wide(better), found, rows(best, index, 3)), 3)
        now_upper = torch.where(success, torch.minimum(now_upper, now_c), now_upper)
        now_lower = torch.where(success, now_lower, torch.maximum(now_lower, now_c))
        now_c = torch.where(torch.isfinite(now_upper), (now_lower + now_upper) / 2, now_c * 10)
        now_done = now_done | ((now_upper - now_lower) / now_upper < CW_INTERVAL)  # false while upper is infinite
        for value, new in ((lower, now_lower), (upper, now_upper), (c, now_c), (done, now_done)):
            put_rows(value, index, new, 0)
        put_rows(best_l2, index, torch.where(better, found_l2, now_l2), 0)
    return best


def _cw_descend(predict, images, labels, begin, c, settings):
    """One search: the nearest image found that fools with the confidence asked for, and its L2, inf where none did."""
    w = torch.atanh((2 * begin - 1) * (1 - 1e-6))  # finite where a pixel is exactly 0 or 1
    first, second, step = torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device)
    best, best_l2 = images.clone(), torch.full(labels.shape, math.inf, device=images.device)
    for _ in range(settings.steps):
        with torch.enable_grad():
            w.requires_grad_()
            x = (torch.tanh(w) + 1) / 2
            slack = margin(predict(x), labels) + settings.confidence
            squared = (x - images).square().flatten(-3).sum(-1)
            (gradient,) = torch.autograd.grad((squared + c * slack.clamp_min(0)).sum(), w)
        with torch.no_grad():
            l2 = squared.sqrt()
            better = (slack < 0) & (l2 < best_l2)
            best, best_l2 = torch.where(wide(better), x, best), torch.where(better, l2, best_l2)
            w = w.detach()
            adam(
                [w], [gradient], [first], [second], [], [step], fused=True, amsgrad=False, beta1=0.9, beta2=0.999,
                lr=settings.step_size, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip
    return best, best_l2


DEEPFOOL_CLASSES = 10  # candidates, as in the authors' code
DEEPFOOL_OVERSHOOT = 0.02


def deepfool(predict, images, labels, settings, starts=None):
    """DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2), L2: step onto the nearest linearised class boundary until it is crossed."""
    best, done, moved = images.clone(), ~is_correct(predict, images, labels), torch.zeros_like(images)
    x, y, index = images, labels, torch.arange(images.shape[-4], device=images.device)
    for step in range(settings.steps):
        if step % 3 == 0:  # images that are done leave the batch, but the host is not asked at every step
            index = still_open(done)
            if not len(index):
                break
            x, y, now_moved = rows(images, index, 3), rows(labels, index, 0), rows(moved, index, 3)
        now = (x + (1 + DEEPFOOL_OVERSHOOT) * now_moved).clamp(0, 1)
        toward = _to_nearest_boundary(predict, now, y)
        now_done = rows(done, index, 0)
        now_moved = torch.where(wide(now_done), now_moved, now_moved + toward)
        now = (x + (1 + DEEPFOOL_OVERSHOOT) * now_moved).clamp(0, 1)
        fooled = ~is_correct(predict, now, y) & ~now_done
        put_rows(best, index, torch.where(wide(fooled), now, rows(best, index, 3)), 3)
        put_rows(done, index, now_done | fooled, 0)
        put_rows(moved, index, now_moved, 3)
    return best


def _to_nearest_boundary(predict, images, labels):
    """The step (..., C, H, W) from each image to the nearest of the linearised boundaries of its likeliest other classes."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = predict(x)
        ahead = logits - logits.gather(-1, labels[..., None])  # (..., K), 0 at the true class
        others = ahead.detach().scatter(-1, labels[..., None], -math.inf)
        classes = others.topk(min(DEEPFOOL_CLASSES, logits.shape[-1]) - 1, dim=-1).indices
        chosen = ahead.gather(-1, classes)  # (..., candidates)
        nearest, step = torch.full(labels.shape, math.inf, device=images.device), torch.zeros_like(images)
        for k in range(classes.shape[-1]):
            (w,) = torch.autograd.grad(chosen[..., k].sum(), x, retain_graph=True)
            length = l2_norm(w).clamp_min(1e-12)
            distance = chosen[..., k].detach().abs() / length
            closer = distance < nearest
            step = torch.where(wide(closer), wide((distance + 1e-4) / length) * w, step)
            nearest = torch.where(closer, distance, nearest)
    return step


def ddn(predict, images, labels, settings, starts=None):
    """Decoupled direction and norm (Rony et al. 2019, algorithm 1), L2: the norm shrinks after a success and grows after a failure."""
    gamma, epsilon = 0.05, torch.ones(labels.shape, device=images.device)
    best, best_l2 = images.clone(), torch.full(labels.shape, math.inf, device=images.device)
    open_ = torch.ones(labels.shape, dtype=torch.bool, device=images.device)
    delta = torch.zeros_like(images)
    for step in range(settings.steps):
        alpha = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * step / settings.steps)) / 2  # from 1 down to 0.01
        with torch.enable_grad():
            x = (images + delta).detach().requires_grad_()
            logits = predict(x)
            (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), x)
        fooled, l2 = logits.argmax(-1) != labels, l2_norm(delta)
        if step == 0:  # delta is 0 yet: only what is classified correctly is attacked
            open_ = ~fooled
        better = fooled & open_ & (l2 < best_l2)
        best, best_l2 = torch.where(wide(better), x.detach(), best), torch.where(better, l2, best_l2)
        delta = delta + alpha * gradient / wide(l2_norm(gradient)).clamp_min(1e-12)
        epsilon = epsilon * torch.where(fooled, 1 - gamma, 1 + gamma)
        delta = delta * wide(epsilon / l2_norm(delta).clamp_min(1e-12))
        delta = (images + delta).clamp(0, 1) - images
    return best


# White-box, every image from its own start -----------------------------------------------------


def start_draws(seed, part, index, shape, restart=0):
    """One uniform [0, 1) array of `shape` an image, from the stream (seed, "start", part, restart, position in the data set)."""
    return np.stack([np.random.default_rng(stream(seed, "start", part, restart, int(i))).random(shape, np.float32) for i in index])


def starts_for(seed, part, index, images):
    """The `starts` of these images (..., N, C, H, W), whose positions in the data set are `index` (N,)."""

    def starts(restart):
        return torch.from_numpy(start_draws(seed, part, index, images.shape[-3:], restart)).to(images.device)

    return starts


if __name__ == "__main__":
    from evaluate import main

    sys.exit(main())
