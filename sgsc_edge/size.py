"""Bytes of a layer as a device stores it: weights, biases, and the scales of both.

A ``.tflite`` holds a float32 scale and an int64 zero point for each channel of a per-channel tensor, for
the weights and again for the bias (12 bytes a channel, twice), and an int32 bias. What a file needs beside
that (tensors, operators, names) does not depend on the widths and is not counted.

Generated C code that packs each channel at its own width (``numerics.pack_filters``) holds for each channel a
header in front of its weights, an int32 bias, an int32 multiplier and an int8 shift.

A QDQ ``.onnx`` holds for each channel a float32 scale and an int8 zero point of its weights, an int32 bias
and a float32 scale of that.

1 kB = 1000 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sgsc_edge.numerics import FILTER_HEADER_BITS

SCALE_BYTES = 12
"""Scale (float32) and zero point (int64) of one channel."""

ONNX_SCALE_BYTES = 5
"""The same in an ``.onnx``: float32 and int8."""

_ONNX_BIAS_SCALE_BYTES = 4

BIAS_BYTES = 4
RESCALING_BYTES = 5
"""Multiplier (int32) and shift (int8) of one channel in C code."""

NARROW_BITS = 4
"""Width of weights that share a byte: integers in [-7, 7]."""

WIDE_BITS = 8


@dataclass(frozen=True, order=True)
class Storage:
    """How a layer's weights are stored.

    Parameters
    ----------
    bits: of a weight, 8 or 4; two 4-bit weights share a byte. Of packed channels the fewest.
    per_channel: whether each channel has scales of its own, or all share one.
    wide: channels of a 4-bit layer that are stored in 8 bits, rising; the file has a layer for each width.
    packed: bits of each channel's weights in C code that packs them, 0 for channels that are gone; empty in a
        ``.tflite``. See :meth:`packing`.
    table: whether these are the rows of a table, which have no bias and keep their places. In a ``.tflite``
        they lie on the grid of what reads them, 8 bits and one scale for all.
    onnx: whether the file is an ``.onnx``, where also each row of a table has a scale.
    """

    bits: int = WIDE_BITS
    per_channel: bool = True
    wide: tuple[int, ...] = ()
    packed: tuple[int, ...] = ()
    table: bool = False
    onnx: bool = False

    @staticmethod
    def packing(widths: Sequence[int], *, table: bool = False) -> Storage:
        """Channels of these widths (1 to 8; 0: gone), packed by C code; one is there at least."""
        return Storage(min(filter(None, widths)), packed=tuple(widths), table=table)

    def widths(self, channels: int) -> tuple[int, ...]:
        """Bits of each channel's weights.

        >>> Storage(4, wide=(1,)).widths(3)
        (4, 8, 4)
        """
        if self.packed:
            return self.packed
        wide = frozenset(self.wide)
        return tuple(WIDE_BITS if channel in wide else self.bits for channel in range(channels))

    def is_wider_than(self, other: Storage) -> bool:
        """Whether channels have more bits, or scales of their own, and none has less."""
        if self.packed:
            return self != other and all(a >= b for a, b in zip(self.packed, other.packed, strict=True))
        if self.bits != other.bits:
            return self.bits > other.bits
        wide, others = frozenset(self.wide), frozenset(other.wide)
        return self.per_channel >= other.per_channel and wide >= others and self != other

    @property
    def channel_bits(self) -> int:
        """What a channel costs beside its weights: its bias and its scales, if it has its own."""
        if self.packed:
            bias = 0 if self.table else BIAS_BYTES
            return FILTER_HEADER_BITS + 8 * (bias + RESCALING_BYTES)
        if self.onnx:
            return 8 * (ONNX_SCALE_BYTES + (0 if self.table else BIAS_BYTES + _ONNX_BIAS_SCALE_BYTES))
        if self.table:
            return 0
        return 8 * (BIAS_BYTES + (2 * SCALE_BYTES if self.per_channel else 0))

    @property
    def layer_bytes(self) -> int:
        """What a layer costs beside weights and channels: the scales that its channels share."""
        if self.table:
            return 0 if self.packed or self.onnx else SCALE_BYTES
        return 0 if self.per_channel else 2 * SCALE_BYTES

    def bytes(self, weights: int, channels: int) -> int:
        """Bytes of a layer whose channels have equally many weights, all that are named among them.

        >>> Storage().bytes(90, 10), Storage(4).bytes(91, 10), Storage(4, per_channel=False).bytes(91, 10)
        (370, 326, 110)
        >>> Storage(4, wide=(0, 3)).bytes(90, 10), Storage.packing([4, 0, 3]).bytes(18, 2)
        (334, 27)
        >>> Storage(onnx=True).bytes(90, 10), Storage(table=True, onnx=True).bytes(90, 10)
        (220, 140)
        """
        if self.packed:
            stored = sum(self.packed) * (weights // max(channels, 1))
            channels = len(self.packed) if self.table else channels
        else:
            wide = len(self.wide) * (weights // channels) if self.wide else 0
            narrow = -(-(weights - wide) * self.bits // 8)
            stored = 8 * (narrow + wide * WIDE_BITS // 8)
        return -(-(stored + channels * self.channel_bits) // 8) + self.layer_bytes

    def __str__(self) -> str:
        if self.packed:
            widths = list(filter(None, self.packed))
            least, most = min(widths), max(widths)
            spread = f"{least} bits" if least == most else f"{least} to {most} bits"
            return f"{spread} by channel (mean {sum(widths) / len(widths):.1f}), packed"
        own = self.per_channel and not self.table
        scales = f"int{self.bits} per {'channel' if own else 'tensor'}"
        return f"{scales}, {len(self.wide)} channels int{WIDE_BITS}" if self.wide else scales


def packs(storages: Iterable[Storage]) -> bool:
    """Whether these are a network's layers as C code packs them, each channel at a width of its own."""
    return any(storage.packed for storage in storages)


def bytes_in_plain_c(weights: int, channels: int) -> int:
    """Bytes of an 8-bit layer in C code that packs nothing: no channel needs a header.

    >>> bytes_in_plain_c(90, 10)
    180
    """
    return weights + channels * (BIAS_BYTES + RESCALING_BYTES)


EIGHT_BITS = Storage()
"""What every ``.tflite`` target stores and executes."""

TABLE = Storage(table=True)
"""The same of a table."""
