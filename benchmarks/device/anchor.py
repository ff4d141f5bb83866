"""The model that sizes and instructions are measured on, and how models become packages here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.record import ROOT, WORK, command, run

_SHARED = "mnist-cnn/plain_int8.tflite"
_OWN = ROOT / "examples/mnist/build/tflite-int8"


def anchor() -> Path:
    """The paper's MNIST CNN in plain int8: as onnx2tf made it where ``$SGSC_EDGE_DATA`` has that file, else
    the build of ``make mnist``."""
    data = os.environ.get("SGSC_EDGE_DATA")
    if data and (path := Path(data) / _SHARED).is_file():
        return path
    if not _OWN.is_dir():
        raise SystemExit(f"neither $SGSC_EDGE_DATA/{_SHARED} nor {_OWN}: run `make mnist`")
    return _OWN


def packaged(source: Path, name: str) -> Path:
    """The C code of a build folder or a ``.tflite``, in a folder called ``name``, written anew."""
    out = WORK / "device" / name
    shutil.rmtree(out, ignore_errors=True)
    run(command(), "package", source, "--format", "c-code", "--out", out)
    return out


def usable_boards() -> list[str]:
    """Every shipped board; ends the benchmark where one cannot be used here, for it would go unmeasured."""
    from sgsc_edge.boards.available import available_boards

    boards = available_boards()
    if missing := [f"{row.board.name}: {' and '.join(row.missing)}" for row in boards if row.missing]:
        raise SystemExit("not every board can be used here:\n" + "\n".join(missing))
    return [row.board.name for row in boards]
