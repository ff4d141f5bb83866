"""``sgsc-edge verify FOLDER [--policy FILE] [--require RUNTIME] [--certificate FILE]``."""

from __future__ import annotations

from pathlib import Path

import click

from sgsc_edge.cli.arguments import BUILD
from sgsc_edge.cli.output import Command, Result, command_options


@click.command("verify", cls=Command)
@click.argument("folder", type=BUILD)
@click.option("--policy", type=click.Path(path_type=Path), help="Judge by this TOML file.")
@click.option(
    "--require",
    multiple=True,
    metavar="RUNTIME",
    help="Demand that this runtime has run, too: one that is optional for the build, say. Repeatable.",
)
@click.option(
    "--certificate", type=click.Path(path_type=Path), help="Write the new certificate to this file."
)
@command_options
def command(folder: Path, policy: Path | None, require: tuple[str, ...], certificate: Path | None) -> Result:
    """Certify FOLDER (such as build/tflite-int8) again: every figure is recomputed, no verdict believed.

    Nothing in FOLDER is changed.
    """
    from sgsc_edge.api import verify
    from sgsc_edge.cli.certificate_text import certificate_text

    found = verify(folder, policy, certificate, require=require)
    document = {
        "folder": str(folder),
        "exit_code": found.exit_code,
        "differences": list(found.differences),
        "not_repeated": list(found.not_repeated),
        "certificate": found.to_json(),
    }
    return Result(document, certificate_text(found, folder), found.exit_code)
