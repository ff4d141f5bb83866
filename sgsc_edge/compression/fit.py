"""Which channels stay, so that the stored bytes meet the budget: at most all of it, and little less.

Learning depths decides what matters; this module makes the last, exact choice. It starts with the channels
that learning kept. While they take too many bytes, the channel with the least importance per byte goes; then
channels come back, most important first, as long as they fit, and channels of two layers change places where
that fills the budget better. A layer never loses its last
channel, and the model none of its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sgsc_edge.compression.channels import answering, follow
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.quantizer import MAX_BITS

Masks = dict[str, torch.Tensor]
_Exchange = tuple[tuple[str, int, float], tuple[str, int, float]]

_FULL = 0.98
"""A budget is used when this share of it is."""


@torch.no_grad()
def stored_bytes(model: QuantizedModel, masks: Mapping[str, torch.Tensor], bits: float = MAX_BITS) -> int:
    """Bytes of all layers as the target stores them, living channels at ``bits`` a weight.

    Parameters
    ----------
    masks: layer name -> float32 [O], 1 for channels that stay.
    """
    uses = follow(model, masks)
    return round(sum(float(use.stored_bytes(torch.full_like(use.outputs, bits))) for use in uses))


def fit(
    model: QuantizedModel,
    masks: Mapping[str, torch.Tensor],
    importance: Mapping[str, torch.Tensor],
    budget: int,
) -> Masks:
    """The channels that stay under a budget.

    Parameters
    ----------
    masks: the channels that learning kept, float32 [O] by layer name.
    importance: by layer name, float32 [O], >= 0, comparable across layers.
    budget: bytes.
    """
    kept = {name: mask.clone() for name, mask in masks.items()}
    for name in answering(model):
        kept[name].fill_(1.0)
    for name, mask in kept.items():
        if not mask.any():
            mask[importance[name].argmax()] = 1.0
    while stored_bytes(model, kept) > budget:
        worst = cheapest_loss(model, kept, importance)
        if worst is None:
            break  # one channel a layer is left: no smaller network exists
        name, channel = worst
        kept[name][channel] = 0.0
    _refill(model, kept, importance, budget)
    while stored_bytes(model, kept) < _FULL * budget:
        exchange = _better_exchange(model, kept, importance, budget)
        if exchange is None:
            break
        for name, channel, value in exchange:
            kept[name][channel] = value
    return kept


def cheapest_loss(
    model: QuantizedModel, kept: Masks, importance: Mapping[str, torch.Tensor]
) -> tuple[str, int] | None:
    """The channel with the least importance for each byte that its removal saves."""
    total = stored_bytes(model, kept)
    best: tuple[float, str, int] | None = None
    answers = answering(model)
    for name, mask in kept.items():
        if mask.sum() <= 1 or name in answers:
            continue
        channel = int(importance[name].masked_fill(mask == 0, torch.inf).argmin())
        mask[channel] = 0.0
        saved = total - stored_bytes(model, kept)
        mask[channel] = 1.0
        loss = float(importance[name][channel]) / max(saved, 1)
        if saved > 0 and (best is None or loss < best[0]):
            best = (loss, name, channel)
    return None if best is None else best[1:]


def _refill(model: QuantizedModel, kept: Masks, importance: Mapping[str, torch.Tensor], budget: int) -> None:
    """Let removed channels back in, most important first, as long as they fit; in place."""
    dead = [
        (float(importance[name][channel]), name, int(channel))
        for name, mask in kept.items()
        for channel in torch.nonzero(mask == 0).flatten()
    ]
    too_large: set[str] = set()  # a layer's channels all cost the same
    for _, name, channel in sorted(dead, reverse=True):
        if name in too_large:
            continue
        kept[name][channel] = 1.0
        if stored_bytes(model, kept) > budget:
            kept[name][channel] = 0.0
            too_large.add(name)


def _better_exchange(
    model: QuantizedModel, kept: Masks, importance: Mapping[str, torch.Tensor], budget: int
) -> _Exchange | None:
    """Swap a channel of one layer for one of another where that fills the budget best."""
    best: tuple[int, _Exchange] | None = None
    fill = stored_bytes(model, kept)
    answers = answering(model)
    for leaving, mask in kept.items():
        if mask.sum() <= 1 or leaving in answers:
            continue
        out = int(importance[leaving].masked_fill(mask == 0, torch.inf).argmin())
        mask[out] = 0.0
        for joining, other in kept.items():
            if joining == leaving or other.all():
                continue
            into = int(importance[joining].masked_fill(other > 0, -torch.inf).argmax())
            other[into] = 1.0
            size = stored_bytes(model, kept)
            other[into] = 0.0
            if fill < size <= budget and (best is None or size > best[0]):
                best = (size, ((leaving, out, 0.0), (joining, into, 1.0)))
        mask[out] = 1.0
    return None if best is None else best[1]
