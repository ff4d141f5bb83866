"""What is stored of a network for the channels that live: the one place where weights and bytes are counted.

Channels that an op keeps together (both sides of an Add, a depthwise channel's input and output, a group, a
flattened map, an attention head) form one *class*: it is stored while one of them lives, and leaves the files
when all are 0. The classes are those of ``shrink``, which makes the smaller files, so the bytes here are the
bytes there. A row of a table is a class of its own: its place never leaves, its bits do where rows are
packed.

A layer is stored once for every call, since the scales of what it reads decide its bias.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from sgsc_edge.compression.folding.fold import FoldedConstant, fold
from sgsc_edge.compression.folding.integers import FoldedNorm
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.shrink.slots import Coupling, LayerShape
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER, TABLE, Values
from sgsc_edge.size import ONNX_SCALE_BYTES, SCALE_BYTES, WIDE_BITS, Storage, packs

Integers = NDArray[np.int64]
Alive = NDArray[np.bool_]
"""Which classes are stored, bool [classes]."""

UNITS = 8
"""Bits in a byte: what sizes are counted in."""

_COUPLINGS: WeakKeyDictionary[QuantizedModel, Coupling] = WeakKeyDictionary()
_BOOKS: WeakKeyDictionary[QuantizedModel, Books] = WeakKeyDictionary()


def coupling_of(model: QuantizedModel) -> Coupling:
    """Which channels belong together in a model; found once."""
    if model not in _COUPLINGS:
        _COUPLINGS[model] = Coupling.of(Values.of(fold(model).module, model.zeros))
    return _COUPLINGS[model]


def scale_bytes(storages: Mapping[str, Storage]) -> int:
    """Bytes of the one scale of a constant beside layers of these storages; C code has it in its calls."""
    if packs(storages.values()):
        return 0
    return ONNX_SCALE_BYTES if any(storage.onnx for storage in storages.values()) else SCALE_BYTES


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, and how much is stored for it.

    Parameters
    ----------
    layer: the layer's name; of a BatchNorm on its own, which has no mask and no choice of a storage, "".
    outputs: int64 [O], the class of each output channel; of a table, of each row.
    inputs: int64 [I], the class of each input channel; empty where the inputs are no channels.
    reads: inputs of one output that are stored whatever lives; None where only living inputs are.
    kernel: weights for one input and one output.
    table: whether these are the rows of a table, which keep their places.
    """

    layer: str
    outputs: Integers
    inputs: Integers
    reads: int | None
    kernel: int
    table: bool = False

    def living_outputs(self, alive: Alive) -> int:
        """Output channels that are stored."""
        return int(alive[self.outputs].sum())

    def living_inputs(self, alive: Alive) -> int:
        """Input channels that are stored."""
        return int(alive[self.inputs].sum()) if len(self.inputs) else self.reads or 0

    def each(self, alive: Alive) -> int:
        """Weights of one output that are stored."""
        return self.kernel * (int(alive[self.inputs].sum()) if self.reads is None else self.reads)

    def storage(self, storages: Mapping[str, Storage]) -> Storage:
        """How it is stored where the layers are so."""
        if self.layer:
            return storages[self.layer]
        others = storages.values()
        if packs(others):
            return Storage.packing((WIDE_BITS,) * len(self.outputs))
        return Storage(onnx=any(other.onnx for other in others))

    def fixed_bits(self, storage: Storage, widths: Integers) -> int:
        """What it costs however many channels it has.

        Its last byte is filled up; it counts as if there were as much to fill as there can be.
        """
        unused = UNITS - 1 if storage.packed else int((widths % UNITS).max())
        places = len(self.outputs) * storage.channel_bits if self.table else 0
        return UNITS * storage.layer_bytes + unused + places

    def bits(self, storage: Storage, alive: Alive, weighted: Integers | None = None) -> int:
        """Stored bits of weights, biases and scales; ``weighted``: weights of channels at these bits [O]."""
        widths, living = np.array(storage.widths(len(self.outputs))), alive[self.outputs]
        channels = 0 if self.table else int(living.sum()) * storage.channel_bits
        weights = int((widths if weighted is None else weighted)[living].sum()) * self.each(alive)
        return weights + channels + self.fixed_bits(storage, widths)


@dataclass(frozen=True)
class LayerStored:
    """What is stored of a layer.

    Parameters
    ----------
    inputs, outputs: channels; where it is called more than once, the most inputs.
    weights: in each of its calls.
    """

    inputs: int
    outputs: int
    weights: tuple[int, ...]

    def bytes(self, storage: Storage) -> int:
        """Of weights, biases and scales, in all calls."""
        return sum(storage.bytes(weights, self.outputs) for weights in self.weights)


class Books:
    """The classes of a model, and what each layer and constant stores of them.

    Attributes
    ----------
    names: by node of the trained graph, the names of the layers that are called there.
    size: number of classes.
    classes: by node, int64 [slots], the class of each of its channels.
    rows: by the node of a table, int64 [rows], the class of each row.
    calls: by node, of layers, lone BatchNorms and tables, in order.
    constant_bytes: of constants and LayerNorms, whatever lives, without scales.
    constant_scales: constants with a scale.
    per_class: int64 [classes], bytes of constants that leave with each class.
    """

    def __init__(self, model: QuantizedModel) -> None:
        self.coupling = coupling_of(model)
        self.values = self.coupling.values
        modules = dict(model.module.named_modules())
        self.names = {
            node.name: str(node.target)
            for node in model.module.graph.nodes
            if node.op == "call_module" and isinstance(modules[str(node.target)], QuantLayer)
        }
        self._join_calls()
        roots = {node: self.coupling.roots(node) for node in self.values.nodes}
        numbers, inverse = np.unique(np.concatenate([*roots.values()]), return_inverse=True)
        ends = np.cumsum([len(found) for found in roots.values()])
        self.classes: dict[fx.Node, Integers] = dict(zip(roots, np.split(inverse, ends[:-1]), strict=True))
        self.size = len(numbers)
        self.rows: dict[fx.Node, Integers] = {}
        for node in self.values.nodes:
            if self.values.kinds[node] == TABLE:
                self.rows[node] = self.size + np.arange(len(self.values.table(node).weight))
                self.size += len(self.rows[node])
        self.calls: dict[str, Call] = {}
        self.constant_bytes = self.constant_scales = 0
        self.per_class = np.zeros(self.size, np.int64)
        for node in self.values.nodes:
            if self.values.kinds[node] == LAYER:
                self.calls[node.name] = self._call(node)
            elif self.values.kinds[node] == TABLE:
                self.calls[node.name] = self._table(node)
            elif self.values.kinds[node] == CONSTANT:
                self._constant(node)
            elif self.values.kinds[node] == "LayerNormalization":
                self._norm(node)

    @staticmethod
    def of(model: QuantizedModel) -> Books:
        """The books of a model; made once."""
        if model not in _BOOKS:
            _BOOKS[model] = Books(model)
        return _BOOKS[model]

    def masked(self) -> Iterator[fx.Node]:
        """The calls of layers whose channels have masks; a BatchNorm on its own has none."""
        return (node for node in self.values.layers() if node.name in self.names)

    def shape(self, node: fx.Node) -> LayerShape:
        """How a layer's outputs read its inputs."""
        return LayerShape.of(self.values.layer(node))

    def columns(self, node: fx.Node) -> Integers:
        """The classes of a layer's inputs, int64 [I]; empty where they are no channels."""
        (source,) = self.values.inputs(node)
        return self.classes[source][: len(self.coupling.columns(node))]

    @cached_property
    def members(self) -> dict[str, Integers]:
        """Layer name -> int64 [O], the class of each of its channels; tables come last."""
        calls = sorted(self.calls.values(), key=lambda call: call.table)
        return {call.layer: call.outputs for call in calls if call.layer}

    def living(self, masks: Mapping[str, torch.Tensor], *, packs: bool) -> Alive:
        """The classes that are stored.

        Parameters
        ----------
        masks: layer name -> [O], 0 for channels that are gone.
        packs: whether rows of tables are packed, so that their bits can leave.
        """
        alive = self.fixed(packs=packs)
        for name, classes in self.members.items():
            alive[classes[masks[name].detach().numpy() > 0]] = True
        return alive

    def stored(self, alive: Alive) -> dict[str, LayerStored]:
        """What is stored of every layer, by its name."""
        calls = defaultdict(list)
        for call in self.calls.values():
            if call.layer:
                calls[call.layer].append(call)
        return {
            name: LayerStored(
                max(call.living_inputs(alive) for call in own),
                own[0].living_outputs(alive),
                tuple(call.living_outputs(alive) * call.each(alive) for call in own),
            )
            for name, own in calls.items()
        }

    def bits(
        self,
        storages: Mapping[str, Storage],
        alive: Alive,
        widths: Mapping[str, Integers] | None = None,
    ) -> int:
        """Stored bits of the whole network.

        Parameters
        ----------
        storages: by layer name.
        widths: by layer name, int64 [O], bits that weights count instead of their storage's.
        """
        own = {} if widths is None else widths
        layers = sum(
            call.bits(call.storage(storages), alive, own.get(call.layer)) for call in self.calls.values()
        )
        constants = self.constant_bytes + int(self.per_class[alive].sum())
        return layers + UNITS * (constants + self.constant_scales * scale_bytes(storages))

    def fixed(self, *, packs: bool = False) -> Alive:
        """The classes that never leave, bool [classes]; a new array.

        Those are the pinned ones, and those in which an op makes something else of 0 (a BatchNorm or an Add
        of constants on its own): whether their constants can leave is known at the end only. Rows of tables
        leave where they are packed.
        """
        fixed = self._fixed.copy()
        if not packs:
            for rows in self.rows.values():
                fixed[rows] = True
        return fixed

    @cached_property
    def _fixed(self) -> Alive:
        fixed = np.zeros(self.size, np.bool_)
        for node in self.values.nodes:
            pinned = [int(slot) in self.coupling.pinned for slot in self.coupling.slots[node]]
            fixed[self.classes[node][pinned]] = True
            if node.name not in self.names and node.op != "placeholder":
                fixed[self.classes[node][self._revives(node)]] = True
        return fixed

    def _join_calls(self) -> None:
        """A layer that is called twice has one mask for both."""
        calls = defaultdict(list)
        for node in self.masked():
            calls[self.names[node.name]].append(node)
        for first, *others in calls.values():
            for other in others:
                self.coupling.join(self.coupling.slots[first], self.coupling.slots[other])

    def _call(self, node: fx.Node) -> Call:
        weight, inputs = self.values.layer(node).weight, self.columns(node)
        return Call(
            layer=self.names.get(node.name, ""),
            outputs=self.classes[node],
            inputs=inputs,
            # The outputs of a group are stored together with all its inputs.
            reads=weight.shape[1] if self.shape(node).groups > 1 or not len(inputs) else None,
            kernel=math.prod(weight.shape[2:]),
        )

    def _table(self, node: fx.Node) -> Call:
        width = self.values.table(node).weight.shape[1]
        no_inputs = np.zeros(0, np.int64)
        return Call(self.names[node.name], self.rows[node], no_inputs, width, kernel=1, table=True)

    def _norm(self, node: fx.Node) -> None:
        norm = self.values.module.get_submodule(str(node.target))
        assert isinstance(norm, FoldedNorm)
        for value in norm.parameters_in_int8().values():
            self.constant_bytes += value.numel()
            self.constant_scales += 1

    def _constant(self, node: fx.Node) -> None:
        constant = self.values.module.get_submodule(str(node.target))
        assert isinstance(constant, FoldedConstant)
        self.constant_scales += 1
        axis = self.coupling.axes[node]
        if axis is None:
            self.constant_bytes += constant.value.numel()
        else:
            each = constant.value.numel() // constant.value.shape[axis]
            self.per_class += np.bincount(self.classes[node], minlength=self.size) * each

    def _revives(self, node: fx.Node) -> NDArray[np.bool_]:
        """The channels in which an op makes something else of zeros, bool [slots]."""
        count = len(self.coupling.slots[node])
        # Behind a Softmax are products only, with values that are 0 in these heads (see ``slots``).
        if self.values.kinds[node] in (CONSTANT, "Softmax") or not count:
            return np.zeros(count, np.bool_)
        zeros = {
            source: torch.zeros(self.values.shape(source))
            for source in self.values.inputs(node)
            if self.values.kinds[source] != CONSTANT
        }
        made = self.values.rerun(node, zeros)
        axis = self.coupling.axes[node]
        assert axis is not None  # it has slots
        rows: NDArray[np.bool_] = (made != 0).movedim(axis, 0).flatten(1).any(1).numpy()
        return rows
