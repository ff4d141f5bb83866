"""Device graphs with branches: random weights, scales that leave something of every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Graph, Node, Padding, Quantization, Tensor
from sgsc_edge.graph.reference.matrix import Axis

SAME = Padding.SAME


class Builder:
    """Adds nodes to a graph; every method returns the name of the value that it made."""

    def __init__(self, *shape: int) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[Node] = []
        self.tensors = {"x": self._activation("x", shape)}

    def graph(self, *outputs: str) -> Graph:
        return Graph("network", self.tensors, tuple(self.nodes), ("x",), outputs)

    def conv(
        self,
        x: str,
        channels: int,
        size: int = 3,
        stride: int = 1,
        groups: int = 1,
        dtype: DType = DType.INT8,
    ) -> str:
        batch, height, width, inputs = self.tensors[x].shape
        op = ir.Conv2D((stride, stride), (1, 1), SAME, Activation.RELU)
        rows, columns = (Axis.of(n, size, stride, 1, SAME).out for n in (height, width))
        shape = (channels, size, size, inputs // groups)
        return self._weighted(op, x, shape, 0, (batch, rows, columns, channels), dtype)

    def depthwise(self, x: str, stride: int = 1, multiplier: int = 1, dtype: DType = DType.INT8) -> str:
        batch, height, width, inputs = self.tensors[x].shape
        op = ir.DepthwiseConv2D((stride, stride), (1, 1), SAME, multiplier, Activation.RELU6)
        rows, columns = (Axis.of(n, 3, stride, 1, SAME).out for n in (height, width))
        channels = inputs * multiplier
        return self._weighted(op, x, (1, 3, 3, channels), 3, (batch, rows, columns, channels), dtype)

    def dense(self, x: str, channels: int, dtype: DType = DType.INT8) -> str:
        size = self.tensors[x].elements
        return self._weighted(
            ir.FullyConnected(), self.reshape(x, 1, size), (channels, size), None, (1, channels), dtype
        )

    def reshape(self, x: str, *shape: int) -> str:
        return self._add(ir.Reshape(), [x, self._int32(list(shape))], shape, self.tensors[x].quantization)

    def add(self, a: str, b: str) -> str:
        return self._add(ir.Add(Activation.RELU), [a, b], self.tensors[a].shape)

    def mul(self, a: str, b: str) -> str:
        return self._add(ir.Mul(), [a, b], self.tensors[a].shape)

    def pool(self, x: str, size: int = 2, stride: int = 2, kind: Callable[..., ir.Op] = ir.MaxPool2D) -> str:
        batch, height, width, channels = self.tensors[x].shape
        rows, columns = (Axis.of(n, size, stride, 1, SAME).out for n in (height, width))
        op = kind((size, size), (stride, stride), SAME)
        return self._add(op, [x], (batch, rows, columns, channels), self.tensors[x].quantization)

    def mean(self, x: str) -> str:
        batch, *_, channels = self.tensors[x].shape
        return self._add(ir.Mean(), [x, self._int32([1, 2])], (batch, channels))

    def concat(self, *names: str) -> str:
        """Joined along the last axis."""
        shapes = [self.tensors[name].shape for name in names]
        grid = Quantization.per_tensor(0.05, -10)
        alike = [self._add(ir.Quantize(), [name], self.tensors[name].shape, grid) for name in names]
        shape = (*shapes[0][:-1], sum(shape[-1] for shape in shapes))
        return self._add(ir.Concatenation(len(shape) - 1), alike, shape, grid)

    def joined(self, *names: str) -> Graph:
        """All values as one row: the graph's output."""
        rows = [self.reshape(name, 1, self.tensors[name].elements) for name in names]
        while len(rows) > 1:  # an op takes ten operands at most
            rows = [self.concat(*rows[at : at + 10]) for at in range(0, len(rows), 10)]
        return self.graph(*rows)

    def constant(self, *shape: int) -> str:
        """Random int8."""
        name = f"k{len(self.tensors)}"
        data = self.random.integers(-128, 128, shape).astype(np.int8)
        self.tensors[name] = Tensor(name, shape, DType.INT8, Quantization.per_tensor(0.05, 3), data)
        return name

    def gather(self, x: str, axis: int, *indices: int) -> str:
        shape = (*self.tensors[x].shape[:axis], len(indices), *self.tensors[x].shape[axis + 1 :])
        grid = self.tensors[x].quantization
        return self._add(ir.Gather(axis), [x, self._int32(list(indices))], shape, grid)

    def matmul(self, a: str, b: str) -> str:
        shape = (*self.tensors[a].shape[:-1], self.tensors[b].shape[-1])
        return self._add(ir.BatchMatMul(), [a, b], shape, Quantization.per_tensor(0.3, 5))

    def pad(self, x: str) -> str:
        batch, height, width, channels = self.tensors[x].shape
        widths = self._int32([[0, 0], [1, 2], [0, 1], [0, 0]])
        shape = (batch, height + 3, width + 1, channels)
        return self._add(ir.Pad(), [x, widths], shape, self.tensors[x].quantization)

    def transpose(self, x: str, *order: int) -> str:
        shape = tuple(self.tensors[x].shape[axis] for axis in order)
        return self._add(ir.Transpose(), [x, self._int32(list(order))], shape, self.tensors[x].quantization)

    def lookup(self, x: str) -> str:
        """A random table of 256, by the ops that TFLM has for it."""
        shape, number = self.tensors[x].shape, len(self.tensors)
        integers, places = (f"{name}{number}" for name in ("integers", "places"))
        for op, inputs, name in (
            (ir.Cast(), (x,), integers),
            (ir.Add(), (self._int32([128]), integers), places),
        ):
            self.tensors[name] = Tensor(name, shape, DType.INT32)
            self.nodes.append(Node(op, inputs, (name,)))
        table = self.constant(256)
        return self._add(ir.Gather(0), [table, places], shape, self.tensors[table].quantization)

    def softmax(self, x: str) -> str:
        return self._add(ir.Softmax(), [x], self.tensors[x].shape, Quantization.per_tensor(1 / 256, -128))

    def elementwise(self, op: ir.Op, *names: str, fixed: tuple[float, int] | None = None) -> str:
        """An op whose output is as large as its first operand, on a grid of its own or a prescribed one."""
        grid = None if fixed is None else Quantization.per_tensor(*fixed)
        return self._add(op, list(names), self.tensors[names[0]].shape, grid)

    def resize(self, kind: Callable[..., ir.Op], x: str, height: int, width: int) -> str:
        batch, *_, channels = self.tensors[x].shape
        shape = (batch, height, width, channels)
        return self._add(kind(), [x, self._int32([height, width])], shape, self.tensors[x].quantization)

    def halves(self, x: str) -> tuple[str, str]:
        """Every other channel, forwards and backwards."""
        shape = self.tensors[x].shape
        size = shape[-1] // 2
        mask = 7  # of the first three axes all
        parts = []
        for begin, end, stride in ((0, 2 * size, 2), (2 * size - 1, -2 * size - 1, -2)):
            vectors = [self._int32([0, 0, 0, value]) for value in (begin, end)]
            vectors.append(self._int32([1, 1, 1, stride]))
            op = ir.StridedSlice(mask, mask)
            grid = self.tensors[x].quantization
            parts.append(self._add(op, [x, *vectors], (*shape[:-1], size), grid))
        return parts[0], parts[1]

    def attention(self, x: str) -> str:
        """Rows of pixels that look at each other."""
        _, height, width, channels = self.tensors[x].shape
        rows = height * width
        grid = self.tensors[x].quantization
        flat = self._add(ir.Reshape(), [x, self._int32([1, rows, channels])], (1, rows, channels), grid)
        unit = self.elementwise(ir.L2Normalization(), flat, fixed=(1 / 128, 0))
        scores = self._add(ir.BatchMatMul(adj_y=True), [unit, unit], (1, rows, rows))
        return self._add(ir.BatchMatMul(), [self.softmax(scores), flat], (1, rows, channels))

    def _add(
        self, op: ir.Op, inputs: list[str], shape: tuple[int, ...], grid: Quantization | None = None
    ) -> str:
        name = f"v{len(self.tensors)}"
        self.tensors[name] = self._activation(name, shape, grid)
        self.nodes.append(Node(op, tuple(inputs), (name,), name))
        return name

    def _activation(self, name: str, shape: tuple[int, ...], grid: Quantization | None = None) -> Tensor:
        own = Quantization.per_tensor(0.05, int(self.random.integers(-128, 100)))
        return Tensor(name, shape, DType.INT8, grid or own)

    def _int32(self, values: object) -> str:
        data = np.asarray(values, np.int32)
        name = f"c{len(self.tensors)}"
        self.tensors[name] = Tensor(name, data.shape, DType.INT32, None, data)
        return name

    def _weighted(
        self,
        op: ir.Op,
        x: str,
        shape: tuple[int, ...],
        axis: int | None,
        made: tuple[int, ...],
        dtype: DType,
    ) -> str:
        channels = made[-1]
        limit = 7 if dtype is DType.INT4 else 127
        data = self.random.integers(-limit, limit + 1, shape).astype(np.int8)
        terms = data.size // channels
        scale = self.random.uniform(0.5, 1.5, channels if axis is not None else 1) / (limit * terms**0.5)
        own = Quantization(scale.astype(np.float32), np.zeros(scale.size, np.int64), axis)
        grid = self.tensors[x].quantization
        assert grid is not None
        bias = Quantization(own.scale * grid.scale[0], own.zero_point, None if axis is None else 0)
        names = [f"w{len(self.tensors)}", f"b{len(self.tensors)}"]
        values = self.random.integers(-300, 300, channels).astype(np.int32)
        self.tensors[names[0]] = Tensor(names[0], shape, dtype, own, data)
        self.tensors[names[1]] = Tensor(names[1], (channels,), DType.INT32, bias, values)
        return self._add(op, [x, *names], made)


def _residual() -> Graph:
    b = Builder(1, 12, 12, 3)
    x = b.conv("x", 8)
    for channels in (8, 16):
        stride = channels // 8
        short = b.conv(x, channels, 1, stride) if channels != 8 else x
        x = b.add(b.conv(b.conv(x, channels, 3, stride), channels), short)
    return b.graph(b.softmax(b.dense(b.mean(x), 5)))


def _separable() -> Graph:
    b = Builder(1, 16, 16, 1)
    x = b.conv("x", 8, 3, 2)
    for channels, stride in ((16, 1), (16, 2), (24, 1)):
        x = b.conv(b.depthwise(x, stride), channels, 1)
    return b.graph(b.dense(b.pool(x, 4, 4, ir.AveragePool2D), 4))


def _u_shaped() -> Graph:
    """Down and up again by transposed halves; every level is joined to what went down."""
    b = Builder(1, 16, 16, 2)
    first = b.conv("x", 6)
    second = b.conv(b.pool(first), 12)
    third = b.conv(b.pool(second), 16)
    wide = b.transpose(b.pad(b.pad(third)), 0, 2, 1, 3)
    up = b.conv(b.concat(b.conv(wide, 12), b.conv(wide, 4, 1)), 12)
    joined = b.concat(second, second, b.conv(second, 4))
    return b.graph(b.conv(up, 3, 1), b.conv(b.concat(b.conv(b.mul(first, first), 4), first), 2, 1), joined)


def _mixed() -> Graph:
    """4-bit layers, groups, a pool over windows that meet, one value under two names."""
    b = Builder(1, 9, 11, 4)
    x = b.conv("x", 8, 5, 1, 2, DType.INT4)
    x = b.pool(x, 3, 2)
    x = b.depthwise(x, 1, 2, DType.INT4)
    x = b.pool(b.conv(x, 6, 3, 1, 1, DType.INT4), 2, 3)
    y = b.dense(x, 7, DType.INT4)
    return b.graph(y, x)


def _gated() -> Graph:
    """Activations that are written over their operands, gates, attention."""
    b = Builder(1, 6, 8, 2)
    x = b.conv("x", 8)
    x = b.mul(x, b.elementwise(ir.Logistic(), b.conv(x, 8), fixed=(1 / 256, -128)))
    x = b.lookup(b.elementwise(ir.HardSwish(), b.elementwise(ir.LeakyRelu(0.25), x)))
    x = b.elementwise(ir.PRelu(), b.conv(x, 8), b.elementwise(ir.Tanh(), x, fixed=(1 / 128, 0)))
    x = b.resize(ir.ResizeBilinear, b.resize(ir.ResizeNearestNeighbor, b.pool(x), 5, 3), 4, 4)
    first, second = b.halves(x)
    x = b.attention(b.elementwise(ir.Sub(), first, second))
    return b.graph(b.dense(x, 5))


def _reshaped() -> Graph:
    """Every op whose calls follow from its operand's shape reads a reshaped value."""
    b = Builder(1, 6, 8, 2)
    wide, long, rows = b.reshape("x", 1, 4, 12, 2), b.reshape("x", 1, 12, 4, 2), b.reshape("x", 1, 12, 8)
    gate = b.reshape(b.mean(b.conv(wide, 12, 1)), 1, 12, 1)
    same = b.elementwise(ir.HardSwish(), b.reshape(b.elementwise(ir.LeakyRelu(0.25), rows), 1, 8, 4, 3))
    return b.joined(
        b.conv(wide, 3),
        b.conv(wide, 2, 3, 1, 2),
        b.depthwise(long),
        b.pool(long),
        b.pool(b.reshape(b.conv(wide, 4), 1, 8, 6, 4)),  # not the convolution's own layout
        b.pool(wide, 3, 2, ir.AveragePool2D),
        b.softmax(rows),
        b.elementwise(ir.L2Normalization(), rows, fixed=(1 / 128, 0)),
        b.mean(long),
        b.concat(wide, wide),
        b.pad(wide),
        b.transpose(rows, 0, 2, 1),
        *b.halves(b.reshape("x", 1, 4, 4, 6)),
        b.gather(rows, 1, 11, 0, 5),
        b.mul(rows, gate),
        b.elementwise(ir.Sub(), rows, b.reshape(b.constant(2, 4), 8)),
        b.matmul(rows, b.reshape("x", 1, 8, 12)),
        b.resize(ir.ResizeNearestNeighbor, long, 5, 7),
        b.resize(ir.ResizeBilinear, long, 5, 7),
        b.elementwise(ir.Add(), same, b.reshape(same, 1, 8, 4, 3)),
    )


def _batch() -> Graph:
    """Three images at once."""
    b = Builder(3, 6, 8, 2)
    x = b.conv("x", 4)
    return b.joined(
        b.pool(x),  # another reads the convolution, too
        b.pool(b.conv(x, 3, 3, 2, 1, DType.INT4)),
        b.depthwise(x, 2, 2),
        b.pool(b.depthwise(x, 1, 1, DType.INT4)),
        b.pool(x, 3, 2, ir.AveragePool2D),
        b.mean(x),
        b.resize(ir.ResizeNearestNeighbor, x, 5, 7),
        b.resize(ir.ResizeBilinear, x, 5, 7),
        b.pad(x),
        b.softmax(b.add(x, b.reshape(x, 3, 6, 8, 4))),
    )


NETWORKS: Mapping[str, Graph] = {
    "residual": _residual(),
    "separable": _separable(),
    "u-shaped": _u_shaped(),
    "mixed": _mixed(),
    "gated": _gated(),
}
"""Of ordinary shapes; the estimates of footprints are judged by them."""

LAYOUTS: Mapping[str, Graph] = {"reshaped": _reshaped(), "batch": _batch()}
"""Many small ops, whose operands lie in memory otherwise than they were made, or several times."""
