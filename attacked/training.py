"""Training the surrogate: the network that data sets are attacked against.

A signal stops it where it is and a kill loses its present epoch: the same command goes on there.
"""

import torch

import data
import pruning
from attacked.levels import to_float
from attacked.progress import Progress
from engine.cohort import Cohort, Data
from engine.place import Keeper
from engine.signals import Interrupted, stop
from engine.step import batch_bounds
from store.checkpoint import load_partial, save
from store.files import misfit
from train import Stopped, Watcher, fit
from utils import stream

TRAINING = "adam 1e-3, batch 128, version 1"  # in words, for the recipe's hash


def settings_of(config, epochs):
    """The RunConfig by which a run's surrogate trains."""
    return config.replace(
        optimizer="adam", lr=1e-3, batch_size=128, weight_decay=0.0, end_iter=epochs,
        rewind_epoch=0, warmup_steps=0, lr_drops="", lr_schedule="constant", precision="fp32",
        augment=False, valid_freq=1, valid_steps=0, prune_type="lt",
        order_seed=stream(config.attack_number, "surrogate order"),
    )  # fmt: skip


def train_surrogate(net, config, dataset, epochs, device, path, recipe, say):
    """The state_dict of `net` after so many epochs on clean images: that of its best one.

    It trains through the same code as the runs, a cohort of one with nothing pruned, on a split of
    its own (config.attack_number). Where it is stopped is kept in the file `path` for the recipe of
    that hash. Interrupted once a signal has been obeyed.
    """
    settings = settings_of(config, epochs)
    seed = stream(config.attack_number, "surrogate split")
    split = data.split(len(dataset.train_labels), 1 / 12, seed)
    train_index, val_index = (torch.from_numpy(part)[None].to(device) for part in split)
    labels = torch.from_numpy(dataset.train_labels).to(device)
    pool = Data(to_float(dataset.train_images, device), labels, train_index, val_index)
    cohort = Cohort(net, [net.state_dict()], [pruning.ones(net)], device)
    begin = load_partial(path, 0, recipe)
    if begin and misfit(begin.weights, net.state_dict()):
        begin = None
    keeper = Keeper(begin and [begin], lambda partials: save(path, partials[0], recipe), freq=1)
    steps = len(batch_bounds(train_index.shape[1], settings.batch_size))
    done = begin.epoch * steps + begin.step if begin else 0
    if begin:
        say(f"going on where the surrogate was, after {done:,} of {epochs * steps:,} batches")
    with Progress("the surrogate", epochs * steps, "batches", say, done) as progress:
        try:
            with stop.deferring():
                best = fit(cohort, pool, [settings], 0, Telling(progress, epochs), keeper).best
        except Stopped:
            raise Interrupted(stop.signal) from None
    return cohort.unstack(best)[0]


class Telling(Watcher):
    """The bar's figures after each epoch, and in a log a line now and then."""

    def __init__(self, progress, epochs):
        self.progress, self.epochs = progress, epochs

    def step(self, epoch, step, steps):
        """So many of the epoch's batches are done."""
        self.progress.reach(epoch * steps + step)

    def epoch(self, epoch, rows):
        """The epoch has ended."""
        last = rows[0][-1]
        loss, accuracy = f"{last['train_loss']:.4f}", f"{last['val_accuracy']:.2f} %"
        self.progress.bar.set_postfix(loss=loss, val=accuracy)
        if self.progress.bar.disable and (epoch + 1) % max(1, self.epochs // 5) == 0:
            where = f"surrogate epoch {epoch + 1} of {self.epochs}"
            self.progress.say(f"  {where}: loss {loss}, validation {accuracy}")
