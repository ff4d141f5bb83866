"""Certification of language models: a decision for each labelled next token, flips by sequence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.certification.compare import measure, measure_reference
from sgsc_edge.certification.gates import judge
from sgsc_edge.certification.metrics import OutputGrid
from sgsc_edge.certification.policy import GatePolicy, Policy, RuntimePolicy
from sgsc_edge.certification.records import Gate, Measurement, RuntimeRow
from sgsc_edge.certification.samples import SampleSet, read_samples
from sgsc_edge.errors import DataError, FileFormatError

GRID = OutputGrid(0.5, 0)
NONE = -100


def logits(*decided: tuple[int, ...]) -> np.ndarray:
    """int8 [n, T, 3] that decide so."""
    return (10 * np.eye(3)[np.array(decided)]).astype(np.int8)


def text(**changes: object) -> SampleSet:
    """Two sequences of three tokens: three labels in the first, one in the second."""
    fields = {
        "inputs": np.array([[0, 1, 2], [0, 2, 0]]),
        "labels": np.array([[1, 2, 0], [2, NONE, NONE]]),
        "ids": np.array(["a", "b"], "<U16"),
        "float_logits": logits((1, 2, 1), (2, 0, 0)).astype(np.float32),  # right: 1, 1, 0 and 1
        "compressed_logits": logits((1, 0, 0), (2, 1, 1)),  # right: 1, 0, 1 and 1
        **changes,
    }
    return SampleSet(**fields)  # type: ignore[arg-type]


def test_decisions_are_those_that_have_a_label() -> None:
    samples = text()
    assert (len(samples), samples.decisions, samples.is_text) == (2, 4, True)
    found = measure(samples.compressed_logits, samples, GRID)
    assert (found.samples, found.decided, found.correct, found.metrics["accuracy"]) == (2, 4, 3, 0.75)
    assert (found.agreeing, found.agreement) == (2, 0.5)  # of the labelled ones: 1 and 2
    # Both of a's flips are one sequence each; b's unlabelled decisions count nowhere.
    assert (found.negative_flips, found.positive_flips) == (("a",), ("a",))
    assert (found.differs_from_compressed, found.differing, found.decisions) == ((), 0, {})


def test_a_sequence_differs_once_and_lists_its_labelled_decisions() -> None:
    samples = text()
    found = measure(logits((0, 1, 0), (2, 2, 2)), samples, GRID)
    assert (found.differs_from_compressed, found.differing) == (("a",), 2)
    assert found.decisions == {"a": (0, 1, 0)}
    assert found.max_lsb == 10


def test_the_loss_is_the_mean_over_labelled_tokens_of_all_sequences() -> None:
    samples = text()
    found = measure_reference(samples.float_logits, samples, GRID)
    assert found is not None
    right = np.log(1 + 2 * np.exp(-10.0))
    assert found.metrics["loss"] == pytest.approx((3 * right + (10 + right)) / 4, rel=1e-12)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_text_measures_as_a_classifier_of_its_labelled_tokens(n: int, length: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, k, (n, length))
    labels[random.random((n, length)) < 0.4] = NONE
    labels[:, 0] = random.integers(0, k, n)  # each has one
    outputs = {
        name: random.integers(-128, 128, (n, length, k)).astype(np.int8)
        for name in ("run", "compressed", "float")
    }
    samples = SampleSet(
        inputs=random.integers(0, k, (n, length)),
        labels=labels,
        ids=np.array([f"{i}" for i in range(n)]),
        float_logits=outputs["float"].astype(np.float32),
        compressed_logits=outputs["compressed"],
    )
    mask = samples.labelled
    flat = SampleSet(
        inputs=np.zeros((samples.decisions, 1), np.int8),
        labels=labels[mask],
        ids=np.array([f"{i}" for i in range(samples.decisions)]),
        float_logits=samples.float_logits[mask],
        compressed_logits=outputs["compressed"][mask],
    )
    one, other = measure(outputs["run"], samples, GRID), measure(outputs["run"][mask], flat, GRID)
    assert (one.decided, one.correct, one.agreeing, one.differing, one.ties, one.metrics) == (
        other.decided,
        other.correct,
        other.agreeing,
        other.differing,
        other.ties,
        other.metrics,
    )
    assert other.differing == len(other.differs_from_compressed)
    owners = np.nonzero(mask)[0]
    for ids, flat_ids in (
        (one.negative_flips, other.negative_flips),
        (one.positive_flips, other.positive_flips),
        (one.differs_from_compressed, other.differs_from_compressed),
    ):
        assert ids == tuple(str(owner) for owner in sorted({int(owners[int(i)]) for i in flat_ids}))


# --- gates ----------------------------------------------------------------------------------------


def gates(outputs: np.ndarray, samples: SampleSet, **gate: object) -> dict[str, Gate]:
    keys = {"metric": "loss", "max_drop": 10.0, "reference": "float", "max_lowering_flips": 1.0, **gate}
    policy = Policy(
        gate=GatePolicy.model_validate(keys),
        runtimes=RuntimePolicy(required=("onnxruntime",), max_steps={"onnxruntime": 3}),
    )
    float_model = measure_reference(samples.float_logits, samples, GRID)

    def row(name: str, status: str, measured: Measurement) -> RuntimeRow:
        fields = {"version": None, "reason": "", "stand_in": None, "sets": {"certify": measured}}
        return RuntimeRow.model_validate(
            {"name": name, "required": status == "ok", "status": status, **fields}
        )

    rows = [
        row("compressed", "recorded", measure(samples.compressed_logits, samples, GRID)),
        row("onnxruntime", "ok", measure(outputs, samples, GRID)),
    ]
    found, _ = judge(policy, {"float": {"certify": float_model}}, rows, {"certify": samples.decisions})
    return {one.name: one for one in found}


def test_agreement_and_lowering_are_shares_of_labelled_decisions() -> None:
    samples = text()
    found = gates(logits((1, 2, 0), (2, 0, 0)), samples, min_agreement=0.5)
    assert (found["agreement"].measured, found["agreement"].status) == (0.5, "passed")
    assert (found["agreement"].bound, found["agreement"].margin) == ("at least", 0.0)
    assert found["lowering"].measured == 0.25
    assert gates(samples.compressed_logits, samples, min_agreement=0.51)["agreement"].status == "failed"
    assert "agreement" not in gates(samples.compressed_logits, samples)


def test_outputs_may_differ_by_the_stated_steps() -> None:
    samples = text()
    near = samples.compressed_logits.copy()
    near[0, 0, 2] += 3
    assert gates(near, samples)["outputs"].status == "passed"
    near[1, 2, 2] += 4  # of a token without a label: outputs are compared whole
    found = gates(near, samples)["outputs"]
    assert (found.status, found.measured, found.threshold) == ("failed", 4.0, 3.0)


# --- records --------------------------------------------------------------------------------------


def arrays() -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {"measured_ids": np.array(["t"])}
    for part in ("guide", "watch", "certify"):
        samples = text(ids=np.array([f"{part}0", f"{part}1"], "<U16"))
        for field in ("inputs", "labels", "ids", "float_logits", "compressed_logits"):
            found[f"{part}_{field}"] = getattr(samples, field)
    return found


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, np.ndarray]], None]:
    def edit(found: dict[str, np.ndarray]) -> None:
        found[name] = change(found[name])

    return edit


def at(index: tuple[int, int], value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed[index] = value
        return changed

    return change


def test_records_of_text_are_read() -> None:
    assert read_samples(arrays(), where="x")["certify"].decisions == 4


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (put("certify_labels", at((0, 1), 3)), DataError, "label 3 of sample certify0"),
        (put("certify_labels", at((0, 1), -1)), DataError, "label -1 of sample certify0"),
        (put("certify_labels", at((1, 0), NONE)), DataError, "no token of sample certify1"),
        (put("certify_inputs", at((0, 0), -1)), DataError, "is negative"),
        (put("certify_labels", lambda a: a[:, 0]), FileFormatError, "with 2 dim"),
        (put("certify_labels", lambda a: a[:, :2]), FileFormatError, "lengths [2, 3]"),
        (put("certify_compressed_logits", lambda a: a[:, 0]), FileFormatError, "with 3 dim"),
        (put("certify_float_logits", lambda a: a[..., :2]), FileFormatError, "[2, 3] classes"),
    ],
)
def test_wrong_records_of_text_are_refused(
    edit: Callable[[dict[str, np.ndarray]], None], error: type[Exception], message: str
) -> None:
    found = arrays()
    edit(found)
    with pytest.raises(error) as caught:
        read_samples(found, where="preservation.npz")
    assert message in str(caught.value)
