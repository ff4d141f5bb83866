"""Concat -> Concatenation along the NHWC axis, all inputs in the output's parameters.

An input with others is requantized before, which is what the quantizer behind the Concat does to it.
Flattened images joined in front of dense layers alone stay as they lie.
"""

from __future__ import annotations

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.op_rules import MAX_CONCATENATED
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Order, Placed, device_axis, device_shape
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row


def _concat(emitter: Emitter, layer: Layer) -> None:
    out_name = layer.outputs[0]
    shape = emitter.shape(layer, out_name)
    for name in layer.inputs:
        emitter.parameters(layer, name)
    if emitter.network[out_name].quantization is None:
        raise layer.refusal(
            "its inputs have different quantization and none follows it",
            "insert QuantizeLinear and DequantizeLinear after it, or let its inputs share one quantizer",
        )
    quantization = emitter.parameters(layer, out_name)
    unmoved = len(shape) == 2 and shape[0] == 1 and _feeds_dense_layers(emitter, out_name)
    parts = [_part(emitter, layer, name, unmoved) for name in layer.inputs]
    parts = [
        emitter.requantized(part, quantization, f"{out_name}/input")
        if _is_activation(emitter, name)
        else part
        for name, part in zip(layer.inputs, parts, strict=True)
    ]
    order = _joined_order(parts) if unmoved else None
    axis = device_axis(layer.attribute("axis", 0), len(shape))
    if axis == 0:
        raise layer.refusal("it joins along the batch", "concatenate along another axis")
    if len(parts) == 1:
        emitter.place_as(layer, parts[0])
        return
    out = _joined(emitter, out_name, [part.tensor for part in parts], axis, quantization)
    if order is not None:
        emitter.place(out_name, out, device_shape(shape), order)
    else:
        emitter.place_output(layer, out)


def _joined(emitter: Emitter, name: str, tensors: list[str], axis: int, quantization: ir.Quantization) -> str:
    """Concatenate device tensors, ten at a time: kernels take no more."""
    while len(tensors) > 1:
        group, rest = tensors[:MAX_CONCATENATED], tensors[MAX_CONCATENATED:]
        shape = list(emitter.tensors[group[0]].shape)
        shape[axis] = sum(emitter.tensors[tensor].shape[axis] for tensor in group)
        out = emitter.activation(name, shape, quantization)
        tensors = [emitter.node(ir.Concatenation(axis), group, out), *rest]
    return tensors[0]


def _is_activation(emitter: Emitter, name: str) -> bool:
    return not emitter.network[name].is_constant


def _part(emitter: Emitter, layer: Layer, name: str, unmoved: bool) -> Placed:
    if not _is_activation(emitter, name):
        output = emitter.parameters(layer, layer.outputs[0])
        if not output.same_as(emitter.parameters(layer, name)):
            raise layer.refusal(
                f"its constant '{name}' has other parameters than its output",
                "quantize the constant with the output's scale and zero point",
            )
    if len(emitter.shape(layer, name)) == 4 or unmoved:
        return emitter.read(layer, name)
    return emitter.plain(layer, name)


def _feeds_dense_layers(emitter: Emitter, name: str) -> bool:
    """Whether only dense layers read a value, as their input: they take any order into their weights."""
    readers = emitter.readers[name]
    return name != emitter.network.output and all(
        reader.op in ("Gemm", "MatMul") and reader.inputs[0] == name for reader in readers
    )


def _joined_order(parts: list[Placed]) -> Order | None:
    """The order of [1, n] parts joined along axis 1; None where all are in ONNX's."""
    if all(part.order is None for part in parts):
        return None
    orders, offset = [], 0
    for part in parts:
        count = int(np.prod(part.shape))
        orders.append(offset + (np.arange(count) if part.order is None else part.order))
        offset += count
    return np.concatenate(orders)


ROWS = (
    Row(
        op="Concat",
        device=("Concatenation", "Quantize"),
        quantization="one for all; inputs with others are requantized where a quantizer follows",
        limits="not along the batch; constants in the output's parameters",
        lower=_concat,
    ),
)
