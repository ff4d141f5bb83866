"""Every rounding, saturation, requantization and int4 packing rule, by name and by runtime.

All functions work on whole arrays, in int64 or float64, and are exact. Terms::

    real = scale * (integer - zero_point)          quantize, dequantize
    real multiplier  M = s_in * s_w / s_out        real_multiplier: in which precision
    M ~ multiplier * 2**(shift - 31)               quantize_multiplier (Q31)
    out = zero_point + round(accumulator * M)      rescale: which rounding

Sources: gemmlowp ``fixedpoint/fixedpoint.h`` (high multiplication, division by powers of two),
TFLite ``kernels/internal/common.cc`` and ``quantization_util.cc`` (multipliers), the kernels' prepare
functions (which runtime computes a multiplier in which precision). Every rule was compared with
TFLite Micro and LiteRT's reference kernels, integer for integer.

Where C leaves the result undefined (a rescaled value beyond 32 bits), these functions raise
``OverflowError`` instead of guessing what a compiler does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgsc_edge.errors import DataError

INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1

SMALLEST_PROBABILITY = 1 / 512
"""Half a step of a Softmax's int8 outputs: what a loss takes for less, so that its logarithm is finite."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating[Any]]


# --- rounding -------------------------------------------------------------------------------------


def round_half_even(real: ArrayLike) -> FloatArray:
    """Round to the nearest integer, ties to the even one (ONNX QuantizeLinear, XNNPACK).

    >>> round_half_even([-1.5, -0.5, 0.5, 1.5, 2.5]).tolist()
    [-2.0, -0.0, 0.0, 2.0, 2.0]
    """
    return np.asarray(np.rint(real))


def round_half_away(real: ArrayLike) -> FloatArray:
    """Round to the nearest integer, ties away from zero (C ``round``; TFLite's ``TfLiteRound``).

    Exact in the input's own precision: the largest float below one half rounds to zero.

    >>> round_half_away([-1.5, -0.5, 0.5, 1.5, 2.5, np.nextafter(0.5, 0)]).tolist()
    [-2.0, -1.0, 1.0, 2.0, 3.0, 0.0]
    """
    values = np.asarray(real)
    whole = np.trunc(values)
    return np.asarray(np.where(np.abs(values - whole) >= 0.5, whole + np.sign(values), whole))


def saturating_rounding_doubling_high_mul(a: ArrayLike, b: ArrayLike) -> IntArray:
    """High 32 bits of ``2 * a * b`` for int32 a and b, ties towards plus infinity (gemmlowp).

    The only product that does not fit, INT32_MIN squared, saturates.

    >>> saturating_rounding_doubling_high_mul([1, -1, 3, -3], 2**30).tolist()
    [1, 0, 2, -1]
    >>> saturating_rounding_doubling_high_mul(INT32_MIN, INT32_MIN).tolist()
    2147483647
    """
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return np.asarray(np.minimum((product + (1 << 30)) >> 31, INT32_MAX))


def rounding_divide_by_pot(x: ArrayLike, exponent: ArrayLike) -> IntArray:
    """``x / 2**exponent`` rounded to the nearest integer, ties away from zero (gemmlowp).

    >>> rounding_divide_by_pot([-6, -5, -2, 2, 5, 6], 2).tolist()
    [-2, -1, -1, 1, 1, 2]
    >>> rounding_divide_by_pot([-7, 7], 0).tolist()
    [-7, 7]
    """
    values = np.asarray(x, np.int64)
    power = np.asarray(exponent, np.int64)
    half = (np.int64(1) << power) >> 1
    return np.asarray((values + half - ((values < 0) & (power > 0))) >> power)


# --- requantization -------------------------------------------------------------------------------


def quantize_multiplier(real: ArrayLike) -> tuple[IntArray, IntArray]:
    """Q31 form of non-negative real multipliers: ``real ~ multiplier * 2**(shift - 31)``.

    Multipliers are 0 or in [2**30, 2**31); those below 2**-32 are flushed to zero, as in TFLite's
    ``QuantizeMultiplier``. Returns int64 arrays of the input's shape.

    >>> [int(v) for v in quantize_multiplier(0.5)]
    [1073741824, 0]
    >>> [int(v) for v in quantize_multiplier(1 - 2.0**-40)]
    [1073741824, 1]
    >>> [int(v) for v in quantize_multiplier(2.0**-33)]
    [0, 0]

    Raises OverflowError for multipliers that are negative, not finite, or at least 2**30.
    """
    value = np.asarray(real, np.float64)
    if not (np.isfinite(value).all() and (value >= 0).all() and (value < 2.0**30).all()):
        raise OverflowError("a rescaling multiplier is negative, not finite or not below 2**30")
    mantissa, shift = np.frexp(value)
    multiplier = round_half_away(np.ldexp(mantissa, 31)).astype(np.int64)
    carried = multiplier == 1 << 31
    multiplier = np.where(carried, 1 << 30, multiplier)
    exponent = shift.astype(np.int64) + carried
    flushed = exponent < -31
    return np.where(flushed, 0, multiplier), np.where(flushed, 0, exponent)


def _shift_left_int32(x: IntArray, shift: IntArray) -> IntArray:
    """``x * 2**max(shift, 0)``; OverflowError where the product leaves int32 (undefined in C)."""
    if not (shift > 0).any():
        return x
    shifted = np.asarray(x << np.maximum(shift, 0))
    if shifted.size and (shifted.min() < INT32_MIN or shifted.max() > INT32_MAX):
        raise OverflowError("an accumulator leaves 32 bits when it is shifted left")
    return shifted


def multiply_by_quantized_multiplier(x: ArrayLike, multiplier: ArrayLike, shift: ArrayLike) -> IntArray:
    """``x * multiplier * 2**(shift - 31)``, rounded twice: the double rounding of TFLite and TFLM.

    First ties towards plus infinity at bit 31, then ties away from zero at the right shift. ``x`` is
    int32 in range; ``multiplier`` and ``shift`` (from :func:`quantize_multiplier`) broadcast with it.

    >>> multiply_by_quantized_multiplier([5, -5, 6, -6], 2**30, -1).tolist()
    [2, -1, 2, -2]

    Raises OverflowError where ``x * 2**shift`` leaves int32 (undefined in C).
    """
    power = np.asarray(shift, np.int64)
    shifted = _shift_left_int32(np.asarray(x, np.int64), power)
    high = saturating_rounding_doubling_high_mul(shifted, multiplier)
    return rounding_divide_by_pot(high, np.maximum(-power, 0))


def multiply_by_quantized_multiplier_single_rounding(
    x: ArrayLike, multiplier: ArrayLike, shift: ArrayLike
) -> IntArray:
    """``x * multiplier * 2**(shift - 31)``, rounded once, ties towards plus infinity.

    TFLite built with ``TFLITE_SINGLE_ROUNDING``, and CMSIS-NN with ``CMSIS_NN_USE_SINGLE_ROUNDING``.

    >>> multiply_by_quantized_multiplier_single_rounding([5, -5, 6, -6], 2**30, -1).tolist()
    [1, -1, 2, -1]
    """
    total = 31 - np.asarray(shift, np.int64)
    if (total < 1).any():
        raise OverflowError("a single-rounding multiplier has a shift above 30")
    product = np.asarray(x, np.int64) * np.asarray(multiplier, np.int64)
    return np.asarray((product + (np.int64(1) << (total - 1))) >> total)


def multiply_by_real_half_away(x: ArrayLike, real: ArrayLike) -> IntArray:
    """``x * real`` in float64, rounded half away from zero (LiteRT's reference FULLY_CONNECTED).

    >>> multiply_by_real_half_away([5, -5, 7], 0.5).tolist()
    [3, -3, 4]

    Raises OverflowError where the result leaves int32 (undefined in C).
    """
    product = round_half_away(np.asarray(x, np.float64) * np.asarray(real, np.float64))
    if product.size and not (product.min() >= INT32_MIN and product.max() <= INT32_MAX):
        raise OverflowError("a rescaled accumulator leaves 32 bits")
    return product.astype(np.int64)


class Rounding(StrEnum):
    """How an accumulator is brought to the output's scale."""

    Q31_DOUBLE = "Q31 multiplier, rounded at bit 31 and again at the right shift"
    FLOAT64_HALF_AWAY = "float64 product, ties away from zero"


class Precision(StrEnum):
    """In which precision a runtime computes ``a * b / out`` from float32 scales."""

    FLOAT64 = "all in float64"
    FLOAT32 = "all in float32"
    FLOAT32_PRODUCT = "a * b in float32, the quotient in float64"


def real_multiplier(precision: Precision, a: ArrayLike, b: ArrayLike, out: ArrayLike) -> FloatArray:
    """``a * b / out`` of float32 scales, float64, computed in the named precision.

    >>> float(real_multiplier(Precision.FLOAT64, 0.5, 0.25, 0.125))
    1.0
    """
    first, second, divisor = (np.asarray(scale, np.float32) for scale in (a, b, out))
    if precision is Precision.FLOAT32:
        return np.asarray(first * second / divisor, np.float64)
    if precision is Precision.FLOAT32_PRODUCT:
        return np.asarray((first * second).astype(np.float64) / divisor.astype(np.float64))
    return first.astype(np.float64) * second.astype(np.float64) / divisor.astype(np.float64)


@dataclass(frozen=True)
class Rescale:
    """How one op family of one runtime goes from accumulator to output integers."""

    precision: Precision
    rounding: Rounding

    def apply(self, accumulator: ArrayLike, a: ArrayLike, b: ArrayLike, out: ArrayLike) -> IntArray:
        """Accumulator (int32 range) times ``a * b / out`` (float32 scales), rounded; no zero point.

        Scales broadcast with the accumulator: pass [C] for channels on the last axis.

        >>> tflm = PROFILES["tflm"].convolution
        >>> tflm.apply([100, -101], 0.5, 0.25, 0.25).tolist()
        [50, -50]
        >>> PROFILES["litert_reference"].fully_connected.apply([100, -101], 0.5, 0.25, 0.25).tolist()
        [50, -51]
        """
        real = real_multiplier(self.precision, a, b, out)
        if self.rounding is Rounding.FLOAT64_HALF_AWAY:
            return multiply_by_real_half_away(accumulator, real)
        return multiply_by_quantized_multiplier(accumulator, *quantize_multiplier(real))


class Curves(StrEnum):
    """How the integer tables of functions such as LOGISTIC are computed."""

    FIXED_POINT = "gemmlowp's fixed point"
    FLOAT32 = "float32, ties away from zero"


@dataclass(frozen=True)
class Profile:
    """The arithmetic of one runtime's kernels, per op family.

    ``fully_connected`` holds for per-tensor weights, ``fully_connected_per_channel`` for the others.
    ``multiply`` and ``relu`` hold for PRELU, too, ``relu`` for LEAKY_RELU, ``curves`` for LOGISTIC and
    TANH. The other ops, such as ADD, MEAN, SOFTMAX and HARD_SWISH, are the same everywhere (see
    graph.reference). The precisions are measured, at scales where they decide ties (those of PRELU and
    LEAKY_RELU by random cases). TFLM sources of mid-2026 compute the
    multipliers of RELU and of a per-tensor FULLY_CONNECTED in float32; the release measured here does not.
    """

    name: str
    convolution: Rescale
    fully_connected: Rescale
    fully_connected_per_channel: Rescale
    batch_matmul: Rescale
    multiply: Rescale
    relu: Rescale
    requantize: Rescale
    curves: Curves


_Q31 = Rescale(Precision.FLOAT64, Rounding.Q31_DOUBLE)
_Q31_FROM_FLOAT32 = Rescale(Precision.FLOAT32, Rounding.Q31_DOUBLE)
_Q31_FROM_PRODUCT = Rescale(Precision.FLOAT32_PRODUCT, Rounding.Q31_DOUBLE)
_FLOAT64 = Rescale(Precision.FLOAT64, Rounding.FLOAT64_HALF_AWAY)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="tflm",
                convolution=_Q31,
                fully_connected=_Q31,
                fully_connected_per_channel=_Q31,
                batch_matmul=_Q31,
                multiply=_Q31,
                relu=_Q31,
                requantize=_Q31,
                curves=Curves.FIXED_POINT,
            ),
            Profile(
                name="litert_reference",
                convolution=_Q31,
                fully_connected=_FLOAT64,
                fully_connected_per_channel=_FLOAT64,
                batch_matmul=_Q31_FROM_PRODUCT,
                multiply=_Q31_FROM_FLOAT32,
                relu=_Q31_FROM_FLOAT32,
                requantize=_Q31,
                curves=Curves.FLOAT32,
            ),
        )
    }
)


# --- float to integer and back --------------------------------------------------------------------


def integer_dtype(dtype_min: int, dtype_max: int) -> np.dtype[np.integer[Any]]:
    """The smallest NumPy integer type that holds [dtype_min, dtype_max]; signed unless 0..255.

    >>> integer_dtype(-128, 127), integer_dtype(-7, 7), integer_dtype(0, 255)
    (dtype('int8'), dtype('int8'), dtype('uint8'))
    """
    for candidate in (np.int8, np.uint8, np.int16, np.int32, np.int64):
        info = np.iinfo(candidate)
        if info.min <= dtype_min and dtype_max <= info.max:
            return np.dtype(candidate)
    raise OverflowError(f"no integer type holds {dtype_min} to {dtype_max}")


def quantize(
    real: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, dtype_min: int = -128, dtype_max: int = 127
) -> NDArray[np.integer[Any]]:
    """Integers of real values, as TFLite's QUANTIZE makes them; the one host-side quantizer.

    ``real / scale`` in float32 (both rounded to float32 first), ties away from zero, plus the zero
    point, saturated to [dtype_min, dtype_max]. ``scale`` and ``zero_point`` broadcast with ``real``.
    The result has the smallest integer type that holds the range.

    >>> quantize([-0.75, -0.25, 0.25, 0.75, 99.0], 0.5, 1).tolist()
    [-1, 0, 2, 3, 127]
    >>> quantize([0.0], 0.5, -128).dtype
    dtype('int8')

    Raises DataError for NaN and infinity.
    """
    values = np.asarray(real, np.float32)
    if not np.isfinite(values).all():
        raise DataError(
            "a value to quantize is NaN or infinite", remedy="check the samples and their scaling"
        )
    with np.errstate(over="ignore"):  # a quotient beyond float32 is infinite and saturates
        steps = values / np.asarray(scale, np.float32)
    # Far beyond every type the exact count no longer matters; the clip keeps the conversion defined.
    integers = round_half_away(np.clip(steps, -(2.0**40), 2.0**40)).astype(np.int64)
    integers = integers + np.asarray(zero_point, np.int64)
    return np.clip(integers, dtype_min, dtype_max).astype(integer_dtype(dtype_min, dtype_max))


def dequantize(integers: ArrayLike, scale: ArrayLike, zero_point: ArrayLike) -> NDArray[np.float32]:
    """Real values of integers: ``scale * (integer - zero_point)``, rounded once, to float32.

    >>> dequantize(np.array([-128, 0, 127], np.int8), 0.5, -128).tolist()
    [0.0, 64.0, 127.5]
    """
    steps = np.asarray(integers, np.int64) - np.asarray(zero_point, np.int64)
    return np.asarray(np.asarray(scale, np.float32).astype(np.float64) * steps, np.float32)


# Real bounds of the fused activations, by the names of ``ir.Activation``.
ACTIVATION_BOUNDS: Mapping[str, tuple[float | None, float | None]] = MappingProxyType(
    {"none": (None, None), "relu": (0.0, None), "relu6": (0.0, 6.0), "relu_n1_to_1": (-1.0, 1.0)}
)


def quantized_activation_range(
    activation: str, scale: float, zero_point: int, dtype_min: int = -128, dtype_max: int = 127
) -> tuple[int, int]:
    """Integer bounds of a fused activation on an output with these parameters (inclusive).

    With the zero point inside the type, as it must be, the range is never empty.

    >>> quantized_activation_range("relu6", 0.05, -100)
    (-100, 20)
    >>> quantized_activation_range("relu", 0.05, -128)
    (-128, 127)

    Raises OverflowError where a bound leaves 32 bits; the kernels refuse such a scale.
    """
    low, high = ACTIVATION_BOUNDS[activation]

    def steps(bound: float) -> int:
        if abs(bound / scale) >= 2.0**31:
            raise OverflowError(f"a fused {activation} at scale {scale:g} has a bound beyond 32 bits")
        return zero_point + int(round_half_away(np.float32(bound) / np.float32(scale)))

    return (
        dtype_min if low is None else max(dtype_min, steps(low)),
        dtype_max if high is None else min(dtype_max, steps(high)),
    )


# --- int4 -----------------------------------------------------------------------------------------


def pack_int4(values: ArrayLike) -> NDArray[np.uint8]:
    """Pack signed 4-bit values two a byte: the first in the low nibble, an odd tail below zeros.

    Returns uint8 [ceil(n / 2)] of the values in row-major order.

    >>> [hex(byte) for byte in pack_int4([1, -1, 7])]
    ['0xf1', '0x7']

    Raises OverflowError for values outside [-8, 7].
    """
    flat = np.asarray(values, np.int64).ravel()
    if flat.size and (flat.min() < -8 or flat.max() > 7):
        raise OverflowError("int4 values lie in -8 to 7")
    nibbles = np.zeros(flat.size + flat.size % 2, np.uint8)
    nibbles[: flat.size] = (flat & 0x0F).astype(np.uint8)
    return np.asarray(nibbles[0::2] | (nibbles[1::2] << np.uint8(4)))


def unpack_int4(packed: ArrayLike, count: int) -> NDArray[np.int8]:
    """The first ``count`` signed values of bytes packed by :func:`pack_int4`, int8 [count].

    >>> unpack_int4([0xF1, 0x07], 3).tolist()
    [1, -1, 7]

    Raises OverflowError where the bytes are too few or too many for ``count``.
    """
    data = np.asarray(packed, np.uint8).ravel()
    if data.size != (count + 1) // 2:
        raise OverflowError(f"{count} int4 values take {(count + 1) // 2} bytes, not {data.size}")
    nibbles = np.stack([data & np.uint8(0x0F), data >> np.uint8(4)], axis=1).ravel()[:count]
    return ((nibbles ^ np.uint8(8)).astype(np.int16) - 8).astype(np.int8)


# --- learned widths -------------------------------------------------------------------------------

FILTER_HEADER_BITS = 3
"""In front of each filter of :func:`pack_filters`: its width, less 1."""


def filter_widths(filters: ArrayLike) -> NDArray[np.uint8]:
    """The fewest bits, 1 to 8, that hold the weights of each filter, uint8 [filters].

    One bit is -1 or 1; more are two's complement.

    Parameters
    ----------
    filters: integers in [-128, 127], [filters, ...], a weight at least in each.

    >>> filter_widths([[1, -1], [1, 0], [-4, 3], [4, 0]]).tolist()
    [1, 2, 3, 4]
    """
    flat = _flat_filters(filters)
    largest = np.maximum(flat.max(1), -flat.min(1) - 1).clip(1)
    widths = np.frexp(largest.astype(np.float64))[1] + 1  # the exponent counts the bits of a whole number
    return np.where((np.abs(flat) == 1).all(1), 1, widths).astype(np.uint8)


def pack_filters(filters: ArrayLike) -> NDArray[np.uint8]:
    """Filters one behind the other in a stream of bits, each at its width; lossless.

    Of each filter come three bits, its width less 1, and then its weights. The least significant bit of a
    value and of a byte comes first; the last byte is filled up with zeros.

    Parameters
    ----------
    filters: as for :func:`filter_widths`.

    >>> [bin(byte) for byte in pack_filters([[1, -1], [1, 0]])]
    ['0b110000', '0b1']
    """
    parts = []
    for weights, bits in zip(_flat_filters(filters), filter_widths(filters).tolist(), strict=True):
        codes = weights < 0 if bits == 1 else weights
        parts.append((bits - 1 >> np.arange(FILTER_HEADER_BITS)) & 1)
        parts.append(((codes[:, np.newaxis] >> np.arange(bits)) & 1).reshape(-1))
    return np.packbits(np.concatenate(parts).astype(np.uint8), bitorder="little")


def _flat_filters(filters: ArrayLike) -> NDArray[np.int16]:
    """Filters as rows, int16 [filters, weights]: wide enough for the magnitude of -128."""
    values = np.asarray(filters)
    if values.size == 0 or values.min() < -128 or values.max() > 127:
        raise OverflowError("filters have weights, in -128 to 127")
    return values.reshape(len(values), -1).astype(np.int16)
