"""ReduceMean -> Mean over the same axes in NHWC, and a Reshape where dropping them needs one."""

from __future__ import annotations

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Placed, device_axis, device_order, device_shape
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


def _reduce_mean(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    shape = emitter.shape(layer, name)
    axes = _axes(emitter, layer, len(shape))
    emitter.parameters(layer, name)
    quantization = emitter.parameters(layer, layer.outputs[0])
    x = emitter.read(layer, name) if len(shape) == 4 else emitter.plain(layer, name)
    if not axes:
        emitter.place_as(layer, emitter.requantized(x, quantization, layer.outputs[0]))
        return
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    constant = emitter.integers(
        f"{layer.outputs[0]}/axes", sorted(device_axis(axis, len(shape)) for axis in axes)
    )
    out_shape = emitter.shape(layer, layer.outputs[0])
    # Dropping axes on the device is ONNX's result where the kept ones stay in ONNX's order.
    drops = out_shape != kept and device_order(kept) is None and len(out_shape) != 4
    device = out_shape if drops else device_shape(kept)
    out = emitter.activation(layer.outputs[0], device, quantization)
    emitter.node(ir.Mean(keep_dims=not drops), (x.tensor, constant), out)
    if drops:
        emitter.place_output(layer, out)
    else:
        order = device_order(kept)
        image = (out, device) if len(device) == 4 else None
        emitter.place_reordered(layer, Placed(out, device, order, image), order)


ROWS = (Row("ReduceMean", ("Mean", "Reshape"), "own output", "constant axes, not the batch", _reduce_mean),)
