"""The two gates, kept apart, and the verdict that follows from them.

*compression*: on the certify set, the compressed model's metric against the reference's (``float`` or
``control``); its drop (for losses: rise) may be at most ``max_drop``.
*agreement*: where ``min_agreement`` is given, the share of certify decisions in which the compressed model
agrees with the user's float model is at least that.
*must_keep*: no sample that the float model decides rightly is decided wrongly by the compressed model,
nor on a required runtime. The float model is the user's, also where ``reference`` names the control; a sample
that it decides wrongly cannot flip.
*lowering*: on the certify set, for each required runtime, the share of decisions that differ from the
compressed model is at most ``max_lowering_flips``.
*outputs*: for each required runtime that ``max_steps`` names, no output integer differs by more.

Of sequences, decisions are those that have a label; must_keep counts sequences.

A gate that lacks samples, a runtime or a finite number is ``not_measured``. The verdict is FAILED where
any measured gate failed (more measuring cannot mend that), else NOT_MEASURED where any gate was not
measured, else PASSED.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from sgsc_edge.certification.metrics import METRICS
from sgsc_edge.certification.policy import GatePolicy, Policy
from sgsc_edge.certification.records import CoarseGate, Gate, Measurement, RuntimeRow, Verdict
from sgsc_edge.certification.samples import CERTIFY, MUST_KEEP

RECORDED = "recorded"

_NO_SAMPLES = "the certify set has no samples"
_NOT_FINITE = "the float model's logits are not finite"

References = Mapping[str, Mapping[str, Measurement | None]]


def judge(
    policy: Policy, references: References, runtimes: Sequence[RuntimeRow], sets: Mapping[str, int]
) -> tuple[tuple[Gate, ...], tuple[CoarseGate, ...]]:
    """Every gate and warning of a certificate.

    ``runtimes``: all rows, the compressed model's (status ``recorded``) among them; ``sets``: decisions by
    part.
    """
    (compressed,) = (row for row in runtimes if row.status == RECORDED)
    required = [row for row in runtimes if row.required and row is not compressed]
    gates = all_gates(policy, references, compressed, required, must_keep=MUST_KEEP in sets)
    return gates, coarse_gates(policy.gate, sets[CERTIFY])


def all_gates(
    policy: Policy,
    references: References,
    compressed: RuntimeRow,
    runtimes: Sequence[RuntimeRow],
    *,
    must_keep: bool,
) -> tuple[Gate, ...]:
    """Every gate of a certificate: ``runtimes`` are the required ones beside the compressed model.

    ``must_keep`` says whether the user gave such samples.
    """
    gate, steps = policy.gate, policy.runtimes.max_steps
    agreed = [] if gate.min_agreement is None else [_agreement_gate(gate.min_agreement, compressed)]
    kept = [_must_keep_gate(row) for row in (compressed, *runtimes)] if must_keep else []
    lowered = [_lowering_gate(gate, row) for row in runtimes]
    exact = [_outputs_gate(steps[row.name], row) for row in runtimes if row.name in steps]
    return (_compression_gate(gate, references, compressed), *agreed, *kept, *lowered, *exact)


def verdict_of(gates: Sequence[Gate]) -> Verdict:
    """FAILED before NOT_MEASURED before PASSED; no gates at all are NOT_MEASURED."""
    found = {gate.status for gate in gates}
    if "failed" in found:
        return Verdict.FAILED
    return Verdict.PASSED if found == {"passed"} else Verdict.NOT_MEASURED


def coarse_gates(policy: GatePolicy, decisions: int) -> tuple[CoarseGate, ...]:
    """The gates whose threshold is finer than one of the certify set's ``decisions``.

    A threshold of 0 is exact on any set, a loss has no smallest step, and without decisions nothing is
    measured at all: none of these is coarse.
    """
    # Fractions of the decimals that the policy spells: 100 decisions are enough for 0.01.
    thresholds = [("lowering", "max_lowering_flips", Fraction(str(policy.max_lowering_flips)))]
    if policy.min_agreement is not None:
        allowed = 1 - Fraction(str(policy.min_agreement))
        thresholds.insert(0, ("agreement", "1 - min_agreement", allowed))
    if policy.metric == "accuracy":
        thresholds.insert(0, ("compression", "max_drop", Fraction(str(policy.max_drop))))
    return tuple(
        _coarse_gate(gate, key, threshold, decisions)
        for gate, key, threshold in thresholds
        if decisions and 0 < decisions * threshold < 1
    )


def _coarse_gate(gate: str, key: str, threshold: Fraction, decisions: int) -> CoarseGate:
    needed = math.ceil(1 / threshold)
    return CoarseGate.model_validate(
        {
            "gate": gate,
            "set": CERTIFY,
            "decisions": decisions,
            "threshold": float(threshold),
            "needed": needed,
            "message": (
                f"the {gate} gate is finer than its set can decide: one of {decisions} {CERTIFY} decisions "
                f"is {1 / decisions:.3g}, more than {key} = {float(threshold):g}; {needed} would be needed"
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
    if measured is None or measured.decided == 0:
        reason = _NO_SAMPLES
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
        return (reference.correct - measured.correct) / measured.decided
    before, after = reference.metrics[metric], measured.metrics[metric]
    if before is None or after is None:
        return None
    return before - after if METRICS[metric].higher_is_better else after - before


def _agreement_gate(least: float, compressed: RuntimeRow) -> Gate:
    measured = compressed.sets.get(CERTIFY)
    value, reason = None, ""
    if measured is None or measured.decided == 0:
        reason = _NO_SAMPLES
    elif measured.agreement is None:
        reason = _NOT_FINITE
    else:
        value = measured.agreement
    quantity = "share of decisions that are the float model's"
    return _gate("agreement", compressed.name, CERTIFY, quantity, value, least, reason, bound="at least")


def _must_keep_gate(row: RuntimeRow) -> Gate:
    measured = row.sets.get(MUST_KEEP)
    value, reason = None, ""
    if measured is None:
        reason = row.reason or "it did not run"
    elif measured.samples == 0:
        reason = "the must_keep set has no samples"
    elif measured.negative_flips is None:
        reason = _NOT_FINITE
    else:
        value, reason = float(len(measured.negative_flips)), row.label
    return _gate("must_keep", row.name, MUST_KEEP, "right decisions turned wrong", value, 0.0, reason)


def _lowering_gate(policy: GatePolicy, row: RuntimeRow) -> Gate:
    measured = row.sets.get(CERTIFY)
    value, reason = None, ""
    if measured is None:
        reason = row.reason or "it did not run"
    elif measured.decided == 0:
        reason = _NO_SAMPLES
    else:
        value, reason = measured.differing / measured.decided, row.label
    quantity = "share of decisions that differ from the compressed model"
    return _gate("lowering", row.name, CERTIFY, quantity, value, policy.max_lowering_flips, reason)


def _outputs_gate(steps: int, row: RuntimeRow) -> Gate:
    measured = row.sets.get(CERTIFY)
    value, reason = None, ""
    if measured is None:
        reason = row.reason or "it did not run"
    elif measured.decided == 0 or measured.max_lsb is None:
        reason = _NO_SAMPLES
    else:
        value, reason = float(measured.max_lsb), row.label
    quantity = "largest difference of an output integer from the compressed model's"
    return _gate("outputs", row.name, CERTIFY, quantity, value, float(steps), reason)


def _gate(
    name: str,
    subject: str,
    part: str,
    quantity: str,
    value: float | None,
    threshold: float,
    reason: str,
    bound: str = "at most",
) -> Gate:
    margin = None if value is None else threshold - value if bound == "at most" else value - threshold
    status = "not_measured" if margin is None else "passed" if margin >= 0 else "failed"
    return Gate.model_validate(
        {
            "name": name,
            "subject": subject,
            "set": part,
            "quantity": quantity,
            "measured": value,
            "bound": bound,
            "threshold": threshold,
            "margin": margin,
            "status": status,
            "reason": reason,
        }
    )
