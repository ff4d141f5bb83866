"""What a training loop of the user's own has saved, held to the project's budget and target."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch

from sgsc_edge.compression.fit import stored_bytes
from sgsc_edge.compression.layers import QuantLayer
from sgsc_edge.errors import ConfigError
from sgsc_edge.numerics import filter_widths
from sgsc_edge.pipeline.context import Build
from sgsc_edge.size import Storage, packs

log = logging.getLogger("sgsc_edge")


def check_own_weights(build: Build) -> None:
    """Refuse saved weights that the budget does not hold; say so where the target packs no channels.

    Bytes are counted as training counts them (``Ledger``), so what met a budget there meets it here.

    Raises
    ------
    ConfigError: as the target stores them they take more bytes than the budget.
    FileFormatError: they are none of this architecture.
    """
    compression = build.untrained
    saved = compression.saved()
    chosen, integers = saved.plan.storages(), saved.model.tensors()
    packed = packs(chosen.values())
    model = compression.quantized()
    legal = compression.device.storages(model)
    masks = {}
    for name, layer in model.layers():
        weight = _integers(name, layer, integers)
        masks[name] = weight.flatten(1).ne(0).any(1).float()
        if packed == compression.device.packs:
            layer.storage = replace(chosen[name], onnx=legal[name][0].onnx)
        else:
            layer.storage = _packed(layer, weight) if compression.device.packs else legal[name][0]
    stored = stored_bytes(model, masks)
    if packed and not compression.device.packs:
        log.warning(
            "compress.weights: each channel was learned at a width of its own, which target '%s' does not "
            "store: %d bytes in 8 bits",
            build.target.name,
            stored,
        )
    budget = compression.goal.budget
    if budget is not None and stored > budget:
        raise ConfigError(
            f"the weights of {build.project.config.compress.weights} take {stored} bytes as target "
            f"'{build.target.name}' stores them, more than the budget of {budget} bytes",
            where=build.project.where("compress", "budget"),
            remedy="train them under this budget and for this target, or set a budget that holds them",
        )


def _integers(name: str, layer: QuantLayer, integers: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The weights of a layer, int8 [O, ...]; one that is called twice has them under a name for each call."""
    if (own := integers.get(f"{name}.weight")) is not None:
        return own
    shape = layer.layer.weight.shape
    calls = (key for key in integers if key.startswith(f"{name}_") and key.endswith(".weight"))
    return next(integers[key] for key in calls if integers[key].shape == shape)


def _packed(layer: QuantLayer, weight: torch.Tensor) -> Storage:
    """Each channel in the fewest bits that hold its integers."""
    return layer.packed(filter_widths(weight.numpy()).tolist())
