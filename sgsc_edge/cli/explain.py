"""``sgsc-edge explain FOLDER [LAYER]``."""

from __future__ import annotations

from pathlib import Path

import click

from sgsc_edge.cli.arguments import BUILD, LAYER
from sgsc_edge.cli.output import Command, Result, command_options


@click.command("explain", cls=Command)
@click.argument("folder", type=BUILD)
@click.argument("layer", type=LAYER, required=False)
@command_options
def command(folder: Path, layer: str | None) -> Result:
    """Say what became of the channels of LAYER, and which watch samples break without each.

    FOLDER is a build's (such as build/tflite-int8), LAYER a name as in the plan of widths and the report;
    without it the layers are listed with their channels. ONNX Runtime computes the watch samples once for
    each channel that ships: seconds for small networks, minutes for wide layers of larger ones.
    """
    from sgsc_edge.api import explain, explained_layers

    found = explained_layers(folder) if layer is None else explain(folder, layer)
    return Result(found.to_json(), found.to_text())
