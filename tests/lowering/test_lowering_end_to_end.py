"""A lowered network as a .tflite file under the real kernels, for the shipped target."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from qdq_builder import Qdq, device_inputs, kinds

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import check, lower
from sgsc_edge.runtimes import run_runtime
from sgsc_edge.targets import load_target


def _residual_network() -> Qdq:
    """Stem, depthwise block with a shortcut, padded pool, concat, means and a flattened branch."""
    q = Qdq()
    x = q.input((3, 16, 16))
    x = q.qdq(q.node("Relu", q.conv(x, (8, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])), 0.11, -128)
    y = q.qdq(q.node("Relu", q.conv(x, (8, 1, 3, 3), group=8, pads=[1, 1, 1, 1])), 0.07, -128)
    y = q.qdq(q.conv(y, (8, 8, 1, 1), per_channel=False), 0.13, 4)
    x = q.qdq(q.node("Relu", q.node("Add", x, y)), 0.12, -128)
    x = q.qdq(q.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 0.12, -128)
    x = q.node("Concat", x, q.node("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), axis=1)
    x = q.qdq(x, 0.12, -128)
    means = q.qdq(q.node("ReduceMean", x, q.const(np.array([2, 3])), keepdims=0), 0.06, -128)
    a = q.qdq(q.gemm(means, 16, 10), 0.21, 3)
    b = q.qdq(q.gemm(q.node("Flatten", x), 256, 10), 0.43, -3)
    out = q.qdq(q.node("Add", a, b), 0.5, 0)
    q.out = q.qdq(q.node("Softmax", out), 1 / 256, -128)
    return q


@pytest.fixture(scope="module")
def network():
    q = _residual_network()
    return q.model(q.out)


@pytest.mark.parametrize(
    ("runtime", "profile"), [("litert-reference", "litert_reference"), ("tflm", "tflm"), ("numpy", "tflm")]
)
def test_kernels_compute_the_executors_integers(network, tmp_path, runtime, profile):
    graph = lower(network, load_target("tflite-int8"))
    data = write_tflite(graph)
    assert kinds(read_tflite(data)) == kinds(graph)
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    inputs = device_inputs(graph, 20)
    result = run_runtime(runtime, path, inputs, timeout_s=60, workers=1)
    if result.status == "not_run":
        pytest.skip(f"{runtime}: {result.reason}")
    assert result.status == "ok", result.reason
    assert np.array_equal(result.outputs, run(graph, inputs, profile))


def test_a_target_without_per_tensor_weights_gets_them_per_channel(network):
    free, targeted = lower(network), lower(network, load_target("tflite-int8"))
    counts = [
        sum(tensor.quantization.scale.size for tensor in graph.constants() if tensor.dtype == "int8")
        for graph in (free, targeted)
    ]
    assert counts[1] - counts[0] == 7  # one conv of 8 channels had a single scale
    inputs = device_inputs(free, 8)
    assert np.array_equal(run(free, inputs), run(targeted, inputs))


def test_int4_weights_need_a_target_that_stores_them():
    q = Qdq()
    x = q.input((3, 6, 6))
    integers = q.rng.integers(-7, 8, (4, 3, 3, 3)).astype(ml_dtypes.int4)
    w = q.dq(integers, q.rng.uniform(0.01, 0.05, 4))
    model = q.model(q.qdq(q.node("Conv", x, w), 0.1, 0))
    graph = lower(model)
    weights = graph[graph.nodes[0].inputs[1]]
    assert weights.dtype == "int4"
    assert np.array_equal(weights.data, integers.astype(np.int8).transpose(0, 2, 3, 1))
    with pytest.raises(UnsupportedError, match="'tflite-int8' does not store Conv2D weights as int4"):
        lower(model, load_target("tflite-int8"))


def test_a_target_with_other_activations_is_refused(network):
    target = load_target("tflite-int8")
    other = target.model_copy(
        update={"activations": target.activations.model_copy(update={"dtype": "int16"})}
    )
    with pytest.raises(UnsupportedError, match="int16 activations"):
        lower(network, other)
    assert [refusal.op for refusal in check(network, other)] == ["target"]


def test_lowering_loads_neither_torch_nor_runtimes(network, tmp_path):
    """Start-up time is most of the conversion; a light process proves what stays out of it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(network.SerializeToString())
    code = (
        "import sys, pathlib; from sgsc_edge.lowering import lower; lower(pathlib.Path(sys.argv[1]));"
        "print([m for m in ('torch', 'onnxruntime', 'onnx.reference', 'pydantic', 'ai_edge_litert')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
