"""Random networks of blocks that a compressed model may have, and ways to kill their channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from compression.models import inputs, randomised
from compression.test_fold import calibrated
from torch import nn

from sgsc_edge.compression.folding.fold import CompressedModel, FoldedLayer, fold


@dataclass(frozen=True)
class Block:
    """One block of a random network; which fields count depends on ``kind``."""

    kind: str
    width: int = 4
    kernel: int = 3
    padded: bool = True
    norm: bool = False
    activation: str = "relu"
    stride: int = 1


ACTIVATIONS = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "clip": lambda: nn.Hardtanh(-1.0, 1.0),
    "low": lambda: nn.Hardtanh(0.25, 2.0),
}


def conv(channels: int, block: Block, *, groups: int = 1, width: int | None = None) -> nn.Sequential:
    width = block.width if width is None else width
    padding = block.kernel // 2 if block.padded else 0
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, block.kernel, block.stride, padding, groups=groups, bias=not block.norm)
    ]
    if block.norm:
        layers.append(nn.BatchNorm2d(width))
    layers.append(ACTIVATIONS[block.activation]())
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()
        inner = Block("conv", block.width, activation="relu", norm=block.norm)
        outer = Block("conv", block.width, activation="none", norm=block.norm)
        self.body = nn.Sequential(conv(channels, inner), conv(block.width, outer))
        self.skip = nn.Identity() if channels == block.width else nn.Conv2d(channels, block.width, 1)
        self.activation = ACTIVATIONS[block.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.skip(x) + self.body(x))


class Branches(nn.Module):
    """Channels joined: of two convolutions, or of the input and one."""

    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()
        self.left = nn.Identity() if block.norm else conv(channels, Block("conv", 3, 1))
        self.right = conv(channels, Block("conv", block.width, activation=block.activation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class Affine(nn.Module):
    """Constants per channel and for all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(-1, 1.1, channels).reshape(1, -1, 1, 1))
        self.shift = nn.Parameter(torch.linspace(-0.5, 1, channels).reshape(-1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.factor + self.shift) * 0.5


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.squeeze = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.relu6(self.squeeze(self.pool(x)))


class View(nn.Module):
    """A reshape with its size written into the code."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, self.size)


class MeanHead(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def build(blocks: Sequence[Block], head: str) -> nn.Module:
    """A network on [n, 1, 8, 8] with three logits."""
    layers: list[nn.Module] = []
    channels = 1
    for block in blocks:
        layers.append(_module(channels, block))
        with torch.no_grad():
            channels = nn.Sequential(*layers).eval()(torch.zeros(2, 1, 8, 8)).shape[1]
    with torch.no_grad():
        shape = nn.Sequential(*layers).eval()(torch.zeros(2, 1, 8, 8)).shape
    size = shape[1] * shape[2] * shape[3]
    if head == "mean":
        layers += [MeanHead(), nn.Linear(channels, 3)]
    elif head == "pool":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
    elif head == "view":
        layers += [View(size), nn.Linear(size, 3)]
    elif head == "hidden":
        layers += [nn.Flatten(), nn.Linear(size, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)]
    else:
        layers += [nn.Flatten(), nn.Linear(size, 3)]
    return nn.Sequential(*layers)


def _module(channels: int, block: Block) -> nn.Module:
    kind = block.kind
    if kind == "residual":
        return Residual(channels, block)
    if kind == "identity":
        return Residual(channels, Block("residual", channels, norm=block.norm, activation=block.activation))
    if kind == "depthwise":
        return conv(channels, block, groups=channels, width=channels * (2 if block.width > 4 else 1))
    if kind == "grouped":
        groups = 2 if channels % 2 == 0 else 1
        return conv(channels, block, groups=groups, width=2 * block.width)
    if kind == "concat":
        return Branches(channels, block)
    if kind == "norm":
        return nn.BatchNorm2d(channels)
    if kind == "average":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=block.padded) if block.norm else nn.AvgPool2d(2)
    if kind == "maximum":
        return nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1)) if block.norm else nn.MaxPool2d(2)
    if kind == "pad":
        return nn.ZeroPad2d(1)
    if kind == "affine":
        return Affine(channels)
    if kind == "gate":
        return Gate(channels)
    return conv(channels, block)


KINDS = (
    *("conv", "residual", "identity", "depthwise", "grouped", "concat"),
    *("norm", "average", "maximum", "pad", "affine", "gate"),
)


def compressed(network: nn.Module, seed: int = 0) -> CompressedModel:
    """A folded network with random weights, norms and ranges."""
    return fold(calibrated(randomised(network, seed)))


def layers(model: CompressedModel) -> list[tuple[str, FoldedLayer]]:
    return [
        (name, module) for name, module in model.module.named_modules() if isinstance(module, FoldedLayer)
    ]


def kill(layer: FoldedLayer, channels: Sequence[int], *, bias: bool = False) -> None:
    """Make output channels' integers zero, and their biases too."""
    layer.weight[list(channels)] = 0
    if bias:
        layer.bias[list(channels)] = 0


def fed(model: CompressedModel, count: int = 6, seed: int = 0) -> np.ndarray:
    """int8 [n, 8, 8, 1]: random integers and extremes."""
    random = np.random.default_rng(seed).integers(-128, 128, (count, 8, 8, 1))
    board = np.indices((8, 8)).sum(0)[..., np.newaxis] % 2 * 255 - 128
    return np.stack([*random, np.full((8, 8, 1), -128), np.full((8, 8, 1), 127), board]).astype(np.int8)


def real(model: CompressedModel, integers: np.ndarray) -> torch.Tensor:
    """The float32 NCHW inputs of which those are the integers."""
    steps = torch.from_numpy(integers.astype(np.float32)) - float(model.input.zero_point)
    return (steps * model.input.scale).permute(0, 3, 1, 2).contiguous()


SAMPLE = inputs()[0]
