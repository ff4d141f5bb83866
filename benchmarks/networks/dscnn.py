"""A depthwise-separable CNN for 8x8 digits: a 3x3 stem and four blocks, with BatchNorm and ReLU6."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn


def build() -> nn.Module:
    """The untrained network: float32 [n, 1, 8, 8] -> logits [n, 10]."""
    return separable((24, 32, 48, 64, 64))


def separable(widths: Sequence[int]) -> nn.Sequential:
    """A stem of the first width, a block for each further one, the second of them with stride 2."""
    blocks = [
        layer
        for number, (channels, width) in enumerate(itertools.pairwise(widths))
        for layer in _block(channels, width, stride=2 if number == 1 else 1)
    ]
    return nn.Sequential(
        *_normed(nn.Conv2d(1, widths[0], 3, padding=1, bias=False)),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], 10),
    )


def _block(channels: int, width: int, stride: int) -> list[nn.Module]:
    depthwise = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [*_normed(depthwise), *_normed(nn.Conv2d(channels, width, 1, bias=False))]


def _normed(layer: nn.Conv2d) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU6()]
