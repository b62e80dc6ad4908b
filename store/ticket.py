"""The run that --ticket names: its place, who it is, and how it was pruned."""

import glob
import re
from pathlib import Path

from config import RunConfig
from store import zoo
from store.saved import saved_run
from utils import UserError

PRUNING = ("prune_percent", "output_prune_percent", "prune_scope", "prune_schedule", "criterion")


def ticket_place(ticket):
    """(folder, round or None) of FOLDER[@ROUND]; an @ that no number follows is the folder's."""
    folder, at = re.fullmatch(r"(.+?)(?:@([0-9]{1,9}))?", ticket, re.DOTALL).groups()
    return folder, None if at is None else int(at)


def _check_no_circle(here, folder, source):
    """UserError if the ticket of a ticket, and so on, comes back to where it began."""
    seen = {folder.resolve()}
    while source.ticket:
        folder = Path(ticket_place(source.ticket)[0])
        if folder.resolve() in seen:
            what = f"its tickets go in a circle, by {folder}"
            raise UserError(f"{here}: {what}: name a run that has masks of its own")
        seen.add(folder.resolve())
        if not (folder / "config.json").exists():
            return
        source = saved_run(folder)


def ticket_flags(given):
    """The flags that follow from --ticket in `given`: which run it is, how it prunes and rewinds.

    UserError unless one run folder fits the pattern, and it is a ticket for these flags.
    """
    if not given.get("ticket"):
        return {}
    pattern, at = ticket_place(given["ticket"].replace("{seed}", str(given.get("seed", 0))))
    here = f"--ticket={given['ticket']}"
    if pattern.startswith(zoo.PREFIX):
        cache = given.get("cache_dir", RunConfig.cache_dir)
        pattern = str(zoo.unpack(pattern.removeprefix(zoo.PREFIX), cache))
    folders = [pattern]
    if not (Path(pattern) / "config.json").exists():
        folders = sorted(glob.glob(pattern))
    if len(folders) != 1:
        such = f", such as {folders[0]}" if folders else ""
        count = f"{len(folders) or 'no'} run folders match {pattern}"
        raise UserError(f"{here}: {count} where one is needed{such}")
    folder = Path(folders[0])
    source = saved_run(folder)
    _check_no_circle(here, folder, source)
    rounds = len(list((folder / "masks").glob("round_*.safetensors")))
    if at is not None and at >= rounds:
        raise UserError(f"{here}: {folder} has rounds 0 to {rounds - 1}")
    rounds = rounds if at is None else 1
    wanted = given.get("prune_iterations", rounds)
    if wanted > rounds:
        has = "one round" if rounds == 1 else f"{rounds} rounds"
        raise UserError(f"--prune_iterations={wanted}: {here} has {has}")
    if given.get("arch_type", RunConfig.arch_type) != source.arch_type:
        right = f"add --arch_type={source.arch_type}"
        raise UserError(f"{here} is a ticket of {source.arch_type}: {right}")
    for name in PRUNING:
        theirs = getattr(source, name)
        if given.get(name, theirs) != theirs:
            what = f"the masks are those of {here}, where it is {theirs}; leave it out"
            raise UserError(f"--{name}={given[name]}: {what}")
    if source.first_epoch(0):
        what = f"it begins with a rewound round of {source.ticket}"
        raise UserError(f"{here}: {what}, which can be named in its place")
    rewinds_to = source.first_epoch(1)
    if given.get("rewind_epoch", rewinds_to) != rewinds_to:
        epoch = f"epoch {rewinds_to}" if rewinds_to else "theta_0"
        what = f"{here} rewinds to {epoch}; leave it out"
        if rewinds_to and not given["rewind_epoch"]:
            what += ", and train anew what an older version began from there with all epochs"
        raise UserError(f"--rewind_epoch={given['rewind_epoch']}: {what}")
    epochs = given.get("end_iter", RunConfig.end_iter)
    if epochs <= rewinds_to:
        what = f"{here} rewinds to epoch {rewinds_to}, where its rounds begin"
        raise UserError(f"--end_iter={epochs}: {what}")
    suffix = "" if at is None else f"@{at}"
    order = given.get("order_seed")
    named = source.ticket_identity(given.get("seed", RunConfig.seed) if order is None else order)
    return {
        "prune_iterations": wanted,
        **{name: getattr(source, name) for name in PRUNING},
        "rewind_epoch": rewinds_to,
        "ticket": f"{folder}{suffix}",
        **named,
        "ticket_arm": f"{named['ticket_arm']}{suffix}",
    }
