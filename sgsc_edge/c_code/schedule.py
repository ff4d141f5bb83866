"""What is computed, in order: nodes of the device graph as steps, and where each value lies.

A reshaped value is the value itself, read under another shape. A maximum over windows of a convolution's
output is taken while it is computed, where no window meets another: the whole output never exists. An
elementwise op writes over the operand that ends with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sgsc_edge.c_code.lookups import Lookup, with_lookups
from sgsc_edge.c_code.memory_plan import Buffer, Layout, lay_out
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Graph, Node, Tensor

_LAYERS = (ir.Conv2D, ir.DepthwiseConv2D)
_ELEMENTWISE = (
    ir.Add,
    ir.Sub,
    ir.Mul,
    ir.Relu,
    ir.Relu6,
    ir.Logistic,
    ir.Tanh,
    ir.HardSwish,
    ir.LeakyRelu,
    ir.PRelu,
    ir.Quantize,
    ir.Softmax,
    ir.L2Normalization,
    Lookup,
)
"""Ops that have no more use for an element of the operand once they write the output's."""


@dataclass(frozen=True, eq=False)
class Step:
    """A node, and the pool that is computed with it; ``output`` is the value that the step makes."""

    node: Node
    pool: Node | None
    output: str


@dataclass(frozen=True, eq=False)
class Schedule:
    """Steps in order.

    Parameters
    ----------
    alias: the name of a value that is another one -> that one.
    """

    graph: Graph
    steps: tuple[Step, ...]
    alias: Mapping[str, str]

    @staticmethod
    def of(graph: Graph) -> Schedule:
        """Follow a graph, the ops of a table taken as one."""
        graph = with_lookups(graph)
        readers = Counter(name for node in graph.nodes for name in node.inputs)
        readers.update(graph.outputs)
        reading = {name: node for node in graph.nodes for name in node.inputs}
        alias: dict[str, str] = {}
        steps: list[Step] = []
        fused: set[int] = set()
        for node in graph.nodes:
            (output,) = node.outputs
            if isinstance(node.op, ir.Reshape):
                alias[output] = alias.get(node.inputs[0], node.inputs[0])
            elif id(node) not in fused:
                pool = reading.get(output) if readers[output] == 1 else None
                if pool is not None and _fuses(node, pool):
                    fused.add(id(pool))
                    steps.append(Step(node, pool, pool.outputs[0]))
                else:
                    steps.append(Step(node, None, output))
        return Schedule(graph, tuple(steps), alias)

    def value(self, name: str) -> str:
        """The value that a tensor's name stands for."""
        return self.alias.get(name, name)

    def operands(self, step: Step) -> list[Tensor]:
        """The values and constants that a step reads, in the node's order.

        Each has the shape that the node reads, under the name of the value that lies in memory.
        """
        return [self._read(name) for name in step.node.inputs]

    def _read(self, name: str) -> Tensor:
        tensor, value = self.graph[name], self.graph[self.value(name)]
        data = None if value.data is None else value.data.reshape(tensor.shape)
        return replace(tensor, name=value.name, data=data)


def _fuses(node: Node, pool: Node) -> bool:
    if not (isinstance(node.op, _LAYERS) and isinstance(pool.op, ir.MaxPool2D)):
        return False
    return all(step >= size for step, size in zip(pool.op.stride, pool.op.filter, strict=True))


@dataclass(frozen=True, eq=False)
class Memory:
    """Where values lie that are neither inputs nor outputs nor constants.

    Parameters
    ----------
    place: value -> offset in the arena.
    scratch: offset of what a step needs for itself, by its number.
    buffers: what was laid out; several values may lie in one.
    lives: value -> the first and the last step that has it.
    """

    layout: Layout
    place: Mapping[str, int]
    scratch: Mapping[int, int]
    buffers: tuple[Buffer, ...]
    lives: Mapping[str, tuple[int, int]]


def arrange(schedule: Schedule, scratch: Sequence[int]) -> Memory:
    """Lay out the arena; ``scratch`` holds the bytes that each step needs for itself."""
    graph = schedule.graph
    outside = {*graph.inputs, *(schedule.value(name) for name in graph.outputs)}
    lives: dict[str, tuple[int, int]] = {}
    for number, step in enumerate(schedule.steps):
        for tensor in (*schedule.operands(step), graph[step.output]):
            if not tensor.is_constant and tensor.name not in outside:
                first, _ = lives.get(tensor.name, (number, number))
                lives[tensor.name] = first, number
    shared = _overwritten(schedule, lives)
    buffers: dict[str, Buffer] = {}
    for name, (first, last) in lives.items():
        owner = shared.get(name, name)
        known = buffers.get(owner)
        size = _bytes(graph[name])
        buffers[owner] = (
            Buffer(owner, size, first, last)
            if known is None
            else replace(known, size=max(known.size, size), last=max(known.last, last))
        )
    own = [Buffer(f"#{number}", size, number, number) for number, size in enumerate(scratch) if size]
    laid_out = (*buffers.values(), *own)
    layout = lay_out(laid_out)
    place = {name: layout.offsets[shared.get(name, name)] for name in lives}
    scratches = {int(b.name[1:]): layout.offsets[b.name] for b in own}
    return Memory(layout, place, scratches, laid_out, lives)


def _overwritten(schedule: Schedule, lives: Mapping[str, tuple[int, int]]) -> dict[str, str]:
    """Value -> the value in whose memory it is written, from the first of them on."""
    shared: dict[str, str] = {}
    for number, step in enumerate(schedule.steps):
        if not isinstance(step.node.op, _ELEMENTWISE) or step.output not in lives:
            continue
        output = schedule.graph[step.output]
        for tensor in schedule.operands(step):
            ends = tensor.name in lives and lives[tensor.name][1] == number
            same = tensor.dtype is output.dtype and tensor.elements == output.elements
            if ends and same and tensor.name != step.output:
                shared[step.output] = shared.get(tensor.name, tensor.name)
                break
    return shared


def _bytes(tensor: Tensor) -> int:
    return tensor.elements * tensor.dtype.numpy.itemsize
