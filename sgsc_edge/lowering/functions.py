"""Functions of one value: which ONNX ops are some, alone or one behind another, and what they compute.

A device has no kernel for most of them in int8. But an int8 value has 256 states, so whatever is computed of
it alone is a table: exactly what the QDQ model says, rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph.ir import Quantization
from sgsc_edge.lowering.network import FUNCTION, Layer, Network
from sgsc_edge.numerics import quantize

Reals = NDArray[Any]
"""float64."""
Function = Callable[..., Any]
"""Layer, reals [256] (or a number) for each input -> reals."""

_MEMBERS = "members"
_MOST_MEMBERS = 64
"""Of one function; a longer chain is cut."""
_ROUNDS = 64
"""Of looking for values that others read: each may end functions, which makes others. Two are usual."""
_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(layer: Layer, x: Reals) -> Any:
    if layer.attribute("approximate", "none") in ("tanh", b"tanh"):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _softplus(x: Reals) -> Any:
    return np.logaddexp(0, x)


def _elu(alpha: float, x: Reals) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _celu(layer: Layer, x: Reals) -> Any:
    alpha = layer.attribute("alpha", 1.0)
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _selu(layer: Layer, x: Reals) -> Any:
    alpha = layer.attribute("alpha", 1.67326319217681884765625)
    return layer.attribute("gamma", 1.05070102214813232421875) * _elu(alpha, x)


def _hard_sigmoid(layer: Layer, x: Reals) -> Any:
    return np.clip(layer.attribute("alpha", 0.2) * x + layer.attribute("beta", 0.5), 0, 1)


def _sigmoid(x: Reals) -> Any:
    return 1 / (1 + np.exp(-x))


TABLES: Mapping[str, Function] = MappingProxyType(
    {
        "Abs": lambda layer, x: np.abs(x),
        "Celu": _celu,
        "Div": lambda layer, a, b: a / b,
        "Elu": lambda layer, x: _elu(layer.attribute("alpha", 1.0), x),
        "Erf": lambda layer, x: _erf(x),
        "Exp": lambda layer, x: np.exp(x),
        "Gelu": _gelu,
        "HardSigmoid": _hard_sigmoid,
        "Log": lambda layer, x: np.log(x),
        "Mish": lambda layer, x: x * np.tanh(_softplus(x)),
        "Neg": lambda layer, x: -x,
        "Pow": lambda layer, a, b: np.power(a, b),
        "Reciprocal": lambda layer, x: 1 / x,
        "Selu": _selu,
        "Softplus": lambda layer, x: _softplus(x),
        "Softsign": lambda layer, x: x / (1 + np.abs(x)),
        "Sqrt": lambda layer, x: np.sqrt(x),
        "ThresholdedRelu": lambda layer, x: np.where(x > layer.attribute("alpha", 1.0), x, 0),
    }
)
"""Ops that have no int8 kernel; Div and Pow of one value and a number."""

_BESIDE: Mapping[str, Function] = MappingProxyType(
    {
        "Add": lambda layer, a, b: a + b,
        "Mul": lambda layer, a, b: a * b,
        "Sub": lambda layer, a, b: a - b,
        "Sigmoid": lambda layer, x: _sigmoid(x),
        "Tanh": lambda layer, x: np.tanh(x),
    }
)
"""Ops with kernels of their own, which join the others' table where they stand behind or between them."""

_REAL: Mapping[str, Function] = MappingProxyType({**TABLES, **_BESIDE})


@dataclass(frozen=True)
class _Made:
    """What a value is computed of: one other value, by layers at their places in the network; whether one of
    them needs a table.
    """

    root: str
    members: Mapping[int, Layer]
    needs_table: bool


def members_of(layer: Layer) -> tuple[Layer, ...]:
    """The layers that a function is made of: of a single op itself."""
    found: tuple[Layer, ...] = layer.attributes[_MEMBERS] if layer.op == FUNCTION else (layer,)
    return found


def fuse_functions(network: Network) -> Network:
    """Make one layer of ops one behind another that compute a value of one other value and numbers.

    Only where one of them has no kernel, no quantizer stands between, and nobody else reads what is between.
    """
    readers, ends = network.consumers(), frozenset[str]()
    for _ in range(_ROUNDS):
        made = _made(network, ends)
        found = frozenset(name for name in made if _ends(network, readers[name], name, made))
        if found <= ends:
            return _fused(network, made)
        ends |= found
    return network


def _ends(network: Network, readers: Sequence[Layer], name: str, made: Mapping[str, _Made]) -> bool:
    """Whether a value is read by others than those that go on with the same function."""
    others = (made.get(reader.outputs[0]) for reader in readers)
    return name == network.output or any(one is None or one.root != made[name].root for one in others)


def _fused(network: Network, made: Mapping[str, _Made]) -> Network:
    chosen = {}
    for name, found in made.items():
        if found.needs_table and len(found.members) > 1:
            *_, last = members = tuple(found.members[place] for place in sorted(found.members))
            chosen[name] = Layer(last.name, FUNCTION, (found.root,), (name,), {_MEMBERS: members})
    if not chosen:
        return network
    layers: list[Layer] = []
    wanted = {network.output}
    for layer in reversed(network.layers):
        if not wanted.isdisjoint(layer.outputs):
            layer = chosen.get(layer.outputs[0], layer)
            wanted.update(filter(None, layer.inputs))
            layers.append(layer)
    return network.with_layers(reversed(layers))


def _made(network: Network, ends: Collection[str]) -> dict[str, _Made]:
    made: dict[str, _Made] = {}
    for place, layer in enumerate(network.layers):
        if (found := _made_of(network, place, layer, made, ends)) is not None:
            made[layer.outputs[0]] = found
    return made


def _made_of(
    network: Network, place: int, layer: Layer, made: Mapping[str, _Made], ends: Collection[str]
) -> _Made | None:
    """What the layer's output is computed of; None where that is not one value."""
    if layer.op not in _REAL or not is_elementwise(network, layer):
        return None
    befores = []
    for name in network.activations(layer):
        before = made.get(name)
        if (
            before is None
            or len(before.members) >= _MOST_MEMBERS
            or name in ends
            or _is_quantized(network, name)
        ):
            before = _Made(name, {}, needs_table=False)
        befores.append(before)
    if len({before.root for before in befores}) > 1:
        return None
    members = {at: one for before in befores for at, one in before.members.items()} | {place: layer}
    needs = layer.op in TABLES or any(before.needs_table for before in befores)
    return _Made(befores[0].root, members, needs)


def _is_quantized(network: Network, name: str) -> bool:
    return network[name].quantization is not None


def is_elementwise(network: Network, layer: Layer) -> bool:
    """Whether the layer computes each value of one operand by itself, with numbers beside it."""
    shape = network[layer.outputs[0]].shape
    computed = network.activations(layer)
    if not computed or shape is None or any(network[name].shape != shape for name in computed):
        return False
    return all(network[name].elements == 1 for name in layer.inputs if name and network[name].is_constant)


def table_of(network: Network, layer: Layer, x: Quantization, y: Quantization) -> NDArray[np.int8]:
    """What a function makes of every integer of its input, int8 [256] from -128 on.

    As ONNX computes it: the integers' real values, the function, QuantizeLinear. Where the function is not
    defined (a root or logarithm below 0, 0 divided by 0), it has the value of the nearest integer for which
    it is.
    """
    integers = np.arange(-128, 128)
    real = (x.scale[0] * (integers - x.zero_point[0]).astype(np.float32)).astype(np.float64)
    values: dict[str, Any] = {network.activations(layer)[0]: real}
    with np.errstate(all="ignore"):
        for member in members_of(layer):
            given = [values[n] if n in values else _number(network, n) for n in member.inputs if n]
            values[member.outputs[0]] = _REAL[member.op](member, *given)
        made = np.broadcast_to(np.asarray(values[layer.outputs[0]], np.float64), real.shape)
        made = _defined(layer, made).clip(-_LARGEST, _LARGEST)
    return np.asarray(quantize(made.astype(np.float32), float(y.scale[0]), int(y.zero_point[0])), np.int8)


_LARGEST = float(np.finfo(np.float32).max)


def _number(network: Network, name: str) -> float:
    return float(network[name].real().reshape(-1)[0])


def _defined(layer: Layer, made: Reals) -> Any:
    known = np.flatnonzero(~np.isnan(made))
    if not known.size:
        raise layer.refusal("it is defined for no value of its input", "look at its constants")
    places = np.arange(made.size)
    return made[known[np.abs(places[:, np.newaxis] - known).argmin(1)]]
