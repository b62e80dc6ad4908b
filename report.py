"""Run folders -> the answers to the six questions: a sentence, a table and a figure each, and one page of all.

    python report.py --experiment=1 'runs/small/main/mnist-fc1-fgsm*' -o report
    bash experiments/exp1_attack_rate.sh         # trains the runs, then calls this

Writes expN.json, .csv, .png, .pdf, and report.html anew from every expN.json that the folder holds. answers.py says how the answers come about.
"""

import base64
import html
import json
import math
import shlex
import sys
from pathlib import Path

import numpy as np

import plots
from answers import EXPERIMENTS, load
from commandline import OneLineParser
from config import saved_config
from paired import amount
from panels import csv_rows
from utils import UserError, choose, write_csv, write_json, write_text

# The page ---------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light; } * { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1.2rem; }
.answer { background: #eef4fb; border-left: 4px solid #2b6cb0; padding: .6rem .9rem; } .scroll { overflow-x: auto; margin: 1rem 0; }
.scroll img { display: block; width: 100%; min-width: 44rem; height: auto; } li { margin: .3rem 0; }
table { border-collapse: collapse; font-size: .82rem; } th, td { padding: .25rem .6rem; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; min-width: 5rem; background: #f6f6f6; } th, td { text-align: right; }
td:first-child, th:first-child { text-align: left; }
tr.marked td { font-weight: 600; background: #fff8e1; } caption { caption-side: top; text-align: left; padding-bottom: .4rem; }
pre { background: #f6f6f6; padding: .7rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .78rem; } .small { font-size: .85rem; color: #555; }
"""

HOW_TO_READ = (
    "A round trains a network, prunes its smallest weights and starts again; density is the share of the weights that is left.",
    "lt rewinds to the initial weights theta_0 (a ticket); reinit draws fresh weights under the same masks, as the control. A ticket wins if lt is above.",
    "Every ± is a 95 % interval (Student's t over seeds). Runs of one seed share theta_0, split, order and attacked images, so differences are taken seed by "
    "seed, and their interval is of those paired differences.",
    "Answers are read at one density, declared before any result was seen: the last round with at least 8 % of the weights (else the last round). It is the "
    "dotted line of the figures and the marked row of the tables.",
    "Comparisons listed together are corrected together (Holm). “Not distinguishable” means that the interval of the difference contains 0, or does so after "
    "the correction; it does not mean that two things are equal.",
    "The best epoch is chosen on validation images; test images are only reported. In the figures bands may reach beyond the frame.",
)


def page(results, pictures):
    """report.html from the saved results, in order, and their PNGs as bytes."""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in HOW_TO_READ)
    links = " · ".join(f'<a href="#exp{name}">{html.escape("appendix" if name == "black" else name)}</a>' for name in results)
    parts = [section(name, results[name], pictures[name]) for name in results]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Lottery tickets under attack</title><style>{STYLE}</style></head>\n<body><h1>Lottery tickets under attack</h1>\n"
        f"<p>Experiments: {links}</p>\n<details open><summary><b>How to read it</b></summary><ul>{items}</ul></details>\n{''.join(parts)}</body></html>\n"
    )


def section(name, found, picture):
    """One experiment of the page."""
    text = html.escape
    head = found["question"] if name == "black" else f"{name}. {found['question']}"
    details = "".join(f"<li>{text(line)}</li>" for line in found["details"])
    compact, runs = found["table"], found["runs"]
    unfinished = f", {runs['unfinished']} of them unfinished" if runs["unfinished"] else ""
    ran = f"{runs['count']} runs{unfinished}, seeds {', '.join(map(str, runs['seeds']))}. {'; '.join(found['provenance'])}"
    files = f"Means and paired differences, ± 95 % interval; every round and quantity: {found['csv']}, the figure: {found['figure']}"
    compared = html_table(["comparison", "difference", "p", "Holm p", "seeds"], comparison_rows(found["comparisons"]))
    return (
        f'<h2 id="exp{text(name)}">{text(head)}</h2>\n<p class="answer">{text(found["answer"])}</p>\n<ul>{details}</ul>\n'
        f'<div class="scroll"><img alt="figure of experiment {text(name)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></div>\n'
        f"{html_table(compact['head'], compact['rows'], compact['marked'], files)}"
        f"<details><summary>all comparisons at the density of the answer, by the list they are corrected in</summary>{compared}</details>\n"
        f"<pre>{text(chr(10).join(found['commands']))}</pre>\n"
        f'<p class="small">{text(ran)}</p>\n'
    )


def html_table(head, rows, marked=(), caption=""):
    """A table that scrolls sideways; `marked` rows stand out."""
    text = html.escape
    cells = "".join(f"<th>{text(cell)}</th>" for cell in head)
    starts = ['<tr class="marked">' if number in marked else "<tr>" for number in range(len(rows))]
    body = "".join(f"{start}{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>\n" for start, row in zip(starts, rows, strict=True))
    return f'<div class="scroll"><table><caption>{text(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>\n{body}</tbody></table></div>\n'


def comparison_rows(comparisons):
    """Every comparison of an experiment as a row of text."""
    rows = []
    for each in comparisons:
        difference, half = (math.nan if each[name] is None else each[name] for name in ("difference", "interval"))
        digits = 4 if "Jaccard" in each["label"] else 2
        p_values = ["" if each[name] is None else f"{each[name]:.2g}" for name in ("p", "holm_p")]
        rows.append([f"{each['family']}: {each['label']}", amount(difference, half, digits=digits), *p_values, str(each["n"])])
    return rows


def provenance_lines(runs):
    """What the runs ran on, in words: each code revision, set of libraries and device among them once."""
    revisions, versions, devices = {}, {}, {}
    for run in runs:
        known = saved_config(run["folder"].path)["provenance"]
        revision = f"{str(known.get('revision') or 'unknown')[:10]}{' with changes' if known.get('modified') else ''}"
        revisions[revision] = None
        versions[", ".join(f"{name} {version}" for name, version in (known.get("versions") or {}).items()) or "unknown"] = None
        devices[str(known.get("device") or "unknown")] = None
    return [f"{word} {' and '.join(found)}" for word, found in (("code", revisions), ("libraries", versions), ("device", devices))]


# The command ------------------------------------------------------------------------------------


def read_results(output, but):
    """{experiment: its saved result} of the experiments other than `but` that `output` holds; UserError for a file that is damaged."""
    results = {}
    for name in EXPERIMENTS:
        path = output / f"exp{name}.json"
        if name == but or not path.exists():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            section(name, found, b"")  # all that the page needs is there
            found["figure"] = Path(found["figure"]).name
            (output / found["figure"]).read_bytes()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"{path} or its figure cannot be read ({type(error).__name__}: {error}): run experiment {name} again, or remove it") from None
        results[name] = found
    return results


def plain(value):
    """The value as JSON has it: numpy's numbers as Python's, nan as null."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(args, runs, found, command, results):
    """Write the experiment's files, then the page of all that are there; returns their paths."""
    output, stem = Path(args.output), f"exp{args.experiment}"
    plots.save_figure(found["figure"], output / stem)
    write_csv(output / f"{stem}.csv", csv_rows(found["lines"]))
    write_csv(output / f"{stem}-comparisons.csv", [plain(each) for each in found["comparisons"]])
    unfinished = sum(not run["folder"].done for run in runs)
    if unfinished:
        found["details"].append(f"{unfinished} of the {len(runs)} runs are unfinished: only rounds that all have are compared, and the answer can change.")
    saved = {
        "experiment": args.experiment,
        "question": EXPERIMENTS[args.experiment][0],
        **{name: found[name] for name in ("answer", "details", "density_percent", "comparisons", "table")},
        "figure": f"{stem}.png",
        "csv": f"{stem}.csv",
        "commands": [*filter(None, (args.command or "").splitlines()), command],
        "runs": {"count": len(runs), "seeds": sorted({run["flags"]["seed"] for run in runs}), "unfinished": unfinished},
        "provenance": provenance_lines(runs),
    }
    results[args.experiment] = plain(saved)
    write_json(output / f"{stem}.json", results[args.experiment])
    ordered = {name: results[name] for name in EXPERIMENTS if name in results}
    write_text(output / "report.html", page(ordered, {name: (output / each["figure"]).read_bytes() for name, each in ordered.items()}))
    return [output / f"{stem}.png", output / "report.html"]


def make_parser():
    """The argparse parser of report.py."""
    parser = OneLineParser(prog="report.py", description="Answer one of the six questions from run folders, and rebuild report.html.", allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or quoted patterns such as 'runs/main/*'")
    parser.add_argument("--experiment", required=True, metavar="N", help=f"which question: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--tickets", metavar="FOLDER", help="experiment 3: what tickets.py --a CLEAN --b ATTACKED -o FOLDER wrote")
    parser.add_argument("--command", metavar="TEXT", help="the commands that trained the runs, one a line, for the page")
    parser.add_argument("-o", "--output", default="report", metavar="FOLDER", help="where expN.json, .csv, .png, .pdf and report.html go (default: report)")
    return parser


def own_command(args):
    """This call as one would type it, but for --command."""
    parts = ["python", "report.py", f"--experiment={args.experiment}", *args.runs, *(["--tickets", args.tickets] if args.tickets else []), "-o", args.output]
    return shlex.join(parts)


def main(argv=None):
    """Answer a question on the command line; returns the exit code."""

    def work(args):
        choose("experiment", args.experiment, list(EXPERIMENTS))
        results = read_results(Path(args.output), but=args.experiment)
        runs = load(args.runs)
        import seaborn  # here: --help need not wait for it

        seaborn.set_theme(style="whitegrid", context="paper")
        found = EXPERIMENTS[args.experiment][1](runs, args)
        paths = write(args, runs, found, own_command(args), results)
        print("\n".join([found["answer"], *map(str, paths)]))

    return make_parser().run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
