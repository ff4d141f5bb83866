"""What a ``.tflite`` or ``.onnx`` file holds: ops, tensors, quantization, and where its bytes go.

Reads any well-formed file, ops that the device graph does not have included; nothing is run and torch is
not needed. Sizes are bytes in the file as it is; 1 kB = 1000 bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph import schema
from sgsc_edge.graph.flatbuffer import Record
from sgsc_edge.graph.ir import Quantization
from sgsc_edge.graph.read_tflite import (
    MAX_FILE_BYTES,
    buffer_content,
    decode_model,
    operator_name,
    tensor_quantization,
    tensor_shape,
)

Kind = Literal["input", "output", "constant", "activation"]
Share = Literal["weights", "bias", "other"]
"""What a constant is: weights, biases, or operands such as shapes, axes and paddings."""


@dataclass(frozen=True)
class QuantizationSummary:
    """Range of a tensor's parameters; ``axis`` is None and ``channels`` 1 where they are per tensor."""

    granularity: Literal["per tensor", "per channel"]
    axis: int | None
    channels: int
    scale_min: float
    scale_max: float
    zero_point_min: int
    zero_point_max: int

    @staticmethod
    def of(quantization: Quantization) -> QuantizationSummary:
        """The summary of a tensor's parameters."""
        scale, zero_point = quantization.scale, quantization.zero_point
        return QuantizationSummary(
            "per tensor" if quantization.axis is None else "per channel",
            quantization.axis,
            int(scale.size),
            float(scale.min()),
            float(scale.max()),
            int(zero_point.min()),
            int(zero_point.max()),
        )

    def __str__(self) -> str:
        scale = f"{self.scale_min:.6g}"
        if self.scale_max != self.scale_min:
            scale += f"..{self.scale_max:.6g}"
        zero_point = str(self.zero_point_min)
        if self.zero_point_max != self.zero_point_min:
            zero_point += f"..{self.zero_point_max}"
        where = "" if self.axis is None else f", {self.channels} channels on axis {self.axis}"
        return f"scale {scale}, zero point {zero_point}{where}"


@dataclass(frozen=True)
class TensorSummary:
    """One tensor. Sizes of unknown or symbolic dimensions are text.

    ``payload_bytes`` are its values in the file (0 unless constant; a buffer that several tensors share is
    counted at the first), ``parameter_bytes`` its scales and zero points; ``bits`` is 0 where unknown.
    """

    name: str
    kind: Kind
    dtype: str
    bits: int
    shape: tuple[int | str, ...]
    quantization: QuantizationSummary | None
    payload_bytes: int
    parameter_bytes: int
    share: Share | None = None


@dataclass(frozen=True)
class OpCount:
    """How often an op occurs on one combination of dtypes (``int8 x int4`` is activations x weights)."""

    name: str
    dtypes: str
    count: int


@dataclass(frozen=True)
class Totals:
    """Bytes of the file by use; they add up to ``file_bytes``.

    ``overhead_bytes`` is the rest: names, shapes, the graph itself, headers, padding and stored metadata.
    """

    file_bytes: int
    weights_bytes: int
    bias_bytes: int
    other_constants_bytes: int
    quantization_bytes: int
    overhead_bytes: int


@dataclass(frozen=True)
class StoredEntry:
    """A metadata entry of the file: its name and the size of its content."""

    name: str
    nbytes: int


@dataclass(frozen=True)
class Inspection:
    """A model file: its format's ``version``, what it holds, and the metadata stored with it."""

    file: str
    format: Literal["tflite", "onnx"]
    version: str
    ops: tuple[OpCount, ...]
    tensors: tuple[TensorSummary, ...]
    totals: Totals
    metadata: tuple[StoredEntry, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same facts as a JSON-ready document of dicts, lists, numbers, text and None."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return document

    def to_text(self) -> str:
        """Tables for a terminal; control characters in names are escaped."""
        totals = self.totals
        sections = [
            f"{_printable(self.file)}: {self.version}, {totals.file_bytes:,} bytes",
            _table(
                ("bytes", "share", "what"),
                [
                    (f"{count:,}", f"{100 * count / totals.file_bytes:.1f} %", what)
                    for what, count in (
                        ("weights", totals.weights_bytes),
                        ("biases", totals.bias_bytes),
                        ("other constants", totals.other_constants_bytes),
                        ("scales and zero points", totals.quantization_bytes),
                        ("graph, names, metadata", totals.overhead_bytes),
                    )
                ],
            ),
            _table(("count", "op", "dtypes"), [(str(op.count), op.name, op.dtypes) for op in self.ops]),
            _table(
                ("tensor", "kind", "dtype", "shape", "bytes", "parameters", "quantization"),
                [_row(tensor) for tensor in self.tensors],
            ),
        ]
        return "\n\n".join(sections) + "\n"


def inspect_model(path: str | Path) -> Inspection:
    """Inspect a model file; the ending says what it is.

    Raises FileFormatError where the file is missing, too large or damaged, or is neither ``.tflite`` nor
    ``.onnx``; UnsupportedError where it needs a version that is not known.
    """
    path = Path(path)
    if path.suffix == ".tflite":
        return _inspect_tflite(path)
    if path.suffix == ".onnx":
        from sgsc_edge.inspection_onnx import inspect_onnx

        return inspect_onnx(path)
    raise FileFormatError(
        f"the ending '{path.suffix}' is not known", where=str(path), remedy="give a .tflite or an .onnx file"
    )


def totals_of(tensors: list[TensorSummary], file_bytes: int, quantization_bytes: int) -> Totals:
    """Add up the constants by share; what is left of the file is overhead."""
    shares: Counter[str] = Counter()
    for tensor in tensors:
        shares[tensor.share or ""] += tensor.payload_bytes
    known = sum(shares.values()) + quantization_bytes
    return Totals(
        file_bytes,
        shares["weights"],
        shares["bias"],
        shares["other"],
        quantization_bytes,
        file_bytes - known,
    )


# --- TFLite ---------------------------------------------------------------------------------------


def _inspect_tflite(path: Path) -> Inspection:
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


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The file's content; FileFormatError where it cannot be read, is no file or exceeds ``max_bytes``."""
    try:
        if not path.is_file():
            raise FileFormatError("there is no such file", where=str(path), remedy="check the path")
        size = path.stat().st_size
        if size > max_bytes:
            raise FileFormatError(f"the file has {size} bytes, at most {max_bytes} are read", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise FileFormatError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="check the path and its permissions"
        ) from error


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


# --- text -----------------------------------------------------------------------------------------


def _row(tensor: TensorSummary) -> tuple[str, ...]:
    return (
        tensor.name,
        tensor.kind,
        tensor.dtype,
        "x".join(str(size) for size in tensor.shape) or "scalar",
        f"{tensor.payload_bytes:,}" if tensor.payload_bytes else "",
        f"{tensor.parameter_bytes:,}" if tensor.parameter_bytes else "",
        "" if tensor.quantization is None else str(tensor.quantization),
    )


def _printable(text: str, width: int = 60) -> str:
    """``text`` without control characters, its middle left out beyond ``width`` characters."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = (width - 1) // 2
    return clean if len(clean) <= width else f"{clean[:half]}…{clean[-half:]}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell; numbers right-aligned."""
    cells = [header, *(tuple(_printable(cell, 80) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    numeric = [
        all(row[column][:1].isdigit() or not row[column] for row in cells[1:])
        for column in range(len(header))
    ]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )
