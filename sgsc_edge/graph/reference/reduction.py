"""MAX_POOL_2D, AVERAGE_POOL_2D, MEAN, SOFTMAX and L2_NORMALIZATION; the same in TFLM and LiteRT's reference.

Sources: TFLite ``reference/integer_ops/pooling.h``, ``reference/reduce.h``, ``reference/softmax.h``,
``reference/integer_ops/l2normalization.h``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sgsc_edge.graph.ir import AveragePool2D, L2Normalization, MaxPool2D, Mean, Softmax, Tensor
from sgsc_edge.graph.reference.common import (
    Array,
    Value,
    centered,
    check_accumulator,
    clamp,
    clamp_float,
    integer_range,
    scale,
    store,
    zero_point,
)
from sgsc_edge.graph.reference.fixed_point import exp_on_negative, inverse_root, reciprocal_of_one_plus
from sgsc_edge.graph.reference.matrix import Axis, flatten_batch, windows
from sgsc_edge.numerics import (
    IntArray,
    Profile,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    quantized_activation_range,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)


def _pool_axes(op: MaxPool2D | AveragePool2D, image: Array) -> tuple[Axis, Axis]:
    rows = Axis.of(image.shape[1], op.filter[0], op.stride[0], 1, op.padding)
    return rows, Axis.of(image.shape[2], op.filter[1], op.stride[1], 1, op.padding)


def _finish_pool(op: MaxPool2D | AveragePool2D, pooled: Array, x: Value, output: Tensor) -> Array:
    """Fused activation on integers that keep their parameters; [n, *output.shape]."""
    shape = (x.data.shape[0], *output.shape)
    if x.is_float:
        return clamp_float(pooled, op.activation).reshape(shape)
    low, high = quantized_activation_range(
        op.activation, float(scale(output)), zero_point(output), *integer_range(output)
    )
    return clamp(pooled, low, high).astype(output.dtype.numpy).reshape(shape)


def max_pool_2d(op: MaxPool2D, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n,1,H,W,C] -> [n,1,OH,OW,C]; padding never wins."""
    (x,) = inputs
    image = flatten_batch(x)
    fill = -np.inf if x.is_float else np.iinfo(image.dtype).min
    best: Array | None = None
    for _, _, part in windows(image, *_pool_axes(op, image), fill):
        best = part.copy() if best is None else np.maximum(best, part, out=best)
    assert best is not None  # a filter has at least one element
    return _finish_pool(op, best, x, output)


def average_pool_2d(op: AveragePool2D, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n,1,H,W,C] -> [n,1,OH,OW,C]; padding is not counted; integers round half away from zero.

    The integers are averaged as they are: their zero point stays in.
    """
    (x,) = inputs
    image = flatten_batch(x).astype(np.float32 if x.is_float else np.int64)
    rows, columns = _pool_axes(op, image)
    ones = np.ones((1, *image.shape[1:3], 1), image.dtype)
    total = sum(part for _, _, part in windows(image, rows, columns, 0))
    count = sum(part for _, _, part in windows(ones, rows, columns, 0))
    if x.is_float:
        return _finish_pool(op, np.asarray(total / count), x, output)
    rounded = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return _finish_pool(op, rounded, x, output)


def mean(op: Mean, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x and constant axes; the division by the element count is folded into the Q31 multiplier.

    The folding truncates: multiplier' = (multiplier << s) // count with s = floor(log2(count)), so a mean
    may sit one step below the exact quotient.
    """
    x, axes = inputs
    rank = len(x.tensor.shape)
    reduced = tuple(sorted({int(axis) % rank for axis in axes.data.ravel()}))
    count = int(np.prod([x.tensor.shape[axis] for axis in reduced], dtype=np.int64))
    over = tuple(axis + 1 for axis in reduced)  # axis 0 of the data is the samples
    shape = (x.data.shape[0], *output.shape)
    if x.is_float:
        total = x.data.sum(axis=over, dtype=np.float32)
        return np.asarray(total / np.float32(count), np.float32).reshape(shape)
    total = centered(x).sum(axis=over)
    check_accumulator(total)
    ratio = np.float64(scale(x.tensor)) / np.float64(scale(output))
    multiplier, exponent = (int(part) for part in quantize_multiplier(ratio))
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    steps = multiply_by_quantized_multiplier(total, (multiplier << shift) // count, exponent - shift)
    return store(steps, output).reshape(shape)


def l2_normalization(op: L2Normalization, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n, ..., K] by 1 / its Euclidean length over the last axis; output scale 1/128, zero 0."""
    (x,) = inputs
    if x.is_float:
        length = np.sqrt(np.square(x.data).sum(axis=-1, keepdims=True))
        return np.asarray(x.data / np.maximum(length, np.float32(1e-6)), np.float32)
    steps = centered(x)
    squares = np.square(steps).sum(axis=-1, keepdims=True)
    check_accumulator(squares)
    multiplier, shift = inverse_root(squares)
    return store(multiply_by_quantized_multiplier(steps, multiplier, 7 - shift), output)


# --- softmax --------------------------------------------------------------------------------------

_DIFFERENCE_BITS = 5  # inputs of the exponential: Q5.26
_SUM_BITS = 12  # sums of exponentials: Q12.19


def softmax_table(beta: float, input_scale: float) -> tuple[IntArray, int]:
    """exp((q - max) * scale * beta) in Q0.31, [256] by max - q, and how many entries count.

    Differences beyond the second figure give zero and are left out of the sum.
    """
    real = min(float(np.float32(beta)) * input_scale * 2.0 ** (31 - _DIFFERENCE_BITS), 2.0**31 - 1)
    # float64 holds the cap exactly; quantize_multiplier's own limit is for accumulators, not for this.
    mantissa, exponent = quantize_multiplier(real * 2.0**-2)
    multiplier, left = int(mantissa), int(exponent) + 2
    if real <= 1 or left < 0:
        raise OverflowError("a softmax input scale times beta is below 2**-26")
    radius = int(((1 << _DIFFERENCE_BITS) - 1) * 2.0 ** (31 - _DIFFERENCE_BITS) / 2.0**left)
    counted = min(radius, 255) + 1
    differences = -np.arange(counted, dtype=np.int64)
    scaled = saturating_rounding_doubling_high_mul(differences << left, multiplier)
    table = np.zeros(256, np.int64)
    table[:counted] = exp_on_negative(scaled, _DIFFERENCE_BITS)
    return table, counted


def softmax(op: Softmax, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n, ..., K] over the last axis; int8 by gemmlowp's fixed point, output scale 1/256, zero -128."""
    (x,) = inputs
    if x.is_float:
        return _softmax_float(op, x.data)
    table, counted = softmax_table(op.beta, float(scale(x.tensor)))
    below = x.data.max(axis=-1, keepdims=True).astype(np.int64) - x.data
    exponentials = table[below]
    used = below < counted
    total = np.where(used, rounding_divide_by_pot(exponentials, _SUM_BITS), 0).sum(-1, keepdims=True)
    check_accumulator(total)
    # total is Q12.19 and positive; write it as (1 + a) * 2**over.
    over = np.floor(np.log2(total.astype(np.float64))).astype(np.int64) - (31 - _SUM_BITS)
    power = over + 31 - 8
    if (power > 31).any():
        raise OverflowError("a softmax sums to 512 maxima or more, beyond the kernel's range")
    leading = 31 - (over + 31 - _SUM_BITS)
    reciprocal = reciprocal_of_one_plus((total << leading) - (1 << 31))
    product = saturating_rounding_doubling_high_mul(reciprocal, exponentials)
    steps = np.where(used, rounding_divide_by_pot(product, power), 0)
    return clamp(steps - 128, -128, 127).astype(np.int8)


def _softmax_float(op: Softmax, data: Any) -> Array:
    shifted = np.exp((data - data.max(axis=-1, keepdims=True)) * np.float32(op.beta))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)
