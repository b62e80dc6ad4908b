"""Run folders -> the answers to the questions: a sentence, a table and a figure each, one page.

    python report.py --experiment=1 'runs/small/main/mnist-fc1-fgsm*' -o report
    bash experiments/exp1_attack_rate.sh         # trains the runs, then calls this

Writes expN.json, .csv, -comparisons.csv, .png, .pdf, and report.html anew from every expN.json that
the folder holds. results/questions.py declares the questions, results/answer.py answers them.
"""

import argparse
import json
import math
import shlex
import sys
from pathlib import Path

import numpy as np

from results.answer import Study
from results.figures import save_figure, use_theme
from results.page import page, section
from results.panels import draw
from results.questions import QUESTIONS
from results.table import load
from store.files import write_csv, write_json, write_text
from store.saved import saved_config
from utils import OneLineParser, UserError


def provenance_lines(folders):
    """What the runs ran on: each code revision, set of libraries and device among them once."""
    seen = {"code": {}, "libraries": {}, "device": {}}
    for folder in folders:
        known = saved_config(folder)["provenance"]
        changed = " with changes" if known.get("modified") else ""
        versions = (known.get("versions") or {}).items()
        seen["code"][f"{str(known.get('revision') or 'unknown')[:10]}{changed}"] = None
        libraries = ", ".join(f"{name} {version}" for name, version in versions)
        seen["libraries"][libraries or "unknown"] = None
        seen["device"][str(known.get("device") or "unknown")] = None
    return [f"{word} {' and '.join(values)}" for word, values in seen.items()]


def read_results(output, but):
    """{experiment: its saved result} of the experiments other than `but` that `output` holds.

    UserError for a file that is damaged.
    """
    results = {}
    for name in QUESTIONS:
        path = output / f"exp{name}.json"
        if name == but or not path.exists():
            continue
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            section(name, saved, b"")  # all that the page needs is there
            saved["figure"] = Path(saved["figure"]).name
            (output / saved["figure"]).read_bytes()
        except Exception as error:  # whatever a damaged file brings about
            why = f"cannot be read ({type(error).__name__}: {error})"
            right = f"run experiment {name} again, or remove it"
            raise UserError(f"{path} or its figure {why}: {right}") from None
        results[name] = saved
    return results


def plain(value):
    """The value as JSON has it: numpy's numbers as Python's, nan as null."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def saved_result(args, study, answer):
    """What expN.json holds of an experiment."""
    runs, stem = study.table.drop_duplicates("folder"), f"exp{args.experiment}"
    call = ["python", "report.py", f"--experiment={args.experiment}", *args.runs]
    call += [*(["--tickets", args.tickets] if args.tickets else []), "-o", args.output]
    seeds, unfinished = sorted(runs.seed.unique()), study.unfinished()
    saved = {
        "experiment": args.experiment,
        "question": study.question.title,
        **{name: value for name, value in answer.items() if name != "lines"},
        "figure": f"{stem}.png",
        "csv": f"{stem}.csv",
        "commands": [*filter(None, (args.command or "").splitlines()), shlex.join(call)],
        "runs": {"count": len(runs), "seeds": seeds, "unfinished": unfinished},
        "provenance": provenance_lines(runs.folder),
    }
    return plain(saved)


def write(args, saved, lines, figure, results):
    """Write the experiment's files, then the page of all that are there; returns their paths."""
    output, stem = Path(args.output), f"exp{args.experiment}"
    save_figure(figure, output / stem)
    write_csv(
        output / f"{stem}.csv", lines.astype(object).where(lines.notna(), "").to_dict("records")
    )
    write_csv(output / f"{stem}-comparisons.csv", saved["comparisons"])
    write_json(output / f"{stem}.json", saved)
    results[args.experiment] = saved
    ordered = {name: results[name] for name in QUESTIONS if name in results}
    pictures = {name: (output / found["figure"]).read_bytes() for name, found in ordered.items()}
    write_text(output / "report.html", page(ordered, pictures))
    return [output / f"{stem}.png", output / "report.html"]


FLAGS = {  # beside --experiment: name -> metavar, help
    "--tickets": ("FOLDER", "experiment 3: what tickets.py --a CLEAN --b ATTACKED -o FOLDER wrote"),
    "--command": ("TEXT", "the commands that trained the runs, one a line, for the page"),
}


def make_parser():
    """The argparse parser of report.py."""
    parser = OneLineParser(
        prog="report.py",
        description="Answer a question from run folders, and rebuild report.html.",
        allow_abbrev=False,
        epilog="\n".join(["experiments:", *(f"  {n:6} {q.title}" for n, q in QUESTIONS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    wanted = "run folders, or quoted patterns such as 'runs/main/*'"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=wanted)
    which = f"which question: {', '.join(QUESTIONS)}"
    parser.add_argument("--experiment", required=True, metavar="N", help=which)
    for name, (metavar, why) in FLAGS.items():
        parser.add_argument(name, metavar=metavar, help=why)
    where = "where expN.json, .csv, .png, .pdf and report.html go (default: report)"
    parser.add_argument("-o", "--output", default="report", metavar="FOLDER", help=where)
    return parser


def main(argv=None):
    """Answer a question on the command line; returns the exit code."""

    def work(args):
        question = QUESTIONS.choose(args.experiment)
        results = read_results(Path(args.output), but=args.experiment)
        study = Study(question, load(args.runs), args)
        answer = study.answer()
        use_theme()
        saved = saved_result(args, study, answer)
        paths = write(args, saved, answer["lines"], draw(study), results)
        print("\n".join([answer["answer"], *map(str, paths)]))

    return make_parser().run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
