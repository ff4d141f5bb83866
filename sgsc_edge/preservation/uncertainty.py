"""Uncertainty: how close a decision is, from the logits alone.

The three measures of uncertainty sampling: Settles, *Active Learning Literature Survey*, 2009, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Three measures, float64 [n] each.

    Parameters
    ----------
    least_confidence: 1 - max p, in 0 (certain) to 1 - 1/K.
    margin: p of the first class minus p of the second, in 0 (undecided) to 1.
    entropy: -sum p ln p, in nats.
    """

    least_confidence: Float
    margin: Float
    entropy: Float


def as_logits(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of a model's outputs [n, K]: the logarithms where every row is a softmax, else the outputs.

    A softmax that a model computes by a function cannot be looked behind. Rows of one add up to 1 but for
    the roundings of K sums and K quotients (2^-24 each), on every sample; logits do not.
    """
    sums = outputs.sum(axis=1, dtype=np.float64)
    if outputs.min() < 0 or np.abs(sums - 1).max() > outputs.shape[1] * 2.0**-23:
        return outputs
    return np.log(np.maximum(outputs, np.finfo(np.float32).tiny))


def uncertainty(logits: NDArray[np.float32]) -> Uncertainty:
    """Measures of logits [n, K], K >= 2.

    1 - max p is summed over the other classes: as a difference it would be 0 for every confident sample, and
    these could not be ranked.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    probabilities = np.sort(exponentials / total, axis=1)
    entropy = np.log(total[:, 0]) - (exponentials / total * shifted).sum(axis=1)
    return Uncertainty(
        least_confidence=probabilities[:, :-1].sum(axis=1),
        margin=probabilities[:, -1] - probabilities[:, -2],
        entropy=np.maximum(entropy, 0.0),
    )
