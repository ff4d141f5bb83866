"""4-bit weights from the trained form to every executor, alone and among 8-bit ones, whole and shrunk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from compression.models import randomised
from compression.node_by_node import MOVING, largest_differences
from compression.shrink_networks import SAMPLE, build, fed, real
from compression.test_fit_shipped import NETWORKS, network_of, networks
from compression.test_fold import calibrated
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.fit import stored_bytes
from sgsc_edge.compression.folding.fold import CompressedModel, fold
from sgsc_edge.compression.layers import QuantizedModel
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.compression.widths.legal import Device
from sgsc_edge.compression.widths.plan import Plan
from sgsc_edge.compression.widths.snapping import NARROW, REWRITTEN_BYTES, SECOND_WIDTH_BYTES, Choices, living
from sgsc_edge.compression.widths.split import split_widths
from sgsc_edge.errors import UnsupportedError
from sgsc_edge.export import export_onnx, output_integers
from sgsc_edge.graph import ir, reference
from sgsc_edge.graph.ir import DType
from sgsc_edge.graph.memory import needs
from sgsc_edge.graph.read_tflite import read_tflite
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.inspection import inspect_model
from sgsc_edge.lowering import lower
from sgsc_edge.runtimes import run_runtime
from sgsc_edge.size import EIGHT_BITS, Storage
from sgsc_edge.targets import load_target

TARGETS = ("tflite-int4", "tflm-int4")


def snapped(network: nn.Module, target: str, seed: int) -> QuantizedModel:
    """A calibrated network, each layer in one of the ways that a target stores it, some channels dead."""
    model = calibrated(randomised(network, seed))
    generator = torch.Generator().manual_seed(seed)
    free = Ledger.of(model).free
    legal = Device.of(load_target(target)).storages(model)
    for name, layer in model.layers():
        storage = legal[name][int(torch.randint(len(legal[name]), (), generator=generator))]
        mask = torch.rand(len(layer.mask), generator=generator) > 0.2
        mask[0] = True
        layer.set_mask(mask)
        if storage == NARROW and name in free:
            wide = (torch.rand(len(mask), generator=generator) > 0.5).nonzero().flatten()
            storage = living(replace(storage, wide=tuple(wide.tolist())), mask.float())
        layer.snap_to(storage)
    return model


def graph_of(model: CompressedModel, target: str) -> ir.Graph:
    return lower(export_onnx(model, SAMPLE, name="net", metadata={}), load_target(target))


def made(name: str, target: str, seed: int = 5) -> CompressedModel:
    torch.manual_seed(seed)
    return fold(snapped(build(*NETWORKS[name]), target, seed))


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from(TARGETS), st.integers(0, 1000))
def test_every_node_of_the_device_graph_computes_what_torch_exported(
    network: nn.Module, target: str, seed: int
) -> None:
    model = fold(snapped(network, target, seed))
    integers = fed(model, 6, seed)
    exported = export_onnx(model, SAMPLE, name="net", metadata={})
    try:
        graph = lower(exported, load_target(target))
        differences = largest_differences(exported, graph, integers.transpose(0, 3, 1, 2))
    except UnsupportedError:  # a pool padded beside negative values; scales that kernels have no room for
        assume(False)
    assert {node.outputs[0] for node in graph.nodes if node.kind not in MOVING} <= differences.keys()
    assert max(differences.values()) <= 1  # rounding: ties, and kernels that round twice
    found = reference.run(graph, integers, "tflm").reshape(len(integers), -1)
    shipped = split_widths(shrink(model, SAMPLE).model, SAMPLE).model
    assert np.array_equal(
        reference.run(graph_of(shipped, target), integers, "tflm").reshape(len(integers), -1), found
    )


RUNTIMES = {
    "tflm-int4": (("tflm", "tflm"), ("litert-reference", "litert_reference")),
    "tflite-int4": (("litert-reference", "litert_reference"),),
}
"""Target -> a runtime, and the executor's profile that it must equal."""


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("target", "seed"), [("tflm-int4", 5), ("tflm-int4", 6), ("tflite-int4", 5)])
def test_kernels_compute_the_executors_integers(name: str, target: str, seed: int, tmp_path: Path) -> None:
    model = split_widths(shrink(made(name, target, seed), SAMPLE).model, SAMPLE).model
    content, integers = write_tflite(graph_of(model, target)), fed(model, 20)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    for runtime, profile in RUNTIMES[target]:
        result = run_runtime(runtime, path, integers, timeout_s=60, workers=1)
        if result.status == "not_run":
            pytest.skip(f"{runtime}: {result.reason}")
        assert result.status == "ok", result.reason
        expected = reference.run(read_tflite(content), integers, profile).reshape(len(integers), -1)
        assert np.array_equal(result.outputs, expected), runtime


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_holds_the_same_integers_and_onnx_runtime_runs_them(name: str, tmp_path: Path) -> None:
    model = made(name, "tflite-int4")
    path = tmp_path / "model.qdq.onnx"
    exported = export_onnx(model, SAMPLE, name="net", metadata={})
    path.write_bytes(exported.SerializeToString())
    stored = {tensor.name: tensor for tensor in exported.graph.initializer}
    for layer_name, layer in model.layers().items():
        tensor = stored.get(f"{layer_name}.weight_quantized")
        if tensor is None:  # stored once with equal ones
            continue
        narrow = bool((layer.bits == 4).all())
        assert tensor.data_type == (onnx.TensorProto.INT4 if narrow else onnx.TensorProto.INT8)
        values = onnx.numpy_helper.to_array(tensor).astype(np.int8)
        np.testing.assert_array_equal(values, layer.weight.numpy())
    integers = fed(model, 30)
    result = run_runtime("onnxruntime", path, integers, timeout_s=60, workers=1)
    assert result.status == "ok", result.reason
    difference = np.abs(result.outputs.astype(int) - output_integers(model, real(model, integers).numpy()))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.05


@pytest.mark.parametrize("name", ["depthwise", "residual", "concat", "constants"])
def test_what_is_planned_for_an_arena_fits_it(name: str) -> None:
    """Whatever the arena: a filter that is unpacked fits beside all values that are in memory then."""
    model = calibrated(randomised(network_of(name)))
    masks = {each: torch.ones_like(layer.mask) for each, layer in model.layers()}
    target = load_target("tflm-int4")
    device = Device.of(target)
    plan, _ = Choices(model, masks, device).best()
    found = {tuple(plan.storages().values()): needs(stored_as(model, plan), target.unpacks)}
    largest = max(need.bytes for each in found.values() for need in each)
    for arena in (largest, largest - 1, largest * 3 // 4, largest // 2):
        plan, _ = Choices(model, masks, replace(device, arena=arena)).best()
        chosen = tuple(plan.storages().values())
        if chosen not in found:
            found[chosen] = needs(stored_as(model, plan), target.unpacks)
        for need in found[chosen]:
            assert not need.unpacked or need.bytes <= arena
    assert len(found) > 1


def stored_as(model: QuantizedModel, plan: Plan) -> ir.Graph:
    """The device graph of a plan."""
    for name, storage in plan.storages().items():
        dict(model.layers())[name].snap_to(storage)
    return graph_of(split_widths(shrink(fold(model), SAMPLE).model, SAMPLE).model, "tflm-int4")


class Twice(nn.Module):
    """A convolution that is called on a large image and on a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(torch.relu(self.first(x)))
        return self.head(self.again(self.pool(x)).flatten(1))


def _padded_apart() -> nn.Module:
    """Stride 2 with one zero around the image: lowered as PAD and VALID."""
    strided = nn.Conv2d(8, 8, 3, stride=2, padding=1)
    return nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(), strided, nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))


@pytest.mark.parametrize("network", [_padded_apart(), Twice()], ids=["padded", "twice"])
def test_4_bits_are_chosen_up_to_the_very_byte_of_the_arena(network: nn.Module) -> None:
    model = calibrated(randomised(network))
    masks = {each: torch.ones_like(layer.mask) for each, layer in model.layers()}
    target = load_target("tflm-int4")
    device = Device.of(target)
    plan, _ = Choices(model, masks, device).best()
    needed = max(need.bytes for need in needs(stored_as(model, plan), target.unpacks) if need.unpacked)
    for arena, narrow in ((needed, 3), (needed - 1, 2)):
        plan, _ = Choices(model, masks, replace(device, arena=arena)).best()
        assert [layer.chosen.bits for layer in plan.layers].count(4) == narrow
        for need in needs(stored_as(model, plan), target.unpacks):
            assert not need.unpacked or need.bytes <= arena


@pytest.mark.parametrize("target", TARGETS)
def test_two_widths_are_offered_only_where_they_can_be_joined(target: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten())
    model = calibrated(randomised(nn.Sequential(*network, nn.Linear(32 * 16, 3))))
    masks = {each: torch.ones_like(layer.mask) for each, layer in model.layers()}
    fisher = {each: torch.zeros_like(layer.weight) for each, layer in model.layers()}
    fisher["2"][[3, 20]] = 1.0
    device = replace(Device.of(load_target(target)), unpacks=False)
    joining = 32 * 36 + 2 * 32 * 16  # the layer's input, which may wait; both parts' outputs, and the whole
    for arena, wide in ((joining, (3, 20)), (joining - 1, ())):
        plan, _ = Choices(model, masks, replace(device, arena=arena), fisher).best(12_000)
        assert plan.layers[1].chosen.wide == wide
        if wide:
            found = needs(stored_as(model, plan), lambda op, bits: False)
            joins = [need.bytes for need in found if isinstance(need.node.op, ir.Concatenation)]
            assert joins
            assert max(joins) <= arena


@pytest.mark.parametrize("neurons", [8, 80])
def test_a_dense_layer_as_a_convolution_is_chosen_where_the_file_gets_smaller(neurons: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, neurons), nn.BatchNorm1d(neurons), nn.ReLU())
    model = calibrated(randomised(nn.Sequential(*network, nn.Linear(neurons, 4))))
    masks = {each: torch.ones_like(layer.mask) for each, layer in model.layers()}
    plan, _ = Choices(model, masks, Device.of(load_target("tflm-int4"))).best()
    small = len(write_tflite(stored_as(model, plan)))
    sizes = []
    for bits in (Storage(4), EIGHT_BITS):
        storages = plan.storages() | {plan.layers[0].name: bits}
        chosen = tuple(replace(layer, chosen=storages[layer.name]) for layer in plan.layers)
        sizes.append(len(write_tflite(stored_as(model, Plan(chosen)))))
    assert small == min(sizes)
    assert sizes[0] != sizes[1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
def test_planned_bytes_are_those_of_the_file(name: str, target: str, tmp_path: Path) -> None:
    """With one layer in two widths where that can be, and with each in one where not, and on LiteRT."""
    model = calibrated(randomised(network_of(name)))
    masks = {each: torch.ones_like(layer.mask) for each, layer in model.layers()}
    choices = Choices(model, masks, Device.of(load_target(target)))
    plan, _ = choices.best()
    storages = plan.storages()
    halved = sorted(Ledger.of(model).free & {layer.name for layer in plan.layers if layer.chosen == NARROW})
    if not halved or target == "tflite-int4":
        assert_takes(model, plan, target, tmp_path)
    if halved:
        storages[halved[0]] = replace(NARROW, wide=tuple(range(0, len(masks[halved[0]]), 2)))
        assert_takes(model, choices.stored(storages), target, tmp_path)


def assert_takes(model: QuantizedModel, plan: Plan, target: str, folder: Path) -> None:
    """The file of a plan has the bytes that the plan says."""
    masks = {each: torch.ones_like(layer.mask) for each, layer in model.layers()}
    for name, layer in model.layers():
        layer.snap_to(plan.storages()[name])
    compressed = split_widths(shrink(fold(model), SAMPLE).model, SAMPLE).model
    graph = graph_of(compressed, target)
    assert DType.INT4 in {tensor.dtype for tensor in graph.tensors.values()}
    path = folder / "model.tflite"
    path.write_bytes(write_tflite(graph))
    tensors = inspect_model(path).tensors
    stored = sum(t.payload_bytes + t.parameter_bytes for t in tensors if t.share in ("weights", "bias"))
    # What the plan does not list are constant operands; the ledger rounds each layer's half byte up.
    counted = stored_bytes(model, masks)
    device, layers = Device.of(load_target(target)), dict(model.layers())
    rewritten = [layer for layer in plan.layers if device.rewrites(layers[layer.name], layer.chosen)]
    added = sum(REWRITTEN_BYTES for layer in rewritten if not layer.chosen.wide)
    added += SECOND_WIDTH_BYTES * sum(bool(layer.chosen.wide) for layer in plan.layers)
    assert plan.bytes - added <= stored <= counted <= stored + len(masks)


def test_a_dense_layer_with_a_scale_per_channel_becomes_a_convolution_on_tflm() -> None:
    model = calibrated(randomised(build(*NETWORKS["hidden"])))
    for _, layer in model.layers():
        layer.snap_to(Storage(4))
    compressed = fold(model)
    on_tflm = [node.kind for node in graph_of(compressed, "tflm-int4").nodes]
    assert on_tflm.count("Conv2D") == 3
    assert "FullyConnected" not in on_tflm
    assert [node.kind for node in graph_of(compressed, "tflite-int4").nodes].count("FullyConnected") == 2
    with pytest.raises(UnsupportedError, match="does not store Conv2D weights as int4"):
        graph_of(compressed, "tflite-int8")
