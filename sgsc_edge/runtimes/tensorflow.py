"""TensorFlow's own TFLite interpreter, for users who deploy with it."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.runtimes._spec import MODEL_TFLITE, RuntimeSpec
from sgsc_edge.runtimes._tflite import run_interpreter


def run(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] under the default resolver."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite.Interpreter announces its move to LiteRT
        interpreter = tf.lite.Interpreter(model_content=artifact, num_threads=1)
    return run_interpreter(interpreter, inputs)


ROWS = (
    RuntimeSpec(
        "tensorflow",
        "TensorFlow's tf.lite",
        MODEL_TFLITE,
        ("tensorflow", "tensorflow-cpu"),
        run,
    ),
)
