"""What the kernels share: run-time values, quantization parameters, clamping, accumulator bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import InternalError
from sgsc_edge.graph.ir import Activation, DType, Quantization, Tensor
from sgsc_edge.numerics import (
    ACTIVATION_BOUNDS,
    INT32_MAX,
    INT32_MIN,
    IntArray,
    Profile,
    quantized_activation_range,
)

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor and its data on n samples, [n, *tensor.shape]; constants have n = 1."""

    tensor: Tensor
    data: Array

    @property
    def is_float(self) -> bool:
        """Whether the values are float32 rather than integers."""
        return self.tensor.dtype is DType.FLOAT32


# A kernel takes the op, its inputs, the output tensor and the profile; it returns [n, *output.shape].
Kernel = Callable[[Any, Sequence[Value], Tensor, Profile], Array]


def quantization(tensor: Tensor) -> Quantization:
    """The tensor's quantization; InternalError where an integer kernel needs it and it is missing."""
    if tensor.quantization is None:
        raise InternalError(f"tensor '{tensor.name}' is {tensor.dtype} without quantization")
    return tensor.quantization


def scale(tensor: Tensor) -> NDArray[np.float32]:
    """Scale, float32: [] per tensor, [channels] per channel."""
    parameters = quantization(tensor)
    return parameters.scale if parameters.axis is not None else parameters.scale[0]


def zero_point(tensor: Tensor) -> int:
    """Zero point of a per-tensor quantized tensor."""
    return int(quantization(tensor).zero_point[0])


def centered(value: Value) -> IntArray:
    """Integers minus their zero point, int64 [n, *shape]."""
    return value.data.astype(np.int64) - zero_point(value.tensor)


def integer_range(tensor: Tensor) -> tuple[int, int]:
    """Smallest and largest integer of the tensor's type."""
    info = np.iinfo(str(tensor.dtype.numpy))
    return int(info.min), int(info.max)


def store(steps: IntArray, output: Tensor, activation: Activation = Activation.NONE) -> Array:
    """Add the output's zero point to rescaled steps, clamp to the fused activation, cast."""
    low, high = quantized_activation_range(
        activation, float(scale(output)), zero_point(output), *integer_range(output)
    )
    return clamp(steps + zero_point(output), low, high).astype(output.dtype.numpy)


def clamp(integers: Array, low: int, high: int) -> Array:
    """Integers limited to [low, high]."""
    bounded: Array = np.minimum(np.maximum(integers, low), high)
    return bounded


def clamp_float(real: Array, activation: Activation) -> Array:
    """A fused activation on float32 values."""
    low, high = ACTIVATION_BOUNDS[activation]
    if low is not None:
        real = np.maximum(real, np.float32(low))
    if high is not None:
        real = np.minimum(real, np.float32(high))
    return real.astype(np.float32, copy=False)


def check_accumulator(accumulator: Array) -> None:
    """OverflowError where a kernel's 32-bit accumulator would overflow (undefined in C)."""
    if accumulator.size and (accumulator.min() < INT32_MIN or accumulator.max() > INT32_MAX):
        raise OverflowError("an accumulator leaves 32 bits")


def aligned(values: Sequence[Value]) -> list[Array]:
    """Data of the values with equal ranks: [n, 1, .., *shape], so that shapes broadcast from the right."""
    rank = max(value.data.ndim for value in values)
    return [
        value.data.reshape(value.data.shape[0], *(1,) * (rank - value.data.ndim), *value.data.shape[1:])
        for value in values
    ]
