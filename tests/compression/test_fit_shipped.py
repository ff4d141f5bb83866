"""The bytes that ``fit`` counts are those of the network that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compression.models import randomised
from compression.shrink_networks import KINDS, SAMPLE, Affine, Block, build
from compression.test_fold import calibrated
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.fit import Masks, fit, smallest_bytes, stored_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, FoldedConstant, FoldedLayer, fold
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.shrink import Shrunk, shrink
from sgsc_edge.export import export_onnx
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.inspection import inspect_model
from sgsc_edge.lowering import lower


def whole(model: QuantizedModel) -> Masks:
    return {name: torch.ones_like(layer.mask) for name, layer in model.layers()}


def fitted(model: QuantizedModel, share: float) -> tuple[Masks, int]:
    """The channels under a budget between the smallest network (0) and the whole one (1), and the budget."""
    least, most = smallest_bytes(model), stored_bytes(model, whole(model))
    budget = round(least + share * (most - least))
    importance = {name: torch.rand(len(mask)) for name, mask in whole(model).items()}
    return fit(model, whole(model), importance, budget), budget


def shrunk_to(model: QuantizedModel, masks: Masks) -> Shrunk:
    for name, layer in model.layers():
        layer.set_mask(masks[name])
    return shrink(fold(model), SAMPLE)


def bytes_of(model: CompressedModel) -> int:
    """Weights, int32 biases, constants and 12 bytes for each scale with its zero point."""
    called = {str(node.target) for node in model.module.graph.nodes if node.op == "call_module"}
    total = 0
    for name, module in model.module.named_modules():
        if name in called and isinstance(module, FoldedLayer):
            total += module.weight.numel() + len(module.weight) * (12 + 12 + 4)
        elif name in called and isinstance(module, FoldedConstant):
            total += module.value.numel() + 12
    return total


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    blocks = st.builds(
        Block,
        kind=st.sampled_from(KINDS),
        width=st.integers(2, 6),
        kernel=st.sampled_from([1, 3]),
        norm=st.booleans(),
        activation=st.sampled_from(["none", "relu", "relu6"]),
    )
    first = Block("conv", draw(st.integers(3, 8)), norm=draw(st.booleans()))
    chain = [first, *draw(st.lists(blocks, min_size=1, max_size=3))]
    torch.manual_seed(draw(st.integers(0, 1000)))
    try:
        return build(chain, draw(st.sampled_from(["flat", "mean", "pool", "hidden", "view"])))
    except RuntimeError:  # a window larger than what strides have left
        assume(False)
        raise


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.floats(0, 1))
def test_no_network_is_larger_than_counted(network: nn.Module, share: float) -> None:
    """Smaller it is only where living channels turn out to be constant, as those of a dead ReLU."""
    model = calibrated(randomised(network))
    kept, budget = fitted(model, share)
    counted = stored_bytes(model, kept)
    shrunk = shrunk_to(model, kept)
    assert bytes_of(shrunk.model) <= counted <= budget
    more = sum(
        int(kept[change.name][list(change.removed)].sum())
        for change in shrunk.report.layers
        if change.name in kept
    )
    assert more or shrunk.report.constant_operands or bytes_of(shrunk.model) == counted


NETWORKS = {
    "plain": ([Block("conv", 8, norm=True), Block("conv", 6)], "flat"),
    "hidden": ([Block("conv", 6, activation="none")], "hidden"),
    "depthwise": (
        [Block("conv", 8, norm=True), Block("depthwise", 4, norm=True), Block("conv", 7, kernel=1)],
        "mean",
    ),
    "residual": (
        [Block("conv", 6), Block("residual", 5, norm=True), Block("identity", norm=True)],
        "pool",
    ),
    "concat": ([Block("conv", 6), Block("concat", 5), Block("conv", 4)], "flat"),
    "grouped": ([Block("conv", 6), Block("grouped", 3)], "mean"),
    "constants": ([Block("conv", 6), Block("affine"), Block("norm"), Block("conv", 5)], "flat"),
}


def network_of(name: str) -> nn.Module:
    torch.manual_seed(5)
    network = build(*NETWORKS[name])
    for module in network.modules():
        if isinstance(module, Affine):
            module.shift.data **= 3  # as evenly spaced as the factors, it would share their integers' buffer
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_counted_bytes_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    network = network_of(name)
    model = calibrated(randomised(network))
    kept, budget = fitted(model, 0.5)
    graph = lower(export_onnx(shrunk_to(model, kept).model, SAMPLE, name="net", metadata={}))
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(graph))
    tensors = inspect_model(path).tensors
    shipped = sum(t.payload_bytes + t.parameter_bytes for t in tensors if t.share in ("weights", "bias"))
    assert shipped == stored_bytes(model, kept) <= budget
    assert any((mask == 0).any() for mask in kept.values())
