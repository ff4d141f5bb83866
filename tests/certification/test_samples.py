from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from build_folders import SIZES, TRAINED_ON, Arrays, recorded_arrays

from sgsc_edge.certification.samples import read_samples
from sgsc_edge.errors import DataError, FileFormatError, SgscError

WHERE = "preservation.npz"


def test_the_parts_are_read() -> None:
    arrays = recorded_arrays()
    sets = read_samples(arrays, where=WHERE)
    assert {part: len(samples) for part, samples in sets.items()} == SIZES
    assert all(samples.control_logits is None for samples in sets.values())
    marks = {part: samples.trained_on for part, samples in sets.items()}
    assert marks.pop("must_keep").tolist() == list(TRAINED_ON)
    assert set(marks.values()) == {None}
    arrays["certify_control_logits"] = arrays["certify_float_logits"]
    assert read_samples(arrays, where=WHERE)["certify"].control_logits is not None
    for name in list(arrays):
        if name.startswith("must_keep_"):
            del arrays[name]
    assert list(read_samples(arrays, where=WHERE)) == ["guide", "watch", "certify"]


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    def edit(arrays: Arrays) -> None:
        arrays[name] = change(arrays[name])

    return edit


def item(name: str, index: object, value: object) -> Callable[[Arrays], None]:
    def edit(arrays: Arrays) -> None:
        arrays[name][index] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "error", "words"),
    [
        (lambda a: a.pop("certify_ids"), FileFormatError, "'certify_ids' is missing"),
        (lambda a: a.pop("measured_ids"), FileFormatError, "'measured_ids' is missing"),
        (lambda a: a.pop("watch_inputs"), FileFormatError, "'watch_inputs' is missing"),
        (lambda a: a.pop("must_keep_labels"), FileFormatError, "'must_keep_labels' is missing"),
        (lambda a: a.pop("must_keep_inputs"), FileFormatError, "'must_keep_inputs' is missing"),
        (lambda a: a.pop("must_keep_trained_on"), FileFormatError, "'must_keep_trained_on' is missing"),
        (put("must_keep_trained_on", lambda a: a.astype(np.int8)), FileFormatError, "int8[6], expected bool"),
        (
            put("must_keep_trained_on", lambda a: a[:, None]),
            FileFormatError,
            "bool[6, 1], expected bool with 1",
        ),
        (put("must_keep_trained_on", lambda a: a[:5]), FileFormatError, "'must_keep' differ in length"),
        (
            item("must_keep_ids", 4, "guide0003"),
            FileFormatError,
            "contradicts the part that has the sample: guide0",
        ),
        (
            item("must_keep_ids", 0, "watch0003"),
            FileFormatError,
            "contradicts the part that has the sample: watch0",
        ),
        (
            item("must_keep_ids", 0, "certify0003"),
            FileFormatError,
            "contradicts the part that has the sample",
        ),
        (item("must_keep_ids", 1, "test0"), DataError, "both must_keep and the test set: test0"),
        (put("certify_inputs", lambda a: a.astype(np.uint8)), FileFormatError, "is uint8"),
        (put("certify_labels", lambda a: a.astype(np.int32)), FileFormatError, "expected int64"),
        (put("certify_labels", lambda a: a[:, None]), FileFormatError, "with 1 dim"),
        (put("certify_ids", lambda a: np.arange(len(a))), FileFormatError, "expected text"),
        (put("certify_float_logits", lambda a: a.astype(float)), FileFormatError, "expected float32"),
        (put("certify_inputs", lambda a: a[:-1]), FileFormatError, "differ in length"),
        (put("certify_inputs", lambda a: a[:, 0]), FileFormatError, "differ in sample shape"),
        (put("certify_compressed_logits", lambda a: a[:, :2]), FileFormatError, "classes"),
        (item("certify_labels", 7, 3), DataError, "label 3 of sample certify0007"),
        (item("guide_labels", 0, -1), DataError, "label -1 of sample guide0000"),
        (item("certify_ids", 7, "certify0002"), DataError, "certify holds 50 samples, but only 49 different"),
        (item("certify_ids", 7, "guide0002"), DataError, "both guide and certify: guide0002"),
        (item("watch_ids", 1, "certify0002"), DataError, "both watch and certify: certify0002"),
        (item("certify_ids", 0, "test1"), DataError, "both certify and the test set: test1"),
    ],
)
def test_bad_records_are_refused(edit, error: type[SgscError], words: str) -> None:
    arrays = recorded_arrays()
    edit(arrays)
    with pytest.raises(error) as caught:
        read_samples(arrays, where=WHERE)
    assert words in str(caught.value)
    assert WHERE in str(caught.value)
    assert caught.value.exit_code == 2


def test_must_keep_samples_are_the_users_choice() -> None:
    arrays = recorded_arrays()
    arrays["must_keep_ids"][0], arrays["must_keep_ids"][5] = "guide0001", "certify0001"
    assert len(read_samples(arrays, where=WHERE)) == 4
