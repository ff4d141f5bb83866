"""Where the precision of a rescaling multiplier shows: output scales that make ties but for one rounding.

With ``out = float32(a * b) * 2**k`` the multiplier is a power of two if the product is rounded to float32,
and a hair beside it in float64; every odd accumulator then rounds differently. With a third of that, the
multiplier is 3 / 2**k only where the quotient is rounded to float32, too. So the kernels show which precision
their profile must have.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from interpreters import run_litert_reference, run_tflm
from op_cases import one_op, quantized

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Graph, Quantization, Tensor
from sgsc_edge.graph.reference import executor
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.numerics import PROFILES, Precision, Profile

RUNTIMES = {"tflm": run_tflm, "litert_reference": run_litert_reference}
CHANNELS = 16


def parameters(scale: np.float32) -> Quantization:
    return Quantization.per_tensor(float(scale), 0)


def weighted(
    op: ir.Op, shape: tuple[int, ...], axis: int | None, a: np.float32, b: np.float32, step: float
) -> Graph:
    """x of scale a, weights of scale b, output of scale float32(a * b) * step."""
    random = np.random.default_rng(7)
    channels = shape[3] if isinstance(op, ir.DepthwiseConv2D) else shape[0]
    own = parameters(b) if axis is None else Quantization.per_channel(np.full(channels, b), axis)
    weights = Tensor("w", shape, DType.INT8, own, random.integers(-9, 10, shape).astype(np.int8))
    bias_quantization = Quantization(np.float32(a) * own.scale, own.zero_point, None if axis is None else 0)
    bias = Tensor(
        "b", (channels,), DType.INT32, bias_quantization, random.integers(-9, 10, channels, np.int32)
    )
    lead = (1,) if isinstance(op, ir.FullyConnected) else (1, 1, 1)
    y = quantized("y", (*lead, channels), parameters(np.float32(a * b) * np.float32(step)))
    return one_op(op, [quantized("x", (*lead, CHANNELS), parameters(a)), weights, bias], y)


def multiplication(a: np.float32, b: np.float32, step: float) -> Graph:
    constant = Tensor(
        "c", (1, CHANNELS), DType.INT8, parameters(b), np.arange(-7, 9, dtype=np.int8).reshape(1, -1)
    )
    y = quantized("y", (1, CHANNELS), parameters(np.float32(a * b) * np.float32(step)))
    return one_op(ir.Mul(), [quantized("x", (1, CHANNELS), parameters(a)), constant], y)


def product(a: np.float32, b: np.float32, step: float) -> Graph:
    data = np.random.default_rng(7).integers(-9, 10, (CHANNELS, 8)).astype(np.int8)
    y = quantized("y", (1, 8), parameters(np.float32(a * b) * np.float32(step)))
    constant = Tensor("c", data.shape, DType.INT8, parameters(b), data)
    return one_op(ir.BatchMatMul(), [quantized("x", (1, CHANNELS), parameters(a)), constant], y)


GRAPHS = {
    "convolution": lambda *s: weighted(ir.Conv2D(), (8, 1, 1, CHANNELS), 0, *s),
    "depthwise": lambda *s: weighted(ir.DepthwiseConv2D(), (1, 1, 1, CHANNELS), 3, *s),
    "fully_connected": lambda *s: weighted(ir.FullyConnected(), (8, CHANNELS), None, *s),
    "fully_connected_per_channel": lambda *s: weighted(ir.FullyConnected(), (8, CHANNELS), 0, *s),
    "multiply": multiplication,
    "batch_matmul": product,
}
FIELDS = {"depthwise": "convolution"}


def differences(graph: Graph, inputs: np.ndarray, expected: np.ndarray, profile: Profile) -> int:
    """Outputs of a one-node graph that differ from ``expected`` under a profile."""
    values = {"x": inputs.reshape(-1, *graph["x"].shape)}
    computed = executor.run_node_under(graph, graph.nodes[0], values, profile)
    return int(np.count_nonzero(computed.reshape(expected.shape) != expected))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", GRAPHS)
def test_only_the_profiles_precision_agrees(name: str, runtime: str) -> None:
    random = np.random.default_rng(3)
    own = PROFILES[runtime]
    field = FIELDS.get(name, name)
    rescale = getattr(own, field)
    wrong = dict.fromkeys(Precision, 0)
    for draw in range(20):
        a, b = (np.float32(random.uniform(0.01, 2)) for _ in range(2))
        graph = GRAPHS[name](a, b, float(2.0 ** random.integers(1, 6) / (1 + draw % 2 * 2)))
        inputs = random.integers(-20, 21, (8, *graph["x"].shape[1:])).astype(np.int8)
        expected = RUNTIMES[runtime](write_tflite(graph), inputs)
        for precision in Precision:
            profile = replace(own, **{field: replace(rescale, precision=precision)})
            wrong[precision] += differences(graph, inputs, expected, profile)
    assert wrong[rescale.precision] == 0, wrong
    assert all(count > 0 for precision, count in wrong.items() if precision is not rescale.precision), wrong
