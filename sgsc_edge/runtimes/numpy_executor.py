"""Our own integer executor (``graph/reference.py``) under TFLM's rounding; runs everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.runtimes._spec import MODEL_TFLITE, RuntimeSpec


def run(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K]."""
    from sgsc_edge.graph import reference
    from sgsc_edge.graph.read_tflite import read_tflite

    outputs = np.asarray(reference.run(read_tflite(artifact), inputs, profile="tflm"))
    if outputs.dtype != np.int8:
        raise ValueError(f"the model's output is {outputs.dtype}, expected int8")
    return outputs.reshape(len(inputs), -1)


ROWS = (
    RuntimeSpec(
        "numpy",
        "our integer executor under TFLM's rounding",
        MODEL_TFLITE,
        ("numpy",),
        run,
        exact=True,
        slow=True,
    ),
)
