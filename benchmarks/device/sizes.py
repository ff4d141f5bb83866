"""Code, RAM, weights and instructions of the plain int8 MNIST CNN as firmware; whether it is reproducible.

The model is packaged and built twice by processes of their own, for every board and compiler; then it runs
once on every virtual board::

    python -m benchmarks.device.sizes

``code`` is all that the model executes, kernels included; what starts the board and talks to the host is
counted apart. RAM is the arena, the input, the output and the stack that was used.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.device.anchor import anchor, packaged, usable_boards
from benchmarks.record import ROOT, Row, finish
from sgsc_edge.artifacts import sha256_file
from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.run import BoardRun, run_package
from sgsc_edge.firmware.package import Package, read_package
from sgsc_edge.firmware.toolchain import KINDS, Kind
from sgsc_edge.packaging.source import read_source

JUDGED = "virtual-cortex-m4"
CODE_LIMIT, RAM_LIMIT, WEIGHTS_LIMIT = 10_000, 24_000, 1.02

_BUILD = """
import hashlib, sys
from pathlib import Path
from sgsc_edge.boards.description import load_board
from sgsc_edge.firmware.image import build_image
from sgsc_edge.firmware.package import Package, read_package
from sgsc_edge.firmware.toolchain import find_toolchain
chip = load_board(sys.argv[2]).chip
image = build_image(read_package(Path(sys.argv[1])), chip, find_toolchain(chip, sys.argv[3]))
print(hashlib.sha256(image.elf).hexdigest())
"""


def main() -> int:
    """Measure sizes and instructions, and build everything twice."""
    source = anchor()
    folder = packaged(source, "sizes")
    names = usable_boards()
    virtual = [name for name in names if load_board(name).reach.via == "unicorn"]
    runs = {(name, kind): one(folder, name, kind) for name in virtual for kind in KINDS}
    payload = payload_bytes(source)
    rows = [
        *limits(read_package(folder), runs[JUDGED, "gcc"], payload),
        *columns(runs),
        *twice(source, names),
    ]
    detail = {
        f"{name}, {kind}": {"instructions": made.instructions, **asdict(made.sizes), **asdict(made.stack)}
        for (name, kind), made in runs.items()
    }
    return finish("device.sizes", rows, {"model": source.name, "payload_bytes": payload, "boards": detail})


def one(folder: Path, name: str, kind: Kind) -> BoardRun:
    """The package on a board, with zeros."""
    package = read_package(folder)
    return run_package(folder, load_board(name), np.zeros((1, package.input_bytes), np.int8), toolchain=kind)


def payload_bytes(source: Path) -> int:
    """Weights and biases, as the ``.tflite`` holds them."""
    graph = read_source(source).graph
    layers = [node for node in graph.nodes if node.kind in ("Conv2D", "DepthwiseConv2D", "FullyConnected")]
    return sum(graph[name].data.nbytes for node in layers for name in node.inputs[1:])  # type: ignore[union-attr]


def limits(package: Package, made: BoardRun, payload: int) -> list[Row]:
    """The figures that are judged."""
    ends = package.input_bytes + package.output_bytes
    ram = package.arena_bytes + ends + made.stack.total
    share = made.sizes.weights / payload
    return [
        Row(
            "MNIST CNN on a Cortex-M4, gcc: code beside the weights",
            f"{made.sizes.code:,} bytes",
            f"≤ {CODE_LIMIT:,}",
            made.sizes.code <= CODE_LIMIT,
        ),
        Row("MNIST CNN: start-up and link", f"{made.sizes.board:,} bytes"),
        Row(
            "MNIST CNN: arena, input, output and stack",
            f"{package.arena_bytes:,} + {ends:,} + {made.stack.total:,} = {ram:,} bytes",
            f"≤ {RAM_LIMIT:,}",
            ram <= RAM_LIMIT,
        ),
        Row(
            "MNIST CNN: weights.c in flash over weights and biases",
            f"{made.sizes.weights:,} / {payload:,} = {share:.3f}",
            f"≤ {WEIGHTS_LIMIT:g}",
            share <= WEIGHTS_LIMIT,
        ),
    ]


def columns(runs: dict[tuple[str, Kind], BoardRun]) -> list[Row]:
    """Instructions and code on every virtual board."""
    return [
        Row(
            f"MNIST CNN, {name}: instructions of one inference, code bytes",
            "; ".join(
                f"{kind} {runs[name, kind].instructions:,}, {runs[name, kind].sizes.code:,}" for kind in KINDS
            ),
        )
        for name in dict.fromkeys(name for name, _ in runs)
    ]


def twice(source: Path, names: list[str]) -> list[Row]:
    """Whether files and images of two packages are the same."""
    folders = [packaged(source, f"again-{which}") for which in (1, 2)]
    written = [
        {path.name: sha256_file(path) for path in sorted(folder.rglob("*.[ch]"))} for folder in folders
    ]
    rows = [same(f"{len(written[0])} C files of two packages", written[0] == written[1] and bool(written[0]))]
    for kind in KINDS:
        pairs = [[image(folder, name, kind) for folder in folders] for name in names]
        equal = sum(first == second for first, second in pairs)
        rows.append(same(f"{equal} of {len(names)} ELF files of two builds, {kind}", equal == len(names)))
    return rows


def same(what: str, identical: bool) -> Row:
    """A row of a comparison."""
    return Row(f"MNIST CNN: {what}", "identical" if identical else "differ", "identical", identical)


def image(folder: Path, name: str, kind: Kind) -> str:
    """SHA-256 of a firmware image that a process of its own builds."""
    line = [sys.executable, "-c", _BUILD, str(folder), name, kind]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name}, {kind}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
