"""The verdict, why, and the figures that most people look for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgsc_edge.certification import Verdict
from sgsc_edge.certification.certify import COMPRESSED
from sgsc_edge.certification.records import Gate, Measurement, Predicate
from sgsc_edge.certification.samples import CERTIFY, MUST_KEEP
from sgsc_edge.report.build_folder import BuildFolder
from sgsc_edge.report.sections.sizes import FLOAT32, PLAIN, SizesView
from sgsc_edge.report.text import change, count, metric, model_name, percent

_WORDS = {Verdict.PASSED: "Passed", Verdict.FAILED: "Failed", Verdict.NOT_MEASURED: "Not measured"}
_TITLES = {
    "must_keep": "must_keep on",
    "lowering": "Same decisions on",
    "outputs": "Same outputs on",
}

_REFERENCES = {"float": "float", "control": "the control"}


@dataclass(frozen=True)
class GateRow:
    """One gate in words; ``status`` is passed, failed or not_measured."""

    status: str
    title: str
    quantity: str
    measured: str
    limit: str
    note: str


@dataclass(frozen=True)
class Fact:
    """One figure at the top: what it is, the figure, and what it is to be compared with."""

    label: str
    figure: str
    context: str


@dataclass(frozen=True)
class VerdictView:
    """The top of the page; ``kind`` is passed, failed or not_measured."""

    kind: str
    word: str
    sentence: str
    facts: tuple[Fact, ...]
    gates: tuple[GateRow, ...]
    warnings: tuple[str, ...]


def verdict_view(build: BuildFolder, sizes: SizesView) -> VerdictView:
    """From the certificate, and the sizes that the page shows further down."""
    predicate = build.certificate.predicate
    warnings = [warning.message for warning in predicate.warnings]
    if predicate.reference_saw_certify:
        warnings.append(
            "the float model may have been trained on samples of the certify set: its own figures there "
            "may be flattered"
            + (
                ", so the gate compares with a control"
                if predicate.policy.gate.reference == "control"
                else ""
            )
        )
    return VerdictView(
        kind=predicate.verdict.lower(),
        word=_WORDS[predicate.verdict],
        sentence=_sentence(predicate),
        facts=tuple(_facts(build, sizes)),
        gates=tuple(_row(gate, predicate) for gate in predicate.gates),
        warnings=tuple(warnings),
    )


def _sentence(predicate: Predicate) -> str:
    """Why, in a sentence."""
    failed = [gate for gate in predicate.gates if gate.status == "failed"]
    missing = [gate for gate in predicate.gates if gate.status == "not_measured"]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{_failure(failed[0], predicate)}{more}."
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        first = missing[0]
        reason = first.reason or "nothing was measured"
        return f"{_title(first, predicate)}: {reason}{more}. Unmeasured is no pass."
    certify = predicate.sets[CERTIFY]
    unit = "certify sample" if certify.decisions == certify.samples else "certify sequence"
    gate = next(gate for gate in predicate.gates if gate.name == "compression")
    name = predicate.policy.gate.metric
    fallen = gate.measured or 0.0
    worse = "not worse" if fallen <= 0 else f"{change(name, fallen)} worse"
    kept = ", no right must_keep decision was lost" if MUST_KEEP in predicate.sets else ""
    return (
        f"On {count(certify.samples, unit)} the compressed model's {name} is {worse} than "
        f"{_REFERENCES[predicate.policy.gate.reference]}'s (allowed: {change(name, gate.threshold)}){kept}, "
        f"and {_lowered(predicate)}."
    )


def _lowered(predicate: Predicate) -> str:
    """How far the required runtimes are from the compressed model at most."""
    shares = [gate.measured or 0.0 for gate in predicate.gates if gate.name == "lowering"]
    runtimes = count(len(shares), "required runtime")
    worst, allowed = max(shares, default=0.0), percent(predicate.policy.gate.max_lowering_flips)
    certify = predicate.sets[CERTIFY]
    unit = "sample" if certify.decisions == certify.samples else "next token"
    if not worst:
        return f"{runtimes} decided every {unit} as it did"
    differing = count(round(worst * certify.decisions), unit)
    return f"{runtimes} differ from it on {differing} at most ({percent(worst)}, allowed: {allowed})"


def _failure(gate: Gate, predicate: Predicate) -> str:
    row = _row(gate, predicate)
    return f"{row.title}: {gate.quantity} is {row.measured}, allowed is {row.limit}"


def _title(gate: Gate, predicate: Predicate) -> str:
    if gate.name == "compression":
        return f"Compressed model against {_REFERENCES[predicate.policy.gate.reference]}"
    if gate.name == "agreement":
        return "Agreement with float"
    return f"{_TITLES[gate.name]} {model_name(gate.subject)}"


def _row(gate: Gate, predicate: Predicate) -> GateRow:
    def value(number: float) -> str:
        if gate.name == "compression":
            return change(predicate.policy.gate.metric, number)
        return f"{number:g}" if gate.name in ("must_keep", "outputs") else percent(number)

    measured = "–" if gate.measured is None else value(gate.measured)
    limit = value(gate.threshold) if gate.bound == "at most" else f"{value(gate.threshold)} or more"
    return GateRow(gate.status, _title(gate, predicate), gate.quantity, measured, limit, gate.reason)


def _facts(build: BuildFolder, sizes: SizesView) -> Sequence[Fact]:
    predicate = build.certificate.predicate
    name = predicate.policy.gate.metric
    reference = predicate.policy.gate.reference
    compressed = next(row for row in predicate.runtimes if row.name == COMPRESSED).sets[CERTIFY]
    before = predicate.references.get(reference, {}).get(CERTIFY)
    required = [row for row in predicate.runtimes if row.required and row.name != COMPRESSED]
    measured = [row.sets[CERTIFY] for row in required if CERTIFY in row.sets]
    differing = {one for found in measured for one in found.differs_from_compressed}
    lost = compressed.negative_flips if compressed.samples else None
    missing = len(required) - len(measured)
    apart = sum(bool(found.differs_from_compressed) for found in measured)
    unit = f"certify {'sequence' if build.is_text else 'sample'}"
    ran = [f"required, on {count(len(differing), unit)}"] if measured else []
    return (
        Fact(
            f"{name.capitalize()} on certify",
            metric(name, compressed.metrics[name]),
            f"{model_name(reference)}: {metric(name, before.metrics[name] if before else None)}",
        ),
        _size(sizes),
        _agreement(compressed)
        if build.is_text
        else Fact(
            "Right decisions lost",
            "–" if lost is None else f"{len(lost)}",
            f"of {count(compressed.samples, unit)}, against float",
        ),
        Fact(
            "Runtimes that differ",
            f"{apart} of {len(measured)}" if measured and compressed.samples else "–",
            "; ".join(ran + ([f"{missing} required did not run"] if missing else [])),
        ),
    )


def _agreement(compressed: Measurement) -> Fact:
    """Hardly a sequence keeps each of its decisions: of text the share of decisions says more."""
    share = compressed.agreement
    return Fact(
        "Next-token agreement",
        "–" if share is None else percent(share),
        f"of {count(compressed.decided, 'next token')}, with float",
    )


def _size(sizes: SizesView) -> Fact:
    """The last bar: what ships."""
    built, others = sizes.parameters[-1], sizes.parameters[:-1]
    named = [row for row in others if row.name in (FLOAT32, PLAIN)]
    shares = ", ".join(f"{percent(built.nbytes / row.nbytes, 1)} of {row.name}" for row in named)
    return Fact("Parameters", f"{built.nbytes:,} B", shares or f"of {sizes.file_bytes:,} B of {sizes.name}")
