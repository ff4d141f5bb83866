"""The statistics of the tables: spread over seeds, rank correlation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.95

_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""Quantiles of Student's t at 97.5 % for 1 to 9 degrees of freedom; for more, the last is a bit too wide."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of some seeds' figures; the latter 0 for a single one."""

    mean: float
    deviation: float
    seeds: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of one value at least.

        >>> Spread.of([1.0, 2.0, 3.0])
        Spread(mean=2.0, deviation=1.0, seeds=3)
        """
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return Spread(statistics.mean(values), deviation, len(values))

    def text(self, form: str) -> str:
        """``mean ± deviation``, both in a format such as ``.2f``; the mean alone of a single seed."""
        mean = f"{self.mean:{form}}"
        return mean if self.seeds == 1 else f"{mean} ± {self.deviation:{form.lstrip('+')}}"

    def interval(self) -> tuple[float, float] | None:
        """Student's interval of the mean at :data:`LEVEL`; None of a single seed, which says nothing of it.

        >>> low, high = Spread.of([1.0, 2.0, 3.0]).interval()
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
        """
        if self.seeds < 2:
            return None
        half = _STUDENT[min(self.seeds - 1, len(_STUDENT)) - 1] * self.deviation / math.sqrt(self.seeds)
        return self.mean - half, self.mean + half


def ranks(values: Floats) -> Floats:
    """Ranks from 1, float64 [n]; equal values share the mean of theirs.

    >>> ranks(np.array([10.0, 30.0, 20.0, 30.0])).tolist()
    [1.0, 3.5, 2.0, 3.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Floats = (last - (counts - 1) / 2)[inverse]
    return middle


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of two series [n]; NaN where one of them is constant.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, 4.0]))
    0.5
    """
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (one, other))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / norm, 12) if norm else float("nan")


def mean_spearman(groups: Sequence[tuple[Floats, Floats]]) -> float:
    """The mean rank correlation of several groups; those in which nothing varies say nothing."""
    found = [value for one, other in groups if not np.isnan(value := spearman(one, other))]
    return statistics.mean(found) if found else float("nan")
