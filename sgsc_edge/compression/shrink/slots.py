"""Channels as slots, and which of them an op keeps together.

A slot is one index on the channel axis of a node's value: a channel of a feature map [n, C, H, W], a feature
of a position [n, T, C], an attention head [n, H, T, C/H]. Where the axis is, the op that makes the channels
says, and ops that move elements take it along. Ops that compute each channel from the same channel of their
inputs couple slots: they go together or stay together. Only an ordinary convolution or dense layer has inputs
and outputs that are free of each other.

Where features become heads, the features of a head are one class; products of heads couple query, key and
value, so that a head goes as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from sgsc_edge.compression.folding.fold import FoldedLayer
from sgsc_edge.compression.folding.integers import FoldedSoftmax
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER, QUANTIZE, TABLE, Values

ELEMENTWISE = frozenset({"Add", "Mul"})
_WINDOWED = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "Pad"})
"""Ops that go by positions behind axis 1, and so take the channels to lie there."""

CHANNELWISE = frozenset({*_WINDOWED, *(QUANTIZE, "Relu", "Clip", "Gelu", "Dropout", "Identity")})
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
    axes: node -> the axis of its value that holds its channels; None where it has none.
    slots: node -> its slots' numbers, in order of that axis; empty where the value has none.
    pinned: slots that stay, with the reason.
    sources: node -> for each of its slots the input's channels that it holds; for the ops of ``MOVING`` and
        ReduceMean where that is known.
    """

    values: Values
    axes: dict[fx.Node, int | None] = field(default_factory=dict)
    slots: dict[fx.Node, Slots] = field(default_factory=dict)
    pinned: dict[int, str] = field(default_factory=dict)
    sources: dict[fx.Node, list[Slots]] = field(default_factory=dict)
    _parent: list[int] = field(default_factory=list)

    @staticmethod
    def of(values: Values) -> Coupling:
        """Couple the slots of a whole model."""
        coupling = Coupling(values)
        for node in values.nodes:
            coupling.axes[node] = coupling._axis(node)
        for node in values.nodes:
            if values.kinds[node] == CONSTANT:
                coupling.axes[node] = _axis_of_constant(coupling, node)
        for node in values.nodes:
            axis = coupling.axes[node]
            count = 0 if axis is None else values.shape(node)[axis]
            start = len(coupling._parent)
            coupling.slots[node] = np.arange(start, start + count)
            coupling._parent += range(start, start + count)
        for node in values.nodes:
            _COUPLERS.get(values.kinds[node], _pin_all)(coupling, node)
        coupling.pin(values.output, "it is an output of the model")
        return coupling

    def _axis(self, node: fx.Node) -> int | None:
        """The axis of a value's channels, given those of the values before it; of a constant, none yet."""
        values, rank = self.values, len(self.values.shape(node))
        kind, sources = values.kinds[node], values.inputs(node)
        if rank < 2 or kind == CONSTANT:
            return None
        if kind == TABLE or (kind == LAYER and isinstance(values.layer(node).layer, nn.Linear)):
            return rank - 1
        if kind == "MatMul":
            return _axis_of_product(self, node)
        if kind in MOVING or kind == "ReduceMean":
            (source,) = sources
            axis = self.axes[source]
            found = None if axis is None else _follow_marks(values, source, axis, node)
            if found is not None:
                self.sources[node] = found[1]
            return 1 if found is None else found[0]
        if kind in (LAYER, "Input"):
            return 1
        carriers = [
            source
            for source in sources
            if values.kinds[source] != CONSTANT and len(values.shape(source)) == rank
        ]
        return self.axes[carriers[0]] if carriers else 1

    def columns(self, node: fx.Node) -> Slots:
        """The slots that a layer's inputs are, in order; none where it reads along another axis."""
        (source,) = self.values.inputs(node)
        dense = isinstance(self.values.layer(node).layer, nn.Linear)
        axis = len(self.values.shape(source)) - 1 if dense else 1
        return self.slots[source] if self.axes[source] == axis else self.slots[source][:0]

    def root(self, slot: int) -> int:
        """The number of a slot's class."""
        while self._parent[slot] != slot:
            self._parent[slot] = self._parent[self._parent[slot]]
            slot = self._parent[slot]
        return slot

    def roots(self, node: fx.Node) -> Slots:
        """The classes of a node's slots, int64 [slots]."""
        return self.classes(self.slots[node])

    def classes(self, slots: Slots) -> Slots:
        """The classes of slots, int64 [slots]."""
        return np.array([self.root(int(slot)) for slot in slots], np.int64)

    def join(self, first: Iterable[int], second: Iterable[int]) -> None:
        """Put slots in one class, pair by pair."""
        for a, b in zip(first, second, strict=True):
            self._parent[self.root(int(b))] = self.root(int(a))

    def pin(self, node: fx.Node, reason: str) -> None:
        """Let all channels of a value stay."""
        for slot in self.slots[node]:
            self.pinned.setdefault(int(slot), reason)


def _axis_of_constant(coupling: Coupling, node: fx.Node) -> int | None:
    """The axis of a constant that is broadcast to the channels of all ops that read it.

    Its axes are counted from the right; a single value there is no channel of its own.
    """
    values, shape = coupling.values, coupling.values.shape(node)
    axes = set()
    for user in node.users:
        if values.kinds.get(user) not in ELEMENTWISE:
            return None
        axes.add(_axis_from_right(coupling, user, len(shape)))
    axis = axes.pop() if len(axes) == 1 else None
    return axis if axis is not None and axis >= 0 and shape[axis] > 1 else None


def _axis_from_right(coupling: Coupling, node: fx.Node, rank: int) -> int | None:
    """The axis of a value of some rank that is broadcast to a node's channels; negative where it has none."""
    axis = coupling.axes[node]
    return None if axis is None else rank + axis - len(coupling.values.shape(node))


# --- one rule an op family ------------------------------------------------------------------------


def _pin_all(coupling: Coupling, node: fx.Node) -> None:
    name = coupling.values.kinds[node]
    for value in (node, *coupling.values.inputs(node)):
        coupling.pin(value, f"{name} '{node.name}' reads all channels together")


def _pin_input(coupling: Coupling, node: fx.Node) -> None:
    coupling.pin(node, "it is an input of the model")


def _pin_table(coupling: Coupling, node: fx.Node) -> None:
    coupling.pin(node, "it is a column of a table")


def _channelwise(coupling: Coupling, node: fx.Node) -> None:
    (source,) = coupling.values.inputs(node)
    windowed = coupling.values.kinds[node] in _WINDOWED
    if len(coupling.slots[source]) != len(coupling.slots[node]) or (windowed and coupling.axes[source] != 1):
        _pin_all(coupling, node)
    else:
        coupling.join(coupling.slots[source], coupling.slots[node])


def _elementwise(coupling: Coupling, node: fx.Node) -> None:
    values, out = coupling.values, coupling.slots[node]
    rank = len(values.shape(node))
    for source in values.inputs(node):
        slots = coupling.slots[source]
        is_constant = values.kinds[source] == CONSTANT
        same_axis = len(values.shape(source)) == rank and coupling.axes[source] == coupling.axes[node]
        if len(slots) == len(out) and (is_constant or same_axis):
            coupling.join(slots, out)
        elif not _is_one_for_all_channels(coupling, source, node):
            _pin_all(coupling, node)


def _is_one_for_all_channels(coupling: Coupling, constant: fx.Node, node: fx.Node) -> bool:
    """Whether a constant operand is broadcast along the channels, so that it need not be cut."""
    if coupling.values.kinds[constant] != CONSTANT:
        return False
    shape = coupling.values.shape(constant)
    axis = _axis_from_right(coupling, node, len(shape))
    return axis is None or axis < 0 or shape[axis] == 1


def _concat(coupling: Coupling, node: fx.Node) -> None:
    values = coupling.values
    sources, out = values.inputs(node), coupling.slots[node]
    counts = [len(coupling.slots[source]) for source in sources]
    if any(coupling.axes[source] != coupling.axes[node] for source in sources):
        _pin_all(coupling, node)
    elif sum(counts) == len(out):  # along the channels
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
    inputs, outputs = coupling.columns(node), coupling.slots[node]
    if not len(inputs):
        coupling.pin(source, f"'{node.name}' reads along another axis than its channels'")
    elif shape.groups > 1:
        for column in range(shape.reads.shape[1]):
            coupling.join(inputs[shape.reads[:, column]], outputs)


def _axis_of_product(coupling: Coupling, node: fx.Node) -> int | None:
    """Heads stay where they are; of two matrices the rows of the first, or the columns of the second."""
    values, rank = coupling.values, len(coupling.values.shape(node))
    first, second = (_from_right(coupling, source) for source in values.inputs(node))
    if first == second and first is not None and first < -2:
        return rank + first
    if first == -2:
        return rank - 2
    return rank - 1 if second == -1 else None


def _from_right(coupling: Coupling, node: fx.Node) -> int | None:
    """A value's channel axis, counted from the right: -1 is the last."""
    return _axis_from_right(coupling, node, 0)


def _product(coupling: Coupling, node: fx.Node) -> None:
    """Join heads, or the one matrix whose channels remain channels; what is summed over stays."""
    values, out = coupling.values, coupling.slots[node]
    first, second = values.inputs(node)
    places = [_from_right(coupling, source) for source in (first, second)]
    if places[0] == places[1] and places[0] is not None and places[0] < -2:
        going = [first, second]
    else:
        going = [first] if places[0] == -2 else [second] if places[1] == -1 else []
    for source in (first, second):
        if source in going and len(coupling.slots[source]) == len(out):
            coupling.join(coupling.slots[source], out)
        else:
            coupling.pin(source, f"MatMul '{node.name}' sums over it")


def _softmax(coupling: Coupling, node: fx.Node) -> None:
    """Zeros become equal shares, head by head; multiplied by values of 0 they do no harm."""
    values = coupling.values
    (source,) = values.inputs(node)
    called = values.module.get_submodule(str(node.target)) if node.op == "call_module" else None
    along_last = isinstance(called, FoldedSoftmax)
    waiting = list(node.users)
    while waiting:
        reader = waiting.pop()
        kind = values.kinds.get(reader)
        if kind in (QUANTIZE, "Dropout", "Identity"):
            waiting += reader.users
        elif kind != "MatMul":
            _pin_all(coupling, node)
            return
    if not along_last or coupling.axes[source] == len(values.shape(node)) - 1:
        _pin_all(coupling, node)
    else:
        coupling.join(coupling.slots[source], coupling.slots[node])


def _moving(coupling: Coupling, node: fx.Node) -> None:
    """Follow the channels through an op that moves or averages elements."""
    (source,) = coupling.values.inputs(node)
    found = coupling.sources.get(node)
    if found is None:
        _pin_all(coupling, node)
        return
    for slot, channels in zip(coupling.slots[node], found, strict=True):
        coupling.join([slot] * len(channels), coupling.slots[source][channels])


def _follow_marks(
    values: Values, source: fx.Node, axis: int, node: fx.Node
) -> tuple[int, list[Slots]] | None:
    """The channel axis of a node's value, and for each of its slots the source's channels in it.

    It is the first axis along which channels stay apart, or else axis 1 with all of them in one. None where
    they are mixed.

    Parameters
    ----------
    axis: of the source's channels.
    """
    shape = values.shape(source)
    # Exact in float64 as sums of 4096 equal marks, and no mean of different marks is one of them.
    generator = torch.Generator().manual_seed(0)
    marks = torch.randint(1, 2**40, (shape[axis],), generator=generator).double()
    aligned = marks.reshape(-1, *[1] * (len(shape) - 1 - axis))
    moved = values.rerun(node, {source: aligned.expand(shape).contiguous()})
    if moved.ndim < 2:
        return None
    order = np.argsort(marks.numpy())
    elements = moved[0].numpy()
    places = np.searchsorted(marks.numpy()[order], elements).clip(max=len(marks) - 1)
    channels = order[places]
    if not np.array_equal(marks.numpy()[channels], elements):
        return None
    kept: list[list[Slots]] = []
    for candidate in range(1, moved.ndim):
        rows = np.moveaxis(channels, candidate - 1, 0).reshape(moved.shape[candidate], -1)
        kept.append([np.unique(row) for row in rows])
        if _apart(kept[-1], len(marks)):
            return candidate, kept[-1]
    return 1, kept[0]


def _apart(held: list[Slots], channels: int) -> bool:
    """Whether not all channels are in one class, where those that one slot holds are together."""
    if len(held) == 1:
        return False
    parent = np.arange(channels)

    def root(channel: int) -> int:
        while parent[channel] != channel:
            channel = int(parent[channel])
        return channel

    for own in held:
        for channel in own:
            parent[root(int(channel))] = root(int(own[0]))
    return len({root(channel) for channel in range(channels)}) > 1


_Coupler = Callable[[Coupling, fx.Node], None]
_COUPLERS: Mapping[str, _Coupler] = {
    **dict.fromkeys(CHANNELWISE, _channelwise),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys((*MOVING, "ReduceMean"), _moving),
    "Input": _pin_input,
    CONSTANT: lambda coupling, node: None,
    "Concat": _concat,
    LAYER: _layer,
    TABLE: _pin_table,
    "MatMul": _product,
    "Softmax": _softmax,
}
