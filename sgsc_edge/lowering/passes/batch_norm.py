"""Fold BatchNormalization into the layer before it, in the weights' scale and the bias.

    y = gamma * (Wx + b - mean) / sqrt(var + eps) + beta = (f W) x + f (b - mean) + beta,
    f = gamma / sqrt(var + eps)

W = scale * integers, so the new scale is ``|f| * scale`` per output channel; a negative f negates the
channel's integers and f = 0 zeroes them. The bias becomes float and is rounded to int32 where the
layer is lowered. Source: design rule "BatchNorm folds into the weights' scale and the bias".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph.ir import Quantization
from sgsc_edge.lowering.network import UNBOUNDED, Layer, Network, Value

_FOLDED_INTO = frozenset({"Conv", "Gemm"})


def _output_axis(layer: Layer) -> int:
    """The axis of the weights that holds the output channels."""
    return 1 if layer.op == "Gemm" and not layer.attribute("transB", 0) else 0


def affine(network: Network, layer: Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and offset per channel, float64 [C], of a BatchNormalization as it runs after training."""
    if layer.attribute("training_mode", 0) or len([name for name in layer.outputs if name]) > 1:
        raise layer.refusal("it runs in training mode", "call model.eval() before exporting")
    parameters = [network[name] for name in layer.inputs[1:5]]
    if not all(value.is_constant for value in parameters):
        raise layer.refusal("its statistics are computed at run time", "export with constant statistics")
    if len({value.shape for value in parameters}) != 1 or parameters[0].shape != (parameters[0].elements,):
        raise layer.refusal("its statistics are not vectors of one length", "export the model again")
    gamma, beta, mean, variance = (value.real() for value in parameters)
    epsilon = layer.attribute("epsilon", 1e-5)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = gamma / np.sqrt(variance + epsilon)
    offset = beta - mean * factor
    if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
        raise layer.refusal(
            "its statistics are NaN, infinite or negative", "train or repair the BatchNorm layer"
        )
    return factor, offset


def fold_batch_norm(network: Network) -> Network:
    """Fold every BatchNormalization that alone reads an unquantized Conv or Gemm."""
    producers, readers = network.producers(), network.consumers()
    replaced: dict[str, Layer] = {}  # producer's output -> the merged layer
    dropped: set[str] = set()  # BatchNormalization outputs
    values: list[Value] = []
    for layer in network.layers:
        source = layer.inputs[0] if layer.op == "BatchNormalization" else ""
        before = producers.get(source)
        if before is None or before.op not in _FOLDED_INTO or before.clamp != UNBOUNDED:
            continue
        if len(readers[source]) != 1 or network[source].quantization is not None or source == network.output:
            continue
        weights = network[before.inputs[1]]
        if weights.data is None:
            continue  # refused where the layer is lowered
        factor, offset = affine(network, layer)
        folded, bias = _fold(network, before, layer, factor, offset)
        values += [folded, bias]
        inputs = (before.inputs[0], folded.name, bias.name)
        replaced[source] = replace(before, inputs=inputs, outputs=layer.outputs[:1])
        dropped.add(layer.outputs[0])
    layers = [
        replaced.get(layer.outputs[0], layer)
        for layer in network.layers
        if not (layer.op == "BatchNormalization" and layer.outputs[0] in dropped)
    ]
    return network.with_layers(layers, values)


def _fold(
    network: Network, before: Layer, layer: Layer, factor: NDArray[np.float64], offset: NDArray[np.float64]
) -> tuple[Value, Value]:
    """Weights and float bias of the merged layer."""
    weights = network[before.inputs[1]]
    data, quantization = weights.data, weights.quantization
    assert data is not None
    axis = _output_axis(before)
    along = [1] * data.ndim
    along[axis] = -1
    if quantization is None and data.shape[axis] == factor.size:
        real = (data * factor.reshape(along)).astype(np.float32)
        folded = replace(weights, name=f"{layer.outputs[0]}/weights", data=real)
        return folded, _folded_bias(network, before, layer, factor, offset)
    if (
        quantization is None
        or data.shape[axis] != factor.size
        or quantization.axis not in (None, axis)
        or quantization.zero_point.any()
    ):
        raise layer.refusal(
            "the layer before it is not quantized per output channel with zero point 0",
            "fold the BatchNorm before quantizing, or quantize the weights along their output axis",
        )
    signs = np.sign(factor).astype(data.dtype).reshape(along)
    scale = np.broadcast_to(quantization.scale, factor.shape).astype(np.float64)
    scale32: NDArray[np.float32] = np.where(factor == 0, scale, scale * np.abs(factor)).astype(np.float32)
    if not (np.isfinite(scale32).all() and (scale32 > 0).all()):
        raise layer.refusal(
            "folding it leaves a scale outside float32", "train or repair the BatchNorm layer"
        )
    integers: NDArray[Any] = (data * signs).astype(data.dtype)
    folded = replace(
        weights,
        name=f"{layer.outputs[0]}/weights",
        data=integers,
        quantization=Quantization(scale32, np.zeros(scale32.size, np.int64), axis),
    )
    return folded, _folded_bias(network, before, layer, factor, offset)


def _folded_bias(
    network: Network, before: Layer, layer: Layer, factor: NDArray[np.float64], offset: NDArray[np.float64]
) -> Value:
    """float64 [C]; it is rounded where the layer is lowered."""
    name = before.input(2)
    bias = np.zeros(1) if name is None else network[name].real().reshape(-1)
    total = factor * bias + offset
    return Value(f"{layer.outputs[0]}/bias", total.shape, data=total)
