"""Operators of attention after the end of training: what they compute of integers.

Each reads float32 values that lie on an int8 grid and makes float32 values that a quantizer behind it rounds.
Products are sums of whole numbers, exact in whatever order they are summed; Softmax, GELU and LayerNorm are
computed in float64, so that nothing depends on the batch. With ``emit_onnx`` they export as ONNX operators.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sgsc_edge.compression.norms import QuantNorm
from sgsc_edge.compression.norms import integers as norm_integers
from sgsc_edge.compression.tracing.operators import look_up, masked_softmax, scaled


def dequantize(q: torch.Tensor, grid: tuple[torch.Tensor, ...], axis: int | None = None) -> torch.Tensor:
    """DequantizeLinear in the exported graph.

    Parameters
    ----------
    grid: (scale,) or (scale, zero point), scalars, or vectors along ``axis``.
    """
    attributes = {} if axis is None else {"axis": axis}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", (q, *grid), {**attributes}, dtype=torch.float32, shape=q.shape, version=21
    )


class FoldedTable(nn.Module):
    """A table of rows as integers.

    Buffers: ``weight`` int8 [rows, C], ``bits`` uint8 [rows], ``scale`` float32 [rows]. A row of zeros stands
    for one that was removed: its place stays, because tokens are its number.
    """

    weight: torch.Tensor
    bits: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, weight: torch.Tensor, bits: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.emit_onnx = False
        self.register_buffer("weight", weight)
        self.register_buffer("bits", bits)
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=torch.int8), persistent=False)

    def forward(self, indices: torch.Tensor | None = None) -> torch.Tensor:
        """Rows of int64 indices [n, T] as float32 [n, T, C]; without indices the whole table."""
        if self.emit_onnx:
            return look_up(dequantize(self.weight, (self.scale, self.zero_point), axis=0), indices)
        return look_up(self.weight.to(torch.float32) * self.scale[:, None], indices)


class FoldedNorm(nn.Module):
    """A LayerNorm with an int8 gain and shift.

    Buffers: ``weight`` and ``bias`` int8 [C], ``weight_scale`` and ``bias_scale`` float32 scalars; those that
    the LayerNorm has.
    """

    def __init__(self, norm: QuantNorm) -> None:
        super().__init__()
        self.emit_onnx = False
        self.channels, self.eps = norm.channels, norm.eps
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int8), persistent=False)
        for name, parameter in (("weight", norm.weight), ("bias", norm.bias)):
            if parameter is not None:
                value, scale = norm_integers(parameter)
                self.register_buffer(name, value)
                self.register_buffer(f"{name}_scale", scale)

    def parameters_in_int8(self) -> dict[str, torch.Tensor]:
        """Gain and shift by name, int8 [C]."""
        buffers = dict(self.named_buffers())
        return {name: buffers[name] for name in ("weight", "bias") if name in buffers}

    def _parameter(self, name: str) -> torch.Tensor | None:
        buffers = dict(self.named_buffers())
        if name not in buffers:
            return None
        value, scale = buffers[name], buffers[f"{name}_scale"]
        if self.emit_onnx:
            return dequantize(value, (scale, buffers["zero_point"]))
        return value.double() * scale.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise float32 [..., C]."""
        weight, bias = self._parameter("weight"), self._parameter("bias")
        if self.emit_onnx:
            return F.layer_norm(x, (self.channels,), weight, bias, self.eps)
        return F.layer_norm(x.double(), (self.channels,), weight, bias, self.eps).to(torch.float32)


class FoldedMatMul(nn.Module):
    """A product of two values on their grids, times a constant.

    Buffers: ``a_scale``, ``b_scale`` float32 scalars, of the grids of the two.
    """

    a_scale: torch.Tensor
    b_scale: torch.Tensor

    def __init__(self, scale: float, a_scale: torch.Tensor, b_scale: torch.Tensor) -> None:
        super().__init__()
        self.emit_onnx = False
        self.scale = scale
        self.register_buffer("a_scale", a_scale.clone())
        self.register_buffer("b_scale", b_scale.clone())

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """[..., M, K] by [..., K, N], float32."""
        if self.emit_onnx:
            return scaled(torch.matmul(a, b), self.scale)
        steps = ((x / scale).round().double() for x, scale in ((a, self.a_scale), (b, self.b_scale)))
        factor = self.a_scale.double() * self.b_scale.double() * self.scale
        return (torch.matmul(*steps).round() * factor).to(torch.float32)


class FoldedSoftmax(nn.Module):
    """Softmax over the last axis; what the mask leaves out is exactly 0."""

    mask: torch.Tensor | None

    def __init__(self, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.emit_onnx = False
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities, float32, of the scores' shape."""
        if self.emit_onnx:
            return masked_softmax(scores, self.mask)
        return masked_softmax(scores.double(), self.mask).to(torch.float32)


class FoldedGelu(nn.Module):
    """GELU, exact or by tanh."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.emit_onnx = False
        self.approximate = approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32, same shape."""
        if self.emit_onnx:
            return F.gelu(x, approximate=self.approximate)
        return F.gelu(x.double(), approximate=self.approximate).to(torch.float32)


FOLDED_OPERATORS = (FoldedTable, FoldedNorm, FoldedMatMul, FoldedSoftmax, FoldedGelu)
