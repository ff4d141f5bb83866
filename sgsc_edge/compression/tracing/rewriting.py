"""A traced graph that is being rewritten, and what in it is the same for every input."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

_SHAPE_METHODS = frozenset({"size", "dim", "numel"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim"})


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every node's value."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep its value."""
        self.values[n] = super().run_node(n)
        return self.values[n]


@torch.no_grad()
def run(graph_module: fx.GraphModule, batch: torch.Tensor) -> dict[fx.Node, Any]:
    """Every node's value for a batch, in evaluation mode."""
    recorder = _Recorder(graph_module)
    training = graph_module.training
    graph_module.eval()
    try:
        recorder.run(batch)
    finally:
        graph_module.train(training)
    return recorder.values


@dataclass(eq=False)
class Rewriting:
    """A graph that is being rewritten.

    Parameters
    ----------
    values: node -> its value for a batch of two, for the nodes that were traced.
    depends: nodes whose values follow from the input's values, or from a layer's.
    erased: nodes that are gone.
    """

    module: fx.GraphModule
    values: dict[fx.Node, Any]
    depends: set[fx.Node] = field(default_factory=set)
    erased: set[fx.Node] = field(default_factory=set)
    changed: bool = False

    # --- constants ------------------------------------------------------------------------------

    def fold_constants(self, others: dict[fx.Node, Any], *, numbers: bool) -> None:
        """Compute what follows from the input's shape alone, and is the same for any batch size.

        Parameters
        ----------
        others: values for another batch size.
        numbers: also whole numbers; otherwise sizes stay what they are in the code.
        """
        for node in list(self.module.graph.nodes):
            if node.op in ("placeholder", "call_module"):
                self.depends.add(node)
            elif node.op in ("call_function", "call_method"):
                if self.depends.intersection(node.all_input_nodes) and not asks_shape(node):
                    self.depends.add(node)
                elif same(value := self.values[node], others[node]):
                    self._fold(node, value, numbers)

    def _fold(self, node: fx.Node, value: Any, numbers: bool) -> None:
        if isinstance(value, torch.Tensor):
            self.replace(node, self.constant(value, node))
        elif isinstance(value, float) or (numbers and isinstance(value, int)):
            for user in list(node.users):
                user.args = fx.node.map_arg(user.args, lambda n: value if n is node else n)
                user.kwargs = fx.node.map_arg(user.kwargs, lambda n: value if n is node else n)
            self.changed = True

    def constant(self, value: torch.Tensor, before: fx.Node) -> fx.Node:
        """A buffer that is read in front of a node."""
        name = self._free("folded")
        self.module.register_buffer(name, value.detach().clone(), persistent=False)
        with self.module.graph.inserting_before(before):
            node = self.module.graph.get_attr(name)
        self.values[node] = value
        return node

    def constant_value(self, argument: Any) -> torch.Tensor | None:
        """The tensor that an argument is whatever the input; None where it depends on it."""
        if isinstance(argument, bool | int | float):
            return torch.tensor(argument)
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            value: torch.Tensor = operator.attrgetter(str(argument.target))(self.module)
            return value.detach()
        return None

    # --- changing the graph -----------------------------------------------------------------------

    def replace(self, node: fx.Node, new: fx.Node) -> None:
        """Let everything read another node, which has the same value."""
        self.values.setdefault(new, self.values[node])
        node.replace_all_uses_with(new)
        self.erase(node)

    def erase(self, node: fx.Node) -> None:
        """Remove a node that nothing reads."""
        self.module.graph.erase_node(node)
        self.erased.add(node)
        self.changed = True

    def call(self, module: nn.Module, name: str, args: tuple[Any, ...], before: fx.Node) -> fx.Node:
        """Call a new module in front of a node."""
        target = self._free(name)
        self.module.add_submodule(target, module)
        with self.module.graph.inserting_before(before):
            return self.module.graph.call_module(target, args)

    def _free(self, name: str) -> str:
        number = 0
        while hasattr(self.module, f"{name}_{number}"):
            number += 1
        return f"{name}_{number}"

    def rank(self, node: fx.Node) -> int:
        """Axes of a node's value."""
        return int(self.values[node].ndim)

    def calls(self, node: fx.Node) -> list[fx.Node]:
        """All calls of the module that a node calls."""
        nodes = self.module.graph.nodes
        return [other for other in nodes if other.op == "call_module" and other.target == node.target]

    def called(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None


def asks_shape(node: fx.Node) -> bool:
    """Whether a node reads of a tensor nothing but its shape."""
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def same(value: Any, other: Any) -> bool:
    """Whether two values, tensors or numbers, are equal; not where they are anything else."""
    if isinstance(value, torch.Tensor):
        return isinstance(other, torch.Tensor) and value.shape == other.shape and bool((value == other).all())
    return type(value) is type(other) and isinstance(value, int | float) and value == other


def argument_of(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a call, however it was given."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
