"""Which function makes the calls of which op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from sgsc_edge.c_code.calls import elementwise, layers, layout, matrix, reduction, resize
from sgsc_edge.c_code.calls.common import Call, Operands, refused
from sgsc_edge.c_code.lookups import Lookup
from sgsc_edge.c_code.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import DType, Tensor


def calls(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """The calls that compute a step.

    Parameters
    ----------
    operands: of the step's node, in its order.
    output: what the step makes.
    learned: whether weights are packed at the smallest width that holds each filter.

    Raises
    ------
    UnsupportedError: the op, or a type of its operands, has no kernel in C.
    """
    make = CALLS.get(type(step.node.op))
    data = (*operands[:1], output)
    if make is None or not all(tensor.dtype in (DType.INT8, DType.FLOAT32) for tensor in data):
        raise refused(step.node, output, "there is no C kernel for this op on these types")
    if not isinstance(step.node.op, ir.Quantize | ir.Dequantize) and any(
        tensor.dtype is DType.FLOAT32 for tensor in data
    ):
        raise refused(step.node, output, "the C kernels compute with integers, and this op takes float32")
    return make(step, operands, output, learned)


CALLS: Mapping[type[ir.Op], Callable[[Step, Operands, Tensor, bool], list[Call]]] = MappingProxyType(
    {
        ir.Conv2D: layers.layer,
        ir.DepthwiseConv2D: layers.layer,
        ir.FullyConnected: layers.layer,
        ir.MaxPool2D: reduction.pool,
        ir.AveragePool2D: reduction.pool,
        ir.ResizeNearestNeighbor: resize.nearest,
        ir.ResizeBilinear: resize.bilinear,
        ir.Mean: reduction.mean,
        ir.BatchMatMul: matrix.batch_matmul,
        ir.Add: elementwise.binary,
        ir.Sub: elementwise.binary,
        ir.Mul: elementwise.binary,
        ir.Logistic: elementwise.table,
        ir.Tanh: elementwise.table,
        ir.HardSwish: elementwise.table,
        ir.LeakyRelu: elementwise.table,
        Lookup: elementwise.lookup,
        ir.PRelu: elementwise.binary,
        ir.Relu: elementwise.requantize,
        ir.Relu6: elementwise.limit,
        ir.Quantize: elementwise.convert,
        ir.Dequantize: elementwise.convert,
        ir.Softmax: reduction.softmax,
        ir.L2Normalization: reduction.l2_normalization,
        ir.Concatenation: layout.concatenation,
        ir.Gather: layout.gather,
        ir.StridedSlice: layout.strided_slice,
        ir.Pack: layout.pack,
        ir.Pad: layout.pad,
        ir.Transpose: layout.transpose,
    }
)
