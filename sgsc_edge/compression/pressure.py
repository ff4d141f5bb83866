"""The size term of the loss: what it costs to be larger than the path down to the budget allows.

    μ · ‖L‖ · log(R / B)

R is the size with each channel at its present depth and each consumer's dead inputs left out (arXiv
2301.13142): above the narrowest width that the layer may be stored in, a depth is bits of its weights; below,
how far the channel still lives. B is the budget, μ a multiplier that rises while R exceeds its path down to B
and falls below it; ‖L‖, the running mean of the loss, keeps the two terms comparable however small the loss
has become. With a fixed γ the term is γ times the mean depth, and nothing is constrained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sgsc_edge.compression.channels import follow
from sgsc_edge.compression.fit import Masks
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.path import Path
from sgsc_edge.compression.quantizer import FLOOR_BITS

_GAIN = 20.0
"""Growth of μ in a learning phase spent at e times the path."""

_STRONGEST = 20.0
"""Bound of μ."""

_SMOOTHING = 0.05

_RELIEF = 0.5
"""Factor on a fixed pressure each time that the controller takes hold: it was too much."""

_SIZED_EVERY = 5
"""Steps between two measurements of the size."""


Depths = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Layer name -> (indices int64 of some of its channels, their depths float32)."""


class Pressure:
    """Presses on the depths of a model.

    Parameters
    ----------
    budget: bytes; None with a fixed weight.
    gamma: the paper's γ, used without a budget.
    steps: of the learning phase.
    """

    def __init__(self, model: QuantizedModel, budget: int | None, gamma: float, steps: int) -> None:
        self.layers = dict(model.layers())
        self.model, self.gamma, self.steps = model, gamma, steps
        self.multiplier = 0.0
        self.scale = 1.0
        self.relief = 1.0
        self.losses: list[float] = []
        self.path: Path | None = None
        self.slopes = {name: torch.zeros_like(layer.mask) for name, layer in self.layers.items()}
        if budget is not None:
            self.path = Path(budget, math.ceil(self._relaxed_bytes()), steps)

    def term(self, loss: torch.Tensor, depths: Depths) -> torch.Tensor:
        """The term of a batch, given its other terms and the depths that are trained: a scalar."""
        self.losses.append(float(loss.detach()))
        if self.path is None:
            sizes = {name: layer.weight[0].numel() for name, layer in self.layers.items()}
            total = sum(layer.weight.numel() for layer in self.layers.values())
            sums = [bits.sum() * sizes[name] for name, (_, bits) in depths.items()]
            return self.gamma * self.relief * torch.stack(sums).sum() / total
        # The gradient of log R, as it was when it was last taken: it changes slowly, and is dear to follow.
        slopes = [(self.slopes[name][kept] * bits).sum() for name, (kept, bits) in depths.items()]
        return self.multiplier * torch.stack(slopes).sum() * self.scale

    def follow(self) -> None:
        """After a step, take the mean loss of its batches into the running mean."""
        if self.losses:
            self.scale += _SMOOTHING * (sum(self.losses) / len(self.losses) - self.scale)
        self.losses.clear()

    def is_due(self, step: int) -> bool:
        """Whether it is time to :meth:`press`."""
        return self.path is not None and step % _SIZED_EVERY == 0

    def press(self, step: int) -> None:
        """Move the multiplier by how far R is above its path, and take the slopes anew."""
        assert self.path is not None
        excess = math.log(self._relaxed_bytes() / self.path.at(step))
        gain = _GAIN * _SIZED_EVERY / self.steps
        self.multiplier = min(max(self.multiplier + gain * excess, 0.0), _STRONGEST)

    def ease(self) -> None:
        """Press less from now on."""
        self.relief *= _RELIEF

    def _relaxed_bytes(self) -> float:
        """R; takes the slopes ∂ log R / ∂ bits, [O] by layer, along."""
        bits = {name: layer.quantizer.bits.detach().requires_grad_() for name, layer in self.layers.items()}
        width = {
            name: FLOOR_BITS if layer.storage.packed else float(layer.storage.bits)
            for name, layer in self.layers.items()
        }
        alive: Masks = {}
        stored = {}
        for name, depths in bits.items():
            wide = depths > width[name]
            alive[name] = torch.where(wide, 1.0, depths / width[name]) * self.layers[name].mask
            stored[name] = torch.where(wide, depths, width[name])
        total = torch.stack([use.stored_bytes(stored[use.name]) for use in follow(self.model, alive)]).sum()
        slopes = torch.autograd.grad(total.log(), list(bits.values()))
        self.slopes = dict(zip(bits, slopes, strict=True))
        return float(total.detach())

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {
            "multiplier": self.multiplier,
            "scale": self.scale,
            "relief": self.relief,
            "slopes": self.slopes,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state`."""
        self.multiplier, self.scale, self.relief = state["multiplier"], state["scale"], state["relief"]
        self.slopes = state["slopes"]
        self.losses.clear()
