"""Inspection of ``.tflite`` files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from sgsc_edge.artifacts import read_bytes
from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph import schema
from sgsc_edge.graph.flatbuffer import Record
from sgsc_edge.graph.read_tflite import (
    MAX_FILE_BYTES,
    buffer_content,
    decode_model,
    operator_name,
    tensor_quantization,
    tensor_shape,
)
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
    reader = _TfliteReader(decode_model(data, where=str(path)), str(path))
    tensors = [reader.tensor(index) for index in range(len(reader.records))]
    return Inspection(
        str(path),
        "tflite",
        f"TFLite schema {reader.model['version']}",
        reader.ops(),
        tuple(tensors),
        totals_of(tensors, len(data), sum(tensor.parameter_bytes for tensor in tensors)),
        reader.metadata(),
    )


class _TfliteReader:
    """Summaries of one decoded model."""

    def __init__(self, model: Record, where: str) -> None:
        self.model = model
        self.where = where
        self.subgraph: Record = self.model["subgraphs"][0]
        self.records: list[Record] = self.subgraph["tensors"] or []
        self.operators: list[Record] = self.subgraph["operators"] or []
        self.counted: set[int] = set()
        self.roles: dict[int, str] = {}
        for name, role in (("outputs", "output"), ("inputs", "input")):
            for index in self._list(self.subgraph, name):
                self.roles[index] = role
        self.biases = {
            inputs[2]
            for operator in self.operators
            if len(inputs := self._list(operator, "inputs")) > 2 and self._builtin(operator)[0] in _WEIGHTED
        }

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
        payload = 0
        if content is not None and record["buffer"] not in self.counted:
            self.counted.add(record["buffer"])
            payload = int(content.size)
        return TensorSummary(
            name,
            "constant" if content is not None and role is None else kind,
            dtype,
            bits,
            _signature(record, tensor_shape(record, path, self.where)),
            None if quantization is None else QuantizationSummary.of(quantization),
            payload,
            _stored_parameters(record),
            share,
        )

    def metadata(self) -> tuple[StoredEntry, ...]:
        buffers = self.model["buffers"] or []
        entries = []
        for entry in self.model["metadata"] or []:
            data = buffers[entry["buffer"]]["data"] if entry["buffer"] < len(buffers) else None
            entries.append(StoredEntry(entry["name"] or "", 0 if data is None else int(data.size)))
        return tuple(entries)


#: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED: operand 1 is the weights, operand 2 the bias.
_WEIGHTED = (3, 4, 9)


def _signature(record: Record, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """The shape, with ``?`` where the signature leaves a size open."""
    signature = record["shape_signature"]
    if not isinstance(signature, np.ndarray) or signature.size != len(shape):
        return shape
    return tuple("?" if open_ < 0 else size for size, open_ in zip(shape, signature, strict=True))


def _stored_parameters(record: Record) -> int:
    stored = record["quantization"]
    if stored is None:
        return 0
    return sum(
        stored[name].nbytes for name in ("scale", "zero_point", "min", "max") if stored[name] is not None
    )
