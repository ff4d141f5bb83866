"""ReduceMean -> Mean over the device's axes for ONNX's."""

from __future__ import annotations

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Piece, laid
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row


def _axes(emitter: Emitter, layer: Layer, rank: int) -> tuple[int, ...]:
    """The reduced ONNX axes, sorted; an attribute until opset 17, then an input."""
    name = layer.input(1)
    found = layer.attribute("axes", ())
    if name is not None:
        data = emitter.network[name].data
        if data is None:
            raise layer.refusal("its axes are computed at run time", "use constant axes")
        found = tuple(int(axis) for axis in data.reshape(-1))
    if not found and layer.attribute("noop_with_empty_axes", 0):
        return ()
    axes = tuple(sorted({int(axis) % rank for axis in found or range(rank)}))
    if 0 in axes:
        raise layer.refusal("it averages over the batch", "average over the other axes only")
    return axes


def _is_height(index: int, piece: Piece) -> bool:
    return index > 0 and piece.axis == 0 and piece.size == 1


def _reduce_mean(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    shape = emitter.shape(layer, name)
    axes = _axes(emitter, layer, len(shape))
    emitter.parameters(layer, name)
    quantization = emitter.parameters(layer, layer.outputs[0])
    if not axes:
        x = emitter.read(layer, name)
        emitter.place_output(layer, x.tensor, x.layout)
        return
    x, pieces = emitter.with_axes(layer, name)
    # The height of a sequence's image is no axis of ONNX's: it goes where others do.
    reduced = [index for index, piece in enumerate(pieces) if piece.axis in axes or _is_height(index, piece)]
    constant = emitter.integers(f"{layer.outputs[0]}/axes", reduced)
    keeps = bool(layer.attribute("keepdims", 1))
    device = [
        1 if index in reduced else piece.size
        for index, piece in enumerate(pieces)
        if keeps or index not in reduced
    ]
    out = emitter.activation(layer.outputs[0], device, quantization)
    emitter.node(ir.Mean(keep_dims=keeps), (x.tensor, constant), out)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    layout = laid([piece for piece in pieces if piece.axis not in axes], kept)
    emitter.place_output(layer, out, layout)


ROWS = (Row("ReduceMean", ("Mean", "Reshape"), "own output", "constant axes, not the batch", _reduce_mean),)
