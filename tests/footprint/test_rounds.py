"""Rounds of loops, against the kernels' loops written out and counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from c_code.networks import NETWORKS, Builder
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sgsc_edge.c_code.calls import Call
from sgsc_edge.c_code.write import c_code
from sgsc_edge.footprint.rounds import macs, rounds
from sgsc_edge.graph import ir

Parameters = dict[str, Any]


def calls(name: str) -> list[Call]:
    return c_code(NETWORKS[name], name="m", model_hash="0" * 64).calls


def windows(p: Parameters, counts: Counter[str]) -> list[tuple[int, int]]:
    """Where the windows start that ``channel.c`` sums for each channel."""
    found = []
    for row in range(p["out_h"]):
        for column in range(p["out_w"]):
            counts["outputs"] += p["out_c"]
            for i in range(p["pool_h"]):
                sum_y = row * p["pool_stride_h"] - p["pool_pad_h"] + i
                for j in range(p["pool_w"]):
                    sum_x = column * p["pool_stride_w"] - p["pool_pad_w"] + j
                    if 0 <= sum_y < p["sums_h"] and 0 <= sum_x < p["sums_w"]:
                        top, left = sum_y * p["stride_h"] - p["pad_h"], sum_x * p["stride_w"] - p["pad_w"]
                        found.append((top, left))
    return found


def conv(p: Parameters, group: int) -> tuple[int, ...]:
    counts: Counter[str] = Counter()
    row = p["kernel_w"] * p["group_in"]

    def dot(n: int) -> None:
        counts["dots"] += 1
        counts["blocks"] += n // group
        counts["rests"] += n % group

    def weights(n: int) -> None:
        counts["sums"] += 1
        counts["padding"] += n

    for top, left in windows(p, counts):
        counts["windows"] += 1
        whole = (
            p["group_in"] == p["in_c"]
            and p["dilation_w"] == 1
            and left >= 0
            and left + p["kernel_w"] <= p["in_w"]
        )
        for ky in range(p["kernel_h"]):
            counts["rows"] += 1
            y = top + ky * p["dilation_h"]
            if y < 0 or y >= p["in_h"]:
                weights(row)
            elif whole:
                dot(row)
            else:
                for kx in range(p["kernel_w"]):
                    counts["taps"] += 1
                    column = left + kx * p["dilation_w"]
                    (weights if column < 0 or column >= p["in_w"] else dot)(p["group_in"])
    each = ("windows", "rows", "taps", "dots", "blocks", "rests", "sums", "padding")
    return 1, p["out_c"], counts["outputs"], *(p["out_c"] * counts[name] for name in each)


def depthwise(p: Parameters) -> tuple[int, ...]:
    counts: Counter[str] = Counter()
    for top, left in windows(p, counts):
        counts["windows"] += 1
        for ky in range(p["kernel_h"]):
            counts["rows"] += 1
            for kx in range(p["kernel_w"]):
                y, x = top + ky * p["dilation_h"], left + kx * p["dilation_w"]
                counts["inside" if 0 <= y < p["in_h"] and 0 <= x < p["in_w"] else "outside"] += 1
    each = ("windows", "rows", "inside", "outside")
    return 1, p["out_c"], counts["outputs"], *(p["out_c"] * counts[name] for name in each)


@st.composite
def layers(draw: st.DrawFn) -> Parameters:
    """Parameters of a layer; the sizes of its outputs need not belong to its paddings."""
    small, size = st.integers(1, 3), st.integers(1, 6)
    names = ("stride", "dilation", "kernel", "pool", "pool_stride")
    p = {f"{name}_{axis}": draw(small) for name in names for axis in "hw"}
    p |= {f"{name}_{axis}": draw(size) for name in ("in", "sums", "out") for axis in "hw"}
    p |= {f"{name}_{axis}": draw(st.integers(0, 2)) for name in ("pad", "pool_pad") for axis in "hw"}
    group_in = draw(size)
    return p | {"out_c": draw(small), "group_in": group_in, "in_c": group_in * draw(st.integers(1, 2))}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(p=layers())
def test_layers_go_round_as_often_as_their_loops(p: Parameters) -> None:
    assume(p["in_c"])
    for function, counted in (
        ("conv_int8", conv(p, 4)),
        ("conv_int4", conv(p, 2)),
        ("depthwise_int8", depthwise(p)),
        ("depthwise_int4", depthwise(p)),
    ):
        assert rounds(Call(function, (function,), (), "layer", p)) == counted
    weights = p["out_c"] * p["kernel_h"] * p["kernel_w"] * p["group_in"]
    learned = Call("conv_learned", ("conv_learned",), (), "layer", p)
    assert rounds(learned) == (*conv(p, 4), weights)
    assert macs(learned) == conv(p, 4)[3] * p["kernel_h"] * p["kernel_w"] * p["group_in"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 5),
    window=st.tuples(*[st.integers(1, 3)] * 4),
    pads=st.tuples(*[st.integers(0, 2)] * 2),
)
def test_pools_go_round_as_often_as_their_loops(
    sizes: tuple[int, ...], window: tuple[int, ...], pads: tuple[int, ...]
) -> None:
    names = ("in_h", "in_w", "out_h", "out_w", "channels", "filter_h", "filter_w", "stride_h", "stride_w")
    p = dict(zip((*names, "pad_h", "pad_w"), (*sizes, *window, *pads), strict=True))
    counts: Counter[str] = Counter()
    for row in range(p["out_h"]):
        for column in range(p["out_w"]):
            for i in range(p["filter_h"]):
                at_y = row * p["stride_h"] - p["pad_h"] + i
                counts["rows"] += p["channels"]
                for j in range(p["filter_w"] if 0 <= at_y < p["in_h"] else 0):
                    at_x = column * p["stride_w"] - p["pad_w"] + j
                    counts["inside" if 0 <= at_x < p["in_w"] else "outside"] += p["channels"]
    pixels = p["out_h"] * p["out_w"]
    counted = (1, pixels, pixels * p["channels"], counts["rows"], counts["inside"], counts["outside"])
    for function in ("max_pool", "average_pool"):
        assert rounds(Call(function, (function,), (), "pool", p)) == counted


def test_macs_are_those_of_the_layers() -> None:
    b = Builder(1, 9, 7, 4)
    x = b.conv("x", 6, 3, 2)  # 5 x 4 outputs
    code = c_code(b.graph(b.dense(x, 10)), name="m", model_hash="0" * 64)
    assert [sum(map(macs, step.calls)) for step in code.steps] == [5 * 4 * 6 * 9 * 4, 5 * 4 * 6 * 10]
    products = [macs(call) for call in calls("gated") if call.function == "matmul"]
    assert products == [16 * 16 * 4, 16 * 4 * 16]
    assert sum(macs(call) for call in calls("gated") if call.function == "mul") == 0


def test_every_kernel_that_the_networks_call_is_counted() -> None:
    for name in NETWORKS:
        for call in calls(name):
            assert min(rounds(call)) >= 0
            assert rounds(call)[0] == 1


def test_rounds_count_every_image() -> None:
    made = []
    for images in (1, 3):
        b = Builder(images, 6, 8, 2)
        x = b.resize(ir.ResizeBilinear, b.pool(b.depthwise(b.conv("x", 4)), 3, 2), 5, 7)
        made.append(c_code(b.graph(x), name="m", model_hash="0" * 64).calls)
    for one, three in zip(*made, strict=True):
        assert rounds(three) == tuple(3 * count for count in rounds(one))
        assert macs(three) == 3 * macs(one)
