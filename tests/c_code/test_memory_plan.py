"""Offsets: nothing that is alive at once overlaps, and little more than the least is taken."""

from __future__ import annotations

import itertools

import pytest
from c_code.networks import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.c_code.memory_plan import ALIGNMENT, Buffer, lay_out, lower_bound
from sgsc_edge.c_code.schedule import Schedule, arrange


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Buffer]:
    spans = draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 12), st.integers(0, 6)), max_size=14))
    return [Buffer(f"b{i}", size, first, first + more) for i, (size, first, more) in enumerate(spans)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(buffers=lifetimes())
def test_what_is_alive_at_once_does_not_overlap(buffers: list[Buffer]) -> None:
    layout = lay_out(buffers)
    assert layout == lay_out(buffers)
    assert layout.offsets.keys() == {buffer.name for buffer in buffers}
    for buffer in buffers:
        start = layout.offsets[buffer.name]
        assert start % ALIGNMENT == 0
        assert start + buffer.size <= layout.size
    for a, b in itertools.combinations(buffers, 2):
        if a.meets(b):
            first, second = layout.offsets[a.name], layout.offsets[b.name]
            assert first + a.size <= second or second + b.size <= first or not (a.size and b.size)
    assert lower_bound(buffers) == layout.bound <= layout.size


def test_the_bound_is_the_most_that_is_alive_at_once() -> None:
    buffers = [Buffer("a", 10, 0, 2), Buffer("b", 5, 1, 1), Buffer("c", 7, 2, 4), Buffer("d", 40, 5, 5)]
    assert lower_bound(buffers) == lay_out(buffers).size == 40
    assert lower_bound(buffers[:3]) == 12 + 8


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_at_most_a_twentieth_more_than_the_least(name: str) -> None:
    schedule = Schedule.of(NETWORKS[name])
    layout = arrange(schedule, [0] * len(schedule.steps)).layout
    assert 0 < layout.bound <= layout.size <= 1.05 * layout.bound
