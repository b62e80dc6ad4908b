"""Question 3's own part: how alike the masks are, beside controls, from what tickets.py wrote."""

import numpy as np
import pandas as pd

from config import RunConfig, ticket_of
from results.declared import FEWEST
from results.function_groups import told
from results.stats import amount, describe, interval_p, judge
from utils import UserError

OVERLAPS = {
    "within": "same data, other order (ceiling)",
    "between": "clean and attacked data",
    "margins": "independent given |theta_0|, pixel and unit",
    "theta0": "independent given |theta_0|",
    "chance": "chance",
    "difference": "ceiling − clean and attacked",
}
ALIKE = (
    "the tickets are not the same: less alike than two of the same data",
    "they are more alike",
)


def overlap(study, tables):
    """How alike the masks of the two data sets are, from the tables that tickets.py wrote.

    tables: groups.csv, and beside.csv where tickets.py had controls. (what it says at the declared
    density, its comparisons, its lines); UserError for tables that are damaged or of other runs.
    """
    if "groups" not in tables:
        wrote = "the folder that tickets.py --a ... --b ... -o FOLDER wrote"
        raise UserError(f"experiment 3 needs --tickets: {wrote}")
    groups, at, density = tables["groups"], study.at[""], study.density[""]
    _check_arms(study, groups)
    groups = groups.drop(columns=["arm_a", "arm_b"], errors="ignore")
    try:
        groups = groups[groups["round"].astype(str) != "all"].apply(pd.to_numeric).assign(block="")
        shown = [name for name in OVERLAPS if name in groups]
        lines = pd.concat([_overlap_line(groups, name) for name in shown], ignore_index=True)
        p, smallest = groups.set_index("round").loc[at, ["p", "smallest_p"]]
        here = lines[lines["round"] == at].set_index("name")
        if abs(here.density_percent.iloc[0] - density[at]) > 0.1:
            raise ValueError
        controls, extra = _controls(tables.get("beside"), at)
    except (KeyError, TypeError, ValueError):
        needed = f"round {at} at {density[at]:.3g} % of the weights is needed"
        right = "tickets.py --a CLEAN RUNS --b ATTACKED RUNS -o FOLDER writes them"
        what = "the tables of --tickets are damaged or of other runs"
        raise UserError(f"{what} ({needed}): {right}") from None
    at_density = f"at {density[at]:.3g} % of the weights"
    mean, half, count = here.loc["difference", ["mean", "interval", "seeds"]]
    # no interval: too few theta_0s have a ceiling
    count = int(count) if half >= 0 else min(int(count), FEWEST - 1)
    row = {"label": OVERLAPS["difference"], "difference": mean, "interval": half, "n": count}
    if count < FEWEST:  # as older tables may have
        row["interval"] = half = np.nan
    row |= {"p": interval_p(mean, half, count), "permutation_p": p}
    row |= {"smallest_permutation_p": smallest, "unit": "Jaccard", "basis": at_density}
    judged = judge([row])
    between, within, chance = (
        amount(*here.loc[name, ["mean", "interval"]], sign=False, digits=3)
        for name in ("between", "within", "chance")
    )
    numbers = f"Jaccard index {between}, in another order {within}, by chance {chance}"
    words = f"Masks, {at_density}: {describe(judged, *ALIKE)}; {numbers}, permutation p = {p:.2g}."
    controls = [row | {"basis": at_density} for row in controls]
    found = {"overlap": judged} | ({"overlap, control - attacked": controls} if controls else {})
    return f"{words} {extra}", found, lines


def _check_arms(study, groups):
    """UserError for masks of other arms than the study's own tickets; older tables do not say."""
    own = study.table[(study.table.prune_type == "lt") & (study.table.ticket_arm == "")]
    # the question's factor `ticket` has the column of that name
    names = {ticket_of(RunConfig.of(flags)).ticket_name for flags in own.to_dict("records")}
    for side in "ab":
        for arm in str(groups.get(f"arm_{side}", pd.Series([""])).iloc[0]).split():
            if arm not in names:
                right = "tickets.py --a CLEAN RUNS --b ATTACKED RUNS -o FOLDER of these runs"
                raise UserError(f"--tickets compares masks of {arm}, of no run here: {right}")


def functions_told(study):
    """What tickets.py --function found at the declared density, if it was asked; lines."""
    if "function-groups" not in study.tables:
        return []
    try:
        table = study.tables["function-groups"].fillna({"kind": ""})
        return told(table[table["round"] == study.at[""]])
    except (KeyError, TypeError, ValueError, AttributeError):
        what = "function-groups.csv of --tickets is damaged or of other runs"
        raise UserError(f"{what}: tickets.py --function writes it anew") from None


SPECIAL = (
    "attacked data changes the ticket more than the control does",
    "the control changes it more",
)


def _controls(beside, at):
    """Judged comparisons of the controls' overlap with the attacked data's, and their words."""
    if beside is None:
        return [], (
            "Whether any other change of the data would do the same is not known: no control was "
            "compared (tickets.py --beside)."
        )
    rows = beside[beside["round"].astype(str) == str(at)]
    judged = judge(
        [
            {
                "label": str(row["name"]),
                "difference": float(row.difference),
                "interval": float(row.difference_interval),
                "n": int(row.theta0s),
                "p": float(row.p),
                "unit": "Jaccard",
            }
            for _, row in rows.iterrows()
        ]
    )
    shown = ", ".join(
        f"{row['name']} {amount(row.jaccard, row.jaccard_interval, sign=False, digits=3)}"
        for _, row in rows.iterrows()
    )
    words = describe(judged, *SPECIAL)
    return judged, f"Beside controls (overlap with the clean tickets: {shown}): {words}."


def _overlap_line(groups, name):
    quantity = "difference of Jaccard" if name == "difference" else "Jaccard"
    return groups[["round", "block"]].assign(
        shows=quantity,
        quantity=quantity,
        name=name,
        arm=OVERLAPS[name],
        head=f"Jaccard index, {OVERLAPS[name]}",
        density_percent=50 * (groups.density_a + groups.density_b),
        mean=groups[name],
        interval=groups[f"{name}_interval"],
        # older tables have one count
        seeds=groups.get(f"{name}_theta0s", groups.theta0s),
    )
