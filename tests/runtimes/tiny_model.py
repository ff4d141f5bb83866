"""A small classifier written twice: as a device graph and, by hand, as the QDQ ONNX that means the same.

int8 input [1, 4, 4, 2] -> Conv2D 3x3 with ReLU (4 channels) -> Reshape -> FullyConnected -> 3 logits.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sgsc_edge.graph.ir import (
    Activation,
    Conv2D,
    DType,
    FullyConnected,
    Graph,
    Node,
    Quantization,
    Reshape,
    Tensor,
)
from sgsc_edge.graph.write_tflite import write_tflite

CLASSES = 3
SAMPLE_SHAPE = (4, 4, 2)
INPUT = (np.float32(0.031), -5)
HIDDEN = (np.float32(0.057), -128)
OUTPUT = (np.float32(0.113), 7)

_RNG = np.random.default_rng(11)
CONV_WEIGHTS = _RNG.integers(-127, 128, (4, 3, 3, 2)).astype(np.int8)  # OHWI
CONV_SCALES = np.array([0.003, 0.0041, 0.0027, 0.0035], np.float32)
CONV_BIAS = _RNG.integers(-900, 900, 4).astype(np.int32)
DENSE_WEIGHTS = _RNG.integers(-127, 128, (CLASSES, 16)).astype(np.int8)  # columns in HWC order
DENSE_SCALES = np.array([0.0061, 0.0053, 0.0058], np.float32)
DENSE_BIAS = _RNG.integers(-300, 300, CLASSES).astype(np.int32)


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Random device integers int8 [count, 4, 4, 2]."""
    return np.random.default_rng(seed).integers(-128, 128, (count, *SAMPLE_SHAPE)).astype(np.int8)


def tflite_bytes() -> bytes:
    """The device graph as a file."""

    def activation(name: str, shape: tuple[int, ...], grid: tuple[np.float32, int]) -> Tensor:
        return Tensor(name, shape, DType.INT8, Quantization.per_tensor(float(grid[0]), grid[1]))

    def constant(name: str, data: np.ndarray, scales: np.ndarray | None) -> Tensor:
        quantization = None if scales is None else Quantization.per_channel(scales, 0)
        return Tensor(name, data.shape, DType(str(data.dtype)), quantization, data)

    tensors = (
        activation("x", (1, *SAMPLE_SHAPE), INPUT),
        constant("conv.w", CONV_WEIGHTS, CONV_SCALES),
        constant("conv.b", CONV_BIAS, INPUT[0] * CONV_SCALES),
        activation("h", (1, 2, 2, 4), HIDDEN),
        constant("shape", np.array([1, 16], np.int32), None),
        activation("flat", (1, 16), HIDDEN),
        constant("dense.w", DENSE_WEIGHTS, DENSE_SCALES),
        constant("dense.b", DENSE_BIAS, HIDDEN[0] * DENSE_SCALES),
        activation("y", (1, CLASSES), OUTPUT),
    )
    nodes = (
        Node(Conv2D(activation=Activation.RELU), ("x", "conv.w", "conv.b"), ("h",)),
        Node(Reshape(), ("h", "shape"), ("flat",)),
        Node(FullyConnected(), ("flat", "dense.w", "dense.b"), ("y",)),
    )
    return write_tflite(Graph("tiny", {tensor.name: tensor for tensor in tensors}, nodes, ("x",), ("y",)))


def onnx_bytes() -> bytes:
    """The same network as QDQ ONNX: NCHW, so the dense columns are in CHW order."""
    dense = DENSE_WEIGHTS.reshape(CLASSES, 2, 2, 4).transpose(0, 3, 1, 2).reshape(CLASSES, 16)
    arrays = {
        "conv.w": CONV_WEIGHTS.transpose(0, 3, 1, 2),
        "conv.ws": CONV_SCALES,
        "conv.wz": np.zeros(4, np.int8),
        "conv.b": CONV_BIAS,
        "conv.bs": INPUT[0] * CONV_SCALES,
        "conv.bz": np.zeros(4, np.int32),
        "dense.w": dense,
        "dense.ws": DENSE_SCALES,
        "dense.wz": np.zeros(CLASSES, np.int8),
        "dense.b": DENSE_BIAS,
        "dense.bs": HIDDEN[0] * DENSE_SCALES,
        "dense.bz": np.zeros(CLASSES, np.int32),
    }
    for name, (scale, zero_point) in (("x", INPUT), ("h", HIDDEN), ("y", OUTPUT)):
        arrays |= {f"{name}.s": np.array(scale), f"{name}.z": np.array(zero_point, np.int8)}

    def qdq(source: str, grid: str, result: str) -> list[onnx.NodeProto]:
        parameters = [f"{grid}.s", f"{grid}.z"]
        return [
            helper.make_node("QuantizeLinear", [source, *parameters], [f"{result}.q"]),
            helper.make_node("DequantizeLinear", [f"{result}.q", *parameters], [result]),
        ]

    def stored(name: str) -> onnx.NodeProto:
        return helper.make_node("DequantizeLinear", [name, f"{name}s", f"{name}z"], [f"{name}.f"], axis=0)

    nodes = [
        *qdq("x", "x", "x1"),
        *map(stored, ("conv.w", "conv.b", "dense.w", "dense.b")),
        helper.make_node("Conv", ["x1", "conv.w.f", "conv.b.f"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        *qdq("r", "h", "h1"),
        helper.make_node("Flatten", ["h1"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "dense.w.f", "dense.b.f"], ["g"], transB=1),
        *qdq("g", "y", "y"),
    ]
    # The grid of "y" and the value "y" share a prefix, not a name: grids are "y.s" and "y.z".
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
