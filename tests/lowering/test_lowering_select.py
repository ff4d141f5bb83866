"""Slice, Split, Gather and channel shuffles: which values are taken, and that none moves without need."""

from __future__ import annotations

import numpy as np
import pytest
from qdq_builder import Qdq, compare, kinds

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.lowering import lower

EXACT = {"steps": 0}


def sliced(q, x, starts, ends, axes, steps=None):
    vectors = [starts, ends, axes, *([] if steps is None else [steps])]
    return q.node("Slice", x, *(q.const(np.array(vector)) for vector in vectors))


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 6, 5), 1), ((4, 6, 5), 2), ((4, 6, 5), 3), ((6, 5), 1), ((6, 5), 2), ((12,), 1)]
)
@pytest.mark.parametrize(
    ("start", "end", "step", "kind"),
    [
        (1, 4, 1, "StridedSlice"),
        (-3, 1 << 40, 1, "StridedSlice"),
        (0, 4, 2, "StridedSlice"),
        (3, 0, -1, "Gather"),
    ],
)
def test_slice(shape, axis, start, end, step, kind):
    q = Qdq()
    compare(q.model(sliced(q, q.input(shape), [start], [end], [axis], [step])), [kind], **EXACT)


def test_a_slice_of_everything_is_nothing():
    q = Qdq()
    y = sliced(q, q.input((4, 6, 5)), [0, 0], [99, 6], [1, -2])
    compare(q.model(q.node("Relu", y)), ["Relu"], **EXACT)


def test_an_image_is_cropped_along_both_axes():
    q = Qdq()
    y = sliced(q, q.input((4, 6, 5)), [1, 2], [-1, 99], [2, 3])
    graph = compare(q.model(y), ["StridedSlice", "StridedSlice"], **EXACT)
    assert graph["output"].shape == (1, 4, 3, 4)


@pytest.mark.parametrize("sizes", [None, [1, 3, 2]])
def test_split(sizes):
    q = Qdq()
    x = q.input((6, 4, 3))
    names = [q.name("part") for _ in range(3)]
    inputs = [x] if sizes is None else [x, q.const(np.array(sizes))]
    more = {"num_outputs": 3} if sizes is None else {}
    q.node("Split", *inputs, axis=1, **more)
    q.nodes[-1].output[:] = names
    y = q.node("Concat", *reversed(names), axis=1)
    compare(q.model(y), ["StridedSlice"] * 3 + ["Concatenation"], **EXACT)


@pytest.mark.parametrize(
    ("indices", "axis", "expected"),
    [
        (np.array(2), 1, ["StridedSlice"]),
        (np.array(-1), 3, ["StridedSlice"]),
        (np.array([3, 0, 3, 1]), 1, ["Gather"]),
        (np.array([0, 2]), 2, ["StridedSlice"]),
        (np.array([[4, 0], [1, 2]]), 3, ["Gather", "Transpose", "Reshape"]),
    ],
)
def test_gather(indices, axis, expected):
    q = Qdq()
    y = q.node("Gather", q.input((4, 6, 5)), q.const(indices), axis=axis)
    found = kinds(lower(q.model(y)))
    assert [kind for kind in found if kind not in ("Reshape", "Transpose")] == expected[:1]
    compare(q.model(y), found, **EXACT)


def shuffled(q, x, groups, channels, height, width):
    wide = q.node("Reshape", x, q.const(np.array([0, groups, channels // groups, height, width])))
    moved = q.node("Transpose", wide, perm=[0, 2, 1, 3, 4])
    return q.node("Reshape", moved, q.const(np.array([0, channels, height, width])))


def test_a_channel_shuffle_goes_into_the_weights_behind_it():
    q = Qdq()
    y = q.qdq(q.conv(shuffled(q, q.input((6, 5, 4)), 3, 6, 5, 4), (4, 6, 3, 3)), 0.5, 0)
    compare(q.model(y), ["Conv2D"])


def test_a_channel_shuffle_goes_through_pools_and_depthwise_layers():
    q = Qdq()
    x = q.node("MaxPool", shuffled(q, q.input((6, 5, 4)), 2, 6, 5, 4), kernel_shape=[2, 2])
    x = q.qdq(q.conv(x, (12, 1, 3, 3), group=6), 0.3, 0)
    x = q.qdq(q.node("GlobalAveragePool", x), 0.2, 0)
    y = q.qdq(q.gemm(q.node("Flatten", x), 12, 5), 0.4, 0)
    compare(q.model(y), ["MaxPool2D", "DepthwiseConv2D", "Mean", "Reshape", "FullyConnected"], share=0.2)


def test_units_of_a_shuffle_network_take_no_transpose():
    """Split, a branch, Concat, shuffle, and again: what passes by stays in the order in which it came."""
    q = Qdq()
    x = q.input((12, 5, 4))
    for _ in range(3):
        left, right = q.name("left"), q.name("right")
        q.node("Split", x, axis=1, num_outputs=2)
        q.nodes[-1].output[:] = [left, right]
        q.params[right] = (0.05, 3)
        branch = q.qdq(q.conv(right, (6, 6, 1, 1)), 0.05, 3)
        x = q.qdq(q.node("Concat", left, branch, axis=1), 0.05, 3)
        x = shuffled(q, x, 2, 12, 5, 4)
    model = q.model(q.qdq(q.conv(x, (3, 12, 3, 3)), 0.5, 0))
    found = kinds(lower(model))
    assert "Transpose" not in found
    assert "Reshape" not in found
    compare(model, found, steps=3, share=0.2)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda q, x: sliced(q, x, [3], [3], [1]), "nothing is left"),
        (lambda q, x: q.node("Gather", x, q.const(np.array([7])), axis=1), "outside the 4 values"),
    ],
)
def test_refusals(build, reason):
    q = Qdq()
    model = q.model(q.node("Relu", build(q, q.input((4, 6, 5)))))
    with pytest.raises(UnsupportedError, match=reason):
        lower(model)
