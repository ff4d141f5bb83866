"""Fuse what the device computes in one op: Add of a bias, Relu and Clip, Pad before a convolution.

A layer is only merged into the one before where nothing else reads the value between and no quantizer
stands there: then both share one rounding in ONNX as on the device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sgsc_edge.graph.ir import Quantization
from sgsc_edge.lowering.network import Layer, Network, Value
from sgsc_edge.numerics import round_half_even

# Ops with parameters of their own whose kernels clamp their output.
_CLAMPING = frozenset({"Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "BatchNormalization"})
_BIASED = frozenset({"Conv", "Gemm", "MatMul"})


def bounds(network: Network, layer: Layer) -> tuple[float, float]:
    """Real bounds of a Relu or Clip; its min and max must be constants."""
    if layer.op == "Relu":
        return 0.0, math.inf
    limits = []
    for index, default in ((1, -math.inf), (2, math.inf)):
        name = layer.input(index)
        value = None if name is None else network[name]
        if value is not None and (not value.is_constant or value.elements != 1):
            raise layer.refusal("its bounds are no constant numbers", "use constant bounds")
        limits.append(default if value is None else float(value.real().reshape(-1)[0]))
    low, high = limits
    if not low <= high:
        raise layer.refusal(f"its bounds are [{low}, {high}]", "give a minimum below the maximum")
    return low, high


def is_product(network: Network, layer: Layer) -> bool:
    """Whether a MatMul multiplies computed matrices, rather than rows by weights: nothing fuses into it."""
    if layer.op != "MatMul":
        return False
    weights = network[layer.inputs[1]].data
    return weights is None or weights.ndim != 2


def fuse_activations(network: Network) -> Network:
    """Merge Relu and Clip into the layer before them as its ``clamp``."""
    readers = network.consumers()
    made: dict[str, int] = {}  # value -> position in ``layers`` of the layer that makes it
    layers: list[Layer] = []
    for layer in network.layers:
        source = layer.inputs[0] if layer.op in ("Relu", "Clip") else ""
        position = made.get(source)
        if position is not None and _is_private(network, readers, source):
            low, high = bounds(network, layer)
            before = layers[position]
            # The outer bounds win where the two ranges do not meet, as they do in ONNX.
            clamp = (min(max(before.clamp[0], low), high), max(min(before.clamp[1], high), low))
            layers[position] = replace(before, outputs=layer.outputs, clamp=clamp)
            made[layer.outputs[0]] = position
            continue
        if layer.op in _CLAMPING and not is_product(network, layer):
            made[layer.outputs[0]] = len(layers)
        layers.append(layer)
    return network.with_layers(layers)


def _is_private(network: Network, readers: Mapping[str, list[Layer]], name: str) -> bool:
    """Whether one layer alone reads a value that has no quantizer."""
    return len(readers[name]) == 1 and network[name].quantization is None and name != network.output


def fuse_bias(network: Network) -> Network:
    """Merge the Add of a constant [O] after Conv, Gemm or MatMul without bias as that layer's bias."""
    readers, producers = network.consumers(), network.producers()
    merged: dict[str, Layer] = {}
    gone: set[str] = set()
    values: list[Value] = []
    for layer in network.layers:
        found = _bias_of(network, producers, readers, layer) if layer.op == "Add" else None
        if found is None:
            continue
        before, bias = found
        values.append(bias)
        merged[before.outputs[0]] = replace(
            before, inputs=(*before.inputs[:2], bias.name), outputs=layer.outputs
        )
        gone.add(layer.outputs[0])
    layers = [
        merged.get(layer.outputs[0], layer)
        for layer in network.layers
        if not (layer.op == "Add" and layer.outputs[0] in gone)
    ]
    return network.with_layers(layers, values)


def _bias_of(
    network: Network, producers: Mapping[str, Layer], readers: Mapping[str, list[Layer]], layer: Layer
) -> tuple[Layer, Value] | None:
    for source, name in (layer.inputs, layer.inputs[::-1]):
        before, constant = producers.get(source), network[name]
        if before is None or before.op not in _BIASED or before.input(2) is not None:
            continue
        if is_product(network, before):
            continue
        shape = network[source].shape
        if constant.data is None or shape is None or constant.data.ndim > len(shape):
            continue
        if not _is_private(network, readers, source):
            continue
        channel = 1 if before.op == "Conv" else len(shape) - 1
        ones = [1] * len(shape)
        ones[channel] = shape[channel]
        padded = (1,) * (len(shape) - constant.data.ndim) + constant.data.shape
        if constant.data.size != 1 and list(padded) != ones:
            continue
        real = np.broadcast_to(constant.real().reshape(-1), (shape[channel],))
        return before, Value(f"{layer.outputs[0]}/bias", real.shape, data=np.array(real))
    return None


def merge_pads(network: Network) -> Network:
    """Merge a Pad with zeros into the one Conv that reads it, as that layer's own padding."""
    producers, readers = network.producers(), network.consumers()
    layers: list[Layer] = []
    gone: set[str] = set()
    for layer in network.layers:
        pad = producers.get(layer.inputs[0]) if layer.op == "Conv" else None
        before = None if pad is None or pad.op != "Pad" else zero_padding(network, pad)
        if pad is None or before is None or not _is_free(network, readers, pad):
            layers.append(layer)
            continue
        spatial = len(before) // 2 - 2
        own = layer.attribute("pads", (0,) * (2 * spatial))
        explicit = layer.attribute("auto_pad", "NOTSET") == "NOTSET"
        begin, end = before[: spatial + 2], before[spatial + 2 :]
        if not explicit or any((*begin[:2], *end[:2])) or min(before) < 0:
            layers.append(layer)
            continue
        pads = tuple(int(a) + int(b) for a, b in zip((*begin[2:], *end[2:]), own, strict=True))
        layers.append(
            replace(
                layer,
                inputs=(pad.inputs[0], *layer.inputs[1:]),
                attributes={**layer.attributes, "pads": pads},
            )
        )
        gone.add(pad.outputs[0])
    return network.with_layers([layer for layer in layers if layer.outputs[0] not in gone])


def _is_free(network: Network, readers: Mapping[str, list[Layer]], pad: Layer) -> bool:
    """Whether one layer reads the padded value, on the same grid as the value before."""
    name = pad.outputs[0]
    own, source = network[name].quantization, network[pad.inputs[0]].quantization
    return len(readers[name]) == 1 and name != network.output and (own is None or own.same_as(source))


def zero_padding(network: Network, layer: Layer) -> tuple[int, ...] | None:
    """ONNX paddings (all begins, then all ends) of a Pad with zeros; None where it is another Pad.

    Constant mode, constant amounts and axes, constant value that is absent or 0.
    """
    if layer.attribute("mode", "constant") != "constant":
        return None
    shape = network[layer.inputs[0]].shape
    amounts = network[layer.inputs[1]].data
    value, axes = layer.input(2), layer.input(3)
    if shape is None or amounts is None:
        return None
    if value is not None and (network[value].data is None or network[value].real().any()):
        return None
    if axes is None:
        if amounts.size != 2 * len(shape):
            return None
        return tuple(int(amount) for amount in amounts)
    chosen = network[axes].data
    if chosen is None:
        return None
    rank = len(shape)
    if amounts.size != 2 * chosen.size:
        return None
    pads = [0] * (2 * rank)
    for index, axis in enumerate(int(axis) % rank for axis in chosen):
        pads[axis] = int(amounts[index])
        pads[rank + axis] = int(amounts[chosen.size + index])
    return tuple(pads)


def clamp_integers(clamp: tuple[float, float], quantization: Quantization) -> tuple[int, int]:
    """The integers that real bounds become by ONNX's QuantizeLinear (ties to even), in [-128, 127].

    Quantization is monotone, so clamping before it equals clamping the integers after it.
    """
    scale, zero_point = quantization.scale[0], int(quantization.zero_point[0])

    def steps(bound: float) -> int:
        if math.isinf(bound):
            return -128 if bound < 0 else 127
        with np.errstate(over="ignore"):
            quotient = np.clip(round_half_even(np.float32(bound) / scale), -(2.0**30), 2.0**30)
        return min(max(int(quotient) + zero_point, -128), 127)

    return steps(clamp[0]), steps(clamp[1])
