"""``sgsc-edge inspect MODEL [OTHER]``."""

from __future__ import annotations

from pathlib import Path

import click

from sgsc_edge.cli.output import CONTEXT, Result, command_options


@click.command("inspect", context_settings=CONTEXT)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("other", type=click.Path(path_type=Path), required=False)
@command_options
def command(model: Path, other: Path | None) -> Result:
    """Show ops, widths, shapes, quantization and bytes of MODEL, an .onnx or .tflite file.

    With OTHER, a second file, both side by side: tensors by name, bytes and differences.
    """
    from sgsc_edge.api import compare, inspect

    found = inspect(model) if other is None else compare(model, other)
    return Result(found.to_json(), found.to_text())
