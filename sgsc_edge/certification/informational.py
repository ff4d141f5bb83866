"""The test set: measured on every runtime for information, never a gate, never chosen from."""

from __future__ import annotations

from pathlib import Path

from sgsc_edge.certification.certify import COMPRESSED
from sgsc_edge.certification.compare import measure, measure_reference
from sgsc_edge.certification.policy import RuntimePolicy
from sgsc_edge.certification.records import TestSummary
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.certification.shipped import output_grid
from sgsc_edge.certification.verify import DEFAULT_TIMEOUT_S
from sgsc_edge.runtimes import Status, run_runtime, specs


def measure_test(
    model: Path,
    samples: SampleSet,
    runtimes: RuntimePolicy,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    workers: int = 2,
) -> dict[str, TestSummary]:
    """Run the test set on every runtime of a policy; ``model`` is the file that ships, in its build folder.

    Returns rows by name for the float reference, the control (where there is one), the compressed model
    and each runtime that ran; one that did not is left out here, as it has its row in the certificate.
    """
    grid = output_grid(model, {"test": samples})
    rows = {}
    for name, logits in (("float", samples.float_logits), ("control", samples.control_logits)):
        measured = None if logits is None else measure_reference(logits, samples, grid)
        if measured is not None:
            rows[name] = TestSummary.of(measured)
    rows[COMPRESSED] = TestSummary.of(measure(samples.compressed_logits, samples, grid))
    for name in (*runtimes.required, *runtimes.optional):
        if name == COMPRESSED:
            continue
        result = run_runtime(
            name,
            model.with_name(specs()[name].artifact),
            samples.inputs,
            timeout_s=timeout_s,
            workers=workers,
        )
        if result.status is Status.OK and result.outputs is not None:
            rows[name] = TestSummary.of(measure(result.outputs, samples, grid))
    return rows
