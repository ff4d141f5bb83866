"""Ranges of values over samples, and which part of a range an int8 grid covers best.

Sources: percentiles and entropy after S. Migacz, *8-bit Inference with TensorRT* (GTC 2017), for grids that
are not symmetric; mse after K. Choi et al. (arXiv 1805.06085): the clipping that rounds a histogram best.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import ModelError

Method = Literal["minmax", "percentile", "mse", "entropy"]
METHODS: tuple[Method, ...] = get_args(Method)

_BINS = 2048
_PERCENTILE = 99.99
_CUTS = 64
"""Clippings that are tried on each side."""
_LEVELS = 256
_NOTHING = 255 * float(np.finfo(np.float32).tiny)


@dataclass
class Range:
    """Smallest and largest value seen, and how often each in between: a histogram that grows with its range.

    Values are float32 of any shape; 0 always lies in the range.
    """

    low: float = 0.0
    high: float = 0.0
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_BINS))

    def add(self, values: NDArray[np.float32], name: str = "") -> None:
        """Count values; raises ModelError where one is not finite."""
        least, most = float(values.min()), float(values.max())
        if not (np.isfinite(least) and np.isfinite(most)):
            raise ModelError(
                "a value is NaN or infinite on the calibration samples",
                where=name,
                remedy="look at the samples and at the float model's weights",
            )
        self._widen(min(least, self.low), max(most, self.high))
        if self.high > self.low:
            self.counts += np.histogram(values, _BINS, (self.low, self.high))[0]

    def join(self, other: Range) -> None:
        """Count what another range has counted."""
        self._widen(min(self.low, other.low), max(self.high, other.high))
        if self.high > self.low:
            self.counts += np.histogram(other.middles, _BINS, (self.low, self.high), weights=other.counts)[0]

    def _widen(self, low: float, high: float) -> None:
        if (low, high) == (self.low, self.high):
            return
        if high - low < _NOTHING:  # denormal values are 0 on any grid
            return
        counts, middles = self.counts, self.middles
        self.low, self.high = low, high
        self.counts = np.histogram(middles, _BINS, (low, high), weights=counts)[0].astype(np.float64)

    @property
    def middles(self) -> NDArray[np.float64]:
        """The values that the counts stand for, float64 [bins]."""
        width = (self.high - self.low) / _BINS
        return np.asarray(self.low + width * (np.arange(_BINS) + 0.5), np.float64)

    def covered(self, method: Method) -> tuple[float, float]:
        """The part of the range that the grid shall cover; 0 lies in it."""
        if method == "minmax" or self.high == self.low or not self.counts.any():
            return self.low, self.high
        if method == "percentile":
            return self._percentile()
        loss = self._squared_error if method == "mse" else self._divergence
        low, high = self.low, self.high
        for _ in range(2):  # one side after the other: the best of both is close to the best of all pairs
            low = min(_cuts(self.low), key=lambda at: loss(at, high))
            high = min(_cuts(self.high), key=lambda at: loss(low, at))
        return low, high

    def _percentile(self) -> tuple[float, float]:
        share = np.cumsum(self.counts) / self.counts.sum()
        outside = (1 - _PERCENTILE / 100) / 2
        low = self.middles[int(np.searchsorted(share, outside))]
        high = self.middles[min(int(np.searchsorted(share, 1 - outside)), _BINS - 1)]
        return min(float(low), 0.0) if self.low else 0.0, max(float(high), 0.0) if self.high else 0.0

    def _rounded(self, low: float, high: float) -> NDArray[np.float64]:
        step = (high - low) / (_LEVELS - 1)
        rounded: NDArray[np.float64] = np.rint(np.clip(self.middles, low, high) / step) * step
        return rounded

    def _squared_error(self, low: float, high: float) -> float:
        return float((self.counts * (self._rounded(low, high) - self.middles) ** 2).sum())

    def _divergence(self, low: float, high: float) -> float:
        """Kullback-Leibler divergence of the histogram from what the grid makes of it."""
        cell = np.rint(np.clip(self.middles, low, high) * (_LEVELS - 1) / (high - low)).astype(np.int64)
        cell -= cell.min()
        filled = self.counts > 0
        total = np.bincount(cell, self.counts)
        spread = np.bincount(cell, filled)
        made = np.where(filled, total[cell] / np.maximum(spread[cell], 1), 0)
        inside = (self.middles >= low) & (self.middles <= high)
        # What is clipped lies in the outermost cells, where the float model has nothing of it.
        lost = float(self.counts[filled & ~inside].sum() / self.counts.sum())
        share, own = self.counts[filled & inside], made[filled & inside]
        if not share.size:
            return float("inf")
        share, own = share / share.sum(), own / own.sum()
        return float((share * np.log(share / own)).sum()) + lost * _LEVELS


def _cuts(end: float) -> list[float]:
    """The clippings of a side that are tried."""
    cuts: list[float] = np.linspace(0, end, _CUTS + 1)[1:].tolist()
    return cuts
