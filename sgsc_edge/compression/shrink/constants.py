"""Which channels hold one integer whatever the input, and which integer.

The running torch model says what integer it makes; the kernels of the NumPy executor say what a device makes,
under every rounding profile. A channel counts as constant only where all agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from sgsc_edge.compression.folding.fold import FixedQuantizer, FoldedLayer
from sgsc_edge.compression.folding.layer_integers import BIAS_LIMIT
from sgsc_edge.compression.shrink.slots import (
    CHANNELWISE,
    Coupling,
    LayerShape,
)
from sgsc_edge.compression.shrink.values import CONSTANT, LAYER, QUANTIZE, Grid, Values
from sgsc_edge.graph import ir
from sgsc_edge.graph.reference.common import Value
from sgsc_edge.graph.reference.executor import KERNELS
from sgsc_edge.numerics import PROFILES, Profile

Integers = NDArray[np.float64]
"""Per channel an integer, or NaN where the channel is not constant."""

_CLAMPS = ("Relu", "Clip")


@dataclass(eq=False)
class Constants:
    """The constant channels of every value that lies on a grid.

    Parameters
    ----------
    integers: node -> [slots] the constants, NaN where a channel is none.
    disputed: node of a quantizer -> bool [slots], constant channels whose integer depends on the runtime.
    """

    coupling: Coupling
    integers: dict[fx.Node, Integers] = field(default_factory=dict)
    disputed: dict[fx.Node, NDArray[np.bool_]] = field(default_factory=dict)

    @staticmethod
    def of(coupling: Coupling) -> Constants:
        """Find the constants of a whole model."""
        constants = Constants(coupling)
        values = coupling.values
        for node in values.nodes:
            kind = values.kinds[node]
            if kind == CONSTANT:
                constants.integers[node] = _uniform(values, node, coupling)
            elif kind == QUANTIZE:
                constants._quantize(node)
            elif node in values.grids:
                constants.integers[node] = constants._moved(node)
        return constants

    def at(self, node: fx.Node) -> Integers:
        """The constants of a node's channels, float64 [slots]."""
        found = self.integers.get(node)
        return np.full(len(self.coupling.slots[node]), np.nan) if found is None else found

    def steps(self, node: fx.Node) -> Integers:
        """As :meth:`at`, minus the zero point."""
        grid = self.coupling.values.grids.get(node)
        return self.at(node) if grid is None else self.at(node) - grid.zero_point

    def columns(self, node: fx.Node) -> Integers:
        """As :meth:`steps`, of what a layer reads, float64 [I]; NaN where those are no channels."""
        coupling = self.coupling
        (source,) = coupling.values.inputs(node)
        if len(coupling.columns(node)):
            return self.steps(source)
        return np.full(coupling.values.layer(node).weight.shape[1], np.nan)

    def _quantize(self, node: fx.Node) -> None:
        """What a quantizer rounds, on the device: the op behind it with its fused activation."""
        values = self.coupling.values
        (source,) = values.inputs(node)
        clamps = []
        while values.kinds[source] in _CLAMPS and values.inputs(source)[0] not in values.grids:
            clamps.append(source)
            (source,) = values.inputs(source)
        if values.grids.get(source) == values.grids[node]:
            self.integers[node] = self.at(source)
            return
        candidates = self._made_by(source, values.grids[node])
        for clamp in (source, *clamps) if values.kinds[source] in _CLAMPS else clamps:
            low, high = device_bounds(values, clamp, node)
            candidates = [np.clip(candidate, low, high) for candidate in candidates]
        actual = _uniform(values, node, self.coupling)
        made = [np.clip(candidate, -128, 127) for candidate in candidates]
        agreed = np.all([candidate == actual for candidate in made], axis=0)
        determined = ~np.any([np.isnan(candidate) for candidate in made], axis=0)
        self.integers[node] = np.where(agreed, actual, np.nan)
        self.disputed[node] = determined & ~agreed

    def _made_by(self, node: fx.Node, grid: Grid) -> list[Integers]:
        """The integers that devices may make of a node's constant channels, before clamping."""
        values = self.coupling.values
        is_standing = node in values.grids and values.kinds[node] not in _CLAMPS
        maker = _requantize if is_standing else _MAKERS.get(values.kinds[node])
        size = len(self.coupling.slots[node])
        if maker is None or not size:
            return [np.full(size, np.nan)]
        try:
            return [maker(self, node, grid, profile) for profile in PROFILES.values()]
        except OverflowError:  # scales too far apart for the kernels; lowering refuses the layer by name
            return [np.full(size, np.nan)]

    def _moved(self, node: fx.Node) -> Integers:
        """Constants of a value whose integers an op only moved or selected."""
        values, coupling = self.coupling.values, self.coupling
        actual = _uniform(values, node, coupling)
        if values.kinds[node] == "Concat":
            parts = [self.at(source) for source in values.inputs(node)]
            along = sum(map(len, parts)) == len(actual)
            known = np.concatenate(parts) if along else actual * np.nan
        elif node in coupling.sources:
            known = _of_sources(self.at(values.inputs(node)[0]), coupling.sources[node])
        elif values.kinds[node] in CHANNELWISE:
            known = self.at(values.inputs(node)[0])
        else:
            known = actual * np.nan
        return np.where(known == actual, actual, np.nan) if known.shape == actual.shape else actual * np.nan


def _of_sources(source: Integers, channels: Sequence[NDArray[np.int64]]) -> Integers:
    """The integer that all the channels of a slot hold."""
    return np.array(
        [source[held[0]] if (source[held] == source[held[0]]).all() else np.nan for held in channels]
    )


def _uniform(values: Values, node: fx.Node, coupling: Coupling) -> Integers:
    """Per slot the integer that a value holds at every position of every sample, else NaN."""
    axis = coupling.axes[node]
    if axis is None or not len(coupling.slots[node]):
        return np.full(len(coupling.slots[node]), np.nan)
    integers = np.moveaxis(values.grids[node].integers(values.values[node]), axis, 0)
    rows = integers.reshape(len(integers), -1)
    return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0].astype(np.float64), np.nan)


def device_bounds(values: Values, clamp: fx.Node, quantizer: fx.Node) -> tuple[int, int]:
    """The integers at which a ReLU or Clip clamps on a quantizer's grid."""
    (source,) = values.inputs(clamp)
    low, high = values.rerun(clamp, {source: torch.tensor([-torch.inf, torch.inf])})
    grid = values.module.get_submodule(str(quantizer.target))
    assert isinstance(grid, FixedQuantizer)
    return int(grid.integers(low)), int(grid.integers(high))


# --- what a device makes of constants -------------------------------------------------------------


def layer_sums(folded: FoldedLayer, shape: LayerShape, steps: Integers) -> Integers:
    """The int32 accumulators of output channels that read constants only, else NaN; float64 [O].

    Parameters
    ----------
    steps: [I] the input channels' constants minus their zero point, NaN where not constant.
    """
    weight = (
        folded.weight.to(torch.float64).flatten(2) if folded.weight.ndim > 2 else folded.weight[..., None]
    )
    used = (weight != 0).any(-1).numpy()
    read = steps[shape.reads]
    known = ~np.isnan(read) & ((read == 0) | (not shape.pads))
    terms = weight.to(torch.float64).sum(-1).numpy() * np.nan_to_num(read)
    sums = folded.bias.numpy() + np.where(used, terms, 0).sum(1)
    return np.where((known | ~used).all(1) & (np.abs(sums) <= BIAS_LIMIT), sums, np.nan)


def _layer(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
    values = constants.coupling.values
    (source,) = values.inputs(node)
    folded = values.layer(node)
    sums = layer_sums(folded, LayerShape.of(folded), constants.columns(node))
    known = ~np.isnan(sums)
    made = np.full(sums.shape, np.nan)
    many = len(sums) > 1
    dense = profile.fully_connected_per_channel if many else profile.fully_connected
    rescale = profile.convolution if folded.weight.ndim > 2 else dense
    scales = (values.grids[source].scale, folded.scale.numpy()[known], grid.scale)
    made[known] = rescale.apply(sums[known].astype(np.int64), *scales) + grid.zero_point
    return made


def run_kernel(
    op: ir.Op, operands: Sequence[tuple[Integers, Grid]], grid: Grid, profile: Profile, *, repeat: int = 1
) -> Integers:
    """An op's device kernel on constants, channel by channel; NaN where an operand is none.

    ``repeat`` > 1 averages that many equal values, which is what Mean does with a constant map.
    """
    known = ~np.any([np.isnan(data) for data, _ in operands], axis=0)
    count = int(known.sum())
    made = np.full(known.shape, np.nan)
    if not count:
        return made
    inputs = []
    for data, own in operands:
        integers = np.repeat(data[known].astype(np.int8)[:, np.newaxis], repeat, axis=1)
        inputs.append(Value(_tensor("x", integers.shape, own), integers[np.newaxis]))
    if isinstance(op, ir.Mean):
        axes = np.array([1], np.int32)
        inputs.append(Value(ir.Tensor("axes", (1,), ir.DType.INT32, None, axes), axes[np.newaxis]))
    output = _tensor("y", (count, 1), grid)
    made[known] = KERNELS[type(op)](op, inputs, output, profile).reshape(-1)
    return made


def _tensor(name: str, shape: tuple[int, ...], grid: Grid) -> ir.Tensor:
    return ir.Tensor(name, shape, ir.DType.INT8, ir.Quantization.per_tensor(grid.scale, grid.zero_point))


def _elementwise(op: ir.Op) -> _Maker:
    def make(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
        values = constants.coupling.values
        size = len(constants.coupling.slots[node])
        operands = [
            (_broadcast(constants, source, size), values.grids[source]) for source in values.inputs(node)
        ]
        if isinstance(op, ir.Mul):  # 0 times anything
            zero = np.any([data == own.zero_point for data, own in operands], axis=0)
            operands = [(np.where(zero, own.zero_point, data), own) for data, own in operands]
        return run_kernel(op, operands, grid, profile)

    return make


def _broadcast(constants: Constants, source: fx.Node, size: int) -> Integers:
    """An operand's constants for ``size`` channels; a number that is one for all channels repeats."""
    found = constants.at(source)
    if len(found) == size:
        return found
    values = constants.coupling.values
    if values.kinds[source] == CONSTANT:
        integers = np.unique(values.grids[source].integers(values.values[source]))
        if len(integers) == 1:
            return np.full(size, float(integers[0]))
    return np.full(size, np.nan)


def _mean(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
    coupling, values = constants.coupling, constants.coupling.values
    (source,) = values.inputs(node)
    held = constants.at(source)
    if node in coupling.sources:
        held = _of_sources(held, coupling.sources[node])
    size = len(coupling.slots[node])
    if len(held) != size or source not in values.grids:
        return np.full(size, np.nan)
    repeat = values.values[source].numel() // values.values[node].numel()
    return run_kernel(ir.Mean(), [(held, values.grids[source])], grid, profile, repeat=repeat)


def _clamp(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
    """A ReLU or Clip on its own becomes RELU or QUANTIZE, whichever clamps exactly; both must agree."""
    (source,) = constants.coupling.values.inputs(node)
    operands = [(constants.at(source), constants.coupling.values.grids[source])]
    requantized = run_kernel(ir.Quantize(), operands, grid, profile)
    rectified = run_kernel(ir.Relu(), operands, grid, profile)
    return np.where(np.maximum(requantized, grid.zero_point) == rectified, requantized, np.nan)


def _requantize(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
    """QUANTIZE of a value that lies on another grid."""
    return run_kernel(
        ir.Quantize(), [(constants.at(node), constants.coupling.values.grids[node])], grid, profile
    )


def _average(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
    """AVERAGE_POOL_2D keeps its input's grid, and the average of equal integers is that integer."""
    (source,) = constants.coupling.values.inputs(node)
    return constants.at(source) if constants.coupling.values.grids.get(source) == grid else constants.at(node)


def _product(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
    """A sum of products with 0, on every runtime."""
    size = len(constants.coupling.slots[node])
    operands = [constants.steps(source) for source in constants.coupling.values.inputs(node)]
    zero = [steps == 0 for steps in operands if len(steps) == size]
    return np.where(np.any(zero, axis=0), float(grid.zero_point), np.nan)


def _gelu(constants: Constants, node: fx.Node, grid: Grid, profile: Profile) -> Integers:
    """GELU of 0 is 0."""
    (source,) = constants.coupling.values.inputs(node)
    return np.where(constants.steps(source) == 0, float(grid.zero_point), np.nan)


_Maker = Callable[[Constants, fx.Node, Grid, Profile], Integers]
_MAKERS: Mapping[str, _Maker] = {
    LAYER: _layer,
    "Add": _elementwise(ir.Add()),
    "Mul": _elementwise(ir.Mul()),
    "GlobalAveragePool": _mean,
    "ReduceMean": _mean,
    "Relu": _clamp,
    "Clip": _clamp,
    "AveragePool": _average,
    "MatMul": _product,
    "Gelu": _gelu,
}
