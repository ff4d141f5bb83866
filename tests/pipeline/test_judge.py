"""What a search and a frontier measure before there is a certificate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsc_edge.certification.metrics import METRICS
from sgsc_edge.pipeline.recording import Judge


@pytest.mark.parametrize("name", list(METRICS))
@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5))
def test_sequences_are_measured_on_their_labelled_tokens(
    name: str, seed: int, count: int, length: int
) -> None:
    """As certification has it: flattened. The error is that of means over whole sequences."""
    generator = np.random.default_rng(seed)
    outputs = generator.normal(size=(count, length + 1, 4))
    labels = generator.integers(0, 4, (count, length + 1))
    labels[:, -1] = -100
    judge = Judge(METRICS[name], probabilities=False)
    found = judge.with_error(outputs, labels)
    assert found is not None
    value, error = found
    rows, flat = outputs[:, :-1].reshape(-1, 4), labels[:, :-1].reshape(-1)
    assert value == METRICS[name].measure(rows, flat, False)
    means = [METRICS[name].measure(outputs[i, :-1], labels[i, :-1], False) for i in range(count)]
    assert error == pytest.approx(np.std(np.array(means, float)) / np.sqrt(count), abs=1e-12)


def test_a_sequence_counts_by_its_labelled_tokens() -> None:
    """Three tokens of one sequence, all right, and one of another, wrong."""
    outputs = np.zeros((2, 3, 2))
    outputs[..., 0] = 1.0
    labels = np.array([[0, 0, 0], [1, -100, -100]])
    value, error = Judge(METRICS["accuracy"], False).with_error(outputs, labels) or (0.0, 0.0)
    assert value == 0.75
    assert error == pytest.approx(np.sqrt((3 * 0.25) ** 2 + 0.75**2) / 4)


def test_a_probability_that_rounds_to_0_is_a_large_loss_and_not_an_unmeasured_one() -> None:
    outputs = np.array([[1.0, 0.0], [0.25, 0.75]])
    labels = np.array([1, 1])
    found = Judge(METRICS["loss"], True).value(outputs, labels)
    assert found == pytest.approx((np.log(512) - np.log(0.75)) / 2)
    assert Judge(METRICS["accuracy"], True).value(outputs, labels) == 0.5


@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_not_measured(probabilities: bool, broken: float) -> None:
    outputs, labels = np.array([[1.0, 0.0], [0.5, broken]]), np.array([0, 1])
    for metric in METRICS.values():
        assert Judge(metric, probabilities).value(outputs, labels) is None
        assert Judge(metric, probabilities).with_error(outputs, labels) is None
