"""The questions, each a declaration; results.answer makes statistics and words of it.

A question of one's own is one more entry of QUESTIONS: see CONTRIBUTING.md.
"""

from pathlib import Path

import pandas as pd

from attacks import ATTACKS, PARAMETERS
from results.answer import EVERY, OVER_DENSE, TRANSFER, WHITEBOX, Contrast, Factor, Panel, Question
from results.stats import amount, describe, interval_p, judge
from results.table import CLEAN, EARLY
from utils import Registry, UserError

QUESTIONS = Registry("experiment", lambda entry: isinstance(entry, Question), "a Question")


def images_of(rate):
    """What training images an attack rate means, in words."""
    return "clean data" if rate == 0 else f"{100 * rate:g} % attacked data"


KIND = Factor("prune_type", ("lt", "reinit"))
RATE = Factor("mix_ratio", label=images_of, ordered=True)
LT, BOTH = {"prune_type": "lt"}, ("lt", "reinit")
WINS = ("tickets (lt) beat reinit", "reinit beats tickets (lt)")
ATTACKED = Panel(TRANSFER, "test images under its own attack (surrogate's)")
LEAD = Contrast(*WINS, "prune_type", BOTH)


def leaking(study):
    """A caution where nets of attack rate 100 are poor on clean images.

    Fixed images of one attack give their label away (Kurakin et al. 2017).
    """
    rows = study.declared[study.declared.prune_type == "lt"].set_index("seed")
    attacked, clean = (rows[rows.mix_ratio == rate] for rate in (1, rows.mix_ratio.min()))
    if attacked.empty or not (attacked[CLEAN] - clean[CLEAN]).mean() <= -5:
        return []
    flags = attacked.iloc[0]
    if flags.attack_mode != "static" or ATTACKS[flags.attack][flags.norm].control:
        return []
    return [
        "Caution: tickets trained on attacked images only classify "
        f"{amount(attacked[CLEAN].mean(), sign=False)} % of the clean test images: a fixed attack "
        'can give the label away ("label leaking", Kurakin et al. 2017); compare rates below 100 %.'
    ]


QUESTIONS["1"] = Question(
    "Can winning tickets be found with an attacked data set? How does the attack rate change the "
    "result?",
    factors={"prune_type": KIND, "rate": RATE},
    contrasts={
        "lt - reinit": Contrast(*WINS, "prune_type", BOTH, answers=True),
        "change of lt - reinit against the lowest rate": Contrast(
            "the lead is larger", "it is smaller", "rate", of="lt - reinit", answers=True
        ),
        "lt - dense": Contrast("the ticket is better", "worse", of=OVER_DENSE, where=LT),
    },
    panels=(Panel(CLEAN), Panel("lt - reinit"), ATTACKED, Panel(WHITEBOX), Panel(EARLY)),
    colour="rate",
    notes=leaking,
)


def attack_type(flags):
    """The attack that a run is trained on; with its surrogate, unless most runs have that one."""
    if not flags["mix_ratio"]:
        return "clean"
    own = flags["surrogate"] != flags["usual_surrogate"] and flags["attack"] != "noise"
    return flags["attack"] + (f" via {flags['surrogate']}" if own else "")


def radii(study):
    """A caution where the white-box radii of the arms differ."""
    what = "White-box attacks have each arm's own --epsilon: compare those of one radius."
    return [what] if study.whitebox and study.table.epsilon.nunique() > 1 else []


QUESTIONS["2"] = Question(
    "Do attack types (FGSM, PGD, CW; noise is the control) differ in their effect?",
    factors={
        "prune_type": KIND,
        "type": Factor(attack_type, key=lambda word: ["clean", *ATTACKS].index(word.split()[0])),
    },
    contrasts={
        "lt - reinit": LEAD,
        "lt - reinit, attacked - clean": Contrast("larger", "smaller", "type", of="lt - reinit"),
        "lt - reinit, one attack - another": Contrast(
            "larger", "smaller", "type", EVERY, "lt - reinit, attacked - clean", answers=True
        ),
        "attacked - clean": Contrast("higher", "lower", "type", where=LT),
        "attacked - clean, one attack - another": Contrast(
            "higher", "lower", "type", EVERY, "attacked - clean"
        ),
    },
    panels=(*map(Panel, (CLEAN, "lt - reinit", "attacked - clean", WHITEBOX)), ATTACKED),
    colour="type",
    varies=("attack", "mix_ratio", "norm", "surrogate", "surrogate_epochs", *PARAMETERS),
    one_rate=True,
    notes=radii,
)

OWN, OTHER, RANDOM = "own ticket", "other data's ticket", "random ticket"
FRESH, REINIT = "other's masks, fresh weights", "own masks, fresh weights"
OVERLAPS = {
    "within": "same data, other order (ceiling)",
    "between": "clean and attacked data",
    "theta0": "independent given |theta_0|",
    "chance": "chance",
    "difference": "ceiling − clean and attacked",
}
ALIKE = (
    "the tickets are not the same: less alike than two of the same data",
    "they are more alike",
)


def ticket(flags):
    """Whose masks a run trains under, and from which weights."""
    own, other = {"lt": OWN, "reinit": REINIT}, {"lt": OTHER, "shuffle": RANDOM, "reinit": FRESH}
    return (other if flags["ticket_arm"] else own).get(flags["prune_type"], "another prune type")


def overlap(study, args):
    """How alike the masks of the two data sets are, from the groups.csv that tickets.py wrote.

    (what it says at the declared density, its comparison, its lines); UserError for a file that is
    missing, damaged or of other runs.
    """
    if not getattr(args, "tickets", None):
        wrote = "the folder that tickets.py --a ... --b ... -o FOLDER wrote"
        raise UserError(f"experiment 3 needs --tickets: {wrote}")
    path, at, density = Path(args.tickets) / "groups.csv", study.at[""], study.density[""]
    try:
        groups = pd.read_csv(path)
        groups = groups[groups["round"] != "all"].apply(pd.to_numeric).assign(block="")
        lines = pd.concat([_overlap_line(groups, name) for name in OVERLAPS], ignore_index=True)
        p, smallest = groups.set_index("round").loc[at, ["p", "smallest_p"]]
        here = lines[lines["round"] == at].set_index("name")
        if abs(here.density_percent.iloc[0] - density[at]) > 0.1:
            raise ValueError
    except (OSError, KeyError, TypeError, ValueError):
        needed = f"round {at} at {density[at]:.3g} % of the weights is needed"
        right = f"tickets.py --a CLEAN RUNS --b ATTACKED RUNS -o {args.tickets} writes it"
        raise UserError(
            f"{path} is not there, damaged or of other runs ({needed}): {right}"
        ) from None
    mean, half, count = here.loc["difference", ["mean", "interval", "seeds"]]
    count = int(count) if half >= 0 else 1  # no interval: one theta_0 at most has a ceiling
    row = {"label": OVERLAPS["difference"], "difference": mean, "interval": half, "n": count}
    row |= {"p": interval_p(mean, half, count), "permutation_p": p}
    judged = judge([row | {"smallest_permutation_p": smallest, "unit": "Jaccard"}])
    between, within, chance = (
        amount(*here.loc[name, ["mean", "interval"]], sign=False, digits=3)
        for name in ("between", "within", "chance")
    )
    numbers = f"Jaccard index {between}, in another order {within}, by chance {chance}"
    words = f"Masks: {describe(judged, *ALIKE)}; {numbers}, permutation p = {p:.2g}."
    return words, {"overlap": judged}, lines


def _overlap_line(groups, name):
    quantity = "difference of Jaccard" if name == "difference" else "Jaccard"
    return groups[["round", "block"]].assign(
        shows=quantity,
        quantity=quantity,
        name=name,
        arm=OVERLAPS[name],
        head=f"Jaccard index, {OVERLAPS[name]}",
        density_percent=50 * (groups.density_a + groups.density_b),
        mean=groups[name],
        interval=groups[f"{name}_interval"],
        seeds=groups.theta0s,
    )


QUESTIONS["3"] = Question(
    "Are the tickets of the original and the attacked data the same? If not, by how much?",
    factors={"ticket": Factor(ticket, (OWN, OTHER, RANDOM, FRESH, REINIT)), "rate": RATE},
    contrasts={
        "other ticket - own ticket": Contrast(
            "the other's is better", "it is worse", "ticket", ((OTHER, OWN),), answers=True
        ),
        # a random ticket: its masks permuted within each layer; fresh weights: another theta_0
        "other ticket - controls": Contrast(
            "better", "worse", "ticket", ((OTHER, RANDOM), (OTHER, FRESH))
        ),
        "lt - reinit": Contrast(*WINS, "ticket", (OWN, REINIT)),
    },
    panels=(
        Panel("Jaccard", colour="arm"),
        Panel(CLEAN, facet="rate"),
        Panel("other ticket - own ticket", colour="rate"),
    ),
    colour="ticket",
    varies=("ticket_arm",),
    one_rate=True,
    extra=overlap,
)


def conditions(title, flag, **more):
    """Clean and attacked data for each value of a flag, each at a declared density of its own."""
    return Question(
        title,
        factors={flag: Factor(flag), "rate": RATE, "prune_type": KIND},
        contrasts={
            "lt - reinit": LEAD,
            "lt - reinit, attacked - clean": Contrast(
                "attacked images make the lead larger", "smaller", "rate", of="lt - reinit"
            ),
        }
        | more,
        panels=(Panel(CLEAN, facet=flag), Panel("lt - reinit", facet=flag)),
        colour="rate",
        within=flag,
        one_rate=True,
    )


QUESTIONS["4"] = conditions(
    "Are architectures affected differently?",
    "arch_type",
    **{
        "lt - reinit, attacked - clean, one architecture - another": Contrast(
            "affected more", "affected less", "arch_type", EVERY, "lt - reinit, attacked - clean"
        )
    },
)
# seeds do not pair across data sets, so these are not tested against each other
QUESTIONS["5"] = conditions("Do other data sets show the same?", "dataset")

SCHEDULES = {"oneshot": "one-shot", "iterative": "iterative"}
QUESTIONS["6"] = Question(
    "How does one-shot pruning compare with iterative pruning?",
    factors={
        "schedule": Factor("prune_schedule", tuple(SCHEDULES), SCHEDULES.get),
        "prune_type": KIND,
        "rate": RATE,
    },
    contrasts={
        "one-shot - iterative": Contrast(
            "one-shot is better", "it is worse", "schedule", ("one-shot", "iterative"), answers=True
        ),
        "lt - reinit": LEAD,
        "early stop, one-shot - iterative (iterations)": Contrast(
            "later", "earlier", "schedule", ("one-shot", "iterative"), of=EARLY, where=LT
        ),
    },
    panels=tuple(Panel(what, facet="rate") for what in (CLEAN, "one-shot - iterative", EARLY)),
    colour="schedule",
)

BLACK = (
    "trained and tested on black images",
    "trained on black, tested on clean images",
    "clean images",
    "attacked images, correctly saved",
)


def black_kind(flags):
    """Which of BLACK a run is of."""
    if flags["dataset"].endswith("_black_cleantest"):
        return BLACK[1]
    return BLACK[0] if flags["dataset"].endswith("_black") else BLACK[2 + bool(flags["mix_ratio"])]


QUESTIONS["black"] = Question(
    "Appendix: what the predecessor's black images would have shown (attacked pixels in [0, 1] "
    "cast "
    "to whole numbers without the factor 255, which says nothing about attacked images)",
    factors={"images": Factor(black_kind, BLACK), "prune_type": KIND},
    contrasts={"lt - reinit": LEAD},
    panels=(Panel(CLEAN), Panel("lt - reinit")),
    colour="images",
    varies=("dataset",),
    within="images",
)
