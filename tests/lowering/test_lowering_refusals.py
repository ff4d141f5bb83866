"""What cannot be lowered exactly is refused, naming node, op, reason and remedy."""

from __future__ import annotations

import os
import sys

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from qdq_builder import Qdq

from sgsc_edge.errors import FileFormatError, InternalError, UnsupportedError
from sgsc_edge.inspection import inspect_model
from sgsc_edge.lowering import check, fold, lower, supported_ops
from sgsc_edge.lowering.passes import run_passes
from sgsc_edge.lowering.registry import Row, add_row, table


def _conv(q, **attributes):
    return q.qdq(q.conv(q.input((3, 8, 8)), (4, 3, 3, 3), **attributes), 0.3, 0)


def _maximum(q):
    return q.qdq(q.node("ReduceMax", _conv(q), keepdims=1), 1 / 256, -128)


def _no_quantizer(q):
    y = q.node("Relu", q.conv(q.input((3, 8, 8)), (4, 3, 3, 3)))
    return q.qdq(q.node("Add", y, y), 0.3, 0)


def _no_output_quantizer(q):
    return q.conv(q.input((3, 8, 8)), (4, 3, 3, 3))


def _float_weights(q):
    w = q.const(np.ones((4, 3, 3, 3), np.float32))
    return q.qdq(q.node("Conv", q.input((3, 8, 8)), w), 0.3, 0)


def _wide_weights(q):
    w = q.dq(np.full((4, 3, 3, 3), -128, np.int8), 0.01)
    return q.qdq(q.node("Conv", q.input((3, 8, 8)), w), 0.3, 0)


def _wrong_axis(q):
    w = q.dq(np.ones((4, 3, 3, 3), np.int8), np.full(3, 0.01), axis=1)
    return q.qdq(q.node("Conv", q.input((3, 8, 8)), w), 0.3, 0)


def _conv_3d(q):
    return q.qdq(q.conv(q.input((3, 4, 5, 6)), (4, 3, 3, 3, 3)), 0.3, 0)


def _clip(q):
    y = q.node(
        "Clip", q.conv(q.input((3, 8, 8)), (4, 3, 3, 3)), q.const(np.float32(0)), q.const(np.float32(4))
    )
    return q.qdq(y, 0.1, -100)


def _softmax(q):
    return q.qdq(q.node("Softmax", q.input((10,))), 1 / 255, -128)


def _pool_padding(q):
    x = q.input((3, 8, 8))
    return q.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def _pool_dilation(q):
    return q.node("MaxPool", q.input((3, 8, 8)), kernel_shape=[3, 3], dilations=[2, 2])


def _average_padding(q):
    x = q.input((3, 8, 8))
    return q.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def _average_ceil(q):
    return q.node(
        "AveragePool", q.input((3, 9, 9)), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1,
        count_include_pad=1,
    )  # fmt: skip


def _concat(q):
    x = q.input((3, 8, 8))
    return q.node("Concat", x, q.qdq(q.node("Relu", x), 0.03, -128), axis=1)


def _pad_value(q):
    x = q.input((3, 8, 8))
    return q.node("Pad", x, q.const(np.array([0, 0, 1, 1, 0, 0, 1, 1])), q.const(np.float32(1)))


def _pad_reflect(q):
    return q.node("Pad", q.input((3, 8, 8)), q.const(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode="reflect")


def _pad_crop(q):
    return q.node("Pad", q.input((3, 8, 8)), q.const(np.array([0, 0, -1, 0, 0, 0, 0, 0])))


def _gemm_alpha(q):
    return q.qdq(q.node("Gemm", q.input((8,)), q.weights(4, 8)[0], transB=1, alpha=0.5), 0.3, 0)


def _add_float_constant(q):
    return q.qdq(q.node("Add", q.input((3, 8, 8)), q.const(np.float32(0.5))), 0.3, 0)


def _batch_mean(q):
    return q.qdq(q.node("ReduceMean", q.input((8,)), q.const(np.array([0])), keepdims=1), 0.05, 0)


def _reads_raw(q):
    x = q.input((3, 8, 8))
    y = q.conv(x, (3, 3, 3, 3), pads=[1, 1, 1, 1])
    quantized = q.qdq(y, 0.3, 0)
    return q.qdq(q.node("Add", y, quantized), 0.5, 0)


def _quantized_twice(q):
    y = q.conv(q.input((3, 8, 8)), (3, 3, 3, 3))
    return q.qdq(q.node("Add", q.qdq(y, 0.3, 0), q.qdq(y, 0.4, 0)), 0.5, 0)


def _int16(q):
    return q.qdq(q.conv(q.input((3, 8, 8)), (4, 3, 3, 3)), 0.01, 0, np.int16)


def _mismatch(q):
    y = q.node("QuantizeLinear", _conv(q), q.const(np.float32(0.1)), q.const(np.int8(0)))
    return q.node("DequantizeLinear", y, q.const(np.float32(0.2)), q.const(np.int8(0)))


def _integers_read(q):
    y = q.node("QuantizeLinear", q.input((3, 8, 8)), q.const(np.float32(0.05)), q.const(np.int8(3)))
    y = q.node("MaxPool", y, kernel_shape=[2, 2])
    return q.node("DequantizeLinear", y, q.const(np.float32(0.05)), q.const(np.int8(3)))


def _blocks(q):
    w = q.node(
        "DequantizeLinear", q.const(np.ones((4, 8), np.int8)), q.const(np.ones((4, 2), np.float32)),
        axis=1, block_size=4,
    )  # fmt: skip
    return q.qdq(q.node("Gemm", q.input((8,)), w, transB=1), 0.3, 0)


def _nothing(q):
    return q.input((3, 8, 8))


def _training_dropout(q):
    return q.node("Dropout", q.input((8,)), q.const(np.float32(0.5)), q.const(np.array(True)))


def _huge_bias(q):
    x = q.input((8,))
    w, _ = q.weights(4, 8)
    return q.qdq(q.node("Gemm", x, w, q.const(np.full(4, 1e9, np.float32)), transB=1), 0.3, 0)


@pytest.mark.parametrize(
    ("build", "op", "reason", "remedy"),
    [
        (_maximum, "ReduceMax", "no exact device form", "replace it by supported ops"),
        (_no_quantizer, "Conv", "its output .* has no quantization", "insert QuantizeLinear"),
        (_no_output_quantizer, "Conv", "its output .* has no quantization", "after this node"),
        (_float_weights, "Conv", "weights .* are not quantized", "int8 with a DequantizeLinear"),
        (_wide_weights, "Conv", "hold -128", "narrow range"),
        (_wrong_axis, "Conv", "quantized along axis 1", "output axis 0"),
        (_conv_3d, "Conv", r"shape \[1, 3, 4, 5, 6\]; one or two spatial axes", "1-D or 2-D form"),
        (_clip, "Conv", r"clamps to \[0, 4\]", "ReLU6"),
        (_softmax, "Softmax", "TFLite prescribes 1/256 and -128", "leave the final Softmax out"),
        (_pool_padding, "MaxPool", "may be negative", "put a ReLU before it"),
        (_pool_dilation, "MaxPool", r"dilation is \[2, 2\]", "dilation 1"),
        (_average_padding, "AveragePool", "is not counted", "count_include_pad=True"),
        (_average_ceil, "AveragePool", "reach behind a padding", "ceil_mode=False"),
        (_concat, "Concat", "different quantization and none follows", "share one quantizer"),
        (_pad_value, "Pad", "constant zeros", "value 0"),
        (_pad_reflect, "Pad", "constant zeros", "'constant'"),
        (_pad_crop, "Pad", "crops", "no cropping"),
        (_gemm_alpha, "Gemm", "alpha is 0.5", "fold alpha"),
        (_add_float_constant, "Add", "not quantized", "store them as int8"),
        (_batch_mean, "ReduceMean", "over the batch", "other axes"),
        (_reads_raw, "Add", "as float although another layer reads it quantized", "DequantizeLinear"),
        (_quantized_twice, "DequantizeLinear", "quantized twice", "share one quantizer"),
        (_int16, "QuantizeLinear", "int16", "int8"),
        (_mismatch, "DequantizeLinear", "differ from its QuantizeLinear", "same scale"),
        (_integers_read, "MaxPool", "reads the integers", "DequantizeLinear between"),
        (_blocks, "DequantizeLinear", "in blocks", "per channel"),
        (_nothing, "graph output", "nothing to compute", "with layers"),
        (_training_dropout, "Dropout", "no exact device form", "supported ops"),
        (_huge_bias, "Gemm", "does not fit int32", "larger weight or input scale"),
    ],
)
def test_refused(build, op, reason, remedy):
    q = Qdq()
    model = q.model(build(q))
    with pytest.raises(UnsupportedError, match=reason) as caught:
        lower(model)
    assert caught.value.op == op
    assert remedy in caught.value.remedy
    first = check(model)[0]
    assert (first.node, first.op, first.reason) == (caught.value.node, op, caught.value.reason)


def test_all_refusals_are_listed_at_once():
    q = Qdq()
    y = q.qdq(q.node("LpNormalization", _conv(q)), 0.3, 0)
    y = q.qdq(q.node("Hardmax", y), 0.3, 0)
    y = q.node("MaxPool", y, kernel_shape=[2, 2], dilations=[2, 2])
    y = q.qdq(q.conv(y, (4, 4, 1, 1)), 0.3, 0)
    y = q.node("Softmax", y, axis=2)
    model = q.model(q.qdq(y, 1.0, 0))
    found = check(model)
    assert [refusal.op for refusal in found] == ["LpNormalization", "Hardmax", "MaxPool", "Softmax"]
    with pytest.raises(UnsupportedError, match="LpNormalization") as caught:
        lower(model)
    assert all(f"({refusal.op})" in str(caught.value) for refusal in found[1:])


def test_custom_domains_are_refused_by_their_full_name():
    q = Qdq()
    y = q.node("QGelu", _conv(q), domain="com.example")
    graph = helper.make_graph(
        q.nodes, "net", q.inputs, [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["b"])], q.initializers
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)]
    found = check(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    assert found[0].op == "com.example.QGelu"


# --- float networks, before training --------------------------------------------------------------


def _float_model(body, shape=(3, 8, 8)):
    q = Qdq()
    q.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape]))
    return q.model(body(q))


def _float_conv(q, x, *shape):
    w = q.const(np.ones(shape, np.float32))
    return q.node("Conv", x, w, q.const(np.ones(shape[0], np.float32)))


def test_a_float_network_of_supported_ops_passes_the_check():
    def body(q):
        y = _float_conv(q, "image", 4, 3, 3, 3)
        statistics = [q.const(np.ones(4, np.float32)) for _ in range(4)]
        y = q.node(
            "Clip",
            q.node("BatchNormalization", y, *statistics),
            q.const(np.float32(0)),
            q.const(np.float32(6)),
        )
        y = q.node("Add", y, _float_conv(q, y, 4, 4, 1, 1))
        y = q.node("MaxPool", q.node("Relu", y), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        y = q.node("Flatten", q.node("GlobalAveragePool", y))
        y = q.node("Gemm", y, q.const(np.ones((10, 4), np.float32)), transB=1)
        return q.node("Softmax", y)

    model = _float_model(body)
    assert check(model) == []
    with pytest.raises(UnsupportedError, match="no quantization"):
        lower(model)


@pytest.mark.parametrize(("low", "high"), [(0, 4), (-3, 5), (-4, 4)])
def test_a_clip_passes_the_check_because_its_quantizer_can_have_its_range(low, high):
    def body(q):
        y = q.node("MaxPool", _float_conv(q, "image", 4, 3, 3, 3), kernel_shape=[2, 2])
        return q.node("Clip", y, q.const(np.float32(low)), q.const(np.float32(high)))

    assert check(_float_model(body)) == []


def test_a_float_network_with_an_unsupported_op_is_refused_before_training():
    found = check(_float_model(lambda q: q.node("ReduceMax", _float_conv(q, "image", 4, 3, 3, 3))))
    assert [refusal.op for refusal in found] == ["ReduceMax"]
    assert "supported ops" in found[0].remedy


# --- files ----------------------------------------------------------------------------------------


def _with_shape(*shape):
    q = Qdq()
    model = q.model(_conv(q))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, shape))
    return model


def test_dynamic_axes_other_than_batch_are_refused():
    with pytest.raises(
        UnsupportedError, match=r"dynamic axes other than batch: shape \[n, 3, h, 8\]"
    ) as caught:
        lower(_with_shape("n", 3, "h", 8))
    assert "only the first axis" in caught.value.remedy


def test_a_fixed_batch_is_refused():
    with pytest.raises(UnsupportedError, match="batch is fixed to 8"):
        lower(_with_shape(8, 3, 8, 8))


def test_several_inputs_are_refused():
    model = _with_shape("n", 3, 8, 8)
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    with pytest.raises(UnsupportedError, match="2 inputs and 1 outputs"):
        lower(model)


def test_old_opsets_are_refused():
    model = _with_shape("n", 3, 8, 8)
    model.opset_import[0].version = 11
    with pytest.raises(UnsupportedError, match="opsets 13 to"):
        lower(model)


def test_weights_that_do_not_fit_the_input_are_refused():
    with pytest.raises(UnsupportedError, match="do not fit 5 input channels"):
        lower(_with_shape("n", 5, 8, 8))


def test_contradicting_shapes_are_a_format_error():
    q = Qdq()
    x = q.input((3, 8, 8))
    y = q.qdq(q.node("MaxPool", x, kernel_shape=[2, 2]), 0.05, 3)
    model = q.model(q.qdq(q.node("Concat", x, y, axis=1), 0.05, 3), check=False)
    model.graph.output[0].type.tensor_type.shape.SetInParent()
    with pytest.raises(FileFormatError, match="shapes or types contradict"):
        lower(model)


def test_scales_too_far_apart_are_refused():
    q = Qdq()
    model = q.model(q.qdq(q.conv(q.input((3, 8, 8)), (4, 3, 3, 3)), 1e-30, 0))
    with pytest.raises(UnsupportedError, match="multiplier"):
        lower(model)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileFormatError, match="cannot be read"):
        lower(tmp_path / "none.onnx")
    path = tmp_path / "model.onnx"
    for data in (b"", b"not a model", np.random.default_rng(0).bytes(2000)):
        path.write_bytes(data)
        with pytest.raises(FileFormatError):
            lower(path)


def test_cut_and_flipped_files_never_crash(tmp_path):
    """Mutations give a graph or an error of ours, never another exception."""
    q = Qdq()
    y = q.node("Flatten", _conv(q))
    data = q.model(q.qdq(q.gemm(y, 144, 3), 0.3, 0)).SerializeToString()
    path = tmp_path / "model.onnx"
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        mutant = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        for position in rng.integers(0, len(mutant), 3):
            mutant[position] = rng.integers(0, 256)
        path.write_bytes(mutant)
        try:
            lower(path)
        except (FileFormatError, UnsupportedError):
            refused += 1
    assert refused > 75


def _edit(rng, model):
    """One random edit that leaves a readable file: an attribute, an op type, an input or a constant."""
    node = model.graph.node[rng.integers(len(model.graph.node))]
    kind = rng.integers(4)
    if kind == 0 and node.attribute:
        attribute = node.attribute[rng.integers(len(node.attribute))]
        value = int(rng.choice([0, 1, 2, 3, -1, -2, 7, 10**6, 2**40]))
        if attribute.ints:
            attribute.ints[rng.integers(len(attribute.ints))] = value
        else:
            attribute.i = value
    elif kind == 1:
        node.op_type = str(
            rng.choice(["Relu", "Add", "MaxPool", "Softmax", "Transpose", "Concat", "Pad", "Clip"])
        )
    elif kind == 2:
        names = [name for other in model.graph.node for name in other.output]
        node.input[rng.integers(len(node.input))] = str(rng.choice(names))
    else:
        tensor = model.graph.initializer[rng.integers(len(model.graph.initializer))]
        array = numpy_helper.to_array(tensor).reshape(-1)
        tensor.CopyFrom(numpy_helper.from_array(array[: max(0, array.size - rng.integers(3))], tensor.name))


def test_edited_models_never_crash():
    q = Qdq()
    x = q.input((3, 8, 8))
    y = q.qdq(q.node("Relu", q.conv(x, (4, 3, 3, 3), pads=[1, 1, 1, 1])), 0.1, -128)
    z = q.node("MaxPool", y, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    y = q.qdq(q.node("Concat", y, z, axis=1), 0.1, -128)
    y = q.node("Pad", y, q.const(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    y = q.qdq(q.node("Clip", y, q.const(np.float32(0)), q.const(np.float32(6))), 0.1, -128)
    y = q.node("Transpose", q.node("Reshape", y, q.const(np.array([0, 8, 100]))), perm=[0, 2, 1])
    model = q.model(q.qdq(q.node("ReduceMean", y, q.const(np.array([1]))), 0.1, 0))
    lower(model)
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(250):
        mutant = onnx.ModelProto()
        mutant.CopyFrom(model)
        _edit(rng, mutant)
        try:
            lower(mutant)
        except (FileFormatError, UnsupportedError):
            refused += 1
    assert 50 < refused < 250


def test_external_data_may_not_leave_the_folder(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(108))
    folder = tmp_path / "model"
    folder.mkdir()
    model = _with_shape("n", 3, 8, 8)
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [4, 3, 3, 3])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="external data"):
        lower(folder / "m.onnx")


def _external(location):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def _adding(tensor, place):
    """y = x + w, w an initializer, an attribute, or either of a subgraph."""
    x, y, inner = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y", "inner")
    )
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    held = [tensor] if place.endswith("initializer") else []
    nodes = [] if held else [constant]
    if place.startswith("subgraph"):
        branch = helper.make_graph(
            [*nodes, helper.make_node("Identity", ["w"], ["inner"])], "branch", [], [inner], held
        )
        choice = numpy_helper.from_array(np.array(True), "choice")
        nodes = [helper.make_node("If", ["choice"], ["w"], then_branch=branch, else_branch=branch)]
        held = [choice]
    graph = helper.make_graph([*nodes, helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph initializer", "subgraph attribute"])
@pytest.mark.parametrize(
    "location", ["../secret.bin", "{outside}", "link.bin", "up/secret.bin", "a/../../secret.bin"]
)
def test_no_path_leads_out_of_the_models_folder(tmp_path, monkeypatch, place, location):
    """Absolute, with dots, and through links; nor does one of an attribute lead into the current folder."""
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    folder = tmp_path / "model"
    (folder / "a").mkdir(parents=True)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "up").symlink_to(tmp_path)
    monkeypatch.chdir(folder)
    named = location.format(outside=tmp_path / "secret.bin")
    (folder / "m.onnx").write_bytes(_adding(_external(named), place).SerializeToString())
    for read in (lower, inspect_model):
        with pytest.raises(FileFormatError, match="external data") as caught:
            read(folder / "m.onnx")
        assert "m.onnx" in str(caught.value)


@pytest.mark.parametrize("place", ["attribute", "subgraph initializer", "subgraph attribute"])
def test_the_current_folder_is_no_place_for_external_data(tmp_path, monkeypatch, place):
    (tmp_path / "here.bin").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "m.onnx").write_bytes(_adding(_external("here.bin"), place).SerializeToString())
    with pytest.raises(FileFormatError, match="which is no initializer of the main graph"):
        inspect_model(tmp_path / "model" / "m.onnx")


@pytest.mark.parametrize("entries", [{}, {"length": "64"}, {"offset": "8"}])
def test_data_that_many_initializers_read_again_are_refused_unread(tmp_path, monkeypatch, entries):
    model = _adding(_external("here.bin"), "initializer")
    for number in range(100):
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(_external("here.bin"))
        tensor.name = f"w{number}"
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    (tmp_path / "here.bin").write_bytes(bytes(72))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setattr(external_data_helper, "load_external_data_for_model", None)
    with pytest.raises(FileFormatError, match=r"'here\.bin' is read more than 4 times over") as caught:
        lower(tmp_path / "m.onnx")
    assert caught.value.exit_code == 2


def test_the_model_counts_with_its_data_files(tmp_path, monkeypatch):
    q = Qdq()
    model = q.model(_conv(q))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=16)
    reading = sys.modules["sgsc_edge.lowering.read_onnx"]
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", (tmp_path / "m.onnx").stat().st_size + 8)
    with pytest.raises(FileFormatError, match="with its external data it has more than"):
        lower(tmp_path / "m.onnx")


@pytest.mark.parametrize("entries", [{"length": str(2**62)}, {"offset": "x"}, {"length": "-5"}])
def test_absurd_places_of_external_data_are_refused(tmp_path, entries):
    model = _adding(_external("here.bin"), "initializer")
    for key, value in entries.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    (tmp_path / "here.bin").write_bytes(bytes(16))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="external data"):
        lower(tmp_path / "m.onnx")


@pytest.mark.parametrize("kind", ["data", "model"])
def test_a_pipe_is_not_waited_for(tmp_path, kind):
    pipe = tmp_path / ("here.bin" if kind == "data" else "m.onnx")
    os.mkfifo(pipe)
    if kind == "data":
        model = _adding(_external("here.bin"), "initializer")
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="is no regular file"):
        lower(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (MemoryError, "load_model"),
        (MemoryError, "load_external_data_for_model"),
        (MemoryError, "check_model"),
        (EncodeError, "check_model"),
    ],
)
def test_what_protobuf_and_memory_cannot_hold_is_refused(tmp_path, monkeypatch, error, step):
    def fails(*_, **__):
        raise error

    (tmp_path / "here.bin").write_bytes(bytes(16))
    (tmp_path / "m.onnx").write_bytes(_adding(_external("here.bin"), "initializer").SerializeToString())
    modules = {"load_model": onnx, "check_model": onnx.checker}
    monkeypatch.setattr(modules.get(step, external_data_helper), step, fails)
    with pytest.raises(FileFormatError) as caught:
        lower(tmp_path / "m.onnx")
    assert "m.onnx" in str(caught.value)


def test_external_data_beside_the_model_is_read(tmp_path):
    q = Qdq()
    model = q.model(_conv(q))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=16)
    assert len(lower(tmp_path / "m.onnx").nodes) == 1


# --- the machinery --------------------------------------------------------------------------------


def test_table_lists_the_ops_once_and_refuses_a_second_row():
    ops = [row.op for row in supported_ops()]
    assert ops == sorted(set(ops))
    assert {"Conv", "Gemm", "MatMul", "Add", "Softmax", "Transpose"} <= set(ops)
    rows = dict(table())
    with pytest.raises(InternalError, match="two rows lower ONNX op 'Conv'"):
        add_row(rows, Row("Conv", (), "", "", rows["Conv"].lower))


def test_a_failing_pass_names_the_passes_already_run():
    def first(value):
        return value + 1

    def second(value):
        raise KeyError("lost")

    with pytest.raises(InternalError, match="pass 'second' failed") as caught:
        run_passes(1, (first, second))
    assert "already run: first" in str(caught.value)


@pytest.mark.parametrize("op", ["Add", "Gather", "Where", "MatMul", "Tile"])
def test_small_constants_that_grow_are_refused_before_they_are_computed(op):
    """Broadcasts and look-ups of small operands could fill any memory."""
    q = Qdq()
    size = 1 << 12
    long, wide = np.zeros((size, 1), np.float32), np.zeros((1, size), np.float32)
    if op == "Gather":
        inputs = [wide, np.zeros(size, np.int64)]
    elif op == "Where":
        inputs = [np.zeros((size, 1), bool), wide, wide]
    elif op == "Tile":
        inputs = [wide, np.array([size, 1])]
    else:
        inputs = [long, wide]
    grown = q.node(op, *(q.const(one) for one in inputs))
    model = q.model(q.node("Add", q.input((4,)), q.node("ReduceMax", grown)))
    with pytest.raises(FileFormatError, match="too large"):
        lower(model)


def test_constants_that_are_computed_again_and_again_are_refused(monkeypatch):
    monkeypatch.setattr(fold, "MAX_ELEMENTS", 10_000)
    q = Qdq()
    constant = q.const(np.zeros((50, 20), np.float32))
    for _ in range(11):
        constant = q.node("Neg", constant)
    model = q.model(q.node("Add", q.input((50, 20)), constant))
    with pytest.raises(FileFormatError, match="computed of constants"):
        lower(model)
