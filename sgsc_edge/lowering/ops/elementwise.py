"""Add and Mul of two activations, or of an activation and an int8 constant.

Operands broadcast as in ONNX; those of lower rank than 4 beside a rank-4 one are brought to NHWC.
Two images flattened alike, or one and a constant, are computed as they lie.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import TO_NHWC, Placed, device_order, device_shape, same_order
from sgsc_edge.lowering.network import Layer, Value
from sgsc_edge.lowering.registry import Row


def _binary(make: Callable[[ir.Activation], ir.Op], emitter: Emitter, layer: Layer) -> None:
    out_name = layer.outputs[0]
    shape = emitter.shape(layer, out_name)
    quantization = emitter.parameters(layer, out_name)
    activation = emitter.activation_of(layer, quantization)
    flat = None if len(shape) == 4 else _flattened_alike(emitter, layer)
    if flat is not None:
        tensors = [_flat_operand(emitter, layer, name, flat) for name in layer.inputs]
        out = emitter.activation(out_name, flat.shape, quantization)
        emitter.place_as(layer, flat.moved_to(emitter.node(make(activation), tensors, out)))
        return
    operand = _image_operand if len(shape) == 4 else _plain_operand
    tensors = [operand(emitter, layer, name) for name in layer.inputs]
    out = emitter.activation(out_name, device_shape(shape), quantization)
    emitter.place_output(layer, emitter.node(make(activation), tensors, out))


def _flattened_alike(emitter: Emitter, layer: Layer) -> Placed | None:
    """The layout shared by all operands that are flattened images; None where they differ."""
    names = emitter.network.activations(layer)
    if not names:
        raise layer.refusal("both inputs are constants", "compute it before exporting")
    first = emitter.read(layer, names[0])
    shape = emitter.shape(layer, names[0])
    if first.order is None or shape != emitter.shape(layer, layer.outputs[0]):
        return None
    for name in layer.inputs:
        value = emitter.network[name]
        if value.data is not None:
            if value.data.size not in (1, first.order.size):
                return None
        elif not (
            emitter.shape(layer, name) == shape and same_order(emitter.read(layer, name).order, first.order)
        ):
            return None
    return first


def _constant(emitter: Emitter, layer: Layer, name: str) -> Value:
    value = emitter.constant_value(layer, name, "constant inputs")
    if value.stored is not ir.DType.INT8 or (value.quantization and value.quantization.axis is not None):
        raise layer.refusal(
            f"its constant '{name}' is not int8 per tensor", "quantize it to int8 with one scale"
        )
    return value


def _flat_operand(emitter: Emitter, layer: Layer, name: str, flat: Placed) -> str:
    value = emitter.network[name]
    if value.data is None:
        return emitter.read(layer, name).tensor
    value = _constant(emitter, layer, name)
    assert value.data is not None
    data = value.data.reshape(-1)
    data = data.reshape((1,) * len(flat.shape)) if data.size == 1 else data[flat.order].reshape(flat.shape)
    return emitter.constant(name, data, ir.DType.INT8, value.quantization)


def _plain_operand(emitter: Emitter, layer: Layer, name: str) -> str:
    if not emitter.network[name].is_constant:
        return emitter.plain(layer, name).tensor
    value = _constant(emitter, layer, name)
    assert value.data is not None
    return emitter.constant(name, value.data, ir.DType.INT8, value.quantization)


def _image_operand(emitter: Emitter, layer: Layer, name: str) -> str:
    value = emitter.network[name]
    if value.data is not None:
        value = _constant(emitter, layer, name)
        assert value.data is not None
        data = value.data.reshape((1,) * (4 - value.data.ndim) + value.data.shape)
        return emitter.constant(name, np.transpose(data, TO_NHWC), ir.DType.INT8, value.quantization)
    shape = emitter.shape(layer, name)
    if len(shape) == 4:
        return emitter.read(layer, name).tensor
    padded = (1,) * (4 - len(shape)) + shape
    tensor = emitter.reshaped(emitter.plain(layer, name).tensor, padded)
    if device_order(padded) is None:
        return emitter.reshaped(tensor, device_shape(padded))
    return emitter.transposed(tensor, TO_NHWC)


def _add(emitter: Emitter, layer: Layer) -> None:
    _binary(ir.Add, emitter, layer)


def _mul(emitter: Emitter, layer: Layer) -> None:
    _binary(ir.Mul, emitter, layer)


_QUANTIZATION = "inputs and output each their own; constants int8 per tensor"

ROWS = (
    Row("Add", ("Add",), _QUANTIZATION, "none", _add),
    Row("Mul", ("Mul",), _QUANTIZATION, "none", _mul),
)
