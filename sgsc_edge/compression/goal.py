"""What compression aims for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sgsc_edge.compression.quantizer import FLOOR_BITS, MAX_BITS

Controls = bool | Literal["random"] | None
"""Whether, and by what, the controller gives bits back: see :class:`Goal`."""

GUIDE_SHARE = 0.25
"""Share of a batch that is drawn from the guide set."""


@dataclass(frozen=True)
class Goal:
    """What compression aims for.

    Parameters
    ----------
    budget: stored bytes that must not be exceeded; None with a fixed ``gamma``.
    alpha, gamma: the paper's fixed weights α and γ.
    guide_weight: λ; None lets the watch metric move it, 0 makes guide samples ordinary training samples.
    controller: whether channels get bits back when the watch metric falls: the most sensitive ones (True),
        for comparison any (``"random"``), or none (False: layers do not grow wider, either). None: the most
        sensitive ones under a fixed ``gamma``, where pressure waits for them; none under a budget, where
        other channels would pay for the bits, which was not seen to gain anything (``benchmarks.paper``).
    depths: the range in which bit depths are learned; they start at its upper end. At 2 bits or less at its
        lower end, depths go on falling below the smallest grid and tell how little a channel is worth.
    """

    budget: int | None
    alpha: float = 0.0
    gamma: float = 0.0
    guide_weight: float | None = None
    controller: Controls = None
    depths: tuple[float, float] = (FLOOR_BITS, MAX_BITS)

    @property
    def guard(self) -> bool:
        """Whether layers grow wider where the watch metric falls, and channels may get bits back."""
        return self.controller is not False

    @property
    def restores(self) -> Literal["sensitivity", "random"] | None:
        """By what channels are ranked that get bits back while depths are learned; None where none do."""
        if self.controller == "random":
            return "random"
        gives = self.budget is None if self.controller is None else self.controller
        return "sensitivity" if gives else None

    @property
    def guide_share(self) -> float:
        """Share of a batch that is drawn from the guide set."""
        return 0.0 if self.guide_weight == 0 else GUIDE_SHARE

    @property
    def presses(self) -> bool:
        """Whether anything presses on the size."""
        return self.budget is not None or self.gamma > 0
