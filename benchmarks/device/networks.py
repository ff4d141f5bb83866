"""Small networks from which the costs of kernels are learned: each alone, repeated, beside others.

Compilers put a kernel that is called once into the function that calls it, and what they know of its
parameters with it: a kernel alone and a kernel called twice are other code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Node, Tensor
from tests.c_code.networks import Builder


class _Networks(Builder):
    """With what only these networks have."""

    def second_input(self, shape: tuple[int, ...]) -> str:
        """Another input of the network."""
        self.tensors["z"] = self._activation("z", shape)
        return "z"

    def graph(self, *outputs: str) -> Graph:
        """With the second input, where there is one."""
        return replace(super().graph(*outputs), inputs=tuple(name for name in "xz" if name in self.tensors))

    def same_grid(self, op: ir.Op, x: str, shape: tuple[int, ...], *constants: object) -> str:
        """An op whose output has the operand's parameters, with int32 constants as further operands."""
        further = [self._int32(values) for values in constants]
        return self._add(op, [x, *further], shape, self.tensors[x].quantization)

    def real(self, x: str) -> str:
        """The same values as real numbers."""
        name = f"real{len(self.tensors)}"
        self.tensors[name] = Tensor(name, self.tensors[x].shape, DType.FLOAT32)
        self.nodes.append(Node(ir.Dequantize(), (x,), (name,), name))
        return name

    def joined(self, x: str) -> str:
        """The input beside the other one."""
        shape, grid = self.tensors[x].shape, self.tensors[x].quantization
        z = self.second_input(shape)
        self.tensors[z] = replace(self.tensors[z], quantization=grid)
        return self._add(ir.Concatenation(3), [x, z], (*shape[:3], 2 * shape[3]), grid)


# Height, width, input channels, output channels, size, stride, groups.
_CONVOLUTIONS = (
    (12, 12, 1, 8, 5, 1, 1),
    (14, 14, 1, 6, 3, 1, 1),
    (9, 9, 3, 8, 3, 1, 1),
    (10, 8, 8, 6, 3, 1, 1),
    (8, 8, 16, 8, 3, 2, 1),
    (6, 6, 24, 12, 1, 1, 1),
    (10, 10, 6, 10, 1, 1, 1),
    (7, 7, 32, 6, 3, 1, 1),
    (9, 9, 8, 8, 3, 1, 2),
    (8, 8, 9, 6, 3, 2, 3),
    (1, 40, 6, 8, 5, 1, 1),
    (11, 5, 4, 7, 5, 2, 1),
    (16, 16, 2, 4, 7, 2, 1),
    (5, 5, 13, 11, 3, 1, 1),
)
_DEPTHWISE = ((8, 8, 8, 1, 1), (10, 10, 12, 2, 1), (9, 7, 4, 1, 2), (1, 50, 6, 1, 1), (6, 6, 32, 1, 1))
_DENSE = ((64, 10), (200, 16), (37, 24), (400, 6))
_SHAPES = ((1, 6, 7, 5), (1, 12, 10, 4), (1, 3, 3, 40))
_WINDOWS = ((2, 2), (3, 2), (4, 4), (3, 1))


def networks() -> dict[str, Graph]:
    """By name; the same every time."""
    parts = (_layers(DType.INT8), _layers(DType.INT4), _walks(), _pools(), _mixtures())
    return {name: graph for part in parts for name, graph in part}


def _layers(dtype: DType) -> Iterator[tuple[str, Graph]]:
    """Every layer, in front of a pool or not, and some in front of others."""
    for number, (height, width, inputs, channels, size, stride, groups) in enumerate(_CONVOLUTIONS):
        b = _Networks(1, height, width, inputs)
        x = b.conv("x", channels, size, stride, groups, dtype)
        yield f"conv-{dtype}-{number}", b.graph(x if number % 2 else _pooled(b, x))
        if number % 2 == 0:
            x = b.conv(x, 6, 3, 1, 1, dtype)
            yield f"convs-{dtype}-{number}", b.graph(b.conv(x, 9, 1, 1, 1, dtype))
    for number, (height, width, inputs, multiplier, stride) in enumerate(_DEPTHWISE):
        b = _Networks(1, height, width, inputs)
        x = b.depthwise("x", stride, multiplier, dtype)
        yield f"depthwise-{dtype}-{number}", b.graph(x if number % 2 else _pooled(b, x))
        x = b.depthwise(b.conv(x, 8, 1, 1, 1, dtype), 1, 1, dtype)
        yield f"separable-{dtype}-{number}", b.graph(b.conv(x, 10, 1, 1, 1, dtype))
    for number, (inputs, channels) in enumerate(_DENSE):
        b = _Networks(1, 1, 1, inputs)
        yield f"dense-{dtype}-{number}", b.graph(b.dense("x", channels, dtype))


def _pooled(b: _Networks, x: str) -> str:
    return b.pool(x) if min(b.tensors[x].shape[1:3]) > 1 else x


def _walks() -> Iterator[tuple[str, Graph]]:
    """Each kernel without weights: alone on several shapes, and twice."""
    for (name, add), (number, shape) in itertools.product(_WALKS.items(), enumerate(_SHAPES)):
        b = _Networks(*shape)
        yield f"{name}-{number}", b.graph(add(b, "x"))
        if number:
            b = _Networks(*shape)
            yield f"{name}-twice-{number}", b.graph(add(b, "x"), add(b, "x"))


def _pools() -> Iterator[tuple[str, Graph]]:
    for kind, (number, window) in itertools.product((ir.MaxPool2D, ir.AveragePool2D), enumerate(_WINDOWS)):
        b = _Networks(*_SHAPES[1])
        yield f"{kind.__name__}-{number}", b.graph(b.pool("x", *window, kind))
        b = _Networks(*_SHAPES[0])
        other = _WINDOWS[number - 1]
        yield (
            f"{kind.__name__}-twice-{number}",
            b.graph(b.pool("x", *window, kind), b.pool("x", *other, kind)),
        )


def _mixtures() -> Iterator[tuple[str, Graph]]:
    """Whole networks as people build them."""
    b = _Networks(1, 16, 16, 1)
    x = b.pool(b.conv(b.pool(b.conv("x", 6, 5)), 12))
    yield "lenet", b.graph(b.dense(b.conv(x, 16), 10))
    b = _Networks(1, 10, 10, 3)
    x = b.conv("x", 8)
    x = b.add(x, b.conv(b.conv(x, 8), 8))
    yield "residual", b.graph(b.dense(b.mean(x), 4))
    b = _Networks(1, 10, 12, 2)
    x = b.conv("x", 8, 3, 2)
    for channels in (12, 16, 16):
        x = b.conv(b.depthwise(x), channels, 1)
    yield "separable", b.graph(b.softmax(b.dense(b.mean(x), 6)))
    b = _Networks(1, 8, 8, 3)
    down = b.conv("x", 6)
    x = b.conv(b.pool(down), 8)
    x = b.concat(b.resize(ir.ResizeNearestNeighbor, x, 8, 8), down)
    yield "u-shaped", b.graph(b.conv(x, 2, 1))


def _second(b: _Networks, x: str) -> str:
    return b.second_input(b.tensors[x].shape)


def _gathered(b: _Networks, x: str) -> str:
    height, *rest = b.tensors[x].shape[1:]
    return b.same_grid(ir.Gather(1), x, (1, 2 * height, *rest), list(range(height)) * 2)


_WALKS: Mapping[str, Callable[[_Networks, str], str]] = {
    "add": lambda b, x: b.add(x, _second(b, x)),
    "sub": lambda b, x: b.elementwise(ir.Sub(), x, _second(b, x)),
    "mul": lambda b, x: b.mul(x, _second(b, x)),
    "scaled": lambda b, x: b.mul(x, b.second_input((1, b.tensors[x].shape[3]))),
    "prelu": lambda b, x: b.elementwise(ir.PRelu(), x, _second(b, x)),
    "relu": lambda b, x: b.elementwise(ir.Relu(), x),
    "relu6": lambda b, x: b.same_grid(ir.Relu6(), x, b.tensors[x].shape),
    "logistic": lambda b, x: b.elementwise(ir.Logistic(), x, fixed=(1 / 256, -128)),
    "real": lambda b, x: b.real(x),
    "integers": lambda b, x: b.elementwise(ir.Quantize(), b.real(x)),
    "softmax": lambda b, x: b.softmax(x),
    "l2norm": lambda b, x: b.elementwise(ir.L2Normalization(), x, fixed=(1 / 128, 0)),
    "mean": lambda b, x: b.mean(x),
    "pad": lambda b, x: b.pad(x),
    "transpose": lambda b, x: b.transpose(x, 0, 2, 3, 1),
    "concat": lambda b, x: b.joined(x),
    "gather": _gathered,
    "attention": lambda b, x: b.attention(x),
    "nearest": lambda b, x: b.resize(ir.ResizeNearestNeighbor, x, 9, 11),
    "bilinear": lambda b, x: b.resize(ir.ResizeBilinear, x, 9, 11),
}


def inputs(graph: Graph) -> bytes:
    """A random sample of all inputs, as the board is fed."""
    chance = np.random.default_rng(0)
    size = sum(graph[name].elements for name in graph.inputs)
    return chance.integers(-128, 128, size).astype(np.int8).tobytes()
