"""``sgsc-edge inspect MODEL [OTHER]``, with ``--board NAME`` or ``--target NAME``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from sgsc_edge.cli.arguments import OneOf, board, target
from sgsc_edge.cli.build import SET
from sgsc_edge.cli.output import Command, Result, command_options
from sgsc_edge.errors import InputError

Kind = Literal["gcc", "zig"]

_BOARD: dict[str, Any] = {
    "type": board(),
    "help": "Does it fit? A board's name, or the path of a board's .toml file.",
}
_TARGET: dict[str, Any] = {
    "type": target(),
    "help": "Which nodes of an .onnx does the target run? With --board, of a project: the target.  "
    "[default: tflite-int8]",
}
_TOOLCHAIN: dict[str, Any] = {
    "type": OneOf(["gcc", "zig"]),
    "help": "With --board: the compiler; default: what is there.",
}


@click.command("inspect", cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@click.option("--board", **_BOARD)
@click.option("--target", "-t", **_TARGET)
@click.option("--set", "settings", **SET)
@click.option("--toolchain", **_TOOLCHAIN)
@command_options
def command(
    model: Path,
    other: Path | None,
    board: str | None,
    target: str | None,
    settings: tuple[str, ...],
    toolchain: Kind | None,
) -> Result:
    """Show ops, widths, shapes, quantization and bytes of MODEL, an .onnx or .tflite file.

    With OTHER, a second file, both side by side: tensors by name, bytes and differences.

    With --target, of an .onnx, float or quantized: the nodes that lower, those that are refused, why, and
    what to do about it. Exit code 2 where one is refused.

    With --board, MODEL is a project's folder, a build folder or a .tflite file: flash, RAM and estimated
    instructions on the board, layer by layer. Exit code 2 where it does not fit.
    """
    from sgsc_edge.api import compare, inspect

    if board is None and target is not None:
        if other is not None:
            raise click.UsageError("--target takes one model")
        return _lowers(model, target)
    if board is None:
        found = inspect(model) if other is None else compare(model, other)
        return Result(found.to_json(), found.to_text())
    if other is not None:
        raise click.UsageError("--board takes one model")
    return _fit(model, board, target, settings, toolchain)


def _lowers(model: Path, target: str) -> Result:
    from sgsc_edge.api import lowers

    found = lowers(model, target)
    return Result(found.to_json(), found.to_text(), 0 if found.is_lowered else InputError.exit_code)


def _fit(
    model: Path, board: str, target: str | None, settings: tuple[str, ...], toolchain: Kind | None
) -> Result:
    from sgsc_edge.api import fit
    from sgsc_edge.cli.footprint_text import footprint_text
    from sgsc_edge.footprint import excesses, verdict

    found = fit(model, board, target=target, settings=settings, toolchain=toolchain)
    broken = excesses(found)
    document = {
        **found.to_json(),
        "fits": not broken,
        "verdict": verdict(found),
        "excesses": [asdict(excess) for excess in broken],
    }
    return Result(document, footprint_text(found), InputError.exit_code if broken else 0)
