from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from compression.models import Busy, Plain, Repeating, inputs, randomised
from torch import nn

from sgsc_edge.compression.tracing.trace import trace
from sgsc_edge.errors import ModelError, UnsupportedError


class Apply(nn.Module):
    """Calls a function, as users write it in forward."""

    def __init__(self, function: Callable[[torch.Tensor], object], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


def test_kinds_are_onnx_operators() -> None:
    traced = trace(randomised(Plain()), inputs()[0])
    assert list(traced.kinds.values()) == [
        "Input",
        "Conv",
        "BatchNormalization",
        "Relu",
        "MaxPool",
        "Flatten",
        "Gemm",
    ]
    assert traced.shapes["features_0"] == (2, 4, 6, 6)


def test_constants_become_values() -> None:
    traced = trace(randomised(Busy()), inputs()[0])
    assert sorted(traced.kinds.values()).count("Constant") == 2


def test_what_is_computed_twice_from_one_value_is_computed_once() -> None:
    traced = trace(randomised(Repeating()), inputs()[0])
    assert list(traced.kinds.values()).count("Conv") == 2  # of three
    assert list(traced.kinds.values()).count("Dropout") == 1


def test_shape_arithmetic_has_no_kind() -> None:
    traced = trace(Apply(lambda x: x.view(x.size(0), -1).relu()), inputs()[0])
    assert list(traced.kinds.values()) == ["Input", "Reshape", "Relu"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x, x), "returns a tuple"),
        (lambda x: {"logits": x}, "returns a dict"),
        (lambda x: x if x.sum() > 0 else -x, "cannot be traced"),
        (lambda x: x.reshape(3, -1), "fails on a batch of two"),
    ],
)
def test_models_that_are_not_one_tensor_to_one_tensor(
    function: Callable[[torch.Tensor], object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        trace(Apply(function), inputs()[0])


def test_what_cannot_be_traced_is_told_with_its_line() -> None:
    def branch(x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x

    line = branch.__code__.co_firstlineno + 1
    with pytest.raises(ModelError) as raised:
        trace(Apply(branch), inputs()[0])
    assert raised.value.where == f"Apply.forward ({Path(__file__).name}:{line})"


def test_decisions_on_the_inputs_shape_are_taken_while_tracing() -> None:
    def checked(x: torch.Tensor) -> torch.Tensor:
        _, _, height, width = x.shape
        assert height <= 8, "too large"
        return x.relu() if width == x.size(-2) else x + 1.0

    traced = trace(Apply(checked), inputs()[0])
    assert list(traced.kinds.values()) == ["Input", "Relu"]
    with pytest.raises(ModelError, match="too large"):
        trace(Apply(checked), torch.zeros(1, 9, 9))


def test_decisions_on_the_number_of_samples_are_refused() -> None:
    def branch(x: torch.Tensor) -> torch.Tensor:
        return x if x.size(0) == 2 else x + 1.0

    with pytest.raises(ModelError, match="cannot be traced"):
        trace(Apply(branch), inputs()[0])


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (torch.erf, "erf"),
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: x - x, "sub"),
        (lambda x: torch.add(x, x, alpha=2), "Add"),
        (lambda x: nn.functional.adaptive_avg_pool2d(x, 2), "AdaptiveAvgPool2d"),
        (lambda x: torch.relu(x.chunk(2, 2)[0]), "chunk"),
        (lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)[0], "max_pool2d"),
    ],
)
def test_unsupported_ops_are_refused_by_name(function: Callable[[torch.Tensor], object], op: str) -> None:
    with pytest.raises(UnsupportedError, match=op):
        trace(Apply(function), inputs()[0])


def test_a_refused_pool_is_named_as_the_user_knows_it() -> None:
    with pytest.raises(UnsupportedError) as caught:
        trace(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2)), inputs()[0])
    assert caught.value.node == "1"


def test_a_module_that_makes_several_tensors_is_refused_by_its_own_name() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.LSTM(8, 3, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.memory(x)[0][:, -1]

    with pytest.raises(UnsupportedError, match="several tensors") as caught:
        trace(Recurrent(), inputs()[0][0])
    assert (caught.value.node, caught.value.op) == ("memory", "LSTM")


def test_a_model_of_a_single_layer_is_that_layer() -> None:
    traced = trace(nn.Linear(8, 3), inputs()[0][0, 0])
    assert list(traced.kinds.values()) == ["Input", "Gemm"]


def test_a_constant_takes_no_name_of_the_users() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant_1 = nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.constant_1(x) + 1.0

    traced = trace(Named(), inputs()[0])
    assert list(traced.kinds.values()) == ["Input", "Conv", "Constant", "Add"]


def test_a_model_that_answers_differently_each_time_is_refused() -> None:
    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + float(torch.rand(()))

    with pytest.raises(ModelError, match="other values than the module"):
        trace(Random(), inputs()[0])
