"""Do the real kernels give, integer for integer, what the NumPy executor computes?

Over every sample of the certify set of each build folder: TFLM against the executor under the ``tflm``
rounding profile, LiteRT's reference kernels against it under ``litert_reference``::

    python -m benchmarks.exactness [BUILD_FOLDER ...]

The folders default to those that `make demo` and `make mnist` write.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import ROOT, Row, finish
from sgsc_edge.artifacts import read_npz
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.reference import run as execute
from sgsc_edge.runtimes import run_runtime

DEFAULT = ("examples/digits/build/tflite-int8", "examples/mnist/build/tflite-int8")
PAIRS = {"tflm": "tflm", "litert-reference": "litert_reference"}
"""Runtime -> the rounding profile that describes it."""
TIMEOUT_S = 1800.0


def main() -> int:
    """Compare every pair on every folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / folder for folder in DEFAULT])
    compared = [compare(folder.resolve()) for folder in parser.parse_args().folders]
    return finish("exactness", [one for rows in compared for one in rows])


def compare(folder: Path) -> list[Row]:
    """One row a runtime: how many output integers of the certify set differ."""
    model = folder / "model.tflite"
    inputs = read_npz(folder / "preservation.npz")["certify_inputs"]
    graph = read_tflite(model.read_bytes())
    rows = []
    for runtime, profile in PAIRS.items():
        result = run_runtime(runtime, model, inputs, timeout_s=TIMEOUT_S, workers=2)
        if result.outputs is None:
            raise SystemExit(f"{runtime} did not run on {model}: {result.reason}")
        rows.append(row(folder, runtime, result.outputs, execute(graph, inputs, profile)))
    return rows


def row(folder: Path, runtime: str, outputs: NDArray[np.int8], expected: NDArray[np.int8]) -> Row:
    """How many integers differ; unequal shapes, dtypes or no outputs at all end the benchmark."""
    if outputs.shape != expected.shape or outputs.dtype != expected.dtype or not outputs.size:
        raise SystemExit(f"{runtime}: outputs {outputs.shape} {outputs.dtype}, expected {expected.shape}")
    differing = int((outputs != expected).sum())
    return Row(
        f"{folder.parent.parent.name}: integers that differ, {runtime} against the executor",
        f"{differing} of {outputs.size:,} ({len(outputs):,} samples)",
        "0",
        differing == 0,
    )


if __name__ == "__main__":
    raise SystemExit(main())
