"""A float network, quantized by samples: written, run and lowered, against itself in float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from lowering.qdq_builder import Float, device_inputs, kinds, ort_integers

from sgsc_edge.calibration import quantize_network
from sgsc_edge.calibration.ranges import Method
from sgsc_edge.errors import ConfigError, ModelError, UnsupportedError
from sgsc_edge.graph.reference import run
from sgsc_edge.lowering import lower
from sgsc_edge.lowering.fold import import_model
from sgsc_edge.lowering.quantizers import absorb
from sgsc_edge.lowering.write_onnx import write_onnx


def samples(count: int, *shape: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


def residual(q: Float) -> str:
    x = q.node("Conv", q.image(3, 9, 9), q.real(4, 3, 3, 3), strides=[2, 2])
    y = q.node("Conv", q.node("Relu", x), q.real(4, 1, 3, 3), q.real(4), group=4, pads=[1, 1, 1, 1])
    y = q.node("Relu", q.node("Add", x, q.norm(y, 4)))
    y = q.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = q.node("Concat", y, q.node("Sigmoid", y), axis=1)
    return q.node("Gemm", q.node("Flatten", y), q.real(5, 32), q.real(5), transB=1)


def gated(q: Float) -> str:
    x = q.node("Conv", q.image(3, 9, 9), q.real(6, 3, 3, 3), q.real(6))
    gate = q.node("Conv", q.node("GlobalAveragePool", x), q.real(6, 6, 1, 1))
    x = q.node("Mul", x, q.node("Sigmoid", gate))
    left, right = q.name("left"), q.name("right")
    q.node("Split", x, axis=1, num_outputs=2)
    q.nodes[-1].output[:] = [left, right]
    x = q.node("Concat", right, q.node("LeakyRelu", left, alpha=0.1), axis=1)
    return q.node("ReduceMean", x, q.const(np.array([2, 3])), keepdims=0)


def rows(q: Float) -> str:
    x = q.node("Conv", q.image(3, 8, 8), q.real(6, 3, 4, 4), strides=[4, 4])
    x = q.node("Transpose", q.node("Reshape", x, q.const(np.array([0, 6, 4]))), perm=[0, 2, 1])
    y = q.node("Add", q.node("MatMul", x, q.real(6, 6)), q.real(6))
    scores = q.node("MatMul", y, q.node("Transpose", x, perm=[0, 2, 1]))
    scores = q.node("Softmax", q.node("Mul", scores, q.const(np.float32(0.005))), axis=-1)
    y = q.node("Add", q.node("MatMul", scores, x), q.real(1, 4, 6))
    return q.node("Gather", y, q.const(np.array(0)), axis=1)


def evaluated(model: onnx.ModelProto, inputs: list[np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return np.concatenate([session.run(None, {entry.name: one[None]})[0] for one in inputs])


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize(("build", "shape"), [(residual, (3, 9, 9)), (gated, (3, 9, 9)), (rows, (3, 8, 8))])
def test_the_quantized_network_is_close_to_float_and_lowers(
    build: Callable[[Float], str], shape: tuple[int, ...], method: Method
) -> None:
    q = Float()
    model = q.model(build(q))
    network = import_model(model)
    quantized = write_onnx(quantize_network(network, samples(400, *shape), method=method))
    onnx.checker.check_model(quantized, full_check=True)
    unseen = samples(24, *shape, seed=1)
    wanted, found = evaluated(model, unseen), evaluated(quantized, unseen)
    assert found.shape == wanted.shape
    # Ten dB are lost with each wrong scale or axis; int8 keeps about 30.
    noise = 10 * np.log10((wanted**2).mean() / ((found - wanted) ** 2).mean())
    assert noise > 25
    graph = lower(quantized)
    assert kinds(graph).count("Transpose") == 0
    inputs = device_inputs(graph, 6)
    difference = np.abs(run(graph, inputs).astype(np.int64) - ort_integers(quantized, inputs, graph))
    # Ties that ONNX and TFLite round differently are carried on; most outputs are the same integers.
    assert difference.mean() <= 0.5


def test_a_written_network_is_read_as_itself() -> None:
    q = Float()
    network = quantize_network(import_model(q.model(residual(q))), samples(4, 3, 9, 9))
    again = absorb(import_model(write_onnx(network)))
    assert [(one.op, one.attributes) for one in again.layers] == [
        (one.op, one.attributes) for one in network.layers
    ]
    for ours, theirs in zip(network.layers, again.layers, strict=True):
        for name, other in zip((*ours.inputs, *ours.outputs), (*theirs.inputs, *theirs.outputs), strict=True):
            if not name:
                continue
            value, read = network[name], again[other]
            assert (value.quantization is None) == (read.quantization is None)
            assert value.quantization is None or value.quantization.same_as(read.quantization)
            assert value.stored == read.stored
            assert (value.data is None) == (read.data is None)
            assert value.data is None or np.array_equal(value.data, read.data)


def test_a_channel_of_zeros_keeps_its_bias() -> None:
    q = Float()
    weights = q.rng.normal(size=(3, 2, 1, 1)).astype(np.float32)
    weights[1] = 0
    bias = np.array([0.5, 40.0, -1], np.float32)
    model = q.model(q.node("Conv", q.image(2, 4, 4), q.const(weights), q.const(bias)))
    quantized = write_onnx(quantize_network(import_model(model), samples(8, 2, 4, 4)))
    found = evaluated(quantized, samples(2, 2, 4, 4, seed=1))
    assert np.abs(found[:, 1] - 40).max() < 0.2


def test_what_calibration_cannot_do_is_named() -> None:
    q = Float()
    network = import_model(q.model(q.node("Relu", q.image(3, 4, 4))))
    with pytest.raises(ConfigError, match="no samples"):
        quantize_network(network, [])
    with pytest.raises(ModelError, match="NaN or infinite"):
        quantize_network(network, [np.full((3, 4, 4), np.inf, np.float32)])
    q = Float()
    network = import_model(q.model(q.node("Det", q.image(4, 4))))
    with pytest.raises(UnsupportedError, match="no rule"):
        quantize_network(network, samples(1, 4, 4))
