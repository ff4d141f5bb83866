"""How a tensor is brought from one layout to another: which Transposes, over which axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgsc_edge.errors import InternalError
from sgsc_edge.lowering.layout import MOST_AXES, Layout, Order, Shape


def inner(layout: Layout, elements: int) -> tuple[tuple[tuple[int, int], ...], Order] | None:
    """The runs outside the innermost ``elements`` and these' distances; None where they end amid a run.

    >>> inner(Layout.of([(20, 1), (3, 20)]), 3)
    (((20, 1),), array([ 0, 20, 40]))
    """
    runs, tail = list(layout.runs), layout.tail
    count = 1 if tail is None else tail.size
    inside: list[tuple[int, int]] = []
    while count < elements and runs:
        size, step = runs.pop()
        part = min(size, elements // count)
        if size % part:
            return None
        inside.insert(0, (part, step))
        count *= part
        if part < size:
            runs.append((size // part, step * part))
            break
    return (tuple(runs), Layout(tuple(inside), tail).order()) if count == elements else None


def sorted_tail(layout: Layout) -> Layout:
    """The layout with its tail in rising order: then runs describe it, or it is all there is."""
    return layout if layout.tail is None else Layout.of(layout.runs, np.sort(layout.tail))


@dataclass(frozen=True)
class Move:
    """A Transpose that brings a tensor from one layout to another: it is seen in ``shape`` and permuted."""

    shape: Shape
    permutation: Shape


def moves(source: Layout, target: Layout, elements: int) -> list[Move]:
    """The Transposes from one layout in runs to another, at most four axes each.

    >>> moves(Layout.of([(20, 1), (3, 20)]), Layout.plain(60), 60)
    [Move(shape=(20, 3), permutation=(1, 0))]
    """
    assert source.tail is None
    assert target.tail is None
    if source.same_as(target):
        return []
    atoms = _atoms(source, target, elements)
    if atoms is None:  # where one layout's runs end amid the other's, plain lies between: it has no ends
        plain = Layout.plain(elements)
        return moves(source, plain, elements) + moves(plain, target, elements)
    before, after = _cut(source, atoms), _cut(target, atoms)
    if sorted(before) != sorted(after):
        raise InternalError(f"{source.runs} and {target.runs} are no orders of the same elements")
    steps: list[Move] = []
    while before != after:
        steps.append(_move(before, after))
        before = _moved(before, after)
    return steps


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
