"""Resize: the values and weights of ONNX in every way of counting, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
from qdq_builder import Qdq, compare, kinds

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.lowering import lower

WAYS = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def resized(q, x, sizes, **attributes):
    return q.node("Resize", x, "", "", q.const(np.array(sizes)), **attributes)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("sizes", [(10, 12), (7, 4), (2, 3), (5, 6), (1, 1)])
def test_nearest_is_exact_in_every_way(way, rounding, sizes):
    q = Qdq()
    y = resized(
        q,
        q.input((3, 5, 6)),
        [1, 3, *sizes],
        mode="nearest",
        coordinate_transformation_mode=way,
        nearest_mode=rounding,
    )
    model = q.model(q.node("Relu", y))
    found = kinds(lower(model))
    assert set(found) <= {"ResizeNearestNeighbor", "Gather", "StridedSlice", "Relu"}
    compare(model, found, steps=0)


@pytest.mark.parametrize(("way", "rounding"), [("asymmetric", "floor"), ("half_pixel", "round_prefer_ceil")])
def test_what_torch_exports_is_one_op(way, rounding):
    q = Qdq()
    attributes = {"coordinate_transformation_mode": way, "nearest_mode": rounding}
    y = q.node(
        "Resize",
        q.input((3, 5, 6)),
        "",
        q.const(np.array([1, 1, 2, 2], np.float32)),
        mode="nearest",
        **attributes,
    )
    compare(q.model(q.node("Relu", y)), ["ResizeNearestNeighbor", "Relu"], steps=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(10, 12), (7, 4), (5, 6)])
def test_bilinear(way, sizes):
    q = Qdq()
    y = resized(q, q.input((3, 5, 6)), [1, 3, *sizes], mode="linear", coordinate_transformation_mode=way)
    # TFLite Micro counts in 1024ths of a value.
    compare(q.model(q.qdq(y, 0.05, 3)), ["ResizeBilinear"], steps=1, share=0.2)


def test_a_sequence_is_resized_as_an_image():
    q = Qdq()
    x = q.qdq(q.conv(q.input((3, 9)), (4, 3, 3)), 0.4, 0)
    y = resized(
        q, x, [1, 4, 14], mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    )
    compare(
        q.model(q.qdq(q.conv(y, (2, 4, 3)), 2.0, 0)), ["Conv2D", "ResizeNearestNeighbor", "Conv2D"], share=0.2
    )


@pytest.mark.parametrize(
    ("attributes", "sizes", "reason"),
    [
        ({"mode": "cubic"}, (10, 12), "mode cubic"),
        ({"mode": "linear", "antialias": 1}, (2, 3), "antialias"),
        ({"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"}, (10, 12), "symmetric"),
    ],
)
def test_refusals(attributes, sizes, reason):
    q = Qdq()
    model = q.model(q.node("Relu", resized(q, q.input((3, 5, 6)), [1, 3, *sizes], **attributes)))
    with pytest.raises(UnsupportedError, match=reason):
        lower(model)


def test_a_scale_that_is_not_the_ratio_of_the_sizes_is_no_bilinear_of_tflite():
    q = Qdq()
    scales = q.const(np.array([1, 1, 1.7, 1.7], np.float32))
    y = q.node("Resize", q.input((3, 5, 6)), "", scales, mode="linear")
    with pytest.raises(UnsupportedError, match="no way of counting"):
        lower(q.model(q.node("Relu", y)))
