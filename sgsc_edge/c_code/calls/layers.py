"""Layers with weights: convolutions, depthwise ones, dense ones, and the maximum taken with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.c_code.calls.common import TFLM, Call, Operands, bounds, refused
from sgsc_edge.c_code.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Node, Tensor
from sgsc_edge.graph.reference.common import scale, zero_point
from sgsc_edge.graph.reference.matrix import Axis
from sgsc_edge.numerics import (
    INT32_MAX,
    INT32_MIN,
    pack_filters,
    pack_int4,
    quantize_multiplier,
    real_multiplier,
)


def layer(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Conv2D, DepthwiseConv2D, FullyConnected, with the pool that the step takes of their sums."""
    op, x, weights = step.node.op, operands[0], operands[1]
    if isinstance(op, ir.FullyConnected):
        filters = _integers(weights).reshape(-1, 1, 1, weights.shape[-1])
        rows = x.elements // weights.shape[-1]
        image = [rows, 1, weights.shape[-1]]
        sums = (rows, 1)
        window: dict[str, int] = {"stride_h": 1, "stride_w": 1, "dilation_h": 1, "dilation_w": 1}
        pads = (0, 0)
        group_in, group_out = weights.shape[-1], len(filters)
        images = 1
    else:
        assert isinstance(op, ir.Conv2D | ir.DepthwiseConv2D)
        depthwise = isinstance(op, ir.DepthwiseConv2D)
        stored = _integers(weights)
        filters = np.moveaxis(stored[0], 2, 0)[..., np.newaxis] if depthwise else stored
        images, *image = x.shape
        axes = [
            Axis.of(image[i], filters.shape[1 + i], op.stride[i], op.dilation[i], op.padding) for i in (0, 1)
        ]
        sums, pads = (axes[0].out, axes[1].out), (axes[0].before, axes[1].before)
        window = {
            "stride_h": op.stride[0],
            "stride_w": op.stride[1],
            "dilation_h": op.dilation[0],
            "dilation_w": op.dilation[1],
        }
        group_in = filters.shape[3]
        group_out = len(filters) * group_in // image[2]
    kind = "depthwise" if isinstance(op, ir.DepthwiseConv2D) else "conv"
    if isinstance(op, ir.DepthwiseConv2D):
        group_out = op.depth_multiplier
    bias = operands[2].data if len(operands) > 2 else None
    folded = _folded_bias(step.node, output, filters, bias, zero_point(x))
    real = real_multiplier(TFLM.convolution.precision, scale(x), scale(weights), scale(output))
    multiplier, shift = (np.atleast_1d(part) for part in quantize_multiplier(real))
    low, high = bounds(getattr(op, "activation", Activation.NONE), output)
    constants: dict[str, NDArray[Any]] = {
        "bias": folded,
        "multiplier": multiplier.astype(np.int32),
        "shift": shift.astype(np.int8),
    }
    scratch = 0
    if learned:
        width, constants["weights"] = "learned", pack_filters(filters).view(np.int8)
        scratch = filters[0].size
    elif weights.dtype is DType.INT4:
        width, constants["weights"] = "int4", pack_int4(filters).view(np.int8)
    else:
        width, constants["weights"] = "int8", filters.astype(np.int8).reshape(-1)
    pool, out = _pool_of(step, sums)
    if step.pool is not None:
        assert isinstance(step.pool.op, ir.MaxPool2D)
        pool_low, pool_high = bounds(step.pool.op.activation, output)
        low, high = min(max(low, pool_low), pool_high), min(max(high, pool_low), pool_high)
    return [
        Call(
            f"{kind}_{width}",
            (f"{kind}_{width}",),
            (x,),
            "layer",
            {
                "scales": int(len(multiplier) > 1),
                "in_h": image[0],
                "in_w": image[1],
                "in_c": image[2],
                "sums_h": sums[0],
                "sums_w": sums[1],
                "out_h": out[0],
                "out_w": out[1],
                "out_c": len(filters),
                "kernel_h": filters.shape[1],
                "kernel_w": filters.shape[2],
                **window,
                "pad_h": pads[0],
                "pad_w": pads[1],
                "group_in": group_in,
                "group_out": group_out,
                **pool,
                "x_zero": zero_point(x),
                "y_zero": zero_point(output),
                "low": low,
                "high": high,
            },
            constants,
            scratch=scratch,
            images=images,
        )
    ]


def _integers(weights: Tensor) -> NDArray[np.int64]:
    assert weights.data is not None
    return weights.data.astype(np.int64)


def _folded_bias(
    node: Node, output: Tensor, filters: NDArray[np.int64], bias: NDArray[Any] | None, x_zero: int
) -> NDArray[np.int32]:
    """The bias less what the input's zero point adds to the sums; int32 [O]."""
    flat = filters.reshape(len(filters), -1)
    folded = (0 if bias is None else bias.astype(np.int64)) - x_zero * flat.sum(1)
    largest = 128 * np.abs(flat).sum(1).max(initial=0)
    if largest > INT32_MAX or folded.min(initial=0) < INT32_MIN or folded.max(initial=0) > INT32_MAX:
        raise refused(node, output, "its sums may leave 32 bits")
    return np.asarray(folded, np.int32)


def _pool_of(step: Step, sums: tuple[int, int]) -> tuple[dict[str, int], tuple[int, int]]:
    """The window that is taken of a layer's sums, and the size of what it gives."""
    if step.pool is None:
        size, stride, pads, out = (1, 1), (1, 1), (0, 0), sums
    else:
        op = step.pool.op
        assert isinstance(op, ir.MaxPool2D)
        axes = [Axis.of(sums[i], op.filter[i], op.stride[i], 1, op.padding) for i in (0, 1)]
        size, stride, out = op.filter, op.stride, (axes[0].out, axes[1].out)
        pads = (axes[0].before, axes[1].before)
    window = {
        "pool_h": size[0],
        "pool_w": size[1],
        "pool_stride_h": stride[0],
        "pool_stride_w": stride[1],
        "pool_pad_h": pads[0],
        "pool_pad_w": pads[1],
    }
    return window, out
