"""The search for the best plan of every size: dynamic programming over the Pareto front.

Bytes and losses add up over layers, so one pass over the layers is enough that keeps, of all plans of the
layers so far, those that no smaller plan beats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.compression.widths.plan import Option

_POINTS = 4096
"""Plans followed from layer to layer: of more, the best in each of so many equal parts of the sizes."""


@dataclass(frozen=True, eq=False)
class Front:
    """The plans that no smaller plan beats, by size.

    Parameters
    ----------
    bytes, loss: int64 and float64 [plans], rising and falling.
    steps: for each layer, int64 [2, plans so far]: the plan of the layers before, and the layer's option.
    """

    bytes: NDArray[np.int64]
    loss: NDArray[np.float64]
    steps: tuple[NDArray[np.int64], ...]

    @staticmethod
    def of(layers: Iterable[Sequence[Option]]) -> Front:
        """Follow the layers, one after another."""
        size, loss = np.zeros(1, np.int64), np.zeros(1)
        steps = []
        for options in layers:
            sizes = (size[:, np.newaxis] + np.array([option.bytes for option in options])).reshape(-1)
            losses = (loss[:, np.newaxis] + np.array([option.loss for option in options])).reshape(-1)
            kept = _unbeaten(sizes, losses)
            size, loss = sizes[kept], losses[kept]
            steps.append(np.stack([kept // len(options), kept % len(options)]))
        return Front(size, loss, tuple(steps))

    def within(self, budget: float) -> int | None:
        """The plan of the least loss in at most ``budget`` bytes; None where there is none."""
        fitting = int(np.searchsorted(self.bytes, budget, side="right"))
        return fitting - 1 if fitting else None

    def picks(self, plan: int) -> list[int]:
        """The option that each layer has in a plan."""
        found = []
        for before, option in reversed(self.steps):
            found.append(int(option[plan]))
            plan = int(before[plan])
        return found[::-1]


def _unbeaten(sizes: NDArray[np.int64], losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the points that no point of at most their size beats, by size; int64."""
    order = np.lexsort((losses, sizes))
    best = np.minimum.accumulate(losses[order])
    better = np.concatenate([[True], best[1:] < best[:-1]])
    front: NDArray[np.int64] = order[better]
    if len(front) > _POINTS:
        # The last of a part has the least loss; the very first, the smallest of all, stays too.
        span = sizes[front] - sizes[front[0]]
        part = span * _POINTS // (span[-1] + 1)
        front = front[np.concatenate([[True], part[1:-1] != part[2:], [True]])]
    return front
