"""Transpose -> nothing or a Reshape where the device elements already lie so, else Transpose.

The output of a sequence's Transpose may be an image of height 1 (:mod:`sgsc_edge.lowering.passes.sequences`).
"""

from __future__ import annotations

from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import device_order, device_permutation, same_order, transposed_order
from sgsc_edge.lowering.network import Layer, permutation_of
from sgsc_edge.lowering.registry import Row


def _transpose(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    shape = emitter.shape(layer, name)
    permutation = permutation_of(layer, len(shape))
    emitter.parameters(layer, name)
    quantization = emitter.parameters(layer, layer.outputs[0])
    if permutation[0] != 0 and shape[0] > 1:
        raise layer.refusal("it moves the batch axis", "permute other axes only")
    x = emitter.requantized(emitter.read(layer, name), quantization, layer.outputs[0])
    order = transposed_order(x.order, shape, permutation)
    if same_order(order, device_order(emitter.shape(layer, layer.outputs[0]))):
        emitter.place_reordered(layer, x, order)
    elif len(shape) == 4:
        emitter.place_output(layer, emitter.transposed(x.tensor, device_permutation(permutation)))
    else:
        tensor = emitter.transposed(emitter.plain_of(layer, x, shape).tensor, permutation)
        emitter.place_plain(layer, emitter.reshaped(tensor, emitter.shape(layer, layer.outputs[0])))


ROWS = (
    Row(
        op="Transpose",
        device=("Transpose", "Reshape", "Quantize"),
        quantization="the input's parameters; a Quantize is added where the quantizer behind it has others",
        limits="not the batch",
        lower=_transpose,
    ),
)
