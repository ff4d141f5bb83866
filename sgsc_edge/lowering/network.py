"""The typed view of an ONNX network that lowering works on.

Shapes and axes are ONNX's (NCHW, batch 1). QuantizeLinear/DequantizeLinear pairs are no nodes here but
the ``quantization`` of values; constants hold the file's integers and scales.

Everything is frozen; passes build new networks with :meth:`Network.with_nodes`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.ir import DType, Quantization

UNBOUNDED = (-math.inf, math.inf)

# The node kind that absorption makes where a file quantizes an already quantized value again.
REQUANTIZE = "Requantize"

# The node kind of several ops that make one function of one value.
FUNCTION = "Function"


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the network.

    Parameters
    ----------
    shape: ONNX shape with batch 1; None where an unsupported op hides it.
    quantization: parameters of the device integers (int8 for activations); None: not quantized.
    data: constants only: integers of ``stored`` type where quantized, else plain values.
    stored: integer type of a quantized constant (int8, int4 or int32).
    """

    name: str
    shape: tuple[int, ...] | None
    quantization: Quantization | None = None
    data: NDArray[Any] | None = None
    stored: DType | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the value is known before run time."""
        return self.data is not None

    @property
    def elements(self) -> int:
        """The number of values; 0 where the shape is not known."""
        return 0 if self.shape is None else math.prod(self.shape)

    def take(self, order: NDArray[np.int64], axis: int) -> Value:
        """The constant with its entries along an axis in another order."""
        assert self.data is not None
        quantization = self.quantization
        if quantization is not None and quantization.axis == axis:
            quantization = replace(
                quantization, scale=quantization.scale[order], zero_point=quantization.zero_point[order]
            )
        return replace(self, data=np.take(self.data, order, axis), quantization=quantization)

    def real(self) -> NDArray[np.float64]:
        """The real values of a constant, float64 of its shape."""
        assert self.data is not None
        data = np.asarray(self.data, np.float64)
        if self.quantization is None:
            return data
        along = [1] * data.ndim
        if self.quantization.axis is not None:
            along[self.quantization.axis] = -1
        scale = self.quantization.scale.astype(np.float64).reshape(along)
        return (data - self.quantization.zero_point.reshape(along)) * scale


@dataclass(frozen=True, eq=False)
class Layer:
    """One ONNX node. ``clamp`` are the real bounds of the activations fused into it."""

    name: str
    op: str
    inputs: tuple[str, ...]  # "" for an absent optional input
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    clamp: tuple[float, float] = UNBOUNDED

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, or its default from the ONNX operator's specification."""
        return self.attributes.get(name, default)

    def input(self, index: int) -> str | None:
        """The name of an optional input; None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) and self.inputs[index] else None

    def refusal(self, reason: str, remedy: str) -> UnsupportedError:
        """The error that refuses this layer."""
        return UnsupportedError(node=self.name, op=self.op, reason=reason, remedy=remedy)


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in execution order over named values, as an opset has them; one input, one output."""

    name: str
    layers: tuple[Layer, ...]
    values: Mapping[str, Value]
    input: str
    output: str
    metadata: Mapping[str, bytes] = field(default_factory=dict)
    opset: int = 21

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def consumers(self) -> dict[str, list[Layer]]:
        """Value name -> the layers that read it (once for each time)."""
        found: dict[str, list[Layer]] = {name: [] for name in self.values}
        for layer in self.layers:
            for name in layer.inputs:
                if name:
                    found[name].append(layer)
        return found

    def producers(self) -> dict[str, Layer]:
        """Value name -> the layer that makes it."""
        return {name: layer for layer in self.layers for name in layer.outputs if name}

    def unused(self, hint: str) -> str:
        """A name like ``hint`` that no value has."""
        name, number = hint, 1
        while name in self.values:
            name, number = f"{hint}:{number}", number + 1
        return name

    def with_layers(self, layers: Iterable[Layer], values: Iterable[Value] = ()) -> Network:
        """The same network with other layers, and ``values`` added or replaced."""
        merged = {**self.values, **{value.name: value for value in values}}
        return replace(self, layers=tuple(layers), values=merged)

    def activations(self, layer: Layer) -> list[str]:
        """The inputs of a layer that are no constants."""
        return [name for name in layer.inputs if name and not self.values[name].is_constant]


def permutation_of(layer: Layer, rank: int) -> tuple[int, ...]:
    """The permutation of a Transpose; without one it reverses the axes."""
    permutation = tuple(layer.attribute("perm", tuple(range(rank))[::-1]))
    if sorted(permutation) != list(range(rank)):
        raise layer.refusal(f"perm {list(permutation)} is no order of {rank} axes", "export the model again")
    return permutation
