"""The figure of a study: its panels, once for each value of their facet, and a legend below."""

from results.answer import OVER_DENSE, TRANSFER, heads
from results.declared import FEWEST
from results.figures import OTHER_STYLE, STYLES, Line, draw_panel, legend_below, new_figure, palette
from results.table import column_title

WIDEST = 4  # panels in a row, if those of a facet can be put into several rows


def draw(study):
    """The figure of a results.answer.Study."""
    cells = [
        (panel, word, lines)
        for panel in study.question.panels
        for word in (study.words[panel.facet] if panel.facet else [""])
        if (lines := _lines(study, panel, word))["mean"].notna().any()
    ]
    words = list(dict.fromkeys(word for _, word, _ in cells))
    columns = len(words) if len(words) > 1 else min(3, len(cells))
    if columns > WIDEST:  # in so many blocks, each with all its panels, that its rows are full
        columns = max((n for n in range(2, WIDEST + 1) if columns % n == 0), default=columns)
        cells.sort(key=lambda cell: words.index(cell[1]) // columns)
    shared = [study.table[name].unique() for name in ("arch_type", "dataset")]
    title = " on ".join(values[0] for values in shared if len(values) == 1)
    figure, axes = new_figure(title, columns, -(-len(cells) // columns))
    for axis, cell in zip(axes, cells, strict=False):
        _draw_cell(study, axis, *cell)
    for axis in axes[len(cells) :]:
        axis.set_axis_off()
    # of every point: an arm may lack a seed, and a seed its last rounds
    counts = sorted({int(n) for _, _, lines in cells for n in lines.seeds[lines["mean"].notna()]})
    over = f"bands: 95 % intervals over {' or '.join(map(str, counts))} seeds"
    over += f" (under {FEWEST} have none)" if counts[0] < FEWEST else ""
    legend_below(figure, title=over, key=_key(study))
    return figure


def _lines(study, panel, word):
    lines = study.lines[study.lines.shows == panel.shows]
    if panel.facet:
        lines = lines[lines[panel.facet] == word]
    by = panel.colour or study.question.colour
    return lines[lines[by].map(panel.keep).astype(bool)] if by in lines else lines


def _draw_cell(study, axis, panel, word, lines):
    by = panel.colour or study.question.colour
    colours, styles, drawn = _colours(study, by, lines), _styles(study), []
    for arm, numbers in lines.groupby("arm", sort=False):
        first = numbers.iloc[0]
        style = styles.get(first.get("prune_type"), "-")
        own = str(first.get(by, ""))  # a pair has the colour of its first
        colour = next((colours[name] for name in colours if heads(name, own)), "0.2")
        drawn.append(Line(numbers, colour, style, arm))
    column, is_contrast = study.root(panel.shows)
    column = column or study.question.measure
    percent = column in (TRANSFER, OVER_DENSE) or column.endswith("accuracy")
    unit = "accuracy (%)" if percent else column.replace("_", " ")
    named = study.question.titles.get(column) or column_title(column)
    title = panel.title or (panel.shows if is_contrast else named)
    title += ", not one attack" if column in study.unlike and not is_contrast else ""
    if is_contrast:
        unit = f"difference of {unit}".replace("%", "points")
    title = f"{word}: {title}" if word else title
    block = word if word in study.at else next(iter(study.at))
    span = [study.density[block, number] for number in study.rounds[block]]
    theirs = [row for row in study.paper if row.get("column") == column and not is_contrast]
    draw_panel(axis, drawn, title, unit, span, beside=[row["theirs"] for row in theirs])
    for row in theirs:
        colour = colours.get(row["arm"], "0.2")
        axis.plot(row["density_percent"], row["theirs"], "x", color=colour, markersize=7)
    if panel.colour:
        axis.legend(fontsize="x-small", loc="best")


def _styles(study):
    return {kind: STYLES.get(kind, OTHER_STYLE) for kind in study.words.get("prune_type", ())}


def _colours(study, by, lines):
    """A factor's colours: its word -> colour; what no factor is has its values' own."""
    words = study.words.get(by) or list(lines[by].unique())
    ordered = by in study.words and study.question.factors[by].ordered
    return dict(zip(words, palette(len(words), ordered), strict=True))


def _key(study):
    """Handles and labels of the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colours = _colours(study, study.question.colour, study.lines)
    looks = {word: (colour, "-") for word, colour in colours.items()}
    looks |= {word: ("0.2", style) for word, style in _styles(study).items()}
    handles = [Line2D([], [], color=c, linestyle=style) for c, style in looks.values()]
    handles.append(Patch(facecolor="0.93", edgecolor="0.8"))
    names = [*looks, "densities of the answer"]
    if any("column" in row for row in study.paper):
        handles.append(Line2D([], [], color="0.2", linestyle="", marker="x"))
        names.append("the paper's lt")
    return handles, names
