"""Hypothesis strategies: graphs of one op with random shapes, attributes, parameters and inputs.

A case is (graph, inputs [n, *shape without batch]). Shapes and attributes are drawn one by one, so that
failures shrink; contents come from a drawn seed. Scales are drawn around the point where outputs fill
int8, and often as powers of two, where ties happen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Graph, Node, Op, Padding, Quantization, Tensor
from sgsc_edge.graph.reference.matrix import Axis

Case = tuple[Graph, np.ndarray]
SAMPLES = 4

zero_points = st.one_of(st.sampled_from([-128, 127, 0]), st.integers(-128, 127))
# Small integers times powers of two: their ratios meet ties, exactly or but for one rounding of the ratio.
exact_scales = st.builds(lambda i, e: i * 2.0**e, st.integers(1, 15), st.integers(-12, 0))
odd_scales = st.floats(-7, 1).map(lambda exponent: float(np.float32(2.0**exponent)))
extreme_scales = st.sampled_from([2.0**-20, 2.0**6])
scales = st.one_of(exact_scales, exact_scales, odd_scales, odd_scales, extreme_scales)
# How many times coarser the output is than what fills int8: saturated below 1, few values above.
exact_gains = st.builds(lambda i, e: i * 2.0**e, st.integers(1, 15), st.integers(-4, 1))
odd_gains = st.floats(-3, 4).map(lambda exponent: float(2.0**exponent))
extreme_gains = st.sampled_from([2.0**-12, 2.0**-6, 2.0**12, 2.0**26])
gains = st.one_of(exact_gains, exact_gains, odd_gains, odd_gains, extreme_gains)
activations = st.sampled_from(list(Activation))
paddings = st.sampled_from(list(Padding))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def quantizations(draw: st.DrawFn) -> Quantization:
    return Quantization.per_tensor(draw(scales), draw(zero_points))


def output_quantization(draw: st.DrawFn, scale: float, least: float = 2.0**-28) -> Quantization:
    """Parameters of an output of about this scale, at least ``least``.

    Below 2**-28 the bound of a fused RELU6 leaves int32 and the kernels refuse to prepare.
    """
    return Quantization.per_tensor(max(float(np.float32(scale)), least), draw(zero_points))


def quantized(name: str, shape: tuple[int, ...], quantization: Quantization | None) -> Tensor:
    return Tensor(name, shape, DType.INT8, quantization)


def int32(name: str, data: object) -> Tensor:
    array = np.asarray(data, np.int32)
    return Tensor(name, array.shape, DType.INT32, None, array)


def one_op(op: Op, inputs: list[Tensor], output: Tensor) -> Graph:
    """A graph of one node; tensors without data are the graph's inputs."""
    node = Node(op, tuple(tensor.name for tensor in inputs), (output.name,), "node under test")
    fed = tuple(tensor.name for tensor in inputs if tensor.data is None)
    tensors = {tensor.name: tensor for tensor in (*inputs, output)}
    return Graph("case", tensors, (node,), fed, (output.name,))


@dataclass(frozen=True)
class Contents:
    """Integers of a tensor: uniform, only the ends of the range, or all equal."""

    seed: int
    kind: str

    def array(self, shape: tuple[int, ...], low: int = -128, high: int = 127) -> np.ndarray:
        random = np.random.default_rng(self.seed)
        if self.kind == "ends":
            values = random.choice([low, high], size=shape)
        elif self.kind == "equal":
            values = np.full(shape, random.integers(low, high, endpoint=True))
        else:
            values = random.integers(low, high, size=shape, endpoint=True)
        return values.astype(np.int8)


contents = st.builds(Contents, seeds, st.sampled_from(["uniform", "uniform", "ends", "equal"]))


def samples_of(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    """[SAMPLES, *shape without batch]"""
    return draw(contents).array((SAMPLES, *shape[1:]))


@dataclass(frozen=True)
class Weights:
    """Weights, bias and output parameters that suit an input scale."""

    weights: Tensor
    bias: Tensor
    output: Quantization


def draw_weights(
    draw: st.DrawFn,
    x: Quantization,
    shape: tuple[int, ...],
    channel_axis: int,
    dtype: DType,
    per_channel: bool,
) -> Weights:
    """``channel_axis`` counts the weights' own axes; the bias spans about the output's range."""
    channels = shape[channel_axis]
    random = np.random.default_rng(draw(seeds))
    base = draw(scales)
    spread = (
        2.0 ** random.uniform(-2, 0, channels)
        if draw(st.booleans())
        else 2.0 ** random.integers(-2, 1, channels)
    )
    own = np.asarray(base * spread, np.float32)
    quantization = Quantization.per_tensor(float(own[0]), 0)
    if per_channel:
        quantization = Quantization.per_channel(own, channel_axis)
    largest = 7 if dtype is DType.INT4 else 127
    data = draw(contents).array(shape, -largest, largest)
    terms = int(np.prod(shape)) // channels
    # sqrt(terms) products of typical size 64 * largest / 2 fill about half of the output's 256 steps
    fill = np.sqrt(terms) * 64 * largest / 2 / 64
    gain = draw(gains)
    exact = draw(st.booleans())  # a power of two ratio makes ties
    step = 2.0 ** round(np.log2(fill * gain)) if exact else fill * gain
    product = float(x.scale[0] * own.max())
    # XNNPACK wants a multiplier below 256.
    output = output_quantization(draw, product * step, max(product / 255, 2.0**-28))
    reach = min(int(step * 128), 2**30)  # the sum itself stays below 2**27; together they fit 32 bits
    bias = random.integers(-reach, reach, channels, endpoint=True).astype(np.int32)
    bias_quantization = Quantization(
        (x.scale * quantization.scale).astype(np.float32), quantization.zero_point, 0 if per_channel else None
    )
    return Weights(
        Tensor("weights", shape, dtype, quantization, data),
        Tensor("bias", (channels,), DType.INT32, bias_quantization, bias),
        output,
    )


def plane(draw: st.DrawFn, dilated: bool) -> tuple[tuple[Axis, Axis], tuple[int, int], Padding]:
    """Both axes of a window, the input's height and width, and one padding that fits both."""
    padding = draw(paddings)
    sizes, axes = [], []
    for _ in range(2):
        size, filter_size, stride = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
        dilation = draw(st.integers(1, 3)) if dilated else 1
        if padding is Padding.VALID:  # at least one output
            size = max(size, (filter_size - 1) * dilation + 1)
        sizes.append(size)
        axes.append(Axis.of(size, filter_size, stride, dilation, padding))
    return (axes[0], axes[1]), (sizes[0], sizes[1]), padding


@st.composite
def conv_2d(
    draw: st.DrawFn, dtype: DType = DType.INT8, grouped: bool = False, per_channel: bool | None = None
) -> Case:
    """``per_channel`` None: either."""
    (rows, columns), size, padding = plane(draw, dilated=True)
    groups = draw(st.integers(2, 3)) if grouped else 1
    # Wide windows over 32 channels need more than the 24 bits of float32.
    group_size = draw(st.one_of(st.integers(1, 5), st.just(32)))
    group_out = draw(st.integers(1, 4))
    x = quantized("x", (1, *size, groups * group_size), draw(quantizations()))
    shape = (groups * group_out, rows.filter, columns.filter, group_size)
    if per_channel is None:
        per_channel = draw(st.booleans())
    parts = draw_weights(draw, x.quantization, shape, 0, dtype, per_channel)
    op = ir.Conv2D(
        (rows.stride, columns.stride), (rows.dilation, columns.dilation), padding, draw(activations)
    )
    output = quantized("y", (1, rows.out, columns.out, shape[0]), parts.output)
    return one_op(op, [x, parts.weights, parts.bias], output), samples_of(draw, x.shape)


@st.composite
def depthwise_conv_2d(draw: st.DrawFn, dtype: DType = DType.INT8) -> Case:
    (rows, columns), size, padding = plane(draw, dilated=True)
    channels, multiplier = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    x = quantized("x", (1, *size, channels), draw(quantizations()))
    shape = (1, rows.filter, columns.filter, channels * multiplier)
    # Depthwise weights are per channel: legality refuses one scale for several channels.
    parts = draw_weights(draw, x.quantization, shape, 3, dtype, per_channel=True)
    op = ir.DepthwiseConv2D(
        (rows.stride, columns.stride),
        (rows.dilation, columns.dilation),
        padding,
        multiplier,
        draw(activations),
    )
    output = quantized("y", (1, rows.out, columns.out, shape[3]), parts.output)
    return one_op(op, [x, parts.weights, parts.bias], output), samples_of(draw, x.shape)


@st.composite
def fully_connected(draw: st.DrawFn, dtype: DType, per_channel: bool) -> Case:
    # From about 500 inputs on, sums need more than the 24 bits of float32.
    inputs = draw(st.one_of(st.integers(1, 40), st.sampled_from([517, 2000])))
    outputs = draw(st.integers(1, 12))
    lead = (1, *draw(st.lists(st.integers(1, 3), max_size=2)))
    x = quantized("x", (*lead, inputs), draw(quantizations()))
    parts = draw_weights(draw, x.quantization, (outputs, inputs), 0, dtype, per_channel)
    op = ir.FullyConnected(draw(activations), keep_num_dims=len(lead) > 1 or draw(st.booleans()))
    graph = one_op(op, [x, parts.weights, parts.bias], quantized("y", (*lead, outputs), parts.output))
    return graph, samples_of(draw, x.shape)


def broadcast_pair(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of a fed tensor (batch 1), of a constant that broadcasts with it, and of the result."""
    full = (1, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    kept = draw(st.integers(0, len(full) - 1))  # leading dimensions the constant lacks
    other = tuple(draw(st.sampled_from([dim, 1])) for dim in full[kept:])
    narrow = tuple(draw(st.sampled_from([dim, 1])) for dim in full[1:])
    first = (1, *narrow) if draw(st.booleans()) else full
    return first, other, np.broadcast_shapes(first, other)


Binary = type[ir.Add] | type[ir.Sub] | type[ir.Mul]


def _gains_of(kind: Binary) -> st.SearchStrategy[float]:
    """ADD and SUB take inputs of less than 2^8 output steps."""
    return gains if kind is ir.Mul else gains.map(lambda gain: max(gain, 2.0**-7))


@st.composite
def binary(draw: st.DrawFn, kind: Binary) -> Case:
    first, other, result = broadcast_pair(draw)
    a, b = draw(quantizations()), draw(quantizations())
    real = max(float(a.scale[0]), float(b.scale[0]))
    if kind is ir.Mul:
        real = float(np.float32(a.scale[0] * b.scale[0])) * 64
    output = output_quantization(draw, real * draw(_gains_of(kind)))
    x = quantized("x", first, a)
    constant = Tensor("c", other, DType.INT8, b, draw(contents).array(other))
    inputs = [x, constant] if draw(st.booleans()) else [constant, x]
    graph = one_op(kind(draw(activations)), inputs, quantized("y", result, output))
    return graph, samples_of(draw, first)


@st.composite
def binary_self(draw: st.DrawFn, kind: Binary) -> Case:
    """x op x: both inputs vary with the sample."""
    shape = (1, *draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    q = draw(quantizations())
    real = float(q.scale[0] * q.scale[0] * 64 if kind is ir.Mul else q.scale[0])
    output = output_quantization(draw, real * draw(_gains_of(kind)))
    x = quantized("x", shape, q)
    node = Node(kind(draw(activations)), ("x", "x"), ("y",), "node under test")
    graph = Graph("case", {"x": x, "y": quantized("y", shape, output)}, (node,), ("x",), ("y",))
    return graph, samples_of(draw, shape)


@st.composite
def batch_matmul(draw: st.DrawFn) -> Case:
    """x and a constant, in either order; leading dimensions may broadcast."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    depth = draw(st.one_of(st.integers(1, 9), st.just(300)))
    lead = (1, *draw(st.lists(st.integers(1, 3), max_size=2)))
    kept = draw(st.integers(0, len(lead)))
    other = tuple(draw(st.sampled_from([dim, 1])) for dim in lead[kept:])
    adj_x, adj_y = draw(st.booleans()), draw(st.booleans())
    left = (depth, rows) if adj_x else (rows, depth)
    right = (columns, depth) if adj_y else (depth, columns)
    swapped = draw(st.booleans())
    x = quantized("x", (*lead, *(right if swapped else left)), draw(quantizations()))
    q = draw(quantizations())
    shape = (*other, *(left if swapped else right))
    c = Tensor("c", shape, DType.INT8, q, draw(contents).array(shape))
    product = float(x.quantization.scale[0] * q.scale[0])
    output = output_quantization(
        draw, product * 64 * np.sqrt(depth) * draw(gains), max(product / 15, 2.0**-28)
    )
    graph = one_op(
        ir.BatchMatMul(adj_x, adj_y),
        [c, x] if swapped else [x, c],
        quantized("y", (*lead, rows, columns), output),
    )
    return graph, samples_of(draw, x.shape)


@st.composite
def batch_matmul_self(draw: st.DrawFn) -> Case:
    """x times x transposed: both operands vary with the sample."""
    shape = (1, *draw(st.lists(st.integers(1, 4), min_size=2, max_size=3)))
    adj_x = draw(st.booleans())
    q = draw(quantizations())
    own = float(q.scale[0] * q.scale[0])
    output = output_quantization(draw, own * 64 * draw(gains), own / 255)
    size = shape[-1 if adj_x else -2]
    x = quantized("x", shape, q)
    node = Node(ir.BatchMatMul(adj_x, not adj_x), ("x", "x"), ("y",), "node under test")
    y = quantized("y", (*shape[:-2], size, size), output)
    return Graph("case", {"x": x, "y": y}, (node,), ("x",), ("y",)), samples_of(draw, shape)


@st.composite
def pool(draw: st.DrawFn, kind: type[ir.MaxPool2D] | type[ir.AveragePool2D]) -> Case:
    (rows, columns), size, padding = plane(draw, dilated=False)
    q = draw(quantizations())
    x = quantized("x", (1, *size, draw(st.integers(1, 5))), q)
    op = kind((rows.filter, columns.filter), (rows.stride, columns.stride), padding, draw(activations))
    output = quantized("y", (1, rows.out, columns.out, x.shape[3]), q)
    return one_op(op, [x], output), samples_of(draw, x.shape)


@st.composite
def resize(draw: st.DrawFn, kind: type[ir.ResizeNearestNeighbor] | type[ir.ResizeBilinear]) -> Case:
    shape = (1, draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 3)))
    size = [draw(st.integers(1, 20)), draw(st.integers(1, 20))]
    align, half = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
    q = draw(quantizations())
    output = quantized("y", (1, *size, shape[3]), q)
    return one_op(kind(align, half), [quantized("x", shape, q), int32("size", size)], output), samples_of(
        draw, shape
    )


@st.composite
def mean(draw: st.DrawFn) -> Case:
    small = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)
    shape = (1, *draw(st.one_of(small, st.sampled_from([(40, 33, 2), (64, 64, 1), (1000,)]))))
    axes = sorted(draw(st.sets(st.integers(1, len(shape) - 1), min_size=1)))
    keep = draw(st.booleans())
    q = draw(quantizations())
    output = output_quantization(draw, float(q.scale[0]) * draw(gains))
    result = tuple(1 if i in axes else dim for i, dim in enumerate(shape) if keep or i not in axes)
    x = quantized("x", shape, q)
    return one_op(ir.Mean(keep), [x, int32("axes", axes)], quantized("y", result, output)), samples_of(
        draw, shape
    )


@st.composite
def softmax(draw: st.DrawFn) -> Case:
    classes = st.one_of(st.integers(1, 20), st.sampled_from([100, 511]))
    shape = (1, *draw(st.lists(st.integers(1, 4), max_size=2)), draw(classes))
    x = quantized("x", shape, draw(quantizations()))
    beta = draw(st.sampled_from([1.0, 0.5, 2.0, 0.30000001192092896]))
    output = quantized("y", shape, Quantization.per_tensor(1 / 256, -128))
    return one_op(ir.Softmax(beta), [x], output), samples_of(draw, shape)


@st.composite
def l2_normalization(draw: st.DrawFn) -> Case:
    size = draw(st.one_of(st.integers(1, 20), st.sampled_from([100, 1000])))
    shape = (1, *draw(st.lists(st.integers(1, 3), max_size=2)), size)
    x = quantized("x", shape, draw(quantizations()))
    inputs = samples_of(draw, shape)
    if draw(st.booleans()):  # short rows: sums of squares near 0
        zero = int(x.quantization.zero_point[0])
        inputs = np.clip(inputs.astype(int) % 3 - 1 + zero, -128, 127).astype(np.int8)
    return one_op(
        ir.L2Normalization(), [x], quantized("y", shape, Quantization.per_tensor(1 / 128, 0))
    ), inputs


@st.composite
def unary(draw: st.DrawFn, kind: type[Op], same_parameters: bool = False) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    q = draw(quantizations())
    other = output_quantization(draw, float(q.scale[0]) * draw(gains))
    x = quantized("x", shape, q)
    return one_op(kind(), [x], quantized("y", shape, q if same_parameters else other)), samples_of(
        draw, shape
    )


@st.composite
def curve(draw: st.DrawFn, op: Op, output: Quantization) -> Case:
    """Every input integer, in one sample."""
    x = quantized("x", (1, 2, 128), Quantization.per_tensor(min(draw(scales), 7.5), draw(zero_points)))
    inputs = np.arange(-128, 128, dtype=np.int8).reshape(1, 2, 128)
    return one_op(op, [x], quantized("y", x.shape, output)), inputs


@st.composite
def rescaled_curve(draw: st.DrawFn, ops: st.SearchStrategy[Op], least: float, most: float) -> Case:
    """Every input integer, in one sample; the output scale is ``least`` to ``most`` of the input's."""
    own = max(draw(scales), 2.0**-20)
    output = output_quantization(draw, own * min(max(draw(gains), least), most))
    x = quantized("x", (1, 2, 128), Quantization.per_tensor(own, draw(zero_points)))
    inputs = np.arange(-128, 128, dtype=np.int8).reshape(1, 2, 128)
    return one_op(draw(ops), [x], quantized("y", x.shape, output)), inputs


slopes = st.sampled_from([0.01, 0.2, 0.3, 0.5, 0.0, 1.5]).map(lambda alpha: float(np.float32(alpha)))


@st.composite
def prelu(draw: st.DrawFn) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    kept = draw(st.integers(0, len(shape) - 1))
    narrow = tuple(draw(st.sampled_from([dim, 1])) for dim in shape[kept:])
    q, own = draw(quantizations()), draw(quantizations())
    alpha = Tensor("alpha", narrow, DType.INT8, own, draw(contents).array(narrow))
    largest = float(q.scale[0]) * max(1.0, 128 * float(own.scale[0]))
    output = output_quantization(draw, largest * draw(gains))
    return one_op(ir.PRelu(), [quantized("x", shape, q), alpha], quantized("y", shape, output)), samples_of(
        draw, shape
    )


@st.composite
def concatenation(draw: st.DrawFn) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    axis = draw(st.integers(1, len(shape) - 1))
    q = draw(quantizations())
    parts = [quantized("x", shape, q)]
    for i in range(draw(st.integers(1, 3))):
        other = tuple(draw(st.integers(1, 4)) if j == axis else dim for j, dim in enumerate(shape))
        parts.append(Tensor(f"c{i}", other, DType.INT8, q, draw(contents).array(other)))
    order = draw(st.permutations(parts))
    result = tuple(
        sum(part.shape[axis] for part in parts) if j == axis else dim for j, dim in enumerate(shape)
    )
    signed = axis - len(shape) if draw(st.booleans()) else axis
    return one_op(ir.Concatenation(signed), list(order), quantized("y", result, q)), samples_of(draw, shape)


@st.composite
def gather(draw: st.DrawFn) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    axis = draw(st.integers(1, len(shape) - 1))
    lead = tuple(draw(st.lists(st.integers(1, 3), max_size=5 - len(shape))))
    random = np.random.default_rng(draw(seeds))
    indices = int32("indices", random.integers(0, shape[axis], lead))
    q = draw(quantizations())
    result = (*shape[:axis], *lead, *shape[axis + 1 :])
    signed = axis - len(shape) if draw(st.booleans()) else axis
    graph = one_op(ir.Gather(signed), [quantized("x", shape, q), indices], quantized("y", result, q))
    return graph, samples_of(draw, shape)


@st.composite
def embedding(draw: st.DrawFn) -> Case:
    """Rows of a constant table; the indices are fed."""
    rows, width, count = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    q = draw(quantizations())
    table = Tensor("table", (rows, width), DType.INT8, q, draw(contents).array((rows, width)))
    x, y = Tensor("x", (1, count), DType.INT32), quantized("y", (1, count, width), q)
    random = np.random.default_rng(draw(seeds))
    return one_op(ir.Gather(), [table, x], y), random.integers(0, rows, (SAMPLES, count), np.int32)


@st.composite
def strided_slice(draw: st.DrawFn) -> Case:
    """Begins and ends beyond either side, backwards, masked, and shrunk dimensions."""
    shape = (1, *draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    vectors: list[list[int]] = [[0], [1], [1]]
    masks = [0, 0, 0]
    result = [1]
    for axis, size in enumerate(shape[1:], start=1):
        stride = draw(st.sampled_from([1, 1, 2, 3, -1, -2]))
        begin, end = draw(st.integers(-size - 2, size + 2)), draw(st.integers(-size - 2, size + 2))
        bits = [draw(st.booleans()) for _ in range(2)] + [draw(st.integers(0, 3)) == 0]
        if bits[2]:
            begin, stride = draw(st.integers(-size, size - 1)), 1
        taken = _python_slice(size, None if bits[0] else begin, None if bits[1] else end, stride)
        if not bits[2] and not taken:  # nothing left: take all
            bits, taken = [True, True, False], _python_slice(size, None, None, stride)
        masks = [mask | bit << axis for mask, bit in zip(masks, bits, strict=True)]
        for vector, value in zip(vectors, (begin, end, stride), strict=True):
            vector.append(value)
        result += [] if bits[2] else [len(taken)]
    q = draw(quantizations())
    constants = [int32(name, vector) for name, vector in zip(("b", "e", "s"), vectors, strict=True)]
    y = quantized("y", tuple(result), q)
    return one_op(ir.StridedSlice(*masks), [quantized("x", shape, q), *constants], y), samples_of(draw, shape)


def _python_slice(size: int, begin: int | None, end: int | None, stride: int) -> list[int]:
    """What Python takes; TFLite's bounds are the same."""
    return list(range(size))[slice(begin, end, stride)]


@st.composite
def pack(draw: st.DrawFn) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 4), max_size=3)))
    q = draw(quantizations())
    parts = [quantized("x", shape, q)]
    for i in range(draw(st.integers(0, 2))):
        parts.append(Tensor(f"c{i}", shape, DType.INT8, q, draw(contents).array(shape)))
    order = draw(st.permutations(parts))
    axis = draw(st.integers(1, len(shape)))
    y = quantized("y", (*shape[:axis], len(parts), *shape[axis:]), q)
    return one_op(ir.Pack(len(parts), axis), list(order), y), samples_of(draw, shape)


@st.composite
def pad(draw: st.DrawFn) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    widths = [(0, 0), *((draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in shape[1:])]
    q = draw(quantizations())
    result = tuple(dim + before + after for dim, (before, after) in zip(shape, widths, strict=True))
    return one_op(
        ir.Pad(), [quantized("x", shape, q), int32("paddings", widths)], quantized("y", result, q)
    ), samples_of(draw, shape)


@st.composite
def reshape(draw: st.DrawFn) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    rest = draw(st.sampled_from([shape[1:][::-1], (int(np.prod(shape)),), (*shape[1:], 1)]))
    q = draw(quantizations())
    result = (1, *rest)
    return one_op(
        ir.Reshape(), [quantized("x", shape, q), int32("shape", result)], quantized("y", result, q)
    ), samples_of(draw, shape)


@st.composite
def transpose(draw: st.DrawFn) -> Case:
    shape = (1, *draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    order = (0, *draw(st.permutations(range(1, len(shape)))))
    q = draw(quantizations())
    result = tuple(shape[axis] for axis in order)
    return one_op(
        ir.Transpose(), [quantized("x", shape, q), int32("permutation", order)], quantized("y", result, q)
    ), samples_of(draw, shape)


@st.composite
def quantize_float(draw: st.DrawFn) -> Case:
    shape = (1, draw(st.integers(1, 12)))
    q = draw(quantizations())
    random = np.random.default_rng(draw(seeds))
    steps = random.integers(-600, 600, (SAMPLES, *shape[1:])) / 2  # every other one is a tie
    noise = random.uniform(-300, 300, steps.shape)
    values = np.where(random.random(steps.shape) < 0.5, steps, noise) * float(q.scale[0])
    return one_op(
        ir.Quantize(), [Tensor("x", shape, DType.FLOAT32)], quantized("y", shape, q)
    ), values.astype(np.float32)


@st.composite
def dequantize(draw: st.DrawFn) -> Case:
    shape = (1, draw(st.integers(1, 12)))
    x = quantized("x", shape, draw(quantizations()))
    return one_op(ir.Dequantize(), [x], Tensor("y", shape, DType.FLOAT32)), samples_of(draw, shape)


BOTH = ("tflm", "litert_reference")


@dataclass(frozen=True)
class Row:
    """A strategy and the runtimes that can run its cases."""

    cases: st.SearchStrategy[Case]
    runtimes: tuple[str, ...] = BOTH


CASES: Mapping[str, Row] = {
    "conv_2d": Row(conv_2d()),
    "conv_2d_grouped": Row(conv_2d(grouped=True)),
    "conv_2d_int4": Row(conv_2d(DType.INT4)),
    "depthwise_conv_2d": Row(depthwise_conv_2d()),
    "depthwise_conv_2d_int4": Row(depthwise_conv_2d(DType.INT4)),
    "fully_connected": Row(fully_connected(DType.INT8, per_channel=False)),
    "fully_connected_per_channel": Row(fully_connected(DType.INT8, per_channel=True)),
    "fully_connected_int4": Row(fully_connected(DType.INT4, per_channel=False)),
    # TFLM refuses int4 per-channel weights in FULLY_CONNECTED (fully_connected_common.cc).
    "fully_connected_int4_per_channel": Row(
        fully_connected(DType.INT4, per_channel=True), ("litert_reference",)
    ),
    "batch_matmul": Row(batch_matmul()),
    "batch_matmul_self": Row(batch_matmul_self()),
    "add": Row(binary(ir.Add)),
    "add_self": Row(binary_self(ir.Add)),
    "sub": Row(binary(ir.Sub)),
    "sub_self": Row(binary_self(ir.Sub)),
    "mul": Row(binary(ir.Mul)),
    "mul_self": Row(binary_self(ir.Mul)),
    "max_pool_2d": Row(pool(ir.MaxPool2D)),
    "average_pool_2d": Row(pool(ir.AveragePool2D)),
    "resize_nearest_neighbor": Row(resize(ir.ResizeNearestNeighbor)),
    "resize_bilinear": Row(resize(ir.ResizeBilinear)),
    "mean": Row(mean()),
    "softmax": Row(softmax()),
    "l2_normalization": Row(l2_normalization()),
    "logistic": Row(curve(ir.Logistic(), Quantization.per_tensor(1 / 256, -128))),
    "tanh": Row(curve(ir.Tanh(), Quantization.per_tensor(1 / 128, 0))),
    "hard_swish": Row(rescaled_curve(st.just(ir.HardSwish()), 2.0**-6.9, 2.0**9)),
    "leaky_relu": Row(rescaled_curve(slopes.map(ir.LeakyRelu), 2.0**-12, 2.0**26)),
    "prelu": Row(prelu()),
    "relu": Row(unary(ir.Relu)),
    # TFLM's RELU6 ignores its output's parameters; only equal ones are legal.
    "relu6": Row(unary(ir.Relu6, same_parameters=True)),
    "requantize": Row(unary(ir.Quantize)),
    "quantize_float": Row(quantize_float()),
    "dequantize": Row(dequantize()),
    "concatenation": Row(concatenation()),
    "gather": Row(gather()),
    "embedding": Row(embedding()),
    "strided_slice": Row(strided_slice()),
    "pack": Row(pack()),
    "pad": Row(pad()),
    "reshape": Row(reshape()),
    "transpose": Row(transpose()),
}
