from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sgsc_edge.errors import FileFormatError, UnsupportedError
from sgsc_edge.graph import ir
from sgsc_edge.graph.flatbuffer import Record, decode, encode
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.inspection import inspect_model


def graph() -> Graph:
    """x [1,4,4,2] -> conv 3x3 to 6 channels, int4 weights, per channel -> reshape [1,24]."""
    x = Tensor("x", (1, 4, 4, 2), DType.INT8, Quantization.per_tensor(0.5, -3))
    scale = np.linspace(0.1, 0.2, 6).astype(np.float32)
    weights = Tensor(
        "w", (6, 3, 3, 2), DType.INT4, Quantization.per_channel(scale, 0), np.ones((6, 3, 3, 2), np.int8)
    )
    bias = Tensor(
        "b",
        (6,),
        DType.INT32,
        Quantization.per_channel(np.float32(0.5) * scale, 0),
        np.arange(6, dtype=np.int32),
    )
    y = Tensor("y", (1, 2, 2, 6), DType.INT8, Quantization.per_tensor(0.25, 4))
    shape = Tensor("shape", (2,), DType.INT32, None, np.array([1, 24], np.int32))
    flat = Tensor("flat", (1, 24), DType.INT8, y.quantization)
    nodes = (Node(ir.Conv2D(), ("x", "w", "b"), ("y",)), Node(ir.Reshape(), ("y", "shape"), ("flat",)))
    tensors = {tensor.name: tensor for tensor in (x, weights, bias, y, shape, flat)}
    return Graph("g", tensors, nodes, ("x",), ("flat",), {"note": b"twelve bytes"})


@pytest.fixture
def tflite(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(graph()))
    return path


def edited(path: Path, edit: Callable[[Record], object]) -> Path:
    model = decode(path.read_bytes(), where="test")
    edit(model)
    path.write_bytes(encode(model))
    return path


def test_tflite_bytes_add_up_by_use(tflite: Path) -> None:
    totals = inspect_model(tflite).totals
    assert totals.file_bytes == tflite.stat().st_size
    assert totals.weights_bytes == 6 * 3 * 3 * 2 // 2
    assert totals.bias_bytes == 6 * 4
    assert totals.other_constants_bytes == 2 * 4
    # 12 bytes for each of 6 weight channels, 6 bias channels and 3 activations
    assert totals.quantization_bytes == 12 * (6 + 6 + 3)
    rest = totals.weights_bytes + totals.bias_bytes + totals.other_constants_bytes + totals.quantization_bytes
    assert totals.overhead_bytes == totals.file_bytes - rest > 0


def test_tflite_ops_tensors_and_metadata(tflite: Path) -> None:
    inspection = inspect_model(str(tflite))
    assert [(op.name, op.dtypes, op.count) for op in inspection.ops] == [
        ("CONV_2D", "int8 x int4", 1),
        ("RESHAPE", "int8", 1),
    ]
    tensors = {tensor.name: tensor for tensor in inspection.tensors}
    assert {name: tensor.kind for name, tensor in tensors.items()} == {
        "x": "input",
        "w": "constant",
        "b": "constant",
        "y": "activation",
        "shape": "constant",
        "flat": "output",
    }
    weights = tensors["w"]
    assert (weights.dtype, weights.bits, weights.shape, weights.payload_bytes) == (
        "int4",
        4,
        (6, 3, 3, 2),
        54,
    )
    assert weights.parameter_bytes == 72
    assert weights.quantization is not None
    assert (weights.quantization.granularity, weights.quantization.axis, weights.quantization.channels) == (
        "per channel",
        0,
        6,
    )
    assert weights.quantization.scale_min == np.float32(0.1)
    assert weights.quantization.scale_max == np.float32(0.2)
    assert str(tensors["x"].quantization) == "scale 0.5, zero point -3"
    assert tensors["shape"].quantization is None
    assert {e.name: e.nbytes for e in inspection.metadata} == {"note": 12, "min_runtime_version": 16}


def test_shared_buffers_are_counted_once(tflite: Path) -> None:
    before = inspect_model(tflite).totals.weights_bytes

    def edit(model: Record) -> None:
        tensors = model["subgraphs"][0]["tensors"]
        weights = next(tensor for tensor in tensors if tensor["name"] == "w")
        tensors.append({**weights, "name": "again"})

    after = inspect_model(edited(tflite, edit))
    assert after.totals.weights_bytes == before
    assert [tensor.payload_bytes for tensor in after.tensors if tensor.name in ("w", "again")] == [before, 0]


def test_ops_and_types_that_the_device_graph_lacks_are_shown(tflite: Path) -> None:
    def edit(model: Record) -> None:
        model["operator_codes"][1].update(builtin_code=32, deprecated_builtin_code=32, custom_code="Mine")
        tensors = model["subgraphs"][0]["tensors"]
        tensors[0].update(type=1, shape_signature=[-1, 4, 4, 2])

    inspection = inspect_model(edited(tflite, edit))
    assert [op.name for op in inspection.ops] == ["CONV_2D", "CUSTOM Mine"]
    assert (inspection.tensors[0].dtype, inspection.tensors[0].bits) == ("float16", 16)
    assert inspection.tensors[0].shape == ("?", 4, 4, 2)


def test_json_is_one_document_of_the_same_facts(tflite: Path) -> None:
    inspection = inspect_model(tflite)
    document = inspection.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["totals"]["file_bytes"] == inspection.totals.file_bytes
    assert document["ops"][0] == {"count": 1, "dtypes": "int8 x int4", "name": "CONV_2D"}
    assert document["tensors"][0]["quantization"]["zero_point_min"] == -3
    assert document["format"] == "tflite"


def test_text_shows_each_tensor_and_escapes_control_characters(tflite: Path) -> None:
    def edit(model: Record) -> None:
        model["subgraphs"][0]["tensors"][0]["name"] = "evil\x1b[2J\n" + "n" * 200

    text = inspect_model(edited(tflite, edit)).to_text()
    assert "\x1b" not in text
    assert "evil\\x1b[2J\\n" in text
    assert max(len(line) for line in text.splitlines()) < 250
    for name in ("w", "b", "y", "flat", "CONV_2D", "int8 x int4", "6x3x3x2"):
        assert name in text
    assert "54" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tflite", b"\0" * 40, "file identifier"),
        ("a.tflite", None, "cannot be read|does not exist"),
        ("a.onnx", b"\xff" * 40, "a.onnx"),
        ("a.onnx", None, "a.onnx"),
        ("a.bin", b"", "ending '.bin'"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        inspect_model(tmp_path / name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").mkdir()
    with pytest.raises(FileFormatError, match="cannot be read"):
        inspect_model(tmp_path / "a.tflite")


def test_damaged_tflite_files_are_inspected_or_refused(tflite: Path) -> None:
    original = tflite.read_bytes()
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(300):
        data = bytearray(original)
        for _ in range(3):
            data[random.integers(len(data))] = random.integers(256)
        tflite.write_bytes(bytes(data))
        try:
            inspection = inspect_model(tflite)
        except (FileFormatError, UnsupportedError):
            refused += 1
            continue
        assert inspection.to_text()
        json.dumps(inspection.to_json(), allow_nan=False)
    assert 0 < refused < 300


# --- ONNX -----------------------------------------------------------------------------------------


def qdq_model() -> onnx.ModelProto:
    """x -> Q -> DQ -> Conv(DQ(int8 weights), DQ(int32 bias)) -> Q -> DQ -> y"""
    scale = np.array([0.1, 0.2, 0.3], np.float32)
    constants = {
        "x_scale": np.array(0.5, np.float32),
        "x_zero": np.array(-3, np.int8),
        "w": np.ones((3, 2, 3, 3), np.int8),
        "w_scale": scale,
        "w_zero": np.zeros(3, np.int8),
        "b": np.ones(3, np.int32),
        "b_scale": np.float32(0.5) * scale,
        "y_scale": np.array(0.25, np.float32),
        "y_zero": np.array(4, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_f"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_f"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale"], ["b_f"], axis=0),
        helper.make_node("Conv", ["x_f", "w_f", "b_f"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "y_scale", "y_zero"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_scale", "y_zero"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 2, 2])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


@pytest.fixture
def qdq(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(qdq_model(), path)
    return path


def test_onnx_counts_parameters_with_the_tensor_they_quantize(qdq: Path) -> None:
    inspection = inspect_model(qdq)
    tensors = {tensor.name: tensor for tensor in inspection.tensors}
    assert list(tensors) == ["x", "w", "b", "x_q", "c", "y_q", "y"]
    assert (tensors["x"].kind, tensors["x"].dtype, tensors["x"].shape) == (
        "input",
        "float32",
        ("batch", 2, 4, 4),
    )
    assert str(tensors["x"].quantization) == "scale 0.5, zero point -3"
    assert (tensors["w"].payload_bytes, tensors["w"].parameter_bytes) == (54, 3 * 4 + 3)
    assert tensors["w"].quantization is not None
    assert (tensors["w"].quantization.axis, tensors["w"].quantization.channels) == (0, 3)
    assert (tensors["b"].share, tensors["b"].payload_bytes, tensors["b"].parameter_bytes) == ("bias", 12, 12)
    assert str(tensors["y"].quantization) == "scale 0.25, zero point 4"
    assert {op.name: op.count for op in inspection.ops} == {
        "QuantizeLinear": 2,
        "DequantizeLinear": 4,
        "Conv": 1,
    }
    totals = inspection.totals
    assert (totals.weights_bytes, totals.bias_bytes, totals.other_constants_bytes) == (54, 12, 0)
    assert totals.quantization_bytes == 5 + 5 + 15 + 12
    assert totals.file_bytes == qdq.stat().st_size
    assert "ONNX IR 10, opset ai.onnx 21" in inspection.to_text()
    json.dumps(inspection.to_json(), allow_nan=False)


def test_onnx_int4_weights_take_half_a_byte(tmp_path: Path) -> None:
    model = qdq_model()
    for name, count in (("w", 54), ("w_zero", 3)):
        (old,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
        old.CopyFrom(
            helper.make_tensor(
                name, TensorProto.INT4, list(old.dims), [1] * count if name == "w" else [0] * 3
            )
        )
    path = tmp_path / "int4.onnx"
    onnx.save(model, path)
    weights = next(tensor for tensor in inspect_model(path).tensors if tensor.name == "w")
    assert (weights.dtype, weights.bits, weights.payload_bytes) == ("int4", 4, 27)


def test_onnx_data_beside_the_file_is_counted(tmp_path: Path) -> None:
    model = qdq_model()
    path = tmp_path / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    inspection = inspect_model(path)
    assert inspection.totals.weights_bytes == 54
    assert inspection.totals.file_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size


def test_onnx_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\1" * 54)
    model = qdq_model()
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "w"]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "../secret.bin", "offset": "0", "length": "54"}.items():
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="external data"):
        inspect_model(path)


def test_damaged_onnx_files_are_inspected_or_refused(qdq: Path) -> None:
    original = qdq.read_bytes()
    random = np.random.default_rng(6)
    refused = 0
    for _ in range(400):
        data = bytearray(original)
        for _ in range(random.integers(1, 3)):
            data[random.integers(len(data))] = random.integers(256)
        qdq.write_bytes(bytes(data))
        try:
            inspection = inspect_model(qdq)
        except (FileFormatError, UnsupportedError):
            refused += 1
            continue
        assert inspection.to_text()
        json.dumps(inspection.to_json(), allow_nan=False)
    assert 0 < refused < 400


@pytest.mark.parametrize("place", ["node", "initializer", "input"])
def test_onnx_names_that_are_not_text_are_refused(qdq: Path, place: str) -> None:
    model = qdq_model()
    if place == "node":
        model.graph.node[4].output[0] = model.graph.node[5].input[0] = "spoil"
    elif place == "initializer":
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "spoil"))
    else:
        model.graph.input.append(helper.make_tensor_value_info("spoil", TensorProto.FLOAT, [1]))
    qdq.write_bytes(model.SerializeToString().replace(b"spoil", b"sp\xffil"))
    with pytest.raises(FileFormatError):
        inspect_model(qdq)


def test_onnx_element_types_that_do_not_exist_are_refused(qdq: Path) -> None:
    model = qdq_model()
    spare = model.graph.initializer.add()
    spare.name, spare.data_type, spare.raw_data = "spare", TensorProto.INT8, b"x"
    spare.dims.append(1)
    spare.data_type = 99
    qdq.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError):
        inspect_model(qdq)


def test_inspection_of_either_format_needs_no_torch(tflite: Path, qdq: Path) -> None:
    code = (
        "import sys; from sgsc_edge.inspection import inspect_model; "
        f"inspect_model({str(tflite)!r}); inspect_model({str(qdq)!r}); "
        "sys.exit(str('torch' in sys.modules) if 'torch' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
