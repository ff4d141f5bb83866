"""Operators of attention models, as modules with one form each.

Users write them in many ways; :mod:`sgsc_edge.compression.tracing.canonical` makes these of them when a model
is traced.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Table(nn.Module):
    """Rows of a trained table: an embedding of tokens, or of all positions.

    Parameters
    ----------
    weight: [rows, C] float32; shared with the user's module where that has the same rows.
    """

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)

    def forward(self, indices: torch.Tensor | None = None) -> torch.Tensor:
        """The rows of int64 indices [n, T] as [n, T, C]; without indices the whole table, [rows, C]."""
        return look_up(self.weight, indices)


class MatMul(nn.Module):
    """A product of two activations, times a constant: [..., M, K] by [..., K, N] gives [..., M, N]."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """float32, on any two values that torch.matmul takes."""
        return scaled(torch.matmul(a, b), self.scale)


class MaskedSoftmax(nn.Module):
    """Softmax over the last axis of scores, of which some are left out.

    What is left out gets a probability of exactly 0. It is no part of the scores: these are quantized before,
    so a mask takes nothing of their int8 range, and a device needs no number for "minus infinity".

    Parameters
    ----------
    mask: bool, broadcast to the scores; True leaves an element out. None leaves out none.
    """

    mask: torch.Tensor | None

    def __init__(self, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities, of the scores' shape and dtype."""
        return masked_softmax(scores, self.mask)


OPERATORS = (Table, MatMul, MaskedSoftmax)


def look_up(weight: torch.Tensor, indices: torch.Tensor | None) -> torch.Tensor:
    """Rows of a table; all of them where no indices are given."""
    return weight if indices is None else F.embedding(indices, weight)


def scaled(x: torch.Tensor, scale: float) -> torch.Tensor:
    """x times a constant; nothing is computed for 1."""
    return x if scale == 1.0 else x * scale


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax over the last axis, 0 where the mask is True."""
    return F.softmax(scores if mask is None else scores.masked_fill(mask, -torch.inf), dim=-1)
