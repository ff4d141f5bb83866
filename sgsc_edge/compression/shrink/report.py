"""What shrinking did, for the log and for people who ask why a channel is still there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """An output channel whose integers are all zero and that stays, with the reason."""

    channel: int
    reason: str


@dataclass(frozen=True)
class LayerChange:
    """One layer's channels (features of a dense layer) before and after.

    Parameters
    ----------
    name: the layer's name in the user's model.
    inputs, outputs: (before, after); after is 0 where the whole layer is gone with a dead branch.
    removed: indices of the output channels that are gone.
    kept: output channels whose integers are all zero and that stay.
    """

    name: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    removed: tuple[int, ...]
    kept: tuple[Kept, ...]

    @property
    def is_gone(self) -> bool:
        """Whether the whole layer is gone."""
        return self.outputs[1] == 0

    def __str__(self) -> str:
        (i_before, i_after), (o_before, o_after) = self.inputs, self.outputs
        text = f"{self.name}: inputs {i_before} -> {i_after}, outputs {o_before} -> {o_after}"
        reasons = sorted({kept.reason for kept in self.kept})
        return f"{text}; keeps {len(self.kept)} zero channels: {'; '.join(reasons)}" if reasons else text


@dataclass(frozen=True)
class ShrinkReport:
    """All layers in order of execution, and the Adds and Muls that lost an operand.

    Parameters
    ----------
    constant_operands: names of the ops of which one operand became a constant.
    dropped_ops: those of them that went altogether, because adding 0 only requantizes.
    """

    layers: tuple[LayerChange, ...]
    constant_operands: tuple[str, ...] = ()
    dropped_ops: tuple[str, ...] = ()

    @property
    def removed_channels(self) -> int:
        """Number of output channels that are gone."""
        return sum(len(layer.removed) for layer in self.layers)
