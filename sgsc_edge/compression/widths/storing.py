"""How the layers of a model in training are stored.

While depths are learned, every layer counts as stored in the smallest way that the target has. Then a plan is
chosen (see ``snapping``), under a budget together with the channels that stay; and where the watch set asks
for it, layers become wider again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from sgsc_edge.compression.fit import Masks, fit, kept_worth, stored_bytes
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.snapping import Choices, layer_bytes
from sgsc_edge.size import Storage

log = logging.getLogger("sgsc_edge")

_RESERVES = (0.0, 0.03, 0.1, 0.2, 0.35)
"""Shares of the budget that are tried for widths beyond the narrowest, rather than for channels."""


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
        self.plan: Plan | None = None
        self._store(self._smallest)

    def take(self, plan: Plan) -> None:
        """Follow a plan; see also :meth:`snap`."""
        self.plan = plan
        self._store(plan.storages())

    def choose(self, kept: Masks, fisher: Masks) -> None:
        """Plan without a budget: the smallest storages.

        Parameters
        ----------
        kept: layer name -> float32 [O], 0 for channels that are gone.
        fisher: see :func:`sgsc_edge.compression.sensitivity.fisher_information`.
        """
        self.take(self._choices(kept, fisher).best()[0])

    def choose_within(self, budget: int, alive: Masks, fisher: Masks, scores: Masks, samples: int) -> Masks:
        """Plan what costs least in a budget, channels and widths together; the channels that stay.

        With some of the budget set aside for wider layers, the other channels are chosen; then widths are, in
        all of the budget.

        Parameters
        ----------
        alive: the channels to choose from.
        scores: how much each channel matters, float32 [O] by layer name.
        samples: that the scores are summed over.
        """
        found = []
        for reserve in _RESERVES if self._is_open else (0.0,):
            self._store(self._smallest)
            kept = fit(self.model, alive, scores, round((1 - reserve) * budget))
            constants = stored_bytes(self.model, kept) - layer_bytes(self.model, kept)
            best, loss = self._choices(kept, fisher).best(budget - constants)
            lost = loss - kept_worth(self.model, kept, scores) / (2 * samples)
            found.append((lost, reserve, best.storages()))
        *_, storages = min(found, key=lambda each: each[:2])
        self._store(storages)
        kept = fit(self.model, alive, scores, budget)
        self.take(self._choices(kept, fisher).stored(storages))
        return kept

    def recount(self, kept: Masks, fisher: Masks) -> None:
        """Plan the same storages for other channels that stay."""
        if self.plan is not None:
            self.take(self._choices(kept, fisher).stored(self.plan.storages()))

    def snap(self) -> None:
        """Round every layer as it will be stored."""
        for layer in self.layers.values():
            layer.snap_to(layer.storage)

    def room(self, budget: int, kept: Masks) -> float:
        """Bytes of a budget that the plan leaves, as it counts them."""
        constants = stored_bytes(self.model, kept) - layer_bytes(self.model, kept)
        return budget - constants - (0 if self.plan is None else self.plan.bytes)

    def widen(self, room: float) -> list[str]:
        """Store layers wider until the estimated loss has halved, in ``room`` bytes at most; their names.

        Each time it is the layer that gains most for its bytes.
        """
        if self.plan is None:
            return []
        names: list[str] = []
        enough = self.plan.loss / 2
        while (not names or self.plan.loss > enough) and (wider := self.plan.widened(room)) is not None:
            name, plan = wider
            room -= plan.bytes - self.plan.bytes
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

    def _choices(self, kept: Masks, fisher: Masks) -> Choices:
        return Choices(self.model, kept, self.device, fisher)

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
