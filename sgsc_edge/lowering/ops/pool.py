"""MaxPool, AveragePool and GlobalAveragePool.

ONNX pads a MaxPool with minus infinity. TFLite's SAME does the same; otherwise a Pad with zeros is exact
where no input is negative, because every window holds an input.

TFLite's AVERAGE_POOL_2D leaves padding out of the count, as ``count_include_pad = 0`` does; with 1 a
Pad with zeros makes it part of the input. Elements that ``ceil_mode`` adds behind are never counted.
"""

from __future__ import annotations

from sgsc_edge.graph import ir
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.layout import Order, image_shape
from sgsc_edge.lowering.network import Layer
from sgsc_edge.lowering.registry import Row
from sgsc_edge.lowering.windows import Window, window


def _frame(emitter: Emitter, layer: Layer) -> tuple[str, Order | None, Window]:
    x, order = emitter.any_channels(layer, layer.inputs[0])
    emitter.parameters(layer, layer.inputs[0])
    out = image_shape(emitter.shape(layer, layer.outputs[0]))
    frame = window(layer, emitter.tensors[x].shape[1:3], out[1:3], layer.attribute("kernel_shape", ()))
    if frame.dilation != (1, 1):
        raise layer.refusal(
            f"its dilation is {list(frame.dilation)}", "use dilation 1; TFLite pools have none"
        )
    return x, order, frame


def _pool(emitter: Emitter, layer: Layer, op: ir.Op, tensor: str, order: Order | None) -> None:
    """Emit a pool that keeps its input's parameters."""
    shape = image_shape(emitter.shape(layer, layer.outputs[0]))
    out = emitter.activation(layer.outputs[0], shape, emitter.parameters(layer, layer.inputs[0]))
    emitter.place_image(layer, emitter.node(op, (tensor,), out), order)


def _max_pool(emitter: Emitter, layer: Layer) -> None:
    if len([name for name in layer.outputs if name]) > 1:
        raise layer.refusal("it also returns indices", "use MaxPool without return_indices")
    tensor, order, frame = _frame(emitter, layer)
    padding = frame.padding
    if padding is None:
        if not emitter.is_nonnegative(tensor):
            raise layer.refusal(
                f"its padding {[list(frame.begin), list(frame.end)]} is not TFLite's SAME "
                "and its input may be negative",
                "put a ReLU before it, or choose kernel, stride and padding so that SAME is exact",
            )
        tensor, padding = emitter.padded(tensor, frame.paddings), ir.Padding.VALID
    _pool(emitter, layer, ir.MaxPool2D(frame.kernel, frame.stride, padding), tensor, order)


def _average_pool(emitter: Emitter, layer: Layer) -> None:
    tensor, order, frame = _frame(emitter, layer)
    counted = bool(layer.attribute("count_include_pad", 0))
    padding = frame.padding
    if counted and frame.is_padded:
        if any(end > declared for end, declared in zip(frame.end, frame.declared_end, strict=True)):
            raise layer.refusal(
                "ceil_mode adds windows that reach behind a padding that is counted",
                "use ceil_mode=False, or count_include_pad=False",
            )
        tensor, padding = emitter.padded(tensor, frame.paddings), ir.Padding.VALID
    elif padding is None:
        raise layer.refusal(
            f"its padding {[list(frame.begin), list(frame.end)]} is not TFLite's SAME and is not counted",
            "use count_include_pad=True, or choose kernel, stride and padding so that SAME is exact",
        )
    _pool(emitter, layer, ir.AveragePool2D(frame.kernel, frame.stride, padding), tensor, order)


def _global_average_pool(emitter: Emitter, layer: Layer) -> None:
    x, order = emitter.any_channels(layer, layer.inputs[0])
    emitter.parameters(layer, layer.inputs[0])
    shape = image_shape(emitter.shape(layer, layer.outputs[0]))
    out = emitter.activation(layer.outputs[0], shape, emitter.parameters(layer, layer.outputs[0]))
    axes = emitter.integers(f"{out}/axes", [1, 2])
    emitter.place_image(layer, emitter.node(ir.Mean(keep_dims=True), (x, axes), out), order)


_SHARED = "the input's parameters; a Quantize follows where the quantizer behind it has others"

ROWS = (
    Row(
        "MaxPool",
        ("MaxPool2D", "Pad", "Quantize"),
        _SHARED,
        "one or two spatial axes, dilation 1, no indices; padding is SAME, or the input is not negative",
        _max_pool,
    ),
    Row(
        "AveragePool",
        ("AveragePool2D", "Pad", "Quantize"),
        _SHARED,
        "one or two spatial axes, dilation 1; padding is SAME, or is counted",
        _average_pool,
    ),
    Row("GlobalAveragePool", ("Mean",), "own output", "one or two spatial axes", _global_average_pool),
)
