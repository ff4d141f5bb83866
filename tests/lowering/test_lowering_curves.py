"""Activations with a kernel of their own, and differences."""

from __future__ import annotations

import numpy as np
import pytest
from qdq_builder import Qdq, compare

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.lowering import lower


@pytest.mark.parametrize(
    ("op", "kind", "scale", "zero"),
    [
        ("Sigmoid", "Logistic", 1 / 256, -128),
        ("Tanh", "Tanh", 1 / 128, 0),
        ("HardSwish", "HardSwish", 0.03, -115),
        ("LeakyRelu", "LeakyRelu", 0.04, -100),
    ],
)
@pytest.mark.parametrize("shape", [(4, 6, 5), (7,)])
def test_activations(op, kind, scale, zero, shape):
    q = Qdq()
    # TFLite Micro's fixed point is off by a step or two of a 256th in a few values.
    compare(q.model(q.qdq(q.node(op, q.input(shape)), scale, zero)), [kind], steps=2, share=0.35)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (1, 1, 1)])
def test_prelu(shape):
    q = Qdq()
    slopes = q.dq(q.rng.integers(-128, 128, shape).astype(np.int8), 0.005)
    y = q.qdq(q.node("PRelu", q.input((4, 6, 5)), slopes), 0.05, 0)
    compare(q.model(y), ["PRelu"], share=0.3)


@pytest.mark.parametrize(
    ("first", "shape"), [(False, (4, 1, 1)), (True, (4, 1, 1)), (False, (5,)), (True, ())]
)
def test_differences_with_constants(first, shape):
    q = Qdq()
    constant = q.dq(q.rng.integers(-128, 128, shape).astype(np.int8), 0.03)
    x = q.input((4, 6, 5))
    y = q.node("Sub", *((constant, x) if first else (x, constant)))
    compare(q.model(q.qdq(q.node("Relu", y), 0.06, -128)), ["Sub"], share=0.3)


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh"])
def test_the_prescribed_output_is_asked_for(op):
    q = Qdq()
    model = q.model(q.qdq(q.node(op, q.input((4,))), 0.01, 0))
    with pytest.raises(UnsupportedError, match="TFLite prescribes"):
        lower(model)
