"""What trains depths and ranges: an optimizer of their own, so that the user's may be any."""

from __future__ import annotations

import torch

from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.quantizer import FLOOR_BITS, MAX_BITS
from sgsc_edge.compression.schedule import rate

_RANGE_RATE = 1e-2
_SPAN = 2.0
"""Depths can cross the whole range in 1/_SPAN of the learning phase."""

_LOWEST_DEPTH = 1.0


class OwnOptimizer:
    """Adam for the depths and ranges of a model's layers.

    Parameters
    ----------
    model: the one that is trained; its tensors keep their identity.
    steps, learning_steps: of training, and of the phase in which depths are learned.
    depths: their range.
    """

    def __init__(
        self, model: QuantizedModel, steps: int, learning_steps: int, depths: tuple[float, float]
    ) -> None:
        self.quantizers = [layer.quantizer for _, layer in model.layers()]
        self.steps, self.steady = steps, learning_steps / steps
        lowest, self.deepest = depths
        self.lowest = _LOWEST_DEPTH if lowest <= FLOOR_BITS else lowest
        self.adam = torch.optim.Adam(
            [
                {"params": [one.log2_range for one in self.quantizers], "lr": _RANGE_RATE},
                {
                    "params": [one.bits for one in self.quantizers],
                    "lr": _SPAN * MAX_BITS / max(learning_steps, 1),
                },
            ]
        )

    def holds_its_tensors(self) -> bool:
        """Whether the model's ranges and depths are the tensors that it was made with, and trains."""
        ranges, depths = (group["params"] for group in self.adam.param_groups)
        own = zip(self.quantizers, ranges, depths, strict=True)
        return all(one.log2_range is log2_range and one.bits is bits for one, log2_range, bits in own)

    def require_gradients(self, *, learning: bool) -> None:
        """Ranges are always trained, depths while they are learned."""
        for one in self.quantizers:
            one.bits.requires_grad_(learning)
            one.log2_range.requires_grad_(True)

    def step(self, done: int, grad_scale: float, *, learning: bool) -> None:
        """One step after so many, where all gradients are finite; depths stay in their range.

        Parameters
        ----------
        grad_scale: of mixed precision, which the gradients have in them.
        """
        self.adam.param_groups[0]["lr"] = _RANGE_RATE * rate(done, self.steps, self.steady)
        tensors = [tensor for group in self.adam.param_groups for tensor in group["params"]]
        gradients = [tensor.grad for tensor in tensors if tensor.grad is not None]
        if grad_scale != 1.0:
            for gradient in gradients:
                gradient.div_(grad_scale)
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        if learning:
            with torch.no_grad():
                for one in self.quantizers:
                    one.bits.clamp_(self.lowest, self.deepest)
