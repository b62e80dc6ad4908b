"""The figure of a study: its panels, once for each value of their facet, and a legend below."""

from results.answer import TRANSFER, as_tuple
from results.figures import GRAY, Line, draw_panel, key_below, new_figure, palette
from results.table import CLEAN, EARLY, column_title

MOST = 4  # values of a facet that are drawn
STYLES = ("-", "--", ":", "-.")
UNITS = {CLEAN: "clean test accuracy (%)", TRANSFER: "accuracy (%)", "Jaccard": "Jaccard index"}
TITLES = {
    TRANSFER: "test images under its own attack (surrogate's)",
    EARLY: "iteration of the least validation loss",
}


def draw(study):
    """The figure of a results.answer.Study."""
    cells = [
        (panel, word, lines)
        for panel in study.question.panels
        for word in (study.words[panel.facet][:MOST] if panel.facet else [""])
        if (lines := _lines(study, panel, word))["mean"].notna().any()
    ]
    by_facet = len({panel.facet for panel, *_ in cells}) == 1 and cells[0][0].facet
    columns = len({word for _, word, _ in cells}) if by_facet else min(3, len(cells))
    shared = [study.table[name].unique() for name in ("arch_type", "dataset")]
    title = " on ".join(values[0] for values in shared if len(values) == 1)
    figure, axes = new_figure(title, columns, -(-len(cells) // columns))
    for axis, cell in zip(axes, cells, strict=False):
        _draw_cell(study, axis, *cell)
    for axis in axes[len(cells) :]:
        axis.set_axis_off()
    key_below(figure, *_key(study), _seeds(study))
    return figure


def _lines(study, panel, word):
    lines = study.lines[study.lines.shows.isin(as_tuple(panel.shows))]
    return lines[lines[panel.facet] == word] if panel.facet else lines


def _draw_cell(study, axis, panel, word, lines):
    by = panel.colour or study.question.colour
    colours, styles, drawn = _colours(study, by, lines), _styles(study), []
    for arm, numbers in lines.groupby("arm", sort=False):
        first = numbers.iloc[0]
        style = styles.get(first.get(study.question.style), "-")
        drawn.append(Line(numbers, colours.get(first.get(by), "0.2"), style, arm))
    column, is_contrast = study.root(as_tuple(panel.shows)[0])
    title = panel.title or (
        panel.shows if is_contrast else TITLES.get(column, column_title(column))
    )
    unit = "accuracy (%)" if column.endswith("accuracy") else column.replace("_", " ")
    if is_contrast:
        unit = f"difference ({'iterations' if column == EARLY else 'points'})"
    block = word if word in study.at else next(iter(study.at))
    title, unit = (
        ": ".join(filter(None, [word, title])),
        unit if is_contrast else UNITS.get(column, unit),
    )
    draw_panel(axis, drawn, title, unit, study.density[block, study.at[block]])
    if panel.colour:
        axis.legend(fontsize="x-small", loc="best")


def _colours(study, by, lines):
    """A factor's colours: its word -> colour; what no factor is has its values' own."""
    words = study.words.get(by) or list(dict.fromkeys(lines[by]))
    words = [word for word in words if word != "clean"]  # gray among attacks
    scale = by in study.words and study.question.factors[by].ordered
    return {"clean": GRAY} | dict(zip(words, palette(len(words), scale), strict=True))


def _styles(study):
    return dict(zip(study.words.get(study.question.style, ()), STYLES, strict=False))


def _key(study):
    """Handles and labels of the legend."""
    from matplotlib.lines import Line2D

    colours = _colours(study, study.question.colour, study.lines)
    looks = {word: (colours[word], "-") for word in study.words[study.question.colour]}
    looks |= {word: ("0.2", style) for word, style in _styles(study).items()}
    looks["density of the answer"] = "0.35", ":"
    return [Line2D([], [], color=c, linestyle=style) for c, style in looks.values()], list(looks)


def _seeds(study):
    """How many seeds the bands are over, where that differs between panels."""
    counts = study.table.groupby("block", sort=False).seed.nunique()
    if counts.nunique() > 1:
        return f"means and 95 % intervals over seeds: {counts.to_dict()}".translate(
            str.maketrans("", "", "{}'")
        )
    count = counts.iloc[0]
    return (
        "one seed: no intervals" if count == 1 else f"means and 95 % intervals over {count} seeds"
    )
