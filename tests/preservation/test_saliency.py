from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from preservation.preserve_networks import Functional, images, mlp, ready, sequential
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from sgsc_edge.errors import ModelError
from sgsc_edge.preservation.scores import Scores, score
from sgsc_edge.preservation.taps import find_taps


def scored(model: nn.Module, inputs: Tensor, layer: str | None = None) -> Scores:
    """Scores with hashes that keep the samples' order."""
    n = len(inputs)
    taps = find_taps(model, inputs[0], layer, "preservation.layer")
    data = TensorDataset(inputs, torch.zeros(n, dtype=torch.int64))
    hashes = [f"{index:064x}" for index in range(n)]
    return score(model, data, hashes, [0] * n, taps=taps, wanted=4, seed=0, name="samples")


def by_hand(front: nn.Module, back: nn.Module, inputs: Tensor) -> np.ndarray:
    """Grad-CAM one sample at a time: ReLU(sum_c mean(dy/dA_c) A_c), its mean over positions."""
    result = []
    for x in inputs:
        maps = front(x[None]).detach()[0]
        maps.requires_grad_(True)
        logits = back(maps[None].clone())[0]
        logits[logits.argmax()].backward()
        weights = maps.grad.flatten(1).sum(1) / maps[0].numel()
        heat = sum(weights[c] * maps.detach()[c] for c in range(len(maps)))
        result.append(float(heat.clamp(min=0).sum() / heat.numel()))
    return np.array(result)


@pytest.mark.parametrize(("layer", "cut"), [(None, 4), ("3", 4), ("0", 1)])
def test_grad_cam_is_that_of_a_hand_computation(layer: str | None, cut: int) -> None:
    model = ready(sequential())
    inputs = images(300)  # more than one batch
    front, back = copy.deepcopy(model[:cut]), copy.deepcopy(model[cut:])
    expected = by_hand(front, back, inputs)
    assert 0 < np.count_nonzero(expected) < len(expected) or expected.min() > 0
    np.testing.assert_allclose(scored(model, inputs, layer).saliency, expected, rtol=1e-5, atol=1e-7)


def test_grad_cam_on_sequences() -> None:
    model = ready(
        nn.Sequential(
            nn.Conv1d(2, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
        )
    )
    inputs = torch.randn(30, 2, 20, generator=torch.Generator().manual_seed(0))
    expected = by_hand(copy.deepcopy(model[:1]), copy.deepcopy(model[1:]), inputs)
    assert np.count_nonzero(expected) > 10
    found = scored(model, inputs)
    np.testing.assert_allclose(found.saliency, expected, rtol=1e-5, atol=1e-7)


def test_grad_cam_of_a_one_channel_model_on_paper() -> None:
    """y0 = 2 * mean(x), y1 = 0: A = x, alpha = 2 / 4, so the intensity is mean(ReLU(x / 2))."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[0].weight.data.fill_(1.0)
    model[2].weight.data = torch.tensor([[0.5] * 4, [0.0] * 4])
    inputs = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]], [[[8.0, -4.0], [0.0, 0.0]]]])
    assert scored(model.eval(), inputs).saliency.tolist() == [1.5, 1.0]


def test_gradient_times_activation_takes_its_place_without_a_convolution() -> None:
    model = ready(mlp())
    inputs = images(20)
    found = scored(model, inputs)
    hidden = model[:3](inputs).detach()
    decided = model(inputs).argmax(1)
    expected = (hidden * model[3].weight.detach()[decided]).sum(1).clamp(min=0)
    np.testing.assert_allclose(found.saliency, expected.numpy(), rtol=1e-5)
    assert found.prediction.tolist() == decided.tolist()


def test_functional_heads_give_logits_features_and_the_layer_that_ran_last() -> None:
    model = ready(Functional())
    inputs = images(40)
    taps = find_taps(model, inputs[0], None, "preservation.layer")
    assert (taps.grad_cam, taps.features) == ("late", "head")
    found = scored(model, inputs)
    with torch.no_grad():
        probabilities = model(inputs).double().softmax(1)
    np.testing.assert_allclose(found.uncertainty, (1 - probabilities.amax(1)).numpy(), atol=1e-6)


def test_nothing_is_left_behind_in_the_model() -> None:
    model = ready(sequential())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scored(model, images(10))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training


def test_frozen_parameters_have_a_saliency_too() -> None:
    model = ready(sequential())
    expected = scored(model, images(10)).saliency
    model.requires_grad_(False)
    assert scored(model, images(10)).saliency.tolist() == expected.tolist()


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.convolution(x).detach().mean((2, 3)))
        return logits


class Careless(nn.Module):
    """Changes its input in place and ends in a functional softmax."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.5
        x += 0.5
        return torch.softmax(self.inner(x), 1)


def test_a_model_may_change_its_input_and_end_in_a_functional_softmax() -> None:
    model, inputs = ready(sequential()), images(30)
    plain, ended = scored(model, inputs), scored(Careless(model), inputs)
    assert ended.prediction.tolist() == plain.prediction.tolist()
    np.testing.assert_allclose(ended.uncertainty, plain.uncertainty, rtol=1e-3)
    np.testing.assert_allclose(ended.margin, plain.margin, atol=1e-5)


def test_an_error_of_the_model_itself_is_not_taken_for_a_missing_gradient() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(36, 3)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                raise RuntimeError("out of luck")
            logits: Tensor = self.head(x.flatten(1))
            return logits

    with pytest.raises(RuntimeError, match="out of luck"):
        scored(ready(Fails()), images(3))


def test_a_layer_that_no_gradient_reaches_is_named() -> None:
    with pytest.raises(ModelError, match="no gradient reaches layer 'convolution'") as caught:
        scored(ready(Detached()), images(3))
    assert "another convolution" in str(caught.value)


class Overflowing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1)) / (x.flatten(1).sum(1, keepdim=True) - 36)
        return logits


def test_a_sample_without_a_finite_decision_is_named() -> None:
    inputs = images(4)
    inputs[2] = 1.0
    with pytest.raises(ModelError, match=r"NaN or infinity for 1 samples of samples .* id 0000000000000000"):
        scored(ready(Overflowing()), inputs)


class SoftmaxEnd(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.end = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.end(self.inner(x))
        return probabilities


def test_a_final_softmax_is_looked_behind() -> None:
    model, inputs = ready(sequential()), images(30)
    plain, ended = scored(model, inputs), scored(SoftmaxEnd(model), inputs)
    for name in ("prediction", "saliency", "uncertainty", "margin", "entropy"):
        assert getattr(plain, name).tolist() == getattr(ended, name).tolist()
