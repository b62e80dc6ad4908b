"""What was declared before the runs were trained that the answers are read from.

Declared on 2026-11-25, with these reasons:

- The primary measure is the mean over the rounds with 50 % to 5 % of the weights. Before this, it
  was the one round at 8 %; that was chosen after a pilot had shown the effect there, and one
  density invites the question why this one. The mean has no such choice in it, and less noise.
  Above 50 % nothing is expected to differ, below 5 % small nets on MNIST fall apart. Rounds are
  evenly spaced in the logarithm of the density, so each halving counts alike.
- The second measure is the last round with at least 8 % of the weights, as before: tickets of the
  literature still win there and reinitialised nets lag.
- Two clean accuracies are the same if they differ by less than MARGIN points: on MNIST the spread
  that another seed makes in a dense net, and a fifth of the leads that the literature reports. On
  data sets of a larger spread five seeds can hardly show it. Of no other measure sameness is said.
- A paper's figure is met where ours is within CLEAN_TOLERANCE points of it on clean images, within
  ROBUST_TOLERANCE under attack: seeds move robust accuracy by 1 to 2 points.
- Robustness breaks where an accuracy has fallen by BREAK points; a dense net that keeps less than
  SOME percent under attack has none to lose.
- ALPHA holds for a family of comparisons, after Holm's correction. Under FEWEST seeds there is
  neither interval nor verdict: that of two is thirteen times their standard error.
"""

DATE = "2026-11-25"
FROM, TO = 0.50, 0.05  # of the weights: the rounds of the primary measure
SECOND = 0.08  # of the weights: the last round with as many
MARGIN = 0.3  # points of accuracy
ALPHA = 0.05
FEWEST = 3  # seeds of a verdict
CLEAN_TOLERANCE, ROBUST_TOLERANCE = 0.5, 2.0  # points from a paper's figure (results/papers.py)
BREAK = 2.0  # points below its dense net: there an accuracy counts as broken (question 7)
SOME = 20.0  # percent under attack, twice what guessing gets: less is no robustness
NEAR = 1.01  # a round's share of the weights is rounded layer by layer: 50.04 % is 50 %


def rounds_of(densities, prune_iterations, prune_percent):
    """(rounds of the primary measure, the round of the second), known before any result.

    densities: of the rounds that any run has reached, from the dense one on; a round to come has
    --prune_percent less than the one before it. Where no round lies between FROM and TO, the last
    one stands for them; where only the dense net has as much as SECOND, the last one too.
    """
    plan = list(densities)
    while len(plan) < prune_iterations:
        plan.append(plan[-1] * (1 - prune_percent / 100))
    last = len(plan) - 1
    primary = [n for n, d in enumerate(plan) if n and TO / NEAR <= d <= FROM * NEAR]
    second = max((n for n, d in enumerate(plan) if n and d >= SECOND), default=last)
    return primary or [last], second
