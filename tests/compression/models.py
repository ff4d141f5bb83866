"""Networks for the compression and export tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Plain(nn.Module):
    """Conv, BatchNorm, pool, flatten, dense."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.features(x), 1))


class Busy(nn.Module):
    """One of everything that a plain model lacks: residual, depthwise, concat, constants, lone norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(4)
        self.lone_norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.shift = nn.Parameter(torch.full((1, 4, 1, 1), 0.25))
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first_norm(self.first(x)))
        y = self.depthwise_norm(self.depthwise(x)) * 0.5 + self.shift
        x = F.relu6(x + y)
        x = self.lone_norm(torch.cat([x, y], 1))
        x = F.avg_pool2d(x, 2).mean((2, 3))
        return F.softmax(self.head(self.drop(x)), dim=-1)


class Repeating(nn.Module):
    """Calls its convolution twice on one value, for readers that round at different scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.other = nn.Conv2d(1, 4, 3)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(288, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.cat([self.conv(self.drop(x)), 5 * self.other(x)], 1)
        again = self.conv(self.drop(x))
        return self.head(first.flatten(1)) + self.head(torch.cat([again, again], 1).flatten(1))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and BatchNorm statistics (some γ negative), evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, -1.5, 1.5),
                (module.bias, -1.0, 1.0),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.2, 2.0),
            ):
                assert tensor is not None
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


def inputs(n: int = 16, seed: int = 0) -> torch.Tensor:
    """Float32 [n, 1, 8, 8] in 0..1."""
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
