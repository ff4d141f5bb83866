"""``sgsc-edge doctor [PROJECT]``."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sgsc_edge.cli.output import Command, Result, command_options

if TYPE_CHECKING:
    from sgsc_edge.doctor import Diagnosis, Finding

_WIDTH = (80, 120)  # of lines of text, at least and at most
_MARGIN = 14  # columns for the names of parts
_STOPS = ("verify", "build", "")  # the worst first


@click.command("doctor", cls=Command)
@click.argument("project", required=False, type=click.Path(path_type=Path))
@command_options
def command(project: Path | None) -> Result:
    """Say what is installed, what is missing, what for, and the command that gets it.

    PROJECT, by default the current folder where it is one, is examined without its code being run. Exit code
    3 where something is missing that verify needs, 2 where the project would be refused. Where only build
    cannot run (the install of a CI gate), the last line says so, and the exit code is 0.
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
    parts: dict[str, list[Finding]] = {}
    for row in found.findings:
        parts.setdefault(row.part, []).append(row)
    here = [line for part, rows in parts.items() for line in _here(part, rows, width)]
    blocks = ["\n".join(here), *_remedies(found.findings, width), textwrap.fill(unseen, width), found.verdict]
    return "\n\n".join(blocks)


def _here(part: str, rows: list[Finding], width: int) -> list[str]:
    """One part: the names of what is there, with their versions."""
    there = [row for row in rows if row.state == "ok"]
    names = ", ".join(f"{row.name} {row.detail}".strip() if _is_version(row) else row.name for row in there)
    head, margin = f"{part:<{_MARGIN}}", " " * _MARGIN
    return textwrap.wrap(
        names or "none", width, initial_indent=head, subsequent_indent=margin, break_on_hyphens=False
    )


def _is_version(row: Finding) -> bool:
    """Whether the detail is a version, and not a path or a description."""
    return row.part.startswith(("python", "packages", "extra", "runtimes", "compilers")) and (
        "/" not in row.detail
    )


def _remedies(rows: Sequence[Finding], width: int) -> list[str]:
    """A paragraph for each remedy, what stops commands first, then the project: what it mends, and what for.

    Boards have none: what they lack, compilers and emulators lack.
    """
    remedies: dict[str, list[Finding]] = {}
    for row in sorted(rows, key=lambda row: (_STOPS.index(row.stops), row.part != "project")):
        if row.state != "ok" and row.part != "boards":
            remedies.setdefault(row.mend, []).append(row)
    return [_remedy(mend, mended, width) for mend, mended in remedies.items()]


def _remedy(mend: str, rows: Sequence[Finding], width: int) -> str:
    stops = rows[0].stops
    kind = f"{stops} needs" if stops else rows[0].part if rows[0].part == "project" else "optional"
    what = (row.name if row.state == "missing" else f"{row.name} ({row.detail})" for row in rows)
    lines = {
        kind: ", ".join(dict.fromkeys(what)),
        "for": "; ".join(dict.fromkeys(row.use for row in rows if row.use)),
        "do": mend,
    }
    return "\n".join(
        textwrap.fill(
            text,
            width if head != "do" else sys.maxsize,  # a command is copied whole
            initial_indent=f"{head:<{_MARGIN}}",
            subsequent_indent=" " * _MARGIN,
            break_on_hyphens=False,
        )
        for head, text in lines.items()
        if text
    )
