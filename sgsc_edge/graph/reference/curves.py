"""LOGISTIC, TANH, HARD_SWISH and LEAKY_RELU: functions of one value, which integers take from a table of 256.

For LOGISTIC and TANH, TFLM computes in gemmlowp's fixed point with 4 integer bits, LiteRT's table in float32.
HARD_SWISH has 16-bit integers in both: x * 2**7, and (x + 3) / 6 cut to [0, 1] with 15 bits behind the point.

Sources: TFLite ``reference/integer_ops/logistic.h``, ``tanh.h``, ``hard_swish.h``, ``leaky_relu.h``;
LiteRT ``kernels/activations.cc``, ``internal/common.h`` (its tables); TFLM ``kernels/logistic_common.cc``,
``tanh.cc``, ``hard_swish_common.cc``, ``leaky_relu_common.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph.ir import HardSwish, LeakyRelu, Logistic, Op, Tanh, Tensor
from sgsc_edge.graph.reference import fixed_point
from sgsc_edge.graph.reference.common import Array, Value, clamp, scale, zero_point
from sgsc_edge.numerics import (
    Curves,
    IntArray,
    Profile,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    round_half_away,
    rounding_divide_by_pot,
)

Real = NDArray[np.float64]

_INPUT_BITS = 4  # of fixed point: Q4.27


def curve(op: Op, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """The op's function of every value; [n, *output.shape]."""
    (x,) = inputs
    if x.is_float:
        return _REAL[type(op)](op, x.data.astype(np.float64)).astype(np.float32)
    return curve_table(op, x.tensor, output, profile)[x.data.astype(np.int64) + 128]


def curve_table(op: Op, x: Tensor, output: Tensor, profile: Profile) -> NDArray[np.int8]:
    """The output integer of every int8 input, int8 [256] from -128 on."""
    steps = np.arange(-128, 128, dtype=np.int64) - zero_point(x)
    made = _INTEGER[type(op)](op, steps, x, output, profile)
    return clamp(made + zero_point(output), -128, 127).astype(np.int8)


# --- logistic and hyperbolic tangent --------------------------------------------------------------


def _saturating(op: Op, steps: IntArray, x: Tensor, output: Tensor, profile: Profile) -> IntArray:
    if profile.curves is Curves.FLOAT32:
        real = _REAL[type(op)](op, (np.float32(scale(x)) * steps.astype(np.float32)).astype(np.float64))
        inverse = np.float32(1) / np.float32(scale(output))
        return round_half_away(real.astype(np.float32) * inverse).astype(np.int64)
    return _fixed_point(op, float(scale(x)), steps)


def _fixed_point(op: Op, input_scale: float, steps: IntArray) -> IntArray:
    """Output steps, int64 [256]; beyond 15 the functions count as saturated."""
    multiplier, left = quantize_multiplier(np.float64(input_scale) * 2.0 ** (31 - _INPUT_BITS))
    if left < 0:
        raise OverflowError("the input scale of a fixed-point function is below 2**-28")
    radius = int(15 * 2.0 ** (31 - _INPUT_BITS - int(left)))
    inside = np.abs(steps) < radius
    raw = multiply_by_quantized_multiplier(np.where(inside, steps, 0), multiplier, left)
    function, bits = (fixed_point.logistic, 8) if isinstance(op, Logistic) else (fixed_point.tanh, 7)
    made = rounding_divide_by_pot(function(raw), 31 - bits)
    return np.where(inside, made, np.where(steps > 0, 256, 0 if isinstance(op, Logistic) else -256))


# --- those that go straight above zero ------------------------------------------------------------


def _hard_swish(op: Op, steps: IntArray, x: Tensor, output: Tensor, profile: Profile) -> IntArray:
    fine = steps << 7
    fine_scale = np.float32(scale(x)) * np.float32(2.0**-7)
    multiplier, shift = _multiplier_16(fine_scale / np.float32(scale(output)))
    if shift > 0:
        raise OverflowError("a HARD_SWISH's output scale is 128 times below its input scale or more")
    value = _high_16(fine, multiplier)
    multiplier, left = _multiplier_16(fine_scale / (np.float32(3) / np.float32(32768)))
    # Up to 3 real units, saturated to 16 bits; the last bit of a left shift comes after the product.
    share = _high_16(_saturate_16(fine << max(left - 1, 0)), multiplier)
    share = _saturate_16(share << 1) if left > 0 else rounding_divide_by_pot(share, -left)
    share = (share + (1 << 15)) >> 1
    product = value * share
    towards_zero = np.sign(product) * (np.abs(product) >> 15)
    return rounding_divide_by_pot(towards_zero, -shift)


def _multiplier_16(real: np.float32) -> tuple[int, int]:
    """A real multiplier as 16-bit integer (Q15) and shift."""
    multiplier, shift = quantize_multiplier(real)
    return min((int(multiplier) + (1 << 15)) >> 16, 2**15 - 1), int(shift)


def _high_16(a: IntArray, b: int) -> IntArray:
    """High 16 bits of 2 * a * b for int16 a and b, ties towards plus infinity."""
    return (a * b + (1 << 14)) >> 15


def _saturate_16(x: IntArray) -> IntArray:
    bounded: IntArray = np.clip(x, -(2**15), 2**15 - 1)
    return bounded


def _leaky(op: LeakyRelu, steps: IntArray, x: Tensor, output: Tensor, profile: Profile) -> IntArray:
    factors = np.where(steps < 0, np.float32(op.alpha), np.float32(1))
    return profile.relu.apply(steps, scale(x), factors, scale(output))


# --- real functions -------------------------------------------------------------------------------


def _logistic(op: Op, real: Real) -> Real:
    with np.errstate(over="ignore"):  # an infinite exponential gives 0
        exponential = np.exp(-real).astype(np.float32)
    return np.asarray(np.float32(1) / (np.float32(1) + exponential), np.float64)


_REAL: Mapping[type[Op], Callable[[Any, Real], Real]] = MappingProxyType(
    {
        Logistic: _logistic,
        Tanh: lambda op, real: np.tanh(real),
        HardSwish: lambda op, real: real * np.clip(real + 3, 0, 6) / 6,
        LeakyRelu: lambda op, real: np.where(real > 0, real, real * np.float32(op.alpha)),
    }
)
_INTEGER: Mapping[type[Op], Callable[[Any, IntArray, Tensor, Tensor, Profile], IntArray]] = MappingProxyType(
    {Logistic: _saturating, Tanh: _saturating, HardSwish: _hard_swish, LeakyRelu: _leaky}
)
