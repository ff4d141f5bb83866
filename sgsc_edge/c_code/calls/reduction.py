"""Pools, means, softmax and lengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sgsc_edge.c_code.calls.common import Call, Operands, bounds, merged, padded, q31, ratio_of, steps_of
from sgsc_edge.c_code.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Tensor
from sgsc_edge.graph.reference.common import scale, zero_point
from sgsc_edge.graph.reference.matrix import Axis
from sgsc_edge.graph.reference.reduction import softmax_table


def pool(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """MaxPool2D and AveragePool2D."""
    op, (x, *_) = step.node.op, operands
    assert isinstance(op, ir.MaxPool2D | ir.AveragePool2D)
    name = "max_pool" if isinstance(op, ir.MaxPool2D) else "average_pool"
    images, height, width, channels = x.shape
    rows = Axis.of(height, op.filter[0], op.stride[0], 1, op.padding)
    columns = Axis.of(width, op.filter[1], op.stride[1], 1, op.padding)
    low, high = bounds(op.activation, output)
    parameters = {
        "in_h": height,
        "in_w": width,
        "channels": channels,
        "out_h": rows.out,
        "out_w": columns.out,
        "filter_h": op.filter[0],
        "filter_w": op.filter[1],
        "stride_h": op.stride[0],
        "stride_w": op.stride[1],
        "pad_h": rows.before,
        "pad_w": columns.before,
        "low": low,
        "high": high,
    }
    return [Call(name, (name,), (x,), "pool", parameters, images=images)]


def mean(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Mean: walks over what is kept and what is reduced; the count is in the multiplier."""
    x, axes = operands
    assert axes.data is not None
    rank = len(x.shape)
    over = {int(axis) % rank for axis in axes.data.ravel()}
    count = int(np.prod([x.shape[axis] for axis in over], dtype=np.int64))
    steps = steps_of(x.shape)

    def walk(chosen: Sequence[int]) -> tuple[list[int], list[int]]:
        size, (step,) = merged([x.shape[a] for a in chosen], [steps[a] for a in chosen])
        return padded(size, 3, 1), padded(step, 3, 0)

    kept, kept_step = walk([axis for axis in range(rank) if axis not in over])
    reduced, reduced_step = walk(sorted(over))
    multiplier, exponent = q31(ratio_of(x, output))
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    parameters = {
        "kept": kept,
        "kept_step": kept_step,
        "reduced": reduced,
        "reduced_step": reduced_step,
        "x_zero": zero_point(x),
        "y_zero": zero_point(output),
        "multiplier": (multiplier << shift) // count,
        "shift": exponent - shift,
    }
    return [Call("mean", ("mean",), (x,), "mean_of", parameters)]


def softmax(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Softmax over rows, with the exponentials that count as a table."""
    op, (x,) = step.node.op, operands
    assert isinstance(op, ir.Softmax)
    table, counted = softmax_table(op.beta, float(scale(x)))
    parameters = {"counted": counted, "rows": x.elements // x.shape[-1], "size": x.shape[-1]}
    constants = {"exponentials": table[:counted].astype(np.int32)}
    return [Call("softmax", ("softmax",), (x,), "softmax_of", parameters, constants)]


def l2_normalization(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """L2Normalization over rows."""
    (x,) = operands
    parameters = {"rows": x.elements // x.shape[-1], "size": x.shape[-1], "x_zero": zero_point(x)}
    return [Call("l2norm", ("l2norm",), (x,), "l2norm_of", parameters)]
