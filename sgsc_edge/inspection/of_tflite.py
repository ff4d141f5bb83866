"""Inspection of ``.tflite`` files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph import schema
from sgsc_edge.graph.flatbuffer import Record, Span
from sgsc_edge.graph.read_tflite import (
    MAX_FILE_BYTES,
    buffer_content,
    decode_model,
    operator_name,
    tensor_quantization,
    tensor_shape,
)
from sgsc_edge.inspection.byte_map import KINDS, ByteMap, byte_map
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


def inspect_tflite(path: Path) -> Inspection:
    """Inspect a ``.tflite`` file; raises what ``inspect_model`` raises."""
    data = read_bytes(path, MAX_FILE_BYTES)
    spans: list[Span] = []
    model = decode_model(data, where=str(path), spans=spans)
    reader = _TfliteReader(model, byte_map(len(data), spans), str(path))
    tensors = [reader.tensor(index) for index in range(len(reader.records))]
    return Inspection(
        str(path),
        "tflite",
        f"TFLite schema {reader.model['version']}",
        reader.ops(),
        with_channels_removed(tensors, reader.entries()),
        totals_of(tensors, len(data), sum(tensor.parameter_bytes for tensor in tensors)),
        reader.overhead(),
        reader.metadata(),
    )


class _TfliteReader:
    """Summaries of one decoded model."""

    def __init__(self, model: Record, bytes_of: ByteMap, where: str) -> None:
        self.model = model
        self.bytes_of = bytes_of
        self.where = where
        self.subgraph: Record = self.model["subgraphs"][0]
        self.records: list[Record] = self.subgraph["tensors"] or []
        self.operators: list[Record] = self.subgraph["operators"] or []
        self.counted: set[int] = set()
        self.roles: dict[int, str] = {}
        for name, role in (("outputs", "output"), ("inputs", "input")):
            for index in self._list(self.subgraph, name):
                self.roles[index] = role
        weighted = [
            (_WEIGHTED[builtin], inputs)
            for operator in self.operators
            if (builtin := self._builtin(operator)[0]) in _WEIGHTED
            and len(inputs := self._list(operator, "inputs")) > 1
        ]
        self.channel_axes = {inputs[1]: axis for axis, inputs in weighted}
        self.biases = {inputs[2] for _, inputs in weighted if len(inputs) > 2}

    @staticmethod
    def _list(record: Record, name: str) -> list[int]:
        values = record[name]
        return values.tolist() if isinstance(values, np.ndarray) else []

    def _builtin(self, operator: Record) -> tuple[int, str]:
        return operator_name(self.model, operator, self.where)

    def _dtype(self, index: int) -> tuple[str, int]:
        if not 0 <= index < len(self.records):
            raise FileFormatError(f"tensor {index} does not exist", where=self.where)
        number = self.records[index]["type"]
        if number in schema.TENSOR_TYPES:
            return str(schema.TENSOR_TYPES[number]), schema.TENSOR_TYPES[number].bits
        return schema.OTHER_TENSOR_TYPES.get(number, (f"type {number}", 0))

    def ops(self) -> tuple[OpCount, ...]:
        counts: Counter[tuple[str, str]] = Counter()
        for operator in self.operators:
            builtin, name = self._builtin(operator)
            inputs = [index for index in self._list(operator, "inputs") if index >= 0]
            used = inputs[: 2 if builtin in _WEIGHTED else 1]
            counts[name, " x ".join(self._dtype(index)[0] for index in used)] += 1
        return tuple(OpCount(name, dtypes, count) for (name, dtypes), count in counts.items())

    def tensor(self, index: int) -> TensorSummary:
        record = self.records[index]
        name = record["name"] or f"tensor_{index}"
        path = f"tensor {index} '{name}'"
        quantization = tensor_quantization(record, path, self.where)
        content = buffer_content(self.model, record, path, self.where)
        dtype, bits = self._dtype(index)
        share: Share | None = None
        if content is not None:
            plain = quantization is None and dtype in ("int32", "int64", "bool")
            share = "bias" if index in self.biases else "other" if plain else "weights"
        role = self.roles.get(index)
        kind: Kind = "input" if role == "input" else "output" if role == "output" else "activation"
        payload, parameters = 0, self.bytes_of.parameters[index]
        structure = self.bytes_of.tensors[index]
        if content is not None and record["buffer"] not in self.counted:
            self.counted.add(record["buffer"])
            payload = self.bytes_of.contents[record["buffer"]]
            structure += self.bytes_of.buffers[record["buffer"]]
        shape = tensor_shape(record, path, self.where)
        axis = self.channel_axes.get(index) if content is not None else None
        return TensorSummary(
            name,
            "constant" if content is not None and role is None else kind,
            dtype,
            bits,
            _signature(record, shape),
            None if quantization is None else QuantizationSummary.of(quantization),
            payload,
            parameters,
            parameters + structure,
            share,
            shape[axis] if axis is not None and axis < len(shape) else None,
            channel_bits=self._channel_bits(content, dtype, shape, axis),
        )

    @staticmethod
    def _channel_bits(
        content: NDArray[np.uint8] | None, dtype: str, shape: tuple[int, ...], axis: int | None
    ) -> tuple[int, ...] | None:
        if content is None or dtype != "int8" or axis is None or axis >= len(shape):
            return None
        if content.size != math.prod(shape):
            return None
        return channel_bits(content.view(np.int8).reshape(shape), axis)

    def overhead(self) -> tuple[StoredEntry, ...]:
        """Bytes beside values and parameters; call it when every tensor has been looked at."""
        kinds = self.bytes_of.kinds.copy()
        entries = {entry["buffer"] for entry in self.model["metadata"] or []}
        for buffer, size in self.bytes_of.contents.items():
            if buffer not in self.counted:
                kinds["metadata" if buffer in entries else "buffers"] += size
        return tuple(StoredEntry(kind, kinds[kind]) for kind in KINDS)

    def metadata(self) -> tuple[StoredEntry, ...]:
        return tuple(StoredEntry(name, len(content)) for name, content in self.entries())

    def entries(self) -> list[tuple[str, bytes]]:
        """Names and contents of the metadata."""
        buffers = self.model["buffers"] or []
        entries = []
        for entry in self.model["metadata"] or []:
            data = buffers[entry["buffer"]]["data"] if entry["buffer"] < len(buffers) else None
            entries.append((entry["name"] or "", b"" if data is None else data.tobytes()))
        return entries


#: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED: operand 1 is the weights, operand 2 the bias. The axis of the
#: weights' output channels.
_WEIGHTED = {3: 0, 4: 3, 9: 0}


def _signature(record: Record, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """The shape, with ``?`` where the signature leaves a size open."""
    signature = record["shape_signature"]
    if not isinstance(signature, np.ndarray) or signature.size != len(shape):
        return shape
    return tuple("?" if open_ < 0 else size for size, open_ in zip(shape, signature, strict=True))
