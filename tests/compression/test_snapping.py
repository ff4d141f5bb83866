"""Widths: the search for a plan, rounding to coarse grids, and plans as files."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compression.models import Busy, Plain, randomised
from compression.test_fold import calibrated
from compression.test_loop import compression
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.quantizer import best_range, round_to
from sgsc_edge.compression.widths import front
from sgsc_edge.compression.widths.front import Front
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import LayerPlan, Option, Plan
from sgsc_edge.compression.widths.snapping import SECOND_WIDTH_BYTES, Choices
from sgsc_edge.compression.widths.storing import Storing
from sgsc_edge.size import EIGHT_BITS, TABLE, Storage
from sgsc_edge.targets import load_target

NARROW = Storage(4)

options = st.lists(
    st.builds(Option, st.just(NARROW), st.integers(1, 60), st.floats(0, 10, width=16)), min_size=1, max_size=4
)


def brute_force(layers: list[list[Option]], budget: int) -> float | None:
    plans = [
        sum(option.loss for option in picks)
        for picks in itertools.product(*layers)
        if sum(option.bytes for option in picks) <= budget
    ]
    return min(plans, default=None)


@settings(max_examples=200, deadline=None)
@given(st.lists(options, min_size=1, max_size=5), st.integers(0, 300))
def test_the_front_has_the_best_plan_for_every_budget(layers: list[list[Option]], budget: int) -> None:
    front = Front.of(layers)
    best = front.within(budget)
    expected = brute_force(layers, budget)
    assert (best is None) == (expected is None)
    if best is not None:
        picked = [options[pick] for options, pick in zip(layers, front.picks(best), strict=True)]
        assert sum(option.bytes for option in picked) == front.bytes[best] <= budget
        assert sum(option.loss for option in picked) == pytest.approx(front.loss[best])
        assert front.loss[best] == pytest.approx(expected)


def test_a_long_front_is_thinned_and_stays_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are left out, never made up; the ends stay, and little is lost between them."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for _ in range(40):
        size, loss = (float(x) for x in torch.rand(2, generator=generator))
        layers.append(
            [Option(EIGHT_BITS, round(20_000 * size), 0.0), Option(NARROW, round(10_000 * size), loss)]
        )
    whole = Front.of(layers)
    monkeypatch.setattr(front, "_POINTS", 64)
    thin = Front.of(layers)
    assert len(thin.bytes) <= 66
    assert (thin.bytes[0], thin.bytes[-1]) == (whole.bytes[0], whole.bytes[-1])
    for plan in (0, len(thin.bytes) // 2, len(thin.bytes) - 1):
        picked = [options[pick] for options, pick in zip(layers, thin.picks(plan), strict=True)]
        assert sum(option.bytes for option in picked) == thin.bytes[plan]
        best = whole.loss[whole.within(float(thin.bytes[plan])) or 0]
        assert thin.loss[plan] <= best + 0.05 * whole.loss[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([4, 8]), st.booleans())
def test_the_best_range_rounds_no_worse_than_the_widest(seed: int, bits: int, shared: bool) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    weight[seed % 5] *= 10
    channels = torch.arange(5) != 2
    ranges = best_range(weight, bits, channels, shared=shared)
    assert not shared or ranges.unique().numel() == 1
    limit = 2 ** (bits - 1) - 1
    widest = 2 ** (weight.abs().flatten(1).amax(1).log2() + 1e-5)  # ranges are a hair wider than weights
    scale = ((widest[channels].max().expand(5) if shared else widest) / limit).reshape(-1, 1, 1, 1)
    plain = (weight / scale).round().clamp(-limit, limit) * scale
    errors = [
        (rounded - weight)[channels].square().flatten(1).sum(1)
        for rounded in (round_to(weight, bits, channels, shared=shared), plain)
    ]
    found, before = (error.sum(0, keepdim=True) if shared else error for error in errors)
    assert bool((found <= before * 1.001).all())


def choices(network: torch.nn.Module, target: str = "tflm-int4", loss: float = 1.0) -> Choices:
    model = calibrated(randomised(network))
    masks = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    fisher = {name: torch.full_like(layer.weight, loss) for name, layer in model.layers()}
    return Choices(model, masks, Device.of(load_target(target)), fisher)


def test_without_a_budget_the_plan_is_the_smallest() -> None:
    plan, _ = choices(Plain()).best()
    assert {layer.name: layer.chosen for layer in plan.layers} == {
        "features.0": NARROW,  # it has a BatchNorm: scales by channel
        "head": Storage(4, per_channel=False),
    }
    conv, dense = plan.layers
    assert conv.bytes == 18 + 4 * 28
    assert dense.bytes == 54 + 3 * 4 + 24
    assert plan.bytes_in_8_bits == 36 + 4 * 28 + 108 + 3 * 28
    assert "saves 18 bytes" in conv.reason


def test_a_budget_with_room_keeps_8_bits() -> None:
    plan, loss = choices(Plain()).best(10_000)
    assert {layer.chosen for layer in plan.layers} == {EIGHT_BITS}
    assert "would save" in plan.layers[0].reason
    smaller, more = choices(Plain()).best(plan.bytes - 1)
    assert smaller.bytes < plan.bytes
    assert more > loss


def test_a_target_of_8_bits_leaves_no_choice() -> None:
    plan, _ = choices(Busy(), "tflite-int8").best()
    assert {layer.reason for layer in plan.layers} == {
        "the target stores this layer's weights in 8 bits only"
    }


def test_what_the_arena_cannot_unpack_stays_in_8_bits() -> None:
    model = calibrated(randomised(Plain()))
    masks = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    device = Device.of(load_target("tflm-int4"))
    needed = 1 * 64 + 4 * 36 + 36  # input, output and filter of the convolution; less for the dense layer
    for arena, bits in ((needed, 4), (needed - 1, 8)):
        conv, dense = Choices(model, masks, replace(device, arena=arena)).best()[0].layers
        assert (conv.chosen.bits, dense.chosen.bits) == (bits, 4)
    assert conv.reason.startswith("in 4 bits its filter would be unpacked into the arena: 244 bytes")


def test_widening_takes_the_layer_that_loses_most_for_its_bytes() -> None:
    def layer(name: str, saved: int, loss: float) -> LayerPlan:
        both = (Option(EIGHT_BITS, 100, 0.0), Option(NARROW, 100 - saved, loss))
        return LayerPlan(name, 1, 1, (4.0, 4.0, 4.0), both, NARROW, "")

    plan = Plan((layer("a", 10, 1.0), layer("b", 40, 2.0), layer("c", 20, 1.5)))
    first = plan.widened(100)
    assert first is not None
    assert (first[0], first[1].bytes) == ("a", plan.bytes + 10)
    assert [row.chosen for row in first[1].layers] == [EIGHT_BITS, NARROW, NARROW]
    assert plan.widened(9) is None
    assert Plan(tuple(replace(row, chosen=EIGHT_BITS) for row in plan.layers)).widened(100) is None


def test_a_plan_speaks_of_channels_and_of_the_rows_of_tables() -> None:
    def told(storage: Storage) -> str:
        return str(LayerPlan("a", 3, 7, (8.0, 8.0, 8.0), (Option(storage, 1234, 0.0),), storage, "why"))

    assert told(EIGHT_BITS) == f"a: 3 -> 7 channels, {EIGHT_BITS}, 1,234 bytes (8 bits: 1,234); why"
    assert told(TABLE) == f"a: 7 rows of 3, {TABLE}, 1,234 bytes (8 bits: 1,234); why"


def test_widening_stops_halfway_where_that_wins_back_enough() -> None:
    few, many = replace(NARROW, wide=(3,)), replace(NARROW, wide=(1, 3))
    options = (
        Option(EIGHT_BITS, 100, 0.0),
        Option(NARROW, 50, 4.0),
        Option(few, 60, 2.5),
        Option(many, 70, 1.0),
    )
    row = LayerPlan("a", 1, 4, (4.0, 4.0, 4.0), options, NARROW, "")
    reached = []
    plan = Plan((row,))
    for _ in range(2):
        step = plan.widened(100)
        assert step is not None
        plan = step[1]
        reached.append(plan.layers[0].chosen)
    assert reached == [many, EIGHT_BITS]
    assert plan.widened(100) is None
    little = Plan((row,)).widened(15)
    assert little is not None
    assert little[1].layers[0].chosen == few


class Wide(torch.nn.Module):
    """A layer of 24 channels with 108 weights each, large enough for two widths to pay."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 12, 3, padding=1)
        self.second = torch.nn.Conv2d(12, 24, 3)
        self.head = torch.nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


def with_few_that_matter(kept: torch.Tensor | None = None, *, joins: bool = True) -> Choices:
    """Of the second layer's channels, 2 and 5 alone change the loss."""
    model = calibrated(randomised(Wide()))
    masks = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    if kept is not None:
        masks["second"] = kept
    fisher = {name: torch.zeros_like(layer.weight) for name, layer in model.layers()}
    fisher["second"][[2, 5]] = 1.0
    device = replace(Device.of(load_target("tflite-int4")), joins=joins)
    return Choices(model, masks, device, fisher)


def test_a_target_that_joins_nothing_has_one_width_a_layer() -> None:
    second = with_few_that_matter(joins=False).best(10_000)[0].layers[1]
    assert second.chosen == EIGHT_BITS
    assert not any(option.storage.wide for option in second.options)


def test_channels_that_lose_in_4_bits_stay_in_8_where_that_pays() -> None:
    best, loss = with_few_that_matter().best(10_000)
    second = best.layers[1]
    assert second.chosen == replace(NARROW, wide=(2, 5))
    assert loss == 0
    narrow = 22 * 108 // 2 + 2 * 108 + 24 * 28
    assert second.bytes == narrow + SECOND_WIDTH_BYTES < second.bytes_in_8_bits
    assert second.reason.startswith("saves ")
    assert Plan.from_json(json.loads(json.dumps(best.to_json()))) == best


def test_no_plan_is_larger_than_one_width_needs() -> None:
    """Whatever the budget, the mixed plan loses no more than 4 bits alone or 8 bits alone that meet it."""
    found = with_few_that_matter()
    for budget in range(1500, 4500, 250):
        best, loss = found.best(budget)
        for storage in (NARROW, EIGHT_BITS):
            alone = found.stored(dict.fromkeys(found.layers, storage))
            if alone.bytes <= budget:
                assert loss <= sum(layer.loss_of(layer.chosen) for layer in alone.layers) + 1e-12
                assert best.bytes <= budget


def test_two_widths_are_those_of_the_channels_that_stay() -> None:
    stored = dict.fromkeys(("first", "head"), EIGHT_BITS) | {"second": replace(NARROW, wide=(2, 5))}
    kept = torch.ones(24)
    kept[2] = 0
    second = with_few_that_matter(kept).stored(stored).layers[1]
    assert second.chosen == replace(NARROW, wide=(5,))
    assert second.bytes == 22 * 108 // 2 + 108 + 23 * 28 + SECOND_WIDTH_BYTES
    kept[5] = 0
    assert with_few_that_matter(kept).stored(stored).layers[1].chosen == NARROW
    only = torch.zeros(24)
    only[[2, 5]] = 1
    assert with_few_that_matter(only).stored(stored).layers[1].chosen == EIGHT_BITS


def test_plans_survive_a_file() -> None:
    plan, _ = choices(Busy()).best(500)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("target", ["tflite-int4", "tflm-int4"])
def test_what_may_be_narrow(target: str) -> None:
    model = calibrated(randomised(Busy()))
    legal = Device.of(load_target(target)).storages(model)
    assert legal["depthwise"] == (EIGHT_BITS, NARROW)
    assert legal["head"] == (EIGHT_BITS, NARROW, Storage(4, per_channel=False))


def test_scales_of_their_own_are_wider_than_shared_ones() -> None:
    shared, own, part = Storage(4, per_channel=False), NARROW, replace(NARROW, wide=(1,))
    rising = [shared, own, part, EIGHT_BITS]
    for (i, a), (j, b) in itertools.product(enumerate(rising), repeat=2):
        assert a.is_wider_than(b) == (i > j)
    options = (Option(EIGHT_BITS, 100, 0.0), Option(own, 80, 1.0), Option(shared, 60, 4.0))
    step = Plan((LayerPlan("a", 1, 4, (4.0, 4.0, 4.0), options, shared, ""),)).widened(100)
    assert step is not None
    assert step[1].layers[0].chosen == own


def test_a_layer_with_shared_scales_gets_its_own() -> None:
    model = calibrated(randomised(Plain()))
    head = dict(model.layers())["head"]
    with torch.no_grad():
        head.weight[0] *= 20  # the others are lost in its range
    head.snap_to(Storage(4, per_channel=False))
    before = (head.quantizer(head.weight) - head.weight).square().sum(1)
    head.widen_to(NARROW)
    after = (head.quantizer(head.weight) - head.weight).square().sum(1)
    assert bool((after[1:] < before[1:] / 4).all())
    assert head.quantizer.scale().unique().numel() == len(head.mask)


def test_one_look_widens_until_the_loss_has_halved() -> None:
    model = calibrated(randomised(Busy()))
    storing = Storing(model, Device.of(load_target("tflm-int4")))
    masks = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    storing.choose(masks, {name: torch.ones_like(layer.weight) for name, layer in model.layers()})
    storing.snap()
    assert storing.plan is not None
    start = storing.plan
    names = storing.widen(torch.inf)
    assert storing.plan.loss <= start.loss / 2
    assert set(names) == {
        after.name
        for before, after in zip(start.layers, storing.plan.layers, strict=True)
        if before.chosen != after.chosen
    }
    for name, layer in model.layers():
        assert layer.storage == storing.plan.storages()[name]
    assert storing.widen(0) == []


def test_room_is_what_a_plan_leaves_of_a_budget() -> None:
    found = with_few_that_matter()
    storing = Storing(found_model := calibrated(randomised(Wide())), found.device)
    plan = found.stored(dict.fromkeys(found.layers, NARROW) | {"second": replace(NARROW, wide=(2, 5))})
    storing.take(plan)
    masks = {name: torch.ones_like(layer.mask) for name, layer in found_model.layers()}
    # The ledger rounds the half byte of each layer up.
    assert 7 - len(masks) <= storing.room(plan.bytes + 7, masks) <= 7


def test_mixed_widths_take_no_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also in one epoch, where learning depths would leave none to settle in."""
    start = compression(1)
    device = Device.of(load_target("tflm-int4"))
    start = replace(start, method="mixed", goal=Goal(budget=60, gamma=0.0), device=device)
    with caplog.at_level(logging.WARNING, "sgsc_edge"):
        folded = start.run(tmp_path, "key")
    assert "takes no budget" in caplog.text
    for name, layer in start.quantized().layers():
        made = folded.layers()[name]
        assert bool(made.weight.flatten(1).any(1).all())
        assert made.weight.shape == layer.weight.shape
    assert any((layer.bits == 4).all() for layer in folded.layers().values())
