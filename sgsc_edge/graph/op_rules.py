"""What each device op may be given: one row an op, read by ``legality.py`` (and by the documentation).

A row names the op's operands, the dtypes it takes, its ranks, which operands must be constants, and rules
about values and quantization. A rule is a function whose docstring states it and which yields a reason for
each violation. Sources: the TFLite 8-bit quantization specification; the ``Prepare`` functions of TFLM's
and TFLite's reference kernels, of which a graph must satisfy both; what LiteRT's XNNPACK refuses to load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Op, Quantization, Tensor
from sgsc_edge.graph.shapes import bilinear_steps
from sgsc_edge.numerics import ACTIVATION_BOUNDS

F32, I8, I4, I32 = DType.FLOAT32, DType.INT8, DType.INT4, DType.INT32

MAX_RANK = 5
"""Dimensions of any tensor: TFLM's shape type holds no more without allocating."""

MAX_CONCATENATED = 10
"""Inputs of one CONCATENATION on TFLM (``kMaxInputNum`` of ``concatenation.cc``)."""

_MAX_WINDOW = 2**15 - 1


@dataclass(frozen=True, eq=False)
class Use:
    """One op with its operands, as a rule sees it: arity, dtypes and ranks are already right."""

    op: Op
    inputs: tuple[Tensor, ...]
    output: Tensor

    @property
    def x(self) -> Tensor:
        """The first input."""
        return self.inputs[0]

    @property
    def quantized(self) -> bool:
        """Whether the op takes int8 to int8; else it is float32 or converts between the two."""
        return self.x.dtype is I8 and self.output.dtype is I8

    def scale(self, tensor: Tensor) -> float:
        """The scale of a tensor that is quantized per tensor."""
        assert tensor.quantization is not None
        return float(tensor.quantization.scale[0])


Rule = Callable[[Use], Iterator[str]]


@dataclass(frozen=True, eq=False)
class OpRule:
    """What one op may be given.

    ``operands`` names the inputs; with ``variadic`` the last one repeats. ``dtypes`` lists the combinations
    of input dtypes and output dtype. ``ranks`` holds the smallest and largest rank of every data operand.
    ``parameters`` are operands without quantization that must be constants (axes, paddings); ``indices`` are
    such operands that may be computed.
    ``weight_rank`` is the rank of operand 1 where operands 1 and 2 are constant weights and bias, else 0.
    """

    op: type[Op]
    operands: tuple[str, ...]
    dtypes: tuple[tuple[tuple[DType, ...], DType], ...]
    ranks: tuple[int, int]
    rules: tuple[Rule, ...] = ()
    parameters: frozenset[str] = frozenset()
    weight_rank: int = 0
    variadic: bool = False
    indices: frozenset[str] = frozenset()


# --- rules: attributes ----------------------------------------------------------------------------


def window_attributes(use: Use) -> Iterator[str]:
    """Strides, dilations, filter sizes and the depth multiplier lie in 1 to 32767; so does a window's reach.

    The kernels keep dilations and paddings in int16; the reach is (filter - 1) x dilation + 1.
    """
    for name in ("stride", "dilation", "filter", "depth_multiplier"):
        value = getattr(use.op, name, 1)
        if not all(1 <= part <= _MAX_WINDOW for part in (value if isinstance(value, tuple) else (value,))):
            yield f"{name} {value} must lie in 1 to {_MAX_WINDOW}"
    if isinstance(use.op, ir.Conv2D | ir.DepthwiseConv2D):
        kernel = use.inputs[1].shape[1:3]
        reach = max((size - 1) * step + 1 for size, step in zip(kernel, use.op.dilation, strict=True))
        if reach > _MAX_WINDOW:
            yield (
                f"filter {kernel} with dilation {use.op.dilation} reaches over {reach} values, "
                f"at most {_MAX_WINDOW}"
            )


def no_activation(use: Use) -> Iterator[str]:
    """No fused activation: the kernels refuse it."""
    activation = getattr(use.op, "activation", Activation.NONE)
    if activation is not Activation.NONE:
        yield f"activation {activation} cannot be fused into this op"


def plain_sum(use: Use) -> Iterator[str]:
    """Plain integers have no fused activation: kernels bound them otherwise."""
    if use.x.dtype is I32:
        yield from no_activation(use)


def few_inputs(use: Use) -> Iterator[str]:
    """At most 10 inputs."""
    if len(use.inputs) > MAX_CONCATENATED:
        yield f"{len(use.inputs)} inputs, at most {MAX_CONCATENATED}"


def one_way_of_counting(use: Use) -> Iterator[str]:
    """Not align_corners and half_pixel_centers at once."""
    assert isinstance(use.op, ir.ResizeBilinear)
    if use.op.align_corners and use.op.half_pixel_centers:
        yield "align_corners and half_pixel_centers exclude each other"


def resized_inside(use: Use) -> Iterator[str]:
    """In int8 the last position lies inside the image: the kernels count in 1024ths and read beyond it."""
    assert isinstance(use.op, ir.ResizeBilinear)
    size = use.inputs[1].data
    if not use.quantized or size is None or size.shape != (2,) or int(size.min()) < 1:
        return  # the shapes have their own finding
    for own, made in zip(use.x.shape[1:3], (int(size[0]), int(size[1])), strict=True):
        start, step = bilinear_steps(use.op, own, made)
        if start + (made - 1) * step >= own << 10:
            yield f"{own} values resized to {made} read beyond the last one"


def counted_inputs(use: Use) -> Iterator[str]:
    """As many inputs as the op says."""
    assert isinstance(use.op, ir.Pack)
    if len(use.inputs) != use.op.values_count:
        yield f"{len(use.inputs)} inputs, values_count is {use.op.values_count}"


def broadcast_rank(use: Use) -> Iterator[str]:
    """Operands of unlike shapes have at most 4 dimensions."""
    if use.inputs[0].shape != use.inputs[1].shape and len(use.output.shape) > 4:
        yield "operands of unlike shapes have at most 4 dimensions"


def softmax_beta(use: Use) -> Iterator[str]:
    """beta is finite and positive; in int8, beta x input scale exceeds 2^-26 (the kernel's fixed point)."""
    assert isinstance(use.op, ir.Softmax)
    beta = use.op.beta
    if not (math.isfinite(beta) and beta > 0):
        yield f"beta {beta} must be finite and positive"
    elif use.quantized and beta * use.scale(use.x) <= 2.0**-26:
        yield f"beta {beta} x input scale {use.scale(use.x)} must exceed 2^-26"


def softmax_classes(use: Use) -> Iterator[str]:
    """In int8 at most 511 values: 512 equal maxima leave the kernels' fixed-point sum, and they abort."""
    if use.quantized and use.x.shape[-1] > 511:
        yield f"{use.x.shape[-1]} values to normalize, at most 511 in int8"


# --- rules: quantization --------------------------------------------------------------------------


def hard_swish_range(use: Use) -> Iterator[str]:
    """In int8 the input scale lies in 2^-22 to 2^20, and in 2^-9 to 128 (exclusive) of the output scale.

    The kernels refuse more than 128, and shift their 16-bit integers by more than 15 beyond the others.
    """
    if use.quantized:
        own, output = use.scale(use.x), use.scale(use.output)
        if not 2.0**-22 <= own <= 2.0**20:
            yield f"input scale {own:g} must lie in 2^-22 to 2^20"
        if not 2.0**-9 <= own / output < 128:
            yield f"input scale {own:g} must lie in 2^-9 to 128 times output scale {output:g}"


def leaky_slope(use: Use) -> Iterator[str]:
    """alpha is finite and not negative: the kernels have no negative multipliers."""
    assert isinstance(use.op, ir.LeakyRelu)
    if not (math.isfinite(use.op.alpha) and use.op.alpha >= 0):
        yield f"alpha {use.op.alpha} must be finite and not negative"


def squares_range(use: Use) -> Iterator[str]:
    """In int8 at most 32768 values a row: the kernels add up their squares in 32 bits."""
    if use.quantized and use.x.shape[-1] > 2**15:
        yield f"{use.x.shape[-1]} values to normalize, at most 32768 in int8"


def products_range(use: Use) -> Iterator[str]:
    """In int8 at most 32768 products a value: the kernels add them up in 32 bits."""
    assert isinstance(use.op, ir.BatchMatMul)
    depth = use.x.shape[-2 if use.op.adj_x else -1]
    if use.quantized and depth > 2**15:
        yield f"{depth} products to add up, at most 32768 in int8"


def indices_inside(use: Use) -> Iterator[str]:
    """Constant indices count from 0 and lie inside the dimension: the kernels read whatever they point to."""
    assert isinstance(use.op, ir.Gather)
    data, rank = use.inputs[1].data, len(use.x.shape)
    if data is None or not -rank <= use.op.axis < rank:
        return  # the axis has its own finding
    size, least, most = use.x.shape[use.op.axis], int(data.min()), int(data.max())
    if least < 0 or most >= size:
        yield f"indices {least} to {most} leave the {size} values of axis {use.op.axis}"


def same_parameters(use: Use) -> Iterator[str]:
    """Data inputs and output hold the same scale and zero point, bit for bit."""
    if not use.quantized:
        return
    for tensor in use.inputs:
        if tensor.dtype is I8 and not _parameters(tensor).same_as(use.output.quantization):
            yield (
                f"'{tensor.name}' ({_describe(tensor)}) and '{use.output.name}' ({_describe(use.output)}) "
                "must have the same scale and zero point"
            )


def fixed_output(use: Use) -> Iterator[str]:
    """The int8 output has the parameters that TFLite prescribes, such as scale 1/256 and zero point -128."""
    steps, zero_point = _FIXED_OUTPUT[type(use.op)]
    if use.quantized and not _parameters(use.output).same_as(Quantization.per_tensor(1 / steps, zero_point)):
        yield f"output has {_describe(use.output)}, must be scale 1/{steps}, zero point {zero_point}"


def fixed_point_input(use: Use) -> Iterator[str]:
    """In int8 the input scale lies in 2^-28 to 8: TFLM's fixed point gives the lowest output at 0 beyond."""
    if use.quantized and not 2.0**-28 <= use.scale(use.x) < 8:
        yield f"input scale {use.scale(use.x):g} must be at least 2^-28 and below 8"


def activation_range(use: Use) -> Iterator[str]:
    """The bounds of an activation stay below 2^31 output steps: the kernels refuse others."""
    activation = Activation.RELU6 if isinstance(use.op, ir.Relu6) else getattr(use.op, "activation", None)
    if use.quantized and activation is not None:
        for bound in ACTIVATION_BOUNDS[activation]:
            if bound is not None and abs(bound) / use.scale(use.output) >= 2.0**31:
                yield f"activation {activation} at output scale {use.scale(use.output):g} leaves 32 bits"


def rescale_range(use: Use) -> Iterator[str]:
    """The real requantization multipliers stay below 2^30, so that their shift fits the kernels' int32."""
    if use.quantized:
        factor = _MULTIPLIER[type(use.op)](use)
        if not factor < 2.0**30:
            yield f"the requantization multiplier {factor:g} must stay below 2^30"


def weighted_rescale(use: Use) -> Iterator[str]:
    """Input scale x weight scale stays below 256 x output scale: LiteRT's XNNPACK fails to load other models.

    Nothing is lost: one step of such an accumulator is beyond all of the output's range.
    """
    if use.quantized:
        x, weights, output = (_parameters(tensor).scale for tensor in (use.x, use.inputs[1], use.output))
        with np.errstate(over="ignore"):  # infinite is too large, too
            factor = float((x[0] * weights / output[0]).max())  # in float32, as XNNPACK does
        if not factor < 256:
            yield f"the requantization multiplier {factor:g} must stay below 256"


def add_rescale(use: Use) -> Iterator[str]:
    """The larger input scale stays below 2^8 x output scale: beyond, LiteRT's XNNPACK saturates wrongly.

    Nothing is lost: one step of such an input is beyond all of the output's range. (TFLite's own bound, an
    output multiplier below 1, is 2^19.)
    """
    if use.quantized:
        largest, output = max(use.scale(tensor) for tensor in use.inputs), use.scale(use.output)
        if not largest < 2**8 * output:
            yield f"input scale {largest:g} must stay below 2^8 x output scale {output:g}"


def weight_parameters(use: Use) -> Iterator[str]:
    """Weights have zero point 0 and values in [-127, 127] (int4: [-7, 7]).

    Per channel along axis 0, or 3 for depthwise; depthwise weights are never per tensor.
    """
    weights = use.inputs[1]
    if weights.dtype is F32:
        return
    quantization, name = _parameters(weights), f"weights '{weights.name}'"
    axis = 3 if isinstance(use.op, ir.DepthwiseConv2D) else 0
    if quantization.axis not in (None, axis):
        yield f"{name} are quantized along axis {quantization.axis}, must be {axis}"
    if axis == 3 and quantization.scale.size != weights.shape[3]:
        yield f"{name} have {quantization.scale.size} scales for {weights.shape[3]} channels"
    if quantization.zero_point.any():
        yield f"{name} have a zero point that is not 0"
    limit = 7 if weights.dtype is I4 else 127
    if weights.data is not None and int(weights.data.min()) < -limit:
        yield f"{name} hold {int(weights.data.min())}, below -{limit}"


def bias_parameters(use: Use) -> Iterator[str]:
    """The bias has zero point 0 and, channel by channel, scale = input scale x weight scale in float32."""
    if use.x.dtype is F32:
        return
    x, weights, bias = (_parameters(tensor) for tensor in use.inputs)
    name = f"bias '{use.inputs[2].name}'"
    if bias.zero_point.any():
        yield f"{name} has a zero point that is not 0"
    if bias.axis not in (None, 0):
        yield f"{name} is quantized along axis {bias.axis}, must be 0"
    expected = x.scale[0] * weights.scale
    if bias.scale.shape != expected.shape:
        yield f"{name} has {bias.scale.size} scales, the weights {weights.scale.size}"
    elif (wrong := np.flatnonzero(bias.scale != expected)).size:
        i = int(wrong[0])
        yield (
            f"{name} has scale {bias.scale[i]!r} at channel {i}, "
            f"must be input scale x weight scale = {expected[i]!r} ({wrong.size} channels)"
        )


def accumulator_range(use: Use) -> Iterator[str]:
    """No input can drive a channel's sum of products and bias out of int32, in which the kernels add up."""
    weights, bias = use.inputs[1].data, use.inputs[2].data
    if use.x.dtype is F32 or weights is None or bias is None:
        return
    zero_point = int(_parameters(use.x).zero_point[0])
    largest_input = max(127 - zero_point, zero_point + 128)
    axis = 3 if isinstance(use.op, ir.DepthwiseConv2D) else 0
    others = tuple(dimension for dimension in range(weights.ndim) if dimension != axis)
    sums = np.abs(weights.astype(np.int16)).sum(axis=others, dtype=np.int64) * largest_input
    if sums.shape != bias.shape:  # the shapes have their own finding
        return
    reach = int((sums + np.abs(bias.astype(np.int64))).max())
    if reach >= 2**31:
        yield f"sums of products and bias '{use.inputs[2].name}' reach {reach}, beyond int32"


def _parameters(tensor: Tensor) -> Quantization:
    assert tensor.quantization is not None
    return tensor.quantization


def _describe(tensor: Tensor) -> str:
    quantization = _parameters(tensor)
    return f"scale {quantization.scale[0]!r}, zero point {quantization.zero_point[0]}"


def _unary(use: Use) -> float:
    return use.scale(use.x) / use.scale(use.output)


def _leaky(use: Use) -> float:
    assert isinstance(use.op, ir.LeakyRelu)
    return max(1.0, use.op.alpha) * _unary(use)


def _product(use: Use) -> float:
    return use.scale(use.x) * float(_parameters(use.inputs[1]).scale.max()) / use.scale(use.output)


_MULTIPLIER: Mapping[type[Op], Callable[[Use], float]] = MappingProxyType(
    {
        ir.Mul: _product,
        ir.Mean: _unary,
        ir.Relu: _unary,
        ir.LeakyRelu: _leaky,
        ir.PRelu: lambda use: max(_unary(use), _product(use)),
        ir.Quantize: _unary,
    }
)

_FIXED_OUTPUT: Mapping[type[Op], tuple[int, int]] = MappingProxyType(
    {ir.Softmax: (256, -128), ir.Logistic: (256, -128), ir.Tanh: (128, 0), ir.L2Normalization: (128, 0)}
)
"""Op -> output steps that make 1, zero point."""

# --- the table ------------------------------------------------------------------------------------

_WEIGHTED = (((F32, F32, F32), F32), ((I8, I8, I32), I8), ((I8, I4, I32), I8))
_BINARY = (((F32, F32), F32), ((I8, I8), I8))
_UNARY = (((F32,), F32), ((I8,), I8))
_WITH_PARAMETER = (((F32, I32), F32), ((I8, I32), I8))
_WEIGHTED_OPERANDS = ("x", "weights", "bias")
_WEIGHT_RULES = (weight_parameters, bias_parameters, weighted_rescale, activation_range, accumulator_range)

OP_RULES: Mapping[type[Op], OpRule] = MappingProxyType(
    {
        rule.op: rule
        for rule in (
            OpRule(
                ir.Conv2D,
                _WEIGHTED_OPERANDS,
                _WEIGHTED,
                (4, 4),
                (window_attributes, *_WEIGHT_RULES),
                weight_rank=4,
            ),
            OpRule(
                ir.DepthwiseConv2D,
                _WEIGHTED_OPERANDS,
                _WEIGHTED,
                (4, 4),
                (window_attributes, *_WEIGHT_RULES),
                weight_rank=4,
            ),
            OpRule(ir.FullyConnected, _WEIGHTED_OPERANDS, _WEIGHTED, (1, 4), _WEIGHT_RULES, weight_rank=2),
            OpRule(ir.BatchMatMul, ("a", "b"), _BINARY, (2, MAX_RANK), (products_range, weighted_rescale)),
            OpRule(
                ir.Add,
                ("a", "b"),
                (*_BINARY, ((I32, I32), I32)),
                (0, MAX_RANK),
                (broadcast_rank, add_rescale, activation_range, plain_sum),
            ),
            OpRule(
                ir.Sub, ("a", "b"), _BINARY, (0, MAX_RANK), (broadcast_rank, add_rescale, activation_range)
            ),
            OpRule(
                ir.Mul, ("a", "b"), _BINARY, (0, MAX_RANK), (broadcast_rank, rescale_range, activation_range)
            ),
            OpRule(
                ir.MaxPool2D, ("x",), _UNARY, (4, 4), (window_attributes, same_parameters, activation_range)
            ),
            OpRule(
                ir.AveragePool2D,
                ("x",),
                _UNARY,
                (4, 4),
                (window_attributes, same_parameters, activation_range),
            ),
            OpRule(
                ir.ResizeNearestNeighbor,
                ("x", "size"),
                _WITH_PARAMETER,
                (4, 4),
                (same_parameters,),
                frozenset({"size"}),
            ),
            OpRule(
                ir.ResizeBilinear,
                ("x", "size"),
                _WITH_PARAMETER,
                (4, 4),
                (one_way_of_counting, resized_inside, same_parameters),
                frozenset({"size"}),
            ),
            OpRule(ir.Mean, ("x", "axes"), _WITH_PARAMETER, (1, 4), (rescale_range,), frozenset({"axes"})),
            OpRule(
                ir.Concatenation,
                ("x",),
                _UNARY,
                (1, MAX_RANK),
                (no_activation, few_inputs, same_parameters),
                variadic=True,
            ),
            OpRule(
                ir.Gather,
                ("x", "indices"),
                _WITH_PARAMETER,
                (1, MAX_RANK),
                (indices_inside, same_parameters),
                indices=frozenset({"indices"}),
            ),
            OpRule(ir.Cast, ("x",), (((I8,), I32),), (0, MAX_RANK)),
            OpRule(
                ir.StridedSlice,
                ("x", "begin", "end", "strides"),
                (((F32, I32, I32, I32), F32), ((I8, I32, I32, I32), I8)),
                (1, 4),
                (same_parameters,),
                frozenset({"begin", "end", "strides"}),
            ),
            OpRule(
                ir.Pack, ("x",), _UNARY, (0, MAX_RANK - 1), (counted_inputs, same_parameters), variadic=True
            ),
            OpRule(
                ir.Pad,
                ("x", "paddings"),
                _WITH_PARAMETER,
                (1, 4),
                (same_parameters,),
                frozenset({"paddings"}),
            ),
            OpRule(
                ir.Reshape,
                ("x", "shape"),
                _WITH_PARAMETER,
                (0, MAX_RANK),
                (same_parameters,),
                frozenset({"shape"}),
            ),
            OpRule(
                ir.Transpose,
                ("x", "permutation"),
                _WITH_PARAMETER,
                (1, MAX_RANK),
                (same_parameters,),
                frozenset({"permutation"}),
            ),
            OpRule(ir.Softmax, ("x",), _UNARY, (1, 4), (softmax_beta, softmax_classes, fixed_output)),
            OpRule(ir.Logistic, ("x",), _UNARY, (0, MAX_RANK), (fixed_point_input, fixed_output)),
            OpRule(ir.Tanh, ("x",), _UNARY, (0, MAX_RANK), (fixed_point_input, fixed_output)),
            OpRule(ir.L2Normalization, ("x",), _UNARY, (1, 4), (squares_range, fixed_output)),
            OpRule(ir.HardSwish, ("x",), _UNARY, (0, MAX_RANK), (hard_swish_range,)),
            OpRule(ir.LeakyRelu, ("x",), _UNARY, (0, MAX_RANK), (leaky_slope, rescale_range)),
            OpRule(ir.PRelu, ("x", "alpha"), _BINARY, (0, 4), (rescale_range,)),
            OpRule(ir.Relu, ("x",), _UNARY, (0, MAX_RANK), (rescale_range,)),
            # TFLM's RELU6 clamps without requantizing.
            OpRule(ir.Relu6, ("x",), _UNARY, (0, MAX_RANK), (same_parameters, activation_range)),
            OpRule(ir.Quantize, ("x",), (((F32,), I8), ((I8,), I8)), (0, MAX_RANK), (rescale_range,)),
            OpRule(ir.Dequantize, ("x",), (((I8,), F32),), (0, MAX_RANK)),
        )
    }
)
