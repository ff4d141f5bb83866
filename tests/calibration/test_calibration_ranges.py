"""Ranges: what is counted, and which part of it a grid covers."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sgsc_edge.calibration.ranges import Method, Range
from sgsc_edge.errors import ModelError

METHODS: tuple[Method, ...] = get_args(Method)

VALUES = arrays(
    np.float32,
    st.integers(1, 30),
    elements=st.integers(-1000, 1000).map(lambda value: float(np.float32(value / 10))),
)


def counted(*parts: np.ndarray) -> Range:
    found = Range()
    for part in parts:
        found.add(part.astype(np.float32), "x")
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_a_range_holds_0_and_all_values_and_counts_each(parts: list[np.ndarray]) -> None:
    found = counted(*parts)
    values = np.concatenate(parts)
    assert (found.low, found.high) == (min(0, values.min()), max(0, values.max()))
    if found.high > found.low:
        nonzero = sum(part.size for part in parts)
        assert found.counts.sum() <= nonzero
        assert found.counts.sum() >= parts[-1].size
    for method in METHODS:
        low, high = found.covered(method)
        assert found.low <= low <= 0 <= high <= found.high


@pytest.mark.parametrize("method", METHODS)
def test_even_values_are_covered_whole(method: Method) -> None:
    low, high = counted(np.linspace(-1, 3, 10_000)).covered(method)
    assert low == pytest.approx(-1, abs=0.05)
    assert high == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_one_value_far_away_is_clipped(method: Method) -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    low, high = counted(values, np.array([200.0])).covered(method)
    assert high < 100
    assert low < -2


def test_mse_rounds_best() -> None:
    values = np.random.default_rng(0).standard_t(3, 50_000)
    found = counted(values)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        return float(((np.rint(np.clip(values, low, high) / step) * step - values) ** 2).mean())

    errors = {method: error(*found.covered(method)) for method in METHODS}
    assert errors["mse"] == min(errors.values())
    ends = np.linspace(0.02, 1, 50)
    best = min(error(found.low * low, found.high * high) for low in ends for high in ends)
    assert errors["mse"] < 1.1 * best


def test_ranges_that_grow_and_join_count_alike() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=1000) * scale for scale in (1, 2, 0.5)]
    together, joined = counted(*parts), Range()
    for part in parts:
        joined.join(counted(part))
    assert (joined.low, joined.high) == (together.low, together.high)
    assert joined.counts.sum() == together.counts.sum() == 3000
    assert np.abs(np.cumsum(joined.counts) - np.cumsum(together.counts)).max() < 30


def test_a_value_that_is_not_finite_is_named() -> None:
    with pytest.raises(ModelError, match="NaN or infinite") as caught:
        counted(np.array([1, np.nan]))
    assert caught.value.where == "x"


def test_denormal_values_are_nothing() -> None:
    found = counted(np.array([1e-42, -1e-42]))
    assert (found.low, found.high) == (0, 0)
