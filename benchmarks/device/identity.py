"""Do boards compute what TFLite Micro computes, integer for integer?

Every certify and must_keep sample of each build folder, on every virtual and QEMU board, against TFLite
Micro's own kernels; and on this machine, with the sanitizers of gcc and clang::

    python -m benchmarks.device.identity [BUILD_FOLDER ...] [--boards NAME ...]

The folders default to those that `make demo` and `make mnist` write. MNIST takes several minutes a board.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.device.anchor import packaged, usable_boards
from benchmarks.record import ROOT, Row, equal_integers, finish, run
from sgsc_edge.artifacts import read_npz
from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.run import run_package
from sgsc_edge.runtimes import run_runtime

DEFAULT = ("examples/digits/build/tflite-int8", "examples/mnist/build/tflite-int8")
HOSTS = ("gcc", "clang")
SANITIZED = ("-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TIMEOUT_S = 1800.0


def main() -> int:
    """Compare every board on every folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / folder for folder in DEFAULT])
    parser.add_argument("--boards", nargs="+", default=None)
    args = parser.parse_args()
    boards = args.boards or usable_boards()
    rows = [row for folder in args.folders for row in compare(folder.resolve(), boards)]
    return finish("device.identity", rows)


def compare(folder: Path, boards: list[str]) -> list[Row]:
    """One row a board."""
    name = f"{folder.parent.parent.name}-{folder.name}"
    arrays = read_npz(folder / "preservation.npz")
    sets = [arrays[f"{part}_inputs"] for part in ("certify", "must_keep") if f"{part}_inputs" in arrays]
    inputs = np.concatenate(sets)
    result = run_runtime("tflm", folder / "model.tflite", inputs, timeout_s=TIMEOUT_S)
    if result.outputs is None or result.stand_in is not None:
        raise SystemExit(f"TFLite Micro did not run on {folder}: {result.reason}")
    package = packaged(folder, name)
    jobs = [(package, board, inputs.reshape(len(inputs), -1)) for board in boards]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        computed = list(pool.map(on_board, *zip(*jobs, strict=True)))
    hosted = [
        (f"this machine, {compiler} with sanitizers", on_host(package, compiler, inputs))
        for compiler in HOSTS
    ]
    found = [*zip(boards, computed, strict=True), *hosted]
    return [row(name, where, outputs, result.outputs) for where, outputs in found]


def on_host(package: Path, compiler: str, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs of the desktop example, int8 [n, K]; what a sanitizer finds ends the benchmark."""
    program = package / f"example-{compiler}"
    sources = [*package.glob("*.c"), package / "example" / "main.c"]
    run(compiler, *SANITIZED, "-I", package, *sources, "-o", program)
    done = subprocess.run([program], input=inputs.tobytes(), capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{compiler}: {done.stderr.decode()[-2000:]}")
    return np.frombuffer(done.stdout, np.int8).reshape(len(inputs), -1)


def on_board(package: Path, board: str, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs of a board, int8 [n, K]; the package's own samples must pass there, too."""
    made = run_package(package, load_board(board), inputs)
    if made.selftest != 0:
        raise SystemExit(f"{board}: the self-test differs at sample {made.selftest}")
    return made.outputs


def row(model: str, board: str, outputs: NDArray[np.int8], expected: NDArray[np.int8]) -> Row:
    """How many integers of a board differ."""
    return equal_integers(f"{model}: integers that differ from TFLite Micro's, {board}", outputs, expected)


if __name__ == "__main__":
    raise SystemExit(main())
