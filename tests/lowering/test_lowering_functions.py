"""Functions of one value become tables: against ONNX Runtime, on the interpreters, and in the graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from lowering.qdq_builder import Float, Qdq, device_inputs, kinds, ort_integers
from onnx import TensorProto, helper

from sgsc_edge.calibration import quantize_network
from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import check, lower
from sgsc_edge.lowering.fold import import_model
from sgsc_edge.lowering.functions import TABLES, fuse_functions
from sgsc_edge.lowering.network import FUNCTION, Layer, Network, Value
from sgsc_edge.lowering.write_onnx import write_onnx
from sgsc_edge.runtimes import execute, specs

TABLE = ["Cast", "Add", "Gather"]
STATES = np.arange(-128, 128, dtype=np.int8)[:, None]
"""Every input, one a sample."""

ATTRIBUTES = {
    "Elu": {"alpha": 0.7}, "Celu": {"alpha": 1.5}, "Selu": {"alpha": 1.2, "gamma": 0.9},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "ThresholdedRelu": {"alpha": 0.5},
}  # fmt: skip
POSITIVE = {"Log", "Sqrt", "ThresholdedRelu"}
"""Of these there is nothing below 0, or only 0."""


def of_one(q: Qdq, op: str, x: str) -> str:
    if op in ("Div", "Pow"):
        return q.node(op, x, q.const(np.float32(3)))
    return q.node(op, x, **ATTRIBUTES.get(op, {}))


def on_grid(q: Qdq, made: str, real: np.ndarray) -> str:
    """Quantized by a grid that holds the finite values that are there."""
    finite = real[np.isfinite(real)]
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    scale = np.float32((high - low) / 255)
    return q.qdq(made, float(scale), int(np.clip(np.rint(-128 - low / scale), -128, 127)))


def ties(real: np.ndarray, scale: float) -> np.ndarray:
    """Values so close to the middle of two integers that another order of sums may round them otherwise."""
    steps = np.abs(real / scale)
    return np.abs(steps - np.floor(steps) - 0.5) < 1e-4


@pytest.mark.parametrize("op", [*sorted(TABLES), "tanh Gelu"])
@pytest.mark.parametrize(("scale", "zero"), [(0.05, 3), (0.011, -128), (0.3, 127)])
def test_each_function_is_what_onnx_runtime_computes(op: str, scale: float, zero: int) -> None:
    if op in POSITIVE:
        zero = -128  # what lies below 0 has a test of its own
    q = Qdq()
    x = q.input((1,), scale, zero)
    made = q.node("Gelu", x, approximate="tanh") if op == "tanh Gelu" else of_one(q, op, x)
    real = np.float32(scale) * (STATES.astype(np.float32) - zero)
    with np.errstate(all="ignore"):
        plain = onnx.reference.ReferenceEvaluator(_alone(op)).run(None, {"x": real})[0]
    model = q.model(on_grid(q, made, plain))
    graph = lower(model)
    assert kinds(graph) == TABLE
    ours, theirs = run(graph, STATES).astype(int), ort_integers(model, STATES, graph)
    quantization = graph["output"].quantization
    assert quantization is not None
    plain = plain.reshape(-1)
    sure = np.isfinite(plain)  # 1/0 and log 0: how ONNX Runtime quantizes infinity is the machine's
    sure[sure] = ~ties(plain[sure], float(quantization.scale[0]))
    assert (ours.reshape(-1)[sure] == theirs.reshape(-1)[sure]).all()
    assert sure.mean() > 0.5  # erf is 1 in many places, and 1 is the middle of two integers
    assert len(np.unique(ours)) > 1


def _alone(op: str) -> onnx.ModelProto:
    q = Qdq()
    q.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1]))
    made = q.node("Gelu", "x", approximate="tanh") if op == "tanh Gelu" else of_one(q, op, "x")
    return q.model(made, check=False)


@pytest.mark.parametrize("op", ["Gelu", "HardSigmoid", "Exp"])
def test_interpreters_look_up_what_the_executor_does(op: str) -> None:
    q = Qdq()
    y = q.qdq(of_one(q, op, q.input((3, 4, 5))), 0.02, -100)
    graph = lower(q.model(y))
    x = device_inputs(graph, 20)
    wanted = run(graph, x)
    assert len(np.unique(wanted)) > 10
    for name in ("tflm", "litert", "litert-reference"):
        done = execute(specs()[name], write_tflite(graph), x, timeout_s=60)
        assert done.outputs is not None, (name, done.reason)
        assert (done.outputs.reshape(wanted.shape) == wanted).all(), name


def gelu(q: Qdq, x: str) -> str:
    e = q.node("Erf", q.node("Div", x, q.const(np.float32(2**0.5))))
    half = q.node("Mul", x, q.node("Add", e, q.const(np.float32(1))))
    return q.node("Mul", half, q.const(np.float32(0.5)))


def mish(q: Qdq, x: str) -> str:
    soft = q.node("Log", q.node("Add", q.node("Exp", x), q.const(np.float32(1))))
    return q.node("Mul", x, q.node("Tanh", soft))


@pytest.mark.parametrize(("chain", "op"), [(gelu, "Gelu"), (mish, "Mish")])
def test_a_chain_is_one_table_the_same_as_that_of_its_op(chain: object, op: str) -> None:
    tables = []
    for make in (chain, lambda q, x: q.node(op, x)):
        q = Qdq(opset=22)
        graph = lower(q.model(q.qdq(make(q, q.input((2, 3))), 0.03, -100)))  # type: ignore[operator]
        assert kinds(graph) == TABLE
        tables.append(next(t.data for t in graph.constants() if t.shape == (256,)))
    assert np.abs(tables[0].astype(int) - tables[1].astype(int)).max() <= 1
    assert (tables[0] != tables[1]).mean() < 0.02  # ties


def test_ops_with_kernels_stay_by_themselves() -> None:
    q = Qdq()
    x = q.input((2, 3))
    gate = q.qdq(q.node("Sigmoid", x), 1 / 256, -128)
    graph = lower(q.model(q.qdq(q.node("Mul", x, gate), 0.03, -100)))
    assert kinds(graph) == ["Logistic", "Mul"]


def test_a_quantizer_ends_a_chain() -> None:
    q = Qdq()
    first = q.qdq(q.node("Exp", q.input((2, 3), 0.01, 0)), 0.02, -128)
    graph = lower(q.model(q.qdq(q.node("Sqrt", first), 0.01, -128)))
    assert kinds(graph) == TABLE * 2


def test_a_value_on_the_way_that_others_read_has_a_table_of_its_own() -> None:
    q = Float()
    x = q.node("Conv", q.image(3, 6, 6), q.real(4, 3, 3, 3))
    inner = q.node("Elu", x)
    outer = q.node("Neg", q.node("Mul", inner, x))
    model = q.model(q.node("Concat", inner, outer, axis=1))
    samples = np.random.default_rng(0).normal(size=(30, 3, 6, 6)).astype(np.float32)
    quantized = write_onnx(quantize_network(import_model(model), samples))
    onnx.checker.check_model(quantized, full_check=True)
    names = [name for node in quantized.graph.node for name in node.output]
    assert len(names) == len(set(names))
    # Concat reads what Elu makes, so Mul reads it as it is rounded: no function of x alone.
    assert [kind for kind in kinds(lower(quantized)) if kind in ("Gather", "Mul")] == [
        "Gather",
        "Mul",
        "Gather",
    ]


def test_a_float_network_with_functions_is_quantized_and_lowered() -> None:
    q = Float()
    x = gelu(q, q.node("Conv", q.image(3, 8, 8), q.real(6, 3, 3, 3), q.real(6)))
    x = q.node("HardSigmoid", q.node("Conv", x, q.real(4, 6, 3, 3)))
    model = q.model(q.node("Gemm", q.node("Flatten", x), q.real(5, 64), transB=1))
    assert check(model) == []
    samples = np.random.default_rng(0).normal(size=(60, 3, 8, 8)).astype(np.float32)
    quantized = write_onnx(quantize_network(import_model(model), samples))
    graph = lower(quantized)
    assert kinds(graph) == ["Conv2D", *TABLE, "Conv2D", *TABLE, *kinds(graph)[8:]]
    x8 = np.random.default_rng(1).integers(-128, 128, (20, 8, 8, 3)).astype(np.int8)
    difference = np.abs(run(graph, x8).astype(int) - ort_integers(quantized, x8, graph))
    assert difference.max() <= 1


@pytest.mark.parametrize(("op", "scale"), [("Sqrt", 0.1), ("Log", 0.1)])
def test_where_a_function_is_not_defined_the_nearest_value_holds(op: str, scale: float) -> None:
    q = Qdq()
    graph = lower(q.model(q.qdq(q.node(op, q.input((1,), scale, 0)), 0.05, 0)))
    made = run(graph, STATES).reshape(-1)
    first = 128  # of 0: the root is 0, the logarithm minus infinity
    assert (made[:first] == made[first]).all()
    assert made[first] == (0 if op == "Sqrt" else -128)
    assert (np.diff(made[first:].astype(int)) >= 0).all()


def test_what_computes_with_several_values_is_refused() -> None:
    q = Qdq()
    x = q.input((2, 3))
    y = q.qdq(q.node("Relu", x), 0.05, -128)
    with pytest.raises(UnsupportedError, match="it computes with several values"):
        lower(q.model(q.qdq(q.node("Div", x, y), 0.1, 0)))
    q = Qdq()
    by = q.const(np.array([[1.0, 2.0, 3.0]], np.float32))
    with pytest.raises(UnsupportedError, match="it computes with several values"):
        lower(q.model(q.qdq(q.node("Div", q.input((2, 3)), by), 0.1, 0)))


def test_a_function_without_quantizers_is_refused() -> None:
    q = Qdq()
    with pytest.raises(UnsupportedError, match="has no quantization"):
        lower(q.model(q.qdq(q.node("Elu", q.conv(q.input((3, 8, 8)), (4, 3, 3, 3))), 0.1, 0)))


def test_long_chains_are_cut_and_take_no_time() -> None:
    """Otherwise each layer would hold all before it."""
    count, shape = 3000, (1, 4)
    values = {"x": Value("x", shape)} | {f"v{i}": Value(f"v{i}", shape) for i in range(count)}
    names = ["x", *(f"v{i}" for i in range(count))]
    layers = tuple(Layer(f"n{i}", "Neg", (names[i],), (names[i + 1],)) for i in range(count))
    network = fuse_functions(Network("net", layers, values, "x", names[-1]))
    assert {layer.op for layer in network.layers} == {FUNCTION}
    assert len(network.layers) == -(-count // 64)


@pytest.mark.parametrize("op", ["Div", "Pow"])
def test_the_number_may_come_first(op: str) -> None:
    q = Qdq()
    made = q.node(op, q.const(np.float32(2)), q.input((1,), 0.03, -128))
    model = q.model(q.qdq(made, 0.02, -100))
    graph = lower(model)
    ours, theirs = run(graph, STATES).astype(int), ort_integers(model, STATES, graph)
    assert np.abs(ours - theirs)[1:].max() <= 1  # of 2/0 the machine's own integer
    assert (ours == theirs).mean() > 0.95
