"""CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED and BATCH_MATMUL.

Integer form, per output channel o (weights have zero point 0)::

    accumulator = sum((x - x_zero_point) * w) + bias
    y = clamp(y_zero_point + round(accumulator * x_scale * w_scale[o] / y_scale))

Padding adds nothing to the sum. The sum runs as a float matrix product, in the narrowest float type
that holds every partial sum exactly. Rounding differs by runtime and op: see ``numerics.Profile``.
Sources: TFLite ``reference/integer_ops/conv.h``, ``depthwise_conv.h``, ``fully_connected.h``,
``reference/batch_matmul.h``, ``kernels/padding.h``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sgsc_edge.graph.ir import (
    Activation,
    BatchMatMul,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Padding,
    Tensor,
)
from sgsc_edge.graph.reference.common import (
    Array,
    Value,
    aligned,
    check_accumulator,
    clamp_float,
    integer_range,
    scale,
    store,
    zero_point,
)
from sgsc_edge.numerics import Profile, Rescale


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a sliding window: sizes in elements, padding before and after."""

    filter: int
    stride: int
    dilation: int
    out: int
    before: int
    after: int

    @staticmethod
    def of(size: int, filter_size: int, stride: int, dilation: int, padding: Padding) -> Axis:
        """TFLite's output size and padding; an odd total pads one more after than before.

        >>> Axis.of(5, 2, 2, 1, Padding.SAME)
        Axis(filter=2, stride=2, dilation=1, out=3, before=0, after=1)
        """
        reach = (filter_size - 1) * dilation + 1
        out = -(-size // stride) if padding is Padding.SAME else (size - reach) // stride + 1
        total = max((out - 1) * stride + reach - size, 0)
        return Axis(filter_size, stride, dilation, out, total // 2, total - total // 2)

    def positions(self, tap: int) -> slice:
        """Where filter element ``tap`` falls on the padded axis, for every output position."""
        start = tap * self.dilation
        return slice(start, start + (self.out - 1) * self.stride + 1, self.stride)


def windows(x: Array, rows: Axis, columns: Axis, fill: float) -> Iterator[tuple[int, int, Array]]:
    """For every filter element (i, j): the inputs [n,OH,OW,C] it meets, of x [n,H,W,C]."""
    padding = ((0, 0), (rows.before, rows.after), (columns.before, columns.after), (0, 0))
    padded = np.pad(x, padding, constant_values=fill)
    for i in range(rows.filter):
        for j in range(columns.filter):
            yield i, j, padded[:, rows.positions(i), columns.positions(j), :]


def flatten_batch(x: Value) -> Array:
    """[n, batch, H, W, C] as [n * batch, H, W, C]."""
    return x.data.reshape(-1, *x.data.shape[2:])


@dataclass(frozen=True)
class Sums:
    """Centered inputs and weights in a float type that holds every partial sum exactly."""

    x: Array
    weights: Array
    may_overflow: bool

    @staticmethod
    def of(x: Value, weights: Value, channel_axis: int, bias: Array | None) -> Sums:
        """``channel_axis`` is the weights' output channel axis, counted in the tensor's own shape."""
        if x.is_float:
            return Sums(x.data, weights.data[0], False)
        center = zero_point(x.tensor)
        low, high = integer_range(x.tensor)
        largest = max(high - center, center - low)
        integers = weights.data[0].astype(np.int64)
        others = tuple(axis for axis in range(integers.ndim) if axis != channel_axis)
        bound = int(np.abs(integers).sum(axis=others).max(initial=0)) * largest
        dtype = np.float32 if bound < 2**24 else np.float64
        total = bound + (0 if bias is None else int(np.abs(bias.astype(np.int64)).max(initial=0)))
        centered = np.subtract(x.data, center, dtype=dtype)
        return Sums(centered, integers.astype(dtype), total >= 2**31)

    def finish(self, sums: Array, bias: Array | None) -> Array:
        """Sums with the bias: int64 for integers (OverflowError beyond 32 bits), else float32."""
        accumulator = sums.astype(np.int64)
        if bias is not None:
            accumulator += bias
        if self.may_overflow:
            check_accumulator(accumulator)
        return accumulator


def bias_of(inputs: Sequence[Value]) -> Array | None:
    """The bias [channels], or None where the node has two inputs."""
    return inputs[2].data[0] if len(inputs) > 2 else None


def _output(
    sums: Sums,
    total: Array,
    inputs: Sequence[Value],
    output: Tensor,
    rescale: Rescale,
    activation: Activation,
) -> Array:
    """Bias, rescaling, activation and shape: total [.., channels] to [n, *output.shape]."""
    x, weights = inputs[:2]
    bias = bias_of(inputs)
    shape = (x.data.shape[0], *output.shape)
    if x.is_float:
        return clamp_float(total if bias is None else total + bias, activation).reshape(shape)
    accumulator = sums.finish(total, bias)
    steps = rescale.apply(accumulator, scale(x.tensor), scale(weights.tensor), scale(output))
    return store(steps, output, activation).reshape(shape)


def conv_2d(op: Conv2D, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n,1,H,W,C], weights [O,kh,kw,C/groups], bias [O] -> [n,1,OH,OW,O]."""
    x, weights = inputs[:2]
    sums = Sums.of(x, weights, 0, bias_of(inputs))
    image = sums.x.reshape(-1, *sums.x.shape[2:])
    channels_out, height, width, group_size = sums.weights.shape
    rows = Axis.of(image.shape[1], height, op.stride[0], op.dilation[0], op.padding)
    columns = Axis.of(image.shape[2], width, op.stride[1], op.dilation[1], op.padding)
    groups = image.shape[3] // group_size
    patches = np.empty((len(image), rows.out, columns.out, groups, height, width, group_size), image.dtype)
    for i, j, part in windows(image, rows, columns, 0):
        patches[:, :, :, :, i, j, :] = part.reshape(*part.shape[:3], groups, group_size)
    matrix = sums.weights.reshape(groups, channels_out // groups, -1)
    total = np.concatenate(
        [
            patches[:, :, :, group].reshape(-1, height * width * group_size) @ matrix[group].T
            for group in range(groups)
        ],
        axis=-1,
    )
    return _output(sums, total, inputs, output, profile.convolution, op.activation)


def depthwise_conv_2d(
    op: DepthwiseConv2D, inputs: Sequence[Value], output: Tensor, profile: Profile
) -> Array:
    """x [n,1,H,W,C], weights [1,kh,kw,C*m], bias [C*m] -> [n,1,OH,OW,C*m]; channel c*m + k reads c."""
    x, weights = inputs[:2]
    sums = Sums.of(x, weights, 3, bias_of(inputs))
    image = sums.x.reshape(-1, *sums.x.shape[2:])
    _, height, width, channels_out = sums.weights.shape
    channels = image.shape[3]
    taps = sums.weights.reshape(height, width, channels, channels_out // channels)
    rows = Axis.of(image.shape[1], height, op.stride[0], op.dilation[0], op.padding)
    columns = Axis.of(image.shape[2], width, op.stride[1], op.dilation[1], op.padding)
    total = np.zeros((len(image), rows.out, columns.out, *taps.shape[2:]), image.dtype)
    for i, j, part in windows(image, rows, columns, 0):
        total += part[..., np.newaxis] * taps[i, j]
    flat = total.reshape(-1, channels_out)
    return _output(sums, flat, inputs, output, profile.convolution, op.activation)


def fully_connected(op: FullyConnected, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n, ..., I] taken as rows of I, weights [O, I], bias [O] -> [n, *output.shape]."""
    x, weights = inputs[:2]
    sums = Sums.of(x, weights, 0, bias_of(inputs))
    total = sums.x.reshape(-1, sums.weights.shape[1]) @ sums.weights.T
    # TFLM and LiteRT choose the per-channel path by the number of scales, not by the axis being set.
    per_channel = weights.tensor.quantization is not None and weights.tensor.quantization.scale.size > 1
    rescale = profile.fully_connected_per_channel if per_channel else profile.fully_connected
    return _output(sums, total, inputs, output, rescale, op.activation)


def batch_matmul(op: BatchMatMul, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """a [n, ..., M, K] and b [n, ..., K, N] -> [n, ..., M, N]; both less their zero points."""
    a, b = aligned(inputs)
    if op.adj_x:
        a = a.swapaxes(-1, -2)
    if op.adj_y:
        b = b.swapaxes(-1, -2)
    if inputs[0].is_float:
        return np.asarray(a @ b, np.float32)
    left, right = (
        data.astype(np.float64) - zero_point(value.tensor) for data, value in zip((a, b), inputs, strict=True)
    )
    total = (left @ right).astype(np.int64)  # float64 is exact up to 2**53
    check_accumulator(total)
    a_scale, b_scale = (scale(value.tensor) for value in inputs)
    return store(profile.batch_matmul.apply(total, a_scale, b_scale, scale(output)), output)
