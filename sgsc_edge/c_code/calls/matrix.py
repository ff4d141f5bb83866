"""Products of matrices."""

from __future__ import annotations

from typing import Any

from sgsc_edge.c_code.calls.common import (
    TFLM,
    Call,
    Operands,
    broadcast_steps,
    merged,
    padded,
    q31,
    steps_of,
)
from sgsc_edge.c_code.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Tensor
from sgsc_edge.graph.reference.common import scale, zero_point
from sgsc_edge.numerics import real_multiplier


def batch_matmul(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """BatchMatMul: transposed operands are walked otherwise, not moved."""
    op, (a, b) = step.node.op, operands
    assert isinstance(op, ir.BatchMatMul)
    rank = len(output.shape)
    leading = (broadcast_steps(tensor.shape, rank)[:-2] for tensor in (a, b))
    size, (a_step, b_step) = merged(output.shape[:-2], *leading)
    (a_row, a_term), (b_term, b_column) = (steps_of(tensor.shape)[-2:] for tensor in (a, b))
    if op.adj_x:
        a_row, a_term = a_term, a_row
    if op.adj_y:
        b_term, b_column = b_column, b_term
    real = real_multiplier(TFLM.batch_matmul.precision, scale(a), scale(b), scale(output))
    multiplier, shift = q31(float(real))
    parameters: dict[str, Any] = {
        "size": padded(size, 3, 1),
        "a_step": padded(a_step, 3, 0),
        "b_step": padded(b_step, 3, 0),
        "rows": output.shape[-2],
        "columns": output.shape[-1],
        "terms": a.shape[-2 if op.adj_x else -1],
        "a_row": a_row,
        "a_term": a_term,
        "b_column": b_column,
        "b_term": b_term,
        "a_zero": zero_point(a),
        "b_zero": zero_point(b),
        "y_zero": zero_point(output),
        "multiplier": multiplier,
        "shift": shift,
    }
    return [Call("matmul", ("matmul",), (a, b), "matmul_of", parameters)]
