"""The engines that execute a shipped model, each in a process of its own.

One file a runtime: a module of this folder whose name has no leading underscore holds ``ROWS``, a tuple
of :class:`RuntimeSpec`. Files are found by scanning; two rows of one name are an error.

>>> sorted(specs())[:3]
['litert', 'litert-reference', 'numpy']
"""

from __future__ import annotations

from sgsc_edge.runtimes._execute import execute, run_runtime
from sgsc_edge.runtimes._registry import Available, available, specs
from sgsc_edge.runtimes._spec import MODEL_ONNX, MODEL_TFLITE, Inputs, RunResult, RuntimeSpec, Status

__all__ = [
    "MODEL_ONNX",
    "MODEL_TFLITE",
    "Available",
    "Inputs",
    "RunResult",
    "RuntimeSpec",
    "Status",
    "available",
    "execute",
    "run_runtime",
    "specs",
]
