"""Models and loaders as users have them: frozen layers, shared weights, batches of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from compression.test_loop import compression
from torch import nn

from sgsc_edge.compression.calibration import calibrate, re_estimate_norms
from sgsc_edge.compression.compressor import Compressor
from sgsc_edge.compression.layers import quantize_model
from sgsc_edge.errors import ModelError

torch.manual_seed(0)
X = torch.randn(256, 16)
LABELS = (X @ torch.randn(16, 4)).argmax(1)
LOADER = list(zip(torch.split(X, 64), torch.split(LABELS, 64), strict=True))


def watch(model: nn.Module) -> float:
    return float((model(X).argmax(1) == LABELS).float().mean())


def loop(compressor: Compressor, epochs: int) -> None:
    optimizer = torch.optim.Adam([p for p in compressor.model.parameters() if p.requires_grad], 3e-3)
    for _ in range(epochs):
        compressor.model.train()
        for inputs, labels in LOADER:
            loss = F.cross_entropy(compressor.model(inputs), labels)
            (loss + compressor.penalty(loss)).backward()
            optimizer.step()
            optimizer.zero_grad()
            compressor.step(optimizer)
    compressor.refresh()
    compressor.model.eval()


def fitted(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(X), LABELS).backward()
        optimizer.step()
    return model.eval()


# --- frozen layers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "budget"), [("tflite-int8", 900), ("c-learned", 400), ("tflite-int4", None)]
)
def test_a_frozen_layer_loses_channels_and_keeps_its_weights(target: str, budget: int | None) -> None:
    torch.manual_seed(0)
    model = fitted(nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)))
    model[0].requires_grad_(False)
    compressor = Compressor(model, X[0], steps=60, data=LOADER, target=target, budget=budget, watch=watch)
    loop(compressor, 15)
    frozen = compressor._full.module.get_submodule("0")
    assert torch.equal(frozen.weight, model[0].weight)
    assert not frozen.weight.requires_grad
    assert not model[0].weight.requires_grad
    if budget is not None:
        assert compressor.figures()["bytes"] <= budget
    compressor.finish()


def test_a_build_of_a_model_that_is_frozen_whole_says_so(tmp_path: Path) -> None:
    this = compression()
    this.model.requires_grad_(False)
    with pytest.raises(ModelError, match="requires_grad=False"):
        this.run(tmp_path, "key")
    this = compression()
    this.model.features.requires_grad_(False)  # type: ignore[union-attr]
    before = this.model.features[0].weight.clone()  # type: ignore[index,union-attr]
    replace(this, recipe=replace(this.recipe, epochs=2)).run(tmp_path, "key")
    assert torch.equal(before, this.model.features[0].weight)  # type: ignore[index,union-attr]


# --- weights that several layers share --------------------------------------------------------------


class Shared(nn.Module):
    """Two dense layers with one weight, and biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 24), nn.Linear(24, 24)
        self.third, self.last = nn.Linear(24, 24), nn.Linear(24, 4)
        self.third.weight = self.second.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(torch.relu(self.third(x)))


def test_layers_that_share_a_weight_are_compressed_apart(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = fitted(Shared())
    caplog.set_level("INFO", "sgsc_edge")
    compressor = Compressor(model, X[0], steps=60, data=LOADER, budget=1700, watch=watch)
    assert any("second.weight and third.weight are one tensor" in row.getMessage() for row in caplog.records)
    loop(compressor, 15)
    assert compressor.figures()["bytes"] <= 1700
    trained = compressor.model(X).argmax(1)
    assert (compressor.finish().module(X).argmax(1) == trained).float().mean() > 0.97
    assert model.third.weight is model.second.weight  # type: ignore[union-attr]


def test_a_head_that_shares_its_embedding_is_compressed() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.wide = nn.Embedding(8, 16), nn.Linear(16, 24)
            self.back, self.head = nn.Linear(24, 16), nn.Linear(16, 8, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.tokens(x)
            return self.head(x + self.back(torch.relu(self.wide(x))))

    torch.manual_seed(0)
    tokens = torch.randint(0, 8, (128, 6))
    batches = [(tokens[:64], tokens[:64] * 3 % 8), (tokens[64:], tokens[64:] * 3 % 8)]

    def loss(model: nn.Module) -> float:
        return -float(F.cross_entropy(model(tokens).flatten(0, 1), (tokens * 3 % 8).flatten()))

    compressor = Compressor(
        Tied().eval(), tokens[0], steps=30, data=batches, target="onnx-learned", watch=loss, baseline=10.0
    )
    optimizer = torch.optim.Adam(compressor.model.parameters(), 1e-2)
    for _ in range(15):  # far below its baseline: layers become wider
        compressor.model.train()
        for inputs, labels in batches:
            term = F.cross_entropy(compressor.model(inputs).flatten(0, 1), labels.flatten())
            term.backward()
            optimizer.step()
            optimizer.zero_grad()
            compressor.step(optimizer)
    compressor.finish()


# --- loaders ----------------------------------------------------------------------------------------


def ranges(sizes: list[int]) -> list[float]:
    """Activation ranges after calibration on batches of these sizes."""
    torch.manual_seed(0)
    model = quantize_model(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), X[0])
    calibrate(model, torch.split(X[: sum(sizes)], sizes))
    return [float(value) for one in model.activation_quantizers() for value in (one.low, one.high)]


def test_small_batches_calibrate_as_larger_ones() -> None:
    assert ranges([1] * 96) == ranges([32] * 3)
    assert ranges([8] * 12) == ranges([32] * 3)
    assert ranges([64, 64, 1]) == ranges([64, 65])
    assert ranges([1])[0] <= 0 <= ranges([1])[1]


@pytest.mark.parametrize("sizes", [[128, 2], [128, 33], [1] * 130, [5] * 26])
def test_statistics_are_those_of_all_samples(sizes: list[int]) -> None:
    network = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    model = quantize_model(network.eval(), X[0])
    calibrate(model, [X])
    x = X[: sum(sizes)] + torch.linspace(0, 3, sum(sizes))[:, None]
    re_estimate_norms(model, torch.split(x, sizes))
    (norm,) = (one for one in model.module.modules() if isinstance(one, nn.BatchNorm1d))
    seen = []
    handle = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad(), model.evaluating() as module:
        module(x)
    handle.remove()
    assert norm.running_mean is not None
    assert torch.allclose(norm.running_mean, seen[0].mean(0), atol=1e-4)
    assert norm.momentum == 0.1
