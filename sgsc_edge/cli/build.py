"""``sgsc-edge build [PROJECT] --target NAME ...``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sgsc_edge.cli.arguments import OneOf, Setting, board, target
from sgsc_edge.cli.output import Command, Result, command_options, error_document
from sgsc_edge.errors import Interrupted, SgscError

if TYPE_CHECKING:
    from sgsc_edge.boards.description import Board
    from sgsc_edge.project import Project
    from sgsc_edge.targets import Target

# Of several targets the worst outcome is the command's: our bug, device, input, not measured, gate, done.
_SEVERITY = (5, 4, 2, 3, 1, 0)


_TARGET: dict[str, Any] = {
    "multiple": True,
    "type": target(told=True),
    "required": True,
    "help": "Target name, or a target's .toml file; repeatable.",
}
_OUT: dict[str, Any] = {
    "default": "build",
    "show_default": True,
    "type": click.Path(path_type=Path),
    "help": "Results lie in OUT/TARGET/.",
}
SET: dict[str, Any] = {
    "multiple": True,
    "type": Setting(),
    "help": "Override a setting, such as compress.epochs=2; repeatable.",
}


@click.command("build", cls=Command)
@click.argument("project", default=".", type=click.Path(path_type=Path))
@click.option("--target", "-t", "targets", **_TARGET)
@click.option("--out", **_OUT)
@click.option(
    "--method",
    type=OneOf(["sgsc", "mixed", "qat8", "ptq"]),
    help="Learned depths, mixed widths, 8 bits, or calibration only; short for --set compress.method=...",
)
@click.option("--set", "settings", **SET)
@click.option(
    "--board",
    type=board(),
    help="Refuse what does not fit this board: its name, or the path of its .toml file.",
)
@command_options
def command(
    project: Path,
    targets: tuple[str, ...],
    out: Path,
    method: str | None,
    settings: tuple[str, ...],
    board: str | None,
) -> Result:
    """Compress, lower and certify PROJECT (a folder with sgsc.toml) for one or more targets."""
    from sgsc_edge.api import load_board, prepare

    fitting = None if board is None else load_board(board)
    if method is not None:
        settings = (*settings, f"compress.method={method}")
    outcomes = [
        _build(loaded, target, out, fitting) for loaded, target in prepare(project, targets, settings)
    ]
    return Result(
        {"builds": [outcome.document for outcome in outcomes]},
        "\n\n".join(outcome.text for outcome in outcomes),
        min((outcome.exit_code for outcome in outcomes), key=_SEVERITY.index),
    )


def _build(project: Project, target: Target, out: Path, board: Board | None) -> Result:
    """One target's outcome; an error of one target does not keep the others from being built."""
    from sgsc_edge.api import build_target
    from sgsc_edge.cli.certificate_text import certificate_text
    from sgsc_edge.report import REPORT

    folder = out / target.name
    document: dict[str, Any] = {"target": target.name, "folder": str(folder)}
    try:
        certificate = build_target(project, target, out, board)
    except Interrupted:
        raise
    except SgscError as error:
        logging.getLogger("sgsc_edge").error("%s: %s", target.name, error)
        document |= {"exit_code": error.exit_code, "error": error_document(error)}
        return Result(document, f"{target.name}: not built, see the error above", error.exit_code)
    report = folder / REPORT
    made = report.is_file()  # else a warning has said why not
    document |= {
        "exit_code": certificate.exit_code,
        "certificate": certificate.to_json(),
        "report": str(report) if made else None,
    }
    text = certificate_text(certificate, folder) + (f"\nreport: {report}" if made else "")
    return Result(document, text, certificate.exit_code)
