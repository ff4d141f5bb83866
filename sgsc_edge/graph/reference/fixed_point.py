"""Functions in fixed point: exponential, reciprocal, inverse root, logistic and hyperbolic tangent.

Numbers are int64 arrays of "raw" int32 values: Qi.f has i integer bits, f = 31 - i. Source: gemmlowp
``fixedpoint/fixedpoint.h``; TFLite ``internal/common.h`` (the inverse root).
"""

from __future__ import annotations

import numpy as np

from sgsc_edge.numerics import (
    INT32_MAX,
    IntArray,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)

# exp(-2**k) in Q0.31, by k.
_EXP_FACTORS = tuple(
    enumerate((1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242), start=-2)
)


def exp_on_negative(a: IntArray, bits: int) -> IntArray:
    """exp(a) for a <= 0 with 2 to 5 integer bits, result in Q0.31.

    A quarter's remainder, then one factor a bit.
    """
    quarter = 1 << (29 - bits)
    fraction = (a & (quarter - 1)) - quarter
    result = _exp_on_quarter(fraction << bits)
    remainder = fraction - a
    for k, factor in _EXP_FACTORS[: bits + 2]:
        scaled = saturating_rounding_doubling_high_mul(result, factor)
        result = np.where(remainder & (1 << (31 - bits + k)), scaled, result)
    return np.where(a == 0, INT32_MAX, result)


def reciprocal_of_one_plus(a: IntArray) -> IntArray:
    """1 / (1 + a) for a in [0, 1), Q0.31 to Q0.31."""
    return _saturate_int32(_twice_reciprocal(a) << 1)


def logistic(a: IntArray) -> IntArray:
    """1 / (1 + exp(-a)), Q4.27 to Q0.31."""
    upper = reciprocal_of_one_plus(exp_on_negative(-np.abs(a), 4))
    return np.where(a == 0, 1 << 30, np.where(a > 0, upper, INT32_MAX - upper))


def tanh(a: IntArray) -> IntArray:
    """The hyperbolic tangent, Q4.27 to Q0.31: (1 - e) / (1 + e) with e = exp(-2 |a|), read as Q5.26."""
    twice = _twice_reciprocal(exp_on_negative(-np.abs(a), 5))
    return np.sign(a) * _saturate_int32((twice - (1 << 29)) << 2)


def inverse_root(n: IntArray) -> tuple[IntArray, IntArray]:
    """1 / sqrt(n) of int32 integers as Q31 multiplier and right shift; below 1 they count as 1."""
    times = saturating_rounding_doubling_high_mul
    pairs = np.zeros_like(n)  # of bits, so that n * 4**pairs lies in [2**27, 2**29)
    scaled = np.maximum(n, 1)
    while (large := scaled >= 1 << 29).any():
        scaled, pairs = np.where(large, scaled >> 2, scaled), pairs - large
    while (small := scaled < 1 << 27).any():
        scaled, pairs = np.where(small, scaled << 2, scaled), pairs + small
    half = rounding_divide_by_pot(scaled >> 1, 1)
    x = np.full_like(n, 1 << 28)  # Q3.28; five Newton-Raphson steps from 1
    for _ in range(5):
        cube = _saturate_int32(times(times(x, x), x) << 6)
        x = _saturate_int32((times(x, 3 << 27) - times(half, cube)) << 3)
    x = times(x, 1518500250)  # sqrt(1/2)
    shift = 11 - pairs
    multiplier = x << np.maximum(-shift, 0)
    one = n <= 1
    return np.where(one, INT32_MAX, multiplier), np.where(one, 0, np.maximum(shift, 0))


def _exp_on_quarter(a: IntArray) -> IntArray:
    """exp(a) for a in [-1/4, 0), Q0.31 to Q0.31: Taylor's series of order four around -1/8."""
    times = saturating_rounding_doubling_high_mul
    exp_of_minus_eighth, third = 1895147668, 715827883
    x = a + (1 << 28)
    x2 = times(x, x)
    x3, x4 = times(x2, x), times(x2, x2)
    tail = rounding_divide_by_pot(times(rounding_divide_by_pot(x4, 2) + x3, third) + x2, 1)
    return exp_of_minus_eighth + times(exp_of_minus_eighth, x + tail)


def _twice_reciprocal(a: IntArray) -> IntArray:
    """2 / (1 + a) for a in [0, 1), Q0.31 to Q2.29: three Newton-Raphson steps."""
    times = saturating_rounding_doubling_high_mul
    half_denominator = (a + INT32_MAX + 1) // 2
    x = 1515870810 + times(half_denominator, -1010580540)  # 48/17 - 32/17 d
    for _ in range(3):
        error = (1 << 29) - times(half_denominator, x)
        x = x + _saturate_int32(times(x, error) << 2)
    return x


def _saturate_int32(x: IntArray) -> IntArray:
    bounded: IntArray = np.clip(x, -INT32_MAX - 1, INT32_MAX)
    return bounded
