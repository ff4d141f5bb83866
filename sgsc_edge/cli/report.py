"""``sgsc-edge report FOLDER [--out FILE]``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sgsc_edge.cli.arguments import BUILD
from sgsc_edge.cli.output import Command, Result, command_options

_OUT: dict[str, Any] = {
    "type": click.Path(path_type=Path),
    "help": "Write the page to this file.  [default: FOLDER/report.html]",
}


@click.command("report", cls=Command)
@click.argument("folder", type=BUILD)
@click.option("--out", **_OUT)
@command_options
def command(folder: Path, out: Path | None) -> Result:
    """Write one self-contained page about FOLDER (such as build/tflite-int8): report.html.

    It shows what the files of FOLDER say, and measures nothing: whatever the verdict, the exit code is 0.
    """
    from sgsc_edge.api import report

    made = report(folder, out)
    document = {"report": str(made.path), "bytes": made.nbytes, "verdict": made.verdict}
    return Result(document, f"{made.verdict}: {made.path} ({made.nbytes:,} bytes)")
