"""One row a device op: its TFLite operator, options, op versions and the runtimes that know them.

The writer and the reader both follow this table. Sources: TFLite's ``op_version.cc`` (which version an
op needs for its dtypes) and ``runtime_version.cc`` (the first TFLite release with that version). For int4
weights the versions are those from before int4 got numbers of its own (CONV_2D 5, DEPTHWISE_CONV_2D 6,
FULLY_CONNECTED 9), which every runtime with int4 kernels accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Op, Tensor

Version = Callable[[Op, list[Tensor], Tensor], int]
"""Op, its inputs and its output -> op version."""


@dataclass(frozen=True, eq=False)
class OpRow:
    """How one op of ``ir.py`` looks in a TFLite file.

    ``attributes`` pairs a field of the options table with an attribute, ``name`` or ``name.index``.
    ``expected`` names option fields that the device graph has no attribute for, with the only value read.
    ``runtimes`` maps op version to the first TFLite release that has it.
    """

    op: type[Op]
    builtin: int
    name: str
    version: Version
    runtimes: Mapping[int, str]
    options: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    expected: Mapping[str, int] = field(default_factory=dict)


def _int8(float_version: int, int8_version: int) -> Version:
    def version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
        return int8_version if inputs[0].dtype is DType.INT8 else float_version

    return version


def _conv_version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
    x, weights = inputs[0], inputs[1]
    grouped = x.shape[-1] != weights.shape[-1]
    if weights.dtype is DType.INT4:
        return 7 if grouped else 5
    if grouped:
        return 6
    return 3 if x.dtype is DType.INT8 else 1


def _depthwise_version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
    assert isinstance(op, ir.DepthwiseConv2D)
    x, weights = inputs[0], inputs[1]
    if weights.dtype is DType.INT4:
        return 6
    if x.dtype is DType.INT8:
        return 3
    return 1 if op.dilation == (1, 1) else 2


def _fully_connected_version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
    assert isinstance(op, ir.FullyConnected)
    x, weights = inputs[0], inputs[1]
    if weights.dtype is DType.INT4:
        return 9
    if op.keep_num_dims:
        return 5
    return 4 if x.dtype is DType.INT8 else 1


def _mul_version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
    if inputs[0].dtype is not DType.INT8:
        return 1
    a, b, y = (tensor.quantization for tensor in (*inputs, output))
    assert a is not None
    assert b is not None
    assert y is not None
    rescale = np.float32(a.scale[0]) * np.float32(b.scale[0]) / np.float32(y.scale[0])
    return 3 if rescale >= 1 else 2


def _nearest_version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
    assert isinstance(op, ir.ResizeNearestNeighbor)
    if op.align_corners or op.half_pixel_centers:
        return 3
    return 2 if inputs[0].dtype is DType.INT8 else 1


def _bilinear_version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
    assert isinstance(op, ir.ResizeBilinear)
    if op.half_pixel_centers:
        return 3
    return 2 if inputs[0].dtype is DType.INT8 else 1


def _transpose_version(op: Op, inputs: list[Tensor], output: Tensor) -> int:
    if len(inputs[0].shape) > 4:
        return 4
    return 2 if inputs[0].dtype is DType.INT8 else 1


_PLAIN = {1: "1.5.0", 2: "1.14.0"}
_ACTIVATION = ("activation", "activation")
_WINDOW = (("padding", "padding"), ("stride_h", "stride.0"), ("stride_w", "stride.1"))
_DILATION = (("dilation_h", "dilation.0"), ("dilation_w", "dilation.1"))
_RESIZE = (("align_corners", "align_corners"), ("half_pixel_centers", "half_pixel_centers"))
_POOL = (*_WINDOW, ("filter_h", "filter.0"), ("filter_w", "filter.1"), _ACTIVATION)

OP_ROWS: tuple[OpRow, ...] = (
    OpRow(
        ir.Conv2D,
        3,
        "CONV_2D",
        _conv_version,
        {1: "1.5.0", 3: "1.14.0", 5: "2.11.0", 6: "2.9.0", 7: "2.11.0"},
        "Conv2DOptions",
        (*_WINDOW, *_DILATION, _ACTIVATION),
    ),
    OpRow(
        ir.DepthwiseConv2D,
        4,
        "DEPTHWISE_CONV_2D",
        _depthwise_version,
        {1: "1.5.0", 2: "1.12.0", 3: "1.14.0", 6: "2.11.0"},
        "DepthwiseConv2DOptions",
        (*_WINDOW, *_DILATION, ("depth_multiplier", "depth_multiplier"), _ACTIVATION),
    ),
    OpRow(
        ir.FullyConnected,
        9,
        "FULLY_CONNECTED",
        _fully_connected_version,
        {1: "1.5.0", 4: "1.14.0", 5: "2.0.0", 9: "2.11.0"},
        "FullyConnectedOptions",
        (_ACTIVATION, ("keep_num_dims", "keep_num_dims")),
        {"weights_format": 0},
    ),
    OpRow(
        ir.BatchMatMul,
        126,
        "BATCH_MATMUL",
        _int8(1, 2),
        {1: "2.3.0", 2: "2.3.0"},
        "BatchMatMulOptions",
        (("adj_x", "adj_x"), ("adj_y", "adj_y")),
    ),
    OpRow(ir.Add, 0, "ADD", _int8(1, 2), _PLAIN, "AddOptions", (_ACTIVATION,)),
    OpRow(
        ir.Sub,
        41,
        "SUB",
        _int8(1, 2),
        {1: "1.6.0", 2: "1.14.0"},
        "SubOptions",
        (_ACTIVATION,),
    ),
    OpRow(ir.Mul, 18, "MUL", _mul_version, {**_PLAIN, 3: "1.15.0"}, "MulOptions", (_ACTIVATION,)),
    OpRow(ir.MaxPool2D, 17, "MAX_POOL_2D", _int8(1, 2), _PLAIN, "Pool2DOptions", _POOL),
    OpRow(ir.AveragePool2D, 1, "AVERAGE_POOL_2D", _int8(1, 2), _PLAIN, "Pool2DOptions", _POOL),
    OpRow(
        ir.ResizeNearestNeighbor,
        97,
        "RESIZE_NEAREST_NEIGHBOR",
        _nearest_version,
        {1: "1.13.1", 2: "1.14.0", 3: "2.3.0"},
        "ResizeNearestNeighborOptions",
        _RESIZE,
    ),
    OpRow(
        ir.ResizeBilinear,
        23,
        "RESIZE_BILINEAR",
        _bilinear_version,
        {1: "1.7.0", 2: "1.14.0", 3: "2.2.0"},
        "ResizeBilinearOptions",
        _RESIZE,
    ),
    OpRow(
        ir.Mean,
        40,
        "MEAN",
        _int8(1, 2),
        {1: "1.6.0", 2: "1.14.0"},
        "ReducerOptions",
        (("keep_dims", "keep_dims"),),
    ),
    OpRow(
        ir.Concatenation,
        2,
        "CONCATENATION",
        _int8(1, 2),
        _PLAIN,
        "ConcatenationOptions",
        (("axis", "axis"), _ACTIVATION),
    ),
    OpRow(
        ir.Gather,
        36,
        "GATHER",
        _int8(1, 2),
        {1: "1.6.0", 2: "1.14.0"},
        "GatherOptions",
        (("axis", "axis"),),
        {"batch_dims": 0},
    ),
    OpRow(ir.Cast, 53, "CAST", _int8(1, 1), {1: "1.5.0"}),
    OpRow(
        ir.StridedSlice,
        45,
        "STRIDED_SLICE",
        _int8(1, 2),
        {1: "1.6.0", 2: "1.14.0"},
        "StridedSliceOptions",
        tuple((name, name) for name in ("begin_mask", "end_mask", "shrink_axis_mask")),
        {"ellipsis_mask": 0, "new_axis_mask": 0, "offset": 0},
    ),
    OpRow(
        ir.Pack,
        83,
        "PACK",
        _int8(1, 2),
        {1: "1.11.0", 2: "1.14.0"},
        "PackOptions",
        (("values_count", "values_count"), ("axis", "axis")),
    ),
    OpRow(ir.Pad, 34, "PAD", _int8(1, 2), _PLAIN),
    OpRow(ir.Reshape, 22, "RESHAPE", _int8(1, 1), _PLAIN),
    OpRow(ir.Transpose, 39, "TRANSPOSE", _transpose_version, {1: "1.6.0", 2: "1.14.0", 4: "2.3.0"}),
    OpRow(ir.Softmax, 25, "SOFTMAX", _int8(1, 2), _PLAIN, "SoftmaxOptions", (("beta", "beta"),)),
    OpRow(ir.Logistic, 14, "LOGISTIC", _int8(1, 2), {1: "1.14.0", 2: "1.14.0"}),
    OpRow(ir.Tanh, 28, "TANH", _int8(1, 2), {1: "1.14.0", 2: "1.14.0"}),
    OpRow(ir.HardSwish, 117, "HARD_SWISH", _int8(1, 1), {1: "1.15.0"}),
    OpRow(
        ir.LeakyRelu,
        98,
        "LEAKY_RELU",
        _int8(1, 1),
        {1: "1.13.1"},
        "LeakyReluOptions",
        (("alpha", "alpha"),),
    ),
    OpRow(ir.PRelu, 54, "PRELU", _int8(1, 1), {1: "1.8.0"}),
    OpRow(
        ir.L2Normalization,
        11,
        "L2_NORMALIZATION",
        _int8(1, 2),
        {1: "1.5.0", 2: "1.14.0"},
        "L2NormOptions",
        expected={"activation": 0},
    ),
    OpRow(ir.Relu, 19, "RELU", _int8(1, 2), {1: "1.5.0", 2: "2.1.0"}),
    OpRow(ir.Relu6, 21, "RELU6", _int8(1, 2), _PLAIN),
    OpRow(ir.Quantize, 114, "QUANTIZE", _int8(1, 1), {1: "1.14.0"}),
    OpRow(ir.Dequantize, 6, "DEQUANTIZE", _int8(1, 2), {1: "1.13.1", 2: "1.14.0"}),
)


@dataclass(frozen=True)
class DividingRow:
    """An op of several outputs, which the reader takes as one STRIDED_SLICE an output.

    ``x`` is the position of its data; ``drops`` says whether the outputs lose the axis.
    """

    builtin: int
    name: str
    options: str
    x: int
    drops: bool


DIVIDING_ROWS: Mapping[int, DividingRow] = MappingProxyType(
    {
        row.builtin: row
        for row in (
            DividingRow(49, "SPLIT", "SplitOptions", 1, drops=False),
            DividingRow(88, "UNPACK", "UnpackOptions", 0, drops=True),
        )
    }
)

ROW_OF_OP: Mapping[type[Op], OpRow] = MappingProxyType({row.op: row for row in OP_ROWS})
ROW_OF_BUILTIN: Mapping[int, OpRow] = MappingProxyType({row.builtin: row for row in OP_ROWS})
