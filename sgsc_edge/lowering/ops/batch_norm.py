"""BatchNormalization on its own -> DepthwiseConv2D with 1x1 filters.

One that follows an unquantized Conv or Gemm is folded into it before. One that reads a quantized value
is ``y = f * x + offset`` per channel: filters of +64 or -64 with scale |f| / 64, which is exact, so that
the int32 bias resolves 1/64 of an input step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import image_shape
from sgsc_edge.lowering.network import Layer, Value
from sgsc_edge.lowering.passes.batch_norm import affine
from sgsc_edge.lowering.registry import Row
from sgsc_edge.lowering.weights import place_bias, place_weights

_STEP = 64


def _batch_norm(emitter: Emitter, layer: Layer) -> None:
    x = emitter.image(layer, layer.inputs[0])
    x_quantization = emitter.parameters(layer, layer.inputs[0])
    quantization = emitter.parameters(layer, layer.outputs[0])
    activation = emitter.activation_of(layer, quantization)
    factor, offset = affine(emitter.network, layer)
    channels = emitter.tensors[x].shape[3]
    if factor.size != channels:
        raise layer.refusal(f"it has {factor.size} factors for {channels} channels", "export the model again")
    out_shape = image_shape(emitter.shape(layer, layer.outputs[0]))
    weights = _filters(layer, factor, x_quantization, quantization)
    offsets = Value(f"{layer.outputs[0]}/bias", (channels,), data=offset)
    assert weights.data is not None
    filters, weights = place_weights(emitter, layer, ir.DepthwiseConv2D, weights, weights.data, axis=3)
    bias = place_bias(emitter, layer, offsets, x_quantization, weights, channels)
    out = emitter.activation(layer.outputs[0], out_shape, quantization)
    op = ir.DepthwiseConv2D(activation=activation)
    emitter.place_image(layer, emitter.node(op, (x, filters, bias), out))


def _filters(
    layer: Layer, factor: NDArray[np.float64], x: ir.Quantization | None, out: ir.Quantization | None
) -> Value:
    """Depthwise filters [1, 1, 1, C] that multiply by ``factor``."""
    name, shape = f"{layer.outputs[0]}/weights", (1, 1, 1, factor.size)
    if x is None or out is None:
        return Value(name, shape, data=factor.astype(np.float32).reshape(shape))
    # A channel whose factor is 0 still needs a scale, for its bias.
    scale = np.where(factor == 0, out.scale[0] / x.scale[0], np.abs(factor)) / _STEP
    quantization = ir.Quantization.per_channel(scale.astype(np.float32), axis=3)
    integers = (np.sign(factor) * _STEP).astype(np.int8).reshape(shape)
    return Value(name, shape, quantization, integers, ir.DType.INT8)


ROWS = (
    Row(
        op="BatchNormalization",
        device=("DepthwiseConv2D",),
        quantization="own output; none between it and the Conv or Gemm it is folded into",
        limits="evaluation mode; on its own one or two spatial axes",
        lower=_batch_norm,
    ),
)
