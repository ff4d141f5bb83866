"""Products of two computed matrices, as attention has them."""

from __future__ import annotations

import numpy as np
import pytest
from qdq_builder import Qdq, compare, kinds

from sgsc_edge.lowering import lower


def test_an_operand_that_lies_transposed_is_read_so():
    q = Qdq()
    x = q.input((7, 6))
    y = q.node("MatMul", x, q.node("Transpose", x, perm=[0, 2, 1]))
    graph = compare(q.model(q.qdq(y, 0.6, 0)), ["BatchMatMul"], share=0.1)
    assert graph.nodes[0].op.adj_y


@pytest.mark.parametrize("first", [False, True])
def test_a_constant_of_three_axes(first):
    q = Qdq()
    constant = q.dq(q.rng.integers(-127, 128, (2, 6, 6)).astype(np.int8), 0.02)
    x = q.input((2, 6, 6))
    y = q.node("MatMul", *((constant, x) if first else (x, constant)))
    # A rank-4 input is NHWC on the device: it is brought into ONNX's order once, and the output back.
    compare(q.model(q.qdq(y, 0.3, 0)), ["Transpose", "BatchMatMul", "Transpose"], share=0.1)


def test_heads_of_attention():
    """Four Transposes are what the meaning needs: heads in front, three times, and behind."""
    q = Qdq()
    tokens, heads, width = 5, 2, 3
    x = q.input((tokens, heads * width))

    def by_head(order):
        made = q.qdq(q.gemm_rows(x, heads * width, heads * width), 0.3, 0)
        wide = q.node("Reshape", made, q.const(np.array([0, tokens, heads, width])))
        return q.node("Transpose", wide, perm=order)

    query, key, value = by_head([0, 2, 1, 3]), by_head([0, 2, 3, 1]), by_head([0, 2, 1, 3])
    scores = q.qdq(q.node("MatMul", query, key), 0.3, 0)
    shares = q.qdq(q.node("Softmax", scores, axis=-1), 1 / 256, -128)
    mixed = q.qdq(q.node("MatMul", shares, value), 0.3, 0)
    joined = q.node("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = q.node("Reshape", joined, q.const(np.array([0, tokens, heads * width])))
    model = q.model(q.qdq(q.gemm_rows(flat, heads * width, 4), 0.5, 0))
    found = kinds(lower(model))
    assert found.count("Transpose") == 4
    compare(model, found, steps=3, share=0.4)
