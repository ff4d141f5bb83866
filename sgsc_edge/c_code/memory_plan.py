"""Where values lie in memory: offsets from lifetimes.

Values that are alive at one time must not overlap. What every layout needs at least is the largest sum of
sizes that are alive at once; the layouts tried here are first-fit in several orders, then in orders that a
seeded search improves, until one needs no more than that.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 4
"""Of every value: a word, which kernels may read at once."""

_TRIES = 400


@dataclass(frozen=True)
class Buffer:
    """A value in memory.

    Parameters
    ----------
    size: bytes.
    first, last: steps between which it is alive, both included.
    """

    name: str
    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Layout:
    """Offsets in bytes by name, the bytes that they take in all, and the bytes that every layout takes."""

    offsets: Mapping[str, int]
    size: int
    bound: int


def lay_out(buffers: Sequence[Buffer]) -> Layout:
    """Find room for all; the same every time.

    >>> lay_out([Buffer("a", 8, 0, 1), Buffer("b", 4, 1, 2), Buffer("c", 8, 2, 3)]).size
    12
    """
    bound = lower_bound(buffers)
    orders = [
        sorted(buffers, key=key)
        for key in (
            lambda b: (-rounded(b.size), b.first, b.name),
            lambda b: (-rounded(b.size) * (b.last - b.first + 1), b.first, b.name),
            lambda b: (b.first, -rounded(b.size), b.name),
            lambda b: (-b.last, -rounded(b.size), b.name),
        )
    ]
    best = min((_first_fit(order) for order in orders), key=lambda found: found[1])
    chance = random.Random(0)
    order = min(orders, key=lambda order: _first_fit(order)[1])
    for _ in range(_TRIES if len(buffers) > 1 else 0):
        if best[1] == bound:
            break
        tried = list(order)
        moved = tried.pop(chance.randrange(len(tried)))
        tried.insert(chance.randrange(len(tried) + 1), moved)
        found = _first_fit(tried)
        if found[1] <= best[1]:
            best, order = found, tried
    return Layout(*best, bound)


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Bytes that are alive at once, at the step where they are most."""
    return max(
        (
            sum(rounded(other.size) for other in buffers if other.first <= buffer.first <= other.last)
            for buffer in buffers
        ),
        default=0,
    )


def _first_fit(order: Sequence[Buffer]) -> tuple[dict[str, int], int]:
    """Each buffer at the lowest offset that those before it leave free; and the bytes of all."""
    placed: list[tuple[int, Buffer]] = []
    for buffer in order:
        offset = 0
        taken = sorted((start, start + rounded(other.size)) for start, other in placed if other.meets(buffer))
        for start, end in taken:
            if start - offset >= rounded(buffer.size):
                break
            offset = max(offset, end)
        placed.append((offset, buffer))
    size = max((start + rounded(buffer.size) for start, buffer in placed), default=0)
    return {buffer.name: start for start, buffer in placed}, size


def rounded(size: int) -> int:
    """Bytes that a value of ``size`` bytes takes: a multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT
