"""Which channels stay, so that the stored bytes meet the budget: at most all of it, and little less.

What matters, sensitivities say; this module makes the last, exact choice, of whole classes of channels
(see ``ledger``: channels that an op keeps together are stored or gone together). It starts with the classes
that learning kept. While they take too many bytes, the one with the least importance per byte goes; then
classes come back, most important first, as long as they fit. Where that leaves much of the budget, classes of
two kinds change places for another choice that leaves less, and where a network is small enough, every choice
is looked at. A layer never loses its last channel, and the model none of its outputs.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sgsc_edge.compression.books import UNITS, Books, Integers
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.errors import ConfigError
from sgsc_edge.size import Storage, packs

log = logging.getLogger("sgsc_edge")

Masks = dict[str, torch.Tensor]
Scores = Mapping[str, torch.Tensor]

_FULL = 0.98
"""A budget is used when this share of it is."""

_LEAVE, _JOIN = 3, 4
"""Most classes of a kind that leave, and that come, in one exchange."""

_CHOICES = 100_000
"""Networks with at most so many choices are looked through."""


def stored_bytes(
    model: QuantizedModel,
    masks: Mapping[str, torch.Tensor],
    storages: Mapping[str, Storage] | None = None,
) -> int:
    """Bytes of weights, constants, biases and their scales in the files that ship.

    Parameters
    ----------
    masks: layer name -> float32 [O], 0 for channels that are gone. A class of which some channels are gone
        is stored whole.
    storages: by layer name; those that the layers have at present if left out.
    """
    if storages is None:
        storages = _storages(model)
    books = Books.of(model)
    return -(-books.bits(storages, books.living(masks, packs=packs(storages.values()))) // UNITS)


def bytes_at(
    model: QuantizedModel, masks: Mapping[str, torch.Tensor], widths: Mapping[str, torch.Tensor]
) -> float:
    """What :func:`stored_bytes` counts at present, but with weights at other widths; parts of bytes count.

    Parameters
    ----------
    widths: layer name -> bits of each channel's weights, whole numbers, float32 [O].
    """
    storages, books = _storages(model), Books.of(model)
    whole = {name: each.numpy().astype(np.int64) for name, each in widths.items()}
    return books.bits(storages, books.living(masks, packs=packs(storages.values())), whole) / UNITS


def _storages(model: QuantizedModel) -> dict[str, Storage]:
    return {name: layer.storage for name, layer in model.layers()}


def smallest_bytes(model: QuantizedModel) -> int:
    """Bytes of the smallest network that a model can be cut to."""
    choice = _Choice.of(model, {name: torch.ones_like(layer.mask) for name, layer in model.layers()}, {})
    choice.shrink(0)
    return choice.size


def check_budget(model: QuantizedModel, budget: int) -> None:
    """Say before training what a budget in bytes comes to.

    Raises
    ------
    ConfigError: no network of this architecture is as small.
    """
    whole = stored_bytes(model, {name: torch.ones_like(layer.mask) for name, layer in model.layers()})
    smallest = smallest_bytes(model)
    if budget < smallest:
        raise ConfigError(
            f"a budget of {budget} bytes cannot be met: this network takes {whole} bytes at its smallest "
            f"widths, and {smallest} with only the channels that cannot leave (one a layer, outputs, behind "
            "lone ops)",
            where="compress.budget",
            remedy=f'set it to "{smallest} B" or more (what comes near that decides little), or give '
            "model.factory a smaller network",
        )
    if budget >= whole:
        log.info(
            "compress: under the budget of %d bytes every channel can stay: all take %d bytes at the "
            "smallest widths that the target stores; how many bits each gets is chosen up to the budget",
            budget,
            whole,
        )


def remove_until(
    model: QuantizedModel, masks: Mapping[str, torch.Tensor], scores: Scores, limit: float
) -> Masks:
    """The channels that stay when those that matter least for their bytes go until ``limit`` bytes are met.

    Where no network is as small, the smallest is left. Arguments as for :func:`fit`; nothing comes back.
    """
    choice = _Choice.of(model, masks, scores)
    choice.shrink(limit)
    closed = choice.masks()
    return {name: torch.minimum(mask, closed[name]) for name, mask in masks.items()}


def fit(model: QuantizedModel, masks: Mapping[str, torch.Tensor], importance: Scores, budget: int) -> Masks:
    """The channels that stay under a budget, as much of it as can be; arguments as for :func:`fits`."""
    return fits(model, masks, importance, budget)[-1]


def fits(
    model: QuantizedModel, masks: Mapping[str, torch.Tensor], importance: Scores, budget: int
) -> list[Masks]:
    """Choices of channels under a budget.

    The first one keeps what learning kept as far as it fits, and what comes back beside it. Where that leaves
    some of the budget, and channels that change places leave less, there is another one, which uses more and
    may be the worse for it.

    Parameters
    ----------
    masks: the channels that learning kept, float32 [O] by layer name.
    importance: by layer name, float32 [O], >= 0, comparable across layers.
    budget: bytes.
    """
    choice = _Choice.of(model, masks, importance)
    choice.revive_last()
    choice.shrink(budget)
    choice.refill(budget)
    found, counts = [choice.masks()], choice.counts.copy()
    while choice.size < _FULL * budget and choice.exchange(budget):
        pass
    if choice.size < _FULL * budget:
        choice.search(budget)
    if (choice.counts != counts).any():
        found.append(choice.masks())
    return found


def _worth(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the first 0, 1, 2, … classes of a kind are worth together, float64 [classes + 1].

    Importance is of one channel while the others are there. The fewer are left, the more each of them has to
    carry: the j-th of n counts n / j times, or a layer behind which much is saved would be cut to a thread.

    >>> _worth(np.array([4.0, 2.0])).tolist()
    [0.0, 8.0, 10.0]
    """
    count = len(importance)
    return np.concatenate([[0.0], np.cumsum(importance * count / np.arange(1, count + 1))])


@dataclass(eq=False)
class _Choice:
    """How many classes of each kind stay; of a kind, the first ones in its order.

    Parameters
    ----------
    orders: for each kind its classes: those that learning kept first, and the more important first.
    values: for each kind what its first 0, 1, 2, … classes are worth together, float64 [classes + 1].
    counts: int64 [kinds].
    """

    ledger: Ledger
    orders: list[Integers]
    values: list[NDArray[np.float64]]
    counts: Integers

    @staticmethod
    def of(model: QuantizedModel, masks: Mapping[str, torch.Tensor], scores: Scores) -> _Choice:
        """Start with what masks say; without scores every class is as important."""
        ledger = Ledger.of(model)
        alive = ledger.living(masks)
        importance = ledger.importance(scores) if scores else np.ones(len(ledger.kinds))
        ranked = np.lexsort((-importance, ~alive))
        orders = [ranked[ledger.kinds[ranked] == kind] for kind in range(len(ledger.linear))]
        values = [_worth(importance[order]) for order in orders]
        return _Choice(ledger, orders, values, ledger.counts(alive))

    @property
    def size(self) -> int:
        """Stored bytes."""
        return self.ledger.size(self.counts)

    @property
    def _units(self) -> int:
        return self.ledger.units(self.counts)

    @property
    def _dead(self) -> Integers:
        return np.array([len(order) for order in self.orders]) - self.counts

    def _lost(self, count: int) -> NDArray[np.float64]:
        """Importance of the last ``count`` classes of each kind that stay, [kinds]."""
        pairs = zip(self.values, self.counts, strict=True)
        return np.array([value[c] - value[max(c - count, 0)] for value, c in pairs])

    def _gained(self, count: int) -> NDArray[np.float64]:
        """Importance of the next ``count`` classes of each kind, [kinds]."""
        pairs = zip(self.values, self.counts, strict=True)
        return np.array([value[min(c + count, len(value) - 1)] - value[c] for value, c in pairs])

    def masks(self) -> Masks:
        """float32 [O] by layer name."""
        alive = np.zeros(len(self.ledger.kinds), np.bool_)
        for order, count in zip(self.orders, self.counts, strict=True):
            alive[order[:count]] = True
        return {name: torch.from_numpy(alive[own]).float() for name, own in self.ledger.members.items()}

    def revive_last(self) -> None:
        """Give layers that have lost all their channels the most important one back."""
        for outputs in self.ledger.outputs:
            if not outputs @ self.counts:
                kinds = np.flatnonzero(outputs)
                self.counts[kinds[self._gained(1)[kinds].argmax()]] += 1

    def shrink(self, limit: float) -> None:
        """Let the classes with the least importance for their bytes go, until ``limit`` bytes are met."""
        own = self.ledger.pairs.diagonal() // 2
        lost = self._lost(1)
        size, slopes = self._units, self.ledger.slopes(self.counts)
        while size > UNITS * limit:
            saved = slopes - own
            can = (self.ledger.room(self.counts) > 0) & (saved > 0)
            if not can.any():
                return
            kind = int(np.where(can, lost / np.maximum(saved, 1), np.inf).argmin())
            size -= int(saved[kind])
            self.counts[kind] -= 1
            slopes -= self.ledger.pairs[kind]
            count, value = self.counts[kind], self.values[kind]
            lost[kind] = value[count] - value[max(count - 1, 0)]

    def refill(self, budget: int) -> None:
        """Let classes come back, most important first, as long as they fit."""
        own = self.ledger.pairs.diagonal() // 2
        gained = self._gained(1)
        can = self._dead > 0
        size, slopes = self._units, self.ledger.slopes(self.counts)
        while (can := can & (size + slopes + own <= UNITS * budget)).any():
            kind = int(np.where(can, gained, -np.inf).argmax())
            size += int(slopes[kind] + own[kind])
            self.counts[kind] += 1
            slopes += self.ledger.pairs[kind]
            count, value = self.counts[kind], self.values[kind]
            can[kind] = count < len(value) - 1
            gained[kind] = value[count + 1] - value[count] if can[kind] else 0.0

    def exchange(self, budget: int) -> bool:
        """Let some classes of one kind go for some of another; whether that filled the budget better.

        Of the exchanges that use the budget the one that keeps most importance is made, else the one that
        uses most of it.
        """
        size, pairs, budget = self._units, self.ledger.pairs, UNITS * budget
        slopes, own = self.ledger.slopes(self.counts), pairs.diagonal() // 2
        room, dead = self.ledger.room(self.counts), self._dead
        best: tuple[tuple[bool, float], tuple[int, int], tuple[int, int]] | None = None
        for out, into in itertools.product(range(1, _LEAVE + 1), range(1, _JOIN + 1)):
            left = (out * out * own - out * slopes)[:, np.newaxis]
            come = into * into * own + into * slopes
            sizes = size + left + come - out * into * pairs
            possible = (room >= out)[:, np.newaxis] & (dead >= into) & (sizes > size) & (sizes <= budget)
            np.fill_diagonal(possible, False)
            if not possible.any():
                continue
            full = possible & (sizes >= _FULL * budget)
            gains = self._gained(into) - self._lost(out)[:, np.newaxis]
            rank = np.where(full, gains, -np.inf) if full.any() else np.where(possible, sizes, -np.inf)
            leaving, joining = np.unravel_index(int(rank.argmax()), rank.shape)
            key = (bool(full.any()), float(rank[leaving, joining]))
            if best is None or key > best[0]:
                best = (key, (int(leaving), out), (int(joining), into))
        if best is None:
            return False
        (_, (leaving_kind, out), (joining_kind, into)) = best
        self.counts[leaving_kind] -= out
        self.counts[joining_kind] += into
        return True

    def search(self, budget: int) -> None:
        """Look at every choice of a small network for the most important one that uses the budget."""
        totals = np.array([len(order) for order in self.orders])
        ranges = [
            range(1 if self.ledger.removable[kind] else total, total + 1) for kind, total in enumerate(totals)
        ]
        if np.prod([len(each) for each in ranges], dtype=float) > _CHOICES:
            return
        choices = np.array(list(itertools.product(*ranges)), np.int64)
        sizes = self.ledger.base + choices @ self.ledger.linear
        sizes += ((choices @ self.ledger.pairs) * choices).sum(1) // 2
        whole = (choices @ self.ledger.outputs.T >= 1).all(1)
        sizes = -(-sizes // UNITS)
        found = choices[whole & (sizes <= budget) & (sizes >= _FULL * budget)]
        if len(found):
            values = [sum(v[c] for v, c in zip(self.values, row, strict=True)) for row in found]
            self.counts = found[int(np.argmax(values))]
