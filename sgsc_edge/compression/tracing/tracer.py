"""From a module's ``forward`` to an FX graph: what runs for an input of one shape.

Decisions on the input's shape (``assert t <= self.block_size``) are taken while the graph is made; those on
values cannot be.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import Proxy

from sgsc_edge.compression.tracing.operators import OPERATORS
from sgsc_edge.compression.tracing.rewriting import asks_shape, same


def graph_of(model: nn.Module, batch: torch.Tensor) -> fx.GraphModule:
    """The graph of a model; it shares parameters with the model.

    Parameters
    ----------
    batch: two samples of the model's input.

    Raises
    ------
    Exception: whatever ``forward`` raises where it needs values that a trace does not have.
    """
    try:
        graph = _Tracer(batch, follow_buffers=False).trace(model)
    except TypeError:  # a real buffer is sliced by a size that is being traced
        graph = _Tracer(batch, follow_buffers=True).trace(model)
    return fx.GraphModule(model, graph, type(model).__name__)


_COMPUTED = frozenset({"placeholder", "call_function", "call_method"})
"""Nodes whose values can be computed while others are traced; a module's cannot, its calls are."""


class _Tracer(fx.Tracer):
    """Keeps the operators of a graph that was traced before, and takes decisions on shapes.

    Parameters
    ----------
    batch: two samples.
    follow_buffers: whether what is computed from buffers becomes part of the graph: a mask may be sliced to
        the input's length then, and no branch may depend on a buffer.
    """

    def __init__(self, batch: torch.Tensor, *, follow_buffers: bool) -> None:
        super().__init__()
        self.batches = (batch, torch.cat([batch, batch[:1]]))
        self.proxy_buffer_attributes = follow_buffers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is called, rather than traced."""
        return isinstance(m, OPERATORS) or super().is_leaf_module(m, module_qualified_name)

    def to_bool(self, obj: Proxy) -> bool:
        """What a condition is, where it follows from the input's shape and not from the number of samples."""
        behind = _ancestors(obj.node)
        if _follows_from_shapes(obj.node) and all(node.op in _COMPUTED for node in behind):
            first, second = (self._value(obj.node, behind, batch) for batch in self.batches)
            if same(first, second):
                return bool(first)
        return super().to_bool(obj)

    def _value(self, node: fx.Node, behind: set[fx.Node], batch: torch.Tensor) -> Any:
        """A node's value for a batch, from functions of it that have been traced so far."""
        values: dict[fx.Node, Any] = {}
        for step in self.graph.nodes:
            if step not in behind:
                continue
            args = fx.node.map_arg(step.args, values.__getitem__)
            kwargs = fx.node.map_arg(step.kwargs, values.__getitem__)
            if step.op == "placeholder":
                values[step] = batch
            elif step.op == "call_method":
                values[step] = getattr(args[0], str(step.target))(*args[1:], **kwargs)
            else:
                values[step] = step.target(*args, **kwargs)
        return values[node]


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """A node and all that it is computed from."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += current.all_input_nodes
    return found


def _follows_from_shapes(node: fx.Node) -> bool:
    """Whether a node reads of tensors nothing but their shapes."""
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop()
        if current in seen or asks_shape(current):
            continue
        seen.add(current)
        if current.op not in ("call_function", "call_method"):
            return False
        waiting += current.all_input_nodes
    return True
