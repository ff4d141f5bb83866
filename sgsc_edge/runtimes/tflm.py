"""TFLite Micro: the oracle for microcontrollers. Its interpreter trusts its input; ours does not."""

from __future__ import annotations

import os
import re
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.runtimes._spec import MODEL_TFLITE, RuntimeSpec
from sgsc_edge.runtimes._tflite import check_signature
from sgsc_edge.runtimes._worker import die_with_parent

# TFLM's own default, ten times the file, is too small for small files with scratch needs. Models that
# need more than this beside it are not for microcontrollers.
_ARENA_BYTES = 64 << 20
_ALIGNMENT = 16
_MORE = 256  # times 16 bytes, beside twice what is used: far more than planning takes


def _runtime() -> Any:
    from tflite_micro import runtime

    return runtime


def _interpreter(artifact: bytes, arena: int | None = None) -> Any:
    size = _ARENA_BYTES + 10 * len(artifact) if arena is None else arena
    return _runtime().Interpreter.from_bytes(artifact, arena_size=size)


def run(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """Outputs int8 [n, K] of TFLM's reference kernels."""
    interpreter = _interpreter(artifact)
    check_signature(interpreter.get_input_details(0), (1, *inputs.shape[1:]), "the model's input")
    sink = interpreter.get_output_details(0)
    check_signature(sink, None, "the model's output")
    outputs = np.empty((len(inputs), int(np.prod(sink["shape"]))), np.int8)
    for i in range(len(inputs)):
        interpreter.set_input(np.ascontiguousarray(inputs[i : i + 1]), 0)
        interpreter.invoke()
        outputs[i] = interpreter.get_output(0).reshape(-1)
    return outputs


def run_bytes(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """All outputs of models with any inputs and outputs, as bytes.

    ``inputs`` int8 [n, bytes]: a row holds the values of every input one behind the other, as they lie in
    memory; so do the rows that come back.
    """
    from sgsc_edge.graph.read_tflite import read_tflite

    graph = read_tflite(artifact)
    interpreter = _interpreter(artifact)
    outputs = []
    for row in inputs:
        data = row.tobytes()
        for index, name in enumerate(graph.inputs):
            tensor = graph[name]
            size = tensor.elements * tensor.dtype.numpy.itemsize
            values, data = np.frombuffer(data[:size], tensor.dtype.numpy), data[size:]
            interpreter.set_input(values.reshape(tensor.shape), index)
        interpreter.invoke()
        made = [np.ascontiguousarray(interpreter.get_output(i)) for i in range(len(graph.outputs))]
        outputs.append(np.frombuffer(b"".join(array.tobytes() for array in made), np.int8))
    return np.stack(outputs)


def arena_bytes(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """The smallest arena with which a model is set up and computes, as an int64 in int8 [1, 8].

    It is a multiple of 16, the alignment of TFLM's buffers, found by bisection, upwards from what TFLM says
    it used of a large one: it may need more while it plans.
    """
    interpreter = _interpreter(artifact)
    interpreter.invoke()
    with tempfile.TemporaryFile() as report:
        kept = os.dup(2)
        try:
            os.dup2(report.fileno(), 2)
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        report.seek(0)
        stated = re.search(rb"Arena allocation total (\d+) bytes", report.read())
    if stated is None:
        raise RuntimeError("TFLite Micro reports no total of its arena")
    used = int(stated[1]) // _ALIGNMENT
    low, high = used - 2, 2 * used + _MORE
    while low + 1 < high:
        middle = (low + high) // 2
        if _is_enough(artifact, middle * _ALIGNMENT):
            high = middle
        else:
            low = middle
    if not _is_enough(artifact, high * _ALIGNMENT):
        raise RuntimeError(f"{int(stated[1])} bytes of the arena are used, and twice as many are not enough")
    return np.array([high * _ALIGNMENT], "<i8").view(np.int8).reshape(1, 8)


def only_import(artifact: bytes, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    """``inputs``, where TFLM can be imported."""
    _runtime()
    return inputs


def _is_enough(artifact: bytes, arena: int) -> bool:
    """Whether a model computes in an arena: tried in a forked process, for small ones crash TFLM."""
    child = os.fork()
    if child == 0:
        try:
            die_with_parent()
            _interpreter(artifact, arena).invoke()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


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
