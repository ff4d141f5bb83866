"""Snapping: learned depths become widths that the target stores, layer by layer.

Every layer has options: ways to store its weights, each with its bytes (scales and zero points included,
and for a layer in two widths the tensors and operators of the second) and an estimate of what rounding to
it costs: the squared gradients of the guide loss (the empirical Fisher information), times the squared
changes of the weights. Weights that lie on a grid of their learned depth already are not charged for what
that depth has cost. Both add up over layers, so the best plan for every size follows from one pass over the
layers that keeps, of all plans of the layers so far, those that no smaller plan beats (dynamic programming
over the Pareto front).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgsc_edge.compression.channels import follow
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.quantizer import round_to
from sgsc_edge.compression.strategy import task_losses
from sgsc_edge.compression.widths import Storages
from sgsc_edge.size import EIGHT_BITS, NARROW_BITS, Storage

NARROW = Storage(NARROW_BITS)

SECOND_WIDTH_BYTES = 700
"""What a layer in two widths takes more in the file than in one: a second weight, bias and output with their
names, a second operator, and the one that joins the outputs (tests hold it against files)."""

_WIDE_SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
"""Shares of a layer's channels that are tried in 8 bits, the others in 4."""

_BATCH = 64
_POINTS = 4096
"""Plans followed from layer to layer: of more, the best in each of so many equal parts of the sizes."""


@dataclass(frozen=True)
class Option:
    """One way to store a layer's weights.

    Parameters
    ----------
    bytes: of weights, biases and their scales, and of what a second width adds beside them.
    loss: estimated rise of the loss, nats a sample.
    """

    storage: Storage
    bytes: int
    loss: float


@dataclass(frozen=True, eq=False)
class Front:
    """The plans that no smaller plan beats, by size.

    Parameters
    ----------
    bytes, loss: int64 and float64 [plans], rising and falling.
    steps: for each layer, int64 [2, plans so far]: the plan of the layers before, and the layer's option.
    """

    bytes: NDArray[np.int64]
    loss: NDArray[np.float64]
    steps: tuple[NDArray[np.int64], ...]

    @staticmethod
    def of(layers: Iterable[Sequence[Option]]) -> Front:
        """Follow the layers, one after another."""
        size, loss = np.zeros(1, np.int64), np.zeros(1)
        steps = []
        for options in layers:
            sizes = (size[:, np.newaxis] + np.array([option.bytes for option in options])).reshape(-1)
            losses = (loss[:, np.newaxis] + np.array([option.loss for option in options])).reshape(-1)
            kept = _unbeaten(sizes, losses)
            size, loss = sizes[kept], losses[kept]
            steps.append(np.stack([kept // len(options), kept % len(options)]))
        return Front(size, loss, tuple(steps))

    def within(self, budget: float) -> int | None:
        """The plan of the least loss in at most ``budget`` bytes; None where there is none."""
        fitting = int(np.searchsorted(self.bytes, budget, side="right"))
        return fitting - 1 if fitting else None

    def picks(self, plan: int) -> list[int]:
        """The option that each layer has in a plan."""
        found = []
        for before, option in reversed(self.steps):
            found.append(int(option[plan]))
            plan = int(before[plan])
        return found[::-1]


def _unbeaten(sizes: NDArray[np.int64], losses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the points that no point of at most their size beats, by size; int64."""
    order = np.lexsort((losses, sizes))
    best = np.minimum.accumulate(losses[order])
    better = np.concatenate([[True], best[1:] < best[:-1]])
    front: NDArray[np.int64] = order[better]
    if len(front) > _POINTS:
        # The last of a part has the least loss; the very first, the smallest of all, stays too.
        span = sizes[front] - sizes[front[0]]
        part = span * _POINTS // (span[-1] + 1)
        front = front[np.concatenate([[True], part[1:-1] != part[2:], [True]])]
    return front


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer.

    Parameters
    ----------
    inputs, outputs: channels that stay.
    depths: smallest, mean and largest learned depth of the channels that stay.
    options: what could be had; ``chosen`` is one of their storages.
    reason: in words.
    """

    name: str
    inputs: int
    outputs: int
    depths: tuple[float, float, float]
    options: tuple[Option, ...]
    chosen: Storage
    reason: str

    def __str__(self) -> str:
        depths = ", ".join(f"{depth:.1f}" for depth in self.depths)
        return (
            f"{self.name}: {self.inputs} -> {self.outputs} channels, depths {depths}, {self.chosen}, "
            f"{self.bytes:,} bytes (8 bits: {self.bytes_in_8_bits:,}); {self.reason}"
        )

    @property
    def bytes(self) -> int:
        """As chosen."""
        return self._option(self.chosen).bytes

    @property
    def bytes_in_8_bits(self) -> int:
        """With the same channels at 8 bits."""
        return self._option(EIGHT_BITS).bytes

    def wider(self, room: float) -> Option | None:
        """The smallest wider option that wins back half of what 8 bits would; None where none fits.

        Parameters
        ----------
        room: bytes that there are beside the present ones.
        """
        chosen, loss = self.chosen, self.loss_of(self.chosen)
        fitting = [
            option
            for option in self.options
            if option.bytes - self.bytes <= room and option.storage.is_wider_than(chosen)
        ]
        half = (loss - self.loss_of(EIGHT_BITS)) / 2
        enough = [option for option in fitting if loss - option.loss >= half]
        if enough:
            return min(enough, key=lambda option: option.bytes)
        return min(fitting, key=lambda option: option.loss, default=None)

    def loss_of(self, storage: Storage) -> float:
        """The estimated loss of a storage."""
        return self._option(storage).loss

    def _option(self, storage: Storage) -> Option:
        return next(option for option in self.options if option.storage == storage)


@dataclass(frozen=True)
class Plan:
    """How every layer is stored; ``plan.json``."""

    layers: tuple[LayerPlan, ...]

    @property
    def bytes(self) -> int:
        """Of all layers, as chosen."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def bytes_in_8_bits(self) -> int:
        """Of all layers, at 8 bits."""
        return sum(layer.bytes_in_8_bits for layer in self.layers)

    def storages(self) -> dict[str, Storage]:
        """By layer name."""
        return {layer.name: layer.chosen for layer in self.layers}

    def widened(self, room: float) -> tuple[str, Plan] | None:
        """The plan with one layer stored wider, whole or in part, and its name; None where there is none.

        Of the layers that take at most ``room`` bytes more, it is the one that gains most for them.
        """
        gains = []
        for number, layer in enumerate(self.layers):
            if (option := layer.wider(room)) is not None:
                saved, more = layer.loss_of(layer.chosen) - option.loss, option.bytes - layer.bytes
                gains.append((saved / max(more, 1), number, option.storage))
        if not gains:
            return None
        *_, number, storage = max(gains)
        wider = replace(self.layers[number], chosen=storage, reason="the watch set had fallen in 4 bits")
        return wider.name, Plan((*self.layers[:number], wider, *self.layers[number + 1 :]))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        layers = [
            {**asdict(layer), "bytes": layer.bytes, "bytes_in_8_bits": layer.bytes_in_8_bits}
            for layer in self.layers
        ]
        return {"bytes": self.bytes, "bytes_in_8_bits": self.bytes_in_8_bits, "layers": layers}

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Plan:
        """Take back :meth:`to_json`."""

        def storage(value: Mapping[str, Any]) -> Storage:
            return Storage(value["bits"], value["per_channel"], tuple(value["wide"]))

        return Plan(
            tuple(
                LayerPlan(
                    row["name"],
                    row["inputs"],
                    row["outputs"],
                    tuple(row["depths"]),
                    tuple(Option(storage(o["storage"]), o["bytes"], o["loss"]) for o in row["options"]),
                    storage(row["chosen"]),
                    row["reason"],
                )
                for row in document["layers"]
            )
        )


class Choices:
    """Every way to store the layers of a model of which some channels stay.

    Parameters
    ----------
    masks: layer name -> float32 [O], the channels that stay.
    legal: layer name -> the storages to choose from.
    fisher: layer name -> squared gradients of its weights (:func:`fisher_information`); without it, rounding
        is taken to cost nothing.
    arena: bytes of RAM for tensors; None where the target states no limit. TFLite Micro unpacks 4-bit filters
        into it while an op runs, beside its input, its output and what later ops read.
    joins: whether the target executes the CONCATENATION behind a layer in two widths.
    """

    def __init__(
        self,
        model: QuantizedModel,
        masks: Mapping[str, torch.Tensor],
        legal: Storages,
        fisher: Mapping[str, torch.Tensor] | None = None,
        arena: int | None = None,
        joins: bool = True,
    ) -> None:
        self.layers, self.masks = dict(model.layers()), masks
        self.sizes, self.fisher = _sizes(model, masks), fisher
        self._known: dict[tuple[str, Storage], torch.Tensor] = {}
        self.options: dict[str, tuple[Option, ...]] = {}
        self.refused: dict[str, str] = {}
        free = Ledger.of(model).free if joins else frozenset[str]()
        for name in self.layers:
            size, storages = self.sizes[name], legal[name]
            if arena is not None and len(storages) > 1 and size.unpacked > arena:
                storages = (EIGHT_BITS,)
                self.refused[name] = (
                    f"in 4 bits its filter would be unpacked into the arena: {size.unpacked:,} bytes with "
                    f"input, output and what waits beside them, and the target has {arena:,}"
                )
            found = [self._option(name, storage) for storage in storages]
            if name in free and NARROW in storages:
                found += self._in_two_widths(name, found[0].bytes)
            self.options[name] = tuple(found)

    def _losses(self, name: str, storage: Storage) -> torch.Tensor:
        """Of a storage in one width, by channel, float64 [O]; see :func:`_losses`."""
        if (name, storage) not in self._known:
            layer, mask = self.layers[name], self.masks[name]
            self._known[name, storage] = (
                torch.zeros(len(mask), dtype=torch.float64)
                if self.fisher is None
                else _losses(layer, mask, self.fisher[name], storage)
            )
        return self._known[name, storage]

    def _option(self, name: str, storage: Storage) -> Option:
        losses = self._losses(name, replace(storage, wide=()))
        if storage.wide:
            wide = torch.zeros(len(losses), dtype=torch.bool)
            wide[list(storage.wide)] = True
            losses = losses.where(~wide, self._losses(name, EIGHT_BITS))
        return Option(storage, storage.bytes(*self.sizes[name].stored) + _added(storage), float(losses.sum()))

    def _in_two_widths(self, name: str, limit: int) -> Iterator[Option]:
        """The channels that lose most in 4 bits stay in 8, in several shares; what is worth its bytes."""
        gains = self._losses(name, NARROW) - self._losses(name, EIGHT_BITS)
        order = gains.argsort(descending=True, stable=True)
        order = order[self.masks[name][order] > 0]
        for count in sorted({math.ceil(share * len(order)) for share in _WIDE_SHARES}):
            storage = replace(NARROW, wide=tuple(sorted(order[:count].tolist())))
            if count < len(order) and (option := self._option(name, storage)).bytes < limit:
                yield option

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
            if wanted.wide and NARROW in (option.storage for option in options):
                self.options[name] = options = (*options, self._option(name, wanted))
            known = [option.storage for option in options]
            picks.append(known.index(wanted) if wanted in known else 0)
        return self._plan(picks)

    def _plan(self, picks: Sequence[int]) -> Plan:
        return Plan(
            tuple(
                LayerPlan(
                    name,
                    *self.sizes[name].channels,
                    _depths(self.layers[name], self.masks[name]),
                    options,
                    options[pick].storage,
                    self.refused.get(name) or _reason(options, pick),
                )
                for (name, options), pick in zip(self.options.items(), picks, strict=True)
            )
        )


def layer_bytes(model: QuantizedModel, masks: Mapping[str, torch.Tensor]) -> int:
    """Bytes of all layers as they are stored at present, without constants."""
    sizes = _sizes(model, masks)
    return sum(
        living(layer.storage, masks[name]).bytes(*sizes[name].stored) for name, layer in model.layers()
    )


def living(storage: Storage, mask: torch.Tensor) -> Storage:
    """A storage of the channels that stay (float32 [O], 0 for others); one width where all have the same."""
    if not storage.wide:
        return storage
    wide = tuple(channel for channel in storage.wide if mask[channel] > 0)
    return EIGHT_BITS if len(wide) == int((mask > 0).sum()) else replace(storage, wide=wide)


def _added(storage: Storage) -> int:
    """Bytes that a storage adds to a file beside weights, biases and scales."""
    return SECOND_WIDTH_BYTES if storage.wide else 0


@dataclass(frozen=True)
class _Size:
    """How much of a layer stays.

    Parameters
    ----------
    channels: inputs and outputs.
    stored: weights, and channels that have a bias.
    unpacked: bytes of input, output, values that wait beside them, and weights, a byte each.
    """

    channels: tuple[int, int]
    stored: tuple[int, int]
    unpacked: int


def _sizes(model: QuantizedModel, masks: Mapping[str, torch.Tensor]) -> dict[str, _Size]:
    sizes = {}
    for use in follow(model, masks):
        inputs, outputs = int(use.inputs.sum()), int(use.outputs.sum())
        weights = use.weights(inputs, outputs)
        unpacked = weights + use.activations(inputs, outputs)
        sizes[use.name] = _Size((inputs, outputs), (weights, outputs), unpacked)
    return sizes


def _depths(layer: QuantLayer, mask: torch.Tensor) -> tuple[float, float, float]:
    bits = layer.quantizer.bits.detach()[mask > 0]
    return float(bits.min()), float(bits.mean()), float(bits.max())


def _losses(layer: QuantLayer, mask: torch.Tensor, fisher: torch.Tensor, storage: Storage) -> torch.Tensor:
    """Σ F · Δ² / 2 of rounding living channels to a storage of one width, from where their learned depth has
    them; float64 [O]."""
    with torch.no_grad():
        learned = layer.quantizer(layer.weight)
        snapped = round_to(layer.weight, storage.bits, mask > 0, shared=not storage.per_channel)
        deeper = (layer.quantizer.bits > storage.bits) | (not storage.per_channel)
        change: torch.Tensor = (snapped - learned).square().mul(fisher).flatten(1).sum(1)
        return change.mul(deeper & (mask > 0)).double().div(2)


def _reason(options: Sequence[Option], pick: int) -> str:
    """Why a layer is stored so, in words."""
    chosen = options[pick]
    if len(options) == 1:
        return "the target stores this layer's weights in 8 bits only"
    others = [option for option in options if option is not chosen]
    if chosen.storage == EIGHT_BITS:
        nearest = min(others, key=lambda option: option.bytes)
        if nearest.bytes >= chosen.bytes:
            return "4 bits would save nothing"
        saved, lost = chosen.bytes - nearest.bytes, nearest.loss - chosen.loss
        return f"{nearest.storage} would save {saved} bytes, for a loss of {lost:.2g}"
    eight = next(option for option in options if option.storage == EIGHT_BITS)
    return f"saves {eight.bytes - chosen.bytes} bytes, for a loss of {max(chosen.loss - eight.loss, 0.0):.2g}"


def fisher_information(
    model: QuantizedModel, inputs: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The squared gradient of the loss by weight, a sample: layer name -> float32, the weight's shape."""
    layers = dict(model.layers())
    found = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    with model.evaluating() as module, torch.enable_grad():
        weights = [layer.weight for layer in layers.values()]
        for part, part_labels in zip(torch.split(inputs, _BATCH), torch.split(labels, _BATCH), strict=True):
            loss = task_losses(model, module(part), part_labels).sum()
            for name, gradient in zip(found, torch.autograd.grad(loss, weights), strict=True):
                found[name] += gradient.detach().square()
    return {name: total / len(inputs) for name, total in found.items()}
