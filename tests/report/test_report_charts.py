"""Geometry of charts: everything drawn lies where its value is."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsc_edge.report.charts import HEIGHT, STRIP_HEIGHT, WIDTH, line_chart, nice_ticks, strip

numbers = st.floats(-1e9, 1e9, allow_nan=False)


@given(numbers, numbers)
def test_ticks_enclose_the_values_in_equal_steps(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    ticks = nice_ticks(low, high)
    slack = 1e-6 * max(abs(low), abs(high), high - low)
    assert ticks[0] <= low + slack
    assert high - slack <= ticks[-1]
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert 1 <= len(steps) <= 6
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)


@given(st.lists(numbers, min_size=1, max_size=60))
def test_lines_stay_inside_and_higher_values_are_higher(values: list[float]) -> None:
    chart = line_chart("loss", {"a": list(enumerate(values, 1))}, x_label="epoch", events=(1.0,))
    assert chart is not None
    places = [
        tuple(map(float, pair.split())) for pair in re.split("[ML]+", chart.lines[0].path) if pair.strip()
    ]
    assert len(places) == len(values)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    for (value, (_, y)), (other, (_, next_y)) in itertools.pairwise(zip(values, places, strict=True)):
        assert y <= next_y + 0.1 if value >= other else y >= next_y - 0.1
    assert len(chart.marks) == 1
    assert len({tick.label for tick in chart.x_ticks}) == len(chart.x_ticks)


def test_a_chart_without_values_is_none() -> None:
    assert line_chart("loss", {"a": []}, x_label="epoch") is None


def test_an_axis_ends_at_what_no_value_exceeds() -> None:
    chart = line_chart("accuracy", {"a": [(1.0, 0.98), (2.0, 1.0)]}, x_label="epoch", at_most=1.0)
    assert chart is not None
    assert chart.y_ticks[-1].label == "1"
    flat = line_chart("accuracy", {"a": [(1.0, 1.0)]}, x_label="epoch", at_most=1.0)
    assert flat is not None
    assert flat.y_ticks[-1].label == "1"


def test_stems_stand_on_zero() -> None:
    chart = line_chart("actions", {"channels": [(40.0, 9.0)]}, x_label="step", stems=True)
    assert chart is not None
    assert chart.y_ticks[0].label == "0"
    assert chart.lines[0].path.startswith(f"M{chart.lines[0].dots[0][0]:g} {chart.bottom}V")


@given(st.lists(st.integers(0, 8), min_size=1, max_size=400))
def test_a_strip_has_a_bar_a_channel_and_a_cross_where_one_is_gone(bits: list[int]) -> None:
    drawn = strip(bits)
    tops = [float(top) for top in re.findall(rf"{STRIP_HEIGHT}V([\d.e+-]+)H", drawn.bars)]
    crosses = len(re.findall("M", drawn.removed)) // 2
    if len(bits) <= drawn.width / 3:
        assert [round(8 * (STRIP_HEIGHT - top) / STRIP_HEIGHT) for top in tops] == [
            one for one in bits if one
        ]
        assert crosses == bits.count(0)
    else:  # neighbours of equal bits together
        runs = [value for number, value in enumerate(bits) if not number or value != bits[number - 1]]
        assert len(tops) == sum(value > 0 for value in runs)
        assert crosses == runs.count(0)
    assert drawn.description.startswith(f"{len(bits)} channels: ")
