"""Do boards compute what TFLite Micro computes, for models of another converter?

TensorFlow's converter quantizes a MobileNet, a keyword spotter, a residual and a U-shaped network, an
autoencoder and two mixtures of other ops; the MNIST CNN comes from onnx2tf where `$SGSC_EDGE_DATA` has it.
Each computes 200 random inputs on every virtual and QEMU board whose memory it fits::

    python -m benchmarks.device.foreign [--venv DIR] [--boards NAME ...]

TensorFlow lives in the environment that `benchmarks.lowering_time` makes, too.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.device.anchor import anchor, packaged, usable_boards
from benchmarks.lowering_time import environment_with_onnx2tf
from benchmarks.record import WORK, Row, finish, run
from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.run import run_package
from sgsc_edge.errors import ImageError
from sgsc_edge.graph.ir import DType
from sgsc_edge.graph.read_tflite import read_tflite

SAMPLES = 200
ARENA_SLACK = 1.05
_TFLM_ARENA = 8 << 20


def main() -> int:
    """Compare every board on every model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=WORK / "onnx2tf-venv")
    parser.add_argument("--boards", nargs="+", default=None)
    args = parser.parse_args()
    boards = args.boards or usable_boards()
    folder = WORK / "device" / "foreign"
    python = environment_with_onnx2tf(args.venv).with_name("python")
    run(python, Path(__file__).with_name("foreign_models.py"), folder)
    models = [path for path in (*sorted(folder.glob("*.tflite")), anchor()) if path.suffix == ".tflite"]
    return finish("device.foreign", [row for model in models for row in compare(model, boards)])


def compare(model: Path, boards: list[str]) -> list[Row]:
    """The integers of every board, and the arena beside what values need at least."""
    inputs, expected = on_tflm(model)
    package = packaged(model, model.stem)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(on_board, [package] * len(boards), boards, [inputs] * len(boards)))
    ran = {board: outputs for board, outputs in zip(boards, found, strict=True) if outputs is not None}
    if not ran:
        raise SystemExit(f"{model.name} fits no board")
    wrong = {board: int((outputs != expected).any(axis=1).sum()) for board, outputs in ran.items()}
    differing = ", ".join(f"{board} {count}" for board, count in wrong.items() if count)
    large = [board for board in boards if board not in ran]
    value = f"{differing or '0'} of {SAMPLES} outputs, {len(ran)} boards"
    description = json.loads((package / "package.json").read_text(encoding="utf-8"))
    share = description["arena_bytes"] / max(1, description["arena_lower_bound"])
    return [
        Row(
            f"{model.stem}: outputs that differ from TFLite Micro's",
            value + (f" (too large for {', '.join(large)})" if large else ""),
            "0",
            not differing,
        ),
        Row(
            f"{model.stem}: arena over its lower bound",
            f"{description['arena_bytes']:,} bytes, {share:.3f}",
            f"≤ {ARENA_SLACK:g}",
            share <= ARENA_SLACK,
        ),
    ]


def on_tflm(model: Path) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Random inputs and TFLite Micro's outputs, as bytes: int8 [n, input bytes] and [n, output bytes]."""
    from tflite_micro import runtime

    graph = read_tflite(model.read_bytes())
    (name,) = graph.inputs
    tensor = graph[name]
    chance = np.random.default_rng(0)
    shape = (SAMPLES, *tensor.shape)
    inputs: NDArray[np.generic]
    if tensor.dtype is DType.FLOAT32:
        inputs = chance.normal(size=shape).astype(np.float32)
    else:
        inputs = chance.integers(-128, 128, shape, np.int8)
    interpreter = runtime.Interpreter.from_bytes(model.read_bytes(), arena_size=_TFLM_ARENA)
    outputs = []
    for sample in inputs:
        interpreter.set_input(sample, 0)
        interpreter.invoke()
        outputs.append(np.array(interpreter.get_output(0)))
    return _bytes(inputs), _bytes(np.stack(outputs))


def _bytes(values: NDArray[np.generic]) -> NDArray[np.int8]:
    return np.ascontiguousarray(values.reshape(len(values), -1)).view(np.int8)


def on_board(package: Path, board: str, inputs: NDArray[np.int8]) -> NDArray[np.int8] | None:
    """What a board computes, int8 [n, output bytes]; None where the model is too large for it."""
    try:
        return run_package(package, load_board(board), inputs).outputs
    except ImageError:
        return None


if __name__ == "__main__":
    raise SystemExit(main())
