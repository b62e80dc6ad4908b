"""What a Study found, in words and tables: nothing here computes a statistic."""

from results.answer import ODDS, OWN, POINTS, PRIMARY, SECOND, in_words
from results.declared import MARGIN
from results.papers import in_a_line
from results.question import TRANSFER
from results.stats import SAME, amount, describe
from results.table import AUTOATTACKED, column_title

END = 0.1  # of a round's iterations: a loss that is lowest there has not turned


def unfinished(study):
    """How many runs have not come to their last round."""
    runs = study.table.groupby("folder")
    late = runs["round"].max() + 1 < runs.prune_iterations.first()
    return int((late | ~runs.done.all()).sum())


def where(study, summary=PRIMARY):
    """At which densities a summary is, in words."""
    if summary == SECOND:
        shares = dict.fromkeys(f"{study.density[place]:.3g} %" for place in study.at.items())
        return f"at {' and '.join(shares)} of the weights"
    spans = {}
    for block, rounds in study.rounds.items():
        span = [f"{study.density[block, number]:.3g}" for number in (rounds[0], rounds[-1])]
        spans[f"{span[0]} to {span[1]} %" if len(rounds) > 1 else f"{span[0]} %"] = None
    over = "mean over" if any(len(rounds) > 1 for rounds in study.rounds.values()) else "at"
    return f"{over} {' and '.join(spans)} of the weights"


def sentence(study, name, rows):
    """A contrast's judged comparisons in words; "" for an optional one without any."""
    contrast = study.question.contrasts[name]
    words = describe(rows, contrast.above, contrast.below)
    if not words and contrast.optional:
        return ""
    return f"{name}: {words or 'there is nothing to compare it with'}."


def answer(study):
    """What is found: answer, details, verdicts, comparisons, table, paper, density_percent."""
    answering, measure = study.answering(), study.question.measure
    said = {name: sentence(study, name, rows) for name, rows in study.families.items()}
    answers = [said.pop(name) for name in answering]
    unit = f"in points of accuracy on {study.measures()[measure]}"
    at = f"{where(study).capitalize()}, {unit}:"
    compared = {(measure, POINTS, PRIMARY): study.families}
    compared[measure, POINTS, SECOND] = study.families_of(measure, POINTS, SECOND)
    second = [sentence(study, n, compared[measure, POINTS, SECOND][n]) for n in answering]
    details = [*said.values()]
    if set(study.at.items()) != {(b, n[0]) for b, n in study.rounds.items() if len(n) == 1}:
        details.append(f"Second measure, {where(study, SECOND)}: {' '.join(filter(None, second))}")
    for other, title in study.measures().items():
        for scale in (POINTS, ODDS):
            if (other, scale) != (measure, POINTS):
                compared[other, scale, PRIMARY] = study.families_of(other, scale, PRIMARY)
        if other != measure:
            rows = compared[other, POINTS, PRIMARY]
            words = filter(None, (sentence(study, n, rows[n]) for n in answering))
            details.append(f"On {title}: {' '.join(words)}")
    details.append(_in_odds(study, compared[measure, ODDS, PRIMARY]))
    details.append(in_a_line(study))
    details += [*study.question.notes(study), *_cautions(study), _counted(study, compared)]
    rows = [
        {"family": name, "measure": column, "scale": scale, "summary": summary} | row
        for (column, scale, summary), families in compared.items()
        for name, found in families.items()
        for row in found
    ]
    rows += [{"family": name} | row for name, found in study.more.items() for row in found]
    density = {block: round(float(study.density[block, at]), 6) for block, at in study.at.items()}
    return {
        "answer": " ".join([study.opening, at, *filter(None, answers)]).strip(),
        "details": list(filter(None, details)),
        "verdicts": _verdicts(study),
        # JSON has no nan
        "comparisons": [{n: v if v == v else None for n, v in row.items()} for row in rows],
        "table": _compact(study),
        "paper": study.paper,
        "density_percent": density if study.question.within else density[""],
    }


def _in_odds(study, odds):
    """Whether the verdicts hang on the scale: of what answers each, of the others how many."""
    pairs = [
        (name, row, other)
        for name in odds
        for row, other in zip(study.families[name], odds[name], strict=True)
        if row["p"] == row["p"] or other["p"] == other["p"]  # something was tested
    ]
    claims, answering = {"above", "below"}, study.answering()
    moved = [
        (name, row, other)
        for name, row, other in pairs
        if {row["verdict"], other["verdict"]} & claims and row["verdict"] != other["verdict"]
    ]
    differ = [
        f"{name}{', ' * bool(row['label'])}{row['label']} ({_effect(other)}, "
        f"{told(other['verdict'])})"
        for name, row, other in moved
        if name in answering
    ]
    others = [pair for pair in pairs if pair[0] not in answering]
    count = len(moved) - len(differ)
    more = f" Another verdict too: {count} of the {len(others)} other comparisons." if count else ""
    pairs = [pair for pair in pairs if pair[0] in answering]
    if differ:
        return f"In log-odds the answer is another for {'; '.join(differ)}.{more}"
    if any(row["verdict"] in claims for _, row, _ in pairs):
        return f"In log-odds the answer is the same.{more}"
    return f"In log-odds no difference answers either.{more}" if pairs else ""


def _cautions(study):
    """What the answer does not contain."""
    lines = [*_rewound(study), *_surrogates(study), *_tried(study), *_censored(study)]
    lines += _names(study)
    for column, (one, other) in study.unlike.items():
        title = OWN.get(column) or column_title(column)
        lines.append(
            f"Arms are not compared on {title}: some were attacked with {one}, others with {other}."
        )
    if TRANSFER in study.unlike:
        lines.append(
            "The training images of the arms are attacked within several radii: what differs "
            "between arms can be the radius's."
        )
    foreign = set(study.table.ticket_arm) if "ticket_arm" in study.table else {""}
    if "ticket_arm" not in study.question.varies and "" not in foreign:
        lines.append(f"All masks are those of other runs ({', '.join(sorted(foreign))}).")
    if study.left_out:
        few = ", ".join(study.left_out[:3]) + (" ..." if len(study.left_out) > 3 else "")
        lines.append(f"Left out, for they lack a round of the answer: {few}.")
    if late := unfinished(study):
        count = study.table.folder.nunique()
        lines.append(f"{late} of the {count} runs are unfinished: the answer can change.")
    per_arm = study.table.groupby([*study.words]).seed.agg(lambda seeds: frozenset(seeds))
    if len(set(per_arm)) > 1:
        lines.append(
            f"The arms differ in their seeds ({min(map(len, per_arm))} to "
            f"{max(map(len, per_arm))}): each comparison takes those that both have."
        )
    return lines


def _rewound(study):
    """What tickets start from where it is not theta_0."""
    runs = study.table.drop_duplicates("folder")
    late = runs[runs.rewind_epoch > 0]
    if late.empty:
        return []
    epochs = sorted({f"{k} of {n}" for k, n in zip(late.rewind_epoch, late.end_iter, strict=True)})
    some = "Tickets" if len(late) == len(runs) else "Some tickets"
    line = f"{some} are rewound to the weights after epoch {' or '.join(epochs)}, not to theta_0"
    if (late.ticket_arm != "").any():
        line += "; under another run's masks to that run's weights, which its data has trained"
    return [f"{line}."]


def _names(study):
    """What a network's name could be mistaken for."""
    rows = study.table[study.table.arch_type == "lenet5"]
    if rows.empty:
        return []
    totals = rows.total.unique()
    sizes = " or ".join(f"{total / 1e6:.2g}" for total in sorted(totals))
    return [f"lenet5 is what the older script calls so ({sizes} million weights), not LeCun's net."]


def _surrogates(study):
    """Whether intervals hold for other surrogates, of each data set or network by itself."""
    runs = study.table.drop_duplicates("folder")
    attacked = runs[(runs.mix_ratio > 0) & (runs.attack_mode == "static")]
    said = {}
    for block, rows in attacked.groupby("block", sort=False):
        if rows.seed.nunique() < 2:
            continue
        own = {str(value) for value in rows.attack_seed} == {"seed"}
        shared = "The seeds share one surrogate and one attacked set (--attack_seed): the intervals"
        shared += " say nothing of another surrogate."
        each = "Each seed has a surrogate and attacked images of its own (--attack_seed=seed)."
        said.setdefault(each if own else shared, []).append(block)
    if [*map(set, said.values())] == [set(study.rounds)]:  # then nothing needs naming
        return [*said]
    return [f"{', '.join(blocks)}: {line}" for line, blocks in said.items()]


def _tried(study):
    """On how many images AutoAttack's accuracies rest, fewer than the other attacks', and which
    rounds of the answer it was not tried on.
    """
    if not {AUTOATTACKED, "autoattack_examples"} <= {*study.table}:
        return []
    # none, where the runs that it tried are left out
    counts = study.table.autoattack_examples.dropna().unique()
    lines = [
        f"AutoAttack tried {count:,.0f} test images of each net that it tried." for count in counts
    ]
    rows = _declared_rows(study)
    tried = rows.folder.isin(study.table.folder[study.table[AUTOATTACKED].notna()])
    left = sorted(rows["round"][tried & rows[AUTOATTACKED].isna()].unique())
    if left:
        numbers, right = " ".join(map(str, left)), "attacks.py evaluate --rounds tries them"
        lines.append(
            f"Of some runs it did not try rounds {numbers}, which answers take in; runs that lack "
            f"one are not compared: {right}."
        )
    return lines


def _declared_rows(study):
    """The rows of the rounds that answers take in."""
    places = zip(study.table["round"], study.table.block, strict=True)
    return study.table[[number in study.rounds[block] for number, block in places]]


def _censored(study):
    """Where early stopping is at the end of a round, so that nets are not trained to theirs."""
    if "last_iteration" not in study.table:
        return []
    rows = _declared_rows(study)
    late = rows.early_stop_iteration >= (1 - END) * rows.last_iteration
    late = late.groupby(in_words(rows, [*study.words])).mean()
    worst = late[late > 0.2].sort_values(ascending=False)
    if worst.empty:
        return []
    shown = ", ".join(f"{arm} {100 * share:.0f} %" for arm, share in worst.head(4).items())
    more = " ..." if len(worst) > 4 else ""
    return [
        f"The validation loss was lowest in the last tenth of many rounds ({shown}{more}): "
        "those nets are not trained to their end, so that a lead may be one of speed, and "
        "differences in early stopping are bounds."
    ]


def _counted(study, compared):
    """How many families there are, and what they are corrected for."""
    main = sum(len(study.families[name]) for name in study.answering())
    families = sum(
        1
        for found in compared.values()
        for name, rows in found.items()
        if rows and name not in study.answering()
    )
    others = len(compared) - 1 + families + sum(1 for rows in study.more.values() if rows)
    return (
        f"{main} comparison{'s' * (main != 1)} answer{'s' * (main == 1)} the question, "
        f"corrected together (Holm); {others} further families of comparisons are each "
        "corrected for themselves only, so some of them find something by chance; no interval "
        "is corrected."
    )


def _verdicts(study):
    """Rows of the page's first table: what is compared, the verdict, effects, seeds, basis."""
    runs = study.table.drop_duplicates("folder")
    epochs = "/".join(map(str, sorted(runs.end_iter.unique())))
    names = ("dataset", "arch_type")
    basis = [", ".join(dict.fromkeys(map(str, runs[name]))) for name in names]
    epochs += " epoch a round" if epochs == "1" else " epochs a round"
    basis = f"{basis[1]} on {basis[0]}, {epochs}, {where(study)}"
    found = {name: study.families[name] for name in study.answering()} | study.more
    rows = []
    for name, comparisons in found.items():
        contrast = study.question.contrasts.get(name)
        said = (contrast.above, contrast.below) if contrast else study.question.words[name]
        words = dict(zip(("above", "below"), said, strict=True))
        for verdict in dict.fromkeys(row["verdict"] for row in comparisons):
            here = [row for row in comparisons if row["verdict"] == verdict]
            rows.append({
                "compared": name,
                "verdict": words.get(verdict, told(verdict)),
                "effect": "; ".join(f"{row['label']} {_effect(row)}".strip() for row in here),
                "seeds": "/".join(map(str, sorted({row["n"] for row in here}))),
                "rests on": here[0].get("basis") or basis,
            })  # fmt: skip
    return rows


def _compact(study):
    """The table of the page: a row a density (and value of `within`), a column an arm."""
    wanted = ["Jaccard", study.question.measure, *study.question.contrasts]
    lines = study.lines[study.lines.shows.isin(wanted) & study.lines.block.isin(list(study.at))]
    signs = lines.quantity.str.startswith("difference")
    cells = list(map(amount, lines["mean"], lines.interval, signs))
    wide = lines.assign(cell=cells).pivot(index=["block", "round"], columns="head", values="cell")
    wide = wide[lines["head"].unique()].fillna("")
    rows = [
        [place[0], f"{study.density[place]:.3g} %", *cells]
        for place, *cells in wide.itertuples(name=None)
    ]
    marked = [n for n, (block, number) in enumerate(wide.index) if number in study.rounds[block]]
    head, start = (
        [study.question.within, "weights left", *wide],
        0 if study.question.within else 1,
    )
    return {"head": head[start:], "rows": [row[start:] for row in rows], "marked": marked}


def told(verdict):
    """A verdict in words, where what was found has none of its own."""
    words = {SAME: f"the same within {MARGIN:g} points", "unknown": "too few seeds to say"}
    return (words | {"ties": "equal in all seeds"}).get(verdict, verdict)


def _effect(row):
    digits = 3 if row.get("unit") == "Jaccard" else 2
    return amount(row["difference"], row["interval"], digits=digits)
