from __future__ import annotations

import numpy as np
import pytest

from sgsc_edge.certification.compare import measure, measure_reference
from sgsc_edge.certification.metrics import OutputGrid
from sgsc_edge.certification.records import TestSummary as Summary
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.errors import InternalError

GRID = OutputGrid(0.1, 0)


def sample_set(**changes: object) -> SampleSet:
    """Five samples, two classes; the float model decides 0 1 0 1 1, the labels are 0 1 1 1 0."""
    fields = {
        "inputs": np.zeros((5, 2), np.int8),
        "labels": np.array([0, 1, 1, 1, 0], np.int64),
        "ids": np.array(list("abcde"), "<U16"),
        "float_logits": np.array([[2, 1], [1, 2], [2, 1], [1, 2], [1, 2]], np.float32),
        "compressed_logits": np.array([[9, 1], [9, 1], [1, 9], [1, 9], [5, 5]], np.int8),  # 0 0 1 1 0
        **changes,
    }
    return SampleSet(**fields)  # type: ignore[arg-type]


def test_flips_differences_ties_and_distance_by_hand() -> None:
    # Decisions 0 0 1 0 1: right on a and c; the float model is right on a, b and d.
    outputs = np.array([[9, 1], [9, 1], [1, 12], [7, 7], [-128, 5]], np.int8)
    found = measure(outputs, sample_set(), GRID)
    assert (found.samples, found.correct, found.metrics["accuracy"]) == (5, 2, 0.4)
    assert found.negative_flips == ("b", "d")
    assert found.positive_flips == ("c",)
    assert found.differs_from_compressed == ("d", "e")
    assert found.decisions == {"d": 0, "e": 1}
    assert found.ties == 1
    assert found.max_lsb == 133  # beyond what int8 differences hold
    summary = Summary.of(found)
    assert (summary.negative_flips, summary.positive_flips, summary.differs_from_compressed) == (2, 1, 2)


def test_the_compressed_model_itself_differs_nowhere() -> None:
    samples = sample_set()
    found = measure(samples.compressed_logits, samples, GRID)
    assert (found.differs_from_compressed, found.max_lsb, found.ties) == ((), 0, 1)
    assert found.negative_flips == ("b",)
    assert found.positive_flips == ("c", "e")


def test_a_float_reference_has_no_integers_to_differ_in() -> None:
    samples = sample_set()
    found = measure_reference(samples.float_logits, samples, GRID)
    assert found is not None
    assert (found.correct, found.negative_flips, found.positive_flips, found.max_lsb) == (3, (), (), None)
    assert found.differs_from_compressed == ("b", "c", "e")


def test_nan_in_the_float_logits_leaves_flips_unmeasured() -> None:
    logits = sample_set().float_logits.copy()
    logits[4, 1] = np.nan
    samples = sample_set(float_logits=logits)
    assert measure_reference(logits, samples, GRID) is None
    found = measure(samples.compressed_logits, samples, GRID)
    assert (found.negative_flips, found.positive_flips) == (None, None)


def test_no_samples_measure_nothing() -> None:
    empty = SampleSet(
        np.zeros((0, 2), np.int8),
        np.zeros(0, np.int64),
        np.zeros(0, "<U16"),
        np.zeros((0, 2), np.float32),
        np.zeros((0, 2), np.int8),
    )
    found = measure(empty.compressed_logits, empty, GRID)
    assert (found.samples, found.max_lsb, found.metrics) == (0, 0, {"accuracy": None, "loss": None})


def test_outputs_of_another_shape_are_our_bug() -> None:
    with pytest.raises(InternalError):
        measure(np.zeros((4, 2), np.int8), sample_set(), GRID)


def test_the_hash_of_a_set_is_of_its_samples() -> None:
    one = sample_set()
    assert one.sha256 == sample_set(compressed_logits=np.zeros((5, 2), np.int8)).sha256
    changed = one.inputs.copy()
    changed[4, 1] = 1
    others = [
        sample_set(inputs=changed),
        sample_set(inputs=one.inputs.reshape(5, 1, 2)),
        sample_set(labels=1 - one.labels),
        sample_set(ids=np.array(list("abcdf"), "<U16")),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 5
