"""TFLite Micro: the oracle for microcontrollers. Its interpreter trusts its input; ours does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.runtimes._spec import MODEL_TFLITE, RuntimeSpec
from sgsc_edge.runtimes._tflite import check_signature

# TFLM's own default, ten times the file, is too small for small files with scratch needs. Models that
# need more than this beside it are not for microcontrollers.
_ARENA_BYTES = 64 << 20


def run(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] of TFLM's reference kernels."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(artifact, arena_size=_ARENA_BYTES + 10 * len(artifact))
    check_signature(interpreter.get_input_details(0), (1, *inputs.shape[1:]), "the model's input")
    sink = interpreter.get_output_details(0)
    check_signature(sink, None, "the model's output")
    outputs = np.empty((len(inputs), int(np.prod(sink["shape"]))), np.int8)
    for i in range(len(inputs)):
        interpreter.set_input(np.ascontiguousarray(inputs[i : i + 1]), 0)
        interpreter.invoke()
        outputs[i] = interpreter.get_output(0).reshape(-1)
    return outputs


ROWS = (
    RuntimeSpec(
        "tflm",
        "TFLite Micro's reference kernels",
        MODEL_TFLITE,
        ("tflite-micro",),
        run,
        exact=True,
        slow=True,
        platforms=(("linux", "x86_64"),),
        stand_in="numpy",
    ),
)
