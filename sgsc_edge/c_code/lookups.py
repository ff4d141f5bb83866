"""CAST, ADD of 128 and GATHER from a table of 256, as one op: the C code has a kernel for the three."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Graph, Node

_STATES = 256
_FIRST = 128


@dataclass(frozen=True)
class Lookup(ir.Op):
    """Inputs: x, table (int8 constant [256]): the table's value at x + 128. No op of TFLite's."""


def with_lookups(graph: Graph) -> Graph:
    """The graph with one node in place of the three, where nobody else reads what lies between them."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers.update(graph.outputs)
    made_by = {node.outputs[0]: node for node in graph.nodes}
    gone: set[int] = set()
    lookups: dict[int, Node] = {}
    for node in graph.nodes:
        add = made_by.get(node.inputs[1]) if _is_table(graph, node) else None
        cast = None if add is None else _cast_before(graph, add, made_by)
        if add is None or cast is None or readers[add.outputs[0]] > 1 or readers[cast.outputs[0]] > 1:
            continue
        inputs = (cast.inputs[0], node.inputs[0])
        lookups[id(node)] = Node(Lookup(), inputs, node.outputs, node.source)
        gone |= {id(add), id(cast)}
    if not lookups:
        return graph
    nodes = (lookups.get(id(node), node) for node in graph.nodes if id(node) not in gone)
    return graph.with_nodes(tuple(nodes))


def _is_table(graph: Graph, node: Node) -> bool:
    if not isinstance(node.op, ir.Gather):
        return False
    table = graph[node.inputs[0]]
    return table.is_constant and table.shape == (_STATES,) and table.dtype is ir.DType.INT8


def _cast_before(graph: Graph, add: Node, made_by: dict[str, Node]) -> Node | None:
    """The Cast whose integers an Add makes count from 0."""
    if not isinstance(add.op, ir.Add):
        return None
    for name, other in (add.inputs, add.inputs[::-1]):
        cast, first = made_by.get(name), graph[other].data
        same = graph[name].shape == graph[add.outputs[0]].shape
        if cast is not None and isinstance(cast.op, ir.Cast) and first is not None and same:
            return cast if np.array_equal(first.ravel(), [_FIRST]) else None
    return None
