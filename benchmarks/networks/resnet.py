"""A residual CNN for 8x8 digits: a 3x3 stem, three blocks, one of them with stride and projection."""

from __future__ import annotations

import torch
from torch import nn


def build() -> nn.Module:
    """The untrained network: float32 [n, 1, 8, 8] -> logits [n, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Residual(16, 16),
        Residual(16, 24, stride=2),
        Residual(24, 24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions and what goes around them; float32 [n, channels, h, w] -> [n, width, h', w']."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        projection = [nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)]
        self.around = nn.Sequential(*([] if channels == width and stride == 1 else projection))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """ReLU of the sum of both paths."""
        return self.relu(self.body(x) + self.around(x))
