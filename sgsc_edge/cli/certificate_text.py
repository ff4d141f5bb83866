"""A certificate as the text that ``build`` and ``verify`` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sgsc_edge.cli.output import table

if TYPE_CHECKING:
    from sgsc_edge.certification.certificate import Certificate


def certificate_text(certificate: Certificate, folder: Path) -> str:
    """The certify set, a line a gate, what differs from the record, the verdict, and where it lies."""
    blocks = [table(certificate.summary_rows()), "\n".join(certificate.gate_lines())]
    if certificate.differences:
        blocks.append("\n".join(["differs from the recorded certificate:", *certificate.differences]))
    blocks.append(f"{certificate.verdict}: {certificate.predicate.target} in {folder}")
    return "\n\n".join(block for block in blocks if block)
