from __future__ import annotations

import copy

import pytest
import torch
from compression.models import Busy, Plain, inputs, randomised
from torch import nn

from sgsc_edge.compression.calibration import calibrate
from sgsc_edge.compression.folding.fold import (
    CompressedModel,
    FixedQuantizer,
    FoldedLayer,
    fold,
    load_tensors,
)
from sgsc_edge.compression.layers import QUANTIZER_PREFIX, QuantizedModel, quantize_model
from sgsc_edge.errors import FileFormatError, ModelError, UnsupportedError


def calibrated(model: nn.Module, **options: bool) -> QuantizedModel:
    quantized = quantize_model(model, inputs()[0], keep_softmax=options.get("keep_softmax", False))
    calibrate(quantized, [inputs()])
    quantized.module.eval()
    return quantized


@pytest.mark.parametrize("network", [Plain, Busy])
def test_folding_rounds_biases_and_nothing_else(network: type[nn.Module]) -> None:
    quantized = calibrated(randomised(network()))
    compressed = fold(quantized)
    for group in set(quantized.placement.group.values()):
        # Training's fake-quantization multiplies by 1/scale, which rounds exact ties either way.
        name = f"{QUANTIZER_PREFIX}{group}"
        setattr(quantized.module, name, compressed.module.get_submodule(name))
    with torch.no_grad():
        difference = (quantized.module(inputs()) - compressed.module(inputs())).abs()
    steps = difference / compressed.output.scale
    assert float(steps.max()) <= 1.001
    assert float((steps > 0.5).double().mean()) <= 0.05


def test_the_softmax_is_dropped_by_default_and_kept_on_request() -> None:
    model = randomised(Busy())
    logits = fold(calibrated(model)).module(inputs())
    assert float(logits.sum(1).sub(1).abs().max()) > 0.1
    kept = calibrated(model, keep_softmax=True)
    assert kept.ends_with_softmax
    compressed = fold(kept)
    assert (float(compressed.output.scale), int(compressed.output.zero_point)) == (1 / 256, -128)


def test_re_estimating_a_norm_never_changes_integers() -> None:
    quantized = calibrated(randomised(Plain()))
    before = fold(quantized).tensors()
    _, layer = next(quantized.layers())
    assert layer.norm is not None
    assert layer.norm.running_mean is not None
    layer.norm.running_mean.add_(0.3)
    assert layer.norm.running_var is not None
    layer.norm.running_var.mul_(2.0)
    after = fold(quantized).tensors()
    assert torch.equal(before["features.0.weight"], after["features.0.weight"])
    assert not torch.equal(before["features.0.scale"], after["features.0.scale"])
    assert not torch.equal(before["features.0.bias"], after["features.0.bias"])


def test_a_negative_gamma_negates_the_integers() -> None:
    quantized = calibrated(randomised(Plain()))
    _, layer = next(quantized.layers())
    assert layer.norm is not None
    before = fold(quantized).tensors()["features.0.weight"].clone()
    with torch.no_grad():
        layer.norm.weight.neg_()
    assert torch.equal(fold(quantized).tensors()["features.0.weight"], -before)


@pytest.mark.parametrize("gamma", [0.0, 1e-12, -1e-9])
def test_a_vanishing_gamma_keeps_the_bias_in_range(gamma: float) -> None:
    quantized = calibrated(randomised(Plain()))
    _, layer = next(quantized.layers())
    assert layer.norm is not None
    with torch.no_grad():
        layer.norm.weight[0] = gamma
        layer.norm.bias[0] = 3.0
    tensors = fold(quantized).tensors()
    scale, bias, bias_scale = (tensors[f"features.0.{key}"][0] for key in ("scale", "bias", "bias_scale"))
    assert float(scale) > 0
    assert abs(int(bias)) <= 2**30
    assert float(bias) * float(bias_scale) == pytest.approx(3.0, rel=1e-6)
    assert int(tensors["features.0.weight"][0].abs().max()) == 0


def test_integers_stay_in_the_symmetric_range() -> None:
    tensors = fold(calibrated(randomised(Busy()))).tensors()
    for name, tensor in tensors.items():
        if name.endswith(".weight"):
            assert int(tensor.min()) >= -127, name


def test_a_module_called_twice_gets_a_bias_scale_for_each_input() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x).relu())

    compressed = fold(calibrated(Twice().eval()))
    layers = [m for m in compressed.module.modules() if isinstance(m, FoldedLayer)]
    assert len(layers) == 2
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert not torch.equal(layers[0].bias_scale, layers[1].bias_scale)


def test_a_norm_that_is_called_twice_is_refused() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.b(self.norm(self.a(x))))

    with pytest.raises(UnsupportedError, match="called more than once"):
        quantize_model(Shared().eval(), inputs()[0])


def test_a_norm_without_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ModelError, match="no running statistics"):
        quantize_model(model.eval(), inputs()[0])


def test_nan_weights_are_refused() -> None:
    quantized = calibrated(randomised(Plain()))
    _, layer = next(quantized.layers())
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"features\.0"):
        fold(quantized)


def test_stored_tensors_restore_the_model() -> None:
    model = randomised(Busy())
    compressed = fold(calibrated(model))
    other = fold(quantize_model(model, inputs()[0]))
    load_tensors(other, compressed.tensors())
    assert torch.equal(other.module(inputs()), compressed.module(inputs()))


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "dtype"])
def test_tensors_that_do_not_fit_are_refused(damage: str) -> None:
    compressed = fold(calibrated(randomised(Plain())))
    tensors = dict(compressed.tensors())
    name = "head.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "extra":
        tensors["else"] = torch.zeros(1)
    elif damage == "shape":
        tensors[name] = tensors[name][:1]
    else:
        tensors[name] = tensors[name].to(torch.int16)
    with pytest.raises(FileFormatError, match="else" if damage == "extra" else name):
        load_tensors(compressed, tensors)


def test_the_models_given_are_not_changed() -> None:
    model = randomised(Plain())
    before = copy.deepcopy(model.state_dict())
    quantized = calibrated(model)
    state = copy.deepcopy(quantized.module.state_dict())
    assert isinstance(fold(quantized), CompressedModel)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(state[key], value) for key, value in quantized.module.state_dict().items())


def test_the_fixed_quantizer_rounds_half_to_even_and_saturates() -> None:
    quantizer = FixedQuantizer(torch.tensor(0.5), torch.tensor(1))
    x = torch.tensor([0.25, 0.75, -0.25, 1e9, -1e9])
    assert quantizer.integers(x).tolist() == [1, 3, 1, 127, -128]
