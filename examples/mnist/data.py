"""MNIST as float32 [1, 28, 28], (pixel / 255 - 0.1307) / 0.3081, with int64 labels."""

from __future__ import annotations

import math

import numpy as np
import torch
from sources import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, IdxFile, load
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import TensorDataset

MEAN = np.float32(0.1307)
STANDARD_DEVIATION = np.float32(0.3081)
MAX_ROTATION = math.radians(10)
MAX_SHIFT = 2 * 2 / 28  # two pixels, in grid_sample's units (the image spans -1..1)
MAX_SCALE = 0.1


def train() -> TensorDataset:
    """60,000 samples for training; the pool is a part of them."""
    return _dataset(TRAIN_IMAGES, TRAIN_LABELS)


def test() -> TensorDataset:
    """10,000 samples, measured only."""
    return _dataset(TEST_IMAGES, TEST_LABELS)


def augment(images: Tensor) -> Tensor:
    """Each image [n, 1, 28, 28] rotated, scaled and shifted a little at random; edges repeat."""
    angle, scale, *shift = torch.rand(4, len(images)) * 2 - 1
    angle, scale = angle * MAX_ROTATION, 1 + scale * MAX_SCALE
    sine, cosine = torch.sin(angle) * scale, torch.cos(angle) * scale
    rows = (
        torch.stack([cosine, -sine, shift[0] * MAX_SHIFT], 1),
        torch.stack([sine, cosine, shift[1] * MAX_SHIFT], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _dataset(images: IdxFile, labels: IdxFile) -> TensorDataset:
    pixels = load(images).astype(np.float32)[:, None] / np.float32(255)
    normalized = (pixels - MEAN) / STANDARD_DEVIATION
    return TensorDataset(torch.from_numpy(normalized), torch.from_numpy(load(labels).astype(np.int64)))
