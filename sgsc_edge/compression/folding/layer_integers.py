"""The integers of one layer.

BatchNorm's algebra, with ``σ = sqrt(var + ε)``, for a layer with integers W and scales s::

    γ (s·W∗x + b − μ)/σ + β  =  (|γ|/σ · s) · (sign(γ)·W)∗x  +  γ (b − μ)/σ + β

so it changes the scale, the bias and the sign of a channel's integers, and nothing else. A BatchNorm
without a layer before it becomes a 1×1 depthwise convolution of integers ±127 with scale ``|γ|/(127·σ)``.

Biases are int32 at scale ``input scale × weight scale``. Where a channel's scale is so small that its bias
would not fit, the channel's integers are rounded to a larger scale here, once, so that every format
holds the same numbers.
"""

from __future__ import annotations

import torch

from sgsc_edge.compression.layers import BatchNorm, QuantLayer
from sgsc_edge.errors import ModelError
from sgsc_edge.size import EIGHT_BITS, WIDE_BITS, Storage

BIAS_LIMIT = float(2**30)
"""Largest bias in int32 steps: half of the range stays free for the sum of products."""


def norm_factors(norm: BatchNorm, bias: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(γ/σ [C], γ (bias − μ)/σ + β [C]) of a BatchNorm in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gamma = norm.weight if norm.affine else torch.ones_like(norm.running_mean)
    beta = norm.bias if norm.affine else torch.zeros_like(norm.running_mean)
    factor = (gamma / (norm.running_var + norm.eps).sqrt()).detach()
    shift = (factor * (bias - norm.running_mean) + beta).detach()
    check_finite(name, factor, shift)
    return factor, shift


def fold_layer(layer: QuantLayer, input_scale: torch.Tensor, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a layer that is no table, by the names of :class:`~.fold.FoldedLayer`'s buffers."""
    alive = layer.mask.reshape(-1, *[1] * (layer.weight.ndim - 1)).to(torch.int8)
    weight, scale = layer.quantizer.integers(layer.weight) * alive, layer.quantizer.scale().detach()
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.detach()
    check_finite(name, layer.weight.detach(), scale, bias)
    if layer.norm is not None:
        factor, bias = norm_factors(layer.norm, bias, name)
        scale = scale * factor
    return with_bias(weight, scale, bias * layer.mask, input_scale, layer.storage)


def fold_table(layer: QuantLayer, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(weight int8 [rows, C], bits uint8 [rows], scale float32 [rows]) of a table."""
    check_finite(name, layer.weight.detach(), layer.quantizer.scale().detach())
    weight = layer.quantizer.integers(layer.weight) * layer.mask[:, None].to(torch.int8)
    bits = torch.full((len(weight),), WIDE_BITS, dtype=torch.uint8)
    return weight, bits, layer.quantizer.scale().detach().contiguous()


def with_bias(
    weight: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    input_scale: torch.Tensor,
    storage: Storage = EIGHT_BITS,
) -> dict[str, torch.Tensor]:
    """Move the scale's sign into the integers and round the bias.

    Parameters
    ----------
    weight: int8, output channels first; scale: float32 [O], of any sign; bias: float32 [O].
    """
    shape = (-1, *[1] * (weight.ndim - 1))
    weight = torch.where((scale < 0).reshape(shape), -weight, weight)
    smallest = torch.finfo(torch.float32).tiny / input_scale.clamp_max(1)
    floor = torch.maximum(bias.abs() / (input_scale * BIAS_LIMIT), smallest)
    wanted = scale.abs()
    scale = torch.maximum(wanted, floor)
    if not storage.per_channel:
        scale = scale.max().expand_as(scale).contiguous()
    coarser = (wanted / scale).reshape(shape)
    weight = torch.where(coarser < 1, (weight * coarser).round().to(torch.int8), weight)
    bias_scale = input_scale * scale
    return {
        "weight": weight,
        "bits": torch.tensor(
            (EIGHT_BITS if storage.packed else storage).widths(len(scale)), dtype=torch.uint8
        ),
        "scale": scale,
        "bias": (bias.double() / bias_scale.double()).round().to(torch.int32),
        "bias_scale": bias_scale,
    }


def check_finite(name: str, *tensors: torch.Tensor) -> None:
    """Refuse what training has broken.

    Raises
    ------
    ModelError: a value is not finite.
    """
    for tensor in tensors:
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                "a weight or BatchNorm statistic is not finite after training",
                where=f"layer '{name}'",
                remedy="lower compress.learning_rate",
            )
