"""report.html: one self-contained page from the saved results."""

import base64
import html

import pandas as pd

STYLE = """
body { margin: 0 auto; max-width: 64rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #1c1c1c; background: #fff; overflow-wrap: break-word; }
h2 { margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1.2rem; }
.answer { background: #eef4fb; border-left: 4px solid #2b6cb0; padding: .6rem .9rem; }
img { width: 100%; } pre { background: #f6f6f6; padding: .7rem; white-space: pre-wrap; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .82rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e3e3; text-align: right; }
td { white-space: nowrap; }
"""
HOW_TO_READ = """
A ticket (lt) is rewound to its initial weights after each pruning; reinit, the control, draws fresh
weights each round and prunes what they train to. Every ± is a 95 % interval (Student's t over
seeds); runs of one seed share initial weights, split, order and attacked images, so differences are
taken seed by seed. Answers are read at one density, declared before any result was seen: the last
round with at least 8 % of the weights, else the last; it is dotted in figures and marked ▸ in
tables. Comparisons of one family are corrected together (Holm). “Not distinguishable” says that the
interval of the difference, so corrected, contains 0; not that two are equal.
"""


def page(results, pictures):
    """report.html from the saved results by name, in order, and their PNGs as bytes."""
    parts = [section(name, saved, pictures[name]) for name, saved in results.items()]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Lottery tickets under attack</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Lottery tickets under attack</h1>\n<p>{HOW_TO_READ}</p>\n"
        f"{''.join(parts)}</body></html>\n"
    )


def section(name, saved, picture):
    """One experiment of the page; KeyError for what `saved` lacks."""
    text = html.escape
    table, runs = saved["table"], saved["runs"]
    details = "".join(f"<li>{text(line)}</li>" for line in saved["details"])
    ran = f"{runs['count']} runs, seeds {', '.join(map(str, runs['seeds']))}"
    ran += f", {runs['unfinished']} runs unfinished" if runs["unfinished"] else ""
    image = base64.b64encode(picture).decode()
    shown = pd.DataFrame(table["rows"], columns=table["head"])
    shown.insert(0, "", ["▸" if n in table["marked"] else "" for n in range(len(shown))])
    return (
        f'<h2 id="exp{text(name)}">{text(name)}. {text(saved["question"])}</h2>\n'
        f'<p class="answer">{text(saved["answer"])}</p>\n<ul>{details}</ul>\n'
        f'<img alt="figure of experiment {text(name)}" src="data:image/png;base64,{image}">\n'
        f"<p>Means and paired differences; all of them are in {text(saved['csv'])}:</p>\n"
        f"{html_table(shown)}<details><summary>all comparisons at the density of the answer"
        f"</summary>{html_table(pd.DataFrame(saved['comparisons']))}</details>\n"
        f"<pre>{text(chr(10).join(saved['commands']))}</pre>\n"
        f"<p>{text('; '.join([ran, *saved['provenance']]))}</p>\n"
    )


def html_table(table):
    """A DataFrame as HTML, escaped, with empty cells for what is missing."""
    filled = table.astype(object).where(table.notna(), "")
    with pd.option_context("display.max_colwidth", None):
        return filled.to_html(index=False, border=0, float_format="{:.3g}".format)
