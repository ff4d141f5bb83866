"""Blocks that move: concatenation, gathering, slices, padding, transposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sgsc_edge.c_code.calls.common import Call, Operands, merged, padded, refused, steps_of
from sgsc_edge.c_code.schedule import Step
from sgsc_edge.graph import ir
from sgsc_edge.graph.ir import Activation, Tensor
from sgsc_edge.graph.reference.common import zero_point
from sgsc_edge.graph.shapes import sliced


def _block(
    x: Tensor, size: Sequence[int], x_step: Sequence[int], y_step: Sequence[int], offset: int = 0
) -> Call:
    sizes, (from_step, to_step) = merged(size, x_step, y_step)
    parameters = {
        "size": padded(sizes, 5, 1),
        "x_step": padded(from_step, 5, 0),
        "y_step": padded(to_step, 5, 0),
    }
    return Call("move", ("move",), (x,), "block", parameters, offset=offset)


def concatenation(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """One block an operand."""
    op = step.node.op
    assert isinstance(op, ir.Concatenation)
    if op.activation is not Activation.NONE:
        raise refused(step.node, output, f"its activation {op.activation} is not computed")
    axis = op.axis % len(output.shape)
    steps = steps_of(output.shape)
    made, before = [], 0
    for x in operands:
        made.append(_block(x, x.shape, steps_of(x.shape), steps, before * steps[axis]))
        before += x.shape[axis]
    return made


def gather(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """Gather, with constant or computed indices."""
    op, (x, indices) = step.node.op, operands
    assert isinstance(op, ir.Gather)
    axis = op.axis % len(x.shape)
    block = steps_of(x.shape)[axis]
    parameters = {
        "before": x.elements // (x.shape[axis] * block),
        "from": x.shape[axis],
        "to": indices.elements,
        "block": block,
    }
    return [Call("gather", ("gather",), (x, indices), "gather_of", parameters)]


def strided_slice(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """StridedSlice: one block, read from its first value on, backwards where a stride is negative."""
    op, x = step.node.op, operands[0]
    assert isinstance(op, ir.StridedSlice)
    positions, steps = sliced(op, list(operands)), steps_of(x.shape)
    size = [len(taken) for taken in positions]
    reading = [taken.step * step for taken, step in zip(positions, steps, strict=True)]
    start = sum(taken.start * step for taken, step in zip(positions, steps, strict=True))
    return [replace(_block(x, size, reading, steps_of(size)), start=start)]


def pack(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """One block an operand, as if each had the new axis."""
    op = step.node.op
    assert isinstance(op, ir.Pack)
    steps = steps_of(output.shape)
    made = []
    for number, x in enumerate(operands):
        shape = (*x.shape[: op.axis], 1, *x.shape[op.axis :])
        made.append(_block(x, shape, steps_of(shape), steps, number * steps[op.axis]))
    return made


def pad(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """The zero point everywhere, then the operand as a block inside."""
    x, paddings = operands
    assert paddings.data is not None
    steps = steps_of(output.shape)
    offset = sum(int(before) * step for (before, _), step in zip(paddings.data, steps, strict=True))
    zero = (str(output.elements), str(zero_point(output)))
    return [Call("fill", ("fill",), (), plain=zero), _block(x, x.shape, steps_of(x.shape), steps, offset)]


def transpose(step: Step, operands: Operands, output: Tensor, learned: bool) -> list[Call]:
    """A block, read in the order of the output."""
    x, permutation = operands
    assert permutation.data is not None
    steps = steps_of(x.shape)
    return [
        _block(x, output.shape, [steps[int(a)] for a in permutation.data.ravel()], steps_of(output.shape))
    ]
