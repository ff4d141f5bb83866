"""QuantizeLinear/DequantizeLinear nodes become quantization parameters of values.

A pair after a value is that value's quantization; a DequantizeLinear of integers makes a quantized
constant, integers and scales unchanged; a pair on an already quantized value with other parameters
stays as a ``Requantize`` layer.

uint8 is int8 with both zero point and integers lowered by 128: the same real values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.graph.ir import DType, Quantization
from sgsc_edge.lowering.functions import TABLES
from sgsc_edge.lowering.network import FUNCTION, REQUANTIZE, Layer, Network, Value, permutation_of
from sgsc_edge.lowering.passes.fusion import bounds
from sgsc_edge.numerics import round_half_even
from sgsc_edge.placement import RULES, Output

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")

# The integer types a quantizer may have, as device type and the shift that makes them signed.
_TYPES = {
    "int8": (DType.INT8, 0),
    "uint8": (DType.INT8, 128),
    "int4": (DType.INT4, 0),
    "int32": (DType.INT32, 0),
}
_LIMITS = {DType.INT8: (-128, 127), DType.INT4: (-8, 7), DType.INT32: (-(2**31), 2**31 - 1)}


@dataclass(frozen=True, eq=False)
class _Quantizer:
    """Parameters of one Q or DQ node in the device's signed types."""

    quantization: Quantization
    stored: DType
    shift: int


@dataclass
class _Absorption:
    network: Network
    alias: dict[str, str] = field(default_factory=dict)
    pending: dict[str, tuple[str, _Quantizer]] = field(default_factory=dict)  # integers of a Q -> its source
    values: dict[str, Value] = field(default_factory=dict)  # new or changed
    quantized_from: dict[str, str] = field(default_factory=dict)  # raw float value -> the Q that quantizes it
    layers: list[Layer] = field(default_factory=list)

    def value(self, name: str) -> Value:
        return self.values.get(name) or self.network[name]


def has_quantizers(network: Network) -> bool:
    """Whether any QuantizeLinear or DequantizeLinear is left."""
    return any(layer.op in _QUANTIZERS for layer in network.layers)


def absorb(network: Network) -> Network:
    """Turn every Q/DQ node into parameters of values.

    Raises
    ------
    UnsupportedError: block-wise, per-channel activation or non-int8 quantizers, dynamic parameters,
        a value read both before and after its quantizer, or quantized twice in different ways.
    """
    state = _Absorption(network)
    raw_reads: list[tuple[Layer, str]] = []
    for layer in network.layers:
        if layer.op == "QuantizeLinear":
            source = layer.inputs[0]
            state.pending[layer.outputs[0]] = (source, _parameters(state, layer))
        elif layer.op == "DequantizeLinear":
            _dequantize(state, layer)
        else:
            for name in layer.inputs:
                if name in state.pending:
                    raise layer.refusal(
                        f"it reads the integers '{name}' of a QuantizeLinear directly",
                        "put a DequantizeLinear between, so that the op is float with quantizers around it",
                    )
            raw_reads += [(layer, name) for name in layer.inputs if name and name not in state.alias]
            inputs = tuple(state.alias.get(name, name) for name in layer.inputs)
            constant = _moved_constant(state, layer, inputs)
            if constant is not None:
                state.values[layer.outputs[0]] = constant
            else:
                state.layers.append(replace(layer, inputs=inputs))
    output = state.alias.get(network.output, network.output)
    if output == network.output:
        raw_reads.append((Layer(output, "graph output", (output,), ()), output))
    _refuse_raw_reads(state, raw_reads)
    result = network.with_layers(state.layers, state.values.values())
    return replace(result, output=output)


def _parameters(state: _Absorption, layer: Layer) -> _Quantizer:
    scale = state.value(layer.inputs[1]).data
    zero_name = layer.input(2)
    zero = state.value(zero_name).data if zero_name else None
    if scale is None or (zero_name and zero is None):
        raise layer.refusal("its scale or zero point is computed at run time", "use static quantization")
    kind = _integer_type(state, layer, zero)
    if kind not in _TYPES:
        raise layer.refusal(
            f"its integers are {kind}", "quantize to int8 (weights: int8 or int4; biases: int32)"
        )
    if layer.attribute("block_size", 0):
        raise layer.refusal("it is quantized in blocks", "quantize weights per channel or per tensor")
    if scale.dtype != np.float32 or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise layer.refusal("its scale is not a positive, finite float32", "repair the quantizer's scale")
    stored, shift = _TYPES[kind]
    scales = np.atleast_1d(scale).astype(np.float32)
    zeros = np.zeros(scales.shape, np.int64) if zero is None else np.atleast_1d(zero).astype(np.int64)
    if scales.ndim != 1 or scales.shape != zeros.shape:
        raise layer.refusal("its scale and zero point differ in shape", "give one zero point a scale")
    axis: int | None = None
    if scale.ndim == 1 and scales.size > 1:
        shape = state.value(layer.inputs[0]).shape
        axis = layer.attribute("axis", 1)
        axis += len(shape or ()) if axis < 0 else 0
    return _Quantizer(Quantization(scales, zeros - shift, axis), stored, shift)


def _integer_type(state: _Absorption, layer: Layer, zero: NDArray[Any] | None) -> str:
    if zero is not None:
        return zero.dtype.name
    if layer.op == "QuantizeLinear":
        code = layer.attribute("output_dtype", 0)
        return {0: "uint8", 2: "uint8", 3: "int8", 22: "int4"}.get(code, f"of ONNX type {code}")
    data = state.value(layer.inputs[0]).data
    if data is not None:
        return data.dtype.name
    pending = state.pending.get(layer.inputs[0])
    return "int8" if pending is None or pending[1].shift == 0 else "uint8"


def _dequantize(state: _Absorption, layer: Layer) -> None:
    name, out = layer.inputs[0], layer.outputs[0]
    quantizer = _parameters(state, layer)
    integers = state.value(name).data
    if integers is not None:
        state.values[out] = _constant(layer, out, integers, quantizer)
        return
    if name not in state.pending:
        raise layer.refusal(
            "its integers come from no QuantizeLinear and are no constant",
            "let the network start with a float32 input followed by QuantizeLinear",
        )
    source_name, before = state.pending[name]
    if not before.quantization.same_as(quantizer.quantization) or before.shift != quantizer.shift:
        raise layer.refusal(
            "its parameters differ from its QuantizeLinear's", "use the same scale and zero point"
        )
    source = state.value(state.alias.get(source_name, source_name))
    if source.is_constant:
        state.values[out] = _quantized(layer, out, source, quantizer)
        return
    if quantizer.quantization.axis is not None or quantizer.stored is not DType.INT8:
        raise layer.refusal(
            "an activation is quantized per channel or not to int8", "quantize it per tensor, int8"
        )
    if source.quantization is None:
        state.values[source.name] = replace(source, quantization=quantizer.quantization)
        state.quantized_from[source.name] = layer.name
        state.alias[out] = source.name
    elif source.quantization.same_as(quantizer.quantization):
        state.alias[out] = source.name
    elif source_name in state.quantized_from:
        raise layer.refusal(
            f"value '{source_name}' is quantized twice with different parameters",
            "let its readers share one quantizer",
        )
    else:
        state.values[out] = Value(out, source.shape, quantizer.quantization)
        state.layers.append(Layer(layer.name, REQUANTIZE, (source.name,), (out,)))


def _constant(layer: Layer, name: str, integers: NDArray[Any], quantizer: _Quantizer) -> Value:
    """Integers of the file as a quantized constant."""
    axis = quantizer.quantization.axis
    if axis is not None and (
        not 0 <= axis < integers.ndim or integers.shape[axis] != quantizer.quantization.scale.size
    ):
        raise layer.refusal(
            "the number of scales differs from the size of their axis", "repair axis or scales"
        )
    dtype = quantizer.stored.numpy
    data = (integers.astype(np.int64) - quantizer.shift).astype(dtype)
    return Value(name, integers.shape, quantizer.quantization, data, quantizer.stored)


def _quantized(layer: Layer, name: str, source: Value, quantizer: _Quantizer) -> Value:
    """A float constant quantized by ONNX's rule: ``x / scale`` in float32, ties to even, saturated."""
    assert source.data is not None
    if source.quantization is not None or source.data.dtype != np.float32:
        raise layer.refusal(
            "a constant is quantized twice or is not float32", "store the constant's integers once"
        )
    if not np.isfinite(source.data).all():
        raise layer.refusal("a constant is NaN or infinite", "repair the weights")
    along = [1] * source.data.ndim
    if quantizer.quantization.axis is not None:
        along[quantizer.quantization.axis] = -1
    steps = round_half_even(source.data / quantizer.quantization.scale.reshape(along)).astype(np.float64)
    low, high = _LIMITS[quantizer.stored]
    integers = np.clip(steps + quantizer.quantization.zero_point.reshape(along), low, high).astype(np.int64)
    return _constant(layer, name, integers, replace(quantizer, shift=0))


def _moved_constant(state: _Absorption, layer: Layer, inputs: tuple[str, ...]) -> Value | None:
    """A quantized constant that a layer transposes or reshapes, done now; None for other layers."""
    source = state.value(inputs[0]) if inputs and inputs[0] else None
    if source is None or source.data is None or source.quantization is None:
        return None
    out, axis = layer.outputs[0], source.quantization.axis
    shape = state.value(out).shape
    if layer.op == "Transpose":
        order = permutation_of(layer, source.data.ndim)
        moved = replace(source.quantization, axis=None if axis is None else order.index(axis))
        data = np.ascontiguousarray(source.data.transpose(order))
        return Value(out, data.shape, moved, data, source.stored)
    if layer.op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and axis is None and shape is not None:
        if math.prod(shape) != source.data.size:
            raise layer.refusal(
                f"it makes shape {list(shape)} of {source.data.size} values", "repair its shape"
            )
        return Value(out, shape, source.quantization, source.data.reshape(shape), source.stored)
    return None


def _refuse_raw_reads(state: _Absorption, reads: list[tuple[Layer, str]]) -> None:
    """Refuse layers that read a value before its quantizer, unless it lies on that grid anyway."""
    producers = {name: layer for layer in state.layers for name in layer.outputs}
    for layer, name in reads:
        if name not in state.quantized_from or _on_grid(state, producers.get(name), name):
            continue
        raise layer.refusal(
            f"it reads '{name}' as float although another layer reads it quantized",
            f"let it read the DequantizeLinear '{state.quantized_from[name]}' instead",
        )


def _on_grid(state: _Absorption, producer: Layer | None, name: str) -> bool:
    """Whether a value is on its quantizer's grid before it: its producer only moves such values."""
    if producer is None or producer.op not in RULES or RULES[producer.op].output is not Output.MOVED:
        return False
    parameters = state.value(name).quantization
    sources = [state.value(source) for source in producer.inputs if source]
    moved = [source for source in sources if not source.is_constant]
    return parameters is not None and all(parameters.same_as(source.quantization) for source in moved)


# --- parameters of values without a quantizer of their own ----------------------------------------


def spread(network: Network) -> Network:
    """Give parameters to the values around ops that only move, select or clamp integers.

    Backwards: a quantizer after such an op means the same before it, because it is monotone and
    elementwise (a Concat, or a value with one reader). Forwards: integers that are moved keep their
    parameters. AveragePool keeps them too and rounds to the nearest integer, as TFLite defines it.
    """
    found: dict[str, Quantization] = {
        value.name: value.quantization for value in network.values.values() if value.quantization is not None
    }
    readers = network.consumers()
    for layer in reversed(network.layers):
        if not (_moves(network, layer) or layer.op in ("Relu", "Clip")) or len(layer.outputs) > 1:
            continue
        if layer.outputs[0] not in found:
            continue
        for name in network.activations(layer):
            if name not in found and len(readers[name]) == 1 and name != network.output:
                found[name] = found[layer.outputs[0]]
    for layer in network.layers:
        # A constant that is joined has its own parameters, like the values that it is joined with.
        read = [name for name in layer.inputs if name] if layer.op == "Concat" else network.activations(layer)
        sources = [found.get(name) for name in read]
        if not sources or not _keeps(network, layer):
            continue
        first = sources[0]
        if first is not None and all(first.same_as(other) for other in sources):
            found |= {name: first for name in layer.outputs if name and name not in found}
    changed = [
        replace(network[name], quantization=quantization)
        for name, quantization in found.items()
        if network[name].quantization is None
    ]
    return network.with_layers(network.layers, changed)


def rule_name(network: Network, layer: Layer) -> str:
    """Under which name placement has a layer's rule: some ops are quantized like another one."""
    if layer.op == "Gather" and not network[layer.inputs[0]].is_constant:
        return "Slice"  # it takes values; rows of a table have scales of their own
    if layer.op == "LpNormalization":
        return "Tanh"  # both are prescribed the same grid
    return "Gelu" if layer.op == FUNCTION or layer.op in TABLES else layer.op


def _moves(network: Network, layer: Layer) -> bool:
    rule = RULES.get(rule_name(network, layer))
    return rule is not None and rule.output is Output.MOVED


def _keeps(network: Network, layer: Layer) -> bool:
    """Whether an op without a quantizer behind it hands its input's parameters on."""
    return _moves(network, layer) or layer.op in ("Relu", "AveragePool", "Resize")


# --- networks that are checked before they are trained --------------------------------------------

# Where constants are quantized: op -> input positions (None: all).
_QUANTIZED_INPUTS: Mapping[str, tuple[int, ...] | None] = {
    "Conv": (1,), "Gemm": (1,), "MatMul": (0, 1), "Add": None, "Sub": None, "Mul": None, "PRelu": (1,),
    "Concat": None,
}  # fmt: skip


_SMALL = 2.0**-10
"""Scale of stand-in weights: narrow bounds behind a layer then ask for no multiplier that is too large."""


def placeholder_constants(network: Network) -> Network:
    """Stand-in integers for float weights, so that a network can be checked before it is trained."""
    changed = {}
    for layer in network.layers:
        positions = _QUANTIZED_INPUTS.get(layer.op, ())
        for index, name in enumerate(layer.inputs):
            if not name or (positions is not None and index not in positions):
                continue
            value = network[name]
            if value.data is not None and value.quantization is None and value.data.dtype == np.float32:
                changed[name] = replace(
                    value,
                    quantization=Quantization.per_tensor(_SMALL, 0),
                    data=np.zeros(value.data.shape, np.int8),
                    stored=DType.INT8,
                )
    return network.with_layers(network.layers, changed.values())


def placeholder_activations(network: Network) -> Network:
    """Stand-in parameters for the activations of such a network; each op gets some that it accepts."""
    producers = network.producers()
    changed = [
        replace(value, quantization=_placeholder(network, producers.get(value.name)))
        for value in network.values.values()
        if value.data is None
    ]
    return spread(network.with_layers(network.layers, changed))


def _placeholder(network: Network, producer: Layer | None) -> Quantization | None:
    if producer is None:
        return Quantization.per_tensor(1.0, -128)
    rule = RULES.get(rule_name(network, producer))
    if rule is not None and rule.fixed is not None:
        return Quantization.per_tensor(*rule.fixed)
    if producer.op != "Concat" and rule is not None and rule.output in (Output.MOVED, Output.SHARED):
        return None  # spread() hands the input's on; what is joined may have several
    low, high = bounds(network, producer) if producer.op in ("Relu", "Clip") else producer.clamp
    scale = (high - low) / 256
    if np.isfinite(scale) and scale > 0:  # a quantizer whose integers saturate at the bounds
        return Quantization.per_tensor(scale, int(np.clip(np.floor(-128 - low / scale), -128, 127)))
    return Quantization.per_tensor(1.0, -128)
