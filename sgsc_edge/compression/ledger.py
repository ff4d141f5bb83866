"""What a network takes as stored, as a function of how many channels live.

Classes of channels (see ``books``) that all layers see alike are of one *kind*: the channels of a plain
layer, those of a residual stream. With c the number of stored classes of each kind, the size is
``base + l·c + c·P·c / 2`` bits, in whole numbers: what one channel more or less costs is a row of it, and no
walk through the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from sgsc_edge.compression.books import UNITS, Alive, Books, Integers, scale_bytes
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.widths.split import splittable
from sgsc_edge.size import Storage, packs

_LEDGERS: WeakKeyDictionary[QuantizedModel, dict[tuple[Storage, ...], Ledger]] = WeakKeyDictionary()


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
            known[storages] = _ledger(
                Books.of(model), {name: layer.storage for name, layer in model.layers()}
            )
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

    def living(self, masks: Mapping[str, torch.Tensor]) -> Alive:
        """The classes that are stored, bool [classes].

        Parameters
        ----------
        masks: layer name -> [O], 0 for channels that are gone.
        """
        alive = ~self.removable[self.kinds]
        for name, classes in self.members.items():
            alive[classes[masks[name].detach().numpy() > 0]] = True
        return alive

    def counts(self, alive: Alive) -> Integers:
        """Stored classes of each kind, int64 [kinds]."""
        return np.bincount(self.kinds[alive], minlength=len(self.linear))

    def importance(self, scores: Mapping[str, torch.Tensor]) -> NDArray[np.float64]:
        """The sum of the channels' importance in each class, float64 [classes]."""
        total = np.zeros(len(self.kinds))
        for name in self.scored:
            np.add.at(total, self.members[name], scores[name].double().numpy())
        return total


def _ledger(books: Books, storages: Mapping[str, Storage]) -> Ledger:
    """Write down every layer and constant, and gather the classes into kinds.

    Parameters
    ----------
    storages: by layer name.
    """
    base = UNITS * (books.constant_bytes + books.constant_scales * scale_bytes(storages))
    linear = UNITS * books.per_class
    outputs: list[Integers] = []
    reads: list[tuple[int, Integers, Integers]] = []
    for call in books.calls.values():
        storage = call.storage(storages)
        widths = np.array(storage.widths(len(call.outputs)))
        made, units = _tally(books, call.outputs), _tally(books, call.outputs, widths)
        outputs.append(made)
        base += call.fixed_bits(storage, widths)
        if not call.table:
            linear += made * storage.channel_bits
        if call.reads is None:
            reads.append((call.kernel, _tally(books, call.inputs), units))
        else:
            linear += units * call.kernel * call.reads
    fixed = books.fixed(packs=packs(storages.values()))
    read = (row for _, ins, units in reads for row in (ins, units))
    seen = np.stack([fixed.astype(np.int64), linear, *outputs, *read])
    _, first, kinds = np.unique(seen, axis=1, return_index=True, return_inverse=True)
    pairs = np.zeros((len(first), len(first)), np.int64)
    for kernel, ins, units in reads:
        pairs += kernel * np.outer(units[first], ins[first])
    grouped = {books.names[node.name] for node in books.masked() if books.shape(node).groups > 1}
    free = (books.names[node.name] for node in splittable(books.coupling) if node.name in books.names)
    return Ledger(
        books.members,
        frozenset(books.members.keys() - grouped),
        frozenset(free),
        kinds.reshape(-1),
        ~fixed[first],
        base,
        linear[first],
        pairs + pairs.T,
        np.array(outputs, np.int64).reshape(-1, books.size)[:, first],
    )


def _tally(books: Books, classes: Integers, each: Integers | None = None) -> Integers:
    """How many of these slots each class has, or what they count ``each``; int64 [classes]."""
    return np.bincount(classes, each, minlength=books.size).astype(np.int64)
