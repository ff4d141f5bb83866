"""Which classes of slots the model's output needs.

A class lives if it is pinned, or if a living output channel of a layer multiplies one of its slots and cannot
drop it. All others go. This finds also channels that only feed each other around residual connections.

Where a layer would be left without inputs, one class stays *hollow*: it keeps its place, with weights of 0.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import fx

from sgsc_edge.compression.folding.layer_integers import BIAS_LIMIT
from sgsc_edge.compression.shrink.constants import Constants, Integers
from sgsc_edge.compression.shrink.slots import Coupling, LayerShape
from sgsc_edge.compression.shrink.values import layer_name

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Site:
    """A layer with free inputs and outputs, as liveness sees it.

    Parameters
    ----------
    inputs, outputs: int64 [I], [O], the classes of its channels; no inputs where those are no channels.
    needs: bool [O, I], whether an output channel multiplies an input channel and cannot drop it.
    sums: int64 [O, I], the weights summed over the kernel.
    steps: float64 [I], the inputs' constants minus their zero point; NaN where not constant.
    """

    node: fx.Node
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    needs: Mask
    sums: NDArray[np.int64]
    steps: Integers
    bias: NDArray[np.int64]

    @staticmethod
    def of(node: fx.Node, coupling: Coupling, constants: Constants) -> _Site:
        """Read a layer that has one group."""
        folded = coupling.values.layer(node)
        shape = LayerShape.of(folded)
        inputs = coupling.classes(coupling.columns(node))
        read = slice(len(inputs))
        steps = constants.columns(node)[read]
        flat = folded.weight.numpy().astype(np.int64).reshape(*folded.weight.shape[:2], -1)
        droppable = ~np.isnan(steps) & ((steps == 0) | (not shape.pads))
        return _Site(
            node,
            inputs,
            coupling.roots(node),
            (flat != 0).any(-1)[:, read] & ~droppable,
            flat.sum(-1)[:, read],
            steps,
            folded.bias.numpy().astype(np.int64),
        )

    def folded_bias(self, dropped: Mask) -> NDArray[np.int64]:
        """The biases with the constants of dropped inputs in them, int64 [O]."""
        steps = np.where(dropped, np.nan_to_num(self.steps), 0).astype(np.int64)
        return self.bias + self.sums @ steps


@dataclass(eq=False)
class Liveness:
    """The classes that stay, each with the reason why.

    Parameters
    ----------
    reasons: class -> why it stays.
    hollow: those of them that nothing needs.
    """

    coupling: Coupling
    constants: Constants
    reasons: dict[int, str] = field(default_factory=dict)
    hollow: set[int] = field(default_factory=set)
    _sites: list[_Site] = field(default_factory=list)

    @staticmethod
    def of(coupling: Coupling, constants: Constants) -> Liveness:
        """Find what stays in a whole model."""
        liveness = Liveness(coupling, constants)
        values = coupling.values
        for node in values.layers():
            if LayerShape.of(values.layer(node)).groups == 1:
                liveness._sites.append(_Site.of(node, coupling, constants))
        for slot, reason in coupling.pinned.items():
            liveness.reasons.setdefault(coupling.root(slot), reason)
        liveness._spread()
        return liveness

    def lives(self, node: fx.Node) -> Mask:
        """Which slots of a node stay, bool [slots]."""
        return self._stay(self.coupling.roots(node))

    def unneeded(self, node: fx.Node) -> Mask:
        """Which slots of a node nothing needs, bool [slots]; they go, or stay hollow."""
        return self._unneeded(self.coupling.roots(node))

    @property
    def removes(self) -> bool:
        """Whether anything goes."""
        return any(not self.lives(node).all() for node in self.coupling.values.nodes)

    def bias(self, node: fx.Node) -> NDArray[np.int64]:
        """A layer's biases with the constants of its dropped inputs in them, int64 [O]."""
        for site in self._sites:
            if site.node is node:
                return site.folded_bias(self._unneeded(site.inputs))
        return self.coupling.values.layer(node).bias.numpy().astype(np.int64)

    def _stay(self, classes: NDArray[np.int64]) -> Mask:
        return np.array([int(number) in self.reasons for number in classes], np.bool_)

    def _unneeded(self, classes: NDArray[np.int64]) -> Mask:
        needed = [int(number) in self.reasons and int(number) not in self.hollow for number in classes]
        return ~np.array(needed, np.bool_)

    def _spread(self) -> None:
        """Let live what living outputs need, and what layers need to remain layers."""
        outputs: dict[int, list[tuple[_Site, int]]] = defaultdict(list)
        for site in self._sites:
            for channel, number in enumerate(site.outputs):
                outputs[int(number)].append((site, channel))
        waiting = list(self.reasons)
        while waiting or (waiting := self._repairs()):
            for site, channel in outputs[waiting.pop()]:
                needed = site.needs[channel] & self._unneeded(site.inputs)
                for column in np.flatnonzero(needed):
                    if self._keep(int(site.inputs[column]), self._why_read(site, int(column))):
                        waiting.append(int(site.inputs[column]))

    def _keep(self, number: int, reason: str) -> bool:
        """Let a class live; whether it did not before."""
        if number in self.reasons and number not in self.hollow:
            return False
        self.hollow.discard(number)
        self.reasons[number] = reason
        return True

    def _why_read(self, site: _Site, column: int) -> str:
        name = layer_name(site.node)
        if not np.isnan(site.steps[column]):
            return f"its constant is not 0, and '{name}' reads it beside padding"
        (source,) = self.coupling.values.inputs(site.node)
        disputed = self.constants.disputed.get(source)
        if disputed is not None and disputed[column]:
            return f"runtimes round its constant differently, and '{name}' reads it"
        return f"it shares its place with values that '{name}' reads"

    def _repairs(self) -> list[int]:
        """Let layers keep a last input; the constants that are too large for a layer's bias."""
        hollow = -1
        while hollow != len(self.hollow):
            hollow = len(self.hollow)
            for site in self._sites:
                if not len(site.inputs):
                    continue
                if self._stay(site.outputs).any() and not self._stay(site.inputs).any():
                    first = int(site.inputs[0])
                    self.hollow.add(first)
                    self.reasons[first] = f"it is the last channel that '{layer_name(site.node)}' reads"
        for site in self._sites:
            dropped = self._unneeded(site.inputs)
            needed = ~self._unneeded(site.outputs)
            if (np.abs(site.folded_bias(dropped)[needed]) > BIAS_LIMIT).any():
                reason = f"its constant would overflow a bias of '{layer_name(site.node)}'"
                folded = site.inputs[dropped & (np.nan_to_num(site.steps) != 0)]
                found = [int(number) for number in folded if self._keep(int(number), reason)]
                if found:
                    return found
        return []
