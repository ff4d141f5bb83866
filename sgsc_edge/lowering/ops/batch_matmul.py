"""Products of two computed matrices -> BatchMatMul; a transposed operand is read as it lies."""

from __future__ import annotations

import math

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Layout, Piece, laid
from sgsc_edge.lowering.network import Layer


def batch_matmul(emitter: Emitter, layer: Layer) -> None:
    """Emit a [..., M, K] x b [..., K, N]; leading axes broadcast."""
    quantization = emitter.parameters(layer, layer.outputs[0])
    (a, adj_x), (b, adj_y) = (_operand(emitter, layer, name) for name in layer.inputs)
    shape = emitter.shape(layer, layer.outputs[0])
    out = emitter.activation(layer.outputs[0], shape, quantization)
    op = ir.BatchMatMul(adj_x, adj_y)
    emitter.place_output(layer, emitter.node(op, (a, b), out), Layout.plain(math.prod(shape)))


def _operand(emitter: Emitter, layer: Layer, name: str) -> tuple[str, bool]:
    """The tensor of an operand, and whether its last two axes are swapped there."""
    emitter.parameters(layer, name)
    shape = emitter.shape(layer, name)
    if len(shape) < 2:
        raise layer.refusal(f"its input '{name}' has shape {list(shape)}", "use matrices")
    rank = len(shape)
    swapped = (*range(rank - 2), rank - 1, rank - 2)
    layout = laid([Piece(axis, shape[axis]) for axis in swapped], shape)
    if emitter.read(layer, name).layout.same_as(layout) and min(shape[-2:]) > 1:
        return emitter.in_layout(layer, name, layout, [shape[axis] for axis in swapped]), True
    return emitter.plain(layer, name), False
