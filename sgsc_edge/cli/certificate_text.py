"""A certificate as the text that ``build`` and ``verify`` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sgsc_edge.certification.certificate import metric_text
from sgsc_edge.cli.output import table

if TYPE_CHECKING:
    from sgsc_edge.certification.certificate import Certificate


_LEGEND = """\
agrees: share of decisions that are float's
flips -/+: {what} that float has right and this one wrong, and the reverse
differs, max LSB: {what} unlike the compressed model's, and the largest difference from its output integers
ties: decisions between equal outputs, where the lower {one} wins"""


def certificate_text(certificate: Certificate, folder: Path) -> str:
    """The certify set, must_keep and test, a line a gate, warnings, differences, the verdict, the files."""
    blocks = [
        table(certificate.summary_rows()),
        _legend(certificate),
        certificate.must_keep_line(),
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
