"""Layers in two widths: the same integers from two layers joined, in torch and on every device runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compression.shrink_networks import SAMPLE, Block, build, compressed, fed, layers, real
from compression.test_shrink_property import blocks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.compression.shrink.slots import Coupling
from sgsc_edge.compression.shrink.values import Values
from sgsc_edge.compression.widths.snapping import SECOND_WIDTH_BYTES
from sgsc_edge.compression.widths.split import split_widths, splittable
from sgsc_edge.errors import InternalError
from sgsc_edge.export import export_onnx
from sgsc_edge.graph import ir, reference
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.inspection.text import plain_name
from sgsc_edge.lowering import lower
from sgsc_edge.numerics import PROFILES
from sgsc_edge.size import Storage
from sgsc_edge.targets import load_target


def free_layers(model: CompressedModel) -> list[str]:
    """Names of the layers that can be split."""
    return [str(node.target) for node in splittable(Coupling.of(Values.of(model.module, SAMPLE)))]


def mix(model: CompressedModel, name: str, wide: list[int]) -> None:
    """Store a layer in 4 bits but for some channels."""
    layer = model.module.get_submodule(name)
    narrow = [channel for channel in range(len(layer.weight)) if channel not in wide]
    layer.weight[narrow] = layer.weight[narrow].clamp(-7, 7)
    layer.bits[narrow] = 4


def device(model: CompressedModel, target: str = "tflm-int4") -> ir.Graph:
    return lower(export_onnx(model, SAMPLE, name="split", metadata={}), load_target(target))


class Two(nn.Module):
    """Two convolutions, of which the first can be split, and a dense layer behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3, stride=2)
        self.hidden = nn.Linear(45, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_two_widths_compute_the_same_integers(data: st.DataObject) -> None:
    network = [Block("conv", data.draw(st.integers(2, 6))), *data.draw(st.lists(blocks, max_size=2))]
    head = data.draw(st.sampled_from(["flat", "view", "mean", "pool", "hidden"]))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    try:
        model = compressed(build(network, head))
    except (RuntimeError, ValueError):  # a window larger than what is left of the image
        return
    names = free_layers(model)
    for name in names:
        channels = range(len(model.module.get_submodule(name).weight))
        wide = data.draw(
            st.lists(st.sampled_from(channels), min_size=1, max_size=len(channels) - 1, unique=True)
        )
        mix(model, name, wide)
    divided = split_widths(model, SAMPLE).model
    x = fed(model)
    expected = model.output.integers(model.module(real(model, x)))
    assert torch.equal(divided.output.integers(divided.module(real(model, x))), expected)
    assert all(len(layer.bits.unique()) == 1 for _, layer in layers(divided))
    assert len(layers(divided)) == len(layers(model)) + len(names)


@pytest.mark.parametrize("target", ["tflm-int4", "tflite-int4"])
def test_devices_compute_what_the_undivided_model_does(target: str) -> None:
    model = compressed(Two())
    assert free_layers(model) == ["first", "second", "hidden"]
    mix(model, "first", [0, 4])
    mix(model, "second", [3])
    mix(model, "hidden", [0, 1, 9])
    split = split_widths(model, SAMPLE)
    graph = device(split.model, target)
    assert list(split.parts) == ["first", "second", "hidden"]
    assert {f"{part}.weight" for parts in split.parts.values() for part in parts} <= {
        plain_name(name) for name in graph.tensors
    }
    kinds = [type(node.op) for node in graph.nodes]
    assert kinds.count(ir.Concatenation) == 3
    assert {ir.Relu, ir.Quantize, ir.Transpose}.isdisjoint(kinds)
    whole = device(widened(model), target)
    x = fed(model)
    for profile in PROFILES:
        assert np.array_equal(reference.run(graph, x, profile), reference.run(whole, x, profile))


def widened(model: CompressedModel) -> CompressedModel:
    """The same integers, all of them stored in 8 bits: no layer is divided."""
    whole = model.copied()
    for _, layer in layers(whole):
        layer.bits.fill_(8)
    return whole


def test_joined_channels_keep_one_width() -> None:
    """Both sides of an Add, what a Concat joins, a depthwise layer and the model's outputs."""
    for kind in ("residual", "concat", "depthwise"):
        model = compressed(build([Block("conv", 4), Block(kind, 4)], "flat"))
        names = free_layers(model)
        mixed = next(name for name, layer in layers(model) if name not in names and len(layer.bits) > 1)
        mix(model, mixed, [0])
        with pytest.raises(InternalError, match=mixed):
            split_widths(model, SAMPLE)


def test_a_model_in_one_width_stays_as_it_is() -> None:
    model = compressed(Two())
    assert split_widths(model, SAMPLE).model is model


@pytest.mark.parametrize(("name", "weights", "channels"), [("second", 270, 5), ("hidden", 450, 10)])
@pytest.mark.parametrize("target", ["tflm-int4", "tflite-int4"])
def test_the_plan_counts_what_a_second_width_takes_in_the_file(
    name: str, weights: int, channels: int, target: str
) -> None:
    """Weights, biases and scales by ``Storage.bytes``, and tensors and operators by one number.

    It is what a dense layer takes on TFLM, where it becomes two 1x1 convolutions; others take less.
    """
    files = []
    for wide in ([1, 3], []):
        model = compressed(Two())
        mix(model, name, wide)
        files.append(len(write_tflite(device(split_widths(model, SAMPLE).model, target))))
    stored = [storage.bytes(weights, channels) for storage in (Storage(4, wide=(1, 3)), Storage(4))]
    added = (files[0] - files[1]) - (stored[0] - stored[1])
    assert 2 / 3 * SECOND_WIDTH_BYTES <= added <= SECOND_WIDTH_BYTES


def test_parts_take_no_name_that_the_model_has() -> None:
    class Named(Two):
        def __init__(self) -> None:
            super().__init__()
            self.first_int4 = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.second(self.first_int4(self.first(x))))
            return self.head(torch.relu(self.hidden(x.flatten(1))))

    model = compressed(Named())
    mix(model, "first", [0, 4])
    x = real(model, fed(model))
    divided = split_widths(model, SAMPLE).model
    assert torch.equal(divided.module(x), model.module(x))
    assert [len(layer.weight) for _, layer in layers(divided)].count(2) == 1
