from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sgsc_edge.preservation.uncertainty import as_logits, uncertainty


def test_the_three_measures_on_paper() -> None:
    """Probabilities (1/2, 1/4, 1/4) and (1/3, 1/3, 1/3)."""
    found = uncertainty(np.log(np.array([[4, 2, 2], [1, 1, 1]], dtype=np.float32)))
    np.testing.assert_allclose(found.least_confidence, [1 / 2, 2 / 3], rtol=1e-7)
    np.testing.assert_allclose(found.margin, [1 / 4, 0], atol=1e-7)
    np.testing.assert_allclose(found.entropy, [1.5 * np.log(2), np.log(3)], rtol=1e-7)


def test_confident_samples_are_still_told_apart() -> None:
    """1 - max p as a difference would be 0 for both."""
    found = uncertainty(np.array([[90, 0], [100, 0]], dtype=np.float32))
    assert found.least_confidence[0] == pytest.approx(np.exp(-90), rel=1e-9)
    assert found.least_confidence[0] > found.least_confidence[1] > 0


def test_probabilities_are_recognised_and_logits_are_left_alone() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32) * 9
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert as_logits(logits) is logits
    found, expected = uncertainty(as_logits(probabilities)), uncertainty(logits)
    np.testing.assert_allclose(found.least_confidence, expected.least_confidence, rtol=1e-4)
    almost = probabilities.copy()
    almost[7] *= 1.001
    assert as_logits(almost) is almost
    assert np.isfinite(as_logits(np.eye(3, dtype=np.float32))).all()


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
        elements=st.floats(-(2.0**60), 2.0**60, width=32),
    )
)
def test_bounds_hold_for_any_logits(logits: np.ndarray) -> None:
    found, classes = uncertainty(logits), logits.shape[1]
    assert ((found.least_confidence >= 0) & (found.least_confidence <= 1 - 1 / classes + 1e-12)).all()
    assert ((found.margin >= 0) & (found.margin <= 1)).all()
    assert ((found.entropy >= 0) & (found.entropy <= np.log(classes) + 1e-12)).all()
