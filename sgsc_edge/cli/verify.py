"""``sgsc-edge verify FOLDER [--policy FILE]``."""

from __future__ import annotations

from pathlib import Path

import click

from sgsc_edge.cli.output import CONTEXT, Result, command_options


@click.command("verify", context_settings=CONTEXT)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--policy", type=click.Path(path_type=Path), help="Judge by this TOML file.")
@command_options
def command(folder: Path, policy: Path | None) -> Result:
    """Certify FOLDER (such as build/tflite-int8) again: every figure is recomputed, no verdict believed."""
    from sgsc_edge.api import verify
    from sgsc_edge.cli.certificate_text import certificate_text

    certificate = verify(folder, policy)
    document = {
        "folder": str(folder),
        "exit_code": certificate.exit_code,
        "differences": list(certificate.differences),
        "certificate": certificate.to_json(),
    }
    return Result(document, certificate_text(certificate, folder), certificate.exit_code)
