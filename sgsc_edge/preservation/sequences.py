"""What a language model says about sequences: its decisions and doubts at labelled next tokens, and features.

A sequence's doubt is the mean over its labelled next tokens, so that long ones are not harder than short
ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgsc_edge.preservation.uncertainty import Uncertainty, as_logits, uncertainty
from sgsc_edge.project.schema import IGNORED


@dataclass(frozen=True, eq=False)
class Doubts:
    """Of each sequence: next tokens that are decided rightly (int64 [n]), and the means of its doubts."""

    right: NDArray[np.int64]
    doubt: Uncertainty


def doubts(logits: Tensor, labels: Tensor) -> Doubts:
    """Of logits float32 [n, T, V] and next tokens int64 [n, T]; each sequence has a labelled one."""
    labelled = labels != IGNORED
    counts = labelled.sum(1).numpy()
    rows = logits[labelled]  # [m, V], sequence by sequence
    starts = np.cumsum(counts) - counts
    right = (rows.argmax(1) == labels[labelled]).numpy()
    found = uncertainty(as_logits(rows.numpy()))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        means: NDArray[np.float64] = np.add.reduceat(values, starts) / counts
        return means

    return Doubts(
        np.add.reduceat(right.astype(np.int64), starts),
        Uncertainty(mean(found.least_confidence), mean(found.margin), mean(found.entropy)),
    )


def joined(parts: list[Doubts]) -> Doubts:
    """The doubts of several batches."""
    return Doubts(
        np.concatenate([part.right for part in parts]),
        Uncertainty(
            *(
                np.concatenate([getattr(part.doubt, name) for part in parts])
                for name in ("least_confidence", "margin", "entropy")
            )
        ),
    )


def decided_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of each sequence's decided logits at its labelled next tokens, [n]."""
    return (logits.amax(-1) * (labels != IGNORED)).sum(1)


def pooled(features: Tensor, labels: Tensor) -> Tensor:
    """Mean of the features [n, T, d] over the tokens whose next one has a label, [n, d]."""
    weights = (labels != IGNORED).unsqueeze(-1).to(torch.float32)
    return (features * weights).sum(1) / weights.sum(1)
