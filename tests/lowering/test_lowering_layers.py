"""Convolutions, dense layers, BatchNorm and activations against ONNX Runtime.

Outputs may differ by one step where ONNX rounds the float accumulator to even and TFLite the Q31 product
away from zero; saturating ops and moves compare exactly.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import numpy_helper
from qdq_builder import Qdq, compare, device_inputs, kinds, ort_integers

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph import ir
from sgsc_edge.graph.reference import run
from sgsc_edge.lowering import lower

SIZE = 9


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, ["Conv2D"]),
        ({"pads": [1, 1, 1, 1]}, ["Conv2D"]),
        ({"pads": [1, 1, 1, 1], "strides": [2, 2]}, ["Conv2D"]),  # 9 odd: SAME is symmetric
        ({"pads": [0, 1, 2, 1]}, ["Pad", "Conv2D"]),
        ({"pads": [2, 2, 2, 2], "dilations": [2, 2]}, ["Conv2D"]),
        ({"pads": [2, 0, 0, 1], "dilations": [2, 1], "strides": [1, 2]}, ["Pad", "Conv2D"]),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, ["Conv2D"]),
        ({"auto_pad": "SAME_LOWER", "strides": [1, 4]}, ["Conv2D"]),
        ({"auto_pad": "VALID", "strides": [3, 2]}, ["Conv2D"]),
        ({"per_channel": False}, ["Conv2D"]),
        ({"bias": False}, ["Conv2D"]),
    ],
)
def test_conv(attributes, expected):
    q = Qdq()
    x = q.input((3, SIZE, SIZE))
    compare(q.model(q.qdq(q.conv(x, (5, 3, 3, 3), **attributes), 0.4, -7)), expected)


def test_same_with_an_even_total_needs_a_pad_where_onnx_pads_both_sides():
    """Size 12, stride 2, kernel 3: SAME pads (0, 1), torch's padding=1 pads (1, 0 read)."""
    q = Qdq()
    x = q.input((3, 12, 12))
    y = q.conv(x, (4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    graph = compare(q.model(q.qdq(y, 0.4, 0)), ["Pad", "Conv2D"])
    assert graph[graph.nodes[0].inputs[1]].data.tolist() == [[0, 0], [1, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("even_lower", [True, False])
def test_auto_pad_lower_and_upper_differ_for_even_kernels(even_lower):
    q = Qdq()
    x = q.input((2, 8, 8))
    auto = "SAME_LOWER" if even_lower else "SAME_UPPER"
    y = q.qdq(q.conv(x, (3, 2, 2, 2), auto_pad=auto), 0.2, 0)
    compare(q.model(y), ["Pad", "Conv2D"] if even_lower else ["Conv2D"])


@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("per_channel", [True, False])
def test_depthwise(multiplier, per_channel):
    q = Qdq()
    x = q.input((4, SIZE, SIZE))
    y = q.conv(x, (4 * multiplier, 1, 3, 3), group=4, pads=[1, 1, 1, 1], per_channel=per_channel)
    graph = compare(q.model(q.qdq(y, 0.2, 10)), ["DepthwiseConv2D"])
    (node,) = graph.nodes
    assert node.op.depth_multiplier == multiplier
    assert graph[node.inputs[1]].shape == (1, 3, 3, 4 * multiplier)
    assert graph[node.inputs[1]].quantization.axis == 3


def test_grouped_conv():
    q = Qdq()
    x = q.input((6, SIZE, SIZE))
    graph = compare(q.model(q.qdq(q.conv(x, (8, 3, 3, 3), group=2), 0.3, 0)), ["Conv2D"])
    assert graph[graph.nodes[0].inputs[1]].shape == (8, 3, 3, 3)


def test_integers_and_scales_of_weights_and_bias_are_unchanged():
    q = Qdq()
    x = q.input((3, 5, 5))
    model = q.model(q.qdq(q.conv(x, (4, 3, 3, 3)), 0.4, 0))
    graph = lower(model)
    by_name = {t.name: t for t in model.graph.initializer}
    dq = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    _, weights, bias = graph.nodes[0].inputs
    integers, scale = (numpy_helper.to_array(by_name[name]) for name in dq[weights].input[:2])
    assert np.array_equal(graph[weights].data, integers.transpose(0, 2, 3, 1))
    assert np.array_equal(graph[weights].quantization.scale, scale)
    integers, scale = (numpy_helper.to_array(by_name[name]) for name in dq[bias].input[:2])
    assert np.array_equal(graph[bias].data, integers)
    assert np.array_equal(graph[bias].quantization.scale, scale)


@pytest.mark.parametrize("zero", [-128, -20, 127])
@pytest.mark.parametrize("x_zero", [-128, 127])
def test_zero_points_at_the_ends(zero, x_zero):
    q = Qdq()
    x = q.input((2, 6, 6), zero=x_zero)
    y = q.qdq(q.conv(x, (3, 2, 3, 3), pads=[1, 1, 1, 1]), 0.5, zero)
    compare(q.model(y), ["Conv2D"])


# --- dense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gemm", "gemm_plain", "matmul", "matmul_add", "gemm_no_bias", "transposed"])
def test_dense(form):
    q = Qdq()
    x = q.input((20,))
    if form == "gemm":
        y = q.gemm(x, 20, 7)
    elif form == "gemm_no_bias":
        y = q.node("Gemm", x, q.weights(7, 20)[0], transB=1)
    elif form == "transposed":  # a weight that the exporter transposes at run time
        y = q.node("MatMul", x, q.node("Transpose", q.weights(7, 20)[0], perm=[1, 0]))
    else:
        w, scale = q.weights(20, 7, axis=1)
        bias = q.bias(x, scale, 7)
        if form == "gemm_plain":
            y = q.node("Gemm", x, w, bias)
        else:
            y = q.node("MatMul", x, w)
            y = q.node("Add", bias, y) if form == "matmul_add" else y
    graph = compare(q.model(q.qdq(y, 0.3, 5)), ["FullyConnected"], count=40)
    assert graph[graph.nodes[0].inputs[1]].shape == (7, 20)


def test_dense_over_sequences_keeps_its_axes():
    q = Qdq()
    x = q.input((6, 20))
    graph = compare(
        q.model(q.qdq(q.node("MatMul", x, q.weights(20, 7, axis=1)[0]), 0.3, 0)), ["FullyConnected"]
    )
    assert graph.nodes[0].op.keep_num_dims
    assert graph["output"].shape == (1, 6, 7)


def test_float_bias_is_rounded_to_the_accumulators_step():
    q = Qdq()
    x = q.input((20,))
    w, scale = q.weights(7, 20)
    real = q.rng.normal(size=7).astype(np.float32)
    y = q.qdq(q.node("Gemm", x, w, q.const(real), transB=1), 0.3, 0)
    graph = compare(q.model(y), ["FullyConnected"], count=40)
    bias = graph[graph.nodes[0].inputs[2]]
    assert np.abs(bias.data * bias.quantization.scale - real).max() <= 0.51 * (np.float32(0.05) * scale).max()


# --- BatchNorm ------------------------------------------------------------------------------------


def _batch_norm(q, x, channels, gamma=None):
    gamma = q.rng.normal(size=channels).astype(np.float32) if gamma is None else np.float32(gamma)
    rest = [q.rng.normal(size=channels), q.rng.normal(size=channels), q.rng.uniform(0.5, 2, channels)]
    return q.node("BatchNormalization", x, *[q.const(np.float32(a)) for a in (gamma, *rest)])


def test_batch_norm_folds_into_scale_and_bias_and_negates_integers():
    q = Qdq()
    x = q.input((3, 6, 6))
    y = _batch_norm(q, q.conv(x, (4, 3, 3, 3)), 4, gamma=[1.5, -0.5, 0.0, 2.0])
    y = q.qdq(q.node("Relu", y), 0.1, -100)
    graph = compare(q.model(y), ["Conv2D"])
    (node,) = graph.nodes
    assert node.op.activation is ir.Activation.RELU
    before = next(t for t in q.initializers if list(t.dims) == [4, 3, 3, 3])
    integers = numpy_helper.to_array(before).transpose(0, 2, 3, 1)
    signs = np.array([1, -1, 0, 1]).reshape(-1, 1, 1, 1)
    assert np.array_equal(graph[node.inputs[1]].data, integers * signs)


def test_batch_norm_folds_into_dense():
    q = Qdq()
    x = q.input((20,))
    compare(q.model(q.qdq(_batch_norm(q, q.gemm(x, 20, 7), 7), 0.2, 0)), ["FullyConnected"], count=40)


def test_batch_norm_behind_a_quantizer_is_a_depthwise_conv():
    q = Qdq()
    x = q.input((5, 6, 6))
    y = _batch_norm(q, x, 5, gamma=[1.5, -0.5, 0.0, 2.0, -1e-3])
    compare(q.model(q.qdq(q.node("Relu", y), 0.05, -90)), ["DepthwiseConv2D"])


# --- activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "bounds", "scale", "zero", "fused"),
    [
        ("Relu", None, 0.2, -128, "none"),  # the integer range clamps by itself
        ("Relu", None, 0.2, -60, "relu"),
        ("Clip", (0, 6), 0.05, -100, "relu6"),
        ("Clip", (0, 6), 6 / 255, -128, "none"),
        ("Clip", (-1, 1), 0.02, 3, "relu_n1_to_1"),
        ("Clip", (0, None), 0.2, -60, "relu"),
        ("Clip", (-4, 3.96875), 1 / 32, 0, "none"),
        ("Clip", (-100, 100), 0.2, 0, "none"),
    ],
)
def test_fused_activation(op, bounds, scale, zero, fused):
    q = Qdq()
    x = q.input((3, 6, 6))
    y = q.conv(x, (4, 3, 3, 3))
    limits = ["" if b is None else q.const(np.float32(b)) for b in bounds or ()]
    y = q.node(op, y, *(limits if limits and limits[-1] else limits[:1]))
    graph = compare(q.model(q.qdq(y, scale, zero)), ["Conv2D"])
    assert graph.nodes[0].op.activation == fused


@pytest.mark.parametrize(
    ("scale", "zero", "expected"),
    [(0.05, 3, ["Relu"]), (0.0371, -50, ["Relu"]), (0.0371, -128, ["Quantize"])],
)
def test_relu_between_quantizers(scale, zero, expected):
    q = Qdq()
    x = q.input((3, 6, 6))
    compare(q.model(q.qdq(q.node("Relu", x), scale, zero)), expected)


def test_relu_that_changes_nothing_is_dropped():
    """Integers from zero point -128 upwards are not negative."""
    q = Qdq()
    x = q.input((3, 6, 6))
    y = q.qdq(q.conv(x, (4, 3, 3, 3)), 0.1, -128)
    compare(q.model(q.qdq(q.node("Relu", y), 0.1, -128)), ["Conv2D"])


def test_relu_without_a_quantizer_behind_it_keeps_its_inputs_parameters():
    q = Qdq()
    x = q.input((3, 6, 6))
    y = q.qdq(q.node("MaxPool", q.node("Relu", x), kernel_shape=[2, 2], strides=[2, 2]), 0.05, 3)
    compare(q.model(y), ["Relu", "MaxPool2D"], steps=0)


def test_quantizer_behind_a_pool_is_the_convs():
    """Quantizing is monotone, so it may stand before a MaxPool and a Flatten as well."""
    q = Qdq()
    x = q.input((3, 6, 6))
    y = q.node("Relu", q.conv(x, (4, 3, 3, 3)))
    y = q.qdq(q.node("Flatten", q.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])), 0.1, -128)
    compare(q.model(q.qdq(q.gemm(y, 16, 5), 0.3, 0)), ["Conv2D", "MaxPool2D", "Reshape", "FullyConnected"],
            share=0.2)  # fmt: skip


def test_requantize_between_two_quantizers():
    q = Qdq()
    x = q.input((3, 6, 6))
    compare(q.model(q.qdq(x, 0.0937, -4)), ["Quantize"])


def test_uint8_quantizers_are_shifted_to_int8():
    q = Qdq()
    q.input((3, 6, 6))  # the int8 pair is unused
    x = q.qdq("image", 0.05, 131, np.uint8)
    q.nodes = q.nodes[2:]
    y = q.node("Relu", q.conv(x, (4, 3, 3, 3)))
    graph = compare(q.model(q.qdq(y, 0.1, 0, np.uint8)), ["Conv2D"])
    assert graph["input"].quantization.zero_point.tolist() == [3]
    assert graph["output"].quantization.zero_point.tolist() == [-128]


def test_weights_quantized_from_float_constants():
    q = Qdq()
    x = q.input((20,))
    w = q.qdq(q.const(q.rng.normal(size=(7, 20)).astype(np.float32)), 0.03, 0)
    compare(q.model(q.qdq(q.node("Gemm", x, w, transB=1), 0.2, 0)), ["FullyConnected"], count=40)


def test_two_hundred_convs_lower_fast():
    q = Qdq()
    x = q.input((4, 6, 6))
    for _ in range(200):
        x = q.qdq(q.node("Relu", q.conv(x, (4, 4, 3, 3), pads=[1, 1, 1, 1])), 0.1, -128)
    model = q.model(x)
    start = time.process_time()
    assert kinds(lower(model)) == ["Conv2D"] * 200
    assert time.process_time() - start < 4


def test_the_same_model_gives_the_same_graph():
    q = Qdq()
    x = q.input((3, 6, 6))
    model = q.model(q.qdq(q.conv(x, (4, 3, 3, 3)), 0.4, 0))
    first, second = lower(model), lower(model)
    assert list(first.tensors) == list(second.tensors)
    assert first.nodes == second.nodes
    x = device_inputs(first)
    assert np.array_equal(run(first, x), run(second, x))
    assert ort_integers(model, x, first).shape == (4, 4, 4, 4)


@pytest.mark.parametrize(("scale", "zero"), [(0.05, 3), (0.0213, -50), (0.317, 100)])
def test_a_constant_beside_what_is_joined_lies_on_the_outputs_grid(scale, zero):
    """Its own integers there are those that the quantizer behind the Concat makes of its values."""
    q = Qdq()
    x = q.input((6, 16))
    constant = q.dq(q.rng.integers(-128, 128, (1, 1, 16)).astype(np.int8), 0.03)
    graph = compare(
        q.model(q.qdq(q.node("Concat", constant, x, axis=1), scale, zero)),
        share=0.2,  # QUANTIZE rounds twice
        expected=(["Concatenation"] if (scale, zero) == (0.05, 3) else ["Quantize", "Concatenation"]),
    )
    assert sum(tensor.elements == 16 for tensor in graph.constants()) == 1


@pytest.mark.parametrize("other", ["number", "row", "value"])
def test_operands_of_five_axes(other):
    """Kernels broadcast over four: axes of size 1 are left out, or all are one."""
    q = Qdq()
    x = q.node(
        "Transpose",
        q.node("Reshape", q.input((6, 4, 10)), q.const(np.array([0, 6, 4, 2, 5]))),
        perm=[0, 3, 1, 2, 4],
    )
    shape = {"number": (), "row": (1, 1, 5), "value": (2, 6, 4, 5)}[other]
    y = q.dq(q.rng.integers(-128, 128, shape).astype(np.int8), 0.02)
    made = q.qdq(q.node("Mul", x, y), 0.05, -3)
    graph = lower(q.model(made))
    inputs = device_inputs(graph, 4)
    difference = np.abs(run(graph, inputs).astype(int) - ort_integers(q.model(made), inputs, graph))
    assert difference.max() <= 1


def test_a_constant_on_another_grid_needs_a_quantizer_behind_what_joins_it():
    q = Qdq()
    x, k = q.input((4,), 0.01, 0), q.dq(np.full((1, 2), 100, np.int8), 0.05)
    model = q.model(q.qdq(q.gemm_rows(q.node("Concat", x, k, axis=1), 6, 5), 0.05, 0))
    with pytest.raises(UnsupportedError, match="different quantization and none follows it"):
        lower(model)
