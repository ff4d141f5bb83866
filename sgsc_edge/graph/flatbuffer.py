"""Flatbuffers bytes <-> nested dicts, after the tables of ``schema.py``; nothing in the bytes is trusted.

Reading follows the checks of the FlatBuffers verifier (``flatbuffers/verifier.h``): every offset, vtable,
vector and string lies inside the file and is aligned, strings end in a zero byte, and the work is bounded:
a file whose tables and vectors overlap so much that they add up to more than twice its size is refused,
so that time and memory stay linear in the size of the file. Vectors of scalars are read-only views.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph.schema import FILE_IDENTIFIER, OPTIONS, TABLES, Field

#: A decoded table: field name -> scalar, str, ndarray, dict, list of dicts; None where an offset is absent.
Record = dict[str, Any]

MAX_TABLES = 200_000
"""Tables in one file; the largest published ``.tflite`` models hold some ten thousand."""

_STRUCT = {
    "i8": "<b",
    "u8": "<B",
    "bool": "<?",
    "i32": "<i",
    "u32": "<I",
    "f32": "<f",
    "i64": "<q",
    "u64": "<Q",
}
_OPTION_NAMES = {number: name for name, number in OPTIONS.items()}


def decode(data: bytes, *, where: str, root: str = "Model") -> Record:
    """The table ``root`` of a TFLite file.

    Raises FileFormatError, naming the field, for anything that is not a well-formed flatbuffer.
    """
    reader = _Reader(data, where)
    if len(data) < 8:
        raise reader.error(root, f"the file has {len(data)} bytes, fewer than any TFLite file")
    if data[4:8] != FILE_IDENTIFIER:
        raise reader.error(root, f"the file identifier is {data[4:8]!r}, not {FILE_IDENTIFIER!r}")
    return reader.table(reader.offset(0, root), root, root)


class _Reader:
    """Bounds-checked access to one file; ``path`` arguments name the field for error messages."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data = data
        self.where = where
        self.tables = 0
        self.budget = 2 * len(data) + 4096

    def error(self, path: str, reason: str) -> FileFormatError:
        return FileFormatError(
            f"not a valid TFLite file: {path}: {reason}",
            where=self.where,
            remedy="the file is damaged or was not made by a TFLite converter; make it again",
        )

    def span(self, start: int, size: int, path: str, align: int = 1) -> int:
        """``start``, once ``size`` bytes from there are known to lie inside the file, aligned."""
        if start < 0 or start + size > len(self.data):
            raise self.error(path, f"{size} bytes at {start} lie outside the file of {len(self.data)} bytes")
        if start % align:
            raise self.error(path, f"offset {start} is not a multiple of {align}")
        return start

    def spend(self, amount: int, path: str) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise self.error(path, "its parts overlap so much that they exceed twice the file's size")

    def offset(self, start: int, path: str) -> int:
        """Target of the unsigned 32-bit relative offset stored at ``start``."""
        self.span(start, 4, path, 4)
        (relative,) = struct.unpack_from("<I", self.data, start)
        if relative == 0:
            raise self.error(path, "offset 0")
        return start + int(relative)

    def table(self, start: int, name: str, path: str) -> Record:
        """The table of kind ``name`` at ``start``."""
        self.tables += 1
        if self.tables > MAX_TABLES:
            raise self.error(path, f"more than {MAX_TABLES} tables")
        self.span(start, 4, path, 4)
        (relative,) = struct.unpack_from("<i", self.data, start)
        vtable = self.span(start - relative, 4, f"{path} vtable", 2)
        vtable_bytes, table_bytes = struct.unpack_from("<HH", self.data, vtable)
        if vtable_bytes < 4 or vtable_bytes % 2 or table_bytes < 4:
            raise self.error(path, f"vtable of {vtable_bytes} bytes for a table of {table_bytes} bytes")
        self.span(vtable, vtable_bytes, f"{path} vtable")
        self.span(start, table_bytes, path)
        self.spend(table_bytes, path)
        record: Record = {}
        for slot, field in enumerate(TABLES[name]):
            entry = 4 + 2 * slot
            inline = 0
            if entry < vtable_bytes:
                (inline,) = struct.unpack_from("<H", self.data, vtable + entry)
            if inline and inline + field.inline_bytes > table_bytes:
                raise self.error(f"{path}.{field.name}", "the field lies outside its table")
            at = start + inline if inline else None
            record[field.name] = self.field(at, field, f"{path}.{field.name}", record)
        return record

    def field(self, start: int | None, field: Field, path: str, siblings: Record) -> object:
        if field.type == "-":
            return start is not None
        if field.scalar is not None and not field.vector:
            return self.scalar(start, field, path)
        if start is None:
            return None
        target = self.offset(start, path)
        if field.type == "string":
            return self.string(target, path)
        if field.type == "union":
            name = _OPTION_NAMES.get(siblings["options_type"])
            return None if name is None else self.table(target, name, path)
        if not field.vector:
            return self.table(target, field.type, path)
        count = self.count(target, path)
        if field.scalar is not None:
            return self.vector(target, count, field, path)
        self.span(target + 4, 4 * count, path)
        self.spend(4 + 4 * count, path)
        return [
            self.table(self.offset(target + 4 + 4 * i, f"{path}[{i}]"), field.type, f"{path}[{i}]")
            for i in range(count)
        ]

    def scalar(self, start: int | None, field: Field, path: str) -> int | float | bool:
        assert field.scalar is not None
        if start is None:
            kind = field.scalar.kind
            return (
                field.default if kind == "f" else bool(field.default) if kind == "b" else int(field.default)
            )
        self.span(start, field.inline_bytes, path, field.inline_bytes)
        value: int | float | bool
        (value,) = struct.unpack_from(_STRUCT[field.type], self.data, start)
        return value

    def count(self, start: int, path: str) -> int:
        self.span(start, 4, path, 4)
        return int(struct.unpack_from("<I", self.data, start)[0])

    def vector(self, start: int, count: int, field: Field, path: str) -> NDArray[np.generic]:
        assert field.scalar is not None
        size = count * field.scalar.itemsize
        self.span(start + 4, size, path, 1 if count == 0 else field.scalar.itemsize)
        self.spend(4 + size, path)
        return np.frombuffer(self.data, field.scalar, count, start + 4)

    def string(self, start: int, path: str) -> str:
        size = self.count(start, path)
        self.span(start + 4, size + 1, path)
        self.spend(4 + size, path)
        if self.data[start + 4 + size] != 0:
            raise self.error(path, "the text does not end in a zero byte")
        try:
            return self.data[start + 4 : start + 4 + size].decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(path, "the text is not UTF-8") from None


def encode(record: Mapping[str, Any], root: str = "Model") -> bytes:
    """A TFLite file of the table ``root``; equal records give equal bytes.

    Fields that are absent, None or at their default take no space; ``-`` fields are never written.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(_write_table(builder, root, record), file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def _write_table(builder: Any, name: str, record: Mapping[str, Any]) -> int:
    fields = TABLES[name]
    unknown = set(record) - {field.name for field in fields}
    if unknown:
        raise ValueError(f"{name} has no field {sorted(unknown)}")
    children = {
        slot: _write_child(builder, field, record[field.name], record)
        for slot, field in enumerate(fields)
        if field.type != "-" and record.get(field.name) is not None and (field.vector or field.scalar is None)
    }
    builder.StartObject(len(fields))
    # Widest first, as flatc's C++ code does: no padding between the fields.
    for slot, field in sorted(enumerate(fields), key=lambda item: -item[1].inline_bytes):
        if slot in children:
            builder.PrependUOffsetTRelativeSlot(slot, children[slot], 0)
        elif field.scalar is not None and not field.vector and record.get(field.name) is not None:
            value, default = record[field.name], field.default
            if field.scalar.kind != "f":
                value, default = int(value), int(default)
            if value != default:
                _PREPEND[field.type](builder)(value)
                builder.Slot(slot)
    return int(builder.EndObject())


def _write_child(builder: Any, field: Field, value: Any, siblings: Mapping[str, Any]) -> int:
    if field.type == "string":
        return int(builder.CreateString(value))
    if field.type == "union":
        return _write_table(builder, _OPTION_NAMES[siblings["options_type"]], value)
    if field.scalar is not None:
        return _write_bytes(builder, np.ascontiguousarray(value, field.scalar), field.align)
    if not field.vector:
        return _write_table(builder, field.type, value)
    offsets = [_write_table(builder, field.type, item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _write_bytes(builder: Any, values: NDArray[np.generic], align: int) -> int:
    """A vector of scalars, copied at once; ``align`` of its first element counts from the file's start."""
    builder.StartVector(values.itemsize, values.size, max(align, values.itemsize))
    content = values.tobytes()
    builder.head = builder.head - len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    return int(builder.EndVector())


_PREPEND: dict[str, Any] = {
    "i8": lambda builder: builder.PrependInt8,
    "u8": lambda builder: builder.PrependUint8,
    "bool": lambda builder: builder.PrependBool,
    "i32": lambda builder: builder.PrependInt32,
    "u32": lambda builder: builder.PrependUint32,
    "u64": lambda builder: builder.PrependUint64,
    "f32": lambda builder: builder.PrependFloat32,
}
