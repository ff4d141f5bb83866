"""CONCATENATION, GATHER, STRIDED_SLICE, PACK, PAD, RESHAPE and TRANSPOSE: values move, none changes.

Axes of the ops count the tensor's own dimensions; axis 0 of the data is the samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sgsc_edge.errors import DataError
from sgsc_edge.graph.ir import (
    Cast,
    Concatenation,
    Gather,
    Pack,
    Pad,
    Reshape,
    StridedSlice,
    Tensor,
    Transpose,
)
from sgsc_edge.graph.reference.common import (
    Array,
    Value,
    clamp,
    clamp_float,
    integer_range,
    scale,
    zero_point,
)
from sgsc_edge.graph.shapes import sliced
from sgsc_edge.numerics import Profile, quantized_activation_range


def concatenation(op: Concatenation, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """Inputs joined along ``op.axis``; constants repeat for every sample."""
    samples = max(value.data.shape[0] for value in inputs)
    parts = [np.broadcast_to(value.data, (samples, *value.data.shape[1:])) for value in inputs]
    joined = np.concatenate(parts, axis=op.axis % len(output.shape) + 1)
    if inputs[0].is_float:
        return clamp_float(joined, op.activation)
    if output.quantization is None:  # plain integers, such as indices
        return joined
    low, high = quantized_activation_range(
        op.activation, float(scale(output)), zero_point(output), *integer_range(output)
    )
    return clamp(joined, low, high).astype(output.dtype.numpy)


def gather(op: Gather, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x [n, ..., K, ...] at indices [n, *shape] of axis K; DataError for an index outside."""
    x, indices = inputs
    axis = op.axis % len(x.tensor.shape)
    if not ((indices.data >= 0) & (indices.data < x.tensor.shape[axis])).all():
        raise DataError(
            f"an index of '{indices.tensor.name}' lies outside 0 to {x.tensor.shape[axis] - 1}",
            remedy="feed indices of the table's rows only",
        )
    samples = len(indices.data) if len(x.data) == 1 else len(x.data)
    tables = np.broadcast_to(x.data, (samples, *x.data.shape[1:]))
    rows = np.broadcast_to(indices.data, (samples, *indices.tensor.shape))
    rows = rows.reshape(samples, indices.tensor.elements)
    taken = np.moveaxis(tables, axis + 1, 1)[np.arange(samples)[:, np.newaxis], rows]
    gathered: Array = np.moveaxis(taken, 1, axis + 1).reshape(samples, *output.shape)
    return gathered


def cast(op: Cast, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """The integers in another type."""
    return inputs[0].data.astype(output.dtype.numpy)


def strided_slice(op: StridedSlice, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """The positions of x that begin, end, strides and masks name; shrunk dimensions dropped."""
    data = inputs[0].data
    for axis, positions in enumerate(sliced(op, [value.tensor for value in inputs]), start=1):
        data = data.take(list(positions), axis=axis)
    return data.reshape(len(data), *output.shape)


def pack(op: Pack, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """Inputs along a new axis; constants repeat for every sample."""
    samples = max(value.data.shape[0] for value in inputs)
    parts = [np.broadcast_to(value.data, (samples, *value.data.shape[1:])) for value in inputs]
    return np.stack(parts, axis=op.axis + 1)


def pad(op: Pad, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x with real zeros around it: the output's zero point for integers."""
    x, paddings = inputs
    widths = [(0, 0), *((int(before), int(after)) for before, after in paddings.data[0])]
    return np.pad(x.data, widths, constant_values=0 if x.is_float else zero_point(output))


def reshape(op: Reshape, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """x in row-major order under the output's static shape."""
    x = inputs[0]
    return x.data.reshape(x.data.shape[0], *output.shape)


def transpose(op: Transpose, inputs: Sequence[Value], output: Tensor, profile: Profile) -> Array:
    """Axis i of the output is axis permutation[i] of x."""
    x, permutation = inputs
    return x.data.transpose(0, *(int(axis) + 1 for axis in permutation.data.ravel()))
