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


@dataclass(frozen=True)
class Piece:
    """A run within one ONNX axis: ``size`` steps of ``step`` positions."""

    axis: int
    size: int
    step: int


@dataclass(frozen=True, eq=False)
class Layout:
    """The order of a tensor's elements.

    Parameters
    ----------
    runs: (size, step) of each run, the outermost first; none of size 1, none that could be one with the next.
    index: int64 [elements], device element i is ONNX element ``index[i]``: an order that no runs describe,
        such as that of joined flattened images; None where ``runs`` do.
    """

    runs: tuple[tuple[int, int], ...]
    index: Order | None = None

    @staticmethod
    def of(runs: Iterable[tuple[int, int]]) -> Layout:
        """The layout with these runs.

        >>> Layout.of([(3, 1), (2, 6), (2, 3)]).runs
        ((3, 1), (4, 3))
        """
        merged: list[tuple[int, int]] = []
        for size, step in runs:
            if size == 1:
                continue
            if merged and merged[-1][1] == size * step:
                size, step = merged.pop()[0] * size, step
            merged.append((size, step))
        return Layout(tuple(merged))

    @staticmethod
    def plain(elements: int) -> Layout:
        """ONNX's own order."""
        return Layout.of([(elements, 1)])

    @staticmethod
    def indexed(index: Order) -> Layout:
        """An order given element by element."""
        if np.array_equal(index, np.arange(index.size)):
            return Layout.plain(index.size)
        return Layout((), index)

    @property
    def is_plain(self) -> bool:
        """Whether it is ONNX's own order."""
        return self.index is None and (not self.runs or (len(self.runs) == 1 and self.runs[0][1] == 1))

    def same_as(self, other: Layout) -> bool:
        """Whether both are one order of as many elements."""
        if self.index is None or other.index is None:
            return self.index is other.index and self.runs == other.runs
        return np.array_equal(self.index, other.index)

    def order(self) -> Order:
        """int64 [elements]: device element i is ONNX element ``order()[i]``.

        >>> channels_last((1, 2, 1, 2)).order().tolist()
        [0, 2, 1, 3]
        """
        if self.index is not None:
            return self.index
        order = np.zeros(1, np.int64)
        for size, step in self.runs:
            order = (order[:, np.newaxis] + step * np.arange(size)).reshape(-1)
        return order

    def pieces(self, shape: Sequence[int]) -> tuple[Piece, ...] | None:
        """The runs cut at the axes of an ONNX shape; None where an axis ends amid a run.

        >>> Layout.plain(6).pieces((1, 2, 3))
        (Piece(axis=1, size=2, step=1), Piece(axis=2, size=3, step=1))
        >>> Layout.of([(3, 1), (2, 3)]).pieces((1, 3, 2)) is None
        True
        """
        if self.index is not None:
            return None
        strides = strides_of(shape)
        found: list[Piece] = []
        for size, step in self.runs:
            inside: list[Piece] = []
            for axis in reversed(range(len(shape))):
                # The part of the run in this axis; ``step`` and ``size`` are of what is left of it.
                end = strides[axis] * shape[axis]
                if size == 1 or step >= end:
                    continue
                if step % strides[axis] or end % step:
                    return None
                part = min(size, end // step)
                if size % part:
                    return None
                inside.append(Piece(axis, part, step // strides[axis]))
                size, step = size // part, step * part
            if size != 1:
                return None
            found += reversed(inside)
        return tuple(piece for piece in found if piece.size > 1)


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
    """The layout of a value of an ONNX shape whose runs are these pieces.

    >>> laid([Piece(2, 3, 1), Piece(1, 2, 1)], (1, 2, 3)).runs
    ((3, 1), (2, 3))
    """
    strides = strides_of(shape)
    return Layout.of((piece.size, piece.step * strides[piece.axis]) for piece in pieces)


def resized(axes: Iterable[Piece], whole: Collection[int], shape: Sequence[int]) -> tuple[Piece, ...]:
    """The axes of a value of another shape; only its ONNX axes ``whole``, of one run each, differ."""
    return tuple(replace(axis, size=shape[axis.axis]) if axis.axis in whole else axis for axis in axes)


def channels_last(shape: Sequence[int]) -> Layout:
    """NHWC of an ONNX shape [1, C, ...]: positions outermost, channels innermost.

    >>> channels_last((1, 3, 4, 5)).runs, channels_last((1, 10)).is_plain
    (((20, 1), (3, 20)), True)
    """
    positions = math.prod(shape[2:])
    return Layout.of([(positions, 1), (math.prod(shape) // positions, positions)])


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
    if len(shape) in (3, 4) and layout.same_as(channels_last(shape)):
        order = (0, 2, 3, 1) if len(shape) == 4 else (0, 0, 2, 1)
        return tuple(Piece(axis, shape[axis], 1) for axis in order)
    pieces = layout.pieces(shape)
    return None if pieces is None else (Piece(0, 1, 1), *pieces)


def channel_order(layout: Layout, shape: Sequence[int]) -> Order | None:
    """The order of channels, int64 [C], of [1, C, ...] that lies channels-last; None where it does not.

    >>> channel_order(Layout.of([(20, 1), (2, 20), (3, 40)]), (1, 6, 4, 5)).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    positions = math.prod(shape[2:])
    runs = layout.runs if positions == 1 or layout.index is not None else layout.runs[1:]
    if layout.index is not None or (positions > 1 and layout.runs[:1] != ((positions, 1),)):
        return None
    if any(step % positions for _, step in runs):
        return None
    return Layout.of((size, step // positions) for size, step in runs).order()


def permuted(layout: Layout, shape: Sequence[int], permutation: Sequence[int]) -> Layout | None:
    """The same tensor seen as ONNX's ``Transpose(x, permutation)``; None where an axis ends amid a run.

    >>> permuted(channels_last((1, 3, 4, 5)), (1, 3, 4, 5), (0, 2, 3, 1)).is_plain
    True
    """
    pieces = layout.pieces(shape)
    if pieces is None:
        return None
    place = {axis: index for index, axis in enumerate(permutation)}
    moved = (Piece(place[piece.axis], piece.size, piece.step) for piece in pieces)
    return laid(moved, [shape[axis] for axis in permutation])


@dataclass(frozen=True)
class Move:
    """A Transpose that brings a tensor from one layout to another: it is seen in ``shape`` and permuted."""

    shape: Shape
    permutation: Shape


def moves(source: Layout, target: Layout, elements: int) -> list[Move]:
    """The Transposes from one layout in runs to another, at most four axes each.

    >>> moves(channels_last((1, 3, 4, 5)), Layout.plain(60), 60)
    [Move(shape=(20, 3), permutation=(1, 0))]
    """
    if source.same_as(target):
        return []
    atoms = _atoms(source, target, elements)
    if atoms is None:  # where one layout's runs end amid the other's, plain lies between: it has no ends
        plain = Layout.plain(elements)
        return moves(source, plain, elements) + moves(plain, target, elements)
    before, after = _cut(source, atoms), _cut(target, atoms)
    steps: list[Move] = []
    while before != after:
        steps.append(_move(before, after))
        before = _moved(before, after)
    return steps


MOST_AXES = 4
"""Axes that every kernel takes on every device."""


def _atoms(source: Layout, target: Layout, elements: int) -> list[int] | None:
    """The steps at which a run of either begins or ends, rising; None where one does not divide the next."""
    ends = {1, elements}
    for size, step in (*source.runs, *target.runs):
        ends |= {step, size * step}
    steps = sorted(ends)
    divides = all(after % before == 0 for before, after in itertools.pairwise(steps))
    return steps if divides else None


def _cut(layout: Layout, atoms: list[int]) -> list[tuple[int, int]]:
    """The runs of a layout, cut at the atoms' ends."""
    found = []
    for size, step in layout.runs:
        inside = [end for end in atoms if step <= end <= size * step]
        found += [(end // begin, begin) for begin, end in reversed(list(itertools.pairwise(inside)))]
    return found


def _groups(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Runs that stay neighbours, together."""
    following = dict(itertools.pairwise(after))
    groups: list[list[tuple[int, int]]] = []
    for run in before:
        if groups and following.get(groups[-1][-1]) == run:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _arranged(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """The groups in the order that the next Transpose gives them.

    All at once where they are few; else the group that comes first changes places with all before it.
    """
    groups = _groups(before, after)
    wanted = sorted(groups, key=lambda group: after.index(group[0]))
    if len(groups) <= MOST_AXES:
        return wanted
    same = next(index for index, group in enumerate(wanted) if groups[index] != group)
    first = groups.index(wanted[same])
    return [*groups[:same], groups[first], *groups[same:first], *groups[first + 1 :]]


def _move(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> Move:
    groups, wanted = _groups(before, after), _arranged(before, after)
    if len(groups) > MOST_AXES:  # [kept, behind, first, rest] -> [kept, first, behind, rest]
        same = next(index for index, group in enumerate(wanted) if groups[index] != group)
        first = groups.index(wanted[same])
        parts = [groups[:same], groups[same:first], groups[first : first + 1], groups[first + 1 :]]
        shape = tuple(math.prod(size for group in part for size, _ in group) for part in parts)
        return Move(shape, (0, 2, 1, 3))
    shape = tuple(math.prod(size for size, _ in group) for group in groups)
    return Move(shape, tuple(groups.index(group) for group in wanted))


def _moved(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [run for group in _arranged(before, after) for run in group]


def fitted(move: Move, before: Sequence[int], after: Sequence[int]) -> Move:
    """The same move in axes that the tensor has already, or that its reader asks for, where either fits.

    >>> fitted(Move((20, 3), (1, 0)), (1, 4, 5, 3), (1, 60))
    Move(shape=(1, 4, 5, 3), permutation=(0, 3, 1, 2))
    >>> fitted(Move((3, 20), (1, 0)), (1, 60), (1, 4, 5, 3))
    Move(shape=(1, 3, 4, 5), permutation=(0, 2, 3, 1))
    """
    sizes = [move.shape[axis] for axis in move.permutation]
    found = [move]
    groups = _consecutive(move.shape, before)
    if groups is not None:
        ones, *parts = groups
        order = [*ones, *(axis for index in move.permutation for axis in parts[index])]
        found.append(Move(tuple(before), tuple(order)))
    groups = _consecutive(sizes, after)
    if groups is not None:
        ones, *parts = groups
        inverse = [move.permutation.index(index) for index in range(len(sizes))]
        axes = [*ones, *(axis for index in inverse for axis in parts[index])]
        order = [axes.index(axis) for axis in range(len(after))]
        found.append(Move(tuple(after[axis] for axis in axes), tuple(order)))

    def reshapes(one: Move) -> int:
        made = [one.shape[axis] for axis in one.permutation]
        return (one.shape != tuple(before)) + (made != list(after))

    return min(found, key=reshapes)


def _consecutive(sizes: Sequence[int], shape: Sequence[int]) -> list[list[int]] | None:
    """The axes of a shape of four at most that make up each size, behind its leading axes of size 1."""
    if len(shape) > MOST_AXES:
        return None
    axes = list(range(len(shape)))
    ones: list[int] = []
    while axes and shape[axes[0]] == 1:
        ones.append(axes.pop(0))
    groups = [ones]
    for size in sizes:
        group: list[int] = []
        while axes and math.prod(shape[axis] for axis in group) < size:
            group.append(axes.pop(0))
        if math.prod(shape[axis] for axis in group) != size:
            return None
        groups.append(group)
    groups[-1] += axes  # of size 1
    return groups


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
