"""How a question is declared: what tells its arms apart, what is compared, what is drawn."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from results.table import CLEAN
from utils import must

# columns that results.answer makes
TRANSFER, WHITEBOX, OVER_DENSE = "transfer", "whitebox", "over_dense"
FIRST, EVERY = "each minus the first", "each minus each later one"


@dataclass(frozen=True)
class Factor:
    """One thing that tells a question's arms apart."""

    of: str | Callable  # a flag's name, or a function of a run's flags (a dict)
    values: tuple = ()  # those that are compared, in order; empty: all that the runs have
    label: Callable = str  # a value in words; contrasts and figures know it by them
    key: Callable | None = None  # sorts the values; without, they stay in the runs' order
    ordered: bool = False  # they are numbers of a scale: sorted so, and so are their colours
    also: Callable = lambda value: False  # which values are compared too, where runs have them


@dataclass(frozen=True)
class Contrast:
    """A list of paired differences along a factor, in every arm of the other factors."""

    above: str  # what a positive difference means
    below: str
    along: str = ""  # without, it is `of` itself against 0
    # (one, other); ((one, other), ...), each known by its other; FIRST or EVERY; or a function of
    # the study and the factor's words -> [(what it is known by, one, other)]
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
    keep: Callable = lambda word: True  # which of the colour's words it draws, of a crowd


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
    # (study, tables) -> opening sentence, judged comparisons with a `basis` each, lines
    extra: Callable = lambda study, tables: ("", {}, pd.DataFrame())
    words: dict = field(default_factory=dict)  # of extra's comparisons: name -> (above, below)
    # measures that are something else here: column -> what it is, or "" for one that says nothing
    titles: dict = field(default_factory=dict)
    # the protocol of a paper (a preset's name), and study -> rows that hold its figures beside ours
    paper: tuple[str, Callable] = ("", lambda study: [])


def fault(question):
    """What is wrong with a Question in words, or "": what it names and does not have."""
    if other := must(lambda entry: isinstance(entry, Question), "a Question")(question):
        return other
    factors = question.factors
    named = [("its colour", question.colour), ("within", question.within)]
    for name, contrast in question.contrasts.items():
        named += [(f"contrast {name!r}: along", contrast.along)]
        named += [(f"contrast {name!r}: where", factor) for factor in contrast.where]
    for what, factor in named:
        if factor and factor not in factors:
            return f"names a factor {factor!r} ({what}); it has {', '.join(factors)}"
    for name, contrast in question.contrasts.items():
        known = factors[contrast.along] if contrast.along else None
        if not (known and known.values and isinstance(contrast.pairs, tuple)):
            continue
        pairs = contrast.pairs if isinstance(contrast.pairs[0], tuple) else (contrast.pairs,)
        words = [known.label(value) for value in known.values]
        for value in (value for pair in pairs for value in pair):
            if value not in words:
                what = f"compares {value!r} in contrast {name!r}"
                return f"{what}; {contrast.along} has {', '.join(words)}"
    return ""
