"""A small CNN for 16x16 images: put your own network in its place."""

from __future__ import annotations

from torch import nn


def build() -> nn.Module:
    """The untrained network: float32 [n, 1, 16, 16] -> logits [n, 4]; `sgsc-edge build` calls it, too."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 4),
    )
