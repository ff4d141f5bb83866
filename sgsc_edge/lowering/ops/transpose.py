"""Transpose -> nothing, a Reshape, or a Transpose where a reader cannot take the elements as they lie."""

from __future__ import annotations

from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.network import Layer, permutation_of
from sgsc_edge.lowering.registry import Row


def _transpose(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    permutation = permutation_of(layer, len(emitter.shape(layer, name)))
    emitter.parameters(layer, name)
    x = emitter.permuted(layer, name, permutation)
    emitter.place_output(layer, x.tensor, x.layout)


ROWS = (
    Row(
        op="Transpose",
        device=("Transpose", "Reshape", "Quantize"),
        quantization="the input's parameters; a Quantize is added where the quantizer behind it has others",
        limits="none",
        lower=_transpose,
    ),
)
