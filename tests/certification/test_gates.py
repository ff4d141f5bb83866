from __future__ import annotations

import pytest

from sgsc_edge.certification.gates import all_gates, coarse_gates, verdict_of
from sgsc_edge.certification.policy import GatePolicy, Policy, RuntimePolicy
from sgsc_edge.certification.records import Gate, Measurement, RuntimeRow, Verdict


def policy(**changes: object) -> GatePolicy:
    keys = {"metric": "accuracy", "max_drop": 0.01, "reference": "float", "max_lowering_flips": 0.005}
    return GatePolicy.model_validate({**keys, **changes})


def measured(samples: int, correct: int, *, differs: int = 0, negative: int = 0, loss: float | None = 1.0):
    return Measurement(
        samples=samples,
        decided=samples,
        correct=correct,
        agreeing=correct,
        metrics={"accuracy": correct / samples if samples else None, "loss": loss},
        negative_flips=tuple(map(str, range(negative))),
        positive_flips=(),
        differs_from_compressed=tuple(map(str, range(differs))),
        differing=differs,
        decisions={str(number): 0 for number in range(differs)},
        ties=0,
        max_lsb=0,
        outputs_sha256="0" * 64,
    )


def row(name: str = "compressed", *, status: str = "ok", reason: str = "", **sets: Measurement) -> RuntimeRow:
    fields = {"name": name, "status": status, "reason": reason, "sets": sets}
    return RuntimeRow.model_validate({"required": True, "version": None, "stand_in": None, **fields})


def gates(references, compressed, runtimes=(), must_keep=False, **changes) -> tuple[Gate, ...]:
    steps = changes.pop("max_steps", {})
    judged = Policy(
        gate=policy(**changes), runtimes=RuntimePolicy(required=tuple({"tflm": 0, **steps}), max_steps=steps)
    )
    return all_gates(judged, references, compressed, runtimes, must_keep=must_keep)


def test_a_drop_of_exactly_the_threshold_passes() -> None:
    # 0.97 - 0.96 and 0.29 - 0.28 are both more than 0.01 in floating point.
    for samples, before in ((100, 97), (100, 29), (300, 291)):
        references = {"float": {"certify": measured(samples, before)}}
        (gate,) = gates(references, row(certify=measured(samples, before - samples // 100)))
        assert (gate.status, gate.measured, gate.margin) == ("passed", 0.01, 0.0)
        (gate,) = gates(references, row(certify=measured(samples, before - samples // 100 - 1)))
        assert gate.status == "failed"
        assert gate.margin < 0


def test_an_improvement_passes_a_threshold_of_zero() -> None:
    (gate,) = gates({"float": {"certify": measured(50, 40)}}, row(certify=measured(50, 41)), max_drop=0)
    assert (gate.status, gate.measured, gate.margin) == ("passed", -0.02, 0.02)


def test_of_a_loss_the_rise_counts() -> None:
    references = {"float": {"certify": measured(10, 9, loss=0.5)}}
    for loss, status in ((0.75, "passed"), (0.76, "failed"), (0.1, "passed"), (None, "not_measured")):
        compressed = row(certify=measured(10, 9, loss=loss))
        (gate,) = gates(references, compressed, metric="loss", max_drop=0.25)
        assert gate.status == status, loss


def test_the_control_is_the_reference_only_where_the_policy_says_so() -> None:
    references = {"float": {"certify": measured(100, 99)}, "control": {"certify": measured(100, 95)}}
    compressed = row(certify=measured(100, 95))
    assert gates(references, compressed)[0].status == "failed"
    assert gates(references, compressed, reference="control")[0].status == "passed"
    del references["control"]
    (gate,) = gates(references, compressed, reference="control")
    assert gate.status == "not_measured"
    assert "control" in gate.reason


@pytest.mark.parametrize(
    ("references", "certify"),
    [
        ({"float": {"certify": None}}, measured(10, 9)),  # NaN in the float logits
        ({"float": {}}, measured(10, 9)),
        ({"float": {"certify": measured(0, 0, loss=None)}}, measured(0, 0, loss=None)),
    ],
)
def test_what_is_missing_is_not_measured(references, certify) -> None:
    found = gates(references, row(certify=certify))
    assert [(gate.status, gate.measured, gate.margin) for gate in found] == [("not_measured", None, None)]
    assert found[0].reason
    assert verdict_of(found) is Verdict.NOT_MEASURED


def test_lowering_counts_differing_decisions_of_each_required_runtime() -> None:
    references = {"float": {"certify": measured(200, 190)}}
    runtimes = [
        row("tflm", certify=measured(200, 190, differs=1)),
        row("litert", certify=measured(200, 190, differs=2)),
        row("numpy", status="crashed", reason="killed by SIGSEGV"),
        row("onnxruntime", certify=measured(0, 0)),
    ]
    found = gates(references, row(certify=measured(200, 190)), runtimes)
    assert [(gate.name, gate.subject, gate.status) for gate in found] == [
        ("compression", "compressed", "passed"),
        ("lowering", "tflm", "passed"),
        ("lowering", "litert", "failed"),
        ("lowering", "numpy", "not_measured"),
        ("lowering", "onnxruntime", "not_measured"),
    ]
    assert [gate.measured for gate in found[1:3]] == [0.005, 0.01]
    assert found[3].reason == "killed by SIGSEGV"


def test_no_must_keep_sample_may_flip_on_any_required_runtime() -> None:
    references = {"float": {"certify": measured(10, 9)}}
    certify = measured(10, 9)
    compressed = row(certify=certify, must_keep=measured(5, 5))
    runtimes = [
        row("tflm", certify=certify, must_keep=measured(5, 4, negative=1)),
        row("numpy", certify=certify, must_keep=measured(0, 0)),
    ]
    found = [g for g in gates(references, compressed, runtimes, must_keep=True) if g.name == "must_keep"]
    assert [gate.status for gate in found] == ["passed", "failed", "not_measured"]
    assert [gate.measured for gate in found] == [0.0, 1.0, None]


def test_the_verdict_is_failed_before_not_measured_before_passed() -> None:
    passed, failed, missing = (
        Gate(
            name="lowering",
            subject="tflm",
            set="certify",
            quantity="q",
            measured=value,
            threshold=0.0,
            margin=None if value is None else -value,
            status=status,
            bound="at most",
            reason="",
        )
        for status, value in (("passed", 0.0), ("failed", 1.0), ("not_measured", None))
    )
    assert verdict_of([passed, passed]) is Verdict.PASSED
    assert verdict_of([passed, missing]) is Verdict.NOT_MEASURED
    assert verdict_of([missing, failed, passed]) is Verdict.FAILED
    assert verdict_of([]) is Verdict.NOT_MEASURED


@pytest.mark.parametrize("samples", [1, 49, 99, 100, 199, 200, 10_000])
def test_a_gate_is_coarse_where_one_sample_is_more_than_its_threshold(samples: int) -> None:
    """0.01 needs 100 samples and 0.005 needs 200, although neither is exact in floating point."""
    found = {one.gate: one for one in coarse_gates(policy(), samples)}
    expected = {"compression": 100, "lowering": 200}
    assert {gate: one.needed for gate, one in found.items()} == {
        gate: needed for gate, needed in expected.items() if samples < needed
    }
    for one in found.values():
        assert (one.set, one.decisions) == ("certify", samples)
        assert f"one of {samples} certify decisions" in one.message
        assert f"{one.needed} would be needed" in one.message


@pytest.mark.parametrize(
    ("samples", "gate", "coarse"),
    [
        (0, {}, []),  # nothing is measured at all: the gates say so
        (10, {"max_drop": 0, "max_lowering_flips": 0}, []),  # exact on any set
        (10, {"metric": "loss", "max_lowering_flips": 0.2}, []),  # a loss has no smallest step
        (10, {"metric": "loss"}, ["lowering"]),
        (3, {"max_drop": 0.3, "max_lowering_flips": 0.4}, ["compression"]),
        (1, {"max_drop": 1.0, "max_lowering_flips": 1.0}, []),
        (10**9, {"max_drop": 1e-12, "max_lowering_flips": 5e-324}, ["compression", "lowering"]),
    ],
)
def test_what_is_no_coarse_gate(samples: int, gate: dict[str, object], coarse: list[str]) -> None:
    assert [one.gate for one in coarse_gates(policy(**gate), samples)] == coarse


def test_needed_samples_are_just_enough() -> None:
    for threshold in (0.3, 0.03, 0.007, 0.9, 1e-5):
        given = policy(max_drop=threshold, max_lowering_flips=1.0)
        (one,) = coarse_gates(given, 1)
        assert coarse_gates(given, one.needed - 1) if one.needed > 1 else True
        assert not coarse_gates(given, one.needed)
