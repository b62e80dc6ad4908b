"""Tickets as they lie in run folders: one as a network, or the masks of many to be compared.

net, masks, flags = load_ticket("runs/NAME", 5)   # a torch module for [0, 1] pixels
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pruning
from config import RunConfig
from store import zoo
from store.files import load_tensors, misfit
from store.runfolder import RunFolder, load_masks, read_rounds
from store.saved import saved_run
from utils import UserError, choose, fingerprint


def load_ticket(run, round_number, data_dir=None, weights="trained", cache_dir="cache"):
    """(net, masks, flags) of a round of a run folder, or of the zoo's "zoo:NAME" (theta0 only).

    net: a torch module in eval mode that takes images (N, C, H, W) in [0, 1], with the trained
    weights under the mask, the pruned ones exactly 0; weights="theta0": the initial ones under it.
    masks: bool tensors by parameter name; flags: the run's, a dict. data_dir is where the data set
    is, by default the run's own; of an .npz only headers and labels are read, of others nothing.
    UserError if the round or its weights are not there, or a file is damaged.
    """
    choose("weights", weights, ("trained", "theta0"))
    from_zoo = str(run).startswith(zoo.PREFIX)
    if from_zoo:
        run = zoo.unpack(str(run).removeprefix(zoo.PREFIX), cache_dir)
    folder, config = RunFolder(run), saved_run(run)
    rounds = finished_rounds(folder)
    if not 0 <= round_number < len(rounds):
        raise UserError(f"{run} has rounds 0 to {len(rounds) - 1}, and no round {round_number}")
    path = folder.theta0 if weights == "theta0" else folder.weights(round_number)
    if not path.exists():
        right = 'ask for weights="theta0"'
        right = right if from_zoo else f"train it with --save_weights=best, or {right}"
        what = f"keeps no trained weights of round {round_number}: {right}"
        raise UserError(f"{path} is missing" if weights == "theta0" else f"{run} {what}")
    net, state = _empty_net(config, data_dir), load_tensors(path)
    wrong = misfit(state, net.state_dict())
    if wrong:
        raise UserError(f"{path} is not of the run's network on this data set: {wrong}")
    shapes = {name: tuple(mask.shape) for name, mask in pruning.ones(net).items()}
    masks = load_masks(folder.masks(round_number), shapes, rounds[round_number]["kept"])
    net.load_state_dict(pruning.apply(state, masks))
    return net.eval(), masks, config.flags()


def _empty_net(config, data_dir):
    """The run's network; its weights, and the statistics it normalises by, are to be loaded."""
    import archs
    import data

    in_shape, classes = data.describe(config.dataset, data_dir or config.data_dir)
    nothing = [0.0] * in_shape[0], [1.0] * in_shape[0]
    return archs.build(config.arch_type, in_shape, classes, nothing, init="torch")


def finished_rounds(folder):
    """The rows of a run's rounds.csv; UserError if it has none or is damaged."""
    rounds = read_rounds(folder)
    if not rounds:
        raise UserError(f"{folder.path} has no finished round yet: there is no ticket in it")
    return rounds


def load_data(config, data_dir=None):
    """The Dataset that a run was trained on, from data_dir or the run's own; makes no folder.

    UserError if it is not there, or another file has its name now.
    """
    import data

    place = Path(data_dir or config.data_dir)
    if not data.is_embedded(config.dataset) and not place.is_dir():
        right = f"name the folder that {config.dataset} is in: --data_dir=FOLDER"
        raise UserError(f"there is no folder {place}: {right}")
    return data.load_as_trained(config.replace(data_dir=str(place)))


def to_float(images, device):
    """uint8 numpy images -> float32 in [0, 1] on the device."""
    import torch

    return torch.from_numpy(images).to(device).float().div_(255)


# Masks to compare ------------------------------------------------------------------------------


@dataclass
class Ticket:
    """A run whose masks are compared, its files read when they are asked for."""

    path: Path
    config: RunConfig
    kept: list  # weights alive, of each finished round
    shapes: dict  # of the masks, by name
    label: str = ""
    theta0: str = ""  # stands for the prunable weights of theta_0

    def masks(self, number):
        """A round's masks by name; UserError if they are not those that the tables tell of."""
        return load_masks(RunFolder(self.path).masks(number), self.shapes, self.kept[number])

    def theta0_weights(self):
        """The prunable weights of theta_0, by name; UserError if they don't fit the masks."""
        return self._fitting(RunFolder(self.path).theta0)

    def trained_weights(self, number):
        """The same of a round's trained weights; None if the run did not keep them."""
        path = RunFolder(self.path).weights(number)
        return self._fitting(path) if path.exists() else None

    def _fitting(self, path):
        tensors = load_tensors(path)
        for name, shape in self.shapes.items():
            here = tuple(tensors[name].shape) if name in tensors else "missing"
            if here != shape:
                what = f"does not fit the run's masks: {name} is {here}, not {shape}"
                raise UserError(f"{path} {what}")
        return {name: tensors[name] for name in self.shapes}


def open_ticket(path):
    """The Ticket of a run folder, unfinished ones up to their last round.

    UserError if it is no run, has no finished round, or a file of it is damaged or missing.
    """
    folder, config = RunFolder(path), saved_run(path)
    kept = [row["kept"] for row in finished_rounds(folder)]
    for number in range(len(kept)):
        if not folder.masks(number).exists():
            missing = folder.masks(number).relative_to(folder.path)
            raise UserError(f"{path} lacks {missing}, the mask of a finished round")
    masks = load_tensors(folder.masks(0))
    # safetensors keeps no order: fc2 before fc10
    shapes = {name: tuple(masks[name].shape) for name in sorted(masks, key=natural)}
    ticket = Ticket(folder.path, config, kept, shapes)
    ticket.theta0 = fingerprint(*ticket.theta0_weights().values())
    return ticket


def natural(name):
    """A key that sorts names with numbers in them as people do."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
