"""Reshape, Flatten, Squeeze and Unsqueeze -> nothing: no element moves (:mod:`sgsc_edge.lowering.layout`).

A Reshape is emitted where a reader needs another device shape. The shape is the inferred one.
"""

from __future__ import annotations

from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row


def _reshape(emitter: Emitter, layer: Layer) -> None:
    emitter.parameters(layer, layer.inputs[0])
    x = emitter.read(layer, layer.inputs[0])
    emitter.place_output(layer, x.tensor, x.layout)


_QUANTIZATION = "the input's parameters; a Quantize is added where the quantizer behind it has others"
_LIMITS = "shapes known before run time"

ROWS = tuple(
    Row(op, ("Reshape", "Quantize"), _QUANTIZATION, _LIMITS, _reshape)
    for op in ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
)
