"""Training against attacks on the very nets that train, online or by TRADES, and its validation.

Images are (R, B, C, H, W), (B, C, H, W) when R = 1. They are attacked in eval mode, so that
batch-norm statistics are of the images that train the nets.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from attacks import checked, input_gradient, start_draws
from config import RunConfig, attack_settings
from engine.cohort import Cohort
from utils import mix_order


def against(cohort, config):
    """What a Stepper is given, by name, so that these nets train as config.attack_mode says."""
    if config.attack_mode == "online":
        return {"change": OnlineAttack(cohort, config)}
    return {"objective": Trades(cohort, config)} if config.attack_mode == "trades" else {}


def check_online(cohort, data, config):
    """UserError unless the attack that trains these nets returns what an attack may, of two images
    of each run: within training nothing waits for the device, so nothing is looked at there.
    """
    index = cohort.select(data.train_index[:, :2])
    images, labels = data.images[index], data.labels[index]
    settings = attack_settings(config, config.attack, images.shape[-3] > 1)
    middle = torch.full(images.shape[-4:], 0.5, device=images.device)

    def attack(part):
        return checked(cohort.attack)(part, labels, settings, lambda restart: middle)

    with_attacked(cohort, images, images.shape[-4], attack)


def with_attacked(cohort, images, count, attack):
    """The batch with its first `count` images as attack(part) makes them."""
    if not count:
        return images
    rest = images.narrow(-4, count, images.shape[-4] - count)
    was_training = cohort.model.training
    cohort.model.eval()
    attacked = attack(images.narrow(-4, 0, count))
    cohort.model.train(was_training)
    return torch.cat([attacked, rest], dim=-4)


@dataclass
class OnlineAttack:
    """Adversarial training (Goodfellow et al. 2015, section 6; Madry et al. 2018): called with
    (images, labels), it attacks a batch's share of images against the nets as they are.

    The first config.attacked_of(B) are attacked. The batch's order is random, so which images come
    first is too.
    """

    cohort: Cohort
    config: RunConfig

    def __call__(self, images, labels):
        """The batch with its share attacked."""
        count, settings = self.count(images.shape[-4]), self.settings(images)
        truth = labels.narrow(-1, 0, count)

        def attack(part):
            return self.cohort.attack(part, truth, settings, lambda restart: self.starts(part))

        return with_attacked(self.cohort, images, count, attack)

    def count(self, size):
        """How many of a batch's images are attacked."""
        return self.config.attacked_of(size)

    def settings(self, images):
        """The attack's settings for such images."""
        return attack_settings(self.config, self.config.attack, images.shape[-3] > 1)

    def starts(self, images):
        """Numbers in [0, 1) for (..., B, C, H, W) images, the same for all runs."""
        return torch.rand(images.shape[-4:], device=images.device)


# TRADES ------------------------------------------------------------------------------------------

TRADES_START = 0.001  # deviation of the noise that the search starts from, on [0, 1] pixels


def divergence(log_p, log_q):
    """KL(p || q) of each image, (...), from log-probabilities (..., K)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def farthest(predict, images, settings, noise):
    """Images x' within epsilon (linf) and [0, 1] of x whose outputs are farthest from those of x:
    projected steps along the sign of the gradient of KL(p(x) || p(x')) (TRADES, algorithm 1).

    The start is x + TRADES_START * noise, standard normal: at x itself the gradient is 0.
    """
    with torch.no_grad():
        log_p = predict(images).log_softmax(-1)

    def apart(logits):
        return divergence(log_p, logits.log_softmax(-1)).sum()

    x = images + TRADES_START * noise
    for _ in range(settings.attack_steps):
        x = x + settings.attack_step_size * input_gradient(predict, x, apart).sign()
        x = (images + (x - images).clamp(-settings.epsilon, settings.epsilon)).clamp(0, 1)
    return x


@dataclass
class Trades:
    """The loss of TRADES (Zhang et al. 2019, equation 5): cross-entropy of the clean images plus
    beta times KL(p(x) || p(x')), x' from `farthest`; called with (images, labels), (R,).

    The first round(mix_ratio * B) images have the second term, which is divided by B: a mix_ratio
    of 1 is the paper's loss. Both p(x) and p(x') carry gradients, x' none, as in the authors' code.
    """

    cohort: Cohort
    config: RunConfig

    def __call__(self, images, labels):
        """The losses of a batch; without a second term, clean training to the bit."""
        count, beta = self.config.attacked_of(images.shape[-4]), self.config.trades_beta
        if not count or not beta:
            return self.cohort.losses(images, labels)
        settings = attack_settings(self.config, self.config.attack, images.shape[-3] > 1)

        def attack(part):
            noise = torch.randn(part.shape[-4:], device=part.device)  # the same for all runs
            return farthest(self.cohort.logits, part, settings, noise)

        def loss(net, x, y, moved):
            logits, log_q = net(x), net(moved)[:count].float().log_softmax(-1)
            apart = divergence(logits[:count].float().log_softmax(-1), log_q).sum()
            return F.cross_entropy(logits, y) + beta * apart / len(y)

        # beside the images that are not attacked, so that batch-norm sees a whole batch
        moved = with_attacked(self.cohort, images, count, attack)
        return self.cohort.losses(images, labels, moved, loss=loss)


# Validation --------------------------------------------------------------------------------------


class Validation:
    """A cohort's validation images, of which the share mix_ratio is attacked against the nets.

    Which of a run's images are, and where their attack starts, hangs on the seed and on the image:
    a run validates alike in every cohort and in batches of every size. configs: each run's.
    index: (R, V) positions in the pool, those that are attacked first.
    """

    def __init__(self, cohort, data, configs):
        self.cohort, config, total = cohort, configs[0], data.val_index.shape[1]
        orders = [mix_order(total, each.seed, "val") for each in configs]
        self.index = data.val_index.gather(1, torch.stack(orders).to(data.val_index.device))
        self.count, shape = config.attacked_of(total), data.images.shape[1:]
        self.settings = attack_settings(config, config.attack, shape[0] > 1)
        self.draws = None
        if self.count and self.settings.entry().draws:
            found = self.index[:, : self.count].unique(return_inverse=True)
            positions, self.place = found  # (U,), and of each image its place among them, (R, V)
            restarts = range(dict(self.settings.values).get("restarts", 1))
            seed, each = config.attack_seed, positions.tolist()
            draws = [start_draws(seed, "train", each, tuple(shape), again) for again in restarts]
            self.draws = torch.from_numpy(np.stack(draws)).to(data.images.device)

    def __call__(self, images, labels, begin):
        """A batch that begins at place `begin` of the index, attacked where it is to be."""
        count = min(max(self.count - begin, 0), images.shape[-4])
        truth = labels.narrow(-1, 0, count)

        def starts(restart):
            return self.draws[restart][self.cohort.select(self.place[:, begin : begin + count])]

        def attack(part):
            return self.cohort.attack(part, truth, self.settings, starts)

        return with_attacked(self.cohort, images, count, attack)
