"""Norms of float networks: the same values as theirs, quantized and lowered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from lowering.qdq_builder import Float, Qdq, compare, device_inputs, kinds, ort_integers
from onnx import TensorProto, helper

from sgsc_edge.calibration import quantize_network
from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.reference import run
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import check, lower
from sgsc_edge.lowering.fold import import_model
from sgsc_edge.lowering.passes.norms import decompose_norms
from sgsc_edge.lowering.write_onnx import write_onnx
from sgsc_edge.runtimes import execute, specs
from sgsc_edge.runtimes.onnxruntime import float_outputs


def float_model(q: Float, build: Callable[[Float], str], shape: tuple[int, ...]) -> onnx.ModelProto:
    """With the output's shape: ONNX's inference does not know that of a GroupNormalization."""
    model = q.model(build(q), check=False)
    output = model.graph.output[0]
    output.CopyFrom(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["batch", *shape]))
    onnx.checker.check_model(model)
    return model


def layer_norm(q: Float) -> str:
    return q.node("LayerNormalization", q.image(6, 16), q.real(16), q.real(16), axis=-1)


def without_bias(q: Float) -> str:
    return q.node("LayerNormalization", q.image(6, 16), q.real(16), axis=2)


def group_norm(q: Float) -> str:
    return q.node("GroupNormalization", q.image(6, 4, 5), q.real(6), q.real(6), num_groups=3)


def instance_norm(q: Float) -> str:
    return q.node("InstanceNormalization", q.image(6, 4, 5), q.real(6), q.real(6))


def instance_norm_of_a_sequence(q: Float) -> str:
    return q.node("InstanceNormalization", q.image(6, 20), q.real(6), q.real(6))


CASES: dict[str, tuple[Callable[[Float], str], tuple[int, ...], int]] = {
    "layer": (layer_norm, (6, 16), 21),
    "layer, opset 17": (layer_norm, (6, 16), 17),
    "no bias": (without_bias, (6, 16), 21),
    "group": (group_norm, (6, 4, 5), 21),
    "instance": (instance_norm, (6, 4, 5), 21),
    "sequence": (instance_norm_of_a_sequence, (6, 20), 21),
}


@pytest.mark.parametrize("name", CASES)
def test_what_takes_a_norms_place_computes_the_same(name: str) -> None:
    build, shape, opset = CASES[name]
    q = Float(opset=opset)
    model = float_model(q, build, shape)
    x = np.random.default_rng(0).normal(1, 2, (40, *shape)).astype(np.float32)
    made = write_onnx(decompose_norms(import_model(model)))
    onnx.checker.check_model(made, full_check=True)
    assert not {node.op_type for node in made.graph.node} & {"LayerNormalization", "GroupNormalization"}
    wanted = float_outputs(model.SerializeToString(), x)
    # The epsilon of 1e-5 beside a variance of about 4.
    assert float_outputs(made.SerializeToString(), x) == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_norms_are_quantized_and_lowered(name: str) -> None:
    build, shape, opset = CASES[name]
    q = Float(opset=opset)
    model = float_model(q, build, shape)
    assert check(model) == []
    x = np.random.default_rng(0).normal(1, 2, (200, *shape)).astype(np.float32)
    quantized = write_onnx(quantize_network(import_model(model), x[:160]))
    wanted, found = (float_outputs(one.SerializeToString(), x[160:]) for one in (model, quantized))
    assert 10 * np.log10((wanted**2).mean() / ((found - wanted) ** 2).mean()) > 24
    graph = lower(quantized)
    assert kinds(graph).count("L2Normalization") == 1
    fed = device_inputs(graph, 30)
    ours = run(graph, fed)
    difference = np.abs(ours.astype(int) - ort_integers(quantized, fed, graph))
    assert difference.max() <= 3  # four ops, each of which rounds on its own
    assert (difference > 1).mean() < 0.05
    for runtime in ("tflm", "litert-reference"):
        done = execute(specs()[runtime], write_tflite(graph), fed, timeout_s=60)
        assert done.outputs is not None, done.reason
        assert (done.outputs.reshape(ours.shape) == ours).all()


@pytest.mark.parametrize(("shape", "axis"), [((5, 8), -1), ((5, 8), 1), ((3, 4, 6), 1), ((2, 3, 4, 6), 4)])
def test_division_by_the_length(shape: tuple[int, ...], axis: int) -> None:
    q = Qdq()
    made = q.node("LpNormalization", q.input(shape, 0.05, 3), axis=axis, p=2)
    model = q.model(q.qdq(made, 1 / 128, 0))
    graph = lower(model)
    compare(model, kinds(graph), steps=1, share=0.05)
    assert "L2Normalization" in kinds(graph)


def test_other_grids_and_orders_are_refused() -> None:
    q = Qdq()
    with pytest.raises(UnsupportedError, match="TFLite prescribes 1/128 and 0"):
        lower(q.model(q.qdq(q.node("LpNormalization", q.input((5, 8)), axis=-1, p=2), 0.01, 0)))
    q = Qdq()
    with pytest.raises(UnsupportedError, match="sum of magnitudes"):
        lower(q.model(q.qdq(q.node("LpNormalization", q.input((5, 8)), axis=-1, p=1), 1 / 128, 0)))


def test_norms_over_several_axes_and_computed_gains_are_refused() -> None:
    q = Float()
    model = q.model(q.node("LayerNormalization", q.image(6, 16), q.real(6, 16), axis=1))
    (refusal,) = check(model)
    assert "several axes" in refusal.reason
    q = Float()
    x = q.image(6, 16)
    gain = q.node("ReduceMean", x, q.const(np.array([0, 1])), keepdims=0)
    model = float_model(q, lambda q: q.node("LayerNormalization", x, gain, axis=-1), (6, 16))
    (refusal, *_) = check(model)
    assert "gain is computed" in refusal.reason


def test_a_quantized_norm_is_refused() -> None:
    """Trained with the norm in float inside: other integers than these ops give."""
    q = Qdq()
    gain = q.const(np.ones(8, np.float32))
    model = q.model(q.qdq(q.node("LayerNormalization", q.input((5, 8)), gain, axis=-1), 0.03, 0))
    with pytest.raises(UnsupportedError, match="LayerNormalization"):
        lower(model)


@pytest.mark.parametrize("groups", [0, -1, 4])
def test_groups_that_are_not_equal_are_refused(groups: int) -> None:
    q = Float()
    make = lambda q: q.node("GroupNormalization", q.image(6, 4, 5), q.real(6), q.real(6), num_groups=groups)  # noqa: E731
    (refusal, *_) = check(float_model(q, make, (6, 4, 5)))
    assert "groups of 6 channels" in refusal.reason


def test_a_gain_of_another_size_and_lengths_along_the_batch_are_refused() -> None:
    q = Float()
    model = float_model(q, lambda q: q.node("LayerNormalization", q.image(6, 8), q.real(5), axis=-1), (6, 8))
    (refusal, *_) = check(model)
    assert "[5] for 8 values" in refusal.reason
    q = Qdq()
    with pytest.raises(UnsupportedError, match="along the batch"):
        lower(q.model(q.qdq(q.node("LpNormalization", q.input((8,)), axis=0, p=2), 1 / 128, 0)))
