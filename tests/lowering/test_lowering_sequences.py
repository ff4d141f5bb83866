"""Sequences [1, C, L]: 1-D convolutions and pools become 2-D ones of height 1, and nothing is transposed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from qdq_builder import Qdq, compare, device_inputs, kinds, ort_integers

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph import ir, legality
from sgsc_edge.graph.reference import run
from sgsc_edge.lowering import check, lower

LENGTH = 9
EXACT = {"steps": 0}
TIES = {"steps": 1, "share": 0.25}


def the(graph: ir.Graph, kind: str) -> ir.Node:
    (node,) = (node for node in graph.nodes if node.kind == kind)
    return node


# --- convolutions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, ["Conv2D"]),
        ({"pads": [1, 1]}, ["Conv2D"]),
        ({"pads": [1, 1], "strides": [2]}, ["Conv2D"]),  # 9 odd: SAME is symmetric
        ({"pads": [2, 0]}, ["Pad", "Conv2D"]),  # causal
        ({"pads": [2, 2], "dilations": [2]}, ["Conv2D"]),
        ({"pads": [4, 0], "dilations": [2], "strides": [3]}, ["Pad", "Conv2D"]),
        ({"auto_pad": "SAME_UPPER", "strides": [2]}, ["Conv2D"]),
        ({"auto_pad": "SAME_LOWER", "strides": [4]}, ["Conv2D"]),
        ({"auto_pad": "VALID", "strides": [3]}, ["Conv2D"]),
        ({"per_channel": False, "bias": False}, ["Conv2D"]),
    ],
)
def test_conv(attributes, expected):
    q = Qdq()
    x = q.input((3, LENGTH))
    graph = compare(q.model(q.qdq(q.conv(x, (5, 3, 3), **attributes), 0.4, -7)), expected)
    node = the(graph, "Conv2D")
    assert graph["input"].shape == (1, 1, LENGTH, 3)
    assert graph[node.inputs[1]].shape == (5, 1, 3, 3)
    assert (node.op.stride[0], node.op.dilation[0]) == (1, 1)
    assert graph["output"].shape == (1, 1, graph["output"].shape[2], 5)


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("attributes", [{"pads": [1, 1]}, {"pads": [0, 2], "dilations": [2], "strides": [2]}])
def test_depthwise(multiplier, attributes):
    q = Qdq()
    x = q.input((4, LENGTH))
    y = q.conv(x, (4 * multiplier, 1, 3), group=4, **attributes)
    pad = [] if attributes["pads"] == [1, 1] else ["Pad"]
    graph = compare(q.model(q.qdq(y, 0.2, 10)), [*pad, "DepthwiseConv2D"])
    node = the(graph, "DepthwiseConv2D")
    assert node.op.depth_multiplier == multiplier
    assert graph[node.inputs[1]].shape == (1, 1, 3, 4 * multiplier)
    assert graph[node.inputs[1]].quantization.axis in (None, 3)


def test_grouped():
    q = Qdq()
    y = q.conv(q.input((6, LENGTH)), (8, 3, 3), group=2)
    graph = compare(q.model(q.qdq(y, 0.3, 0)), ["Conv2D"])
    assert graph[graph.nodes[0].inputs[1]].shape == (8, 1, 3, 3)


def test_the_weights_of_the_file_keep_name_integers_and_scales():
    q = Qdq()
    x = q.input((3, LENGTH))
    integers = q.rng.integers(-127, 128, (4, 3, 5)).astype(np.int8)
    scale = q.rng.uniform(0.002, 0.01, 4).astype(np.float32)
    w = q.dq(integers, scale)
    graph = lower(q.model(q.qdq(q.node("Conv", x, w), 0.4, 0)))
    assert np.array_equal(graph[w].data[:, 0], integers.transpose(0, 2, 1))
    assert np.array_equal(graph[w].quantization.scale, scale)


def test_norm_bias_and_activation_are_fused_as_in_two_dimensions():
    q = Qdq()
    y = q.conv(q.input((3, LENGTH)), (4, 3, 3), bias=False)
    y = q.node("Add", y, q.const(q.rng.normal(size=(1, 4, 1)).astype(np.float32)))
    norm = [q.const(v.astype(np.float32)) for v in (*q.rng.normal(size=(3, 4)), q.rng.uniform(0.5, 2, 4))]
    y = q.node("Relu", q.node("BatchNormalization", y, *norm))
    compare(q.model(q.qdq(y, 0.05, -128)), ["Conv2D"], share=0.1)


def test_a_lone_norm_is_a_depthwise_convolution():
    q = Qdq()
    norm = [q.const(v.astype(np.float32)) for v in (*q.rng.normal(size=(3, 4)), q.rng.uniform(0.5, 2, 4))]
    y = q.node("BatchNormalization", q.input((4, LENGTH)), *norm)
    compare(q.model(q.qdq(y, 0.05, 0)), ["DepthwiseConv2D"], **TIES)


# --- pools and what else keeps positions apart ----------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "zero", "expected"),
    [
        ({"kernel_shape": [2], "strides": [2]}, 3, ["MaxPool2D"]),
        ({"kernel_shape": [2], "strides": [2], "ceil_mode": 1}, 3, ["MaxPool2D"]),
        ({"kernel_shape": [3], "strides": [2], "pads": [1, 1]}, 3, ["MaxPool2D"]),
        ({"kernel_shape": [3], "strides": [1], "pads": [2, 0]}, -128, ["Pad", "MaxPool2D"]),
    ],
)
def test_max_pool(attributes, zero, expected):
    q = Qdq()
    x = q.input((3, LENGTH), zero=zero)
    compare(q.model(q.qdq(q.node("MaxPool", x, **attributes), 0.05, zero)), expected, **EXACT)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"kernel_shape": [2], "strides": [2]}, ["AveragePool2D"]),
        ({"kernel_shape": [3], "pads": [1, 1]}, ["AveragePool2D"]),
        ({"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 1}, ["Pad", "AveragePool2D"]),
    ],
)
def test_average_pool(attributes, expected):
    q = Qdq()
    y = q.node("AveragePool", q.input((3, LENGTH)), **attributes)
    compare(q.model(q.qdq(y, 0.05, 3)), expected, steps=1, share=0.5)


@pytest.mark.parametrize("axes", [[2], [1], [-1], [1, 2]])
@pytest.mark.parametrize("keep", [0, 1])
def test_mean_behind_a_convolution(axes, keep):
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
    y = q.node("ReduceMean", x, q.const(np.array(axes)), keepdims=keep)
    graph = compare(q.model(q.qdq(y, 0.2, 0)), ["Conv2D", "Mean"], steps=1, share=0.3, count=20)
    rank = len(graph["output"].shape)
    assert rank == (4 if keep else 3 - len(axes))


def test_global_pool_flatten_dense():
    q = Qdq()
    x = q.qdq(q.node("GlobalAveragePool", q.input((6, LENGTH))), 0.05, 0)
    model = q.model(q.qdq(q.gemm(q.node("Flatten", x), 6, 3), 0.1, 0))
    compare(model, ["Mean", "Reshape", "FullyConnected"], steps=2, share=0.4, count=20)


@pytest.mark.parametrize("shape", [(), (4, 1), (1, 4, 1), (4, 7), (1, 1, 7), (7,)])
def test_constants_of_any_rank(shape):
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
    constant = q.dq(q.rng.integers(-128, 128, shape).astype(np.int8), 0.1)
    y = q.qdq(q.node("Mul", x, constant), 1.0, 0)
    compare(q.model(y), ["Conv2D", "Mul"], share=0.1)


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_concat(axis):
    q = Qdq()
    x = q.input((3, LENGTH))
    a = q.conv(x, (3, 3, 3), pads=[1, 1])
    y = q.node("Concat", q.qdq(a, 0.05, 3), x, axis=axis)
    compare(q.model(q.qdq(y, 0.05, 3)), ["Conv2D", "Concatenation"], share=0.1)


@pytest.mark.parametrize("axes", [None, [2], [1, -1]])
def test_pads_of_their_own(axes):
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
    amounts = {None: [0, 1, 2, 0, 0, 3], (2,): [2, 3], (1, -1): [1, 2, 0, 3]}[axes and tuple(axes)]
    inputs = [x, q.const(np.array(amounts)), *(["", q.const(np.array(axes))] if axes else [])]
    y = q.node("MaxPool", q.node("Pad", *inputs), kernel_shape=[2])
    compare(q.model(q.qdq(y, 0.4, 0)), ["Conv2D", "Pad", "MaxPool2D"], share=0.1)


def test_softmax_over_channels_stays_and_over_positions_is_moved():
    for axis, expected in ((1, ["Conv2D", "Softmax"]), (2, ["Conv2D", "Transpose", "Softmax", "Reshape"])):
        q = Qdq()
        x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
        y = q.qdq(q.node("Softmax", x, axis=axis), 1 / 256, -128)
        compare(q.model(y), expected, steps=2, share=0.2)


# --- borders --------------------------------------------------------------------------------------


def test_flattened_sequences_take_no_transpose():
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
    graph = compare(
        q.model(q.qdq(q.gemm(q.node("Flatten", x), 28, 3), 2.0, 0)),
        ["Conv2D", "Reshape", "FullyConnected"],
        share=0.1,
    )
    assert graph["output"].shape == (1, 3)


def test_a_dense_layer_over_channels_takes_no_transpose():
    """Conv1d, transpose, Linear, transpose, Conv1d: the same bytes all the way."""
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
    moved = q.qdq(q.node("Transpose", x, perm=[0, 2, 1]), 0.4, 0)
    mixed = q.qdq(q.node("MatMul", moved, q.weights(4, 6, axis=1)[0]), 0.8, 0)
    back = q.qdq(q.node("Transpose", mixed, perm=[0, 2, 1]), 0.8, 0)
    model = q.model(q.qdq(q.conv(back, (2, 6, 3)), 4.0, 0))
    compare(model, ["Conv2D", "FullyConnected", "Conv2D"], share=0.1)


def test_positions_as_channels_take_one_transpose():
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
    moved = q.qdq(q.node("Transpose", x, perm=[0, 2, 1]), 0.4, 0)
    compare(q.model(q.qdq(q.conv(moved, (2, 7, 3)), 4.0, 0)), ["Conv2D", "Transpose", "Conv2D"], share=0.1)


def test_a_signal_without_channels_and_an_image_with_them():
    q = Qdq()
    x = q.qdq(q.node("Unsqueeze", q.input((LENGTH,)), q.const(np.array([1]))), 0.05, 3)
    x = q.qdq(q.conv(x, (4, 1, 3), pads=[1, 1]), 0.2, 0)
    x = q.qdq(q.node("Unsqueeze", x, q.const(np.array([2]))), 0.2, 0)
    model = q.model(q.qdq(q.conv(x, (3, 4, 1, 3)), 1.0, 0))
    graph = compare(model, ["Reshape", "Conv2D", "Conv2D"], share=0.1)
    assert graph["input"].shape == (1, LENGTH)


def test_a_constant_read_by_sequences_and_images():
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, LENGTH)), (4, 3, 3)), 0.4, 0)
    constant = q.dq(q.rng.integers(-128, 128, (4, 1)).astype(np.int8), 0.1)
    a = q.qdq(q.node("Mul", x, constant), 1.0, 0)
    image = q.qdq(q.node("Reshape", a, q.const(np.array([1, 1, 4, 7]))), 1.0, 0)
    model = q.model(q.qdq(q.node("Mul", image, constant), 6.0, 0))
    # A tie of the first Mul is multiplied by up to 12.8 / 6 in the second.
    compare(model, ["Conv2D", "Mul", "Reshape", "Mul", "Transpose", "Reshape"], steps=3, share=0.25)


def test_sequences_without_convolutions_stay_as_they_are():
    q = Qdq()
    y = q.qdq(q.node("MatMul", q.input((LENGTH, 6)), q.weights(6, 4, axis=1)[0]), 0.3, 0)
    graph = compare(q.model(q.qdq(q.node("Relu", y), 0.2, -128)), ["FullyConnected", "Quantize"], **TIES)
    assert graph["input"].shape == (1, LENGTH, 6)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (("MaxPool", {"kernel_shape": [2], "dilations": [2]}), "dilation"),
        (("MaxPool", {"kernel_shape": [3], "pads": [2, 0]}), "may be negative"),
        (("AveragePool", {"kernel_shape": [3], "pads": [2, 0]}), "is not counted"),
    ],
)
def test_what_cannot_be_exact_is_refused(node, reason):
    q = Qdq()
    op, attributes = node
    model = q.model(q.qdq(q.node(op, q.input((3, LENGTH)), **attributes), 0.05, 3))
    with pytest.raises(UnsupportedError, match=reason) as caught:
        lower(model)
    assert (caught.value.op, bool(caught.value.remedy)) == (op, True)


def test_a_transposed_convolution_and_a_reflecting_pad_are_refused_by_name():
    q = Qdq()
    x = q.input((3, LENGTH))
    padded = q.node("Pad", x, q.const(np.array([0, 0, 1, 0, 0, 1])), mode="reflect")
    y = q.qdq(
        q.node("ConvTranspose", q.qdq(q.conv(padded, (4, 3, 3)), 0.4, 0), q.weights(4, 2, 3)[0]), 1.0, 0
    )
    refusals = check(q.model(y))
    assert [(refusal.op, refusal.reason.split(";")[0]) for refusal in refusals] == [
        ("Pad", "it does not pad with constant zeros"),
        ("ConvTranspose", "there is no exact device form of this op"),
    ]


def test_a_float_network_is_checked_before_training():
    q = Qdq()
    q.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, LENGTH]))
    w = q.const(q.rng.normal(size=(4, 3, 3)).astype(np.float32))
    y = q.node("MaxPool", q.node("Relu", q.node("Conv", "image", w, pads=[2, 0])), kernel_shape=[2])
    assert check(q.model(y)) == []
    (refusal,) = check(q.model(q.node("ReduceMax", y)))
    assert refusal.op == "ReduceMax"


# --- random networks ------------------------------------------------------------------------------


def _step(draw, q: Qdq, x: str, shape: tuple[int, int]) -> tuple[str, tuple[int, int]]:
    """One random move of a sequence; those that round are left out, so that integers compare exactly."""
    channels, length = shape
    kind = draw(st.sampled_from(["pool", "pad", "relu", "concat", "transpose", "reshape", "around"]))
    if kind == "pool":
        kernel = draw(st.integers(1, min(3, length)))
        return q.node("MaxPool", x, kernel_shape=[kernel]), (channels, length - kernel + 1)
    if kind == "pad":
        begin, end = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        return q.node("Pad", x, q.const(np.array([0, 0, begin, 0, 0, end]))), (channels, length + begin + end)
    if kind == "concat":
        axis = draw(st.sampled_from([1, 2]))
        joined = q.node("Concat", x, q.node("Relu", x), axis=axis)
        return joined, ((2 * channels, length) if axis == 1 else (channels, 2 * length))
    if kind == "transpose":
        return q.node("Transpose", x, perm=[0, 2, 1]), (length, channels)
    if kind == "reshape":
        return q.node("Reshape", x, q.const(np.array([1, 1, channels * length]))), (1, channels * length)
    if kind == "around":
        there = q.node("Unsqueeze", x, q.const(np.array([draw(st.integers(1, 3))])))
        return q.node("Reshape", there, q.const(np.array([1, channels, length]))), shape
    return q.node("Relu", x), shape


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moves_between_pools_are_exact(data):
    draw = data.draw
    q = Qdq()
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    x = q.input(shape)
    for _ in range(draw(st.integers(1, 6))):
        if shape[0] * shape[1] > 2000:
            break
        x, shape = _step(draw, q, x, shape)
    model = q.model(q.node("Relu", q.node("MaxPool", x, kernel_shape=[1])))
    graph = lower(model)
    legality.check(graph)
    assert set(kinds(graph)) <= {"Reshape", "Transpose", "Concatenation", "Pad", "MaxPool2D", "Relu"}
    inputs = device_inputs(graph, 2)
    assert np.array_equal(run(graph, inputs), ort_integers(model, inputs, graph))
