"""Softmax -> Softmax over the last device axis; TFLite prescribes its output: 1/256, -128."""

from __future__ import annotations

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import laid
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row

_OUTPUT = ir.Quantization.per_tensor(1 / 256, -128)


def _softmax(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    shape = emitter.shape(layer, name)
    emitter.parameters(layer, name)
    quantization = emitter.prescribed(
        layer, _OUTPUT, ", or leave the final Softmax out: the decision is the same"
    )
    axis = layer.attribute("axis", -1) % len(shape)
    tensor, outside, inside = emitter.innermost(layer, name, axis)
    out = emitter.activation(layer.outputs[0], emitter.tensors[tensor].shape, quantization)
    made = emitter.node(ir.Softmax(), (tensor,), out)
    emitter.place_output(layer, made, laid(outside + inside, shape))


ROWS = (
    Row(
        op="Softmax",
        device=("Softmax",),
        quantization="output scale 1/256, zero point -128",
        limits="none; a Transpose brings another axis than the device's last there",
        lower=_softmax,
    ),
)
