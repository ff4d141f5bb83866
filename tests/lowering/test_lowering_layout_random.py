"""Random chains of ops that only move integers: the NHWC layout must be exact whatever their order."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from qdq_builder import Qdq, device_inputs, kinds, ort_integers

from sgsc_edge.graph import legality
from sgsc_edge.graph.reference import run
from sgsc_edge.lowering import lower


def _split(draw, elements: int, rank: int) -> list[int]:
    """A random factorization of ``elements`` in ``rank`` factors."""
    sizes = []
    for _ in range(rank - 1):
        factor = draw(st.sampled_from([d for d in range(1, elements + 1) if elements % d == 0]))
        sizes.append(factor)
        elements //= factor
    return [*sizes, elements]


def _step(draw, q: Qdq, x: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """One random move of a value of ONNX shape [1, *shape]."""
    rank = len(shape)
    choices = ["reshape", "concat", "requantize", "relu"]
    choices += ["transpose"] if rank > 1 else []
    choices += ["pad", "pool"] if rank == 3 else []
    kind = draw(st.sampled_from(choices))
    if kind == "reshape":
        target = _split(draw, math.prod(shape), draw(st.integers(1, 3)))
        return q.node("Reshape", x, q.const(np.array([1, *target]))), tuple(target)
    if kind == "transpose":
        order = draw(st.permutations(range(rank)))
        moved = q.node("Transpose", x, perm=[0, *(axis + 1 for axis in order)])
        return moved, tuple(shape[axis] for axis in order)
    if kind == "concat":
        axis = draw(st.integers(0, rank - 1))
        joined = q.node("Concat", x, q.node("Relu", x), axis=axis + 1)
        return joined, (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
    if kind == "pad":
        amounts = draw(st.lists(st.integers(0, 2), min_size=6, max_size=6))
        padded = q.node("Pad", x, q.const(np.array([0, *amounts[:3], 0, *amounts[3:]])))
        return padded, tuple(size + amounts[i] + amounts[3 + i] for i, size in enumerate(shape))
    if kind == "pool":
        kernel = [draw(st.integers(1, min(3, size))) for size in shape[1:]]
        pooled = q.node("MaxPool", x, kernel_shape=kernel)
        return pooled, (shape[0], *(size - k + 1 for size, k in zip(shape[1:], kernel, strict=True)))
    if kind == "relu":
        return q.node("Relu", x), shape
    return q.qdq(x, 0.05, 3), shape


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moves_are_exact(data):
    draw = data.draw
    q = Qdq()
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    x = q.input(shape)
    for _ in range(draw(st.integers(1, 5))):
        if math.prod(shape) > 2000:
            break
        x, shape = _step(draw, q, x, shape)
    model = q.model(q.node("Relu", x))
    graph = lower(model)
    legality.check(graph)
    assert set(kinds(graph)) <= {"Reshape", "Transpose", "Concatenation", "Pad", "MaxPool2D", "Relu"}
    inputs = device_inputs(graph, 2)
    assert np.array_equal(run(graph, inputs), ort_integers(model, inputs, graph))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_moves_before_a_dense_layer_go_into_its_weights_or_stay(data):
    """Whatever the layout, the dense layer sees ONNX's order: only its own rounding may differ."""
    draw = data.draw
    q = Qdq(seed=draw(st.integers(0, 99)))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=3, max_size=3)))
    x = q.input(shape)
    for _ in range(draw(st.integers(0, 3))):
        x, shape = _step(draw, q, x, shape)
    flat = math.prod(shape)
    model = q.model(q.qdq(q.gemm(q.node("Flatten", x), flat, 5), 0.31, 0))
    graph = lower(model)
    inputs = device_inputs(graph, 2)
    difference = run(graph, inputs).astype(int) - ort_integers(model, inputs, graph)
    assert np.abs(difference).max() <= 1
