"""Every rule against an exact model in Python integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from sgsc_edge import numerics
from sgsc_edge.errors import DataError
from sgsc_edge.numerics import (
    INT32_MAX,
    INT32_MIN,
    PROFILES,
    Precision,
    Rescale,
    Rounding,
    dequantize,
    filter_widths,
    integer_dtype,
    multiply_by_quantized_multiplier,
    multiply_by_quantized_multiplier_single_rounding,
    multiply_by_real_half_away,
    pack_filters,
    pack_int4,
    quantize,
    quantize_multiplier,
    quantized_activation_range,
    round_half_away,
    round_half_even,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
    unpack_int4,
)

int32s = st.one_of(st.integers(INT32_MIN, INT32_MAX), st.sampled_from([INT32_MIN, -1, 0, 1, INT32_MAX]))
multipliers = st.one_of(st.integers(2**30, 2**31 - 1), st.sampled_from([0, 2**30, 2**31 - 1]))
halves = st.integers(-(2**20), 2**20).map(lambda i: i / 2)
finite = st.floats(-(2.0**40), 2.0**40)
scales = st.floats(2.0**-20, 2.0**10, width=32)
zero_points = st.integers(-128, 127)


# --- the exact models: one number at a time, in integers and fractions -------------------------------


def half_away(value: Fraction) -> int:
    magnitude = math.floor(abs(value) + Fraction(1, 2))
    return magnitude if value >= 0 else -magnitude


def half_even(value: Fraction) -> int:
    return round(value)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def double_rounding(x: int, multiplier: int, shift: int) -> int:
    high = half_up(Fraction(x * 2 ** max(shift, 0) * multiplier, 2**31))
    return half_away(Fraction(high, 2 ** max(-shift, 0)))


# --- rounding ---------------------------------------------------------------------------------------


@given(st.one_of(halves, finite))
@example(np.nextafter(0.5, 0))
@example(-np.nextafter(0.5, 0))
def test_float_rounding(value: float) -> None:
    assert round_half_away(value) == half_away(Fraction(value))
    assert round_half_even(value) == half_even(Fraction(value))


@given(st.integers(-(2**22), 2**22))
def test_rounding_keeps_float32(doubled: int) -> None:
    value = np.float32(doubled / 2)
    assert round_half_away(value).dtype == np.float32
    assert round_half_away(value) == half_away(Fraction(float(value)))


@given(int32s, int32s)
@example(INT32_MIN, INT32_MIN)
@example(INT32_MIN, INT32_MAX)
def test_high_multiplication(a: int, b: int) -> None:
    assert saturating_rounding_doubling_high_mul(a, b) == min(half_up(Fraction(a * b, 2**31)), INT32_MAX)


@given(int32s, st.integers(0, 31))
@example(INT32_MIN, 31)
@example(INT32_MAX, 31)
@example(-(2**30), 31)
def test_division_by_powers_of_two(x: int, exponent: int) -> None:
    assert rounding_divide_by_pot(x, exponent) == half_away(Fraction(x, 2**exponent))


# --- requantization ---------------------------------------------------------------------------------


@given(st.floats(2.0**-31, 2.0**29))
@example(0.5)
@example(1 - 2.0**-40)
@example(1 - 2.0**-32)
def test_multiplier_is_the_nearest_q31(real: float) -> None:
    multiplier, shift = (int(part) for part in quantize_multiplier(real))
    assert 2**30 <= multiplier < 2**31
    exponent = math.frexp(real)[1]
    nearest = half_away(Fraction(real) * Fraction(2) ** (31 - exponent))
    assert Fraction(multiplier) * Fraction(2) ** shift == Fraction(nearest) * Fraction(2) ** exponent


@pytest.mark.parametrize(("real", "expected"), [(0.0, (0, 0)), (2.0**-33, (0, 0)), (2.0**-32, (2**30, -31))])
def test_tiny_multipliers_flush_to_zero(real: float, expected: tuple[int, int]) -> None:
    assert tuple(int(part) for part in quantize_multiplier(real)) == expected


@pytest.mark.parametrize("real", [-1.0, math.nan, math.inf, 2.0**30])
def test_impossible_multipliers_are_refused(real: float) -> None:
    with pytest.raises(OverflowError, match="multiplier"):
        quantize_multiplier([0.5, real])


@given(st.lists(st.tuples(int32s, multipliers, st.integers(-31, 0)), min_size=1, max_size=20))
def test_double_rounding(cases: list[tuple[int, int, int]]) -> None:
    x, multiplier, shift = (list(part) for part in zip(*cases, strict=True))
    expected = [double_rounding(*case) for case in cases]
    assert multiply_by_quantized_multiplier(x, multiplier, shift).tolist() == expected


@given(st.integers(-(2**20), 2**20), multipliers, st.integers(1, 11))
def test_double_rounding_with_left_shift(x: int, multiplier: int, shift: int) -> None:
    if INT32_MIN <= x * 2**shift <= INT32_MAX:
        assert multiply_by_quantized_multiplier(x, multiplier, shift) == double_rounding(x, multiplier, shift)
    else:
        with pytest.raises(OverflowError, match="32 bits"):
            multiply_by_quantized_multiplier(x, multiplier, shift)


@given(int32s, multipliers, st.integers(-31, 7))
def test_single_rounding(x: int, multiplier: int, shift: int) -> None:
    exact = Fraction(x * multiplier) * Fraction(2) ** (shift - 31)
    assert multiply_by_quantized_multiplier_single_rounding(x, multiplier, shift) == half_up(exact)


def test_the_two_roundings_differ_at_ties() -> None:
    assert multiply_by_quantized_multiplier([5, -6], 2**30, -1).tolist() == [2, -2]
    assert multiply_by_quantized_multiplier_single_rounding([5, -6], 2**30, -1).tolist() == [1, -1]
    with pytest.raises(OverflowError, match="shift"):
        multiply_by_quantized_multiplier_single_rounding(1, 2**30, 31)


@given(st.integers(-(2**24), 2**24), st.floats(2.0**-10, 2.0**6))
def test_float64_rescaling(x: int, real: float) -> None:
    assert multiply_by_real_half_away(x, real) == half_away(Fraction(x * real))


def test_float64_rescaling_refuses_overflow() -> None:
    with pytest.raises(OverflowError, match="32 bits"):
        multiply_by_real_half_away([1, 2**30], 2.0)


@given(st.lists(int32s, min_size=1, max_size=8), scales, scales)
def test_rescale_broadcasts_channels(accumulator: list[int], a: float, b: float) -> None:
    rescale = Rescale(Precision.FLOAT64, Rounding.Q31_DOUBLE)
    out = a * b * 1000
    rows = np.tile(np.array(accumulator)[:, np.newaxis], (1, 2))
    both = rescale.apply(rows, a, [b, b / 2], out)
    assert both[:, 0].tolist() == rescale.apply(accumulator, a, b, out).tolist()
    assert both[:, 1].tolist() == rescale.apply(accumulator, a, b / 2, out).tolist()


def test_profiles_are_found_by_their_names() -> None:
    assert [profile.name for profile in PROFILES.values()] == list(PROFILES) == ["tflm", "litert_reference"]


# --- float to integer and back ----------------------------------------------------------------------


@given(st.floats(-1e6, 1e6, width=32), scales, zero_points)
def test_quantize_in_float32(real: float, scale: float, zero_point: int) -> None:
    with np.errstate(over="ignore"):
        quotient = np.float32(real) / np.float32(scale)
    expected = min(max(half_away(Fraction(float(quotient))) + zero_point, -128), 127)
    result = quantize([real], scale, zero_point)
    assert result.dtype == np.int8
    assert result.tolist() == [expected]


def test_quantize_ties_saturation_and_types() -> None:
    ties = np.arange(-5, 6) / 2
    assert quantize(ties, 1.0, 0).tolist() == [-3, -2, -2, -1, -1, 0, 1, 1, 2, 2, 3]
    assert quantize([-3e38, 3e38], 1e-38, 5).tolist() == [-128, 127]
    assert quantize([0.0, 300.0], 1.0, 0, 0, 255).dtype == np.uint8
    assert quantize([9.0], 1.0, 0, -7, 7).tolist() == [7]
    per_channel = quantize([[1.0, 1.0]], np.array([0.5, 0.25]), np.array([0, 1]))
    assert per_channel.tolist() == [[2, 5]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_quantize_refuses_what_is_not_finite(value: float) -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        quantize([0.0, value], 1.0, 0)


@given(st.integers(-128, 127), scales, zero_points)
def test_integers_survive_the_way_through_floats(integer: int, scale: float, zero_point: int) -> None:
    real = dequantize(np.array([integer], np.int8), scale, zero_point)
    assert real.dtype == np.float32
    assert real[0] == np.float32(Fraction(scale) * (integer - zero_point))
    assert quantize(real, scale, zero_point).tolist() == [integer]


def test_integer_types() -> None:
    assert integer_dtype(-129, 0) == np.int16
    assert integer_dtype(0, 256) == np.int16
    assert integer_dtype(INT32_MIN, INT32_MAX) == np.int32
    with pytest.raises(OverflowError, match="no integer type"):
        integer_dtype(0, 2**63)


@given(st.sampled_from(sorted(numerics.ACTIVATION_BOUNDS)), scales, zero_points)
def test_activation_range(activation: str, scale: float, zero_point: int) -> None:
    low, high = numerics.ACTIVATION_BOUNDS[activation]

    def steps(bound: float) -> int:
        return zero_point + half_away(Fraction(float(np.float32(bound) / np.float32(scale))))

    expected = (
        -128 if low is None else max(-128, steps(low)),
        127 if high is None else min(127, steps(high)),
    )
    assert quantized_activation_range(activation, scale, zero_point) == expected


def test_activation_range_refuses_bounds_beyond_32_bits() -> None:
    assert quantized_activation_range("relu", 2.0**-40, 3) == (3, 127)
    with pytest.raises(OverflowError, match="relu6"):
        quantized_activation_range("relu6", 2.0**-40, 3)


# --- int4 -------------------------------------------------------------------------------------------


@given(st.lists(st.integers(-8, 7), max_size=33))
def test_int4_survives_packing(values: list[int]) -> None:
    packed = pack_int4(values)
    assert packed.dtype == np.uint8
    assert packed.size == (len(values) + 1) // 2
    assert unpack_int4(packed, len(values)).tolist() == values
    for i, value in enumerate(values):
        assert (int(packed[i // 2]) >> (4 * (i % 2))) & 15 == value & 15


def test_int4_limits() -> None:
    assert pack_int4([-8, 7, -1]).tolist() == [0x78, 0x0F]  # the odd tail lies below zeros
    for value in (-9, 8):
        with pytest.raises(OverflowError, match="-8 to 7"):
            pack_int4([value])
    with pytest.raises(OverflowError, match="2 bytes, not 1"):
        unpack_int4([0], 3)


# --- learned widths -----------------------------------------------------------------------------------


@st.composite
def filters(draw: st.DrawFn) -> list[list[int]]:
    """Filters of one size, each in a range of its own."""
    size = draw(st.integers(1, 19))
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        bits = draw(st.integers(1, 8))
        own = st.sampled_from([-1, 1]) if bits == 1 else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        rows.append(draw(st.lists(own, min_size=size, max_size=size)))
    return rows


@given(filters())
def test_filters_survive_packing_in_the_fewest_bits(rows: list[list[int]]) -> None:
    widths = filter_widths(rows).tolist()
    stream = "".join(f"{byte:08b}"[::-1] for byte in pack_filters(rows))

    def taken(at: int, bits: int) -> int:
        return int(stream[at : at + bits][::-1], 2)

    at = 0
    for row, bits in zip(rows, widths, strict=True):
        assert taken(at, 3) == bits - 1
        at += 3
        for value in row:
            code = taken(at, bits)
            at += bits
            signed = code - 2**bits if code >= 2 ** (bits - 1) else code
            assert value == (signed if bits > 1 else 1 - 2 * code)
    assert (len(stream), set(stream[at:])) == (-(-at // 8) * 8, set("0" * (len(stream) > at)))
    for row, bits in zip(rows, widths, strict=True):
        if bits > 2:
            assert not all(-(2 ** (bits - 2)) <= value < 2 ** (bits - 2) for value in row)
        else:
            assert (bits == 1) == (set(row) <= {-1, 1})


@pytest.mark.parametrize("rows", [[[128]], [[-129, 0]], np.zeros((0, 3)), np.zeros((3, 0))])
def test_what_no_filter_holds_is_refused(rows: ArrayLike) -> None:
    with pytest.raises(OverflowError, match="-128 to 127"):
        pack_filters(rows)
