"""What a target refuses of a graph: op versions, RAM, flash."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from lowering.qdq_builder import Qdq

from sgsc_edge.errors import ConfigError, UnsupportedError
from sgsc_edge.lowering import check, check_arena, check_flash, lower
from sgsc_edge.targets import Limits, Target, load_target


def having(versions: dict[str, int | None] | None = None, name: str = "tflite-int8", **limits: int) -> Target:
    """A shipped target with other versions (None: none) and limits."""
    target = load_target(name)
    merged: dict[str, Any] = {**target.versions, **(versions or {})}
    merged = {op: version for op, version in merged.items() if version is not None}
    return target.model_copy(update={"name": "mine", "versions": merged, "limits": Limits(**limits)})


def network(groups: int = 1, bits: int = 8) -> onnx.ModelProto:
    """[4, 6, 6] -> conv [8, 4, 4] -> pool [8, 2, 2] -> dense [3]."""
    q = Qdq()
    x = q.input((4, 6, 6))
    if bits == 4:
        integers = q.rng.integers(-7, 8, (8, 4 // groups, 3, 3)).astype(
            onnx.helper.tensor_dtype_to_np_dtype(22)
        )
        y = q.node("Conv", x, q.dq(integers, q.rng.uniform(0.1, 0.2, 8)))
    else:
        y = q.conv(x, (8, 4 // groups, 3, 3), group=groups) if groups > 1 else q.conv(x, (8, 4, 3, 3))
    y = q.node("MaxPool", q.qdq(y, 0.2, 0), kernel_shape=[2, 2], strides=[2, 2])
    return q.model(q.qdq(q.gemm(q.node("Flatten", y), 32, 3), 0.5, 0))


@pytest.mark.parametrize(
    ("versions", "groups", "op", "reason", "remedy"),
    [
        ({"MaxPool2D": None}, 1, "MaxPool2D", "target 'mine' does not execute it", "replace the op"),
        (
            {"Conv2D": 3},
            2,
            "Conv2D",
            "a convolution in groups takes version 6, and target 'mine' executes up to version 3",
            "use groups = 1",
        ),
        (
            {"FullyConnected": 1},
            1,
            "FullyConnected",
            "this form of it takes version 4, and target 'mine' executes up to version 1",
            "choose a target that executes it",
        ),
    ],
)
def test_an_op_that_the_target_does_not_know_is_refused(
    versions: dict[str, int | None], groups: int, op: str, reason: str, remedy: str
) -> None:
    model, target = network(groups), having(versions)
    with pytest.raises(UnsupportedError) as caught:
        lower(model, target)
    assert caught.value.op == op
    assert caught.value.node
    assert reason in str(caught.value)
    assert remedy in str(caught.value)
    (refusal,) = check(model, target)
    assert (refusal.op, refusal.reason) == (op, reason)
    assert check(model, having()) == []


def test_all_that_a_target_does_not_know_is_listed() -> None:
    refused = check(network(groups=2), having({"Conv2D": 1, "MaxPool2D": 1, "FullyConnected": 3}))
    assert [refusal.op for refusal in refused] == ["Conv2D", "MaxPool2D", "FullyConnected"]


def test_the_newest_version_itself_is_executed() -> None:
    assert check(network(groups=2), having({"Conv2D": 6, "FullyConnected": 4, "MaxPool2D": 2})) == []


CONV = 4 * 6 * 6 + 8 * 4 * 4
"""Bytes of input and output of the convolution, which needs most."""


def test_an_arena_below_what_a_layer_needs_is_refused() -> None:
    graph = lower(network())
    check_arena(graph, having(arena=CONV))
    with pytest.raises(UnsupportedError) as caught:
        check_arena(graph, having(arena=CONV - 1))
    assert (caught.value.op, caught.value.node) == ("Conv2D", graph.nodes[0].source)
    assert (
        f"while it runs, {CONV} bytes of values are in RAM: 1 more than the arena of target 'mine' has"
        in str(caught.value)
    )
    assert "compress.budget" in str(caught.value)


@pytest.mark.parametrize(("name", "unpacked"), [("tflm-int4", 8 * 9 * 4), ("tflite-int4", 0)])
def test_unpacked_filters_count_where_the_target_unpacks_them(name: str, unpacked: int) -> None:
    graph = lower(network(bits=4), load_target(name))
    check_arena(graph, having(name=name, arena=CONV + unpacked))
    short = having(name=name, arena=CONV + unpacked - 1)
    with pytest.raises(UnsupportedError) as caught:
        check_arena(graph, short)
    assert (f"and {unpacked} for its unpacked 4-bit filter" in str(caught.value)) == bool(unpacked)
    assert ("store its weights in 8 bits" in str(caught.value)) == bool(unpacked)
    if unpacked:
        check_arena(graph, short, unpacked=False)


def test_a_file_that_the_flash_does_not_hold_is_refused() -> None:
    check_flash(10**9, having())
    check_flash(2500, having(flash=2500))
    with pytest.raises(ConfigError) as caught:
        check_flash(12_500, having(flash=2500))
    text = str(caught.value)
    assert text.startswith("target 'mine': limits.flash: the .tflite takes 12,500 bytes, 10,000 more than")
    assert "compress.budget" in text
    assert "[export]" in text
    assert np.all([word in text for word in ("2,500", "fewer bits")])
    with pytest.raises(ConfigError, match="the C code's constants take 12,500 bytes"):
        check_flash(12_500, having(name="c-learned", flash=2500))
