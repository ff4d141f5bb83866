"""Feeds a ``tf.lite``-like interpreter sample by sample: batch 1, as the device runs it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class TfLiteInterpreter(Protocol):
    """The part of ``tf.lite.Interpreter`` that LiteRT, TensorFlow and tflite-runtime share."""

    def allocate_tensors(self) -> None:
        """Plan memory."""

    def get_input_details(self) -> list[dict[str, Any]]:
        """One entry an input: index, shape, dtype."""

    def get_output_details(self) -> list[dict[str, Any]]:
        """One entry an output: index, shape, dtype."""

    def set_tensor(self, index: int, value: NDArray[Any]) -> None:
        """Copy ``value`` in."""

    def invoke(self) -> None:
        """Run once."""

    def get_tensor(self, index: int) -> NDArray[Any]:
        """Copy a tensor out."""


def check_signature(detail: dict[str, Any], expected: tuple[int, ...] | None, what: str) -> None:
    """ValueError unless the tensor is int8 with batch 1 and, where given, the shape ``expected``."""
    shape = tuple(int(size) for size in detail["shape"])
    if np.dtype(detail["dtype"]) != np.int8 or shape[:1] != (1,) or (expected and shape != expected):
        wanted = list(expected) if expected else "[1, ...]"
        raise ValueError(f"{what} is {np.dtype(detail['dtype'])}{list(shape)}, expected int8{wanted}")


def run_interpreter(interpreter: TfLiteInterpreter, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] of a one-input, one-output model for ``inputs`` int8 [n, ...]."""
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details(), interpreter.get_output_details()
    if len(source) != 1 or len(sink) != 1:
        raise ValueError(f"the model has {len(source)} inputs and {len(sink)} outputs, expected one of each")
    check_signature(source[0], (1, *inputs.shape[1:]), "the model's input")
    check_signature(sink[0], None, "the model's output")
    outputs = np.empty((len(inputs), int(np.prod(sink[0]["shape"]))), np.int8)
    for i in range(len(inputs)):
        interpreter.set_tensor(source[0]["index"], np.ascontiguousarray(inputs[i : i + 1]))
        interpreter.invoke()
        outputs[i] = interpreter.get_tensor(sink[0]["index"]).reshape(-1)
    return outputs
