"""RAM for the values between ops: what no way of laying them out can go below.

While an op runs, its inputs, its outputs and every value that a later op still reads are in memory at once.
TFLite Micro keeps all of that in its arena, and there unpacks int4 filters, too; its own tables, and gaps
between values, come on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sgsc_edge.graph.ir import DType, Graph, Node, Reshape
from sgsc_edge.graph.op_rules import OP_RULES


@dataclass(frozen=True)
class Need:
    """Bytes that are in memory while ``node`` runs: values, and its filter where that is unpacked."""

    node: Node
    values: int
    unpacked: int

    @property
    def bytes(self) -> int:
        """Of both."""
        return self.values + self.unpacked


def needs(graph: Graph, unpacks: Callable[[str, int], bool]) -> tuple[Need, ...]:
    """What each node needs at least, in the graph's order.

    ``unpacks`` says of an op's name and its weights' bits whether the kernel unpacks them, a byte each. A
    reshaped value counts once: a runtime may leave it where it is.
    """
    place = {tensor.name: tensor.name for tensor in graph.tensors.values()}
    for node in graph.nodes:
        if isinstance(node.op, Reshape):
            place[node.outputs[0]] = place[node.inputs[0]]
    last = len(graph.nodes) - 1
    lives: dict[str, tuple[int, int]] = {}

    def used(name: str, at: int) -> None:
        if not graph[place[name]].is_constant:
            first, final = lives.get(place[name], (at, at))
            lives[place[name]] = (min(first, at), max(final, at))

    for name in graph.inputs:
        used(name, 0)
    for index, node in enumerate(graph.nodes):
        for name in (*node.inputs, *node.outputs):
            used(name, index)
    for name in graph.outputs:
        used(name, last)
    return tuple(
        Need(
            node,
            sum(graph[name].nbytes for name, (first, final) in lives.items() if first <= index <= final),
            _unpacked(graph, node, unpacks),
        )
        for index, node in enumerate(graph.nodes)
    )


def _unpacked(graph: Graph, node: Node, unpacks: Callable[[str, int], bool]) -> int:
    if not OP_RULES[type(node.op)].weight_rank:
        return 0
    weights = graph[node.inputs[1]]
    narrow = weights.dtype is DType.INT4 and unpacks(node.kind, weights.dtype.bits)
    return weights.elements if narrow else 0
