"""``sgsc-edge build [PROJECT] --target NAME ...``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sgsc_edge.cli.arguments import BUDGETS, FLOOR, OneOf, Setting, board, target
from sgsc_edge.cli.output import Command, Result, command_options, error_document, table, worst
from sgsc_edge.errors import Interrupted, SgscError

if TYPE_CHECKING:
    from sgsc_edge.boards.description import Board
    from sgsc_edge.certification import Certificate
    from sgsc_edge.project import Project
    from sgsc_edge.targets import Target

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
@click.option(
    "--budget",
    type=BUDGETS,
    help="Most bytes of the parameters, such as 6kB or 0.1x of the float model; several between commas: one "
    "compression that leaves a model at each, in OUT/TARGET/BUDGET/. Short for --set compress.budget=...",
)
@click.option(
    "--floor",
    type=FLOOR,
    help="Search the smallest model whose watch metric stays at least here (a loss: at most); short for "
    "--set compress.floor=...",
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
    budget: str | None,
    floor: float | None,
    settings: tuple[str, ...],
    board: str | None,
) -> Result:
    """Compress, lower and certify PROJECT (a folder with sgsc.toml) for one or more targets."""
    from sgsc_edge.api import goal_settings, has_frontier, load_board, prepare

    fitting = None if board is None else load_board(board)
    outcomes = [
        (_frontier if has_frontier(loaded) else _build)(loaded, target, out, fitting)
        for loaded, target in prepare(project, targets, (*settings, *goal_settings(budget, floor, method)))
    ]
    return Result(
        {
            "builds": [build for outcome in outcomes for build in outcome.document["builds"]],
            "frontiers": [one for outcome in outcomes for one in outcome.document["frontiers"]],
        },
        "\n\n".join(outcome.text for outcome in outcomes),
        worst(outcome.exit_code for outcome in outcomes),
    )


def _build(project: Project, target: Target, out: Path, board: Board | None) -> Result:
    """One target's outcome; an error of one target does not keep the others from being built."""
    from sgsc_edge.api import build_target, search
    from sgsc_edge.cli.certificate_text import certificate_text, search_text

    folder = out / target.name
    try:
        certificate = build_target(project, target, out, board)
    except Interrupted:
        raise
    except SgscError as error:
        return _not_built(target.name, folder, error)
    document = _built(target.name, folder, certificate)
    text = certificate_text(certificate, folder)
    if (found := search(folder)) is not None:
        document["search"] = found.model_dump(mode="json")
        text += f"\n\n{search_text(found)}"
        # A floor that no size keeps is what was asked for and not got, like a gate that failed.
        document["exit_code"] = worst((certificate.exit_code, 0 if found.reached else 1))
    if document["report"]:
        text += f"\nreport: {document['report']}"
    return Result({"builds": [document], "frontiers": []}, text, document["exit_code"])


def _frontier(project: Project, target: Target, out: Path, board: Board | None) -> Result:
    """The outcome of several budgets: a build each, and the overview."""
    from sgsc_edge.api import build_frontier
    from sgsc_edge.cli.certificate_text import frontier_rows
    from sgsc_edge.report import FRONTIER_PAGE

    folder = out / target.name
    try:
        outcome = build_frontier(project, target, out, board)
    except Interrupted:
        raise
    except SgscError as error:
        return _not_built(target.name, folder, error)
    builds = []
    for point in outcome.points:
        if point.certificate is not None:
            built = _built(target.name, point.folder, point.certificate)
        else:
            built = {"target": target.name, "folder": str(point.folder), "exit_code": point.exit_code}
            built["error"] = None if point.error is None else error_document(point.error)
        builds.append({**built, "budget": {"label": point.label, "bytes": point.budget}})
    frontiers, text = [], f"{target.name}: no point is certified, see the errors above"
    if outcome.overview is not None:
        page = folder / FRONTIER_PAGE
        made = page.is_file()
        frontiers.append(
            {"folder": str(folder), "report": str(page) if made else None}
            | {"beside": [str(path) for path in outcome.beside]}
            | outcome.overview.model_dump(mode="json")
        )
        built_in = [str(point.folder) for point in outcome.points if point.certificate is not None]
        text = "\n".join([table(frontier_rows(outcome.overview)), "", f"{target.name} in", *built_in])
        text += f"\nreport: {page}" if made else ""
    if outcome.beside:
        text += f"\nearlier builds, none of this run: {', '.join(map(str, outcome.beside))}"
    code = worst(point.exit_code for point in outcome.points)
    return Result({"builds": builds, "frontiers": frontiers}, text, code)


def _built(target: str, folder: Path, certificate: Certificate) -> dict[str, Any]:
    """A certified build as JSON values; its report is None where a warning has said why."""
    from sgsc_edge.report import REPORT

    report = folder / REPORT
    return {
        "target": target,
        "folder": str(folder),
        "exit_code": certificate.exit_code,
        "certificate": certificate.to_json(),
        "report": str(report) if report.is_file() else None,
    }


def _not_built(target: str, folder: Path, error: SgscError) -> Result:
    logging.getLogger("sgsc_edge").error("%s: %s", target, error)
    document = {
        "target": target,
        "folder": str(folder),
        "exit_code": error.exit_code,
        "error": error_document(error),
    }
    text = f"{target}: not built, see the error above"
    return Result({"builds": [document], "frontiers": []}, text, error.exit_code)
