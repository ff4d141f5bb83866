"""Bytes of a layer as a ``.tflite`` file stores them: weights, biases, and the scales of both.

TFLite's schema holds a float32 scale and an int64 zero point for each channel of a per-channel tensor, for
the weights and again for the bias (12 bytes a channel, twice), and an int32 bias. What a file needs beside
that (tensors, operators, names) does not depend on the widths and is not counted.

1 kB = 1000 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

SCALE_BYTES = 12
"""Scale (float32) and zero point (int64) of one channel."""

BIAS_BYTES = 4

NARROW_BITS = 4
"""Width of weights that share a byte: integers in [-7, 7]."""

WIDE_BITS = 8


@dataclass(frozen=True, order=True)
class Storage:
    """How a layer's weights are stored.

    Parameters
    ----------
    bits: of a weight, 8 or 4; two 4-bit weights share a byte.
    per_channel: whether each channel has scales of its own, or all share one.
    wide: channels of a 4-bit layer that are stored in 8 bits, rising; the file has a layer for each width.
    """

    bits: int = WIDE_BITS
    per_channel: bool = True
    wide: tuple[int, ...] = ()

    def widths(self, channels: int) -> tuple[int, ...]:
        """Bits of each channel's weights.

        >>> Storage(4, wide=(1,)).widths(3)
        (4, 8, 4)
        """
        wide = frozenset(self.wide)
        return tuple(WIDE_BITS if channel in wide else self.bits for channel in range(channels))

    def is_wider_than(self, other: Storage) -> bool:
        """Whether channels have more bits, or scales of their own, and none has less."""
        if self.bits != other.bits:
            return self.bits > other.bits
        wide, others = frozenset(self.wide), frozenset(other.wide)
        return self.per_channel >= other.per_channel and wide >= others and self != other

    @property
    def channel_bytes(self) -> int:
        """What a channel costs beside its weights: its bias, and the scales of both if it has its own."""
        return BIAS_BYTES + (2 * SCALE_BYTES if self.per_channel else 0)

    @property
    def layer_bytes(self) -> int:
        """What a layer costs beside weights and channels: the scales that its channels share."""
        return 0 if self.per_channel else 2 * SCALE_BYTES

    def bytes(self, weights: int, channels: int) -> int:
        """Bytes of a layer whose channels have equally many weights, all ``wide`` ones among them.

        >>> Storage().bytes(90, 10), Storage(4).bytes(91, 10), Storage(4, per_channel=False).bytes(91, 10)
        (370, 326, 110)
        >>> Storage(4, wide=(0, 3)).bytes(90, 10)
        334
        """
        wide = len(self.wide) * (weights // channels) if self.wide else 0
        narrow = -(-(weights - wide) * self.bits // 8)
        return narrow + wide * WIDE_BITS // 8 + channels * self.channel_bytes + self.layer_bytes

    def __str__(self) -> str:
        scales = f"int{self.bits} per {'channel' if self.per_channel else 'tensor'}"
        return f"{scales}, {len(self.wide)} channels int{WIDE_BITS}" if self.wide else scales


EIGHT_BITS = Storage()
"""What every target stores and executes."""
