"""The feedback controller: gives bits back to the channels that the watch set misses.

Every check compares the watch metric with the float baseline. When it falls by more than ``trip``, the
controller takes hold: the most sensitive channels get bits back. While the metric recovers, training goes on;
at a check that finds it no better than the one before, more channels do, step by step, until it has come back
to within ``release``. The gap between the two thresholds (hysteresis) keeps the controller from acting on
noise.

Under a fixed weight on the size, pressure stops meanwhile, and each time twice as many channels get bits. A
budget is due whatever the controller says: pressure goes on, and the other channels pay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_SHARE = 0.1
"""Share of all channels that get bits back at first."""

_STEP = 1.0
_REVIVED = 4.0
"""Bits of a channel that comes back to life: enough for more than a sign."""


@dataclass(frozen=True)
class Restored:
    """One channel that got bits back, and why."""

    layer: str
    channel: int
    sensitivity: float
    before: float
    after: float


@dataclass
class Controller:
    """Watches one compression.

    Parameters
    ----------
    baseline: the float model's watch metric, higher is better.
    trip, release: allowed fall before it acts, and after which it lets go; trip >= release >= 0.
    bounded: whether there is a budget: then dead channels stay dead, and no more channels get bits at a time
        than others can pay for.
    """

    baseline: float
    trip: float
    release: float
    bounded: bool = False
    holding: bool = False
    streak: int = 0
    """How often it acted since it took hold."""
    last: float = -math.inf
    """The metric at the check before, while it holds."""
    actions: list[dict[str, object]] = field(default_factory=list)

    def acts(self, metric: float) -> bool:
        """Whether it would take or keep hold at a measurement."""
        return self.baseline - metric > (self.release if self.holding else self.trip)

    def check(
        self,
        step: int,
        metric: float,
        bits: Mapping[str, torch.Tensor],
        sensitivity: Mapping[str, torch.Tensor],
        classes: Mapping[str, NDArray[np.int64]],
        most: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Judge a measurement; returns the new depths of layers whose channels get bits back.

        Parameters
        ----------
        metric: of the watch set now, higher is better.
        bits, sensitivity: by layer name, float32 [O]; a dead channel has 0 bits.
        classes: by layer name, int64 [O]: channels of one class live together (see ``ledger``).
        most: by layer name, float32 [O]: the bits that a channel can have.
        """
        fall = self.baseline - metric
        self.holding = self.acts(metric)
        recovers, self.last = metric > self.last and self.streak > 0, metric
        if not self.holding:
            self.streak, self.last = 0, -math.inf
        if not self.holding or recovers:
            return {}
        ranked = sorted(
            (
                (float(score), name, channel)
                for name, scores in sensitivity.items()
                for channel, score in enumerate(scores)
                if bits[name][channel] < most[name][channel] and (not self.bounded or bits[name][channel])
            ),
            reverse=True,
        )
        if not ranked:
            return {}  # every channel has all its bits
        total = sum(len(scores) for scores in sensitivity.values())
        chosen = [(name, channel) for _, name, channel in ranked[: self._count(total)]]
        changed: dict[str, torch.Tensor] = {}
        restored = []
        for name, channel in _with_partners(chosen, bits, classes):
            new = changed.setdefault(name, bits[name].clone())
            before = float(new[channel])
            new[channel] = min(max(before + _STEP, _REVIVED), float(most[name][channel]))
            score = float(sensitivity[name][channel])
            restored.append(Restored(name, channel, score, before, float(new[channel])))
        self.streak += 1
        self.actions.append(
            {"step": step, "metric": metric, "fall": fall, "restored": [vars(row) for row in restored]}
        )
        return changed

    def _count(self, total: int) -> int:
        """How many channels get bits back at this check."""
        return max(round(math.ldexp(_SHARE, 0 if self.bounded else self.streak) * total), 1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"holding": self.holding, "streak": self.streak, "last": self.last, "actions": self.actions}

    def load(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state`."""
        self.holding, self.streak = state["holding"], state["streak"]
        self.last, self.actions = state["last"], state["actions"]


def _with_partners(
    chosen: list[tuple[str, int]],
    bits: Mapping[str, torch.Tensor],
    classes: Mapping[str, NDArray[np.int64]],
) -> list[tuple[str, int]]:
    """The chosen channels, and the dead ones without which a dead one of them would not come back."""
    woken = {int(classes[name][channel]) for name, channel in chosen if not float(bits[name][channel])}
    partners = [
        (name, channel)
        for name, own in classes.items()
        for channel, number in enumerate(own.tolist())
        if number in woken and not float(bits[name][channel])
    ]
    return list(dict.fromkeys([*chosen, *partners]))
