"""Where the bytes of a file go, and two files side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.graph import ir
from sgsc_edge.graph.flatbuffer import decode, encode
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.write_tflite import FULL, SMALLEST, Form, write_tflite
from sgsc_edge.inspection import Inspection, compare, inspect_model


def graph(channels: int = 6, prefix: str = "") -> Graph:
    """x [1,4,4,2] -> conv 3x3, per channel -> y -> depthwise 1x1, per channel -> z -> relu -> out."""
    tensors: dict[str, Tensor] = {}

    def add(name: str, shape: tuple[int, ...], dtype: DType, quantization: Quantization, fill: int) -> str:
        data = None if dtype is DType.INT8 and not name.endswith("w") else np.full(shape, fill, dtype.numpy)
        tensors[name] = Tensor(name, shape, dtype, quantization, data)
        return name

    scale = np.linspace(0.1, 0.2, channels).astype(np.float32)
    grid = Quantization.per_tensor(0.5, -3)
    bias = Quantization.per_channel(np.float32(0.5) * scale, 0)
    x = add("x", (1, 4, 4, 2), DType.INT8, grid, 0)
    conv = (
        x,
        add(f"{prefix}conv.w", (channels, 3, 3, 2), DType.INT8, Quantization.per_channel(scale, 0), 1),
        add(f"{prefix}conv.b", (channels,), DType.INT32, bias, 2),
    )
    y = add(f"{prefix}y", (1, 2, 2, channels), DType.INT8, grid, 0)
    depthwise = (
        y,
        add(f"{prefix}deep.w", (1, 1, 1, channels), DType.INT8, Quantization.per_channel(scale, 3), 3),
        add(f"{prefix}deep.b", (channels,), DType.INT32, bias, 4),
    )
    z = add(f"{prefix}z", (1, 2, 2, channels), DType.INT8, grid, 0)
    out = add("out", (1, 2, 2, channels), DType.INT8, Quantization.per_tensor(0.25, 4), 0)
    nodes = (
        Node(ir.Conv2D(), conv, (y,)),
        Node(ir.DepthwiseConv2D(), depthwise, (z,)),
        Node(ir.Relu(), (z,), (out,)),
    )
    return Graph("g", tensors, nodes, (x,), (out,), {"note": b"twelve bytes"})


def written(folder: Path, name: str, graph: Graph, form: Form = FULL) -> Path:
    path = folder / name
    path.write_bytes(write_tflite(graph, form))
    return path


def total(inspection: Inspection) -> int:
    totals = inspection.totals
    return (
        totals.weights_bytes
        + totals.bias_bytes
        + totals.other_constants_bytes
        + totals.quantization_bytes
        + sum(entry.nbytes for entry in inspection.overhead)
    )


@pytest.mark.parametrize("form", [FULL, Form("short"), Form(quantization="shared"), SMALLEST], ids=str)
def test_every_byte_is_counted_once(tmp_path: Path, form: Form) -> None:
    inspection = inspect_model(written(tmp_path, "a.tflite", graph(), form))
    totals = inspection.totals
    assert total(inspection) == totals.file_bytes
    assert sum(entry.nbytes for entry in inspection.overhead) == totals.overhead_bytes
    assert all(entry.nbytes >= 0 for entry in inspection.overhead)
    assert (totals.weights_bytes, totals.bias_bytes) == (6 * 18 + 6, 2 * 6 * 4)
    parameters = [tensor.parameter_bytes for tensor in inspection.tensors]
    assert sum(parameters) == totals.quantization_bytes
    assert all(tensor.metadata_bytes >= tensor.parameter_bytes for tensor in inspection.tensors)


def test_overhead_by_kind_follows_from_what_is_stored(tmp_path: Path) -> None:
    stored = graph()
    inspection = inspect_model(written(tmp_path, "a.tflite", stored))
    kinds = {entry.name: entry.nbytes for entry in inspection.overhead}
    texts = [*stored.tensors, "g", "sgsc-edge"]
    assert kinds["names"] == sum(4 + len(text) + 1 for text in texts)
    shapes = {tensor.shape for tensor in stored.tensors.values()}
    assert kinds["shapes"] == sum(4 + 4 * len(shape) for shape in shapes)
    # Each entry: its place, its table of two fields, its name, its content; the list itself.
    entries = {"note": b"twelve bytes", "min_runtime_version": bytes(16)}
    assert kinds["metadata"] == 4 + sum(4 + 12 + 4 + len(n) + 1 + len(c) for n, c in entries.items())
    # Four constants, two entries, the empty one: place, table (of one field but for the empty), length.
    assert kinds["buffers"] == 4 + 6 * (4 + 8 + 4) + (4 + 4)


def test_smaller_forms_lack_what_they_leave_out(tmp_path: Path) -> None:
    full, small = (
        inspect_model(written(tmp_path, f"{i}.tflite", graph(), form))
        for i, form in enumerate((FULL, SMALLEST))
    )
    kinds = [{entry.name: entry.nbytes for entry in each.overhead} for each in (full, small)]
    assert kinds[1]["names"] == kinds[1]["metadata"] == 0
    assert kinds[0]["names"] > 0
    # Scales of the weights, one vector of zero points, and one pair each for two activation grids.
    assert small.totals.quantization_bytes == 6 * 4 + 6 * 8 + 2 * 12
    assert full.totals.quantization_bytes == 12 * (4 * 6 + 4)
    shared = [tensor.parameter_bytes for tensor in small.tensors]
    assert shared.count(0) == len(shared) - 3


def test_weights_know_their_channels(tmp_path: Path) -> None:
    inspection = inspect_model(written(tmp_path, "a.tflite", graph(5)))
    assert {t.name: t.channels for t in inspection.tensors if t.channels} == {"conv.w": 5, "deep.w": 5}
    text = inspection.to_text()
    for kind in ("- names", "- shapes", "- operators", "- padding"):
        assert kind in text
    assert "scale 0.1..0.2, zero point 0, 5 channels on axis 3" in text


def test_bytes_that_nothing_refers_to_are_padding(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tflite", graph())
    before = {entry.name: entry.nbytes for entry in inspect_model(path).overhead}
    path.write_bytes(path.read_bytes() + bytes(100))
    after = {entry.name: entry.nbytes for entry in inspect_model(path).overhead}
    assert after == {**before, "padding": before["padding"] + 100}


def test_content_of_unused_buffers_is_overhead(tmp_path: Path) -> None:
    model = decode(write_tflite(graph()), where="test")
    model["buffers"].append({"data": np.arange(50, dtype=np.uint8)})
    path = tmp_path / "a.tflite"
    path.write_bytes(encode(model))
    inspection = inspect_model(path)
    assert total(inspection) == path.stat().st_size
    kinds = {entry.name: entry.nbytes for entry in inspection.overhead}
    assert kinds["buffers"] == 4 + 7 * (4 + 8 + 4) + (4 + 4) + 50


def test_damaged_files_still_add_up(tmp_path: Path) -> None:
    original = write_tflite(graph(), SMALLEST)
    random = np.random.default_rng(11)
    path, read = tmp_path / "a.tflite", 0
    for _ in range(300):
        data = bytearray(original)
        for _ in range(2):
            data[random.integers(len(data))] = random.integers(256)
        path.write_bytes(bytes(data))
        try:
            inspection = inspect_model(path)
        except (FileFormatError, UnsupportedError):
            continue
        read += 1
        assert total(inspection) == len(data)
        json.dumps(compare(inspection, inspection).to_json(), allow_nan=False)
    assert 0 < read < 300


# --- side by side ---------------------------------------------------------------------------------


def test_tensors_meet_by_name_and_differences_add_up(tmp_path: Path) -> None:
    a = inspect_model(written(tmp_path, "a.tflite", graph(6)))
    b = inspect_model(written(tmp_path, "b.tflite", graph(4)))
    found = compare(a, b)
    pairs = {pair.name: pair for pair in found.tensors}
    assert list(pairs) == [tensor.name for tensor in a.tensors]
    conv = pairs["conv.w"]
    assert conv.first is not None
    assert conv.second is not None
    assert (conv.first.shape, conv.second.shape) == ((6, 3, 3, 2), (4, 3, 3, 2))
    assert (conv.payload_difference, conv.channels_removed) == (-2 * 18, 2)
    assert conv.metadata_difference == -2 * 12
    assert pairs["deep.w"].channels_removed == 2
    assert pairs["y"].channels_removed is None
    totals = {each.name: (each.first, each.second, each.difference) for each in found.totals}
    assert totals["file"] == (
        a.totals.file_bytes,
        b.totals.file_bytes,
        b.totals.file_bytes - a.totals.file_bytes,
    )
    assert totals["weights"] == (114, 76, -38)
    assert sum(d for name, (_, _, d) in totals.items() if name != "file") == totals["file"][2]
    text = found.to_text()
    assert "6x3x3x2 | 4x3x3x2" in text
    assert "2 of 6" in text
    document = found.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert [model["totals"]["weights_bytes"] for model in document["models"]] == [114, 76]
    assert document["tensors"][1]["channels_removed"] == 2


def test_a_file_is_like_itself(tmp_path: Path) -> None:
    inspection = inspect_model(written(tmp_path, "a.tflite", graph()))
    found = compare(inspection, inspection)
    assert all(pair.first is pair.second for pair in found.tensors)
    assert not any(pair.payload_difference or pair.metadata_difference for pair in found.tensors)
    assert not any(each.difference for each in found.totals)
    assert " | " not in found.to_text()


def test_what_only_one_file_has_stands_alone(tmp_path: Path) -> None:
    a = inspect_model(written(tmp_path, "a.tflite", graph()))
    lacks = replace(a, tensors=tuple(t for t in a.tensors if t.name != "conv.b"))
    (alone,) = [pair for pair in compare(lacks, a).tensors if pair.first is None]
    assert (alone.name, alone.payload_difference) == ("conv.b", 24)
    assert "- | int32" in compare(lacks, a).to_text()
    (alone,) = [pair for pair in compare(a, lacks).tensors if pair.second is None]
    assert (alone.name, alone.payload_difference) == ("conv.b", -24)


@pytest.mark.parametrize("form", [Form("none"), SMALLEST], ids=str)
def test_constants_without_names_meet_in_their_order(tmp_path: Path, form: Form) -> None:
    a = inspect_model(written(tmp_path, "a.tflite", graph(6)))
    b = inspect_model(written(tmp_path, "b.tflite", graph(5), form))
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        pairs = [pair for pair in compare(first, second).tensors if pair.first and pair.second]
        assert [(p.first.share, p.second.share) for p in pairs if p.first.share and p.second.share] == [
            ("weights", "weights"),
            ("bias", "bias"),
            ("weights", "weights"),
            ("bias", "bias"),
        ]
        assert [p.channels_removed for p in pairs if p.channels_removed is not None] == [sign, sign]
        assert {p.first.kind for p in pairs} >= {"input", "output"}


def onnx_file(path: Path) -> Path:
    """x -> DQ(w) -> Conv -> y, called as the lowering's input is."""
    constants = {
        "w": np.ones((6, 2, 3, 3), np.int8),
        "w_scale": np.full(6, 0.1, np.float32),
        "b": np.ones(6, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["w_dequantized"], axis=0),
        helper.make_node("Conv", ["x", "w_dequantized", "b"], ["y"]),
    ]
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 2, 4, 4]), ("y", [1, 6, 2, 2]))
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", sides[:1], sides[1:], initializers),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(model, path)
    return path


def test_an_onnx_file_meets_the_tflite_made_of_it(tmp_path: Path) -> None:
    a = inspect_model(onnx_file(tmp_path / "a.onnx"))
    assert total(a) == a.totals.file_bytes
    weights = next(tensor for tensor in a.tensors if tensor.name == "w")
    assert weights.channels == 6
    assert weights.metadata_bytes > weights.parameter_bytes == 24
    renames = {"conv.w": "w_dequantized", "conv.b": "b_dequantized"}
    lowered = graph(4)
    tensors = {renames.get(n, n): replace(t, name=renames.get(n, n)) for n, t in lowered.tensors.items()}
    nodes = tuple(
        replace(node, inputs=tuple(renames.get(name, name) for name in node.inputs)) for node in lowered.nodes
    )
    path = written(tmp_path, "b.tflite", replace(lowered, tensors=tensors, nodes=nodes))
    found = compare(a, inspect_model(path))
    pairs = {pair.name: pair for pair in found.tensors if pair.first and pair.second}
    assert set(pairs) == {"x", "w", "b", "y"}
    assert pairs["w"].channels_removed == 2
    assert pairs["w"].payload_difference == -2 * 18
    assert "float32 | int8" in found.to_text()
