"""What the watch set and the guide samples say while a model is trained.

λ, where it is not fixed, is the bounded multiplier of a constraint: it starts at 1, its most, falls while the
watch metric lies above its floor, and rises again below. Where the metric has fallen too far, the controller
gives bits back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch

from sgsc_edge.compression.calibration import Batches, re_estimate_norms
from sgsc_edge.compression.channels import set_masks
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fit import Masks
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.quantizer import MAX_BITS
from sgsc_edge.compression.sensitivity import fisher_information, sensitivity
from sgsc_edge.compression.task import Loss

log = logging.getLogger("sgsc_edge")

_GUIDE_GAIN = 0.5
"""Growth of log λ at a check that finds the watch metric at the controller's trip; as much down at none."""

_GUIDE_WEAKEST, _GUIDE_STRONGEST = 1 / 16, 1.0
"""Bounds of λ where it moves. At the lower one a guide sample counts about as much as any other; at 1 the
guide set is half of all that is learned. At more it is learned by heart where a budget is tight: other
samples, those of the watch set among them, are lost for it (``benchmarks.paper``, rows λ = 1 and λ = 4)."""

_NO_DROP = 1e-3
"""Stands for an allowed drop of 0 where a fall is measured by it."""


_BATCH = 128
"""Samples that are evaluated at a time."""


class Guarding:
    """Watches a model in training.

    Parameters
    ----------
    watch: measures the watch set: higher is better.
    refresh: makes BatchNorm fit the present weights.
    batch: (inputs, labels) on which sensitivities are measured, by ``loss``; never of the watch set.
    data: what BatchNorm's statistics are measured on.

    Attributes
    ----------
    guide_weight: λ.
    forget: names of tensors that were set anew: their optimizer starts anew, too.
    """

    def __init__(
        self,
        model: QuantizedModel,
        goal: Goal,
        controller: Controller,
        *,
        watch: Callable[[], float],
        refresh: Callable[[], None],
        batch: tuple[torch.Tensor, torch.Tensor],
        loss: Loss,
        data: Batches,
    ) -> None:
        self.model, self.goal, self.controller = model, goal, controller
        self.layers = dict(model.layers())
        self.watch, self.refresh, self.batch, self.loss, self.data = watch, refresh, batch, loss, data
        self.guide_weight = 1.0 if goal.guide_weight is None else goal.guide_weight
        self.forget: set[str] = set()

    @property
    def looks(self) -> bool:
        """Whether anything follows from the watch set."""
        return self.goal.guard or self._moves

    @property
    def _moves(self) -> bool:
        """Whether λ follows the watch metric."""
        return self.goal.guide_weight is None

    def metric(self) -> float:
        """The watch metric of the present weights."""
        self.refresh()
        return self.watch()

    def fall(self, metric: float) -> float:
        """How far a metric lies below float's."""
        return self.controller.baseline - metric

    def follow(self, metric: float) -> None:
        """Move λ by how far a metric is below its floor."""
        if self._moves:
            allowed = max(self.controller.release, _NO_DROP)
            below = self.fall(metric) / allowed - 1
            grown = self.guide_weight * math.exp(_GUIDE_GAIN * min(max(below, -1.0), 1.0))
            self.guide_weight = min(max(grown, _GUIDE_WEAKEST), _GUIDE_STRONGEST)

    def rest(self) -> None:
        """What learning had to bear is over: λ, where it moves, starts anew."""
        if self._moves:
            self.guide_weight = 1.0

    def protect(self, step: int, metric: float) -> bool:
        """Let the controller judge a measurement; whether it gave channels bits back."""
        depths = {name: layer.quantizer.bits.detach() * layer.mask for name, layer in self.layers.items()}
        scores = self._ranking(step) if self.controller.acts(metric) else {}
        most = {name: self._most(layer) for name, layer in self.layers.items()}
        changed = self.controller.check(step, metric, depths, scores, Ledger.of(self.model).members, most)
        for name, bits in changed.items():
            layer = self.layers[name]
            layer.quantizer.set_bits(torch.where(bits > 0, bits, layer.quantizer.bits))
            self.forget.update((f"{name}.quantizer.bits", f"{name}.quantizer.log2_range"))
        if changed:
            living = {name: (bits > 0).to(bits.dtype) for name, bits in (depths | changed).items()}
            set_masks(self.model, living)
            log.info(
                "controller: watch fell by %.4f at step %d; channels get bits back", self.fall(metric), step
            )
        return bool(changed)

    def _most(self, layer: QuantLayer) -> torch.Tensor:
        """The bits that channels can have, float32 [O].

        Once a layer has settled at the widths of a file, only its dead channels can get any.
        """
        if not layer.quantizer.settled:
            return torch.full_like(layer.mask, self.goal.depths[1])
        if layer.storage.packed:
            return torch.full_like(layer.mask, MAX_BITS)
        return layer.widths()

    def _ranking(self, step: int) -> Masks:
        """By what the controller ranks channels: sensitivity, or for comparison chance."""
        if self.goal.restores == "sensitivity":
            return self.sensitivity()
        generator = torch.Generator().manual_seed(step)
        return {name: torch.rand(len(layer.mask), generator=generator) for name, layer in self.layers.items()}

    def lost(self, model: QuantizedModel) -> float:
        """The mean loss of another form of the model on the samples of ``batch``."""
        re_estimate_norms(model, self.data)
        inputs, labels = self.batch
        with model.evaluating() as module:
            outputs = torch.cat([module(part) for part in torch.split(inputs, _BATCH)])
        return float(self.loss.loss(outputs, labels))

    def sensitivity(self) -> Masks:
        """See :func:`sgsc_edge.compression.sensitivity.sensitivity`."""
        return sensitivity(self.model, self.loss, *self.batch)

    def fisher(self) -> Masks:
        """See :func:`sgsc_edge.compression.sensitivity.fisher_information`."""
        return fisher_information(self.model, self.loss, *self.batch)
