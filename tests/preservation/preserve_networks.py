"""Small networks of the shapes that users bring, and samples for them."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgsc_edge.preservation.scores import Scores


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


class Functional(nn.Module):
    """Registered in another order than run; the head is flattened and dropped out by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.late = nn.Conv2d(4, 6, 3)
        self.early = nn.Conv2d(1, 4, 3)
        self.unused = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.late(F.relu(self.early(x))))
        x = F.dropout(x.mean((2, 3)), training=self.training)
        logits: Tensor = self.head(input=x)
        return logits


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 10), nn.ReLU(), nn.Linear(10, 3))


def ready(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights from a seed, batch norms with statistics of their own, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return model.eval()


def images(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def some_scores(labels: list[int], seed: int = 0, clusters: int = 5) -> Scores:
    """Scores of samples with these labels, all else at random."""
    random = np.random.default_rng(seed)
    n = len(labels)
    hashes = sorted(hashlib.sha256(f"{seed}.{index}".encode()).hexdigest() for index in range(n))
    return Scores(
        hashes=tuple(hashes),
        index=random.permutation(n).astype(np.int64),
        label=np.array(labels, dtype=np.int64),
        prediction=random.integers(0, 3, n),
        saliency=random.random(n).round(2),
        uncertainty=random.random(n).round(2),
        margin=random.random(n),
        entropy=random.random(n),
        cluster=random.integers(0, clusters, n),
        distance=random.random(n),
    )
