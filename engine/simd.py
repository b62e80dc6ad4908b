"""The vector kernels of the compiled step: what numba has no words for, written in LLVM's.

A batch lies as (units, LANES) floats, LANES images beside each other, so that one weight meets all
of them in a few vector registers. Arrays are flat float32 (indices int32), a place in them is an
offset. Each kernel below keeps its sums in registers over its whole loop, which numba's own loops
do not.
"""

import inspect

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64  # images that lie beside each other
FEATURES = llvm.get_host_cpu_features()
# floats a register, and the tile of a dense product: rows, and registers a row, that fit them all
if FEATURES.get("avx512f"):
    VECTOR, ROWS, ACROSS = 16, 6, 4
elif FEATURES.get("avx2"):
    VECTOR, ROWS, ACROSS = 8, 6, 2
else:
    VECTOR, ROWS, ACROSS = 4, 4, 4
GROUP = VECTOR  # alive weights whose gradients are summed together: a register of results

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
REGISTER = ir.VectorType(F32, VECTOR)
FUSED = ("contract",)  # a product and a sum may be rounded once


class Emitter:
    """Writes one kernel's instructions; arrays are arguments by number, places are offsets."""

    def __init__(self, context, builder, signature, values):
        self.builder = builder
        self.arrays = {
            number: context.make_array(kind)(context, builder, value).data
            for number, (kind, value) in enumerate(zip(signature.args, values, strict=True))
            if isinstance(kind, types.Array)
        }

    def at(self, number, *offsets):
        """The address of an element of array argument `number`."""
        return self.move(self.arrays[number], *offsets)

    def move(self, address, *offsets):
        """An address so many elements further."""
        for offset in offsets:
            address = self.builder.gep(address, [whole(offset)])
        return address

    def load(self, address, register=0):
        """The register that lies `register` registers after an address."""
        place = self.builder.bitcast(address, REGISTER.as_pointer())
        return self.builder.load(self.move(place, register), align=4)

    def store(self, value, address, register=0):
        """Write a register."""
        place = self.builder.bitcast(address, REGISTER.as_pointer())
        self.builder.store(value, self.move(place, register), align=4)

    def spread(self, address):
        """A register that holds the number at an address in every place."""
        unset, first = ir.Constant(REGISTER, ir.Undefined), ir.Constant(I32, 0)
        one = self.builder.insert_element(unset, self.builder.load(address), first)
        return self.shuffle(one, unset, [0] * VECTOR)

    def row(self, columns, place):
        """The offset of the row of LANES that the column index at `place` names."""
        index = self.builder.load(self.move(columns, place))
        return self.builder.mul(self.builder.zext(index, I64), whole(LANES))

    def times(self, a, b):
        """a * b."""
        return self.builder.fmul(a, b, flags=FUSED)

    def plus(self, a, b):
        """a + b."""
        return self.builder.fadd(a, b, flags=FUSED)

    def shuffle(self, a, b, places):
        """The numbers at these places of a and b in a row."""
        mask = ir.Constant(ir.VectorType(I32, VECTOR), places)
        return self.builder.shuffle_vector(a, b, mask)

    def interleave(self, a, b, step):
        """(lower, upper): both transposed in blocks of `step` numbers."""
        lower = [n if not n & step else n - step + VECTOR for n in range(VECTOR)]
        upper = [n + step if not n & step else n + VECTOR for n in range(VECTOR)]
        return self.shuffle(a, b, lower), self.shuffle(a, b, upper)

    def kept(self, values):
        """Slots for registers that change over a loop."""
        slots = [cgutils.alloca_once(self.builder, REGISTER) for _ in values]
        for slot, value in zip(slots, values, strict=True):
            self.builder.store(value, slot)
        return slots

    def add_to(self, slot, a, b):
        """slot += a * b."""
        total = self.plus(self.builder.load(slot), self.times(a, b))
        self.builder.store(total, slot)

    def loop(self, count):
        """A loop whose `index` runs from 0."""
        return cgutils.for_range(self.builder, count)


def whole(number):
    """A number of Python as LLVM's constant; anything else as it is."""
    return ir.Constant(I64, number) if isinstance(number, int) else number


def kernel(kinds):
    """Make a numba function of arrays ("a") and whole numbers ("i"), in the order of `kinds`.

    Its code is written by the decorated write(emitter, *numbers); the arrays are the emitter's.
    """

    def decorate(write):
        def call(context, *given):
            given = [
                kind if a == "a" else types.int64 for kind, a in zip(given, kinds, strict=True)
            ]

            def codegen(context, builder, signature, values):
                numbers = [v for v, kind in zip(values, kinds, strict=True) if kind == "i"]
                write(Emitter(context, builder, signature, values), *numbers)
                return context.get_dummy_value()

            return types.void(*given), codegen

        # numba asks for a name for each argument
        names = ["context", *(f"{kind}{number}" for number, kind in enumerate(kinds))]
        plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
        call.__signature__ = inspect.Signature([inspect.Parameter(n, plain) for n in names])
        return intrinsic(call)

    return decorate


def dense_tile(rows, across):
    """c (rows, across registers) += a (rows, count) @ b (count, across registers).

    Called with a, its place, its steps down and along; b, its place, its step down; c, its place,
    its step down; count.
    """

    def write(emit, a, a_down, a_along, b, b_down, c, c_down, count):
        builder = emit.builder
        lefts = [emit.at(0, a, builder.mul(whole(row), a_down)) for row in range(rows)]
        targets = [emit.at(7, c, builder.mul(whole(row), c_down)) for row in range(rows)]
        sums = [emit.kept([emit.load(t, n) for n in range(across)]) for t in targets]
        with emit.loop(count) as loop:
            right = emit.at(4, b, builder.mul(loop.index, b_down))
            registers = [emit.load(right, n) for n in range(across)]
            along = builder.mul(loop.index, a_along)
            for left, slots in zip(lefts, sums, strict=True):
                weight = emit.spread(emit.move(left, along))
                for slot, register in zip(slots, registers, strict=True):
                    emit.add_to(slot, weight, register)
        for target, slots in zip(targets, sums, strict=True):
            for n, slot in enumerate(slots):
                emit.store(builder.load(slot), target, n)

    return kernel("aiiiaiiaiii")(write)


tile, tile_row = dense_tile(ROWS, ACROSS), dense_tile(1, ACROSS)
tile_narrow, tile_row_narrow = dense_tile(ROWS, 1), dense_tile(1, 1)


def sparse_row_of(lanes):
    """c (lanes,) += weights[first:last] @ the rows of b (units, LANES) that `columns` names.

    Called with weights, columns, first, last; b, its place; c, its place.
    """

    def write(emit, first, last, b, c):
        weights, columns = emit.at(0, first), emit.at(1, first)
        source, target = emit.at(4, b), emit.at(6, c)
        sums = emit.kept([emit.load(target, n) for n in range(lanes // VECTOR)])
        with emit.loop(emit.builder.sub(last, first)) as loop:
            row = emit.move(source, emit.row(columns, loop.index))
            weight = emit.spread(emit.move(weights, loop.index))
            for n, slot in enumerate(sums):
                emit.add_to(slot, weight, emit.load(row, n))
        for n, slot in enumerate(sums):
            emit.store(emit.builder.load(slot), target, n)

    return kernel("aaiiaiai")(write)


def sparse_back_of(lanes):
    """The rows of c (units, LANES) that `columns` names += weights[first:last] times b (lanes,).

    Called with weights, columns, first, last; b, its place; c, its place.
    """

    def write(emit, first, last, b, c):
        weights, columns = emit.at(0, first), emit.at(1, first)
        source, target = emit.at(4, b), emit.at(6, c)
        right = [emit.load(source, n) for n in range(lanes // VECTOR)]
        with emit.loop(emit.builder.sub(last, first)) as loop:
            row = emit.move(target, emit.row(columns, loop.index))
            weight = emit.spread(emit.move(weights, loop.index))
            for n, factor in enumerate(right):
                emit.store(emit.plus(emit.load(row, n), emit.times(weight, factor)), row, n)

    return kernel("aaiiaiai")(write)


# the second of each is for a half of the LANES, where no more of them hold images
HALF = LANES // 2
sparse_row, sparse_row_half = sparse_row_of(LANES), sparse_row_of(HALF)
sparse_back, sparse_back_half = sparse_back_of(LANES), sparse_back_of(HALF)
TILE_HALF = min(ACROSS, HALF // VECTOR)
tile_half, tile_row_half = dense_tile(ROWS, TILE_HALF), dense_tile(1, TILE_HALF)


@kernel("aaiaiiaiii")
def sparse_gradient(emit, first, b, b_next, c, c_next, batches):
    """out[first + n] = row columns[first + n] of b (units, LANES) times c (LANES,), for n < GROUP.

    Summed over batches of LANES images, which lie b_next and c_next further. Always writes GROUP
    numbers: those after the end of a row of weights are overwritten by the next row's. Called with
    out, columns, first; b, its place, b_next; c, its place, c_next; batches.
    """
    builder, columns = emit.builder, emit.at(1, first)
    rows = [emit.row(columns, n) for n in range(GROUP)]
    sums = emit.kept([ir.Constant(REGISTER, None)] * GROUP)
    with emit.loop(batches) as loop:
        source = emit.at(3, b, builder.mul(loop.index, b_next))
        right = emit.at(6, c, builder.mul(loop.index, c_next))
        factors = [emit.load(right, n) for n in range(LANES // VECTOR)]
        for slot, row in zip(sums, rows, strict=True):
            left = emit.move(source, row)
            for n, factor in enumerate(factors):
                emit.add_to(slot, emit.load(left, n), factor)
    parts, step = [builder.load(slot) for slot in sums], 1
    while len(parts) > 1:  # transposed and added: number n becomes the sum of register n
        pairs = zip(parts[0::2], parts[1::2], strict=True)
        parts = [emit.plus(*emit.interleave(*pair, step)) for pair in pairs]
        step *= 2
    emit.store(parts[0], emit.at(0, first))


@kernel("aiiaii")
def transpose(emit, a, a_down, b, b_down):
    """b (VECTOR, VECTOR) = a (VECTOR, VECTOR) transposed.

    Called with a, its place, its step down; b, its place, its step down.
    """
    builder, step = emit.builder, 1
    rows = [emit.load(emit.at(0, a, builder.mul(whole(n), a_down))) for n in range(VECTOR)]
    while step < VECTOR:
        for n in range(VECTOR):
            if not n & step:
                rows[n], rows[n + step] = emit.interleave(rows[n], rows[n + step], step)
        step *= 2
    for n, row in enumerate(rows):
        emit.store(row, emit.at(3, b, builder.mul(whole(n), b_down)))
