"""One small legal graph for each op kind and dtype, all contents fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Graph, Node, Op, Padding, Quantization, Tensor

SOFTMAX = Quantization.per_tensor(1 / 256, -128)


def activation(name: str, shape: tuple[int, ...], scale: float = 0.05, zero_point: int = -3) -> Tensor:
    return Tensor(name, shape, DType.INT8, Quantization.per_tensor(scale, zero_point))


def real(name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(name, shape, DType.FLOAT32)


def int32(name: str, values: object) -> Tensor:
    data = np.asarray(values, np.int32)
    return Tensor(name, data.shape, DType.INT32, None, data)


def graph_of(op: Op, inputs: list[Tensor], output: Tensor, name: str = "example") -> Graph:
    fed = tuple(tensor.name for tensor in inputs if tensor.data is None)
    tensors = {tensor.name: tensor for tensor in (*inputs, output)}
    node = Node(op, tuple(tensor.name for tensor in inputs), (output.name,), "the node")
    return Graph(name, tensors, (node,), fed, (output.name,), {"note": b"kept"})


def weighted(
    op: Op, x: Tensor, shape: tuple[int, ...], y_shape: tuple[int, ...], dtype: DType, axis: int | None
) -> Graph:
    """A weighted op with per-channel parameters along ``axis`` (per tensor where None)."""
    random = np.random.default_rng(len(shape) + shape[0])
    channels = shape[axis or 0]
    if dtype is DType.FLOAT32:
        weights = Tensor("weights", shape, dtype, None, random.normal(size=shape).astype(np.float32))
        bias = Tensor("bias", (channels,), dtype, None, random.normal(size=channels).astype(np.float32))
        return graph_of(op, [real("x", x.shape), weights, bias], real("y", y_shape))
    assert x.quantization is not None
    scale = np.linspace(0.01, 0.03, channels if axis is not None else 1).astype(np.float32)
    limit = 7 if dtype is DType.INT4 else 127
    data = random.integers(-limit, limit + 1, shape).astype(np.int8)
    zeros = np.zeros(scale.size, np.int64)
    weights = Tensor("weights", shape, dtype, Quantization(scale, zeros, axis), data)
    bias_scale = x.quantization.scale[0] * scale
    bias = Tensor(
        "bias",
        (channels,),
        DType.INT32,
        Quantization(bias_scale, zeros, None if axis is None else 0),
        random.integers(-500, 500, channels).astype(np.int32),
    )
    return graph_of(op, [x, weights, bias], activation("y", y_shape, 0.3, 4))


def _weighted_graphs() -> dict[str, Graph]:
    image = activation("x", (1, 7, 6, 4))
    same = ir.Conv2D((2, 1), (1, 1), Padding.SAME, Activation.RELU)
    dilated = ir.Conv2D((1, 1), (2, 1), Padding.VALID, Activation.RELU6)
    depthwise = ir.DepthwiseConv2D((1, 2), (1, 1), Padding.SAME, 2)
    graphs = {}
    for dtype in (DType.INT8, DType.INT4, DType.FLOAT32):
        graphs |= {
            f"conv_{dtype}": weighted(same, image, (3, 3, 3, 4), (1, 4, 6, 3), dtype, 0),
            f"conv_dilated_{dtype}": weighted(dilated, image, (5, 3, 2, 4), (1, 3, 5, 5), dtype, 0),
            f"conv_grouped_{dtype}": weighted(ir.Conv2D(), image, (6, 1, 1, 2), (1, 7, 6, 6), dtype, 0),
            f"depthwise_{dtype}": weighted(depthwise, image, (1, 3, 3, 8), (1, 7, 3, 8), dtype, 3),
            f"dense_{dtype}": weighted(
                ir.FullyConnected(), activation("x", (1, 9)), (5, 9), (1, 5), dtype, None
            ),
        }
    # TFLM takes per-channel weights in dense layers as int8 only.
    graphs["dense_per_channel_int8"] = weighted(
        ir.FullyConnected(Activation.RELU), activation("x", (1, 8)), (5, 8), (1, 5), DType.INT8, 0
    )
    graphs["dense_keep_dims_int8"] = weighted(
        ir.FullyConnected(keep_num_dims=True), activation("x", (1, 3, 8)), (5, 8), (1, 3, 5), DType.INT8, None
    )
    graphs["dense_flattens_int8"] = weighted(
        ir.FullyConnected(), activation("x", (1, 2, 2, 3)), (5, 12), (1, 5), DType.INT8, None
    )
    return graphs


def _plain_graphs() -> dict[str, Graph]:
    graphs = {}
    for dtype, make in (("int8", activation), ("float32", real)):
        x = make("x", (1, 6, 5, 2))
        vector = make("x", (1, 8))

        def free(shape: tuple[int, ...], dtype: str = dtype) -> Tensor:
            return activation("y", shape, 0.08, 7) if dtype == "int8" else real("y", shape)

        def constant(shape: tuple[int, ...], dtype: str = dtype) -> Tensor:
            values = np.arange(int(np.prod(shape))).reshape(shape)
            if dtype == "int8":
                quantization = Quantization.per_tensor(0.05, -3)
                return Tensor("c", shape, DType.INT8, quantization, values.astype(np.int8))
            return Tensor("c", shape, DType.FLOAT32, None, values.astype(np.float32))

        pool = ((2, 3), (2, 1), Padding.SAME)
        softmax = Tensor("y", (1, 8), DType.INT8, SOFTMAX) if dtype == "int8" else real("y", (1, 8))
        tanh = activation("y", x.shape, 1 / 128, 0) if dtype == "int8" else real("y", x.shape)
        graphs |= {
            f"batch_matmul_{dtype}": graph_of(
                ir.BatchMatMul(adj_y=True), [x, constant((6, 1, 2))], free((1, 6, 5, 1))
            ),
            f"add_{dtype}": graph_of(ir.Add(Activation.RELU), [x, constant((5, 2))], free(x.shape)),
            f"sub_{dtype}": graph_of(ir.Sub(), [constant((6, 1, 2)), x], free(x.shape)),
            f"mul_{dtype}": graph_of(ir.Mul(), [x, constant((1, 6, 5, 2))], free(x.shape)),
            f"max_pool_{dtype}": graph_of(ir.MaxPool2D(*pool), [x], make("y", (1, 3, 5, 2))),
            f"average_pool_{dtype}": graph_of(ir.AveragePool2D(*pool), [x], make("y", (1, 3, 5, 2))),
            f"nearest_{dtype}": graph_of(
                ir.ResizeNearestNeighbor(half_pixel_centers=True),
                [x, int32("size", [3, 10])],
                make("y", (1, 3, 10, 2)),
            ),
            f"bilinear_{dtype}": graph_of(
                ir.ResizeBilinear(align_corners=True), [x, int32("size", [12, 3])], make("y", (1, 12, 3, 2))
            ),
            f"mean_{dtype}": graph_of(ir.Mean(), [x, int32("axes", [1, 2])], free((1, 2))),
            f"mean_keep_{dtype}": graph_of(
                ir.Mean(keep_dims=True), [x, int32("axes", [1, 2])], free((1, 1, 1, 2))
            ),
            f"concat_{dtype}": graph_of(
                ir.Concatenation(3), [x, constant((1, 6, 5, 3))], make("y", (1, 6, 5, 5))
            ),
            f"gather_{dtype}": graph_of(ir.Gather(-2), [x, int32("i", [4, 0, 4])], make("y", (1, 6, 3, 2))),
            f"embedding_{dtype}": graph_of(
                ir.Gather(), [constant((7, 3)), Tensor("i", (1, 4), DType.INT32)], make("y", (1, 4, 3))
            ),
            f"strided_slice_{dtype}": graph_of(
                ir.StridedSlice(begin_mask=1, end_mask=9, shrink_axis_mask=4),
                [
                    x,
                    *(
                        int32(name, v)
                        for name, v in zip("bes", ([0, 5, -2, 1], [0, 1, 0, 0], [1, -2, 1, 1]), strict=True)
                    ),
                ],
                make("y", (1, 2, 1)),
            ),
            f"pack_{dtype}": graph_of(ir.Pack(2, 1), [vector, constant((1, 8))], make("y", (1, 2, 8))),
            f"pad_{dtype}": graph_of(
                ir.Pad(), [x, int32("p", [[0, 0], [1, 2], [0, 3], [0, 0]])], make("y", (1, 9, 8, 2))
            ),
            f"reshape_{dtype}": graph_of(ir.Reshape(), [x, int32("shape", [1, -1])], make("y", (1, 60))),
            f"transpose_{dtype}": graph_of(
                ir.Transpose(), [x, int32("perm", [0, 3, 1, 2])], make("y", (1, 2, 6, 5))
            ),
            f"softmax_{dtype}": graph_of(ir.Softmax(), [vector], softmax),
            f"logistic_{dtype}": graph_of(ir.Logistic(), [vector], softmax),
            f"l2_normalization_{dtype}": graph_of(ir.L2Normalization(), [x], tanh),
            f"tanh_{dtype}": graph_of(ir.Tanh(), [x], tanh),
            f"hard_swish_{dtype}": graph_of(ir.HardSwish(), [x], free(x.shape)),
            f"leaky_relu_{dtype}": graph_of(ir.LeakyRelu(0.125), [x], free(x.shape)),
            f"prelu_{dtype}": graph_of(ir.PRelu(), [x, constant((1, 1, 2))], free(x.shape)),
            f"relu_{dtype}": graph_of(ir.Relu(), [x], free(x.shape)),
            f"relu6_{dtype}": graph_of(ir.Relu6(), [x], make("y", x.shape)),
        }
    counts = [Tensor(name, (1, 8), DType.INT32) for name in "xy"]
    graphs["cast"] = graph_of(ir.Cast(), [activation("x", (1, 8))], counts[1])
    graphs["add_int32"] = graph_of(ir.Add(), [counts[0], int32("first", [128])], counts[1])
    graphs["quantize"] = graph_of(ir.Quantize(), [real("x", (1, 8))], activation("y", (1, 8)))
    graphs["requantize"] = graph_of(ir.Quantize(), [activation("x", (1, 8))], activation("y", (1, 8), 0.1, 2))
    graphs["dequantize"] = graph_of(ir.Dequantize(), [activation("x", (1, 8))], real("y", (1, 8)))
    return graphs


EXAMPLES: dict[str, Graph] = {**_weighted_graphs(), **_plain_graphs()}


def network() -> Graph:
    """conv -> pool -> flatten -> int4 dense -> softmax."""
    conv = weighted(
        ir.Conv2D(activation=Activation.RELU),
        activation("input", (1, 8, 8, 1), 1 / 255, -128),
        (4, 3, 3, 1),
        (1, 6, 6, 4),
        DType.INT8,
        0,
    )
    hidden = activation("flat", (1, 36), 0.3, 4)
    dense = weighted(ir.FullyConnected(), hidden, (3, 36), (1, 3), DType.INT4, None)
    tensors = {
        **{tensor.name: tensor for tensor in conv.tensors.values()},
        "pooled": activation("pooled", (1, 3, 3, 4), 0.3, 4),
        "shape": int32("shape", [1, 36]),
        "flat": hidden,
        "dense/weights": _renamed(dense["weights"], "dense/weights"),
        "dense/bias": _renamed(dense["bias"], "dense/bias"),
        "logits": _renamed(dense["y"], "logits"),
        "probabilities": Tensor("probabilities", (1, 3), DType.INT8, SOFTMAX),
    }
    nodes = (
        conv.nodes[0],
        Node(ir.MaxPool2D((2, 2), (2, 2)), ("y",), ("pooled",)),
        Node(ir.Reshape(), ("pooled", "shape"), ("flat",)),
        Node(ir.FullyConnected(), ("flat", "dense/weights", "dense/bias"), ("logits",)),
        Node(ir.Softmax(), ("logits",), ("probabilities",)),
    )
    return Graph("network", tensors, nodes, ("input",), ("probabilities",), {"sgsc": b"{}"})


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.shape, tensor.dtype, tensor.quantization, tensor.data)


def same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in everything; one channel's parameters may be spelled per tensor."""
    if (a.name, a.shape, a.dtype, a.data is None) != (b.name, b.shape, b.dtype, b.data is None):
        return False
    if (a.quantization is None) != (b.quantization is None):
        return False
    if a.quantization is not None and b.quantization is not None:
        left, right = a.quantization, b.quantization
        if left.scale.size == 1:
            left = replace(left, axis=right.axis)
        if not left.same_as(right):
            return False
    return a.data is None or (a.data.dtype == b.data.dtype and a.data.tobytes() == b.data.tobytes())


def same_graph(a: Graph, b: Graph) -> bool:
    """Whether two graphs agree in everything that a file holds (not in the nodes' sources)."""
    plain = [[(node.op, node.inputs, node.outputs) for node in graph.nodes] for graph in (a, b)]
    return (
        plain[0] == plain[1]
        and (a.name, a.inputs, a.outputs) == (b.name, b.inputs, b.outputs)
        and dict(a.metadata) == dict(b.metadata)
        and set(a.tensors) == set(b.tensors)
        and all(same_tensor(a[name], b[name]) for name in a.tensors)
    )


def inputs_for(graph: Graph, samples: int) -> np.ndarray:
    """Values for an example's input, [samples, *shape without the batch]."""
    tensor = graph[graph.inputs[0]]
    random = np.random.default_rng(7)
    shape = (samples, *tensor.shape[1:])
    if tensor.dtype is DType.FLOAT32:
        return random.normal(size=shape).astype(np.float32)
    if tensor.dtype is DType.INT32:  # indices of the embedding's 7 rows
        return random.integers(0, 7, shape).astype(np.int32)
    return random.integers(-128, 128, shape).astype(np.int8)
