"""``sgsc-edge flash DIR --board NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from sgsc_edge.cli.arguments import BUILD, OneOf, board
from sgsc_edge.cli.output import Command, Result, command_options


@click.command("flash", cls=Command)
@click.argument("folder", type=BUILD)
@click.option(
    "--board", type=board(), required=True, help="A board's name, or the path of a board's .toml file."
)
@click.option(
    "--samples",
    default="200",
    show_default=True,
    metavar="N|all",
    help="Certify samples to run; changed decisions and must_keep samples always run.",
)
@click.option("--toolchain", type=OneOf(["gcc", "zig"]), help="The compiler; default: what is there.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to wait for one answer of the board; default: 120, over a UART five times 10.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@command_options
def command(
    folder: Path,
    board: str,
    samples: str,
    toolchain: Literal["gcc", "zig"] | None,
    timeout: float | None,
    dry_run: bool,
) -> Result:
    """Put the model of FOLDER, a certified build, on a board, and certify what the board computes.

    The board's answers must equal the certified ones, integer for integer; certificate.<board>.json says so.
    """
    from sgsc_edge.api import flash, flash_steps

    if samples != "all" and not (samples.isdecimal() and int(samples) > 0):
        raise click.BadParameter(f"'{samples}' is neither a number nor 'all'", param_hint="'--samples'")
    count = None if samples == "all" else int(samples)
    if dry_run:
        lines = flash_steps(folder, board, toolchain=toolchain, samples=count)
        return Result({"steps": list(lines)}, "\n".join(lines))
    made = flash(folder, board, toolchain=toolchain, samples=count, timeout_s=timeout)
    return Result(made.document, made.to_text(), made.exit_code)
