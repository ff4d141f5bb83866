from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from example_graphs import EXAMPLES, activation, graph_of, int32, network, real

from sgsc_edge.errors import InternalError
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Node, Op, Padding, Quantization, Tensor
from sgsc_edge.graph.legality import check, findings
from sgsc_edge.graph.op_rules import OP_RULES
from sgsc_edge.graph.shapes import infer_shape, same_padding, window_output
from sgsc_edge.graph.tflite_ops import OP_ROWS, ROW_OF_OP


@pytest.mark.parametrize("name", [*EXAMPLES, "network"])
def test_legal_graphs_have_no_findings(name: str) -> None:
    graph = EXAMPLES.get(name) or network()
    assert findings(graph) == ()
    check(graph)


def test_every_op_has_one_row_in_each_table() -> None:
    ops = {kind for kind in Op.__subclasses__() if kind.__module__ == Op.__module__}
    assert set(OP_RULES) == set(ROW_OF_OP) == ops
    assert len({row.builtin for row in OP_ROWS}) == len(OP_ROWS)
    assert {type(graph.nodes[0].op) for graph in EXAMPLES.values()} == ops


def changed(graph: Graph, name: str, **fields: object) -> Graph:
    return replace(graph, tensors={**graph.tensors, name: replace(graph[name], **fields)})


def with_op(graph: Graph, op: Op) -> Graph:
    return replace(graph, nodes=(replace(graph.nodes[0], op=op), *graph.nodes[1:]))


def scaled(scale: object, axis: int | None = None, zero_point: int = 0) -> Quantization:
    values = np.atleast_1d(np.asarray(scale, np.float32))
    return Quantization(values, np.full(values.size, zero_point, np.int64), axis)


CONV, DENSE, DEPTHWISE = EXAMPLES["conv_int8"], EXAMPLES["dense_int8"], EXAMPLES["depthwise_int8"]


def _bias(change: Callable[[Quantization], Quantization]) -> Graph:
    old = CONV["bias"].quantization
    assert old is not None
    return changed(CONV, "bias", quantization=change(old))


def _reshaped(graph: Graph, name: str, shape: tuple[int, ...]) -> Graph:
    return changed(graph, name, shape=shape)


def _slice(begin: list[int], end: list[int], strides: list[int], shrink: int = 0) -> Graph:
    vectors = [int32("b", begin), int32("e", end), int32("s", strides)]
    return graph_of(ir.StridedSlice(0, 0, shrink), [real("x", (3,)), *vectors], real("y", (1,)))


def _low_weights(graph: Graph, value: int) -> Graph:
    data = np.full(graph["weights"].shape, value, np.int8)
    return changed(graph, "weights", data=data)


def _chain(*names: tuple[str, str]) -> Graph:
    tensors = {name: activation(name, (1, 2)) for pair in names for name in pair}
    nodes = tuple(Node(ir.Relu(), (a,), (b,)) for a, b in names)
    return Graph("chain", tensors, nodes, (names[0][0],), (names[-1][1],))


NOT_LEGAL: dict[str, tuple[Graph, str]] = {
    # structure
    "no nodes": (Graph("g", {"x": activation("x", (1, 2))}, (), ("x",), ("x",)), "at least one node"),
    "dangling input": (
        replace(CONV, nodes=(replace(CONV.nodes[0], inputs=("x", "weights", "b")),)),
        "input 'b' names no tensor",
    ),
    "dangling output": (
        replace(CONV, nodes=(replace(CONV.nodes[0], outputs=("z",)),)),
        "output 'z' names no tensor",
    ),
    "graph output computed by nothing": (replace(CONV, outputs=("x",)), "output 'x' is not computed"),
    "unknown graph input": (replace(CONV, inputs=("x", "q")), "input 'q' names no tensor"),
    "constant graph input": (replace(CONV, inputs=("x", "bias")), "'bias' is a constant"),
    "not topological": (
        replace(_chain(("a", "b"), ("b", "c")), nodes=_chain(("a", "b"), ("b", "c")).nodes[::-1]),
        "input 'b' is not computed by an earlier node",
    ),
    "cycle": (
        replace(_chain(("a", "b"), ("b", "a")), inputs=("b",), outputs=("b",)),
        "output 'b' is already defined",
    ),
    "defined twice": (
        replace(_chain(("a", "b")), nodes=_chain(("a", "b")).nodes * 2),
        "output 'b' is already defined",
    ),
    "constant written": (
        changed(_chain(("a", "b")), "b", data=np.zeros((1, 2), np.int8)),
        "output 'b' is already defined",
    ),
    "unused tensor": (
        replace(CONV, tensors={**CONV.tensors, "spare": int32("spare", [1])}),
        "tensor 'spare': is used by no node",
    ),
    "stored under another name": (
        replace(CONV, tensors={**CONV.tensors, "y": replace(CONV["y"], name="other")}),
        "not its own",
    ),
    "output twice": (replace(CONV, outputs=("y", "y")), "listed twice"),
    # tensors
    "empty dimension": (_reshaped(_chain(("a", "b")), "a", (1, 0)), "sizes are positive"),
    "too many values": (_reshaped(_chain(("a", "b")), "a", (2**20, 2**20)), "sizes are positive"),
    "too many dimensions": (_reshaped(_chain(("a", "b")), "a", (1,) * 6), "6 dimensions, at most 5"),
    "NaN": (
        changed(EXAMPLES["conv_float32"], "bias", data=np.full(3, np.nan, np.float32)),
        "tensor 'bias': holds NaN",
    ),
    "zero point outside int8": (
        changed(_chain(("a", "b")), "a", quantization=scaled(0.1, zero_point=128)),
        "zero point outside -128 to 127",
    ),
    "quantized float": (
        changed(EXAMPLES["relu_float32"], "x", quantization=scaled(0.1)),
        "is float32 and has quantization",
    ),
    "axis outside the shape": (
        changed(CONV, "weights", quantization=scaled([0.1] * 3, axis=4)),
        "along axis 4 of 4 dimensions",
    ),
    "wrong count of scales": (
        changed(CONV, "weights", quantization=scaled([0.1] * 2, axis=0)),
        "2 scales for the 3 channels",
    ),
    "int4 beyond four bits": (
        changed(EXAMPLES["dense_int4"], "weights", data=np.full((5, 9), 8, np.int8)),
        "outside int4",
    ),
    # operands
    "arity": (replace(CONV, nodes=(replace(CONV.nodes[0], inputs=("x", "weights")),)), "must have 3 and 1"),
    "dtypes": (changed(EXAMPLES["relu_int8"], "y", dtype=DType.UINT8), "int8 -> uint8, may take"),
    "no quantization": (changed(_chain(("a", "b")), "a", quantization=None), "no quantization parameters"),
    "per-channel activation": (
        changed(_chain(("a", "b")), "a", quantization=scaled([0.1, 0.2], axis=1)),
        "must be per tensor",
    ),
    "weights not constant": (
        changed(replace(DENSE, inputs=("x", "weights")), "weights", data=None),
        "weights 'weights' must be a constant",
    ),
    "rank": (
        graph_of(ir.Softmax(), [real("x", (1, 1, 1, 1, 2))], real("y", (1, 1, 1, 1, 2))),
        "must have 1 to 4",
    ),
    "rank of weights": (
        changed(DEPTHWISE, "weights", shape=(8,), data=np.zeros(8, np.int8), quantization=scaled(0.1)),
        "must have 4 to 4",
    ),
    # attributes
    "stride": (with_op(CONV, ir.Conv2D((0, 1))), "stride (0, 1) must lie in 1 to 32767"),
    "reach": (with_op(CONV, ir.Conv2D((1, 1), (1, 20000), Padding.SAME)), "reaches over 40001 values"),
    "activation in concatenation": (
        with_op(EXAMPLES["concat_int8"], ir.Concatenation(3, ir.Activation.RELU)),
        "cannot be fused",
    ),
    "eleven inputs": (
        graph_of(ir.Concatenation(1), [real(f"x{i}", (1, 1)) for i in range(11)], real("y", (1, 11))),
        "11 inputs, at most 10",
    ),
    "beta": (with_op(EXAMPLES["softmax_int8"], ir.Softmax(float("nan"))), "beta nan"),
    # quantization
    "weights with a zero point": (
        changed(DENSE, "weights", quantization=scaled(0.01, zero_point=1)),
        "a zero point that is not 0",
    ),
    "weights at -128": (_low_weights(CONV, -128), "hold -128, below -127"),
    "int4 weights at -8": (_low_weights(EXAMPLES["dense_int4"], -8), "hold -8, below -7"),
    "weights along the wrong axis": (
        changed(CONV, "weights", quantization=scaled([0.1] * 4, axis=3)),
        "along axis 3, must be 0",
    ),
    "depthwise weights per tensor": (
        changed(DEPTHWISE, "weights", quantization=scaled(0.1)),
        "1 scales for 8 channels",
    ),
    "bias scale": (
        _bias(lambda old: replace(old, scale=np.nextafter(old.scale, np.float32(1)))),
        "(3 channels)",
    ),
    "bias zero point": (
        _bias(lambda old: replace(old, zero_point=old.zero_point + 1)),
        "zero point that is not 0",
    ),
    "bias per tensor": (
        changed(CONV, "bias", quantization=scaled(0.1)),
        "has 1 scales, the weights 3",
    ),
    "accumulator": (
        changed(CONV, "bias", data=np.full(3, -(2**31) + 1, np.int32)),
        "beyond int32",
    ),
    "unequal parameters": (
        changed(EXAMPLES["max_pool_int8"], "y", quantization=scaled(0.05, zero_point=-2)),
        "must have the same scale and zero point",
    ),
    "relu6 requantizes": (
        changed(EXAMPLES["relu6_int8"], "y", quantization=scaled(0.06, zero_point=-3)),
        "must have the same scale and zero point",
    ),
    "softmax output": (
        changed(EXAMPLES["softmax_int8"], "y", quantization=scaled(1 / 255, zero_point=-128)),
        "must be scale 1/256",
    ),
    "softmax input": (
        changed(EXAMPLES["softmax_int8"], "x", quantization=scaled(2.0**-26)),
        "must exceed 2^-26",
    ),
    "tanh output": (
        changed(EXAMPLES["tanh_int8"], "y", quantization=scaled(1 / 256, zero_point=0)),
        "must be scale 1/128, zero point 0",
    ),
    "fixed-point input": (
        changed(EXAMPLES["logistic_int8"], "x", quantization=scaled(8)),
        "must be at least 2^-28 and below 8",
    ),
    "hard swish refused": (
        changed(EXAMPLES["hard_swish_int8"], "y", quantization=scaled(0.05 / 128)),
        "2^-9 to 128 times output scale",
    ),
    "hard swish of tiny values": (
        changed(EXAMPLES["hard_swish_int8"], "x", quantization=scaled(2.0**-23)),
        "2^-22 to 2^20",
    ),
    "slope": (with_op(EXAMPLES["leaky_relu_int8"], ir.LeakyRelu(-0.5)), "alpha -0.5"),
    "slopes": (
        graph_of(ir.PRelu(), [real("x", (1, 1)), real("a", (3,))], real("y", (1, 3))),
        "alpha [3] is larger than x [1, 1]",
    ),
    "two ways of counting": (
        with_op(EXAMPLES["bilinear_int8"], ir.ResizeBilinear(True, True)),
        "exclude each other",
    ),
    "resized beyond the image": (
        graph_of(
            ir.ResizeBilinear(),
            [activation("x", (1, 2000, 1, 1)), int32("size", [3000, 1])],
            activation("y", (1, 3000, 1, 1)),
        ),
        "2000 values resized to 3000 read beyond",
    ),
    "size": (
        graph_of(ir.ResizeBilinear(), [real("x", (1, 2, 2, 1)), int32("s", [0, 4])], real("y", (1, 1, 4, 1))),
        "size [0, 4] must be two positive numbers",
    ),
    "squares": (
        graph_of(
            ir.L2Normalization(),
            [activation("x", (1, 32769))],
            activation("y", (1, 32769), 1 / 128, 0),
        ),
        "32769 values to normalize",
    ),
    "products": (
        graph_of(
            ir.BatchMatMul(adj_y=True),
            [activation("x", (1, 32769)), activation("z", (1, 32769))],
            activation("y", (1, 1)),
        ),
        "32769 products to add up",
    ),
    "columns and rows": (
        graph_of(ir.BatchMatMul(), [real("x", (2, 3)), real("z", (2, 3))], real("y", (2, 3))),
        "a [2, 3] has 3 columns, b [2, 3] 2 rows",
    ),
    "leading dimensions": (
        graph_of(ir.BatchMatMul(), [real("x", (2, 3, 3)), real("z", (3, 3, 3))], real("y", (3, 3, 3))),
        "leading dimensions of",
    ),
    "indices": (
        graph_of(ir.Gather(1), [activation("x", (1, 3)), int32("i", [0, 3])], activation("y", (1, 2))),
        "indices 0 to 3 leave the 3 values of axis 1",
    ),
    "axis of indices": (
        graph_of(ir.Gather(2), [real("x", (1, 3)), int32("i", [0])], real("y", (1, 3, 1))),
        "axis 2 is not a dimension",
    ),
    "packed shapes": (
        graph_of(ir.Pack(2), [real("x", (1, 2)), real("z", (2, 1))], real("y", (2, 1, 2))),
        "differ",
    ),
    "packed count": (with_op(EXAMPLES["pack_int8"], ir.Pack(3, 1)), "2 inputs, values_count is 3"),
    "packed axis": (with_op(EXAMPLES["pack_float32"], ir.Pack(2, 3)), "axis 3 is no place"),
    "stride 0": (_slice([0], [2], [0]), "the stride of axis 0 is 0"),
    "nothing taken": (_slice([2], [1], [1]), "nothing is left of axis 0"),
    "shrunk outside": (_slice([3], [4], [1], 1), "axis 0 of 3 values has none at 3"),
    "slice of two axes": (_slice([0, 0], [1, 1], [1, 1]), "must have 1 values each"),
    "add multiplier": (
        changed(EXAMPLES["add_int8"], "y", quantization=scaled(0.05 / 2**8)),
        "below 2^8 x output scale",
    ),
    "requantization multiplier": (
        changed(EXAMPLES["relu_int8"], "y", quantization=scaled(1e-12)),
        "must stay below 2^30",
    ),
    "requantization multiplier of weights": (
        changed(CONV, "y", quantization=scaled(0.05 * 0.03 / 256)),
        "multiplier 256 must stay below 256",
    ),
    "infinite multiplier": (
        changed(DENSE, "y", quantization=scaled(1e-45)),
        "multiplier inf must stay below 256",
    ),
    # shapes
    "output shape": (_reshaped(CONV, "y", (1, 4, 6, 4)), "has shape [1, 4, 6, 4], computed is [1, 4, 6, 3]"),
    "window too large": (
        with_op(CONV, ir.Conv2D((1, 1), (4, 1))),
        "a window of 3 (dilation 4) does not fit into 7 values",
    ),
    "depth multiplier": (with_op(DEPTHWISE, ir.DepthwiseConv2D()), "depth multiplier 1"),
    "axes": (
        graph_of(ir.Mean(), [real("x", (1, 2)), int32("axes", [1, -1])], real("y", (1,))),
        "distinct dimensions",
    ),
    "negative padding": (
        graph_of(ir.Pad(), [real("x", (2,)), int32("p", [[-1, 1]])], real("y", (2,))),
        "not negative",
    ),
    "reshape": (
        graph_of(ir.Reshape(), [real("x", (6,)), int32("s", [4, -1])], real("y", (4, 1))),
        "does not reshape",
    ),
    "permutation": (
        graph_of(ir.Transpose(), [real("x", (2, 2)), int32("p", [0, 0])], real("y", (2, 2))),
        "does not list the 2 dimensions",
    ),
    "broadcast": (
        graph_of(ir.Add(), [real("x", (2, 3)), real("z", (2,))], real("y", (2, 3))),
        "do not broadcast",
    ),
    "broadcast of rank 5": (
        graph_of(ir.Add(), [real("x", (1, 1, 1, 1, 2)), real("z", (2,))], real("y", (1, 1, 1, 1, 2))),
        "at most 4 dimensions",
    ),
    "concatenated shapes": (
        graph_of(ir.Concatenation(1), [real("x", (1, 2)), real("z", (2, 2))], real("y", (1, 4))),
        "differ outside axis 1",
    ),
    "rows of a dense layer": (
        _reshaped(_reshaped(DENSE, "x", (1, 10)), "y", (1, 5)),
        "does not divide into rows of 9",
    ),
    "groups": (_reshaped(CONV, "x", (1, 7, 6, 6)), "into equal groups"),
}


@pytest.mark.parametrize("name", NOT_LEGAL)
def test_each_rule_finds_its_violation(name: str) -> None:
    graph, reason = NOT_LEGAL[name]
    found = [str(finding) for finding in findings(graph)]
    assert any(reason in text for text in found), found


def test_all_findings_come_at_once_and_name_node_op_and_pass() -> None:
    graph = _low_weights(_reshaped(network(), "logits", (1, 4)), -128)
    graph = changed(graph, "pooled", quantization=scaled(0.1))
    with pytest.raises(InternalError) as error:
        check(graph, after="after folding")
    text = str(error.value)
    assert "graph 'network', after folding" in text
    assert "node 0 'the node' (Conv2D): weights 'weights' hold -128" in text
    assert "node 1 (MaxPool2D)" in text
    assert "node 3 (FullyConnected): output 'logits' has shape [1, 4], computed is [1, 3]" in text


def test_unsupported_dtypes_are_marked_as_such() -> None:
    graph = graph_of(
        ir.Relu(),
        [Tensor("x", (1, 2), DType.INT16, scaled(0.1))],
        Tensor("y", (1, 2), DType.INT16, scaled(0.1)),
    )
    (finding,) = findings(graph)
    assert finding.unsupported


@pytest.mark.parametrize("name", ["dense_int8", "depthwise_int8", "conv_int4"])
def test_the_accumulators_limit_is_exact(name: str) -> None:
    graph = EXAMPLES[name]
    weights, x = graph["weights"].data, graph["x"].quantization
    assert weights is not None
    assert x is not None
    channel = np.moveaxis(weights, 3 if name == "depthwise_int8" else 0, 0)[0].astype(int)
    reach = int(np.abs(channel).sum()) * (127 - int(x.zero_point[0]))
    bias = np.zeros(graph["bias"].shape, np.int32)
    for value, legal in ((2**31 - 1 - reach, True), (2**31 - reach, False)):
        bias[0] = value
        assert (findings(changed(graph, "bias", data=bias.copy())) == ()) is legal


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "same", "valid", "padding"),
    [
        (7, 3, 2, 1, 4, 3, (1, 1)),
        (6, 3, 2, 1, 3, 2, (0, 1)),
        (5, 2, 1, 3, 5, 2, (1, 2)),
        (4, 1, 3, 1, 2, 2, (0, 0)),
    ],
)
def test_windows(
    size: int, kernel: int, stride: int, dilation: int, same: int, valid: int, padding: tuple[int, int]
) -> None:
    assert window_output(size, kernel, stride, dilation, Padding.SAME) == same
    assert window_output(size, kernel, stride, dilation, Padding.VALID) == valid
    assert same_padding(size, kernel, stride, dilation) == padding


@pytest.mark.parametrize("name", EXAMPLES)
def test_inferred_shapes_are_those_of_the_examples(name: str) -> None:
    graph = EXAMPLES[name]
    (node,) = graph.nodes
    assert infer_shape(node.op, graph.inputs_of(node)) == graph.outputs_of(node)[0].shape
