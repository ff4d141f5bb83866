"""What a network takes as stored, as a function of the channels that live.

Channels that an op keeps together (both sides of an Add, a depthwise channel's input and output, a group, a
flattened map, an attention head) form one *class*: it is stored while one of them lives, and leaves the files
when all are 0. The classes are those of ``shrink``, which makes the smaller files, so the bytes here are the
bytes there. A row of a table is a class of its own: its place never leaves, its bits do where rows are
packed.

Classes that all layers see alike are of one *kind*: the channels of a plain layer, those of a residual
stream. With c the number of stored classes of each kind, the size is ``base + l·c + c·P·c / 2`` bits, in
whole numbers: what one channel more or less costs is a row of it, and no walk through the network.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from sgsc_edge.compression.channels import coupling_of
from sgsc_edge.compression.folding.fold import FoldedConstant
from sgsc_edge.compression.folding.integers import FoldedNorm
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.shrink.slots import LayerShape
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER, TABLE
from sgsc_edge.compression.widths.split import splittable
from sgsc_edge.size import ONNX_SCALE_BYTES, SCALE_BYTES, WIDE_BITS, Storage

Integers = NDArray[np.int64]

_LEDGERS: WeakKeyDictionary[QuantizedModel, dict[tuple[Storage, ...], Ledger]] = WeakKeyDictionary()

UNITS = 8
"""Bits in a byte: what the ledger's numbers count."""


@dataclass(frozen=True, eq=False)
class Ledger:
    """Bytes of a network by its classes of channels.

    Parameters
    ----------
    members: layer name -> int64 [O], the class of each of its channels.
    scored: layers whose channels' importance counts for their class. What a grouped layer computes, the
        layers before it have answered for.
    free: layers whose channels may be stored in two widths (see ``split``).
    kinds: int64 [classes], the kind of each class.
    removable: bool [kinds], whether classes of a kind can leave.
    base: bits that never leave.
    linear, pairs: int64 [kinds] and symmetric [kinds, kinds], l and P of the size, in bits.
    outputs: int64 [layers, kinds], output channels of a layer in one class of a kind.
    """

    members: Mapping[str, Integers]
    scored: frozenset[str]
    free: frozenset[str]
    kinds: Integers
    removable: NDArray[np.bool_]
    base: int
    linear: Integers
    pairs: Integers
    outputs: Integers

    @staticmethod
    def of(model: QuantizedModel) -> Ledger:
        """The ledger of a model; made once for each way in which its layers may be stored."""
        known = _LEDGERS.setdefault(model, {})
        storages = tuple(layer.storage for _, layer in model.layers())
        if storages not in known:
            known[storages] = Books(model).close()
        return known[storages]

    def size(self, counts: Integers) -> int:
        """Bytes with so many classes of each kind, int64 [kinds]."""
        return -(-self.units(counts) // UNITS)

    def units(self, counts: Integers) -> int:
        """Bits with so many classes of each kind, int64 [kinds]."""
        return self.base + int(self.linear @ counts) + int(counts @ self.pairs @ counts) // 2

    def slopes(self, counts: Integers) -> Integers:
        """∂ units / ∂ counts, int64 [kinds]; one class less saves ``slope - P[k, k] / 2`` bits."""
        return self.linear + self.pairs @ counts

    def room(self, counts: Integers) -> Integers:
        """How many classes of each kind can leave before a layer would lose its last channel, [kinds]."""
        spare = (self.outputs @ counts - 1)[:, np.newaxis]
        allowed = np.where(self.outputs > 0, spare // np.maximum(self.outputs, 1), counts)
        return np.where(self.removable, np.minimum(allowed.min(axis=0, initial=counts.max()), counts), 0)

    def living(self, masks: Mapping[str, torch.Tensor]) -> NDArray[np.bool_]:
        """The classes that are stored, bool [classes].

        Parameters
        ----------
        masks: layer name -> [O], 0 for channels that are gone.
        """
        alive = ~self.removable[self.kinds]
        for name, classes in self.members.items():
            alive[classes[masks[name].detach().numpy() > 0]] = True
        return alive

    def counts(self, alive: NDArray[np.bool_]) -> Integers:
        """Stored classes of each kind, int64 [kinds]."""
        return np.bincount(self.kinds[alive], minlength=len(self.linear))

    def importance(self, scores: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
        """The sum of the channels' importance in each class, float64 [classes]."""
        total = np.zeros(len(self.kinds))
        for name in self.scored:
            np.add.at(total, self.members[name], scores[name].double().numpy())
        return total


class Books:
    """A ledger in the making: the classes of a model, and what each layer and constant adds to them."""

    def __init__(self, model: QuantizedModel) -> None:
        self.coupling = coupling_of(model)
        self.values = self.coupling.values
        modules = dict(model.module.named_modules())
        self.names = {
            node.name: str(node.target)
            for node in model.module.graph.nodes
            if node.op == "call_module" and isinstance(modules[str(node.target)], QuantLayer)
        }
        self.storages = {name: layer.storage for name, layer in model.layers()}
        self.packs = any(storage.packed for storage in self.storages.values())
        self.onnx = any(storage.onnx for storage in self.storages.values())
        self._join_calls()
        roots = {node: self.coupling.roots(node) for node in self.values.nodes}
        numbers, inverse = np.unique(np.concatenate([*roots.values()]), return_inverse=True)
        ends = np.cumsum([len(found) for found in roots.values()])
        self.classes: dict[fx.Node, Integers] = dict(zip(roots, np.split(inverse, ends[:-1]), strict=True))
        self.size = len(numbers)
        self.rows: dict[fx.Node, Integers] = {}
        for node in self._tables():
            self.rows[node] = self.size + np.arange(len(self.values.table(node).weight))
            self.size += len(self.rows[node])
        self.base = 0
        self.linear = np.zeros(self.size, np.int64)
        self.reads: list[tuple[int, Integers, Integers]] = []
        self.outputs: list[Integers] = []

    def close(self) -> Ledger:
        """Write down every layer and constant, and gather the classes into kinds."""
        for node in self.values.nodes:
            if self.values.kinds[node] == LAYER:
                self._layer(node)
            elif self.values.kinds[node] == CONSTANT:
                self._constant(node)
            elif self.values.kinds[node] == TABLE:
                self._table(node)
            elif self.values.kinds[node] == "LayerNormalization":
                self._norm(node)
        fixed = self.fixed()
        read = (row for _, ins, units in self.reads for row in (ins, units))
        seen = np.stack([fixed, self.linear, *self.outputs, *read])
        _, first, kinds = np.unique(seen, axis=1, return_index=True, return_inverse=True)
        pairs = np.zeros((len(first), len(first)), np.int64)
        for kernel, ins, units in self.reads:
            pairs += kernel * np.outer(units[first], ins[first])
        members = {self.names[node.name]: self.classes[node] for node in self.masked()}
        tables = {self.names[node.name]: rows for node, rows in self.rows.items()}
        grouped = {self.names[node.name] for node in self.masked() if self.shape(node).groups > 1}
        return Ledger(
            members | tables,
            frozenset((members | tables).keys() - grouped),
            frozenset(self.names[node.name] for node in splittable(self.coupling) if node.name in self.names),
            kinds.reshape(-1),
            fixed[first] == 0,
            self.base,
            self.linear[first],
            pairs + pairs.T,
            np.array(self.outputs, np.int64).reshape(-1, self.size)[:, first],
        )

    def masked(self) -> Iterator[fx.Node]:
        """The calls of layers whose channels have masks; a BatchNorm on its own has none."""
        return (node for node in self.values.layers() if node.name in self.names)

    def _join_calls(self) -> None:
        """A layer that is called twice has one mask for both."""
        calls = defaultdict(list)
        for node in self.masked():
            calls[self.names[node.name]].append(node)
        for first, *others in calls.values():
            for other in others:
                self.coupling.join(self.coupling.slots[first], self.coupling.slots[other])

    def _tables(self) -> Iterator[fx.Node]:
        return (node for node in self.values.nodes if self.values.kinds[node] == TABLE)

    def shape(self, node: fx.Node) -> LayerShape:
        """How a layer's outputs read its inputs."""
        return LayerShape.of(self.values.layer(node))

    def _tally(self, classes: Integers, each: Integers | None = None) -> Integers:
        """How many of these slots each class has, or what they count ``each``; int64 [classes]."""
        return np.bincount(classes, each, minlength=self.size).astype(np.int64)

    def _layer(self, node: fx.Node) -> None:
        weight = self.values.layer(node).weight
        storage = self._storage(node, len(weight))
        outs, kernel = self._tally(self.classes[node]), math.prod(weight.shape[2:])
        each = np.array(storage.widths(len(weight)))
        units = self._tally(self.classes[node], each)
        self.outputs.append(outs)
        self.linear += outs * storage.channel_bits
        self._fill_up(storage, each)
        columns = self.columns(node)
        if self.shape(node).groups > 1 or not len(columns):
            self.linear += units * kernel * weight.shape[1]
        else:
            self.reads.append((kernel, self._tally(columns), units))

    def _fill_up(self, storage: Storage, widths: Integers) -> None:
        """What a layer costs however many channels it has.

        Its last byte is filled up; it counts as if there were as much to fill as there can be.
        """
        unused = UNITS - 1 if storage.packed else int((widths % UNITS).max())
        self.base += UNITS * storage.layer_bytes + unused

    def columns(self, node: fx.Node) -> Integers:
        """The classes of a layer's inputs, int64 [I]; empty where they are no channels."""
        (source,) = self.values.inputs(node)
        return self.classes[source][: len(self.coupling.columns(node))]

    def _table(self, node: fx.Node) -> None:
        """A table's rows keep their places; where they are packed, removed ones take no bits there."""
        rows, width = self.values.table(node).weight.shape
        storage = self.storages[self.names[node.name]]
        each = np.array(storage.widths(rows))
        self.outputs.append(self._tally(self.rows[node]))
        self.linear += self._tally(self.rows[node], each) * width
        self.base += rows * storage.channel_bits
        self._fill_up(storage, each)

    def _norm(self, node: fx.Node) -> None:
        norm = self.values.module.get_submodule(str(node.target))
        assert isinstance(norm, FoldedNorm)
        for value in norm.parameters_in_int8().values():
            self.base += UNITS * (value.numel() + self._scale_bytes)

    def _storage(self, node: fx.Node, channels: int) -> Storage:
        """How a layer is stored; a BatchNorm on its own has no choice."""
        plain = Storage.packing((WIDE_BITS,) * channels) if self.packs else Storage(onnx=self.onnx)
        return self.storages.get(self.names.get(node.name, ""), plain)

    @property
    def _scale_bytes(self) -> int:
        """Of a constant that has one scale; C code has it in its calls."""
        if self.packs:
            return 0
        return ONNX_SCALE_BYTES if self.onnx else SCALE_BYTES

    def _constant(self, node: fx.Node) -> None:
        constant = self.values.module.get_submodule(str(node.target))
        assert isinstance(constant, FoldedConstant)
        self.base += UNITS * self._scale_bytes
        axis = self.coupling.axes[node]
        if axis is None:
            self.base += UNITS * constant.value.numel()
        else:
            each = UNITS * constant.value.numel() // constant.value.shape[axis]
            self.linear += self._tally(self.classes[node]) * each

    def fixed(self) -> Integers:
        """1 for the classes that never leave, int64 [classes].

        Those are the pinned ones, and those in which an op makes something else of 0 (a BatchNorm or an Add
        of constants on its own): whether their constants can leave is known at the end only.
        """
        fixed = np.zeros(self.size, np.int64)
        for node in self.values.nodes:
            pinned = [int(slot) in self.coupling.pinned for slot in self.coupling.slots[node]]
            fixed[self.classes[node][pinned]] = 1
            if node.name not in self.names and node.op != "placeholder":
                fixed[self.classes[node][self._revives(node)]] = 1
        if not self.packs:
            for rows in self.rows.values():
                fixed[rows] = 1
        return fixed

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
