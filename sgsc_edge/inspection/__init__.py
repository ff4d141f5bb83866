"""What a ``.tflite`` or ``.onnx`` file holds: ops, tensors, quantization, and where its bytes go.

Reads any well-formed file, ops that the device graph does not have included; nothing is run and torch is
not needed. Sizes are bytes in the file as it is; 1 kB = 1000 bytes.
"""

from __future__ import annotations

from pathlib import Path

from sgsc_edge.errors import FileFormatError
from sgsc_edge.inspection.compare import Comparison, compare
from sgsc_edge.inspection.summary import Inspection

__all__ = ["Comparison", "Inspection", "compare", "inspect_model"]


def inspect_model(path: str | Path) -> Inspection:
    """Inspect a model file; the ending says what it is.

    Raises FileFormatError where the file is missing, too large or damaged, or is neither ``.tflite`` nor
    ``.onnx``; UnsupportedError where it needs a version that is not known.
    """
    path = Path(path)
    if path.suffix.lower() == ".tflite":
        from sgsc_edge.inspection.of_tflite import inspect_tflite

        return inspect_tflite(path)
    if path.suffix.lower() == ".onnx":
        from sgsc_edge.inspection.of_onnx import inspect_onnx

        return inspect_onnx(path)
    raise FileFormatError(
        f"the ending '{path.suffix}' is not known",
        where=str(path),
        remedy="give a .tflite or an .onnx file; with --board, a project's or a build's folder does, too",
    )
