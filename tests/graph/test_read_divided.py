"""SPLIT and UNPACK are read as one slice an output, with the integers of both runtimes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from example_graphs import activation, int32
from interpreters import run_litert_reference, run_tflm

from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.graph import ir, reference
from sgsc_edge.graph.flatbuffer import Record, decode, encode
from sgsc_edge.graph.ir import Graph, Node
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import write_tflite

SHAPE = (1, 4, 6)


def joined(count: int, axis: int, drops: bool) -> Graph:
    """Parts of x along an axis, joined in reverse order."""
    length = SHAPE[axis] // count
    kept = [length if a == axis else size for a, size in enumerate(SHAPE) if not (drops and a == axis)]
    others = 0b111 ^ (1 << axis)
    op = ir.StridedSlice(others, others, 1 << axis if drops else 0)
    tensors, nodes = {"x": activation("x", SHAPE), "ones": int32("ones", [1, 1, 1])}, []
    for part in range(count):
        begin, end = (
            [at if a == axis else 0 for a in range(3)] for at in (part * length, (part + 1) * length)
        )
        tensors |= {f"b{part}": int32(f"b{part}", begin), f"e{part}": int32(f"e{part}", end)}
        tensors[f"p{part}"] = activation(f"p{part}", tuple(kept))
        nodes.append(Node(op, ("x", f"b{part}", f"e{part}", "ones"), (f"p{part}",)))
    tensors["y"] = activation("y", (1, count, *kept[1:]) if drops else SHAPE)
    back = tuple(f"p{part}" for part in reversed(range(count)))
    nodes.append(Node(ir.Pack(count, 1) if drops else ir.Concatenation(axis), back, ("y",)))
    return Graph("g", tensors, tuple(nodes), ("x",), ("y",))


def divided(
    count: int, axis: int, drops: bool, edit: Callable[[Record, Record], object] = lambda main, record: None
) -> bytes:
    """The same as a file with SPLIT, or with UNPACK where the axis is dropped."""
    model = decode(write_tflite(joined(count, axis % 3, drops)), where="test")
    main, number = model["subgraphs"][0], 88 if drops else 49
    names = [record["name"] for record in main["tensors"]]
    codes = model["operator_codes"]
    codes.append({"deprecated_builtin_code": number, "builtin_code": number, "version": 2})
    x, ones = names.index("x"), names.index("ones")
    record: Record = {
        "opcode_index": len(codes) - 1,
        "inputs": [x] if drops else [ones, x],
        "outputs": [names.index(f"p{part}") for part in range(count)],
        "options_type": 64 if drops else 35,
        "options": {"num": count, "axis": axis} if drops else {"num_splits": count},
    }
    # The vector of ones becomes SPLIT's axis.
    main["tensors"][ones].update(shape=[1])
    buffer = model["buffers"][main["tensors"][ones]["buffer"]]
    buffer["data"] = np.frombuffer(np.int32(axis).tobytes(), np.uint8)
    main["operators"] = [record, main["operators"][-1]]
    edit(main, record)
    return encode(model)


@pytest.mark.parametrize(
    ("count", "axis", "drops"),
    [(2, 1, False), (3, 2, False), (1, -1, False), (4, 1, True), (6, 2, True), (4, -2, True)],
)
def test_parts_are_slices(count: int, axis: int, drops: bool) -> None:
    data = divided(count, axis, drops)
    graph = read_tflite(data)
    kinds = ["StridedSlice"] * count + ["Pack" if drops else "Concatenation"]
    assert [node.kind for node in graph.nodes] == kinds
    inputs = np.random.default_rng(1).integers(-128, 128, (3, *SHAPE[1:])).astype(np.int8)
    computed = reference.run(graph, inputs)
    np.testing.assert_array_equal(computed, run_tflm(data, inputs))
    np.testing.assert_array_equal(computed, run_litert_reference(data, inputs))
    np.testing.assert_array_equal(computed, reference.run(joined(count, axis % 3, drops), inputs))
    np.testing.assert_array_equal(computed, run_tflm(write_tflite(graph), inputs))


MALFORMED: dict[str, tuple[bool, Callable[[Record, Record], object], str]] = {
    "an output twice": (False, lambda main, op: op["outputs"].append(op["outputs"][0]), "3 outputs"),
    "no output": (True, lambda main, op: op["outputs"].clear(), "0 outputs"),
    "inputs": (False, lambda main, op: op["inputs"].pop(), "1 inputs"),
    "uneven": (False, lambda main, op: op["outputs"].append(op["inputs"][1]), "into 3 parts along axis 1"),
    "too few": (True, lambda main, op: op["outputs"].pop(), "into 3 parts along axis 1"),
    "axis": (True, lambda main, op: op["options"].update(axis=3), "along axis 3"),
    "options": (True, lambda main, op: op.update(options_type=0, options=None), "without its options"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_divisions_say_what(name: str) -> None:
    drops, edit, message = MALFORMED[name]
    with pytest.raises(FileFormatError, match=message):
        read_tflite(divided(4 if drops else 2, 1, drops, edit))


def test_a_computed_axis_is_unsupported() -> None:
    data = divided(2, 1, False, lambda main, op: op.update(inputs=[op["inputs"][1]] * 2))
    with pytest.raises(UnsupportedError, match=r"SPLIT.*no int32 constant"):
        read_tflite(data)


def test_damaged_divisions_are_read_or_refused() -> None:
    random = np.random.default_rng(7)
    original = divided(2, 1, False)
    read = 0
    for _ in range(200):
        data = bytearray(original)
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = random.integers(256)
        try:
            read += bool(read_tflite(bytes(data)).nodes)
        except (FileFormatError, UnsupportedError):
            continue
    assert 0 < read < 200
