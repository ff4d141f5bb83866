"""Pools, reductions, elementwise ops, joins, paddings and the NHWC layout against ONNX Runtime.

Where no op rounds, outputs compare exactly.
"""

from __future__ import annotations

import numpy as np
import pytest
from qdq_builder import Qdq, compare, kinds

from sgsc_edge.lowering import lower

# ONNX means are rounded from float to even, TFLite's from integers away from zero: ties are frequent.
TIES = {"steps": 1, "share": 0.25}
# MEAN rounds at bit 31 and again a few bits later, so results near a tie move.
MEAN = {"steps": 1, "share": 0.2, "count": 20}
EXACT = {"steps": 0}


# --- pools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "attributes", "zero", "expected"),
    [
        (8, {"kernel_shape": [2, 2], "strides": [2, 2]}, 3, ["MaxPool2D"]),
        (9, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 3, ["MaxPool2D"]),
        (8, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, -128, ["Pad", "MaxPool2D"]),
        (8, {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}, 3, ["MaxPool2D"]),
        (8, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 3, ["MaxPool2D"]),
        (9, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, 3, ["MaxPool2D"]),
        (
            7,
            {"kernel_shape": [2, 3], "strides": [3, 1], "pads": [0, 1, 0, 1], "ceil_mode": 1},
            3,
            ["MaxPool2D"],
        ),
        (8, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, 3, ["MaxPool2D"]),
    ],
)
def test_max_pool(size, attributes, zero, expected):
    q = Qdq()
    x = q.input((3, size, size), zero=zero)
    compare(q.model(q.qdq(q.node("MaxPool", x, **attributes), 0.05, zero)), expected, **EXACT)


def test_max_pool_is_padded_behind_a_relu_whatever_the_zero_point():
    q = Qdq()
    x = q.qdq(q.node("Relu", q.input((3, 8, 8), zero=-20)), 0.05, -20)
    y = q.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    compare(q.model(q.qdq(y, 0.05, -20)), ["Relu", "Pad", "MaxPool2D"], **EXACT)


def test_other_parameters_behind_a_pool_are_a_quantize():
    q = Qdq()
    y = q.node("MaxPool", q.input((3, 8, 8)), kernel_shape=[2, 2], strides=[2, 2])
    compare(q.model(q.qdq(y, 0.0371, 0)), ["MaxPool2D", "Quantize"])


@pytest.mark.parametrize(
    ("size", "attributes", "expected"),
    [
        (8, {"strides": [2, 2]}, ["AveragePool2D"]),
        (8, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, ["AveragePool2D"]),
        (8, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, ["Pad", "AveragePool2D"]),
        (8, {"strides": [2, 2], "count_include_pad": 1}, ["AveragePool2D"]),
        (9, {"strides": [2, 2], "ceil_mode": 1}, ["AveragePool2D"]),
        (8, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1},
         ["Pad", "AveragePool2D"]),
    ],
)  # fmt: skip
def test_average_pool(size, attributes, expected):
    q = Qdq()
    y = q.node("AveragePool", q.input((3, size, size)), **{"kernel_shape": [2, 2], **attributes})
    compare(q.model(q.qdq(y, 0.05, 3)), expected, **TIES)


def test_global_average_pool():
    q = Qdq()
    y = q.qdq(q.node("GlobalAveragePool", q.input((5, 7, 7))), 0.011, -9)
    graph = compare(q.model(q.node("Flatten", y)), ["Mean", "Reshape"], **MEAN)
    assert graph["output"].shape == (1, 5)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize(
    ("axes", "keepdims", "expected"),
    [
        ([2, 3], 0, ["Mean"]),
        ([-1, -2], 1, ["Mean"]),
        ([1], 0, ["Mean"]),
        ([1], 1, ["Mean"]),
        ([3], 1, ["Mean"]),
        ([2], 0, ["Mean", "Transpose"]),  # [1, C, W] is not in the order of NHWC
        ([1, 2, 3], 0, ["Mean"]),
    ],
)
def test_reduce_mean(opset, axes, keepdims, expected):
    q = Qdq(opset=opset)
    x = q.input((4, 6, 5))
    y = (
        q.node("ReduceMean", x, axes=axes, keepdims=keepdims)
        if opset < 18
        else q.node("ReduceMean", x, q.const(np.array(axes)), keepdims=keepdims)
    )
    compare(q.model(q.qdq(y, 0.0113, -9)), expected, **MEAN)


# --- elementwise ----------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_two_activations(op):
    q = Qdq()
    x = q.input((3, 6, 6))
    other = q.qdq(q.node("Relu", x), 0.0271, -128)
    y = q.node("Relu", q.node(op, x, other))
    compare(q.model(q.qdq(y, 0.0713, -110)), ["Quantize", op])


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (1, 3, 1, 1), (5,), (4, 5), (1, 3, 4, 5)])
def test_activation_and_constant(op, shape):
    q = Qdq()
    x = q.input((3, 4, 5))
    integers = np.array(q.rng.integers(-128, 128, shape), np.int8)
    y = q.node(op, q.dq(integers, 0.0219), x)
    compare(q.model(q.qdq(y, 0.0617, 4)), [op], share=0.05)


def test_squeeze_and_excite_broadcasts_channels():
    q = Qdq()
    x = q.input((4, 6, 6))
    gate = q.qdq(q.node("MaxPool", x, kernel_shape=[6, 6]), 0.05, 3)
    compare(q.model(q.qdq(q.node("Mul", gate, x), 0.391, 1)), ["MaxPool2D", "Mul"], share=0.05)


def test_lower_rank_activation_beside_an_image():
    q = Qdq()
    x = q.input((4, 3, 3))
    means = q.node("ReduceMean", x, q.const(np.array([1])), keepdims=0)
    y = q.node("Add", x, q.qdq(means, 0.0123, 0))  # [1, 3, 3] broadcasts over the channels
    compare(q.model(q.qdq(y, 0.0517, 1)), ["Mean", "Reshape", "Add"], share=0.1)


# --- joins, paddings ------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "device_axis"), [(1, 3), (2, 1), (-1, 2)])
def test_concat(axis, device_axis):
    q = Qdq()
    x = q.input((3, 6, 6))
    y = q.qdq(q.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), 0.05, 3)
    model = q.model(q.qdq(q.node("Concat", x, y, axis=axis), 0.05, 3))
    graph = compare(model, ["MaxPool2D", "Concatenation"], **EXACT)
    assert graph.nodes[1].op.axis == device_axis


def test_concat_requantizes_inputs_with_other_parameters():
    q = Qdq()
    x = q.input((3, 6, 6))
    y = q.qdq(q.node("Relu", x), 0.0271, -128)
    model = q.model(q.qdq(q.node("Concat", x, y, axis=1), 0.0517, 0))
    compare(model, ["Quantize", "Quantize", "Quantize", "Concatenation"])


def test_concat_of_many_is_split():
    q = Qdq()
    x = q.input((2, 3, 3))
    model = q.model(q.qdq(q.node("Concat", *[x] * 23, axis=1), 0.05, 3))
    compare(model, ["Concatenation"] * 3, **EXACT)


@pytest.mark.parametrize("form", ["pads", "axes", "value"])
def test_pad(form):
    q = Qdq()
    x = q.input((3, 6, 6))
    if form == "axes":
        y = q.node("Pad", x, q.const(np.array([1, 0, 0, 2])), "", q.const(np.array([-1, 2])))
    else:
        extra = [q.const(np.float32(0))] if form == "value" else []
        y = q.node("Pad", x, q.const(np.array([0, 0, 0, 1, 0, 1, 2, 0])), *extra)
    compare(q.model(q.qdq(y, 0.05, 3)), ["Pad"], **EXACT)


def test_pad_before_a_conv_is_its_padding():
    q = Qdq()
    x = q.input((3, 6, 6))
    y = q.node("Pad", x, q.const(np.array([0, 0, 1, 1, 0, 0, 1, 1])))
    compare(q.model(q.qdq(q.conv(y, (4, 3, 3, 3)), 0.4, 0)), ["Conv2D"])


# --- layout ---------------------------------------------------------------------------------------


def _flatten(q, x, form):
    if form == "flatten":
        return q.node("Flatten", x, axis=1)
    if form == "constant":
        return q.node("Reshape", x, q.const(np.array([0, -1])))
    batch = q.node("Gather", q.node("Shape", x), q.const(np.array(0)), axis=0)
    batch = q.node("Unsqueeze", batch, q.const(np.array([0])))
    return q.node("Reshape", x, q.node("Concat", batch, q.const(np.array([-1])), axis=0))


@pytest.mark.parametrize("form", ["flatten", "constant", "computed"])
def test_flatten_is_folded_into_the_dense_weights(form):
    q = Qdq()
    x = q.input((3, 4, 5))
    y = q.node("Identity", q.node("Dropout", _flatten(q, x, form)))
    y = q.qdq(y, 0.05, 3)
    compare(q.model(q.qdq(q.gemm(y, 60, 7), 0.3, 0)), ["Reshape", "FullyConnected"], count=20)


def test_flatten_is_folded_through_elementwise_ops_into_several_dense_layers():
    q = Qdq()
    flat = q.node("Flatten", q.input((3, 4, 5)))
    y = q.qdq(q.node("Relu", flat), 0.0371, -128)
    y = q.qdq(q.node("Add", y, q.dq(q.rng.integers(-128, 128, (1, 60)).astype(np.int8), 0.02)), 0.0517, 0)
    y = q.qdq(q.node("Add", y, flat), 0.0613, 0)
    a, b = (q.qdq(q.gemm(y, 60, 7), 0.3, 0) for _ in range(2))
    ops = ["Quantize", "Add", "Add", "Reshape", "FullyConnected", "FullyConnected", "Add"]
    compare(q.model(q.qdq(q.node("Add", a, b), 0.5, 0)), ops, share=0.35, steps=2)


def test_a_reader_that_depends_on_the_order_gets_a_transpose_and_the_dense_layer_none():
    q = Qdq()
    flat = q.node("Flatten", q.input((3, 4, 5)))
    a = q.qdq(q.gemm(flat, 60, 60), 0.3, 0)
    graph = compare(
        q.model(q.qdq(q.node("Add", a, flat), 0.3, 0)),
        ["Reshape", "FullyConnected", "Transpose", "Reshape", "Add"],
        share=0.3,
    )
    assert graph.nodes[2].inputs[0] == "input"


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 4, 5)])
def test_no_transpose_where_the_order_is_the_same(shape):
    q = Qdq()
    compare(q.model(q.node("Flatten", q.input(shape))), ["Reshape"], **EXACT)


def test_rows_of_an_image_before_a_dense_layer_are_in_onnx_order():
    q = Qdq()
    y = q.node("Reshape", q.input((3, 4, 5)), q.const(np.array([15, 4])))
    y = q.qdq(q.gemm(y, 4, 7), 0.3, 0)
    y = q.node("Reshape", y, q.const(np.array([1, 105])))
    compare(q.model(y), ["Transpose", "Reshape", "FullyConnected", "Reshape"], count=20)


def test_flattened_output_is_in_onnx_order():
    q = Qdq()
    compare(q.model(q.node("Flatten", q.input((3, 4, 5)))), ["Transpose", "Reshape"], **EXACT)


def test_concat_of_flattened_images_before_a_dense_layer():
    q = Qdq()
    x = q.input((3, 4, 5))
    y = q.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = q.node("Concat", q.node("Flatten", x), q.node("Flatten", y), axis=1)
    y = q.qdq(y, 0.05, 3)
    ops = ["MaxPool2D", "Reshape", "Reshape", "Concatenation", "FullyConnected"]
    model = q.model(q.qdq(q.gemm(y, 72, 7), 0.5, 0))
    order = kinds(lower(model))
    assert sorted(order) == sorted(ops)
    compare(model, order, count=20)


@pytest.mark.parametrize(
    ("permutation", "expected"),
    [
        ((0, 2, 3, 1), ["Transpose"]),  # a real move: the result is an image with H channels
        ((0, 1, 3, 2), ["Transpose"]),
        ((0, 1, 2, 3), ["Quantize"]),
    ],
)
def test_transpose_of_an_image(permutation, expected):
    q = Qdq()
    x = q.input((3, 4, 5))
    if expected == ["Quantize"]:
        model = q.model(q.qdq(q.node("Transpose", x, perm=permutation), 0.0371, 3))
        compare(model, expected)
    else:
        compare(q.model(q.node("Transpose", x, perm=permutation)), expected, **EXACT)


def test_patches_become_a_sequence_without_a_transpose():
    """[1, C, H, W] -> [1, C, HW] -> [1, HW, C] is how NHWC lies already."""
    q = Qdq()
    x = q.input((3, 4, 5))
    y = q.node("Transpose", q.node("Reshape", x, q.const(np.array([0, 3, 20]))), perm=[0, 2, 1])
    compare(q.model(y), ["Reshape"], **EXACT)


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ((3, 4, 5), [0, 3, 20, 1], ["Reshape"]),
        ((3, 4, 5), [0, 5, 4, 3], ["Transpose", "Reshape", "Transpose"]),
        ((3, 4, 5), [0, 12, 5], ["Transpose", "Reshape"]),
        ((60,), [0, 3, 4, 5], ["Reshape", "Transpose"]),
        ((12, 5), [0, 60], ["Reshape"]),
        ((12, 5), [0, 1, 12, 5], ["Reshape"]),
    ],
)
def test_reshape(shape, target, expected):
    q = Qdq()
    compare(q.model(q.node("Reshape", q.input(shape), q.const(np.array(target)))), expected, **EXACT)


def test_squeeze_and_unsqueeze():
    q = Qdq()
    x = q.node("Unsqueeze", q.input((7,)), q.const(np.array([2, 3])))
    y = q.qdq(q.conv(x, (5, 7, 1, 1)), 0.5, 0)
    y = q.node("Squeeze", y, q.const(np.array([2, 3])))
    compare(q.model(y), ["Reshape", "Conv2D", "Reshape"], count=20)


def test_transpose_of_a_sequence():
    q = Qdq()
    compare(q.model(q.node("Transpose", q.input((4, 5)), perm=[0, 2, 1])), ["Transpose"], **EXACT)


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((10,), -1, ["Softmax"]),
        ((10, 4, 4), 1, ["Softmax"]),
        ((6, 10), 2, ["Softmax"]),
        ((5, 4, 6), 2, ["Transpose", "Softmax", "Transpose"]),
        ((10, 6), 1, ["Transpose", "Softmax", "Transpose"]),
    ],
)
def test_softmax(shape, axis, expected):
    q = Qdq()
    y = q.qdq(q.node("Softmax", q.input(shape), axis=axis), 1 / 256, -128)
    compare(q.model(y), expected, share=0.15)


def test_a_cnn_holds_no_transpose_and_keeps_metadata():
    q = Qdq()
    q.metadata = {"sgsc.input": '{"mean": 0}', "other": "x"}
    x = q.input((1, 12, 12))
    for channels, before in ((8, 1), (16, 8)):
        x = q.qdq(q.node("Relu", q.conv(x, (channels, before, 3, 3), pads=[1, 1, 1, 1])), 0.1, -128)
        x = q.qdq(q.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 0.1, -128)
    x = q.node("Flatten", x)
    x = q.qdq(q.node("Relu", q.gemm(x, 144, 20)), 0.3, -128)
    model = q.model(q.qdq(q.gemm(x, 20, 10), 0.5, 0))
    ops = ["Conv2D", "MaxPool2D"] * 2 + ["Reshape", "FullyConnected", "FullyConnected"]
    graph = compare(model, ops, share=0.5, steps=2)
    assert dict(graph.metadata) == {"sgsc.input": b'{"mean": 0}'}
    assert graph.inputs == ("input",)
    assert graph.outputs == ("output",)
    assert graph["input"].shape == (1, 12, 12, 1)
