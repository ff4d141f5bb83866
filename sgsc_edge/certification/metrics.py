"""Decisions and metrics, from logits.

A decision is the index of the largest logit, the lowest index where several are equal. A classifier decides
once a sample; a language model once for each next token that has a label. ``accuracy`` is the share of
decisions equal to the label. ``loss`` is the mean cross-entropy in nats of dequantized logits over all
decisions, ``mean(log(sum(exp(z))) - z[label])``; where the model ends with Softmax it is
``mean(-log max(p, 1/512))``: what int8 rounds to 0 lies below half a step. A metric of no decisions, or one
that is NaN or infinite, is None: not measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.numerics import SMALLEST_PROBABILITY

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class OutputGrid:
    """What the integers of the model's output mean: ``real = scale * (integer - zero_point)``.

    ``probabilities`` is true where the last op is a Softmax.
    """

    scale: float
    zero_point: int
    probabilities: bool = False

    def to_real(self, integers: NDArray[np.int8]) -> NDArray[np.float64]:
        """Logits (or probabilities) float64 [..., K] of ``integers`` int8 [..., K]."""
        return self.scale * (integers.astype(np.float64) - self.zero_point)


def decisions(logits: NDArray[np.generic]) -> NDArray[np.int64]:
    """Index of the largest of each row [..., K]; the lowest index wins ties.

    >>> decisions(np.array([[1, 7, 7], [2, 0, 1]])).tolist()
    [1, 0]
    """
    decided: NDArray[np.int64] = np.argmax(logits, axis=-1).astype(np.int64)
    return decided


def ties(logits: NDArray[np.generic]) -> int:
    """Number of rows [m, K] whose largest value occurs more than once.

    >>> ties(np.array([[1, 7, 7], [2, 0, 1]]))
    1
    """
    if len(logits) == 0:
        return 0
    largest = logits.max(axis=1, keepdims=True)
    return int(((logits == largest).sum(axis=1) > 1).sum())


def accuracy(values: NDArray[np.float64], labels: Labels, probabilities: bool) -> float | None:
    """Share of right decisions of ``values`` [n, K], or None."""
    if len(labels) == 0 or not np.isfinite(values).all():
        return None
    return int((decisions(values) == labels).sum()) / len(labels)


def cross_entropy(values: NDArray[np.float64], labels: Labels, probabilities: bool) -> float | None:
    """Mean cross-entropy in nats of ``values`` [n, K], or None (also for a probability below 0)."""
    if len(labels) == 0 or not np.isfinite(values).all():
        return None
    picked = values[np.arange(len(labels)), labels]
    if probabilities:
        if (picked < 0).any():
            return None
        losses = -np.log(np.maximum(picked, SMALLEST_PROBABILITY))
    else:
        largest = values.max(axis=1)
        losses = largest + np.log(np.exp(values - largest[:, None]).sum(axis=1)) - picked
    mean = math.fsum(losses.tolist()) / len(labels)
    return mean if math.isfinite(mean) else None


@dataclass(frozen=True)
class Metric:
    """One row of :data:`METRICS`: ``measure(values float64 [n, K], labels, probabilities)``."""

    name: str
    higher_is_better: bool
    measure: Callable[[NDArray[np.float64], Labels, bool], float | None]


METRICS = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", True, accuracy),
            Metric("loss", False, cross_entropy),
        )
    }
)


def measure_all(values: NDArray[np.float64], labels: Labels, probabilities: bool) -> dict[str, float | None]:
    """Every metric of ``values`` float64 [n, K] by name."""
    return {name: metric.measure(values, labels, probabilities) for name, metric in METRICS.items()}
