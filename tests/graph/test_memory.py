"""RAM that a graph needs at least, by hand and against the arena that TFLite Micro takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from example_graphs import activation, int32
from test_small_files import SMALL

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Graph, Node
from sgsc_edge.graph.memory import needs
from sgsc_edge.graph.write_tflite import write_tflite


def never(op: str, bits: int) -> bool:
    return False


def test_what_is_alive_while_each_node_runs() -> None:
    """x [16] -> a, b = reshape(a), c = b + x; the reshaped value stays in its place."""
    tensors = [activation(name, (1, 16)) for name in ("x", "a", "c")]
    tensors += [activation("b", (1, 4, 4)), activation("y", (1, 8)), int32("s", [1, 4, 4])]
    nodes = (
        Node(ir.Relu(), ("x",), ("a",), "relu"),
        Node(ir.Reshape(), ("a", "s"), ("b",), "reshape"),
        Node(ir.Add(), ("b", "x"), ("c",), "add"),
        Node(ir.Relu(), ("c",), ("y",), "last"),
    )
    graph = Graph("g", {tensor.name: tensor for tensor in tensors}, nodes, ("x",), ("y",))
    found = needs(graph, never)
    assert [(need.node.source, need.bytes) for need in found] == [
        ("relu", 32),
        ("reshape", 32),
        ("add", 48),
        ("last", 24),
    ]


def tflm_head(graph: Graph, folder: Path) -> int:
    """Bytes of the arena that TFLite Micro plans for values and scratch."""
    path = folder / "model.tflite"
    path.write_bytes(write_tflite(graph))
    code = (
        "import sys; from tflite_micro import runtime; from pathlib import Path; "
        "i = runtime.Interpreter.from_bytes(Path(sys.argv[1]).read_bytes(), arena_size=1 << 20); "
        "i.print_allocations()"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    found = re.search(r"Arena allocation head (\d+) bytes", done.stdout + done.stderr)
    assert found
    return int(found[1])


@pytest.mark.parametrize("name", SMALL)
def test_tflite_micro_takes_what_its_largest_layer_needs(name: str, tmp_path: Path) -> None:
    """Its planner finds the least there is, and unpacks a 4-bit filter beside the values."""
    graph = SMALL[name]
    found = needs(graph, lambda op, bits: op == "Conv2D" and bits == 4)
    most = max(found, key=lambda need: need.bytes)
    assert most.bytes == tflm_head(graph, tmp_path)
    second = graph.nodes[1]
    assert most.node == second
    assert most.unpacked == (int(np.prod(graph[second.inputs[1]].shape)) if name == "int4" else 0)
    assert max(need.bytes for need in needs(graph, never)) == most.values
