"""Ops with weights, by width and granularity, on the real interpreters.

LiteRT's reference kernels and TFLM give the executor's integers, each under its own rounding profile. LiteRT
as it comes (XNNPACK, or its optimized kernels) differs on equal inputs by what the targets allow at most.
What an interpreter does not execute, it refuses, and no target that requires it stores weights so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreters import InterpreterError, run_litert_default, run_litert_reference, run_tflm
from op_cases import Case, Contents, conv_2d, depthwise_conv_2d, fully_connected, one_op, quantized

from sgsc_edge.errors import InternalError
from sgsc_edge.graph import ir
from sgsc_edge.graph import write_tflite as write_tflite_module
from sgsc_edge.graph.ir import Activation, DType, Graph, Op, Padding, Quantization, Tensor
from sgsc_edge.graph.legality import findings
from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.targets import available_targets

EXACT = {"tflm": (run_tflm, "tflm"), "litert-reference": (run_litert_reference, "litert_reference")}
"""Interpreters, and the rounding profiles that describe them."""

WIDTHS = {8: DType.INT8, 4: DType.INT4}

Storage = tuple[str, int, str]
"""Op, bits and granularity, as in a target's row."""


def _storages() -> Iterator[tuple[str, Storage, st.SearchStrategy[Case]]]:
    """A name, the storage, and cases of it, for every storage that the device graph has."""
    for (bits, dtype), per_channel in itertools.product(WIDTHS.items(), (True, False)):
        granularity = "per-channel" if per_channel else "per-tensor"
        rows = {
            "Conv2D": ("Conv2D", conv_2d(dtype, per_channel=per_channel)),
            "Conv2D in groups": ("Conv2D", conv_2d(dtype, grouped=True, per_channel=per_channel)),
            "FullyConnected": ("FullyConnected", fully_connected(dtype, per_channel)),
        }
        if per_channel:
            rows["DepthwiseConv2D"] = ("DepthwiseConv2D", depthwise_conv_2d(dtype))
        for name, (op, cases) in rows.items():
            yield f"{name}, {bits} bits {granularity}", (op, bits, granularity), cases


STORAGES = {name: (storage, cases) for name, storage, cases in _storages()}
REFUSED = {("tflm", ("FullyConnected", 4, "per-channel"))}
"""fully_connected.cc of TFLM knows one scale for int4."""

TARGETS = [target for target in available_targets() if target.is_lowered]


def assert_agrees(graph: Graph, inputs: np.ndarray, storage: Storage) -> np.ndarray:
    """Run a graph on all interpreters that execute its storage; the outputs of LiteRT's reference kernels."""
    model = write_tflite(graph)
    computed = {profile: run(graph, inputs, profile) for _, profile in EXACT.values()}
    for runtime, (interpreter, profile) in EXACT.items():
        if (runtime, storage) not in REFUSED:
            expected = interpreter(model, inputs)
            assert computed[profile].dtype == expected.dtype
            np.testing.assert_array_equal(computed[profile], expected, err_msg=runtime)
    reference = computed["litert_reference"]
    steps = np.abs(run_litert_default(model, inputs).astype(int) - reference.astype(int))
    assert steps.max() <= min(target.tolerance("litert", storage[0]) for target in TARGETS)
    return reference


@pytest.mark.parametrize("name", STORAGES)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_layers_agree(name: str, data: st.DataObject) -> None:
    storage, cases = STORAGES[name]
    assert_agrees(*data.draw(cases), storage)


# --- the ends of every range, and ties ------------------------------------------------------------


def _odd_layer(
    name: str, storage: Storage, weights: Contents, zero_points: tuple[int, int], activation: Activation
) -> Graph:
    """Odd rows and an odd number of weights, so that int4 rows share bytes and the last byte is half full.

    ``zero_points``: of the input and of the output. Multipliers are powers of two, and each bias is a tie of
    its channel or one beside it; so is the whole accumulator where the input is its zero point.
    """
    kind, bits, granularity = storage
    shape, x_shape, op, y_shape = _odd_geometry(name, kind, activation)
    axis = 3 if kind == "DepthwiseConv2D" else 0
    channels, limit = shape[axis], 2 ** (bits - 1) - 1
    data = weights.array(shape, -limit, limit)
    assert data.size % 2 == 1
    # Outputs reach both ends of int8: each channel has about 2**shift accumulator steps an output step.
    shift = round(np.log2(limit * np.sqrt(data.size / channels))) + np.arange(channels) % 3
    own = Quantization.per_channel(2.0 ** -shift.astype(np.float32), axis)
    if granularity == "per-tensor":
        shift[:] = shift[0]
        own = Quantization.per_tensor(2.0 ** -float(shift[0]), 0)
    random = np.random.default_rng(weights.seed)
    ties = (2 * random.integers(-60, 60, channels) + 1) * 2 ** (shift - 1)
    bias = (ties + random.integers(-1, 2, channels)).astype(np.int32)
    x_own, y_own = (Quantization.per_tensor(0.25, zero_point) for zero_point in zero_points)
    bias_own = Quantization(x_own.scale * own.scale, own.zero_point, None if own.axis is None else 0)
    operands = [
        quantized("x", x_shape, x_own),
        Tensor("weights", shape, WIDTHS[bits], own, data),
        Tensor("bias", (channels,), DType.INT32, bias_own, bias),
    ]
    return one_op(op, operands, quantized("y", y_shape, y_own))


def _odd_geometry(
    name: str, kind: str, activation: Activation
) -> tuple[tuple[int, ...], tuple[int, ...], Op, tuple[int, ...]]:
    """Shapes of weights, input and output, and the op between them."""
    if kind == "FullyConnected":
        return (5, 27), (1, 27), ir.FullyConnected(activation), (1, 5)
    window = ((2, 1), (1, 2), Padding.SAME)
    if kind == "DepthwiseConv2D":
        return (1, 3, 3, 15), (1, 7, 5, 5), ir.DepthwiseConv2D(*window, 3, activation), (1, 4, 5, 15)
    groups = 3 if name.startswith("Conv2D in groups") else 1
    outputs = 9 if groups > 1 else 5
    return (
        (outputs, 3, 3, 3),
        (1, 7, 5, 3 * groups),
        ir.Conv2D(*window, activation),
        (1, 4, 5, outputs),
    )


@pytest.mark.parametrize("name", STORAGES)
def test_odd_layers_agree_at_the_ends_of_every_range(name: str) -> None:
    storage, _ = STORAGES[name]
    seen: set[int] = set()
    zero_points = itertools.product((-128, 127), repeat=2)
    variants = itertools.product(zero_points, Activation, ("ends", "uniform"))
    for seed, (zeros, activation, kind) in enumerate(variants):
        graph = _odd_layer(name, storage, Contents(seed, kind), zeros, activation)
        inputs = Contents(seed + 1, kind).array((4, *graph["x"].shape[1:]))
        inputs[:3] = np.array([zeros[0], -128, 127]).reshape(3, *[1] * (inputs.ndim - 1))
        seen.update(np.unique(assert_agrees(graph, inputs, storage)).tolist())
    assert {-128, 127} <= seen
    assert len(seen) > 50  # the comparisons are about something


# --- what is not executed -------------------------------------------------------------------------


@pytest.mark.parametrize(("runtime", "storage"), sorted(REFUSED))
def test_what_an_interpreter_does_not_execute_it_refuses(runtime: str, storage: Storage) -> None:
    name = next(name for name, (each, _) in STORAGES.items() if each == storage)
    graph = _odd_layer(name, storage, Contents(0, "uniform"), (0, 0), Activation.NONE)
    with pytest.raises(InterpreterError):
        EXACT[runtime][0](write_tflite(graph), np.zeros((1, *graph["x"].shape[1:]), np.int8))


@pytest.mark.parametrize("op", ["Conv2D", "DepthwiseConv2D", "FullyConnected"])
def test_multipliers_that_xnnpack_does_not_load_are_not_written(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = _odd_layer(op, (op, 8, "per-channel"), Contents(0, "ends"), (0, 0), Activation.NONE)
    x, weights = (layer[name].quantization for name in ("x", "weights"))
    assert x is not None
    assert weights is not None
    largest = float((x.scale * weights.scale).max())
    inputs = np.zeros((1, *layer["x"].shape[1:]), np.int8)

    def with_multiplier(multiplier: float) -> Graph:
        y = replace(layer["y"], quantization=Quantization.per_tensor(largest / multiplier, 0))
        zeros = replace(layer["bias"], data=np.zeros(layer["bias"].shape, np.int32))
        return replace(layer, tensors={**layer.tensors, "y": y, "bias": zeros})

    assert_agrees(with_multiplier(255.99), inputs, (op, 8, "per-channel"))
    refused = with_multiplier(256)
    with pytest.raises(InternalError, match="multiplier 256 must stay below 256"):
        write_tflite(refused)
    monkeypatch.setattr(write_tflite_module, "check", lambda *_, **__: None)
    with pytest.raises(InterpreterError, match="XNNPACK"):
        run_litert_default(write_tflite(refused), inputs)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_targets_store_only_what_their_runtimes_execute(target) -> None:
    executed = {storage for storage, _ in STORAGES.values()}
    for row in target.weights:
        storage = (row.op, row.bits, row.granularity)
        assert storage in executed
        assert not {(runtime, storage) for runtime in target.runtimes.required} & REFUSED


@pytest.mark.parametrize("bits", WIDTHS)
def test_depthwise_weights_of_one_scale_are_not_written(bits: int) -> None:
    """TFLite's quantization specification wants a scale for each of their channels."""
    storage = ("DepthwiseConv2D", bits, "per-tensor")
    graph = _odd_layer("DepthwiseConv2D", storage, Contents(0, "uniform"), (0, 0), Activation.NONE)
    assert ["1 scales for 15 channels" in str(finding) for finding in findings(graph)] == [True]
    with pytest.raises(InternalError, match="1 scales for 15 channels"):
        write_tflite(graph)
