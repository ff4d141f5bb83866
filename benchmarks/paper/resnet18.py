"""ResNet-18 (arXiv 1512.03385, table 1) for 32x32 images: a 3x3 stem without a pool, eight basic blocks."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """float32 [n, inputs, H, W] -> [n, outputs, H / stride, W / stride]."""
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        out: Tensor = self.relu2(y)
        return out


class ResNet18(nn.Module):
    """float32 [n, 1, 32, 32] -> logits [n, 10]; 11.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        blocks = []
        inputs = WIDTHS[0]
        for number, width in enumerate(WIDTHS):
            blocks += [Block(inputs, width, 1 if number == 0 else 2), Block(width, width, 1)]
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(WIDTHS[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, 10] of images [n, 1, 32, 32]."""
        features = self.pool(self.blocks(self.stem(x)))
        logits: Tensor = self.head(features.flatten(1))
        return logits


def build() -> nn.Module:
    """The untrained network."""
    return ResNet18()
