"""Sequences [1, C, L] around convolutions and pools become images [1, C, 1, L]: TFLite has 2-D forms only.

    conv1d(x, w)[:, o, l] = sum_(c, k) w[o, c, k] x[:, c, l*s + k*d - p]
                          = conv2d(x[:, :, None], w[:, :, None])[:, o, 0, l]

and likewise for pools and BatchNormalization, so nothing but shapes and attributes changes. All rank-3
values that elementwise ops connect to such an op turn into images together. Between them and other ops stand
reshapes, which cost nothing where those ops are reshapes themselves: on the device [1, 1, L, C] and the
transposed sequence [1, L, C] are the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.lowering.network import REQUANTIZE, Layer, Network, Value, permutation_of
from sgsc_edge.lowering.passes.fusion import zero_padding

_SPATIAL = frozenset({"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization"})
_FOLLOWING = frozenset({"Add", "Mul", "Concat", "Relu", "Clip", "Pad", "ReduceMean", "Softmax", REQUANTIZE})
_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Ops whose lowering asks for shapes only: they read and make images and sequences alike."""

_SEQUENCE = 3  # axes: batch, channels, positions
_AXES = {0: 0, 1: 1, 2: 3}  # axis of a sequence -> axis of its image


def sequences_to_images(network: Network) -> Network:
    """Turn the sequences around 1-D convolutions, pools and BatchNormalizations into images of height 1."""
    images = _images(network)
    if not images:
        return network
    rewriting = _Rewriting(network, images)
    for layer in network.layers:
        rewriting.add(layer)
    return network.with_layers(rewriting.layers, rewriting.values.values())


def _rank(network: Network, name: str) -> int | None:
    shape = network[name].shape
    return None if shape is None else len(shape)


def _sequences(network: Network, layer: Layer) -> list[str]:
    """The rank-3 values that a layer computes or reads position by position; none where it is another op."""
    if layer.op not in _SPATIAL | _FOLLOWING:
        return []
    if layer.op == "Softmax" and layer.attribute("axis", -1) % _SEQUENCE != 1:
        return []
    names = [*network.activations(layer), *filter(None, layer.outputs)]
    ranks = {name: _rank(network, name) for name in names}
    if any(rank is None or rank > _SEQUENCE for rank in ranks.values()):
        return []
    return [name for name in names if ranks[name] == _SEQUENCE]


def _images(network: Network) -> frozenset[str]:
    """The values that become images: all that share a layer, directly or not, with a spatial one."""
    joined: dict[str, set[str]] = {}
    pending: list[str] = []
    for layer in network.layers:
        names = _sequences(network, layer)
        for name in names:
            joined.setdefault(name, set()).update(names)
        if layer.op in _SPATIAL:
            pending += names
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += joined[name]
    return frozenset(found)


@dataclass
class _Rewriting:
    """The network's layers one by one, with images in place of some sequences."""

    network: Network
    images: frozenset[str]
    shared: set[str] = field(default_factory=set)  # constants that other layers read as they are
    values: dict[str, Value] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self.images:
            value = self.network[name]
            assert value.shape is not None
            self.values[name] = replace(value, shape=_with_height(value.shape))
        for layer in self.network.layers:
            if not self._works_on_images(layer):
                self.shared.update(layer.inputs)

    def _works_on_images(self, layer: Layer) -> bool:
        return not self.images.isdisjoint(_sequences(self.network, layer))

    def add(self, layer: Layer) -> None:
        """Rewrite one layer, with reshapes around it where it knows sequences only."""
        if layer.op in _VIEWS or self.images.isdisjoint((*layer.inputs, *layer.outputs)):
            self.layers.append(layer)
        elif self._works_on_images(layer):
            self.layers.append(self._widened(layer))
        elif layer.op == "Transpose" and layer.outputs[0] in self.images:
            self.layers.append(self._transposed(layer))
        else:
            inputs = tuple(
                self._reshaped(layer, name) if name in self.images else name for name in layer.inputs
            )
            made = {name: self._sequence(name) for name in layer.outputs if name in self.images}
            outputs = tuple(made.get(name, name) for name in layer.outputs)
            self.layers.append(replace(layer, inputs=inputs, outputs=outputs))
            self.layers += [
                Layer(layer.name, "Unsqueeze", (source,), (name,)) for name, source in made.items()
            ]

    def _transposed(self, layer: Layer) -> Layer:
        """A Transpose that makes an image itself: [1, L, C] becomes [1, 1, L, C] without moving anything."""
        if layer.inputs[0] not in self.images:
            return layer
        first, second, third = (_AXES[axis] for axis in permutation_of(layer, _SEQUENCE))
        return replace(layer, attributes={"perm": (first, second, 2, third)})

    def _sequence(self, name: str) -> str:
        """A new value for the sequence that an image was made of."""
        sequence = replace(self.network[name], name=f"{name}/sequence")
        self.values[sequence.name] = sequence
        return sequence.name

    def _reshaped(self, layer: Layer, name: str) -> str:
        known = f"{name}/sequence" in self.values
        sequence = f"{name}/sequence" if known else self._sequence(name)
        if not known:
            self.layers.append(Layer(layer.name, "Squeeze", (name,), (sequence,)))
        return sequence

    def _widened(self, layer: Layer) -> Layer:
        """The layer over images: constants of two axes and more get one of size 1 in front of the last."""
        inputs = list(layer.inputs)
        for index, name in enumerate(inputs):
            if name and (data := self.network[name].data) is not None and data.ndim > 1:
                wide = f"{name}/image" if name in self.shared else name
                inputs[index] = self._constant(wide, name, np.expand_dims(data, -2))
        for key, change in _ATTRIBUTES.get(layer.op, {}).items():
            if key in layer.attributes:
                layer = replace(layer, attributes={**layer.attributes, key: change(layer.attributes[key])})
        layer = replace(layer, inputs=tuple(inputs))
        return _REST[layer.op](self, layer) if layer.op in _REST else layer

    def _constant(self, name: str, source: str, data: NDArray[Any]) -> str:
        self.values[name] = replace(self.network[source], name=name, shape=data.shape, data=data)
        return name

    def pad(self, layer: Layer) -> Layer:
        """A Pad with its amounts for all four axes; one that is refused stays as it is."""
        pads = zero_padding(self.network, layer)
        if pads is None:
            return layer
        begin, end = _with_zero(pads[:_SEQUENCE]), _with_zero(pads[_SEQUENCE:])
        amounts = np.array([*begin, *end], np.int64)
        name = self._constant(f"{layer.outputs[0]}/pads", layer.inputs[1], amounts)
        return replace(layer, inputs=(layer.inputs[0], name, *layer.inputs[2:3]))

    def mean(self, layer: Layer) -> Layer:
        """A ReduceMean over the image's axes, the height among them: it may be dropped."""
        name = layer.input(1)
        if name is None:
            axes = layer.attributes.get("axes")
            wide = {} if not axes else {"axes": _image_axes(axes)}
            return replace(layer, attributes={**layer.attributes, **wide})
        data = self.network[name].data
        if data is None or not data.size:
            return layer
        constant = self._constant(
            f"{layer.outputs[0]}/axes", name, np.array(_image_axes(data.reshape(-1)), np.int64)
        )
        return replace(layer, inputs=(layer.inputs[0], constant))


def _with_height(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-1], 1, shape[-1])


def _with_zero(amounts: tuple[int, ...]) -> tuple[int, ...]:
    return (*amounts[:-1], 0, amounts[-1])


def _image_axes(axes: Any) -> tuple[int, ...]:
    return tuple(sorted({2, *(_AXES[int(axis) % _SEQUENCE] for axis in axes)}))


def _one_first(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *sizes)


def _zero_first(pads: tuple[int, ...]) -> tuple[int, ...]:
    """[begin, end] of the positions -> [0, begin, 0, end]."""
    half = len(pads) // 2
    return (0, *pads[:half], 0, *pads[half:])


def _image_axis(axis: int) -> int:
    return _AXES[axis % _SEQUENCE]


_WINDOW = {"kernel_shape": _one_first, "strides": _one_first, "dilations": _one_first, "pads": _zero_first}
_ATTRIBUTES: Mapping[str, Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(("Conv", "MaxPool", "AveragePool"), _WINDOW),
    "Concat": {"axis": _image_axis},
    "Softmax": {"axis": _image_axis},
}
_REST: Mapping[str, Callable[[_Rewriting, Layer], Layer]] = {
    "Pad": _Rewriting.pad,
    "ReduceMean": _Rewriting.mean,
}
