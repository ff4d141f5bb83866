"""The exact choice of channels under a budget, and what a budget is told before training."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import pytest
import torch
from compression.models import randomised
from compression.shrink_networks import SAMPLE, Block, build
from compression.test_loop import compression
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.fit import (
    Masks,
    check_budget,
    fit,
    fits,
    remove_until,
    smallest_bytes,
    stored_bytes,
)
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.storing import Storing
from sgsc_edge.errors import ConfigError
from sgsc_edge.targets import load_target


def quantized(network: nn.Module) -> QuantizedModel:
    return quantize_model(randomised(network), SAMPLE)


def whole(model: QuantizedModel) -> Masks:
    return {name: torch.ones_like(layer.mask) for name, layer in model.layers()}


def random_scores(model: QuantizedModel, seed: int = 0) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(len(mask), generator=generator) for name, mask in whole(model).items()}


def living(masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


RESIDUAL = build([Block("conv", 6), Block("identity", norm=True), Block("identity")], "mean")
SEPARABLE = build(
    [Block("conv", 8, norm=True), Block("depthwise", 4, norm=True), Block("conv", 12, kernel=1)], "pool"
)


# --- classes --------------------------------------------------------------------------------------


def test_both_sides_of_an_add_stay_or_go_together() -> None:
    model = quantized(RESIDUAL)
    kept = fit(model, whole(model), random_scores(model), 1200)
    stream = kept["0.0"]
    assert 1 <= int(stream.sum()) < 6
    assert torch.equal(kept["1.body.1.0"], stream)
    assert torch.equal(kept["2.body.1.0"], stream)


def test_one_dead_side_of_an_add_saves_nothing() -> None:
    model = quantized(RESIDUAL)
    masks = whole(model)
    masks["1.body.1.0"][0] = 0.0
    assert stored_bytes(model, masks) == stored_bytes(model, whole(model))
    for name in ("0.0", "2.body.1.0"):
        masks[name][0] = 0.0
    # A row of each, a column of each reader, and what three channels cost beside that.
    assert (
        stored_bytes(model, whole(model)) - stored_bytes(model, masks)
        == (9 + 54 + 54) + (54 + 54 + 3) + 3 * 28
    )


def test_a_depthwise_channel_goes_with_its_producer() -> None:
    model = quantized(SEPARABLE)
    kept = fit(model, whole(model), random_scores(model), 700)
    assert torch.equal(kept["0.0"], kept["1.0"])
    assert int(kept["0.0"].sum()) < 8


def test_a_shared_layer_has_one_mask_for_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.again(torch.relu(self.again(self.first(x)))))
            return self.head(x.mean((2, 3)))

    model = quantized(Twice())
    full = (36 + 4 * 28) + 2 * (144 + 4 * 28) + (12 + 3 * 28)  # stored once a call: the biases differ
    assert stored_bytes(model, whole(model)) == full
    kept = fit(model, whole(model), random_scores(model), 500)
    assert stored_bytes(model, kept) <= 500


def test_hidden_features_along_a_last_axis_leave_and_those_of_another_axis_stay() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.squeeze(1)
            return self.head(torch.flatten(x + self.narrow(torch.relu(self.wide(x))), 1))

    model = quantized(Mixer())
    full = 2 * 8 * 16 + 24 * 28 + 3 * 64 + 3 * 28
    assert stored_bytes(model, whole(model)) == full
    assert smallest_bytes(model) == full - 15 * (8 + 8 + 28)
    kept = remove_until(model, whole(model), random_scores(model), 1)
    assert living(kept) == {"wide": 1, "narrow": 8, "head": 3}


def test_where_zero_does_not_stay_zero_channels_stay() -> None:
    model = quantized(build([Block("conv", 6), Block("norm"), Block("conv", 5)], "flat"))
    kept = fit(model, whole(model), random_scores(model), smallest_bytes(model))
    assert living(kept) == {"0.0": 6, "2.0": 1, "4": 3}


# --- the choice -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 1.0), st.sampled_from(["residual", "separable", "plain"]))
def test_a_budget_is_used_wherever_a_choice_uses_it(seed: int, share: float, name: str) -> None:
    """Against every choice of how many channels of each kind stay."""
    widths = {
        "residual": [("0.0", "1.body.1.0", "2.body.1.0"), ("1.body.0.0",), ("2.body.0.0",)],
        "separable": [("0.0", "1.0"), ("2.0",)],
        "plain": [("0.0",), ("1.0",)],
    }[name]
    network = {
        "residual": RESIDUAL,
        "separable": SEPARABLE,
        "plain": build([Block("conv", 9), Block("conv", 5)], "flat"),
    }[name]
    model = quantized(network)
    full, least = stored_bytes(model, whole(model)), smallest_bytes(model)
    budget = round(least + share * (full - least))
    kept = fit(model, whole(model), random_scores(model, seed), budget)
    size = stored_bytes(model, kept)
    assert size <= budget
    assert all(mask.any() for mask in kept.values())
    *_, head = kept.values()
    assert bool(head.all())
    if size < 0.98 * budget:
        sizes = []
        for counts in itertools.product(*(range(1, len(kept[group[0]]) + 1) for group in widths)):
            masks = whole(model)
            for group, count in zip(widths, counts, strict=True):
                for layer in group:
                    masks[layer][count:] = 0.0
            sizes.append(stored_bytes(model, masks))
        assert not [other for other in sizes if 0.98 * budget <= other <= budget]


def test_the_least_important_go_first() -> None:
    model = quantized(build([Block("conv", 9)], "mean"))
    scores = random_scores(model)
    kept = remove_until(model, whole(model), scores, 300)
    assert stored_bytes(model, kept) <= 300
    gone = kept["0.0"] == 0
    assert 0 < int(gone.sum()) < 9
    assert scores["0.0"][gone].max() < scores["0.0"][~gone].min()


def test_removal_brings_nothing_back_and_stops_at_the_smallest_network() -> None:
    model = quantized(SEPARABLE)
    masks = whole(model)
    masks["1.0"][0] = 0.0  # its producer lives: the pair is stored
    kept = remove_until(model, masks, random_scores(model), stored_bytes(model, masks))
    assert torch.equal(kept["1.0"], masks["1.0"])
    kept = remove_until(model, masks, random_scores(model), 1)
    assert living(kept) == {"0.0": 1, "1.0": 1, "2.0": 1, "5": 3}
    assert stored_bytes(model, kept) == smallest_bytes(model)


def test_channels_that_learning_kept_are_preferred() -> None:
    model = quantized(build([Block("conv", 9)], "mean"))
    masks, scores = whole(model), random_scores(model)
    masks["0.0"][5:] = 0.0
    scores["0.0"][5:] += 1.0
    kept = fit(model, masks, scores, 400)
    assert kept["0.0"][:5].all()


@pytest.mark.parametrize("better", [0, 1])
def test_a_budget_is_used_better_only_where_that_loses_less(better: int) -> None:
    model = quantized(build([Block("conv", 8), Block("conv", 16)], "mean"))
    masks, scores = whole(model), random_scores(model)
    masks["1.0"][9:] = 0.0
    budget = stored_bytes(model, masks) + 90  # a channel of the second layer takes more
    found = fits(model, masks, scores, budget)
    assert [stored_bytes(model, each) >= 0.98 * budget for each in found] == [False, True]
    assert all(torch.equal(found[0][name], mask) for name, mask in masks.items())

    storing = Storing(model, Device.of(load_target("tflite-int8")))
    fisher = {name: torch.ones_like(layer.weight) for name, layer in model.layers()}
    asked: list[Masks] = []

    def lost(kept: Masks, plan: Plan) -> float:
        asked.append(kept)
        return float(len(asked) - 1 != better)

    kept = storing.choose_within(budget, masks, fisher, scores, lost)
    assert kept is asked[better]
    assert all(torch.equal(kept[name], found[better][name]) for name in kept)


def test_a_layer_without_channels_gets_one_back() -> None:
    model = quantized(build([Block("conv", 9), Block("conv", 4)], "mean"))
    masks, scores = whole(model), random_scores(model)
    masks["0.0"].zero_()
    kept = fit(model, masks, scores, 300)
    assert kept["0.0"][scores["0.0"].argmax()] == 1.0


# --- before training ------------------------------------------------------------------------------


def test_a_budget_below_the_smallest_network_is_refused_before_training() -> None:
    start = replace(compression(), method="sgsc", goal=Goal(budget=50))
    with pytest.raises(ConfigError) as caught:
        start.rehearse(lambda _: None)
    smallest = smallest_bytes(start.quantized())
    assert f"{smallest} with only the channels that cannot leave" in str(caught.value)
    assert f'"{smallest} B"' in str(caught.value)
    assert caught.value.exit_code == 2


def test_one_layer_that_answers_cannot_shrink() -> None:
    model = quantized(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    full = 3 * 64 + 3 * 28
    assert smallest_bytes(model) == full
    check_budget(model, full)
    with pytest.raises(ConfigError, match=f"{full} bytes at its smallest widths, and {full}"):
        check_budget(model, full - 1)


def test_a_budget_above_the_whole_network_removes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = quantized(SEPARABLE)
    full = stored_bytes(model, whole(model))
    with caplog.at_level(logging.INFO, "sgsc_edge"):
        check_budget(model, full)
    assert f"every channel can stay: all take {full} bytes at the smallest widths" in caplog.text
    kept = fit(model, whole(model), random_scores(model), 10 * full)
    assert all(bool(mask.all()) for mask in kept.values())
