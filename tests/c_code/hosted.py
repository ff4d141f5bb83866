"""Generated C on this machine: compiled to a shared library and called."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from sgsc_edge.c_code.write import CCode, c_code
from sgsc_edge.graph.ir import Graph

needs_gcc = pytest.mark.needs("gcc")
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-Wstrict-prototypes")
HASH = "ab" * 32


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
    made: dict[str, list[np.ndarray]] = {name: [] for name in graph.outputs}
    for sample in range(count):
        fed = b"".join(np.ascontiguousarray(feeds[name][sample]).tobytes() for name in graph.inputs)
        output = ctypes.create_string_buffer(code.output_bytes)
        invoke(ctypes.create_string_buffer(fed, len(fed)), output)
        at = 0
        for name in graph.outputs:
            tensor = graph[name]
            size = tensor.elements * tensor.dtype.numpy.itemsize
            values = np.frombuffer(output.raw[at : at + size], tensor.dtype.numpy)
            shape = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
            made[name].append(values.reshape(shape))
            at += size
    return {name: np.stack(parts) for name, parts in made.items()}
