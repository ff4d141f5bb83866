"""One counter: plans, the ledger, the size that presses and learned bytes agree on what is stored."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from compression.attention_networks import SAMPLE as TOKENS
from compression.attention_networks import LanguageModel
from compression.models import randomised
from compression.shrink_networks import SAMPLE, Block, build
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.channels import follow
from sgsc_edge.compression.fit import Masks, bytes_at, smallest_bytes, stored_bytes
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.snapping import layer_bytes
from sgsc_edge.compression.widths.storing import Storing
from sgsc_edge.targets import load_target


class Turned(nn.Module):
    """A convolution whose input's channels came as the last axis."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.first, self.head = nn.Conv1d(3, 6, 5, groups=groups), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.first(x.transpose(1, 2))).mean(2))


class Twice(nn.Module):
    """A convolution that is called twice, and reads other channels in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.again(torch.relu(self.again(self.first(x))))).mean((2, 3)))


class Grouped(nn.Module):
    """Groups of several channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=4)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.grouped(torch.relu(self.first(x)))).mean((2, 3)))


NETWORKS = {
    "turned": lambda: quantize_model(randomised(Turned()), torch.zeros(20, 3)),
    "turned depthwise": lambda: quantize_model(randomised(Turned(3)), torch.zeros(20, 3)),
    "twice": lambda: quantize_model(randomised(Twice()), SAMPLE),
    "grouped": lambda: quantize_model(randomised(Grouped()), SAMPLE),
    "residual": lambda: quantize_model(
        randomised(build([Block("conv", 6), Block("identity", norm=True), Block("identity")], "mean")), SAMPLE
    ),
    "attention": lambda: quantize_model(LanguageModel("function"), TOKENS),
}


@cache
def _quantized(name: str) -> QuantizedModel:
    return NETWORKS[name]()


def quantized(name: str) -> QuantizedModel:
    """A network of :data:`NETWORKS`, traced once, free to be changed."""
    model = _quantized(name)
    return replace(model, module=copy.deepcopy(model.module))


TARGETS = ["tflite-int8", "tflite-int4", "onnx-int8", "c-learned", "onnx-learned"]
cases = pytest.mark.parametrize("name", NETWORKS)


def closed(model: QuantizedModel, seed: int) -> Masks:
    """Some classes of channels, whole."""
    ledger = Ledger.of(model)
    alive = np.random.default_rng(seed).random(len(ledger.kinds)) < 0.6
    alive |= ~ledger.removable[ledger.kinds]
    for own in ledger.members.values():
        alive[own[0]] = True
    return {name: torch.from_numpy(alive[own]).float() for name, own in ledger.members.items()}


@cases
@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=3, deadline=None)
@given(st.integers(0, 1000))
def test_all_counts_agree(name: str, target: str, seed: int) -> None:
    model = quantized(name)
    storing = Storing(model, Device.of(load_target(target)))
    masks = closed(model, seed)
    storing.choose(masks, {key: torch.ones_like(layer.weight) for key, layer in model.layers()})
    stored, ledger = stored_bytes(model, masks), Ledger.of(model)
    assert stored == ledger.size(ledger.counts(ledger.living(masks)))
    assert storing.plan is not None
    whole = {key: layer.widths() for key, layer in model.layers()}
    assert 0 <= stored - bytes_at(model, masks, whole) < 1
    # What presses on the size counts the same, without constants and what is filled up.
    uses = list(follow(model, masks))
    pressed = sum(float(use.stored_bytes(whole[use.name])) for use in uses)
    assert 0 <= layer_bytes(model, masks) - pressed <= len(uses)
    if name != "attention":
        assert 0 <= stored - pressed <= len(uses) + 1


@cases
@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=3, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_what_is_planned_meets_the_budget(name: str, target: str, seed: int, share: float) -> None:
    model = quantized(name)
    storing = Storing(model, Device.of(load_target(target)))
    storing._store({key: min(legal) for key, legal in storing.legal.items()})
    every = {key: torch.ones_like(layer.mask) for key, layer in model.layers()}
    least, most = smallest_bytes(model), stored_bytes(model, every)
    budget = round(least + share * (most - least))
    generator = torch.Generator().manual_seed(seed)
    scores = {key: torch.rand(len(mask), generator=generator) for key, mask in every.items()}
    fisher = {key: torch.ones_like(layer.weight) for key, layer in model.layers()}
    kept = storing.choose_within(budget, every, fisher, scores, lambda masks, plan: plan.loss)
    assert stored_bytes(model, kept) <= budget
    for key, layer in model.layers():
        layer.set_mask(kept[key])
    storing.snap()
    storing.widen(storing.room(budget + 20, kept))
    assert storing.plan is not None
    assert stored_bytes(model, kept, storing.plan.storages()) <= budget + 20
