"""The engine of all questions: a table of runs and a declaration -> statistics and words.

Comparisons are paired by seed: runs of one seed share theta_0, split, order and attacked images.
What is compared was declared before any result was seen (results/declared.py). The comparisons that
answer a question are one family, corrected together; every other list of comparisons is a family of
its own.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from attacks import ATTACKS
from config import all_flags
from results.declared import MARGIN, rounds_of
from results.stats import SAME, amount, compare, describe, judge, log_odds, summarise
from results.table import CLEAN, attacked_columns, column_title, white_box
from utils import UserError

TRANSFER, WHITEBOX, OVER_DENSE = "transfer", "whitebox", "over_dense"  # columns made here
MIXED = "mixed"  # accuracy on test images attacked at the rate that the run was trained with
FIRST, EVERY = "each minus the first", "each minus each later one"
# what the runs of any question may vary
FREE = ("prune_type", "seed", "data_id", "ticket_seed", "reinit_draw")
PRIMARY, SECOND = "mean", "at"  # over the declared rounds; at the declared one
POINTS, ODDS = "points", "log-odds"


@dataclass(frozen=True)
class Factor:
    """One thing that tells a question's arms apart."""

    of: str | Callable  # a flag's name, or a function of a run's flags (a dict)
    values: tuple = ()  # those that are compared, in order; empty: all that the runs have
    label: Callable = str  # a value in words; contrasts and figures know it by them
    key: Callable | None = None  # sorts the values; without, they stay in the runs' order
    ordered: bool = False  # they are numbers of a scale: sorted so, and so are their colours


@dataclass(frozen=True)
class Contrast:
    """A list of paired differences along a factor, in every arm of the other factors."""

    above: str  # what a positive difference means
    below: str
    along: str = ""  # without, it is `of` itself against 0
    # (one, other); ((one, other), ...), each known by its other; FIRST or EVERY; or a function of
    # the factor's words -> [(what it is known by, one, other)]
    pairs: tuple | str | Callable = FIRST
    of: str = ""  # a column (default: the measure's), or another contrast: a difference of those
    where: dict = field(default_factory=dict)  # factor -> its one value that counts
    answers: bool = False  # it answers the question (if none does, the first); others are details
    optional: bool = False  # it goes unsaid where no runs are there to compare


@dataclass(frozen=True)
class Panel:
    """A panel of the figure: a column or a contrast against the weights that remain."""

    shows: str
    title: str = ""
    facet: str = ""  # a factor: a panel for each of its values
    colour: str = ""  # a factor; default: the question's


@dataclass(frozen=True)
class Question:
    """What is compared with what; `Study` makes everything else of it."""

    title: str
    factors: dict  # name -> Factor; an arm is a value of each
    contrasts: dict  # what it is called -> Contrast
    panels: tuple
    colour: str  # the factor that colours stand for; dashes stand for prune types
    measure: str = CLEAN  # the accuracy that the answer is read from; the others are details
    varies: tuple = ()  # flags that the runs may differ in, beside its factors'
    within: str = ""  # a factor whose values have flags and declared densities of their own
    one_rate: bool = False  # attack rate 0 and one other are needed
    notes: Callable = lambda study: []  # more details
    tables: tuple = ()  # names of CSV files that it reads beside the runs
    extra: Callable = lambda study, tables: ("", {}, pd.DataFrame())  # opening, comparisons, lines
    words: dict = field(default_factory=dict)  # of extra's comparisons: name -> (above, below)


class Study:
    """A question and its runs: `table`, the judged `families` that answer it, `lines`.

    table: as results.table.load makes it; tables: the DataFrames of question.tables by name.
    UserError for runs that do not fit the question.
    """

    def __init__(self, question, table, tables=None):
        self.question, self.words = question, {}
        self.whitebox = white_box(table)
        table = with_columns(table, self.whitebox, question.measure)
        for name, factor in question.factors.items():
            table = self._with_factor(table, name, factor)
        if table.empty:
            raise UserError("none of these runs is of an arm of this experiment")
        if question.measure not in table:
            what = f"these runs have no {question.measure}, which this experiment is about"
            flag = question.measure.removeprefix("whitebox_").removesuffix("_accuracy")
            raise UserError(f"{what}: train them with --eval_attacks fgsm {flag}")
        self.table = table.assign(block=table[question.within] if question.within else "")
        self._check_shared()
        self._check_arms()
        blocks = self.table.groupby("block", sort=False)
        declared = {block: _declared(rows) for block, rows in blocks}
        self.rounds = {block: rounds for block, (rounds, _) in declared.items()}
        self.at = {block: second for block, (_, second) in declared.items()}
        densities = self.table.groupby(["block", "round"]).density.mean()
        self.density = (100 * densities).rename("density_percent")
        self.left_out = []
        self.families = self._families(question.measure, POINTS, PRIMARY)
        known = {*question.contrasts, *self.table}
        shown = dict.fromkeys([question.measure, *(panel.shows for panel in question.panels)])
        lines = [self._line(what) for what in shown if what in known]
        self.opening, self.more, own_lines = question.extra(self, tables or {})
        own = [own_lines] if len(own_lines) else []
        self.lines = pd.concat([*own, *lines], ignore_index=True)

    # The runs -----------------------------------------------------------------------------------

    def _with_factor(self, table, name, factor):
        """The table with a column of the factor's words, without runs that are not compared."""
        of = factor.of if callable(factor.of) else lambda flags: flags[factor.of]
        values = pd.Series([of(flags) for flags in table.to_dict("records")], table.index, object)
        here, key = values.unique(), float if factor.ordered else factor.key
        wanted = list(factor.values or (sorted(here, key=key) if key else here))
        kept = values.isin(wanted)
        if not kept.all():
            left = table[~kept].folder.nunique()
            print(f"note: {left} runs of another {name} than {', '.join(wanted)} are left out")
        self.words[name] = [factor.label(value) for value in wanted]
        return table[kept].assign(**{name: values[kept].map(factor.label)})

    def _check_shared(self):
        """UserError unless runs that are compared differ in no flag but those declared."""
        free = {*FREE, *self.question.varies, *(f.of for f in self.question.factors.values())}
        names = [flag.name for flag in all_flags() if flag.result and flag.name not in free]
        runs = self.table.drop_duplicates("folder")
        checks = [(name, runs) for name in ("dataset", "arch_type") if name in names]
        checks += [(name, rows) for _, rows in runs.groupby("block") for name in names]
        for name, rows in checks:
            values = rows[name].map(lambda value: "None" if value != value else str(value))
            if name == "order_seed":  # an order that only follows the seed is no flag of its own
                values = values.where(rows.order_seed != rows.seed, "None")
            odd = values != values.iloc[0]
            if odd.any():
                pair = [f"{values[n]} in {rows.folder[n]}" for n in (values.index[0], odd.idxmax())]
                what = f"these runs differ in --{name}, which this experiment does not compare"
                raise UserError(f"{what}: {', '.join(pair)}")

    def _check_arms(self):
        """UserError for an arm that is missing, or has two runs of one seed and draw."""
        rates = sorted(self.table.mix_ratio.unique())
        if self.question.one_rate and (len(rates) != 2 or rates[0] != 0):
            seen = ", ".join(f"{100 * rate:g} %" for rate in rates)
            needed = "runs at attack rate 0 and at one other are needed"
            raise UserError(f"{needed}, and these are at {seen}")
        first = self.table[self.table["round"] == 0]
        here = set(first[[*self.words]].itertuples(index=False, name=None))
        for arm in itertools.product(*self.words.values()):
            if arm not in here:
                right = "this experiment compares the others with them"
                raise UserError(f"there are no runs of {', '.join(arm)}: {right}")
        folders = first.groupby([*self.words, "seed", "reinit_draw"]).folder.agg(list)
        for same in folders[folders.map(len) > 1]:
            what = "are the same arm and seed of this experiment: leave one out"
            raise UserError(f"{' and '.join(same[:2])} {what}")

    # What is compared ---------------------------------------------------------------------------

    def scaled(self, measure, scale):
        """The table with the measure's column as `value`, on a scale, and that over its dense net's
        as OVER_DENSE.
        """
        value = self.table[measure]
        value = value if scale == POINTS else pd.Series(log_odds(value), value.index)
        dense = value.groupby(self.table.folder).transform("first")
        return self.table.assign(value=value, **{OVER_DENSE: value - dense})

    def reduced(self, table, summary):
        """One row a run: its mean over the declared rounds, or its row at the declared one.

        Runs that lack one of them are left out; a number that one of them lacks is nan.
        """
        if summary == SECOND:
            wanted = {block: [at] for block, at in self.at.items()}
        else:
            wanted = self.rounds
        rows = pd.concat(
            [
                table[(table.block == block) & table["round"].isin(rounds)]
                for block, rounds in wanted.items()
            ]
        )
        count = rows.groupby("folder")["round"].transform("count")
        whole = rows[count == rows.block.map({block: len(n) for block, n in wanted.items()})]
        numbers = [name for name in whole if whole[name].dtype.kind in "fi"]
        others = [name for name in whole if name not in numbers]
        groups = whole.groupby("folder", sort=False)
        means = groups[numbers].mean().where(groups[numbers].count().eq(groups.size(), axis=0))
        firsts = groups[[n for n in others if n != "folder"]].first()
        return means.join(firsts).reset_index().assign(round=0)

    def values(self, what, rows):
        """A column's or contrast's value of every arm, round and seed of these rows, a Series.

        Its index has the factors that are left, "round" and "seed". Several draws of one seed are
        one value, their mean. rows: as `scaled` or `reduced` makes them.
        """
        contrast = self.question.contrasts.get(what)
        if contrast is None:
            groups = rows.groupby([*self.question.factors, "round", "seed"], sort=False)
            return groups[what or "value"].mean().dropna()
        values = self.values(contrast.of, rows)
        for name, word in contrast.where.items():
            values = values.xs(word, level=name)
        if not contrast.along:
            return values
        parts = {}
        for name, one, other in self._pairs(contrast, values):
            high, low = (values.xs(word, level=contrast.along) for word in (one, other))
            parts[name] = (high - low).dropna()
        if not parts:
            return values.iloc[:0]
        return parts[""] if "" in parts else pd.concat(parts, names=[contrast.along])

    def _pairs(self, contrast, values):
        """(what it is known by, one, other) of each pair of a contrast."""
        here = set(values.index.get_level_values(contrast.along))
        words = [word for word in self.words[contrast.along] if word in here]
        if callable(contrast.pairs):
            return contrast.pairs(words)
        if contrast.pairs == FIRST:
            return [(word, word, words[0]) for word in words[1:]]
        if contrast.pairs == EVERY:
            return [(f"{a} − {b}", a, b) for a, b in itertools.combinations(words, 2)]
        if isinstance(contrast.pairs[0], str):
            return [("", *contrast.pairs)]
        return [(other, one, other) for one, other in contrast.pairs]

    def _tidy(self, values):
        """Values as a table with `arm` in words, in the factors' order, and its factors."""
        rows = values.rename("value").reset_index()
        names = [name for name in self.words if name in rows]
        order = [word for words in self.words.values() for word in words]

        def place(column):  # one − other is where its one is
            own = column.name in names
            if not own:
                return column
            return column.map(lambda word: order.index(next(w for w in order if _heads(w, word))))

        rows = rows.sort_values([*names, "round", "seed"], key=place)
        return rows.assign(arm=_in_words(rows, names)), names

    def _families(self, measure, scale, summary):
        """{contrast: its judged comparisons} on a measure: those that answer are one family.

        Contrasts of a column of their own (early stopping) are there with the question's measure in
        points only.
        """
        table = self.scaled(measure, scale)
        rows, whole = self.reduced(table, summary), table[table["round"] == 0].assign(seed=0)
        main, found = (measure, scale) == (self.question.measure, POINTS), {}
        if main and summary == PRIMARY:
            usable = rows[rows.value.notna()].folder
            self.left_out = sorted({*table.folder} - {*usable})
        for name in self.question.contrasts:
            column, _ = self.root(name)
            if main or column in ("", OVER_DENSE):
                margin = MARGIN if scale == POINTS and column in ("", OVER_DENSE) else None
                found[name] = self._compare(name, rows, whole if main else None, margin)
        answering = [name for name in self.answering() if name in found]
        together = judge([row for name in answering for row in found[name]])
        judged = {}
        for name in found:
            count = len(found[name])
            if name in answering:
                judged[name], together = together[:count], together[count:]
            else:
                judged[name] = judge(found[name])
        return judged

    def _compare(self, name, rows, whole, margin):
        """The comparisons of a contrast, not judged yet; UserError if one of `whole` is not there.

        whole: the dense rows of all arms, told by which what could be compared is.
        """
        here, _ = self._tidy(self.values(name, rows))
        if whole is not None:
            could, _ = self._tidy(self.values(name, whole))
            for arm in set(could.arm) - set(here.arm):
                at = f"at round {max(map(max, self.rounds.values()))}, which the answer takes in"
                raise UserError(
                    f"{name}: finished runs of {arm or 'its arms'} share no --seed {at}"
                )
        arms = here.groupby("arm", sort=False)["value"]
        return [compare(arm, values.to_numpy(), margin) for arm, values in arms]

    def answering(self):
        """The contrasts that answer the question."""
        contrasts = self.question.contrasts
        return [name for name, c in contrasts.items() if c.answers] or list(contrasts)[:1]

    def measures(self):
        """{column: title} of the accuracies that contrasts are read from, the declared first."""
        own = "attacked test images (each run's own attack, surrogate's)"
        titles = {self.question.measure: column_title(self.question.measure)}
        titles |= {CLEAN: column_title(CLEAN), TRANSFER: own}
        titles[MIXED] = "test images attacked at the rate of the training images"
        for name in attacked_columns(self.table, "whitebox"):
            titles[name] = column_title(name)
        accuracies = {n: t for n, t in titles.items() if not n.endswith("_l2")}
        return {
            n: t for n, t in accuracies.items() if n in self.table and self.table[n].notna().any()
        }

    # Lines --------------------------------------------------------------------------------------

    def _line(self, what):
        """Mean and interval of a column or contrast, a row an arm and round."""
        rows, names = self._tidy(self.values(what, self.scaled(self.question.measure, POINTS)))
        groups = rows.groupby(["arm", *names, "round"], sort=False)["value"]
        frame, within = summarise(groups).reset_index(), self.question.within
        frame["block"] = frame.get(within, "")
        frame["head"] = _in_words(frame, [name for name in names if name != within])
        column, is_contrast = self.root(what)
        column = column or self.question.measure
        if is_contrast:
            for name in ("arm", "head"):
                frame[name] = [f"{what}, {arm}" if arm else what for arm in frame[name]]
        quantity = f"difference of {column}" if is_contrast else column
        frame = frame.join(self.density, on=["block", "round"])
        return frame.assign(shows=what, quantity=quantity)

    def root(self, what):
        """(the column that a column or contrast is of, "" for the measure; whether a contrast)."""
        column = what
        while column in self.question.contrasts:
            column = self.question.contrasts[column].of
        return (self.whitebox if column == WHITEBOX else column), what in self.question.contrasts

    # Words --------------------------------------------------------------------------------------

    def unfinished(self):
        """How many runs have not come to their last round."""
        runs = self.table.groupby("folder")
        late = runs["round"].max() + 1 < runs.prune_iterations.first()
        return int((late | ~runs.done.all()).sum())

    def where(self, summary=PRIMARY):
        """At which densities a summary is, in words."""
        if summary == SECOND:
            shares = dict.fromkeys(f"{self.density[place]:.3g} %" for place in self.at.items())
            return f"at {' and '.join(shares)} of the weights"
        spans = {}
        for block, rounds in self.rounds.items():
            span = [f"{self.density[block, number]:.3g}" for number in (rounds[0], rounds[-1])]
            spans[f"{span[0]} to {span[1]} %" if len(rounds) > 1 else f"{span[0]} %"] = None
        return f"mean over {' and '.join(spans)} of the weights"

    def sentence(self, name, rows):
        """A contrast's judged comparisons in words; "" for an optional one without any."""
        contrast = self.question.contrasts[name]
        words = describe(rows, contrast.above, contrast.below)
        if not words and contrast.optional:
            return ""
        return f"{name}: {words or 'there is nothing to compare it with'}."

    def answer(self):
        """What is found: answer, details, verdicts, comparisons, table, density_percent."""
        answering, measure = self.answering(), self.question.measure
        said = {name: self.sentence(name, rows) for name, rows in self.families.items()}
        answers = [said.pop(name) for name in answering]
        unit = f"in points of accuracy on {column_title(measure)}"
        where = f"{self.where().capitalize()}, {unit}:"
        compared = {(measure, POINTS, PRIMARY): self.families}
        compared[measure, POINTS, SECOND] = self._families(measure, POINTS, SECOND)
        second = [self.sentence(n, compared[measure, POINTS, SECOND][n]) for n in answering]
        details = [*said.values()]
        if set(self.at.items()) != {(b, n[0]) for b, n in self.rounds.items() if len(n) == 1}:
            details.append(
                f"Second measure, {self.where(SECOND)}: {' '.join(filter(None, second))}"
            )
        for other, title in self.measures().items():
            for scale in (POINTS, ODDS):
                if (other, scale) != (measure, POINTS):
                    compared[other, scale, PRIMARY] = self._families(other, scale, PRIMARY)
            if other != measure:
                rows = compared[other, POINTS, PRIMARY]
                words = filter(None, (self.sentence(n, rows[n]) for n in answering))
                details.append(f"On {title}: {' '.join(words)}")
        details.append(self._in_odds(compared[measure, ODDS, PRIMARY]))
        details += [*self.question.notes(self), *self._cautions(), self._counted(compared)]
        rows = [
            {"family": name, "measure": column, "scale": scale, "summary": summary} | row
            for (column, scale, summary), families in compared.items()
            for name, found in families.items()
            for row in found
        ]
        rows += [{"family": name} | row for name, found in self.more.items() for row in found]
        density = {block: round(float(self.density[block, at]), 6) for block, at in self.at.items()}
        return {
            "answer": " ".join([self.opening, where, *filter(None, answers)]).strip(),
            "details": list(filter(None, details)),
            "verdicts": self._verdicts(),
            # JSON has no nan
            "comparisons": [{n: v if v == v else None for n, v in row.items()} for row in rows],
            "table": self._compact(),
            "density_percent": density if self.question.within else density[""],
        }

    def _in_odds(self, odds):
        """Whether the verdicts hang on the scale."""
        pairs = [
            (name, row, other)
            for name in self.answering()
            for row, other in zip(self.families[name], odds[name], strict=True)
        ]
        claims = {"above", "below"}
        differ = [
            f"{name}, {row['label']} ({amount(other['difference'], other['interval'])}, "
            f"{_told(other['verdict'])})".replace(", (", " (")
            for name, row, other in pairs
            if (row["verdict"] in claims or other["verdict"] in claims)
            and row["verdict"] != other["verdict"]
        ]
        if differ:
            return f"In log-odds it is otherwise for {'; '.join(differ)}."
        if any(row["verdict"] in claims for _, row, _ in pairs):
            return "In log-odds the same differences are found."
        return "In log-odds no difference is found either."

    def _cautions(self):
        """What the answer does not contain."""
        lines, runs = [], self.table.drop_duplicates("folder")
        attacked = runs[(runs.mix_ratio > 0) & (runs.attack_mode == "static")]
        seeds = runs.seed.nunique()
        if len(attacked) and seeds > 1:
            own = {str(value) for value in attacked.attack_seed} == {"seed"}
            shared = "The seeds share one surrogate and one attacked set (--attack_seed): the"
            shared += " intervals say nothing of another surrogate."
            each = "Each seed has a surrogate and attacked images of its own (--attack_seed=seed)."
            lines.append(each if own else shared)
        if "last_iteration" in self.table:
            pruned = self.table[self.table["round"] > 0]
            censored = (pruned.early_stop_iteration >= pruned.last_iteration).mean()
            if censored > 0.2:
                lines.append(
                    f"In {100 * censored:.0f} % of the pruned rounds the validation loss was "
                    "lowest at the last validation: those nets are not trained to their end, and a "
                    "lead may be one of speed."
                )
        if self.left_out:
            few = ", ".join(self.left_out[:3]) + (" ..." if len(self.left_out) > 3 else "")
            lines.append(f"Left out, for they lack a round of the answer: {few}.")
        if late := self.unfinished():
            count = self.table.folder.nunique()
            lines.append(f"{late} of the {count} runs are unfinished: the answer can change.")
        per_arm = self.table.groupby([*self.words]).seed.agg(lambda s: frozenset(s))
        if len(set(per_arm)) > 1:
            fewest = min(map(len, per_arm))
            lines.append(
                f"The arms differ in their seeds ({fewest} to {max(map(len, per_arm))}): each "
                "comparison takes those that both have."
            )
        return lines

    def _counted(self, compared):
        """How many families there are, and what they are corrected for."""
        main = sum(len(self.families[name]) for name in self.answering())
        families = sum(
            1
            for found in compared.values()
            for name, rows in found.items()
            if rows and name not in self.answering()
        )
        others = len(compared) - 1 + families + sum(1 for rows in self.more.values() if rows)
        return (
            f"{main} comparison{'s' * (main != 1)} answer{'s' * (main == 1)} the question, "
            f"corrected together (Holm); {others} further families of comparisons are each "
            "corrected for themselves only, so some of them find something by chance; no interval "
            "is corrected."
        )

    def _verdicts(self):
        """Rows of the page's first table: what is compared, the verdict, effects, seeds, basis."""
        runs = self.table.drop_duplicates("folder")
        epochs = "/".join(map(str, sorted(runs.end_iter.unique())))
        names = ("dataset", "arch_type")
        basis = [", ".join(dict.fromkeys(map(str, runs[name]))) for name in names]
        basis = f"{basis[1]} on {basis[0]}, {epochs} epochs a round, {self.where()}"
        found = {name: self.families[name] for name in self.answering()} | self.more
        rows = []
        for name, comparisons in found.items():
            contrast = self.question.contrasts.get(name)
            said = (contrast.above, contrast.below) if contrast else self.question.words[name]
            words = dict(zip(("above", "below"), said, strict=True))
            for verdict in dict.fromkeys(row["verdict"] for row in comparisons):
                here = [row for row in comparisons if row["verdict"] == verdict]
                rows.append({
                    "compared": name,
                    "verdict": words.get(verdict, _told(verdict)),
                    "effect": "; ".join(f"{row['label']} {_effect(row)}".strip() for row in here),
                    "seeds": "/".join(map(str, sorted({row["n"] for row in here}))),
                    "rests on": basis,
                })  # fmt: skip
        return rows

    def _compact(self):
        """The table of the page: a row a density (and value of `within`), a column an arm."""
        wanted = ["Jaccard", self.question.measure, *self.question.contrasts]
        lines = self.lines[self.lines.shows.isin(wanted) & self.lines.block.isin(list(self.at))]
        signs = lines.quantity.str.startswith("difference")
        cells = list(map(amount, lines["mean"], lines.interval, signs))
        wide = lines.assign(cell=cells).pivot(
            index=["block", "round"], columns="head", values="cell"
        )
        wide = wide[lines["head"].unique()].fillna("")
        rows = [
            [place[0], f"{self.density[place]:.3g} %", *cells]
            for place, *cells in wide.itertuples(name=None)
        ]
        marked = [n for n, (block, number) in enumerate(wide.index) if number in self.rounds[block]]
        head, start = (
            [self.question.within, "weights left", *wide],
            0 if self.question.within else 1,
        )
        return {"head": head[start:], "rows": [row[start:] for row in rows], "marked": marked}


def with_columns(table, whitebox, measure=CLEAN):
    """The table with the columns that every question can show, a rate for every run among them."""
    transfers = [n for n in attacked_columns(table, TRANSFER) if n.endswith("_accuracy")]
    rate = table.mix_ratio.astype(float).fillna(0)
    usual = table[rate > 0].drop_duplicates("folder").surrogate.value_counts().index
    transfer = table[transfers].bfill(axis="columns").iloc[:, 0] if transfers else math.nan
    whole = pd.Series(transfer, table.index, dtype=float)
    # omitted images leave clean ones only; under online attacks the net itself is attacked
    control = table.attack.isin([name for name in ATTACKS if leaves_out(name)])
    own = pd.Series(np.nan, table.index)
    for name in table.attack.dropna().unique():
        if f"whitebox_{name}_accuracy" in table:
            own = own.where(table.attack != name, table[f"whitebox_{name}_accuracy"])
    attacked = whole.where(table.attack_mode == "static", own)
    share = rate.where(~control, 0)
    mixed = (1 - share) * table[CLEAN] + (share * attacked).where(share > 0, 0)
    return table.assign(
        mix_ratio=rate,
        transfer=whole,
        mixed=mixed,
        whitebox=table[whitebox] if whitebox else math.nan,
        over_dense=table[CLEAN] - table.groupby("folder")[CLEAN].transform("first"),
        usual_surrogate=next(iter(usual), None),
    )


def leaves_out(attack):
    """Whether an attack is the control that leaves images out."""
    return any(entry.omits for entry in ATTACKS[attack].values())


def _declared(rows):
    """(rounds of the primary measure, the round of the second) of runs with one schedule."""
    run = rows.iloc[0]
    if run.prune_iterations < 2:
        raise UserError(f"{run.folder} has its dense round only: nothing is pruned yet")
    densities = rows.groupby("round").density.mean()
    return rounds_of(densities, run.prune_iterations, run.prune_percent)


def _in_words(rows, names):
    """The arm of each row in words, a list."""
    return [", ".join(words) for words in rows[names].to_numpy()]


def _heads(word, name):
    """Whether a pair's name begins with a factor's word: "fgsm − cw" with "fgsm"."""
    return name == word or name.startswith(f"{word} − ")


def _told(verdict):
    """A verdict in words, where what was found has none of its own."""
    words = {SAME: f"the same within {MARGIN:g} points", "unknown": "too few seeds to say"}
    return (words | {"ties": "equal in all seeds"}).get(verdict, verdict)


def _effect(row):
    digits = 3 if row.get("unit") == "Jaccard" else 2
    return amount(row["difference"], row["interval"], digits=digits)
