"""Run folders -> the answers to the questions: a sentence, a table and a figure each, one page.

    python report.py --experiment=1 'runs/small/main/mnist-fc1-fgsm*' -o report
    bash experiments/exp1_attack_rate.sh         # trains the runs, then calls this

Writes expN.json, .csv, -comparisons.csv, .png, .pdf, and report.html anew from every expN.json that
the folder holds. results/questions.py declares the questions, results/answer.py answers them.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from results.answer import Study
from results.figures import save_figure, use_theme
from results.page import page, section
from results.panels import draw
from results.questions import QUESTIONS
from results.table import load
from store.files import write_csv, write_json, write_text
from store.saved import saved_config
from utils import OneLineParser, UserError

CSV = ["arm", "quantity", "round", "density_percent", "mean", "interval", "seeds"]


def provenance_lines(folders):
    """What the runs ran on: code revision, libraries and device, each combination once."""
    lines = []
    for folder in folders:
        known = saved_config(folder)["provenance"]
        code = str(known.get("revision") or "unknown")[:10]
        code += " with changes" if known.get("modified") else ""
        versions = [f"{name} {version}" for name, version in (known.get("versions") or {}).items()]
        lines.append(", ".join([f"code {code}", *versions, f"device {known.get('device')}"]))
    return list(dict.fromkeys(lines))


def read_results(output, but):
    """({experiment: saved result}, {experiment: its PNG}) of those but one that `output` holds.

    UserError for a file that is damaged.
    """
    results, pictures = {}, {}
    for name in QUESTIONS:
        path = output / f"exp{name}.json"
        if name == but or not path.exists():
            continue
        try:
            results[name] = json.loads(path.read_text(encoding="utf-8"))
            pictures[name] = path.with_suffix(".png").read_bytes()
            section(name, results[name], b"")  # all that the page needs is there
        except Exception as error:  # whatever a damaged file brings about
            why = f"cannot be read ({type(error).__name__}: {error})"
            right = f"run experiment {name} again, or remove it"
            raise UserError(f"{path} or its figure {why}: {right}") from None
    return results, pictures


def saved_result(args, study, answer):
    """What expN.json holds of an experiment."""
    runs, stem = study.table.drop_duplicates("folder"), f"exp{args.experiment}"
    call = ["python", "report.py", f"--experiment={args.experiment}", *args.runs]
    call += [*(["--tickets", args.tickets] if args.tickets else []), "-o", args.output]
    seeds, unfinished = sorted(runs.seed.unique().tolist()), study.unfinished()
    return {
        "experiment": args.experiment,
        "question": study.question.title,
        **answer,
        "figure": f"{stem}.png",
        "csv": f"{stem}.csv",
        "commands": [*filter(None, args.command.splitlines()), shlex.join(call)],
        "runs": {"count": len(runs), "seeds": seeds, "unfinished": unfinished},
        "provenance": provenance_lines(runs.folder),
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
    parser.add_argument("--experiment", required=True, metavar="N", help="which question, as below")
    wrote = "experiment 3: what tickets.py --a CLEAN --b ATTACKED -o FOLDER wrote"
    parser.add_argument("--tickets", metavar="FOLDER", help=wrote)
    trained = "the commands that trained the runs, one a line, for the page"
    parser.add_argument("--command", default="", metavar="TEXT", help=trained)
    where = "where expN.json, .csv, .png, .pdf and report.html go (default: report)"
    parser.add_argument("-o", "--output", default="report", metavar="FOLDER", help=where)
    return parser


def work(args):
    """Answer the question, write its files and the page of all that are there."""
    question, output = QUESTIONS.choose(args.experiment), Path(args.output)
    results, pictures = read_results(output, but=args.experiment)
    study = Study(question, load(args.runs), args)
    saved = saved_result(args, study, study.answer())
    use_theme()
    figure, stem = draw(study), output / f"exp{args.experiment}"
    save_figure(figure, stem)
    lines = study.lines[CSV].round(4).astype(object)
    write_csv(f"{stem}.csv", lines.where(lines.notna(), "").to_dict("records"))
    write_csv(f"{stem}-comparisons.csv", saved["comparisons"])
    write_json(f"{stem}.json", saved)
    results[args.experiment] = saved
    pictures[args.experiment] = Path(f"{stem}.png").read_bytes()
    ordered = {name: results[name] for name in QUESTIONS if name in results}
    write_text(output / "report.html", page(ordered, pictures))
    print(saved["answer"], f"{stem}.png", output / "report.html", sep="\n")


def main(argv=None):
    """Answer a question on the command line; returns the exit code."""
    return make_parser().run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
