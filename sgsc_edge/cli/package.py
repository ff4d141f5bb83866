"""``sgsc-edge package SOURCE --format FORMAT``."""

from __future__ import annotations

from pathlib import Path

import click

from sgsc_edge.cli.arguments import BUILD, OneOf
from sgsc_edge.cli.output import Command, Result, command_options


@click.command("package", cls=Command)
@click.argument("source", type=BUILD)
@click.option("--format", "kind", type=OneOf(["c-code", "c-array"]), required=True, help="What to write.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the package; default: SOURCE/package/FORMAT of a build, ./<name>-FORMAT of a file.",
)
@click.option(
    "--name", help="What the model is called in the code; default: the project's or the file's name."
)
@click.option(
    "--weights",
    type=OneOf(["stored", "learned"]),
    help="Widths of weights of c-code: as the .tflite stores them, or the smallest that holds each filter; "
    "default: what the build's target says, else stored.",
)
@click.option(
    "--arena",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="RAM for the interpreter of c-array; default: what TensorFlow Lite Micro takes here, and a margin.",
)
@command_options
def command(
    source: Path, kind: str, out: Path | None, name: str | None, weights: str | None, arena: int | None
) -> Result:
    """Write SOURCE, a build folder or a .tflite file, as a package for an embedded project.

    c-code: C99 without interpreter, allocation or dependencies, with a self-test. It computes integer for
    integer what TensorFlow Lite Micro does.

    c-array: the .tflite as an array for TensorFlow Lite Micro, with its op resolver, the size of its arena,
    and an example that checks samples.
    """
    from sgsc_edge.api import package

    learned = None if weights is None else weights == "learned"
    made = package(source, kind, out=out, name=name, learned=learned, arena=arena)
    return Result({"folder": str(made.folder), **made.description}, made.to_text())
