"""What the calls share: the call itself, refusals, bounds, multipliers, walks over memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.ir import Activation, Node, Tensor
from sgsc_edge.graph.reference.common import integer_range, scale, zero_point
from sgsc_edge.numerics import PROFILES, quantize_multiplier, quantized_activation_range

TFLM = PROFILES["tflm"]


@dataclass(frozen=True)
class Call:
    """What a step becomes.

    Parameters
    ----------
    function: the kernel that is called, without its prefix.
    kernels: those that the model's file must hold.
    struct: the type of its parameters, without prefix, and their values by member; None where it takes none.
    constants: arrays for the constant data, by the member that points to them.
    plain: arguments in front of the operands.
    operands: tensors that are passed, in order; the output follows.
    start: bytes of the first operand in front of what this call reads.
    offset: bytes of the output in front of what this call writes.
    scratch: bytes that the kernel needs for itself, passed in front of the output.
    images: how often the call is made; its first operand and its output are so many, one behind another.
    """

    function: str
    kernels: tuple[str, ...]
    operands: tuple[Tensor, ...]
    struct: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    plain: tuple[str, ...] = ()
    start: int = 0
    offset: int = 0
    scratch: int = 0
    images: int = 1


Operands = Sequence[Tensor]


def refused(node: Node, output: Tensor, reason: str) -> UnsupportedError:
    """The refusal of a node, with what to do instead."""
    return UnsupportedError(
        node=node.source or output.name,
        op=node.kind,
        reason=reason,
        remedy="convert the model to int8 throughout, or run the .tflite itself on TFLite Micro",
        wanted="written as C",
    )


def bounds(activation: Activation, output: Tensor) -> tuple[int, int]:
    """Smallest and largest integer of an output under a fused activation."""
    return quantized_activation_range(
        activation, float(scale(output)), zero_point(output), *integer_range(output)
    )


def q31(ratio: float) -> tuple[int, int]:
    """A real multiplier as Q31 multiplier and shift."""
    multiplier, shift = quantize_multiplier(ratio)
    return int(multiplier), int(shift)


def ratio_of(a: Tensor, output: Tensor) -> float:
    """Output steps that one step of an operand makes."""
    return float(np.float64(scale(a)) / np.float64(scale(output)))


def steps_of(shape: Sequence[int]) -> list[int]:
    """How far a row-major array goes on in each dimension."""
    steps = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        steps[axis] = steps[axis + 1] * shape[axis + 1]
    return steps


def broadcast_steps(shape: Sequence[int], rank: int) -> list[int]:
    """How far an operand goes on in each of ``rank`` dimensions of an output; 0 where it repeats."""
    full = padded(shape, rank, 1)
    return [0 if size == 1 else step for size, step in zip(full, steps_of(full), strict=True)]


def merged(size: Sequence[int], *steps: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The same walk in as few dimensions as possible: neighbours that go on evenly become one."""
    sizes: list[int] = []
    walks: list[list[int]] = [[] for _ in steps]
    for axis, length in enumerate(size):
        if length == 1:
            continue
        here = [walk[axis] for walk in steps]
        if sizes and all(walk[-1] == step * length for walk, step in zip(walks, here, strict=True)):
            sizes[-1] *= length
            for walk, step in zip(walks, here, strict=True):
                walk[-1] = step
        else:
            sizes.append(length)
            for walk, step in zip(walks, here, strict=True):
                walk.append(step)
    return sizes, walks


def padded(values: Sequence[int], rank: int, fill: int) -> list[int]:
    """Values behind as many times ``fill`` as ``rank`` wants."""
    return [fill] * (rank - len(values)) + list(values)


def float_literal(value: float) -> str:
    """A float32 in C, exactly: hexadecimal digits."""
    return f"{float(np.float32(value)).hex()}f"
