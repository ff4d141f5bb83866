"""The first phase: depths are learned under pressure on the size, channels die, some get bits back."""

from __future__ import annotations

import torch

from sgsc_edge.compression.channels import answering, living_masks, set_masks
from sgsc_edge.compression.fit import remove_until, stored_bytes
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guarding import Guarding
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.path import Path
from sgsc_edge.compression.pressure import Depths, Pressure
from sgsc_edge.compression.quantizer import FLOOR_BITS

CHECKS = 12
"""Looks at the watch set in the learning phase; the controller, when it holds, takes four times as many."""

REMOVALS = 30
"""Times in the learning phase at which channels are removed."""

_FIRST_REMOVAL = 0.2
"""Share of the learning phase before the first channel goes: depths must have had time to tell."""

_STEPS_BETWEEN = 5
"""Steps between two looks at least: training must have had time to answer."""


class Pressing:
    """Presses on the size of a model whose depths are learned.

    Parameters
    ----------
    steps: of the phase.
    """

    def __init__(self, model: QuantizedModel, goal: Goal, guarding: Guarding, steps: int) -> None:
        self.model, self.guarding, self.steps = model, guarding, steps
        self.layers = dict(model.layers())
        self.answers = answering(model)
        self.pressure = Pressure(model, goal.budget, goal.gamma, steps)
        self.restores = goal.restores is not None
        self.path = None
        if goal.budget is not None:
            self.path = Path(goal.budget, stored_bytes(model, living_masks(model)), steps)

    def term(self, loss: torch.Tensor, depths: Depths) -> torch.Tensor:
        """The size term of a batch, given its other terms and the depths that are trained: a scalar."""
        return loss.new_zeros(()) if self._rests else self.pressure.term(loss, depths)

    def is_due(self, done: int) -> bool:
        """Whether :meth:`act` does anything after so many steps."""
        return self._presses(done) or self._looks(done) or self._removes(done)

    def act(self, done: int) -> None:
        """After so many steps: move the multiplier, let the controller look, let channels go."""
        if self._presses(done):
            self.pressure.press(done)
        # The look comes first: what was just removed has had no step to recover from.
        if self._looks(done):
            self._check(done)
        if self._removes(done):
            self._remove(done)

    def _presses(self, done: int) -> bool:
        return not self._rests and self.pressure.is_due(done)

    def _looks(self, done: int) -> bool:
        times = 4 * CHECKS if self._holding else CHECKS
        return self.guarding.looks and done % self._pace(times, least=_STEPS_BETWEEN) == 0

    def _removes(self, done: int) -> bool:
        return done % self._pace(REMOVALS) == 0 and not self._rests

    @property
    def _holding(self) -> bool:
        return self.guarding.controller.holding

    @property
    def _rests(self) -> bool:
        """Whether the controller has stopped the pressure.

        A budget is due in the end, whatever the controller says: there other channels pay for the bits that
        some get back. A fixed weight can wait.
        """
        return self._holding and self.path is None

    def _pace(self, times: int, least: int = 1) -> int:
        """Steps between things that happen so many times in the phase."""
        return max(self.steps // times, least)

    def _check(self, step: int) -> None:
        """Look at the watch set: λ follows how far it is below its floor, the controller gives bits back."""
        metric = self.guarding.metric()
        self.guarding.follow(metric)
        if self.restores:
            held = self._holding
            self.guarding.protect(step, metric)
            if self._rests and not held:
                self.pressure.ease()

    def _remove(self, step: int) -> None:
        """Remove the channels that matter least for their bytes until the stored size is on its path.

        With a fixed γ there is no path: channels go when their depth has fallen below the smallest grid.
        """
        kept = living_masks(self.model)
        if self.path is None:
            for name, layer in self.layers.items():
                bits = layer.quantizer.bits
                faint = bits < FLOOR_BITS
                # A layer never loses its last channel.
                faint[bits.masked_fill(kept[name] == 0, -torch.inf).argmax()] = False
                kept[name][faint & (name not in self.answers)] = 0.0
        else:
            limit = self.path.at(step, start=_FIRST_REMOVAL)
            if stored_bytes(self.model, kept) > limit:
                kept = remove_until(self.model, kept, self.guarding.sensitivity(), limit)
        set_masks(self.model, kept)
