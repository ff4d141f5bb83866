"""What follows from the watch metric: the weight of the guide samples."""

from __future__ import annotations

import math

import pytest
from compression.test_own_loop import compressor


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
