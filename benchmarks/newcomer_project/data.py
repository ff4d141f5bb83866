"""A stranger's data: scikit-learn's digits, every fifth one for testing."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def train() -> TensorDataset:
    """1,437 samples."""
    return _part(test=False)


def test() -> TensorDataset:
    """360 samples."""
    return _part(test=True)


def _part(*, test: bool) -> TensorDataset:
    digits = load_digits()
    chosen = (np.arange(len(digits.target)) % 5 == 0) == test
    images = torch.tensor(digits.images[chosen] / 16.0, dtype=torch.float32)[:, None]
    return TensorDataset(images, torch.tensor(digits.target[chosen]))
