"""Scikit-learn's digits as float32 [1, 8, 8] in 0..1 with int64 labels, split once and for all.

The split is by rule, not by chance: within each class, in the file's order, every fifth sample is a
test sample. So it is stratified, the same everywhere, and independent of any seed.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

TEST_EVERY = 5


def train() -> TensorDataset:
    """1,442 samples for training; the pool is a part of them."""
    return _part(test=False)


def test() -> TensorDataset:
    """355 samples, measured only."""
    return _part(test=True)


def _part(*, test: bool) -> TensorDataset:
    digits = load_digits()
    labels: np.ndarray = digits.target.astype(np.int64)
    is_test = np.zeros(len(labels), bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    chosen = is_test if test else ~is_test
    pixels = (digits.images[chosen] / 16.0).astype(np.float32)[:, None]  # stored as 0..16
    return TensorDataset(torch.from_numpy(pixels), torch.from_numpy(labels[chosen]))
