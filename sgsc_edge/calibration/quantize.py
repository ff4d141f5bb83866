"""A float network and what its values were on samples -> the same network with int8 parameters.

Where quantizers sit is :mod:`sgsc_edge.placement`'s table, as in training. Weights are symmetric with a
scale for each output channel, biases int32 with the product of scales, other constants int8 with one scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.calibration.ranges import Method, Range
from sgsc_edge.errors import ConfigError
from sgsc_edge.graph.ir import DType, Quantization
from sgsc_edge.lowering.functions import fuse_functions
from sgsc_edge.lowering.network import Layer, Network, Value
from sgsc_edge.lowering.passes import run_passes
from sgsc_edge.lowering.passes.batch_norm import fold_batch_norm
from sgsc_edge.lowering.passes.fusion import fuse_bias, is_product
from sgsc_edge.lowering.passes.norms import decompose_norms
from sgsc_edge.lowering.quantizers import rule_name
from sgsc_edge.lowering.write_onnx import write_onnx
from sgsc_edge.numerics import round_half_even
from sgsc_edge.placement import Placement, Step, place
from sgsc_edge.runtimes.onnxruntime import engine_errors

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
_MOST = 127

Readers = Mapping[str, Sequence[Layer]]
"""Value name -> the layers that read it."""
_BIAS_LIMIT = 2.0**30
_INPUT, _CONSTANT = "Input", "Constant"


@dataclass(frozen=True)
class Plan:
    """A float network that is ready, and where its quantizers sit."""

    network: Network
    placement: Placement

    @property
    def watched(self) -> tuple[str, ...]:
        """The values whose ranges are needed."""
        return tuple(
            name
            for name in self.placement.group
            if name in self.placement.rounds and not self.network[name].is_constant
        )


def plan_of(network: Network) -> Plan:
    """Fold biases and BatchNorms, and place quantizers; raises UnsupportedError for an op without a rule."""
    network = run_passes(network, (decompose_norms, fuse_bias, fold_batch_norm, fuse_functions))
    return Plan(network, place(list(_steps(network)), requantize_joins=True))


def quantize_network(
    network: Network, samples: Iterable[NDArray[np.float32]], *, method: Method = "minmax"
) -> Network:
    """The network with int8 parameters, its ranges those of its values on samples.

    Parameters
    ----------
    network: float, as imported.
    samples: float32, each of the input's shape without the batch.
    method: which part of a range a grid covers.

    Raises
    ------
    UnsupportedError: an op without a rule for its quantization.
    ConfigError: no samples. ModelError: a value is not finite on them.
    """
    plan = plan_of(network)
    return with_parameters(plan, observed(plan, samples), method)


def observed(plan: Plan, samples: Iterable[NDArray[np.float32]]) -> dict[str, Range]:
    """The ranges of the watched values on ONNX Runtime."""
    import onnxruntime as ort

    network = plan.network
    names = [name for name in plan.watched if name != network.input]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with engine_errors():
        session = ort.InferenceSession(
            write_onnx(network, names).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    ranges = {name: Range() for name in plan.watched}
    count, wanted = 0, (network[network.input].shape or ())[1:]
    for sample in samples:
        count += 1
        if sample.shape != wanted or sample.dtype != np.float32:
            raise ConfigError(
                f"sample {count} is {sample.dtype} {list(sample.shape)}, the input float32 {list(wanted)}",
                where="calibration",
                remedy="give samples as the model takes them, without a batch",
            )
        with engine_errors():
            outputs = session.run(names, {network.input: sample[np.newaxis]}) if names else []
        for name, values in zip(names, outputs, strict=True):
            ranges[name].add(values, name)
        if network.input in ranges:
            ranges[network.input].add(sample, network.input)
    if not count:
        raise ConfigError("there are no samples to calibrate on", where="calibration", remedy="give some")
    return ranges


def with_parameters(plan: Plan, ranges: Mapping[str, Range], method: Method) -> Network:
    """The planned network with parameters for its values, weights and biases."""
    network, placement = plan.network, plan.placement
    groups: dict[int, Range] = {}
    for name, group in placement.group.items():
        value, own = network[name], groups.setdefault(group, Range())
        if value.data is not None:
            own.add(np.asarray(value.data, np.float32), name)
        elif name in ranges:
            own.join(ranges[name])
    grids = {group: grid(*own.covered(method)) for group, own in groups.items()}
    grids |= {
        group: Quantization.per_tensor(np.float32(scale).item(), zero)
        for group, (scale, zero) in placement.fixed.items()
    }
    changed: dict[str, Value] = {}
    for name, group in placement.group.items():
        value = network[name]
        if value.data is not None:
            changed[name] = _stored(value, grids[group], DType.INT8)
        else:  # also behind ops that only move values: ONNX Runtime then takes them as integer ops
            changed[name] = replace(value, quantization=grids[group])
    parameters = {name: grids[group] for name, group in placement.group.items()}
    layers, readers = [], network.consumers()
    for layer in network.layers:
        if _has_weights(network, layer):
            layer = _weighted(network, layer, parameters[layer.inputs[0]], readers, changed)
        layers.append(layer)
    return network.with_layers(layers, changed.values())


def grid(low: float, high: float) -> Quantization:
    """The int8 grid over a range that holds 0; for a range of nothing, one with a step of 1/255."""
    scale = np.float32((high - low) / 255)
    if scale < np.finfo(np.float32).tiny:
        scale = np.float32(1 / 255)
    zero = int(np.clip(round_half_even(-128 - low / scale), -128, 127))
    return Quantization.per_tensor(float(scale), zero)


def _steps(network: Network) -> Iterable[Step]:
    yield Step(network.input, _INPUT, ())
    seen: set[str] = set()
    for layer in network.layers:
        operands = _operands(network, layer)
        for name in operands:
            if network[name].is_constant and name not in seen:
                seen.add(name)
                yield Step(name, _CONSTANT, ())
        for name in filter(None, layer.outputs):
            yield Step(name, rule_name(network, layer), tuple(operands))


def _operands(network: Network, layer: Layer) -> list[str]:
    """The inputs that lie on grids: activations, and constants beside them."""
    names = [name for name in layer.inputs if name]
    if layer.op in ("Add", "Sub", "Mul", "Concat", "PRelu") or (
        layer.op == "MatMul" and not _has_weights(network, layer)
    ):
        return names
    return [name for name in names if not network[name].is_constant]


def _has_weights(network: Network, layer: Layer) -> bool:
    is_constant = layer.op in _WEIGHTED and network[layer.inputs[1]].is_constant
    return is_constant and not is_product(network, layer)


def _weighted(
    network: Network, layer: Layer, x: Quantization, readers: Readers, changed: dict[str, Value]
) -> Layer:
    """The layer with names of its quantized weights and bias, which are added to ``changed``."""
    weights = network[layer.inputs[1]]
    assert weights.data is not None
    axis = 1 if layer.op == "MatMul" or (layer.op == "Gemm" and not layer.attribute("transB", 0)) else 0
    others = tuple(index for index in range(weights.data.ndim) if index != axis)
    largest = np.abs(weights.data).max(axis=others).astype(np.float64)
    scale = largest / _MOST
    bias = None if layer.input(2) is None else network[layer.inputs[2]]
    if bias is not None:  # a channel of tiny weights must still hold its bias
        real = np.broadcast_to(bias.real().reshape(-1), scale.shape)
        scale = np.maximum(scale, np.abs(real) / (_BIAS_LIMIT * float(x.scale[0])))
    scale = np.where(scale > 0, scale, scale.max() or 1.0).astype(np.float32)
    prefix = _prefix(network, layer, readers, changed)
    own = f"{prefix}.weight"
    grids = Quantization.per_channel(scale, axis)
    changed[own] = replace(_stored(weights, grids, DType.INT8), name=own)
    inputs = [layer.inputs[0], own]
    if bias is not None:
        product = (x.scale[0] * scale).astype(np.float32)
        steps = np.broadcast_to(bias.real().reshape(-1), scale.shape) / product.astype(np.float64)
        integers = np.asarray(round_half_even(steps)).astype(np.int32)
        name = f"{prefix}.bias"
        stored = Quantization(product, np.zeros(product.size, np.int64), 0)
        changed[name] = Value(name, integers.shape, stored, integers, DType.INT32)
        inputs.append(name)
    return replace(layer, inputs=tuple(inputs))


def _prefix(network: Network, layer: Layer, readers: Readers, changed: Mapping[str, Value]) -> str:
    """The layer's name before those of its weights and bias, as PyTorch names them, where the file says it.

    Weights that others read, too, stay what they are: each layer has scales of its own.
    """
    base = layer.inputs[1].removesuffix(".weight")
    if base == layer.inputs[1]:
        base = layer.name.removeprefix("node_")

    def is_taken(name: str) -> bool:
        if name in changed or any(other is not layer for other in readers.get(name, ())):
            return True
        return name in network.values and name not in layer.inputs

    own, number = base, 1
    while is_taken(f"{own}.weight") or is_taken(f"{own}.bias"):
        number += 1
        own = f"{base}_{number}"
    return own


def _stored(value: Value, quantization: Quantization, kind: DType) -> Value:
    """A float constant on a grid."""
    assert value.data is not None
    along = [1] * value.data.ndim
    if quantization.axis is not None:
        along[quantization.axis] = -1
    scale = quantization.scale.astype(np.float64).reshape(along)
    steps = np.asarray(round_half_even(np.asarray(value.data, np.float64) / scale))
    low = -_MOST if quantization.axis is not None else -128
    integers = np.clip(steps + quantization.zero_point.reshape(along), low, 127)
    return replace(value, quantization=quantization, data=integers.astype(kind.numpy), stored=kind)
