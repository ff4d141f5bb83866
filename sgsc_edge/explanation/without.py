"""The shipped model without one of a layer's channels.

Without a channel means that its weights and its bias are 0, in the integers that ship; ONNX Runtime then
computes the watch samples, which compression looked at and never trained on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sgsc_edge.certification.metrics import decisions
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.certification.verify import DEFAULT_TIMEOUT_S
from sgsc_edge.errors import FileFormatError, NotMeasuredError
from sgsc_edge.explanation.shipped_layer import tensor_of
from sgsc_edge.runtimes import MODEL_ONNX, run_runtime

log = logging.getLogger("sgsc_edge")

RUNTIME = "onnxruntime"
_TELL_EVERY_S = 5.0


def without(model: onnx.ModelProto, part: str, row: int) -> onnx.ModelProto:
    """A copy in which a channel's weights and bias are 0."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    for name in (f"{part}.weight_quantized", f"{part}.bias_quantized"):
        if name.endswith(".bias_quantized") and name not in stored:
            continue  # an embedding has none
        tensor = tensor_of(changed, name)
        values = np.array(numpy_helper.to_array(tensor))
        if not values.ndim or len(values) <= row:
            raise FileFormatError(f"'{name}' has no channel {row}", where=MODEL_ONNX, remedy="build again")
        values[row] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, name))
    return changed


def decider(scratch: Path, samples: SampleSet) -> Callable[[onnx.ModelProto], NDArray[np.int64]]:
    """Runs a model over the samples; gives labelled decisions, int64 [m]: of equal outputs the lower one."""

    def decide(model: onnx.ModelProto) -> NDArray[np.int64]:
        path = scratch / MODEL_ONNX
        path.write_bytes(model.SerializeToString())
        result = run_runtime(RUNTIME, path, samples.inputs, timeout_s=DEFAULT_TIMEOUT_S)
        if result.outputs is None:
            raise NotMeasuredError(f"{RUNTIME}: {result.reason}", where=MODEL_ONNX)
        return decisions(result.outputs[samples.labelled])

    return decide


def progress(layer: str, part: str, rows: int) -> Iterator[int]:
    """The rows of a part; every few seconds a line says how far it is, and how long it will take."""
    began = told = time.monotonic()
    for row in range(rows):
        now = time.monotonic()
        if row and now - told > _TELL_EVERY_S:
            told = now
            of = "" if part == layer else f" of {part}"
            left = (now - began) / row * (rows - row)
            log.info("explain %s: %d of %d channels%s done, about %.0f s left", layer, row, rows, of, left)
        yield row
