"""The engine of all questions: a table of runs and a declaration -> statistics and words.

Comparisons are paired by seed: runs of one seed share theta_0, split, order and attacked images.
What is compared was declared before any result was seen (results/declared.py). The comparisons that
answer a question are one family, corrected together; every other list of comparisons is a family of
its own.
"""

import itertools
import math

import numpy as np
import pandas as pd

from attacks import ATTACKS, tested_by
from config import NO_TICKET, all_flags
from results.declared import MARGIN, rounds_of
from results.question import EVERY, FIRST, OVER_DENSE, TRANSFER, WHITEBOX
from results.stats import compare, judge, log_odds, summarise
from results.table import (
    CLEAN,
    attack_of,
    attacked_columns,
    column_title,
    flag_in_words,
    tested_as,
    white_box,
)
from utils import UserError

MIXED = "mixed"  # accuracy on test images attacked at the rate that the run was trained with
OWN = {
    TRANSFER: "attacked test images (each run's own attack, through its surrogate)",
    MIXED: "test images attacked at the rate of the training images",
}
# what the runs of any question may vary
FREE = ("prune_type", "seed", "ticket_seed", "reinit_draw")
PRIMARY, SECOND = "mean", "at"  # over the declared rounds; at the declared one
POINTS, ODDS = "points", "log-odds"


class Study:
    """A question and its runs: `table`, the judged `families` that answer it, `lines`, `paper`.

    table: as results.table.load makes it; tables: the DataFrames of question.tables by name.
    UserError for runs that do not fit the question.
    """

    def __init__(self, question, table, tables=None):
        self.question, self.words, self.tables = question, {}, tables or {}
        self.whitebox = white_box(table)
        table = with_columns(table, self.whitebox)
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
        self.unlike = self._unlike_attacks()
        blocks = self.table.groupby("block", sort=False)
        declared = {block: _declared(rows) for block, rows in blocks}
        self.rounds = {block: rounds for block, (rounds, _) in declared.items()}
        self.at = {block: second for block, (_, second) in declared.items()}
        densities = self.table.groupby(["block", "round"]).density.mean()
        self.density = (100 * densities).rename("density_percent")
        self.left_out = []
        self.families = self.families_of(question.measure, POINTS, PRIMARY)
        known = {*question.contrasts, *self.table}
        shown = dict.fromkeys([question.measure, *(panel.shows for panel in question.panels)])
        table = self.scaled(question.measure, POINTS)
        lines = [self._line(what, table) for what in shown if what in known]
        self.opening, self.more, own_lines = question.extra(self, self.tables)
        self.paper = question.paper[1](self)
        own = [own_lines] if len(own_lines) else []
        self.lines = pd.concat([*own, *lines], ignore_index=True)

    # The runs -----------------------------------------------------------------------------------

    def _with_factor(self, table, name, factor):
        """The table with a column of the factor's words, without runs that are not compared."""
        of = factor.of if callable(factor.of) else lambda flags: flags[factor.of]
        values = pd.Series([of(flags) for flags in table.to_dict("records")], table.index, object)
        here, key = values.unique(), float if factor.ordered else factor.key
        wanted = list(factor.values or (sorted(here, key=key) if key else here))
        wanted += sorted(value for value in here if factor.also(value))
        kept = values.isin(wanted)
        if not kept.all():
            left = table[~kept].folder.nunique()
            print(f"note: {left} runs of another {name} than {', '.join(wanted)} are left out")
        self.words[name] = [factor.label(value) for value in wanted]
        return table[kept].assign(**{name: values[kept].map(factor.label)})

    def _check_shared(self):
        """UserError unless runs that are compared differ in no flag but those declared."""
        free = {*FREE, *self.question.varies, *(f.of for f in self.question.factors.values())}
        free |= {"data_id"} if "dataset" in free else set()
        names = [flag.name for flag in all_flags() if flag.result and flag.name not in free]
        runs = self.table.drop_duplicates("folder")
        checks = [(name, runs) for name in ("dataset", "arch_type") if name in names]
        checks += [(name, rows) for _, rows in runs.groupby("block") for name in names]
        # what may differ between arms may not within one, whatever its prune type and seed
        own = [*self.question.varies, "data_id"]
        arms = [name for name in self.words if name != "prune_type"]
        groups = [rows for _, rows in runs.groupby(arms)] if arms else [runs]
        checks += [(name, rows) for rows in groups for name in own if name in runs]
        for name, rows in checks:
            values = rows[name].map(lambda value: "None" if value != value else str(value))
            if name == "order_seed":  # an order that only follows the seed is no flag of its own
                values = values.where(rows.order_seed != rows.seed, "None")
            odd = values != values.iloc[0]
            if odd.any():
                apart = (values.index[0], odd.idxmax())
                pair = [f"{flag_in_words(name, values[n])} in {rows.folder[n]}" for n in apart]
                flag = "ticket" if name in NO_TICKET else name  # the others are hidden
                what = f"these runs differ in --{flag}, which this experiment does not compare"
                raise UserError(f"{what}: {', '.join(pair)}")

    def _unlike_attacks(self):
        """{column: two settings} of those attacks that are not the same for all arms compared.

        UserError if the question's own measure is one.
        """
        runs, found = self.table.drop_duplicates("folder"), {}
        contrasts = self.question.contrasts.values()
        if self.question.within in [c.along for c in contrasts if c.along]:
            runs = runs.assign(block="")  # its values are compared with each other too
        for column in attacked_columns(self.table, "whitebox"):
            name = attack_of(column)
            if name is None:
                continue
            tried = runs.assign(tried=[tested_as(flags, name) for flags in runs.to_dict("records")])
            for _, rows in tried.groupby("block"):
                odd = rows.tried != rows.tried.iloc[0]
                if odd.any():
                    found[column] = rows.tried.iloc[0], rows.tried[odd.idxmax()]
        # through the surrogate each arm is tried by its own attack: within one radius at least
        for (_, norm), rows in runs[runs.attack.notna()].groupby(["block", "norm"]):
            radii = rows.epsilon.dropna().unique()  # attacks of least distance have none
            if len(radii) > 1:
                pair = tuple(f"{norm}, epsilon {radius:g}" for radius in radii[:2])
                found |= {TRANSFER: pair, MIXED: pair}
        if self.question.measure in found:
            one, other = found[self.question.measure]
            what = f"{column_title(self.question.measure)} is not one attack in these runs"
            raise UserError(f"{what} ({one} and {other}): train them with the same flags of it")
        return found

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
                scripts = "the scripts of experiments/ train what each question needs"
                raise UserError(f"there are no runs of {', '.join(arm)}: {right} ({scripts})")
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
        first = self.table["round"] == 0
        dense = self.table.folder.map(value[first].set_axis(self.table.folder[first]))
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
            if word not in values.index.get_level_values(name):  # as of an attack that few tried
                return values.iloc[:0]
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
            pairs = contrast.pairs(self, words)
        elif contrast.pairs == FIRST:
            pairs = [(word, word, words[0]) for word in words[1:]]
        elif contrast.pairs == EVERY:
            pairs = [(f"{a} − {b}", a, b) for a, b in itertools.combinations(words, 2)]
        elif isinstance(contrast.pairs[0], str):
            pairs = [("", *contrast.pairs)]
        else:
            pairs = [(other, one, other) for one, other in contrast.pairs]
        return [pair for pair in pairs if {*pair[1:]} <= here]

    def _tidy(self, values):
        """Values as a table with `arm` in words, in the factors' order, and its factors."""
        rows = values.rename("value").reset_index()
        names = [name for name in self.words if name in rows]
        order = [word for words in self.words.values() for word in words]

        def place(column):  # one − other is where its one is
            own = column.name in names
            if not own:
                return column
            return column.map(lambda word: order.index(next(w for w in order if heads(w, word))))

        rows = rows.sort_values([*names, "round", "seed"], key=place)
        return rows.assign(arm=in_words(rows, names)), names

    def families_of(self, measure, scale, summary):
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
                clean = (measure, scale) == (CLEAN, POINTS) and column in ("", OVER_DENSE)
                margin = MARGIN if clean else None
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
        titles = {self.question.measure: column_title(self.question.measure)}
        titles |= {CLEAN: column_title(CLEAN)} | OWN
        for name in attacked_columns(self.table, "whitebox"):
            titles[name] = column_title(name)
        titles |= self.question.titles
        accuracies = {n: t for n, t in titles.items() if t and not n.endswith("_l2")}
        whole = self.reduced(self.table, PRIMARY)  # an attack may have been tried on few rounds
        here = [n for n in accuracies if n in whole and whole[n].notna().any()]
        here = list(dict.fromkeys([self.question.measure, *here]))
        return {n: accuracies[n] for n in here if n not in self.unlike}

    def flags_of(self, factor, word):
        """The flags of a run whose factor has that word, a dict."""
        return self.table[self.table[factor] == word].iloc[0].to_dict()

    # Lines --------------------------------------------------------------------------------------

    def _line(self, what, table):
        """Mean and interval of a column or contrast of the scaled table, a row an arm and round."""
        rows, names = self._tidy(self.values(what, table))
        groups = rows.groupby(["arm", *names, "round"], sort=False)["value"]
        frame, within = summarise(groups).reset_index(), self.question.within
        frame["block"] = frame.get(within, "")
        frame["head"] = in_words(frame, [name for name in names if name != within])
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


def with_columns(table, whitebox):
    """The table with the columns that every question can show, a rate for every run among them."""
    transfers = [n for n in attacked_columns(table, TRANSFER) if n.endswith("_accuracy")]
    rate = table.mix_ratio.astype(float).fillna(0)
    runs = table[rate > 0].drop_duplicates("folder").groupby("dataset").surrogate
    usual = {name: next(iter(part.value_counts().index), None) for name, part in runs}
    transfer = table[transfers].bfill(axis="columns").iloc[:, 0] if transfers else math.nan
    whole = pd.Series(transfer, table.index, dtype=float)
    # omitted images leave clean ones only; under online attacks the net itself is attacked
    control = table.attack.isin([name for name in ATTACKS if tested_by(name) != name])
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
        usual_surrogate=table.dataset.map(usual),
    )


def _declared(rows):
    """(rounds of the primary measure, the round of the second) of runs with one schedule."""
    run = rows.iloc[0]
    if run.prune_iterations < 2:
        right = "two rounds or more are compared (--prune_iterations)"
        raise UserError(f"{run.folder} is of one round: {right}")
    densities = rows.groupby("round").density.mean()
    return rounds_of(densities, run.prune_iterations, run.prune_percent)


def in_words(rows, names):
    """The arm of each row in words, a list."""
    return [", ".join(words) for words in rows[names].to_numpy()]


def heads(word, name):
    """Whether a pair's name begins with a factor's word: "fgsm − cw" with "fgsm"."""
    return name == word or name.startswith(f"{word} − ")
