"""Device tensors and nodes under construction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgsc_edge.graph import ir
from sgsc_edge.lowering.layout import Layout, Order, Placed
from sgsc_edge.lowering.moving import fitted, inner, moves, sorted_tail

INPUT_NAME = "input"
OUTPUT_NAME = "output"


class Builder:
    """Tensors and nodes, each made once.

    Parameters
    ----------
    dtype: of activations: int8 or float32.

    Attributes
    ----------
    source: the layer that nodes come from.
    """

    def __init__(self, dtype: ir.DType) -> None:
        self.dtype = dtype
        self.tensors: dict[str, ir.Tensor] = {}
        self.nodes: list[ir.Node] = []
        self.source = ""
        self._reshaped: dict[tuple[str, tuple[int, ...]], str] = {}
        self._nonnegative: set[str] = set()

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

    def activation(self, hint: str, shape: Sequence[int], quantization: ir.Quantization | None) -> str:
        """A new activation tensor; None in float32."""
        name = self._unique(hint)
        self.tensors[name] = ir.Tensor(name, tuple(int(size) for size in shape), self.dtype, quantization)
        return name

    def counts(self, hint: str, shape: Sequence[int]) -> str:
        """A new tensor of int32, plain integers without a grid."""
        name = self._unique(hint)
        self.tensors[name] = ir.Tensor(name, tuple(int(size) for size in shape), ir.DType.INT32)
        return name

    def node(self, op: ir.Op, inputs: Sequence[str], output: str) -> str:
        """Emit a node; returns its output."""
        self.nodes.append(ir.Node(op, tuple(inputs), (output,), self.source))
        self._note_range(op, inputs, output)
        return output

    def reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        """The tensor in another shape; itself where it has that shape."""
        source = self.tensors[tensor]
        if source.shape == tuple(shape):
            return tensor
        key = (tensor, tuple(shape))
        if key not in self._reshaped:
            out = self.activation(f"{tensor}/reshape", shape, self.tensors[tensor].quantization)
            constant = self.integers(f"{out}/shape", list(shape))
            self._reshaped[key] = self.node(ir.Reshape(), (tensor, constant), out)
        return self._reshaped[key]

    def transposed(self, tensor: str, permutation: Sequence[int]) -> str:
        """The tensor with its axes permuted; a Reshape where only axes of size 1 move."""
        source = self.tensors[tensor]
        shape = tuple(source.shape[axis] for axis in permutation)
        moving = [axis for axis in permutation if source.shape[axis] > 1]
        if moving == sorted(moving):
            return self.reshaped(tensor, shape)
        out = self.activation(f"{tensor}/transpose", shape, self.tensors[tensor].quantization)
        return self.node(
            ir.Transpose(), (tensor, self.integers(f"{out}/permutation", list(permutation))), out
        )

    def requantized(self, tensor: str, quantization: ir.Quantization | None, hint: str) -> str:
        """The tensor with other parameters; itself where it has them."""
        if quantization is None or quantization.same_as(self.tensors[tensor].quantization):
            return tensor
        out = self.activation(hint, self.tensors[tensor].shape, quantization)
        return self.node(ir.Quantize(), (tensor,), out)

    def padded(self, tensor: str, paddings: Sequence[tuple[int, int]]) -> str:
        """The tensor with zeros (its zero point) around it."""
        source = self.tensors[tensor]
        shape = [size + sum(pair) for size, pair in zip(source.shape, paddings, strict=True)]
        out = self.activation(f"{tensor}/pad", shape, self.tensors[tensor].quantization)
        return self.node(ir.Pad(), (tensor, self.integers(f"{out}/paddings", list(paddings))), out)

    def moved(self, placed: Placed, layout: Layout, shape: Sequence[int] | None = None) -> Placed:
        """A placed value in another layout, by Gathers and Transposes.

        Its reader asks for a device shape, or has no wish.
        """
        tensor, elements = placed.tensor, self.tensors[placed.tensor].elements
        for size in {one.tail.size for one in (placed.layout, layout) if one.tail is not None}:
            inside, wanted = inner(placed.layout, size), inner(layout, size)
            if inside and wanted and inside[0] == wanted[0]:  # the same elements in each row
                return Placed(self._sorted(tensor, inside[1], wanted[1]), layout)
        start, end = sorted_tail(placed.layout), sorted_tail(layout)
        if start.tail is not None or end.tail is not None:
            return Placed(self._sorted(tensor, placed.layout.order(), layout.order()), layout)
        if placed.layout.tail is not None:
            tensor = self._sorted(tensor, placed.layout.tail, np.sort(placed.layout.tail))
        for move in moves(start, end, elements):
            before = self.tensors[tensor].shape
            move = fitted(move, before, before if shape is None else shape)
            tensor = self.transposed(self.reshaped(tensor, move.shape), move.permutation)
        if layout.tail is not None:
            tensor = self._sorted(tensor, np.sort(layout.tail), layout.tail)
        return Placed(tensor, layout)

    def _sorted(self, tensor: str, before: Order, after: Order) -> str:
        """The tensor with the elements of its rows, which lie at distances ``before``, at ``after``."""
        order = np.argsort(before)
        indices = order[np.searchsorted(before, after, sorter=order)]
        return self.gathered(self.rows(tensor, before.size), indices)

    def rows(self, tensor: str, size: int) -> str:
        """The tensor with a last axis of ``size`` values."""
        shape = self.tensors[tensor].shape
        return tensor if shape[-1:] == (size,) else self.reshaped(tensor, (math.prod(shape) // size, size))

    def gathered(self, tensor: str, indices: Order) -> str:
        """The values at ``indices`` of a tensor's last axis."""
        source = self.tensors[tensor]
        shape = (*source.shape[:-1], indices.size)
        axis = len(shape) - 1
        out = self.activation(f"{tensor}/gather", shape, source.quantization)
        return self.node(ir.Gather(axis), (tensor, self.integers(f"{out}/indices", indices)), out)

    def is_nonnegative(self, tensor: str) -> bool:
        """Whether no value of a tensor can be negative."""
        quantization = self.tensors[tensor].quantization
        return tensor in self._nonnegative or (
            quantization is not None and int(quantization.zero_point[0]) == -128
        )

    def _note_range(self, op: ir.Op, inputs: Sequence[str], output: str) -> None:
        clamped = getattr(op, "activation", None) in (ir.Activation.RELU, ir.Activation.RELU6)
        if clamped or isinstance(op, (ir.Relu, ir.Relu6)):
            self._nonnegative.add(output)
        moves = (ir.Reshape, ir.Transpose, ir.Pad, ir.MaxPool2D, ir.AveragePool2D, ir.Quantize)
        if isinstance(op, moves) and inputs[0] in self._nonnegative:
            self._nonnegative.add(output)
