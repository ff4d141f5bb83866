from __future__ import annotations

import pytest

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.placement import RULES, Output, Step, place


def chain(*kinds: str) -> list[Step]:
    """Steps named after their kinds, each reading the one before."""
    names = [f"{kind}_{index}" for index, kind in enumerate(kinds)]
    return [
        Step(name, kind, tuple(names[index - 1 : index]) if index else ())
        for index, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]


def test_layer_norm_and_activation_have_one_quantizer_at_the_end() -> None:
    placement = place(chain("Input", "Conv", "BatchNormalization", "Relu"))
    assert set(placement.group) == {"Input_0", "Relu_3"}
    assert placement.group["Input_0"] != placement.group["Relu_3"]


def test_nothing_is_fused_behind_an_activation() -> None:
    placement = place(chain("Input", "Conv", "Relu", "Relu"))
    assert set(placement.group) == {"Input_0", "Relu_2", "Relu_3"}


def test_a_value_with_two_readers_is_quantized_itself() -> None:
    steps = [
        Step("x", "Input", ()),
        Step("conv", "Conv", ("x",)),
        Step("relu", "Relu", ("conv",)),
        Step("sum", "Add", ("conv", "relu")),
    ]
    assert set(place(steps).group) == {"x", "conv", "relu", "sum"}


def test_pools_and_reshapes_share_their_inputs_quantizer() -> None:
    placement = place(chain("Input", "Conv", "MaxPool", "AveragePool", "Flatten"))
    assert len({placement.group[name] for name in ("Conv_1", "MaxPool_2", "AveragePool_3", "Flatten_4")}) == 1
    assert "MaxPool_2" not in placement.rounds  # its values lie on the grid already
    assert "AveragePool_3" in placement.rounds


def test_concat_joins_the_quantizers_of_all_its_inputs() -> None:
    steps = [
        Step("x", "Input", ()),
        Step("a", "Conv", ("x",)),
        Step("pooled", "MaxPool", ("a",)),
        Step("b", "Conv", ("x",)),
        Step("cat", "Concat", ("pooled", "b")),
        Step("c", "Conv", ("cat",)),
    ]
    group = place(steps).group
    assert group["a"] == group["pooled"] == group["b"] == group["cat"]
    assert len({group["x"], group["a"], group["c"]}) == 3


def test_softmax_keeps_its_prescribed_parameters_through_moves() -> None:
    placement = place(chain("Input", "Gemm", "Softmax", "Reshape"))
    number = placement.group["Reshape_3"]
    assert placement.group["Softmax_2"] == number
    assert placement.fixed == {number: (1 / 256, -128)}


def test_softmax_cannot_be_joined_with_a_calibrated_value() -> None:
    steps = [
        Step("x", "Input", ()),
        Step("a", "Gemm", ("x",)),
        Step("p", "Softmax", ("a",)),
        Step("cat", "Concat", ("a", "p")),
    ]
    with pytest.raises(UnsupportedError, match="'cat'"):
        place(steps)


def test_an_unknown_op_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"'Erf_1': Erf cannot be lowered"):
        place(chain("Input", "Erf"))


def test_only_prescribed_rules_have_fixed_parameters() -> None:
    for kind, rule in RULES.items():
        assert (rule.fixed is not None) == (rule.output is Output.FIXED), kind
