"""Pictures of masks that are compared: pairs, layers, groups, and the pixels that survive.

Tables are those of overlap.csv and groups.csv, as DataFrames.
"""

import math

import numpy as np
import pandas as pd

from results.figures import Line, draw_panel, legend_below, new_figure, palette
from results.overlap import densities, square


def heat_map(axis, values, **more):
    """A heat map with its numbers, if they are few enough to be read."""
    import seaborn

    style = {"fmt": ".2f", "annot_kws": {"fontsize": 7}}
    seaborn.heatmap(values, annot=values.shape[1] <= 24, ax=axis, **style, **more)
    axis.grid(False)
    axis.tick_params(axis="y", rotation=0)


def pairs_figure(total, labels, number):
    """Jaccard index between all runs at one round, a cell a pair; total: rows of the whole net."""
    pairs = total[total["round"] == number]
    values = square(pairs, labels, "jaccard")
    kept = f"{100 * densities(pairs).mean():.3g} % of the weights kept"
    chance = f"{pairs.jaccard_chance.mean():.3g} expected by chance"
    figure, (axis,) = new_figure(f"round {number}: {kept}, {chance}")
    side = max(4.0, 1.6 + 0.48 * len(labels))
    figure.set_size_inches(side + 1.2, side)
    key = {"label": "Jaccard index of the masks", "shrink": 0.8}
    heat_map(axis, values, mask=values.isna(), square=True, cmap="viridis", cbar_kws=key)
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=90)
    return figure


def layers_figure(rows, labels):
    """Jaccard index minus chance of two runs, a row a round, a column a layer."""
    layers = rows.layer.unique()
    beyond = rows.assign(beyond=rows.jaccard - rows.jaccard_chance)
    values = beyond.pivot(index="round", columns="layer", values="beyond")[layers]
    total = rows[rows.layer == "total"]
    density = 50 * (total.density_a + total.density_b)
    names = [f"{n} ({share:.3g} %)" for n, share in zip(values.index, density, strict=True)]
    figure, (axis,) = new_figure(f"{labels[0]} and {labels[1]}:\nJaccard index minus chance")
    figure.set_size_inches(max(5.0, 2.4 + 0.5 * len(layers)), max(3.0, 1.4 + 0.28 * len(values)))
    heat_map(axis, values, cmap="vlag", center=0, yticklabels=names)
    axis.set(xlabel="layer", ylabel="round (weights kept)")
    axis.tick_params(axis="x", rotation=90 if len(layers) > 6 else 0)
    return figure


def first_layer_figure(counts, number, difference):
    """Surviving first-layer weights at each pixel, a panel for each name in {name: (H, W)}.

    difference: and the first minus the second.
    """
    columns = min(6, len(counts) + difference)
    lines = -(-(len(counts) + difference) // columns)
    title = f"first-layer weights that survive, by pixel, round {number}"
    figure, axes = new_figure(title, columns, lines)
    figure.set_size_inches(max(2.6 * columns + 0.8, 5), 0.5 + 2.5 * lines)
    low, high = (edge(list(counts.values())) for edge in (np.min, np.max))
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, count) in zip(axes, counts.items(), strict=False):
        shown = axis.imshow(count, cmap="viridis", vmin=low, vmax=high)
        axis.set_title(name, fontsize="small")
    figure.colorbar(shown, ax=axes[: len(counts)], shrink=0.8, aspect=25, label="weights")
    if difference:
        first, second = counts
        gap = counts[first] - counts[second]
        largest = max(np.abs(gap).max(), 1e-9)
        shown = axes[2].imshow(gap, cmap="vlag", vmin=-largest, vmax=largest)
        axes[2].set_title(f"{first} − {second}", fontsize="small")
        figure.colorbar(shown, ax=axes[2], shrink=0.8, aspect=25, label="difference")
    return figure


CURVES = {  # column of groups.csv: its name and how it is drawn
    "within": ("ceiling: same data and theta_0, other order", "-"),
    "between": ("{b} with {a}", "-"),
    "margins": ("independent given |theta_0|, pixel and unit", "--"),
    "theta0": ("independent given |theta_0|", "--"),
    "chance": ("chance", ":"),
}


def groups_figure(rows, names, beside=None):
    """Overlap of groups a and b, its ceiling, the controls' and the nulls' against density.

    rows: groups.csv; names: of a and b; beside: beside.csv. With 95 % bands over theta_0s.
    """
    a, b = names
    curves = [
        (label.format(a=a, b=b), style, rows, 50 * (rows.density_a + rows.density_b), column)
        for column, (label, style) in CURVES.items()
    ]
    if beside is not None:
        controls = [
            (f"{name} with {a}", "-.", mine, 100 * mine.density, "jaccard")
            for name, mine in beside.groupby("name", sort=False)
        ]
        curves[2:2] = controls
    lines = []
    for (label, style, table, x, column), colour in zip(curves, palette(len(curves)), strict=True):
        columns = {"density_percent": x, "mean": table[column]}
        numbers = pd.DataFrame(columns | {"interval": table[f"{column}_interval"]})
        lines.append(Line(numbers[table["round"] != "all"], colour, style, label))
    figure, (axis,) = new_figure(f"tickets of {a} and {b}")
    draw_panel(axis, lines, ylabel="Jaccard index of the masks")
    axis.set_ylim(-0.02, 1.02)
    legend_below(figure, axis)
    return figure


# Pixels ----------------------------------------------------------------------------------------


def pixel_counts(ticket, number):
    """(H, W) how many weights of the first layer survive at each pixel, over units and channels.

    None unless the net is fully connected on square images: the first layer's weight is then
    (units, C * H * W), the images flattened channel by channel.
    """
    shapes = list(ticket.shapes.values())
    if any(len(shape) != 2 for shape in shapes):
        return None
    for channels in (1, 3):
        side = math.isqrt(shapes[0][1] // channels)
        if side > 1 and channels * side * side == shapes[0][1]:
            mask = ticket.masks(number)[next(iter(ticket.shapes))].numpy()
            return mask.reshape(-1, channels, side, side).sum((0, 1))
    return None


def first_layer_counts(tickets, groups, names, number):
    """{name: (H, W)} for the picture of the first layer; empty where there is no such picture.

    Each group's mean under the groups' names, or up to twelve runs.
    """
    if pixel_counts(tickets[0], number) is None:
        return {}
    if groups is None:
        if len(tickets) > 12:
            print("note: the picture of the first layer shows the first 12 runs")
        return {ticket.label: pixel_counts(ticket, number) for ticket in tickets[:12]}
    sides = [[t for t in tickets if groups[t.label] == letter] for letter in "ab"]
    return {
        name: np.mean([pixel_counts(ticket, number) for ticket in side], axis=0)
        for name, side in zip(names, sides, strict=True)
    }
