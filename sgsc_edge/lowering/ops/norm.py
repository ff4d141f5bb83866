"""LpNormalization of order 2 -> L2Normalization over the last device axis; its output is 1/128, 0."""

from __future__ import annotations

import math

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import laid
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row

_OUTPUT = ir.Quantization.per_tensor(1 / 128, 0)


def _l2(emitter: Emitter, layer: Layer) -> None:
    if layer.attribute("p", 2) != 2:
        raise layer.refusal("it divides by the sum of magnitudes", "use order 2")
    name = layer.inputs[0]
    shape = emitter.shape(layer, name)
    emitter.parameters(layer, name)
    quantization = emitter.prescribed(layer, _OUTPUT)
    axis = layer.attribute("axis", -1) % len(shape)
    if axis == 0:
        raise layer.refusal("it divides by the length along the batch", "normalize another axis")
    tensor, outside, inside = emitter.innermost(layer, name, axis)
    source = emitter.tensors[tensor].shape
    if len(source) > 4:  # the kernels take no more
        tensor = emitter.reshaped(tensor, (math.prod(source[:-1]), source[-1]))
    out = emitter.activation(layer.outputs[0], emitter.tensors[tensor].shape, quantization)
    made = emitter.node(ir.L2Normalization(), (tensor,), out)
    emitter.place_output(layer, made, laid(outside + inside, shape))


ROWS = (
    Row(
        op="LpNormalization",
        device=("L2Normalization",),
        quantization="output scale 1/128, zero point 0",
        limits="order 2, not the batch; a Transpose brings another axis than the device's last there",
        lower=_l2,
    ),
)
