"""Channels that a build removed: what inspect says of them, and of entries that say nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sgsc_edge.graph import ir
from sgsc_edge.graph.flatbuffer import decode, encode
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.write_tflite import FULL, SMALLEST, Form, write_tflite
from sgsc_edge.inspection import Inspection, compare, inspect_model

KEY = "sgsc.channels"


def graph(entry: object = None, outputs: tuple[int, int] = (8, 3)) -> Graph:
    """x [1,5] -> dense a -> dense b, int8; ``entry`` as JSON or bytes, None for no entry."""
    grid = Quantization.per_tensor(0.5, -3)
    own = Quantization(np.array([0.25], np.float32), np.zeros(1, np.int64))
    bias = Quantization(np.array([0.125], np.float32), np.zeros(1, np.int64))
    tensors = [Tensor("x", (1, 5), DType.INT8, grid)]
    nodes = []
    for name, count in zip("ab", outputs, strict=True):
        last = tensors[-1] if nodes else tensors[0]
        shape = (count, last.shape[1])
        tensors += [
            Tensor(f"{name}.weight", shape, DType.INT8, own, np.ones(shape, np.int8)),
            Tensor(f"{name}.bias", (count,), DType.INT32, bias, np.full(count, len(nodes), np.int32)),
            Tensor(name, (1, count), DType.INT8, grid),
        ]
        nodes.append(Node(ir.FullyConnected(), (last.name, f"{name}.weight", f"{name}.bias"), (name,)))
    content = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    metadata = {} if entry is None else {KEY: content}
    named = {tensor.name: tensor for tensor in tensors}
    return Graph("g", named, tuple(nodes), ("x",), ("b",), metadata)


def inspected(folder: Path, graph: Graph, form: Form = FULL) -> Inspection:
    path = folder / "model.tflite"
    path.write_bytes(write_tflite(graph, form))
    return inspect_model(path)


def removed(inspection: Inspection) -> list[int | None]:
    """Of both layers' weights; no other tensor has any."""
    assert not [t for t in inspection.tensors if t.channels is None and t.channels_removed is not None]
    return [tensor.channels_removed for tensor in inspection.tensors if tensor.share == "weights"]


@pytest.mark.parametrize("form", [FULL, Form("short"), Form("none")], ids=str)
def test_weights_say_how_many_channels_went(tmp_path: Path, form: Form) -> None:
    inspection = inspected(tmp_path, graph([[["a"], 24], [["b"], 3]]), form)
    assert removed(inspection) == [16, 0]
    rows = inspection.to_text().splitlines()
    assert len([row for row in rows if " 16 of 24 " in row and " 8x5 " in row]) == 1
    assert len([row for row in rows if " 0 of 3 " in row and " 3x8 " in row]) == 1
    document = inspection.to_json()
    assert [t["channels_removed"] for t in document["tensors"] if t["share"] == "weights"] == [16, 0]


def test_names_count_where_there_are_any(tmp_path: Path) -> None:
    assert removed(inspected(tmp_path, graph([[["b"], 9], [["a"], 24]]))) == [16, 6]
    assert removed(inspected(tmp_path, graph([[["b"], 9], [["other"], 24]]))) == [None, 6]


@pytest.mark.parametrize("form", [FULL, Form("none")], ids=str)
def test_both_widths_of_a_layer_say_what_it_lost(tmp_path: Path, form: Form) -> None:
    inspection = inspected(tmp_path, graph([[["a", "b"], 24]]), form)
    assert removed(inspection) == [13, 13]
    assert inspection.to_text().count(" 13 of 24 ") == 2


@pytest.mark.parametrize(
    "entry",
    [
        None,
        b"",
        b"not JSON",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[" + b'[["a"], 24], ' * 200_000 + b'[["b"], 3]]',
        b'[[["a"], ' + b"9" * 5000 + b'], [["b"], 3]]',
        {"a": 24, "b": 3},
        "ab",
        24,
        [["a", 24], ["b", 3]],
        [[["a"], 24, 1], [["b"], 3, 1]],
        [[["a"], 24], "b3"],
        [[["a"], 24], [3, ["b"]]],
        [[["a"], True], [["b"], True]],
        [[["a"], 24.0], [["b"], 3.0]],
        [[["a"], -24], [["b"], 0]],
        [[["a"], 2**31], [["b"], 2**40]],
        [[["a"], 24], [["a"], 24]],
        [[["a", "a"], 24]],
        [[["a"], None], [["b"], None]],
        [[["a", 3], 24], [[], 3]],
        [[[], 24], [[], 3]],
        [[["c"], 24], [["d"], 3], [["e"], 3]],
        [[["a"], 7], [["b"], 2]],
        [[["a", "b"], 10]],
        [[["a", "other"], 24]],
        [],
    ],
    ids=lambda entry: repr(entry)[:30],
)
def test_what_is_no_statement_is_absent(tmp_path: Path, entry: object) -> None:
    inspection = inspected(tmp_path, graph(entry))
    assert removed(inspection) == [None, None]
    assert " of " not in inspection.to_text()


def test_one_statement_that_is_impossible_does_not_count(tmp_path: Path) -> None:
    assert removed(inspected(tmp_path, graph([[["a"], 24], [["b"], 2]]))) == [16, None]


def test_files_without_metadata_do_not_say(tmp_path: Path) -> None:
    assert removed(inspected(tmp_path, graph([[["a"], 24], [["b"], 3]]), SMALLEST)) == [None, None]


def test_two_entries_are_none(tmp_path: Path) -> None:
    model = decode(write_tflite(graph([[["a"], 24], [["b"], 3]])), where="test")
    model["metadata"] = [entry for entry in model["metadata"] if entry["name"] == KEY] * 2
    path = tmp_path / "model.tflite"
    path.write_bytes(encode(model))
    assert removed(inspect_model(path)) == [None, None]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "b", "c", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=8,
)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(entry=st.one_of(st.binary(max_size=40), json_values.map(lambda value: json.dumps(value).encode())))
def test_any_entry_is_harmless(tmp_path: Path, entry: bytes) -> None:
    inspection = inspected(tmp_path, graph(entry))
    assert all(count is None or count >= 0 for count in removed(inspection))
    json.dumps(inspection.to_json(), allow_nan=False)


def test_side_by_side(tmp_path: Path) -> None:
    whole = inspected(tmp_path, graph([[["a"], 24], [["b"], 3]], (24, 3)))
    small = inspected(tmp_path, graph([[["a"], 24], [["b"], 3]]))
    foreign = inspected(tmp_path, graph())
    text = compare(whole, small).to_text().splitlines()
    (row,) = [line for line in text if line.startswith("a.weight")]
    # What b lacks of a, and what each lost when it was built.
    assert [cell.strip() for cell in re.split(" {2,}", row)][-3:] == ["16 of 24", "0 of 24", "16 of 24"]
    document = compare(small, foreign).to_json()
    (pair,) = [pair for pair in document["tensors"] if pair["name"] == "a.weight"]
    assert (pair["first"]["channels_removed"], pair["second"]["channels_removed"]) == (16, None)
    assert pair["channels_removed"] == 0


def test_onnx_files_say_it_too(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["a.weight_quantized", "scale"], ["a.weight"]),
        helper.make_node("MatMul", ["x", "a.weight"], ["y"]),
    ]
    constants = {"a.weight_quantized": np.ones((5, 8), np.int8), "scale": np.float32(0.1)}
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])
        for name, size in (("x", 5), ("y", 8))
    ]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "g", sides[:1], sides[1:], initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    helper.set_model_props(model, {KEY: '[[["a"], 24]]'})
    onnx.save(model, tmp_path / "model.onnx")
    inspection = inspect_model(tmp_path / "model.onnx")
    assert {t.name: t.channels_removed for t in inspection.tensors if t.channels_removed is not None} == {
        "a.weight_quantized": 16
    }
    lowered = inspected(tmp_path, graph([[["a"], 24], [["b"], 3]]))
    both = compare(inspection, lowered)
    (pair,) = [pair for pair in both.tensors if pair.first and pair.first.name == "a.weight_quantized"]
    assert pair.second is not None
    assert pair.second.removed == pair.first.removed == "16 of 24"
