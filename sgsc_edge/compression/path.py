"""The way of a network's size from all of it down to the budget, step by step of the learning phase."""

from __future__ import annotations

from dataclasses import dataclass

ARRIVED = 0.9
"""Share of the learning phase after which the path has come down to the budget."""

_AGAIN = 0.3
"""Share of the learning phase that a path takes at least which started again."""


@dataclass
class Path:
    """Bytes that a network should have come down to: equal ratios a step, from its full size to the budget.

    Where the controller gave channels back, the path starts again from what there is now: the way down that
    the network did not stand is not taken in one step a second time.

    Parameters
    ----------
    budget, full: bytes.
    steps: of the learning phase; ``latest`` is the last step that it may be prolonged to.
    begun, bytes: the step and the size from which the path leads.
    """

    budget: int
    full: int
    steps: int
    latest: int
    begun: int = 0
    bytes: float = 0.0

    def __post_init__(self) -> None:
        self.bytes = self.bytes or float(max(self.full, self.budget))

    def at(self, step: int, start: float = 0.0) -> float:
        """Bytes at a step, for what begins after the share ``start`` of the phase.

        >>> path = Path(budget=100, full=400, steps=1000, latest=1200)
        >>> path.at(0), round(path.at(450)), path.at(900), path.at(450, start=0.5)
        (400.0, 200, 100.0, 400.0)
        """
        first = max(start * self.steps, self.begun)
        last = min(max(ARRIVED * self.steps, self.begun + _AGAIN * self.steps), self.latest)
        done = (step - first) / (last - first) if last > first else 1.0
        left = 1 - min(max(done, 0.0), 1.0)
        return float(self.budget * (self.bytes / self.budget) ** left)

    def restart(self, step: int, size: float) -> None:
        """Lead from a size at a step down to the budget again."""
        self.begun, self.bytes = step, max(size, float(self.budget))

    def arrived(self, size: float) -> bool:
        """Whether a size is near enough that an exact choice changes little."""
        return size <= self.budget / ARRIVED
