"""Operands of Add and Mul that are constant as a whole become constants, and their branches go.

``x + 0`` only requantizes; where no rounding profile tells the two apart on any of the 256 integers of ``x``,
the Add goes as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from sgsc_edge.compression.folding.fold import FoldedConstant
from sgsc_edge.compression.shrink.constants import Constants, device_bounds, run_kernel
from sgsc_edge.compression.shrink.cut import clean
from sgsc_edge.compression.shrink.slots import ELEMENTWISE
from sgsc_edge.compression.shrink.values import CONSTANT, QUANTIZE, Values, layer_name
from sgsc_edge.graph import ir
from sgsc_edge.numerics import PROFILES

_INTEGERS = np.arange(-128.0, 128.0)


@dataclass(frozen=True)
class Replaced:
    """Names of the ops of which an operand became a constant, and of those that went altogether."""

    constant_operands: tuple[str, ...] = ()
    dropped_ops: tuple[str, ...] = ()

    def __add__(self, other: Replaced) -> Replaced:
        return Replaced(
            self.constant_operands + other.constant_operands, self.dropped_ops + other.dropped_ops
        )


def replace_constant_operands(values: Values, constants: Constants) -> Replaced:
    """Replace constant operands in place."""
    replaced, dropped = [], []
    for node in values.nodes:
        if values.kinds[node] not in ELEMENTWISE:
            continue
        operand = _constant_operand(values, constants, node)
        if operand is None:
            continue
        (other,) = (source for source in values.inputs(node) if source is not operand)
        replaced.append(layer_name(node))
        if _only_requantizes(values, constants, node, operand, other):
            dropped.append(layer_name(node))
            node.replace_all_uses_with(other)
        else:
            node.replace_input_with(operand, _as_constant(values, constants, operand, node))
    clean(values.module)
    return Replaced(tuple(replaced), tuple(dropped))


def _constant_operand(values: Values, constants: Constants, node: fx.Node) -> fx.Node | None:
    """The operand that is constant as a whole while the other alone gives the result its shape."""
    sources = values.inputs(node)
    if len(set(sources)) != 2 or any(values.kinds[source] == CONSTANT for source in sources):
        return None
    for operand, other in (sources[::-1], sources):
        found = constants.at(operand)
        if len(found) and not np.isnan(found).any() and values.shape(other) == values.shape(node):
            return operand
    return None


def _as_constant(values: Values, constants: Constants, operand: fx.Node, node: fx.Node) -> fx.Node:
    """A constant module in place of an operand, on its grid: one integer, or one a channel."""
    module, grid = values.module, values.grids[operand]
    integers = torch.from_numpy(constants.at(operand)).to(torch.int8)
    axis, rank = constants.coupling.axes[operand], len(values.shape(operand))
    assert axis is not None  # it has slots
    one = bool((integers == integers[0]).all())
    value = integers[0].clone() if one else integers.reshape(*[1] * axis, -1, *[1] * (rank - 1 - axis))
    scale, zero_point = torch.tensor(grid.scale), torch.tensor(grid.zero_point, dtype=torch.int8)
    name = f"{node.name}_constant"
    while hasattr(module, name):
        name += "_"
    module.add_submodule(name, FoldedConstant(value, scale, zero_point))
    with module.graph.inserting_before(node):
        return module.graph.call_module(name)


def _only_requantizes(
    values: Values, constants: Constants, node: fx.Node, operand: fx.Node, other: fx.Node
) -> bool:
    """Whether an Add of a constant 0 gives the integers that QUANTIZE gives, on every runtime."""
    grid = values.grids[operand]
    if values.kinds[node] != "Add" or (constants.at(operand) != grid.zero_point).any():
        return False
    chain = _up_to_quantizer(values, node)
    if chain is None or other not in values.grids:
        return False
    *clamps, quantizer = chain
    bounds = [device_bounds(values, clamp, quantizer) for clamp in clamps]
    if any(bound != (-128, 127) for bound in bounds):  # a RELU of its own would be left behind
        return False
    x = (_INTEGERS, values.grids[other])
    zero = (np.full(256, float(grid.zero_point)), grid)
    out = values.grids[quantizer]
    try:
        return all(
            np.array_equal(
                run_kernel(ir.Add(), (x, zero), out, profile), run_kernel(ir.Quantize(), (x,), out, profile)
            )
            for profile in PROFILES.values()
        )
    except OverflowError:
        return False


def _up_to_quantizer(values: Values, node: fx.Node) -> list[fx.Node] | None:
    """The activations behind an Add and the quantizer behind them."""
    chain: list[fx.Node] = []
    while not chain or values.kinds[chain[-1]] != QUANTIZE:
        readers = [user for user in (chain[-1] if chain else node).users if user in values.kinds]
        if len(readers) != 1 or values.kinds[readers[0]] not in ("Relu", "Clip", QUANTIZE):
            return None
        chain.append(readers[0])
    return chain
