# PYTHON_ARGCOMPLETE_OK: docs/runs.md says how a shell completes flags
"""Adversarial images, one attack a screen, its parameters beside it.

    python attacks.py evaluate runs/* --attacks all     # accuracy of every saved ticket, drawn
    python attacks.py export --dataset=digits --attack=fgsm -o data/digits_fgsm.npz  # as a file

Images are (..., N, C, H, W) floats in [0, 1] and labels (..., N) the true classes; `predict` turns
such images into logits (..., N, K). Leading axes are the runs of a cohort, attacked together.

DeepRobust makes the FGSM and linf PGD data sets. Its L2 PGD, CW and DeepFool do not work on batches
of images in [0, 1] with true labels, so those are written here. They attack only what is classified
correctly, keep the best result of each image, and return the original where they fail.
"""

import contextlib
import dataclasses
import functools
import math
import runpy
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from utils import Lazy, Registry, UserError, must, number, prepare_deeprobust, stream, whole

# --help reads the registry and needs no torch
torch, F, adam = map(Lazy, ("torch", "torch.nn.functional", "torch.optim.adam"))

ROUNDING = 1e-4  # by which an attack's images may leave [0, 1] and its radius

# Registries ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """A number that attacks can have: a flag of its own, part of every name that hangs on it."""

    why: str
    absent: object  # what it is in a run whose attack does not have it
    kind: Callable = number  # or whole
    valid: Callable = lambda value, norm: True
    right: str = ""  # what `valid` wants, in words
    carries: bool = False  # --eval_attacks that have it take the run's, not their own default
    # moves what is made for other nets to fool: a net itself is tested with it at `absent`
    transfers: bool = False
    late: bool = True  # at `absent` it is left out of a run's hash: older runs keep their names


PARAMETERS = Registry(
    "attack parameter", must(lambda entry: isinstance(entry, Parameter), "a Parameter")
)
PARAMETERS["epsilon"] = Parameter(
    "radius of the attack on [0, 1] pixels, such as 0.3 or 8/255",
    None,
    valid=lambda value, norm: 0 <= value <= (1 if norm == "linf" else 100),
    right="from 0 to 1 for linf (pixels are on [0, 1]; 8/255 is accepted), to 100 for l2",
    late=False,
)
PARAMETERS["attack_steps"] = Parameter(
    "steps of an iterative attack", 1, whole, lambda n, _: n >= 1, "at least 1", late=False
)
PARAMETERS["attack_step_size"] = Parameter(
    "length of one step on [0, 1] pixels; of cw the learning rate",
    None,
    valid=lambda value, norm: 0 < value < math.inf,
    right="more than 0",
    late=False,
)
PARAMETERS["confidence"] = Parameter(
    "kappa of cw: by how much the wrong logit must lead; the higher, the better it transfers",
    0.0,
    valid=lambda value, norm: 0 <= value < math.inf,
    right="0 or more",
    carries=True,
    transfers=True,
    late=False,
)
PARAMETERS["restarts"] = Parameter(
    "random starts of pgd; an image keeps its first that fools",
    1,
    whole,
    lambda n, _: n >= 1,
    "at least 1",
    carries=True,
    late=False,
)


@dataclass(frozen=True)
class Signs:
    """An attack that is no more than steps along the gradient's sign, linf, clipped to [0, 1].

    An engine with a faster way to take such steps may: the result is the attack's but for rounding.
    """

    epsilon: float
    steps: int
    length: float  # of a step
    starts: bool = False  # at random within epsilon, else at the image


@dataclass(frozen=True)
class Attack:
    """One line of ATTACKS: what makes the images, and the parameters it has."""

    make: Callable  # (predict, images, labels, settings, starts) -> attacked images
    defaults: dict  # parameter -> default, or (gray, colour); names are those of PARAMETERS
    draws: bool = False  # whether it draws random numbers
    dataset: Callable | None = None  # makes data sets in `make`'s place: DeepRobust's own
    control: bool = False  # no attack, but what one is compared with
    # its share of the training images is left out, and this attack makes its test images
    omits: str = ""
    signs: Callable | None = None  # settings -> the Signs that it is, or None

    def default(self, name, colour):
        """The default of a parameter for gray or colour images; what PARAMETERS says if it has
        none.
        """
        value = self.defaults.get(name, PARAMETERS[name].absent)
        return value[colour] if isinstance(value, tuple) else value

    def minimal(self):
        """Whether it has no radius and minimises the distance instead."""
        return "epsilon" not in self.defaults


@dataclass(frozen=True)
class AttackSettings:
    """An attack and the values of its parameters, each an attribute: settings.epsilon."""

    attack: str
    norm: str
    values: tuple  # of (parameter, value)

    def __getattr__(self, name):
        for key, value in self.__dict__.get("values", ()):
            if key == name:
                return value
        raise AttributeError(name)

    def entry(self):
        """The attack's entry in ATTACKS."""
        return ATTACKS[self.attack][self.norm]

    def signs(self):
        """The Signs that the attack is, or None."""
        signs = self.entry().signs
        return signs and signs(self)

    def iterative(self):
        """Whether it takes more than one step, so that only some test images are tried."""
        return dict(self.values).get("attack_steps", 1) > 1


def _fault(norms):
    """What is wrong with an entry of ATTACKS, in words, or nothing."""
    if not (isinstance(norms, dict) and norms):
        return "is no dict of norm and Attack"
    for norm, entry in norms.items():
        if not (isinstance(entry, Attack) and callable(entry.make)):
            return f"has no Attack with a function in {norm!r}"
        if unknown := sorted(set(entry.defaults) - set(PARAMETERS)):
            return f"has a parameter {unknown[0]!r}, which is not in PARAMETERS: add it there first"
        if entry.omits and entry.omits not in ATTACKS:
            return f"omits {entry.omits!r}, which is not in ATTACKS"
    return ""


# a name -> {norm: Attack}; its first norm is the default
ATTACKS = Registry("attack", _fault)


def tested_by(attack):
    """The attack that makes the test images of a run of `attack`: itself, unless that omits."""
    return next(iter(ATTACKS[attack].values())).omits or attack


class Making:
    """The names in ATTACKS that make images, as the registry is when they are asked for."""

    def __iter__(self):
        return (name for name in ATTACKS if tested_by(name) == name)


# Pieces ------------------------------------------------------------------------------------------


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
    """Logit of the true class less the highest other one, (...): negative where the image is
    misclassified.
    """
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
    """Positions of the images that some run has not finished with; asks the host, so call it
    seldom.
    """
    return (~done).reshape(-1, done.shape[-1]).any(0).nonzero().squeeze(1)


def check_made(settings, images, attacked):
    """UserError where an attack made of `images` what no attack may return: another shape, numbers
    that are none, pixels outside [0, 1], or more than its epsilon away. Waits for the device.
    """
    who = f"the attack {settings.attack!r} in {settings.norm} returned"
    if not isinstance(attacked, torch.Tensor) or attacked.shape != images.shape:
        got = getattr(attacked, "shape", type(attacked).__name__)
        got = got if isinstance(got, str) else tuple(got)
        right = f"images of the shape it got, {tuple(images.shape)}, are right"
        raise UserError(f"{who} {got}: {right}")
    low, high = attacked.aminmax()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # or they are no numbers
        raise UserError(f"{who} pixels from {low:.4g} to {high:.4g}: clamp them to [0, 1]")
    radius = dict(settings.values).get("epsilon")
    if radius is None or settings.entry().minimal():
        return
    apart = (attacked - images).flatten(-3)
    length = (apart.norm(dim=-1) if settings.norm == "l2" else apart.abs().amax(-1)).max()
    if not length <= radius * (1 + ROUNDING) + ROUNDING:
        what = f"an image {length:.4g} away from its own, in {settings.norm}"
        raise UserError(f"{who} {what}: at most its epsilon, {radius:.4g}, is right")


def checked(make):
    """The function make(images, labels, settings, starts), its images looked at by check_made."""

    def made(images, labels, settings, starts):
        attacked = make(images, labels, settings, starts)
        check_made(settings, images, attacked)
        return attacked

    return made


# Within epsilon ----------------------------------------------------------------------------------


def fgsm(predict, images, labels, settings, starts=None):
    """Fast gradient sign method (Goodfellow et al. 2015), linf: clip(x + epsilon * sign(dL/dx), 0,
    1).
    """
    gradient = input_gradient(predict, images, lambda logits: cross_entropy(logits, labels))
    return (images + settings.epsilon * gradient.sign()).clamp(0, 1)


def deeprobust_fgsm(model, images, labels, settings, starts=None):
    """DeepRobust's FGSM, linf, clipped to [0, 1] (its default is not). images (N, C, H, W), labels
    (N,).
    """
    prepare_deeprobust()
    from deeprobust.image.attack.fgsm import FGSM

    attack = FGSM(model, images.device.type)
    return attack.generate(
        images, labels, epsilon=settings.epsilon, clip_min=0, clip_max=1
    ).detach()


ATTACKS["fgsm"] = {
    "linf": Attack(
        fgsm,
        {"epsilon": (0.3, 8 / 255)},
        dataset=deeprobust_fgsm,
        signs=lambda settings: Signs(settings.epsilon, 1, settings.epsilon),
    )
}


def pgd(predict, images, labels, settings, starts):
    """Projected gradient descent (Madry et al. 2018, section 2.1), linf or L2, from a random start
    within epsilon.

    The last iterate; of several restarts each image's first that fools. L2 steps are along the
    gradient's direction.
    """
    once = _pgd_linf if settings.norm == "linf" else _pgd_l2
    adversarial = once(predict, images, labels, settings, starts(0))
    for restart in range(1, settings.restarts):
        open_ = is_correct(predict, adversarial, labels)
        adversarial = torch.where(
            wide(open_), once(predict, images, labels, settings, starts(restart)), adversarial
        )
    return adversarial


def pgd_signs(settings):
    """PGD's Signs, of one start."""
    steps, length = settings.attack_steps, settings.attack_step_size
    return None if settings.restarts > 1 else Signs(settings.epsilon, steps, length, starts=True)


def _pgd_linf(predict, images, labels, settings, start):
    x = (images + settings.epsilon * (2 * start - 1)).clamp(0, 1)
    for _ in range(settings.attack_steps):
        gradient = input_gradient(predict, x, lambda logits: cross_entropy(logits, labels))
        x = x + settings.attack_step_size * gradient.sign()
        x = (images + (x - images).clamp(-settings.epsilon, settings.epsilon)).clamp(0, 1)
    return x


def _pgd_l2(predict, images, labels, settings, start):
    """Keeps the first iterate of each image that fools; a failure returns the original. The start's
    direction and radius are random.
    """
    direction, radius = 2 * start - 1, settings.epsilon * start[..., :1, :1, :1]
    x = (images + radius * direction / wide(l2_norm(direction)).clamp_min(1e-12)).clamp(0, 1)
    best, open_ = images.clone(), is_correct(predict, images, labels)
    for _ in range(settings.attack_steps + 1):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = predict(x)
            (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), x)
        x, fooled = x.detach(), logits.argmax(-1) != labels
        best = torch.where(wide(open_ & fooled), x, best)
        open_ = open_ & ~fooled
        delta = (
            x
            - images
            + settings.attack_step_size * gradient / wide(l2_norm(gradient)).clamp_min(1e-12)
        )
        delta = delta * (settings.epsilon / wide(l2_norm(delta)).clamp_min(1e-12)).clamp_max(1)
        x = (images + delta).clamp(0, 1)
    return best


def deeprobust_pgd(model, images, labels, settings, starts):
    """DeepRobust's PGD, linf, from a random start; of several restarts each image's first that
    fools. (N, C, H, W).

    Its L2 variant takes the norm over the whole batch, so L2 is `pgd` above.
    """
    prepare_deeprobust()
    from deeprobust.image.attack.pgd import PGD

    adversarial = images
    for restart in range(settings.restarts):
        open_ = is_correct(model, adversarial, labels) | (restart == 0)
        with random_starts(starts(restart).cpu().numpy()):
            new = PGD(model, images.device.type).generate(
                images,
                labels,
                epsilon=settings.epsilon,
                num_steps=settings.attack_steps,
                step_size=settings.attack_step_size,
                clip_min=0.0,
                clip_max=1.0,
                bound="linf",
            )
        adversarial = torch.where(wide(open_), new.detach(), adversarial)
    return adversarial


@contextlib.contextmanager
def random_starts(draws):
    """Hand DeepRobust's PGD these draws in [0, 1) where it asks its numpy for a random start."""
    from deeprobust.image.attack import pgd as module

    def uniform(low, high, shape):
        return (low + (high - low) * draws).reshape(shape)

    theirs = module.np
    module.np = types.SimpleNamespace(
        **vars(np) | {"random": types.SimpleNamespace(uniform=uniform)}
    )
    try:
        yield
    finally:
        module.np = theirs


ATTACKS["pgd"] = {
    "linf": Attack(
        pgd,
        {
            "epsilon": (0.3, 8 / 255),
            "attack_steps": 40,
            "attack_step_size": (0.01, 2 / 255),
            "restarts": 1,
        },
        draws=True,
        dataset=deeprobust_pgd,
        signs=pgd_signs,
    ),
    "l2": Attack(
        pgd,
        {"epsilon": (2.0, 0.5), "attack_steps": 40, "attack_step_size": (0.1, 0.05), "restarts": 1},
        draws=True,
    ),
}


def noise(predict, images, labels, settings, starts):
    """Uniform noise within epsilon, linf: the control that tells "attacked" from "perturbed"."""
    return (images + settings.epsilon * (2 * starts(0) - 1)).clamp(0, 1)


FARTHEST = 1e8  # times a direction: past the last pixel's wall
HALVINGS = 32  # of the logarithm of that scale: to 1e-8


def noise_l2(predict, images, labels, settings, starts):
    """Noise in a random (Gaussian) direction, L2: epsilon long once clipped to [0, 1], or as long
    as the box allows. The control of an attack's length, as `noise` is of its radius.
    """
    images, draws = images.double(), starts(0).double().clamp(1e-7, 1 - 1e-7)
    direction = torch.special.ndtri(draws)
    room = torch.where(direction < 0, images, 1 - images)  # from each pixel to its wall

    def length(scale):
        return l2_norm(torch.minimum(wide(scale) * direction.abs(), room))

    low = (settings.epsilon / l2_norm(direction)).expand(labels.shape)  # clipping only shortens
    high = torch.full_like(low, FARTHEST)
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        short = length(middle) <= settings.epsilon
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (images + wide(low) * direction).clamp(0, 1).float()


ATTACKS["noise"] = {
    "linf": Attack(
        noise,
        {"epsilon": (0.3, 8 / 255)},
        draws=True,
        control=True,
        signs=lambda settings: Signs(settings.epsilon, 0, 0.0, starts=True),
    ),
    # the mean length of what FGSM adds at its defaults to the test images of MNIST and CIFAR-10
    "l2": Attack(noise_l2, {"epsilon": (6.26, 1.72)}, draws=True, control=True),
}

# the control of "fewer clean images": as many steps on as many images, of which fewer are distinct
ATTACKS["omit"] = {"linf": dataclasses.replace(ATTACKS["fgsm"]["linf"], control=True, omits="fgsm")}

# Of least distance -------------------------------------------------------------------------------

CW_SEARCHES = 5
CW_FIRST_C = 10.0
# an image leaves the search for c when its interval is this narrow, relative to its upper end
CW_INTERVAL = 0.2


def cw(predict, images, labels, settings, starts=None):
    """Carlini & Wagner 2017, section V, L2, untargeted with the true label; settings.confidence is
    their kappa.

    Minimises |x' - x|^2 + c * max(margin + kappa, 0) over w, x' = (tanh(w) + 1) / 2, with Adam
    (settings.attack_step_size, settings.attack_steps), and searches c by bisection for each
    image. A search starts from the best image of the last one, and images whose c is known well
    enough leave the batch.
    """
    best, best_l2 = images.clone(), torch.full(labels.shape, math.inf, device=images.device)
    lower, upper = torch.zeros_like(best_l2), torch.full_like(best_l2, math.inf)
    c = torch.full_like(best_l2, CW_FIRST_C)
    done = ~is_correct(predict, images, labels)
    for _ in range(CW_SEARCHES):
        index = still_open(done)
        if not len(index):
            break
        x, y, now_c, now_done = (
            rows(images, index, 3),
            *(rows(value, index, 0) for value in (labels, c, done)),
        )
        nearer, nearer_l2 = _cw_descend(predict, x, y, rows(best, index, 3), now_c, settings)
        success = torch.isfinite(nearer_l2)
        now_lower, now_upper, now_l2 = (rows(value, index, 0) for value in (lower, upper, best_l2))
        better = (nearer_l2 < now_l2) & ~now_done
        put_rows(best, index, torch.where(wide(better), nearer, rows(best, index, 3)), 3)
        now_upper = torch.where(success, torch.minimum(now_upper, now_c), now_upper)
        now_lower = torch.where(success, now_lower, torch.maximum(now_lower, now_c))
        now_c = torch.where(torch.isfinite(now_upper), (now_lower + now_upper) / 2, now_c * 10)
        # false while upper is infinite
        now_done = now_done | ((now_upper - now_lower) / now_upper < CW_INTERVAL)
        for value, new in ((lower, now_lower), (upper, now_upper), (c, now_c), (done, now_done)):
            put_rows(value, index, new, 0)
        put_rows(best_l2, index, torch.where(better, nearer_l2, now_l2), 0)
    return best


def _cw_descend(predict, images, labels, begin, c, settings):
    """One search: the nearest image found that fools with the confidence asked for, and its L2, inf
    where none did.
    """
    w = torch.atanh((2 * begin - 1) * (1 - 1e-6))  # finite where a pixel is exactly 0 or 1
    first, second, step = torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), device=w.device)
    best, best_l2 = images.clone(), torch.full(labels.shape, math.inf, device=images.device)
    for _ in range(settings.attack_steps):
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
            adam.adam(
                [w],
                [gradient],
                [first],
                [second],
                [],
                [step],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=settings.attack_step_size,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
    return best, best_l2


ATTACKS["cw"] = {
    "l2": Attack(cw, {"attack_steps": 100, "attack_step_size": (0.1, 0.01), "confidence": 0.0})
}


DEEPFOOL_CLASSES = 10  # candidates, as in the authors' code
DEEPFOOL_OVERSHOOT = 0.02


def deepfool(predict, images, labels, settings, starts=None):
    """DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2), L2: step onto the nearest linearised
    class boundary until it is crossed.
    """
    best, done, moved = (
        images.clone(),
        ~is_correct(predict, images, labels),
        torch.zeros_like(images),
    )
    x, y, index = images, labels, torch.arange(images.shape[-4], device=images.device)
    for step in range(settings.attack_steps):
        # images that are done leave the batch, but the host is not asked at every step
        if step % 3 == 0:
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
    """The step (..., C, H, W) from each image to the nearest of the linearised boundaries of its
    likeliest other classes.
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = predict(x)
        ahead = logits - logits.gather(-1, labels[..., None])  # (..., K), 0 at the true class
        others = ahead.detach().scatter(-1, labels[..., None], -math.inf)
        classes = others.topk(min(DEEPFOOL_CLASSES, logits.shape[-1]) - 1, dim=-1).indices
        chosen = ahead.gather(-1, classes)  # (..., candidates)
        nearest, step = (
            torch.full(labels.shape, math.inf, device=images.device),
            torch.zeros_like(images),
        )
        for k in range(classes.shape[-1]):
            (w,) = torch.autograd.grad(chosen[..., k].sum(), x, retain_graph=True)
            length = l2_norm(w).clamp_min(1e-12)
            distance = chosen[..., k].detach().abs() / length
            closer = distance < nearest
            step = torch.where(wide(closer), wide((distance + 1e-4) / length) * w, step)
            nearest = torch.where(closer, distance, nearest)
    return step


ATTACKS["deepfool"] = {"l2": Attack(deepfool, {"attack_steps": 50})}


def ddn(predict, images, labels, settings, starts=None):
    """Decoupled direction and norm (Rony et al. 2019, algorithm 1), L2: the norm shrinks after a
    success and grows after a failure.
    """
    gamma, epsilon = 0.05, torch.ones(labels.shape, device=images.device)
    best, best_l2 = images.clone(), torch.full(labels.shape, math.inf, device=images.device)
    open_ = torch.ones(labels.shape, dtype=torch.bool, device=images.device)
    delta = torch.zeros_like(images)
    for step in range(settings.attack_steps):
        # from 1 down to 0.01
        alpha = 0.01 + (1 - 0.01) * (1 + math.cos(math.pi * step / settings.attack_steps)) / 2
        with torch.enable_grad():
            x = (images + delta).detach().requires_grad_()
            logits = predict(x)
            (gradient,) = torch.autograd.grad(cross_entropy(logits, labels), x)
        fooled, l2 = logits.argmax(-1) != labels, l2_norm(delta)
        if step == 0:  # delta is 0 yet: only what is classified correctly is attacked
            open_ = ~fooled
        better = fooled & open_ & (l2 < best_l2)
        best, best_l2 = (
            torch.where(wide(better), x.detach(), best),
            torch.where(better, l2, best_l2),
        )
        delta = delta + alpha * gradient / wide(l2_norm(gradient)).clamp_min(1e-12)
        epsilon = epsilon * torch.where(fooled, 1 - gamma, 1 + gamma)
        delta = delta * wide(epsilon / l2_norm(delta).clamp_min(1e-12))
        delta = (images + delta).clamp(0, 1) - images
    return best


ATTACKS["ddn"] = {"l2": Attack(ddn, {"attack_steps": 100})}


# White-box, every image from its own start -----------------------------------------------------


def start_draws(seed, part, index, shape, restart=0):
    """One uniform [0, 1) array of `shape` an image.

    From the stream (seed, "start", part, restart, position in the data set).
    """
    streams = [stream(seed, "start", part, restart, int(i)) for i in index]
    return np.stack([np.random.default_rng(seed).random(shape, np.float32) for seed in streams])


def starts_for(seed, part, index, images):
    """The `starts` of these images (..., N, C, H, W) at positions `index` (N,) of the data set.

    starts(restart) gives random numbers in [0, 1), each image's own, so that an image's attack does
    not depend on its batch.
    """

    def starts(restart):
        draws = start_draws(seed, part, index, images.shape[-3:], restart)
        return torch.from_numpy(draws).to(images.device)

    return starts


EVAL_BATCH = 1000  # images of a run at a time, on a GPU
# on a CPU: lenet5's activations of so many are more than malloc keeps, and it takes 1.5 times as
# long (benchmarks/eval_batch.py); fc1 does not mind
CPU_BATCH = 128
# images of an iterative attack on a CPU: measured fastest of 32 to 256 for the CNN
ATTACK_BATCH = 64


def eval_batch(device, iterative=False):
    """How many images of a run are classified, or attacked (`iterative`: in steps), at a time."""
    if device.type != "cpu":
        return EVAL_BATCH
    return ATTACK_BATCH if iterative else CPU_BATCH


def attack_test_images(
    predict, lead, settings, images, labels, index, make=None, reach=lambda done: None
):
    """Images (P, C, H, W) attacked against networks `predict`, each by itself.

    make(images, labels, settings, starts) attacks them, if not the attack's own function does.
    lead: the leading axes that predict wants, () for one network or (R,). Returns tensors of shape
    (R,), (1,) for one: accuracy in percent; mean L2 of those changed; and the percent that
    withstood it without a gradient, which is no robustness (of one step: left as they were).
    index: (P,) numpy positions of the images in the test set, which name their random starts.
    reach(n) is called when n images are done.
    """
    make, runs = make or functools.partial(settings.entry().make, predict), math.prod(lead)
    hits, length, changed, unmoved = (torch.zeros(runs, device=labels.device) for _ in range(4))
    batch = eval_batch(labels.device, settings.iterative())
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        x = images[part].expand(*lead, *images[part].shape)
        y = labels[part].expand(*lead, -1)
        attacked = make(x, y, settings, starts_for(0, "test", index[part], x))
        l2 = l2_norm(attacked - x).view(runs, -1)
        correct = is_correct(predict, attacked, y).view(runs, -1)
        # more steps may begin elsewhere, and in L2 give back what they could not fool
        steps = settings.iterative() and not settings.entry().minimal()
        flat = no_gradient(predict, x, y).view(runs, -1) if steps else l2 == 0
        hits, unmoved = hits + correct.sum(1), unmoved + (correct & flat).sum(1)
        length, changed = length + l2.sum(1), changed + (l2 > 0).sum(1)
        reach(min(start + batch, len(labels)))
    accuracy, left = 100 * hits.double() / len(labels), 100 * unmoved / len(labels)
    return accuracy, length / changed.clamp_min(1), left


def no_gradient(predict, images, labels):
    """Whether the loss has no gradient at all at each image (..., C, H, W), (...) bool."""
    with torch.enable_grad():
        images = images.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(predict(images), labels), images)
    return (gradient == 0).flatten(-3).all(-1)


def doubt(settings, accuracy, without):
    """Why an accuracy under attack says more of the attack than of the net, in words; or "".

    accuracy, without: percent, as attack_test_images gives them.
    """
    name = settings.attack
    if settings.entry().minimal():
        what = f"{name} finds nothing that fools for {accuracy:.1f} % of the images"
        why = "that is no robustness, and its mean L2 is of the others"
        return f"{what}: {why}" if accuracy > 1 else ""
    if settings.epsilon > 0 and without > 1:
        what = f"{name} finds no gradient for {without:.1f} % of the images"
        return f"{what}: its accuracy overstates robustness by up to that"
    return ""


if __name__ == "__main__":
    # the commands stand on floors above this one: they are started by name, and nothing here
    # imports them
    sys.exit(runpy.run_module("study.attack_commands")["main"]())
