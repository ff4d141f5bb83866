"""How the elements of an ONNX value lie in its device tensor.

A value is a row of elements in ONNX's order, whatever its shape: a Reshape moves none. A device tensor holds
the same elements in an order of its own, its :class:`Layout`: nested runs, the outermost first, each of
``size`` steps of ``step`` ONNX elements. So [1, C, H, W] in NHWC is ``((H*W, 1), (C, H*W))``, a transposed
value is the same tensor under another layout, and a channel shuffle is three runs. Elements are moved only
where a reader cannot take them as they lie.

Images and sequences, [1, C, H, W] and [1, C, L], lie channels-last for convolutions and pools.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

Order = NDArray[np.int64]
Shape = tuple[int, ...]

MOST_AXES = 4
"""Axes that every kernel takes on every device."""


@dataclass(frozen=True)
class Piece:
    """A run within one ONNX axis: ``size`` steps of ``step`` positions, or the positions ``places``."""

    axis: int
    size: int
    step: int = 1
    places: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """The order of a tensor's elements.

    Parameters
    ----------
    runs: (size, step) of each run, the outermost first; none of size 1, none that could be one with the next.
    tail: int64 [n], inside all runs n elements at these distances, where no run describes them: channels that
        were joined in different orders, flattened images; None where there are none.
    """

    runs: tuple[tuple[int, int], ...]
    tail: Order | None = None

    @staticmethod
    def of(runs: Iterable[tuple[int, int]], tail: Order | None = None) -> Layout:
        """The layout with these runs, and inside them these distances.

        >>> Layout.of([(3, 1), (2, 6), (2, 3)]).runs
        ((3, 1), (4, 3))
        >>> Layout.of([(3, 1)], np.array([0, 6, 3, 9])).runs
        ((3, 1), (2, 3), (2, 6))
        """
        merged: list[tuple[int, int]] = []
        for size, step in [*runs, *_runs_of(tail)]:
            if size == 1:
                continue
            if merged and merged[-1][1] == size * step:
                size, step = merged.pop()[0] * size, step
            merged.append((size, step))
        return Layout(tuple(merged), None if _runs_of(tail) or tail is None or tail.size == 1 else tail)

    @staticmethod
    def plain(elements: int) -> Layout:
        """ONNX's own order."""
        return Layout.of([(elements, 1)])

    @property
    def is_plain(self) -> bool:
        """Whether it is ONNX's own order."""
        return self.tail is None and (not self.runs or (len(self.runs) == 1 and self.runs[0][1] == 1))

    def same_as(self, other: Layout) -> bool:
        """Whether both are one order of as many elements."""
        if self.tail is None or other.tail is None:
            return self.tail is other.tail and self.runs == other.runs
        return self.runs == other.runs and np.array_equal(self.tail, other.tail)

    def order(self) -> Order:
        """int64 [elements]: device element i is ONNX element ``order()[i]``.

        >>> channels_last((1, 2, 1, 2)).order().tolist()
        [0, 2, 1, 3]
        """
        order = np.zeros(1, np.int64)
        for size, step in self.runs:
            order = (order[:, np.newaxis] + step * np.arange(size)).reshape(-1)
        return order if self.tail is None else (order[:, np.newaxis] + self.tail).reshape(-1)

    def pieces(self, shape: Sequence[int]) -> tuple[Piece, ...] | None:
        """The runs cut at the axes of an ONNX shape; None where an axis ends amid one.

        >>> Layout.plain(6).pieces((1, 2, 3))
        (Piece(axis=1, size=2, step=1, places=None), Piece(axis=2, size=3, step=1, places=None))
        >>> Layout.of([(3, 1), (2, 3)]).pieces((1, 3, 2)) is None
        True
        """
        found: list[Piece] = []
        for size, step in self.runs:
            cut = _cut_at_axes(size, step, shape)
            if cut is None:
                return None
            found += cut
        if self.tail is not None:
            tail = _tail_piece(self.tail, shape)
            if tail is None:
                return None
            found.append(tail)
        return tuple(found)


def _runs_of(tail: Order | None) -> list[tuple[int, int]]:
    """The runs that give these distances; none where there are no such runs."""
    runs: list[tuple[int, int]] = []
    rest = tail
    while rest is not None and rest.size > 1:
        # The innermost run goes on as long as the steps are even.
        step = int(rest[1] - rest[0])
        size = next((n for n in range(2, rest.size) if rest[n] - rest[n - 1] != step), rest.size)
        if step <= 0 or rest[0] != 0 or rest.size % size:
            return []
        rows = rest.reshape(-1, size)
        if not np.array_equal(rows, rows[:, :1] + step * np.arange(size)):
            return []
        runs.insert(0, (size, step))
        rest = rows[:, 0]
    return runs


def _cut_at_axes(size: int, step: int, shape: Sequence[int]) -> list[Piece] | None:
    """A run as pieces, the outermost first; None where an axis ends amid it."""
    inside: list[Piece] = []
    strides = strides_of(shape)
    for axis in reversed(range(len(shape))):
        # ``size`` and ``step`` are of what is left of the run outside the axes seen.
        end = strides[axis] * shape[axis]
        if size == 1 or step >= end:
            continue
        part = min(size, end // step)
        if step % strides[axis] or end % step or size % part:
            return None
        if part > 1:
            inside.append(Piece(axis, part, step // strides[axis]))
        size, step = size // part, step * part
    return inside[::-1] if size == 1 else None


def _tail_piece(tail: Order, shape: Sequence[int]) -> Piece | None:
    """A tail as places along one axis; None where it reaches over several."""
    for axis, stride in enumerate(strides_of(shape)):
        if int(tail.max()) < stride * shape[axis] and not (tail % stride).any():
            return Piece(axis, tail.size, places=tuple((tail // stride).tolist()))
    return None


@dataclass(frozen=True)
class Placed:
    """Where a value lives: its device tensor, and how its elements lie there."""

    tensor: str
    layout: Layout


def strides_of(shape: Sequence[int]) -> Shape:
    """ONNX elements between neighbours along each axis.

    >>> strides_of((1, 2, 3))
    (6, 3, 1)
    """
    sizes = itertools.accumulate(reversed(shape[1:]), lambda a, b: a * b, initial=1)
    return tuple(reversed(list(sizes)))


def laid(pieces: Iterable[Piece], shape: Sequence[int]) -> Layout:
    """The layout of a value of an ONNX shape whose runs are these pieces; one with places comes last.

    >>> laid([Piece(2, 3, 1), Piece(1, 2, 1)], (1, 2, 3)).runs
    ((3, 1), (2, 3))
    """
    strides = strides_of(shape)
    runs, tail = [], None
    for piece in pieces:
        if piece.places is None:
            runs.append((piece.size, piece.step * strides[piece.axis]))
        else:
            tail = np.array(piece.places, np.int64) * strides[piece.axis]
    return Layout.of(runs, tail)


def resized(axes: Iterable[Piece], whole: Collection[int], shape: Sequence[int]) -> tuple[Piece, ...]:
    """The axes of a value of another shape; only its ONNX axes ``whole``, of one run each, differ."""
    return tuple(replace(axis, size=shape[axis.axis]) if axis.axis in whole else axis for axis in axes)


def channels_last(shape: Sequence[int]) -> Layout:
    """NHWC of an ONNX shape [1, C, ...]: positions outermost, channels innermost.

    >>> channels_last((1, 3, 4, 5)).runs, channels_last((1, 10)).is_plain
    (((20, 1), (3, 20)), True)
    """
    if len(shape) < 3:
        return Layout.plain(math.prod(shape))
    batch, channels, *rest = shape
    positions = math.prod(rest)
    return Layout.of([(batch, channels * positions), (positions, 1), (channels, positions)])


def image_shape(shape: Sequence[int]) -> Shape:
    """The NHWC shape of an image [1, C, H, W] or a sequence [1, C, L], an image of height 1.

    >>> image_shape((1, 3, 8, 9)), image_shape((1, 3, 9))
    ((1, 8, 9, 3), (1, 1, 9, 3))
    """
    batch, channels, *positions = shape
    return (batch, *(positions if len(positions) == 2 else (1, *positions)), channels)


def device_axes(layout: Layout, shape: Sequence[int]) -> tuple[Piece, ...] | None:
    """The axes of a tensor in a layout, those of size 1 included; None where an ONNX axis ends amid a run.

    ONNX's own where it lies so, NHWC's of an image or sequence, else one for each piece behind a batch of 1.

    >>> [(piece.axis, piece.size) for piece in device_axes(channels_last((1, 3, 4, 1)), (1, 3, 4, 1))]
    [(0, 1), (2, 4), (3, 1), (1, 3)]
    """
    if layout.is_plain:
        return tuple(Piece(axis, size, 1) for axis, size in enumerate(shape))
    if len(shape) in (3, 4) and shape[0] == 1 and layout.same_as(channels_last(shape)):
        order = (0, 2, 3, 1) if len(shape) == 4 else (0, 0, 2, 1)
        return tuple(Piece(axis, shape[axis], 1) for axis in order)
    pieces = layout.pieces(shape)
    return None if pieces is None else (Piece(0, 1, 1), *pieces)


def with_channels(shape: Sequence[int], order: Order | None) -> Layout:
    """NHWC of an ONNX shape [1, C, ...] with its channels in an order, int64 [C]; None: ONNX's."""
    if order is None:
        return channels_last(shape)
    positions = math.prod(shape[2:])
    return Layout.of([(positions, 1)], positions * order)


def places_of(pieces: Iterable[Piece]) -> Order:
    """The positions along their axis that pieces of one axis have, int64 [size]."""
    runs, tail = [], None
    for piece in pieces:
        if piece.places is None:
            runs.append((piece.size, piece.step))
        else:
            tail = np.array(piece.places, np.int64)
    return Layout(tuple(runs), tail).order()


def channel_order(layout: Layout, shape: Sequence[int]) -> Order | None:
    """The order of channels, int64 [C], of [1, C, ...] that lies channels-last; None where it does not.

    >>> channel_order(Layout.of([(20, 1), (2, 20), (3, 40)]), (1, 6, 4, 5)).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    if shape[0] != 1:
        return None
    positions = math.prod(shape[2:])
    runs, tail = layout.runs if positions == 1 else layout.runs[1:], layout.tail
    if positions > 1 and layout.runs[:1] != ((positions, 1),):
        return None
    if any(step % positions for _, step in runs) or (tail is not None and (tail % positions).any()):
        return None
    inside = tuple((size, step // positions) for size, step in runs)
    return Layout(inside, None if tail is None else tail // positions).order()


def permuted(layout: Layout, shape: Sequence[int], permutation: Sequence[int]) -> Layout | None:
    """The same tensor seen as ONNX's ``Transpose(x, permutation)``; None where an axis ends amid a run.

    >>> permuted(channels_last((1, 3, 4, 5)), (1, 3, 4, 5), (0, 2, 3, 1)).is_plain
    True
    """
    pieces = Layout(layout.runs).pieces(shape)
    if pieces is None:
        return None
    place = {axis: index for index, axis in enumerate(permutation)}
    out = [shape[axis] for axis in permutation]
    moved = laid((replace(piece, axis=place[piece.axis]) for piece in pieces), out)
    if layout.tail is None:
        return moved
    coordinates = np.unravel_index(layout.tail, tuple(shape))
    if any(coordinates[piece.axis].any() for piece in pieces):
        return None  # an axis is partly in the runs, partly in the tail
    strides = strides_of(out)
    tail = sum(coordinates[axis] * strides[index] for index, axis in enumerate(permutation))
    return Layout.of(moved.runs, np.asarray(tail, np.int64))


def to_device(array: NDArray[Any], rank: int) -> NDArray[Any]:
    """Samples [n, ...] in torch's layout as a device input of ``rank`` axes takes them.

    Images are NHWC; sequences [n, C, L] that the device knows as images are [n, 1, L, C].

    >>> [to_device(np.zeros((5, 2, *rest)), 4).shape for rest in ((8, 9), (9,))]
    [(5, 8, 9, 2), (5, 1, 9, 2)]
    >>> to_device(np.zeros((5, 2, 9)), 3).shape
    (5, 2, 9)
    """
    if rank != 4:
        return array
    images = array[:, :, np.newaxis] if array.ndim == 3 else array
    return np.ascontiguousarray(images.transpose(TO_NHWC))
