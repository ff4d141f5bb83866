"""Passes over the device graph: nothing is computed twice or for nobody, and its ends have their names."""

from __future__ import annotations

from dataclasses import replace

from sgsc_edge.graph import ir


def merge_reshapes(graph: ir.Graph) -> ir.Graph:
    """A Reshape of a Reshape reads the first one's input; one to its input's own shape is dropped."""
    origin: dict[str, str] = {}  # output of a Reshape -> what it is a view of
    renamed: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        if isinstance(node.op, ir.Reshape):
            root = origin.get(inputs[0], inputs[0])
            out = node.outputs[0]
            origin[out] = root
            if graph[root].shape == graph[out].shape and out not in graph.outputs:
                renamed[out] = root
                continue
            inputs = (root, *inputs[1:])
        nodes.append(replace(node, inputs=inputs))
    return graph.with_nodes(tuple(nodes))


def remove_dead(graph: ir.Graph) -> ir.Graph:
    """Drop nodes whose outputs nobody reads."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return graph.with_nodes(tuple(reversed(kept)))
