"""What two masks share beyond |theta_0|, pixel and unit: a null of independent factors.

Which weights survive is largely told by how important their input pixel and their unit are, so two
masks that have nothing else in common overlap by more than |theta_0| alone explains. Strata of
pixel x unit x |theta_0| would be of one weight each. So each mask gets a model of P(kept) with
additive log odds, an effect a unit, a pixel and a stratum of |theta_0| (the maximum-entropy model
of given margins), and with a slope in |theta_0| a unit and a pixel: at a pixel that is never lit
the largest initial weights survive, at a lit one nearly any may. Statistics alone, no files.
"""

import numpy as np

SWEEPS = 30  # of a layer; slopes that separate converge slowly, and 10 leave z 1.4 higher
FEWER, LARGE = 10, 1_000_000  # sweeps of a layer of more weights than this
CLOSE = 0.05  # of a margin's standard deviation: then its effect is fitted
ENOUGH = 10  # weights kept (or pruned) a unit or pixel on average, or its slope is fitted to noise
LARGEST = 20.0  # log odds
STEP = 2.0  # largest step of an effect, log odds
RIDGE = 0.1  # weights: keeps the slope of a unit or pixel that separates perfectly from diverging


def residuals(mask, bins, size):
    """(mask - P(kept), effects) of one layer: flat float32, and how many effects were fitted.

    mask: bool (units, inputs, ...), a linear layer's or a convolution's weight, whose input
    channels stand for pixels; bins, size: flat, each weight's stratum of |theta_0| and its
    |theta_0|, standardised. Each effect in turn takes a Newton step until the expected number kept
    of every unit, pixel and stratum is the observed one (iterative proportional fitting, in log
    odds).
    """
    mask = np.asarray(mask, dtype=bool)
    units, inputs = mask.shape[:2]
    flat, n, kept = mask.reshape(-1), mask.size, int(np.count_nonzero(mask))
    if not 0 < kept < n:
        return np.zeros(n, dtype=np.float32), 0
    cube, size = (units, inputs, n // (units * inputs)), size.reshape(units, inputs, -1)
    alive = flat.astype(np.float32)
    # a factor: the axes that its sums are over, and whether it has slopes
    enough = min(kept, n - kept) / ENOUGH
    factors = [((1, 2), units <= enough), ((0, 2), inputs <= enough)]
    sizes, whole = np.bincount(bins), np.log(kept / (n - kept))
    effects = len(sizes) + units + inputs - 2
    effects += units * factors[0][1] + inputs * factors[1][1]
    # the effects if each factor stood alone, to start from
    logit = _log_odds(np.bincount(bins, weights=alive), sizes)[bins].reshape(cube) - 2 * whole
    for axes, _ in factors:
        logit += _log_odds(alive.reshape(cube).sum(axes, keepdims=True), n / cube[1 - axes[0]])
    logit = logit.astype(np.float32)
    for _ in range(SWEEPS if n <= LARGE else FEWER):
        worst = 0.0
        for axes, sloped in factors:
            rest, spread = _rest(alive, logit)
            step, off = _newton(rest, spread, size, axes, sloped)
            logit += step
            worst = max(worst, off)
        rest, spread = (x.reshape(-1) for x in _rest(alive, logit))
        off, information = (np.bincount(bins, weights=x) for x in (rest, spread))
        step = np.clip(off / (information + 1e-3), -STEP, STEP).astype(np.float32)
        logit += step[bins].reshape(cube)
        np.clip(logit, -LARGEST, LARGEST, out=logit)
        if max(worst, (np.abs(off) / np.sqrt(information + 1)).max()) < CLOSE:
            break
    return _rest(alive, logit)[0].reshape(-1), int(effects)


def _log_odds(kept, count):
    return np.log((kept + 0.5) / (count - kept + 0.5))


def _rest(alive, logit):
    """mask - p and p (1 - p), in the shape of the log odds."""
    p = 1 / (1 + np.exp(-logit))
    return alive.reshape(logit.shape) - p, p * (1 - p)


def _newton(rest, spread, size, axes, sloped):
    """(step in log odds, how far the margins are off in standard deviations) of one factor."""

    def total(values):
        return values.sum(axes, keepdims=True)

    off, information = total(rest), total(spread) + 1e-3
    worst = float((np.abs(off) / np.sqrt(information + 1)).max())
    if not sloped:
        return np.clip(off / information, -STEP, STEP), worst
    tilt = spread * size
    slope, cross, square = total(rest * size), total(tilt), total(tilt * size) + RIDGE
    determinant = information * square - cross**2
    level = (square * off - cross * slope) / determinant
    slope = (information * slope - cross * off) / determinant
    return np.clip(level, -STEP, STEP) + np.clip(slope, -STEP, STEP) * size, worst


def beyond_margins(rest_a, effects_a, rest_b, effects_b):
    """(excess, variance) of how many weights two masks both keep, given |theta_0|, pixel and unit.

    rest, effects: each mask's `residuals`. The excess is sum (A - p_a) (B - p_b), the generalised
    covariance measure (Shah & Peters 2020, section 2): its mean is 0 for independent masks if
    either model is right, and its variance sum p_a (1 - p_a) p_b (1 - p_b), which is corrected for
    the effects fitted. sum p_a p_b (1 - p_a p_b), the variance of sums that are not given, would be
    two to four times too large. With one stratum alone both are the hypergeometric ones.

    Neglected: that a mask's weights depend on each other given its margins (neighbouring pixels of
    a unit survive together), which makes z of independent masks larger than a standard normal's,
    and what the model of P(kept) misses. Pairs of other theta_0s, whose units have nothing to do
    with each other, show how much.
    """
    n, effects = len(rest_a), min(effects_a, effects_b)
    if effects >= n:  # an effect a weight leaves nothing to explain
        return 0.0, 0.0
    one, other = np.abs(rest_a), np.abs(rest_b)
    # p (1 - p) is the same for A - p = 1 - p and A - p = -p
    variance = float((one * (1 - one)) @ (other * (1 - other)))
    return float(rest_a @ rest_b), variance * n / (n - effects)
