"""QDQ ONNX -> device graph.

    ONNX --fold--> Network with Q/DQ --absorb--> parameters on values --fusions--> one layer an op
         --ops/--> device graph (NHWC) --cleanup--> device graph

Every refusal of a network is collected before the first is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph import ir, legality
from sgsc_edge.lowering.builder import INPUT_NAME, OUTPUT_NAME
from sgsc_edge.lowering.device import version_refusals
from sgsc_edge.lowering.emitter import Emitter
from sgsc_edge.lowering.fold import import_model
from sgsc_edge.lowering.functions import fuse_functions
from sgsc_edge.lowering.network import FUNCTION, REQUANTIZE, Layer, Network
from sgsc_edge.lowering.passes import run_passes
from sgsc_edge.lowering.passes.batch_norm import fold_batch_norm
from sgsc_edge.lowering.passes.cleanup import merge_reshapes, remove_dead
from sgsc_edge.lowering.passes.fusion import fuse_activations, fuse_bias, merge_pads
from sgsc_edge.lowering.passes.norms import decompose_norms
from sgsc_edge.lowering.quantizers import (
    absorb,
    has_quantizers,
    placeholder_activations,
    placeholder_constants,
    spread,
)
from sgsc_edge.lowering.read_onnx import check_model, read_onnx
from sgsc_edge.lowering.registry import Row, table

if TYPE_CHECKING:  # pydantic is not needed to lower for plain int8
    from sgsc_edge.targets import Target

_FUSIONS = (fuse_bias, fold_batch_norm, merge_pads, fuse_functions, fuse_activations)
_CLEANUPS = (merge_reshapes, remove_dead)
_LISTED = 20  # refusals shown in one message

# What to use instead of ops that users often bring.
_REMEDIES = {
    "LogSoftmax": "leave it out: the decision on the logits is the same",
    "ArgMax": "leave it out: the decision is taken on the logits",
}


@dataclass(frozen=True)
class Refusal:
    """One thing that cannot be lowered exactly, and what to do about it."""

    node: str
    op: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"node '{self.node}' ({self.op}): {self.reason} -> {self.remedy}"


def lower(
    model: onnx.ModelProto | Path, target: Target | None = None, *, name: str | None = None
) -> ir.Graph:
    """The device graph of an ONNX model: of a QDQ one for int8 targets, of a float one for float32.

    Input and output have batch 1, are named "input" and "output", NHWC where they are images. A sequence
    [C, L] that a convolution or pool reads (by itself or behind elementwise ops) is an image [1, 1, L, C].
    Metadata whose keys start with ``sgsc.`` is kept. ``target`` restricts ops, their versions and how weights
    are stored (None: all that TFLite has); ``name`` names the graph. Its limits are for ``check_arena`` and
    ``check_flash``.

    Raises
    ------
    FileFormatError: the model is malformed or too large.
    UnsupportedError: something cannot be lowered exactly; the first refusal, the others in its remedy.
    """
    _check_target(target)
    network = _network(model, name)
    if _is_float(target):
        _check_float(network)
        graph, refusals = _lower(network, target, _as_it_is)
    else:
        graph, refusals = _lower(absorb(network), target, spread)
    if refusals or graph is None:
        raise _error(refusals)
    return graph


def check(model: onnx.ModelProto | Path, target: Target | None = None) -> list[Refusal]:
    """Everything in a model that cannot be lowered exactly; empty where it can.

    A float model without quantizers is checked as if every value had suitable ones, so that ops and
    attributes are known to be supported before any training.

    Raises
    ------
    FileFormatError: the model is malformed or too large.
    """
    try:
        _check_target(target)
        network = _network(model, None)
        if _is_float(target):
            _check_float(network)
            return _lower(network, target, _as_it_is)[1]
        if has_quantizers(network):
            return _lower(absorb(network), target, spread)[1]
        return _lower(placeholder_constants(decompose_norms(network)), target, placeholder_activations)[1]
    except UnsupportedError as error:
        return [_refusal(error)]


def require(model: onnx.ModelProto | Path, target: Target | None = None) -> None:
    """Raise what :func:`check` finds as one UnsupportedError: the first refusal, the others in its remedy."""
    if refusals := check(model, target):
        raise _error(refusals)


def supported_ops() -> tuple[Row, ...]:
    """The rows of the ONNX ops that can be lowered, in alphabetical order."""
    return tuple(row for row in table().values() if row.op not in (REQUANTIZE, FUNCTION))


def _check_target(target: Target | None) -> None:
    if target is not None and target.activations.dtype not in ("int8", "float32"):
        raise UnsupportedError(
            node="graph",
            op="target",
            reason=f"target '{target.name}' has {target.activations.dtype} activations",
            remedy="choose a target with int8 or float32 activations; `sgsc-edge targets` lists them",
        )


def _is_float(target: Target | None) -> bool:
    return target is not None and target.activations.dtype == "float32"


def _check_float(network: Network) -> None:
    """Refuse quantizers where the device computes in float32."""
    for layer in network.layers:
        if layer.op in ("QuantizeLinear", "DequantizeLinear"):
            raise layer.refusal(
                "the target computes in float32, and would compute another model than these integers",
                "choose a target with int8 activations, or lower the float model",
            )


def _as_it_is(network: Network) -> Network:
    """A network in float32: no value needs parameters."""
    return network


def _network(model: onnx.ModelProto | Path, name: str | None) -> Network:
    if isinstance(model, onnx.ModelProto):
        check_model(model)
    else:
        model = read_onnx(Path(model))
    return import_model(model, name)


def _lower(
    network: Network, target: Target | None, complete: Callable[[Network], Network]
) -> tuple[ir.Graph | None, list[Refusal]]:
    """The graph where nothing is refused, and all refusals."""
    network = run_passes(network, (*_FUSIONS, complete))
    graph, refusals = _emit(network, target)
    if graph is None:
        return None, refusals
    illegal = _illegal(graph)
    if illegal:
        return None, illegal
    graph = run_passes(graph, _CLEANUPS, legality.check)
    if target is not None and (refused := version_refusals(graph, target)):
        return None, [_refusal(error) for error in refused]
    return graph, []


def _unsupported(layer: Layer) -> UnsupportedError:
    names = ", ".join(row.op for row in supported_ops())
    return layer.refusal(
        "there is no exact device form of this op",
        _REMEDIES.get(layer.op, f"replace it by supported ops: {names}"),
    )


def _emit(network: Network, target: Target | None) -> tuple[ir.Graph | None, list[Refusal]]:
    """Emit every layer; layers behind a refused one are looked at as far as their inputs are known."""
    emitter = Emitter(network, target)
    refusals: list[Refusal] = []
    output = ""
    try:
        emitter.place_input()
    except UnsupportedError as error:
        refusals.append(_refusal(error))
    for layer in network.layers:
        emitter.begin(layer)
        try:
            _emit_layer(emitter, layer)
        except UnsupportedError as error:
            refusals.append(_refusal(error))
            _place_stand_in(emitter, layer)
    if not refusals:
        try:
            output = emitter.place_result()
        except UnsupportedError as error:
            refusals.append(_refusal(error))
    if refusals:
        return None, refusals
    return _graph(network, emitter, output), []


def _emit_layer(emitter: Emitter, layer: Layer) -> None:
    row = table().get(layer.op)
    if row is None:
        raise _unsupported(layer)
    if all(emitter.is_known(name) for name in layer.inputs if name):
        row.lower(emitter, layer)


def _place_stand_in(emitter: Emitter, layer: Layer) -> None:
    """Give a refused layer's outputs a place, so that the layers behind it can be looked at."""
    for name in layer.outputs:
        value = emitter.network.values.get(name)
        if value is None or value.shape is None or emitter.is_known(name) or min(value.shape, default=1) < 1:
            continue
        quantization = value.quantization or ir.Quantization.per_tensor(1.0, 0)
        emitter.stand_in(replace(value, quantization=quantization))


def _graph(network: Network, emitter: Emitter, output: str) -> ir.Graph:
    def renamed(name: str) -> str:
        return OUTPUT_NAME if name == output else name

    tensors = {renamed(name): replace(tensor, name=renamed(name)) for name, tensor in emitter.tensors.items()}
    nodes = tuple(
        replace(
            node,
            inputs=tuple(renamed(name) for name in node.inputs),
            outputs=tuple(renamed(name) for name in node.outputs),
        )
        for node in emitter.nodes
    )
    graph = ir.Graph(network.name, tensors, nodes, (INPUT_NAME,), (OUTPUT_NAME,), network.metadata)
    return graph.with_nodes(nodes)  # drops constants that no node reads


def _illegal(graph: ir.Graph) -> list[Refusal]:
    """What no op file refuses but the device cannot do, e.g. scales too far apart for its kernels."""
    remedy = "repair or retrain the layer; for scales that are far apart, look for dead channels"
    return [Refusal(found.where, found.op, found.reason, remedy) for found in legality.findings(graph)]


def _refusal(error: UnsupportedError) -> Refusal:
    return Refusal(error.node, error.op, error.reason, error.remedy or "")


def _error(refusals: Sequence[Refusal]) -> UnsupportedError:
    first, *others = refusals
    remedy = first.remedy
    if others:
        shown = "".join(f"\n  also: {refusal}" for refusal in others[:_LISTED])
        more = f"\n  and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
        remedy += shown + more
    return UnsupportedError(node=first.node, op=first.op, reason=first.reason, remedy=remedy)
