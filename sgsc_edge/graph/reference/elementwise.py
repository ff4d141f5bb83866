"""ADD, SUB, MUL, PRELU, RELU, RELU6, QUANTIZE and DEQUANTIZE.

ADD brings both inputs to twice the larger scale with 20 extra bits, adds, and rescales::

    t = 2 * max(a_scale, b_scale)
    sum = round((a - a_zero) * 2**20 * a_scale / t) + round((b - b_zero) * 2**20 * b_scale / t)
    y = y_zero + round(sum * t / (2**20 * y_scale))

SUB takes the second term away.

Sources: TFLite ``reference/integer_ops/add.h``, ``mul.h``, ``reference/sub.h``, ``requantize.h``,
``quantize.h``, ``prelu.h``; LiteRT ``kernels/add.cc``, ``sub.cc``, ``mul.cc``, ``activations.cc``; TFLM
``kernels/add_common.cc``, ``sub_common.cc``, ``prelu_common.cc``, ``mul_common.cc``,
``activations_common.cc``. LiteRT computes the multipliers of MUL, PRELU and RELU in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sgsc_edge.graph.ir import (
    Activation,
    Add,
    Dequantize,
    DType,
    Mul,
    PRelu,
    Quantize,
    Relu,
    Relu6,
    Sub,
    Tensor,
)
from sgsc_edge.graph.reference.common import (
    Array,
    Value,
    aligned,
    centered,
    clamp_float,
    integer_range,
    quantization,
    scale,
    store,
    zero_point,
)
from sgsc_edge.numerics import (
    IntArray,
    Profile,
    dequantize,
    multiply_by_quantized_multiplier,
    quantize,
    quantize_multiplier,
)

_ADD_LEFT_SHIFT = 20
_ONE = np.float32(1.0)


def _align(a: Value, b: Value) -> tuple[Value, Value]:
    """Both with equal ranks, so that their shapes broadcast from the right."""
    left, right = aligned((a, b))
    return Value(a.tensor, left), Value(b.tensor, right)


def add(op: Add, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """a + b, broadcast as NumPy does; [n, *output.shape]."""
    a, b = _align(*inputs)
    if a.is_float:
        return clamp_float(a.data + b.data, op.activation)
    if output.quantization is None:  # plain integers, such as indices
        return a.data + b.data
    return _sum(a, b, 1, op.activation, output)


def sub(op: Sub, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """a - b, broadcast as NumPy does; [n, *output.shape]."""
    a, b = _align(*inputs)
    if a.is_float:
        return clamp_float(a.data - b.data, op.activation)
    return _sum(a, b, -1, op.activation, output)


def _sum(a: Value, b: Value, sign: int, activation: Activation, output: Tensor) -> Array:
    """a + sign * b of integers."""
    scales = [np.float64(scale(value.tensor)) for value in (a, b)]
    twice_largest = 2 * max(scales)
    total: IntArray | int = 0
    for value, own, factor in zip((a, b), scales, (1, sign), strict=True):
        shifted = centered(value) << _ADD_LEFT_SHIFT
        ratio = quantize_multiplier(own / twice_largest)
        total = total + factor * multiply_by_quantized_multiplier(shifted, *ratio)
    multiplier, shift = quantize_multiplier(
        twice_largest / (2.0**_ADD_LEFT_SHIFT * np.float64(scale(output)))
    )
    if shift > 0:
        raise OverflowError("a sum's output scale is below 2**-19 of its larger input scale")
    return store(multiply_by_quantized_multiplier(total, multiplier, shift), output, activation)


def mul(op: Mul, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """a * b, broadcast as NumPy does; [n, *output.shape]."""
    a, b = _align(*inputs)
    if a.is_float:
        return clamp_float(a.data * b.data, op.activation)
    product = centered(a) * centered(b)
    steps = profile.multiply.apply(product, scale(a.tensor), scale(b.tensor), scale(output))
    return store(steps, output, op.activation)


def prelu(op: PRelu, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x, or alpha * x below 0, each requantized by a multiplier of its own."""
    x, alpha = _align(*inputs)
    if x.is_float:
        return np.where(x.data >= 0, x.data, x.data * alpha.data)
    above, product = centered(x), centered(x) * centered(alpha)
    steps = np.where(
        above >= 0,
        profile.relu.apply(np.maximum(above, 0), scale(x.tensor), _ONE, scale(output)),
        profile.multiply.apply(
            np.where(above < 0, product, 0), scale(x.tensor), scale(alpha.tensor), scale(output)
        ),
    )
    return store(steps, output)


def relu(op: Relu, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """max(x, 0), requantized to the output's parameters."""
    (x,) = inputs
    if x.is_float:
        return clamp_float(x.data, Activation.RELU)
    steps = profile.relu.apply(centered(x), scale(x.tensor), _ONE, scale(output))
    return store(steps, output, Activation.RELU)


def relu6(op: Relu6, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """min(max(x, 0), 6) at unchanged parameters (LiteRT requantizes, which is then the identity)."""
    (x,) = inputs
    if x.is_float:
        return clamp_float(x.data, Activation.RELU6)
    return store(centered(x), output, Activation.RELU6)


def quantize_op(op: Quantize, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """float32 to integers (the host-side quantizer's rule), or integers to other parameters."""
    (x,) = inputs
    if x.is_float:
        low, high = integer_range(output)
        integers = quantize(x.data, scale(output), zero_point(output), low, high)
        return integers.astype(output.dtype.numpy)
    return store(profile.requantize.apply(centered(x), scale(x.tensor), _ONE, scale(output)), output)


def dequantize_op(op: Dequantize, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """Integers to float32; per-channel parameters broadcast along their axis."""
    (x,) = inputs
    parameters = quantization(x.tensor)
    if parameters.axis is None or x.tensor.dtype is DType.FLOAT32:
        return dequantize(x.data, parameters.scale[0], parameters.zero_point[0])
    along = [1] * x.data.ndim
    along[parameters.axis + 1] = -1  # axis 0 of the data is the samples
    return dequantize(x.data, parameters.scale.reshape(along), parameters.zero_point.reshape(along))
