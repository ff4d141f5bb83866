from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compression.models import Busy, Plain, Repeating, inputs, randomised
from torch import nn

from sgsc_edge import export
from sgsc_edge.compression.calibration import calibrate
from sgsc_edge.compression.folding.fold import CompressedModel, fold
from sgsc_edge.compression.layers import quantize_model
from sgsc_edge.export import OPSET, export_onnx, output_integers
from sgsc_edge.graph.reference import run
from sgsc_edge.lowering import lower
from sgsc_edge.numerics import dequantize


def compressed_model(network: type[nn.Module], *, keep_softmax: bool = False) -> CompressedModel:
    torch.manual_seed(0)
    quantized = quantize_model(randomised(network()), inputs()[0], keep_softmax=keep_softmax)
    calibrate(quantized, [inputs()])
    quantized.module.eval()
    return fold(quantized)


def exported(compressed: CompressedModel) -> onnx.ModelProto:
    return export_onnx(compressed, inputs()[0], name="net", metadata={"classes": ["a", "b", "c"]})


@pytest.mark.parametrize(
    ("network", "keep"), [(Plain, False), (Busy, False), (Busy, True), (Repeating, False)]
)
def test_onnx_runtime_computes_what_torch_computes(network: type[nn.Module], keep: bool) -> None:
    compressed = compressed_model(network, keep_softmax=keep)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(exported(compressed).SerializeToString(), options)
    x = inputs(64, seed=3).numpy()
    (actual,) = session.run(None, {"input": x})
    scale, zero_point = float(compressed.output.scale), int(compressed.output.zero_point)
    integers = np.rint(actual / scale) + zero_point
    difference = np.abs(integers - output_integers(compressed, x))
    # Both compute in float32; sums in another order may cross a tie.
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.01


def test_integers_and_scales_arrive_unchanged() -> None:
    compressed = compressed_model(Plain)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in exported(compressed).graph.initializer}
    for name, tensor in compressed.tensors().items():
        if not name.endswith(("zero_point", "bits")):  # equal zero points are stored once
            found = stored.get(f"{name}_quantized", stored.get(name))
            np.testing.assert_array_equal(found, tensor.numpy(), err_msg=name)
            assert found is not None
            assert found.dtype == tensor.numpy().dtype


def test_the_model_is_portable_and_named() -> None:
    model = exported(compressed_model(Plain))
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [OPSET]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        1,
        8,
        8,
    ]
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "output")
    assert {entry.key: entry.value for entry in model.metadata_props} == {"sgsc.classes": '["a", "b", "c"]'}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert b"site-packages" not in model.SerializeToString()


class Twice(nn.Module):
    """Modules that are called twice, and two that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.tied = nn.Conv2d(1, 1, 3, padding=1)
        self.tied.weight = self.conv.weight
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.conv(x)))
        x = self.pool(torch.relu(self.conv(self.tied(x))))
        return self.head(torch.flatten(x, 1))


def test_layers_have_the_modules_names_and_no_name_stands_twice() -> None:
    model = exported(compressed_model(Twice))
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    kinds = ("Conv", "MaxPool", "Gemm")
    layers = [(node.op_type, node.name) for node in model.graph.node if node.op_type in kinds]
    assert layers == [
        ("Conv", "conv"),
        ("MaxPool", "pool"),
        ("Conv", "tied"),
        ("Conv", "conv_again"),
        ("MaxPool", "pool_again"),
        ("Gemm", "head"),
    ]
    onnxruntime.InferenceSession(model.SerializeToString())


def test_equal_models_give_equal_bytes() -> None:
    one, two = (exported(compressed_model(Busy)).SerializeToString(deterministic=True) for _ in range(2))
    assert one == two


def test_exporting_leaves_the_torch_model_running() -> None:
    compressed = compressed_model(Plain)
    x = inputs().numpy()
    before = output_integers(compressed, x)
    exported(compressed)
    np.testing.assert_array_equal(output_integers(compressed, x), before)


class AveragedTwice(nn.Module):
    """A global pool and a mean over the same axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(torch.relu(self.first(x)), 1).flatten(1)
        return self.head(pooled + torch.relu(self.second(x)).mean((2, 3)))


@pytest.mark.parametrize("network", [Plain, Busy, AveragedTwice])
def test_a_graph_that_is_taken_as_traced_is_the_one_that_the_exporter_decomposes(
    network: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed = compressed_model(network)
    given: list[type] = []
    refused: tuple[type, ...] = ()
    whole = export._exported

    def exporting(
        model: nn.Module | torch.export.ExportedProgram, batch: torch.Tensor
    ) -> torch.onnx.ONNXProgram:
        given.append(type(model))
        if isinstance(model, refused):
            raise torch.onnx.errors.OnnxExporterError("an operator that it does not know")
        return whole(model, batch)

    monkeypatch.setattr(export, "_exported", exporting)
    as_traced = exported(compressed)
    assert given == [torch.export.ExportedProgram]
    refused = (torch.export.ExportedProgram,)
    decomposed = exported(compressed)
    assert given[1:] == [torch.export.ExportedProgram, type(compressed.module)]
    kinds = [[node.op_type for node in model.graph.node] for model in (as_traced, decomposed)]
    assert kinds[0] == kinds[1]
    x = inputs(32, seed=4).numpy()
    outputs = [
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"input": x})[0]
        for model in (as_traced, decomposed)
    ]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_a_trained_network_is_the_table_that_training_rounded_by(approximate: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 24), nn.GELU(approximate=approximate), nn.Linear(24, 3)
    )
    model = quantize_model(network.eval(), torch.zeros(1, 4, 4))
    calibrate(model, [torch.randn(64, 1, 4, 4)])
    compressed = fold(model)
    graph = lower(export_onnx(compressed, torch.zeros(1, 4, 4), name="gelu", metadata={}))
    assert [node.kind for node in graph.nodes] == [
        "Reshape",
        "FullyConnected",
        "Cast",
        "Add",
        "Gather",
        "FullyConnected",
    ]
    assert compressed.input is not None
    grid = float(compressed.input.scale), int(compressed.input.zero_point)
    integers = np.random.default_rng(0).integers(-128, 128, (300, 4, 4, 1)).astype(np.int8)
    fed = np.ascontiguousarray(dequantize(integers, *grid).transpose(0, 3, 1, 2))
    difference = np.abs(output_integers(compressed, fed).astype(int) - run(graph, integers))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.1
