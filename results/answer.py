"""The engine of all questions: a table of runs and a declaration -> statistics and words.

Comparisons are paired by seed: runs of one seed share theta_0, split, order and attacked images.
Answers are read at one density that is declared before any result is seen
(stats.declared_round), and the comparisons of one family are corrected together.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from config import all_flags
from results.stats import amount, compare, declared_round, describe, judge, summarise
from results.table import CLEAN, attacked_columns, white_box
from utils import UserError

TRANSFER, WHITEBOX, OVER_DENSE = "transfer", "whitebox", "over_dense"  # columns made here
FIRST, EVERY = "each minus the first", "each minus each later one"
FREE = ("prune_type", "seed", "data_id", "ticket_seed")  # what the runs of any question may vary


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
    """A family of paired differences along a factor, in every arm of the other factors."""

    above: str  # what a positive difference means
    below: str
    along: str = ""  # without, it is `of` itself against 0
    # (one, other); ((one, other), ...), each known by its other; FIRST or EVERY
    pairs: tuple | str = FIRST
    of: str = CLEAN  # a column of the table, or another contrast: a difference of differences
    where: dict = field(default_factory=dict)  # factor -> its one value that counts
    answers: bool = False  # it is the answer (if none is, the first); the others are details


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
    contrasts: dict  # family -> Contrast
    panels: tuple
    colour: str  # the factor that colours stand for; dashes stand for prune types
    varies: tuple = ()  # flags that the runs may differ in, beside its factors'
    within: str = ""  # a factor whose values have flags and a declared density of their own
    one_rate: bool = False  # attack rate 0 and one other are needed
    notes: Callable = lambda study: []  # more details
    extra: Callable = lambda study, args: ("", {}, pd.DataFrame())  # opening, comparisons, lines


class Study:
    """A question and its runs: `table`, its `declared` rows, judged `families`, `lines`.

    table: as results.table.load makes it. UserError for runs that do not fit the question.
    """

    def __init__(self, question, table, args=None):
        self.question, self.words, self.whitebox = question, {}, white_box(table)
        table = with_columns(table, self.whitebox)
        for name, factor in question.factors.items():
            table = self._with_factor(table, name, factor)
        if table.empty:
            raise UserError("none of these runs is of an arm of this experiment")
        self.table = table.assign(block=table[question.within] if question.within else "")
        self._check_shared()
        self._check_arms()
        blocks = self.table.groupby("block", sort=False)
        self.at = {block: _declared(rows) for block, rows in blocks}
        densities = self.table.groupby(["block", "round"]).density.mean()
        self.density = (100 * densities).rename("density_percent")
        here = self.table["round"] == self.table.block.map(self.at)
        self.declared = self.table[here].assign(round=0)
        families = {family: self._compare(family) for family in question.contrasts}
        known = {*question.contrasts, *self.table}
        shown = dict.fromkeys([CLEAN, *(panel.shows for panel in question.panels)])
        lines = [self._line(what) for what in shown if what in known]
        self.opening, more, own_lines = question.extra(self, args)
        self.families = more | families
        self.lines = pd.concat([own_lines, *lines], ignore_index=True)

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
        """UserError for an arm that is missing, or has two runs of one seed."""
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
        folders = first.groupby([*self.words, "seed"]).folder.agg(list)
        for same in folders[folders.map(len) > 1]:
            what = "are the same arm and seed of this experiment: leave one out"
            raise UserError(f"{' and '.join(same[:2])} {what}")

    def values(self, what, rows):
        """A column's or contrast's value of every arm, round and seed of these rows, a Series.

        Its index has the factors that are left, "round" and "seed".
        """
        contrast = self.question.contrasts.get(what)
        if contrast is None:
            return rows.set_index([*self.question.factors, "round", "seed"])[what].dropna()
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
            return column.map(lambda word: order.index(word.split(" − ")[0])) if own else column

        rows = rows.sort_values([*names, "round", "seed"], key=place)
        return rows.assign(arm=_in_words(rows, names)), names

    def _compare(self, family):
        """The judged comparisons of a contrast at the declared density, a list of dicts."""
        rows, _ = self._tidy(self.values(family, self.declared))
        whole = self.table[self.table["round"] == 0].drop_duplicates([*self.words])
        expected, _ = self._tidy(self.values(family, whole.assign(seed=0)))
        for arm in set(expected.arm) - set(rows.arm):
            at = f"at round {max(self.at.values())}, which the answer is of"
            raise UserError(f"{family}: finished runs of {arm or 'its arms'} share no --seed {at}")
        arms = rows.groupby("arm", sort=False)["value"]
        return judge([compare(arm, values.to_numpy()) for arm, values in arms])

    def _line(self, what):
        """Mean and interval of a column or contrast, a row an arm and round."""
        rows, names = self._tidy(self.values(what, self.table))
        groups = rows.groupby(["arm", *names, "round"], sort=False)["value"]
        frame, within = summarise(groups).reset_index(), self.question.within
        frame["block"] = frame[within] if within else ""
        frame["head"] = _in_words(frame, [name for name in names if name != within])
        column, is_contrast = self.root(what)
        if is_contrast:
            for name in ("arm", "head"):
                frame[name] = [f"{what}, {arm}" if arm else what for arm in frame[name]]
        quantity = f"difference of {column}" if is_contrast else column
        frame = frame.join(self.density, on=["block", "round"])
        return frame.assign(shows=what, quantity=quantity)

    def root(self, what):
        """(the column of rounds.csv that a column or contrast is of, whether it is a contrast)."""
        column = what
        while column in self.question.contrasts:
            column = self.question.contrasts[column].of
        return (self.whitebox if column == WHITEBOX else column), what in self.question.contrasts

    def unfinished(self):
        """How many runs have not come to their last round."""
        runs = self.table.groupby("folder")
        late = runs["round"].max() + 1 < runs.prune_iterations.first()
        return int((late | ~runs.done.all()).sum())

    def answer(self):
        """What is found: answer, details, comparisons, table, density_percent."""
        contrasts = self.question.contrasts
        first = [f for f, c in contrasts.items() if c.answers] or list(contrasts)[:1]
        said = {}
        for family, contrast in contrasts.items():
            words = describe(self.families[family], contrast.above, contrast.below)
            said[family] = f"{family}: {words or 'there is nothing to compare it with'}."
        answers = [said.pop(family) for family in first]
        shares = dict.fromkeys(f"{self.density[place]:.3g} %" for place in self.at.items())
        where = f"At {' and '.join(shares)} of the weights, in points of clean test accuracy:"
        details = [*said.values(), *self.question.notes(self)]
        if late := self.unfinished():
            count = self.table.folder.nunique()
            details.append(f"{late} of the {count} runs are unfinished: the answer can change.")
        density = {block: round(float(self.density[block, at]), 6) for block, at in self.at.items()}
        compared = [{"family": name} | row for name, rows in self.families.items() for row in rows]
        return {
            "answer": " ".join([self.opening, where, *answers]).strip(),
            "details": details,
            # JSON has no nan
            "comparisons": [{n: v if v == v else None for n, v in row.items()} for row in compared],
            "table": self._compact(),
            "density_percent": density if self.question.within else density[""],
        }

    def _compact(self):
        """The table of the page: a row a density (and value of `within`), a column an arm."""
        shown = self.lines.shows.isin(["Jaccard", CLEAN, *self.question.contrasts])
        lines = self.lines[shown & self.lines.block.isin(list(self.at))]
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
        marked = [n for n, (block, number) in enumerate(wide.index) if number == self.at[block]]
        head, start = (
            [self.question.within, "weights left", *wide],
            0 if self.question.within else 1,
        )
        return {"head": head[start:], "rows": [row[start:] for row in rows], "marked": marked}


def with_columns(table, whitebox):
    """The table with the columns that every question can show, a rate for every run among them."""
    transfers = [n for n in attacked_columns(table, TRANSFER) if n.endswith("_accuracy")]
    rate = table.mix_ratio.astype(float).fillna(0)
    usual = table[rate > 0].drop_duplicates("folder").surrogate.value_counts().index
    return table.assign(
        mix_ratio=rate,
        transfer=table[transfers].bfill(axis="columns").iloc[:, 0] if transfers else math.nan,
        whitebox=table[whitebox] if whitebox else math.nan,
        over_dense=table[CLEAN] - table.groupby("folder")[CLEAN].transform("first"),
        usual_surrogate=next(iter(usual), None),
    )


def _declared(rows):
    """The declared round of runs with one schedule."""
    run = rows.iloc[0]
    if run.prune_iterations < 2:
        raise UserError(f"{run.folder} has its dense round only: nothing is pruned yet")
    densities = rows.groupby("round").density.mean()
    return declared_round(densities, run.prune_iterations, run.prune_percent)


def _in_words(rows, names):
    """The arm of each row in words, a list."""
    return [", ".join(words) for words in rows[names].to_numpy()]
