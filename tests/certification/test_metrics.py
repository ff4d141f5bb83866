from __future__ import annotations

import math

import numpy as np
import pytest

from sgsc_edge.certification.metrics import OutputGrid, accuracy, cross_entropy, decisions, measure_all, ties


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_the_lowest_index_wins_a_tie_and_ties_are_counted_once_a_row() -> None:
    logits = np.array([[-128, -128, -128], [4, 9, 9], [9, 4, 9], [1, 2, 3]], np.int8)
    assert decisions(logits).tolist() == [0, 1, 0, 2]
    assert ties(logits) == 3
    assert ties(logits[:0]) == 0


def test_cross_entropy_by_hand() -> None:
    values = np.array([[0.0, 0.0], [math.log(3), 0.0]])
    expected = (math.log(2) - math.log(0.75)) / 2
    assert cross_entropy(values, labels(1, 0), False) == pytest.approx(expected, abs=1e-15)
    assert cross_entropy(np.array([[1000.0, 0.0]]), labels(1), False) == 1000.0
    probabilities = np.array([[0.25, 0.75], [0.5, 0.5]])
    expected = (math.log(4) + math.log(2)) / 2
    assert cross_entropy(probabilities, labels(0, 1), True) == pytest.approx(expected, abs=1e-15)


def test_a_probability_that_int8_rounds_to_0_costs_what_half_a_step_does() -> None:
    zero, half, step = (
        cross_entropy(np.array([[probability, 0.5]]), labels(0), True)
        for probability in (0.0, 1 / 512, 1 / 256)
    )
    assert zero == half == pytest.approx(math.log(512), abs=1e-15)
    assert step == pytest.approx(math.log(256), abs=1e-15)


def test_what_is_not_finite_is_not_measured() -> None:
    assert cross_entropy(np.array([[-0.1, 1.0]]), labels(0), True) is None
    for bad in (math.nan, math.inf, -math.inf):
        values = np.array([[0.0, 1.0], [bad, 0.0]])
        assert measure_all(values, labels(0, 1), False) == {"accuracy": None, "loss": None}
    assert measure_all(np.empty((0, 3)), labels(), False) == {"accuracy": None, "loss": None}


def test_accuracy_is_a_share_of_samples() -> None:
    assert accuracy(np.array([[2.0, 1.0], [1.0, 2.0], [0.0, 0.0]]), labels(0, 0, 1), False) == 1 / 3


def test_integers_become_reals_on_their_grid() -> None:
    grid = OutputGrid(0.5, -3)
    assert grid.to_real(np.array([[-128, -3, 127]], np.int8)).tolist() == [[-62.5, 0.0, 65.0]]
