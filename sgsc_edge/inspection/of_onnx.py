"""Inspection of ONNX files, QDQ models above all.

Scales and zero points are initializers of their own in ONNX; they are counted with the tensor that they
quantize and not listed. Of each quantized activation, the integer side (the output of QuantizeLinear) is
listed; the float copies that DequantizeLinear makes of it are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph.ir import Quantization
from sgsc_edge.inspection.channels import channel_bits, with_channels_removed
from sgsc_edge.inspection.summary import (
    Inspection,
    Kind,
    OpCount,
    QuantizationSummary,
    Share,
    StoredEntry,
    TensorSummary,
    totals_of,
)

_QDQ = ("QuantizeLinear", "DequantizeLinear")
_BIASED = ("Conv", "ConvTranspose", "Gemm", "LayerNormalization")
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_NO_WEIGHTS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
"""Types of shapes, indices and masks."""

_WIDTHS = {"bool": 8, "float": 32, "double": 64, "bfloat16": 16}


def inspect_onnx(path: Path) -> Inspection:
    """Inspect an ONNX file; raises what ``lowering.read_onnx`` raises."""
    from sgsc_edge.lowering.read_onnx import read_onnx

    model = read_onnx(path)
    reader = _OnnxReader(model, str(path))
    tensors = reader.tensors()
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in reader.model.opset_import)
    quantization_bytes = sum(
        _nbytes(reader.initializers[name]) for name in sorted(reader.parameters & set(reader.initializers))
    )
    metadata = [(entry.key, entry.value.encode()) for entry in reader.model.metadata_props]
    totals = totals_of(tensors, _file_bytes(path, reader.model), quantization_bytes)
    return Inspection(
        str(path),
        "onnx",
        f"ONNX IR {reader.model.ir_version}, opset {opsets}",
        reader.ops(),
        with_channels_removed(tensors, metadata),
        totals,
        reader.overhead(totals.overhead_bytes),
        tuple(StoredEntry(name, len(content)) for name, content in metadata),
    )


def _file_bytes(path: Path, model: onnx.ModelProto) -> int:
    """Bytes of the file and of the data files beside it."""
    locations = {
        entry.value
        for tensor in onnx.load_model(str(path), load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    sizes: list[int] = [file.stat().st_size for file in (path, *(path.parent / name for name in locations))]
    return sum(sizes)


def _nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of the values as stored: 4-bit types two a byte."""
    elements = int(np.prod(tensor.dims, dtype=np.int64))
    return (elements * _bits(tensor.data_type) + 7) // 8


def _channel_axis(node: onnx.NodeProto) -> int:
    """The axis of the output channels of a layer's weights: operand 1 of Conv, Gemm, MatMul."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else -1


def _swaps(node: onnx.NodeProto) -> bool:
    """Whether a node transposes a matrix: the weights [O, I] of a MatMul, which reads them as [I, O]."""
    return node.op_type == "Transpose" and all(list(one.ints) == [1, 0] for one in node.attribute)


def _dtype(number: int) -> str:
    name = onnx.TensorProto.DataType.Name(number).lower()
    return "float32" if name == "float" else "float64" if name == "double" else name


def _bits(number: int) -> int:
    """Bits an element; 0 for text and unknown types."""
    name = onnx.TensorProto.DataType.Name(number).lower()
    if name in _WIDTHS:
        return _WIDTHS[name]
    digits = "".join(c for c in name.removeprefix("complex").split("e")[0] if c.isdigit())
    return int(digits) if digits else 0


class _OnnxReader:
    """Summaries of one model."""

    def __init__(self, model: onnx.ModelProto, where: str) -> None:
        self.model = model
        self.where = where
        self.graph = model.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self.parameters = {name for node in self._qdq() for name in node.input[1:] if name}
        self.quantization: dict[str, Quantization] = {}
        self.parameter_bytes: dict[str, int] = {}
        self.float_copies: set[str] = set()
        sources: dict[str, str] = {}
        for node in self._qdq():
            self._quantize(node)
            if node.op_type == "DequantizeLinear":
                self.float_copies.add(node.output[0])
                sources[node.output[0]] = node.input[0]
        self.biases = {sources.get(name, name) for name in self._bias_inputs()}
        self.channel_axes = dict(self._channel_axes(sources))
        infos = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self.info_bytes = {info.name: info.ByteSize() for info in infos}

    def _qdq(self) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if node.op_type in _QDQ]

    def _bias_inputs(self) -> Iterator[str]:
        """What layers add: their own last input, or of a MatMul what the Add behind it reads beside it."""
        products = {node.output[0] for node in self.graph.node if node.op_type == "MatMul"}
        for node in self.graph.node:
            if node.op_type in _BIASED and len(node.input) > 2:
                yield node.input[2]
            elif node.op_type == "Add":
                yield from (two for one, two in (node.input, node.input[::-1]) if one in products)

    def _channel_axes(self, sources: dict[str, str]) -> Iterator[tuple[str, int]]:
        """The stored weights of every layer, with the axis of its output channels (an embedding's rows)."""
        turned = {node.output[0]: node.input[0] for node in self.graph.node if _swaps(node)}
        for node in self.graph.node:
            if node.op_type in _WEIGHTED and len(node.input) > 1:
                name = turned.get(node.input[1], node.input[1])
                axis = _channel_axis(node)
                yield sources.get(name, name), axis if name == node.input[1] else -1 - axis
            elif node.op_type in ("Gather", "QuantizeLinear") and node.input[0] in sources:
                yield sources[node.input[0]], 0

    def _quantize(self, node: onnx.NodeProto) -> None:
        """Note the parameters of a QuantizeLinear or DequantizeLinear for both of its sides."""
        scale = self._constant(node.input[1])
        zero_point = self._constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if scale is None or scale.ndim > 1 or not np.isfinite(scale).all() or not (scale > 0).all():
            return
        if zero_point is None or zero_point.size != scale.size or not np.isfinite(zero_point).all():
            zero_point = np.zeros(scale.size, np.int64)
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        parameters = Quantization(
            scale.reshape(-1).astype(np.float32),
            zero_point.reshape(-1).astype(np.int64),
            int(axis) if scale.ndim == 1 and scale.size > 1 else None,
        )
        integer = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        self.parameter_bytes[integer] = sum(
            _nbytes(self.initializers[name]) for name in node.input[1:] if name in self.initializers
        )
        for name in (node.input[0], node.output[0]):
            self.quantization.setdefault(name, parameters)

    def _constant(self, name: str) -> NDArray[np.float64] | None:
        """Values of a scale or zero point; float64 holds every value of both kinds."""
        tensor = self.initializers.get(name)
        if tensor is None:
            return None
        try:
            with np.errstate(invalid="ignore"):  # NaN stays NaN and is refused by the caller
                return np.asarray(numpy_helper.to_array(tensor)).astype(np.float64)
        except ValueError as error:
            raise FileFormatError(f"initializer '{name}': {error}", where=self.where) from error

    def overhead(self, total: int) -> tuple[StoredEntry, ...]:
        """``total`` bytes beside values and parameters, by kind."""
        kinds = {
            "nodes": sum(node.ByteSize() for node in self.graph.node),
            "shapes and types": sum(self.info_bytes.values()),
            "metadata": sum(entry.ByteSize() for entry in self.model.metadata_props),
        }
        rest = StoredEntry("initializers, header", total - sum(kinds.values()))
        return (*(StoredEntry(*item) for item in kinds.items()), rest)

    def ops(self) -> tuple[OpCount, ...]:
        counts: Counter[str] = Counter(
            f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            for node in self.graph.node
        )
        return tuple(OpCount(name, "", count) for name, count in counts.items())

    def tensors(self) -> list[TensorSummary]:
        inputs = [value for value in self.graph.input if value.name not in self.initializers]
        outputs = {value.name for value in self.graph.output}
        rows = [self._value(value, "input") for value in inputs]
        rows += [self._initializer(t) for t in self.graph.initializer if t.name not in self.parameters]
        hidden = self.float_copies | outputs | {value.name for value in inputs} | set(self.initializers)
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model)
        except onnx.shape_inference.InferenceError as error:
            raise FileFormatError(f"shapes do not fit: {error}", where=self.where) from error
        rows += [self._value(v, "activation") for v in inferred.graph.value_info if v.name not in hidden]
        return rows + [self._value(value, "output") for value in self.graph.output]

    def _value(self, value: onnx.ValueInfoProto, kind: Kind) -> TensorSummary:
        number = value.type.tensor_type.elem_type
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in value.type.tensor_type.shape.dim
        )
        return self._summary(value.name, kind, number, shape, 0, None)

    def _initializer(self, tensor: onnx.TensorProto) -> TensorSummary:
        quantized = tensor.name in self.quantization
        plain = not quantized and (tensor.data_type in _NO_WEIGHTS or not tensor.dims)
        share: Share = "bias" if tensor.name in self.biases else "other" if plain else "weights"
        return self._summary(
            tensor.name, "constant", tensor.data_type, tuple(tensor.dims), _nbytes(tensor), share
        )

    def _summary(
        self,
        name: str,
        kind: Kind,
        number: int,
        shape: tuple[int | str, ...],
        payload: int,
        share: Share | None,
    ) -> TensorSummary:
        quantization = self.quantization.get(name)
        parameters = self.parameter_bytes.get(name, 0)
        structure = self.info_bytes.get(name, 0)
        if name in self.initializers:
            # Values in fields of varying length may take fewer bytes than their type has.
            structure += max(0, self.initializers[name].ByteSize() - payload)
        axis = self.channel_axes.get(name) if kind == "constant" else None
        channels = shape[axis] if axis is not None and -len(shape) <= axis < len(shape) else None
        return TensorSummary(
            name,
            kind,
            _dtype(number),
            _bits(number),
            shape,
            None if quantization is None else QuantizationSummary.of(quantization),
            payload,
            parameters,
            parameters + structure,
            share,
            channels if isinstance(channels, int) else None,
            channel_bits=self._channel_bits(name, axis) if isinstance(channels, int) else None,
        )

    def _channel_bits(self, name: str, axis: int | None) -> tuple[int, ...] | None:
        tensor = self.initializers[name]
        if axis is None or tensor.data_type != onnx.TensorProto.INT8:
            return None
        try:
            return channel_bits(np.asarray(numpy_helper.to_array(tensor)), axis)
        except ValueError as error:
            raise FileFormatError(f"initializer '{name}': {error}", where=self.where) from error
