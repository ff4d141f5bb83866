"""Are two builds of one project, from scratch in two folders, the same byte for byte?

::

    python -m benchmarks.reproducible [--project examples/digits]

The device model and the QDQ ONNX must be; the other files are reported.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.record import ROOT, WORK, Row, build, finish
from sgsc_edge.artifacts import sha256_file

REQUIRED = ("model.tflite", "model.qdq.onnx")
REPORTED = ("compressed.safetensors", "preservation.npz", "certificate.json")


def main() -> int:
    """Build twice and compare hashes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=ROOT / "examples/digits")
    project = parser.parse_args().project.resolve()
    folders = [fresh_build(project, WORK / f"{project.name}-again-{which}") for which in (1, 2)]
    hashes = {
        name: [sha256_file(folder / name) for folder in folders]
        for name in (*REQUIRED, *REPORTED)
        if name in REQUIRED or (folders[0] / name).is_file()
    }
    return finish("reproducible", [row(project.name, name, *pair) for name, pair in hashes.items()], hashes)


def fresh_build(project: Path, out: Path) -> Path:
    """A build into an empty folder, so that nothing is resumed."""
    shutil.rmtree(out, ignore_errors=True)
    return build(project, out)


def row(project: str, name: str, first: str, second: str) -> Row:
    """Whether one file of both builds is the same."""
    same = first == second
    value = f"identical ({first[:12]}…)" if same else f"differ ({first[:12]}…, {second[:12]}…)"
    if name in REQUIRED:
        return Row(f"{project}: {name} of two builds", value, "identical", same)
    return Row(f"{project}: {name} of two builds", value)


if __name__ == "__main__":
    raise SystemExit(main())
