"""Whole graphs: the executor against TFLM and LiteRT's reference kernels, integer for integer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from interpreters import run_litert_reference, run_tflm

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Graph, Node, Op, Padding, Quantization, Tensor
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite

RUNTIMES = {"tflm": run_tflm, "litert_reference": run_litert_reference}


class Builder:
    """Appends nodes with random weights; output scales keep values spread over int8."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.random = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.x = self.tensor("input", shape, 0.04, -5)

    def tensor(self, name: str, shape: tuple[int, ...], scale: float, zero_point: int) -> Tensor:
        return self.keep(Tensor(name, shape, DType.INT8, Quantization.per_tensor(scale, zero_point)))

    def keep(self, tensor: Tensor) -> Tensor:
        self.tensors[tensor.name] = tensor
        return tensor

    def node(self, op: Op, inputs: list[Tensor], output: Tensor) -> Tensor:
        self.nodes.append(Node(op, tuple(t.name for t in inputs), (output.name,), output.name))
        return output

    def weighted(self, op: Op, x: Tensor, shape: tuple[int, ...], axis: int, output: Tensor) -> Tensor:
        """A node with int8 weights of this shape, per channel along ``axis``, and a bias."""
        channels = shape[axis]
        scales = self.random.uniform(0.004, 0.01, channels).astype(np.float32)
        data = self.random.integers(-127, 128, shape).astype(np.int8)
        weights = Tensor(f"{output.name}_w", shape, DType.INT8, Quantization.per_channel(scales, axis), data)
        assert x.quantization is not None
        bias_scale = Quantization.per_channel(x.quantization.scale[0] * scales, 0)
        values = self.random.integers(-900, 900, channels).astype(np.int32)
        bias = Tensor(f"{output.name}_b", (channels,), DType.INT32, bias_scale, values)
        return self.node(op, [x, self.keep(weights), self.keep(bias)], output)

    def graph(self, output: Tensor) -> Graph:
        return Graph("small", self.tensors, tuple(self.nodes), ("input",), (output.name,))


def small_network() -> Graph:
    """conv-relu, max pool, depthwise, residual add, mean, dense, softmax."""
    build = Builder(11, (1, 9, 8, 3))
    conv = ir.Conv2D((1, 1), (1, 1), Padding.SAME, Activation.RELU)
    x = build.weighted(conv, build.x, (6, 3, 3, 3), 0, build.tensor("conv", (1, 9, 8, 6), 0.06, -128))
    pool = ir.MaxPool2D((2, 2), (2, 2))
    x = build.node(pool, [x], build.tensor("pool", (1, 4, 4, 6), 0.06, -128))
    depthwise = ir.DepthwiseConv2D((1, 1), (1, 1), Padding.SAME, 1, Activation.NONE)
    y = build.weighted(depthwise, x, (1, 3, 3, 6), 3, build.tensor("depthwise", (1, 4, 4, 6), 0.08, 3))
    x = build.node(ir.Add(Activation.RELU6), [x, y], build.tensor("add", (1, 4, 4, 6), 0.0236, -128))
    axes = build.keep(Tensor("axes", (2,), DType.INT32, None, np.array([1, 2], np.int32)))
    x = build.node(ir.Mean(), [x, axes], build.tensor("mean", (1, 6), 0.017, -120))
    x = build.weighted(ir.FullyConnected(), x, (5, 6), 0, build.tensor("dense", (1, 5), 0.05, 10))
    return build.graph(build.node(ir.Softmax(), [x], build.tensor("softmax", (1, 5), 1 / 256, -128)))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_small_network_equals_runtime(runtime: str) -> None:
    graph = small_network()
    inputs = np.random.default_rng(5).integers(-128, 128, (50, 9, 8, 3)).astype(np.int8)
    expected = RUNTIMES[runtime](write_tflite(graph), inputs)
    computed = run(graph, inputs, runtime)
    assert len(np.unique(computed)) > 20  # the comparison below is about something
    np.testing.assert_array_equal(computed, expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_standard_converters_mnist_network_equals_runtime(runtime: str) -> None:
    folder = Path(os.environ.get("SGSC_EDGE_DATA", "")) / "mnist-cnn"
    if not (os.environ.get("SGSC_EDGE_DATA") and folder.is_dir()):
        pytest.skip("SGSC_EDGE_DATA holds no mnist-cnn")
    model = (folder / "plain_int8.tflite").read_bytes()
    # Blurred noise rather than digits: its strokes reach more of every layer's range.
    noise = np.random.default_rng(1).integers(-128, 128, (24, 28, 28, 1))
    inputs = ((noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)) // 3).astype(np.int8)
    expected = RUNTIMES[runtime](model, inputs)
    computed = run(read_tflite(model), inputs, runtime)
    assert len(np.unique(computed)) > 20
    np.testing.assert_array_equal(computed, expected)
