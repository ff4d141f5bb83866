"""Relu and Clip on their own -> Relu, Relu6, Quantize, or nothing.

Most are fused into the layer before. With a quantizer on both sides they clamp (and requantize) by
themselves; where the output's integer range is the bounds, saturation does it.
"""

from __future__ import annotations

from dataclasses import replace

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.passes.fusion import bounds
from sgsc_edge.lowering.registry import Row

_OPS: dict[ir.Activation, ir.Op] = {ir.Activation.RELU: ir.Relu(), ir.Activation.RELU6: ir.Relu6()}


def _clamp(emitter: Emitter, layer: Layer) -> None:
    x = emitter.read(layer, layer.inputs[0])
    quantization = emitter.parameters(layer, layer.outputs[0])
    clamped = replace(layer, clamp=bounds(emitter.network, layer))
    activation = emitter.activation_of(clamped, quantization)
    if activation is ir.Activation.NONE:
        emitter.place_output(layer, x.tensor, x.layout)
    elif activation in _OPS:
        out = emitter.activation(layer.outputs[0], emitter.tensors[x.tensor].shape, quantization)
        emitter.place_output(layer, emitter.node(_OPS[activation], (x.tensor,), out), x.layout)
    else:
        raise layer.refusal(
            "no TFLite op clamps to [-1, 1] by itself",
            "place it right behind a convolution or dense layer, without a quantizer between",
        )


def _requantize(emitter: Emitter, layer: Layer) -> None:
    x = emitter.read(layer, layer.inputs[0])
    emitter.place_output(layer, x.tensor, x.layout)


_OUTPUT = "own output, or the input's parameters where no quantizer follows"

ROWS = (
    Row("Relu", ("fused", "Relu", "Quantize"), _OUTPUT, "none", _clamp),
    Row(
        "Clip",
        ("fused", "Relu", "Relu6", "Quantize"),
        "own output",
        "constant bounds that the output's integer range or a TFLite activation gives exactly",
        _clamp,
    ),
    Row("Requantize", ("Quantize",), "a quantizer behind a quantizer, other parameters", "none", _requantize),
)
