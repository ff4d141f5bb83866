"""Attention heads: which rows of a Linear layer belong to one head.

The paper learns one depth for each attention head. Rows of the query, key and value layers that are
multiplied as one head share a depth; which heads live, the coupling of channels says (``shrink/slots``).
"""

from __future__ import annotations

from torch import fx, nn

from sgsc_edge.compression.tracing.trace import Traced

_MOVES = frozenset({"Transpose", "Identity", "Dropout", "Mul"})
"""Ops between a layer and the product of its heads."""


def head_widths(traced: Traced) -> dict[str, int]:
    """Rows of one head, by the names of the Linear layers whose outputs are multiplied head by head."""
    widths: dict[str, int] = {}
    for node in traced.graph_module.graph.nodes:
        if traced.kinds.get(node.name) == "MatMul":
            for operand in node.all_input_nodes:
                widths |= _width_behind(operand, traced)
    return widths


def _width_behind(node: fx.Node, traced: Traced) -> dict[str, int]:
    """The Linear behind an operand of a product, if there is one, and the rows of its heads."""
    width = None
    while (kind := traced.kinds.get(node.name)) in _MOVES or kind == "Reshape":
        (source, *_) = (each for each in node.all_input_nodes if each.name in traced.shapes)
        if kind == "Reshape":
            whole, width = traced.shapes[source.name][-1], traced.shapes[node.name][-1]
            if whole % width:
                return {}
        node = source
    layer = traced.graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(layer, nn.Linear):
        return {}
    return {str(node.target): layer.out_features if width is None else width}
