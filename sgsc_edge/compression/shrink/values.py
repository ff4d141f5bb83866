"""What each node of a compressed model computes, found by running it once.

Everything that the other modules ask about shapes is read from values of the running model, so that they need
not know how each op spells its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from sgsc_edge.compression.folding.fold import FixedQuantizer, FoldedConstant, FoldedLayer
from sgsc_edge.compression.folding.integers import (
    FoldedGelu,
    FoldedMatMul,
    FoldedNorm,
    FoldedSoftmax,
    FoldedTable,
)
from sgsc_edge.compression.tracing.kinds import kind_of, name_of
from sgsc_edge.placement import RULES, Output

QUANTIZE, LAYER, CONSTANT, TABLE = "Quantize", "Layer", "Constant", "Table"
_FOLDED_KINDS: Mapping[type[nn.Module], str] = {
    FixedQuantizer: QUANTIZE,
    FoldedLayer: LAYER,
    FoldedConstant: CONSTANT,
    FoldedTable: TABLE,
    FoldedNorm: "LayerNormalization",
    FoldedMatMul: "MatMul",
    FoldedSoftmax: "Softmax",
    FoldedGelu: "Gelu",
}


@dataclass(frozen=True)
class Grid:
    """An int8 grid: ``real = scale * (integer - zero_point)``; ``scale`` is a float32's value."""

    scale: float
    zero_point: int

    @staticmethod
    def of(module: FixedQuantizer | FoldedConstant) -> Grid:
        """The grid of a quantizer's or a constant's values."""
        return Grid(float(module.scale), int(module.zero_point))

    def integers(self, values: torch.Tensor) -> NDArray[np.int64]:
        """Integers of float32 values that lie on the grid, same shape."""
        steps = (values.detach().double() / self.scale).round() + self.zero_point
        return steps.to(torch.int64).numpy()


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps every node's value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and keep its value."""
        value = super().run_node(n)
        self.values[n] = value
        return value


@dataclass(frozen=True, eq=False)
class Values:
    """The values of a compressed model's nodes on a small batch.

    Parameters
    ----------
    values: node -> what it computed; tensors, and the numbers of shape arithmetic.
    """

    module: fx.GraphModule
    values: Mapping[fx.Node, Any]

    @staticmethod
    @torch.no_grad()
    def of(module: fx.GraphModule, sample: torch.Tensor) -> Values:
        """Run the module on two samples made of one (without its batch dimension)."""
        recorder = _Recorder(module)
        recorder.run(torch.stack([sample, sample.roll(1, -1)]))
        return Values(module, recorder.values)

    @cached_property
    def nodes(self) -> list[fx.Node]:
        """The nodes that compute float tensors, in order of execution; without the output."""
        return [
            node
            for node, value in self.values.items()
            if node.op != "output" and isinstance(value, torch.Tensor) and value.is_floating_point()
        ]

    @cached_property
    def kinds(self) -> Mapping[fx.Node, str]:
        """Node -> ONNX operator, or one of ``QUANTIZE``, ``LAYER``, ``CONSTANT``, ``TABLE``."""
        modules = dict(self.module.named_modules())
        kinds = {}
        for node in self.nodes:
            called = type(modules[str(node.target)]) if node.op == "call_module" else nn.Module
            kinds[node] = _FOLDED_KINDS.get(called) or kind_of(node, modules) or ""
        return kinds

    @cached_property
    def output(self) -> fx.Node:
        """The node whose value the model returns."""
        (output,) = (node for node in self.values if node.op == "output")
        (last,) = output.all_input_nodes
        return last

    @cached_property
    def grids(self) -> Mapping[fx.Node, Grid]:
        """Node -> grid, for the values that lie on one."""
        grids: dict[fx.Node, Grid] = {}
        for node in self.nodes:
            kind = self.kinds[node]
            if kind in (QUANTIZE, CONSTANT):
                module = self.module.get_submodule(str(node.target))
                assert isinstance(module, FixedQuantizer | FoldedConstant)
                grids[node] = Grid.of(module)
            elif kind in RULES and RULES[kind].output is Output.MOVED:
                found = {grids.get(source) for source in self.inputs(node)}
                if len(found) == 1 and (grid := found.pop()) is not None:
                    grids[node] = grid
        return grids

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose tensors a node reads, in order; one that is read twice appears twice."""
        found: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), found.append)
        return [source for source in found if source in self.kinds]

    def layer(self, node: fx.Node) -> FoldedLayer:
        """The folded layer that a node calls."""
        module = self.module.get_submodule(str(node.target))
        assert isinstance(module, FoldedLayer)
        return module

    def table(self, node: fx.Node) -> FoldedTable:
        """The folded table that a node reads."""
        module = self.module.get_submodule(str(node.target))
        assert isinstance(module, FoldedTable)
        return module

    def layers(self) -> list[fx.Node]:
        """The nodes that call folded layers, in order of execution."""
        return [node for node in self.nodes if self.kinds[node] == LAYER]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's tensor for a batch of two."""
        return tuple(self.values[node].shape)

    def rerun(self, node: fx.Node, replaced: Mapping[fx.Node, torch.Tensor]) -> Any:
        """What a node computes where some of its inputs are others."""

        def value(source: fx.Node) -> Any:
            return replaced[source] if source in replaced else self.values[source]

        args = fx.node.map_arg(node.args, value)
        kwargs = fx.node.map_arg(node.kwargs, value)
        interpreter = fx.Interpreter(self.module)
        call = getattr(interpreter, node.op)
        return call(node.target, args, kwargs)


def layer_name(node: fx.Node) -> str:
    """The name under which a user knows a node."""
    return name_of(node)
