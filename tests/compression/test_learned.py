"""Learned depths: gradients, sizes, the exact fit, the controller, and whole small compressions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compression.models import Busy, Plain, inputs, randomised
from compression.test_loop import compression, data
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression import compressor
from sgsc_edge.compression.channels import follow
from sgsc_edge.compression.compress import Compression, Guard, Method
from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.controller import Controller
from sgsc_edge.compression.fit import fit, stored_bytes
from sgsc_edge.compression.goal import Goal
from sgsc_edge.compression.guide import GuideSamples
from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.loop import Recipe, Trainer
from sgsc_edge.compression.objective import TEMPERATURE, Guided
from sgsc_edge.compression.quantizer import WeightQuantizer
from sgsc_edge.compression.sensitivity import sensitivity
from sgsc_edge.compression.settling import Settling
from sgsc_edge.compression.task import Task
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.targets import load_target


def masks_of(model: QuantizedModel) -> dict[str, torch.Tensor]:
    return {name: torch.ones(len(layer.mask)) for name, layer in model.layers()}


def quantized(network: nn.Module) -> QuantizedModel:
    return quantize_model(randomised(network), inputs()[0])


def test_stored_bytes_follow_the_formula() -> None:
    model = quantized(Plain())
    conv = 4 * 9 + 4 * (12 + 12 + 4)  # weights; scale and zero point of weight and bias, and an int32 bias
    dense = 3 * 36 + 3 * (12 + 12 + 4)
    assert stored_bytes(model, masks_of(model)) == conv + dense


def test_a_dead_channel_takes_its_readers_columns_along() -> None:
    model = quantized(Plain())
    masks = masks_of(model)
    masks["features.0"][1] = 0.0
    uses = {use.name: use for use in follow(model, masks)}
    assert uses["head"].inputs.tolist() == [1.0] * 9 + [0.0] * 9 + [1.0] * 18
    assert stored_bytes(model, masks) == stored_bytes(model, masks_of(model)) - (9 + 28) - 9 * 3


def test_liveness_passes_depthwise_add_and_concat() -> None:
    model = quantized(Busy())
    masks = masks_of(model)
    masks["first"][0] = 0.0
    masks["depthwise"][1] = 0.0
    uses = {use.name: use for use in follow(model, masks)}
    assert uses["depthwise"].outputs.tolist() == [0.0, 0.0, 1.0, 1.0]  # its own, and its input's
    assert uses["head"].inputs.tolist() == [1.0] * 8  # a shift by a constant and a lone norm revive zeros


@settings(max_examples=15, deadline=None)
@given(st.integers(400, 1400), st.integers(0, 50))
def test_the_fit_never_exceeds_the_budget_and_keeps_the_important(budget: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = quantized(nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()))
    importance = {name: torch.rand(len(mask)) for name, mask in masks_of(model).items()}
    kept = fit(model, masks_of(model), importance, budget)
    assert stored_bytes(model, kept) <= budget
    assert all(mask.sum() >= 1 for mask in kept.values())
    first = importance["0"]
    if (kept["0"] == 0).any():
        assert first[kept["0"] > 0].min() >= first[kept["0"] == 0].max()


def test_the_smallest_network_is_kept_where_no_budget_suffices() -> None:
    model = quantized(Plain())
    importance = {name: torch.rand(len(mask)) for name, mask in masks_of(model).items()}
    kept = fit(model, masks_of(model), importance, budget=1)
    assert [int(mask.sum()) for mask in kept.values()] == [1, 3]  # every class keeps its logit


def test_the_task_loss_moves_depths() -> None:
    model = compression().calibrated()
    for _, layer in model.layers():
        layer.quantizer.bits.requires_grad_(True)
        layer.quantizer.bits.data.fill_(3.0)  # the clamp binds: the scale is still that of 8 bits
    x, labels = data().tensors
    nn.functional.cross_entropy(model.module(x), labels).backward()
    for name, layer in model.layers():
        assert layer.quantizer.bits.grad is not None, name
        assert float(layer.quantizer.bits.grad.abs().max()) > 0, name


# --- the controller -------------------------------------------------------------------------------

BITS = {"a": torch.tensor([8.0, 3.0, 0.0]), "b": torch.tensor([4.0] * 7)}
CLASSES = {"a": np.arange(3), "b": np.arange(3, 10)}
SENSITIVITY = {"a": torch.tensor([9.0, 5.0, 8.0]), "b": torch.tensor([0.1] * 7)}


def wide(bits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(own, 8.0) for name, own in bits.items()}


def test_small_falls_are_left_alone() -> None:
    controller = Controller(baseline=0.99, trip=0.02, release=0.01)
    assert controller.check(1, 0.975, BITS, SENSITIVITY, CLASSES, wide(BITS)) == {}
    assert not controller.holding
    assert controller.actions == []


def test_the_most_sensitive_channels_get_bits_back_until_it_holds() -> None:
    controller = Controller(baseline=0.99, trip=0.02, release=0.01)
    changed = controller.check(10, 0.90, BITS, SENSITIVITY, CLASSES, wide(BITS))
    assert {name: bits.tolist() for name, bits in changed.items()} == {"a": [8.0, 3.0, 4.0]}
    (action,) = controller.actions
    assert action["step"] == 10
    assert action["restored"] == [
        {"layer": "a", "channel": 2, "sensitivity": 8.0, "before": 0.0, "after": 4.0}
    ]
    assert controller.holding
    assert controller.check(20, 0.975, BITS, SENSITIVITY, CLASSES, wide(BITS)) == {}  # it recovers by itself
    assert controller.holding  # better than trip, not yet within release
    assert controller.check(30, 0.975, BITS, SENSITIVITY, CLASSES, wide(BITS))
    assert controller.check(40, 0.985, BITS, SENSITIVITY, CLASSES, wide(BITS)) == {}
    assert not controller.holding


def test_each_step_that_was_not_enough_is_followed_by_a_larger_one() -> None:
    controller = Controller(baseline=0.99, trip=0.02, release=0.01)
    bits = {"a": torch.full((40,), 5.0)}
    found = []
    for step in range(5):
        controller.check(step, 0.5, bits, {"a": torch.rand(40)}, {"a": np.arange(40)}, wide(bits))
        found.append(len(controller.actions[-1]["restored"]))  # type: ignore[arg-type]
    assert found == [4, 8, 16, 32, 40]
    assert controller.check(6, 0.985, bits, {}, {}, {}) == {}
    controller.check(7, 0.5, bits, {"a": torch.rand(40)}, {"a": np.arange(40)}, wide(bits))
    assert len(controller.actions[-1]["restored"]) == 4  # type: ignore[arg-type]


def test_no_channel_gets_more_bits_than_it_can_have() -> None:
    controller = Controller(baseline=0.99, trip=0.02, release=0.01)
    most = {"a": torch.tensor([8.0, 3.5, 2.5]), "b": torch.tensor([4.0] * 7)}
    changed = controller.check(1, 0.5, BITS, SENSITIVITY, CLASSES, most)
    assert {name: bits.tolist() for name, bits in changed.items()} == {"a": [8.0, 3.0, 2.5]}
    changed = controller.check(2, 0.4, BITS, SENSITIVITY, CLASSES, most)
    assert {name: bits.tolist() for name, bits in changed.items()} == {"a": [8.0, 3.5, 2.5]}
    for step in range(3, 6):  # whoever has all its bits is no longer asked
        changed = controller.check(step, 0.3, most, SENSITIVITY, CLASSES, most)
        assert changed == {}


def test_a_fixed_pressure_ends_where_4_bits_are_not_enough() -> None:
    """What a file stores in 4 bits gets no more of them, however low the watch metric stays."""
    x, labels = data().tensors
    compressing = Compressor(
        trained(),
        x[0],
        steps=20,
        data=[(x, labels)],
        target="tflite-int4",
        gamma=0.02,
        watch=lambda model: 0.0,
        baseline=1.0,
    )
    optimizer = torch.optim.SGD(compressing.model.parameters(), 1e-3)
    for _ in range(20):
        loss = nn.functional.cross_entropy(compressing.model(x), labels)
        (loss + compressing.penalty(loss)).backward()
        optimizer.step()
        optimizer.zero_grad()
        compressing.step(optimizer)
    assert compressing.plan is not None
    compressing.finish()


def test_under_a_budget_dead_channels_stay_dead() -> None:
    controller = Controller(baseline=0.99, trip=0.02, release=0.01, bounded=True)
    changed = controller.check(1, 0.5, BITS, SENSITIVITY, CLASSES, wide(BITS))
    assert {name: bits.tolist() for name, bits in changed.items()} == {"a": [8.0, 4.0, 0.0]}


def test_under_a_budget_steps_stay_small() -> None:
    controller = Controller(baseline=0.99, trip=0.02, release=0.01, bounded=True)
    bits = {"a": torch.full((40,), 5.0)}
    for step in range(3):
        controller.check(step, 0.5, bits, {"a": torch.rand(40)}, {"a": np.arange(40)}, wide(bits))
    assert [len(action["restored"]) for action in controller.actions] == [4, 4, 4]  # type: ignore[arg-type]


def test_a_dead_channel_comes_back_with_its_partners() -> None:
    controller = Controller(baseline=0.99, trip=0.02, release=0.01)
    bits = {"a": torch.tensor([8.0, 0.0]), "b": torch.tensor([0.0, 0.0]), "c": torch.tensor([5.0] * 6)}
    scores = {"a": torch.tensor([0.0, 1.0]), "b": torch.zeros(2), "c": torch.zeros(6)}
    classes = {"a": np.array([0, 1]), "b": np.array([0, 1]), "c": np.arange(2, 8)}
    changed = controller.check(1, 0.5, bits, scores, classes, wide(bits))
    assert {name: new.tolist() for name, new in changed.items()} == {"a": [8.0, 4.0], "b": [0.0, 4.0]}


def test_a_dead_channel_behind_a_relu_is_missed_too() -> None:
    model = compression().calibrated()
    _, layer = next(iter(model.layers()))
    layer.set_mask(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    x, labels = data().tensors
    assert sensitivity(model, Task(), x, labels)["features.0"][1] > 0
    assert layer.mask.tolist() == [1.0, 0.0, 1.0, 1.0]


# --- whole compressions ---------------------------------------------------------------------------


def trained(model: nn.Module | None = None) -> nn.Module:
    """A float model that has learned the task."""
    torch.manual_seed(0)
    model = (Plain() if model is None else model).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, labels = data().tensors
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval()


def learning(budget: int | None, **options: Any) -> Compression:
    goal = Goal(budget=budget, **options)
    return replace(
        compression(epochs=12),
        model=trained(),
        method="sgsc",
        guide=GuideSamples(tuple(range(0, 120, 4))),
        goal=goal,
        guard=Guard("accuracy", 0.1),
    )


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_a_budget_is_met_and_the_task_still_learned(tmp_path: Path) -> None:
    this = learning(280)
    model = this.quantized()
    assert stored_bytes(model, masks_of(model)) > 280
    this.run(tmp_path, "key")
    rows = history(tmp_path)
    assert 0.75 * 280 <= rows[-1]["bytes"] <= 280  # channels of this network take 64 bytes
    assert rows[-1]["learned_bytes"] <= rows[-1]["bytes"]
    assert rows[-1]["watch_accuracy"] > 0.9


def test_dead_channels_have_no_integers_and_no_bias(tmp_path: Path) -> None:
    tensors = learning(280).run(tmp_path, "key").tensors()
    dead = (tensors["features.0.weight"] == 0).flatten(1).all(1)
    assert 1 <= int(dead.sum()) < 4
    assert not tensors["features.0.bias"][dead].any()


@contextlib.contextmanager
def killed_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What runs inside is killed right after an epoch's checkpoint."""

    class StopError(Exception):
        pass

    save = Trainer._save

    def killed(trainer: Trainer, optimizer: torch.optim.Optimizer, rows: list[dict[str, float]]) -> None:
        save(trainer, optimizer, rows)
        if len(rows) == epoch:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed)
        with pytest.raises(StopError):
            yield


def shaken(inputs: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return inputs + 0.05 * torch.randn(inputs.shape, generator=generator)


@pytest.mark.parametrize("method", ["sgsc", "qat8"])
def test_training_inputs_are_augmented_the_same_way_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    seeds: list[int] = []

    def augment(inputs: torch.Tensor, seed: int) -> torch.Tensor:
        seeds.append(seed)
        return shaken(inputs, seed)

    this = replace(learning(280), method=method, augment=augment, recipe=Recipe(4, 32, 1e-2, seed=3))
    unbroken = this.run(tmp_path / "a", "key").tensors()
    plain = replace(this, augment=None).run(tmp_path / "plain", "key").tensors()
    assert not all(torch.equal(plain[name], tensor) for name, tensor in unbroken.items())
    assert len(set(seeds)) == len(seeds) > 12  # each batch has a seed of its own
    with killed_after(1, monkeypatch):
        this.run(tmp_path / "b", "key")
    resumed = this.run(tmp_path / "b", "key").tensors()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in unbroken.items())


def test_the_teacher_sees_what_the_model_sees() -> None:
    this = replace(learning(280), augment=shaken)
    _, objective = this.compressor()
    assert isinstance(objective, Guided)
    x, _ = data().tensors
    batch = shaken(x[:8], 1)
    answers = objective.teacher(batch, torch.arange(8))
    assert torch.allclose(answers, this.model(batch), atol=1e-5)
    assert not torch.allclose(answers, this.model(x[:8]), atol=1e-3)


@pytest.mark.parametrize(
    ("goal", "epochs", "target"),
    [
        (Goal(280), (3, 9), "tflite-int8"),
        (Goal(200), (3, 9), "tflm-int4"),
        (Goal(120), (3, 9), "c-learned"),
        (Goal(None, gamma=30.0), range(1, 12), "tflite-int8"),
    ],
    ids=["budget", "narrow", "packed", "gamma"],
)
def test_a_killed_compression_ends_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, goal: Goal, epochs: Sequence[int], target: str
) -> None:
    """Killed while learning and while settling; under γ the controller takes hold and lets go."""
    this = replace(learning(280), goal=goal, guard=Guard("loss", 0.1), device=Device.of(load_target(target)))
    unbroken = this.run(tmp_path / "a", "key").tensors()
    assert bool((tmp_path / "a" / "controller.jsonl").read_text()) == (goal.budget is None)
    for last in epochs:
        with killed_after(last, monkeypatch):
            this.run(tmp_path / "b", "key")
    resumed = this.run(tmp_path / "b", "key").tensors()
    for name, tensor in unbroken.items():
        assert torch.equal(tensor, resumed[name]), name
    for name in ("history.jsonl", "controller.jsonl", "channels.jsonl", "plan.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def test_at_the_end_channels_come_back_until_the_watch_set_holds() -> None:
    this = learning(None, gamma=1.0)
    compressing, _ = this.compressor()
    for layer in compressing._layers.values():
        layer.set_mask(torch.arange(len(layer.mask)) == 0)
    rising = iter([0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.0, 1.0])
    compressing._guarding.watch = lambda: next(rising)
    compressing._decide(compressing._settling.reopen)
    assert all(bool(layer.mask.all()) for layer in compressing._layers.values())
    assert [len(layer.weight) for _, layer in compressing._working.model.layers()] == [4, 3]


@pytest.mark.parametrize(("goal", "rests"), [(Goal(280), False), (Goal(None, gamma=1.0), True)])
def test_only_a_fixed_pressure_stops_while_the_controller_holds(goal: Goal, rests: bool) -> None:
    compressing, _ = replace(learning(280), goal=goal).compressor()
    optimizer = torch.optim.SGD(compressing.model.parameters(), 0.1)
    for _ in range(5):  # then slopes are taken
        compressing.step(optimizer)
    compressing._pressing.pressure.multiplier = 1.0
    compressing.controller.holding = True
    assert (float(compressing.penalty(torch.tensor(1.0)).detach()) == 0.0) == rests


class TwoLayers(nn.Module):
    """Enough layers that one channel in each is too little."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
        self.head = nn.Linear(6 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.flatten(self.features(x), 1))


@pytest.mark.parametrize("gamma", [3.0, 10.0])
def test_the_controller_saves_a_run_that_fails_without_it(tmp_path: Path, gamma: float) -> None:
    """A fixed weight far too large, and a learning rate at which settling mends no collapse."""
    ends = {}
    for guard in (False, True):
        folder = tmp_path / str(guard)
        this = replace(learning(None, gamma=gamma, controller=guard), guard=Guard("loss", 0.1))
        recipe = Recipe(12, 32, learning_rate=1e-4, seed=0)
        replace(this, model=trained(TwoLayers()), recipe=recipe).run(folder, "key")
        ends[guard] = history(folder)[-1]["watch_loss"]
        actions = (folder / "controller.jsonl").read_text().splitlines()
        assert bool(actions) == guard
        plan = json.loads((folder / "plan.json").read_text())
        assert sum(layer["outputs"] for layer in plan["layers"]) == history(folder)[-1]["channels"]
    assert ends[True] < 0.2
    assert ends[False] > 0.55  # half of what guessing among three classes costs


class TwoBranches(nn.Module):
    """Two convolutions of one shape; the head listens to the first fifty times as closely."""

    def __init__(self) -> None:
        super().__init__()
        self.loud, self.quiet = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(8 * 36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([torch.relu(self.loud(x)), torch.relu(self.quiet(x))], 1)
        return self.head(torch.flatten(x, 1))


def learned_depths(folder: Path, gamma: float) -> dict[str, float]:
    """Mean depth by layer that two branches of different sensitivity end learning with."""
    model = trained(TwoBranches())
    with torch.no_grad():
        model.head.weight[:, 4 * 36 :] /= 50  # type: ignore[index, operator]
    recipe = Recipe(12, 32, learning_rate=1e-4, seed=0)
    depths: dict[str, float] = {}

    class Watched(Settling):
        def settle(self) -> None:
            super().settle()
            depths.update((name, float(bits.mean())) for name, bits in self.learned.items())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgsc_edge.compression.compressor.Settling", Watched)
        replace(learning(None, gamma=gamma), model=model, recipe=recipe).run(folder, "key")
    assert history(folder)[-1]["watch_accuracy"] > 0.9
    return depths


@pytest.mark.parametrize("gamma", [0.01, 0.03, 0.1, 0.3])
def test_layers_of_different_sensitivity_end_at_different_depths(tmp_path: Path, gamma: float) -> None:
    depths = learned_depths(tmp_path, gamma)
    assert depths["loud"] > depths["quiet"] + 1.0


def test_with_the_scale_held_depths_do_not_follow_sensitivity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published quantizer (arXiv 2505.00350, eq. 1), for comparison."""
    monkeypatch.setattr(WeightQuantizer, "scale", lambda self: 2**self.log2_range / 127)
    depths = learned_depths(tmp_path, 0.01)
    assert depths["loud"] < depths["quiet"]


def widths(folder: Path) -> list[int]:
    return [layer["chosen"]["bits"] for layer in json.loads((folder / "plan.json").read_text())["layers"]]


@pytest.mark.parametrize(
    ("baseline", "parts", "expected"),
    [(0.0, 3, [4, 4]), (2.0, 1, [4, 4]), (2.0, 2, [4, 8]), (2.0, 3, [8, 8])],
)
def test_layers_are_widened_while_the_watch_set_lies_below_its_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: float, parts: int, expected: list[int]
) -> None:
    """A floor that every network meets, and one that none does: then a layer at each look."""
    monkeypatch.setattr(compressor, "LOOKS_BACK", parts)
    this = replace(
        learning(None),
        method="mixed",
        device=Device.of(load_target("tflm-int4")),
        guard=Guard("accuracy", 0.1, baseline=baseline),
        recipe=Recipe(3, 32, 1e-3, seed=0),  # 15 steps
    )
    folded = this.run(tmp_path, "key")
    assert sorted(widths(tmp_path)) == expected
    layers = folded.layers().values()
    assert [layer.bits.unique().tolist() for layer in layers] == [[bits] for bits in widths(tmp_path)]
    for layer in layers:
        assert int(layer.weight.abs().max()) <= 2 ** (int(layer.bits[0]) - 1) - 1


def test_under_a_budget_no_layer_is_widened_without_room(tmp_path: Path) -> None:
    device = Device.of(load_target("tflm-int4"))
    this = replace(learning(200), device=device, guard=Guard("accuracy", 0.1, baseline=2.0))
    this.run(tmp_path, "key")
    rows = history(tmp_path)
    assert all(row["bytes"] <= 200 for row in rows[8:])
    assert 4 in widths(tmp_path)


def test_ptq_calibrates_without_training(tmp_path: Path) -> None:
    this = replace(compression(), method="ptq")
    tensors = this.run(tmp_path, "key").tensors()
    assert history(tmp_path) == []
    assert len(data()) == 120
    assert int(tensors["features.0.weight"].abs().max()) == 127


def test_a_method_that_leaves_settings_unused_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for goal, warned in ((Goal(None), False), (Goal(280), True), (Goal(None, controller=True), True)):
        caplog.clear()
        replace(compression(), method="ptq", goal=goal).run(tmp_path, "key")
        assert ("takes no budget, fixed weight or controller" in caplog.text) == warned


def test_a_watch_set_too_small_to_watch_is_named(caplog: pytest.LogCaptureFixture) -> None:
    this = learning(280)
    for samples, warned in ((4, True), (5, False)):  # the controller trips at a fall of 0.2
        caplog.clear()
        x, labels = this.watch
        few = replace(this, watch=(x[:samples], labels[:samples]))
        few.compressor()
        assert (f"the watch set has {samples} samples" in caplog.text) == warned


def test_must_keep_samples_follow_their_labels_alone() -> None:
    """And as strongly as others follow the float model: the temperature's times."""
    this = learning(280)
    x, labels = data().tensors
    losses = {}
    for kept in ((), (0, 1, 2, 3)):
        compressing, objective = replace(this, guide=replace(this.guide, must_keep=kept)).compressor()
        assert isinstance(objective, Guided)
        model = compressing.model.eval()
        losses[kept] = float(objective(model, x[:4], labels[:4], torch.arange(4)).detach())
        objective.teacher = lambda inputs, indices: torch.randn(4, 3)
        again = float(objective(model, x[:4], labels[:4], torch.arange(4)).detach())
        assert (again == losses[kept]) == bool(kept)
    outputs = model(x[:4])
    alone = float(nn.functional.cross_entropy(outputs, labels[:4]).detach())
    assert losses[0, 1, 2, 3] == pytest.approx(TEMPERATURE * alone, rel=1e-4)
