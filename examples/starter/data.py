"""Drawn shapes as float32 [1, 16, 16] in 0..1 with int labels: put your own data set in their place.

What `train` and `test` return is a map-style torch Dataset of (input, label), which gives the same values
whenever an index is read: random distortion belongs into a function of its own (`data.augment` in sgsc.toml).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import TensorDataset

CLASSES = ("circle", "square", "triangle", "cross")
SIZE = 16


def train() -> TensorDataset:
    """1,200 samples for training; the pool, on which the result is judged, is a part of them."""
    return _draw(1200, seed=0)


def test() -> TensorDataset:
    """400 other samples, measured only."""
    return _draw(400, seed=1)


def _draw(count: int, seed: int) -> TensorDataset:
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = np.stack([_shape(chance, int(label)) for label in labels])
    return TensorDataset(torch.from_numpy(images[:, None]), torch.from_numpy(labels))


def _shape(chance: np.random.Generator, label: int) -> np.ndarray:
    """One bright shape of random size and place on a dark ground, with noise: float32 [16, 16]."""
    radius = chance.uniform(3.5, 6.0)
    y, x = np.mgrid[:SIZE, :SIZE] - chance.uniform(radius, SIZE - 1 - radius, (2, 1, 1))
    inside = {
        "circle": x**2 + y**2 <= radius**2,
        "square": np.maximum(abs(x), abs(y)) <= 0.85 * radius,
        "triangle": (y <= 0.8 * radius) & (2 * abs(x) <= y + radius),
        "cross": (np.minimum(abs(x), abs(y)) <= 0.3 * radius) & (np.maximum(abs(x), abs(y)) <= radius),
    }[CLASSES[label]]
    brightness = np.where(inside, chance.uniform(0.5, 1.0), chance.uniform(0.0, 0.2))
    return np.clip(brightness + chance.normal(0, 0.12, inside.shape), 0, 1).astype(np.float32)
