"""Layouts: what they describe, and the Transposes that lead from one to another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.lowering.layout import (
    Layout,
    Piece,
    channel_order,
    channels_last,
    device_axes,
    laid,
    permuted,
    with_channels,
)
from sgsc_edge.lowering.moving import fitted, moves


@st.composite
def layouts(draw: Any, shape: tuple[int, ...]) -> Layout:
    """Each axis cut into runs, and these in any order."""
    pieces = []
    for axis, size in enumerate(shape):
        step = 1
        while size > 1:
            part = draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0]))
            pieces.append(Piece(axis, part, step))
            step, size = step * part, size // part
    return laid(draw(st.permutations(pieces)), shape)


SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_transposes_lead_from_any_layout_to_any_other(data: Any) -> None:
    shape = data.draw(SHAPES)
    other = data.draw(st.permutations(shape).map(tuple))
    source, target = data.draw(layouts(shape)), data.draw(layouts(other))
    values = np.arange(math.prod(shape))
    device = values[source.order()]
    for move in moves(source, target, values.size):
        assert len(move.shape) <= 4
        before, after = (data.draw(st.sampled_from([shape, (1, *shape), (values.size,)])) for _ in range(2))
        better = fitted(move, before, after)
        made = [device.reshape(one.shape).transpose(one.permutation).reshape(-1) for one in (move, better)]
        assert np.array_equal(*made)
        device = made[0]
    assert np.array_equal(device, values[target.order()])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_permuted_value_is_the_same_tensor(data: Any) -> None:
    shape = data.draw(SHAPES)
    layout = data.draw(layouts(shape))
    order = data.draw(st.permutations(range(len(shape))))
    values = np.arange(math.prod(shape))
    seen = permuted(layout, shape, order)
    assert seen is not None
    moved = values.reshape(shape).transpose(order).reshape(-1)
    assert np.array_equal(moved[seen.order()], values[layout.order()])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_pieces_are_the_layout(data: Any) -> None:
    shape = data.draw(SHAPES)
    layout = data.draw(layouts(shape))
    pieces, axes = layout.pieces(shape), device_axes(layout, shape)
    assert pieces is not None
    assert axes is not None
    assert laid(pieces, shape).same_as(layout)
    assert laid(axes, shape).same_as(layout)
    assert math.prod(axis.size for axis in axes) == math.prod(shape)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_channels_in_any_order(data: Any) -> None:
    channels, height, width = (data.draw(st.integers(1, 7)) for _ in range(3))
    shape = (1, channels, height, width)
    order = np.array(data.draw(st.permutations(range(channels))))
    layout = with_channels(shape, order)
    values = np.arange(math.prod(shape)).reshape(shape)
    assert np.array_equal(layout.order(), values.transpose(0, 2, 3, 1)[..., order].reshape(-1))
    found = channel_order(layout, shape)
    assert found is not None
    assert np.array_equal(found, order)
    pieces = layout.pieces(shape)
    assert pieces is not None
    assert laid(pieces, shape).same_as(layout)
    groups = data.draw(st.sampled_from([d for d in range(1, channels + 1) if channels % d == 0]))
    wide = (1, groups, channels // groups, height, width)
    shuffled = permuted(layout, wide, (0, 2, 1, 3, 4))
    assert shuffled is not None
    moved = values.reshape(wide).transpose(0, 2, 1, 3, 4).reshape(-1)
    assert np.array_equal(moved[shuffled.order()], values.reshape(-1)[layout.order()])


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (1, 3, 7), (1, 10)])
def test_channels_last_of_each_rank(shape: tuple[int, ...]) -> None:
    values = np.arange(math.prod(shape)).reshape(shape)
    assert np.array_equal(channels_last(shape).order(), np.moveaxis(values, 1, -1).reshape(-1))
