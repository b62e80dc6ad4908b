"""The questions, each a declaration; results.answer makes statistics and words of it.

A question of one's own is one more entry of QUESTIONS: see CONTRIBUTING.md.
"""

import functools
import re

from attacks import ATTACKS, PARAMETERS, tested_by
from config import RunConfig, ticket_of
from results.answer import MIXED, SECOND
from results.breaking import LASTS, PGD, breaks
from results.papers import FGSM, cosentino, frankle
from results.question import (
    EVERY,
    OVER_DENSE,
    TRANSFER,
    WHITEBOX,
    Contrast,
    Factor,
    Panel,
    Question,
    fault,
)
from results.same_ticket import ALIKE, SPECIAL, functions_told, overlap
from results.stats import amount
from results.table import AUTOATTACKED, CLEAN, EARLY, images_in_words
from utils import Registry

QUESTIONS = Registry("experiment", fault)

# Pieces ----------------------------------------------------------------------------------------


def images_of(flags):
    """What training images a run has, in words: "clean data", "50 % fgsm", "50 % left out"."""
    name, mode = flags["attack"], flags["attack_mode"]
    if not flags["mix_ratio"] or tested_by(name) != name:
        return images_in_words(name, flags["mix_ratio"])
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
    at = known.index(name) if name in known else len(known)
    return at + (100 if name in controls() else 0), float(rate)


def same_rate(control, study, words):
    """Pairs of attacked images and of a control at the same rate: "left out", "noise", "noise l2".

    Noise of a radius is a control of attacks in linf of that radius only.
    """
    pairs = []
    for one in attacked(words):
        other = f"{one.partition(' % ')[0]} % {control}"
        if other not in words:
            continue
        here, there = (study.flags_of("images", word) for word in (one, other))
        radius = here["norm"] == "linf" and here["epsilon"] == there["epsilon"]
        if control != "noise" or radius:
            pairs.append((f"{one} − {other}", one, other))
    return pairs


def controls():
    """The names of the attacks that are none."""
    return [n for n, norms in ATTACKS.items() if any(e.control for e in norms.values())]


def is_control(word):
    """Whether a word of `images_of` stands for a control: images left out, noise."""
    return word.partition(" % ")[2].startswith(("left out", "noise"))


def attacked(words):
    """Those of the words that stand for attacked images, not for a control."""
    return [word for word in words if " % " in word and not is_control(word)]


def against_clean(study, words):
    """Each kind of images against clean data."""
    return [(word, word, "clean data") for word in words if word != "clean data"]


KIND = Factor("prune_type", ("lt", "reinit"))
IMAGES = Factor(images_of, key=order_of_images)
LT, BOTH = {"prune_type": "lt"}, ("lt", "reinit")
WINS = ("tickets (lt) beat reinit", "reinit beats tickets (lt)")
ATTACKED = Panel(TRANSFER, "test images under its own attack, through the surrogate")
LEAD = Contrast(*WINS, "prune_type", BOTH)
OMITTED, NOISE, NOISE_L2 = (
    functools.partial(same_rate, control) for control in ("left out", "noise", "noise l2")
)

# how the lead of tickets hangs on the training images; each with the control that tells what of it
# is the attack's doing
LEADS = {
    "lead, attacked - as many left out": Contrast(
        "the lead is larger with attacked images than with as many left out",
        "it is smaller",
        "images",
        OMITTED,
        "lt - reinit",
        answers=True,
    ),
    "lead, attacked - noise": Contrast(
        "larger than with noise of the same radius",
        "smaller",
        "images",
        NOISE,
        "lt - reinit",
        optional=True,
    ),
    "lead, attacked - noise of an L2 length": Contrast(
        "larger than with noise of the length that --epsilon gives it",
        "smaller",
        "images",
        NOISE_L2,
        "lt - reinit",
        optional=True,
    ),
    "lead, against clean data": Contrast(
        "larger than on clean data (where images are attacked, clean ones are missing too)",
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
    attacked = rows[(rows.mix_ratio == 1) & ~rows.attack.isin(controls())]
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
    words = study.words["images"]
    matched = {one for _, one, _ in OMITTED(study, words)}
    alone = [word for word in attacked(words) if word not in matched and "100 %" not in word]
    if not alone:
        return []
    return [
        f"No arm leaves out as many images as are attacked in {', '.join(alone)} (--attack=omit): "
        "what attacked images do there is not told from what fewer clean images do."
    ]


# 1 and 2: rates and types ----------------------------------------------------------------------


QUESTIONS["1"] = Question(
    "Can winning tickets be found with an attacked data set? How does the attack rate change the "
    "result?",
    factors={"prune_type": KIND, "images": IMAGES},
    contrasts={"lt - reinit": Contrast(*WINS, "prune_type", BOTH, answers=True)} | LEADS | DETAILS,
    panels=(
        Panel(
            CLEAN,
            "clean test images, clean or attacked data",
            keep=lambda word: not is_control(word),
        ),
        Panel(CLEAN, "clean test images, controls", keep=is_control),
        *map(Panel, ("lt - reinit", "lead, attacked - as many left out")),
        Panel("lead, attacked - noise"),
        Panel(
            EARLY, "early stop iteration, clean or attacked data", keep=lambda w: not is_control(w)
        ),
        Panel(WHITEBOX),
        ATTACKED,
    ),
    colour="images",
    varies=("attack", "mix_ratio", "norm", *PARAMETERS),
    notes=lambda study: [*leaking(study), *unmatched(study)],
)


def each_other(study, words):
    """Every pair of attacks, controls and clean data left out."""
    here = attacked(words)
    return [(f"{a} − {b}", a, b) for n, a in enumerate(here) for b in here[n + 1 :]]


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
        *map(Panel, (CLEAN, "lt - reinit", "lead, attacked - as many left out", WHITEBOX)),
        Panel("tickets, attacked - clean data"),
        ATTACKED,
    ),
    colour="images",
    varies=("attack", "mix_ratio", "norm", "surrogate", "surrogate_epochs", *PARAMETERS),
    one_rate=True,
    notes=unmatched,
)

# 3: the same ticket ----------------------------------------------------------------------------

RATE = Factor(
    "mix_ratio",
    label=lambda rate: "clean data" if rate == 0 else f"{100 * rate:g} % attacked data",
    ordered=True,
)
OWN, OTHER, RANDOM = "own ticket", "other data's ticket", "random ticket"
FRESH, REINIT = "other's masks, fresh weights", "own masks, fresh weights"
CHANGED = "ticket of "  # "ticket of 50 % noise"
ANOTHER = "a ticket that is not the other data's of the same seed"


def ticket(flags):
    """Whose masks a run trains under, and from which weights."""
    own, other = {"lt": OWN, "reinit": REINIT}, {"lt": OTHER, "shuffle": RANDOM, "reinit": FRESH}
    if not flags["ticket_arm"]:
        return own.get(flags["prune_type"], "another prune type")
    # of a run that differs in its attack and in the share of attacked images alone
    number = r"([0-9]+(?:\.[0-9]+)?(?:e-[0-9]+)?)"
    named = re.fullmatch(rf".*-([a-z]+){number}-lt-[0-9a-f]{{8}}", flags["ticket_arm"])
    attack, rate = (named[1], float(named[2])) if named else (None, 0)
    if attack not in ATTACKS or (attack == flags["attack"] and rate == flags["mix_ratio"]):
        return ANOTHER
    source = ticket_of(RunConfig.of(flags)).replace(attack=attack, mix_ratio=rate)
    source = source.ticket_identity(flags["order_seed"])
    if any(flags[name] != source[name] for name in source):
        return ANOTHER
    if attack == flags["attack"]:
        return other.get(flags["prune_type"], "another prune type")
    lt = flags["prune_type"] == "lt" and rate
    return CHANGED + images_in_words(attack, rate) if lt else ANOTHER


def is_changed(word):
    """Whether a ticket is of data that is changed in another way than the attacked data is."""
    return word.startswith(CHANGED)


QUESTIONS["3"] = Question(
    "Are the tickets of the original and the attacked data the same? If not, by how much?",
    factors={
        "ticket": Factor(ticket, (OWN, OTHER, RANDOM, FRESH, REINIT), also=is_changed),
        "rate": RATE,
    },
    contrasts={
        "other ticket - own ticket": Contrast(
            "the other data's ticket is better", "it is worse", "ticket", (OTHER, OWN), answers=True
        ),
        # a random ticket: its masks permuted within each layer; fresh weights: another theta_0;
        # whether it is the attack or any change of the data: a ticket of noise, of left out images
        "other ticket - controls": Contrast(
            "the other data's ticket is better",
            "it is worse",
            "ticket",
            lambda study, words: [
                (f"{OTHER} − {c}", OTHER, c) for c in words if c in (RANDOM, FRESH) or is_changed(c)
            ],
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
    tables=("groups", "beside", "function-groups"),
    extra=overlap,
    notes=functions_told,
    words={"overlap": ALIKE, "overlap, control - attacked": SPECIAL},
)


# 4 to 6: architectures, data sets, schedules -------------------------------------------------


def conditions(title, name, of, varies=(), **more):
    """Clean and attacked data for each value of a factor, each at declared densities of its own."""
    return Question(
        title,
        factors={name: Factor(of), "images": IMAGES, "prune_type": KIND},
        contrasts={"lt - reinit": Contrast(*WINS, "prune_type", BOTH, answers=True)}
        | LEADS
        | more
        | DETAILS,
        panels=(Panel(CLEAN, facet=name), Panel("lt - reinit", facet=name)),
        colour="images",
        varies=("attack", "mix_ratio", "norm", *PARAMETERS, *varies),
        within=name,
        one_rate=True,
        notes=unmatched,
    )


QUESTIONS["4"] = conditions(
    "Are architectures affected differently?",
    "arch_type",
    "arch_type",
    **{
        "lead, against clean data, one architecture - another": Contrast(
            "it rises more, or falls less",
            "it rises less, or falls more",
            "arch_type",
            EVERY,
            "lead, against clean data",
            optional=True,
        ),
        "lead, attacked - as many left out, one architecture - another": Contrast(
            "it rises more, or falls less",
            "it rises less, or falls more",
            "arch_type",
            EVERY,
            "lead, attacked - as many left out",
            answers=True,
            optional=True,
        ),
    },
)


def place_of(flags):
    """The network and the data set of a run: "fc1 on mnist"."""
    return f"{flags['arch_type']} on {flags['dataset']}"


# seeds do not pair across data sets, so these are not tested against each other
QUESTIONS["5"] = conditions(
    "Do other data sets show the same?", "place", place_of, varies=("dataset", "arch_type")
)

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

TRAINED = {"": "standard", "online fgsm": "FGSM", "online pgd": "PGD", "trades pgd": "TRADES"}


def training_of(flags):
    """How a run trains, in words: "standard", "FGSM", "PGD", "TRADES"."""
    online = flags["mix_ratio"] and flags["attack_mode"] != "static"
    key = f"{flags['attack_mode']} {flags['attack']}" if online else ""
    return TRAINED.get(key, key) if online or not flags["mix_ratio"] else images_of(flags)


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
    panels=(Panel(CLEAN), Panel(WHITEBOX), Panel(PGD), Panel("lt - reinit"), Panel(AUTOATTACKED)),
    colour="training",
    measure=PGD,
    varies=("attack", "attack_mode", "mix_ratio", "norm", "trades_beta", *PARAMETERS),
    extra=breaks,
    words={"rounds until it breaks, PGD - clean": LASTS},
    paper=("cosentino", cosentino),
)

# Appendices ------------------------------------------------------------------------------------

# a paper's tickets, against fresh weights and against the dense net
AGAINST_BOTH = {
    "lt - reinit": Contrast(*WINS, "prune_type", BOTH, answers=True),
    "an arm - its dense net": Contrast(
        "the pruned net is better", "worse", of=OVER_DENSE, answers=True
    ),
}

QUESTIONS["frankle"] = Question(
    "Appendix: do tickets on clean data do what Frankle & Carbin 2019 report?",
    factors={"prune_type": KIND},
    contrasts=AGAINST_BOTH
    | {
        "early stopping, lt - reinit (iterations)": DETAILS[
            "early stopping, lt - reinit (iterations)"
        ]
    },
    panels=(Panel(CLEAN), Panel("an arm - its dense net"), Panel(EARLY)),
    colour="prune_type",
    paper=("frankle", frankle),
)

QUESTIONS["cosentino"] = Question(
    "Appendix: do tickets that train on FGSM images, made against the net itself, do what "
    "Cosentino et al. 2019 report?",
    factors={"prune_type": KIND, "training": Factor(training_of, key=order_of_training)},
    contrasts=AGAINST_BOTH,
    panels=(Panel(CLEAN), Panel(FGSM), Panel("lt - reinit")),
    colour="prune_type",
    measure=FGSM,
    paper=("cosentino", cosentino),
)

# no contrasts of one architecture with another: of four, six pairs would take all power
QUESTIONS["large"] = conditions(
    "Appendix: do large networks show what question 4 finds?", "arch_type", "arch_type"
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
    contrasts={"lt - reinit": LEAD} | DETAILS,
    panels=(Panel(CLEAN), Panel("lt - reinit")),
    colour="images",
    varies=("dataset",),
    within="images",
    # a file's black images are no attacked ones to the tool, nor are those that it tests with clean
    titles={CLEAN: "the test images of each arm's own file, black or clean", MIXED: ""},
    notes=lambda study: [
        f"{' and '.join(BLACK[:2])}: the seeds share one file of images, and so its surrogate: the "
        "intervals say nothing of another."
    ],
)
