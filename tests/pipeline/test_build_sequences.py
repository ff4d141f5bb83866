"""A 1-D project through the whole command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from pipeline.conftest import sgsc_edge

from sgsc_edge.graph.read_tflite import read_tflite

MODEL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 3, padding=2, dilation=2, groups=channels, bias=False)
        self.norm = nn.BatchNorm1d(channels)
        self.pointwise = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        return torch.relu(x + self.pointwise(torch.relu(self.norm(self.depthwise(x)))))

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU6(), nn.MaxPool1d(2),
        Block(8), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(8, 3),
    )
"""

DATA = """
import torch
from torch.utils.data import TensorDataset

def make(n, seed):
    labels = torch.arange(n) % 3
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(n, 2, 1, generator=generator)
    waves = torch.sin(6.28 * ((2 + 3 * labels.reshape(-1, 1, 1)) * torch.arange(40) / 40 + phase))
    return waves + 0.2 * torch.randn(n, 2, 40, generator=generator), labels

def train():
    return TensorDataset(*make(240, 0))

def test():
    return TensorDataset(*make(60, 1))
"""

CONFIG = """
[project]
name = "waves"
[model]
factory = "model:build"
input = {{ shape = [2, 40], dtype = "float32" }}
saw_pool = false
[data]
train = "data:train"
test = "data:test"
[preservation]
fraction = 0.4
layer = "4.pointwise"
[gate]
max_drop = 1.0
max_lowering_flips = 0.1
[compress]
epochs = 4
batch_size = 32
learning_rate = 1e-2
{method}
"""

BUDGET = 560  # bytes; with 8 bits and all channels it is 1,100


@pytest.mark.parametrize("method", [f'budget = "{BUDGET} B"', 'method = "ptq"'], ids=["sgsc", "ptq"])
def test_a_sequence_model_is_built_and_certified(project: Callable[..., Path], method: str) -> None:
    folder = project(model=MODEL, data=DATA, config=CONFIG.format(method=method))
    ran = sgsc_edge("build", folder, "--target", "tflite-int8", "--out", folder / "build")
    assert ran.code == 0, ran.err
    made = folder / "build" / "tflite-int8"
    certificate = json.loads((made / "certificate.json").read_text())
    assert certificate["predicate"]["verdict"] == "PASSED"
    graph = read_tflite((made / "model.tflite").read_bytes())
    kinds = [node.kind for node in graph.nodes]
    # 20 windows of 5 with stride 2 over 40 positions: SAME would pad one in front, the model pads two.
    chain = ["Pad", "Conv2D", "MaxPool2D", "DepthwiseConv2D", "Conv2D", "Add"]
    assert kinds == [*chain, "Mean", "Reshape", "FullyConnected"]
    assert graph[graph.inputs[0]].shape == (1, 1, 40, 2)
    with np.load(made / "preservation.npz") as samples:
        assert samples["certify_inputs"].shape[1:] == (1, 40, 2)
        assert samples["certify_inputs"].dtype == np.int8
    model = onnx.load(made / "model.qdq.onnx")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    windows = [
        list(entry.ints) for node in convolutions for entry in node.attribute if entry.name == "kernel_shape"
    ]
    assert windows == [[5], [3], [1]]
    channels = graph[graph.nodes[1].outputs[0]].shape[3]
    if "budget" in method:
        history = [json.loads(line) for line in (made / "history.jsonl").read_text().splitlines()]
        assert history[-1]["bytes"] <= BUDGET
        assert channels < 8
    else:
        assert channels == 8
