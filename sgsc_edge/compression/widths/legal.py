"""How a target may store the weights of each layer, and what else decides their widths there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sgsc_edge.compression.channels import is_depthwise
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.size import EIGHT_BITS, NARROW_BITS, TABLE, WIDE_BITS, Storage
from sgsc_edge.targets import Target, Weights

Storages = dict[str, tuple[Storage, ...]]


@dataclass(frozen=True)
class Device:
    """What of a target decides the widths of layers.

    Parameters
    ----------
    rows: how it stores the weights of each op; 8 bits always.
    arena: bytes of RAM for tensors; None where the target states no limit.
    unpacks: whether 4-bit filters are unpacked into it while an op runs, beside its input, its output and
        what later ops read.
    joins: whether it executes the CONCATENATION behind a layer in two widths.
    packs: whether it stores each channel at a width of its own.
    onnx: whether it ships an ``.onnx``, with the scales that such a file has.
    """

    rows: tuple[Weights, ...] = ()
    arena: int | None = None
    unpacks: bool = False
    joins: bool = True
    packs: bool = False
    onnx: bool = False

    @staticmethod
    def of(target: Target) -> Device:
        """What a target says."""
        return Device(
            target.weights,
            target.limits.arena,
            target.unpacks_any,
            target.executes("Concatenation"),
            target.packs,
            target.format == "onnx",
        )

    @property
    def in_8_bits(self) -> Device:
        """The same device, without narrower weights."""
        rows = () if self.packs else tuple(row for row in self.rows if row.bits == WIDE_BITS)
        return Device(rows, packs=self.packs, onnx=self.onnx)

    def to_json(self) -> dict[str, Any]:
        """Plain values, all that it is."""
        return {**vars(self), "rows": [row.model_dump(mode="json") for row in self.rows]}

    def storages(self, model: QuantizedModel) -> Storages:
        """The storages of every layer, by its name; the first is 8 bits a weight, which any layer can have.

        A dense layer may be stored as the 1×1 convolution that lowering makes of it. Where a BatchNorm was
        folded in, channels have scales of their own. Packed channels are listed with equal widths.
        """
        return {
            name: self._packed(layer) if self.packs else (self._in_8_bits(layer), *self._narrow(layer))
            for name, layer in model.layers()
        }

    def rewrites(self, layer: QuantLayer, storage: Storage) -> bool:
        """Whether lowering makes a 1×1 convolution of a dense layer that is stored so."""
        dense = isinstance(layer.layer, nn.Linear)
        return (
            dense
            and not storage.packed
            and not self._has("FullyConnected", storage.bits, storage.per_channel)
        )

    def _packed(self, layer: QuantLayer) -> tuple[Storage, ...]:
        narrowest = 1 if self.rows else WIDE_BITS
        widths = range(WIDE_BITS, narrowest - 1, -1)
        return tuple(layer.packed((bits,) * len(layer.mask)) for bits in widths)

    def _in_8_bits(self, layer: QuantLayer) -> Storage:
        return replace(TABLE if layer.is_table else EIGHT_BITS, onnx=self.onnx)

    def _narrow(self, layer: QuantLayer) -> Iterator[Storage]:
        for per_channel in (True, False):
            known = any(self._has(op, NARROW_BITS, per_channel) for op in _device_ops(layer))
            if known and (per_channel or layer.norm is None):
                yield Storage(NARROW_BITS, per_channel)

    def _has(self, op: str, bits: int, per_channel: bool) -> bool:
        return any((row.op, row.bits, row.axis is not None) == (op, bits, per_channel) for row in self.rows)


ANY_DEVICE = Device()
"""Weights in 8 bits, which every target stores and executes."""


def _device_ops(layer: QuantLayer) -> tuple[str, ...]:
    """The device ops with narrow weights that a layer may become."""
    if layer.is_table:
        return ()
    if isinstance(layer.layer, nn.Linear):
        return ("FullyConnected", "Conv2D")
    return ("DepthwiseConv2D",) if is_depthwise(layer) else ("Conv2D",)
