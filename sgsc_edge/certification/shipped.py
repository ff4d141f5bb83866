"""The model file that a build ships: its name, and what its output integers mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.certification.metrics import OutputGrid
from sgsc_edge.certification.samples import SampleSet
from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph.ir import DType
from sgsc_edge.graph.read_tflite import MAX_FILE_BYTES, read_tflite
from sgsc_edge.lowering.layout import TO_NCHW
from sgsc_edge.lowering.read_onnx import read_onnx
from sgsc_edge.runtimes import MODEL_ONNX, MODEL_TFLITE
from sgsc_edge.runtimes.onnxruntime import model_edges

_Shape = tuple[int, ...]


def shipped_model(files: Collection[str]) -> str:
    """The file that ships, of the files of a build: the ``.tflite``, or the ``.onnx`` where none was made.

    >>> shipped_model(["model.qdq.onnx", "model.tflite"]), shipped_model(["model.qdq.onnx"])
    ('model.tflite', 'model.qdq.onnx')
    """
    return MODEL_TFLITE if MODEL_TFLITE in files else MODEL_ONNX


def output_grid(path: Path, sets: Mapping[str, SampleSet]) -> OutputGrid:
    """What the model's output integers mean; FileFormatError where model and samples do not fit."""
    samples = next(iter(sets.values()))
    if path.suffix == ".tflite":
        return _of_tflite(path, samples)
    return _of_onnx(path, samples)


def _of_tflite(path: Path, samples: SampleSet) -> OutputGrid:
    graph = read_tflite(read_bytes(path, MAX_FILE_BYTES))
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise FileFormatError("must have one input and one output", where=str(path))
    source, sink = graph[graph.inputs[0]], graph[graph.outputs[0]]
    quantization = sink.quantization
    if (source.dtype, sink.dtype) != (DType.INT8, DType.INT8) or quantization is None:
        raise FileFormatError("must have a quantized int8 input and output", where=str(path))
    _check_fits(path, source.shape[1:], sink.shape[1:], np.int8, samples, samples.inputs.shape[1:])
    probabilities = any(node.kind == "Softmax" and graph.outputs[0] in node.outputs for node in graph.nodes)
    return OutputGrid(float(quantization.scale[0]), int(quantization.zero_point[0]), probabilities)


def _of_onnx(path: Path, samples: SampleSet) -> OutputGrid:
    read_onnx(path)  # refuses what is damaged, too large, or of another version
    try:
        edges = model_edges(read_bytes(path, MAX_FILE_BYTES))
    except ValueError as error:
        raise FileFormatError(str(error), where=str(path)) from error
    fed: DTypeLike = np.int8 if edges.source is not None else np.int64
    recorded = samples.inputs.shape
    given = tuple(recorded[axis] for axis in TO_NCHW[1:]) if len(recorded) == 4 else recorded[1:]
    _check_fits(path, edges.input_shape, edges.output_shape, fed, samples, given)
    return OutputGrid(float(edges.sink.scale), edges.sink.zero_point, edges.ends_in_softmax)


def _check_fits(
    path: Path, source: _Shape, sink: _Shape, fed: DTypeLike, samples: SampleSet, given: _Shape
) -> None:
    """FileFormatError unless the model maps the samples' inputs to as many logits as are recorded."""
    wanted = samples.compressed_logits.shape[1:]
    if (source, sink) != (given, wanted):
        raise FileFormatError(
            f"maps {list(source)} to {list(sink)}, but the recorded samples are {list(given)} to "
            f"{list(wanted)}",
            where=str(path),
        )
    if samples.inputs.dtype != fed:
        raise FileFormatError(
            f"takes {np.dtype(fed)} inputs, but the recorded samples are {samples.inputs.dtype}",
            where=str(path),
        )
