"""The second phase: channels and widths that meet the budget are chosen, and all is fine-tuned at them.

While the watch metric lies below its floor, layers become wider again where there is room.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace

import torch

from sgsc_edge.compression.channels import living_masks, set_masks
from sgsc_edge.compression.fit import Masks, bytes_at, stored_bytes
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guarding import Guarding
from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.quantizer import FLOOR_BITS
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.storing import Storing
from sgsc_edge.compression.working import WorkingCopy

log = logging.getLogger("sgsc_edge")


class Settling:
    """Brings a model from learned depths to widths that the target stores.

    Parameters
    ----------
    step: the last one of the learning phase.

    Attributes
    ----------
    learned: layer name -> depths [O] at the end of learning; empty before.
    """

    def __init__(
        self, model: QuantizedModel, goal: Goal, guarding: Guarding, storing: Storing, step: int
    ) -> None:
        self.model, self.goal, self.guarding, self.storing, self.step = model, goal, guarding, storing, step
        self.layers = dict(model.layers())
        self.learned: dict[str, torch.Tensor] = {}

    @property
    def done(self) -> bool:
        """Whether depths are no longer learned."""
        return bool(self.learned)

    def settle(self) -> None:
        """Choose channels and widths, and stop learning depths."""
        guarding, budget = self.guarding, self.goal.budget
        guarding.refresh()
        self.learned = {name: layer.quantizer.bits.detach().clone() for name, layer in self.layers.items()}
        alive, fisher = living_masks(self.model), guarding.fisher()
        if budget is None:
            self.storing.choose(alive, fisher)
        else:
            alive = self.storing.choose_within(budget, alive, fisher, guarding.sensitivity(), self._lost)
        set_masks(self.model, alive)
        self.storing.snap()
        if budget is None and self.goal.guard and self.goal.presses:
            self.reopen()
            self.storing.recount(living_masks(self.model), fisher)
        guarding.rest()
        self.storing.report()
        log.info(
            "compress: widths chosen; %d bytes stored%s%s",
            stored_bytes(self.model, living_masks(self.model)),
            "" if budget is None else f" of {budget}",
            f", {self.learned_bytes():.0f} at learned widths" if self.goal.presses else "",
        )

    def _lost(self, kept: Masks, plan: Plan) -> float:
        """The guide loss of a choice, untrained, in nats; the model stays as it is."""
        trial = replace(self.model, module=copy.deepcopy(self.model.module))
        set_masks(trial, kept)
        storages = plan.storages()
        for name, layer in trial.layers():
            layer.snap_to(storages[name])
        cut = WorkingCopy(trial)
        cut.push()
        return self.guarding.lost(cut.model)

    def reopen(self) -> None:
        """Before channels are gone for good, let the controller bring back what the watch set misses."""
        changed = True
        while changed:
            self.guarding.controller.last = math.inf  # nothing is trained in between: no recovery to wait for
            changed = self.guarding.protect(self.step, self.guarding.metric())
            self.storing.regain()

    def look_back(self, step: int) -> None:
        """Now and then: λ follows the watch set; where that has fallen, layers grow wider.

        First comes the one that loses most for its bytes by being stored in few bits, if there is room.
        """
        if not self.guarding.looks:
            return
        metric = self.guarding.metric()
        self.guarding.follow(metric)
        fall = self.guarding.fall(metric)
        if not self.goal.guard or self.storing.plan is None or fall <= self.guarding.controller.release:
            return
        budget = self.goal.budget
        room = math.inf if budget is None else self.storing.room(budget, living_masks(self.model))
        for name in self.storing.widen(room):
            layer = self.layers[name]
            self.guarding.forget.update((f"{name}.quantizer.log2_range", f"{name}.weight"))
            now = f"{name} {layer.storage}"
            log.info("compress: watch %.4f below float at step %d: %s", fall, step, now)

    @torch.no_grad()
    def learned_bytes(self) -> float:
        """Bytes of the whole model if every channel were stored at its own whole depth.

        Constants, biases and scales count as they are stored. No TFLite format does that.
        """
        masks = living_masks(self.model)
        whole = {name: self._whole(name, layer) * masks[name] for name, layer in self.layers.items()}
        return bytes_at(self.model, masks, whole)

    def _whole(self, name: str, layer: QuantLayer) -> torch.Tensor:
        """Whole depths, float32 [O]; where packed channels have settled, those that are stored."""
        if self.done and layer.storage.packed:
            return layer.widths()
        return self.learned.get(name, layer.quantizer.bits).clamp_min(FLOOR_BITS).ceil()

    def resume(self, learned: dict[str, torch.Tensor]) -> None:
        """Go on where a checkpoint has stopped."""
        self.learned = learned
        for layer in self.layers.values():
            layer.quantizer.settled = self.done
            layer.quantizer.shared = self.done and not layer.storage.per_channel
