"""Tracing: a user's module becomes an FX graph whose ops are named as in ONNX.

Modules stay modules (so that weights keep their names, and training and evaluation modes work as
written); ``kinds`` names each call's ONNX operator, which is what :mod:`sgsc_edge.placement` speaks of.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from sgsc_edge.compression.tracing.canonical import rewrite
from sgsc_edge.compression.tracing.kinds import MODULE_KINDS, REMEDIES, Constant, call_name, kind_of, name_of
from sgsc_edge.compression.tracing.tracer import graph_of
from sgsc_edge.errors import ModelError, UnsupportedError
from sgsc_edge.placement import Step

_SCALAR_OPERANDS = frozenset({"Add", "Mul"})


_ROUNDING = 1e-4
"""Largest difference of two forms of attention, as a share of the largest output (float32: 7 digits)."""


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced model.

    Parameters
    ----------
    graph_module: the model; it shares parameters with the module it was traced from.
    kinds: node name -> ONNX operator, for the nodes that carry values.
    shapes: node name -> shape for a batch of two.
    """

    graph_module: fx.GraphModule
    kinds: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


def steps(graph: fx.Graph, kinds: Mapping[str, str]) -> list[Step]:
    """The graph as :mod:`sgsc_edge.placement` reads it; nodes without a kind are left out."""
    return [
        Step(
            node.name,
            kinds[node.name],
            tuple(argument.name for argument in node.all_input_nodes if argument.name in kinds),
        )
        for node in graph.nodes
        if node.name in kinds
    ]


def _line(error: Exception) -> str:
    """`` (model.py:9)``: the last line of the model's own code that ran; empty where there is none."""
    others = (Path(torch.__file__).parent, Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(folder) for folder in others)
    ]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def trace(model: nn.Module, sample: torch.Tensor) -> Traced:
    """Trace a model on one sample.

    Parameters
    ----------
    model: the float module.
    sample: one input without its batch dimension, float32, or int64 tokens [T].

    Raises
    ------
    ModelError: the module cannot be traced, returns something else than one tensor, or the traced
        graph computes other values than the module.
    UnsupportedError: an op without a rule.
    """
    if type(model) in MODULE_KINDS:
        model = nn.Sequential(model)  # a single layer is a call of itself, not of the functions inside
    batch = torch.stack([sample, sample.roll(1, -1)])
    try:
        graph_module = graph_of(model, batch)
    except Exception as error:
        raise ModelError(
            f"the model cannot be traced: {error}",
            where=f"{type(model).__name__}.forward{_line(error)}",
            remedy="make forward free of control flow that depends on values or on the batch size",
        ) from error
    _check_signature(graph_module)
    rewritten = rewrite(graph_module, batch)
    _lift_constants(graph_module)
    _merge_repeats(graph_module)
    shapes = _shapes(model, graph_module, batch, exact=not rewritten)
    modules = dict(graph_module.named_modules())
    kinds = {}
    for node in graph_module.graph.nodes:
        if node.op != "output" and node.name in shapes:
            kind = kind_of(node, modules)
            if kind is not None:
                kinds[node.name] = kind
    traced = Traced(graph_module, MappingProxyType(kinds), MappingProxyType(shapes))
    _check_pools(traced)
    return traced


def _check_signature(graph_module: fx.GraphModule) -> None:
    nodes = list(graph_module.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ModelError(
            f"forward takes {len(inputs)} inputs", remedy="wrap the model so that forward takes one tensor"
        )
    (output,) = (node for node in nodes if node.op == "output")
    if not isinstance(output.args[0], fx.Node):
        raise ModelError(
            f"forward returns a {type(output.args[0]).__name__.removeprefix('immutable_')}",
            remedy="wrap the model so that forward returns one tensor of logits",
        )


def _lift_constants(graph_module: fx.GraphModule) -> None:
    """Turn tensors and numbers that enter Add and Mul into :class:`Constant` modules."""
    graph = graph_module.graph
    modules = dict(graph_module.named_modules())

    def constant(value: torch.Tensor, before: fx.Node) -> fx.Node:
        number = 0
        while hasattr(graph_module, name := f"constant_{number}"):
            number += 1
        graph_module.add_submodule(name, Constant(value))
        with graph.inserting_before(before):
            return graph.call_module(name)

    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(graph_module)
            if not value.is_floating_point():
                continue  # an index or a condition; what reads it has no kind, or is refused
            node.replace_all_uses_with(constant(value, node))
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        try:
            kind = kind_of(node, modules)
        except UnsupportedError:
            continue
        if kind in _SCALAR_OPERANDS and any(isinstance(a, fx.Node) for a in node.args):
            if set(node.kwargs) - {"other", "input"} or len(node.args) + len(node.kwargs) != 2:
                raise UnsupportedError(
                    node=name_of(node),
                    op=kind,
                    reason=f"arguments {sorted(node.kwargs)}",
                    remedy="write it as an operator between two tensors",
                )
            node.args = tuple(
                constant(torch.tensor(float(argument)), node)
                if isinstance(argument, int | float)
                else argument
                for argument in node.args
            )
    graph.lint()
    graph_module.recompile()


def _merge_repeats(graph_module: fx.GraphModule) -> None:
    """Let what is computed twice from the same values be computed once, as the exporter has it.

    Otherwise two quantizers could round what is one value in the ONNX. (Two dropouts of one value drop the
    same elements then.)
    """
    first: dict[str, fx.Node] = {}
    for node in list(graph_module.graph.nodes):
        if node.op.startswith("call"):
            call = repr((node.op, node.target, node.args, sorted(node.kwargs.items())))
            if (same := first.setdefault(call, node)) is not node:
                node.replace_all_uses_with(same)
                graph_module.graph.erase_node(node)
    graph_module.recompile()


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every float tensor, and the nodes that make several tensors."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.groups: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and record its value's shape."""
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            self.shapes[n.name] = tuple(value.shape)
        elif n.op != "output" and isinstance(value, tuple | list):
            self.groups += [n] if any(isinstance(item, torch.Tensor) for item in value) else []
        return value


def _shapes(
    model: nn.Module, graph_module: fx.GraphModule, batch: torch.Tensor, *, exact: bool
) -> dict[str, tuple[int, ...]]:
    """Shapes of float values by node name; ``exact``: whether the graph must compute the very same values."""
    training = model.training
    model.eval()
    graph_module.eval()
    try:
        with torch.no_grad():
            expected = model(batch)
            recorder = _ShapeRecorder(graph_module)
            actual = recorder.run(batch)
    except Exception as error:
        raise ModelError(
            f"forward fails on a batch of two samples of shape {list(batch.shape[1:])}: {error}",
            remedy="check model.input.shape, and that forward accepts any batch size",
        ) from error
    finally:
        model.train(training)
    if not isinstance(expected, torch.Tensor):
        raise ModelError(
            f"forward returns a {type(expected).__name__}",
            remedy="wrap the model so that forward returns one tensor of logits",
        )
    for node in recorder.groups:
        name = call_name(node, dict(graph_module.named_modules()))
        raise UnsupportedError(
            node=name_of(node),
            op=name,
            reason="it makes several tensors",
            remedy=REMEDIES.get(name) or "replace it by layers that make one tensor each",
        )
    if not (torch.equal(expected, actual) if exact else _close(expected, actual)):
        raise ModelError(
            "the traced graph computes other values than the module",
            remedy="make forward depend on its input alone",
        )
    return recorder.shapes


def _close(expected: torch.Tensor, actual: torch.Tensor) -> bool:
    """Whether two results differ by no more than the order of their sums explains."""
    return expected.shape == actual.shape and torch.allclose(
        expected, actual, rtol=_ROUNDING, atol=_ROUNDING * float(expected.abs().max())
    )


def _check_pools(traced: Traced) -> None:
    """A global pool is one only when it leaves a single cell."""
    for node in traced.graph_module.graph.nodes:
        cells = traced.shapes.get(node.name, ())[2:]
        if traced.kinds.get(node.name) == "GlobalAveragePool" and any(size != 1 for size in cells):
            form = f"{len(cells)}d"
            raise UnsupportedError(
                node=name_of(node),
                op=f"AdaptiveAvgPool{form}",
                reason=f"its output has {list(cells)} cells",
                remedy=f"use AdaptiveAvgPool{form}(1), or AvgPool{form} with a fixed window",
            )
