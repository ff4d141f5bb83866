"""``sgsc-edge inspect MODEL``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from sgsc_edge.cli.output import CONTEXT, Result, command_options


@click.command("inspect", context_settings=CONTEXT)
@click.argument("model", type=click.Path(path_type=Path))
@command_options
def command(model: Path) -> Result:
    """Show ops, widths, shapes, quantization and bytes of MODEL, an .onnx or .tflite file."""
    from sgsc_edge.api import inspect

    inspection = inspect(model)
    return Result(asdict(inspection), inspection.to_text())
