"""What compression aims for."""

from __future__ import annotations

from dataclasses import dataclass

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
    guard: whether the controller acts.
    """

    budget: int | None
    alpha: float = 0.0
    gamma: float = 0.0
    guide_weight: float | None = None
    guard: bool = True

    @property
    def guide_share(self) -> float:
        """Share of a batch that is drawn from the guide set."""
        return 0.0 if self.guide_weight == 0 else GUIDE_SHARE

    @property
    def presses(self) -> bool:
        """Whether anything presses on the size."""
        return self.budget is not None or self.gamma > 0
