"""MNIST with 1 % of one digit's training samples: the data of a project whose ``whole`` is the example's."""

from __future__ import annotations

import hashlib

import torch
import whole
from torch.utils.data import TensorDataset

DIGIT = 9
SHARE = 0.01

augment, test = whole.augment, whole.test


def train() -> TensorDataset:
    """All samples of the other digits, and of this one those with the lowest hashes, in the same order."""
    images, labels = whole.train().tensors
    kept = torch.ones(len(labels), dtype=torch.bool)
    digests = {i: hashlib.sha256(images[i].numpy().tobytes()).digest() for i in _of_the_digit(labels)}
    ranked = sorted(digests, key=digests.__getitem__)
    kept[ranked[round(SHARE * len(ranked)) :]] = False
    return TensorDataset(images[kept], labels[kept])


def rare() -> TensorDataset:
    """The digit's samples in :func:`train`: those that a user cares about."""
    images, labels = train().tensors
    chosen = torch.tensor(_of_the_digit(labels))
    return TensorDataset(images[chosen], labels[chosen])


def _of_the_digit(labels: torch.Tensor) -> list[int]:
    return torch.nonzero(labels == DIGIT).flatten().tolist()
