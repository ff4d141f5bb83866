"""Snapping: learned depths become widths that the target stores, layer by layer.

Every layer has options: ways to store its weights, each with its bytes (scales and zero points included,
and for a layer in two widths the tensors and operators of the second) and an estimate of what rounding to
it costs: the squared gradients of the guide loss (the empirical Fisher information), times the squared
changes of the weights. Weights that lie on a grid of their learned depth already are not charged for what
that depth has cost. The best plan for every size follows from them (``front``).

Where channels are packed at widths of their own, a layer's options are a staircase: from all channels at one
bit on, it is always the channel that gains most for a bit that gets the next ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sgsc_edge.compression.books import Books, LayerStored
from sgsc_edge.compression.channels import follow
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.quantizer import FLOOR_BITS, round_to
from sgsc_edge.compression.widths.front import Front
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import LayerPlan, Option, Plan
from sgsc_edge.size import EIGHT_BITS, NARROW_BITS, WIDE_BITS, Storage, packs

NARROW = Storage(NARROW_BITS)

SECOND_WIDTH_BYTES = 700
"""What a layer in two widths takes more in the file than in one: a second weight, bias and output with their
names, a second operator, and the one that joins the outputs (tests hold it against files)."""

REWRITTEN_BYTES = 300
"""What a dense layer takes more in the file as a 1x1 convolution: the reshapes around it (tests hold it
against files)."""

_STEPS = 32
"""Of a layer's staircase of widths, so many steps are tried at most."""

_WIDE_SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
"""Shares of a layer's channels that are tried in 8 bits, the others in 4."""


class Choices:
    """Every way to store the layers of a model of which some channels stay.

    Parameters
    ----------
    masks: layer name -> float32 [O], the channels that stay.
    device: the storages to choose from, and what else decides.
    fisher: layer name -> squared gradients of its weights (``sensitivity.fisher_information``); without it,
        rounding is taken to cost nothing.
    known: what rounding to widths costs, once computed; choices of a model whose weights stay can share it.
    """

    def __init__(
        self,
        model: QuantizedModel,
        masks: Mapping[str, torch.Tensor],
        device: Device,
        fisher: Mapping[str, torch.Tensor] | None = None,
        known: dict[tuple[str, int], torch.Tensor] | None = None,
    ) -> None:
        self.device = device
        self.layers, self.masks = dict(model.layers()), masks
        self.sizes, self.fisher = _sizes(model, masks), fisher
        self._known = {} if known is None else known
        self.options: dict[str, tuple[Option, ...]] = {}
        self.refused: dict[str, str] = {}
        free = Ledger.of(model).free if device.joins else frozenset[str]()
        arena = math.inf if device.arena is None else device.arena
        for name, storages in device.storages(model).items():
            size = self.sizes[name]
            if device.packs:
                self.options[name] = tuple(self._packed(name, storages))
                continue
            if device.unpacks and len(storages) > 1 and size.unpacked > arena:
                storages = (EIGHT_BITS,)
                self.refused[name] = (
                    f"in 4 bits its filter would be unpacked into the arena: {size.unpacked:,} bytes with "
                    f"input, output and what waits beside them, and the target has {arena:,}"
                )
            found = [self._option(name, storage) for storage in storages]
            if name in free and NARROW in storages and size.joined <= arena:
                found += self._in_two_widths(name, found[0].bytes)
            self.options[name] = tuple(found)

    def _losses(self, name: str, bits: int, per_channel: bool = True) -> torch.Tensor:
        """Of one width, by channel, float64 [O]; see :func:`_losses`."""
        layer, alive = self.layers[name], self.masks[name] > 0
        if self.fisher is None:
            return torch.zeros(len(alive), dtype=torch.float64)
        if not per_channel:  # which range they share depends on the channels
            return _losses(layer, alive, self.fisher[name], bits, shared=True) * alive
        if (name, bits) not in self._known:
            self._known[name, bits] = _losses(layer, alive, self.fisher[name], bits, shared=False)
        return self._known[name, bits] * alive

    def _option(self, name: str, storage: Storage) -> Option:
        widths = storage.widths(len(self.masks[name]))
        own = torch.tensor(widths)
        losses = (self._losses(name, bits, storage.per_channel)[own == bits] for bits in set(widths) if bits)
        loss = sum((float(each.sum()) for each in losses), 0.0)
        stored = self.sizes[name].stored.bytes(storage) + self._added(name, storage)
        return Option(storage, stored, loss)

    def _added(self, name: str, storage: Storage) -> int:
        """Bytes that a storage adds to a file beside weights, biases and scales, in all calls."""
        calls = len(self.sizes[name].stored.weights)
        if storage.wide:
            return calls * SECOND_WIDTH_BYTES
        return calls * REWRITTEN_BYTES if self.device.rewrites(self.layers[name], storage) else 0

    def _in_two_widths(self, name: str, limit: int) -> Iterator[Option]:
        """The channels that lose most in 4 bits stay in 8, in several shares; what is worth its bytes."""
        gains = self._losses(name, NARROW_BITS) - self._losses(name, WIDE_BITS)
        order = gains.argsort(descending=True, stable=True)
        order = order[self.masks[name][order] > 0]
        for count in sorted({math.ceil(share * len(order)) for share in _WIDE_SHARES}):
            storage = replace(NARROW, wide=tuple(sorted(order[:count].tolist())))
            if count < len(order) and (option := self._option(name, storage)).bytes < limit:
                yield option

    def _packed(self, name: str, storages: Sequence[Storage]) -> Iterator[Option]:
        """8 bits for all channels, and the steps of the staircase up to there that are worth their bytes."""
        mask = self.masks[name]
        yield self._option(name, living(storages[0], mask))
        if len(storages) > 1:
            losses = torch.stack([self._losses(name, bits) for bits in range(1, WIDE_BITS + 1)], 1)
            for widths in staircase(losses.numpy(), mask.numpy() > 0):
                yield self._option(name, self.layers[name].packed(widths.tolist()))

    def best(self, budget: float = math.inf) -> tuple[Plan, float]:
        """The plan with the least loss in a budget (bytes of all layers), and that loss.

        Without a budget, or where no plan meets it, it is the smallest one.
        """
        front = Front.of(self.options.values())
        found = front.within(budget) if math.isfinite(budget) else None
        chosen = 0 if found is None else found
        return self._plan(front.picks(chosen)), float(front.loss[chosen])

    def stored(self, storages: Mapping[str, Storage]) -> Plan:
        """The plan that stores layers so; in 8 bits where that is no option."""
        picks = []
        for name, options in self.options.items():
            wanted = living(storages[name], self.masks[name])
            known = [option.storage for option in options]
            if wanted not in known and (wanted.packed or (wanted.wide and NARROW in known)):
                self.options[name] = options = (*options, self._option(name, wanted))
                known.append(wanted)
            picks.append(known.index(wanted) if wanted in known else 0)
        return self._plan(picks)

    def _plan(self, picks: Sequence[int]) -> Plan:
        return Plan(
            tuple(
                LayerPlan(
                    name,
                    self.sizes[name].stored.inputs,
                    self.sizes[name].stored.outputs,
                    _depths(self.layers[name], self.masks[name]),
                    options,
                    options[pick].storage,
                    self.refused.get(name) or _reason(options, pick),
                )
                for (name, options), pick in zip(self.options.items(), picks, strict=True)
            )
        )


def layer_bytes(model: QuantizedModel, masks: Mapping[str, torch.Tensor]) -> int:
    """Bytes of all layers as they are stored at present, each rounded up, without constants."""
    stored = _stored(model, masks)
    return sum(stored[name].bytes(living(layer.storage, masks[name])) for name, layer in model.layers())


def _stored(model: QuantizedModel, masks: Mapping[str, torch.Tensor]) -> dict[str, LayerStored]:
    books, packed = Books.of(model), packs(layer.storage for _, layer in model.layers())
    return books.stored(books.living(masks, packs=packed))


def living(storage: Storage, mask: torch.Tensor) -> Storage:
    """A storage of the channels that stay (float32 [O], 0 for others); one width where all have the same."""
    if storage.packed:
        pairs = zip(storage.packed, mask.tolist(), strict=True)
        return Storage.packing([bits if alive else 0 for bits, alive in pairs], table=storage.table)
    if not storage.wide:
        return storage
    wide = tuple(channel for channel in storage.wide if mask[channel] > 0)
    return EIGHT_BITS if len(wide) == int((mask > 0).sum()) else replace(storage, wide=wide)


@dataclass(frozen=True)
class _Size:
    """How much of a layer stays.

    Parameters
    ----------
    unpacked: bytes of input, output, values that wait beside them, and weights, a byte each.
    joined: bytes while the outputs of two widths are joined: they, the whole output, and what may wait.
    """

    stored: LayerStored
    unpacked: int
    joined: int


def _sizes(model: QuantizedModel, masks: Mapping[str, torch.Tensor]) -> dict[str, _Size]:
    sizes: dict[str, _Size] = {}
    stored = _stored(model, masks)
    weights = {name: iter(layer.weights) for name, layer in stored.items()}  # of each call, in order
    for use in follow(model, masks):
        inputs, outputs = int(use.inputs.sum()), int(use.outputs.sum())
        values = use.activations(inputs, outputs)
        called = _Size(stored[use.name], next(weights[use.name]) + values, values + use.made(outputs))
        before = sizes.get(use.name, called)  # where it is called more than once, the largest call counts
        sizes[use.name] = replace(
            called,
            unpacked=max(called.unpacked, before.unpacked),
            joined=max(called.joined, before.joined),
        )
    return sizes


def _depths(layer: QuantLayer, mask: torch.Tensor) -> tuple[float, float, float]:
    bits = layer.quantizer.bits.detach()[mask > 0]
    return float(bits.min()), float(bits.mean()), float(bits.max())


def staircase(losses: NDArray[np.float64], alive: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
    """Widths of a layer's channels, int64 [O], from the fewest bits that are worth having up; 0 for the dead.

    Each step up gives one channel the bits that save most loss for each of them; widths that a mix of others
    beats (above the convex hull of a channel's losses) are passed over. Of many steps some are given.

    Parameters
    ----------
    losses: [O, 8], of 1 to 8 bits.
    alive: [O].
    """
    rises = sorted(
        (-(at - loss) / (to - bits), channel, to)
        for channel in np.flatnonzero(alive).tolist()
        for (bits, at), (to, loss) in itertools.pairwise(_hull(losses[channel]))
    )
    widths = alive.astype(np.int64)
    yield widths.copy()
    given = 0
    for number, (_, channel, to) in enumerate(rises, 1):
        widths[channel] = to
        if number * _STEPS // len(rises) > given:
            given = number * _STEPS // len(rises)
            yield widths.copy()


def _hull(losses: NDArray[np.float64]) -> list[tuple[int, float]]:
    """(bits, loss) of the widths that no mix of others beats, float64 [8] of 1 to 8 bits; losses fall."""
    hull: list[tuple[int, float]] = []
    for bits, loss in enumerate(losses.tolist(), 1):
        if hull and loss >= hull[-1][1]:
            continue
        while len(hull) > 1:
            (first, high), (second, middle) = hull[-2:]
            if (high - middle) * (bits - second) > (middle - loss) * (second - first):
                break
            hull.pop()
        hull.append((bits, loss))
    return hull


def _losses(
    layer: QuantLayer, alive: torch.Tensor, fisher: torch.Tensor, bits: int, *, shared: bool
) -> torch.Tensor:
    """Σ F · Δ² / 2 of rounding channels to so many bits, from where their depth has them; float64 [O].

    Parameters
    ----------
    alive: bool [O], those that count where the range is ``shared``.
    """
    with torch.no_grad():
        learned = layer.quantizer(layer.weight)
        snapped = round_to(layer.weight, bits, alive, shared=shared)
        deeper = (layer.quantizer.bits.clamp_min(FLOOR_BITS) > bits) | shared
        change: torch.Tensor = (snapped - learned).square().mul(fisher).flatten(1).sum(1)
        return change.mul(deeper).double().div(2)


def _reason(options: Sequence[Option], pick: int) -> str:
    """Why a layer is stored so, in words."""
    chosen = options[pick]
    if len(options) == 1:
        return "the target stores this layer's weights in 8 bits only"
    others = [option for option in options if option is not chosen]
    if pick == 0:
        nearest = min(others, key=lambda option: option.bytes)
        if nearest.bytes >= chosen.bytes:
            return "fewer bits would save nothing"
        saved, lost = chosen.bytes - nearest.bytes, nearest.loss - chosen.loss
        return f"{nearest.storage} would save {saved} bytes, for a loss of {lost:.2g}"
    eight = options[0]
    return f"saves {eight.bytes - chosen.bytes} bytes, for a loss of {max(chosen.loss - eight.loss, 0.0):.2g}"
