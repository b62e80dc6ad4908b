"""What `python attacks.py evaluate` draws: robust accuracy against density and against epsilon.

A panel is what the networks were trained on, a colour an attack (or a density), a line's style the
prune type. Runs that differ in nothing but their seeds are one line, in its 95 % interval.
"""

import math
import re
import textwrap
from dataclasses import dataclass

import numpy as np
import pandas as pd

import data
from attacks import ATTACKS
from config import RunConfig, attack_settings, own_ticket
from results import figures
from results.declared import FEWEST
from results.stats import summarise
from results.table import arm_labels, by_seed, images_in_words, in_order

CLEAN = "clean_of_examples"  # of the images that are attacked
LIMITS = (-2, 102)  # of every panel in percent, so that panels can be compared
DENSITIES = 3  # of the curves against epsilon, the dense net included
PRUNED = {  # the prune types in words; others have their name
    "lt": "ticket: rewound to its own first weights",
    "reinit": "fresh weights under the ticket's masks",
    "shuffle": "own first weights under shuffled masks",
    "random": "pruned at random",
    "finetune": "pruned without rewinding",
    "reinit_chain": "fresh weights each round",
    "shuffle_chain": "masks shuffled each round",
}


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A run's rounds under attack within one radius."""

    run: str  # its folder
    config: RunConfig  # as it was trained
    tested: RunConfig  # as it was tested
    radius: float | None  # None: its own
    examples: int  # test images that were attacked
    rows: list  # dicts: round, density, clean, clean_of_examples, the attacks, in percent


# What is what, in words ------------------------------------------------------------------------


def trained_on(config):
    """What a run's network was trained on, in words."""
    share = 100 * (config.mix_ratio or 0)
    if not config.attack or not share:
        return "trained on clean images"
    attack, part = config.attack.upper(), "" if share == 100 else f", {share:g} % of each batch"
    if config.attack_mode == "trades":
        return f"trained by TRADES with {attack}{part}"
    if config.adversarial:
        return f"adversarially trained with {attack}{part}"
    if config.omits:
        return f"trained on clean images, {share:g} % left out"
    if ATTACKS[config.attack][config.norm].control:
        return f"trained on images, {share:g} % with {config.attack}"
    return f"trained on images, {share:g} % attacked by {attack}"


def arms_in_words(configs):
    """Of each run what tells its arm from the others', but for the prune type, in words."""
    bases, words, whole = list(map(alike, configs)), [], []
    labels = arm_labels(bases)
    for config, label in zip(configs, labels, strict=True):
        _, *parts = label.split(", ")
        images = images_in_words(config.attack, config.mix_ratio)
        said = (images, "attack_mode=", "trades_beta=")
        if config.adversarial or not config.mix_ratio:  # what nothing was trained on
            said += ("surrogate=", "surrogate_epochs=", "attack_seed=")
        pairs = [part.partition("=") for part in parts if not part.startswith(said)]
        others = [f"{name.replace('_', ' ')} {value}".strip() for name, _, value in pairs]
        words.append(", ".join([trained_on(config), *others]))
        unsaid = [
            part.replace("_", " ").replace("=", " ") for part in parts if part.startswith(said)
        ]
        whole.append(", ".join([words[-1], *unsaid]))
    # what went unsaid tells some arms apart: runs of two arms are never one line
    arms = {}
    for short, label in zip(words, labels, strict=True):
        arms.setdefault(short, set()).add(label)
    pairs = zip(words, whole, strict=True)
    return [longer if len(arms[short]) > 1 else short for short, longer in pairs]


def alike(config):
    """The lt run that a run is compared with: the same for every prune type."""
    return own_ticket(config) or config.replace(prune_type="lt")


def attack_in_words(tested, name, colour, radius=True):
    """An attack as its run is tested by it: "PGD, 40 steps of 0.01, epsilon 0.3"."""
    if name == "autoattack":
        settings, words = attack_settings(tested, "pgd", colour, test=True), ["AutoAttack"]
        return ", ".join(words + [radius_in_words(settings.epsilon, colour)] * radius)
    settings = attack_settings(tested, name, colour, test=True)
    values = dict(settings.values)
    several = len(ATTACKS[name]) > 1 and settings.norm != next(iter(ATTACKS[name]))
    title = (name if settings.entry().control else name.upper()).replace("_", " ")
    words = [f"{title} in {settings.norm.upper()}" if several else title]
    if values.get("attack_steps", 1) > 1:
        length = values.get("attack_step_size")
        of = f" of {length:.3g}" if length and "epsilon" in values else ""
        words.append(f"{values['attack_steps']} steps{of}")
        if length and "epsilon" not in values:
            words.append(f"learning rate {length:.3g}")
    if values.get("restarts", 1) > 1:
        words.append(f"{values['restarts']} random starts")
    if radius and "epsilon" in values:
        of_linf = settings.norm == "linf"
        words.append(radius_in_words(values["epsilon"], colour and of_linf))
    return ", ".join(words)


def radius_in_words(epsilon, in_grays):
    """A radius on [0, 1] pixels, "epsilon 0.3"; in_grays: as colour images have it, 8/255."""
    return f"epsilon {255 * epsilon:.3g}/255" if in_grays else f"epsilon {epsilon:.3g}"


def too_short(settings):
    """How far the steps of AttackSettings go in all, if that is less than their radius; else 0."""
    values = dict(settings.values)
    far = values.get("attack_steps", 1) * values.get("attack_step_size", math.inf)
    return far if far < 0.999 * values.get("epsilon", 0) else 0


def prune_words(kind):
    """(words, line style) of a prune type."""
    return PRUNED.get(kind, kind.replace("_", " ")), figures.STYLES.get(kind, figures.OTHER_STYLE)


def seeds_in_words(table):
    """What lines and bands are, with how many seeds they are over."""
    points = table.groupby(["arm", "prune_type", "radius", "round"], dropna=False)
    counts = sorted(points.seed.nunique().unique())
    if counts == [1]:
        return "one run a line"
    over = f"means over {' or '.join(map(str, counts))} seeds"
    fewer = f" (fewer than {FEWEST} have none)" if counts[0] < FEWEST else ""
    return f"{over}; bands: 95 % intervals{fewer}"


# Numbers ---------------------------------------------------------------------------------------


def tidy(done):
    """Evaluated runs of one data set and network as a DataFrame, a row a run, radius and round."""
    arms = arms_in_words([one.config for one in done])
    parts = []
    for one, arm in zip(done, arms, strict=True):
        head = {"run": one.run, "arm": arm, "prune_type": one.config.prune_type}
        head["seed"] = one.config.seed
        head["radius"] = math.nan if one.radius is None else one.radius
        parts.append(pd.DataFrame([head | row for row in one.rows]))
    return pd.concat(parts, ignore_index=True)


def over_density(rows, column):
    """mean, interval and density_percent of a column, a row a round."""
    by_round = by_seed(rows, [column, "density"]).groupby("round")
    return summarise(by_round[column]).assign(density_percent=100 * by_round.density.mean())


def over_epsilon(rows, attack):
    """mean, interval and epsilon of an attack's accuracy, a row a radius, of rows of one density.

    Within radius 0 nothing is changed: that is the accuracy on the same images, clean.
    """
    clean = rows.assign(radius=0.0, **{attack: rows[CLEAN]}).drop_duplicates("run")
    whole = pd.concat([clean, rows[rows.radius > 0]])
    by_radius = whole.groupby(["radius", "seed"])[attack].mean().reset_index().groupby("radius")
    return summarise(by_radius[attack]).rename_axis("epsilon").reset_index()


def spread(densities, count=DENSITIES):
    """At most `count` of these densities, evenly over the rounds, from dense to sparse."""
    there = sorted(set(densities), reverse=True)
    places = np.linspace(0, len(there) - 1, count).round().astype(int)
    return [there[place] for place in dict.fromkeys(places)]


def near(rows, density):
    """The rows of each run's round that is nearest to this density, by their ratio; none of a run
    without one within 5 %.
    """
    apart = np.abs(np.log(rows.density.clip(lower=1e-9) / density))
    least = apart.groupby(rows.run).transform("min")
    return rows[(apart == least) & (least < 0.05)]


def one_radius(radii, own):
    """Of several radii the one whose accuracies are drawn against density.

    That of the runs, if all have the same and it is among them, else the middle one.
    """
    radii = sorted(set(radii))
    shared = [radius for radius in radii if own == {radius}]
    return shared[0] if shared else radii[len(radii) // 2]


# Figures ---------------------------------------------------------------------------------------


def draw_all(done, names, output, curves=False, data_dir=None, say=print):
    """Draw the figures of each data set and network: PNG and PDF in `output`, whose paths it says.

    names: the attacks; curves: of accuracy against epsilon too. data_dir: where data sets are, if
    not where the runs say.
    """
    figures.use_theme()
    groups, made = {}, {}
    for one in done:
        config = one.config
        groups.setdefault((config.dataset, config.data_id, config.arch_type), []).append(one)
    for (dataset, data_id, arch), mine in groups.items():
        place = data_dir or mine[0].config.data_dir
        colour = data.describe(dataset, place)[0][0] > 1
        files = {other_id for other, other_id, _ in groups if other == dataset}
        on = f"{dataset}-{data_id[:8]}" if len(files) > 1 else dataset
        stem = re.sub(r"[^\w.-]", "_", f"{on}-{arch}")
        for name, figure in figures_of(mine, names, curves, colour, f"{arch} on {on}").items():
            made[f"{stem}-{name}"] = figure
    output.mkdir(parents=True, exist_ok=True)
    for stem, figure in made.items():  # nothing is written before all can be drawn
        figures.save_figure(figure, output / stem)
        say(f"{output / stem}.png")


def figures_of(done, names, curves, colour, title):
    """{name: figure} of the runs of one data set and network."""
    table, made = tidy(done), {}
    shown, mine = table, done
    if table.radius.nunique() > 1:
        radius = one_radius(table.radius, {one.config.epsilon for one in done})
        shown, mine = table[table.radius == radius], [o for o in done if o.radius == radius]
    words = arms_in_words([one.config for one in mine])
    first = dict(zip(words[::-1], mine[::-1], strict=True))
    arms = {arm: first[arm] for arm in in_order([alike(one.config) for one in mine], words)}
    title += f", white-box on {mine[0].examples:,} test images"
    least = [name for name in names if f"{name}_l2" in table]
    within = [name for name in names if name not in least]
    if within:
        made["robustness"] = density_figure(shown, arms, within, colour, title)
    if least:
        made["distance"] = density_figure(shown, arms, least, colour, title, distance=True)
    if curves:
        made["security"] = security_figure(table, done, arms, within, colour, title)
    return made


def density_figure(table, arms, names, colour, title, distance=False):
    """Accuracy under each attack, or the mean L2 that it needs, against density; a panel an arm.

    arms: {arm: an Evaluated of it}.
    """
    columns = {name: f"{name}_l2" if distance else name for name in names}
    colours = dict(zip(names, figures.palette(len(names)), strict=True))
    told = {n: [attack_in_words(e.tested, n, colour) for e in arms.values()] for n in names}
    apart = [name for name in names if len(set(told[name])) > 1]
    words = {name: name.upper() if name in apart else told[name][0] for name in names}
    looks = {words[name]: (colours[name], "-") for name in names}
    highest = table[list(columns.values())].max().max()
    if not distance:
        columns, colours = {CLEAN: CLEAN} | columns, {CLEAN: "0.4"} | colours
        looks = {"none: the same test images, clean": ("0.4", "-")} | looks
    figure, axes = figures.new_figure(_wrapped(title, arms), *_grid(len(arms)))
    for place, (axis, arm) in enumerate(zip(axes, arms, strict=False)):
        lines = [
            figures.Line(over_density(rows, column), colours[name], prune_words(kind)[1])
            for name, column in columns.items()
            for kind, rows in _by_kind(table[table.arm == arm])
        ]
        limits = (0, 1.05 * max(highest, 1e-3)) if distance else LIMITS
        unit = "mean L2 distance that fools" if distance else "accuracy (%)"
        figures.draw_panel(axis, lines, ylabel=unit, limits=limits)
        axis.set_title(_panel_title(arm, [told[name][place] for name in apart]))
    for axis in axes[len(arms) :]:
        axis.set_axis_off()
    looks |= _styles(table)
    figures.legend_below(figure, title=f"attack; {seeds_in_words(table)}", key=_key(looks))
    return figure


def security_figure(table, done, arms, names, colour, title):
    """Accuracy against epsilon at some densities; a panel an arm and attack."""
    trained = dict(zip(table.run, table.arm, strict=True))
    first = table[table.run == table.run.iloc[0]]
    densities = spread(first.density)
    colours = dict(zip(densities, figures.palette(len(densities), ordered=True), strict=True))
    cells = [(arm, name) for name in names for arm in arms]
    columns, widest = len(arms) if len(arms) > 1 else len(names), table.radius.max()
    figure, axes = figures.new_figure(
        _wrapped(title, range(columns)), columns, len(cells) // columns
    )
    for axis, (arm, name) in zip(axes, cells, strict=True):
        one, rows = arms[arm], table[table.arm == arm]
        lines = [
            figures.Line(over_epsilon(part, name), colours[density], prune_words(kind)[1])
            for density in densities
            for kind, part in _by_kind(near(rows, density))
        ]
        if trains_within(one.config) and one.config.epsilon <= widest:
            axis.axvline(one.config.epsilon, color="0.6", linestyle=":", linewidth=1.2)
        figures.draw_lines(axis, lines, "epsilon", figures.faint(lines))
        axis.set(ylim=LIMITS, ylabel="accuracy (%)", xlabel="epsilon (linf, on [0, 1] pixels)")
        more = [attack_in_words(one.tested, name, colour, False)]
        tested = [other.tested for other in done if trained[other.run] == arm]
        if short := [far for config in tested if (far := _too_short(config, name, colour))]:
            more.append(f"too few steps beyond epsilon {max(short):.3g}")
        axis.set_title(_panel_title(arm, more))
    looks = {_density_words(density): (c, "-") for density, c in colours.items()} | _styles(table)
    trained_at = [one.config.epsilon for one in arms.values() if trains_within(one.config)]
    if trained_at and min(trained_at) <= widest:
        looks["epsilon of the training"] = ("0.6", ":")
    figures.legend_below(figure, title=seeds_in_words(table), key=_key(looks))
    return figure


def _too_short(tested, name, colour):
    if name == "autoattack":
        return 0
    return too_short(attack_settings(tested, name, colour, test=True))


def trains_within(config):
    """Whether a run trains on images attacked within a linf radius."""
    return bool(config.attack and config.mix_ratio and config.epsilon and config.norm == "linf")


def _density_words(density):
    return "all weights" if density == 1 else f"{100 * density:.3g} % of the weights"


def _grid(count):
    """(columns, rows) of so many panels, three in a row at most."""
    rows = -(-count // 3)
    return -(-count // rows), rows


def _wrapped(title, columns):
    """A figure's title, on as many lines as its width needs."""
    return textwrap.fill(title, 60 * max(1, len(columns)))


def _panel_title(arm, more):
    return "\n".join(line for text in [arm, *more] for line in textwrap.wrap(text, 48))


def _by_kind(rows):
    """(prune type, its rows) in the order of PRUNED, then of the table."""
    kinds = list(rows.prune_type.unique())
    kinds.sort(key=lambda kind: list(PRUNED).index(kind) if kind in PRUNED else len(PRUNED))
    return [(kind, rows[rows.prune_type == kind]) for kind in kinds]


def _styles(table):
    """The legend's entries of the prune types: words -> (colour, line style)."""
    kinds = [kind for kind, _ in _by_kind(table)]
    return {words: ("0.15", style) for words, style in map(prune_words, kinds)}


def _key(looks):
    """(handles, labels) of a legend, from words -> (colour, line style)."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=c, linestyle=style) for c, style in looks.values()], list(looks)
