"""``sgsc-edge lower MODEL --target NAME --calibration FILE``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sgsc_edge.api import DEFAULT_TARGET, MAX_DROP
from sgsc_edge.cli.arguments import OneOf, target
from sgsc_edge.cli.output import Command, Result, command_options, error_document, worst
from sgsc_edge.errors import Interrupted, SgscError

if TYPE_CHECKING:
    from sgsc_edge.conversion import Conversion

_FILE = click.Path(path_type=Path)
_TARGET: dict[str, Any] = {
    "multiple": True,
    "type": target(),
    "default": (DEFAULT_TARGET,),
    "show_default": True,
    "help": "Target name, or a target's .toml file; repeatable.",
}
_AUTO = "auto"


@click.command("lower", cls=Command)
@click.argument("model", type=_FILE)
@click.option("--target", "-t", "targets", **_TARGET)
@click.option(
    "--calibration",
    "-c",
    type=_FILE,
    help="An .npz of samples: inputs [n, ...] as MODEL takes them, labels [n] if there are any. A float "
    "model needs it.",
)
@click.option(
    "--check",
    type=_FILE,
    help="An .npz of other samples, to judge by; default: a fifth of --calibration is kept apart.",
)
@click.option("--out", type=_FILE, help="Results lie in OUT/TARGET/; default: build/<MODEL's name>.")
@click.option(
    "--ranges",
    type=OneOf([_AUTO, "minmax", "percentile", "mse", "entropy"]),
    default=_AUTO,
    show_default=True,
    help="Which part of a value's range its 256 steps cover; auto: what is closest to float on calibration "
    "samples.",
)
@click.option(
    "--max-drop",
    type=float,
    default=MAX_DROP,
    show_default=True,
    help="By how much the accuracy may fall; without labels, the share of decisions that may change.",
)
@click.option("--policy", type=_FILE, help="A TOML file of thresholds and runtimes, as `verify` takes it.")
@click.option(
    "--unseen",
    is_flag=True,
    help="State that MODEL was not trained on the samples that it is judged by.",
)
@command_options
def command(
    model: Path,
    targets: tuple[str, ...],
    calibration: Path | None,
    check: Path | None,
    out: Path | None,
    ranges: str,
    max_drop: float,
    policy: Path | None,
    unseen: bool,
) -> Result:
    """Quantize MODEL, an .onnx file, by samples, lower it, and certify it against itself in float.

    Nothing is trained. A model that is quantized already (QDQ) keeps its scales and integers.
    """
    from sgsc_edge.api import lower_for
    from sgsc_edge.targets import load_target

    chosen = {loaded.name: loaded for loaded in map(load_target, targets)}
    place = Path("build") / model.stem if out is None else out
    documents: list[dict[str, Any]] = []
    texts = []
    for name, loaded in chosen.items():
        try:
            made = lower_for(
                model,
                loaded,
                place,
                calibration=calibration,
                check=check,
                ranges=None if ranges == _AUTO else ranges,  # type: ignore[arg-type]  # one of the options
                max_drop=max_drop,
                policy=policy,
                unseen=unseen,
            )
        except Interrupted:
            raise
        except SgscError as error:
            logging.getLogger("sgsc_edge").error("%s: %s", name, error)
            documents.append(
                {"target": name, "folder": str(place / name), "exit_code": error.exit_code}
                | {"error": error_document(error)}
            )
            texts.append(f"{name}: not lowered, see the error above")
            continue
        documents.append(_document(name, made))
        texts.append(_text(made))
    code = worst(document["exit_code"] for document in documents)
    return Result({"conversions": documents}, "\n\n".join(texts), code)


def _document(name: str, made: Conversion) -> dict[str, Any]:
    from sgsc_edge.report import REPORT

    report = made.folder / REPORT
    return {
        "target": name,
        "folder": str(made.folder),
        "exit_code": made.certificate.exit_code,
        "certificate": made.certificate.to_json(),
        "report": str(report) if report.is_file() else None,
        "ranges": made.ranges,
        "samples": {"calibrated": made.calibrated, "judged": made.judged},
    }


def _text(made: Conversion) -> str:
    from sgsc_edge.cli.certificate_text import certificate_text
    from sgsc_edge.report import REPORT

    text = certificate_text(made.certificate, made.folder)
    report = made.folder / REPORT
    return f"{text}\nreport: {report}" if report.is_file() else text
