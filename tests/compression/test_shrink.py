from __future__ import annotations

import copy

import pytest
import torch
from compression.shrink_networks import (
    SAMPLE,
    Block,
    Branches,
    View,
    build,
    compressed,
    fed,
    kill,
    layers,
    real,
)
from torch import nn

from sgsc_edge.compression.folding.fold import CompressedModel, FoldedConstant, load_tensors
from sgsc_edge.compression.shrink import LayerChange, Shrunk, shrink
from sgsc_edge.errors import InternalError


def integers(model: CompressedModel, seed: int = 0) -> torch.Tensor:
    with torch.no_grad():
        return model.output.integers(model.module(real(model, fed(model, 30, seed))))


def exactly(model: CompressedModel) -> Shrunk:
    """Shrink; the integers must not change."""
    before = integers(model)
    shrunk = shrink(model, SAMPLE)
    assert torch.equal(integers(shrunk.model), before)
    assert len(before.unique(dim=0)) > 1, "the model must not be constant"
    return shrunk


def change(shrunk: Shrunk, name: str) -> LayerChange:
    (found,) = (layer for layer in shrunk.report.layers if layer.name == name)
    return found


def reasons(found: LayerChange) -> set[str]:
    return {kept.reason for kept in found.kept}


def set_constant(model: CompressedModel, name: str, channel: int, steps: int) -> None:
    """Let a dead channel's bias make ``steps`` steps above the zero point of the quantizer behind it."""
    layer = dict(layers(model))[name]
    kill(layer, [channel])
    nodes = [node for node in model.module.graph.nodes if node.target == name]
    (quantizer,) = nodes[0].users
    while not str(quantizer.target).startswith("activation_quantizer"):
        (quantizer,) = quantizer.users
    grid = model.module.get_submodule(str(quantizer.target))
    layer.bias[channel] = int(torch.round(steps * grid.scale / layer.bias_scale[channel]))


def chain(*modules: nn.Module) -> CompressedModel:
    return compressed(nn.Sequential(*modules))


def test_dead_channels_go_with_the_columns_that_read_them() -> None:
    model = chain(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 3))
    kill(layers(model)[0][1], [0, 2, 5], bias=True)
    shrunk = exactly(model)
    assert change(shrunk, "0") == LayerChange("0", (1, 1), (6, 3), (0, 2, 5), ())
    assert change(shrunk, "4") == LayerChange("4", (54, 27), (3, 3), (), ())
    assert shrunk.report.removed_channels == 3
    conv, dense = (layer for _, layer in layers(shrunk.model))
    assert (conv.layer.out_channels, dense.layer.in_features) == (3, 27)
    whole = dict(layers(model))
    assert torch.equal(conv.weight, whole["0"].weight[[1, 3, 4]])
    assert torch.equal(conv.scale, whole["0"].scale[[1, 3, 4]])
    columns = [9 * channel + cell for channel in (1, 3, 4) for cell in range(9)]
    assert torch.equal(dense.weight, whole["4"].weight[:, columns])
    assert torch.equal(dense.bias, whole["4"].bias)


def test_nothing_dead_changes_nothing() -> None:
    model = compressed(build([Block("identity", norm=True), Block("concat"), Block("affine")], "view"))
    before = model.tensors()
    shrunk = exactly(model)
    assert shrunk.model.module.code == model.module.code
    assert all(torch.equal(before[name], tensor) for name, tensor in shrunk.model.tensors().items())
    assert shrunk.report.removed_channels == 0


def test_the_given_model_is_not_changed() -> None:
    model = compressed(build([Block("conv", 4), Block("residual", 4)], "flat"))
    for _, layer in layers(model)[:-1]:
        kill(layer, [0, 2])
    before, code = copy.deepcopy(model.tensors()), model.module.code
    shrink(model, SAMPLE)
    assert model.module.code == code
    assert all(torch.equal(before[name], tensor) for name, tensor in model.tensors().items())


def test_shrinking_is_done_once() -> None:
    model = compressed(build([Block("conv", 6), Block("residual", 4, norm=True), Block("depthwise")], "pool"))
    for _, layer in layers(model)[:-1]:
        kill(layer, [1], bias=True)
    once = exactly(model)
    twice = shrink(once.model, SAMPLE)
    assert twice.report.removed_channels == 0
    assert twice.model.module.code == once.model.module.code


def test_the_smaller_model_follows_from_the_stored_tensors() -> None:
    model = compressed(build([Block("conv", 6), Block("concat", 4)], "view"))
    for _, layer in layers(model)[:-1]:
        kill(layer, [1, 2])
    other = compressed(build([Block("conv", 6), Block("concat", 4)], "view"), seed=5)
    load_tensors(other, model.tensors())
    first, second = (shrink(each, SAMPLE).model.tensors() for each in (model, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    # Stored tensors of the smaller model fit a smaller model.
    load_tensors(shrink(other, SAMPLE).model, first)


# --- constants ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [40, -40])
def test_a_constant_folds_into_the_bias_behind_it(steps: int) -> None:
    model = chain(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))
    set_constant(model, "0", 2, steps)
    shrunk = exactly(model)
    assert change(shrunk, "0").removed == (2,)
    whole, smaller = dict(layers(model))["1"], dict(layers(shrunk.model))["1"]
    expected = whole.bias + steps * whole.weight[:, 2].to(torch.int32).sum((1, 2))
    assert torch.equal(smaller.bias, expected.to(torch.int32))
    assert smaller.bias.dtype == torch.int32


def test_a_constant_that_is_read_beside_padding_stays() -> None:
    model = chain(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3, padding=1), nn.Flatten(), nn.Linear(180, 3))
    set_constant(model, "0", 2, 40)
    set_constant(model, "0", 3, 0)  # padding holds the same
    shrunk = exactly(model)
    assert change(shrunk, "0").removed == (3,)
    (kept,) = change(shrunk, "0").kept
    assert kept.channel == 2
    assert "'1' reads it beside padding" in kept.reason


def test_a_constant_that_is_padded_and_read_later_stays() -> None:
    model = chain(nn.Conv2d(1, 4, 3), nn.ZeroPad2d(1), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(180, 3))
    set_constant(model, "0", 2, 40)
    assert change(exactly(model), "0").removed == ()


@pytest.mark.parametrize(("counted", "removed"), [(True, ()), (False, (2,))])
def test_an_average_pool_keeps_a_constant_unless_it_counts_padding(
    counted: bool, removed: tuple[int, ...]
) -> None:
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=counted)
    model = chain(nn.Conv2d(1, 4, 3), pool, nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3))
    set_constant(model, "0", 2, 40)
    assert change(exactly(model), "0").removed == removed


def test_constants_pass_activations_pools_means_and_concat() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
            self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.a(x).relu(), self.b(x)], 1)
            x = self.norm(nn.functional.max_pool2d(x, 2)).relu()
            return self.head(nn.functional.avg_pool2d(x, 3).mean((2, 3)))

    model = compressed(Net())
    for name in ("a", "b"):
        set_constant(model, name, 1, 30)
    shrunk = exactly(model)
    assert change(shrunk, "a").removed == change(shrunk, "b").removed == (1,)
    assert change(shrunk, "norm").removed == (1, 5)
    assert not torch.equal(*(dict(layers(each))["head"].bias for each in (model, shrunk.model)))


def test_a_constant_that_runtimes_round_differently_stays() -> None:
    model = chain(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3))
    layer = dict(layers(model))["0"]
    kill(layer, [2])
    first, grid = model.module.activation_quantizer_0, model.module.activation_quantizer_1
    grid.scale.fill_(0.5)
    first.scale.fill_(0.25)
    layer.scale[2], layer.bias_scale[2] = 0.25, 0.0625
    layer.bias_scale[:] = layer.scale * 0.25
    dict(layers(model))["1"].bias_scale[:] = dict(layers(model))["1"].scale * 0.5
    layer.bias[2] = 20  # 2.5 steps: 2 where ties go to even, 3 where they go away from zero
    found = change(exactly(model), "0")
    assert found.removed == ()
    assert reasons(found) == {"runtimes round its constant differently, and '1' reads it"}


def test_a_constant_that_would_overflow_the_bias_stays() -> None:
    model = chain(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3))
    set_constant(model, "0", 2, 40)
    reader = dict(layers(model))["1"]
    reader.weight[1, 2] = 100
    reader.bias[1] = 2**30 - 100
    found = change(shrink(model, SAMPLE), "0")
    assert found.removed == ()
    assert reasons(found) == {"its constant would overflow a bias of '1'"}


# --- unread channels ------------------------------------------------------------------------------


def test_channels_that_nothing_multiplies_go_upstream() -> None:
    model = chain(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU()),
        *(nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)),
    )
    found = dict(layers(model))
    found["4"].weight[:, 1] = 0
    kill(found["2"], [3], bias=True)
    found["7"].weight[:, :16] = 0  # all cells of channel 0
    shrunk = exactly(model)
    assert change(shrunk, "0").removed == change(shrunk, "2").removed == (1, 3)
    assert change(shrunk, "4").removed == (0,)
    depthwise = dict(layers(shrunk.model))["2"].layer
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (2, 2, 2)


def test_channels_that_only_feed_each_other_go() -> None:
    model = compressed(build([Block("conv", 4), Block("identity"), Block("identity")], "flat"))
    layers(model)[-1][1].weight[:, 64:128] = 0  # channel 1 is read by the blocks alone
    for name, layer in layers(model):
        if name.endswith("body.1.0"):
            layer.weight[[0, 2, 3]] = 0  # which write to it alone
    shrunk = exactly(model)
    assert change(shrunk, "0.0").removed == (1,)
    assert [layer.name for layer in shrunk.report.layers if not layer.is_gone] == ["0.0", "4"]
    assert shrunk.report.constant_operands == ("add", "add_1")


def test_a_channel_that_another_layer_reads_stays() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.depthwise = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1, groups=3)
            self.head = nn.Linear(216, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x).relu()
            return self.head(torch.cat([x, self.depthwise(x)], 1).flatten(1))

    model = compressed(Net())
    kill(dict(layers(model))["depthwise"], [1])
    found = change(exactly(model), "depthwise")
    assert found.removed == ()
    assert "shares its place with values that 'head' reads" in str(found)


# --- groups, residuals, last channels -------------------------------------------------------------


def test_groups_go_as_a_whole() -> None:
    model = chain(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(144, 3)),
    )
    kill(dict(layers(model))["2"], [0, 3, 4, 5], bias=True)
    shrunk = exactly(model)
    assert change(shrunk, "2").removed == (3, 4, 5)
    assert [kept.channel for kept in change(shrunk, "2").kept] == [0]
    assert change(shrunk, "0").removed == (2, 3)
    assert dict(layers(shrunk.model))["2"].layer.groups == 2


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("kind", ["identity", "residual"])
def test_a_dead_residual_branch_goes_with_its_add(kind: str, activation: str) -> None:
    model = compressed(build([Block("conv", 4), Block(kind, 5, activation=activation)], "flat"))
    for name, layer in layers(model):
        if name.endswith("body.1.0"):
            kill(layer, range(len(layer.weight)), bias=True)
    shrunk = exactly(model)
    gone = [layer.name for layer in shrunk.report.layers if layer.is_gone]
    assert gone == ["1.body.0.0", "1.body.1.0"]
    assert shrunk.report.constant_operands == ("add",)
    assert not any(name.startswith("1.body") for name, _ in layers(shrunk.model))
    assert ("add" in shrunk.model.module.code) == (shrunk.report.dropped_ops == ())
    if activation != "relu6":
        assert shrunk.report.dropped_ops == ("add",)


def test_a_constant_branch_becomes_a_constant() -> None:
    model = compressed(build([Block("conv", 4), Block("identity", activation="none")], "flat"))
    kill(dict(layers(model))["1.body.1.0"], range(4))
    shrunk = exactly(model)
    assert shrunk.report.constant_operands == ("add",)
    assert shrunk.report.dropped_ops == ()
    (constant,) = (m for m in shrunk.model.module.modules() if isinstance(m, FoldedConstant))
    assert constant.value.shape == (1, 4, 1, 1)


def test_a_layer_never_loses_its_last_channel() -> None:
    model = chain(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        *(View(144), nn.Linear(144, 3)),
    )
    kill(dict(layers(model))["2"], range(4))
    shrunk = shrink(model, SAMPLE)
    assert torch.equal(integers(shrunk.model), integers(model))
    assert [layer.outputs[1] for layer in shrunk.report.layers] == [1, 1, 3]
    assert reasons(change(shrunk, "2")) == {"it is the last channel that '5' reads"}


def test_an_empty_branch_leaves_the_concat() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches, self.head = Branches(1, Block("concat", 4)), nn.Linear(448, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.branches(x).flatten(1))

    model = compressed(Net())
    kill(dict(layers(model))["branches.right.0"], range(4), bias=True)
    shrunk = exactly(model)
    assert change(shrunk, "branches.right.0").is_gone
    assert "cat" not in shrunk.model.module.code


def test_logits_and_inputs_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1))

    model = compressed(Net())
    layer = dict(layers(model))["head"]
    kill(layer, [1])
    layer.weight[:, :60] = 0
    found = change(exactly(model), "head")
    assert (found.inputs, found.outputs) == ((64, 64), (3, 3))
    assert reasons(found) == {"it is an output of the model"}


def test_a_wrong_result_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 3))
    set_constant(model, "0", 2, 40)
    monkeypatch.setattr(
        "sgsc_edge.compression.shrink.liveness._Site.folded_bias", lambda site, dropped: site.bias
    )
    with pytest.raises(InternalError, match="changed the model's output"):
        shrink(model, SAMPLE)


def test_sums_do_not_depend_on_their_order() -> None:
    model = chain(nn.Conv2d(1, 200, 3), nn.Conv2d(200, 3, 3), nn.Flatten(), nn.Linear(48, 3))
    layer = dict(layers(model))["1"]
    layer.weight.random_(100, 128)  # products sum beyond what float32 counts
    x = (torch.arange(200 * 36).reshape(1, 200, 6, 6) % 200 + 50).float()
    steps = (x * layer.bias_scale[0] / layer.scale[0]).contiguous()
    order = torch.randperm(200)
    expected = layer(steps)
    layer.weight = layer.weight[:, order]
    assert torch.equal(layer(steps[:, order]), expected)
    sums = torch.round(expected[0, 0, 0, 0].double() / layer.bias_scale[0].double())
    exact = int((x[0, :, :3, :3].long() * layer.weight[0][order.argsort()].long()).sum()) + int(layer.bias[0])
    assert abs(int(sums) - exact) <= exact * 2**-23
