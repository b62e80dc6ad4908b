"""The questions, each a declaration; results.answer makes statistics and words of it.

A question of one's own is one more entry of QUESTIONS: see CONTRIBUTING.md.
"""

import functools

import pandas as pd

from attacks import ATTACKS, PARAMETERS
from results.answer import (
    EVERY,
    OVER_DENSE,
    SECOND,
    TRANSFER,
    WHITEBOX,
    Contrast,
    Factor,
    Panel,
    Question,
    leaves_out,
)
from results.declared import BREAK
from results.stats import amount, compare, describe, interval_p, judge
from results.table import CLEAN, EARLY
from utils import Registry, UserError

QUESTIONS = Registry("experiment", lambda entry: isinstance(entry, Question), "a Question")

# Pieces ----------------------------------------------------------------------------------------


def images_of(flags):
    """What training images a run has, in words: "clean data", "50 % fgsm", "50 % left out"."""
    if not flags["mix_ratio"]:
        return "clean data"
    name, mode = flags["attack"], flags["attack_mode"]
    if leaves_out(name):
        kind = "left out"
    else:
        own = flags["surrogate"] != flags["usual_surrogate"] and mode == "static"
        own = own and not ATTACKS[name][flags["norm"]].control
        kind = name + (f" via {flags['surrogate']}" if own else "")
        kind += f" {flags['norm']}" if flags["norm"] != next(iter(ATTACKS[name])) else ""
    online = "" if mode == "static" else f"{mode} "
    return f"{100 * flags['mix_ratio']:g} % {online}{kind}"


def order_of_images(words):
    """Clean data first, then each attack by its rate, the controls last."""
    if words == "clean data":
        return (-1, 0)
    rate, _, kind = words.partition(" % ")
    name = "omit" if kind == "left out" else kind.split()[0]
    known = list(ATTACKS)
    controls = [n for n, norms in ATTACKS.items() if any(e.control for e in norms.values())]
    at = known.index(name) if name in known else len(known)
    return at + (100 if name in controls else 0), float(rate)


def same_rate(control, words):
    """Pairs of attacked images and of the control at the same rate."""
    pairs = []
    for one in words:
        rate, _, kind = one.partition(" % ")
        other = f"{rate} % {control}"
        if kind and not kind.startswith(("left out", "noise")) and other in words:
            pairs.append((f"{one} − {other}", one, other))
    return pairs


def against_clean(words):
    """Each kind of images against clean data."""
    return [(word, word, "clean data") for word in words if word != "clean data"]


KIND = Factor("prune_type", ("lt", "reinit"))
IMAGES = Factor(images_of, key=order_of_images)
LT, BOTH = {"prune_type": "lt"}, ("lt", "reinit")
WINS = ("tickets (lt) beat reinit", "reinit beats tickets (lt)")
ATTACKED = Panel(TRANSFER, "test images under its own attack (surrogate's)")
LEAD = Contrast(*WINS, "prune_type", BOTH)
OMITTED, NOISE = (functools.partial(same_rate, control) for control in ("left out", "noise"))

# how the lead of tickets hangs on the training images; each with the control that tells what of it
# is the attack's doing
LEADS = {
    "lead, attacked - as many left out": Contrast(
        "attacked images make the lead larger than leaving as many out does",
        "smaller",
        "images",
        OMITTED,
        "lt - reinit",
        answers=True,
    ),
    "lead, attacked - noise": Contrast(
        "larger than noise of the same radius does",
        "smaller",
        "images",
        NOISE,
        "lt - reinit",
        optional=True,
    ),
    "lead, attacked - clean data": Contrast(
        "larger, be it for the attack or for the clean images that are missing",
        "smaller",
        "images",
        against_clean,
        "lt - reinit",
    ),
}
DETAILS = {
    "an arm - its dense net": Contrast("the pruned net is better", "worse", of=OVER_DENSE),
    "early stopping, lt - reinit (iterations)": Contrast(
        "later", "earlier", "prune_type", BOTH, EARLY
    ),
}


def leaking(study):
    """A caution where nets of attack rate 100 are poor on clean images.

    Fixed images of one attack give their label away (Kurakin et al. 2017).
    """
    rows = study.reduced(study.table, SECOND)
    rows = rows[(rows.prune_type == "lt") & (rows.attack_mode == "static")].set_index("seed")
    controls = [n for n, norms in ATTACKS.items() if any(e.control for e in norms.values())]
    attacked = rows[(rows.mix_ratio == 1) & ~rows.attack.isin(controls)]
    clean = rows[rows.mix_ratio == rows.mix_ratio.min()]
    gap = (attacked[CLEAN] - clean[CLEAN].groupby("seed").mean()).mean()
    if attacked.empty or not gap <= -5:
        return []
    return [
        "Caution: tickets trained on attacked images only classify "
        f"{amount(attacked[CLEAN].mean(), sign=False)} % of the clean test images: a fixed attack "
        'can give the label away ("label leaking", Kurakin et al. 2017); compare rates below 100 %.'
    ]


def unmatched(study):
    """A caution where no arm leaves out what others have attacked."""
    if any(" % left out" in word for word in study.words["images"]):
        return []
    return [
        "No arm leaves out the images that others have attacked (--attack=omit): what attacked "
        "images do is not told from what fewer clean images do."
    ]


# 1 and 2: rates and types ----------------------------------------------------------------------


QUESTIONS["1"] = Question(
    "Can winning tickets be found with an attacked data set? How does the attack rate change the "
    "result?",
    factors={"prune_type": KIND, "images": IMAGES},
    contrasts={"lt - reinit": Contrast(*WINS, "prune_type", BOTH, answers=True)} | LEADS | DETAILS,
    panels=(Panel(CLEAN), Panel("lt - reinit"), ATTACKED, Panel(WHITEBOX), Panel(EARLY)),
    colour="images",
    varies=("attack", "mix_ratio", "norm", *PARAMETERS),
    notes=lambda study: [*leaking(study), *unmatched(study)],
)


def radii(study):
    """A caution where the white-box radii of the arms differ."""
    what = "White-box attacks have each arm's own --epsilon: compare those of one radius."
    return [what] if study.whitebox and study.table.epsilon.nunique() > 1 else []


def each_other(words):
    """Every pair of attacks, controls and clean data left out."""
    attacks = [w for w in words if " % " in w and " % left out" not in w and " % noise" not in w]
    return [(f"{a} − {b}", a, b) for n, a in enumerate(attacks) for b in attacks[n + 1 :]]


QUESTIONS["2"] = Question(
    "Do attack types (FGSM, PGD, CW; noise and left out images are the controls) differ in their "
    "effect?",
    factors={"prune_type": KIND, "images": IMAGES},
    contrasts={
        "lt - reinit": LEAD,
        "lead, one attack - another": Contrast(
            "larger", "smaller", "images", each_other, "lt - reinit", answers=True
        ),
    }
    | LEADS
    | {
        "tickets, attacked - clean data": Contrast(
            "higher", "lower", "images", against_clean, where=LT
        ),
        "tickets, attacked - as many left out": Contrast(
            "higher", "lower", "images", OMITTED, where=LT, optional=True
        ),
        "tickets, one attack - another": Contrast(
            "higher", "lower", "images", each_other, where=LT
        ),
    }
    | DETAILS,
    panels=(
        *map(Panel, (CLEAN, "lt - reinit", "tickets, attacked - clean data", WHITEBOX)),
        ATTACKED,
    ),
    colour="images",
    varies=("attack", "mix_ratio", "norm", "surrogate", "surrogate_epochs", *PARAMETERS),
    one_rate=True,
    notes=lambda study: [*radii(study), *unmatched(study)],
)

# 3: the same ticket ----------------------------------------------------------------------------

RATE = Factor(
    "mix_ratio",
    label=lambda rate: "clean data" if rate == 0 else f"{100 * rate:g} % attacked data",
    ordered=True,
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


def overlap(study, tables):
    """How alike the masks of the two data sets are, from the tables that tickets.py wrote.

    tables: groups.csv, and beside.csv where tickets.py had controls. (what it says at the declared
    density, its comparisons, its lines); UserError for tables that are damaged or of other runs.
    """
    if "groups" not in tables:
        wrote = "the folder that tickets.py --a ... --b ... -o FOLDER wrote"
        raise UserError(f"experiment 3 needs --tickets: {wrote}")
    groups, at, density = tables["groups"], study.at[""], study.density[""]
    try:
        groups = groups[groups["round"].astype(str) != "all"].apply(pd.to_numeric).assign(block="")
        lines = pd.concat([_overlap_line(groups, name) for name in OVERLAPS], ignore_index=True)
        p, smallest = groups.set_index("round").loc[at, ["p", "smallest_p"]]
        here = lines[lines["round"] == at].set_index("name")
        if abs(here.density_percent.iloc[0] - density[at]) > 0.1:
            raise ValueError
        controls, extra = _controls(tables.get("beside"), at)
    except (KeyError, TypeError, ValueError):
        needed = f"round {at} at {density[at]:.3g} % of the weights is needed"
        right = "tickets.py --a CLEAN RUNS --b ATTACKED RUNS -o FOLDER writes them"
        what = "the tables of --tickets are damaged or of other runs"
        raise UserError(f"{what} ({needed}): {right}") from None
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
    at_density = f"at {density[at]:.3g} % of the weights"
    words = f"Masks, {at_density}: {describe(judged, *ALIKE)}; {numbers}, permutation p = {p:.2g}."
    found = {"overlap": judged} | ({"overlap, control - attacked": controls} if controls else {})
    return f"{words} {extra}", found, lines


SPECIAL = (
    "attacked data changes the ticket more than the control does",
    "the control changes it more",
)


def _controls(beside, at):
    """Judged comparisons of the controls' overlap with the attacked data's, and their words."""
    if beside is None:
        return [], (
            "Whether any other change of the data would do the same is not known: no control was "
            "compared (tickets.py --beside)."
        )
    rows = beside[beside["round"].astype(str) == str(at)]
    judged = judge(
        [
            {
                "label": str(row["name"]),
                "difference": float(row.difference),
                "interval": float(row.difference_interval),
                "n": int(row.theta0s),
                "p": float(row.p),
                "unit": "Jaccard",
            }
            for _, row in rows.iterrows()
        ]
    )
    shown = ", ".join(
        f"{row['name']} {amount(row.jaccard, row.jaccard_interval, sign=False, digits=3)}"
        for _, row in rows.iterrows()
    )
    words = describe(judged, *SPECIAL)
    return judged, f"Beside controls (overlap with the clean tickets: {shown}): {words}."


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
        "other ticket - own ticket, one data set - the other": Contrast(
            "better", "worse", "rate", EVERY, "other ticket - own ticket", optional=True
        ),
        "lt - reinit": Contrast(*WINS, "ticket", (OWN, REINIT)),
        "an arm - its dense net": DETAILS["an arm - its dense net"],
    },
    panels=(
        Panel("Jaccard", colour="arm"),
        Panel(CLEAN, facet="rate"),
        Panel("other ticket - own ticket", colour="rate"),
    ),
    colour="ticket",
    varies=("ticket_arm",),
    one_rate=True,
    tables=("groups", "beside"),
    extra=overlap,
    words={"overlap": ALIKE, "overlap, control - attacked": SPECIAL},
)


# 4 to 6: architectures, data sets, schedules -------------------------------------------------


def conditions(title, flag, **more):
    """Clean and attacked data for each value of a flag, each at declared densities of its own."""
    return Question(
        title,
        factors={flag: Factor(flag), "images": IMAGES, "prune_type": KIND},
        contrasts={"lt - reinit": Contrast(*WINS, "prune_type", BOTH, answers=True)}
        | LEADS
        | more
        | DETAILS,
        panels=(Panel(CLEAN, facet=flag), Panel("lt - reinit", facet=flag)),
        colour="images",
        varies=("attack", "mix_ratio", "norm", *PARAMETERS),
        within=flag,
        one_rate=True,
        notes=unmatched,
    )


QUESTIONS["4"] = conditions(
    "Are architectures affected differently?",
    "arch_type",
    **{
        "lead, attacked - clean data, one architecture - another": Contrast(
            "affected more",
            "affected less",
            "arch_type",
            EVERY,
            "lead, attacked - clean data",
            optional=True,
        ),
        "lead, attacked - as many left out, one architecture - another": Contrast(
            "affected more",
            "affected less",
            "arch_type",
            EVERY,
            "lead, attacked - as many left out",
            answers=True,
            optional=True,
        ),
    },
)
# seeds do not pair across data sets, so these are not tested against each other
QUESTIONS["5"] = conditions("Do other data sets show the same?", "dataset")

SCHEDULES = {"oneshot": "one-shot", "iterative": "iterative"}
ONE_SHOT = ("one-shot", "iterative")
QUESTIONS["6"] = Question(
    "How does one-shot pruning compare with iterative pruning?",
    factors={
        "schedule": Factor("prune_schedule", tuple(SCHEDULES), SCHEDULES.get),
        "prune_type": KIND,
        "images": IMAGES,
    },
    contrasts={
        "one-shot - iterative": Contrast(
            "one-shot is better", "it is worse", "schedule", ONE_SHOT, answers=True
        ),
        "one-shot - iterative, attacked - clean data": Contrast(
            "better", "worse", "images", against_clean, "one-shot - iterative"
        ),
        "lt - reinit": LEAD,
        "lead, one-shot - iterative": Contrast(
            "larger", "smaller", "schedule", ONE_SHOT, "lt - reinit"
        ),
        "early stopping, one-shot - iterative (iterations)": Contrast(
            "later", "earlier", "schedule", ONE_SHOT, EARLY, LT
        ),
    }
    | DETAILS,
    panels=tuple(Panel(what, facet="images") for what in (CLEAN, "one-shot - iterative", EARLY)),
    colour="schedule",
    varies=("attack", "mix_ratio", "norm", *PARAMETERS),
)

# 7: robustness ---------------------------------------------------------------------------------

PGD = "whitebox_pgd_accuracy"
TRAINED = {"": "standard", "online fgsm": "FGSM", "online pgd": "PGD", "trades pgd": "TRADES"}


def training_of(flags):
    """How a run trains, in words: "standard", "FGSM", "PGD", "TRADES"."""
    online = flags["mix_ratio"] and flags["attack_mode"] != "static"
    key = f"{flags['attack_mode']} {flags['attack']}" if online else ""
    return TRAINED.get(key, key) if online or not flags["mix_ratio"] else images_of(flags)


LASTS = ("robustness lasts longer than accuracy", "robustness breaks first")


def breaks(study, tables):
    """At which density accuracies of tickets fall BREAK points below their dense nets'.

    Rounds are compared, seed by seed: a negative difference says that robustness breaks first.
    """
    rows, density = study.table[study.table.prune_type == "lt"], study.density[""]
    last, found = density.index.max(), []
    for (training, _), run in rows.sort_values("round").groupby(["training", "seed"], sort=False):
        first = {"training": training}
        for name in (PGD, CLEAN):
            below = run["round"][run[name] < run[name].iloc[0] - BREAK]
            first[name] = below.min() if len(below) else last + 1
        found.append(first)
    found = pd.DataFrame(found)
    groups = found.groupby("training", sort=False)
    judged = judge([compare(name, part[PGD] - part[CLEAN]) for name, part in groups])

    def share(number):
        return (
            f"{density[int(number)]:.3g} %" if number <= last else f"not by {density[last]:.3g} %"
        )

    shown = "; ".join(
        f"{name}: PGD {share(part[PGD].median())}, clean {share(part[CLEAN].median())}"
        for name, part in groups
    )
    words = describe(judged, *LASTS)
    line = (
        f"Rounds until tickets are {BREAK:g} points below their dense net, PGD - clean: {words} "
        f"(at which density, median over seeds: {shown})."
    )
    return line, {"rounds until it breaks, PGD - clean": judged}, pd.DataFrame()


def order_of_training(words):
    """Standard training first."""
    known = list(TRAINED.values())
    return known.index(words) if words in known else len(known)


QUESTIONS["7"] = Question(
    "Do tickets of adversarial training beat their controls in robustness, and does robustness "
    "break before accuracy?",
    factors={"prune_type": KIND, "training": Factor(training_of, key=order_of_training)},
    contrasts={
        "lt - reinit": Contrast(*WINS, "prune_type", BOTH, answers=True),
        "lt - its dense net": Contrast(
            "the ticket is better", "worse", of=OVER_DENSE, where=LT, answers=True
        ),
        "lead, one training - another": Contrast(
            "larger", "smaller", "training", EVERY, "lt - reinit"
        ),
        "tickets, one training - another": Contrast("higher", "lower", "training", EVERY, where=LT),
        "early stopping, lt - reinit (iterations)": DETAILS[
            "early stopping, lt - reinit (iterations)"
        ],
    },
    panels=(Panel(CLEAN), Panel(WHITEBOX), Panel(PGD), Panel("lt - reinit")),
    colour="training",
    measure=PGD,
    varies=("attack", "attack_mode", "mix_ratio", "norm", "trades_beta", *PARAMETERS),
    extra=breaks,
    words={"rounds until it breaks, PGD - clean": LASTS},
)

# Appendix --------------------------------------------------------------------------------------

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
    contrasts={"lt - reinit": LEAD} | DETAILS,
    panels=(Panel(CLEAN), Panel("lt - reinit")),
    colour="images",
    varies=("dataset",),
    within="images",
)
