"""Concat -> Concatenation along the device's axis, all inputs in one layout and the output's parameters.

An input with others is requantized before, which is what the quantizer behind the Concat does to it.
Flattened images joined in front of dense layers alone stay as they lie.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.op_rules import MAX_CONCATENATED
from sgsc_edge.lowering.agreement import chosen
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Layout, Piece, device_axes, laid, places_of, resized
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row
from sgsc_edge.numerics import dequantize, quantize


def _concat(emitter: Emitter, layer: Layer) -> None:
    out_name = layer.outputs[0]
    shape = emitter.shape(layer, out_name)
    for name in layer.inputs:
        emitter.parameters(layer, name)
    if emitter.network[out_name].quantization is None and not emitter.is_float:
        raise layer.refusal(
            "its inputs have different quantization and none follows it",
            "insert QuantizeLinear and DequantizeLinear after it, or let its inputs share one quantizer",
        )
    axis = layer.attribute("axis", 0) % len(shape)
    if axis == 0:
        raise layer.refusal("it joins along the batch", "concatenate along another axis")
    if len(layer.inputs) == 1:
        x = emitter.read(layer, layer.inputs[0])
        emitter.place_output(layer, x.tensor, x.layout)
        return
    if len(shape) == 2 and shape[0] == 1 and _feeds_dense_layers(emitter, out_name):
        _join_as_they_lie(emitter, layer)
        return
    if _join_innermost(emitter, layer, axis):
        return
    layout = chosen(emitter, layer, partial(_along, axis=axis))
    axes = device_axes(layout, shape)
    assert axes is not None  # of a layout that `_along` or `chosen` made
    parts = []
    for name in layer.inputs:
        own = emitter.shape(layer, name)
        wanted = resized(axes, {axis}, own)
        part = emitter.in_layout(layer, name, laid(wanted, own), [piece.size for piece in wanted])
        parts.append(_requantized(emitter, layer, name, part))
    place = next(index for index, piece in enumerate(axes) if piece.axis == axis)
    emitter.place_output(layer, _joined(emitter, layer, parts, place), layout)


def _join_innermost(emitter: Emitter, layer: Layer, axis: int) -> bool:
    """Join parts whose ``axis`` lies innermost, each in an order of its own; whether they lie so."""
    parts, places, offset = [], [], 0
    around: set[tuple[Piece, ...]] = set()
    for name in layer.inputs:
        shape, placed = emitter.shape(layer, name), emitter.read(layer, name)
        pieces = placed.layout.pieces(shape)
        if pieces is None:
            return False
        inside = tuple(piece for piece in pieces if piece.axis == axis)
        outside = pieces[: len(pieces) - len(inside)]
        if outside + inside != pieces:
            return False
        around.add(outside)
        parts.append((name, placed.tensor, shape[axis]))
        places.append(offset + places_of(inside))
        offset += shape[axis]
    if len(around) > 1:
        return False
    rows = emitter.tensors[emitter.rows(parts[0][1], parts[0][2])].shape[:-1]
    tensors = [
        _requantized(emitter, layer, name, emitter.reshaped(tensor, (*rows, size)))
        for name, tensor, size in parts
    ]
    out = emitter.shape(layer, layer.outputs[0])
    joined = Piece(axis, offset, places=tuple(np.concatenate(places).tolist()))
    emitter.place_output(
        layer, _joined(emitter, layer, tensors, len(rows)), laid((*around.pop(), joined), out)
    )
    return True


def _along(shape: tuple[int, ...], layout: Layout, out: tuple[int, ...], axis: int) -> Layout | None:
    """The layout of the whole in which a part in ``layout`` lies as it is; None where there is none."""
    axes = device_axes(layout, shape)
    if axes is None or sum(piece.axis == axis for piece in axes) != 1:
        return None
    return laid(resized(axes, {axis}, out), out)


def _join_as_they_lie(emitter: Emitter, layer: Layer) -> None:
    """Join flattened images [1, n] in front of dense layers, which take any order into their weights."""
    parts, orders, offset = [], [], 0
    for name in layer.inputs:
        placed, count = emitter.read(layer, name), emitter.network[name].elements
        parts.append(_requantized(emitter, layer, name, emitter.reshaped(placed.tensor, (1, count))))
        orders.append(offset + placed.layout.order())
        offset += count
    joined = _joined(emitter, layer, parts, 1)
    emitter.place_output(layer, joined, Layout.of([], np.concatenate(orders)))


def _requantized(emitter: Emitter, layer: Layer, name: str, tensor: str) -> str:
    """A part on the output's grid; a constant as the quantizer behind rounds it."""
    wanted, given = emitter.parameters(layer, layer.outputs[0]), emitter.tensors[tensor]
    own = given.quantization
    if given.data is None or wanted is None or own is None or wanted.same_as(own):
        return emitter.requantized(tensor, wanted, f"{layer.outputs[0]}/input")
    real = dequantize(given.data, float(own.scale[0]), int(own.zero_point[0]))
    integers = quantize(real, float(wanted.scale[0]), int(wanted.zero_point[0]))
    return emitter.constant(f"{name}/requantized", integers, ir.DType.INT8, wanted)


def _joined(emitter: Emitter, layer: Layer, tensors: list[str], axis: int) -> str:
    """Concatenate device tensors, ten at a time: kernels take no more."""
    name = layer.outputs[0]
    while len(tensors) > 1:
        group, rest = tensors[:MAX_CONCATENATED], tensors[MAX_CONCATENATED:]
        shape = list(emitter.tensors[group[0]].shape)
        shape[axis] = sum(emitter.tensors[tensor].shape[axis] for tensor in group)
        out = emitter.activation(name, shape, emitter.parameters(layer, name))
        tensors = [emitter.node(ir.Concatenation(axis), group, out), *rest]
    return tensors[0]


def _feeds_dense_layers(emitter: Emitter, name: str) -> bool:
    """Whether only dense layers read a value, as their input: they take any order into their weights."""
    readers = emitter.readers[name]
    return name != emitter.network.output and all(
        reader.op in ("Gemm", "MatMul") and reader.inputs[0] == name for reader in readers
    )


ROWS = (
    Row(
        op="Concat",
        device=("Concatenation", "Quantize"),
        quantization="one for all; inputs with others are requantized where a quantizer follows",
        limits="not along the batch",
        lower=_concat,
    ),
)
