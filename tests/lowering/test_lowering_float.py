"""Float networks lowered to float32: the same values as ONNX Runtime's, on the executor and on LiteRT."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from qdq_builder import Float, Qdq, kinds

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import check, lower
from sgsc_edge.lowering.layout import to_device
from sgsc_edge.targets import Target, load_target

INT8 = load_target("tflite-int8")
FLOAT = INT8.model_copy(update={"activations": INT8.activations.model_copy(update={"dtype": "float32"})})


def same(model: onnx.ModelProto, expected: list[str], target: Target = FLOAT) -> None:
    import onnxruntime as ort
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    graph = lower(model, target)
    assert kinds(graph) == expected
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    x = np.random.default_rng(1).normal(size=(3, *entry.shape[1:])).astype(np.float32)
    wanted = np.concatenate([session.run(None, {entry.name: one[None]})[0] for one in x])
    wanted = to_device(wanted, len(graph["output"].shape))
    inputs = to_device(x, len(graph["input"].shape))
    made = [run(graph, inputs)]
    interpreter = Interpreter(
        model_content=write_tflite(graph), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    outputs = []
    for one in inputs:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], one[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    made.append(np.concatenate(outputs))
    for found in made:
        assert found.dtype == np.float32
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_convolution_norm_and_activation_are_one_op() -> None:
    q = Float()
    y = q.node("Conv", q.image(3, 8, 8), q.real(4, 3, 3, 3), q.real(4), pads=[1, 1, 1, 1])
    same(q.model(q.node("Relu", q.norm(y, 4))), ["Conv2D"])


def test_a_lone_norm_is_a_depthwise_convolution() -> None:
    q = Float()
    same(q.model(q.norm(q.image(3, 8, 8), 3)), ["DepthwiseConv2D"])


def test_a_residual_network() -> None:
    q = Float()
    x = q.node("Conv", q.image(3, 9, 9), q.real(4, 3, 3, 3), strides=[2, 2])
    y = q.node("Conv", q.node("Relu", x), q.real(4, 1, 3, 3), q.real(4), group=4, pads=[1, 1, 1, 1])
    y = q.node("Add", x, q.norm(y, 4))
    y = q.node("Clip", y, q.const(np.float32(0)), q.const(np.float32(6)))
    y = q.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = q.node("Gemm", q.node("Flatten", y), q.real(5, 16), q.real(5), transB=1)
    ops = ["Conv2D", "Relu", "DepthwiseConv2D", "Add", "MaxPool2D", "Reshape", "FullyConnected"]
    same(q.model(q.node("Softmax", y)), [*ops, "Softmax"])


def test_patches_mixed_as_rows() -> None:
    q = Float()
    x = q.node("Conv", q.image(3, 8, 8), q.real(6, 3, 4, 4), strides=[4, 4])
    rows = q.node("Transpose", q.node("Reshape", x, q.const(np.array([0, 6, 4]))), perm=[0, 2, 1])
    y = q.node("Add", q.node("MatMul", rows, q.real(6, 5)), q.real(1, 4, 5))
    same(q.model(q.node("Sigmoid", y)), ["Conv2D", "FullyConnected", "Add", "Logistic", "Reshape"])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsampling(mode: str) -> None:
    q = Float()
    scales = q.const(np.array([1, 1, 2, 2], np.float32))
    more: dict[str, Any] = (
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
    )
    y = q.node("Resize", q.image(3, 4, 5), "", scales, mode=mode, **more)
    same(q.model(y), ["ResizeNearestNeighbor" if mode == "nearest" else "ResizeBilinear"])


def test_bounds_that_no_activation_has_are_refused() -> None:
    q = Float()
    y = q.node("Conv", q.image(3, 8, 8), q.real(4, 3, 3, 3))
    model = q.model(q.node("Clip", y, q.const(np.float32(0)), q.const(np.float32(4))))
    with pytest.raises(UnsupportedError, match=r"clamps to \[0, 4\]"):
        lower(model, FLOAT)


def test_weights_that_are_not_finite_are_refused() -> None:
    q = Float()
    weights = np.ones((4, 3, 3, 3), np.float32)
    weights[1, 2, 0, 0] = np.nan
    model = q.model(q.node("Conv", q.image(3, 8, 8), q.const(weights)))
    with pytest.raises(UnsupportedError, match="not finite"):
        lower(model, FLOAT)


def test_quantizers_are_refused() -> None:
    q = Qdq()
    model = q.model(q.qdq(q.conv(q.input((3, 8, 8)), (4, 3, 3, 3)), 0.4, 0))
    assert [refusal.op for refusal in check(model, FLOAT)] == ["QuantizeLinear"]
    with pytest.raises(UnsupportedError, match="computes in float32"):
        lower(model, FLOAT)


@pytest.mark.parametrize("first", [False, True])
def test_activations_and_biases_behind_a_product_stay(first: bool) -> None:
    q = Float()
    x = q.image(6, 4)
    y = q.node("MatMul", x, q.node("Transpose", x, perm=[0, 2, 1]))
    y = q.node("Add", y, q.real(6)) if first else y
    same(q.model(q.node("Relu", y)), ["BatchMatMul", "Add"] if first else ["BatchMatMul", "Relu"])


def test_an_axis_in_the_batchs_place() -> None:
    q = Float()
    x = q.image(4, 6, 5)
    y = q.node("ReduceMean", q.node("Transpose", x, perm=[2, 1, 0, 3]), q.const(np.array([1])), keepdims=1)
    model = q.model(q.node("Transpose", y, perm=[2, 1, 0, 3]))
    found = kinds(lower(model, FLOAT))
    same(model, found)
    q = Float()
    swapped = q.node("Transpose", q.image(2, 4, 5), perm=[1, 0, 2, 3])
    made = q.node("Conv", swapped, q.real(3, 1, 1, 1))
    model = q.model(q.node("Reshape", made, q.const(np.array([1, 24, 5]))))
    same(model, kinds(lower(model, FLOAT)))


@pytest.mark.parametrize(
    ("shape", "build"),
    [
        ((5,), lambda q, x: q.node("Sub", x, q.node("ReduceMean", x, q.const(np.array([1])), keepdims=1))),
        ((5, 6, 2), lambda q, x: q.node("Add", reshaped(q, x, 1, 6, 2, 5), q.real(5))),
        ((3, 8, 8), lambda q, x: q.node("PRelu", reshaped(q, x, 1, 16, 12), q.real(12))),
        ((1,), lambda q, x: q.node("Add", x, q.real(1, 2))),
        ((1, 1, 1), lambda q, x: q.node("Add", x, q.real(4, 3, 3))),
        ((5, 4), lambda q, x: q.node("Add", q.node("MatMul", x, q.real(4, 6)), q.real(1, 1, 1, 1))),
    ],
)
def test_operands_that_are_broadcast(shape: tuple[int, ...], build: Any) -> None:
    q = Float()
    model = q.model(build(q, q.image(*shape)))
    same(model, kinds(lower(model, FLOAT)))


def reshaped(q: Float, x: str, *shape: int) -> str:
    return q.node("Reshape", x, q.const(np.array(shape)))
