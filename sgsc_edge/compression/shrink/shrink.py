"""The whole of shrinking: constants first, then what does not live, then a look at the result."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import fx

from sgsc_edge.compression.fold import CompressedModel, FixedQuantizer, FoldedLayer
from sgsc_edge.compression.shrink.constants import Constants
from sgsc_edge.compression.shrink.liveness import Liveness
from sgsc_edge.compression.shrink.operands import Replaced, replace_constant_operands
from sgsc_edge.compression.shrink.report import Kept, LayerChange, ShrinkReport
from sgsc_edge.compression.shrink.rewrite import remove
from sgsc_edge.compression.shrink.slots import Coupling
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
    sample: one input without its batch dimension, float32; any one will do.

    Raises
    ------
    InternalError: the smaller model computes other integers for the sample.
    """
    smaller = _copied(compressed)
    values = Values.of(smaller.module, sample)
    replaced = replace_constant_operands(values, Constants.of(Coupling.of(values)))
    values = Values.of(smaller.module, sample)
    coupling = Coupling.of(values)
    liveness = Liveness.of(coupling, Constants.of(coupling))
    report = _report(compressed, liveness, replaced)
    remove(values, liveness)
    _check(compressed, smaller, sample)
    return Shrunk(smaller, report)


def _copied(compressed: CompressedModel) -> CompressedModel:
    names = {module: name for name, module in compressed.module.named_modules()}
    module = copy.deepcopy(compressed.module)

    def end(quantizer: FixedQuantizer) -> FixedQuantizer:
        copied = module.get_submodule(names[quantizer])
        assert isinstance(copied, FixedQuantizer)
        return copied

    return replace(compressed, module=module, input=end(compressed.input), output=end(compressed.output))


def _check(compressed: CompressedModel, smaller: CompressedModel, sample: torch.Tensor) -> None:
    batch = torch.stack([sample, sample.flip(-1)])
    with torch.no_grad():
        before, after = (model.output.integers(model.module(batch)) for model in (compressed, smaller))
    if not torch.equal(before, after):
        raise InternalError("removing dead channels changed the model's output")


def _report(compressed: CompressedModel, liveness: Liveness, replaced: Replaced) -> ShrinkReport:
    """Compare the layers of the whole model with what lives."""
    values = liveness.coupling.values
    nodes = {str(node.target): node for node in values.layers()}
    changes = [
        _change(name, layer, nodes, liveness)
        for name, layer in compressed.module.named_modules()
        if isinstance(layer, FoldedLayer)
    ]
    return ShrinkReport(tuple(changes), replaced.constant_operands, replaced.dropped_ops)


def _change(name: str, layer: FoldedLayer, nodes: Mapping[str, fx.Node], liveness: Liveness) -> LayerChange:
    outputs = len(layer.weight)
    inputs = layer.layer.in_channels if isinstance(layer.layer, torch.nn.Conv2d) else layer.layer.in_features
    node = nodes.get(name)
    coupling = liveness.coupling
    if node is None:  # behind a constant operand
        return LayerChange(name, (inputs, 0), (outputs, 0), tuple(range(outputs)), ())
    if node in coupling.irregular:
        return LayerChange(name, (inputs, inputs), (outputs, outputs), (), ())
    (source,) = coupling.values.inputs(node)
    stays = liveness.lives(node)
    zero = (layer.weight.flatten(1) == 0).all(1).numpy()
    kept = tuple(
        Kept(int(channel), liveness.reasons[int(coupling.roots(node)[channel])])
        for channel in np.flatnonzero(stays & zero)
    )
    removed = tuple(int(channel) for channel in np.flatnonzero(~stays))
    inputs_left = int(liveness.lives(source).sum()) if stays.any() else 0
    return LayerChange(name, (inputs, inputs_left), (outputs, int(stays.sum())), removed, kept)
