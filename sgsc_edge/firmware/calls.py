"""A step as a call in C: the kernels it takes, its constants, its parameters.

Every function here takes a step with its operands and says what its kernel wants to know. The arithmetic that
these parameters stand for is that of ``graph.reference``, under the profile of TFLite Micro.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.firmware.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Node, Tensor
from sgsc_edge.graph.reference.common import integer_range, quantization, scale, zero_point
from sgsc_edge.graph.reference.matrix import Axis
from sgsc_edge.graph.reference.reduction import softmax_table
from sgsc_edge.numerics import (
    INT32_MAX,
    INT32_MIN,
    PROFILES,
    pack_int4,
    quantize_multiplier,
    quantized_activation_range,
    real_multiplier,
)

_TFLM = PROFILES["tflm"]
_ADD_BITS = 20


@dataclass(frozen=True)
class Call:
    """What a step becomes.

    Parameters
    ----------
    function: the kernel that is called, without its prefix.
    kernels: those that the model's file must hold.
    struct: the type of its parameters, without prefix, and their values by member; None where it takes none.
    constants: arrays for the constant data, by the member that points to them.
    plain: arguments in front of the operands.
    operands: tensors that are passed, in order; the output follows.
    offset: bytes of the output in front of what this call writes.
    scratch: bytes that the kernel needs for itself, passed in front of the output.
    """

    function: str
    kernels: tuple[str, ...]
    operands: tuple[Tensor, ...]
    struct: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    offset: int = 0
    scratch: int = 0


Operands = Sequence[Tensor]


def calls(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """The calls that compute a step.

    Parameters
    ----------
    operands: of the step's node, in its order.
    output: what the step makes.
    learned: whether weights are packed at the smallest width that holds each filter.

    Raises
    ------
    UnsupportedError: the op, or a type of its operands, has no kernel in C.
    """
    make = _CALLS.get(type(step.node.op))
    data = (*operands[:1], output)
    if make is None or not all(tensor.dtype in (DType.INT8, DType.FLOAT32) for tensor in data):
        raise _unsupported(step.node, output, "there is no C kernel for this op on these types")
    if not isinstance(step.node.op, ir.Quantize | ir.Dequantize) and any(
        tensor.dtype is DType.FLOAT32 for tensor in data
    ):
        raise _unsupported(
            step.node, output, "the C kernels compute with integers, and this op takes float32"
        )
    return make(step, operands, output, learned)


def _unsupported(node: Node, output: Tensor, reason: str) -> UnsupportedError:
    return UnsupportedError(
        node=node.source or output.name,
        op=node.kind,
        reason=reason,
        remedy="convert the model to int8 throughout, or run the .tflite itself on TFLite Micro",
    )


# --- what ops share -------------------------------------------------------------------------------


def _bounds(activation: Activation, output: Tensor) -> tuple[int, int]:
    return quantized_activation_range(
        activation, float(scale(output)), zero_point(output), *integer_range(output)
    )


def _q31(ratio: float) -> tuple[int, int]:
    multiplier, shift = quantize_multiplier(ratio)
    return int(multiplier), int(shift)


def _ratio(a: Tensor, output: Tensor) -> float:
    return float(np.float64(scale(a)) / np.float64(scale(output)))


def _steps(shape: Sequence[int]) -> list[int]:
    """How far a row-major array goes on in each dimension."""
    steps = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        steps[axis] = steps[axis + 1] * shape[axis + 1]
    return steps


def _merged(size: Sequence[int], *steps: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The same walk in as few dimensions as possible: neighbours that go on evenly become one."""
    sizes: list[int] = []
    walks: list[list[int]] = [[] for _ in steps]
    for axis, length in enumerate(size):
        if length == 1:
            continue
        here = [walk[axis] for walk in steps]
        if sizes and all(walk[-1] == step * length for walk, step in zip(walks, here, strict=True)):
            sizes[-1] *= length
            for walk, step in zip(walks, here, strict=True):
                walk[-1] = step
        else:
            sizes.append(length)
            for walk, step in zip(walks, here, strict=True):
                walk.append(step)
    return sizes, walks


def _padded(values: Sequence[int], rank: int, fill: int) -> list[int]:
    return [fill] * (rank - len(values)) + list(values)


# --- layers with weights --------------------------------------------------------------------------


def _layer(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    op, x, weights = step.node.op, operands[0], operands[1]
    if isinstance(op, ir.FullyConnected):
        filters = _integers(weights).reshape(-1, 1, 1, weights.shape[-1])
        rows = x.elements // weights.shape[-1]
        image: tuple[int, ...] = (rows, 1, weights.shape[-1])
        sums = (rows, 1)
        window: dict[str, int] = {"stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}
        pads = (0, 0)
        group_in, group_out = weights.shape[-1], len(filters)
    else:
        assert isinstance(op, ir.Conv2D | ir.DepthwiseConv2D)
        depthwise = isinstance(op, ir.DepthwiseConv2D)
        stored = _integers(weights)
        filters = np.moveaxis(stored[0], 2, 0)[..., np.newaxis] if depthwise else stored
        image = x.shape[1:4]
        axes = [
            Axis.of(image[i], filters.shape[1 + i], op.stride[i], op.dilation[i], op.padding) for i in (0, 1)
        ]
        sums, pads = (axes[0].out, axes[1].out), (axes[0].before, axes[1].before)
        window = {
            "stride_h": op.stride[0],
            "stride_w": op.stride[1],
            "dilation_h": op.dilation[0],
            "dilation_w": op.dilation[1],
        }
        group_in = filters.shape[3]
        group_out = len(filters) * group_in // image[2]
    kind = "depthwise" if isinstance(op, ir.DepthwiseConv2D) else "conv"
    if isinstance(op, ir.DepthwiseConv2D):
        group_out = op.depth_multiplier
    bias = operands[2].data if len(operands) > 2 else None
    folded = _folded_bias(step.node, output, filters, bias, zero_point(x))
    real = real_multiplier(_TFLM.convolution.precision, scale(x), scale(weights), scale(output))
    multiplier, shift = (np.atleast_1d(part) for part in quantize_multiplier(real))
    low, high = _bounds(getattr(op, "activation", Activation.NONE), output)
    constants: dict[str, NDArray[Any]] = {
        "bias": folded,
        "multiplier": multiplier.astype(np.int32),
        "shift": shift.astype(np.int8),
    }
    scratch = 0
    if learned:
        width, (constants["weights"], constants["bits"]) = "learned", _pack(filters)
        scratch = filters[0].size
    elif weights.dtype is DType.INT4:
        width, constants["weights"] = "int4", pack_int4(filters).view(np.int8)
    else:
        width, constants["weights"] = "int8", filters.astype(np.int8).reshape(-1)
    pool, out = _pool_of(step, sums)
    if step.pool is not None:
        assert isinstance(step.pool.op, ir.MaxPool2D)
        pool_low, pool_high = _bounds(step.pool.op.activation, output)
        low, high = min(max(low, pool_low), pool_high), min(max(high, pool_low), pool_high)
    return [
        Call(
            f"{kind}_{width}",
            (f"{kind}_{width}",),
            (x,),
            "layer",
            {
                "scales": int(len(multiplier) > 1),
                "in_h": image[0],
                "in_w": image[1],
                "in_c": image[2],
                "sums_h": sums[0],
                "sums_w": sums[1],
                "out_h": out[0],
                "out_w": out[1],
                "out_c": len(filters),
                "kernel_h": filters.shape[1],
                "kernel_w": filters.shape[2],
                **window,
                "pad_h": pads[0],
                "pad_w": pads[1],
                "group_in": group_in,
                "group_out": group_out,
                **pool,
                "x_zero": zero_point(x),
                "y_zero": zero_point(output),
                "low": low,
                "high": high,
            },
            constants,
            scratch=scratch,
        )
    ]


def _integers(weights: Tensor) -> NDArray[np.int64]:
    assert weights.data is not None
    return weights.data.astype(np.int64)


def _folded_bias(
    node: Node, output: Tensor, filters: NDArray[np.int64], bias: NDArray[Any] | None, x_zero: int
) -> NDArray[np.int32]:
    """The bias less what the input's zero point adds to the sums; int32 [O]."""
    flat = filters.reshape(len(filters), -1)
    folded = (0 if bias is None else bias.astype(np.int64)) - x_zero * flat.sum(1)
    largest = 128 * np.abs(flat).sum(1).max(initial=0)
    if largest > INT32_MAX or folded.min(initial=0) < INT32_MIN or folded.max(initial=0) > INT32_MAX:
        raise _unsupported(node, output, "its sums may leave 32 bits")
    return np.asarray(folded, np.int32)


def _pack(filters: NDArray[np.int64]) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Filters at the smallest width that holds each, least significant bit first, and those widths; each
    filter starts at a byte."""
    widths, parts = [], []
    for weights in filters.reshape(len(filters), -1):
        bits = next(
            b for b in range(1, 9) if -(2 ** (b - 1)) <= weights.min() and weights.max() < 2 ** (b - 1)
        )
        stream = (weights[:, np.newaxis] >> np.arange(bits)) & 1
        parts.append(np.packbits(stream.reshape(-1).astype(np.uint8), bitorder="little"))
        widths.append(bits)
    return np.concatenate(parts).view(np.int8), np.array(widths, np.uint8)


def _pool_of(step: Step, sums: tuple[int, int]) -> tuple[dict[str, int], tuple[int, int]]:
    """The window that is taken of a layer's sums, and the size of what it gives."""
    if step.pool is None:
        size, stride, pads, out = (1, 1), (1, 1), (0, 0), sums
    else:
        op = step.pool.op
        assert isinstance(op, ir.MaxPool2D)
        axes = [Axis.of(sums[i], op.filter[i], op.stride[i], 1, op.padding) for i in (0, 1)]
        size, stride, out = op.filter, op.stride, (axes[0].out, axes[1].out)
        pads = (axes[0].before, axes[1].before)
    window = {
        "pool_h": size[0],
        "pool_w": size[1],
        "pool_stride_h": stride[0],
        "pool_stride_w": stride[1],
        "pool_pad_h": pads[0],
        "pool_pad_w": pads[1],
    }
    return window, out


# --- the others -----------------------------------------------------------------------------------


def _pool(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    op, (x, *_) = step.node.op, operands
    assert isinstance(op, ir.MaxPool2D | ir.AveragePool2D)
    name = "max_pool" if isinstance(op, ir.MaxPool2D) else "average_pool"
    _, height, width, channels = x.shape
    rows = Axis.of(height, op.filter[0], op.stride[0], 1, op.padding)
    columns = Axis.of(width, op.filter[1], op.stride[1], 1, op.padding)
    low, high = _bounds(op.activation, output)
    parameters = {
        "in_h": height,
        "in_w": width,
        "channels": channels,
        "out_h": rows.out,
        "out_w": columns.out,
        "filter_h": op.filter[0],
        "filter_w": op.filter[1],
        "stride_h": op.stride[0],
        "stride_w": op.stride[1],
        "pad_h": rows.before,
        "pad_w": columns.before,
        "low": low,
        "high": high,
    }
    return [Call(name, (name,), (x,), "pool", parameters)]


def _mean(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    x, axes = operands
    assert axes.data is not None
    rank = len(x.shape)
    over = {int(axis) % rank for axis in axes.data.ravel()}
    count = int(np.prod([x.shape[axis] for axis in over], dtype=np.int64))
    steps = _steps(x.shape)

    def walk(chosen: Sequence[int]) -> tuple[list[int], list[int]]:
        size, (step,) = _merged([x.shape[a] for a in chosen], [steps[a] for a in chosen])
        return _padded(size, 3, 1), _padded(step, 3, 0)

    kept, kept_step = walk([axis for axis in range(rank) if axis not in over])
    reduced, reduced_step = walk(sorted(over))
    multiplier, exponent = _q31(_ratio(x, output))
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    parameters = {
        "kept": kept,
        "kept_step": kept_step,
        "reduced": reduced,
        "reduced_step": reduced_step,
        "x_zero": zero_point(x),
        "y_zero": zero_point(output),
        "multiplier": (multiplier << shift) // count,
        "shift": exponent - shift,
    }
    return [Call("mean", ("mean",), (x,), "mean_of", parameters)]


def _binary(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    op, (a, b) = step.node.op, operands
    assert isinstance(op, ir.Add | ir.Mul)
    rank = len(output.shape)

    def walk(tensor: Tensor) -> list[int]:
        shape = _padded(tensor.shape, rank, 1)
        return [0 if size == 1 else step for size, step in zip(shape, _steps(shape), strict=True)]

    size, (a_step, b_step) = _merged(output.shape, walk(a), walk(b))
    low, high = _bounds(op.activation, output)
    parameters: dict[str, Any] = {
        "size": _padded(size, 4, 1),
        "a_step": _padded(a_step, 4, 0),
        "b_step": _padded(b_step, 4, 0),
        "a_zero": zero_point(a),
        "b_zero": zero_point(b),
        "y_zero": zero_point(output),
        "low": low,
        "high": high,
    }
    scales = [np.float64(scale(tensor)) for tensor in (a, b)]
    if isinstance(op, ir.Add):
        twice = 2 * max(scales)
        for name, own in zip("ab", scales, strict=True):
            parameters[f"{name}_multiplier"], parameters[f"{name}_shift"] = _q31(float(own / twice))
        ratio = float(twice / (2.0**_ADD_BITS * np.float64(scale(output))))
    else:
        ratio = float(real_multiplier(_TFLM.multiply.precision, scale(a), scale(b), scale(output)))
    parameters["multiplier"], parameters["shift"] = _q31(ratio)
    name = "add" if isinstance(op, ir.Add) else "mul"
    return [Call(name, (name,), (a, b), "binary", parameters)]


def _requantize(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    (x,) = operands
    low, high = _bounds(Activation.RELU if isinstance(step.node.op, ir.Relu) else Activation.NONE, output)
    multiplier, shift = _q31(_ratio(x, output))
    parameters = {
        "size": output.elements,
        "x_zero": zero_point(x),
        "y_zero": zero_point(output),
        "multiplier": multiplier,
        "shift": shift,
        "low": low,
        "high": high,
    }
    return [Call("requantize", ("requantize",), (x,), "grid", parameters)]


def _limit(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    (x,) = operands
    low, high = _bounds(Activation.RELU6, output)
    return [Call("limit", ("limit",), (x,), plain=(str(output.elements), str(low), str(high)))]


def _convert(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    (x,) = operands
    if x.dtype is output.dtype:
        return _requantize(step, operands, output, learned)
    name = "quantize" if x.dtype is DType.FLOAT32 else "dequantize"
    own = output if name == "quantize" else x
    if quantization(own).axis is not None:
        raise _unsupported(step.node, output, "its parameters differ by channel")
    plain = (str(x.elements), f"{float_literal(float(scale(own)))}", str(zero_point(own)))
    return [Call(name, (name,), (x,), plain=plain)]


def _softmax(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    op, (x,) = step.node.op, operands
    assert isinstance(op, ir.Softmax)
    table, counted = softmax_table(op.beta, float(scale(x)))
    parameters = {"counted": counted, "rows": x.elements // x.shape[-1], "size": x.shape[-1]}
    constants = {"exponentials": table[:counted].astype(np.int32)}
    return [Call("softmax", ("softmax",), (x,), "softmax_of", parameters, constants)]


def _block(
    x: Tensor, size: Sequence[int], x_step: Sequence[int], y_step: Sequence[int], offset: int = 0
) -> Call:
    sizes, (from_step, to_step) = _merged(size, x_step, y_step)
    parameters = {
        "size": _padded(sizes, 5, 1),
        "x_step": _padded(from_step, 5, 0),
        "y_step": _padded(to_step, 5, 0),
    }
    return Call("move", ("move",), (x,), "block", parameters, offset=offset)


def _concatenation(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    op = step.node.op
    assert isinstance(op, ir.Concatenation)
    if op.activation is not Activation.NONE:
        raise _unsupported(step.node, output, f"its activation {op.activation} is not computed")
    axis = op.axis % len(output.shape)
    steps = _steps(output.shape)
    made, before = [], 0
    for x in operands:
        made.append(_block(x, x.shape, _steps(x.shape), steps, before * steps[axis]))
        before += x.shape[axis]
    return made


def _pad(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    x, paddings = operands
    assert paddings.data is not None
    steps = _steps(output.shape)
    offset = sum(int(before) * step for (before, _), step in zip(paddings.data, steps, strict=True))
    zero = (str(output.elements), str(zero_point(output)))
    return [Call("fill", ("fill",), (), plain=zero), _block(x, x.shape, _steps(x.shape), steps, offset)]


def _transpose(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    x, permutation = operands
    assert permutation.data is not None
    steps = _steps(x.shape)
    return [_block(x, output.shape, [steps[int(a)] for a in permutation.data.ravel()], _steps(output.shape))]


def float_literal(value: float) -> str:
    """A float32 in C, exactly: hexadecimal digits."""
    return f"{float(np.float32(value)).hex()}f"


_CALLS: Mapping[type[ir.Op], Callable[[Step, Operands, Tensor, bool], list[Call]]] = MappingProxyType(
    {
        ir.Conv2D: _layer,
        ir.DepthwiseConv2D: _layer,
        ir.FullyConnected: _layer,
        ir.MaxPool2D: _pool,
        ir.AveragePool2D: _pool,
        ir.Mean: _mean,
        ir.Add: _binary,
        ir.Mul: _binary,
        ir.Relu: _requantize,
        ir.Relu6: _limit,
        ir.Quantize: _convert,
        ir.Dequantize: _convert,
        ir.Softmax: _softmax,
        ir.Concatenation: _concatenation,
        ir.Pad: _pad,
        ir.Transpose: _transpose,
    }
)
