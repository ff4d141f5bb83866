"""Sums, products, activations and other grids."""

from __future__ import annotations

from typing import Any

import numpy as np

from sgsc_edge.c_code.calls.common import (
    TFLM,
    Call,
    Operands,
    bounds,
    broadcast_steps,
    float_literal,
    merged,
    padded,
    q31,
    ratio_of,
    refused,
)
from sgsc_edge.c_code.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, DType, Tensor
from sgsc_edge.graph.reference.common import quantization, scale, zero_point
from sgsc_edge.graph.reference.curves import curve_table
from sgsc_edge.numerics import real_multiplier

_ADD_BITS = 20


def binary(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Add, Sub, Mul and PRelu: walks over both operands, 0 steps where one repeats."""
    op, (a, b) = step.node.op, operands
    assert isinstance(op, ir.Add | ir.Sub | ir.Mul | ir.PRelu)
    rank = len(output.shape)
    walks = (broadcast_steps(tensor.shape, rank) for tensor in (a, b))
    size, (a_step, b_step) = merged(output.shape, *walks)
    low, high = bounds(getattr(op, "activation", Activation.NONE), output)
    parameters: dict[str, Any] = {
        "size": padded(size, 4, 1),
        "a_step": padded(a_step, 4, 0),
        "b_step": padded(b_step, 4, 0),
        "a_zero": zero_point(a),
        "b_zero": zero_point(b),
        "y_zero": zero_point(output),
        "low": low,
        "high": high,
    }
    scales = [np.float64(scale(tensor)) for tensor in (a, b)]
    if isinstance(op, ir.Add | ir.Sub):
        twice = 2 * max(scales)
        for name, own in zip("ab", scales, strict=True):
            parameters[f"{name}_multiplier"], parameters[f"{name}_shift"] = q31(float(own / twice))
        ratio = float(twice / (2.0**_ADD_BITS * np.float64(scale(output))))
    else:
        if isinstance(op, ir.PRelu):
            parameters["a_multiplier"], parameters["a_shift"] = q31(ratio_of(a, output))
        ratio = float(real_multiplier(TFLM.multiply.precision, scale(a), scale(b), scale(output)))
    parameters["multiplier"], parameters["shift"] = q31(ratio)
    name = step.node.kind.lower()
    return [Call(name, (name,), (a, b), "binary", parameters)]


def requantize(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Relu, and Quantize of integers: the same values on another grid."""
    (x,) = operands
    low, high = bounds(Activation.RELU if isinstance(step.node.op, ir.Relu) else Activation.NONE, output)
    multiplier, shift = q31(ratio_of(x, output))
    parameters = {
        "size": output.elements,
        "x_zero": zero_point(x),
        "y_zero": zero_point(output),
        "multiplier": multiplier,
        "shift": shift,
        "low": low,
        "high": high,
    }
    return [Call("requantize", ("requantize",), (x,), "grid", parameters)]


def limit(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Relu6: bounds on integers that keep their grid."""
    (x,) = operands
    low, high = bounds(Activation.RELU6, output)
    return [Call("limit", ("limit",), (x,), plain=(str(output.elements), str(low), str(high)))]


def table(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Functions of one value: the executor's own table."""
    (x,) = operands
    constants = {"values": curve_table(step.node.op, x, output, TFLM)}
    return [Call("table", ("table",), (x,), "table_of", {"size": output.elements}, constants)]


def lookup(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """A table that the graph holds itself."""
    x, values = operands
    assert values.data is not None
    return [Call("table", ("table",), (x,), "table_of", {"size": output.elements}, {"values": values.data})]


def convert(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Quantize and Dequantize: float32 to integers and back, or integers to another grid."""
    (x,) = operands
    if x.dtype is output.dtype:
        return requantize(step, operands, output, learned)
    name = "quantize" if x.dtype is DType.FLOAT32 else "dequantize"
    own = output if name == "quantize" else x
    if quantization(own).axis is not None:
        raise refused(step.node, output, "its parameters differ by channel")
    plain = (str(x.elements), f"{float_literal(float(scale(own)))}", str(zero_point(own)))
    return [Call(name, (name,), (x,), plain=plain)]
