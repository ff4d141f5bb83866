"""Images of another size."""

from __future__ import annotations

import numpy as np

from sgsc_edge.c_code.calls.common import Call, Operands
from sgsc_edge.c_code.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Tensor
from sgsc_edge.graph.reference.resize import nearest_sources
from sgsc_edge.graph.shapes import bilinear_steps


def nearest(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """ResizeNearestNeighbor, with the source of each row and column as tables."""
    op, x = step.node.op, operands[0]
    assert isinstance(op, ir.ResizeNearestNeighbor)
    rows, columns = (nearest_sources(op, x.shape[i], output.shape[i]).astype(np.int32) for i in (1, 2))
    parameters = {
        "in_w": x.shape[2],
        "channels": x.shape[3],
        "out_h": output.shape[1],
        "out_w": output.shape[2],
    }
    constants = {"rows": rows, "columns": columns}
    return [Call("nearest", ("nearest",), (x,), "nearest_of", parameters, constants, images=x.shape[0])]


def bilinear(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """ResizeBilinear."""
    op, x = step.node.op, operands[0]
    assert isinstance(op, ir.ResizeBilinear)
    (start_h, step_h), (start_w, step_w) = (bilinear_steps(op, x.shape[i], output.shape[i]) for i in (1, 2))
    parameters = {
        "in_h": x.shape[1],
        "in_w": x.shape[2],
        "channels": x.shape[3],
        "out_h": output.shape[1],
        "out_w": output.shape[2],
        "start_h": start_h,
        "start_w": start_w,
        "step_h": step_h,
        "step_w": step_w,
    }
    return [Call("bilinear", ("bilinear",), (x,), "bilinear_of", parameters, images=x.shape[0])]
