"""``sgsc-edge init [FOLDER]``."""

from __future__ import annotations

import click

from sgsc_edge.cli.arguments import OneOf
from sgsc_edge.cli.output import Command, Result, command_options, table
from sgsc_edge.errors import ConfigError
from sgsc_edge.shipped import example_names


@click.command("init", cls=Command)
@click.argument("folder", required=False, type=click.Path())  # a Path of nothing would be the current folder
@click.option("--example", type=OneOf(example_names()), help="Write this example, as it is.")
@click.option(
    "--from",
    "source",
    type=click.Path(),
    metavar="FILE.py:NAME",
    help="Your own network: the class or function that makes it.",
)
@click.option(
    "--data",
    metavar="FILE.py:TRAIN,TEST",
    help="With --from: the functions that return your data sets.  [default: data.py:train,test]",
)
@click.option(
    "--input", "shape", metavar="C,H,W", help="With --from: the shape of a sample.  [default: the data set's]"
)
@click.option(
    "--checkpoint",
    metavar="FILE|none",
    help="With --from: the trained weights.  [default: the file beside the network that fits it]",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@command_options
def command(
    folder: str | None,
    example: str | None,
    source: str | None,
    data: str | None,
    shape: str | None,
    checkpoint: str | None,
    force: bool,
) -> Result:
    """Make FOLDER a project that builds: a starter with a trained network, or one for a network of your own.

    \b
    sgsc-edge init demo                        a small network with drawn data, to be replaced by yours
    sgsc-edge init --from model.py:Net         sgsc.toml for your network, its data and checkpoint
    sgsc-edge init --example digits demo       an example as it is

    The project is loaded, traced and lowered before anything is written.
    """
    from sgsc_edge.api import init

    made = init(
        folder,
        example=example,
        source=source,
        data=data,
        shape=_shape(shape),
        checkpoint=checkpoint,
        force=force,
    )
    document = {
        "folder": str(made.folder),
        "files": [str(path) for path in made.files],
        "findings": dict(made.findings),
        "notes": list(made.notes),
        "next": list(made.next),
    }
    blocks = [
        f"wrote {', '.join(str(path) for path in made.files)}",
        table(made.findings) if made.findings else "",
        "\n".join(made.notes),
        "\n".join(["next:", *(f"  {step}" for step in made.next)]),
    ]
    return Result(document, "\n\n".join(block for block in blocks if block))


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.strip("[] ").split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise ConfigError(f"'{text}' is no shape", where="--input", remedy="give numbers, such as 1,28,28")
    return tuple(map(int, parts))
