"""How long does lowering take, as a whole process, beside onnx2tf on the float model?

Ours: `python -m sgsc_edge.lowering model.qdq.onnx out.tflite`. Theirs: `onnx2tf -i model.onnx -o out` with
the float ONNX of the same network. Runs alternate, so that a slow spell of the machine meets both; one run
of each comes first and is not counted::

    python -m benchmarks.lowering_time [--project examples/mnist] [--runs 7] [--onnx2tf-venv DIR]

onnx2tf lives in an environment of its own (1.3 GB; versions in requirements-onnx2tf.txt, Python 3.11). Where
DIR has none, it is made.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import ROOT, WORK, Row, build, finish, run
from benchmarks.timing import summary, wall_time

LIMIT = 0.5
REQUIREMENTS = Path(__file__).parent / "requirements-onnx2tf.txt"


def main() -> int:
    """Build, export the float model, and time both converters in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=Path, default=ROOT / "examples/mnist")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--onnx2tf-venv", type=Path, default=WORK / "onnx2tf-venv")
    args = parser.parse_args()

    onnx2tf = environment_with_onnx2tf(args.onnx2tf_venv)
    project = args.project.resolve()
    qdq = build(project, project / "build") / "model.qdq.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "benchmarks.float_onnx", project, folder / "model.onnx")
        ours: list[str | Path] = [sys.executable, "-m", "sgsc_edge.lowering", qdq, folder / "out.tflite"]
        theirs: list[str | Path] = [onnx2tf, "-i", folder / "model.onnx", "-o", folder / "out"]
        times = alternate(ours, theirs, args.runs, folder)
        for produced in (folder / "out.tflite", folder / "out" / "model_float32.tflite"):
            if not produced.is_file():
                raise SystemExit(f"{produced.name} was not written: nothing was measured")
    detail = {
        "project": project.name,
        "sgsc_edge_s": times[0],
        "onnx2tf_s": times[1],
        "onnx2tf": version(onnx2tf),
    }
    return finish("lowering_time", rows(project.name, *times, version(onnx2tf)), detail)


def alternate(
    ours: list[str | Path], theirs: list[str | Path], runs: int, folder: Path
) -> tuple[list[float], list[float]]:
    """Wall times of each command, in seconds, after one uncounted run of both."""
    times = [(wall_time(ours, cwd=folder), wall_time(theirs, cwd=folder)) for _ in range(runs + 1)][1:]
    return [pair[0] for pair in times], [pair[1] for pair in times]


def rows(name: str, ours: list[float], theirs: list[float], other: str) -> list[Row]:
    """Both medians and their ratio."""
    ratio = statistics.median(ours) / statistics.median(theirs)
    return [
        Row(f"{name}: QDQ ONNX → .tflite, whole process", summary(ours)),
        Row(f"{name}: float ONNX → .tflite by onnx2tf {other}, whole process", summary(theirs)),
        Row(f"{name}: lowering time over onnx2tf's", f"{ratio:.2f}", f"≤ {LIMIT:g}", ratio <= LIMIT),
    ]


def environment_with_onnx2tf(folder: Path) -> Path:
    """The onnx2tf command in ``folder``, after installing it there if need be."""
    command = folder.resolve() / "bin" / "onnx2tf"
    if not command.exists():
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "-r", REQUIREMENTS)
    return command


def version(onnx2tf: Path) -> str:
    """The installed release of onnx2tf."""
    code = "import importlib.metadata as m; print(m.version('onnx2tf'))"
    done = subprocess.run(
        [onnx2tf.with_name("python"), "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
