"""Add, Sub and Mul of two activations, or of an activation and an int8 constant.

Operands broadcast as in ONNX, in whatever layout the output has; a constant is arranged to fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sgsc_edge.graph import ir
from sgsc_edge.lowering.agreement import chosen
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Layout, Piece, device_axes, laid
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row

_MOST_AXES = 4
"""Of operands of unlike shapes, for the kernels."""


def _binary(make: Callable[[ir.Activation], ir.Op], emitter: Emitter, layer: Layer) -> None:
    out_name = layer.outputs[0]
    quantization = emitter.parameters(layer, out_name)
    activation = emitter.activation_of(layer, quantization)
    if not emitter.network.activations(layer):
        raise layer.refusal("both inputs are constants", "compute it before exporting")
    layout = chosen(emitter, layer, _whole)
    tensors, device, layout = operands(emitter, layer, layout)
    out = emitter.activation(out_name, device, quantization)
    emitter.place_output(layer, emitter.node(make(activation), tensors, out), layout)


def operands(emitter: Emitter, layer: Layer, layout: Layout) -> tuple[list[str], tuple[int, ...], Layout]:
    """The tensors of a layer's operands, its output's device shape, and its layout: the one asked for.

    ONNX's own where an operand is broadcast and the layout has no axes beside which it could lie.
    """
    shape = emitter.shape(layer, layer.outputs[0])
    whole = [name for name in layer.inputs if _is_whole(emitter, name, shape)]
    if whole and all(name in whole or _is_alike(emitter, name, shape) for name in layer.inputs):
        device = emitter.tensors[emitter.in_place(layer, whole[0], layout)].shape
        if len(device) > _MOST_AXES:  # where each value meets its own, the shape is nobody's
            device = (1, math.prod(device))
        return [_alike(emitter, layer, name, layout, device) for name in layer.inputs], device, layout
    axes = device_axes(layout, shape)
    if axes is None:
        layout = Layout.plain(math.prod(shape))
        axes = tuple(Piece(axis, size) for axis, size in enumerate(shape))
    if len(axes) > _MOST_AXES:
        axes = tuple(piece for piece in axes if piece.size > 1) or axes[:1]
    tensors = [_broadcast(emitter, layer, name, axes) for name in layer.inputs]
    return tensors, tuple(axis.size for axis in axes), layout


def _is_alike(emitter: Emitter, name: str, shape: tuple[int, ...]) -> bool:
    """Whether an operand is a constant number, or a constant as large as the output."""
    value = emitter.network[name]
    return value.is_constant and value.elements in (1, math.prod(shape))


def _is_whole(emitter: Emitter, name: str, shape: tuple[int, ...]) -> bool:
    return not emitter.network[name].is_constant and emitter.network[name].elements == math.prod(shape)


def _whole(shape: tuple[int, ...], layout: Layout, out: tuple[int, ...]) -> Layout | None:
    """The output's layout where an operand is as large; one that is broadcast has no say."""
    return layout if math.prod(shape) == math.prod(out) else None


def _alike(emitter: Emitter, layer: Layer, name: str, layout: Layout, device: tuple[int, ...]) -> str:
    """An operand as large as the output, or a constant number."""
    if not emitter.network[name].is_constant:
        return emitter.in_layout(layer, name, layout, device)
    data = emitter.constant_data(layer, name).reshape(-1)
    arranged = data.reshape((1,) * len(device)) if data.size == 1 else data[layout.order()].reshape(device)
    return emitter.constant(name, arranged, emitter.dtype, emitter.network[name].quantization)


def _broadcast(emitter: Emitter, layer: Layer, name: str, axes: tuple[Piece, ...]) -> str:
    """An operand beside the output's axes; it has size 1 where it is broadcast."""
    shape = emitter.shape(layer, name)
    rank = len(emitter.shape(layer, layer.outputs[0]))
    wide = (1,) * (rank - len(shape)) + shape
    own = [Piece(axis.axis, 1, 1) if wide[axis.axis] == 1 else axis for axis in axes]
    layout, device = laid(own, wide), [axis.size for axis in own]
    if not emitter.network[name].is_constant:
        return emitter.in_layout(layer, name, layout, device)
    data = emitter.constant_data(layer, name).reshape(-1)[layout.order()].reshape(device)
    return emitter.constant(name, data, emitter.dtype, emitter.network[name].quantization)


def _add(emitter: Emitter, layer: Layer) -> None:
    _binary(ir.Add, emitter, layer)


def _sub(emitter: Emitter, layer: Layer) -> None:
    _binary(ir.Sub, emitter, layer)


def _mul(emitter: Emitter, layer: Layer) -> None:
    _binary(ir.Mul, emitter, layer)


_QUANTIZATION = "inputs and output each their own; constants int8 per tensor"
_LIMITS = "operands of unlike shapes: four axes of more than one value"

ROWS = (
    Row("Add", ("Add",), _QUANTIZATION, _LIMITS, _add),
    Row("Sub", ("Sub",), _QUANTIZATION, _LIMITS, _sub),
    Row("Mul", ("Mul",), _QUANTIZATION, _LIMITS, _mul),
)
