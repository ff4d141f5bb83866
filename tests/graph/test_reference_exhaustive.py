"""All int8 values, or all pairs of them, at scales that make ties: every rounding shows.

Random cases rarely meet a tie, and one wrong tie is one wrong integer; here each rule meets hundreds.
"""

from __future__ import annotations

import numpy as np
import pytest
from interpreters import run_litert_reference, run_tflm
from op_cases import int32, one_op, quantized

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Op, Quantization, Tensor
from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite

RUNTIMES = {"tflm": run_tflm, "litert_reference": run_litert_reference}
EVERY = np.arange(-128, 128, dtype=np.int8)
# Ratios of scales: halves and quarters (ties), sixths and tenths (ties but for a rounding), others.
RATIOS = [(1, 2), (1, 4), (1, 1), (2, 1), (3, 2), (3, 4), (5, 6), (1, 6), (7, 10), (0.1, 0.2), (0.7, 0.1)]

pytestmark = pytest.mark.parametrize("runtime", RUNTIMES)


def assert_equal(graph: Graph, inputs: np.ndarray, runtime: str) -> np.ndarray:
    expected = RUNTIMES[runtime](write_tflite(graph), inputs)
    np.testing.assert_array_equal(run(graph, inputs, runtime), expected)
    return expected


def parameters(scale: float, zero_point: int = 0) -> Quantization:
    return Quantization.per_tensor(scale, zero_point)


@pytest.mark.parametrize("op", [ir.Relu(), ir.Quantize()])
@pytest.mark.parametrize(("numerator", "denominator"), RATIOS)
def test_requantization_of_every_value(numerator: float, denominator: float, op: Op, runtime: str) -> None:
    for zero_point in (-128, -1, 0, 127):
        x = quantized("x", (1, 256), parameters(numerator, zero_point))
        graph = one_op(op, [x], quantized("y", (1, 256), parameters(denominator, 3)))
        assert_equal(graph, EVERY[np.newaxis], runtime)


@pytest.mark.parametrize("kind", [ir.Add, ir.Mul])
@pytest.mark.parametrize(("numerator", "denominator"), RATIOS)
def test_every_pair(numerator: float, denominator: float, kind: type[Op], runtime: str) -> None:
    """x of scale ``numerator``, a constant of scale ``denominator``: 65,536 sums or products."""
    constant = Tensor("c", (1, 1, 256), DType.INT8, parameters(denominator, -3), EVERY.reshape(1, 1, 256))
    x = quantized("x", (1, 256, 1), parameters(numerator, 5))
    step = max(numerator, denominator) * 2 if kind is ir.Add else numerator * denominator * 128
    graph = one_op(kind(), [x, constant], quantized("y", (1, 256, 256), parameters(step, 1)))
    assert_equal(graph, EVERY.reshape(1, 256, 1), runtime)


@pytest.mark.parametrize("op", [ir.Conv2D(), ir.FullyConnected(keep_num_dims=True)])
@pytest.mark.parametrize(("numerator", "denominator"), RATIOS)
def test_products_with_every_value(numerator: float, denominator: float, op: Op, runtime: str) -> None:
    """Weights 1, -1, 3 and 127 on every x; accumulators are odd as often as even."""
    values, lead = np.array([1, -1, 3, 127], np.int8), (1,) * (2 if isinstance(op, ir.Conv2D) else 0)
    for axis in (0, None):
        scale = np.ones(4 if axis == 0 else 1, np.float32)
        own = Quantization(scale, np.zeros(scale.size, np.int64), axis)
        weights = Tensor("w", (4, *lead, 1), DType.INT8, own, values.reshape(4, *lead, 1))
        bias_own = Quantization(scale * np.float32(numerator), own.zero_point, axis)
        bias = Tensor("b", (4,), DType.INT32, bias_own, np.array([0, 1, 0, -2], np.int32))
        plane = (1, 16, 16) if lead else (1, 256)
        x = quantized("x", (*plane, 1), parameters(numerator, 1))
        y = quantized("y", (*plane, 4), parameters(denominator * 2, -2))
        assert_equal(one_op(op, [x, weights, bias], y), EVERY.reshape(*plane, 1), runtime)


def test_wide_sums_are_exact(runtime: str) -> None:
    """2,000 products of 127 * 127 leave float32's 24 bits; the bias brings them back to 5."""
    width = 2000
    data = np.full((1, width), 127, np.int8)
    data[0, ::2] -= 2
    inputs = np.full((1, width), 127, np.int8)
    inputs[0, ::3] = 126
    total = int(data.astype(np.int64)[0] @ inputs.astype(np.int64)[0])
    weights = Tensor("w", (1, width), DType.INT8, parameters(1.0), data)
    bias = Tensor("b", (1,), DType.INT32, parameters(1.0), np.array([5 - total], np.int32))
    x, y = quantized("x", (1, width), parameters(1.0)), quantized("y", (1, 1), parameters(1.0))
    graph = one_op(ir.FullyConnected(), [x, weights, bias], y)
    assert assert_equal(graph, inputs, runtime).tolist() == [[5]]


@pytest.mark.parametrize("scale", [1 / 256, 0.011, 1 / 32, 0.07, 1 / 8, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_softmax_of_many_rows(scale: float, classes: int, runtime: str) -> None:
    random = np.random.default_rng(classes)
    inputs = random.integers(-128, 128, (1, 256, classes)).astype(np.int8)
    inputs[0, :, 0], inputs[0, :, 1] = EVERY, 127  # every difference once
    x = quantized("x", (1, 256, classes), parameters(scale))
    y = quantized("y", (1, 256, classes), parameters(1 / 256, -128))
    assert_equal(one_op(ir.Softmax(), [x], y), inputs, runtime)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 7, 49, 4096])
def test_means_around_every_tie(count: int, runtime: str) -> None:
    """Rows whose sums step through all residues of the element count."""
    rows = np.repeat(np.arange(-2, 3, dtype=np.int8), 2 * count)[:, np.newaxis].repeat(count, 1)[:600]
    for i, row in enumerate(rows):
        row[: i % count] += 1
    x = quantized("x", (1, *rows.shape), parameters(0.5, 1))
    for step in (0.5, 0.25, 0.75, 1.0):
        y = quantized("y", (1, len(rows)), parameters(step, -4))
        assert_equal(one_op(ir.Mean(), [x, int32("axes", [2])], y), rows[np.newaxis], runtime)
