"""Channels that C code packs at widths of their own, from the choice of widths to the generated constants."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from c_code.hosted import needs_gcc, run_c
from compression.models import randomised
from compression.shrink_networks import SAMPLE, fed
from compression.test_fit_shipped import NETWORKS, fitted, network_of, shrunk_to
from compression.test_fold import calibrated
from compression.test_learned import history, learning
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.c_code.write import c_code
from sgsc_edge.compression.compress import Guard
from sgsc_edge.compression.fit import Masks, smallest_bytes, stored_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, FoldedConstant, FoldedLayer
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.loop import Recipe
from sgsc_edge.compression.quantizer import WeightQuantizer, best_range
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.snapping import staircase
from sgsc_edge.compression.widths.storing import Storing
from sgsc_edge.export import export_onnx
from sgsc_edge.graph import reference
from sgsc_edge.graph.ir import Graph
from sgsc_edge.lowering import lower
from sgsc_edge.numerics import filter_widths
from sgsc_edge.size import Storage
from sgsc_edge.targets import load_target

TARGET = load_target("c-learned")
DEVICE = Device.of(TARGET)
Folded = TypeVar("Folded", FoldedLayer, FoldedConstant)


def constants_of(graph: Graph) -> int:
    return c_code(graph, name="net", model_hash="ab" * 32, learned=True).constant_bytes


def graph_of(model: CompressedModel) -> Graph:
    return lower(export_onnx(model, SAMPLE, name="net", metadata={}), TARGET)


def called(model: CompressedModel, kind: type[Folded]) -> list[tuple[str, Folded]]:
    """Modules of one kind that the network still calls."""
    names = {str(node.target) for node in model.module.graph.nodes if node.op == "call_module"}
    modules = model.module.named_modules()
    return [(name, module) for name, module in modules if name in names and isinstance(module, kind)]


def packed(name: str, share: float) -> tuple[QuantizedModel, Masks]:
    """A network whose channels have random widths, some of them gone; layers in 1 to 8 bits."""
    model = calibrated(randomised(network_of(name)))
    generator = torch.Generator().manual_seed(3)
    for _, layer in model.layers():
        widths = torch.randint(1, 9, layer.mask.shape, generator=generator)
        layer.snap_to(Storage.packing(widths.tolist()))
    masks, _ = fitted(model, share)
    return model, masks


@pytest.mark.parametrize("name", NETWORKS)
def test_counted_bytes_are_those_of_the_generated_constants(name: str) -> None:
    """Where a filter's largest weight has left with its input, fewer bits may hold the others."""
    model, masks = packed(name, 0.6)
    shipped = shrunk_to(model, masks).model
    graph, stored = graph_of(shipped), 0
    for layer, folded in called(shipped, FoldedLayer):
        widths = filter_widths(folded.weight.numpy())
        stored += Storage.packing(widths.tolist()).bytes(folded.weight.numel(), len(widths))
        if layer in masks:
            planned = dict(model.layers())[layer].widths()[masks[layer] > 0].numpy()
            assert (widths <= planned).all()
            assert (widths == planned).mean() >= 0.6
    stored += sum(constant.value.numel() for _, constant in called(shipped, FoldedConstant))
    assert constants_of(graph) == stored <= stored_bytes(model, masks)
    assert any((mask == 0).any() for mask in masks.values())


@pytest.mark.parametrize("name", ["depthwise", "concat", "constants"])
def test_whole_networks_take_what_is_counted(name: str) -> None:
    """But for the last byte of each layer, which counts as if it held a single bit."""
    model, masks = packed(name, 1.0)
    shipped = shrunk_to(model, masks).model
    slack = len(list(called(shipped, FoldedLayer)))
    assert 0 <= stored_bytes(model, masks) - constants_of(graph_of(shipped)) <= slack


@needs_gcc
@pytest.mark.parametrize("name", ["depthwise", "residual"])
def test_the_packed_code_computes_the_executors_integers(name: str, tmp_path: Path) -> None:
    model, masks = packed(name, 1.0)
    shipped = shrunk_to(model, masks).model
    graph, fed_integers = graph_of(shipped), fed(shipped, 20)
    (made,) = run_c(graph, tmp_path, {graph.inputs[0]: fed_integers}, learned=True).values()
    np.testing.assert_array_equal(made, reference.run(graph, fed_integers))


# --- one bit --------------------------------------------------------------------------------------


def test_one_bit_is_two_values_and_passes_gradients() -> None:
    weight = torch.tensor([[0.5, -0.1, 0.0, -0.9], [0.5, -0.1, 0.0, -0.9]], requires_grad=True)
    quantizer = WeightQuantizer(weight)
    every = torch.tensor([True, True])
    quantizer.snap(weight.detach(), torch.tensor([1.0, 2.0]), every, shared=False)
    one, two = quantizer.integers(weight.detach()).tolist()
    assert one == [1, -1, 1, -1]
    assert set(two) <= {-1, 0, 1}
    rounded = quantizer(weight)
    assert rounded[0].tolist() == pytest.approx([0.375, -0.375, 0.375, -0.375])  # the mean magnitude
    rounded.sum().backward()
    assert weight.grad is not None
    assert weight.grad[0].tolist() == [0.0, 1.0, 1.0, 0.0]  # beyond the range nothing passes


@settings(deadline=None)
@given(st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=12), st.floats(0.5, 2.0))
def test_no_range_rounds_one_bit_better(values: list[float], factor: float) -> None:
    weight = torch.tensor([values])
    scale = float(2 ** best_range(weight, 1.0, torch.tensor([True]), shared=False))

    def error(scale: float) -> float:
        return float((weight.abs() - scale).square().sum())

    assert error(scale) <= error(factor * scale) * (1 + 1e-5) + 1e-5


# --- the choice -----------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8), min_size=1, max_size=3))
def test_no_other_widths_of_a_layer_lose_less_in_as_many_bits(falls: list[list[float]]) -> None:
    losses = np.cumsum(np.array(falls, np.float64)[:, ::-1], 1)[:, ::-1]
    found = [tuple(widths.tolist()) for widths in staircase(losses, np.ones(len(falls), np.bool_))]
    assert all(np.all(np.subtract(b, a) >= 0) for a, b in itertools.pairwise(found))

    def lost(widths: tuple[int, ...]) -> float:
        return float(sum(losses[channel, bits - 1] for channel, bits in enumerate(widths)))

    every = list(itertools.product(range(1, 9), repeat=len(falls)))
    for widths in found:
        others = [lost(other) for other in every if sum(other) <= sum(widths)]
        assert lost(widths) <= min(others) + 1e-9


def test_dead_channels_have_no_width_and_long_stairs_are_thinned() -> None:
    losses = 0.25 ** np.arange(8) * np.arange(1, 41)[:, np.newaxis]
    alive = np.arange(40) != 7
    stairs = list(staircase(losses, alive))
    assert all(widths[7] == 0 and (widths[alive] > 0).all() for widths in stairs)
    assert 30 <= len(stairs) <= 33
    assert (stairs[0][alive] == 1).all()
    assert (stairs[-1][alive] == 8).all()


@pytest.mark.parametrize("wanted", [1.0, 3.0, 6.0])
def test_the_mean_width_is_chosen_that_loses_least(wanted: float) -> None:
    model = calibrated(randomised(network_of("depthwise")))
    storing = Storing(model, DEVICE)
    every = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    ones = {name: torch.ones_like(layer.weight) for name, layer in model.layers()}
    least, most = smallest_bytes(model), stored_bytes(model, every)
    asked = []

    def lost(kept: Masks, plan: Plan) -> float:
        bits = [width for storage in plan.storages().values() for width in storage.packed if width]
        assert len(bits) == sum(int(mask.sum()) for mask in kept.values())
        asked.append(sum(bits) / len(bits))
        return abs(asked[-1] - wanted)

    kept = storing.choose_within((least + most) // 2, every, ones, every, lost)
    assert len(asked) > 3
    assert storing.plan is not None
    chosen = [width for storage in storing.plan.storages().values() for width in storage.packed if width]
    assert abs(sum(chosen) / len(chosen) - wanted) == min(abs(mean - wanted) for mean in asked)
    assert stored_bytes(model, kept) <= (least + most) // 2


def test_a_choice_is_tried_on_a_copy() -> None:
    compressor, _ = replace(learning(140), device=DEVICE).compressor()
    model, settling = compressor._full, compressor._settling
    every = {name: torch.ones_like(layer.mask) for name, layer in model.layers()}
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    losses = []
    for bits in (8, 2):
        plan = compressor._storing._choices(every, compressor._guarding.fisher()).stored(
            {name: layer.packed((bits,) * len(layer.mask)) for name, layer in model.layers()}
        )
        losses.append(settling._lost(every, plan))
    few = {name: mask.clone() for name, mask in every.items()}
    few["features.0"][1:] = 0
    assert losses[0] < losses[1]
    assert losses[0] < settling._lost(few, plan)
    after = model.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(not layer.quantizer.settled and not layer.masked for _, layer in model.layers())


# --- whole compressions ---------------------------------------------------------------------------


def plan_of(folder: Path) -> list[dict[str, object]]:
    layers: list[dict[str, object]] = json.loads((folder / "plan.json").read_text())["layers"]
    return layers


def packed_in(folder: Path) -> dict[str, list[int]]:
    return {str(layer["name"]): layer["chosen"]["packed"] for layer in plan_of(folder)}  # type: ignore[index]


def assert_ships_as_planned(folder: Path, folded: CompressedModel) -> None:
    """No filter needs more bits than the plan gives it; the file takes what the plan says."""
    for name, layer in folded.layers().items():
        assert layer.bits.unique().tolist() == [8]
        planned = np.array(packed_in(folder)[name])
        assert (filter_widths(layer.weight.numpy())[planned > 0] <= planned[planned > 0]).all()


@pytest.mark.parametrize("budget", [90, 140])
def test_a_budget_is_met_by_channels_and_widths_together(tmp_path: Path, budget: int) -> None:
    folded = replace(learning(budget), device=DEVICE).run(tmp_path, "key")
    assert_ships_as_planned(tmp_path, folded)
    rows = history(tmp_path)
    assert budget - 5 < rows[-1]["bytes"] <= budget  # a channel's bit takes 5 bytes in one of its layers
    assert 0 <= rows[-1]["bytes"] - rows[-1]["learned_bytes"] < 3  # the last byte of each layer, and of all
    assert sum(int(layer["bytes"]) for layer in plan_of(tmp_path)) <= budget  # type: ignore[call-overload]
    assert rows[-1]["watch_accuracy"] > 0.9
    assert len(set().union(*packed_in(tmp_path).values()) - {0}) > 1


def test_under_a_fixed_weight_the_depths_that_were_learned_are_stored(tmp_path: Path) -> None:
    goal = Goal(None, gamma=0.3, controller=False)
    this = replace(learning(None), goal=goal, device=DEVICE)
    folded = this.run(tmp_path, "key")
    assert_ships_as_planned(tmp_path, folded)
    for layer in plan_of(tmp_path):
        least, _, most = layer["depths"]  # type: ignore[misc]
        widths = [bits for bits in packed_in(tmp_path)[str(layer["name"])] if bits]
        assert (min(widths), max(widths)) == (math.ceil(least), math.ceil(most))
    assert min(min(filter(None, widths)) for widths in packed_in(tmp_path).values()) < 8


@pytest.mark.parametrize(("baseline", "wider"), [(0.0, False), (2.0, True)])
def test_without_a_budget_channels_begin_with_four_bits_in_the_mean(
    tmp_path: Path, baseline: float, wider: bool
) -> None:
    """And get more while the watch set lies below its floor."""
    this = replace(
        learning(None),
        method="mixed",
        device=DEVICE,
        guard=Guard("accuracy", 0.1, baseline=baseline),
        recipe=Recipe(3, 32, 1e-3, seed=0),
    )
    folded = this.run(tmp_path, "key")
    assert_ships_as_planned(tmp_path, folded)
    model = this.quantized()
    for _, layer in model.layers():
        layer.storage = Storage.packing((4,) * len(layer.mask))
    four_bits = stored_bytes(model, {name: layer.mask for name, layer in model.layers()})
    stored = sum(int(layer["bytes"]) for layer in plan_of(tmp_path))  # type: ignore[call-overload]
    assert (stored > four_bits) == wider
    assert stored >= 0.9 * four_bits


def test_eight_bits_are_planned_as_c_code_stores_them(tmp_path: Path) -> None:
    this = replace(
        learning(None), method="qat8", goal=Goal(None), device=DEVICE, recipe=Recipe(1, 32, 1e-3, 0)
    )
    this.run(tmp_path, "key")
    assert {bits for widths in packed_in(tmp_path).values() for bits in widths} == {8}
