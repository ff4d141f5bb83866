"""``python -m sgsc_edge.lowering model.qdq.onnx out.tflite``: lower one QDQ ONNX file, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

from sgsc_edge.artifacts import write_bytes
from sgsc_edge.errors import SgscError
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import lower

_USAGE = "usage: python -m sgsc_edge.lowering MODEL.onnx OUT.tflite"


def main(arguments: list[str]) -> int:
    """Lower ``arguments[0]`` into ``arguments[1]``; returns the exit code."""
    if len(arguments) != 2:
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    source, destination = map(Path, arguments)
    try:
        write_bytes(destination, write_tflite(lower(source)))
    except SgscError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
