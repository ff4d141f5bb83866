"""The search for a floor, against every kind of curve that its tries could follow."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from sgsc_edge.compression.floor_search import DOUBT, REFINEMENTS, STEP, Found, Trial, search

WHOLE, SMALLEST = 88_000, 700


class Curve:
    """Thorough tries fall below 0.9 exactly under ``knee`` bytes; short ones score ``short`` less."""

    def __init__(self, knee: float, short: float = 0.0, error: float = 0.01) -> None:
        self.knee, self.short, self.error = knee, short, error
        self.asked: list[tuple[int, int | None, bool]] = []

    def __call__(self, budget: int, above: int | None, *, thorough: bool) -> Trial:
        self.asked.append((budget, above, thorough))
        score = 0.9 + 0.05 * math.tanh(math.log(budget / self.knee)) - (0.0 if thorough else self.short)
        return Trial(budget, above, thorough, score, self.error)

    def found(self) -> Found:
        return search(self, 0.9, WHOLE, SMALLEST)


@given(st.floats(SMALLEST / 2, WHOLE * 0.99), st.floats(0.0, 0.019))
def test_it_ends_within_its_resolution_above_the_knee(knee: float, short: float) -> None:
    """What short tries lack lies within the noise: it costs thorough tries, and no bytes."""
    curve = Curve(knee, short)
    found = curve.found()
    assert found.reached
    assert found.best.thorough
    resolution = STEP ** -(0.5**REFINEMENTS)
    assert max(knee, SMALLEST) <= found.best.budget * (1 + 1e-9)
    assert found.best.budget <= max(knee * resolution * 1.01, SMALLEST)


@given(st.floats(SMALLEST / 2, WHOLE * 2), st.floats(0.0, 0.2), st.floats(0.0, 0.1))
def test_no_try_is_made_twice_and_each_goes_on_from_a_short_one_above_it(
    knee: float, short: float, error: float
) -> None:
    curve = Curve(knee, short, error)
    found = curve.found()
    assert len(set(curve.asked)) == len(curve.asked) == len(found.trials)
    short_ones = [budget for budget, _, thorough in curve.asked if not thorough]
    for budget, above, _ in curve.asked:
        assert SMALLEST <= budget <= WHOLE
        assert (above is None) == (budget == WHOLE)
        if above is not None:
            assert above > budget
            assert above in short_ones
    assert found.best in found.trials
    assert found.reached == (found.best.score >= 0.9)
    assert found.best.thorough


def test_a_short_try_that_misses_by_less_than_the_noise_is_made_again() -> None:
    curve = Curve(knee=10_000, short=0.01, error=0.02)
    curve.found()
    first_short = next(budget for budget, _, thorough in curve.asked if not thorough and budget < 12_000)
    assert (first_short, True) in [(budget, thorough) for budget, _, thorough in curve.asked]
    sure = Curve(knee=10_000, short=0.01, error=0.001)
    sure.found()
    far = [budget for budget, _, thorough in sure.asked if thorough]
    assert DOUBT * sure.error < sure.short
    assert len(far) == 1


def test_where_the_thorough_try_misses_the_next_larger_one_has_its_turn() -> None:
    class Worse(Curve):
        def __call__(self, budget: int, above: int | None, *, thorough: bool) -> Trial:
            trial = super().__call__(budget, above, thorough=thorough)
            lost = thorough and budget < 20_000
            return Trial(budget, above, thorough, trial.score - 0.1 * lost, trial.error)

    found = Worse(knee=5_000, error=0.0).found()
    assert found.reached
    assert found.best.budget == 31_680  # the last step down above 20,000


def test_a_floor_above_all_gives_the_best_thorough_try() -> None:
    found = Curve(knee=WHOLE * 3, error=0.0).found()
    assert not found.reached
    assert [trial.budget for trial in found.trials] == [WHOLE, WHOLE]
    assert found.best.thorough


def test_a_floor_below_all_ends_at_the_smallest_network() -> None:
    found = Curve(knee=1.0).found()
    assert found.reached
    assert found.best.budget == SMALLEST
