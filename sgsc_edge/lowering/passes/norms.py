"""Normalizations of a float network as ops that a device has in int8.

LayerNormalization is the mean taken away, division by the length of what is left, and a gain: with d values,
``(x - mean) / sqrt(var) = sqrt(d) * (x - mean) / |x - mean|``. The device has L2_NORMALIZATION for the
division, right to half a step. What the ops between round is in the quantized model, too: nothing is hidden.
The epsilon of the norm is left out; it counts where values are alike, and there the norm is noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.lowering.network import Layer, Network, Value

Shape = tuple[int, ...]


def decompose_norms(network: Network) -> Network:
    """Layer, group, instance and RMS normalization in ops of their own; of a float network.

    Raises UnsupportedError for gains and shapes that are not known before run time.
    """
    layers: list[Layer] = []
    values: list[Value] = []
    for layer in network.layers:
        if layer.op in _MAKERS:
            parts = _Parts(network, layer)
            _MAKERS[layer.op](parts)
            layers += parts.layers
            values += parts.values
        else:
            layers.append(layer)
    return network.with_layers(layers, values) if values else network


@dataclass
class _Parts:
    """The layers that take one's place, and their values."""

    network: Network
    layer: Layer
    layers: list[Layer] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)

    @property
    def shape(self) -> Shape:
        """Of what is normalized."""
        shape = self.network[self.layer.inputs[0]].shape
        if shape is None:
            raise self.layer.refusal("the shape of its input is not known", "export it with constant shapes")
        return shape

    def constant(self, index: int) -> NDArray[np.float32] | None:
        """A constant input; None where it is absent."""
        name = self.layer.input(index)
        if name is None:
            return None
        data = self.network[name].data
        if data is None or len(tuple(filter(None, self.layer.outputs))) > 1:
            raise self.layer.refusal(
                "its gain is computed, or more is read of it than what it normalizes", "use the plain norm"
            )
        return np.asarray(data, np.float32)

    def check_sizes(self, wanted: int, *given: NDArray[np.float32] | None) -> None:
        """Refuse gains and biases that are not one number for all, or one for each."""
        for one in given:
            if one is not None and (
                one.size not in (1, wanted) or one.shape[-1:] not in ((), (1,), (wanted,))
            ):
                raise self.layer.refusal(
                    f"its gain or bias has shape {list(one.shape)} for {wanted} values",
                    "export the model again",
                )

    def add(
        self, op: str, inputs: Sequence[str], shape: Shape, *, last: bool = False, **attributes: Any
    ) -> str:
        """A layer; the last one makes the norm's own output."""
        own = self.layer.outputs[0]
        name = own if last else self.network.unused(f"{own}/{op.lower()}_{len(self.layers)}")
        self.layers.append(
            Layer(f"{self.layer.name}/{op}_{len(self.layers)}", op, tuple(inputs), (name,), attributes)
        )
        if not last:
            self.values.append(Value(name, shape))
        return name

    def given(self, data: NDArray[Any]) -> str:
        """A new constant."""
        name = self.network.unused(f"{self.layer.outputs[0]}/constant_{len(self.values)}")
        self.values.append(Value(name, data.shape, data=data))
        return name

    def reshaped(self, x: str, shape: Shape, *, last: bool = False) -> str:
        """A value in another shape."""
        return self.add("Reshape", (x, self.given(np.array(shape, np.int64))), shape, last=last)

    def normed(self, x: str, shape: Shape, *, centred: bool = True) -> str:
        """The values along the last axis, of length 1, their mean taken away before."""
        if centred:
            # An input from opset 18 on, before that an attribute.
            if self.network.opset >= 18:
                axes: dict[str, Any] = {}
                inputs = (x, self.given(np.array([-1], np.int64)))
            else:
                axes, inputs = {"axes": (-1,)}, (x,)  # type: ignore[assignment]
            mean = self.add("ReduceMean", inputs, (*shape[:-1], 1), keepdims=1, **axes)
            x = self.add("Sub", (x, mean), shape)
        return self.add("LpNormalization", (x,), shape, axis=-1, p=2)

    def affine(
        self,
        x: str,
        shape: Shape,
        gain: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        *,
        last: bool,
    ) -> str:
        """A gain, and a bias where there is one that is not 0."""
        without = bias is None or not bias.any()
        x = self.add("Mul", (x, self.given(gain)), shape, last=last and without)
        return x if bias is None or without else self.add("Add", (x, self.given(bias)), shape, last=last)


def _layer_norm(parts: _Parts) -> None:
    shape, axis = parts.shape, parts.layer.attribute("axis", -1)
    if axis not in (-1, len(shape) - 1):
        raise parts.layer.refusal(f"it is over several axes, from {axis} on", "normalize over the last axis")
    gain, bias = parts.constant(1), parts.constant(2)
    parts.check_sizes(shape[-1], gain, bias)
    assert gain is not None
    root = np.float32(math.sqrt(shape[-1]))
    x = parts.normed(parts.layer.inputs[0], shape, centred=parts.layer.op == "LayerNormalization")
    parts.affine(x, shape, gain * root, bias, last=True)


def _group_norm(parts: _Parts) -> None:
    """Over groups of channels and all that is behind them; an instance norm has a group for each channel."""
    shape = parts.shape
    channels = shape[1]
    groups = parts.layer.attribute("num_groups", channels)
    gain, bias = parts.constant(1), parts.constant(2)
    if len(shape) < 3 or not 0 < groups <= channels or channels % groups:
        raise parts.layer.refusal(
            f"it has {groups} groups of {channels} channels in shape {list(shape)}", "use equal groups"
        )
    parts.check_sizes(channels, gain, bias)
    assert gain is not None
    assert bias is not None
    size = math.prod(shape[1:]) // groups
    rows, flat = (shape[0], groups, size), (shape[0], channels, math.prod(shape[2:]))
    x = parts.normed(parts.reshaped(parts.layer.inputs[0], rows), rows)
    root = np.float32(math.sqrt(size))
    x = parts.affine(parts.reshaped(x, flat), flat, _rows(gain * root), _rows(bias), last=False)
    parts.reshaped(x, shape, last=True)


def _rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """One value a row."""
    return values.reshape(-1, 1)


_MAKERS = {
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _group_norm,
}
