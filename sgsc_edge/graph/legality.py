"""Whether a device graph may be handed on: run after every pass, before every writer, after reading.

``findings`` walks the whole graph and lists all that is wrong at once; ``check`` raises on any of it.
What each op may be given is the table in ``op_rules.py``; output shapes come from ``shapes.py``. Beside the
ops, a graph is legal when

- every name is defined once: as a graph input, a constant, or the output of one earlier node;
- no tensor is unused, no node refers to a missing one, and every graph output is computed by a node;
- integer tensors hold zero points of their type, axes and counts of scales that fit; float32 holds none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sgsc_edge.errors import InternalError
from sgsc_edge.graph.ir import DType, Graph, Node, Tensor
from sgsc_edge.graph.op_rules import MAX_RANK, OP_RULES, OpRule, Use
from sgsc_edge.graph.shapes import infer_shape

_MAX_ELEMENTS = 2**31 - 1
_RANGES = {
    DType.INT4: (-8, 7),
    DType.INT8: (-128, 127),
    DType.UINT8: (0, 255),
    DType.INT16: (-(2**15), 2**15 - 1),
}


@dataclass(frozen=True)
class Finding:
    """One violation: where (``node 3 'conv1'``, ``tensor 'x'``, ``graph``), the op or "", the reason.

    ``unsupported`` marks a well-formed op on dtypes that the device graph does not have.
    """

    where: str
    op: str
    reason: str
    unsupported: bool = False

    def __str__(self) -> str:
        return f"{self.where} ({self.op}): {self.reason}" if self.op else f"{self.where}: {self.reason}"


def check(graph: Graph, *, after: str | None = None) -> None:
    """Raise InternalError listing every finding; ``after`` names the pass that has just run."""
    found = findings(graph)
    if found:
        listing = "".join(f"\n  {finding}" for finding in found)
        raise InternalError(
            f"the device graph is not legal, {len(found)} findings:{listing}",
            where=f"graph '{graph.name}'" + (f", {after}" if after else ""),
        )


def findings(graph: Graph) -> tuple[Finding, ...]:
    """Everything that is wrong with the graph, in its order; empty for a legal graph. Never raises."""
    return (*_structure(graph), *_tensors(graph), *_nodes(graph))


def _structure(graph: Graph) -> Iterator[Finding]:
    """Names: each defined once and before its use, none dangling, none unused."""
    defined: set[str] = {tensor.name for tensor in graph.constants()}
    if not graph.nodes or not graph.inputs or not graph.outputs:
        yield Finding("graph", "", "a graph has at least one node, one input and one output")
    for name in graph.inputs:
        if name not in graph.tensors:
            yield Finding("graph", "", f"input '{name}' names no tensor")
        elif name in defined:
            yield Finding("graph", "", f"input '{name}' is a constant or listed twice")
        defined.add(name)
    produced: set[str] = set()
    for index, node in enumerate(graph.nodes):
        where = _where(index, node)
        for name in dict.fromkeys(node.inputs):
            if name not in graph.tensors:
                yield Finding(where, node.kind, f"input '{name}' names no tensor")
            elif name not in defined:
                yield Finding(where, node.kind, f"input '{name}' is not computed by an earlier node")
        for name in node.outputs:
            if name not in graph.tensors:
                yield Finding(where, node.kind, f"output '{name}' names no tensor")
            elif name in defined:
                yield Finding(where, node.kind, f"output '{name}' is already defined")
            defined.add(name)
            produced.add(name)
    for name in graph.outputs:
        if name not in produced:
            yield Finding("graph", "", f"output '{name}' is not computed by a node")
    if len(set(graph.outputs)) != len(graph.outputs):
        yield Finding("graph", "", "an output is listed twice")
    used = {*graph.inputs, *produced}.union(*(node.inputs for node in graph.nodes))
    for name, tensor in graph.tensors.items():
        if name != tensor.name:
            yield Finding(
                f"tensor '{name}'", "", f"is stored under a name that is not its own, '{tensor.name}'"
            )
        if name not in used:
            yield Finding(f"tensor '{name}'", "", "is used by no node")


def _tensors(graph: Graph) -> Iterator[Finding]:
    for tensor in graph.tensors.values():
        for reason in _tensor(tensor):
            yield Finding(f"tensor '{tensor.name}'", "", reason)


def _tensor(tensor: Tensor) -> Iterator[str]:
    """Shape, constant values and quantization of one tensor."""
    if len(tensor.shape) > MAX_RANK:
        yield f"has {len(tensor.shape)} dimensions, at most {MAX_RANK}"
    elif any(size < 1 for size in tensor.shape) or not _countable(tensor):
        yield f"has shape {list(tensor.shape)}; sizes are positive and hold at most {_MAX_ELEMENTS} values"
    if tensor.data is not None and tensor.dtype is DType.FLOAT32 and not np.isfinite(tensor.data).all():
        yield "holds NaN or infinity"
    low, high = _RANGES.get(tensor.dtype, (-(2**31), 2**31 - 1))
    if tensor.data is not None and tensor.dtype is DType.INT4 and tensor.data.size:
        least, most = int(tensor.data.min()), int(tensor.data.max())
        if least < low or most > high:
            yield f"holds {least} to {most}, outside int4"
    quantization = tensor.quantization
    if quantization is None:
        return
    if tensor.dtype is DType.FLOAT32:
        yield "is float32 and has quantization parameters"
    if ((quantization.zero_point < low) | (quantization.zero_point > high)).any():
        yield f"has a zero point outside {low} to {high}"
    axis = quantization.axis
    if axis is not None and not 0 <= axis < len(tensor.shape):
        yield f"is quantized along axis {axis} of {len(tensor.shape)} dimensions"
    elif axis is not None and quantization.scale.size != tensor.shape[axis]:
        yield f"has {quantization.scale.size} scales for the {tensor.shape[axis]} channels of axis {axis}"


def _countable(tensor: Tensor) -> bool:
    elements = 1
    for size in tensor.shape:
        elements *= int(size)
    return elements <= _MAX_ELEMENTS


def _nodes(graph: Graph) -> Iterator[Finding]:
    broken = {tensor.name for tensor in graph.tensors.values() if any(_tensor(tensor))}
    for index, node in enumerate(graph.nodes):
        names = (*node.inputs, *node.outputs)
        # Structure and tensors have their own findings; an op is judged on sound operands only.
        if all(name in graph.tensors for name in names) and not broken.intersection(names):
            yield from _node(graph, node, _where(index, node))


def _node(graph: Graph, node: Node, where: str) -> Iterator[Finding]:
    rule = OP_RULES.get(type(node.op))
    if rule is None:
        yield Finding(where, node.kind, "no such device op")
        return
    if len(node.outputs) != 1 or not _arity(rule, node):
        wanted = f"{len(rule.operands)}{' or more' if rule.variadic else ''}"
        given = f"{len(node.inputs)} inputs and {len(node.outputs)} outputs"
        yield Finding(where, node.kind, f"has {given}, must have {wanted} and 1")
        return
    use = Use(node.op, tuple(graph.inputs_of(node)), graph.outputs_of(node)[0])
    if (wrong := _dtypes(rule, use)) is not None:
        yield Finding(where, node.kind, wrong, unsupported=True)
        return
    for reason in list(_operands(rule, use)) or _values(rule, use):
        yield Finding(where, node.kind, reason)


def _values(rule: OpRule, use: Use) -> Iterator[str]:
    """The op's own rules and, where they hold, its output shape; operands are of the right kinds."""
    reasons = [reason for check_rule in rule.rules for reason in check_rule(use)]
    yield from reasons
    try:
        shape = infer_shape(use.op, list(use.inputs)) if not reasons else use.output.shape
    except ValueError as error:
        yield str(error)
        return
    if shape != use.output.shape:
        yield f"output '{use.output.name}' has shape {list(use.output.shape)}, computed is {list(shape)}"


def _arity(rule: OpRule, node: Node) -> bool:
    wanted = len(rule.operands)
    return len(node.inputs) == wanted or (rule.variadic and len(node.inputs) > wanted)


def _dtypes(rule: OpRule, use: Use) -> str | None:
    given = tuple(tensor.dtype for tensor in use.inputs), use.output.dtype
    for inputs, output in rule.dtypes:
        repeated = inputs + inputs[-1:] * (len(use.inputs) - len(inputs))
        if given == (repeated, output):
            return None
    options = "; ".join(f"{_names(inputs)} -> {output}" for inputs, output in rule.dtypes)
    return f"takes {_names(given[0])} -> {given[1]}, may take {options}"


def _names(dtypes: tuple[DType, ...]) -> str:
    return ", ".join([*(str(dtype) for dtype in dtypes[:8]), *(["..."] if len(dtypes) > 8 else [])])


def _operands(rule: OpRule, use: Use) -> Iterator[str]:
    """Ranks, constants, and which operands hold quantization parameters of which kind."""
    low, high = rule.ranks
    for position, tensor in enumerate((*use.inputs, use.output)):
        is_output = position == len(use.inputs)
        role = "output" if is_output else rule.operands[min(position, len(rule.operands) - 1)]
        parameter = role in rule.parameters and not is_output
        weight = rule.weight_rank > 0 and role in ("weights", "bias")
        if (parameter or weight) and not tensor.is_constant:
            yield f"{role} '{tensor.name}' must be a constant"
        if parameter or (role in rule.indices and not is_output):
            continue
        least, most = (0, MAX_RANK) if is_output else (low, high)
        if weight:
            least = most = rule.weight_rank if role == "weights" else 1
        if not least <= len(tensor.shape) <= most:
            yield f"{role} '{tensor.name}' has {len(tensor.shape)} dimensions, must have {least} to {most}"
        plain = tensor.dtype is DType.INT32 and not weight
        if plain and tensor.quantization is not None:
            yield f"{role} '{tensor.name}' is int32, plain integers, and has quantization parameters"
        elif tensor.dtype is not DType.FLOAT32 and tensor.quantization is None and not plain:
            yield f"{role} '{tensor.name}' is {tensor.dtype} and has no quantization parameters"
        elif not weight and tensor.quantization is not None and tensor.quantization.axis is not None:
            yield f"{role} '{tensor.name}' is quantized per channel, must be per tensor"


def _where(index: int, node: Node) -> str:
    return f"node {index} '{node.source}'" if node.source else f"node {index}"
