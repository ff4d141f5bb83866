"""Which channels and weights the loss depends on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch

from sgsc_edge.compression.layers import QuantizedModel, QuantLayer
from sgsc_edge.compression.quantizer import MAX_BITS
from sgsc_edge.compression.task import Loss

_BATCH = 64

_AJAR = 0.1
"""Gate of a dead channel: wide enough that its activations are not all rounded to 0."""


def sensitivity(
    model: QuantizedModel, measure: Loss, inputs: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """How much the loss would change if a channel's output did: by layer name, float32 [O], >= 0.

    The squared gradient with respect to a gate on each channel, summed over batches. Channels are asked at
    full depth; the gates of dead ones are ajar, for behind a closed one a ReLU passes no gradient.
    """
    layers = dict(model.layers())
    scores = {name: torch.zeros(len(layer.mask)) for name, layer in layers.items()}
    with model.evaluating() as module, torch.enable_grad(), _full_depth(layers), _gates(layers) as gates:
        for part, part_labels in zip(torch.split(inputs, _BATCH), torch.split(labels, _BATCH), strict=True):
            loss = measure.total(module(part), part_labels)
            gradients = torch.autograd.grad(loss, list(gates.values()))
            for name, gradient in zip(gates, gradients, strict=True):
                scores[name] += gradient.square()
    return scores


def fisher_information(
    model: QuantizedModel, measure: Loss, inputs: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The squared gradient of the loss by weight, a sample: layer name -> float32, the weight's shape.

    0 in dead channels, which so come back in the fewest bits. Given what an open gate would let through they
    got more, and the choices that had them measured worse (MNIST at 3 kB).
    """
    layers = dict(model.layers())
    found = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    with model.evaluating() as module, torch.enable_grad(), _trainable(layers) as weights:
        for part, part_labels in zip(torch.split(inputs, _BATCH), torch.split(labels, _BATCH), strict=True):
            loss = measure.total(module(part), part_labels)
            for name, gradient in zip(found, torch.autograd.grad(loss, weights), strict=True):
                found[name] += gradient.detach().square()
    return {name: total / len(inputs) for name, total in found.items()}


@contextlib.contextmanager
def _trainable(layers: Mapping[str, QuantLayer]) -> Iterator[list[torch.Tensor]]:
    """The layers' weights, also those that the user has frozen; frozen again afterwards."""
    weights = [layer.weight for layer in layers.values()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield weights
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextlib.contextmanager
def _full_depth(layers: Mapping[str, QuantLayer]) -> Iterator[None]:
    """Every channel at full depth, dead ones with ranges that fit them; restored afterwards."""
    before = {
        name: (layer.quantizer.bits.detach().clone(), layer.quantizer.log2_range.detach().clone())
        for name, layer in layers.items()
    }
    try:
        for layer in layers.values():
            layer.quantizer.set_bits(torch.full_like(layer.mask, MAX_BITS))
            layer.quantizer.fit_range(layer.weight, layer.mask == 0)
        yield
    finally:
        with torch.no_grad():
            for name, (bits, log2_range) in before.items():
                layers[name].quantizer.bits.copy_(bits)
                layers[name].quantizer.log2_range.copy_(log2_range)


@contextlib.contextmanager
def _gates(layers: Mapping[str, QuantLayer]) -> Iterator[dict[str, torch.Tensor]]:
    """The layers' masks as leaves of the autograd graph; restored afterwards."""
    before = {name: (layer.mask, layer.masked) for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.mask, layer.masked = layer.mask.clamp_min(_AJAR).requires_grad_(True), True
        yield {name: layer.mask for name, layer in layers.items()}
    finally:
        for name, layer in layers.items():
            layer.mask, layer.masked = before[name]
