"""From recorded samples and runtime outputs to a certificate: a pure function of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.certification.certificate import Certificate, seal
from sgsc_edge.certification.compare import measure, measure_reference
from sgsc_edge.certification.gates import RECORDED, judge, verdict_of
from sgsc_edge.certification.metrics import OutputGrid
from sgsc_edge.certification.records import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    CertificationContext,
    Digest,
    Measurement,
    Predicate,
    RuntimeRow,
    SetRow,
    Statement,
    Subject,
)
from sgsc_edge.certification.samples import GATED_PARTS, SampleSet

COMPRESSED = "compressed"
"""Name of the compressed model among the runtimes: its outputs are recorded, by PyTorch or ONNX Runtime."""


@dataclass(frozen=True, eq=False)
class RuntimeRun:
    """How one runtime did: ``outputs`` by part, int8 [n, K] (of sequences [n, T, K]), empty unless ``status``
    is ``ok``."""

    status: str
    version: str | None = None
    reason: str = ""
    stand_in: str | None = None
    outputs: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)


def certify(
    context: CertificationContext,
    sets: Mapping[str, SampleSet],
    runs: Mapping[str, RuntimeRun],
    grid: OutputGrid,
    *,
    subjects: Mapping[str, str],
    tools: Mapping[str, str],
) -> Certificate:
    """Judge ``runs`` (by runtime name) on ``sets`` (by part name).

    ``grid`` is the model output's quantization, ``subjects`` the SHA-256 of the certified files by name,
    ``tools`` versions by name. A runtime of the policy that is not in ``runs`` counts as not run.
    """
    policy = context.policy
    references = {
        "float": {part: measure_reference(s.float_logits, s, grid) for part, s in sets.items()},
        "control": {
            part: measure_reference(s.control_logits, s, grid)
            for part, s in sets.items()
            if s.control_logits is not None
        },
    }
    recorded = RuntimeRun(RECORDED, outputs={part: s.compressed_logits for part, s in sets.items()})
    compressed = _row(COMPRESSED, recorded, sets, grid, required=COMPRESSED in policy.runtimes.required)
    missing = RuntimeRun("not_run", reason="it was not asked to run")
    rows = [
        _row(name, runs.get(name, missing), sets, grid, required=required)
        for names, required in ((policy.runtimes.required, True), (policy.runtimes.optional, False))
        for name in names
        if name != COMPRESSED
    ]
    runtimes = (compressed, *rows)
    gates, warnings = judge(
        policy, references, runtimes, {part: samples.decisions for part, samples in sets.items()}
    )
    predicate = Predicate(
        verdict=verdict_of(gates),
        target=context.target,
        policy=policy,
        policy_sha256=policy.sha256,
        reference_saw_certify=context.reference_saw_certify,
        labels=context.labels,
        sets={
            part: SetRow(
                samples=len(s),
                decisions=s.decisions,
                sha256=s.sha256,
                gated=part in GATED_PARTS,
                trained_on=None if s.trained_on is None else int(s.trained_on.sum()),
            )
            for part, s in sets.items()
        },
        gates=gates,
        warnings=warnings,
        references={name: parts for name, parts in references.items() if parts},
        runtimes=runtimes,
        test=context.test,
        inputs=context.inputs,
        tools=dict(tools),
        digest="",
    )
    statement = Statement.model_validate(
        {
            "_type": STATEMENT_TYPE,
            "subject": tuple(
                Subject(name=name, digest=Digest(sha256=digest)) for name, digest in sorted(subjects.items())
            ),
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
    )
    return Certificate(seal(statement))


def _row(
    name: str, run: RuntimeRun, sets: Mapping[str, SampleSet], grid: OutputGrid, *, required: bool
) -> RuntimeRow:
    expected = {part: sets[part].compressed_logits.shape for part in run.outputs}
    wrong = [part for part, outputs in run.outputs.items() if outputs.shape != expected[part]]
    measured: dict[str, Measurement] = {}
    status, reason = run.status, run.reason
    if wrong:
        part = wrong[0]
        status = "failed"
        reason = f"outputs {list(run.outputs[part].shape)}, expected {list(expected[part])}"
    else:
        measured = {part: measure(outputs, sets[part], grid) for part, outputs in run.outputs.items()}
    return RuntimeRow.model_validate(
        {
            "name": name,
            "required": required,
            "status": status,
            "version": run.version,
            "reason": reason,
            "stand_in": run.stand_in,
            "sets": measured,
        }
    )
