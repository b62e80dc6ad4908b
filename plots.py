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

from commandline import OneLineParser
from config import RunConfig, with_defaults
from runfolder import EPOCH_COLUMNS, RunFolder, are_numbers, load_masks, read_rounds
from utils import UserError, read_csv, write_atomic, write_csv

CLEAN = "test_accuracy"
LABELS = {
    CLEAN: "clean test images",
    "transfer": "attacked test images (surrogate's)",
    "whitebox": "attacked test images (white-box)",
}


def load_run(path):
    """A dict of a run's flags, its rows of rounds.csv and epochs.csv and its folder; None, with a note, before its first round."""
    folder = RunFolder(path)
    if folder.not_begun:
        print(f"note: {path} has not begun to train yet and is left out")
        return None
    flags = with_defaults(folder.flags())
    rounds, epochs = read_rounds(folder), read_csv(folder.epochs)
    if not all(are_numbers(row, EPOCH_COLUMNS) for row in epochs):
        raise UserError(f"{folder.epochs} is damaged: the run's own command, with DONE removed, writes it again")
    if not rounds:
        print(f"note: {path} has no finished round yet and is left out")
        return None
    if not folder.done or len(rounds) < flags["prune_iterations"]:
        print(f"note: {path} is unfinished: its {len(rounds)} rounds are used")
    return {"flags": flags, "rounds": rounds, "epochs": epochs, "folder": folder}


def mean_and_interval(values):
    """Mean and half-width of the 95 % t-interval of a list; the half-width of one value is nan."""
    from scipy.stats import t

    values = np.asarray(values, dtype=float)
    n = len(values)
    half = t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return values.mean(), half


def group_arms(runs):
    """{label: runs} of runs that differ in nothing but their seeds; a label names what tells the arms apart."""
    ignored = {"seed", "order_seed", "ticket_seed", "data_id", *(name for name, item in RunConfig.__dataclass_fields__.items() if not item.metadata["result"])}
    arms = {}
    for run in runs:
        own = {name: run["flags"][name] for name in ("order_seed", "ticket_seed") if run["flags"][name] not in (None, run["flags"]["seed"])}
        key = tuple(sorted((name, str(value)) for name, value in ({n: v for n, v in run["flags"].items() if n not in ignored} | own).items()))
        if any(other["flags"]["seed"] == run["flags"]["seed"] for other in arms.get(key, [])):
            print(f"note: {run['folder'].path} repeats another run's flags and seed and is left out")
            continue
        arms.setdefault(key, []).append(run)
    varying = [name for name in dict.fromkeys(name for key in arms for name, _ in key) if len({dict(key).get(name) for key in arms}) > 1]
    labelled = {}
    for key in sorted(arms, key=lambda key: [dict(key).get(name, "") for name in ["attack", "mix_ratio", "prune_type", "order_seed"]]):
        members, own = arms[key], dict(key)
        flags = members[0]["flags"]
        # what follows from the attack need not be named, unless one attack comes with several
        others = [name for name in varying if name not in ("prune_type", "attack", "mix_ratio") and not _follows(name, "attack", arms)]
        others = [name for name in others if name != "output_prune_percent" or not _follows(name, "prune_percent", arms)]
        words = [flags["prune_type"]]
        if {"attack", "mix_ratio"} & set(varying):
            words.append(f"{flags['attack']} {flags['mix_ratio']:g}{'' if flags['mix_ratio'] else ' (clean)'}" if flags["attack"] else "clean")
        words += [ticket_words(flags) if name == "ticket_arm" else f"{name}={own.get(name, 'seed')}" for name in others]
        label = ", ".join(words)
        labelled[label if label not in labelled else f"{label} ({len(labelled)})"] = members
    return labelled


def ticket_words(flags):
    """Whose masks a run has, in words: "own masks", "masks of fgsm0.5-lt"."""
    arm = re.sub(r"-[0-9a-f]{8}(?=@|$)", "", flags["ticket_arm"] or "")
    return f"masks of {arm.removeprefix(flags['dataset'] + '-' + flags['arch_type'] + '-')}" if arm else "own masks"


def _follows(name, cause, arms):
    """Whether the flag `name` has one value for each value of the flag `cause`."""
    pairs = {(dict(key).get(cause), dict(key).get(name)) for key in arms}
    return len(pairs) == len({first for first, _ in pairs})


def curve(members, column):
    """Remaining weights in percent, mean, half-width and count of `column` at every round that all have it."""
    rounds = min(len(run["rounds"]) for run in members)
    rows = [[run["rounds"][number] for run in members] for number in range(rounds)]
    x = np.array([100 * np.mean([row["density"] for row in each]) for each in rows])
    y = np.array([mean_and_interval([row[column] for row in each]) for each in rows])
    return x, y[:, 0], y[:, 1], len(members)


def draw_curves(axis, arms, column, dense=True):
    """One line an arm of `column` against remaining weights, with its band, and the dense nets' mean as a dashed line."""
    import seaborn

    for (label, members), colour in zip(arms.items(), seaborn.color_palette("colorblind", max(len(arms), 3)), strict=False):
        if column not in members[0]["rounds"][0]:
            continue
        x, mean, half, count = curve(members, column)
        axis.plot(x, mean, marker="o", markersize=3.5, color=colour, label=f"{label} (n={count})")
        axis.fill_between(x, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
        if dense:
            axis.axhline(mean[0], color=colour, linestyle="--", linewidth=0.9, alpha=0.7)
    remaining_axis(axis, [100 * row["density"] for members in arms.values() for row in members[0]["rounds"]])
    if column.endswith("accuracy"):
        axis.set_ylim(max(axis.get_ylim()[0], -2), min(axis.get_ylim()[1], 102))  # intervals of two seeds reach beyond
    elif axis.get_ylim()[0] < 0:
        axis.set_ylim(bottom=0)
    low, high = axis.get_ylim()
    if high - low < 1:  # a narrower axis would make noise look like an effect
        axis.set_ylim((low + high - 1) / 2, (low + high + 1) / 2)


def remaining_axis(axis, densities):
    """A log axis of remaining weights from 100 % down, with ticks at up to eight of the rounds' `densities` (percent)."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rounds = sorted({float(f"{value:.3g}") for value in densities})
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(rounds[:: -(-len(rounds) // 8) * -1]))  # from the dense net down
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    if not axis.xaxis_inverted():
        axis.invert_xaxis()
    axis.set_xlabel("weights remaining (%)")


def plain_log_axis(axis):
    """A log y axis whose ticks read 0.1 and 20, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_yscale("log")
    for kind, subs in (("major", (1,)), ("minor", (2, 5))):
        getattr(axis.yaxis, f"set_{kind}_locator")(LogLocator(subs=subs))
        getattr(axis.yaxis, f"set_{kind}_formatter")(FuncFormatter(lambda value, _: f"{value:g}"))


def attacked_columns(runs):
    """The columns of attacked accuracies that any of the runs has."""
    names = {name for run in runs for name in run["rounds"][0] if name.startswith(("transfer_", "whitebox_"))}
    return sorted(names)


def column_title(column):
    """What a column of rounds.csv shows, in words."""
    if column == CLEAN:
        return LABELS[CLEAN]
    kind, attack, what = column.split("_", 2)
    return f"mean L2 that {attack.upper()} needs (white-box)" if what == "l2" else f"{LABELS[kind]}: {attack.upper()}"


def accuracy_figure(arms, title):
    """Test accuracy against remaining weights."""
    figure, axes = new_figure(title)
    draw_curves(axes[0], arms, CLEAN)
    axes[0].set_ylabel("test accuracy (%)")
    legend_below(figure, axes[0], "dashed: dense")
    return figure


def attacked_figure(arms, title):
    """Clean beside attacked accuracy against remaining weights, a panel each."""
    columns = [CLEAN, *attacked_columns([run for members in arms.values() for run in members])]
    figure, axes = new_figure(title, len(columns))
    for axis, column in zip(axes, columns, strict=True):
        draw_curves(axis, arms, column)
        axis.set_title(column_title(column))
    axes[0].set_ylabel("accuracy (%)")
    legend_below(figure, axes[0], "dashed: dense")
    return figure


def early_stop_figure(arms, title):
    """Iteration of the least validation loss against remaining weights."""
    figure, axes = new_figure(title)
    draw_curves(axes[0], arms, "early_stop_iteration", dense=False)
    axes[0].set_ylabel("early-stop iteration")
    legend_below(figure, axes[0])
    return figure


def training_figure(arms, title):
    """Training loss, validation loss and accuracy of every round of each arm's first run, coloured by density."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm

    columns = {"train_loss": "training loss", "val_loss": "validation loss", "val_accuracy": "validation accuracy (%)"}
    figure, axes = new_figure(title, len(columns), rows=len(arms))
    densities = [100 * row["density"] for members in arms.values() for row in members[0]["rounds"] if row["density"] > 0]
    colours = ScalarMappable(LogNorm(min(densities) * 0.999, max(densities)), "viridis")
    for line, (label, members) in enumerate(arms.items()):
        run = members[0]
        for place, (column, name) in enumerate(columns.items()):
            axis = axes[line * len(columns) + place]
            for row in run["rounds"]:
                epochs = [epoch for epoch in run["epochs"] if epoch["round"] == row["round"]]
                colour = colours.to_rgba(100 * row["density"])
                axis.plot([e["iteration"] for e in epochs], [e[column] for e in epochs], color=colour, marker=".", markersize=4)
            axis.set_ylabel(name)
            axis.set_xlabel("iteration")
            if "loss" in column:
                plain_log_axis(axis)
        axes[line * len(columns)].set_title(f"{label}, seed {run['flags']['seed']}", loc="left")
    bar = figure.colorbar(colours, ax=axes, label="weights remaining (%)", shrink=0.8, aspect=30)
    plain_log_axis(bar.ax)
    return figure


def density_figure(arms, title):
    """Density of each layer against the whole net's, a panel an arm (its first run); layerwise pruning gives one diagonal."""
    import seaborn

    figure, axes = new_figure(title, len(arms))
    for axis, (label, members) in zip(axes, arms.items(), strict=True):
        run = members[0]
        masks = [load_masks(run["folder"].masks(row["round"]), kept=row["kept"]) for row in run["rounds"]]
        x = [100 * row["density"] for row in run["rounds"]]
        names = sorted(masks[0], key=lambda name: [int(part) if part.isdigit() else part for part in name.split(".")])
        # thick to thin, so that lines on top of each other (layerwise pruning) all show
        for name, colour, width in zip(names, seaborn.color_palette("viridis", len(names)), np.linspace(6, 1, len(names)), strict=True):
            y = [100 * mask[name].float().mean().item() for mask in masks]
            axis.plot(x, y, color=colour, linewidth=width, label=name.removeprefix("net.").removesuffix(".weight"))
        plain_log_axis(axis)
        axis.set_title(textwrap.fill(label, 45))
        remaining_axis(axis, x)
    axes[0].set_ylabel("weights remaining in the layer (%)")
    axes[-1].legend(fontsize="x-small", ncols=1 + len(names) // 12, loc="best")
    return figure


def draw_samples(clean, attacked, path):
    """Clean images over their attacked versions over the difference (gray is none); (N, C, H, W) in [0, 1], to a PNG."""
    from matplotlib.figure import Figure

    clean, attacked = (np.asarray(images).transpose(0, 2, 3, 1) for images in (clean, attacked))
    largest = max(float(np.abs(attacked - clean).max()), 1e-9)
    rows = {"clean": clean, "attacked": attacked, f"difference\n(±{largest:.3f})": (attacked - clean) / (2 * largest) + 0.5}
    figure = Figure(figsize=(len(clean), 3.4), layout="constrained")
    axes = figure.subplots(len(rows), len(clean), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120, format="png")


def new_figure(title, columns=1, rows=1):
    """A figure of panels of one size with a title, and its axes as a flat list."""
    from matplotlib.figure import Figure

    width = 6.0 if columns == 1 else 4.2 * columns
    figure = Figure(figsize=(width, 0.5 + 3.6 * rows), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def legend_below(figure, axis, title=None):
    """The legend of one panel below them all, where long labels cover nothing."""
    handles, labels = axis.get_legend_handles_labels()
    room = int(figure.get_figwidth() * 13)  # letters
    columns = max(1, min(len(labels), room // max(map(len, labels))))
    figure.legend(handles, [textwrap.fill(label, room - 8) for label in labels], title=title, loc="outside lower center", ncols=columns)


def save_figure(figure, path):
    """Write `path`.png and `path`.pdf."""
    write_atomic(path.with_name(path.name + ".png"), lambda name: figure.savefig(name, dpi=150, format="png"))
    write_atomic(path.with_name(path.name + ".pdf"), lambda name: figure.savefig(name, format="pdf"))


FIGURES = {
    "accuracy": accuracy_figure,
    "attacked": attacked_figure,
    "early_stop": early_stop_figure,
    "training": training_figure,
    "layers": density_figure,
}


def summary(arms):
    """Rows for summary.csv: arm, seeds, density, and mean and half-width of every accuracy."""
    rows = []
    for label, members in arms.items():
        for number in range(min(len(run["rounds"]) for run in members)):
            each = [run["rounds"][number] for run in members]
            row = {"arm": label, "seeds": len(each), "round": number, "density": round(np.mean([r["density"] for r in each]), 6)}
            for column in (CLEAN, "test_accuracy_last", *attacked_columns(members), "early_stop_iteration"):
                mean, half = mean_and_interval([r[column] for r in each])
                row |= {column: round(mean, 3), f"{column}_interval": round(half, 3)}
            rows.append(row)
    return rows


def print_table(rows):
    """The summary as text: an arm's line a round."""
    for row in rows:
        interval = "" if np.isnan(row[f"{CLEAN}_interval"]) else f" ± {row[f'{CLEAN}_interval']:.2f}"
        attacked = "".join(f"  {name.removesuffix('_accuracy')} {row[name]:6.2f}" for name in attacked_columns([{"rounds": [row]}]) if "interval" not in name)
        print(f"  {row['arm']:24} n={row['seeds']:<2} density {row['density']:.4f}  test {row[CLEAN]:6.2f}{interval}{attacked}")


def main(argv=None):
    """Draw the figures of the run folders on the command line; returns the exit code."""
    parser = OneLineParser(prog="plots.py", description="Draw figures and a table from run folders.")
    parser.add_argument("runs", nargs="+", help="run folders: runs/*")
    parser.add_argument("-o", "--output", default="plots", metavar="FOLDER", help="where PNG, PDF and CSV files go (default: plots)")

    def work(args):
        runs = [run for run in map(load_run, {Path(path).resolve(): path for path in args.runs}.values()) if run]
        if not runs:
            raise UserError("none of these folders has a finished round yet")
        for path in draw_all(runs, Path(args.output)):
            print(path)

    return parser.run(argv, work)


def draw_all(runs, output):
    """Every figure and a table for each data set and network among the runs; yields the paths of the PNGs."""
    import seaborn

    seaborn.set_theme(style="whitegrid", context="paper")
    kinds, drawn = {}, []
    for run in runs:
        kinds.setdefault((run["flags"]["dataset"], run["flags"]["arch_type"]), []).append(run)
    for (dataset, arch), members in kinds.items():
        arms = group_arms(members)
        rows, stem = summary(arms), re.sub(r"[^\w.-]", "_", f"{dataset}-{arch}")
        drawn.append((stem, rows, {name: draw(arms, f"{arch} on {dataset}") for name, draw in FIGURES.items()}))
    output.mkdir(parents=True, exist_ok=True)
    for stem, rows, figures in drawn:  # nothing is written before all can be drawn
        write_csv(output / f"{stem}-summary.csv", rows)
        for name, figure in figures.items():
            save_figure(figure, output / f"{stem}-{name}")
        print_table(rows)
        yield from (output / f"{stem}-{name}.png" for name in figures)


if __name__ == "__main__":
    sys.exit(main())
