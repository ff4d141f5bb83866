"""Output shapes of the device ops, after TFLite's ``Prepare`` functions.

``infer_shape`` is total over legal inputs and raises ValueError, with the reason, for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Op, Padding, Tensor

Shape = tuple[int, ...]


def infer_shape(op: Op, inputs: list[Tensor]) -> Shape:
    """Shape of the op's output; operands that TFLite keeps as tensors (axes, paddings) must be constants.

    Raises ValueError, saying what does not fit, where the op cannot take these inputs.
    """
    return _INFER[type(op)](op, inputs)


def window_output(size: int, kernel: int, stride: int, dilation: int, padding: Padding) -> int:
    """Positions of a window along one dimension: ceil(size / stride) if SAME, all inside if VALID."""
    if padding is Padding.SAME:
        return -(-size // stride)
    count = -(-(size - (kernel - 1) * dilation) // stride)
    if count < 1:
        raise ValueError(f"a window of {kernel} (dilation {dilation}) does not fit into {size} values")
    return count


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Values that SAME adds before and after one dimension; the odd one goes after."""
    total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


def bilinear_steps(op: ir.ResizeBilinear, size: int, made: int) -> tuple[int, int]:
    """Where the first output value lies in 1024ths of an input value, and how far the next ones."""
    if op.align_corners and made > 1:
        size, made = size - 1, made - 1
    step = ((size << 10) + made // 2) // made
    return (step // 2 - (1 << 9) if op.half_pixel_centers else 0), step


def sliced(op: ir.StridedSlice, inputs: list[Tensor]) -> list[range]:
    """The positions that are taken of each dimension of x."""
    x = inputs[0].shape
    vectors = [
        _constant(tensor, what) for tensor, what in zip(inputs[1:], ("begin", "end", "strides"), strict=True)
    ]
    if any(vector.shape != (len(x),) for vector in vectors):
        raise ValueError(f"begin, end and strides must have {len(x)} values each")
    return [
        _positions(op, axis, size, *(int(vector[axis]) for vector in vectors)) for axis, size in enumerate(x)
    ]


def _positions(op: ir.StridedSlice, axis: int, size: int, begin: int, end: int, stride: int) -> range:
    bit = 1 << axis
    if stride == 0:
        raise ValueError(f"the stride of axis {axis} is 0")
    lowest, highest = (0, size) if stride > 0 else (-1, size - 1)

    def inside(index: int) -> int:
        return min(max(index + size if index < 0 else index, lowest), highest)

    first, last = (lowest, highest) if stride > 0 else (highest, lowest)
    start = first if op.begin_mask & bit else inside(begin)
    if op.shrink_axis_mask & bit:
        if stride < 0 or not (op.begin_mask & bit or -size <= begin < size):
            raise ValueError(f"axis {axis} of {size} values has none at {begin} with stride {stride}")
        return range(start, start + 1)
    return range(start, last if op.end_mask & bit else inside(end), stride)


def _rank(tensor: Tensor, rank: int, what: str) -> Shape:
    if len(tensor.shape) != rank:
        raise ValueError(f"{what} has shape {list(tensor.shape)}, must have {rank} dimensions")
    return tensor.shape


def _vector(inputs: list[Tensor], position: int, size: int, what: str) -> None:
    if len(inputs) > position and inputs[position].shape != (size,):
        raise ValueError(f"{what} has shape {list(inputs[position].shape)}, must be [{size}]")


def _windows(
    x: Shape, kernel: Shape, stride: tuple[int, int], dilation: tuple[int, int], padding: Padding
) -> tuple[int, int]:
    height, width = (window_output(x[1 + d], kernel[d], stride[d], dilation[d], padding) for d in range(2))
    return height, width


def _conv(op: ir.Conv2D, inputs: list[Tensor]) -> Shape:
    x, weights = _rank(inputs[0], 4, "x"), _rank(inputs[1], 4, "weights")
    groups, rest = divmod(x[3], weights[3])
    if rest or weights[0] % max(groups, 1):
        raise ValueError(
            f"weights {list(weights)} do not divide {x[3]} input and {weights[0]} output channels "
            "into equal groups"
        )
    _vector(inputs, 2, weights[0], "bias")
    return (x[0], *_windows(x, weights[1:3], op.stride, op.dilation, op.padding), weights[0])


def _depthwise(op: ir.DepthwiseConv2D, inputs: list[Tensor]) -> Shape:
    x, weights = _rank(inputs[0], 4, "x"), _rank(inputs[1], 4, "weights")
    if weights[0] != 1 or weights[3] != x[3] * op.depth_multiplier:
        raise ValueError(
            f"weights {list(weights)} must be [1, kh, kw, "
            f"{x[3]} channels x depth multiplier {op.depth_multiplier}]"
        )
    _vector(inputs, 2, weights[3], "bias")
    return (x[0], *_windows(x, weights[1:3], op.stride, op.dilation, op.padding), weights[3])


def _fully_connected(op: ir.FullyConnected, inputs: list[Tensor]) -> Shape:
    x, weights = inputs[0], _rank(inputs[1], 2, "weights")
    _vector(inputs, 2, weights[0], "bias")
    if op.keep_num_dims:
        if x.shape[-1:] != weights[1:]:
            raise ValueError(f"x {list(x.shape)} must end in the {weights[1]} inputs of the weights")
        return (*x.shape[:-1], weights[0])
    rows, rest = divmod(x.elements, weights[1])
    if rest:
        raise ValueError(f"x {list(x.shape)} does not divide into rows of {weights[1]} inputs")
    return (rows, weights[0])


def _batch_matmul(op: ir.BatchMatMul, inputs: list[Tensor]) -> Shape:
    a, b = (tensor.shape for tensor in inputs)
    rows, depth = a[-2:][::-1] if op.adj_x else a[-2:]
    height, columns = b[-2:][::-1] if op.adj_y else b[-2:]
    if depth != height:
        raise ValueError(f"a {list(a)} has {depth} columns, b {list(b)} {height} rows")
    try:
        return (*np.broadcast_shapes(a[:-2], b[:-2]), rows, columns)
    except ValueError:
        raise ValueError(f"leading dimensions of {list(a)} and {list(b)} do not broadcast") from None


def _broadcast(op: Op, inputs: list[Tensor]) -> Shape:
    try:
        return np.broadcast_shapes(inputs[0].shape, inputs[1].shape)
    except ValueError:
        raise ValueError(
            f"shapes {list(inputs[0].shape)} and {list(inputs[1].shape)} do not broadcast"
        ) from None


def _slopes(op: Op, inputs: list[Tensor]) -> Shape:
    shape = _broadcast(op, inputs)
    if shape != inputs[0].shape:
        raise ValueError(f"alpha {list(inputs[1].shape)} is larger than x {list(inputs[0].shape)}")
    return shape


def _pool(op: ir.MaxPool2D | ir.AveragePool2D, inputs: list[Tensor]) -> Shape:
    x = _rank(inputs[0], 4, "x")
    return (x[0], *_windows(x, op.filter, op.stride, (1, 1), op.padding), x[3])


def _resize(op: Op, inputs: list[Tensor]) -> Shape:
    x, size = _rank(inputs[0], 4, "x"), _constant(inputs[1], "size")
    if size.shape != (2,) or bool((size < 1).any()):
        raise ValueError(f"size {np.ravel(size).tolist()} must be two positive numbers")
    return (x[0], int(size[0]), int(size[1]), x[3])


def _mean(op: ir.Mean, inputs: list[Tensor]) -> Shape:
    x = inputs[0].shape
    axes = [int(axis) for axis in np.ravel(_constant(inputs[1], "axes"))]
    if not all(-len(x) <= axis < len(x) for axis in axes) or len({axis % len(x) for axis in axes}) != len(
        axes
    ):
        raise ValueError(f"axes {axes} must be distinct dimensions of {list(x)}")
    dropped = {axis % len(x) for axis in axes}
    if op.keep_dims:
        return tuple(1 if d in dropped else size for d, size in enumerate(x))
    return tuple(size for d, size in enumerate(x) if d not in dropped)


def _concatenation(op: ir.Concatenation, inputs: list[Tensor]) -> Shape:
    first = inputs[0].shape
    if not -len(first) <= op.axis < len(first):
        raise ValueError(f"axis {op.axis} is not a dimension of {list(first)}")
    axis = op.axis % len(first)
    for tensor in inputs:
        if len(tensor.shape) != len(first) or any(
            a != b for d, (a, b) in enumerate(zip(tensor.shape, first, strict=True)) if d != axis
        ):
            raise ValueError(f"shapes {[list(t.shape) for t in inputs]} differ outside axis {axis}")
    return (*first[:axis], sum(tensor.shape[axis] for tensor in inputs), *first[axis + 1 :])


def _gather(op: ir.Gather, inputs: list[Tensor]) -> Shape:
    x, indices = (tensor.shape for tensor in inputs)
    if not -len(x) <= op.axis < len(x):
        raise ValueError(f"axis {op.axis} is not a dimension of {list(x)}")
    axis = op.axis % len(x)
    return (*x[:axis], *indices, *x[axis + 1 :])


def _strided_slice(op: ir.StridedSlice, inputs: list[Tensor]) -> Shape:
    positions = sliced(op, inputs)
    if not all(positions):
        raise ValueError(f"nothing is left of axis {[bool(taken) for taken in positions].index(False)}")
    kept = (axis for axis in range(len(positions)) if not op.shrink_axis_mask & 1 << axis)
    return tuple(len(positions[axis]) for axis in kept)


def _pack(op: ir.Pack, inputs: list[Tensor]) -> Shape:
    first = inputs[0].shape
    if not 0 <= op.axis <= len(first):
        raise ValueError(f"axis {op.axis} is no place among the dimensions of {list(first)}")
    if any(tensor.shape != first for tensor in inputs):
        raise ValueError(f"shapes {[list(t.shape) for t in inputs]} differ")
    return (*first[: op.axis], len(inputs), *first[op.axis :])


def _pad(op: Op, inputs: list[Tensor]) -> Shape:
    x, paddings = inputs[0].shape, _constant(inputs[1], "paddings")
    if paddings.shape != (len(x), 2) or bool((paddings < 0).any()):
        raise ValueError(f"paddings must be [{len(x)}, 2] and not negative")
    return tuple(int(before) + size + int(after) for size, (before, after) in zip(x, paddings, strict=True))


def _reshape(op: Op, inputs: list[Tensor]) -> Shape:
    x = inputs[0]
    shape = [int(size) for size in np.ravel(_constant(inputs[1], "shape"))]
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise ValueError(f"new shape {shape} must be positive, with -1 at most once")
    known = int(np.prod([size for size in shape if size != -1], dtype=object))
    free, rest = divmod(x.elements, known)
    if rest or (-1 not in shape and free != 1):
        raise ValueError(f"{list(x.shape)} does not reshape to {shape}")
    return tuple(free if size == -1 else size for size in shape)


def _transpose(op: Op, inputs: list[Tensor]) -> Shape:
    x = inputs[0].shape
    permutation = [int(axis) for axis in np.ravel(_constant(inputs[1], "permutation"))]
    if sorted(permutation) != list(range(len(x))):
        raise ValueError(f"permutation {permutation} does not list the {len(x)} dimensions once each")
    return tuple(x[axis] for axis in permutation)


def _same(op: Op, inputs: list[Tensor]) -> Shape:
    return inputs[0].shape


def _constant(tensor: Tensor, what: str) -> np.ndarray[Any, np.dtype[Any]]:
    if tensor.data is None:
        raise ValueError(f"{what} '{tensor.name}' must be a constant")
    return tensor.data


_INFER: Mapping[type[Op], Callable[[Any, list[Tensor]], Shape]] = MappingProxyType(
    {
        ir.Conv2D: _conv,
        ir.DepthwiseConv2D: _depthwise,
        ir.FullyConnected: _fully_connected,
        ir.BatchMatMul: _batch_matmul,
        ir.Add: _broadcast,
        ir.Sub: _broadcast,
        ir.Mul: _broadcast,
        ir.MaxPool2D: _pool,
        ir.AveragePool2D: _pool,
        ir.ResizeNearestNeighbor: _resize,
        ir.ResizeBilinear: _resize,
        ir.Mean: _mean,
        ir.Concatenation: _concatenation,
        ir.Gather: _gather,
        ir.Cast: _same,
        ir.StridedSlice: _strided_slice,
        ir.Pack: _pack,
        ir.Pad: _pad,
        ir.Reshape: _reshape,
        ir.Transpose: _transpose,
        ir.Softmax: _same,
        ir.Logistic: _same,
        ir.Tanh: _same,
        ir.HardSwish: _same,
        ir.LeakyRelu: _same,
        ir.PRelu: _slopes,
        ir.L2Normalization: _same,
        ir.Relu: _same,
        ir.Relu6: _same,
        ir.Quantize: _same,
        ir.Dequantize: _same,
    }
)
