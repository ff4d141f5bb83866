"""A certificate as the text that ``build`` and ``verify`` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sgsc_edge.certification.certificate import metric_text
from sgsc_edge.cli.output import table

if TYPE_CHECKING:
    from sgsc_edge.certification.certificate import Certificate
    from sgsc_edge.report.frontier import Frontier
    from sgsc_edge.report.search import Search
    from sgsc_edge.report.sections.frontier import FrontierRow


_LEGEND = """\
agrees: share of decisions that are float's
flips -/+: {what} that float has right and this one wrong, and the reverse
differs, max LSB: {what} unlike the compressed model's, and the largest difference from its output integers
ties: decisions between equal outputs, where the lower {one} wins"""


_NO_LABELS = "the samples have no labels: a decision is right where it is the float model's"

_TRIES = (
    "short tries find the way in a quarter of the epochs; thorough ones train as long as what ships, "
    "and count where a budget has both"
)


def certificate_text(certificate: Certificate, folder: Path) -> str:
    """The certify set, must_keep and test, a line a gate, warnings, differences, the verdict, the files."""
    blocks = [
        table(certificate.summary_rows()),
        _legend(certificate),
        certificate.must_keep_line(),
        _NO_LABELS if certificate.predicate.labels == "float" else "",
        _test_line(certificate),
    ]
    blocks += ["\n".join(certificate.gate_lines()), "\n".join(certificate.warning_lines())]
    if certificate.differences:
        blocks.append("\n".join(["differs from the recorded certificate:", *certificate.differences]))
    if certificate.not_repeated:
        blocks.append("\n".join(["not held to the recorded outputs:", *certificate.not_repeated]))
    sizes = ", ".join(f"{name} {(folder / name).stat().st_size:,} bytes" for name in certificate.subjects)
    blocks.append(f"{certificate.verdict}: {certificate.predicate.target} in {folder}\n{sizes}")
    return "\n\n".join(block for block in blocks if block)


def _legend(certificate: Certificate) -> str:
    """Of sequences, flips are counted by sequence."""
    if certificate.is_text:
        return _LEGEND.format(what="sequences with a next token", one="token")
    return _LEGEND.format(what="decisions", one="class")


def _test_line(certificate: Certificate) -> str:
    """The test set, where the build measured one: no gate, and not repeated by ``verify``."""
    test = certificate.predicate.test
    if not test:
        return ""
    samples = max(row.samples for row in test.values())
    metric = certificate.predicate.policy.gate.metric
    shown = ((name, row.metrics[metric]) for name, row in test.items())
    figures = ", ".join(f"{name} {metric_text(metric, value)}" for name, value in shown if value is not None)
    return f"test set, as the build measured it ({samples} samples, no gate): {metric} {figures}"


def search_text(search: Search) -> str:
    """How the search for a floor went: a line a try, and how it ended."""
    from sgsc_edge.report.sections.frontier import search_view

    view = search_view(search)
    rows = [("budget", "bytes", "from", "training", f"watch {search.metric}", "floor", "")]
    rows += [
        (row.nbytes, row.left, row.above, row.kind, row.figure, row.outcome, "chosen" if row.chosen else "")
        for row in view.rows
    ]
    return f"{table(rows)}\n{_TRIES}\n\n{'' if view.reached else 'FLOOR MISSED: '}{view.sentence}"


def frontier_rows(frontier: Frontier) -> list[tuple[str, ...]]:
    """A table of text: float and plain 8 bits, then a line a point."""
    from sgsc_edge.report.sections.frontier import frontier_view

    view = frontier_view(frontier)
    parts = tuple(f"{part.lower()} {view.metric}" for part in view.parts)
    rows = [("budget", "bytes", *parts, "flips", "verdict")]
    rows += [(row.name, row.nbytes, *row.figures, row.flips, _verdict(row)) for row in view.rows]
    return rows


def _verdict(row: FrontierRow) -> str:
    """Its verdict and why, or what it is."""
    return ": ".join(part for part in ((row.kind or "").replace("_", " "), row.note) if part)
