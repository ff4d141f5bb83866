"""The whole of shrinking: constants first, then what does not live, then a look at the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sgsc_edge.compression.folding.fold import CompressedModel, FoldedLayer
from sgsc_edge.compression.shrink.constants import Constants
from sgsc_edge.compression.shrink.cut import cut_to
from sgsc_edge.compression.shrink.liveness import Liveness
from sgsc_edge.compression.shrink.operands import Replaced, replace_constant_operands
from sgsc_edge.compression.shrink.report import Kept, LayerChange, ShrinkReport
from sgsc_edge.compression.shrink.slots import Coupling, LayerShape
from sgsc_edge.compression.shrink.values import Values
from sgsc_edge.errors import InternalError


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A smaller model with the same output integers, and what was removed."""

    model: CompressedModel
    report: ShrinkReport


def shrink(compressed: CompressedModel, sample: torch.Tensor) -> Shrunk:
    """Remove the channels whose integers are all zero; the given model is not changed.

    The result computes the same output integers, in torch and on every device runtime that follows one of the
    rounding profiles, and has no more ops. Its layers' modules keep their names.

    Parameters
    ----------
    sample: one input without its batch dimension; any one will do.

    Raises
    ------
    InternalError: the smaller model computes other integers for the sample.
    """
    smaller = compressed.copied()
    layers = _layers(compressed)
    origins = {name: np.arange(len(layer.weight)) for name, layer in layers.items()}
    replaced = Replaced()
    while True:  # a channel that went may leave an operand constant
        values = Values.of(smaller.module, sample)
        again = replace_constant_operands(values, Constants.of(Coupling.of(values)))
        values = Values.of(smaller.module, sample)
        coupling = Coupling.of(values)
        liveness = Liveness.of(coupling, Constants.of(coupling))
        replaced += again
        if not liveness.removes:
            break
        for node in values.layers():
            origins[str(node.target)] = origins[str(node.target)][liveness.lives(node)]
        cut_to(values, liveness)
    if not smaller.agrees_with(compressed, sample):
        raise InternalError("removing dead channels changed the model's output")
    changes = tuple(_change(name, layer, origins[name], liveness) for name, layer in layers.items())
    return Shrunk(smaller, ShrinkReport(changes, replaced.constant_operands, replaced.dropped_ops))


def _layers(compressed: CompressedModel) -> dict[str, FoldedLayer]:
    """The layers by name, in order of execution."""
    targets = [str(node.target) for node in compressed.module.graph.nodes if node.op == "call_module"]
    called = {name: compressed.module.get_submodule(name) for name in targets}
    return {name: module for name, module in called.items() if isinstance(module, FoldedLayer)}


def _change(name: str, layer: FoldedLayer, stays: NDArray[np.int64], liveness: Liveness) -> LayerChange:
    """Compare a layer of the whole model with the channels of it that stay."""
    outputs, columns = layer.weight.shape[:2]
    groups = LayerShape.of(layer).groups
    values = liveness.coupling.values
    node = next((node for node in values.layers() if str(node.target) == name), None)
    if node is None:
        return LayerChange(name, (columns * groups, 0), (outputs, 0), tuple(range(outputs)), ())
    left = values.layer(node)
    inputs = (columns * groups, left.weight.shape[1] * LayerShape.of(left).groups)
    roots = liveness.coupling.roots(node)
    zero = (layer.weight.flatten(1) == 0).all(1).numpy()
    kept = tuple(
        Kept(int(channel), liveness.reasons[int(root)])
        for channel, root in zip(stays, roots, strict=True)
        if zero[channel]
    )
    removed = tuple(int(channel) for channel in np.setdiff1d(np.arange(outputs), stays))
    return LayerChange(name, inputs, (outputs, len(stays)), removed, kept)
