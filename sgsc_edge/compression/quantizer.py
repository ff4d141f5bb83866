"""Quantizers for training: weights per output channel, activations per tensor.

Weights follow the paper's ``q(x, b, e) = 2^e · round(clamp(2^-e · x, ...))`` (arXiv 2505.00350, eq. 1)
with two changes that the device asks for: the range is symmetric, ``±(2^(b-1) - 1)``, as in TFLite, and
the scale is any positive number. The gradient passes ``round`` unchanged (STE); with respect to the range
it is LSQ's (arXiv 1902.08153).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

MAX_BITS = 8.0

FLOOR_BITS = 2.0
"""Depth of the smallest useful grid: -1, 0, 1."""

_TINY = 1e-12
"""Smallest range; keeps an all-zero channel's parameters finite."""

_HAIR = 1e-5
"""Ranges are a hair wider than the weights: rounding must not clip the largest and stop its gradient."""


class _FakeQuantize(torch.autograd.Function):
    """``torch.fake_quantize_per_tensor_affine`` on the int8 range, value for value, in a fifth of its time.

    Whole-tensor steps in place run on vector units, where torch's kernel goes element by element and keeps
    a mask. The gradient passes where the rounded value lies in the range.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
        low, high = -128 - zero_point, 127 - zero_point
        ctx.save_for_backward(x, scale * (low - 0.5), scale * (high + 0.5))
        if not torch.compiler.is_compiling():  # with numbers it is ten times as fast
            low, high = int(low), int(high)  # type: ignore[assignment]
        return (x * (1 / scale)).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, low, high = ctx.saved_tensors
        if torch.compiler.is_compiling():  # numbers would break the graph, and the steps are fused there
            return gradients[0] * ((x > low) & (x < high)), None, None
        return torch.ops.aten.hardtanh_backward(gradients[0], x, float(low), float(high)), None, None


class _Tie(torch.autograd.Function):
    """The first entry of each group for all of it; the gradient of each is the group's mean."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(first)
        return x[first]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (first,) = ctx.saved_tensors
        sums = torch.zeros_like(gradients[0]).index_add_(0, first, gradients[0])
        sizes = torch.bincount(first, minlength=len(first)).clamp_min(1)
        return (sums / sizes)[first], None


class WeightQuantizer(nn.Module):
    """Symmetric quantizer of a weight's output channels (axis 0).

    Buffers: ``log2_range`` [O] float32, of the largest value of a channel; ``bits`` [O] float32, the
    channels' bit depths (see also :meth:`tie`). They are learned where they require gradients, by an
    optimizer of their own (see ``compressor``): they are no parameters of the module. Depths are real numbers
    while they are learned; the integers then reach ``round(2^(b-1) - 1)``. Below :data:`FLOOR_BITS` a channel
    keeps three values, until its layer's mask removes it: how far its depth has fallen says how little it is
    worth. Once ``settled``, depths are whole, and 1 bit is the two values -1 and 1. Where the range is
    ``shared``, all channels have the geometric mean of theirs (see :meth:`snap`).

    The paper holds the scale while the depth moves, so that the loss feels a depth only through weights that
    are cut off. Here the range is held: a shallower depth is a coarser grid, and the gradient with respect
    to it is that of the rounding errors (as with range and step of arXiv 1905.11452): near a minimum,
    proportional to the loss that those errors cost.
    """

    log2_range: torch.Tensor
    bits: torch.Tensor
    first: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bits: float = MAX_BITS) -> None:
        super().__init__()
        channels = weight.shape[0]
        self.shared = False
        self.settled = False
        self.register_buffer("first", None, persistent=False)
        self.register_buffer("bits", torch.full((channels,), bits))
        self.register_buffer("log2_range", _fitting(weight))

    def tie(self, first: torch.Tensor) -> None:
        """Let groups of channels, such as an attention head's, learn one depth each.

        ``bits`` stays [O]: the channels of a group have equal entries, which move together because each gets
        the mean of the group's gradients. Once ``settled``, every channel has the depth that it is stored at.

        Parameters
        ----------
        first: int64 [O], the first channel of each one's group.
        """
        self.first = first

    def depths(self) -> torch.Tensor:
        """The channels' present depths, float32 [O]; equal in a tied group."""
        if self.first is None or self.settled:
            return self.bits
        tied: torch.Tensor = _Tie.apply(self.bits, self.first)  # type: ignore[no-untyped-call]
        return tied

    def _limit(self) -> torch.Tensor:
        """The largest integer before rounding, float32 [O]."""
        bits = self.depths()
        floored = bits + (bits.clamp_min(FLOOR_BITS) - bits).detach()
        return 2 ** (floored - 1) - 1

    @torch.no_grad()
    def set_bits(self, bits: torch.Tensor) -> None:
        """Change depths and keep the channels' ranges (see also :meth:`fit_range`).

        A tied group gets the largest depth of its channels.
        """
        if self.first is not None and not self.settled:
            bits = bits.scatter_reduce(0, self.first, bits, "amax")[self.first]
        self.bits.copy_(bits)

    @torch.no_grad()
    def fit_range(self, weight: torch.Tensor, channels: torch.Tensor) -> None:
        """Set the ranges of some ``channels`` (bool [O]) so that their largest weight just fits."""
        if self.shared:
            return
        self.log2_range.copy_(torch.where(channels, _fitting(weight), self.log2_range))

    @torch.no_grad()
    def snap(self, weight: torch.Tensor, bits: torch.Tensor, channels: torch.Tensor, *, shared: bool) -> None:
        """Whole depths, with the ranges that round best where they are shallower than the learned ones.

        Parameters
        ----------
        bits: float32 [O].
        channels, shared: see :func:`best_range`.
        """
        self.shared, self.settled = shared, True
        # Below the floor, what had three values while depths were learned has two from now on.
        shallower = torch.full_like(channels, True) if shared else self.bits.clamp_min(FLOOR_BITS) > bits
        best = best_range(weight, bits, channels, shared=shared)
        self.log2_range.copy_(torch.where(shallower, best, self.log2_range))
        self.bits.copy_(bits)

    @torch.no_grad()
    def widen(self, weight: torch.Tensor, bits: torch.Tensor) -> None:
        """Deeper channels (float32 [O]), each with a range of its own that rounds best."""
        deeper = (bits > self.bits) | self.shared
        self.shared = False
        self.bits.copy_(bits)
        best = best_range(weight, bits, torch.full_like(deeper, True), shared=False)
        self.log2_range.copy_(torch.where(deeper, best, self.log2_range))

    def scale(self) -> torch.Tensor:
        """The channels' scales, float32 [O]; equal ones where the range is shared."""
        log2_range = self.log2_range.mean().expand_as(self.log2_range) if self.shared else self.log2_range
        return 2**log2_range / self._limit()

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight on its channels' grids, float32, same shape."""
        shape = (-1, *[1] * (weight.ndim - 1))
        scale = self.scale().reshape(shape)
        limit = self._limit().reshape(shape)
        steps = torch.clamp(weight / scale, -limit, limit)
        return (steps + (self._whole(steps) - steps).detach()) * scale

    @torch.no_grad()
    def integers(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight's integers, int8, same shape."""
        shape = (-1, *[1] * (weight.ndim - 1))
        limit = self._limit().reshape(shape)
        scaled = weight / self.scale().reshape(shape)
        return self._whole(torch.clamp(scaled, -limit, limit)).to(torch.int8)

    def _whole(self, steps: torch.Tensor) -> torch.Tensor:
        """Steps as whole numbers."""
        return _to_grid(steps, self.bits) if self.settled else steps.round()


def _fitting(weight: torch.Tensor) -> torch.Tensor:
    """log2 of the ranges that hold the channels' largest weights, float32 [O]."""
    return weight.detach().abs().flatten(1).amax(1).clamp_min(_TINY).log2() + _HAIR


_NARROWER = tuple(2.0 ** (-step / 6) for step in range(9))
"""Ranges that are tried for a coarse grid, as shares of the largest weight: cutting it off may cost less."""


@torch.no_grad()
def best_range(
    weight: torch.Tensor, bits: torch.Tensor | float, channels: torch.Tensor, *, shared: bool
) -> torch.Tensor:
    """log2 of the ranges that round a weight's channels with the smallest squared error, float32 [O].

    Parameters
    ----------
    bits: of all channels, or float32 [O].
    channels: bool [O]: those that count where the range is ``shared``.
    """
    widest = _fitting(weight)
    if shared:
        widest = widest[channels].max().expand_as(widest)
    errors = []
    for share in _NARROWER:
        log2_range = widest + math.log2(share)
        difference = _rounded(weight, log2_range, bits) - weight
        error = difference.square().flatten(1).sum(1)
        errors.append(error[channels].sum().expand_as(error) if shared else error)
    found = widest + torch.tensor(_NARROWER).log2()[torch.stack(errors).argmin(0)]
    mean = weight.abs().flatten(1).mean(1).clamp_min(_TINY).log2()  # rounds best to two values
    return torch.where(torch.as_tensor(bits) == 1, mean, found)


@torch.no_grad()
def round_to(weight: torch.Tensor, bits: float, channels: torch.Tensor, *, shared: bool) -> torch.Tensor:
    """The weight on the grids of its :func:`best_range`, float32, same shape."""
    log2_range = best_range(weight, bits, channels, shared=shared)
    return _rounded(weight, log2_range, bits)


def _rounded(weight: torch.Tensor, log2_range: torch.Tensor, bits: torch.Tensor | float) -> torch.Tensor:
    shape = (-1, *[1] * (weight.ndim - 1))
    bits = torch.as_tensor(bits, dtype=torch.float32).expand(len(weight))
    limit = 2 ** (bits.clamp_min(FLOOR_BITS) - 1) - 1
    scale, limit = (2**log2_range / limit).reshape(shape), limit.reshape(shape)
    return _to_grid((weight / scale).clamp(-limit, limit), bits) * scale


def _to_grid(steps: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Steps of a weight rounded to whole ones; to -1 or 1 in channels of 1 bit (bits: float32 [O])."""
    whole = steps.round()
    two = bits == 1
    if not torch.compiler.is_compiling() and not bool(two.any()):
        return whole
    return torch.where(two.reshape(-1, *[1] * (steps.ndim - 1)), torch.where(steps < 0, -1.0, 1.0), whole)


class ActivationQuantizer(nn.Module):
    """Asymmetric int8 quantizer of a tensor; its range always contains 0.

    While ``observing`` it averages the batches' extremes; otherwise its range is frozen. ``enabled`` is
    off for the float control and while calibrating.

    State: ``low``, ``high`` float32 scalars; ``batches`` seen.
    """

    low: torch.Tensor
    high: torch.Tensor
    batches: torch.Tensor

    def __init__(self, fixed: tuple[float, int] | None = None) -> None:
        super().__init__()
        self.fixed = fixed
        self.observing = False
        self.enabled = True
        low, high = (0.0, 0.0) if fixed is None else _range(*fixed)
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        self.register_buffer("batches", torch.tensor(0))

    @torch.no_grad()
    def _observe(self, x: torch.Tensor) -> None:
        low, high = x.amin().clamp_max(0), x.amax().clamp_min(0)
        self.batches += 1
        # A plain mean over the first batches, an exponential one later.
        rate = (1 / self.batches.double()).clamp_min(0.01)
        self.low += rate * (low - self.low)
        self.high += rate * (high - self.high)

    def parameters_of_grid(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale float32 scalar, zero point int32 scalar) of the int8 grid."""
        if self.fixed is not None:
            return torch.tensor(self.fixed[0]), torch.tensor(self.fixed[1], dtype=torch.int32)
        scale = ((self.high - self.low) / 255).clamp_min(_TINY)
        zero_point = (-128 - self.low / scale).round().clamp(-128, 127)
        return scale, zero_point.to(torch.int32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor on its grid, float32, same shape."""
        if self.observing and self.training and self.fixed is None:
            self._observe(x)
        if not self.enabled:
            return x
        scale, zero_point = self.parameters_of_grid()
        # In mixed precision, too: half of a grid's steps would fall together.
        rounded: torch.Tensor = _FakeQuantize.apply(x.float(), scale, zero_point)  # type: ignore[no-untyped-call]
        return rounded


def _range(scale: float, zero_point: int) -> tuple[float, float]:
    return scale * (-128 - zero_point), scale * (127 - zero_point)
