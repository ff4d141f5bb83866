"""``sgsc-edge doctor [PROJECT]``."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sgsc_edge.cli.output import CONTEXT, Result, command_options, table

if TYPE_CHECKING:
    from sgsc_edge.doctor import Diagnosis, Finding

_WIDTH = (80, 120)  # of lines of text, at least and at most
_MARGIN = 14  # columns for the names of parts


@click.command("doctor", context_settings=CONTEXT)
@click.argument("project", required=False, type=click.Path(path_type=Path))
@command_options
def command(project: Path | None) -> Result:
    """Say what is installed, what is missing, what for, and the command that gets it.

    PROJECT, by default the current folder where it is one, is examined without its code being run. Exit code
    3 where something is missing that build and verify need, 2 where the project would be refused.
    """
    from sgsc_edge.api import doctor
    from sgsc_edge.doctor.diagnosis import UNSEEN

    found = doctor(project)
    document = {
        "exit_code": found.exit_code,
        "verdict": found.verdict,
        "findings": [asdict(row) for row in found.findings],
        "unseen": UNSEEN,
    }
    return Result(document, _text(found, UNSEEN), found.exit_code)


def _text(found: Diagnosis, unseen: str) -> str:
    low, high = _WIDTH
    width = min(max(shutil.get_terminal_size().columns, low), high)
    parts = dict.fromkeys(row.part for row in found.findings)
    here = [
        line
        for part in parts
        for line in _here(
            part, [row for row in found.findings if row.part == part and row.state == "ok"], width
        )
    ]
    lacking = sorted((row for row in found.findings if row.state != "ok"), key=lambda row: not row.required)
    blocks = ["\n".join(here), _lacking(lacking), textwrap.fill(unseen, width), found.verdict]
    return "\n\n".join(block for block in blocks if block)


def _here(part: str, rows: list[Finding], width: int) -> list[str]:
    """One part: the names that are there, with their versions."""
    names = ", ".join(f"{row.name} {row.detail}".strip() if _is_version(row) else row.name for row in rows)
    head, margin = f"{part:<{_MARGIN}}", " " * _MARGIN
    return textwrap.wrap(
        names or "none", width, initial_indent=head, subsequent_indent=margin, break_on_hyphens=False
    )


def _is_version(row: Finding) -> bool:
    """Whether the detail is a version, and not a path or a description."""
    return row.part.startswith(("python", "packages", "extra", "runtimes", "compilers")) and (
        "/" not in row.detail
    )


def _lacking(rows: list[Finding]) -> str:
    if not rows:
        return ""
    lines = [
        (row.name, f"{row.detail}{' (required)' if row.required else ''}", row.use, row.mend) for row in rows
    ]
    return table([("not usable", "because", "what for", "what to do"), *dict.fromkeys(lines)])
