"""How often each loop of a kernel goes round, counted from a call's parameters.

What a kernel executes is a sum over its loops: rounds times the instructions of one round. Each function here
gives the rounds of a kernel of ``c_code/kernels``, the call itself first, the innermost loop last; ``costs``
has the instructions. What depends on the data (a branch on a sign) is in their average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

from sgsc_edge.c_code.calls import Call

Parameters = Mapping[str, Any]


def rounds(call: Call) -> tuple[int, ...]:
    """The rounds of a call's loops; as many for every call of one kernel."""
    if call.struct is None:
        return 1, int(call.plain[0])  # every kernel without parameters of its own is one loop
    return tuple(call.images * count for count in _ROUNDS[call.function](call.parameters))


def macs(call: Call) -> int:
    """Multiplications with weights, or of two computed matrices, those with padding included."""
    if call.struct == "layer":
        p = call.parameters
        return call.images * _positions(p)[2] * int(p["kernel_h"] * p["kernel_w"] * p["group_in"])
    if call.struct == "matmul_of":
        return _matmul(call.parameters)[-1]
    return 0


# --- layers with weights --------------------------------------------------------------------------


def _starts(p: Parameters, axis: str) -> list[int]:
    """Where windows start along an axis of the input, once for each time that one is summed."""
    positions = (
        out * p[f"pool_stride_{axis}"] - p[f"pool_pad_{axis}"] + at
        for out in range(p[f"out_{axis}"])
        for at in range(p[f"pool_{axis}"])
    )
    return [
        position * p[f"stride_{axis}"] - p[f"pad_{axis}"]
        for position in positions
        if 0 <= position < p[f"sums_{axis}"]
    ]


def _inside(p: Parameters, axis: str, starts: Sequence[int]) -> int:
    """Taps along an axis that lie inside the input, of all windows."""
    dilation, size = p[f"dilation_{axis}"], p[f"in_{axis}"]
    return sum(0 <= start + tap * dilation < size for start in starts for tap in range(p[f"kernel_{axis}"]))


def _positions(p: Parameters) -> tuple[list[int], list[int], int]:
    """Starts along both axes, and how many windows are summed in all."""
    rows, columns = _starts(p, "h"), _starts(p, "w")
    return rows, columns, p["out_c"] * len(rows) * len(columns)


def _conv(p: Parameters, group: int) -> tuple[int, ...]:
    """``group``: weights that one round of the innermost loop takes."""
    rows, columns, windows = _positions(p)
    width, channels = p["kernel_w"], p["group_in"]
    unbroken = channels == p["in_c"] and p["dilation_w"] == 1
    whole = sum(unbroken and start >= 0 and start + width <= p["in_w"] for start in columns)
    broken = [start for start in columns if not (unbroken and start >= 0 and start + width <= p["in_w"])]
    inside_rows = p["out_c"] * _inside(p, "h", rows)
    outside_rows = p["out_c"] * len(rows) * p["kernel_h"] - inside_rows
    inside_taps = _inside(p, "w", broken)
    outside_taps = len(broken) * width - inside_taps
    # Products of whole rows, and of single taps; sums of weights that meet padding, of rows and of taps.
    long, short = inside_rows * whole, inside_rows * inside_taps
    padded_rows, padded_taps = outside_rows * len(columns), inside_rows * outside_taps
    row = width * channels
    return (
        1,
        p["out_c"],
        p["out_c"] * p["out_h"] * p["out_w"],
        windows,
        windows * p["kernel_h"],
        inside_rows * len(broken) * width,
        long + short,
        long * (row // group) + short * (channels // group),
        long * (row % group) + short * (channels % group),
        padded_rows + padded_taps,
        padded_rows * row + padded_taps * channels,
    )


def _depthwise(p: Parameters) -> tuple[int, ...]:
    rows, columns, windows = _positions(p)
    inside = p["out_c"] * _inside(p, "h", rows) * _inside(p, "w", columns)
    taps = windows * p["kernel_h"] * p["kernel_w"]
    outputs = p["out_c"] * p["out_h"] * p["out_w"]
    return 1, p["out_c"], outputs, windows, windows * p["kernel_h"], inside, taps - inside


def _unpacked(p: Parameters) -> tuple[int, ...]:
    weights = p["kernel_h"] * p["kernel_w"] * p["group_in"]
    return (p["out_c"] * weights,)


# --- windows without weights ----------------------------------------------------------------------


def _pool(p: Parameters) -> tuple[int, ...]:
    def taps(axis: str) -> int:
        return sum(
            0 <= out * p[f"stride_{axis}"] - p[f"pad_{axis}"] + tap < p[f"in_{axis}"]
            for out in range(p[f"out_{axis}"])
            for tap in range(p[f"filter_{axis}"])
        )

    rows, columns = taps("h"), taps("w")
    pixels, channels = p["out_h"] * p["out_w"], p["channels"]
    visited = rows * p["out_w"] * p["filter_w"] * channels
    inside = rows * columns * channels
    return 1, pixels, pixels * channels, pixels * channels * p["filter_h"], inside, visited - inside


# --- walks ----------------------------------------------------------------------------------------


def _size(p: Parameters) -> tuple[int, ...]:
    return 1, p["size"]


def _rows_of(p: Parameters) -> tuple[int, ...]:
    return 1, p["rows"], p["rows"] * p["size"]


def _walk(p: Parameters) -> tuple[int, ...]:
    """Blocks and elementwise ops of two operands: all but the innermost loop, and that."""
    return 1, int(prod(p["size"][:-1])), int(prod(p["size"]))


def _gather(p: Parameters) -> tuple[int, ...]:
    return 1, p["before"] * p["to"], p["before"] * p["to"] * p["block"]


def _mean(p: Parameters) -> tuple[int, ...]:
    outputs = int(prod(p["kept"]))
    return 1, outputs, outputs * int(prod(p["reduced"][:-1])), outputs * int(prod(p["reduced"]))


def _matmul(p: Parameters) -> tuple[int, ...]:
    batches = int(prod(p["size"]))
    outputs = batches * p["rows"] * p["columns"]
    return 1, batches, batches * p["rows"], outputs, outputs * p["terms"]


def _resize(p: Parameters) -> tuple[int, ...]:
    pixels = p["out_h"] * p["out_w"]
    return 1, p["out_h"], pixels, pixels * p["channels"]


_ROUNDS: Mapping[str, Callable[[Parameters], tuple[int, ...]]] = MappingProxyType(
    {
        "conv_int8": lambda p: _conv(p, 4),
        "conv_int4": lambda p: _conv(p, 2),
        "conv_learned": lambda p: _conv(p, 4) + _unpacked(p),
        "depthwise_int8": _depthwise,
        "depthwise_int4": _depthwise,
        "depthwise_learned": lambda p: _depthwise(p) + _unpacked(p),
        "max_pool": _pool,
        "average_pool": _pool,
        "add": _walk,
        "sub": _walk,
        "mul": _walk,
        "prelu": _walk,
        "move": _walk,
        "requantize": _size,
        "table": _size,
        "gather": _gather,
        "mean": _mean,
        "matmul": _matmul,
        "softmax": _rows_of,
        "l2norm": _rows_of,
        "nearest": _resize,
        "bilinear": _resize,
    }
)
