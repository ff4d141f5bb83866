from __future__ import annotations

import pytest
import torch
from preservation.preserve_networks import Functional, images, mlp, ready, sequential
from torch import Tensor, nn

from sgsc_edge.errors import ConfigError, ModelError
from sgsc_edge.preservation.taps import Taps, find_taps

WHERE = "sgsc.toml:9: preservation.layer"


@pytest.mark.parametrize(
    ("model", "layer", "taps"),
    [
        (sequential(), None, Taps("3", "9", None)),
        (sequential(), "0", Taps("0", "9", None)),
        (Functional(), None, Taps("late", "head", None)),
        (Functional(), "early", Taps("early", "head", None)),
        (mlp(), None, Taps(None, "3", None)),
        (nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten(), nn.Softmax(1)), None, Taps("0", "0", "2")),
        (nn.Sequential(nn.Softmax(1), nn.Flatten(), nn.Linear(36, 3)), None, Taps(None, "2", None)),
        (
            nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(68, 3)),
            None,
            Taps("1", "3", None),
        ),
    ],
)
def test_taps_follow_the_order_in_which_layers_run(model: nn.Module, layer: str | None, taps: Taps) -> None:
    assert find_taps(ready(model), images(1)[0], layer, WHERE) == taps


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (Functional(), "lates", "no layer 'lates'; did you mean 'late'?"),
        (Functional(), "head", "'head' is no convolution but Linear"),
        (Functional(), "unused", "'unused' does not run"),
        (mlp(), "1", "no convolution runs on whole batches"),
    ],
)
def test_a_layer_that_does_not_fit_is_explained(model: nn.Module, layer: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_taps(ready(model), images(1)[0], layer, WHERE)
    assert message in caught.value.message
    assert caught.value.where == WHERE
    assert "early, late" in str(caught.value) or layer == "1"


class Patches(nn.Module):
    """Its convolution sees each quarter of an image as an image of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, 3, 3).unfold(3, 3, 3).reshape(-1, 1, 3, 3)
        logits: Tensor = self.head(self.patch(patches).reshape(len(x), -1))
        return logits


def test_layers_that_see_something_else_than_whole_samples_are_passed_over() -> None:
    assert find_taps(ready(Patches()), images(1)[0], None, WHERE) == Taps(None, "head", None)
    with pytest.raises(ConfigError, match="no convolution runs on whole batches"):
        find_taps(ready(Patches()), images(1)[0], "patch", WHERE)


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(36, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no nn\.Conv1d"):
        find_taps(Raw().eval(), images(1)[0], None, WHERE)
