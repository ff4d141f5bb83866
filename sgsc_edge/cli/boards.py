"""``sgsc-edge boards``."""

from __future__ import annotations

import click

from sgsc_edge.cli.output import Command, Result, command_options, table


@click.command("boards", cls=Command)
@command_options
def command() -> Result:
    """List the boards that firmware can run on, with what is missing here to use them."""
    from sgsc_edge.api import available_boards

    boards = available_boards()
    rows = [
        (
            row.board.name,
            row.board.description,
            f"{row.board.chip.flash.size:,}",
            f"{row.board.chip.ram.size:,}",
            row.toolchain or "",
            f"no: {' and '.join(row.missing)}" if row.missing else "yes",
        )
        for row in boards
    ]
    document = [
        {**row.board.model_dump(mode="json"), "toolchain": row.toolchain, "missing": list(row.missing)}
        for row in boards
    ]
    head = ("board", "what it is", "flash", "RAM (bytes)", "compiler", "usable here")
    return Result({"boards": document}, table([head, *rows]))
