"""What follows from the watch metric: the weight of the guide samples, bits that channels get back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from compression.test_own_loop import EPOCHS, adamw, compressor, steps_of

from sgsc_edge.compression.goal import Goal


def test_the_guide_weighs_less_while_the_watch_metric_holds_and_as_much_as_all_else_at_most() -> None:
    guarding = compressor(max_drop=0.02)._guarding
    baseline = guarding.controller.baseline
    assert guarding.guide_weight == 1
    guarding.follow(baseline - 0.04)  # the controller's trip
    assert guarding.guide_weight == 1
    guarding.follow(baseline)
    assert guarding.guide_weight == pytest.approx(math.exp(-0.5))
    guarding.follow(baseline - 0.02)  # the floor
    assert guarding.guide_weight == pytest.approx(math.exp(-0.5))
    guarding.follow(baseline - 0.03)
    assert guarding.guide_weight == pytest.approx(math.exp(-0.25))
    for _ in range(10):
        guarding.follow(baseline + 1)
    assert guarding.guide_weight == 1 / 16
    for _ in range(10):
        guarding.follow(baseline - 1)
    assert guarding.guide_weight == 1


def test_a_weight_that_is_given_stays() -> None:
    guarding = compressor(guide_weight=3.0)._guarding
    for metric in (-1.0, 0.5, 2.0):
        guarding.follow(metric)
    assert guarding.guide_weight == 3


@pytest.mark.parametrize(
    ("goal", "restores"),
    [
        (Goal(280), None),
        (Goal(280, controller=True), "sensitivity"),
        (Goal(280, controller="random"), "random"),
        (Goal(280, controller=False), None),
        (Goal(None, gamma=1.0), "sensitivity"),
        (Goal(None, gamma=1.0, controller="random"), "random"),
        (Goal(None, gamma=1.0, controller=False), None),
    ],
    ids=str,
)
def test_under_a_budget_channels_get_bits_back_only_where_that_is_asked_for(
    goal: Goal, restores: str | None
) -> None:
    assert goal.restores == restores
    assert goal.guard == (goal.controller is not False)


@pytest.mark.parametrize(("options", "acts"), [({}, False), ({"controller": True}, True)], ids=str)
def test_a_watch_metric_that_has_fallen_under_a_budget(options: dict[str, Any], acts: bool) -> None:
    falling = iter([1.0])  # of the float model; then it never holds again
    compressing = compressor(watch=lambda model: next(falling, 0.0), **options)
    steps_of(compressing, adamw(compressing.model.parameters()), EPOCHS)
    assert bool(compressing.controller.actions) == acts
