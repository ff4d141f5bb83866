"""Random 1-D networks, and what every executor makes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from sgsc_edge.compression.calibration import calibrate
from sgsc_edge.compression.folding.fold import CompressedModel, fold
from sgsc_edge.compression.layers import quantize_model

CHANNELS, LENGTH = 2, 24
ACTIVATIONS = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "clip": lambda: nn.Hardtanh(-1.0, 1.0),
}


@dataclass(frozen=True)
class Block:
    """One block of a random network; which fields count depends on ``kind``."""

    kind: str
    width: int = 4
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: int | str = 0
    norm: bool = False
    activation: str = "relu"


def conv(channels: int, block: Block, *, groups: int = 1, width: int | None = None) -> nn.Sequential:
    width = block.width if width is None else width
    stride = 1 if isinstance(block.padding, str) else block.stride
    layers: list[nn.Module] = [
        nn.Conv1d(
            channels, width, block.kernel, stride, block.padding, block.dilation, groups, bias=not block.norm
        )
    ]
    if block.norm:
        layers.append(nn.BatchNorm1d(width))
    return nn.Sequential(*layers, ACTIVATIONS[block.activation]())


class Residual(nn.Module):
    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()
        inner = Block("conv", block.width, block.kernel, padding="same", dilation=block.dilation)
        outer = Block("conv", channels, 1, norm=block.norm, activation="none")
        self.body = nn.Sequential(conv(channels, inner), conv(block.width, outer))
        self.activation = ACTIVATIONS[block.activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(x + self.body(x))


class Branches(nn.Module):
    """Channels or positions joined."""

    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()
        self.axis = 2 if block.norm else 1
        width = channels if self.axis == 2 else block.width
        self.right = conv(channels, Block("conv", width, padding="same", activation=block.activation))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.right(x)], self.axis)


class Affine(nn.Module):
    """Constants per channel, of two axes and of three, and for all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(-1, 1.1, channels).reshape(1, -1, 1))
        self.shift = nn.Parameter(torch.linspace(-0.5, 1, channels).reshape(-1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.factor + self.shift) * 0.5


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.squeeze = nn.AdaptiveAvgPool1d(1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.relu6(self.squeeze(self.pool(x)))


class Mixer(nn.Module):
    """A Linear over the channels of each position, between two transposes, added to a convolution."""

    def __init__(self, channels: int, block: Block) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.mix = nn.Linear(channels, channels, bias=block.norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) + torch.relu(self.mix(x.transpose(1, 2))).permute(0, 2, 1)


class Mean(nn.Module):
    """The mean over positions (2) or over channels (1)."""

    def __init__(self, axis: int | tuple[int, ...]) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(self.axis)


class Squeezed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool1d(x, 1).squeeze(-1)


def _block(channels: int, block: Block) -> nn.Module:
    kind = block.kind
    padding = block.padding if isinstance(block.padding, int) else 1
    if kind == "residual":
        return Residual(channels, block)
    if kind == "depthwise":
        return conv(channels, block, groups=channels, width=channels * (2 if block.width > 4 else 1))
    if kind == "grouped":
        groups = 2 if channels % 2 == 0 else 1
        return conv(channels, block, groups=groups, width=2 * block.width)
    if kind == "concat":
        return Branches(channels, block)
    if kind == "norm":
        return nn.BatchNorm1d(channels)
    if kind == "average":
        return nn.AvgPool1d(3, 1, 1) if block.norm else nn.AvgPool1d(2)
    if kind == "maximum":
        return nn.Sequential(nn.ReLU(), nn.MaxPool1d(3, block.stride, min(padding, 1)))
    if kind == "pad":
        return nn.ConstantPad1d((padding, block.width), 0.0)
    if kind == "affine":
        return Affine(channels)
    if kind == "gate":
        return Gate(channels)
    if kind == "mixer":
        return Mixer(channels, block)
    return conv(channels, block)


KINDS = (
    *("conv", "residual", "depthwise", "grouped", "concat", "norm"),
    *("average", "maximum", "pad", "affine", "gate", "mixer"),
)
HEADS = ("flat", "mean", "channels", "pool", "squeezed", "hidden")


def build(blocks: Sequence[Block], head: str) -> nn.Module:
    """A network on [n, 2, 24] with three logits."""
    layers: list[nn.Module] = []
    shape = (CHANNELS, LENGTH)
    for block in blocks:
        layers.append(_block(shape[0], block))
        with torch.no_grad():
            shape = nn.Sequential(*layers).eval()(torch.zeros(2, CHANNELS, LENGTH)).shape[1:]
    channels, length = shape
    ends: dict[str, list[nn.Module]] = {
        "flat": [nn.Flatten(), nn.Linear(channels * length, 3)],
        "mean": [Mean(2), nn.Linear(channels, 3)],
        "channels": [Mean(1), nn.Linear(length, 3)],
        "pool": [nn.AdaptiveAvgPool1d(1), nn.Dropout(), nn.Flatten(), nn.Linear(channels, 3)],
        "squeezed": [Squeezed(), nn.Linear(channels, 3)],
        "hidden": [
            nn.Flatten(),
            nn.Linear(channels * length, 5),
            nn.BatchNorm1d(5),
            nn.ReLU(),
            nn.Linear(5, 3),
        ],
    }
    return nn.Sequential(*layers, *ends[head])


def _convolution(layer: nn.Conv1d) -> nn.Conv2d:
    padding = layer.padding if isinstance(layer.padding, str) else (0, *layer.padding)
    sizes = [(1, *pair) for pair in (layer.kernel_size, layer.stride)]
    made = nn.Conv2d(
        layer.in_channels, layer.out_channels, *sizes, padding, (1, *layer.dilation), layer.groups
    )
    made.weight = nn.Parameter(layer.weight.detach().unsqueeze(2))
    made.bias = layer.bias
    return made


def _norm(norm: nn.BatchNorm1d) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(norm.num_features)
    made.load_state_dict(norm.state_dict())
    return made


def _average(pool: nn.AvgPool1d) -> nn.AvgPool2d:
    return nn.AvgPool2d((1, *pool.kernel_size), (1, *pool.stride), (0, *pool.padding))


_WITH_HEIGHT: Mapping[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Conv1d: _convolution,
    nn.BatchNorm1d: _norm,
    nn.MaxPool1d: lambda pool: nn.MaxPool2d((1, pool.kernel_size), (1, pool.stride), (0, pool.padding)),
    nn.AvgPool1d: _average,
    nn.AdaptiveAvgPool1d: lambda pool: nn.AdaptiveAvgPool2d(1),
    nn.ConstantPad1d: lambda pad: nn.ConstantPad2d((*pad.padding, 0, 0), 0.0),
}


def with_height(network: nn.Module) -> nn.Module:
    """The same network on images [n, 2, 1, 24]; norms behind a Linear stay."""
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        children = dict(parent.named_children())
        behind_linear = False
        for name, child in children.items():
            if type(child) in _WITH_HEIGHT and not behind_linear:
                setattr(parent, name, _WITH_HEIGHT[type(child)](child))
            behind_linear = isinstance(child, nn.Linear)
        if isinstance(parent, Branches):
            parent.axis = {1: 1, 2: 3}[parent.axis]
        elif isinstance(parent, Mean):
            parent.axis = {1: 1, 2: (2, 3)}[parent.axis]
        elif isinstance(parent, Affine):
            parent.factor, parent.shift = (
                nn.Parameter(value.detach().unsqueeze(-1)) for value in (parent.factor, parent.shift)
            )
    return network


def signals(n: int = 16, seed: int = 0) -> torch.Tensor:
    """Float32 [n, 2, 24] in -1..1."""
    return torch.rand(n, CHANNELS, LENGTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def compressed(network: nn.Module, samples: torch.Tensor | None = None) -> CompressedModel:
    """A folded network with the ranges of some samples."""
    samples = signals() if samples is None else samples
    quantized = quantize_model(network.eval(), samples[0])
    calibrate(quantized, [samples])
    quantized.module.eval()
    return fold(quantized)
