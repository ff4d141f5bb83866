"""The working copy computes what the full model does, without what is dead, and gives back what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compression.attention_networks import FORMS, LanguageModel, sentences
from compression.attention_networks import calibrated as attending
from compression.models import Plain, inputs, randomised
from compression.sequence_networks import signals
from compression.shrink_networks import Block, build
from compression.test_fit_shipped import networks
from compression.test_fold import calibrated
from compression.test_sequences import networks as sequence_networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.layers import QuantizedModel, quantize_model
from sgsc_edge.compression.ledger import Ledger
from sgsc_edge.compression.working import Resize, WorkingCopy
from sgsc_edge.size import Storage

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)

RANDOM = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def kill(model: QuantizedModel, share: float, seed: int) -> None:
    """Let a share of every layer's channels die, and never the first."""
    torch.manual_seed(seed)
    for _, layer in model.layers():
        mask = torch.rand(len(layer.mask)) > share
        mask[0] = True
        layer.set_mask(mask)


def kill_classes(model: QuantizedModel, share: float, seed: int) -> None:
    """Let a share of the classes that may leave die."""
    ledger = Ledger.of(model)
    gone = ledger.removable[ledger.kinds] & (np.random.default_rng(seed).random(len(ledger.kinds)) < share)
    for name, layer in model.layers():
        layer.set_mask(torch.from_numpy(~gone[ledger.members[name]]))


def train(model: QuantizedModel, x: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """One step; the outputs before it."""
    torch.manual_seed(0)
    model.module.train()
    optimizer.zero_grad()
    outputs: torch.Tensor = model.module(x)
    logits = outputs.flatten(0, -2)
    nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1]).backward()
    optimizer.step()
    return outputs.detach()


def living(model: QuantizedModel, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Of a layer's tensor the rows of living channels, where it has rows."""
    layer = dict(model.layers()).get(name.rpartition(".")[0].removesuffix(".norm").removesuffix(".quantizer"))
    if layer is None or tensor.ndim == 0 or len(tensor) != len(layer.mask):
        return tensor
    return tensor[layer.mask > 0]


def check(model: QuantizedModel, x: torch.Tensor, share: float, seed: int, *, whole: bool = False) -> int:
    """Two steps of both, channels dying between them; how many weights the copy has left.

    ``whole``: channels die with those that an op keeps together with them, as attention heads do.
    """
    model.enable(False)  # a last bit that differs must not become a whole step
    for module in model.module.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0  # which elements are dropped follows from the tensor's size
    working = WorkingCopy(model)
    optimizer = torch.optim.SGD(working.model.module.parameters(), 0.1)
    for round_ in range(2):
        (kill_classes if whole else kill)(model, share, seed + round_)
        working.push([optimizer])
        expected = train(model, x, torch.optim.SGD(model.module.parameters(), 0.1))
        found = train(working.model, x, optimizer)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        after = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        working.pull()
        for name, tensor in model.module.state_dict().items():
            torch.testing.assert_close(
                living(model, name, tensor), living(model, name, after[name]), rtol=1e-3, atol=1e-4
            )
    return sum(layer.weight.numel() for _, layer in working.model.layers())


@RANDOM
@given(networks(), st.floats(0, 1), st.integers(0, 100))
def test_images(network: nn.Module, share: float, seed: int) -> None:
    check(calibrated(randomised(network)), inputs(16, seed), share, seed)


@RANDOM
@given(sequence_networks(), st.floats(0, 1), st.integers(0, 100))
def test_sequences(network: nn.Module, share: float, seed: int) -> None:
    check(quantize_model(network, signals()[0]), signals(16, seed), share, seed)


def test_most_weights_are_gone() -> None:
    blocks = [Block("conv", 8, norm=True), Block("depthwise", 4), Block("conv", 8), Block("residual", 8)]
    model = calibrated(randomised(build(blocks, "hidden")))
    whole = sum(layer.weight.numel() for _, layer in model.layers())
    assert check(model, inputs(), 0.7, 0) < 0.4 * whole


def test_norms_of_dead_channels_keep_their_statistics() -> None:
    model = calibrated(randomised(build([Block("conv", 8, norm=True)], "flat")))
    _, layer = next(model.layers())
    layer.set_mask(torch.arange(8) < 3)
    working = WorkingCopy(model)
    working.push()
    assert layer.norm is not None
    assert layer.norm.running_var is not None
    before = layer.norm.running_var.clone()
    train(working.model, inputs(), torch.optim.SGD(working.model.module.parameters(), 0.1))
    working.pull()
    assert torch.equal(before[3:], layer.norm.running_var[3:])
    assert not torch.equal(before[:3], layer.norm.running_var[:3])


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.01, amsgrad=True),
    "adamw, one tensor at a time": lambda parameters: torch.optim.AdamW(parameters, 0.01, foreach=False),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, 0.01, centered=True, momentum=0.5),
    "nadam": lambda parameters: torch.optim.NAdam(parameters, 0.01),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, 0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_follow_their_channels(name: str) -> None:
    """What stays keeps its moments; what comes back has no momentum, and the mean of the others' squares."""
    model = calibrated(randomised(build([Block("conv", 8), Block("conv", 6)], "flat")))
    working = WorkingCopy(model)
    optimizer = OPTIMIZERS[name](list(working.model.module.parameters()))
    train(working.model, inputs(), optimizer)
    own, layer = next(iter(working.model.layers()))[1], next(iter(model.layers()))[1]
    weight = own.weight
    before = {key: value.clone() for key, value in optimizer.state[weight].items() if torch.is_tensor(value)}
    working.pull()
    layer.set_mask(torch.arange(8) % 2 == 0)
    working.push([optimizer])
    assert own.weight is weight
    assert len(weight) == 4
    moments = {key: value for key, value in optimizer.state[weight].items() if torch.is_tensor(value)}
    for key, value in moments.items():
        expected = before[key][::2] if before[key].shape == layer.weight.shape else before[key]
        assert torch.equal(value, expected), key
    train(working.model, inputs(), optimizer)
    working.pull()
    layer.set_mask(torch.ones(8))
    working.push([optimizer])
    assert len(weight) == 8
    for key, value in optimizer.state[weight].items():
        if torch.is_tensor(value) and value.shape == weight.shape:
            squares = key in ("exp_avg_sq", "max_exp_avg_sq", "square_avg")
            expected = value[::2].mean() if squares else torch.tensor(0.0)
            assert torch.allclose(value[1::2], expected, rtol=1e-5), key
            assert not squares or expected > 0
            assert value[::2].any()
    train(working.model, inputs(), optimizer)


class Viewed(nn.Module):
    """Sizes that are written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).view(-1, 8 * 64))


def test_reshapes_with_sizes_in_the_code_follow() -> None:
    model = calibrated(randomised(Viewed()))
    working = WorkingCopy(model)
    assert check(model, inputs(), 0.6, 3) < 8 * 9 + 8 * 64 * 3
    assert any(isinstance(module, Resize) for module in working.model.module.modules())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", [0, 5])
def test_attention(form: str, seed: int) -> None:
    """Heads, hidden units and rows of tables leave."""
    model = attending(LanguageModel(form))
    whole = sum(layer.weight.numel() for _, layer in model.layers())
    assert check(model, sentences(8)[:, :-1], 0.5, seed, whole=True) < 0.9 * whole


def test_a_scale_that_channels_share_is_that_of_the_living() -> None:
    """The dead have stayed where they were when training goes on."""
    full = calibrated(randomised(Plain()))
    layers = dict(full.layers())
    layer = layers["features.0"]
    layer.snap_to(Storage(4, per_channel=False))
    layer.set_mask(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    working = WorkingCopy(full)
    working.push()
    own = dict(working.model.layers())["features.0"]
    with torch.no_grad():
        own.quantizer.log2_range += 0.25  # what an optimizer does
    working.pull()
    assert torch.allclose(layer.quantizer.scale()[:3], own.quantizer.scale())
    assert torch.equal(
        layer.quantizer.integers(layer.weight)[layer.mask > 0], own.quantizer.integers(own.weight)
    )


def test_what_comes_back_takes_steps_like_the_others() -> None:
    full = calibrated(randomised(Plain()))
    layer = dict(full.layers())["features.0"]
    layer.set_mask(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    working = WorkingCopy(full)
    working.push()
    optimizer = torch.optim.Adam(working.model.module.parameters(), 1e-3)
    for _ in range(50):
        train(working.model, inputs(16), optimizer)
    working.pull()
    layer.set_mask(torch.ones(4))
    working.push((optimizer,))
    weight = dict(working.model.layers())["features.0"].weight
    before = weight.detach().clone()
    for _ in range(3):
        train(working.model, inputs(16), optimizer)
    moved = (weight.detach() - before).abs().flatten(1).amax(1)
    assert moved[1] < 2 * moved[[0, 2, 3]].max()
