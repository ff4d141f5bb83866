"""A certificate: an in-toto statement about the files of a build folder, read strictly, shown as a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sgsc_edge.artifacts import canonical_json, read_bytes, read_json, sha256_bytes
from sgsc_edge.certification.gates import RECORDED, judge, verdict_of
from sgsc_edge.certification.records import (
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    CertificationContext,
    Gate,
    Measurement,
    Predicate,
    RuntimeRow,
    Statement,
    TestSummary,
    Verdict,
)
from sgsc_edge.certification.samples import CERTIFY, MUST_KEEP
from sgsc_edge.errors import FileFormatError

CERTIFICATE_NAME = "certificate.json"
MAX_CERTIFICATE_BYTES = 64 << 20
_EXIT_CODES = {Verdict.PASSED: 0, Verdict.FAILED: 1, Verdict.NOT_MEASURED: 3}
_COLUMNS_BEFORE = ("model", "role", "status", "samples")
_COLUMNS_AFTER = ("agrees", "flips -/+", "differs", "ties", "max LSB", "note")
_SHOWN_PROBLEMS = 10


@dataclass(frozen=True)
class Certificate:
    """A statement, and how it differs from the one that was recorded before (not part of the JSON).

    ``not_repeated``: exact runtimes that were not held to their recorded outputs, a line each with why.
    """

    statement: Statement
    differences: tuple[str, ...] = ()
    not_repeated: tuple[str, ...] = ()

    @property
    def predicate(self) -> Predicate:
        """What the statement says."""
        return self.statement.predicate

    @property
    def verdict(self) -> Verdict:
        """PASSED, FAILED or NOT_MEASURED."""
        return self.predicate.verdict

    @property
    def is_text(self) -> bool:
        """Whether the certify samples are sequences, with more than one decision each."""
        certify = self.predicate.sets[CERTIFY]
        return certify.decisions != certify.samples

    @property
    def runtime_names(self) -> frozenset[str]:
        """Of every row."""
        return frozenset(row.name for row in self.predicate.runtimes)

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 not measured."""
        return _EXIT_CODES[self.verdict]

    @property
    def gates(self) -> tuple[Gate, ...]:
        """Every condition with its measured value, threshold and margin."""
        return self.predicate.gates

    @property
    def subjects(self) -> dict[str, str]:
        """SHA-256 of the certified files by name."""
        return {subject.name: subject.digest.sha256 for subject in self.statement.subject}

    @property
    def context(self) -> CertificationContext:
        """What the build handed over: enough, with the files, to certify again."""
        predicate = self.predicate
        return CertificationContext(
            target=predicate.target,
            policy=predicate.policy,
            reference_saw_certify=predicate.reference_saw_certify,
            labels=predicate.labels,
            inputs=predicate.inputs,
            test=predicate.test,
        )

    def to_json(self) -> dict[str, Any]:
        """The in-toto statement as JSON values; ``artifacts.write_json`` makes the file's bytes of it."""
        return self.statement.model_dump(mode="json", by_alias=True)

    def summary_rows(self, part: str = "certify") -> list[tuple[str, ...]]:
        """A table of text about one set, headings first: references, then runtimes.

        It shows the accuracy, and the policy's metric where that is another one.
        """
        predicate = self.predicate
        metrics = tuple(dict.fromkeys(("accuracy", predicate.policy.gate.metric)))
        rows: list[tuple[str, ...]] = [(*_COLUMNS_BEFORE, *metrics, *_COLUMNS_AFTER)]
        for name, sets in predicate.references.items():
            measured = sets.get(part)
            status = "recorded" if measured else "not measured"
            rows.append((name, "reference", status, *_figures(measured, metrics), ""))
        for row in predicate.runtimes:
            figures = _figures(row.sets.get(part), metrics)
            rows.append((row.name, _role(row), row.status, *figures, _note(row)))
        return rows

    def gate_lines(self) -> list[str]:
        """One line a gate, e.g. ``passed  lowering tflm: share of ... 0 (at most 0.005)``."""
        return [_gate_line(gate) for gate in self.gates]

    def warning_lines(self) -> list[str]:
        """One line a gate that its set is too small for."""
        return [f"warning: {one.message}" for one in self.predicate.warnings]

    def must_keep_line(self) -> str:
        """How many must_keep samples there are, how many of them were trained on; empty without any."""
        row = self.predicate.sets.get(MUST_KEEP)
        if row is None:
            return ""
        line = f"{MUST_KEEP}: {row.samples} samples ({row.trained_on or 0} trained on)"
        float_model = self.predicate.references.get("float", {}).get(MUST_KEEP)
        return line if float_model is None else f"{line}, {float_model.correct} decided rightly by float"


def seal(statement: Statement) -> Statement:
    """``statement`` with its predicate's digest filled in."""
    predicate = statement.predicate.model_copy(update={"digest": statement_digest(statement)})
    return statement.model_copy(update={"predicate": predicate})


def statement_digest(statement: Statement) -> str:
    """SHA-256 of the canonical JSON of ``statement`` without its digest."""
    document = statement.model_dump(mode="json", by_alias=True)
    document["predicate"].pop("digest")
    return sha256_bytes(canonical_json(document))


def read_certificate(path: Path) -> Certificate:
    """Read and check a certificate; FileFormatError for anything malformed, edited or of another version.

    That it is well-formed makes it no proof: ``verify_folder`` recomputes what it says.
    """
    document = read_json(path, MAX_CERTIFICATE_BYTES)
    if not isinstance(document, dict):
        raise FileFormatError("is not a certificate: expected a JSON object", where=str(path))
    for key, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if document.get(key) != expected:
            raise FileFormatError(
                f"'{key}' is {document.get(key)!r}; this version reads {expected!r}",
                where=str(path),
                remedy="use the version of sgsc-edge that wrote it, or build again",
            )
    try:
        statement = Statement.model_validate_json(read_bytes(path, MAX_CERTIFICATE_BYTES))
    except ValidationError as error:
        found = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise FileFormatError(
            f"is not a valid certificate: {'; '.join(found[:_SHOWN_PROBLEMS])}", where=str(path)
        ) from None
    edited = statement.predicate.digest != statement_digest(statement)
    if edited or statement.predicate.policy_sha256 != statement.predicate.policy.sha256:
        raise FileFormatError(
            "has been edited: its digest does not match its contents",
            where=str(path),
            remedy="restore the file, or build again; thresholds are changed with --policy",
        )
    _check_conclusions(statement.predicate, path)
    return Certificate(statement)


def _check_conclusions(predicate: Predicate, path: Path) -> None:
    """FileFormatError unless verdict, gates and warnings follow from the policy and the measured rows."""
    sets = {part: row.decisions for part, row in predicate.sets.items()}
    recorded = [row.name for row in predicate.runtimes if row.status == RECORDED]
    if len(recorded) != 1 or CERTIFY not in sets:
        raise FileFormatError(
            f"is not a valid certificate: it needs one recorded model and the set {CERTIFY}", where=str(path)
        )
    policy = predicate.policy
    roles = dict.fromkeys((*recorded, *policy.runtimes.optional), False)
    roles |= dict.fromkeys(policy.runtimes.required, True)
    rows = [(row.name, row.required) for row in predicate.runtimes]
    gates, warnings = judge(policy, predicate.references, predicate.runtimes, sets)
    follows = sorted(rows) == sorted(roles.items()) and predicate.verdict == verdict_of(gates)
    if not follows or (predicate.gates, predicate.warnings) != (gates, warnings):
        raise FileFormatError(
            "contradicts itself: gates and verdict do not follow from its policy and measurements",
            where=str(path),
            remedy="restore the file, or build again; thresholds are changed with --policy",
        )


def differences(recorded: Certificate, now: Certificate) -> tuple[str, ...]:
    """What was measured otherwise than recorded, one line each; thresholds and roles are not compared.

    Of runtimes that one of the two policies alone names, those that are gone are listed by name.
    """
    both = recorded.runtime_names & now.runtime_names
    gone = (
        f"runtimes.{row.name}: recorded, and left out by this policy"
        for row in recorded.predicate.runtimes
        if row.name not in both
    )
    return (*_walk("", _measured(recorded.predicate, both), _measured(now.predicate, both)), *gone)


def _measured(predicate: Predicate, runtimes: Collection[str]) -> dict[str, Any]:
    document = predicate.model_dump(mode="json", include={"verdict", "references", "tools"})
    document["runtimes"] = {
        row.name: row.model_dump(mode="json", exclude={"name", "required"})
        for row in predicate.runtimes
        if row.name in runtimes
    }
    return document


def _walk(path: str, before: object, after: object) -> list[str]:
    # Decisions by id are compared as a whole, as lists of ids are.
    by_id = path.endswith(".decisions")
    if isinstance(before, Mapping) and isinstance(after, Mapping) and not by_id:
        keys = [*before, *(key for key in after if key not in before)]
        lines = []
        for key in keys:
            lines += _walk(f"{path}.{key}" if path else str(key), before.get(key), after.get(key))
        return lines
    if before == after:
        return []
    return [f"{path}: recorded {_short(before)}, now {_short(after)}"]


def _short(value: object) -> str:
    """A scalar as it is; of containers only the size."""
    if isinstance(value, list):
        return f"{len(value)} ids"
    if isinstance(value, Mapping):
        return f"{len(value)} entries"
    return "absent" if value is None else repr(value)


def _role(row: RuntimeRow) -> str:
    return "compressed" if row.status == "recorded" else "required" if row.required else "optional"


def _note(row: RuntimeRow) -> str:
    return "; ".join(text for text in (row.label, row.reason) if text)


def _figures(measured: Measurement | None, metrics: tuple[str, ...]) -> tuple[str, ...]:
    """The columns from "samples" to "max LSB"."""
    if measured is None:
        return ("-",) * (len(metrics) + 6)
    flips = "-"
    if measured.negative_flips is not None and measured.positive_flips is not None:
        flips = f"{len(measured.negative_flips)}/{len(measured.positive_flips)}"
    return (
        str(measured.samples),
        *(metric_text(name, measured.metrics[name]) for name in metrics),
        "-" if measured.agreement is None else f"{100 * measured.agreement:.2f} %",
        flips,
        differing(measured),
        str(measured.ties),
        "-" if measured.max_lsb is None else str(measured.max_lsb),
    )


def differing(measured: Measurement | TestSummary) -> str:
    """Samples decided otherwise than by the compressed model; of sequences also how many tokens are."""
    ids = measured.differs_from_compressed
    samples = ids if isinstance(ids, int) else len(ids)
    is_text = measured.decided != measured.samples
    return f"{samples} ({measured.differing} tokens)" if is_text and samples else str(samples)


def metric_text(name: str, value: float | None) -> str:
    """A metric's value as tables show it."""
    if value is None:
        return "-"
    return f"{100 * value:.2f} %" if name == "accuracy" else f"{value:.4f}"


def _gate_line(gate: Gate) -> str:
    head = f"{gate.status:<12} {gate.name} ({gate.subject}, {gate.set}): {gate.quantity}"
    if gate.measured is None:
        return f"{head} not measured: {gate.reason}"
    note = f" ({gate.reason})" if gate.reason else ""
    return f"{head} {gate.measured:.6g}, {gate.bound} {gate.threshold:g}{note}"
