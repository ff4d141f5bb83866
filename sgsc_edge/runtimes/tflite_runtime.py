"""tflite-runtime 2.14 (2023): its last release, still on many devices; needs numpy < 2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.runtimes._spec import MODEL_TFLITE, RuntimeSpec
from sgsc_edge.runtimes._tflite import run_interpreter


def run(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] under the default resolver."""
    from tflite_runtime.interpreter import Interpreter

    return run_interpreter(Interpreter(model_content=artifact, num_threads=1), inputs)


ROWS = (
    RuntimeSpec(
        "tflite-runtime",
        "tflite-runtime (2023)",
        MODEL_TFLITE,
        ("tflite-runtime",),
        run,
        own_python="numpy < 2",
    ),
)
