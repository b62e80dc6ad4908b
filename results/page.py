"""report.html: one self-contained page from the saved results."""

import base64
import html
import re

import pandas as pd

from results import declared, papers
from utils import UserError

STYLE = """
:root { color-scheme: light dark; --text: #1c1c1c; --ground: #fff; --rule: #ddd; --soft: #f3f5f8;
  --answer: #eef4fb; --mark: #2b6cb0; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e4; --ground: #17191c; --rule: #3a3f45;
  --soft: #22262b; --answer: #1d2a3a; --mark: #7fb3e6; } }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--text); background: var(--ground); overflow-wrap: break-word; }
a { color: var(--mark); }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--rule); padding-top: 1.2rem; }
.answer { background: var(--answer); border-left: 4px solid var(--mark); padding: .6rem .9rem; }
img { width: 100%; background: #fff; }
pre { background: var(--soft); padding: .7rem; white-space: pre-wrap; }
table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .82rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; }
td { white-space: nowrap; }
.verdicts th, .verdicts td { white-space: normal; text-align: left; vertical-align: top;
  min-width: 6.5rem; }
.verdicts td:nth-child(1) { min-width: 11rem; }
.basis th, .basis td { white-space: normal; text-align: left; vertical-align: top; }
/* on a telephone a row is read from above */
@media (max-width: 40rem) { .verdicts th, .verdicts td:empty { display: none; }
  .verdicts tr { display: block; border-bottom: 1px solid var(--rule); padding: .4rem 0; }
  .verdicts td { display: block; border: 0; padding: .1rem 0; }
  .verdicts td:nth-child(1) { font-weight: 600; }
  .verdicts td:nth-child(5)::before { content: "seeds: "; } }
@media print { body { max-width: none; } table { display: table; overflow: visible;
  font-size: 7pt; } td { white-space: normal; } details > * { display: block; }
  img { break-inside: avoid; } }
"""
HOW_TO_READ = f"""
A ticket (lt) is rewound to its initial weights after each pruning, or to those after a later epoch
where a line says so; reinit, its control, has fresh weights under the ticket's masks. Every ± is a
95 % interval (Student's t over seeds), not corrected for how many there are; runs of one seed share
initial weights, split, order and attacked subset, so differences are taken seed by seed. What is
compared was declared on {declared.DATE} (results/declared.py): the mean over the rounds with
{100 * declared.FROM:g} to {100 * declared.TO:g} % of the weights, marked ▸ in tables. The
comparisons that answer a question are corrected together (Holm). “Not distinguishable” says that
the interval of the difference, so corrected, contains 0, not that two are equal; “the same” says
that two one-sided tests put it within {declared.MARGIN:g} points.
"""


def page(results, pictures):
    """report.html from the saved results by name, in order, and their PNGs as bytes."""
    parts = [section(name, saved, pictures[name]) for name, saved in results.items()]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Lottery tickets under attack</title><style>{STYLE}</style></head>\n"
        f"<body><h1>Lottery tickets under attack</h1>\n"
        f"{html_table(verdicts(results), 'verdicts')}<p>{HOW_TO_READ}</p>\n{contents(results)}"
        f"<p>What each answer rests on</p>\n{html_table(basis(results), 'basis')}"
        f"{''.join(parts)}</body></html>\n"
    )


def contents(results):
    """Links to the sections."""
    entries = [
        f'<li><a href="#exp{html.escape(name)}">{html.escape(saved["question"])}</a></li>'
        for name, saved in results.items()
    ]
    return f"<nav><ul>{''.join(entries)}</ul></nav>\n"


def verdicts(results):
    """The page's first table, a DataFrame: what is asked, verdict, effect, what it rests on.

    One row a question, comparison and verdict.
    """
    rows = [
        {"question": f"{name}. {saved['question']}"} | row
        for name, saved in results.items()
        for row in saved["verdicts"]
    ]
    columns = ["question", "compared", "verdict", "effect", "seeds", "rests on"]
    table = pd.DataFrame(rows, columns=columns)
    table["question"] = table.question.where(~table.question.duplicated(), "")
    return table


def basis(results):
    """What each answer rests on, a DataFrame: networks, data, schedule, seeds, runs, hours."""
    rows = []
    for name, saved in results.items():
        record = saved["record"]
        flags = [record["shared"] | run["flags"] for run in record["runs"]]

        shares = [100 * one.get("train_fraction", 1) for one in flags]
        images = [
            f"{share:g} % of {one['dataset']}" if share < 100 else one["dataset"]
            for one, share in zip(flags, shares, strict=True)
        ]
        static = [one for one in flags if one["mix_ratio"] and one["attack_mode"] == "static"]
        surrogates = "one a seed" if static else "none"
        if any(str(one["attack_seed"]) != "seed" for one in static):
            surrogates = "one"
        rows.append({
            "question": name,
            "networks": ", ".join(dict.fromkeys(one["arch_type"] for one in flags)),
            "trained on": ", ".join(dict.fromkeys(images)),
            "rounds x epochs": ", ".join(
                sorted({f"{one['prune_iterations']} x {one['end_iter']}" for one in flags})
            ),
            "seeds": len(saved["runs"]["seeds"]),
            "surrogates": surrogates,
            "runs": saved["runs"]["count"],
            "hours": record["hours"],
            "on": ", ".join(
                "cores" if name == "cpu" else name
                for name in dict.fromkeys(str(o.get("device")) for o in record["provenance"])
            ),
        })  # fmt: skip
    return pd.DataFrame(rows)


def markdown(table):
    """A DataFrame as a Markdown table."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return "\n".join(
        "| " + " | ".join(str(c).replace("|", "/") for c in row) + " |" for row in rows
    )


def fill(text, results, path):
    """A Markdown page with its blocks written anew from saved results.

    A block is <!-- verdicts -->, <!-- basis -->, or <!-- expN answer -->, details or paper, up to
    <!-- end -->.
    UserError for a page without a block, a block without its end, or of an experiment that is not
    there.
    """

    def written(match):
        what, *kind = match[1].split()
        if "<!--" in match[2]:
            raise UserError(f"{path}: <!-- {match[1]} --> has no <!-- end --> before the next one")
        if what == "verdicts":
            body = markdown(verdicts(results).drop(columns="rests on"))
        elif what == "basis":
            body = markdown(basis(results))
        else:
            name = what.removeprefix("exp")
            if name not in results or kind not in (["answer"], ["details"], ["paper"]):
                right = "a block is of an experiment of the folder: expN answer, details or paper"
                raise UserError(f"{path}: <!-- {match[1]} -->: {right}")
            saved = results[name]
            if kind == ["paper"] and not saved.get("paper"):
                right = "its runs are not of a paper's protocol"
                raise UserError(f"{path}: <!-- {match[1]} --> has nothing to hold: {right}")
            lines = [f"- {line}" for line in saved["details"]]
            body = saved["answer"] if kind == ["answer"] else "\n".join(lines)
            if kind == ["paper"]:
                body = markdown(pd.DataFrame(papers.shown(saved["paper"])))
        return f"<!-- {match[1]} -->\n{body}\n<!-- end -->"

    begin = r"<!-- (verdicts|basis|exp\w+ \w+) -->\n"
    filled, count = re.subn(begin + r"(.*?)<!-- end -->", written, text, flags=re.DOTALL)
    if count != len(re.findall(begin, text)) or not count:
        what = "has a block without <!-- end -->" if count else "has no block to fill"
        raise UserError(f"{path} {what}: <!-- exp1 answer --> up to <!-- end -->, each on its line")
    return filled


def section(name, saved, picture):
    """One experiment of the page; KeyError for what `saved` lacks."""
    text = html.escape
    table, runs = saved["table"], saved["runs"]
    details = "".join(f"<li>{text(line)}</li>" for line in saved["details"])
    ran = f"{runs['count']} runs, seeds {', '.join(map(str, runs['seeds']))}"
    ran += f", {runs['unfinished']} runs unfinished" if runs["unfinished"] else ""
    ran += f", {saved['record']['hours']:g} hours of one process in all"
    image = base64.b64encode(picture).decode()
    shown = pd.DataFrame(table["rows"], columns=table["head"])
    shown.insert(0, "", ["▸" if n in table["marked"] else "" for n in range(len(shown))])
    paper = ""
    if saved.get("paper"):
        beside = html_table(pd.DataFrame(papers.shown(saved["paper"])))
        paper = f"<p>The paper's figures beside these</p>\n{beside}"
    return (
        f'<h2 id="exp{text(name)}">{text(name)}. {text(saved["question"])}</h2>\n'
        f'<p class="answer">{text(saved["answer"])}</p>\n<ul>{details}</ul>\n'
        f'<img alt="figure of experiment {text(name)}" src="data:image/png;base64,{image}">\n'
        f"<p>Means and paired differences (± not corrected). {links(name, saved)}</p>\n"
        f"{html_table(shown)}{paper}<details><summary>all comparisons"
        f"</summary>{html_table(pd.DataFrame(saved['comparisons']))}</details>\n"
        f"<pre>{text(chr(10).join(saved['commands']))}</pre>\n"
        f"<p>{text('; '.join([ran, *saved['provenance']]))}</p>\n"
    )


def links(name, saved):
    """Links to an experiment's files beside the page."""
    stem = html.escape(f"exp{name}")
    files = {"every seed at every round": saved["csv"], "comparisons": f"{stem}-comparisons.csv"}
    files |= {"means": f"{stem}-means.csv", "flags and origin of every run": f"{stem}.json"}
    files |= {"figure": saved["figure"]}
    return "Files: " + ", ".join(
        f'<a href="{html.escape(path)}">{what}</a>' for what, path in files.items()
    )


def html_table(table, kind=""):
    """A DataFrame as HTML of a CSS class, escaped, with empty cells for what is missing."""
    filled = table.astype(object).where(table.notna(), "")
    with pd.option_context("display.max_colwidth", None):
        return filled.to_html(index=False, border=0, classes=kind, float_format="{:.3g}".format)
