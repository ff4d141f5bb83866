"""Gemm, and MatMul with constant weights -> FullyConnected, weights [out, in]; other MatMuls -> BatchMatMul.

The order in which a row's values lie, such as NHWC's of a flattened image, goes into the weights' columns.
Where a target stores such weights for convolutions only (TFLM: 4 bits with a scale per channel), the layer
becomes a 1×1 Conv2D over its rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Piece, laid, places_of
from sgsc_edge.lowering.network import Layer, Value
from sgsc_edge.lowering.ops.batch_matmul import batch_matmul
from sgsc_edge.lowering.passes.fusion import is_product
from sgsc_edge.lowering.registry import Row
from sgsc_edge.lowering.weights import is_stored, place_bias, place_weights, weights_of


def _gemm(emitter: Emitter, layer: Layer) -> None:
    if layer.attribute("transA", 0):
        raise layer.refusal("transA transposes the batch", "export the layer as torch.nn.Linear")
    for factor in ("alpha", "beta"):
        if layer.attribute(factor, 1.0) != 1.0:
            raise layer.refusal(
                f"{factor} is {layer.attribute(factor, 1.0)}", f"fold {factor} into the weights"
            )
    transposed = bool(layer.attribute("transB", 0))
    weights = weights_of(emitter, layer, layer.inputs[1], axis=0 if transposed else 1)
    assert weights.data is not None
    if weights.data.ndim != 2:
        raise layer.refusal(f"its weights have shape {list(weights.data.shape)}", "use weights [out, in]")
    _dense(emitter, layer, weights, weights.data if transposed else weights.data.T)


def _matmul(emitter: Emitter, layer: Layer) -> None:
    if is_product(emitter.network, layer):
        batch_matmul(emitter, layer)
        return
    if emitter.network[layer.inputs[0]].is_constant:
        raise layer.refusal("both inputs are constants", "compute it before exporting")
    weights = weights_of(emitter, layer, layer.inputs[1], axis=1)
    assert weights.data is not None
    _dense(emitter, layer, weights, weights.data.T)


def _dense(emitter: Emitter, layer: Layer, weights: Value, data: NDArray[np.int8]) -> None:
    """FullyConnected of the input with ``data`` [out, in], columns in ONNX's order."""
    name, out_name = layer.inputs[0], layer.outputs[0]
    quantization = emitter.parameters(layer, out_name)
    activation = emitter.activation_of(layer, quantization)
    shape = emitter.shape(layer, name)
    if shape[-1] != data.shape[1]:
        raise layer.refusal(
            f"weights [{data.shape[0]}, {data.shape[1]}] do not fit an input of shape {list(shape)}",
            "export the model to ONNX again",
        )
    rows = math.prod(shape[:-1])
    if rows == 1:
        x = emitter.read(layer, name)
        tensor, order = emitter.reshaped(x.tensor, (1, shape[-1])), x.layout.order()
        outside: tuple[Piece, ...] = ()
    else:
        tensor, outside, inside = emitter.innermost(layer, name, len(shape) - 1)
        order = places_of(inside)
    data = data[:, order]
    made = (*emitter.tensors[tensor].shape[:-1], len(data))
    op: ir.Op = ir.FullyConnected(activation, keep_num_dims=len(made) > 2)
    if not is_stored(emitter, ir.FullyConnected, weights) and is_stored(emitter, ir.Conv2D, weights):
        op = ir.Conv2D(activation=activation)
        data = data[:, np.newaxis, np.newaxis]
        tensor = emitter.reshaped(tensor, (1, 1, rows, shape[-1]))
        made = (1, 1, rows, len(data))
    filters, weights = place_weights(emitter, layer, type(op), weights, data, axis=0)
    bias = place_bias(
        emitter, layer, emitter.optional(layer, 2), emitter.parameters(layer, name), weights, data.shape[0]
    )
    out = emitter.node(op, (tensor, filters, bias), emitter.activation(out_name, made, quantization))
    out_shape = emitter.shape(layer, out_name)
    columns = Piece(len(out_shape) - 1, len(data), 1)
    emitter.place_output(layer, out, laid((*outside, columns), out_shape))


_QUANTIZATION = "weights int8 or int4, zero point 0, per tensor or per output; own output"

ROWS = (
    Row("Gemm", ("FullyConnected",), _QUANTIZATION, "transA = 0, alpha = beta = 1; constant weights", _gemm),
    Row(
        "MatMul",
        ("FullyConnected", "BatchMatMul"),
        f"{_QUANTIZATION}; of two computed matrices each its own",
        "two axes at least",
        _matmul,
    ),
)
