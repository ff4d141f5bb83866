"""Every runtime on every set, and the boards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sgsc_edge.certification import TestSummary
from sgsc_edge.certification.boards import BoardStatement
from sgsc_edge.certification.certificate import differing
from sgsc_edge.certification.certify import COMPRESSED
from sgsc_edge.certification.records import Measurement, Predicate
from sgsc_edge.certification.samples import CERTIFY, MUST_KEEP
from sgsc_edge.report.build_folder import BuildFolder, LeftOut
from sgsc_edge.report.text import clean, joined, metric, model_name, percent

_STATUS = {
    "ok": "ran",
    "recorded": "recorded",
    "not_run": "not run",
    "crashed": "crashed",
    "timeout": "timed out",
    "failed": "failed",
}
_EXPECTED = {"tflm": "TFLite Micro", "numpy": "the integer executor"}
_WORST = ("failed", "not_measured", "passed")
TEST = "test"
SETS = ("guide", "watch", CERTIFY, MUST_KEEP, TEST)


@dataclass(frozen=True)
class RuntimeRow:
    """One model or runtime on the certify set; ``gate``: the worst of its gates' statuses, or empty."""

    name: str
    role: str
    version: str
    status: str
    gate: str
    metrics: tuple[str, ...]
    agrees: str
    flips: str
    differs: str
    ties: str
    max_lsb: str
    note: str


@dataclass(frozen=True)
class SetColumn:
    """One set: its samples, and whether it gates."""

    name: str
    samples: int
    gated: bool


@dataclass(frozen=True)
class BoardRow:
    """What one board computed."""

    name: str
    chip: str
    verdict: str
    equal: str
    instructions: str
    flash: str
    ram: str
    stack: str
    compiler: str


@dataclass(frozen=True)
class RuntimesView:
    """``by_set`` has a row a model, a cell a set: the gate's metric there.

    ``skipped``: runtimes that ran, and the sets on which they did not, both in words.
    """

    metrics: tuple[str, ...]
    rows: tuple[RuntimeRow, ...]
    sets: tuple[SetColumn, ...]
    by_set: tuple[tuple[str, tuple[str, ...]], ...]
    skipped: tuple[tuple[str, str], ...]
    gate_metric: str
    boards: tuple[BoardRow, ...]
    left_out: tuple[LeftOut, ...]


def runtimes_view(build: BuildFolder) -> RuntimesView:
    """From the certificate and the boards' own."""
    predicate = build.certificate.predicate
    gate_metric = predicate.policy.gate.metric
    metrics = tuple(dict.fromkeys(("accuracy", gate_metric)))
    rows, by_set = [], []
    sets = _sets(build)

    def cells(parts: Mapping[str, Measurement | None], name: str) -> tuple[str, ...]:
        found: dict[str, Measurement | TestSummary | None] = {**parts, TEST: predicate.test.get(name)}
        measured = [found.get(column.name) for column in sets]
        return tuple(
            "–" if one is None else metric(gate_metric, one.metrics[gate_metric]) for one in measured
        )

    for name, parts in predicate.references.items():
        rows.append(
            _row(parts.get(CERTIFY), metrics, name=model_name(name), role="reference", status="recorded")
        )
        by_set.append((model_name(name), cells(parts, name)))
    gates: dict[str, str] = {}
    for gate in predicate.gates:
        gates[gate.subject] = min(gates.get(gate.subject, gate.status), gate.status, key=_WORST.index)
    for row in predicate.runtimes:
        stand_in = f"{row.stand_in} stands in" if row.stand_in else ""
        rows.append(
            _row(
                row.sets.get(CERTIFY),
                metrics,
                name=model_name(row.name),
                role="compressed" if row.name == COMPRESSED else "required" if row.required else "optional",
                status=_STATUS[row.status],
                version=row.version or "",
                gate=gates.get(row.name, ""),
                note="; ".join(filter(None, (stand_in, row.reason))),
            )
        )
        if row.sets:
            by_set.append((model_name(row.name), cells(row.sets, row.name)))
    return RuntimesView(
        metrics=metrics,
        rows=tuple(rows),
        sets=sets,
        by_set=tuple(by_set),
        skipped=_skipped(predicate, sets),
        gate_metric=gate_metric,
        boards=tuple(map(_board, build.boards)),
        left_out=build.left_out,
    )


def _skipped(predicate: Predicate, sets: tuple[SetColumn, ...]) -> tuple[tuple[str, str], ...]:
    """Who did not run where, although it ran: runtimes that skip the same sets together."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in predicate.runtimes:
        ran = {*row.sets, *((TEST,) if row.name in predicate.test else ())}
        missing = tuple(column.name for column in sets if column.name not in ran)
        if row.sets and missing:
            found.setdefault(missing, []).append(clean(model_name(row.name)))
    return tuple((joined(names), joined(missing)) for missing, names in found.items())


def _sets(build: BuildFolder) -> tuple[SetColumn, ...]:
    """The sets that there are, in the order of their use."""
    predicate = build.certificate.predicate
    found = {name: SetColumn(name, row.samples, row.gated) for name, row in predicate.sets.items()}
    if predicate.test:
        samples = next(iter(predicate.test.values())).samples
        found[TEST] = SetColumn(TEST, samples, False)
    return tuple(found[name] for name in SETS if name in found)


def _row(
    measured: Measurement | None,
    metrics: tuple[str, ...],
    *,
    name: str,
    role: str,
    status: str,
    version: str = "",
    gate: str = "",
    note: str = "",
) -> RuntimeRow:
    figures = tuple("–" if measured is None else metric(key, measured.metrics[key]) for key in metrics)
    flips = "–"
    if measured is not None and measured.negative_flips is not None and measured.positive_flips is not None:
        flips = f"{len(measured.negative_flips)} / {len(measured.positive_flips)}"
    return RuntimeRow(
        name=name,
        role=role,
        version=version,
        status=status,
        gate=gate,
        metrics=figures,
        agrees="–" if measured is None or measured.agreement is None else percent(measured.agreement),
        flips=flips,
        differs="–" if measured is None else differing(measured),
        ties="–" if measured is None else str(measured.ties),
        max_lsb="–" if measured is None or measured.max_lsb is None else str(measured.max_lsb),
        note=note,
    )


def _board(board: BoardStatement) -> BoardRow:
    ram = board.sizes.ram + board.sizes.stack
    instructions = board.instructions_per_inference
    equal = f"{board.samples - len(board.differing):,} of {board.samples:,}"
    return BoardRow(
        name=clean(board.board),
        chip=clean(board.chip.cpu),
        verdict=board.verdict.lower(),
        equal=f"{equal} equal to {_EXPECTED[board.expected_from]}"
        + (f"; self-test differs at sample {board.selftest}" if board.selftest else ""),
        instructions="not counted" if instructions is None else f"{instructions:,}",
        flash=_used(board.sizes.flash, board.limits.flash),
        ram=_used(ram, board.limits.ram),
        stack=f"{board.stack.total:,}",
        compiler=clean(board.toolchain),
    )


def _used(used: int, limit: int) -> str:
    return f"{used:,} of {limit:,}" + (f" ({percent(used / limit, 0)})" if limit else "")
