"""Conv -> Conv2D or DepthwiseConv2D, with a Pad in front where the padding is not exactly SAME.

Weights [O, C/g, kh, kw] become OHWI, or [1, kh, kw, C*m] where every group has one input channel:
output channel c*m + j reads input channel c in both formats.
"""

from __future__ import annotations

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Order, image_shape
from sgsc_edge.lowering.network import Layer, Value
from sgsc_edge.lowering.registry import Row
from sgsc_edge.lowering.weights import place_bias, place_weights, weights_of
from sgsc_edge.lowering.windows import Window, window


def padded_input(emitter: Emitter, tensor: str, frame: Window) -> tuple[str, ir.Padding]:
    """The input and the padding that give the window exactly: SAME, VALID, or a Pad and VALID."""
    if frame.padding is not None:
        return tensor, frame.padding
    return emitter.padded(tensor, frame.paddings), ir.Padding.VALID


def _check_weights(layer: Layer, shape: tuple[int, ...], rank: int, channels: int) -> None:
    """Refuse weights that do not fit the input; ONNX's shape inference does not look."""
    group = layer.attribute("group", 1)
    fits = len(shape) == rank and group >= 1 and shape[1] * group == channels and shape[0] % group == 0
    if not fits or tuple(layer.attribute("kernel_shape", shape[2:])) != shape[2:]:
        raise layer.refusal(
            f"weights {list(shape)} in {group} groups do not fit {channels} input channels",
            "export the model to ONNX again",
        )


def _conv(emitter: Emitter, layer: Layer) -> None:
    grouped = layer.attribute("group", 1) > 1
    depthwise = grouped and layer.attribute("group", 1) == emitter.shape(layer, layer.inputs[0])[1]
    order: Order | None = None
    if grouped and not depthwise:
        x = emitter.image(layer, layer.inputs[0])
    else:
        x, order = emitter.any_channels(layer, layer.inputs[0])
    _, height, width, channels = emitter.tensors[x].shape
    shape = emitter.shape(layer, layer.outputs[0])
    out_shape = image_shape(shape)
    weights = weights_of(emitter, layer, layer.inputs[1], axis=0)
    assert weights.data is not None
    _check_weights(layer, weights.data.shape, len(shape), channels)
    bias_value, multiplier = emitter.optional(layer, 2), shape[1] // channels
    if order is not None and depthwise:
        order = (order[:, np.newaxis] * multiplier + np.arange(multiplier)).reshape(-1)
        weights = weights.take(order, 0)
        bias_value = _taken(bias_value, order)
    elif order is not None:
        weights, order = weights.take(order, 1), None
    assert weights.data is not None
    filters = weights.data if len(shape) == 4 else np.expand_dims(weights.data, -2)
    quantization = emitter.parameters(layer, layer.outputs[0])
    activation = emitter.activation_of(layer, quantization)
    frame = window(layer, (height, width), out_shape[1:3], filters.shape[2:])
    tensor, padding = padded_input(emitter, x, frame)
    op: ir.Op
    if depthwise:
        op = ir.DepthwiseConv2D(frame.stride, frame.dilation, padding, multiplier, activation)
        data, axis = np.transpose(filters, (1, 2, 3, 0)), 3
    else:
        op = ir.Conv2D(frame.stride, frame.dilation, padding, activation)
        data, axis = np.transpose(filters, (0, 2, 3, 1)), 0
    stored, weights = place_weights(emitter, layer, type(op), weights, data, axis)
    x_quantization = emitter.parameters(layer, layer.inputs[0])
    bias = place_bias(emitter, layer, bias_value, x_quantization, weights, out_shape[3])
    out = emitter.activation(layer.outputs[0], out_shape, quantization)
    emitter.place_image(layer, emitter.node(op, (tensor, stored, bias), out), order)


def _taken(bias: Value | None, order: Order) -> Value | None:
    """A bias of output channels in another order; one number is every channel's."""
    if bias is None or bias.data is None or bias.data.size == 1:
        return bias
    return bias.take(order, 0)


ROWS = (
    Row(
        op="Conv",
        device=("Conv2D", "DepthwiseConv2D", "Pad"),
        quantization="weights int8 or int4, zero point 0, per tensor or per output channel; own output",
        limits="one or two spatial axes; constant weights",
        lower=_conv,
    ),
)
