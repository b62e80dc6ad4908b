"""Drawing: panels of lines against the weights that remain, legends below them, PNG and PDF.

A line is a DataFrame of density_percent, mean and interval, a row a round. Accuracies and densities
are in percent. matplotlib and seaborn are imported where they are used.
"""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd

from store.files import write_atomic

ZOOMED = 15  # points of accuracy that an axis shows, below which it says so
# of the prune types; others have the last
STYLES = {
    "lt": "-", "reinit": "--", "shuffle": ":", "random": "-.",
    "finetune": (0, (5, 1, 1, 1, 1, 1)), "rewind_lr": (0, (8, 2, 2, 2)),
    "reinit_chain": (0, (2, 3)), "shuffle_chain": (0, (8, 3)),
}  # fmt: skip
OTHER_STYLE = (0, (1, 3))


@dataclass(frozen=True, eq=False)
class Line:
    """What a panel draws: numbers, how they look, and what the legend calls them."""

    numbers: pd.DataFrame
    colour: object
    style: str = "-"
    label: str = ""


def use_theme():
    """seaborn's look, for every figure that is drawn after it.

    A dollar is a dollar: names of folders are no mathematics.
    """
    import seaborn

    seaborn.set_theme(style="whitegrid", context="paper", rc={"text.parse_math": False})


def palette(count, ordered=False):
    """Colours of `count` things: a sequence where they have an order, else easy to tell apart."""
    import seaborn

    if ordered:
        return seaborn.color_palette("viridis", count)
    return seaborn.color_palette("colorblind" if count <= 10 else "husl", count)


def new_figure(title, columns=1, rows=1):
    """A figure of panels of one size with a title, and its axes as a flat list."""
    from matplotlib.figure import Figure

    width = 6.0 if columns == 1 else 4.2 * columns
    figure = Figure(figsize=(width, 0.5 + 3.6 * rows), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure, path):
    """Write `path`.png and `path`.pdf."""
    for suffix in (".png", ".pdf"):
        whole = path.with_name(path.name + suffix)
        write_atomic(whole, lambda temporary: figure.savefig(temporary, dpi=150))


def draw_lines(axis, lines, x, alpha=0.15):
    """Each line's means against the column `x` of its numbers, in a band of their intervals."""
    for line in lines:
        at, mean, half = (line.numbers[name] for name in (x, "mean", "interval"))
        look = {"color": line.colour, "linestyle": line.style, "label": line.label}
        axis.plot(at, mean, marker="o", markersize=3.5, **look)
        axis.fill_between(at, mean - half, mean + half, color=line.colour, alpha=alpha, linewidth=0)
        # a band needs two points beside each other
        known = half.notna()
        alone = known & ~(known.shift(1, fill_value=False) | known.shift(-1, fill_value=False))
        ends = (mean - half)[alone], (mean + half)[alone]
        axis.vlines(at[alone], *ends, color=line.colour, alpha=0.6, linewidth=1)


def faint(lines):
    """The bands' alpha where lines are many: bands lie on each other."""
    return 0.15 * min(1, 6 / max(1, len(lines)))


def draw_panel(axis, lines, title="", ylabel="", declared=None, limits=None, beside=()):
    """Lines with their bands; the declared densities (percent, a list) have a gray ground.

    The means set the limits, so that a band may reach out; or `limits` (low, high) are what they
    are, so that panels can be compared, and every line is on the scale. beside: values that the
    caller draws beside the lines, to be on the scale too.
    """
    lines = [line for line in lines if line.numbers["mean"].notna().any()]
    draw_lines(axis, lines, "density_percent", faint(lines))
    # a difference that stands out is what the panel is for
    all_told = limits or ylabel.startswith("difference")
    within = lines if all_told else _without_outlier(lines)
    if away := [line.label for line in lines if line not in within]:
        title += f" (off the scale: {', '.join(away)})"
    means = pd.concat([line.numbers["mean"] for line in within])
    low, high = min([means.min(), *beside]), max([means.max(), *beside])
    if ylabel.startswith("difference"):
        axis.axhline(0, color="0.35", linewidth=1)
        low, high = min(low, 0), max(high, 0)
    # a narrower axis would make noise look like an effect
    pad = 0.1 * (high - low) + (0.01 if "Jaccard" in ylabel else 0.5)
    if ylabel == "accuracy (%)":
        low, high = max(low, pad - 1), min(high, 101 - pad)
    axis.set_ylim(limits or (low - pad, high + pad))
    if declared:
        ends = max(declared) * 1.05, min(declared) / 1.05
        axis.axvspan(*ends, color="0.93", zorder=0, linewidth=0)
    remaining_axis(axis, pd.concat([line.numbers.density_percent for line in lines]))
    # beside panels of 0 to 100 a narrow one is easily misread
    zoomed = ", zoomed" if ylabel == "accuracy (%)" and np.ptp(axis.get_ylim()) < ZOOMED else ""
    axis.set(title=textwrap.fill(title, 48), ylabel=ylabel + zoomed)


def _without_outlier(lines):
    """The lines, but for those of one of three colours if they lie so far below the others that
    they take most of the height.

    Nets trained on attacked images only can learn another task altogether.
    """

    def height(some):
        return np.ptp(pd.concat([line.numbers["mean"].dropna() for line in some]))

    colours = {line.colour for line in lines}
    if len(colours) < 3:
        return lines
    rest = min(([line for line in lines if line.colour != c] for c in colours), key=height)
    least = pd.concat([line.numbers["mean"] for line in rest]).min()
    poor = all(line.numbers["mean"].max() < least for line in lines if line not in rest)
    return rest if poor and height(lines) > 3 * max(height(rest), 2) else lines


def remaining_axis(axis, densities):
    """A log axis of remaining weights from 100 % down; ticks at some of `densities` (percent)."""
    rounds = sorted({float(f"{value:.3g}") for value in densities}, reverse=True)
    ticks = rounds[:: -(-len(rounds) // 8)]
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.xaxis.set_inverted(True)
    axis.set_xlabel("weights remaining (%)")


def plain_log_axis(axis):
    """A log y axis whose ticks read 0.1 and 20, not powers of ten."""
    from matplotlib.ticker import LogLocator

    axis.set_yscale("log")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")


def legend_below(figure, axis=None, title=None, key=None):
    """The legend of one panel, or of a key (handles, labels), below all panels."""
    handles, labels = key or axis.get_legend_handles_labels()
    room = int(figure.get_figwidth() * 13)  # letters
    columns = max(1, min(len(labels), room // (4 + max(map(len, labels)))))
    labels = [textwrap.fill(label, room - 8) for label in labels]
    lines = sum(label.count("\n") + 1 for label in labels) / columns
    # beyond a few lines it would take the panels' height
    figure.set_figheight(figure.get_figheight() + 0.22 * max(0, lines - 4))
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns)


def draw_samples(clean, attacked, classes, path):
    """Clean images over their attacked versions over the difference (gray is none), as a PNG.

    clean, attacked: (N, C, H, W) in [0, 1]; classes: three lists of N numbers: the true class, and
    what the surrogate takes each clean and each attacked image for, written above it.
    """
    from matplotlib.figure import Figure

    clean, attacked = (np.asarray(images).transpose(0, 2, 3, 1) for images in (clean, attacked))
    largest = max(float(np.abs(attacked - clean).max()), 1e-9)
    difference = (attacked - clean) / (2 * largest) + 0.5
    figure = Figure(figsize=(len(clean), 4.1), layout="constrained")
    axes = figure.subplots(3, len(clean), squeeze=False)
    for number, column in enumerate(axes.T):
        rows = zip(column, (clean, attacked, difference), strict=True)
        for axis, images in rows:
            axis.imshow(images[number], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        true, before, after = (part[number] for part in classes)
        column[0].set_title(f"{true} seen as {before}", fontsize=8)
        colour = "tab:red" if after != true else "0.2"
        column[1].set_title(f"as {after}", fontsize=8, color=colour)
    names = ("clean", "attacked", f"difference\n(±{largest:.3f})")
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    figure.savefig(path, dpi=120, format="png")
