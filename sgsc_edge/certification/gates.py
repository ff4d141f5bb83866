"""The two gates, kept apart, and the verdict that follows from them.

*compression*: on the certify set, the compressed model's metric against the reference's (``float`` or
``control``); its drop (for losses: rise) may be at most ``max_drop``.
*must_keep*: no sample that the float model decides rightly is decided wrongly by the compressed model,
nor on a required runtime. The float model is the user's, also where ``reference`` names the control; a sample
that it decides wrongly cannot flip.
*lowering*: on the certify set, for each required runtime, the share of decisions that differ from the
compressed model is at most ``max_lowering_flips``.

A gate that lacks samples, a runtime or a finite number is ``not_measured``. The verdict is FAILED where
any measured gate failed (more measuring cannot mend that), else NOT_MEASURED where any gate was not
measured, else PASSED.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from sgsc_edge.certification.metrics import METRICS
from sgsc_edge.certification.policy import GatePolicy
from sgsc_edge.certification.records import CoarseGate, Gate, Measurement, RuntimeRow, Verdict
from sgsc_edge.certification.samples import CERTIFY, MUST_KEEP

RECORDED = "recorded"

References = Mapping[str, Mapping[str, Measurement | None]]


def judge(
    policy: GatePolicy, references: References, runtimes: Sequence[RuntimeRow], sets: Mapping[str, int]
) -> tuple[tuple[Gate, ...], tuple[CoarseGate, ...]]:
    """Every gate and warning of a certificate.

    ``runtimes``: all rows, the compressed model's (status ``recorded``) among them; ``sets``: sizes by part.
    """
    (compressed,) = (row for row in runtimes if row.status == RECORDED)
    required = [row for row in runtimes if row.required and row is not compressed]
    gates = all_gates(policy, references, compressed, required, must_keep=MUST_KEEP in sets)
    return gates, coarse_gates(policy, sets[CERTIFY])


def all_gates(
    policy: GatePolicy,
    references: References,
    compressed: RuntimeRow,
    runtimes: Sequence[RuntimeRow],
    *,
    must_keep: bool,
) -> tuple[Gate, ...]:
    """Every gate of a certificate: ``runtimes`` are the required ones beside the compressed model.

    ``must_keep`` says whether the user gave such samples.
    """
    kept = [_must_keep_gate(row) for row in (compressed, *runtimes)] if must_keep else []
    lowered = [_lowering_gate(policy, row) for row in runtimes]
    return (_compression_gate(policy, references, compressed), *kept, *lowered)


def verdict_of(gates: Sequence[Gate]) -> Verdict:
    """FAILED before NOT_MEASURED before PASSED; no gates at all are NOT_MEASURED."""
    found = {gate.status for gate in gates}
    if "failed" in found:
        return Verdict.FAILED
    return Verdict.PASSED if found == {"passed"} else Verdict.NOT_MEASURED


def coarse_gates(policy: GatePolicy, samples: int) -> tuple[CoarseGate, ...]:
    """The gates whose threshold is finer than one of ``samples`` certify decisions.

    A threshold of 0 is exact on any set, a loss has no smallest step, and without samples nothing is measured
    at all: none of these is coarse.
    """
    thresholds = [("lowering", "max_lowering_flips", policy.max_lowering_flips)]
    if policy.metric == "accuracy":
        thresholds.insert(0, ("compression", "max_drop", policy.max_drop))
    return tuple(
        _coarse_gate(gate, key, threshold, samples)
        for gate, key, threshold in thresholds
        # Fractions of the decimals that the policy spells: 100 samples are enough for 0.01.
        if samples and 0 < samples * Fraction(str(threshold)) < 1
    )


def _coarse_gate(gate: str, key: str, threshold: float, samples: int) -> CoarseGate:
    needed = math.ceil(1 / Fraction(str(threshold)))
    return CoarseGate.model_validate(
        {
            "gate": gate,
            "set": CERTIFY,
            "samples": samples,
            "threshold": threshold,
            "needed": needed,
            "message": (
                f"the {gate} gate is finer than its set can decide: one of {samples} {CERTIFY} samples is "
                f"{1 / samples:.3g}, more than {key} = {threshold:g}; {needed} samples would be needed"
            ),
        }
    )


def _compression_gate(policy: GatePolicy, references: References, compressed: RuntimeRow) -> Gate:
    metric = METRICS[policy.metric]
    change = "drop" if metric.higher_is_better else "rise"
    quantity = f"{policy.metric} {change} against {policy.reference}"
    reference = references.get(policy.reference, {}).get(CERTIFY)
    measured = compressed.sets.get(CERTIFY)
    value, reason = None, ""
    if measured is None or measured.samples == 0:
        reason = "the certify set has no samples"
    elif reference is None:
        reason = f"the {policy.reference} model's logits are missing or not finite"
    else:
        value = _change(policy.metric, reference, measured)
        reason = "" if value is not None else f"{policy.metric} is not finite"
    return _gate("compression", compressed.name, CERTIFY, quantity, value, policy.max_drop, reason)


def _change(metric: str, reference: Measurement, measured: Measurement) -> float | None:
    """How much worse ``measured`` is, in the metric's unit; negative where it is better."""
    if metric == "accuracy":
        # One division of integers: 3 of 300 is exactly the 0.01 that a policy spells.
        return (reference.correct - measured.correct) / measured.samples
    before, after = reference.metrics[metric], measured.metrics[metric]
    if before is None or after is None:
        return None
    return before - after if METRICS[metric].higher_is_better else after - before


def _must_keep_gate(row: RuntimeRow) -> Gate:
    measured = row.sets.get(MUST_KEEP)
    value, reason = None, ""
    if measured is None:
        reason = row.reason or "it did not run"
    elif measured.samples == 0:
        reason = "the must_keep set has no samples"
    elif measured.negative_flips is None:
        reason = "the float model's logits are not finite"
    else:
        value, reason = float(len(measured.negative_flips)), row.label
    return _gate("must_keep", row.name, MUST_KEEP, "right decisions turned wrong", value, 0.0, reason)


def _lowering_gate(policy: GatePolicy, row: RuntimeRow) -> Gate:
    measured = row.sets.get(CERTIFY)
    value, reason = None, ""
    if measured is None:
        reason = row.reason or "it did not run"
    elif measured.samples == 0:
        reason = "the certify set has no samples"
    else:
        value, reason = len(measured.differs_from_compressed) / measured.samples, row.label
    quantity = "share of decisions that differ from the compressed model"
    return _gate("lowering", row.name, CERTIFY, quantity, value, policy.max_lowering_flips, reason)


def _gate(
    name: str, subject: str, part: str, quantity: str, value: float | None, threshold: float, reason: str
) -> Gate:
    status = "not_measured" if value is None else "passed" if value <= threshold else "failed"
    return Gate.model_validate(
        {
            "name": name,
            "subject": subject,
            "set": part,
            "quantity": quantity,
            "measured": value,
            "threshold": threshold,
            "margin": None if value is None else threshold - value,
            "status": status,
            "reason": reason,
        }
    )
