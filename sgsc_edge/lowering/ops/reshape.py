"""Reshape, Flatten, Squeeze and Unsqueeze -> Reshape; the shape is the inferred one.

A flattened image keeps its NHWC order and its readers are told (see :mod:`sgsc_edge.lowering.layout`).
"""

from __future__ import annotations

from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row


def _reshape(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    emitter.shape(layer, layer.outputs[0])
    emitter.parameters(layer, name)
    quantization = emitter.parameters(layer, layer.outputs[0])
    x = emitter.requantized(emitter.read(layer, name), quantization, layer.outputs[0])
    emitter.place_reordered(layer, x, x.order)


_QUANTIZATION = "the input's parameters; a Quantize is added where the quantizer behind it has others"
_LIMITS = "shapes known before run time"

ROWS = tuple(
    Row(op, ("Reshape", "Transpose", "Quantize"), _QUANTIZATION, _LIMITS, _reshape)
    for op in ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
)
