"""The ticket zoo: masks of finished runs that travel with the code, a hundred kilobytes a run.

    python main.py --dataset=mnist --ticket=zoo:NAME@5
    net, masks, flags = results.load_ticket("zoo:NAME", 5, weights="theta0")

zoo/NAME.json has the run's flags and what it reached at each round, zoo/NAME.xz its masks, a bit a
weight, compressed. theta_0 is drawn again from the run's seed and held against its hash. An entry
is unpacked into --cache_dir, as a run folder that everything here can read.
"""

import json
import lzma
import tempfile
from pathlib import Path

import numpy as np

from config import RunConfig
from store.checkpoint import total
from store.files import load_tensors, save_tensors, write_atomic, write_csv, write_json, write_text
from store.runfolder import RunFolder, load_masks, read_rounds
from store.saved import saved_config, saved_run
from utils import UserError, choose, hash8, stream

ZOO, PREFIX = Path(__file__).parents[1] / "zoo", "zoo:"


def names(zoo=ZOO):
    """The names of the entries."""
    return sorted(path.stem for path in Path(zoo).glob("*.json"))


def pack(run, name, zoo=ZOO):
    """Put a finished run folder into the zoo as `name`; returns the size of its masks in bytes.

    UserError if the run is unfinished, or its theta_0 is not its seed's own draw.
    """
    import data

    folder, config = RunFolder(run), saved_run(run)
    if not folder.done:
        raise UserError(f"{run} is unfinished: only whole runs go into the zoo")
    if folder.rewind.exists():
        raise UserError(f"{run} rewinds to a later epoch, and a zoo keeps no weights but theta_0")
    rows, theta0 = read_rounds(folder), load_tensors(folder.theta0)
    masks = [load_masks(folder.masks(row["round"]), kept=row["kept"]) for row in rows]
    shapes = {layer: list(masks[0][layer].shape) for layer in sorted(masks[0])}
    dataset = data.load_as_trained(config)
    saved = saved_config(run)
    provenance = {key: value for key, value in saved["provenance"].items() if key != "host"}
    entry = {
        "flags": config.replace(data_dir="data", runs_dir="runs", cache_dir="cache").flags(),
        "provenance": provenance,
        "rounds": rows,
        "shapes": shapes,
        "in_shape": list(dataset.in_shape),
        "classes": dataset.num_classes,
        "stats": data.channel_stats(dataset.train_images),
        "theta0": total(theta0),
    }
    if total(_theta0(entry)) != entry["theta0"]:
        raise UserError(f"{run}: its theta_0 is not the draw of its seed, so a zoo cannot keep it")
    bits = [np.packbits(mask[layer].numpy().reshape(-1)) for mask in masks for layer in shapes]
    packed = lzma.compress(np.concatenate(bits).tobytes(), preset=9)
    write_atomic(Path(zoo) / f"{name}.xz", lambda path: Path(path).write_bytes(packed))
    write_json(Path(zoo) / f"{name}.json", entry)
    return len(packed)


def unpack(name, cache_dir="cache", zoo=ZOO):
    """The run folder of an entry, made in cache_dir if it is not there; UserError if it is damaged
    or this torch draws another theta_0.
    """
    import torch

    choose("zoo entry", name, names(zoo))
    try:
        entry = json.loads((Path(zoo) / f"{name}.json").read_text(encoding="utf-8"))
        packed = (Path(zoo) / f"{name}.xz").read_bytes()
        place = Path(cache_dir) / "zoo" / f"{name}-{hash8([entry, packed.hex()])}"
        if (place / "DONE").exists():
            return place
        layers = {layer: tuple(shape) for layer, shape in entry["shapes"].items()}
        flat, at, masks = np.frombuffer(lzma.decompress(packed), np.uint8), 0, []
        for _ in entry["rounds"]:
            masks.append({})
            for layer, shape in layers.items():
                count = int(np.prod(shape))
                part = np.unpackbits(flat[at : at + -(-count // 8)], count=count)
                masks[-1][layer] = torch.from_numpy(part.astype(bool)).reshape(shape)
                at += -(-count // 8)
        kept = [sum(int(mask.sum()) for mask in some.values()) for some in masks]
        if at != len(flat) or kept != [row["kept"] for row in entry["rounds"]]:
            raise ValueError("its masks are not those of its table")
        theta0 = _theta0(entry)
    except (OSError, ValueError, KeyError, TypeError, lzma.LZMAError) as error:
        raise UserError(f"the zoo's {name} is damaged ({error}): fetch it again") from None
    if total(theta0) != entry["theta0"]:
        what = f"this torch draws another theta_0 than the zoo's {name} has"
        raise UserError(f"{what}: use the torch of {entry['provenance'].get('versions')}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".tmp-") as made:
        folder = RunFolder(Path(made) / "run")
        save_tensors(folder.theta0, theta0)
        for row, some in zip(entry["rounds"], masks, strict=True):
            save_tensors(folder.masks(row["round"]), some)
        write_csv(folder.rounds, entry["rounds"])
        write_json(folder.config_file, {"flags": entry["flags"], "provenance": entry["provenance"]})
        write_text(folder.path / "DONE", "")
        if not place.exists():  # another process may have been quicker
            folder.path.rename(place)
    return place


def _theta0(entry):
    """The state_dict that an entry's run began with, drawn from its seed."""
    import archs

    config = RunConfig.of(entry["flags"])
    size = tuple(entry["in_shape"]), entry["classes"]
    seed = stream(config.seed, "init", 0)
    return archs.build(config.arch_type, *size, entry["stats"], config.init, seed).state_dict()
