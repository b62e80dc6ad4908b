"""What a round starts from: its masks and its weights, for every prune type, criterion and ticket.

    prune type   masks of the next round                              weights
    lt           the smallest trained weights go                      theta_0, or those after --rewind_epoch
    reinit       as lt                                                a fresh draw
    shuffle      as lt, then permuted within each layer               theta_0
    random       random weights go, as many                           theta_0
    finetune     as lt                                                the trained ones, which go on

With --criterion the masks are theta_0's own, made without training; with --ticket they, and theta_0, are another run's.
"""

import torch

import criteria
import pruning
from config import ticket_place
from runfolder import RunFolder, load_masks
from utils import UserError, generator, load_tensors, misfit, permutation

CRITERION_IMAGES = 512  # in the one batch that snip and grasp look at


def shuffled_within_layers(masks, seed, number):
    """Each mask with its entries permuted, by the stream (seed, "shuffle", round, layer): densities stay, structure goes."""
    return {name: mask.reshape(-1)[permutation(mask.numel(), seed, "shuffle", number, name)].reshape(mask.shape) for name, mask in masks.items()}


def random_weights(masks, seed, number):
    """Weights whose magnitudes rank at random, by the stream (seed, "random masks", round, layer)."""
    return {name: torch.rand(mask.shape, generator=generator(seed, "random masks", number, name)) for name, mask in masks.items()}


def ticket_masks(config, number):
    """The masks that --ticket names for this round; UserError if its run has none."""
    folder, at = ticket_place(config.ticket)
    return load_masks(RunFolder(folder).masks(number if at is None else at))


def theta0(config, fresh):
    """A run's theta_0: its own draw, or that of its ticket, which for a ticket rewound to a later epoch are those weights.

    fresh(config, number) -> a network with the weights of the stream ("init", number).
    """
    if not config.ticket:
        return fresh(config, 0).state_dict()
    folder, at = ticket_place(config.ticket)
    if config.prune_type == "reinit":  # never the ticket's own theta_0, also where the seeds agree
        return fresh(config, 0 if at is None else at).state_dict()
    source = RunFolder(folder)
    return load_tensors(source.rewind if source.rewind.exists() else source.theta0)


def start_weights(config, progress, number, fresh):
    """The weights a round starts from, before its mask."""
    if number == 0:
        return progress.theta0
    if config.prune_type == "reinit":
        return fresh(config, number).state_dict()
    if config.prune_type == "finetune":
        return progress.trained
    return progress.rewind or progress.theta0


def masks_of_round(config, progress, number, trained, model, batch):
    """Masks of round `number`, before which the weights `trained` were trained under progress.masks (None before round 0).

    model: a network of the run's architecture; batch(count) -> (images, labels) on the device, for criteria that look at them.
    """
    if config.ticket:
        masks = ticket_masks(config, number)
    elif number == 0:
        return pruning.ones(model)
    elif config.criterion != "magnitude":
        masks = _masks_at_init(config, progress.theta0, number, model, batch)
    elif config.prune_type == "random":
        masks = pruning.prune_to_round(random_weights(progress.masks, config.seed, 0), progress.masks, config, number)
    else:
        masks = pruning.prune_to_round(trained, progress.masks, config, number)
    return shuffled_within_layers(masks, config.seed, number) if config.prune_type == "shuffle" else masks


def advance(config, progress, number, trained, rewind, model, batch):
    """Turn `progress` from round `number` to the next: `trained` are its last weights, `rewind` those to rewind to, if round 0 kept any."""
    if number == 0:
        progress.rewind = rewind
    if (config.prune_schedule == "oneshot" and number == 0) or (config.prune_schedule == "iterative" and config.prune_type == "finetune"):
        progress.trained = trained
    progress.next_round = number + 1
    if progress.next_round < config.prune_iterations:
        source = progress.trained if config.prune_schedule == "oneshot" else trained
        progress.masks = masks_of_round(config, progress, progress.next_round, source, model, batch)


def check_ticket(config, model):
    """UserError unless the masks, for every round, and the theta_0 that --ticket names fit this network."""
    if not config.ticket:
        return
    right = {name: mask.shape for name, mask in pruning.ones(model).items()}
    for number in range(config.prune_iterations):
        masks = ticket_masks(config, number)
        wrong = sorted(name for name in right.keys() | masks.keys() if name not in masks or masks[name].shape != right.get(name))
        if wrong:
            there, here = masks[wrong[0]].shape if wrong[0] in masks else None, right.get(wrong[0])
            raise UserError(f"--ticket={config.ticket}: its mask of {wrong[0]} has shape {_shape(there)} where this network has {_shape(here)}")
    wrong = misfit(theta0(config, lambda *_: model), model.state_dict())
    if wrong:
        raise UserError(f"--ticket={config.ticket}: its theta_0 is not of this network: {wrong}")


def _shape(shape):
    return "none" if shape is None else "x".join(map(str, shape))


def _masks_at_init(config, weights, number, model, batch):
    """Masks by SNIP, GraSP or SynFlow, with as many weights as magnitude pruning would leave in this round."""
    keep = pruning.kept_in_round({name: mask.numel() for name, mask in pruning.ones(model).items()}, config, number)
    images, labels = batch(CRITERION_IMAGES)
    was = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    try:
        return criteria.prune_at_init(
            config.criterion, model.to(images.device), images, labels, sum(keep.values()) if config.prune_scope == "global" else keep, config.prune_scope
        )
    except FloatingPointError as error:
        raise UserError(f"--criterion={config.criterion}: {error}") from error
    finally:
        model.to("cpu").load_state_dict(was)
