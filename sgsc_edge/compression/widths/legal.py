"""How a target may store the weights of each layer."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sgsc_edge.compression.channels import is_depthwise
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.size import EIGHT_BITS, Storage
from sgsc_edge.targets import Weights

Storages = dict[str, tuple[Storage, ...]]


def legal_storages(model: QuantizedModel, rows: Iterable[Weights]) -> Storages:
    """The storages of every layer, by its name; the first is 8 bits a weight, which any layer can have.

    A dense layer may be stored as the 1×1 convolution that lowering makes of it. Where a BatchNorm was folded
    in, channels have scales of their own.
    """
    found = {(row.op, row.bits, row.axis is not None) for row in rows}
    storages = {}
    for name, layer in model.layers():
        ops = _device_ops(layer)
        narrow = [
            Storage(4, per_channel)
            for per_channel in (True, False)
            if any((op, 4, per_channel) in found for op in ops) and (per_channel or layer.norm is None)
        ]
        storages[name] = (EIGHT_BITS, *narrow)
    return storages


def _device_ops(layer: QuantLayer) -> tuple[str, ...]:
    """The device ops that a layer may become."""
    if isinstance(layer.layer, nn.Linear):
        return ("FullyConnected", "Conv2D")
    return ("DepthwiseConv2D",) if is_depthwise(layer) else ("Conv2D",)
