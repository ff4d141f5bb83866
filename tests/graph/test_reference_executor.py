"""The executor itself: batches, chunks, intermediate values, float32 graphs, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreters import run_litert_reference, run_tflm
from op_cases import CASES, int32, one_op, quantized

from sgsc_edge.errors import DataError, InternalError, UnsupportedError
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Node, Quantization, Tensor
from sgsc_edge.graph.reference import executor, run, run_node, run_tensors
from sgsc_edge.graph.write_tflite import write_tflite

UNIT = Quantization.per_tensor(1.0, 0)
INTEGER_ONLY = {"requantize", "quantize_float", "dequantize"}
FLOAT_OPS = [name for name in CASES if name not in INTEGER_ONLY and "int4" not in name]


def as_float(graph: Graph) -> Graph:
    """The same graph with float32 data tensors (weights over 64); axes and shapes stay int32."""

    def convert(tensor: Tensor) -> Tensor:
        if tensor.dtype is DType.INT32 and tensor.quantization is None:
            return tensor
        data = None if tensor.data is None else (tensor.data / 64).astype(np.float32)
        return replace(tensor, dtype=DType.FLOAT32, quantization=None, data=data)

    return replace(graph, tensors={name: convert(tensor) for name, tensor in graph.tensors.items()})


@pytest.mark.parametrize("runtime", [run_tflm, run_litert_reference])
@pytest.mark.parametrize("name", FLOAT_OPS)
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_float_op_agrees(name: str, runtime, data: st.DataObject) -> None:
    integer_graph, integers = data.draw(CASES[name].cases)
    graph = as_float(integer_graph)
    indices = integers.dtype == np.int32
    inputs = integers if indices else (integers / 32).astype(np.float32)
    expected = runtime(write_tflite(graph), inputs)
    # Products are multiples of 2**-11 and sums stay below 2**14, so that they are (almost) exact in any
    # order; what differs is the last bits of quotients and exponentials, and softmax's vanishing values.
    np.testing.assert_allclose(run(graph, inputs), expected, rtol=1e-5, atol=1e-12)


def chain() -> Graph:
    """x -> relu -> requantize, [1, 4]."""
    tensors = {
        "x": quantized("x", (1, 4), UNIT),
        "r": quantized("r", (1, 4), UNIT),
        "y": quantized("y", (1, 4), Quantization.per_tensor(2.0, 1)),
    }
    nodes = (Node(ir.Relu(), ("x",), ("r",), "relu"), Node(ir.Quantize(), ("r",), ("y",), "requantize"))
    return Graph("chain", tensors, nodes, ("x",), ("y",))


INPUTS = np.array([[-3, 0, 3, 5], [1, 2, 100, 127]], np.int8)


def test_intermediate_values_can_be_wanted() -> None:
    values = run_tensors(chain(), {"x": INPUTS}, wanted=["x", "r", "y"])
    assert values["x"].tolist() == INPUTS.tolist()
    assert values["r"].tolist() == [[0, 0, 3, 5], [1, 2, 100, 127]]
    assert values["y"].tolist() == [[1, 1, 3, 4], [2, 2, 51, 65]]
    assert run(chain(), INPUTS).tolist() == values["y"].tolist()


def test_chunks_and_empty_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(chain(), np.tile(INPUTS, (5, 1)))
    monkeypatch.setattr(executor, "_CHUNK_BYTES", 3 * 4 * 32)  # three samples a chunk
    assert run(chain(), np.tile(INPUTS, (5, 1))).tolist() == whole.tolist()
    nothing = run(chain(), np.zeros((0, 4), np.int8))
    assert (nothing.shape, nothing.dtype) == ((0, 4), np.int8)


def test_one_node() -> None:
    graph = chain()
    out = run_node(graph, graph.nodes[1], {"r": np.array([[[2, 3, -3, 9]]], np.int8)})
    assert out.tolist() == [[[2, 3, 0, 6]]]  # -1.5 goes up to -1: ties at bit 31 do


def test_a_batch_that_is_not_one_stays() -> None:
    x = quantized("x", (2, 3), UNIT)
    graph = one_op(ir.Transpose(), [x, int32("p", [1, 0])], quantized("y", (3, 2), UNIT))
    inputs = np.arange(12, dtype=np.int8).reshape(2, 2, 3)
    np.testing.assert_array_equal(run(graph, inputs), inputs.transpose(0, 2, 1))


def test_constants_repeat_for_every_sample() -> None:
    constant = Tensor("c", (1, 2), DType.INT8, UNIT, np.array([[7, 8]], np.int8))
    x = quantized("x", (1, 1), UNIT)
    graph = one_op(ir.Concatenation(1), [constant, x], quantized("y", (1, 3), UNIT))
    assert run(graph, np.array([[1], [2]], np.int8)).tolist() == [[7, 8, 1], [7, 8, 2]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (INPUTS.astype(np.float32), "input 'x' is float32"),
        (INPUTS[:, :3], r"int8\[2, 3\], the graph takes int8 \[n, 4\]"),
        (np.int8(3), "input 'x'"),
    ],
)
def test_wrong_inputs_are_refused(inputs: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(chain(), inputs)


def test_missing_and_unequal_feeds_are_refused() -> None:
    a, b = quantized("a", (1, 2), UNIT), quantized("b", (1, 2), UNIT)
    graph = one_op(ir.Add(), [a, b], quantized("y", (1, 2), UNIT))
    with pytest.raises(InternalError, match="not one input"):
        run(graph, np.zeros((1, 2), np.int8))
    with pytest.raises(DataError, match="no values for input 'b'"):
        run_tensors(graph, {"a": np.zeros((1, 2), np.int8)})
    with pytest.raises(DataError, match=r"\[1, 2\]"):
        run_tensors(graph, {"a": np.zeros((1, 2), np.int8), "b": np.zeros((2, 2), np.int8)})
    both = run_tensors(graph, {"a": np.full((1, 2), 3, np.int8), "b": np.full((1, 2), 4, np.int8)})
    assert both["y"].tolist() == [[7, 7]]


def test_unknown_profile_and_broken_shapes_are_refused() -> None:
    with pytest.raises(InternalError, match="no rounding profile 'cmsis'; there are tflm"):
        run(chain(), INPUTS, "cmsis")
    broken = one_op(ir.Relu(), [quantized("x", (1, 4), UNIT)], quantized("y", (1, 5), UNIT))
    with pytest.raises(InternalError, match=r"Relu made int8\[1, 4\], tensor 'y' is int8\[1, 5\]"):
        run(broken, INPUTS)


def test_overflow_is_refused_with_its_node() -> None:
    """127 * 255 * 70,000 leaves 32 bits: undefined in C, so it is no result."""
    width = 70_000
    x = quantized("x", (1, width), Quantization.per_tensor(1.0, -128))
    weights = Tensor("w", (1, width), DType.INT8, UNIT, np.full((1, width), 127, np.int8))
    bias = Tensor("b", (1,), DType.INT32, UNIT, np.zeros(1, np.int32))
    y = quantized("y", (1, 1), Quantization.per_tensor(2.0**24, 0))
    graph = one_op(ir.FullyConnected(), [x, weights, bias], y)
    assert run(graph, np.full((1, width), -100, np.int8)).tolist() == [[15]]
    with pytest.raises(UnsupportedError, match="accumulator leaves 32 bits") as caught:
        run(graph, np.full((1, width), 127, np.int8))
    assert caught.value.node == "node under test"
