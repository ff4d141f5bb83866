"""What each byte of a ``.tflite`` file is there for.

Every byte counts once, for the first that refers to it; what nothing that is read refers to is padding (in
files of other converters also signatures and the like, which are not read).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sgsc_edge.graph.flatbuffer import Span

#: Kinds of overhead, in the order of reports.
KINDS = ("names", "shapes", "tensors", "operators", "buffers", "metadata", "vtables", "header", "padding")

_TENSOR = re.compile(r"Model\.subgraphs\[0\]\.tensors\[(\d+)\]\.?(.*)")
_BUFFER = re.compile(r"Model\.buffers\[(\d+)\](.*)")
_PARAMETERS = frozenset(f"quantization.{name}" for name in ("scale", "zero_point", "min", "max"))
_TENSOR_KINDS = {"name": "names", "shape": "shapes", "shape_signature": "shapes"}
_PREFIXES = (
    ("Model.operator_codes", "operators"),
    ("Model.subgraphs[0].operators", "operators"),
    ("Model.subgraphs[0].tensors", "tensors"),
    ("Model.subgraphs[0].name", "names"),
    ("Model.description", "names"),
    ("Model.metadata", "metadata"),
    ("Model.buffers", "buffers"),
)


@dataclass
class ByteMap:
    """Bytes by use: of each buffer's content, each tensor's parameters, and the rest.

    ``kinds`` is the rest by kind. ``tensors`` and ``buffers`` hold how much of it is there for one tensor
    (its table, shape, name) or one buffer alone; the places in lists are nobody's.
    """

    contents: Counter[int] = field(default_factory=Counter)
    parameters: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    tensors: Counter[int] = field(default_factory=Counter)
    buffers: Counter[int] = field(default_factory=Counter)

    def add(self, path: str, size: int) -> None:
        """Count ``size`` bytes of the part ``path``."""
        if path.endswith(" vtable"):
            self.kinds["vtables"] += size
        elif match := _TENSOR.fullmatch(path):
            index, part = int(match[1]), match[2]
            if part in _PARAMETERS:
                self.parameters[index] += size
                return
            self.kinds[_TENSOR_KINDS.get(part.removesuffix(" length"), "tensors")] += size
            self.tensors[index] += size
        elif match := _BUFFER.fullmatch(path):
            index = int(match[1])
            if match[2] == ".data":
                self.contents[index] += size
                return
            self.kinds["buffers"] += size
            self.buffers[index] += size
        else:
            self.kinds[next((kind for prefix, kind in _PREFIXES if path.startswith(prefix)), "header")] += (
                size
            )


def byte_map(size: int, spans: Sequence[Span]) -> ByteMap:
    """The bytes of a file of ``size`` bytes, of which ``spans`` were read."""
    result = ByteMap()
    taken = np.zeros(size, np.bool_)
    for path, start, count in (Span("header", 0, 8), *spans):
        part = taken[start : start + count]
        fresh = part.size - int(np.count_nonzero(part))
        if fresh:
            part[:] = True
            result.add(path, fresh)
    result.kinds["padding"] += size - int(np.count_nonzero(taken))
    return result
