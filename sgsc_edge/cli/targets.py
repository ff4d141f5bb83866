"""``sgsc-edge targets``."""

from __future__ import annotations

import click

from sgsc_edge.cli.output import CONTEXT, Result, command_options, table


@click.command("targets", context_settings=CONTEXT)
@command_options
def command() -> Result:
    """List the targets that models can be built for: runtimes that must agree, weights, limits."""
    from sgsc_edge.api import available_targets

    targets = available_targets()
    rows = [(target.name, target.description, ", ".join(target.runtimes.required)) for target in targets]
    widths = [
        (target.name, row.op, str(row.bits), row.granularity, "" if row.axis is None else str(row.axis))
        for target in targets
        for row in target.weights
    ]
    limits = [
        (target.name, *(_limit(size) for size in (target.limits.flash, target.limits.arena)))
        for target in targets
        if target.limits.flash or target.limits.arena
    ]
    tables = [
        table([("target", "what it is", "required runtimes"), *rows]),
        table([("target", "weights of", "bits", "scales", "axis"), *widths]),
        table([("target", "flash", "arena"), *limits]) if limits else "",
    ]
    return Result(
        {"targets": [target.model_dump(mode="json") for target in targets]},
        "\n\n".join(filter(None, tables)),
    )


def _limit(size: int | None) -> str:
    return "" if size is None else f"{size:,} bytes"
