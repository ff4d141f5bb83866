"""Which samples guard a compression: several criteria, each with its share, every class covered.

Each class gets a number of samples in proportion to its size, but at least half of what it would get if all
got as many, or all that it has: one that is rare is the first that compression forgets. Each criterion gets
its share of them. Then the criteria choose in turn, each the best sample of its own order that no other has
taken. Where two parts share a side (watch and certify, both of the pool) samples are chosen in pairs: two
neighbours in one criterion's order of one class, of which the content hash decides who goes where. So the
two parts are alike without being tuned to be.

A criterion is a function from scores to an order; a new one is a column of ``Scores`` and a row of
``CRITERIA``.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.preservation.diversity import covering_order
from sgsc_edge.preservation.scores import Scores
from sgsc_edge.preservation.split import ChosenPart

Order = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """What a criterion may depend on beside the scores: parts that share the side, and the seed."""

    parts: tuple[ChosenPart, ...]
    seed: int


def _by_saliency(scores: Scores, side: Side) -> Order:
    """The strongest evidence first: activations that compression must not lose."""
    return _descending(scores.saliency)


def _by_uncertainty(scores: Scores, side: Side) -> Order:
    """The closest decisions first: those that flip first."""
    return _descending(scores.uncertainty)


def _by_diversity(scores: Scores, side: Side) -> Order:
    """Every cluster's centre first, then their surroundings."""
    return covering_order(scores.cluster, scores.distance, scores.label, len(side.parts))


def _by_chance(scores: Scores, side: Side) -> Order:
    """An order that follows from content and seed alone."""
    draws = [_draw(side.seed, digest) for digest in scores.hashes]
    return np.array(sorted(range(len(draws)), key=draws.__getitem__), dtype=np.int64)


CRITERIA: Mapping[str, Callable[[Scores, Side], Order]] = {
    "saliency": _by_saliency,
    "uncertainty": _by_uncertainty,
    "diversity": _by_diversity,
    "random": _by_chance,
}
"""Name to the order in which a criterion prefers samples; ties go by content hash."""


@dataclass(frozen=True)
class Chosen:
    """One chosen sample.

    Parameters
    ----------
    position: in the scores.
    part: guide, watch or certify.
    criterion: the one that chose it.
    reasons: every criterion that had it among its first choices: those within its share of the class.
    ranks: its rank within its class by each criterion, from 1.
    """

    position: int
    part: ChosenPart
    criterion: str
    reasons: tuple[str, ...]
    ranks: Mapping[str, int]


def select(
    scores: Scores, sizes: Mapping[ChosenPart, int], shares: Mapping[str, float], seed: int
) -> list[Chosen]:
    """Choose the parts of one side.

    Parameters
    ----------
    scores: of the side's samples; as many as the parts need together, or more.
    sizes: part -> number of samples; one part, or two of equal size.
    shares: criterion -> its share; they need not add up to 1.
    """
    side = Side(tuple(sizes), seed)
    units = next(iter(sizes.values()))
    criteria = {name: share for name, share in shares.items() if share > 0}
    orders = {name: CRITERIA[name](scores, side) for name in criteria}
    ranks = {name: _ranks_in_class(order, scores.label) for name, order in orders.items()}
    draws = list(zip(turns(criteria, units), _plan(scores.label, units, len(side.parts)), strict=True))
    picked = _draft(orders, scores, draws)
    quotas = _first_choices(draws)
    chosen = []
    for (criterion, _), positions in zip(draws, picked, strict=True):
        dealt = sorted(positions, key=lambda position: _draw(seed, scores.hashes[position]))
        for part, position in zip(sizes, dealt, strict=True):
            own = {name: int(ranks[name][position]) for name in criteria}
            label = int(scores.label[position])
            reasons = tuple(n for n in criteria if n == criterion or own[n] <= quotas.get((n, label), 0))
            chosen.append(Chosen(position, part, criterion, reasons, own))
    return chosen


def turns(shares: Mapping[str, float], count: int) -> Iterator[str]:
    """Names so that after any number of turns each has had its share, as nearly as whole turns allow.

    >>> list(turns({"a": 2, "b": 1}, 6))
    ['a', 'b', 'a', 'a', 'b', 'a']
    """
    total = sum(shares.values())
    had = dict.fromkeys(shares, 0)
    for turn in range(1, count + 1):
        name = max(shares, key=lambda name: shares[name] / total * turn - had[name])
        had[name] += 1
        yield name


def quotas(available: Mapping[int, int], total: int) -> dict[int, int]:
    """How many of ``total`` each class gives: proportional to its size, at least half of an even share.

    Sainte-Laguë's method after first seats for every class (the largest classes where ``total`` is less than
    their number); none gives more than it has.

    >>> quotas({0: 90, 1: 9, 2: 1}, 10)
    {0: 8, 1: 1, 2: 1}
    >>> quotas({0: 900, 1: 90, 2: 10}, 120)
    {0: 90, 1: 20, 2: 10}
    """
    first = max(total // (2 * max(len(available), 1)), 1)
    given = dict.fromkeys(sorted(available), 0)

    def turn(label: int) -> tuple[int, float, int]:
        """The class with the smallest is next."""
        seats, size = given[label], available[label]
        return min(seats, first), -size / (2 * seats + 1 if seats >= first else 1), label

    waiting = [turn(label) for label, count in available.items() if count]
    heapq.heapify(waiting)
    for _ in range(total):
        if not waiting:
            break
        *_, label = heapq.heappop(waiting)
        given[label] += 1
        if given[label] < available[label]:
            heapq.heappush(waiting, turn(label))
    return given


def _plan(labels: NDArray[np.int64], units: int, each: int) -> list[tuple[int, ...]]:
    """The classes that each unit of ``each`` samples is drawn from: one class, but for the last leftovers."""
    values, counts = np.unique(labels, return_counts=True)
    available = dict(zip(values.tolist(), counts.tolist(), strict=True))
    whole = quotas({label: count // each for label, count in available.items()}, units)
    plan = [(label,) * each for label, count in whole.items() for _ in range(count)]
    left = (label for label, count in available.items() for _ in range(count - each * whole[label]))
    return plan + [tuple(islice(left, each)) for _ in range(units - len(plan))]


def _draft(
    orders: Mapping[str, Order], scores: Scores, draws: Sequence[tuple[str, tuple[int, ...]]]
) -> list[list[int]]:
    """Positions by unit: each criterion in its turn takes its best samples of a class that are left."""
    taken: set[int] = set()
    queues: dict[tuple[str, int], Iterator[int]] = {}
    for name, order in orders.items():
        for label in np.unique(scores.label):
            queues[name, int(label)] = iter(order[scores.label[order] == label].tolist())

    def best(criterion: str, label: int) -> int:
        position = next(position for position in queues[criterion, label] if position not in taken)
        taken.add(position)
        return position

    return [[best(criterion, label) for label in labels] for criterion, labels in draws]


def _first_choices(draws: Sequence[tuple[str, tuple[int, ...]]]) -> dict[tuple[str, int], int]:
    """How many samples of each class each criterion had to give."""
    count: dict[tuple[str, int], int] = {}
    for criterion, labels in draws:
        for label in labels:
            count[criterion, label] = count.get((criterion, label), 0) + 1
    return count


def _ranks_in_class(order: Order, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of every position within its class, from 1."""
    ranks = np.empty(len(order), dtype=np.int64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        ranks[members] = np.arange(1, len(members) + 1)
    return ranks


def _descending(values: NDArray[np.float64]) -> Order:
    return np.argsort(-values, kind="stable").astype(np.int64)


def _draw(seed: int, digest: str) -> str:
    return hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()
