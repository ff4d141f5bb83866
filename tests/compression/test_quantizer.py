from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgsc_edge.compression.quantizer import ActivationQuantizer, WeightQuantizer


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.floats(1e-4, 1e4), st.integers(0, 99))
def test_weights_lie_on_symmetric_grids_within_half_a_step(bits: int, size: float, seed: int) -> None:
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * size
    quantizer = WeightQuantizer(weight, float(bits))
    integers = quantizer.integers(weight).to(torch.int32)
    limit = 2 ** (bits - 1) - 1
    assert int(integers.abs().max()) == limit
    scale = quantizer.scale().detach().reshape(-1, 1, 1, 1)
    grid = integers * scale
    assert torch.allclose(quantizer(weight).detach(), grid, rtol=1e-6, atol=0)
    steps = (weight - grid).abs() / scale
    assert float(steps.max()) <= 0.5 + 1e-3


def test_an_all_zero_channel_stays_finite() -> None:
    weight = torch.zeros(2, 3)
    quantizer = WeightQuantizer(weight)
    assert torch.equal(quantizer(weight), weight)
    assert int(quantizer.integers(weight).abs().max()) == 0


def test_gradients_reach_weights_and_ranges() -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    quantizer = WeightQuantizer(weight)
    quantizer.log2_range.requires_grad_(True)
    coefficients = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) + 0.1
    (quantizer(weight) * coefficients).sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, coefficients, rtol=1e-5)  # STE, the largest weights included
    assert quantizer.log2_range.grad is not None
    assert bool(quantizer.log2_range.grad.isfinite().all())


@settings(max_examples=30, deadline=None)
@given(st.floats(-50, 50), st.floats(0.001, 50))
def test_activation_ranges_contain_zero_exactly(low: float, width: float) -> None:
    quantizer = ActivationQuantizer()
    quantizer.observing = True
    quantizer(torch.tensor([low, low + width]))
    scale, zero_point = quantizer.parameters_of_grid()
    assert -128 <= int(zero_point) <= 127
    zero = torch.fake_quantize_per_tensor_affine(torch.zeros(1), scale, zero_point, -128, 127)
    assert float(zero) == 0.0


def test_ranges_freeze_when_not_observing() -> None:
    quantizer = ActivationQuantizer()
    quantizer.observing = True
    quantizer(torch.tensor([-1.0, 1.0]))
    quantizer.observing = False
    before = quantizer.parameters_of_grid()
    quantizer(torch.tensor([-100.0, 100.0]))
    assert all(torch.equal(a, b) for a, b in zip(before, quantizer.parameters_of_grid(), strict=True))


def test_the_first_batches_are_averaged_evenly() -> None:
    quantizer = ActivationQuantizer()
    quantizer.observing = True
    for high in (1.0, 3.0):
        quantizer(torch.tensor([0.0, high]))
    assert float(quantizer.high) == pytest.approx(2.0)


def test_prescribed_parameters_never_move() -> None:
    quantizer = ActivationQuantizer((1 / 256, -128))
    quantizer.observing = True
    quantizer(torch.tensor([-9.0, 9.0]))
    scale, zero_point = quantizer.parameters_of_grid()
    assert (float(scale), int(zero_point)) == (1 / 256, -128)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e3), st.integers(-128, 127), st.integers(0, 99))
def test_activations_are_rounded_as_torch_rounds_them(scale: float, zero_point: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = torch.arange(-300, 300) * torch.tensor(scale)
    values = torch.cat([grid, grid + scale / 2, torch.randn(500, generator=generator) * scale * 200])
    low, high = scale * (-128 - zero_point), scale * (127 - zero_point)
    quantizer = ActivationQuantizer((scale, zero_point))
    found, wanted = (values.clone().requires_grad_() for _ in range(2))
    rounded = quantizer(found)
    expected = torch.fake_quantize_per_tensor_affine(
        wanted, torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), -128, 127
    )
    assert torch.equal(rounded, expected)
    rounded.sum().backward()
    expected.sum().backward()
    assert found.grad is not None
    assert wanted.grad is not None
    # Ties at the very ends of the range round to even there and here: only they may differ.
    ends = torch.isclose(values, torch.tensor(low - scale / 2)) | torch.isclose(
        values, torch.tensor(high + scale / 2)
    )
    assert torch.equal(found.grad[~ends], wanted.grad[~ends])
