"""Builds small QDQ ONNX models and runs them on ONNX Runtime and on the lowered graph."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sgsc_edge.graph import ir
from sgsc_edge.graph.reference import run
from sgsc_edge.lowering import lower
from sgsc_edge.lowering.layout import to_device

Params = tuple[float, int]


@dataclass
class Qdq:
    """A model under construction; methods return value names."""

    opset: int = 21
    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    params: dict[str, Params] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def name(self, hint: str) -> str:
        self.count += 1
        return f"{hint}_{self.count}"

    def const(self, array: NDArray, hint: str = "const") -> str:
        name = self.name(hint)
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        out = self.name(op.lower())
        node = helper.make_node(op, list(inputs), [out], name=f"n_{out}", domain=domain, **attributes)
        self.nodes.append(node)
        if inputs and inputs[0] in self.params:  # what the op moves keeps them; qdq() sets the others
            self.params[out] = self.params[inputs[0]]
        return out

    def qdq(self, x: str, scale: float, zero: int, dtype: type = np.int8) -> str:
        s, z = self.const(np.float32(scale)), self.const(np.array(zero, dtype))
        out = self.node("DequantizeLinear", self.node("QuantizeLinear", x, s, z), s, z)
        self.params[out] = (float(np.float32(scale)), zero)
        return out

    def input(self, shape: tuple[int | str, ...], scale: float = 0.05, zero: int = 3) -> str:
        self.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape]))
        return self.qdq("image", scale, zero)

    def dq(self, integers: NDArray, scale: NDArray | float, axis: int = 0) -> str:
        scales = np.asarray(scale, np.float32)
        zero = np.zeros(scales.shape, integers.dtype)
        return self.node(
            "DequantizeLinear", self.const(integers), self.const(scales), self.const(zero), axis=axis
        )

    def weights(self, *shape: int, axis: int = 0, per_channel: bool = True) -> tuple[str, NDArray]:
        integers = self.rng.integers(-127, 128, shape).astype(np.int8)
        count = shape[axis]
        scale = self.rng.uniform(0.002, 0.01, count).astype(np.float32)
        if not per_channel:
            scale = scale[0]
        return self.dq(integers, scale, axis), np.asarray(scale)

    def bias(self, x: str, scale: NDArray, count: int) -> str:
        product = np.float32(self.params[x][0]) * scale
        return self.dq(self.rng.integers(-2000, 2000, count).astype(np.int32), product)

    def conv(self, x: str, weights: tuple[int, ...], bias: bool = True, **attributes: object) -> str:
        per_channel = bool(attributes.pop("per_channel", True))
        w, scale = self.weights(*weights, per_channel=per_channel)
        inputs = [x, w, *([self.bias(x, scale, weights[0])] if bias else [])]
        return self.node("Conv", *inputs, **attributes)

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        w, scale = self.weights(outputs, inputs)
        return self.node("Gemm", x, w, self.bias(x, scale, outputs), transB=1)

    def gemm_rows(self, x: str, inputs: int, outputs: int) -> str:
        return self.node("MatMul", x, self.weights(inputs, outputs, axis=1)[0])

    def model(self, out: str, check: bool = True) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            self.inputs,
            [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        for key, value in self.metadata.items():
            model.metadata_props.add(key=key, value=value)
        if check:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
            del model.graph.value_info[:]
            onnx.checker.check_model(model)
        return model


class Float(Qdq):
    """A float model under construction."""

    def image(self, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape]))
        return "image"

    def real(self, *shape: int) -> str:
        return self.const(self.rng.normal(size=shape).astype(np.float32))

    def norm(self, x: str, channels: int) -> str:
        gain, shift, mean = (self.real(channels) for _ in range(3))
        variance = self.const(self.rng.uniform(0.5, 2, channels).astype(np.float32))
        return self.node("BatchNormalization", x, gain, shift, mean, variance)


def ort_integers(model: onnx.ModelProto, integers: NDArray, graph: ir.Graph) -> NDArray:
    """Output integers of ONNX Runtime, optimizations off, in the device's layout.

    ``integers`` are device inputs [n, ...]; samples run one at a time, like on the device.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x, y = graph["input"].quantization, graph["output"].quantization
    real = (integers.astype(np.float32) - np.float32(x.zero_point[0])) * x.scale[0]
    (entry,) = session.get_inputs()
    if real.ndim == 4:
        real = real.transpose(0, 3, 1, 2)
        real = real[:, :, 0] if len(entry.shape) == 3 else real
    outputs = np.concatenate([session.run(None, {entry.name: sample[None]})[0] for sample in real])
    outputs = to_device(outputs, len(graph["output"].shape))
    return np.rint(outputs / y.scale[0] + y.zero_point[0]).astype(np.int64)


def device_inputs(graph: ir.Graph, count: int = 4, seed: int = 1) -> NDArray:
    """Random device integers over the whole int8 range, the ends included."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (count, *graph["input"].shape[1:])).astype(np.int8)
    x[0].flat[:2] = (-128, 127)[: x[0].size]
    return x


def kinds(graph: ir.Graph) -> list[str]:
    return [node.kind for node in graph.nodes]


def compare(
    model: onnx.ModelProto, expected: list[str], *, steps: int = 1, share: float = 0.02, count: int = 4
) -> ir.Graph:
    """Lower, check the ops, and compare the NumPy executor with ONNX Runtime.

    ``steps`` is the largest allowed difference in integers and ``share`` the share of outputs that may
    differ at all: ONNX rounds ties to even from float, TFLite ties away from zero from a Q31 product.
    """
    graph = lower(model)
    assert kinds(graph) == expected
    x = device_inputs(graph, count)
    ours = run(graph, x).astype(np.int64)
    theirs = ort_integers(model, x, graph)
    assert ours.shape == theirs.shape
    difference = np.abs(ours - theirs)
    assert difference.max() <= steps
    assert (difference > 0).mean() <= (share if steps else 0)
    assert len(np.unique(ours)) > 1, "constant outputs compare nothing"
    return graph
