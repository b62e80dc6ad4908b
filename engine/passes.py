"""Forward, backward and update of a fully connected net, compiled by numba.

Activations and their gradients lie batch after batch, each as (units, LANES) floats a layer at the
offsets that `Net.layers` names; engine/simd.py has the products. A layer with few weights alive is
sparse: its weights are kept row by row within blocks of columns, so that a block's inputs stay in
the nearest cache.

Imported, as numba is, when it is used.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from engine import simd
from engine.simd import ACROSS, GROUP, HALF, LANES, ROWS, VECTOR

# layers: (L, FIELDS) int64 as below; values: every weight and bias, float32; columns: of each value
# of a sparse layer its input unit, int32; starts: where each row of each block begins in `values`;
# alive: 1 or 0 for each value of a dense layer; scale, shift: of each input, its normalisation
Net = namedtuple("Net", "layers values columns starts alive scale shift")
FIELDS = 11
INPUTS, OUTPUTS, SPARSE, WEIGHTS, BIASES, STARTS, BLOCKS, RELU, BELOW, ABOVE, MASKED = range(FIELDS)
TILE, TILE_HALF = ACROSS * VECTOR, simd.TILE_HALF * VECTOR

compiled = njit(nogil=True, fastmath={"contract"}, error_model="numpy")
summed = njit(nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")


@compiled
def take(images, index, begin, count, scale, shift, out, place, rows):
    """Lay images[index[begin:begin + count]] (N, D) out as (D, LANES) at `place`.

    Pixels are multiplied by scale and moved by shift (D,). Of the LANES places those after `count`
    keep what they had. rows: room for LANES images.
    """
    inputs = images.shape[1]
    width = padded(inputs)
    for lane in range(count):
        image = images[index[begin + lane]]
        row = rows[lane * width : lane * width + inputs]
        for n in range(inputs):
            row[n] = image[n] * scale[n] + shift[n]
    for lane in range(0, count, VECTOR):
        for unit in range(0, width, VECTOR):
            # what comes after the last unit is of the next layer, which is not computed yet
            source, target = lane * width + unit, place + unit * LANES + lane
            simd.transpose(rows, source, width, out, target, LANES)


@compiled
def padded(count):
    """The next multiple of VECTOR."""
    return (count + VECTOR - 1) // VECTOR * VECTOR


@compiled
def forward(net, acts, place, count):
    """Every layer's outputs (after its ReLU) for `count` images from the inputs at `place`."""
    half = count <= HALF
    for layer in net.layers:
        below, above = place + layer[BELOW], place + layer[ABOVE]
        for unit in range(layer[OUTPUTS]):
            bias = net.values[layer[BIASES] + unit] if layer[BIASES] >= 0 else np.float32(0)
            acts[above + unit * LANES : above + (unit + 1) * LANES] = bias
        if layer[SPARSE]:
            # a generator of the rows would serve all three passes, in 1.4 times the time
            values, columns, row = net.values, net.columns, layer[STARTS]
            for _ in range(layer[BLOCKS]):
                for unit in range(layer[OUTPUTS]):
                    first, last = net.starts[row], net.starts[row + 1]
                    target = above + unit * LANES
                    if half:
                        simd.sparse_row_half(
                            values, columns, first, last, acts, below, acts, target
                        )
                    else:
                        simd.sparse_row(values, columns, first, last, acts, below, acts, target)
                    row += 1
        else:
            width = layer[INPUTS]
            multiply(
                net.values, layer[WEIGHTS], width, 1, acts, below, LANES, acts, above, LANES,
                layer[OUTPUTS], HALF if half else LANES, width,
            )  # fmt: skip
        if layer[RELU]:
            outputs = acts[above : above + layer[OUTPUTS] * LANES]
            for n in range(len(outputs)):
                outputs[n] = max(outputs[n], np.float32(0))


@compiled
def multiply(
    a, at, down, along, b, below, b_down, c, above, c_down, rows, columns, count
):  # fmt: skip
    """c (rows, columns) += a (rows, count) @ b (count, columns), columns a multiple of VECTOR.

    at, below, above: their places; down and along, b_down, c_down: their steps from row to row, and
    a's from column to column.
    """
    row = 0
    while row < rows:
        tall = row + ROWS <= rows
        left, column = at + row * down, 0
        while column < columns:
            right, to, rest = below + column, above + row * c_down + column, columns - column
            if rest >= TILE:
                if tall:
                    simd.tile(a, left, down, along, b, right, b_down, c, to, c_down, count)
                else:
                    simd.tile_row(a, left, down, along, b, right, b_down, c, to, c_down, count)
                column += TILE
            elif rest >= TILE_HALF:
                if tall:
                    simd.tile_half(a, left, down, along, b, right, b_down, c, to, c_down, count)
                else:
                    simd.tile_row_half(a, left, down, along, b, right, b_down, c, to, c_down, count)
                column += TILE_HALF
            else:
                if tall:
                    simd.tile_narrow(a, left, down, along, b, right, b_down, c, to, c_down, count)
                else:
                    simd.tile_row_narrow(
                        a, left, down, along, b, right, b_down, c, to, c_down, count
                    )
                column += VECTOR
        row += ROWS if tall else 1


@compiled
def losses_at_top(net, acts, deltas, place, labels, index, begin, count, scale):
    """Cross-entropy summed over `count` images; its gradient, times scale, into deltas' top.

    Places after `count` get the gradient 0.
    """
    layer, total = net.layers[-1], np.float32(0)
    classes, above = layer[OUTPUTS], place + layer[ABOVE]
    for lane in range(LANES):
        if lane >= count:
            for k in range(classes):
                deltas[above + k * LANES + lane] = 0
            continue
        highest = acts[above + lane]
        for k in range(1, classes):
            highest = max(highest, acts[above + k * LANES + lane])
        mass = np.float32(0)
        for k in range(classes):
            raised = np.exp(acts[above + k * LANES + lane] - highest)
            deltas[above + k * LANES + lane] = raised
            mass += raised
        true = above + labels[index[begin + lane]] * LANES + lane
        total += np.log(mass) + highest - acts[true]
        for k in range(classes):
            deltas[above + k * LANES + lane] *= scale / mass
        deltas[true] -= scale
    return total


@compiled
def backward(net, acts, deltas, place, lowest, count):
    """Gradients of every layer's inputs, from the top's down to those of layer `lowest`.

    Of `count` images; those after them have the gradient 0.
    """
    half = count <= HALF
    for number in range(len(net.layers) - 1, lowest - 1, -1):
        layer = net.layers[number]
        below, above = place + layer[BELOW], place + layer[ABOVE]
        end = below + layer[INPUTS] * LANES
        deltas[below:end] = 0
        if layer[SPARSE]:
            values, columns, row = net.values, net.columns, layer[STARTS]
            for _ in range(layer[BLOCKS]):
                for unit in range(layer[OUTPUTS]):
                    first, last = net.starts[row], net.starts[row + 1]
                    at = above + unit * LANES
                    if half:
                        simd.sparse_back_half(
                            values, columns, first, last, deltas, at, deltas, below
                        )
                    else:
                        simd.sparse_back(values, columns, first, last, deltas, at, deltas, below)
                    row += 1
        else:
            width = layer[INPUTS]
            multiply(
                net.values, layer[WEIGHTS], 1, width, deltas, above, LANES, deltas, below, LANES,
                width, HALF if half else LANES, layer[OUTPUTS],
            )  # fmt: skip
        if number and net.layers[number - 1, RELU]:
            inputs, changes = acts[below:end], deltas[below:end]
            for n in range(len(inputs)):
                changes[n] = changes[n] if inputs[n] > 0 else np.float32(0)


@compiled
def gradients(net, acts, deltas, stride, count, rows, block, out):
    """The gradient of every value, from `count` images in batches `stride` apart; pruned ones 0.

    rows, block: room for `transposed` and `dense_gradient`.
    """
    batches = (count + LANES - 1) // LANES
    for layer in net.layers:
        if layer[SPARSE]:
            row = layer[STARTS]
            for _ in range(layer[BLOCKS]):
                for unit in range(layer[OUTPUTS]):
                    place = layer[ABOVE] + unit * LANES
                    for n in range(net.starts[row], net.starts[row + 1], GROUP):
                        simd.sparse_gradient(
                            out, net.columns, n, acts, layer[BELOW], stride,
                            deltas, place, stride, batches,
                        )  # fmt: skip
                    row += 1
            out[net.starts[row] : net.starts[row] + GROUP] = 0  # what the last row wrote too much
        else:
            dense_gradient(net, layer, acts, deltas, stride, count, rows, block, out)
        if layer[BIASES] >= 0:
            for unit in range(layer[OUTPUTS]):
                total = np.float32(0)
                for batch in range(batches):
                    place = batch * stride + layer[ABOVE] + unit * LANES
                    total += sum_of(deltas[place : place + LANES])
                out[layer[BIASES] + unit] = total


@summed
def sum_of(numbers):
    """Their sum, in the order that is quick."""
    total = np.float32(0)
    for number in numbers:
        total += number
    return total


@compiled
def dense_gradient(net, layer, acts, deltas, stride, count, rows, block, out):
    """The gradient of a dense layer's weights: `block` has a few of its rows at a time."""
    inputs, outputs = layer[INPUTS], layer[OUTPUTS]
    width = padded(inputs)
    batches, unit = (count + LANES - 1) // LANES, 0
    for batch in range(batches):
        transposed(acts, batch * stride + layer[BELOW], inputs, rows, batch * LANES * width, width)
    while unit < outputs:
        high = ROWS if unit + ROWS <= outputs else 1
        block[: high * width] = 0
        for batch in range(batches):
            left = batch * stride + layer[ABOVE] + unit * LANES
            multiply(
                deltas, left, LANES, 1, rows, batch * LANES * width, width, block, 0, width,
                high, width, min(LANES, count - batch * LANES),
            )  # fmt: skip
        for row in range(high):
            place = layer[WEIGHTS] + (unit + row) * inputs
            target, source = out[place : place + inputs], block[row * width :]
            alive = net.alive[place : place + inputs]
            for n in range(inputs):
                target[n] = source[n]
            if layer[MASKED]:
                for n in range(inputs):
                    target[n] *= alive[n]
        unit += high


@compiled
def transposed(acts, place, units, rows, at, width):
    """A batch's (units, LANES) as (LANES, width): what comes after its units is of no meaning."""
    for unit in range(0, units, VECTOR):
        for lane in range(0, LANES, VECTOR):
            source = place + unit * LANES + lane
            simd.transpose(acts, source, LANES, rows, at + lane * width + unit, width)


@compiled
def adam(values, first, second, gradient, decay, step, correction, beta1, beta2, epsilon):
    """Adam's update (Kingma & Ba 2015), as torch.optim.Adam has it, with L2 penalty `decay`.

    step: the learning rate over 1 - beta1^t; correction: 1 over the root of 1 - beta2^t.
    """
    rest1, rest2 = np.float32(1) - beta1, np.float32(1) - beta2
    for n in range(len(values)):
        change = gradient[n] + decay * values[n]
        mean = first[n] + rest1 * (change - first[n])
        spread = beta2 * second[n] + rest2 * change * change
        first[n], second[n] = mean, spread
        values[n] -= step * mean / (np.sqrt(spread) * correction + epsilon)


@compiled
def sgd(values, first, gradient, decay, rate, momentum):
    """SGD with momentum as torch.optim.SGD has it, with L2 penalty `decay`."""
    for n in range(len(values)):
        first[n] = momentum * first[n] + gradient[n] + decay * values[n]
        values[n] -= rate * first[n]
