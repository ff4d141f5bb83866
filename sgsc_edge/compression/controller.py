"""The feedback controller: gives bits back to the channels that the watch set misses.

Every check compares the watch metric with the float baseline. When it falls by more than ``trip``, the
controller takes hold: pressure on the size stops, and at each check the most sensitive channels get bits
back, step by step, until the metric has come back to within ``release``. The gap between the two thresholds
(hysteresis) keeps it from acting on noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sgsc_edge.compression.quantizer import MAX_BITS

_SHARE = 0.1
"""Share of all channels that get bits back at one check."""

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
    trip, release: allowed fall before it acts, and after which it lets go; trip > release >= 0.
    """

    baseline: float
    trip: float
    release: float
    holding: bool = False
    actions: list[dict[str, object]] = field(default_factory=list)

    def check(
        self,
        step: int,
        metric: float,
        bits: Mapping[str, torch.Tensor],
        sensitivity: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Judge a measurement; returns the new depths of layers whose channels get bits back.

        Parameters
        ----------
        metric: of the watch set now, higher is better.
        bits, sensitivity: by layer name, float32 [O].
        """
        fall = self.baseline - metric
        self.holding = fall > (self.release if self.holding else self.trip)
        if not self.holding:
            return {}
        ranked = sorted(
            (
                (float(score), name, channel)
                for name, scores in sensitivity.items()
                for channel, score in enumerate(scores)
                if float(bits[name][channel]) < MAX_BITS
            ),
            reverse=True,
        )
        total = sum(len(scores) for scores in sensitivity.values())
        changed: dict[str, torch.Tensor] = {}
        restored = []
        for score, name, channel in ranked[: max(round(_SHARE * total), 1)]:
            new = changed.setdefault(name, bits[name].clone())
            before = float(new[channel])
            new[channel] = min(max(before + _STEP, _REVIVED), MAX_BITS)
            restored.append(Restored(name, channel, score, before, float(new[channel])))
        self.actions.append(
            {"step": step, "metric": metric, "fall": fall, "restored": [vars(row) for row in restored]}
        )
        return changed
