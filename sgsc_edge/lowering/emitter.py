"""Builds the device graph: what the op files emit into.

It knows the layout of every value (:mod:`sgsc_edge.lowering.layout`) and hands device tensors out in
the layout that their reader needs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph import ir
from sgsc_edge.lowering.builder import INPUT_NAME, Builder
from sgsc_edge.lowering.demand import lies_as_image
from sgsc_edge.lowering.layout import (
    MOST_AXES,
    Layout,
    Order,
    Piece,
    Placed,
    channel_order,
    channels_last,
    device_axes,
    image_shape,
    laid,
    permuted,
    with_channels,
)
from sgsc_edge.lowering.network import Layer, Network, Value
from sgsc_edge.lowering.passes.fusion import clamp_integers
from sgsc_edge.numerics import ACTIVATION_BOUNDS, quantized_activation_range

if TYPE_CHECKING:  # pydantic is not needed to lower for plain int8
    from sgsc_edge.targets import Target

_PREFERRED = (ir.Activation.NONE, ir.Activation.RELU, ir.Activation.RELU6, ir.Activation.RELU_N1_TO_1)


class Emitter(Builder):
    """A network's values on the device, and what its layers become there."""

    def __init__(self, network: Network, target: Target | None = None) -> None:
        is_float = target is not None and target.activations.dtype == "float32"
        super().__init__(ir.DType.FLOAT32 if is_float else ir.DType.INT8)
        self.network = network
        self.target = target
        self.readers = network.consumers()
        self._placed: dict[str, Placed] = {}
        self._copies: dict[str, list[Placed]] = {}  # value -> it in other layouts

    # --- the ends of the graph ------------------------------------------------------------------

    def place_input(self) -> str:
        """The device input: NHWC where it is an image, or a sequence that is read as one."""
        name = self.network.input
        edge = Layer(name, "graph input", (name,), ())
        shape = self.shape(edge, name)
        is_image = lies_as_image(self.network, name)
        device = image_shape(shape) if is_image else shape
        self.tensors[INPUT_NAME] = ir.Tensor(INPUT_NAME, device, self.dtype, self.parameters(edge, name))
        self.place(name, INPUT_NAME, channels_last(shape) if is_image else Layout.plain(math.prod(shape)))
        return INPUT_NAME

    def place_result(self) -> str:
        """The tensor that holds the device output: NHWC where it is an image, else as in ONNX."""
        name = self.network.output
        edge = Layer(name, "graph output", (name,), ())
        if name not in self._placed:
            raise edge.refusal("no layer computes it", "export a model whose output depends on its input")
        tensor = self.image(edge, name) if lies_as_image(self.network, name) else self.plain(edge, name)
        if tensor == INPUT_NAME:
            raise edge.refusal(
                "it is the input itself: there is nothing to compute", "export a model with layers"
            )
        return tensor

    # --- values ---------------------------------------------------------------------------------

    def begin(self, layer: Layer) -> None:
        """Nodes emitted from here on come from this layer."""
        self.source = layer.name

    def shape(self, layer: Layer, name: str) -> tuple[int, ...]:
        """The ONNX shape of a value; refuses where an unsupported op hides it."""
        shape = self.network[name].shape
        if shape is None:
            raise layer.refusal(
                f"the shape of '{name}' is not known before run time",
                "use constant shapes, e.g. flatten(1) or reshape to fixed sizes",
            )
        if any(size < 1 for size in shape):
            raise layer.refusal(f"'{name}' is empty: shape {list(shape)}", "use sizes of at least 1")
        return shape

    @property
    def is_float(self) -> bool:
        """Whether the device computes in float32: then no value has a quantization."""
        return self.dtype is ir.DType.FLOAT32

    def parameters(self, layer: Layer, name: str) -> ir.Quantization | None:
        """The quantization of an activation or constant; None in float32, else refuses where it has none."""
        value = self.network[name]
        if value.quantization is not None or self.is_float:
            return value.quantization
        made_here = name in layer.outputs
        raise layer.refusal(
            f"its {'output' if made_here else 'input'} '{name}' has no quantization",
            "insert QuantizeLinear and DequantizeLinear (int8, per tensor) "
            + ("after this node" if made_here else f"between '{name}' and this node"),
        )

    def constant_value(self, layer: Layer, name: str, what: str) -> Value:
        """A constant of a layer, e.g. its weights: quantized, in float32 of that type and finite."""
        value = self.network[name]
        if value.data is None:
            raise layer.refusal(f"its {what} are computed at run time", f"use constant {what}")
        if self.is_float:
            if value.data.dtype != np.float32 or not np.isfinite(value.data).all():
                raise layer.refusal(
                    f"its {what} '{name}' are {value.data.dtype} or not finite", "repair the weights"
                )
            return value
        if value.quantization is None or value.stored is None:
            raise layer.refusal(
                f"its {what} '{name}' are not quantized",
                "store them as int8 with a DequantizeLinear, zero point 0",
            )
        return value

    def prescribed(self, layer: Layer, fixed: ir.Quantization, otherwise: str = "") -> ir.Quantization | None:
        """The quantization of the output, which must be the one that TFLite prescribes; None in float32.

        ``otherwise``: what the user may do instead of giving it that one.
        """
        own = self.parameters(layer, layer.outputs[0])
        if own is not None and not own.same_as(fixed):
            steps, zero = round(1 / float(fixed.scale[0])), int(fixed.zero_point[0])
            raise layer.refusal(
                f"its output has scale {own.scale[0]:g} and zero point {own.zero_point[0]}; "
                f"TFLite prescribes 1/{steps} and {zero}",
                f"quantize its output with scale {fixed.scale[0]:.9g} and zero point {zero}{otherwise}",
            )
        return own

    def optional(self, layer: Layer, index: int) -> Value | None:
        """An optional input's value; None where it is absent."""
        name = layer.input(index)
        return None if name is None else self.network[name]

    def read(self, layer: Layer, name: str) -> Placed:
        """Where a value lives, in whatever layout it has; constants are placed on first use."""
        if name not in self._placed:
            data = self.constant_data(layer, name)
            tensor = self.constant(name, data, self.dtype, self.network[name].quantization)
            self.place(name, tensor, Layout.plain(data.size))
        return self._placed[name]

    def constant_data(self, layer: Layer, name: str) -> NDArray[Any]:
        """The values of a constant operand, of its ONNX shape: float32, or int8 of one scale."""
        value = self.constant_value(layer, name, "constant inputs")
        assert value.data is not None
        quantization = value.quantization
        if quantization is not None and (quantization.axis is not None or value.stored is not ir.DType.INT8):
            raise layer.refusal(
                f"its constant '{name}' is not int8 per tensor", "quantize it to int8 with one scale"
            )
        return value.data

    def is_known(self, name: str) -> bool:
        """Whether a value has been placed or is a constant."""
        return name in self._placed or self.network[name].is_constant

    def in_layout(self, layer: Layer, name: str, layout: Layout, shape: Sequence[int]) -> str:
        """A value's tensor in a layout, with a device shape; it is moved where it lies in another."""
        return self.reshaped(self._in_layout(layer, name, layout, shape).tensor, shape)

    def in_place(self, layer: Layer, name: str, layout: Layout) -> str:
        """A value's tensor in a layout, with whatever device shape it has there."""
        return self._in_layout(layer, name, layout).tensor

    def _in_layout(
        self, layer: Layer, name: str, layout: Layout, shape: Sequence[int] | None = None
    ) -> Placed:
        placed = self.read(layer, name)
        known: list[Placed] = [placed, *self._copies.get(name, ())]
        for one in known:
            if one.layout.same_as(layout):
                return one
        made = self.moved(placed, layout, shape)
        self._copies.setdefault(name, []).append(made)
        return made

    def plain(self, layer: Layer, name: str) -> str:
        """A value's tensor in ONNX's own shape and order."""
        shape = self.shape(layer, name)
        return self.in_layout(layer, name, Layout.plain(math.prod(shape)), shape)

    def image(self, layer: Layer, name: str) -> str:
        """A value [1, C, H, W] or [1, C, L] as a tensor in NHWC, of height 1 where it is a sequence."""
        shape = self.shape(layer, name)
        if len(shape) not in (3, 4):
            raise layer.refusal(
                f"its input '{name}' has shape {list(shape)}; one or two spatial axes are supported",
                "use the 1-D or 2-D form of the layer, on [n, C, L] or [n, C, H, W]",
            )
        return self.in_layout(layer, name, channels_last(shape), image_shape(shape))

    def any_channels(self, layer: Layer, name: str) -> tuple[str, Order | None]:
        """As :meth:`image`, with channels in the order in which they lie, int64 [C]; None: ONNX's."""
        shape = self.shape(layer, name)
        order = channel_order(self.read(layer, name).layout, shape) if len(shape) in (3, 4) else None
        if order is None or np.array_equal(order, np.arange(order.size)):
            return self.image(layer, name), None
        return self.reshaped(self.read(layer, name).tensor, image_shape(shape)), order

    def with_axes(
        self, layer: Layer, name: str, whole: Collection[int] = ()
    ) -> tuple[Placed, tuple[Piece, ...]]:
        """A value in a layout whose runs end where its axes do, its tensor with these axes, and the axes.

        The ONNX axes ``whole`` are one axis each.
        """
        return self.axes_of(layer, self.read(layer, name), self.shape(layer, name), whole)

    def axes_of(
        self, layer: Layer, placed: Placed, shape: tuple[int, ...], whole: Collection[int] = ()
    ) -> tuple[Placed, tuple[Piece, ...]]:
        """As :meth:`with_axes`, of a placed value of ONNX shape ``shape``."""
        axes = device_axes(placed.layout, shape)
        if axes is not None:
            missing = set(whole) - {axis.axis for axis in axes}
            axes = (axes[0], *(Piece(axis, 1, 1) for axis in sorted(missing)), *axes[1:])
        if axes is None or len(axes) > MOST_AXES or any(self._is_cut(axis, whole, shape) for axis in axes):
            placed = self.moved(placed, Layout.plain(math.prod(shape)), shape)
            axes = tuple(Piece(axis, size, 1) for axis, size in enumerate(shape))
        tensor = self.reshaped(placed.tensor, [axis.size for axis in axes])
        return Placed(tensor, placed.layout), axes

    @staticmethod
    def _is_cut(axis: Piece, whole: Collection[int], shape: tuple[int, ...]) -> bool:
        """Whether an axis that shall be whole is not, or lies in an order of its own."""
        return axis.axis in whole and (axis.size != shape[axis.axis] or axis.places is not None)

    def innermost(
        self, layer: Layer, name: str, axis: int
    ) -> tuple[str, tuple[Piece, ...], tuple[Piece, ...]]:
        """A value with one ONNX axis innermost, in whatever order, as the tensor's last axis.

        Returns the tensor, and the pieces of the axes outside and of the axis itself.
        """
        shape = self.shape(layer, name)
        placed = self.read(layer, name)
        pieces = placed.layout.pieces(shape)
        if pieces is None:
            placed = self._in_layout(layer, name, Layout.plain(math.prod(shape)))
            pieces = placed.layout.pieces(shape)
            assert pieces is not None
        outside = tuple(piece for piece in pieces if piece.axis != axis)
        inside = tuple(piece for piece in pieces if piece.axis == axis)
        if outside + inside != pieces:  # it is moved anyway: then ONNX's order outside costs no more
            outside = tuple(sorted(outside, key=lambda piece: (piece.axis, -piece.step)))
            placed = self._in_layout(layer, name, laid(outside + inside, shape))
        return self.rows(placed.tensor, shape[axis]), outside, inside

    def permuted(self, layer: Layer, name: str, permutation: Sequence[int]) -> Placed:
        """The value as ONNX's Transpose gives it: the same tensor, seen otherwise."""
        shape = self.shape(layer, name)
        placed = self.read(layer, name)
        layout = permuted(placed.layout, shape, permutation)
        if layout is None:
            plain = Layout.plain(math.prod(shape))
            placed = self._in_layout(layer, name, plain)
            layout = permuted(plain, shape, permutation)
            assert layout is not None  # an axis never ends amid a run of ONNX's own order
        return Placed(placed.tensor, layout)

    # --- placing results ------------------------------------------------------------------------

    def place(self, name: str, tensor: str, layout: Layout) -> None:
        """Say where a value lives."""
        self._placed[name] = Placed(tensor, layout)

    def stand_in(self, value: Value) -> None:
        """Place a value that no op made, so that its readers can be looked at; its graph never ships."""
        assert value.shape is not None
        tensor = self.activation(value.name, value.shape, value.quantization)
        layout = channels_last(value.shape) if len(value.shape) == 4 else Layout.plain(value.elements)
        self.place(value.name, tensor, layout)

    def place_output(self, layer: Layer, tensor: str, layout: Layout, output: int = 0) -> None:
        """One of the layer's outputs lies in ``tensor``.

        A Quantize follows where the tensor's parameters are the input's and the output has others.
        """
        name = layer.outputs[output]
        elements, made = math.prod(self.shape(layer, name)), self.tensors[tensor].elements
        if elements != made:
            raise layer.refusal(f"it makes {elements} values of {made}", "repair its shape")
        self.place(name, self.requantized(tensor, self.parameters(layer, name), name), layout)

    def place_image(self, layer: Layer, tensor: str, order: Order | None = None) -> None:
        """The layer's output [1, C, ...] lies in ``tensor`` in NHWC, its channels in an order, int64 [C]."""
        self.place_output(layer, tensor, with_channels(self.shape(layer, layer.outputs[0]), order))

    # --- activations ----------------------------------------------------------------------------

    def activation_of(self, layer: Layer, quantization: ir.Quantization | None) -> ir.Activation:
        """The fused activation that clamps to exactly the layer's real bounds, or to their integers.

        NONE where the int8 range itself clamps there.
        """
        if quantization is None:
            return self._activation_at(layer)
        wanted = clamp_integers(layer.clamp, quantization)
        scale, zero_point = float(quantization.scale[0]), int(quantization.zero_point[0])
        for activation in _PREFERRED:
            if quantized_activation_range(activation, scale, zero_point) == wanted:
                return activation
        low, high = layer.clamp
        raise layer.refusal(
            f"no TFLite activation clamps to [{low:g}, {high:g}], integers {list(wanted)}, "
            f"with scale {scale:g} and zero point {zero_point}",
            "let the output's quantizer range equal the bounds, or use ReLU, ReLU6 or bounds [-1, 1]",
        )

    def _activation_at(self, layer: Layer) -> ir.Activation:
        """The activation with exactly the layer's real bounds."""
        low, high = layer.clamp
        for activation in _PREFERRED:
            bounds = ACTIVATION_BOUNDS[activation]
            known = [
                math.copysign(math.inf, side) if at is None else at
                for at, side in zip(bounds, (-1, 1), strict=True)
            ]
            if known == [low, high]:
                return activation
        raise layer.refusal(
            f"no TFLite activation clamps to [{low:g}, {high:g}]", "use ReLU, ReLU6 or bounds [-1, 1]"
        )
