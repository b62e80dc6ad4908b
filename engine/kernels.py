"""Whole steps, predictions and attacks of a fully connected net without Python, compiled by numba.

engine/compiled.py imports this when it is used, and hands it plain arrays; engine/passes.py says
how they lie.
"""

import numpy as np

from engine import passes
from engine.passes import ABOVE, LANES, OUTPUTS, compiled

# numba would compile a function once more for a literal 0 than for a whole number
ZERO, ONE = np.int64(0), np.int64(1)


@compiled
def move_by_signs(net, acts, deltas, place, origin, labels, index, begin, count, bounds, moved):
    """Steps along the sign of the loss's gradient for `count` images: FGSM, PGD, linf.

    origin: (D, LANES) pixels; moved: the same, where the steps begin, and end within bounds[0] of
    the origin and [0, 1]; bounds: epsilon, steps, length of a step. Leaves the first layer's inputs
    normalised in acts.
    """
    epsilon, length, zero = np.float32(bounds[0]), np.float32(bounds[2]), np.float32(0)
    inputs = len(net.scale)
    for step in range(int(bounds[1]) + 1):
        for unit in range(inputs):
            pixels = moved[unit * LANES : (unit + 1) * LANES]
            target = acts[place + unit * LANES : place + (unit + 1) * LANES]
            scale, shift = net.scale[unit], net.shift[unit]
            for n in range(LANES):
                target[n] = pixels[n] * scale + shift
        if step == bounds[1]:
            break
        passes.forward(net, acts, place, count)
        passes.losses_at_top(net, acts, deltas, place, labels, index, begin, count, np.float32(1))
        passes.backward(net, acts, deltas, place, ZERO, count)
        slopes = deltas[place : place + inputs * LANES]
        for n in range(inputs * LANES):
            sign = np.float32(slopes[n] > 0) - np.float32(slopes[n] < 0)
            change = moved[n] + length * sign - origin[n]
            change = min(max(change, -epsilon), epsilon)
            moved[n] = min(max(origin[n] + change, zero), np.float32(1))


@compiled
def take_attacked(
    net, acts, deltas, place, images, labels, index, begin, count, attacked, draws, drawn, bounds,
    pixels, rows,
):  # fmt: skip
    """`take` with the first `attacked` of the images attacked against the net as it is.

    draws: (N, D) in [0, 1), of which the rows from `drawn` on are the random starts; without rows
    the attack starts at the images. pixels: (2, D * LANES or more), left with what was attacked.
    """
    origin, moved = pixels[0], pixels[1]
    inputs = images.shape[1]
    ones, zeros = np.empty(inputs, np.float32), np.empty(inputs, np.float32)
    ones[:], zeros[:] = 1, 0
    passes.take(images, index, begin, count, ones, zeros, origin, ZERO, rows)
    if len(draws):
        every, epsilon = np.empty(attacked, np.int64), np.float32(bounds[0])
        for n in range(attacked):
            every[n] = drawn + n
        passes.take(draws, every, ZERO, attacked, ones, zeros, moved, ZERO, rows)
        for unit in range(inputs):
            for lane in range(LANES):
                n = unit * LANES + lane
                start = origin[n] + epsilon * (np.float32(2) * moved[n] - np.float32(1))
                inside = min(max(start, np.float32(0)), np.float32(1))
                moved[n] = inside if lane < attacked else origin[n]
    else:
        for n in range(inputs * LANES):
            moved[n] = origin[n]
    move_by_signs(net, acts, deltas, place, origin, labels, index, begin, attacked, bounds, moved)


@compiled
def train(
    net, first, second, room, images, labels, order, sizes, begin, end, batch_size, rates, taken,
    rule, attacked, draws, bounds, losses,
):  # fmt: skip
    """Steps `begin` to `end` of an epoch: updates net.values and moments, writes losses.

    order: positions in images (N, D) and labels, batch after batch of sizes[step] images;
    rates: (steps,) learning rates; taken: steps before `begin` in this round; rule: (6,) 1 for
    Adam, beta1, beta2, epsilon, weight decay, momentum; attacked: of how many images of each
    batch, its first, an attack is made (draws, bounds: `take_attacked`'s); room: Net.room's.
    """
    acts, deltas, gradient, rows, block, pixels = room
    layer, scale, shift = net.layers[-1], net.scale, net.shift
    stride = layer[ABOVE] + layer[OUTPUTS] * LANES
    for step in range(begin, end):
        size, start = sizes[step], step * batch_size
        loss, share = np.float32(0), np.float32(1) / np.float32(size)
        for lane in range(0, size, LANES):
            count, place = min(LANES, size - lane), lane // LANES * stride
            hit, at = min(max(attacked[step] - lane, 0), count), start + lane
            if hit:
                take_attacked(
                    net, acts, deltas, place, images, labels, order, at, count, hit, draws, lane,
                    bounds, pixels, rows,
                )  # fmt: skip
            else:
                passes.take(images, order, at, count, scale, shift, acts, place, rows)
            passes.forward(net, acts, place, count)
            loss += passes.losses_at_top(net, acts, deltas, place, labels, order, at, count, share)
            passes.backward(net, acts, deltas, place, ONE, count)
        losses[step] = loss * share
        passes.gradients(net, acts, deltas, stride, size, rows, block, gradient)
        taken += 1
        decay = np.float32(rule[4])
        if rule[0]:
            rate = np.float32(rates[step] / (1 - rule[1] ** taken))
            root = np.float32(1 / np.sqrt(1 - rule[2] ** taken))
            beta1, beta2, epsilon = np.float32(rule[1]), np.float32(rule[2]), np.float32(rule[3])
            passes.adam(
                net.values, first, second, gradient, decay, rate, root, beta1, beta2, epsilon
            )
        else:
            passes.sgd(net.values, first, gradient, decay, rates[step], np.float32(rule[5]))


@compiled
def predict(net, acts, stride, rows, images, index, out):
    """Logits (N, K) of images[index] into `out`.

    Batches lie `stride` apart in acts; with 0 none is kept. rows: room for `take`.
    """
    above, classes = net.layers[-1, ABOVE], net.layers[-1, OUTPUTS]
    for begin in range(0, len(index), LANES):
        count, place = min(LANES, len(index) - begin), begin // LANES * stride
        passes.take(images, index, begin, count, net.scale, net.shift, acts, place, rows)
        passes.forward(net, acts, place, count)
        for k in range(classes):
            for lane in range(count):
                out[begin + lane, k] = acts[place + above + k * LANES + lane]


@compiled
def pull_back(net, acts, deltas, stride, gradient, out):
    """The images' gradients (N, D) into `out`, from their logits' (N, K).

    acts: what `predict` kept of the same images.
    """
    above, classes = net.layers[-1, ABOVE], net.layers[-1, OUTPUTS]
    for begin in range(0, len(out), LANES):
        count, place = min(LANES, len(out) - begin), begin // LANES * stride
        for k in range(classes):
            for lane in range(LANES):
                value = gradient[begin + lane, k] if lane < count else np.float32(0)
                deltas[above + k * LANES + lane] = value
        passes.backward(net, acts[place:], deltas, ZERO, ZERO, count)
        for unit in range(out.shape[1]):
            for lane in range(count):
                out[begin + lane, unit] = deltas[unit * LANES + lane] * net.scale[unit]


@compiled
def attack(net, room, images, labels, draws, bounds, out):
    """Images (N, D) attacked by signs into `out`; draws (N, D) or none, bounds: as above."""
    acts, deltas, _, rows, _, pixels = room
    index = np.empty(len(images), np.int64)
    for n in range(len(images)):
        index[n] = n
    for begin in range(0, len(images), LANES):
        count = min(LANES, len(images) - begin)
        take_attacked(
            net, acts, deltas, ZERO, images, labels, index, begin, count, count, draws, begin,
            bounds, pixels, rows,
        )  # fmt: skip
        for unit in range(images.shape[1]):
            for lane in range(count):
                out[begin + lane, unit] = pixels[1, unit * LANES + lane]
