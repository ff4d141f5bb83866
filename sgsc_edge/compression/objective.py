"""What the built-in training minimises, beside the size (``compressor``).

After arXiv 2505.00350 (eq. 4): ``L(train) + λ · L(guide)``. L is cross-entropy plus the divergence from the
float model's softened answers (of data that is not augmented: computed once); guide samples are a fixed share
of every batch, so they cost no second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from sgsc_edge.compression.task import Task
from sgsc_edge.project.schema import IGNORED

TEMPERATURE = 4.0
"""Divides logits where they are compared with the float model's (arXiv 1503.02531): at 1, a confident model
says little more than the label."""


class Objective(Protocol):
    """The loss of a batch, given the model, its inputs, labels, and indices [n] in the training set."""

    def __call__(
        self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """A scalar."""


def by_labels(task: Task) -> Objective:
    """Cross-entropy alone."""

    def loss(
        model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        return task.loss(model(inputs), labels)

    return loss


class Guided:
    """Cross-entropy, the float model's answers, and guide samples weighted by λ.

    Parameters
    ----------
    teacher: the float model's outputs, from a batch's inputs and training indices.
    samples: in the training set.
    guide, must_keep: training indices of the guarded samples, and of those whose decision may not flip: they
        follow their labels, not the float model, whose answer may be close to the other one.
    guide_weight: λ at present.
    """

    def __init__(
        self,
        task: Task,
        teacher: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        samples: int,
        guide: Sequence[int],
        must_keep: Sequence[int],
        guide_weight: Callable[[], float],
    ) -> None:
        self.task, self.teacher, self.guide_weight = task, teacher, guide_weight
        self.is_guide = torch.zeros(samples, dtype=torch.bool)
        self.is_guide[list(guide)] = True
        self.is_kept = torch.zeros(samples, dtype=torch.bool)
        self.is_kept[list(must_keep)] = True

    def __call__(
        self, model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Task and guide terms of a batch: a scalar."""
        outputs = model(inputs)
        kept = self.is_kept[indices]
        sums, counts = self.task.losses(outputs, labels)
        # As strong as the softened answers that the others follow: those have T times a label's gradients.
        sums = sums * torch.where(kept, TEMPERATURE, 1.0)
        sums = sums + self._divergence(outputs, inputs, labels, indices).masked_fill(kept, 0.0)
        guide, weight = self.is_guide[indices], self.guide_weight()
        if weight and guide.any() and not guide.all():
            return _mean(sums, counts, ~guide) + weight * _mean(sums, counts, guide)
        return _mean(sums, counts, torch.ones_like(guide))

    def _divergence(
        self, outputs: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Kullback-Leibler divergence from the float model's softened answers, summed a sample, float32 [n].

        The square of the temperature makes up for the gradients that softening takes.
        """
        if self.task.probabilities:
            return outputs.new_zeros(len(outputs))
        target, own = (
            F.log_softmax(logits / TEMPERATURE, -1) for logits in (self.teacher(inputs, indices), outputs)
        )
        apart = F.kl_div(own, target, reduction="none", log_target=True).sum(-1)
        return TEMPERATURE**2 * apart.masked_fill(labels == IGNORED, 0.0).reshape(len(labels), -1).sum(1)


def _mean(sums: torch.Tensor, counts: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return sums[chosen].sum() / counts[chosen].sum().clamp_min(1)
