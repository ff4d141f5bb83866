"""The way of a network's size from all of it down to the budget, step by step of the learning phase."""

from __future__ import annotations

from dataclasses import dataclass

_ARRIVED = 0.9
"""Share of the learning phase after which the path has come down to the budget."""


@dataclass(frozen=True)
class Path:
    """Bytes that a network should have come down to: equal ratios a step, from its full size to the budget.

    Parameters
    ----------
    budget, full: bytes.
    steps: of the learning phase.
    """

    budget: int
    full: int
    steps: int

    def at(self, step: int, start: float = 0.0) -> float:
        """Bytes at a step, for what begins after the share ``start`` of the phase.

        >>> path = Path(budget=100, full=400, steps=1000)
        >>> path.at(0), round(path.at(450)), path.at(900), path.at(450, start=0.5)
        (400.0, 200, 100.0, 400.0)
        """
        done = (step / self.steps - start) / (_ARRIVED - start)
        left = 1 - min(max(done, 0.0), 1.0)
        return float(self.budget * (max(self.full, self.budget) / self.budget) ** left)
