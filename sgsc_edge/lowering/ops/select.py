"""Slice, Split and Gather with constant indices: values of one axis, or of several.

Evenly spaced values of one device axis are a StridedSlice, others a Gather. Channels that lie in an order of
their own are taken as they lie, so a channel shuffle between two convolutions moves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import MOST_AXES, Order, Piece, Placed, laid, places_of, resized
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row


def _slice(emitter: Emitter, layer: Layer) -> None:
    shape = emitter.shape(layer, layer.inputs[0])
    starts = _constant(emitter, layer, 1)
    ends = _constant(emitter, layer, 2)
    axes = _constant(emitter, layer, 3, np.arange(starts.size)) % len(shape)
    steps = _constant(emitter, layer, 4, np.ones(starts.size, np.int64))
    x = emitter.read(layer, layer.inputs[0])
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        positions = np.arange(shape[axis])[slice(int(start), int(end), int(step))]
        x, shape = taken(emitter, layer, x, shape, int(axis), positions)
    _place(emitter, layer, x)


def _split(emitter: Emitter, layer: Layer) -> None:
    shape = emitter.shape(layer, layer.inputs[0])
    axis = layer.attribute("axis", 0) % len(shape)
    x, begin = emitter.read(layer, layer.inputs[0]), 0
    for index, name in enumerate(layer.outputs):
        size = emitter.shape(layer, name)[axis]
        part, _ = taken(emitter, layer, x, shape, axis, np.arange(begin, begin + size))
        _place(emitter, layer, part, index)
        begin += size


def _gather(emitter: Emitter, layer: Layer) -> None:
    if emitter.network[layer.inputs[0]].is_constant:
        raise layer.refusal("it looks rows of a constant up", "choose a target that ships the .onnx")
    shape = emitter.shape(layer, layer.inputs[0])
    axis = layer.attribute("axis", 0) % len(shape)
    indices = _constant(emitter, layer, 1)
    indices = np.where(indices < 0, indices + shape[axis], indices).reshape(-1)
    if indices.size and (indices.min() < 0 or indices.max() >= shape[axis]):
        raise layer.refusal(f"indices outside the {shape[axis]} values of axis {axis}", "repair the indices")
    x, _ = taken(emitter, layer, emitter.read(layer, layer.inputs[0]), shape, axis, indices)
    _place(emitter, layer, x)


def _place(emitter: Emitter, layer: Layer, x: Placed, output: int = 0) -> None:
    emitter.parameters(layer, layer.inputs[0])
    emitter.place_output(layer, x.tensor, x.layout, output)


def _constant(
    emitter: Emitter, layer: Layer, index: int, default: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """An input of whole numbers, int64 of its shape; the default where it is absent."""
    value = emitter.optional(layer, index)
    if value is None and default is not None:
        return default
    if value is None or value.data is None:
        raise layer.refusal("what it takes is computed at run time", "use constant positions")
    return np.asarray(value.data, np.int64)


def taken(
    emitter: Emitter, layer: Layer, x: Placed, shape: tuple[int, ...], axis: int, positions: Order
) -> tuple[Placed, tuple[int, ...]]:
    """The values of a placed value at ``positions`` of an ONNX axis, and their ONNX shape."""
    out = (*shape[:axis], len(positions), *shape[axis + 1 :])
    if not len(positions):
        raise layer.refusal("nothing is left of its input", "use sizes of at least 1")
    if np.array_equal(positions, np.arange(shape[axis])):
        return x, out
    pieces = x.layout.pieces(shape)
    inside = tuple(piece for piece in pieces or () if piece.axis == axis)
    if pieces is not None and len(inside) != 1 and pieces[len(pieces) - len(inside) :] == inside:
        return _innermost(
            emitter, x, shape, out, axis, positions, pieces[: len(pieces) - len(inside)], inside
        )
    if inside and pieces is not None and inside[0].places is not None:
        return _innermost(emitter, x, shape, out, axis, positions, pieces[:-1], inside)
    x, axes = emitter.axes_of(layer, x, shape, {axis})
    place = next(index for index, piece in enumerate(axes) if piece.axis == axis)
    tensor = _cut(emitter, x.tensor, place, positions)
    return Placed(tensor, laid(resized(axes, {axis}, out), out)), out


def _innermost(
    emitter: Emitter,
    x: Placed,
    shape: tuple[int, ...],
    out: tuple[int, ...],
    axis: int,
    positions: Order,
    outside: tuple[Piece, ...],
    inside: tuple[Piece, ...],
) -> tuple[Placed, tuple[int, ...]]:
    """Values of an axis that lies innermost in an order of its own: they stay in that order."""
    places = places_of(inside)
    tensor = emitter.rows(x.tensor, shape[axis])
    where = np.argsort(places)[positions]  # of each position on the device
    order = np.argsort(where, kind="stable")
    made = _cut(emitter, tensor, len(emitter.tensors[tensor].shape) - 1, where[order])
    piece = Piece(axis, len(order), places=tuple(order.tolist()))
    return Placed(made, laid((*outside, piece), out)), out


def _cut(emitter: Emitter, tensor: str, axis: int, positions: Order) -> str:
    """The values at ``positions`` of a device axis."""
    source = emitter.tensors[tensor]
    shape, steps = source.shape, np.diff(positions)
    if len(shape) > MOST_AXES:
        before, behind = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        made = _cut(emitter, emitter.reshaped(tensor, (before, shape[axis], behind)), 1, positions)
        return emitter.reshaped(made, (*shape[:axis], len(positions), *shape[axis + 1 :]))
    even = bool((steps == steps[:1]).all()) and (not steps.size or steps[0] > 0)
    out = (*shape[:axis], len(positions), *shape[axis + 1 :])
    made = emitter.activation(f"{tensor}/part", out, source.quantization)
    if not even:
        indices = emitter.integers(f"{made}/indices", positions)
        return emitter.node(ir.Gather(axis), (tensor, indices), made)
    step = int(steps[0]) if steps.size else 1
    begin = _at(len(shape), 0, axis, int(positions[0]))
    end = [*shape[:axis], int(positions[-1]) + 1, *shape[axis + 1 :]]
    bounds = (begin, end, _at(len(shape), 1, axis, step))
    constants = [
        emitter.integers(f"{made}/{name}", values)
        for name, values in zip(("begin", "end", "strides"), bounds, strict=True)
    ]
    return emitter.node(ir.StridedSlice(), (tensor, *constants), made)


def _at(rank: int, value: int, axis: int, other: int) -> Sequence[int]:
    return [other if index == axis else value for index in range(rank)]


_QUANTIZATION = "the input's parameters; a Quantize follows where the quantizer behind it has others"
_DEVICE = ("StridedSlice", "Gather", "Quantize")

ROWS = (
    Row("Slice", _DEVICE, _QUANTIZATION, "constant positions", _slice),
    Row("Split", _DEVICE, _QUANTIZATION, "none", _split),
    Row("Gather", _DEVICE, _QUANTIZATION, "constant indices into what is computed", _gather),
)
