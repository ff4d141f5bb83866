"""How the layers of a model in training are stored.

While depths are learned, every layer counts as stored in the smallest way that the target has, or, where
channels are packed at widths of their own, in few bits. Then a plan is chosen (see ``snapping``), under a
budget together with the channels that stay; and where the watch set asks for it, layers become wider again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from sgsc_edge.compression.books import Books
from sgsc_edge.compression.channels import living_masks
from sgsc_edge.compression.fit import Masks, fit, fits, stored_bytes
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.quantizer import MAX_BITS
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.snapping import Choices, layer_bytes
from sgsc_edge.errors import InternalError
from sgsc_edge.size import NARROW_BITS, Storage

log = logging.getLogger("sgsc_edge")

_RESERVES = (0.0, 0.03, 0.1, 0.2, 0.35)
"""Shares of the budget that are tried for widths beyond the narrowest, rather than for channels."""

_TIGHTER = (0.5, 0.25, 0.0)
"""Shares of the budget in which channels are chosen where the others come to no plan within all of it."""

_WIDTHS = (1, 2, 3, 4, 5, 6, 8)
"""Mean widths for which channels are chosen, where each has a width of its own."""

_WHILE_LEARNING = 3
"""Bits at which such channels count while depths are learned."""


class Storing:
    """The storages of a model's layers, and the plan that they follow.

    Parameters
    ----------
    device: the ways in which each layer may be stored, and what else decides.
    """

    def __init__(self, model: QuantizedModel, device: Device) -> None:
        self.model, self.device = model, device
        self.legal = device.storages(model)
        self.layers = dict(model.layers())
        self.restart()

    def restart(self) -> None:
        """Plan nothing: every layer counts as it does while depths are learned."""
        self.plan: Plan | None = None
        self._store(self._equal(_WHILE_LEARNING) if self.device.packs else self._smallest)

    def take(self, plan: Plan) -> None:
        """Follow a plan; see also :meth:`snap`."""
        self.plan = plan
        self._store(plan.storages())

    def choose(self, kept: Masks, fisher: Masks) -> None:
        """Plan without a budget: the smallest storages.

        Packed channels take their learned depths, as whole bits; where none has been learned, the bytes of 4
        bits each, where they matter most.

        Parameters
        ----------
        kept: layer name -> float32 [O], 0 for channels that are gone.
        fisher: see :func:`sgsc_edge.compression.sensitivity.fisher_information`.
        """
        choices = self._choices(kept, fisher)
        if not self.device.packs:
            self.take(choices.best()[0])
        elif any(bool((layer.quantizer.bits < MAX_BITS).any()) for layer in self.layers.values()):
            self.take(choices.stored({name: _at_depth(layer) for name, layer in self.layers.items()}))
        else:
            self._store(self._equal(NARROW_BITS))
            self.take(choices.best(layer_bytes(self.model, kept))[0])

    def choose_within(
        self,
        budget: int,
        alive: Masks,
        fisher: Masks,
        scores: Masks,
        lost: Callable[[Masks, Plan], float],
    ) -> Masks:
        """Plan what costs least in a budget, channels and widths together; the channels that stay.

        With some of the budget set aside for wider layers, channels are chosen, then widths in all of the
        budget, then channels come back in what widths have left over. Where each channel has a width of its
        own, channels are chosen for several means of them instead. Of several choices, the one is taken that
        loses least as it is: channels, widths and bytes that are left over have no other common measure.

        Parameters
        ----------
        alive: the channels to choose from.
        fisher: see :func:`sgsc_edge.compression.sensitivity.fisher_information`.
        scores: how much each channel matters, float32 [O] by layer name.
        lost: measures the loss at a choice, before it is trained.

        Raises
        ------
        InternalError: no choice that was found meets the budget.
        """
        found = self._within(self._trials(), budget, alive, fisher, scores)
        found = found or self._within(self._tighter(), budget, alive, fisher, scores)
        if not found:
            raise InternalError(f"no choice of channels and widths meets the budget of {budget} bytes")
        kept, plan = min(found, key=lambda choice: lost(*choice)) if len(found) > 1 else found[0]
        self.take(plan)
        return kept

    def _within(
        self,
        trials: Iterable[tuple[Mapping[str, Storage], float]],
        budget: int,
        alive: Masks,
        fisher: Masks,
        scores: Masks,
    ) -> list[tuple[Masks, Plan]]:
        """Different choices of channels and widths that meet a budget, of several trials.

        Parameters
        ----------
        trials: storages at which channels are chosen, and in what share of the budget.
        """
        found: dict[object, tuple[Masks, Plan]] = {}  # trials may come to the same
        known: dict[tuple[str, int], torch.Tensor] = {}
        for storages, share in trials:
            self._store(storages)
            if self.device.packs:
                for kept in fits(self.model, alive, scores, round(share * budget)):
                    if (plan := self._best(budget, kept, fisher, known)) is not None:
                        found.setdefault(_alike(kept, plan), (kept, plan))
                continue
            kept = fit(self.model, alive, scores, round(share * budget))
            if (first := self._best(budget, kept, fisher, known)) is None:
                continue
            pending = [first.storages()]
            while pending:
                self._store(chosen := pending.pop())
                for kept in fits(self.model, alive, scores, budget):
                    plan = self._choices(kept, fisher, known).stored(chosen)
                    if self._takes(plan, kept) <= budget:
                        found.setdefault(_alike(kept, plan), (kept, plan))
                    elif _bits(refused := plan.storages()) != _bits(chosen):
                        # With more channels the arena has no room for a layer's 4 bits: fewer fit in 8.
                        pending.append(refused)
        return list(found.values())

    def _best(
        self, budget: int, kept: Masks, fisher: Masks, known: dict[tuple[str, int], torch.Tensor]
    ) -> Plan | None:
        """The plan with the least loss for these channels in a budget; None where none meets it."""
        choices, room = self._choices(kept, fisher, known), self._for_layers(budget, kept)
        while True:
            plan = choices.best(room)[0]
            over = self._takes(plan, kept) - budget
            if over <= 0:
                return plan
            if plan.bytes > room:  # the smallest
                return None
            room = plan.bytes - over

    def _takes(self, plan: Plan, kept: Masks) -> int:
        """Stored bytes of the network with a plan."""
        return stored_bytes(self.model, kept, plan.storages())

    def _trials(self) -> Iterator[tuple[Mapping[str, Storage], float]]:
        """Storages at which channels are chosen, and in what share of the budget."""
        if self.device.packs:
            yield from ((self._equal(bits), 1.0) for bits in _WIDTHS)
        else:
            yield from ((self._smallest, 1 - share) for share in (_RESERVES if self._is_open else (0.0,)))

    def _tighter(self) -> Iterator[tuple[Mapping[str, Storage], float]]:
        """The same for budgets that no trial meets, down to the smallest network."""
        narrowest = self._equal(1) if self.device.packs else self._smallest
        yield from ((narrowest, share) for share in _TIGHTER)

    def recount(self, kept: Masks, fisher: Masks) -> None:
        """Plan the same storages for other channels that stay."""
        if self.plan is not None:
            self.take(self._choices(kept, fisher).stored(self.plan.storages()))

    def regain(self) -> None:
        """Packed channels keep the bits that the controller has given them; others their layer's widths."""
        for layer in self.layers.values():
            if layer.storage.packed:
                layer.storage = _at_depth(layer)
            layer.quantizer.set_bits(layer.widths())

    def snap(self) -> None:
        """Round every layer as it will be stored."""
        for layer in self.layers.values():
            layer.snap_to(layer.storage)

    def room(self, budget: int, kept: Masks) -> float:
        """Bytes of a budget that the plan leaves, as it counts them."""
        return self._for_layers(budget, kept) - (0 if self.plan is None else self.plan.bytes)

    def _for_layers(self, budget: int, kept: Masks) -> int:
        """What constant operands leave of a budget, with every last byte of a packed layer filled up."""
        beside = stored_bytes(self.model, kept) - layer_bytes(self.model, kept)
        return budget - beside - self._filled_up

    @property
    def _filled_up(self) -> int:
        """Bytes by which plans may count less than is stored: a packed layer's last one, for each call."""
        calls = Books.of(self.model).calls.values()
        return sum(bool(call.layer) for call in calls) if self.device.packs else 0

    def widen(self, room: float) -> list[str]:
        """Store layers wider until the estimated loss has halved, in ``room`` bytes at most; their names.

        Each time it is the layer that gains most for its bytes. What the network takes grows by no more than
        ``room`` and what that leaves for last bytes.
        """
        if self.plan is None:
            return []
        kept = living_masks(self.model)
        limit = self._takes(self.plan, kept) + room + self._filled_up
        names: list[str] = []
        enough = self.plan.loss / 2
        while (not names or self.plan.loss > enough) and (wider := self.plan.widened(room)) is not None:
            name, plan = wider
            more = plan.bytes - self.plan.bytes
            if self._takes(plan, kept) > limit:
                room = more - 1
                continue
            room -= more
            self.plan = plan
            names.append(name)
        for name in dict.fromkeys(names):
            self.layers[name].widen_to(self.plan.storages()[name])
        return list(dict.fromkeys(names))

    def report(self) -> None:
        """Log the plan, where there was something to choose."""
        if self.plan is not None and self._is_open:
            for layer in self.plan.layers:
                log.info("plan: %s", layer)

    def _choices(
        self, kept: Masks, fisher: Masks, known: dict[tuple[str, int], torch.Tensor] | None = None
    ) -> Choices:
        return Choices(self.model, kept, self.device, fisher, known)

    def _equal(self, bits: int) -> dict[str, Storage]:
        """All channels packed at one width."""
        return {name: layer.packed((bits,) * len(layer.mask)) for name, layer in self.layers.items()}

    @property
    def _smallest(self) -> dict[str, Storage]:
        return {name: min(legal) for name, legal in self.legal.items()}

    @property
    def _is_open(self) -> bool:
        """Whether some layer may be stored in more than one way."""
        return any(len(legal) > 1 for legal in self.legal.values())

    def _store(self, storages: Mapping[str, Storage]) -> None:
        for name, layer in self.layers.items():
            layer.storage = storages[name]


def _alike(kept: Masks, plan: Plan) -> object:
    """Equal for choices of the same channels and widths."""
    return tuple(plan.storages().items()), tuple(mask.numpy().tobytes() for mask in kept.values())


def _bits(storages: Mapping[str, Storage]) -> list[int]:
    return [storage.bits for storage in storages.values()]


def _at_depth(layer: QuantLayer) -> Storage:
    """Living channels packed at their depths, in whole bits."""
    widths = layer.quantizer.bits.detach().ceil().clamp(1, MAX_BITS) * layer.mask
    return layer.packed([int(bits) for bits in widths.tolist()])
