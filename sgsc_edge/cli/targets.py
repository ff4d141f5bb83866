"""``sgsc-edge targets``."""

from __future__ import annotations

import click

from sgsc_edge.cli.output import CONTEXT, Result, command_options, table


@click.command("targets", context_settings=CONTEXT)
@command_options
def command() -> Result:
    """List the targets that models can be built for, and the runtimes each must agree on."""
    from sgsc_edge.api import available_targets

    targets = available_targets()
    rows = [(target.name, target.description, ", ".join(target.runtimes.required)) for target in targets]
    return Result(
        {"targets": [target.model_dump(mode="json") for target in targets]},
        table([("target", "what it is", "required runtimes"), *rows]),
    )
