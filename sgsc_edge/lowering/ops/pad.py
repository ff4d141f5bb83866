"""Pad with zeros -> Pad; one in front of a single Conv has become that layer's padding before."""

from __future__ import annotations

from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import TO_NHWC
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
    if rank == 4:
        x = emitter.read(layer, name)
        pairs = [pairs[axis] for axis in TO_NHWC]
    else:
        x = emitter.plain(layer, name)
    tensor = emitter.padded(x.tensor, pairs) if any(map(any, pairs)) else x.tensor
    emitter.place_output(layer, tensor)


ROWS = (
    Row(
        op="Pad",
        device=("Pad", "Quantize"),
        quantization="the input's parameters; a Quantize follows where the quantizer behind it has others",
        limits="mode constant, value 0, constant amounts of at least 0, not the batch",
        lower=_pad,
    ),
)
