"""1-D networks from the compressed torch model to every executor, whole and shrunk."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from compression.models import randomised
from compression.node_by_node import MOVING, largest_differences
from compression.sequence_networks import HEADS, KINDS, Block, Mean, build, compressed, signals, with_height
from compression.shrink_networks import kill, layers
from compression.test_shrink_property import kill_some
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.channels import follow
from sgsc_edge.compression.folding.fold import CompressedModel
from sgsc_edge.compression.layers import QuantLayer, quantize_model
from sgsc_edge.compression.shrink import shrink
from sgsc_edge.errors import UnsupportedError
from sgsc_edge.export import export_onnx, output_integers
from sgsc_edge.graph import ir, reference
from sgsc_edge.graph.write_tflite import write_tflite
from sgsc_edge.lowering import lower
from sgsc_edge.lowering.layout import to_device
from sgsc_edge.numerics import PROFILES
from sgsc_edge.runtimes import run_runtime
from sgsc_edge.targets import load_target

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

blocks = st.builds(
    Block,
    kind=st.sampled_from(KINDS),
    width=st.integers(2, 6),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([1, 1, 2, 3]),
    dilation=st.sampled_from([1, 1, 2]),
    padding=st.sampled_from([0, 1, 2, "same"]),
    norm=st.booleans(),
    activation=st.sampled_from(["none", "relu", "relu6", "clip"]),
)


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    chosen = draw(st.lists(blocks, min_size=1, max_size=4))
    seed = draw(st.integers(0, 1000))
    torch.manual_seed(seed)
    try:
        return randomised(build(chosen, draw(st.sampled_from(HEADS))), seed)
    except RuntimeError:  # a window larger than what strides have left
        assume(False)
        raise


models = networks().map(compressed)


def fed(model: CompressedModel, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Integers int8 [n, C, L], extremes among them, and the float32 values that torch gets."""
    random = np.random.default_rng(seed).integers(-128, 128, (count, *signals(1).shape[1:]))
    integers = np.concatenate([random, np.full_like(random[:1], -128), np.full_like(random[:1], 127)])
    steps = (integers - int(model.input.zero_point)).astype(np.float32)
    return integers.astype(np.int8), steps * np.float32(model.input.scale)


def lowered(model: CompressedModel) -> ir.Graph:
    onnx = export_onnx(model, signals()[0], name="net", metadata={})
    assert {len(node.attribute) and tuple(kernel_of(node)) for node in onnx.graph.node} <= {0, (), (1,)}
    return lower(onnx, load_target("tflite-int8"))


def kernel_of(node: object) -> list[int]:
    """How many sizes a window has; none where the node has no window."""
    return [len(entry.ints) for entry in node.attribute if entry.name == "kernel_shape"]  # type: ignore[attr-defined]


def run(graph: ir.Graph, integers: np.ndarray, profile: str) -> np.ndarray:
    return reference.run(graph, to_device(integers, len(graph["input"].shape)), profile)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, st.integers(0, 1000))
def test_every_node_of_the_device_graph_computes_what_torch_exported(
    model: CompressedModel, seed: int
) -> None:
    onnx_model = export_onnx(model, signals()[0], name="net", metadata={})
    try:
        graph = lower(onnx_model, load_target("tflite-int8"))
        differences = largest_differences(onnx_model, graph, fed(model, 10, seed)[0])
    except UnsupportedError:  # a pool padded beside negative values; scales that kernels have no room for
        assume(False)
    assert {node.outputs[0] for node in graph.nodes if node.kind not in MOVING} <= differences.keys()
    assert max(differences.values()) <= 1  # rounding: ties, and kernels that round twice


# Some of everything; kernels of an even size, causal paddings, strides that leave a rest.
NETWORKS = {
    "keyword": (
        [
            Block("conv", 6, 5, stride=2, padding=2, norm=True, activation="relu6"),
            Block("maximum", stride=2, padding=1),
            Block("depthwise", 6, 4, padding="same", norm=True),
            Block("residual", 5, dilation=2, norm=True),
            Block("average", norm=True),
        ],
        "pool",
    ),
    "tcn": (
        [
            Block("pad", 4, padding=0),
            Block("conv", 4, 3, dilation=2),
            Block("concat", 3),
            Block("gate"),
            Block("grouped", 3, 2, stride=3, padding=1),
        ],
        "flat",
    ),
    "mixed": (
        [Block("norm"), Block("conv", 4, 3, padding="same"), Block("mixer"), Block("affine")],
        "squeezed",
    ),
    "joined": ([Block("conv", 4), Block("concat", norm=True), Block("average")], "hidden"),
    "channels": (
        [
            Block("conv", 4),
            Block("depthwise", 5, 3, dilation=2, padding=1),
            Block("conv", 3, activation="none"),
        ],
        "channels",
    ),
}


def made(name: str) -> CompressedModel:
    torch.manual_seed(3)
    return compressed(randomised(build(*NETWORKS[name]), 3))


@cache
def whole(name: str) -> tuple[CompressedModel, ir.Graph]:
    """A model, not to be changed, and its device graph."""
    model = made(name)
    return model, lowered(model)


def described(graph: ir.Graph) -> list[object]:
    """All that decides a graph's integers, without names."""

    def of(name: str) -> tuple[object, ...]:
        tensor = graph[name]
        grid = tensor.quantization
        parts = () if grid is None else (grid.scale.tolist(), grid.zero_point.tolist(), grid.axis)
        return tensor.shape, parts, None if tensor.data is None else tensor.data.tolist()

    return [(node.op, [of(name) for name in (*node.inputs, *node.outputs)]) for node in graph.nodes]


@pytest.mark.parametrize("name", ["keyword", "tcn", "joined"])
def test_a_sequence_is_an_image_of_height_one(name: str) -> None:
    """The same integers in torch, and the same device graph, constant by constant."""
    sequence, device = whole(name)
    torch.manual_seed(3)
    network = randomised(build(*NETWORKS[name]), 3)
    images = signals().unsqueeze(2)
    image = compressed(with_height(network), images)
    _, values = fed(sequence, 20)
    expected = output_integers(image, values[:, :, np.newaxis])
    np.testing.assert_array_equal(output_integers(sequence, values), expected)
    graph = lower(export_onnx(image, images[0], name="net", metadata={}), load_target("tflite-int8"))
    assert described(device) == described(graph)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("runtime", "profile"), [("tflm", "tflm"), ("litert-reference", "litert_reference")])
def test_kernels_compute_the_executors_integers(
    name: str, runtime: str, profile: str, tmp_path: Path
) -> None:
    model, graph = whole(name)
    assert not {node.kind for node in graph.nodes} & {"Transpose", "Dequantize"}
    path = tmp_path / "model.tflite"
    path.write_bytes(write_tflite(graph))
    integers, values = fed(model, 30)
    expected = run(graph, integers, profile)
    result = run_runtime(runtime, path, to_device(integers, 4), timeout_s=60, workers=1)
    if result.status == "not_run":
        pytest.skip(f"{runtime}: {result.reason}")
    assert result.status == "ok", result.reason
    assert np.array_equal(result.outputs, expected)
    assert np.abs(expected.astype(int) - output_integers(model, values)).max() <= 2  # ties
    assert len(np.unique(expected, axis=0)) > 10


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_computes_what_torch_computes(name: str, tmp_path: Path) -> None:
    model, _ = whole(name)
    path = tmp_path / "model.qdq.onnx"
    path.write_bytes(export_onnx(model, signals()[0], name="net", metadata={}).SerializeToString())
    integers, values = fed(model, 30)
    result = run_runtime("onnxruntime", path, to_device(integers, 4), timeout_s=60, workers=1)
    assert result.status == "ok", result.reason
    difference = np.abs(result.outputs.astype(int) - output_integers(model, values))
    assert difference.max() <= 2
    assert (difference > 0).mean() <= 0.2


# --- channels that are gone -----------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(models, st.integers(0, 1000), st.data())
def test_no_output_integer_changes_without_dead_channels(
    model: CompressedModel, seed: int, data: st.DataObject
) -> None:
    kill_some(data.draw, model)  # type: ignore[arg-type]
    smaller = shrink(model, signals()[0]).model
    _, values = fed(model, 12, seed)
    np.testing.assert_array_equal(output_integers(smaller, values), output_integers(model, values))
    for name, layer in layers(smaller):
        assert layer.weight.shape[0] == len(layer.bias) == len(layer.scale) == len(layer.bias_scale), name
        assert min(layer.weight.shape) > 0, name


@pytest.mark.parametrize("name", ["keyword", "tcn", "channels"])
def test_no_device_integer_changes_without_dead_channels(name: str) -> None:
    model = made(name)
    for number, (_, layer) in enumerate(layers(model)[:-1]):
        channels = [0, 2] if layer.weight.shape[0] > 3 else [0]
        layer.weight[channels] = 0
        if number % 2 or name == "channels":
            layer.bias[channels] = 0
    shrunk = shrink(model, signals()[0])
    assert shrunk.report.removed_channels > 0
    before, after = lowered(model), lowered(shrunk.model)
    assert len(after.nodes) <= len(before.nodes)
    assert sum(t.nbytes for t in after.tensors.values()) < sum(t.nbytes for t in before.tensors.values())
    integers, _ = fed(model, 40)
    for profile in PROFILES:
        expected = run(before, integers, profile)
        np.testing.assert_array_equal(run(after, integers, profile), expected)
        assert len(np.unique(expected, axis=0)) > 1


# --- while it is trained --------------------------------------------------------------------------


def test_channels_are_followed_from_convolutions_to_dense_layers() -> None:
    network = build([Block("conv", 4), Block("depthwise"), Block("maximum"), Block("grouped", 2)], "flat")
    quantized = quantize_model(network.eval(), signals()[0])
    alive = {name: torch.ones(len(layer.weight)) for name, layer in quantized.layers()}
    first = next(iter(alive))
    alive[first][1] = 0
    uses = {use.name: use for use in follow(quantized, alive)}
    depthwise, grouped = list(uses)[1:3]
    assert uses[depthwise].outputs.tolist() == [1, 0, 1, 1]
    assert uses[grouped].inputs.tolist() == [1, 0, 1, 1]
    assert uses[first].call.kernel == 3
    alive[grouped][3] = 0
    last_use = list(follow(quantized, alive))[-1]
    positions = len(last_use.inputs) // 4
    assert last_use.inputs.reshape(4, positions).sum(1).tolist() == [positions] * 3 + [0]


def test_a_dense_layer_over_positions_reads_no_channels_and_makes_those_of_the_last_axis() -> None:
    network = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Linear(24, 24), nn.Flatten(), nn.Linear(96, 3))
    quantized = quantize_model(network.eval(), signals()[0])
    alive = {name: torch.ones(len(layer.weight)) for name, layer in quantized.layers()}
    alive["1"][:4] = 0
    uses = {use.name: use for use in follow(quantized, alive)}
    assert uses["1"].inputs.tolist() == [1] * 24
    assert uses["3"].inputs.reshape(4, 24).tolist() == [[0] * 4 + [1] * 20] * 4


def test_hidden_features_of_positions_leave_and_no_device_integer_changes() -> None:
    class Positions(nn.Module):
        """Dense layers over the channels of each position, added to the convolution that they read."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(96, 3)
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.conv(x))
            y = self.down(torch.relu(self.up(x.transpose(1, 2)))).permute(0, 2, 1)
            return self.head(torch.flatten(x + y, 1))

    torch.manual_seed(0)
    model = compressed(Positions())
    parts = dict(layers(model))
    kill(parts["up"], [1, 4], bias=True)
    kill(parts["up"], [2])  # a constant that is not 0
    for name in ("conv", "down"):
        kill(parts[name], [3], bias=True)
    shrunk = shrink(model, signals()[0])
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers(shrunk.model)}
    assert shapes == {"conv": (3, 2, 3), "up": (3, 3), "down": (3, 3), "head": (3, 72)}
    integers, values = fed(model, 40)
    np.testing.assert_array_equal(output_integers(shrunk.model, values), output_integers(model, values))
    before, after = lowered(model), lowered(shrunk.model)
    for profile in PROFILES:
        expected = run(before, integers, profile)
        np.testing.assert_array_equal(run(after, integers, profile), expected)
        assert len(np.unique(expected, axis=0)) > 1


@pytest.mark.parametrize(("axis", "expected"), [(1, [1, 1, 1, 1]), (2, [1, 0, 1, 1]), (-2, [1, 1, 1, 1])])
def test_a_mean_over_channels_leaves_positions(axis: int, expected: list[int]) -> None:
    network = nn.Sequential(nn.Conv1d(2, 4, 1), nn.AvgPool1d(6), Mean(axis), nn.Linear(4, 3))
    quantized = quantize_model(network.eval(), signals()[0])
    alive = {"0": torch.tensor([1.0, 0, 1, 1]), "3": torch.ones(3)}
    uses = {use.name: use for use in follow(quantized, alive)}
    assert uses["3"].inputs.tolist() == expected


def test_a_mask_makes_channels_zero_on_sequences() -> None:
    layer = QuantLayer(nn.Conv1d(2, 4, 3))
    layer.set_mask(torch.tensor([1, 0, 1, 0]))
    y = layer(signals(3))
    assert y.abs().amax((0, 2)).gt(0).tolist() == [True, False, True, False]
    dense = QuantLayer(nn.Linear(24, 2))
    dense.set_mask(torch.tensor([1, 0]))
    y = dense(signals(3))
    assert y.abs().amax((0, 1)).gt(0).tolist() == [True, False]


@pytest.mark.parametrize(
    ("network", "op", "reason"),
    [
        (nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"), "Conv1d", "padding_mode 'circular'"),
        (nn.ConvTranspose1d(2, 4, 3), "ConvTranspose1d", "no exact integer form"),
        (nn.AdaptiveAvgPool1d(2), "AdaptiveAvgPool1d", r"its output has \[2\] cells"),
        (
            nn.Sequential(nn.Linear(24, 2), nn.BatchNorm1d(2)),
            "BatchNormalization",
            "the Linear before it computes the last axis",
        ),
    ],
)
def test_what_cannot_ship_is_refused_by_name(network: nn.Module, op: str, reason: str) -> None:
    model = nn.Sequential(*network) if isinstance(network, nn.Sequential) else nn.Sequential(network)
    with pytest.raises(UnsupportedError, match=reason) as caught:
        quantize_model(model.eval(), signals()[0])
    assert caught.value.op == op
    assert caught.value.remedy
