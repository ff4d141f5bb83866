"""LayerNorm in training: its gain and shift on int8 grids, one for each of the two.

What it normalises lies on an int8 grid before and behind it, as every value does. Rounding the gain to
1/127 of its largest entry costs less than that; the statistics are no parameters, a device computes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sgsc_edge.errors import UnsupportedError

_LARGEST = 127
_TINY = 1e-12


class QuantNorm(nn.Module):
    """A LayerNorm over the last axis whose gain ``weight`` and shift ``bias`` [C] are fake-quantized."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.channels, self.eps = norm.normalized_shape[-1], norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.enabled = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise [..., C]."""
        weight, bias = (
            _fake_quantized(p) if self.enabled and p is not None else p for p in (self.weight, self.bias)
        )
        return F.layer_norm(x, (self.channels,), weight, bias, self.eps)


def integers(parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8 [C] in ±127, scale float32 scalar) of a gain or shift."""
    scale = _scale(parameter.detach())
    return (parameter.detach() / scale).round().to(torch.int8), scale


def check_norm(norm: nn.LayerNorm, name: str) -> None:
    """Refuse a LayerNorm that has no exact form.

    Raises
    ------
    UnsupportedError: it normalises more than the last axis.
    """
    if len(norm.normalized_shape) > 1:
        raise UnsupportedError(
            node=name,
            op="LayerNorm",
            reason=f"it normalises the last {len(norm.normalized_shape)} axes",
            remedy="normalise the last axis alone",
        )


def _scale(parameter: torch.Tensor) -> torch.Tensor:
    return (parameter.abs().max() / _LARGEST).clamp_min(_TINY)


def _fake_quantized(parameter: torch.Tensor) -> torch.Tensor:
    """The parameter on its grid; gradients pass unchanged."""
    scale = _scale(parameter.detach())
    return parameter + ((parameter / scale).round() * scale - parameter).detach()
