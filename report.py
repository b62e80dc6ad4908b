# PYTHON_ARGCOMPLETE_OK: docs/runs.md says how a shell completes flags
"""Run folders -> the answers to the questions: a sentence, a table and a figure each, one page.

    python report.py --experiment=1 'runs/small/main/mnist-fc1-fgsm*' -o report
    bash experiments/exp1_attack_rate.sh         # trains the runs, then calls this
    python report.py --from docs/results -o report          # recomputes what was published
    python report.py --experiment=4 docs/results/exp4.json 'runs/mine/*' -o report   # adds to it

Writes expN.csv (every seed at every round), expN.json (flags and origin of every run, the answer),
expN-means.csv, expN-comparisons.csv, expN.png, .pdf, and report.html anew from every expN.json that
the folder holds. results/questions.py declares the questions, results/answer.py answers them.
"""

import argparse
import shlex
import sys
from pathlib import Path

import pandas as pd

from results import published, sources, words
from results.answer import Study
from results.figures import save_figure, use_theme
from results.page import fill, page, section
from results.panels import draw
from results.questions import QUESTIONS
from store.files import write_atomic, write_csv, write_json, write_text
from utils import OneLineParser, UserError, nonempty

MEANS = ["arm", "quantity", "round", "density_percent", "mean", "interval", "seeds"]


def read_results(output, but=()):
    """({experiment: saved result}, {experiment: its PNG}) of those in `output` but those named.

    UserError for a file that is damaged.
    """
    results, pictures = {}, {}
    for name in QUESTIONS:
        path = output / f"exp{name}.json"
        if name in but or not path.exists():
            continue
        results[name] = published.read_saved(path)
        try:
            pictures[name] = path.with_suffix(".png").read_bytes()
            section(name, results[name], b"")  # all that the page needs is there
        except Exception as error:  # whatever a damaged file brings about
            why = f"cannot be read ({type(error).__name__}: {error})"
            right = f"run experiment {name} again, or remove it"
            raise UserError(f"{path} or its figure {why}: {right}") from None
    return results, pictures


def answer(name, runs, tables, commands):
    """(what expN.json holds, the Study) of an experiment."""
    study = Study(QUESTIONS[name], runs.table, tables)
    stem, first = f"exp{name}", runs.table.drop_duplicates("folder")
    counts = {"count": len(first), "seeds": sorted(first.seed.unique().tolist())}
    saved = {
        "experiment": name,
        "question": study.question.title,
        **words.answer(study),
        "figure": f"{stem}.png",
        "csv": f"{stem}.csv",
        "commands": commands,
        "runs": counts | {"unfinished": words.unfinished(study)},
        "provenance": published.origins(runs.record),
        "record": runs.record,
    }
    return saved, study


def write(output, name, saved, study, runs, tables):
    """Write the files of an experiment; returns its PNG."""
    stem = output / f"exp{name}"
    use_theme()
    save_figure(draw(study), stem)
    lines = study.lines[MEANS].round(4).astype(object)
    write_csv(f"{stem}-means.csv", lines.where(lines.notna(), "").to_dict("records"))
    write_csv(f"{stem}-comparisons.csv", saved["comparisons"])
    whole = {"": published.tidy(runs)} | {f"-{n}": table for n, table in tables.items()}
    if saved["paper"]:
        whole["-paper"] = pd.DataFrame(saved["paper"])
    for suffix, table in whole.items():
        write_atomic(f"{stem}{suffix}.csv", lambda path, t=table: t.to_csv(path, index=False))
    write_json(f"{stem}.json", saved)
    return Path(f"{stem}.png").read_bytes()


def read_tables(question, place):
    """{name: DataFrame} of the CSV files that a question reads beside the runs.

    place(name) -> where one would be; UserError for one that is damaged.
    """
    tables = {}
    for name in question.tables:
        path = place(name)
        if path and path.exists():
            try:
                tables[name] = pd.read_csv(path)
            except (OSError, ValueError) as error:
                why = f"is damaged ({type(error).__name__})"
                raise UserError(f"{path} {why}: tickets.py writes it anew") from None
    return tables


def make_parser():
    """The argparse parser of report.py."""
    sound = [(n, q) for n, q in QUESTIONS.items() if n not in QUESTIONS.wrong]
    titles = [f"  {name:6} {question.title}" for name, question in sound]
    parser = OneLineParser(
        prog="report.py",
        usage="python report.py (--experiment=N RUN ... | --from FOLDER) [-o FOLDER]",
        description="Answer a question from run folders, and rebuild report.html.",
        allow_abbrev=False,
        epilog="\n".join(["experiments:", *titles]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    wanted = (
        "run folders, quoted patterns such as 'runs/main/*', or an expN.json that was published"
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help=wanted)
    which = parser.add_argument("--experiment", metavar="N", help="which question, as below")
    which.completer = lambda **_: [name for name, _ in sound]
    again = "answer anew from every expN.csv and expN.json of a folder; no run is needed"
    parser.add_argument("--from", dest="source", metavar="FOLDER", help=again)
    wrote = "experiment 3: what tickets.py --a CLEAN --b ATTACKED -o FOLDER wrote"
    parser.add_argument("--tickets", metavar="FOLDER", help=wrote)
    trained = "the commands that trained the runs, one a line, for the page"
    parser.add_argument("--command", default="", metavar="TEXT", help=trained)
    where = "where the files and report.html go (default: report)"
    shown = {"default": "report", "metavar": "FOLDER", "type": nonempty}
    parser.add_argument("-o", "--output", help=where, **shown)
    blocks = "a Markdown page whose blocks <!-- expN answer --> ... <!-- end --> are written anew"
    parser.add_argument("--fill", nargs="+", default=[], metavar="FILE", help=blocks)
    return parser


def _place(args, name):
    """Where a table that a question reads beside the runs is: in --tickets, or published with the
    only source; None for neither.
    """
    if args.tickets:
        return Path(args.tickets) / f"{name}.csv"
    paths = sources.files(args.runs)
    alone = len(paths) == len(args.runs) == 1 and paths[0].stem == f"exp{args.experiment}"
    return paths[0].with_name(f"{paths[0].stem}-{name}.csv") if alone else None


def from_runs(args):
    """{experiment: (saved, study, runs, tables)} of the runs on the command line."""
    if not args.experiment or not args.runs:
        raise UserError("run folders and --experiment=N are needed, or --from FOLDER")
    question, name = QUESTIONS.choose(args.experiment), args.experiment
    if args.tickets and not question.tables:
        raise UserError(f"--tickets is of experiment 3, not of {name}")
    tables = read_tables(question, lambda n: _place(args, n))
    if args.tickets and not tables:
        right = "tickets.py --a CLEAN RUNS --b ATTACKED RUNS -o FOLDER writes it"
        raise UserError(f"{Path(args.tickets) / question.tables[0]}.csv is not there: {right}")
    runs = sources.gather(args.runs)
    call = ["python", "report.py", f"--experiment={name}", *args.runs]
    call += [*(["--tickets", args.tickets] if args.tickets else []), "-o", args.output]
    commands = [*runs.commands, *filter(None, args.command.splitlines()), shlex.join(call)]
    saved, study = answer(name, runs, tables, commands)
    return {name: (saved, study, runs, tables)}


def from_published(args):
    """The same of every experiment that a folder holds."""
    if args.runs or args.experiment or args.tickets:
        raise UserError("--from FOLDER takes all that is published there: name nothing else")
    source, found = Path(args.source), {}
    for name, question in QUESTIONS.items():
        path = source / f"exp{name}.json"
        if path.exists():
            was = published.read_saved(path)
            runs = published.read(source, f"exp{name}", was)
            tables = read_tables(question, lambda n, name=name: source / f"exp{name}-{n}.csv")
            saved, study = answer(name, runs, tables, runs.commands)
            found[name] = saved, study, runs, tables
    if not found:
        raise UserError(f"{source} holds no expN.json: name a folder that report.py wrote")
    return found


def _text_of(path):
    """The text of a page to fill."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"--fill {path} cannot be read ({why}): name a Markdown page") from None


def _filled(path, results):
    """The text of a page with its blocks written anew, its line ends as they were."""
    text = _text_of(path)
    new = fill(text.replace("\r\n", "\n"), results, path)
    return new.replace("\n", "\r\n") if "\r\n" in text else new


def work(args):
    """Answer, write the files and the page of all that are there."""
    output = Path(args.output)
    found = from_published(args) if args.source else from_runs(args)
    results, pictures = read_results(output, but=found)
    results |= {name: saved for name, (saved, *_) in found.items()}
    ordered = {name: results[name] for name in QUESTIONS if name in results}
    filled = {path: _filled(path, ordered) for path in args.fill}
    page(
        ordered, dict.fromkeys(ordered, b"")
    )  # whatever is wrong is told before anything is written
    for name, (saved, *rest) in found.items():
        pictures[name] = write(output, name, saved, *rest)
    write_text(output / "report.html", page(ordered, pictures))
    for path, text in filled.items():
        write_text(Path(path).resolve(), text)  # the page that a link points to
    for name, (saved, *_) in found.items():
        print(saved["answer"], output / f"exp{name}.png", sep="\n")
    print(output / "report.html")


def main(argv=None):
    """Answer a question on the command line; returns the exit code."""
    return make_parser().run(argv, work)


if __name__ == "__main__":
    sys.exit(main())
