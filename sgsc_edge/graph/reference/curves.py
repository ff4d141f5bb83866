"""LOGISTIC and TANH: functions of one value, which integers take from a table of 256.

TFLM computes in gemmlowp's fixed point with 4 integer bits, LiteRT's table in float32.

Sources: TFLite ``reference/integer_ops/logistic.h``, ``tanh.h``; LiteRT ``kernels/activations.cc``,
``internal/common.h`` (its tables); TFLM ``kernels/logistic_common.cc``, ``tanh.cc``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph.ir import Logistic, Op, Tanh, Tensor
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

_INPUT_BITS = 4  # of fixed point: Q4.27


def curve(op: Op, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """The op's function of every value; [n, *output.shape]."""
    (x,) = inputs
    if x.is_float:
        return _REAL[type(op)](x.data.astype(np.float64)).astype(np.float32)
    return curve_table(op, x.tensor, output, profile)[x.data.astype(np.int64) + 128]


def curve_table(op: Op, x: Tensor, output: Tensor, profile: Profile) -> NDArray[np.int8]:
    """The output integer of every int8 input, int8 [256] from -128 on."""
    steps = np.arange(-128, 128, dtype=np.int64) - zero_point(x)
    if profile.curves is Curves.FLOAT32:
        real = _REAL[type(op)]((np.float32(scale(x)) * steps.astype(np.float32)).astype(np.float64))
        inverse = np.float32(1) / np.float32(scale(output))
        integers = round_half_away(real.astype(np.float32) * inverse).astype(np.int64)
    else:
        integers = _fixed_point(op, float(scale(x)), steps)
    return clamp(integers + zero_point(output), -128, 127).astype(np.int8)


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


def _logistic(real: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # an infinite exponential gives 0
        exponential = np.exp(-real).astype(np.float32)
    return np.asarray(np.float32(1) / (np.float32(1) + exponential), np.float64)


_REAL: Mapping[type[Op], Callable[[NDArray[np.float64]], NDArray[np.float64]]] = MappingProxyType(
    {Logistic: _logistic, Tanh: np.tanh}
)
