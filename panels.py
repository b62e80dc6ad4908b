"""Panels and tables of the report: means and paired differences against density, with their bands."""

import math

import numpy as np

import plots
from paired import amount, share


def palette(count, ordered=False):
    """Colours of `count` arms: a sequence where the arms have an order, else ones that are easy to tell apart."""
    import seaborn

    return seaborn.color_palette("viridis", count) if ordered else seaborn.color_palette("colorblind", max(count, 3))[:count]


def new_figure(title, columns, rows=1):
    """plots.new_figure with room between its panels for their labels."""
    figure, axes = plots.new_figure(title, columns, rows)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    return figure, axes


def draw(axis, line, colour, style="-"):
    """A line with its band."""
    axis.plot(line["density"], line["mean"], marker="o", markersize=3, color=colour, linestyle=style, linewidth=1.4)
    axis.fill_between(line["density"], line["mean"] - line["half"], line["mean"] + line["half"], color=colour, alpha=0.15, linewidth=0)


def finish(axis, lines, title, label, headline=None, zero=False):
    """Axes and limits of a panel: the means decide, and a band of two seeds, six times as wide as one of five, may reach beyond."""
    means = np.concatenate([line["mean"] for line in lines])
    halves = np.nan_to_num(np.concatenate([line["half"] for line in lines]))
    low, high = np.nanmin(means), np.nanmax(means)
    pad = max(0.05 * (high - low), min(halves.max(), 0.6 * (high - low) + 0.5), 0.01 if "Jaccard" in label else 0.25)
    bounds = [low - pad, high + pad]
    if zero:
        axis.axhline(0, color="0.35", linewidth=1)
        bounds = [min(bounds[0], -0.1), max(bounds[1], 0.1)]
    elif "accuracy" in label:
        bounds = [max(bounds[0], -1), min(bounds[1], 101)]
    axis.set_ylim(*bounds)
    if headline is not None:
        axis.axvline(headline, color="0.35", linestyle=":", linewidth=1)
    plots.remaining_axis(axis, np.concatenate([line["density"] for line in lines[:1]]))
    axis.set_title(title)
    axis.set_ylabel(label)


def key(entries, headline=True):
    """Legend handles and labels of {label: (colour, style)}."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, linestyle=style, linewidth=1.8) for colour, style in entries.values()]
    labels = list(entries)
    if headline:
        handles.append(Line2D([], [], color="0.35", linestyle=":", linewidth=1))
        labels.append("density of the answer")
    return handles, labels


def key_cell(axis, entries, note, headline=True):
    """A legend in a panel of its own, where it covers nothing."""
    axis.set_axis_off()
    handles, labels = key(entries, headline)
    axis.legend(handles, labels, loc="center", frameon=False, fontsize="medium", title=note, ncols=1 + len(labels) // 13)


def key_below(figure, entries, note, columns):
    """A legend below all panels."""
    handles, labels = key(entries)
    figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=columns, title=note)


def seeds_note(runs):
    """How many seeds a figure's bands are over."""
    counts = sorted({len({run["flags"]["seed"] for run in runs})})
    return f"means and 95 % intervals over {counts[0]} seeds" if counts[0] > 1 else "one seed: no intervals"


def draw_panel(axis, shown, title, label, headline, outlier=None):
    """A panel of (line, colour, style); a line without a number is left out.

    outlier: (words, lines) that are set aside, and said to be, where they would take most of the panel's height from the others.
    """
    shown = [each for each in shown if np.isfinite(each[0]["mean"]).any()]
    if outlier:
        aside = [line for line, *_ in shown if any(line is each for each in outlier[1])]
        others = [each for each in shown if not any(each[0] is line for line in aside)]
        if aside and others and span([line for line, *_ in shown]) > 3 * max(span([line for line, *_ in others]), 2):
            values = np.concatenate([line["mean"] for line in aside])
            words = f"{outlier[0]} is off the scale: {amount(values.min(), math.nan, sign=False)} to {amount(values.max(), math.nan, sign=False)}"
            axis.annotate(words, (0.02, 0.02), xycoords="axes fraction", fontsize="x-small", color="0.35")
            shown = others
    if not shown:
        axis.set_axis_off()
        return
    for line, colour, style in shown:
        draw(axis, line, colour, style)
    finish(axis, [line for line, *_ in shown], title, label, headline, zero=label.startswith("difference"))


def span(lines):
    """From the lowest to the highest end of the lines' intervals."""
    means, halves = (np.concatenate([line[name] for line in lines]) for name in ("mean", "half"))
    halves = np.nan_to_num(halves)
    return float(np.nanmax(means + halves) - np.nanmin(means - halves))


def title_of(runs, what=""):
    """The network and the data set of runs that share them."""
    flags = runs[0]["flags"]
    return f"{flags['arch_type']} on {flags['dataset'].split('_black')[0]}" + (f": {what}" if what else "")


def pick_rounds(count, headline, most=8):
    """At most `most` of the rounds, evenly, with the first, the last and the headline's."""
    step = -(-(count - 1) // (most - 2)) or 1
    return sorted({*range(0, count, step)[: most - 2], headline, count - 1})


def table(blocks, heads):
    """A compact table of {block: (lines, headline round)}: a row a block and density, a column a line; heads: the lines' names."""
    named = len(blocks) > 1
    rows, marked = [], []
    for block, (lines, headline) in blocks.items():
        count = min(len(line["mean"]) for line in lines)
        for number in pick_rounds(count, headline):
            marked += [len(rows)] if number == headline else []
            cells = [amount(line["mean"][number], line["half"][number], sign=line["quantity"].startswith("difference")) for line in lines]
            rows.append([*([block] if named else []), share(lines[0]["density"][number]), *cells])
    return {"head": [*([""] if named else []), "weights left", *heads], "rows": rows, "marked": marked}


def csv_rows(lines):
    """Every number that is drawn, one row a line and round."""
    return [
        {"arm": line["name"], "quantity": line["quantity"], "round": number, "density_percent": round(float(x), 4), "mean": round(float(mean), 4),
         "interval": "" if math.isnan(half) else round(float(half), 4), "seeds": line["n"]}
        for line in lines
        for number, (x, mean, half) in enumerate(zip(line["density"], line["mean"], line["half"], strict=True))
    ]  # fmt: skip
