"""Drawing: panels of lines against the weights that remain, legends below them, PNG and PDF.

A line is a DataFrame of density_percent, mean and interval, a row a round. Accuracies and densities
are in percent. matplotlib and seaborn are imported where they are used.
"""

import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd

from store.files import write_atomic

GRAY = (0.45, 0.45, 0.45)


@dataclass(frozen=True, eq=False)
class Line:
    """What a panel draws: numbers, how they look, and what the legend calls them."""

    numbers: pd.DataFrame
    colour: object
    style: str = "-"
    label: str = ""


def use_theme():
    """seaborn's look, for every figure that is drawn after it."""
    import seaborn

    seaborn.set_theme(style="whitegrid", context="paper")


def palette(count, ordered=False):
    """Colours of `count` things: a sequence where they have an order, else easy to tell apart."""
    import seaborn

    if ordered:
        return seaborn.color_palette("viridis", count)
    return seaborn.color_palette("colorblind" if count <= 10 else "husl", max(count, 3))[:count]


def new_figure(title, columns=1, rows=1):
    """A figure of panels of one size with a title, and its axes as a flat list."""
    from matplotlib.figure import Figure

    width = 6.0 if columns == 1 else 4.2 * columns
    figure = Figure(figsize=(width, 0.5 + 3.6 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    figure.suptitle(title)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save_figure(figure, path):
    """Write `path`.png and `path`.pdf."""
    for suffix in ("png", "pdf"):
        write_atomic(
            path.with_name(f"{path.name}.{suffix}"),
            lambda name, suffix=suffix: figure.savefig(name, dpi=150, format=suffix),
        )


def draw_panel(axis, lines, title="", ylabel="", declared=None, dense=False):
    """Lines with their bands; a declared density (percent) is dotted, the dense nets are dashed.

    The means set the limits: a band of two seeds, six times as wide as one of five, may reach out.
    """
    lines = [line for line in lines if line.numbers["mean"].notna().any()]
    if not lines:
        axis.set_axis_off()
        return
    for line in lines:
        x, mean = line.numbers.density_percent, line.numbers["mean"]
        band = line.numbers.interval.fillna(0)
        look = {"color": line.colour, "linestyle": line.style, "label": line.label}
        axis.plot(x, mean, marker="o", markersize=3, linewidth=1.4, **look)
        axis.fill_between(x, mean - band, mean + band, color=line.colour, alpha=0.15, linewidth=0)
        if dense:
            axis.axhline(mean.iloc[0], color=line.colour, linestyle="--", linewidth=0.9, alpha=0.7)
    within = _without_outlier(lines)
    away = [line.label for line in lines if line not in within]
    if away:
        words = textwrap.fill(f"off the scale: {', '.join(away)}", 60)
        look = {"fontsize": "x-small", "color": "0.35"}
        axis.annotate(words, (0.02, 0.02), xycoords="axes fraction", **look).set_in_layout(False)
    axis.set_ylim(*_limits(pd.concat([line.numbers for line in within]), ylabel))
    if ylabel.startswith("difference"):
        axis.axhline(0, color="0.35", linewidth=1)
    if declared is not None:
        axis.axvline(declared, color="0.35", linestyle=":", linewidth=1)
    remaining_axis(axis, pd.concat([line.numbers.density_percent for line in lines]))
    axis.set(title=textwrap.fill(title, 48), ylabel=ylabel)


def _without_outlier(lines):
    """The lines, but for those of one of three colours if they take most of the height.

    Nets trained on attacked images only can learn another task altogether.
    """

    def height(some):
        return np.ptp(np.concatenate([line.numbers["mean"].dropna() for line in some]))

    colours = {line.colour for line in lines}
    rests = [[line for line in lines if line.colour != colour] for colour in colours]
    rest = min(rests, key=height) if len(colours) > 2 else lines
    return rest if height(lines) > 3 * max(height(rest), 2) else lines


def _limits(numbers, ylabel):
    low, high = numbers["mean"].min(), numbers["mean"].max()
    # a narrower axis would make noise look like an effect
    least = 0.01 if "Jaccard" in ylabel else 0.5
    half = np.nan_to_num(numbers.interval.max())
    pad = max(0.05 * (high - low), min(half, 0.6 * (high - low) + 0.5), least)
    if ylabel.startswith("difference"):
        return min(low - pad, -0.1), max(high + pad, 0.1)
    top = {"Jaccard index": 1.02}.get(ylabel, 101 if "accuracy" in ylabel else np.inf)
    return max(low - pad, -0.02 if top < 2 else -1 if top < 200 else 0), min(high + pad, top)


def remaining_axis(axis, densities):
    """A log axis of remaining weights from 100 % down.

    Ticks at up to eight of the rounds' `densities` (percent).
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rounds = sorted({float(f"{value:.3g}") for value in densities})
    axis.set_xscale("log")
    # from the dense net down
    axis.xaxis.set_major_locator(FixedLocator(rounds[:: -(-len(rounds) // 8) * -1]))
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
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        getattr(axis.yaxis, f"set_{kind}_formatter")(plain)


def legend_below(figure, axis, title=None):
    """The legend of one panel below them all, where long labels cover nothing."""
    handles, labels = axis.get_legend_handles_labels()
    key_below(figure, handles, labels, title)


def key_below(figure, handles, labels, title=None):
    """A legend of these handles and labels below all panels."""
    room = int(figure.get_figwidth() * 13)  # letters
    columns = max(1, min(len(labels), room // (4 + max(map(len, labels)))))
    labels = [textwrap.fill(label, room - 8) for label in labels]
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns)


def draw_samples(clean, attacked, path):
    """Clean images over their attacked versions over the difference (gray is none), as a PNG.

    clean, attacked: (N, C, H, W) in [0, 1].
    """
    from matplotlib.figure import Figure

    clean, attacked = (np.asarray(images).transpose(0, 2, 3, 1) for images in (clean, attacked))
    largest = max(float(np.abs(attacked - clean).max()), 1e-9)
    difference = (attacked - clean) / (2 * largest) + 0.5
    rows = {"clean": clean, "attacked": attacked, f"difference\n(±{largest:.3f})": difference}
    figure = Figure(figsize=(len(clean), 3.4), layout="constrained")
    axes = figure.subplots(len(rows), len(clean), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120, format="png")
