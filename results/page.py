"""report.html: one self-contained page from the saved results."""

import base64
import html
import math

from results.stats import amount

STYLE = """
:root { color-scheme: light; } * { box-sizing: border-box; } li { margin: .3rem 0; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #1c1c1c; background: #fff; overflow-wrap: break-word; } h1 { font-size: 1.6rem; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1.2rem; }
.answer { background: #eef4fb; border-left: 4px solid #2b6cb0; padding: .6rem .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; } .small { font-size: .85rem; color: #555; }
.scroll img { display: block; width: 100%; min-width: 44rem; height: auto; }
table { border-collapse: collapse; font-size: .82rem; } th, td { text-align: right; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; min-width: 5rem; background: #f6f6f6; }
td:first-child, th:first-child { text-align: left; } caption { text-align: left; }
tr.marked td { font-weight: 600; background: #fff8e1; } caption { caption-side: top; }
pre { background: #f6f6f6; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""
HOW_TO_READ = """
A round trains a network, prunes its smallest weights and starts again; density is the share of the
weights that is left.
lt rewinds to the initial weights theta_0 (a ticket); reinit draws fresh weights under the same
masks, as the control. A ticket wins if lt is above.
Every ± is a 95 % interval (Student's t over seeds). Runs of one seed share theta_0, split, order
and attacked images, so differences are taken seed by seed: their interval is of paired differences.
Answers are read at one density, declared before any result was seen: the last round with at least
8 % of the weights, else the last. It is dotted in the figures and marked in the tables.
Comparisons listed together are corrected together (Holm). “Not distinguishable” says that the
interval of the difference contains 0, perhaps only after the correction; not that two are equal.
The best epoch is chosen on validation images; test images are only reported. In the figures bands
may reach beyond the frame.
"""


def page(results, pictures):
    """report.html from the saved results by name, in order, and their PNGs as bytes."""
    text = html.escape
    lines = HOW_TO_READ.strip().splitlines()  # two make a point
    points = map(" ".join, zip(lines[::2], lines[1::2], strict=True))
    items = "".join(f"<li>{text(point)}</li>" for point in points)
    links = " · ".join(f'<a href="#exp{text(name)}">{text(name)}</a>' for name in results)
    parts = [section(name, results[name], pictures[name]) for name in results]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Lottery tickets under attack</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Lottery tickets under attack</h1>\n<p>Experiments: {links}</p>\n"
        "<details open><summary><b>How to read it</b></summary>"
        f"<ul>{items}</ul></details>\n{''.join(parts)}</body></html>\n"
    )


def section(name, saved, picture):
    """One experiment of the page; KeyError for what `saved` lacks."""
    text = html.escape
    head = saved["question"] if not name.isdigit() else f"{name}. {saved['question']}"
    details = "".join(f"<li>{text(line)}</li>" for line in saved["details"])
    compact, runs = saved["table"], saved["runs"]
    unfinished = f", {runs['unfinished']} of them unfinished" if runs["unfinished"] else ""
    seeds = ", ".join(map(str, runs["seeds"]))
    ran = f"{runs['count']} runs{unfinished}, seeds {seeds}. {'; '.join(saved['provenance'])}"
    files = (
        "Means and paired differences, ± 95 % interval; every round and quantity: "
        f"{saved['csv']}, the figure: {saved['figure']}"
    )
    heads = ["comparison", "difference", "p", "Holm p", "seeds"]
    compared = html_table(heads, [comparison_cells(row) for row in saved["comparisons"]])
    image = base64.b64encode(picture).decode()
    return (
        f'<h2 id="exp{text(name)}">{text(head)}</h2>\n'
        f'<p class="answer">{text(saved["answer"])}</p>\n<ul>{details}</ul>\n'
        f'<div class="scroll"><img alt="figure of experiment {text(name)}" '
        f'src="data:image/png;base64,{image}"></div>\n'
        f"{html_table(compact['head'], compact['rows'], compact['marked'], files)}"
        "<details><summary>all comparisons at the density of the answer, by the list they are "
        f"corrected in</summary>{compared}</details>\n"
        f"<pre>{text(chr(10).join(saved['commands']))}</pre>\n"
        f'<p class="small">{text(ran)}</p>\n'
    )


def html_table(head, rows, marked=(), caption=""):
    """A table that scrolls sideways; `marked` rows stand out."""

    def line(cells, kind, start="<tr>"):
        return start + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    starts = ['<tr class="marked">' if n in marked else "<tr>" for n in range(len(rows))]
    body = "\n".join(line(row, "td", start) for row, start in zip(rows, starts, strict=True))
    return (
        f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>'
        f"<thead>{line(head, 'th')}</thead><tbody>\n{body}</tbody></table></div>\n"
    )


def comparison_cells(row):
    """A comparison as cells of text."""
    gap, half = (
        math.nan if row[name] is None else row[name] for name in ("difference", "interval")
    )
    p_values = ["" if row[name] is None else f"{row[name]:.2g}" for name in ("p", "holm_p")]
    name = ": ".join(filter(None, [row["family"], row["label"]]))
    digits = 4 if row.get("unit") == "Jaccard" else 2
    return [name, amount(gap, half, digits=digits), *p_values, str(row["n"])]
