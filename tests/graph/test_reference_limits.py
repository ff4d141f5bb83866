"""What the kernels cannot run: the runtime refuses or aborts, and so does the legality table before it."""

from __future__ import annotations

import numpy as np
import pytest
from interpreters import InterpreterError, run_tflm
from op_cases import one_op, quantized

from sgsc_edge.errors import DataError, UnsupportedError
from sgsc_edge.graph import ir, write_tflite
from sgsc_edge.graph.ir import Activation, DType, Graph, Quantization, Tensor
from sgsc_edge.graph.legality import findings
from sgsc_edge.graph.reference import run

UNIT = Quantization.per_tensor(1.0, 0)


def softmax(count: int) -> Graph:
    x, output = quantized("x", (1, count), UNIT), Quantization.per_tensor(1 / 256, -128)
    return one_op(ir.Softmax(), [x], quantized("y", (1, count), output))


def tiny_output(scale: float) -> Graph:
    """A fused RELU6 whose upper bound is 6 / scale output steps."""
    x, y = Quantization.per_tensor(2.0**-20, 0), Quantization.per_tensor(scale, 0)
    op = ir.Mul(Activation.RELU6)
    node = ir.Node(op, ("x", "x"), ("y",), "mul")
    tensors = {"x": quantized("x", (1, 2), x), "y": quantized("y", (1, 2), y)}
    return Graph("tiny", tensors, (node,), ("x",), ("y",))


LIMITS = [
    (softmax(511), softmax(512), "at most 511"),
    (tiny_output(2.0**-28), tiny_output(2.0**-29), "leaves 32 bits"),
]


@pytest.mark.parametrize(("last_legal", "first_illegal", "reason"), LIMITS)
def test_limit(last_legal: Graph, first_illegal: Graph, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = np.zeros((1, *last_legal["x"].shape[1:]), np.int8)
    assert findings(last_legal) == ()
    expected = run_tflm(write_tflite.write_tflite(last_legal), inputs)
    np.testing.assert_array_equal(run(last_legal, inputs), expected)

    assert [reason in str(finding) for finding in findings(first_illegal)] == [True]
    monkeypatch.setattr(write_tflite, "check", lambda *_, **__: None)
    model = write_tflite.write_tflite(first_illegal)
    more = np.zeros((1, *first_illegal["x"].shape[1:]), np.int8)
    with pytest.raises(InterpreterError):
        run_tflm(model, more)
    with pytest.raises(UnsupportedError):
        run(first_illegal, more)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_the_table_is_refused(index: int) -> None:
    table = Tensor("table", (3, 2), DType.INT8, UNIT, np.zeros((3, 2), np.int8))
    graph = one_op(ir.Gather(), [table, Tensor("x", (1, 1), DType.INT32)], quantized("y", (1, 1, 2), UNIT))
    with pytest.raises(DataError, match="outside 0 to 2"):
        run(graph, np.array([[index]], np.int32))
    assert run(graph, np.zeros((0, 1), np.int32)).shape == (0, 1, 2)
