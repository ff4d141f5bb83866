"""Runs ``.tflite`` bytes on the real interpreters, one sample at a time, for exact comparisons.

LiteRT's reference kernels run in this process; TFLM trusts its input and may abort, so it runs in a
worker process that serves many models and is started anew after a crash.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np

_WORKER = Path(__file__).with_name("tflm_worker.py")
_TIMEOUT_S = 120


class InterpreterError(AssertionError):
    """An interpreter refused or crashed on a model that it should run."""


def run_litert_reference(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs [n, *output shape without batch] of LiteRT's BUILTIN_REF kernels."""
    return _run_litert(model, inputs, "BUILTIN_REF")


def run_litert_default(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs [n, *output shape without batch] of XNNPACK, and of LiteRT's own kernels where it has none."""
    return _run_litert(model, inputs, "AUTO")


def run_tensorflow(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs [n, *output shape without batch] of TensorFlow's tf.lite as it comes."""
    import tensorflow as tf

    return _run_tflite(tf.lite.Interpreter, model, inputs)


def run_tflite_runtime(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs [n, *output shape without batch] of tflite-runtime as it comes."""
    from tflite_runtime.interpreter import Interpreter

    return _run_tflite(Interpreter, model, inputs)


def _run_litert(model: bytes, inputs: np.ndarray, resolver: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by the import itself
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

    chosen = getattr(OpResolverType, resolver)
    return _run_tflite(Interpreter, model, inputs, experimental_op_resolver_type=chosen)


def _run_tflite(make: type, model: bytes, inputs: np.ndarray, **options: object) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they announce their successors
        try:
            interpreter = make(model_content=model, num_threads=1, **options)
            interpreter.allocate_tensors()
            source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
            outputs = []
            for sample in inputs:
                interpreter.set_tensor(source["index"], sample.reshape(source["shape"]))
                interpreter.invoke()
                outputs.append(interpreter.get_tensor(sink["index"])[0].copy())
        except (RuntimeError, ValueError) as error:
            raise InterpreterError(f"{make.__module__}: {error}") from error
    return np.stack(outputs)


class TflmWorker:
    """A process that runs models on TFLM; messages are pickles behind a length of 8 bytes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def run(self, model: bytes, inputs: np.ndarray) -> np.ndarray:
        """Outputs [n, *output shape without batch]; InterpreterError on refusal or crash."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self._process.stdin is not None
        message = pickle.dumps((model, inputs))
        try:
            self._process.stdin.write(struct.pack("<Q", len(message)) + message)
            self._process.stdin.flush()
            status, result = pickle.loads(self._read(struct.unpack("<Q", self._read(8))[0]))
        except (EOFError, BrokenPipeError) as error:
            code = self._process.wait(timeout=10)
            self.close()
            raise InterpreterError(f"TFLM crashed with {code}") from error
        if status != "ok":
            raise InterpreterError(f"TFLM: {result}")
        return result

    def _read(self, size: int) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        data = b""
        while len(data) < size:
            ready, _, _ = select.select([self._process.stdout], [], [], _TIMEOUT_S)
            if not ready:
                self._process.kill()
                raise EOFError
            part = os.read(self._process.stdout.fileno(), size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def close(self) -> None:
        """Ends the process; the next run starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


_tflm = TflmWorker()


def run_tflm(model: bytes, inputs: np.ndarray) -> np.ndarray:
    """Outputs [n, *output shape without a batch of 1] of TFLM's reference kernels."""
    return _tflm.run(model, inputs)
