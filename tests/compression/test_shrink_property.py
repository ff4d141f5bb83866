from __future__ import annotations

import numpy as np
import pytest
import torch
from compression.shrink_networks import (
    ACTIVATIONS,
    KINDS,
    SAMPLE,
    Block,
    build,
    compressed,
    fed,
    kill,
    layers,
    real,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.export import export_onnx
from sgsc_edge.graph import ir, reference
from sgsc_edge.lowering import lower
from sgsc_edge.numerics import PROFILES

blocks = st.builds(
    Block,
    kind=st.sampled_from(KINDS),
    width=st.integers(2, 6),
    kernel=st.sampled_from([1, 3]),
    padded=st.booleans(),
    norm=st.booleans(),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    stride=st.sampled_from([1, 2]),
)


def kill_some(draw: st.DrawFn, model: CompressedModel) -> None:
    """Kill none, some, all but one or all channels of each layer, and let some be unread."""
    for _, layer in layers(model)[:-1]:
        channels = list(range(len(layer.weight)))
        some = draw(st.lists(st.sampled_from(channels), unique=True))
        but_one = channels[1:] if draw(st.booleans()) else channels[:-1]
        dead = draw(st.sampled_from([[], some, some, but_one, channels]))
        kill(layer, dead, bias=draw(st.booleans()))
        unread = draw(st.sampled_from(range(-3, layer.weight.shape[1])))
        if unread >= 0:
            layer.weight[:, unread] = 0


@st.composite
def models(draw: st.DrawFn) -> CompressedModel:
    first = Block("conv", draw(st.integers(2, 6)), activation=draw(st.sampled_from(["none", "relu"])))
    network = [first, *draw(st.lists(blocks, min_size=1, max_size=3))]
    head = draw(st.sampled_from(["flat", "view", "mean", "pool", "hidden"]))
    seed = draw(st.integers(0, 1000))
    torch.manual_seed(seed)
    try:
        model = compressed(build(network, head), seed)
    except RuntimeError:  # a window larger than what strides have left
        assume(False)
    kill_some(draw, model)
    return model


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(models(), st.integers(0, 1000))
def test_no_output_integer_changes(model: CompressedModel, seed: int) -> None:
    smaller = shrink(model, SAMPLE).model
    x = real(model, fed(model, 12, seed))
    with torch.no_grad():
        before, after = (each.output.integers(each.module(x)) for each in (model, smaller))
    assert torch.equal(before, after)
    assert all(nothing_more(smaller, name, tensor) for name, tensor in model.tensors().items())
    for name, layer in layers(smaller):
        assert layer.weight.shape[0] == len(layer.bias) == len(layer.scale) == len(layer.bias_scale), name
        assert min(layer.weight.shape) > 0, name


def nothing_more(smaller: CompressedModel, name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor of the whole model is at most as large in the smaller one."""
    found = smaller.tensors().get(name)
    return found is None or (found.dtype == tensor.dtype and found.numel() <= tensor.numel())


NORMED_CONCAT = (Block("concat", 4, activation="none"), Block("norm"))
NETWORKS = {
    "residual": ([Block("conv", 4), Block("identity"), Block("residual", 5)], "flat", [0, 2]),
    "depthwise": ([Block("conv", 4, norm=True), Block("depthwise", norm=True)], "view", [1]),
    "concat": (
        [*NORMED_CONCAT, Block("average", norm=True, padded=False), Block("maximum")],
        "mean",
        [1],
    ),
    "grouped": ([Block("conv", 4), Block("grouped", 3), Block("affine")], "hidden", [0, 1, 2]),
    "gate": ([Block("conv", 4, activation="relu6"), Block("gate"), Block("conv", 4, 1)], "flat", [2]),
}


def lowered(model: CompressedModel) -> ir.Graph:
    return lower(export_onnx(model, SAMPLE, name="net", metadata={}))


@pytest.mark.parametrize("name", NETWORKS)
def test_no_device_integer_changes(name: str) -> None:
    """Through ONNX and lowering, under every rounding profile; with less to compute."""
    network, head, dead = NETWORKS[name]
    model = compressed(build(network, head))
    for number, (path, layer) in enumerate(layers(model)[:-1]):
        kill(layer, dead, bias=number % 2 == 1)
        if path == "1.body.1.0":
            kill(layer, range(len(layer.weight)), bias=True)
    shrunk = shrink(model, SAMPLE)
    assert shrunk.report.removed_channels > 0
    before, after = lowered(model), lowered(shrunk.model)
    assert len(after.nodes) <= len(before.nodes)
    assert sum(t.nbytes for t in after.tensors.values()) < sum(t.nbytes for t in before.tensors.values())
    x = fed(model, 60)
    for profile in PROFILES:
        expected = reference.run(before, x, profile)
        np.testing.assert_array_equal(reference.run(after, x, profile), expected)
        assert len(np.unique(expected, axis=0)) > 1
