"""The smaller model: layers, constants and reshapes cut to the slots that stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx, nn

from sgsc_edge.compression.folding.fold import FoldedConstant, FoldedLayer
from sgsc_edge.compression.layers import geometry, set_submodule
from sgsc_edge.compression.shrink.liveness import Liveness
from sgsc_edge.compression.shrink.slots import MOVING, Coupling, LayerShape
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER, Values


def clean(module: fx.GraphModule) -> None:
    """Drop what no output needs any more, with the modules that only it called."""
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()


@dataclass(frozen=True, eq=False)
class _Cut:
    """What stays of a model, read before anything is changed."""

    values: Values
    liveness: Liveness

    def keeps(self, node: fx.Node) -> torch.Tensor:
        """Indices of the slots that stay, int64."""
        return torch.from_numpy(self.liveness.lives(node)).nonzero().flatten()

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's value without its batch, when the others are gone."""
        axis = self.liveness.coupling.axes[node]
        shape = list(self.values.shape(node))
        if axis is not None:
            shape[axis] = len(self.keeps(node))
        return tuple(shape[1:])

    def columns(self, node: fx.Node) -> torch.Tensor:
        """Indices of a layer's inputs that stay, int64."""
        if len(self.liveness.coupling.columns(node)):
            (source,) = self.values.inputs(node)
            return self.keeps(source)
        return torch.arange(self.values.layer(node).weight.shape[1])


def cut_to(values: Values, liveness: Liveness) -> None:
    """Cut a model to what lives, in place."""
    cut = _Cut(values, liveness)
    smaller: dict[str, nn.Module] = {}
    for node in values.nodes:
        stays = liveness.lives(node)
        kind = values.kinds[node]
        if kind == LAYER and stays.any():
            smaller[str(node.target)] = _layer(cut, node)
        elif kind == CONSTANT and stays.any() and not stays.all():
            smaller[str(node.target)] = _constant(cut, node)
    resized = [
        node
        for node in values.nodes
        if values.kinds[node] in MOVING
        and 0 < len(cut.keeps(node)) < len(liveness.coupling.slots[node])
        and _has_fixed_size(cut, node)
    ]
    for node in values.nodes:
        if values.kinds[node] == "Concat":
            _drop_empty_operands(cut, node)
    for node in resized:
        _fix_size(cut, node)
    for name, module in smaller.items():
        set_submodule(values.module, name, module)
    clean(values.module)


def _layer(cut: _Cut, node: fx.Node) -> FoldedLayer:
    """A layer with the inputs and outputs that stay; what is hollow becomes 0."""
    folded = cut.values.layer(node)
    (source,) = cut.values.inputs(node)
    weight, bias = folded.weight.clone(), torch.from_numpy(cut.liveness.bias(node)).to(torch.int32)
    hollow = torch.from_numpy(cut.liveness.unneeded(node))
    weight[hollow], bias[hollow] = 0, 0
    if LayerShape.of(folded).groups == 1 and len(cut.liveness.coupling.columns(node)):
        weight[:, torch.from_numpy(cut.liveness.unneeded(source))] = 0
    return part_of(folded, weight, bias, outputs=cut.keeps(node), inputs=cut.columns(node))


def part_of(
    folded: FoldedLayer,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    outputs: torch.Tensor,
    inputs: torch.Tensor,
) -> FoldedLayer:
    """Some channels of a layer, in some order.

    Parameters
    ----------
    weight, bias: of the whole layer, in place of its own.
    outputs, inputs: int64, indices of the channels.
    """
    groups = LayerShape.of(folded).groups
    columns = weight[:, inputs] if groups == 1 else weight
    tensors = {
        "weight": columns[outputs].contiguous(),
        "bits": folded.bits[outputs],
        "scale": folded.scale[outputs],
        "bias": bias[outputs],
        "bias_scale": folded.bias_scale[outputs],
    }
    layer = geometry(folded.layer)
    if isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = len(inputs), len(outputs)
    else:
        layer.in_channels, layer.out_channels = len(inputs), len(outputs)
        layer.groups = max(groups * len(outputs) // len(folded.weight), 1)
    return FoldedLayer(layer, tensors)


def _constant(cut: _Cut, node: fx.Node) -> FoldedConstant:
    """A constant operand with the channels that stay."""
    return part_of_constant(cut.liveness.coupling, node, cut.keeps(node))


def part_of_constant(coupling: Coupling, node: fx.Node, channels: torch.Tensor) -> FoldedConstant:
    """Some channels (int64, indices) of a constant operand, in some order."""
    folded = coupling.values.module.get_submodule(str(node.target))
    assert isinstance(folded, FoldedConstant)
    axis = coupling.axes[node]
    assert axis is not None  # it has slots
    value = folded.value.index_select(axis, channels).contiguous()
    return FoldedConstant(value, folded.scale, folded.zero_point)


def _drop_empty_operands(cut: _Cut, node: fx.Node) -> None:
    """Join only what is left; what is left alone stands for the whole."""
    sources = cut.values.inputs(node)
    left = [
        source for source in sources if len(cut.keeps(source)) or not len(cut.liveness.coupling.slots[source])
    ]
    if not left or len(left) == len(sources):
        return
    if len(left) == 1:
        node.replace_all_uses_with(left[0])
    elif node.args:
        node.args = (left, *node.args[1:])
    else:
        node.kwargs = {**node.kwargs, "tensors": left}


def _has_fixed_size(cut: _Cut, node: fx.Node) -> bool:
    """Whether a reshape would not make its smaller shape of its smaller input."""
    (source,) = cut.values.inputs(node)
    try:
        made = cut.values.rerun(node, {source: torch.zeros(2, *cut.shape(source))})
    except RuntimeError:  # the sizes do not fit
        return True
    return tuple(made.shape) != (2, *cut.shape(node))


def _fix_size(cut: _Cut, node: fx.Node) -> None:
    """Let a reshape whose sizes are written into the code make the smaller shape."""
    (source,) = cut.values.inputs(node)
    with node.graph.inserting_before(node):
        fixed = node.graph.call_method("reshape", (source, (-1, *cut.shape(node))))
    node.replace_all_uses_with(fixed)
