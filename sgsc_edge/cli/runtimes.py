"""``sgsc-edge runtimes``."""

from __future__ import annotations

from dataclasses import asdict

import click

from sgsc_edge.cli.output import Command, Result, command_options, table


@click.command("runtimes", cls=Command)
@command_options
def command() -> Result:
    """List the runtimes that can check a model, with the installed version or what to install."""
    from sgsc_edge.api import available_runtimes

    runtimes = available_runtimes()
    rows = [(row.name, row.summary, row.reads, row.version or f"no: {row.install}") for row in runtimes]
    return Result(
        {"runtimes": [asdict(row) for row in runtimes]},
        table([("runtime", "what it is", "reads", "installed"), *rows]),
    )
