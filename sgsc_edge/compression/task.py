"""What a model is for, as training sees it: the loss of each sample, and which decisions are right.

Labels are int64 [n], one class a sample, or [n, T] with logits [n, T, K] for sequences (a language model's
next tokens); positions labelled ``IGNORED`` count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from sgsc_edge.numerics import SMALLEST_PROBABILITY
from sgsc_edge.project.schema import IGNORED


class Loss(Protocol):
    """What measures how much channels and widths matter."""

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean of a batch: a scalar."""

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum over a batch: a scalar."""


@dataclass(frozen=True)
class OwnLoss:
    """A loss of the user's own.

    Parameters
    ----------
    mean: (outputs, labels) -> the mean over the samples of a batch, a scalar.
    """

    mean: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean of a batch: a scalar."""
        return self.mean(outputs, labels)

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum over a batch: a scalar."""
        return self.mean(outputs, labels) * len(labels)


@dataclass(frozen=True)
class Task:
    """Cross-entropy against labels.

    Parameters
    ----------
    probabilities: whether outputs are probabilities (behind a Softmax) rather than logits.
    """

    probabilities: bool = False

    def losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross-entropy in nats and number of labelled positions of each sample, float32 [n] both."""
        flat = labels.flatten()
        scores = outputs.reshape(len(flat), -1).float()
        if self.probabilities:
            found = F.nll_loss(scores.clamp_min(SMALLEST_PROBABILITY).log(), flat, reduction="none")
        else:
            found = F.cross_entropy(scores, flat, ignore_index=IGNORED, reduction="none")
        return _by_sample(found, labels), counted(labels)

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the labelled positions in nats: a scalar."""
        sums, counts = self.losses(outputs, labels)
        return sums.sum() / counts.sum().clamp_min(1)

    def total(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the labelled positions in nats, summed: a scalar."""
        return self.losses(outputs, labels)[0].sum()


def counted(labels: torch.Tensor) -> torch.Tensor:
    """Labelled positions of each sample, float32 [n]."""
    return _by_sample((labels != IGNORED).flatten().float(), labels)


def right(outputs: torch.Tensor, labels: torch.Tensor) -> int:
    """How many labelled positions are decided as labelled."""
    return int((outputs.argmax(-1) == labels).sum())


def _by_sample(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sums over each sample's positions."""
    return values.reshape(len(labels), -1).sum(1)
