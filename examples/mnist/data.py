"""MNIST as float32 [1, 28, 28], (pixel / 255 - 0.1307) / 0.3081, with int64 labels."""

from __future__ import annotations

import numpy as np
import torch
from sources import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, IdxFile, load
from torch.utils.data import TensorDataset

MEAN = np.float32(0.1307)
STANDARD_DEVIATION = np.float32(0.3081)


def train() -> TensorDataset:
    """60,000 samples for training; the pool is a part of them."""
    return _dataset(TRAIN_IMAGES, TRAIN_LABELS)


def test() -> TensorDataset:
    """10,000 samples, measured only."""
    return _dataset(TEST_IMAGES, TEST_LABELS)


def _dataset(images: IdxFile, labels: IdxFile) -> TensorDataset:
    pixels = load(images).astype(np.float32)[:, None] / np.float32(255)
    normalized = (pixels - MEAN) / STANDARD_DEVIATION
    return TensorDataset(torch.from_numpy(normalized), torch.from_numpy(load(labels).astype(np.int64)))
