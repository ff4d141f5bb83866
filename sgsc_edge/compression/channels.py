"""Which channels of which value live, followed through the network.

Each layer says how alive its output channels are, 1 or 0 (or between, where gradients shall flow); this
module follows that through activations, pools, Add, Concat and flatten to the inputs of the layers behind.
A channel counts as dead only where its value is exactly 0; wherever an op could make something else of it,
it counts as alive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from sgsc_edge.compression.books import Books, Call, coupling_of
from sgsc_edge.compression.layers import QUANTIZER_PREFIX, QuantizedModel, QuantLayer
from sgsc_edge.compression.shrink.slots import Slots
from sgsc_edge.compression.tracing.operators import Table

_KEEP_ZERO = frozenset(
    {
        *("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Pad"),
        *("Dropout", "Identity", "Gelu"),
    }
)
"""Ops that make 0 of 0, channel by channel (a Clip whose range leaves out 0 is refused by lowering)."""


_IN_PLACE = frozenset(
    {*("Relu", "Clip"), *("Flatten", "Reshape", "Squeeze", "Unsqueeze"), *("Dropout", "Identity")}
)
"""Ops that take no RAM for their output."""


@dataclass(frozen=True, eq=False)
class LayerUse:
    """One layer where it is called: its name, module, and the liveness of its inputs and outputs.

    Of a table, outputs are rows and inputs columns.

    ``call`` says what is stored for it. ``inputs`` [I] and ``outputs`` [O] are float32 in 0..1; ``shapes``
    are the values', for a batch of two, the input's with the zeros that lowering pads in front; ``beside``
    are elements of one sample's values that are read later and are neither input nor output.
    """

    name: str
    layer: QuantLayer
    call: Call
    inputs: torch.Tensor
    outputs: torch.Tensor
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    beside: int

    def activations(self, inputs: int, outputs: int) -> int:
        """Elements of one sample's input and output with so many channels, and of what waits beside them."""
        if self.layer.is_table:
            return self.made(outputs) + self.beside
        read = math.prod(self.shapes[0][1:]) * inputs // len(self.inputs)
        return read + self.made(outputs) + self.beside

    def made(self, outputs: int) -> int:
        """Elements of one sample's output with so many channels."""
        made = math.prod(self.shapes[1][1:])
        return made if self.layer.is_table else made * outputs // len(self.outputs)

    def stored_bytes(self, bits: torch.Tensor) -> torch.Tensor:
        """Bytes by the layer's storage, but with channel i at ``bits`` [O] a weight; it follows gradients.

        Channels count as far as they live. With all of a class alive or dead it is what ``books`` counts.
        """
        reads = self.inputs.sum() if self.call.reads is None else self.call.reads
        weights = self.outputs * reads * self.call.kernel
        storage = self.layer.storage
        places = torch.ones_like(self.outputs) if self.layer.is_table else self.outputs
        return (weights * bits + places * storage.channel_bits).sum() / 8 + storage.layer_bytes


def answering(model: QuantizedModel) -> frozenset[str]:
    """Names of the layers whose channels are the model's outputs: no class may be removed."""
    (output,) = (node for node in model.module.graph.nodes if node.op == "output")
    found, pending = set(), list(output.all_input_nodes)
    while pending:
        node = pending.pop()
        called = model.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, QuantLayer):
            found.add(str(node.target))
        else:
            pending.extend(node.all_input_nodes)
    return frozenset(found)


def is_depthwise(layer: QuantLayer) -> bool:
    """Whether each output channel reads one input channel."""
    return _groups(layer) > 1 and layer.weight.shape[1] == 1


def _groups(layer: QuantLayer) -> int:
    return 1 if isinstance(layer.layer, nn.Linear | Table) else layer.layer.groups


def follow(model: QuantizedModel, alive: Mapping[str, torch.Tensor]) -> Iterator[LayerUse]:
    """The layers in order, with the liveness that reaches their inputs.

    Parameters
    ----------
    alive: layer name -> liveness of its own output channels, float32 [O].
    """
    values: dict[str, _Value] = {}
    waiting, structure, calls = _waiting(model), _structure(model), Books.of(model).calls
    for node in model.module.graph.nodes:
        inputs = [values[argument.name] for argument in node.all_input_nodes if argument.name in values]
        if node.name not in model.kinds:
            if inputs and str(node.target).startswith(QUANTIZER_PREFIX):
                values[node.name] = inputs[0]
            continue
        shape, axis, moves = model.shapes[node.name], *structure.get(node.name, (None, None))
        channels = 1 if axis is None else shape[axis]
        called = model.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        beside = sum(values[name].elements for name in waiting.get(node.name, ()))
        if not isinstance(called, QuantLayer):
            values[node.name] = _Value(_through(node, model, inputs, channels, moves), shape)
        elif called.is_table:
            columns, call = torch.ones(channels), calls[node.name]
            yield LayerUse(
                str(node.target), called, call, columns, alive[str(node.target)], (shape, shape), beside
            )
            values[node.name] = _Value(columns, shape)
        else:
            outputs, reads, call = alive[str(node.target)], inputs[0].live, calls[node.name]
            if not len(call.inputs):  # it reads along another axis than the channels'
                reads = torch.ones(called.weight.shape[1] * _groups(called))
            if is_depthwise(called):
                outputs = outputs * reads.repeat_interleave(len(outputs) // len(reads))
            shapes = (_padded(called, inputs[0].shape, shape), shape)
            yield LayerUse(str(node.target), called, call, reads, outputs, shapes, beside)
            values[node.name] = _Value(outputs, shape)


def living_masks(model: QuantizedModel) -> dict[str, torch.Tensor]:
    """The channels that live at present: layer name -> float32 [O], 0 for others."""
    return {name: layer.mask.clone() for name, layer in model.layers()}


def set_masks(model: QuantizedModel, masks: Mapping[str, torch.Tensor]) -> None:
    """Let channels die or live; the ranges of those that come back fit their weights."""
    for name, layer in model.layers():
        layer.quantizer.fit_range(layer.weight, (layer.mask == 0) & (masks[name] > 0))
        layer.set_mask(masks[name])


def _padded(layer: QuantLayer, shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what a kernel reads: with the zeros around it where TFLite's SAME does not mean them."""
    conv = layer.layer
    if isinstance(conv, nn.Linear | Table) or isinstance(conv.padding, str) or not any(conv.padding):
        return shape
    axes = list(
        zip(shape[2:], out[2:], conv.kernel_size, conv.stride, conv.dilation, conv.padding, strict=True)
    )
    totals = [
        max((made - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        for size, made, kernel, stride, dilation, _ in axes
    ]
    same = all(
        made == -(-size // stride) and before == total // 2
        for (size, made, _, stride, _, before), total in zip(axes, totals, strict=True)
    )
    if same:
        return shape
    padded = (size + max(total, before) for (size, *_, before), total in zip(axes, totals, strict=True))
    return (*shape[:2], *padded)


@dataclass(frozen=True, eq=False)
class _Value:
    """Liveness of a value's channels and its shape for a batch of two."""

    live: torch.Tensor
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Of one sample, in channels that live."""
        return math.prod(self.shape[1:]) * int((self.live > 0).sum()) // len(self.live)


@dataclass(frozen=True, eq=False)
class _Moves:
    """Which channels of its input each channel holds, behind an op that moves elements.

    Parameters
    ----------
    held: int64 [channels, most that one holds]; fewer are filled up by repeating.
    cells: how often each input channel follows itself, where that is all; else 0.
    """

    held: torch.Tensor
    cells: int

    @staticmethod
    def of(sources: Sequence[Slots], inputs: int) -> _Moves:
        """From the channels that each one holds, of so many."""
        most = max(map(len, sources))
        held = torch.tensor([[*own, *[own[0]] * (most - len(own))] for own in sources])
        cells, rest = divmod(len(sources), inputs)
        repeats = most == 1 and not rest and torch.equal(held[:, 0], torch.arange(len(held)) // max(cells, 1))
        return _Moves(held, cells if repeats else 0)

    def __call__(self, live: torch.Tensor) -> torch.Tensor:
        """Liveness behind the op; a channel lives as much as the liveliest that it holds."""
        return live.repeat_interleave(self.cells) if self.cells else live[self.held].amax(1)


_STRUCTURES: WeakKeyDictionary[QuantizedModel, Mapping[str, tuple[int | None, _Moves | None]]]
_STRUCTURES = WeakKeyDictionary()


def _structure(model: QuantizedModel) -> Mapping[str, tuple[int | None, _Moves | None]]:
    """For each node the axis of its channels, and where they come from if it moves elements; found once."""
    if model not in _STRUCTURES:
        coupling = coupling_of(model)
        values = coupling.values
        moves = {
            node: _Moves.of(held, len(coupling.slots[values.inputs(node)[0]]))
            for node, held in coupling.sources.items()
        }
        _STRUCTURES[model] = {node.name: (axis, moves.get(node)) for node, axis in coupling.axes.items()}
    return _STRUCTURES[model]


_WAITING: WeakKeyDictionary[QuantizedModel, Mapping[str, frozenset[str]]] = WeakKeyDictionary()


def _waiting(model: QuantizedModel) -> Mapping[str, frozenset[str]]:
    """For each layer's node the values that it neither reads nor makes, and that a later node reads.

    What an op does in place (a fused activation, a reshape) is no value of its own. Found once a model.
    """
    if model in _WAITING:
        return _WAITING[model]
    place: dict[str, str] = {}
    lives: dict[str, tuple[int, int]] = {}
    layers: dict[str, tuple[int, set[str]]] = {}
    for index, node in enumerate(model.module.graph.nodes):
        kind = model.kinds.get(node.name)
        if kind == "Constant" or (kind is None and not str(node.target).startswith(QUANTIZER_PREFIX)):
            continue
        sources = [place[source.name] for source in node.all_input_nodes if source.name in place]
        for source in sources:
            lives[source] = (lives[source][0], index)
        if kind is None and not sources:  # a constant on its grid
            continue
        place[node.name] = sources[0] if kind is None or kind in _IN_PLACE else node.name
        lives.setdefault(place[node.name], (index, index))
        called = model.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(called, QuantLayer) and called.is_table:
            layers[node.name] = (index, {node.name})
        elif isinstance(called, QuantLayer):
            (source,) = node.all_input_nodes
            while source.name not in model.shapes:  # a quantizer
                (source,) = source.all_input_nodes
            read = model.shapes[source.name]
            apart = _padded(called, read, model.shapes[node.name]) != read
            # What is padded apart is read as a copy: the value itself waits if a later node reads it.
            layers[node.name] = (index, {node.name} if apart else {*sources, node.name})
    _WAITING[model] = {
        name: frozenset(
            value for value, (first, last) in lives.items() if first < index < last and value not in own
        )
        for name, (index, own) in layers.items()
    }
    return _WAITING[model]


def _through(
    node: fx.Node, model: QuantizedModel, inputs: list[_Value], channels: int, moves: _Moves | None
) -> torch.Tensor:
    """Liveness of so many channels behind an op that is no layer."""
    kind = model.kinds[node.name]
    lives = [value.live for value in inputs]
    if moves is not None:
        return moves(lives[0])
    if kind in _KEEP_ZERO and len(lives[0]) == channels:
        return lives[0]
    if kind in ("Add", "Mul") and all(len(live) == channels for live in lives):
        # 0 + 0 is 0, and so is 0 times anything.
        return torch.maximum(lives[0], lives[-1]) if kind == "Add" else lives[0] * lives[-1]
    if kind == "MatMul" and len(lives[-1]) == channels:
        return lives[-1] * (lives[0] if len(lives[0]) == channels else 1.0)
    if kind == "Concat" and sum(map(len, lives)) == channels:
        return torch.cat(lives)
    return torch.ones(channels)
