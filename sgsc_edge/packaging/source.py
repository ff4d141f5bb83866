"""What is packaged: a build folder, or any ``.tflite`` file, with samples whose outputs are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import Manifest, check_manifest, read_bytes, read_npz, sha256_bytes
from sgsc_edge.c_code.interface import selftest_samples
from sgsc_edge.certification.samples import CERTIFY, read_samples
from sgsc_edge.errors import ConfigError, FileFormatError
from sgsc_edge.graph import reference
from sgsc_edge.graph.ir import DType, Gather, Graph
from sgsc_edge.graph.read_tflite import MAX_FILE_BYTES, read_tflite

MODEL, ONNX, SAMPLES = "model.tflite", "model.qdq.onnx", "preservation.npz"
_SEED = 0
_REAL_RANGE = 4.0
"""Real inputs of a model that takes float32 are normally distributed, within so many deviations."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Model:
    """A device graph, its name, its ``.tflite`` and the SHA-256 of it, and its build folder (None: a file).

    ``learned``: whether the build's target has each filter packed at its own width.
    """

    graph: Graph
    name: str
    data: bytes
    model_hash: str
    folder: Path | None
    learned: bool


@dataclass(frozen=True, eq=False)
class Source:
    """A model to package.

    Parameters
    ----------
    name: as its project or file is called.
    data, model_hash: the ``.tflite``, and the SHA-256 of it.
    inputs, outputs: a few samples by tensor name, each [n, ...], and what TFLite Micro computes of them.
    folder: the build folder; None for a file.
    learned: whether the build's target has each filter packed at its own width.
    """

    graph: Graph
    name: str
    data: bytes
    model_hash: str
    inputs: Arrays
    outputs: Arrays
    folder: Path | None
    learned: bool

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(next(iter(self.inputs.values())))


def read_source(path: Path) -> Source:
    """Read a build folder or a ``.tflite`` file.

    The samples are certify samples of a build, evenly spaced over its classes, and random ones of a file.
    Their outputs are those of the integer executor. There are eight, or fewer where inputs are large.

    Raises
    ------
    FileFormatError: a file is missing or malformed, or not the one that the folder's manifest lists.
    """
    model = read_model(path)
    inputs = _random(model.graph) if model.folder is None else _recorded(model.graph, model.folder)
    outputs = reference.run_tensors(model.graph, inputs)
    return Source(
        model.graph,
        model.name,
        model.data,
        model.model_hash,
        inputs,
        outputs,
        model.folder,
        model.learned,
    )


def check_lowered(folder: Path) -> Manifest:
    """The manifest of a build folder; ConfigError where its target ships an ``.onnx`` and no ``.tflite``.

    FileFormatError where a file is missing, or not the one that the manifest lists.
    """
    manifest = check_manifest(folder, required=(SAMPLES,))
    if MODEL not in manifest.files and ONNX in manifest.files:
        raise ConfigError(
            f"ships {ONNX} and no {MODEL}: there is nothing that a microcontroller runs",
            where=str(folder),
            remedy="build the project for a target whose format is tflite; see: sgsc-edge targets",
        )
    return manifest if MODEL in manifest.files else check_manifest(folder, required=(MODEL,))


def read_model(path: Path) -> Model:
    """Read the model of a build folder or of a ``.tflite`` file; raises as ``read_source`` does."""
    folder = path if path.is_dir() else None
    learned = False
    if folder is not None:
        manifest = check_lowered(folder)
        learned = manifest.code.get("weights") == "learned"
    elif path.suffix.lower() != ".tflite":
        raise FileFormatError(
            "is neither a build folder nor a .tflite file",
            where=str(path),
            remedy="give build/<target>, or the path of a .tflite",
        )
    file = path / MODEL if folder is not None else path
    data = read_bytes(file, MAX_FILE_BYTES)
    graph = read_tflite(data, where=str(file))
    name = graph.name if folder is not None and graph.name else path.stem
    return Model(graph, name, data, sha256_bytes(data), folder, learned)


def _recorded(graph: Graph, folder: Path) -> Arrays:
    path = folder / SAMPLES
    certify = read_samples(read_npz(path), where=str(path))[CERTIFY]
    by_class = np.argsort(certify.labels, kind="stable")
    count = min(selftest_samples(graph), len(by_class))
    chosen = by_class[np.linspace(0, len(by_class) - 1, count).astype(int)]
    return {graph.inputs[0]: certify.inputs[chosen]}


def _random(graph: Graph) -> Arrays:
    chance = np.random.default_rng(_SEED)
    count = selftest_samples(graph)

    def values(name: str) -> NDArray[Any]:
        tensor = graph[name]
        shape = (count, *(tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape))
        if tensor.dtype is DType.FLOAT32:
            return np.clip(chance.standard_normal(shape), -_REAL_RANGE, _REAL_RANGE).astype(np.float32)
        if (rows := _rows(graph, name)) is not None:
            return chance.integers(0, rows, shape, dtype=tensor.dtype.numpy)
        info = np.iinfo(str(tensor.dtype.numpy))
        return chance.integers(info.min, info.max, shape, dtype=tensor.dtype.numpy, endpoint=True)

    return {name: values(name) for name in graph.inputs}


def _rows(graph: Graph, name: str) -> int | None:
    """How many values the dimension has that an input indexes; None where it indexes none."""
    sizes = [
        graph[node.inputs[0]].shape[node.op.axis]
        for node in graph.nodes
        if isinstance(node.op, Gather) and node.inputs[1] == name
    ]
    return min(sizes, default=None)
