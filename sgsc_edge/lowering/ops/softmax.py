"""Softmax over the last device axis -> Softmax; TFLite prescribes its output: 1/256, -128."""

from __future__ import annotations

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import device_axis
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row

_OUTPUT = ir.Quantization.per_tensor(1 / 256, -128)


def _softmax(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    shape = emitter.shape(layer, name)
    emitter.parameters(layer, name)
    quantization = emitter.parameters(layer, layer.outputs[0])
    if not quantization.same_as(_OUTPUT):
        raise layer.refusal(
            f"its output has scale {quantization.scale[0]:g} and zero point {quantization.zero_point[0]}; "
            "TFLite prescribes 1/256 and -128",
            "quantize its output with scale 0.00390625 and zero point -128, or leave the final Softmax out: "
            "the decision is the same",
        )
    if device_axis(layer.attribute("axis", -1), len(shape)) != len(shape) - 1:
        raise layer.refusal("it is not over the channels of an image or the last axis", "move its axis there")
    x = emitter.read(layer, name) if len(shape) == 4 else emitter.plain(layer, name)
    out = emitter.activation(layer.outputs[0], x.shape, quantization)
    emitter.place_output(layer, emitter.node(ir.Softmax(), (x.tensor,), out))


ROWS = (
    Row(
        op="Softmax",
        device=("Softmax",),
        quantization="output scale 1/256, zero point -128",
        limits="over the channels of an image, else over the last axis",
        lower=_softmax,
    ),
)
