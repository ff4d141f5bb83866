"""Channels as slots, and which of them an op keeps together.

A slot is one index on axis 1 of a node's value: a channel of a feature map, a feature of a vector. Ops that
compute each channel from the same channel of their inputs couple slots: they go together or stay together.
Only an ordinary convolution or dense layer has inputs and outputs that are free of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from sgsc_edge.compression.fold import FoldedLayer
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER, QUANTIZE, Values

ELEMENTWISE = frozenset({"Add", "Mul"})
CHANNELWISE = frozenset(
    {
        *(QUANTIZE, "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
        *("Pad", "Dropout", "Identity"),
    }
)
"""Ops with one input that compute each channel from the same channel."""

MOVING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})
"""Ops that hold the same elements in another shape."""

Slots = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerShape:
    """How a layer's outputs read its inputs.

    Parameters
    ----------
    reads: int64 [O, I/groups], the input channel behind each column of the weight.
    groups: 1 for a layer whose inputs and outputs are free of each other.
    pads: whether it reads padding.
    """

    reads: Slots
    groups: int
    pads: bool

    @staticmethod
    def of(folded: FoldedLayer) -> LayerShape:
        """From a folded layer's geometry and weight."""
        layer = folded.layer
        outputs, columns = folded.weight.shape[:2]
        if isinstance(layer, nn.Linear):
            return LayerShape(_reads(outputs, columns, 1), 1, False)
        padding = layer.padding
        pads = padding != "valid" if isinstance(padding, str) else any(padding)
        return LayerShape(_reads(outputs, columns, layer.groups), layer.groups, pads)


def _reads(outputs: int, columns: int, groups: int) -> Slots:
    group = np.arange(outputs) // (outputs // groups)
    return group[:, np.newaxis] * columns + np.arange(columns)


@dataclass(eq=False)
class Coupling:
    """The slots of a model and the classes that go or stay together.

    Parameters
    ----------
    slots: node -> its slots' numbers, in order of axis 1; empty where the value has none.
    pinned: slots that stay, with the reason.
    sources: node -> for each of its slots the input's channels that it holds; for the ops of ``MOVING`` and
        ReduceMean where that is known.
    irregular: dense layers along the last axis of more than [n, features]; nothing of them is removed.
    """

    values: Values
    slots: dict[fx.Node, Slots] = field(default_factory=dict)
    pinned: dict[int, str] = field(default_factory=dict)
    sources: dict[fx.Node, list[Slots]] = field(default_factory=dict)
    irregular: set[fx.Node] = field(default_factory=set)
    _parent: list[int] = field(default_factory=list)

    @staticmethod
    def of(values: Values) -> Coupling:
        """Couple the slots of a whole model."""
        coupling = Coupling(values)
        for node in values.nodes:
            axis = channel_axis(values, node)
            count = 0 if axis is None else values.shape(node)[axis]
            start = len(coupling._parent)
            coupling.slots[node] = np.arange(start, start + count)
            coupling._parent += range(start, start + count)
        for node in values.nodes:
            _COUPLERS.get(values.kinds[node], _pin_all)(coupling, node)
        coupling.pin(values.output, "it is an output of the model")
        return coupling

    def root(self, slot: int) -> int:
        """The number of a slot's class."""
        while self._parent[slot] != slot:
            self._parent[slot] = self._parent[self._parent[slot]]
            slot = self._parent[slot]
        return slot

    def roots(self, node: fx.Node) -> Slots:
        """The classes of a node's slots, int64 [slots]."""
        return np.array([self.root(int(slot)) for slot in self.slots[node]], np.int64)

    def join(self, first: Iterable[int], second: Iterable[int]) -> None:
        """Put slots in one class, pair by pair."""
        for a, b in zip(first, second, strict=True):
            self._parent[self.root(int(b))] = self.root(int(a))

    def pin(self, node: fx.Node, reason: str) -> None:
        """Let all channels of a value stay."""
        for slot in self.slots[node]:
            self.pinned.setdefault(int(slot), reason)


def channel_axis(values: Values, node: fx.Node) -> int | None:
    """The axis of a value that holds its channels; None where it has none.

    A constant's axes are counted from the right, as it is broadcast to the ops that read it; a single value
    there is no channel of its own.
    """
    shape = values.shape(node)
    if values.kinds[node] != CONSTANT:
        return 1 if len(shape) > 1 else None
    axes = set()
    for user in node.users:
        if values.kinds.get(user) not in ELEMENTWISE:
            return None
        axes.add(len(shape) - (len(values.shape(user)) - 1))
    axis = axes.pop() if len(axes) == 1 else -1
    return axis if axis >= 0 and shape[axis] > 1 else None


# --- one rule an op family ------------------------------------------------------------------------


def _pin_all(coupling: Coupling, node: fx.Node) -> None:
    name = coupling.values.kinds[node]
    for value in (node, *coupling.values.inputs(node)):
        coupling.pin(value, f"{name} '{node.name}' reads all channels together")


def _pin_input(coupling: Coupling, node: fx.Node) -> None:
    coupling.pin(node, "it is an input of the model")


def _channelwise(coupling: Coupling, node: fx.Node) -> None:
    (source,) = coupling.values.inputs(node)
    if len(coupling.slots[source]) != len(coupling.slots[node]):
        _pin_all(coupling, node)
    else:
        coupling.join(coupling.slots[source], coupling.slots[node])


def _elementwise(coupling: Coupling, node: fx.Node) -> None:
    values, out = coupling.values, coupling.slots[node]
    for source in values.inputs(node):
        slots = coupling.slots[source]
        is_constant = values.kinds[source] == CONSTANT
        same_rank = is_constant or len(values.shape(source)) == len(values.shape(node))
        if len(slots) == len(out) and same_rank:
            coupling.join(slots, out)
        elif not _is_one_for_all_channels(values, source, node):
            _pin_all(coupling, node)


def _is_one_for_all_channels(values: Values, constant: fx.Node, node: fx.Node) -> bool:
    """Whether a constant operand is broadcast along the channels, so that it need not be cut."""
    if values.kinds[constant] != CONSTANT:
        return False
    shape = values.shape(constant)
    axis = len(shape) - (len(values.shape(node)) - 1)
    return axis < 0 or shape[axis] == 1


def _concat(coupling: Coupling, node: fx.Node) -> None:
    values = coupling.values
    sources, out = values.inputs(node), coupling.slots[node]
    counts = [len(coupling.slots[source]) for source in sources]
    if sum(counts) == len(out):  # along the channels
        joined = np.concatenate([coupling.slots[source] for source in sources])
        coupling.join(joined, out)
    elif all(count == len(out) for count in counts):  # along another axis
        for source in sources:
            coupling.join(coupling.slots[source], out)
    else:
        _pin_all(coupling, node)


def _layer(coupling: Coupling, node: fx.Node) -> None:
    shape = LayerShape.of(coupling.values.layer(node))
    (source,) = coupling.values.inputs(node)
    if len(coupling.values.shape(source)) != len(coupling.values.layer(node).weight.shape):
        coupling.irregular.add(node)
        _pin_all(coupling, node)
    elif shape.groups > 1:
        inputs, outputs = coupling.slots[source], coupling.slots[node]
        for column in range(shape.reads.shape[1]):
            coupling.join(inputs[shape.reads[:, column]], outputs)


def _moving(coupling: Coupling, node: fx.Node) -> None:
    """Follow the channels through an op that moves or averages elements, by marking them."""
    (source,) = coupling.values.inputs(node)
    found = _follow_marks(coupling.values, source, node) if len(coupling.slots[source]) else None
    if found is None or len(found) != len(coupling.slots[node]):
        _pin_all(coupling, node)
        return
    coupling.sources[node] = found
    for slot, channels in zip(coupling.slots[node], found, strict=True):
        coupling.join([slot] * len(channels), coupling.slots[source][channels])


def _follow_marks(values: Values, source: fx.Node, node: fx.Node) -> list[Slots] | None:
    """For each slot of the node's value the source's channels in it; None where they are mixed."""
    shape = values.shape(source)
    # Exact in float64 as sums of 4096 equal marks, and no mean of different marks is one of them.
    generator = torch.Generator().manual_seed(0)
    marks = torch.randint(1, 2**40, (shape[1],), generator=generator).double()
    marked = marks.reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape).contiguous()
    moved = values.rerun(node, {source: marked})
    if moved.ndim < 2:
        return None
    order = np.argsort(marks.numpy())
    rows = moved[0].reshape(moved.shape[1], -1).numpy()
    places = np.searchsorted(marks.numpy()[order], rows).clip(max=shape[1] - 1)
    channels = order[places]
    if not np.array_equal(marks.numpy()[channels], rows):
        return None
    return [np.unique(row) for row in channels]


_Coupler = Callable[[Coupling, fx.Node], None]
_COUPLERS: Mapping[str, _Coupler] = {
    **dict.fromkeys(CHANNELWISE, _channelwise),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys((*MOVING, "ReduceMean"), _moving),
    "Input": _pin_input,
    CONSTANT: lambda coupling, node: None,
    "Concat": _concat,
    LAYER: _layer,
}
