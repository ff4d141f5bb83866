"""Training leaves out what dead channels would compute: the same values and gradients in less time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from compression.models import inputs, randomised
from compression.sequence_networks import signals
from compression.shrink_networks import Block, build
from compression.test_fit_shipped import networks
from compression.test_fold import calibrated
from compression.test_sequences import networks as sequence_networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sgsc_edge.compression.channels import skip_dead
from sgsc_edge.compression.layers import BATCH_NORMS, QuantizedModel, quantize_model

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

RANDOM = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


def step(model: QuantizedModel, x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, gradients and living channels' statistics of a training step."""
    torch.manual_seed(0)
    model.module.train().zero_grad()
    outputs = model.module(x)
    nn.functional.cross_entropy(outputs, torch.arange(len(x)) % outputs.shape[1]).backward()
    found = [outputs.detach()]
    for parameter in model.module.parameters():
        if parameter.requires_grad:
            found.append(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone())
    for _, layer in model.layers():
        if layer.norm is not None:
            for statistic in (layer.norm.running_mean, layer.norm.running_var):
                assert statistic is not None
                found.append(statistic[layer.mask > 0])
    return found


def check(model: QuantizedModel, x: torch.Tensor, share: float, seed: int) -> bool:
    """Whether anything was left out; what remains must be equal."""
    model.enable(False)  # a last bit that differs must not become a whole step
    torch.manual_seed(seed)
    for _, layer in model.layers():
        mask = torch.rand(len(layer.mask)) > share
        mask[0] = True
        layer.set_mask(mask)
    thin = replace(model, module=copy.deepcopy(model.module))
    skip_dead(thin)
    for expected, found in zip(step(model, x), step(thin, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    return any(layer.living is not None for _, layer in thin.layers())


@RANDOM
@given(networks(), st.floats(0, 1), st.integers(0, 100))
def test_images(network: nn.Module, share: float, seed: int) -> None:
    check(calibrated(randomised(network)), inputs(16, seed), share, seed)


@RANDOM
@given(sequence_networks(), st.floats(0, 1), st.integers(0, 100))
def test_sequences(network: nn.Module, share: float, seed: int) -> None:
    check(quantize_model(network, signals()[0]), signals(16, seed), share, seed)


def test_most_products_are_left_out() -> None:
    blocks = [Block("conv", 8, norm=True), Block("depthwise", 4), Block("conv", 8), Block("residual", 8)]
    model = calibrated(randomised(build(blocks, "hidden")))
    assert check(model, inputs(), 0.7, 0)
    skip_dead(model)
    assert all(layer.living for name, layer in model.layers() if not name.startswith("0"))


def test_norms_of_dead_channels_keep_their_statistics() -> None:
    model = calibrated(randomised(build([Block("conv", 8, norm=True)], "flat")))
    _, layer = next(model.layers())
    layer.set_mask(torch.arange(8) < 3)
    skip_dead(model)
    norm = next(norm for norm in model.module.modules() if isinstance(norm, BATCH_NORMS))
    assert norm.running_var is not None
    before = norm.running_var.clone()
    step(model, inputs())
    assert torch.equal(before[3:], norm.running_var[3:])
    assert not torch.equal(before[:3], norm.running_var[:3])
