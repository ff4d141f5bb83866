"""In which layout the readers of a value ask for it.

Sequences [1, C, L] that convolutions and pools read lie as images of height 1:

    conv1d(x, w)[:, o, l] = sum_(c, k) w[o, c, k] x[:, c, l*s + k*d - p]
                          = conv2d(x[:, :, None], w[:, :, None])[:, o, 0, l]

and likewise for pools and BatchNormalization. TFLite has 2-D forms only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from sgsc_edge.lowering.layout import Layout, channels_last
from sgsc_edge.lowering.network import REQUANTIZE, Layer, Network

_SPATIAL = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization"})
_FOLLOWING = frozenset({"Add", "Mul", "Concat", "Relu", "Clip", "Pad", "ReduceMean", "Softmax", REQUANTIZE})
_SEQUENCE = 3  # axes: batch, channels, positions


def lies_as_image(network: Network, name: str) -> bool:
    """Whether a value that goes in or out is NHWC: one of rank 4, and a sequence among images.

    That is one that shares an elementwise layer, directly or not, with a layer that reads images.
    """
    shape = network[name].shape
    if shape is None or len(shape) != _SEQUENCE:
        return shape is not None and len(shape) == _SEQUENCE + 1
    around: dict[str, list[Layer]] = {}
    for layer in network.layers:
        for value in _sequences(network, layer):
            around.setdefault(value, []).append(layer)
    pending, seen = [name], {name}
    while pending:
        for layer in around.get(pending.pop(), ()):
            if layer.op in _SPATIAL:
                return True
            new = set(_sequences(network, layer)) - seen
            seen |= new
            pending += new
    return False


def _sequences(network: Network, layer: Layer) -> Iterator[str]:
    """The rank-3 values that a layer computes or reads position by position; none where it is another op."""
    if layer.op not in _SPATIAL | _FOLLOWING:
        return
    if layer.op == "Softmax" and layer.attribute("axis", -1) % _SEQUENCE != 1:
        return
    for name in (*network.activations(layer), *filter(None, layer.outputs)):
        shape = network[name].shape
        if shape is not None and len(shape) == _SEQUENCE:
            yield name


_ELEMENTWISE = frozenset({"Add", "Mul", "Relu", "Clip", REQUANTIZE})
_DENSE = frozenset({"Gemm", "MatMul"})
_FAR = 16
"""Elementwise layers that are looked through."""


def demanded(network: Network, readers: Mapping[str, list[Layer]], name: str) -> Layout | None:
    """The layout that the first reader behind elementwise layers asks for; None where none has a wish."""
    for _ in range(_FAR):
        shape = network[name].shape
        if shape is None:
            return None
        if name == network.output:
            is_image = lies_as_image(network, name)
            return channels_last(shape) if is_image else Layout.plain(math.prod(shape))
        following = None
        for layer in readers[name]:
            if layer.op in _SPATIAL:
                return channels_last(shape)
            if layer.op in _DENSE and len(shape) > 2:
                return Layout.plain(math.prod(shape))
            if layer.op in _ELEMENTWISE and network[layer.outputs[0]].shape == shape:
                following = following or layer.outputs[0]
        if following is None:
            return None
        name = following
    return None
