"""Pad with zeros -> Pad; one in front of a single Conv has become that layer's padding before."""

from __future__ import annotations

from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import laid, resized
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.passes.fusion import zero_padding
from sgsc_edge.lowering.registry import Row


def _pad(emitter: Emitter, layer: Layer) -> None:
    name = layer.inputs[0]
    rank = len(emitter.shape(layer, name))
    emitter.parameters(layer, name)
    pads = zero_padding(emitter.network, layer)
    if pads is None:
        raise layer.refusal("it does not pad with constant zeros", "use padding mode 'constant' with value 0")
    if min(pads) < 0:
        raise layer.refusal("it crops: a padding is negative", "choose sizes that need no cropping")
    pairs = [(pads[axis], pads[rank + axis]) for axis in range(rank)]
    if any(pairs[0]):
        raise layer.refusal("it pads the batch", "pad other axes only")
    wide = {axis for axis in range(rank) if any(pairs[axis])}
    x, axes = emitter.with_axes(layer, name, wide)
    tensor = emitter.padded(x.tensor, [pairs[axis.axis] for axis in axes]) if wide else x.tensor
    shape = emitter.shape(layer, layer.outputs[0])
    emitter.place_output(layer, tensor, laid(resized(axes, wide, shape), shape))


ROWS = (
    Row(
        op="Pad",
        device=("Pad", "Quantize"),
        quantization="the input's parameters; a Quantize follows where the quantizer behind it has others",
        limits="mode constant, value 0, constant amounts of at least 0, not the batch",
        lower=_pad,
    ),
)
