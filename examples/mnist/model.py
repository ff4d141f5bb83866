"""The paper's MNIST CNN: two 5x5 and two 3x3 convolutions and one dense layer, 87,850 parameters."""

from __future__ import annotations

from torch import Tensor, nn


class Net(nn.Module):
    """float32 [n, 1, 28, 28] -> logits [n, 10]; ``f`` ends at [n, 64, 3, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(1, 32, 5),
            nn.ReLU(),
            nn.Conv2d(32, 32, 5),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.c = nn.Linear(576, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 10] of images [n, 1, 28, 28]."""
        features: Tensor = self.f(x)
        logits: Tensor = self.c(features.flatten(1))
        return logits


def build() -> nn.Module:
    """The untrained network."""
    return Net()
