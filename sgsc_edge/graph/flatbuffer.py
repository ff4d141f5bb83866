"""Flatbuffers bytes <-> nested dicts, after the tables of ``schema.py``; nothing in the bytes is trusted.

Reading follows the checks of the FlatBuffers verifier (``flatbuffers/verifier.h``): every offset, vtable,
vector and string lies inside the file and is aligned, strings end in a zero byte, and the work is bounded:
a file whose tables and vectors overlap so much that they add up to more than eight times its size is
refused, so that time and memory stay linear in the size of the file. (Files that share parts to be small
add up to about twice; ``encode`` shares nothing where it would be too much.) Vectors of scalars are read-only
views.

Writing makes parts (tables, vectors, texts), equal ones once, and lays them out behind the vtables: tables
and vectors of tables, each behind all that refer to it, then texts and vectors of scalars, where short ones
fill the gaps in front of long ones that start at a multiple of 8 or 16.
"""

from __future__ import annotations

import dataclasses
import struct
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import FileFormatError
from sgsc_edge.graph.schema import FILE_IDENTIFIER, OPTIONS, TABLES, Field

#: A decoded table: field name -> scalar, str, ndarray, dict, list of dicts; None where an offset is absent.
Record = dict[str, Any]

MAX_TABLES = 200_000
"""Tables in one file; the largest published ``.tflite`` models hold some ten thousand."""

MAX_OVERLAP = 8
"""Sum of all parts as often as something refers to them, as a multiple of the file's size."""

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


class Span(NamedTuple):
    """Bytes of a file. ``path`` names a table, a vector or a text; its ``" vtable"``, its ``" length"``."""

    path: str
    start: int
    size: int


def decode(data: bytes, *, where: str, root: str = "Model", spans: list[Span] | None = None) -> Record:
    """The table ``root`` of a TFLite file; ``spans`` gets what was read, shared parts once a reference.

    Raises FileFormatError, naming the field, for anything that is not a well-formed flatbuffer.
    """
    reader = _Reader(data, where, spans)
    if len(data) < 8:
        raise reader.error(root, f"the file has {len(data)} bytes, fewer than any TFLite file")
    if data[4:8] != FILE_IDENTIFIER:
        raise reader.error(root, f"the file identifier is {data[4:8]!r}, not {FILE_IDENTIFIER!r}")
    return reader.table(reader.offset(0, root), root, root)


class _Reader:
    """Bounds-checked access to one file; ``path`` arguments name the field for error messages."""

    def __init__(self, data: bytes, where: str, spans: list[Span] | None = None) -> None:
        self.data = data
        self.where = where
        self.spans = spans
        self.tables = 0
        self.budget = MAX_OVERLAP * len(data) + 4096

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
            raise self.error(path, "its parts overlap so much that they exceed eight times the file's size")

    def note(self, path: str, start: int, size: int) -> None:
        if self.spans is not None:
            self.spans.append(Span(path, start, size))

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
        self.note(path, start, table_bytes)
        self.note(f"{path} vtable", vtable, vtable_bytes)
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
        self.note(path, target, 4 + 4 * count)
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
        self.note(f"{path} length", start, 4)
        self.note(path, start + 4, size)
        return np.frombuffer(self.data, field.scalar, count, start + 4)

    def string(self, start: int, path: str) -> str:
        size = self.count(start, path)
        self.span(start + 4, size + 1, path)
        self.spend(4 + size, path)
        self.note(path, start, 4 + size + 1)
        if self.data[start + 4 + size] != 0:
            raise self.error(path, "the text does not end in a zero byte")
        try:
            return self.data[start + 4 : start + 4 + size].decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(path, "the text is not UTF-8") from None


# --- writing --------------------------------------------------------------------------------------


def encode(
    record: Mapping[str, Any], root: str = "Model", *, separate: Collection[str] = (), alignment: int = 1
) -> bytes:
    """A TFLite file of the table ``root``; equal records give equal bytes.

    Fields that are absent, None or at their default take no space; ``-`` fields are never written. Equal
    parts are stored once, but for the tables named in ``separate`` and what these hold. Vectors whose
    alignment the schema forces start at multiples of ``alignment`` (a power of two), too.
    """
    writer = _Writer(frozenset(separate), alignment)
    data = writer.file(writer.table(root, record, shared=True))
    if writer.referred > MAX_OVERLAP * len(data):
        writer = _Writer(frozenset(TABLES), alignment)
        data = writer.file(writer.table(root, record, shared=False))
    return data


@dataclasses.dataclass(eq=False)
class _Part:
    """A table, a vector or a text: 4 bytes, then ``body`` from a multiple of ``align`` on.

    The 4 bytes are the ``count`` of elements, or of a table (``count`` None) the distance to its vtable.
    ``links``: where in ``body`` the offsets of other parts go.
    """

    count: int | None
    body: bytes
    align: int
    links: tuple[tuple[int, _Part], ...] = ()
    vtable: bytes = b""
    start: int = dataclasses.field(default=0, init=False)

    @property
    def size(self) -> int:
        """Bytes up to where the next part may start."""
        return 4 + len(self.body) + -len(self.body) % 4

    @property
    def is_leaf(self) -> bool:
        """Whether it refers to nothing, so that it may lie anywhere behind the tables."""
        return self.count is not None and not self.links

    def gap(self, position: int) -> int:
        """Bytes to leave empty behind ``position``, a multiple of 4."""
        return -(position + 4) % self.align


class _Writer:
    """The parts of one file; a part is made after those that it refers to.

    ``referred``: the bytes of all parts as often as something refers to them.
    """

    def __init__(self, separate: frozenset[str], alignment: int) -> None:
        self.separate = separate
        self.alignment = alignment
        self.referred = 0
        self.parts: list[_Part] = []
        self.known: dict[tuple[object, ...], _Part] = {}

    # --- records to parts -------------------------------------------------------------------------

    def table(self, name: str, record: Mapping[str, Any], *, shared: bool) -> _Part:
        fields = TABLES[name]
        unknown = set(record) - {field.name for field in fields}
        if unknown:
            raise ValueError(f"{name} has no field {sorted(unknown)}")
        shared = shared and name not in self.separate
        body, links, places = b"", [], [0] * len(fields)
        # Widest first: no padding between the fields.
        for slot, field in sorted(enumerate(fields), key=lambda item: -item[1].inline_bytes):
            value = record.get(field.name)
            if value is None or field.type == "-":
                continue
            if field.scalar is None or field.vector:
                links.append((len(body), self.child(field, value, record, shared=shared)))
                stored = bytes(4)
            else:
                value = value if field.scalar.kind == "f" else int(value)
                if value == field.default:
                    continue
                stored = struct.pack(_STRUCT[field.type], value)
            places[slot] = 4 + len(body)
            body += stored
        while places and not places[-1]:
            places.pop()
        align = max([4, *(field.inline_bytes for field, place in zip(fields, places, strict=False) if place)])
        vtable = struct.pack(f"<{2 + len(places)}H", 4 + 2 * len(places), 4 + len(body), *places)
        return self.add(_Part(None, body, align, tuple(links), vtable), shared=shared)

    def child(self, field: Field, value: Any, siblings: Mapping[str, Any], *, shared: bool) -> _Part:
        if field.type == "string":
            text = value.encode()
            return self.add(_Part(len(text), text + b"\0", 4), shared=shared)
        if field.type == "union":
            return self.table(_OPTION_NAMES[siblings["options_type"]], value, shared=shared)
        if field.scalar is not None:
            values = np.ascontiguousarray(value, field.scalar)
            forced = max(field.align, self.alignment) if field.align else 0
            align = max(4, forced, values.itemsize)
            return self.add(_Part(values.size, values.tobytes(), align), shared=shared)
        if not field.vector:
            return self.table(field.type, value, shared=shared)
        items = [self.table(field.type, item, shared=shared) for item in value]
        links = tuple((4 * position, item) for position, item in enumerate(items))
        return self.add(_Part(len(items), bytes(4 * len(items)), 4, links), shared=shared)

    def add(self, part: _Part, *, shared: bool) -> _Part:
        """The part, or the equal one that is there already."""
        self.referred += part.size
        key = (part.count, part.body, part.align, *((at, id(other)) for at, other in part.links), part.vtable)
        if shared and key in self.known:
            return self.known[key]
        self.parts.append(part)
        if shared:
            self.known[key] = part
        return part

    # --- parts to bytes ---------------------------------------------------------------------------

    def file(self, root: _Part) -> bytes:
        vtables: dict[bytes, int] = {}
        end = 8
        for part in self.parts:
            if part.count is None and part.vtable not in vtables:
                vtables[part.vtable] = end
                end += len(part.vtable)
        self.place(end + -end % 4)
        # No padding at the end: what is cut off is missing.
        data = bytearray(max(part.start + 4 + len(part.body) for part in self.parts))
        struct.pack_into("<I4s", data, 0, root.start, FILE_IDENTIFIER)
        for vtable, start in vtables.items():
            data[start : start + len(vtable)] = vtable
        for part in self.parts:
            body = part.start + 4
            head = part.start - vtables[part.vtable] if part.count is None else part.count
            struct.pack_into("<I", data, part.start, head)
            data[body : body + len(part.body)] = part.body
            for at, other in part.links:
                struct.pack_into("<I", data, body + at, other.start - (body + at))
        return bytes(data)

    def place(self, end: int) -> None:
        """Give every part its start, from ``end`` on."""
        # Offsets are unsigned: what refers comes before what is referred to, as in the reverse of making.
        backwards = self.parts[::-1]
        for part in backwards:
            if not part.is_leaf:
                part.start = end + part.gap(end)
                end = part.start + part.size
        widest = max(16, *(part.align for part in backwards))
        narrow = _Narrow([part for part in backwards if part.is_leaf and part.align == 4], widest)
        for part in sorted(backwards, key=lambda part: -part.align):
            if part.is_leaf and part.align > 4:
                while (gap := part.gap(end)) and (filler := narrow.take(gap, part.align)):
                    filler.start = end
                    end += filler.size
                part.start = end + gap
                end = part.start + part.size
        for part in narrow.rest():
            part.start = end
            end += part.size


class _Narrow:
    """Parts that may start at any multiple of 4, by their size modulo the widest alignment (16 at least)."""

    def __init__(self, parts: list[_Part], widest: int) -> None:
        self.widest = widest
        self.queues: dict[int, deque[_Part]] = {residue: deque() for residue in range(0, widest, 4)}
        for part in parts:
            self.queues[part.size % widest].append(part)

    def take(self, gap: int, align: int) -> _Part | None:
        """A part that makes a gap (> 0) in front of a part aligned to ``align`` as small as can be."""
        for size in range(gap, 0, -4):
            for residue in range(size, self.widest, align):
                if self.queues[residue]:
                    return self.queues[residue].popleft()
        return None

    def rest(self) -> list[_Part]:
        """What was not taken."""
        return [part for queue in self.queues.values() for part in queue]
