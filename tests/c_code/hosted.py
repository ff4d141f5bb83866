"""Generated C on this machine: compiled to a shared library and called."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from sgsc_edge.c_code.write import CCode, c_code
from sgsc_edge.graph.ir import DType, Graph

needs_gcc = pytest.mark.needs("gcc")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-Wstrict-prototypes")
HASH = "ab" * 32
_TYPES = {DType.INT8: ctypes.c_int8, DType.INT32: ctypes.c_int32, DType.FLOAT32: ctypes.c_float}


def written(graph: Graph, folder: Path, *, name: str = "case", learned: bool = False, samples=None) -> CCode:
    code = c_code(graph, name=name, model_hash=HASH, learned=learned, samples=samples)
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in code.files.items():
        (folder / file).write_text(text)
    return code


def compiled(folder: Path, *options: str) -> Path:
    library = folder / "model.so"
    sources = [str(folder / f"{name}.c") for name in ("model", "weights", "selftest")]
    command = ["gcc", *STRICT, *options, "-fPIC", "-shared", "-o", str(library), *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def run_c(
    graph: Graph, folder: Path, feeds: Mapping[str, np.ndarray], *options: str, learned: bool = False
) -> dict[str, np.ndarray]:
    """Outputs by name, [n, *shape without the batch of 1], of inputs like them."""
    code = written(graph, folder, learned=learned)
    library = ctypes.CDLL(str(compiled(folder, *options)))
    invoke = getattr(library, f"sgsc_{code.name}_invoke")
    count = len(next(iter(feeds.values())))
    input_struct, output_struct = _struct(graph, graph.inputs), _struct(graph, graph.outputs)
    assert (ctypes.sizeof(input_struct), ctypes.sizeof(output_struct)) == (
        code.input_bytes,
        code.output_bytes,
    )
    made: dict[str, list[np.ndarray]] = {name: [] for name in graph.outputs}
    for sample in range(count):
        fed, output = input_struct(), output_struct()
        for number, name in enumerate(graph.inputs):
            data = np.ascontiguousarray(feeds[name][sample])
            ctypes.memmove(getattr(fed, f"m{number}"), data.tobytes(), data.nbytes)
        invoke(ctypes.byref(fed), ctypes.byref(output))
        for number, name in enumerate(graph.outputs):
            tensor = graph[name]
            values = np.array(getattr(output, f"m{number}"), tensor.dtype.numpy)
            shape = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
            made[name].append(values.reshape(shape))
    return {name: np.stack(parts) for name, parts in made.items()}


def _struct(graph: Graph, names: Sequence[str]) -> type[ctypes.Structure]:
    """Arrays as this machine's compilers lay them out."""
    members = [(f"m{i}", _TYPES[graph[name].dtype] * graph[name].elements) for i, name in enumerate(names)]
    return type("Struct", (ctypes.Structure,), {"_fields_": members})
