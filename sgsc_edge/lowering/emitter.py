"""Builds the device graph: what the op files emit into.

It owns the layout of every value (:mod:`sgsc_edge.lowering.layout`) and hands device tensors out in
the order their reader needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgsc_edge.graph import ir
from sgsc_edge.lowering.layout import (
    TO_NCHW,
    TO_NHWC,
    Order,
    Placed,
    device_order,
    device_shape,
    same_order,
)
from sgsc_edge.lowering.network import Layer, Network, Value
from sgsc_edge.lowering.passes.fusion import clamp_integers
from sgsc_edge.numerics import quantized_activation_range

if TYPE_CHECKING:  # pydantic is not needed to lower for plain int8
    from sgsc_edge.targets import Target

INPUT_NAME = "input"
OUTPUT_NAME = "output"

_PREFERRED = (ir.Activation.NONE, ir.Activation.RELU, ir.Activation.RELU6, ir.Activation.RELU_N1_TO_1)


class Emitter:
    """Device tensors and nodes under construction; final."""

    def __init__(self, network: Network, target: Target | None = None) -> None:
        self.network = network
        self.target = target
        self.readers = network.consumers()
        self.tensors: dict[str, ir.Tensor] = {}
        self.nodes: list[ir.Node] = []
        self._placed: dict[str, Placed] = {}
        self._plain: dict[str, Placed] = {}
        self._nonnegative: set[str] = set()
        self._source = ""

    # --- the ends of the graph ------------------------------------------------------------------

    def place_input(self) -> str:
        """The device input: int8, NHWC where it is an image."""
        name = self.network.input
        edge = Layer(name, "graph input", (name,), ())
        shape = device_shape(self.shape(edge, name))
        tensor = ir.Tensor(INPUT_NAME, shape, ir.DType.INT8, self.parameters(edge, name))
        self.tensors[INPUT_NAME] = tensor
        self.place(name, INPUT_NAME, shape, device_order(self.shape(edge, name)))
        return INPUT_NAME

    def place_result(self) -> str:
        """The tensor that holds the device output: int8, NHWC where it is an image."""
        name = self.network.output
        edge = Layer(name, "graph output", (name,), ())
        if name not in self._placed:
            raise edge.refusal("no layer computes it", "export a model whose output depends on its input")
        rank = len(self.shape(edge, name))
        tensor = (self.read(edge, name) if rank == 4 else self.plain(edge, name)).tensor
        if tensor == INPUT_NAME:
            raise edge.refusal(
                "it is the input itself: there is nothing to compute", "export a model with layers"
            )
        return tensor

    # --- values ---------------------------------------------------------------------------------

    def begin(self, layer: Layer) -> None:
        """Nodes emitted from here on come from this layer."""
        self._source = layer.name

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

    def parameters(self, layer: Layer, name: str) -> ir.Quantization:
        """The quantization of an activation or constant; refuses where it has none."""
        value = self.network[name]
        if value.quantization is not None:
            return value.quantization
        made_here = name in layer.outputs
        raise layer.refusal(
            f"its {'output' if made_here else 'input'} '{name}' has no quantization",
            "insert QuantizeLinear and DequantizeLinear (int8, per tensor) "
            + ("after this node" if made_here else f"between '{name}' and this node"),
        )

    def constant_value(self, layer: Layer, name: str, what: str) -> Value:
        """A quantized constant of a layer, e.g. its weights."""
        value = self.network[name]
        if not value.is_constant:
            raise layer.refusal(f"its {what} are computed at run time", f"use constant {what}")
        if value.quantization is None or value.stored is None:
            raise layer.refusal(
                f"its {what} '{name}' are not quantized",
                "store them as int8 with a DequantizeLinear, zero point 0",
            )
        return value

    def optional(self, layer: Layer, index: int) -> Value | None:
        """An optional input's value; None where it is absent."""
        name = layer.input(index)
        return None if name is None else self.network[name]

    def read(self, layer: Layer, name: str) -> Placed:
        """Where a value lives, in whatever order it has; constants are placed on first use."""
        if name not in self._placed:
            self._place_constant(layer, name)
        return self._placed[name]

    def is_known(self, name: str) -> bool:
        """Whether a value has been placed or is a constant."""
        return name in self._placed or self.network[name].is_constant

    def _place_constant(self, layer: Layer, name: str) -> None:
        value = self.constant_value(layer, name, "constant inputs")
        assert value.data is not None
        data = np.transpose(value.data, TO_NHWC) if value.data.ndim == 4 else value.data
        if (
            value.quantization is None
            or value.quantization.axis is not None
            or value.stored is not ir.DType.INT8
        ):
            raise layer.refusal(
                f"its constant '{name}' is not int8 per tensor", "quantize it to int8 with one scale"
            )
        tensor = self.constant(name, data, ir.DType.INT8, value.quantization)
        self.place(name, tensor, data.shape, device_order(value.data.shape))

    def plain(self, layer: Layer, name: str) -> Placed:
        """A value in ONNX's own shape and order; a Transpose is inserted where the order differs."""
        if name not in self._plain:
            self._plain[name] = self.plain_of(layer, self.read(layer, name), self.shape(layer, name))
        return self._plain[name]

    def plain_of(self, layer: Layer, placed: Placed, shape: tuple[int, ...]) -> Placed:
        """As :meth:`plain`, of a placed value of ONNX shape ``shape``."""
        tensor = placed.tensor
        if placed.order is not None:
            tensor, _ = self._to_nchw(layer, placed)
        return Placed(self.reshaped(tensor, shape), shape)

    def _to_nchw(self, layer: Layer, placed: Placed) -> tuple[str, tuple[int, ...]]:
        if placed.image is None:
            raise layer.refusal(
                "its input joins flattened images whose element order only a dense layer can take in",
                "concatenate the images before flattening them",
            )
        tensor, shape = placed.image
        tensor = self.reshaped(tensor, shape)
        return self.transposed(tensor, TO_NCHW), tuple(shape[axis] for axis in TO_NCHW)

    def image(self, layer: Layer, name: str) -> Placed:
        """A rank-4 value, NHWC."""
        shape = self.shape(layer, name)
        if len(shape) != 4:
            raise layer.refusal(
                f"its input '{name}' has shape {list(shape)}; one or two spatial axes are supported",
                "use the 1-D or 2-D form of the layer, on [n, C, L] or [n, C, H, W]",
            )
        return self.read(layer, name)

    # --- placing results ------------------------------------------------------------------------

    def place(
        self,
        name: str,
        tensor: str,
        shape: tuple[int, ...],
        order: Order | None = None,
        image: tuple[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Say where a value lives."""
        if image is None and len(shape) == 4:
            image = (tensor, shape)
        self._placed[name] = Placed(tensor, shape, order, image)

    def stand_in(self, value: Value) -> None:
        """Place a value that no op made, so that its readers can be looked at; its graph never ships."""
        assert value.shape is not None
        assert value.quantization is not None
        shape = device_shape(value.shape)
        tensor = self.activation(value.name, shape, value.quantization)
        self.place(value.name, tensor, shape, device_order(value.shape))

    def place_as(self, layer: Layer, placed: Placed) -> None:
        """The layer's output has its input's layout."""
        self._placed[layer.outputs[0]] = placed

    def place_output(self, layer: Layer, tensor: str) -> None:
        """The layer's output lies in ``tensor``, NHWC where it is rank 4, else in ONNX's order.

        A Quantize follows where the tensor's parameters are the input's and the output has others.
        """
        name = layer.outputs[0]
        shape = self.shape(layer, name)
        placed = Placed(tensor, device_shape(shape), device_order(shape))
        placed = self.requantized(placed, self.parameters(layer, name), name)
        self.place(name, placed.tensor, placed.shape, placed.order)

    def place_plain(self, layer: Layer, tensor: str) -> None:
        """The layer's output lies in ``tensor`` in ONNX's shape and order; a rank-4 one becomes NHWC."""
        shape = self.shape(layer, layer.outputs[0])
        if device_order(shape) is not None:
            tensor = self.transposed(tensor, TO_NHWC)
        elif device_shape(shape) != shape:
            tensor = self.reshaped(tensor, device_shape(shape))
        self.place_output(layer, tensor)

    def place_reordered(self, layer: Layer, placed: Placed, order: Order | None) -> None:
        """The layer's output are the elements of ``placed``, unmoved, in the ONNX order ``order``."""
        name = layer.outputs[0]
        shape = self.shape(layer, name)
        if math.prod(shape) != math.prod(placed.shape):
            raise layer.refusal(
                f"it makes {math.prod(shape)} values of {math.prod(placed.shape)}", "repair its shape"
            )
        wanted = device_order(shape)
        if same_order(order, wanted):
            tensor = self.reshaped(placed.tensor, device_shape(shape))
            self.place(name, tensor, device_shape(shape), wanted)
        elif len(shape) == 4:
            tensor = placed.tensor
            if order is not None:
                tensor, _ = self._to_nchw(layer, placed)
            self.place_plain(layer, self.reshaped(tensor, shape))
        else:
            flat = (1, math.prod(shape))
            target = shape if len(shape) == 2 else flat
            image = placed.image if same_order(order, placed.order) else None
            self.place(name, self.reshaped(placed.tensor, target), target, order, image)

    # --- tensors and nodes ----------------------------------------------------------------------

    def _unique(self, hint: str) -> str:
        name, count = hint, 1
        while name in self.tensors or name in (INPUT_NAME, OUTPUT_NAME):
            name, count = f"{hint}:{count}", count + 1
        return name

    def constant(
        self, hint: str, data: NDArray[Any], dtype: ir.DType, quantization: ir.Quantization | None = None
    ) -> str:
        """A new constant tensor."""
        name = self._unique(hint)
        array = np.ascontiguousarray(data, dtype.numpy).reshape(data.shape)
        self.tensors[name] = ir.Tensor(name, tuple(array.shape), dtype, quantization, array)
        return name

    def integers(self, hint: str, values: ArrayLike) -> str:
        """An int32 constant: a shape, axes, paddings or a permutation."""
        return self.constant(hint, np.asarray(values, np.int32), ir.DType.INT32)

    def activation(self, hint: str, shape: Sequence[int], quantization: ir.Quantization) -> str:
        """A new int8 activation tensor."""
        name = self._unique(hint)
        self.tensors[name] = ir.Tensor(name, tuple(int(size) for size in shape), ir.DType.INT8, quantization)
        return name

    def node(self, op: ir.Op, inputs: Sequence[str], output: str) -> str:
        """Emit a node; returns its output."""
        self.nodes.append(ir.Node(op, tuple(inputs), (output,), self._source))
        self._note_range(op, inputs, output)
        return output

    def _quantization(self, tensor: str) -> ir.Quantization:
        quantization = self.tensors[tensor].quantization
        assert quantization is not None  # every activation here is int8
        return quantization

    def reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        """The tensor in another shape; itself where it has that shape."""
        source = self.tensors[tensor]
        if source.shape == tuple(shape):
            return tensor
        out = self.activation(f"{tensor}/reshape", shape, self._quantization(tensor))
        return self.node(ir.Reshape(), (tensor, self.integers(f"{out}/shape", list(shape))), out)

    def transposed(self, tensor: str, permutation: Sequence[int]) -> str:
        """The tensor with its axes permuted; a Reshape where only axes of size 1 move."""
        source = self.tensors[tensor]
        shape = tuple(source.shape[axis] for axis in permutation)
        moving = [axis for axis in permutation if source.shape[axis] > 1]
        if moving == sorted(moving):
            return self.reshaped(tensor, shape)
        out = self.activation(f"{tensor}/transpose", shape, self._quantization(tensor))
        return self.node(
            ir.Transpose(), (tensor, self.integers(f"{out}/permutation", list(permutation))), out
        )

    def requantized(self, placed: Placed, quantization: ir.Quantization, hint: str) -> Placed:
        """The value with other parameters; itself where it has them."""
        if self._quantization(placed.tensor).same_as(quantization):
            return placed
        out = self.activation(hint, placed.shape, quantization)
        return placed.moved_to(self.node(ir.Quantize(), (placed.tensor,), out))

    def padded(self, tensor: str, paddings: Sequence[tuple[int, int]]) -> str:
        """The tensor with zeros (its zero point) around it."""
        source = self.tensors[tensor]
        shape = [size + sum(pair) for size, pair in zip(source.shape, paddings, strict=True)]
        out = self.activation(f"{tensor}/pad", shape, self._quantization(tensor))
        return self.node(ir.Pad(), (tensor, self.integers(f"{out}/paddings", list(paddings))), out)

    # --- activations ----------------------------------------------------------------------------

    def activation_of(self, layer: Layer, quantization: ir.Quantization) -> ir.Activation:
        """The fused activation that clamps to exactly the integers of the layer's real bounds.

        NONE where the int8 range itself clamps there.
        """
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

    def is_nonnegative(self, tensor: str) -> bool:
        """Whether every integer of a tensor is known to be at least its zero point."""
        return tensor in self._nonnegative or int(self._quantization(tensor).zero_point[0]) == -128

    def _note_range(self, op: ir.Op, inputs: Sequence[str], output: str) -> None:
        clamped = getattr(op, "activation", None) in (ir.Activation.RELU, ir.Activation.RELU6)
        if clamped or isinstance(op, (ir.Relu, ir.Relu6)):
            self._nonnegative.add(output)
        moves = (ir.Reshape, ir.Transpose, ir.Pad, ir.MaxPool2D, ir.AveragePool2D, ir.Quantize)
        if isinstance(op, moves) and inputs[0] in self._nonnegative:
            self._nonnegative.add(output)
