"""RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR; the same arithmetic in TFLM and LiteRT's reference.

Sources: TFLite ``reference/resize_nearest_neighbor.h``, ``reference/resize_bilinear.h``. The nearest value is
found in float32; integers are weighted by 1024ths in either dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sgsc_edge.graph.ir import ResizeBilinear, ResizeNearestNeighbor, Tensor
from sgsc_edge.graph.reference.common import Array, Value
from sgsc_edge.graph.shapes import bilinear_steps
from sgsc_edge.numerics import IntArray, Profile, round_half_away

Neighbours = tuple[IntArray, IntArray, Array]
"""Lower and upper neighbours of each output value in one dimension, and the upper one's weight."""


def nearest_sources(op: ResizeNearestNeighbor, size: int, made: int) -> IntArray:
    """The input value that each output value of one dimension takes, int64 [made]."""
    position = np.arange(made, dtype=np.float32)
    step = np.float32(size) / np.float32(made)
    if op.align_corners and made > 1:
        step = np.float32(size - 1) / np.float32(made - 1)
    if op.half_pixel_centers:
        position = position + np.float32(0.5)
    exact = position * step
    whole = (round_half_away(exact) if op.align_corners else np.floor(exact)).astype(np.int64)
    return np.minimum(whole, size - 1)


def nearest_neighbor(
    op: ResizeNearestNeighbor, inputs: Sequence[Value], output: Tensor, profile: Profile
) -> Array:
    """x [n,1,H,W,C] -> [n,1,OH,OW,C]."""
    data = inputs[0].data
    for axis in (2, 3):
        data = data.take(nearest_sources(op, data.shape[axis], output.shape[axis - 1]), axis=axis)
    resized: Array = data
    return resized


def bilinear(op: ResizeBilinear, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n,1,H,W,C] -> [n,1,OH,OW,C]; integers round half away from zero."""
    (x, _) = inputs
    find = _real_positions if x.is_float else _positions
    rows, columns = (
        find(op, size, made) for size, made in zip(x.data.shape[2:4], output.shape[1:3], strict=True)
    )
    if x.is_float:
        return _mixed(x.data, rows, columns, np.float32(1))
    total = _mixed(x.data.astype(np.int64), rows, columns, 1 << 10)
    rounded: Array = np.sign(total) * ((np.abs(total) + (1 << 19)) >> 20)
    return rounded.astype(output.dtype.numpy)


def _positions(op: ResizeBilinear, size: int, made: int) -> Neighbours:
    """Lower and upper neighbours of each output value, and the upper one's weight in 1024ths."""
    start, step = bilinear_steps(op, size, made)
    exact = start + step * np.arange(made, dtype=np.int64)
    lower = np.maximum(exact >> 10, 0)
    return lower, np.minimum((exact + 1023) >> 10, size - 1), exact - (lower << 10)


def _real_positions(op: ResizeBilinear, size: int, made: int) -> Neighbours:
    """As ``_positions``, with real weights."""
    exact = np.arange(made, dtype=np.float32)
    step = np.float32(size) / np.float32(made)
    if op.align_corners and made > 1:
        step = np.float32(size - 1) / np.float32(made - 1)
    half = np.float32(0.5 if op.half_pixel_centers else 0)
    exact = (exact + half) * step - half
    lower = np.maximum(np.floor(exact), 0).astype(np.int64)
    upper = np.minimum(np.ceil(exact).astype(np.int64), size - 1)
    return lower, upper, exact - lower.astype(np.float32)


def _mixed(data: Array, rows: Neighbours, columns: Neighbours, whole: Any) -> Array:
    """Four neighbours, weighted and added up in the kernels' order."""
    top, bottom, down = rows
    left, right, across = columns
    down = down[:, np.newaxis, np.newaxis]
    across = across[:, np.newaxis]
    above, below = data.take(top, axis=2), data.take(bottom, axis=2)
    total: Array = above.take(left, axis=3) * (whole - down) * (whole - across)
    total += below.take(left, axis=3) * down * (whole - across)
    total += above.take(right, axis=3) * (whole - down) * across
    total += below.take(right, axis=3) * down * across
    return total
