"""The smallest budget under which a metric keeps above a floor: what is tried, and when it is enough.

From the whole network downwards in equal ratios, each try from the learned model of the one above it; then
between the last budget that held and the first that missed. A try is short. The metric of a finite set is
noisy and a short try is worse than a thorough one, so one that misses by no more than that noise is made
again thoroughly, and what is found in the end is, too; where it then misses after all, the next larger budget
that held gets its turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

STEP = 0.6
"""Ratio of one budget to the one above it on the way down."""

REFINEMENTS = 2
"""Tries between the last budget that held and the first that missed, each halving their ratio."""

DOUBT = 2.0
"""Standard errors of the metric below the floor, within which a short try decides nothing."""


@dataclass(frozen=True)
class Trial:
    """What came of a budget.

    Parameters
    ----------
    budget: bytes.
    above: the budget whose learned model it went on from; None for the float model.
    thorough: whether it was trained as long as what ships.
    score: the metric, higher is better.
    error: its standard error.
    """

    budget: int
    above: int | None
    thorough: bool
    score: float
    error: float


class Attempt(Protocol):
    """Compresses to a budget."""

    def __call__(self, budget: int, above: int | None, *, thorough: bool) -> Trial:
        """Go on from the short try of the budget ``above``; from the float model where that is None."""


@dataclass(frozen=True)
class Found:
    """How a search ended: ``best`` holds where ``reached``, else it is the nearest that was found."""

    best: Trial
    reached: bool
    trials: tuple[Trial, ...]


def search(attempt: Attempt, floor: float, whole: int, smallest: int) -> Found:
    """Look for the smallest budget whose thorough try has a score of at least ``floor``.

    Parameters
    ----------
    whole, smallest: bytes of the network with all its channels, and with as few as it can have.
    """
    tries = _Tries(attempt, floor)
    held, missed = _down(tries, whole, smallest)
    held = _between(tries, held, missed) if missed is not None else held
    for index in reversed(range(len(held))):
        trial = tries.make(held[index], held[index - 1] if index else None, thorough=True)
        if trial.score >= floor:
            return Found(trial, True, tuple(tries.made))
    if not held:
        tries.make(whole, None, thorough=True)
    best = max((trial for trial in tries.made if trial.thorough), key=lambda trial: trial.score)
    return Found(best, best.score >= floor, tuple(tries.made))


class _Tries:
    """The tries that were made, each once."""

    def __init__(self, attempt: Attempt, floor: float) -> None:
        self._attempt, self._floor = attempt, floor
        self.made: list[Trial] = []

    def make(self, budget: int, above: int | None, *, thorough: bool) -> Trial:
        for trial in self.made:
            if (trial.budget, trial.above, trial.thorough) == (budget, above, thorough):
                return trial
        trial = self._attempt(budget, above, thorough=thorough)
        self.made.append(trial)
        return trial

    def holds(self, budget: int, above: int | None) -> bool:
        """Whether a budget holds: a short try says so, or a thorough one where that is in doubt."""
        trial = self.make(budget, above, thorough=False)
        if self._floor - DOUBT * trial.error <= trial.score < self._floor:
            trial = self.make(budget, above, thorough=True)
        return trial.score >= self._floor


def _down(tries: _Tries, whole: int, smallest: int) -> tuple[list[int], int | None]:
    """The budgets that held, downwards, and the first that missed."""
    held: list[int] = []
    budget = whole
    while tries.holds(budget, held[-1] if held else None):
        held.append(budget)
        if budget <= smallest:
            return held, None
        budget = max(round(STEP * budget), smallest)
    return held, budget


def _between(tries: _Tries, held: Sequence[int], missed: int) -> list[int]:
    """The budgets that held, with those between the last of them and the first that missed."""
    found = list(held)
    for _ in range(REFINEMENTS if found else 0):
        middle = round(math.sqrt(found[-1] * missed))
        if not missed < middle < found[-1]:
            break
        if tries.holds(middle, found[-1]):
            found.append(middle)
        else:
            missed = middle
    return found
