"""Network -> ONNX, the inverse of reading: parameters become QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sgsc_edge.errors import InternalError
from sgsc_edge.graph.ir import DType
from sgsc_edge.lowering.functions import members_of
from sgsc_edge.lowering.network import FUNCTION, UNBOUNDED, Layer, Network, Value

_IR_VERSION = 10
_STORED = {DType.INT8: TensorProto.INT8, DType.INT4: TensorProto.INT4, DType.INT32: TensorProto.INT32}


def write_onnx(network: Network, outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """The network as an ONNX model of batch 1.

    Every activation with parameters is quantized and dequantized where it is made; constants with parameters
    are stored as their integers. ``outputs`` are given out beside the network's own.
    """
    writer = _Writer(network)
    for layer in network.layers:
        writer.add(layer)
    given = dict.fromkeys((*outputs, network.output))
    graph = helper.make_graph(
        writer.nodes,
        network.name,
        [_typed(network[network.input], network.input)],
        [_typed(network[name], writer.read.get(name, name)) for name in given],
        list(writer.initializers.values()),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", network.opset)], ir_version=_IR_VERSION
    )
    for key, value in network.metadata.items():
        model.metadata_props.add(key=key, value=value.decode())
    return model


def _typed(value: Value, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)


def _single(data: NDArray[Any]) -> NDArray[Any]:
    """What passes compute in float64 is float32 in a file."""
    return data.astype(np.float32) if data.dtype == np.float64 else np.asarray(data)


class _Writer:
    """Nodes and initializers so far; ``read`` says under which name a value is read."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.read: dict[str, str] = {}
        self.made: set[str] = set()
        self.given: set[str] = set()
        if network[network.input].quantization is not None:
            self.read[network.input] = self._named(f"{network.input}_dequantized")
            self._quantize(network[network.input], network.input, self.read[network.input])

    def add(self, layer: Layer) -> None:
        """The node of a layer, and what quantizes its outputs."""
        if layer.op == FUNCTION:
            for member in members_of(layer):
                if member.outputs[0] not in self.made:
                    self.add(member)
            return
        self.made.update(layer.outputs)
        if layer.clamp != UNBOUNDED:
            raise InternalError("a fused activation has no form in ONNX", where=layer.name)
        made = {
            name: self._named(f"{name}/float") for name in layer.outputs if name and self._is_quantized(name)
        }
        inputs = [self._read(name) if name else "" for name in layer.inputs]
        outputs = [made.get(name, name) for name in layer.outputs]
        attributes = {
            key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
            for key, value in layer.attributes.items()
        }
        if layer.op == "MatMul" and len(inputs) == 3:  # a bias, which only an Add is in ONNX
            product = self._named(f"{layer.outputs[0]}/product")
            self.nodes.append(helper.make_node("MatMul", inputs[:2], [product], name=layer.name))
            self.nodes.append(helper.make_node("Add", [product, inputs[2]], outputs))
        else:
            self.nodes.append(helper.make_node(layer.op, inputs, outputs, name=layer.name, **attributes))
        for name, source in made.items():
            self._quantize(self.network[name], source, name)

    def _named(self, hint: str) -> str:
        """A name that neither the network nor this writer has given."""
        name, number = hint, 1
        while name in self.network.values or name in self.given:
            name, number = f"{hint}:{number}", number + 1
        self.given.add(name)
        return name

    def _is_quantized(self, name: str) -> bool:
        return self.network[name].quantization is not None

    def _read(self, name: str) -> str:
        value = self.network[name]
        if value.data is None:
            return self.read.get(name, name)
        if name not in self.read:
            self.read[name] = name if value.quantization is None else self._dequantized(value)
            if value.quantization is None:
                self.initializers[name] = numpy_helper.from_array(_single(value.data), name)
        return self.read[name]

    def _dequantized(self, value: Value) -> str:
        assert value.data is not None
        assert value.stored is not None
        integers = self._named(f"{value.name}_quantized")
        if value.stored is DType.INT4:
            flat = value.data.reshape(-1)
            self.initializers[integers] = helper.make_tensor(
                integers, TensorProto.INT4, value.data.shape, flat
            )
        else:  # as bytes: a list of negative integers takes ten bytes each
            self.initializers[integers] = numpy_helper.from_array(value.data, integers)
        axis = None if value.quantization is None else value.quantization.axis
        inputs = [integers, *self._parameters(value, _STORED[value.stored])]
        node = helper.make_node("DequantizeLinear", inputs, [value.name])
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return value.name

    def _quantize(self, value: Value, source: str, target: str) -> None:
        parameters = self._parameters(value, TensorProto.INT8)
        integers = self._named(f"{value.name}_quantized")
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *parameters], [integers]))
        self.nodes.append(helper.make_node("DequantizeLinear", [integers, *parameters], [target]))

    def _parameters(self, value: Value, kind: int) -> list[str]:
        """The names of a value's scale and zero point."""
        quantization = value.quantization
        assert quantization is not None
        names = [self._named(f"{value.name}_{part}") for part in ("scale", "zero_point")]
        scale, zero = quantization.scale, quantization.zero_point
        shape = () if quantization.axis is None else scale.shape
        self.initializers[names[0]] = numpy_helper.from_array(scale.reshape(shape), names[0])
        self.initializers[names[1]] = helper.make_tensor(names[1], kind, shape, zero.reshape(-1).tolist())
        return names
