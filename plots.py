# PYTHON_ARGCOMPLETE_OK: docs/runs.md says how a shell completes flags
"""Run folders -> figures (PNG and PDF) and a table.

    python plots.py runs/* -o plots/

Runs that differ only in their seed are one arm: a line is its mean, a band its 95 % interval
(Student's t over seeds). Each data set and network gets its own figures.
"""

import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd

from results import figures
from results.stats import summarise
from results.table import (
    CLEAN,
    EARLY,
    attacked_columns,
    by_seed,
    column_title,
    epochs,
    extra_columns,
    load,
    tests_of,
    with_arms,
)
from results.ticket import natural
from store.files import write_csv
from store.runfolder import RunFolder, load_masks
from utils import OneLineParser

TRAINING = {  # columns of epochs.csv that are drawn
    "train_loss": "training loss",
    "val_loss": "validation loss",
    "val_accuracy": "validation accuracy (%)",
}


COLUMNS = 3  # panels beside each other


def curve(rows, column):
    """Mean and interval of a column at every round of an arm's rows, over the runs that have it."""
    rows = by_seed(rows.dropna(subset=[column]), [column, "density"])
    by_round = rows.groupby("round")
    return summarise(by_round[column]).assign(density_percent=100 * by_round.density.mean())


def seeds_told(means):
    """How many seeds a curve's points are means of: n=5, or n=3 to 5 where a run is unfinished."""
    counts = means.seeds.tolist() or [0]
    least, most = min(counts), max(counts)
    return f"n={least}" if least == most else f"n={least} to {most}"


def curves_figure(table, title, columns):
    """A panel a column of rounds.csv, a line an arm, against remaining weights; None for none.

    Arms that differ in their prune types alone share a colour, and prune types share a dash.
    """
    if not columns:
        return None
    wide = min(COLUMNS, len(columns))
    figure, axes = figures.new_figure(title, wide, -(-len(columns) // wide))
    arms = table.groupby("arm", observed=True)
    looks = looks_of(list(arms.groups))
    for axis, column in zip(axes, columns, strict=False):
        curves = {arm: curve(rows, column) for arm, rows in arms}
        lines = [
            figures.Line(means, *looks[arm], f"{arm} ({seeds_told(means)})")
            for arm, means in curves.items()
        ]
        name = column_title(column)
        if len(tests := tests_of(table, column)) > 1:
            print(f"note: {name} is not one attack in these runs: {'; '.join(tests)}")
            name += ", not one attack"
        unit = "accuracy (%)" if column.endswith("accuracy") else name
        figures.draw_panel(axis, lines, name, unit)
        for line in lines if column.endswith("accuracy") else []:
            whole = line.numbers.density_percent > 99.9  # a ticket's run may begin below
            for dense in line.numbers["mean"][whole]:
                axis.axhline(dense, color=line.colour, linestyle=":", linewidth=0.9, alpha=0.7)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    whole = max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[0]))
    accuracies = any(column.endswith("accuracy") for column in columns)
    figures.legend_below(figure, whole, "dotted: the dense nets" if accuracies else None)
    return figure


def looks_of(arms):
    """{arm: (colour, dash)} of arms named "lt, 50 % fgsm": the dash is the prune type's."""
    pairs = [arm.split(", ", 1) if ", " in arm else (arm, "") for arm in arms]
    kinds, others = zip(*pairs, strict=True)
    known = list(dict.fromkeys(others))
    if len(known) < 2:  # nothing but prune types: a colour each tells them better
        return dict(zip(arms, ((c, "-") for c in figures.palette(len(arms))), strict=True))
    colours = dict(zip(known, figures.palette(len(known)), strict=True))
    return {
        arm: (colours[other], figures.STYLES.get(kind, figures.OTHER_STYLE))
        for arm, kind, other in zip(arms, kinds, others, strict=True)
    }


def first_runs(table):
    """(arm, the rows of its first run) of every arm."""
    arms = table.groupby("arm", observed=True)
    return [(arm, rows[rows.folder == rows.folder.iloc[0]]) for arm, rows in arms]


def training_figure(table, title):
    """Losses and accuracy of every round of each arm's first run, coloured by density."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    runs = first_runs(table)
    figure, axes = figures.new_figure(title, len(TRAINING), rows=len(runs))
    percent = 100 * table.density[table.density > 0]
    colours = ScalarMappable(LogNorm(percent.min() * 0.999, percent.max()), "viridis")
    for (arm, rows), line in zip(runs, np.reshape(axes, (-1, len(TRAINING))), strict=True):
        steps = epochs(rows).merge(rows[["round", "density"]], on="round")
        line[0].set_title(f"{arm}, seed {rows.seed.iloc[0]}", loc="left")
        for axis, (column, name) in zip(line, TRAINING.items(), strict=True):
            for (_, density), one in steps.groupby(["round", "density"]):
                colour = colours.to_rgba(100 * density)
                axis.plot("iteration", column, ".-", data=one, color=colour, markersize=4)
            axis.set(xlabel="iteration", ylabel=name)
            if "loss" in column:
                figures.plain_log_axis(axis)
    bar = figure.colorbar(colours, ax=axes, label="weights remaining (%)", shrink=0.8, aspect=30)
    figures.plain_log_axis(bar.ax)
    return figure


def density_figure(table, title):
    """Density of each layer against the whole net's, a panel for arms with the same (their first
    runs'); None where only dense nets are there.

    Layerwise pruning gives one diagonal.
    """
    panels = {}
    for arm, rows in first_runs(table):
        folder = RunFolder(rows.folder.iloc[0])
        pairs = zip(rows["round"], rows.kept, strict=True)
        masks = [load_masks(folder.masks(number), kept=kept) for number, kept in pairs]
        alive = {
            name: tuple(round(100 * mask[name].float().mean().item(), 2) for mask in masks)
            for name in sorted(masks[0], key=natural)
        }
        shown = tuple(100 * rows.density.round(4))
        if len(shown) > 1:
            panels.setdefault((shown, tuple(alive.items())), []).append(arm)
    if not panels:
        return None
    wide = min(COLUMNS, len(panels))
    figure, axes = figures.new_figure(title, wide, -(-len(panels) // wide))
    for axis, ((shown, alive), arms) in zip(axes, panels.items(), strict=False):
        names = {name.removeprefix("net.").removesuffix(".weight"): v for name, v in alive}
        together = np.ptp(list(names.values()), axis=0).max() < 0.5  # points
        if together and len(names) > 1:
            names = {f"every layer ({len(names)})": next(iter(names.values()))}
        colours = figures.palette(len(names), True)
        for (name, densities), colour in zip(names.items(), colours, strict=True):
            axis.plot(shown, densities, color=colour, marker=".", label=name)
        figures.plain_log_axis(axis)
        lowest = min(min(d for d in densities if d > 0) for densities in names.values())
        axis.set_ylim(lowest / 1.3, 130)
        figures.remaining_axis(axis, shown)
        told = arms if len(arms) <= 2 else [f"{len(arms)} arms alike: {arms[0]} ..."]
        axis.set_title(textwrap.fill("; ".join(told), 45))
        axis.set_ylabel("weights remaining in the layer (%)")
        axis.legend(fontsize="x-small", ncols=1 + len(names) // 12, loc="best")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


FIGURES = {
    "accuracy": lambda table, title: curves_figure(table, title, [CLEAN]),
    "attacked": lambda table, title: curves_figure(table, title, [CLEAN, *attacked_columns(table)]),
    "early_stop": lambda table, title: curves_figure(table, title, [EARLY]),
    "training": training_figure,
    "layers": density_figure,
    "columns": lambda table, title: curves_figure(table, title, extra_columns(table)),
}


def summary(table):
    """Columns of summary.csv: arm, round, seeds, density, mean and half-width of every number."""
    columns = [CLEAN, "test_accuracy_last", *attacked_columns(table), EARLY, *extra_columns(table)]
    arms = table.groupby("arm", observed=True)
    rows = pd.concat(
        {arm: by_seed(part, [*columns, "density"]) for arm, part in arms}, names=["arm"]
    )
    rows = rows.reset_index("arm").astype({"arm": table.arm.dtype})
    groups = rows.groupby(["arm", "round"], observed=True)
    found = groups.agg(seeds=("seed", "nunique"), density=("density", "mean")).round(6)
    for column in columns:
        numbers = summarise(groups[column]).round(3)
        found[column], found[f"{column}_interval"] = numbers["mean"], numbers.interval
    return found.dropna(axis="columns", how="all").reset_index()


def draw_all(table, output):
    """Every figure and a table for each data set and network; prints tables and paths."""
    figures.use_theme()
    drawn = []
    for (dataset, arch), rows in table.groupby(["dataset", "arch_type"], sort=False):
        rows = with_arms(rows.dropna(axis="columns", how="all"))
        made = {name: draw(rows, f"{arch} on {dataset}") for name, draw in FIGURES.items()}
        drawn.append((re.sub(r"[^\w.-]", "_", f"{dataset}-{arch}"), summary(rows), made))
    output.mkdir(parents=True, exist_ok=True)
    for stem, numbers, made in drawn:  # nothing is written before all can be drawn
        write_csv(output / f"{stem}-summary.csv", numbers.to_dict("records"))
        shown = [n for n in numbers if n in ("arm", "seeds", "density") or n.endswith("_accuracy")]
        print(numbers[shown].to_string(index=False, float_format="{:.4g}".format))
        for name, figure in made.items():
            if figure:
                figures.save_figure(figure, output / f"{stem}-{name}")
                print(output / f"{stem}-{name}.png")


def main(argv=None):
    """Draw the figures of the run folders on the command line; returns the exit code."""
    about = "Draw figures and a table from run folders."
    parser = OneLineParser(prog="plots.py", description=about, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", help="run folders: runs/*")
    where = "where PNG, PDF and CSV files go (default: plots)"
    parser.add_argument("-o", "--output", default="plots", metavar="FOLDER", help=where)
    return parser.run(argv, lambda args: draw_all(load(args.runs), Path(args.output)))


if __name__ == "__main__":
    sys.exit(main())
