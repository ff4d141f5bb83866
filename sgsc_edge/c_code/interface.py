"""What the user of a generated model sees of it: its name, its version, the structs of inputs and outputs.

Every package has the same ones, whatever computes the model: C names are made here alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.c_code.struct_layout import Member, Struct
from sgsc_edge.c_code.text import braced, decimal_literal, numbers
from sgsc_edge.c_names import RESERVED, identifier, model_name
from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.ir import DType, Graph, Tensor

Kind = Literal["input", "output"]
KINDS: tuple[Kind, Kind] = ("input", "output")

VERSION = "version"
"""A model's version in the user's counting: entry ``sgsc.version`` of its metadata, a JSON string."""
_VERSION = re.compile(r'"([A-Za-z0-9][A-Za-z0-9._+-]{0,49})"')
_HASH_DIGITS = 12

_SAMPLES = 8
_SAMPLE_BYTES = 16 * 1024
_LARGEST_SAMPLE = 64 * 1024

_TYPES = {DType.INT8: "int8_t", DType.INT32: "int32_t", DType.FLOAT32: "float"}


@dataclass(frozen=True, eq=False)
class Interface:
    """A model's inputs and outputs as C structs.

    Parameters
    ----------
    name: of the model, as part of C names.
    version: the user's, or the first digits of the hash.
    structs: what the caller holds, by kind; members in the graph's order.
    """

    name: str
    version: str
    structs: Mapping[Kind, Struct]

    @staticmethod
    def of(graph: Graph, name: str, model_hash: str) -> Interface:
        """The interface of a graph.

        Raises UnsupportedError for a type that has none in C, ConfigError for a name that is too long.
        """
        for tensor in [graph[name] for name in (*graph.inputs, *graph.outputs)]:
            if tensor.dtype not in _TYPES:
                raise UnsupportedError(
                    node=tensor.name,
                    op="input or output",
                    reason=f"it is {tensor.dtype}; the C code takes and gives int8, int32 and float32",
                    remedy="convert the model with int8 inputs and outputs",
                    wanted="written as C",
                )
        stated = graph.metadata.get(f"sgsc.{VERSION}", b"").decode("utf-8", "replace")
        found = _VERSION.fullmatch(stated)
        structs: dict[Kind, Struct] = {
            "input": Struct.of(_members(graph, graph.inputs)),
            "output": Struct.of(_members(graph, graph.outputs)),
        }
        return Interface(model_name(name), found[1] if found else model_hash[:_HASH_DIGITS], structs)

    def macro(self, *parts: str) -> str:
        """The name of a constant: ``SGSC_<MODEL>_<PARTS>``."""
        return "_".join(("SGSC", self.name, *parts)).upper()

    def member(self, kind: Kind, tensor: str) -> str:
        """What the struct calls a tensor."""
        return next(each.name for each in self.structs[kind].members if each.tensor.name == tensor)

    def constants(self) -> str:
        """Shape and size of every input and output; the grid of those that are int8."""
        lines = ["/* Elements and shapes; real = SCALE * (integer - ZERO_POINT) */"]
        for kind, member in self.members():
            tensor, macro = member.tensor, self.macro(kind, member.name)
            lines.append(f"#define {macro}_SIZE {tensor.elements}")
            lines.append(f"#define {macro}_SHAPE {braced(tensor.shape or (1,))}")
            if (found := grid(tensor)) is not None:
                lines.append(f"#define {macro}_SCALE {decimal_literal(found[0])}")
                lines.append(f"#define {macro}_ZERO_POINT ({found[1]})")
        return "\n".join(lines)

    def types(self) -> str:
        """The structs."""
        return "\n\n".join(self._struct(kind) for kind in KINDS)

    def _struct(self, kind: Kind) -> str:
        lines = []
        for member in self.structs[kind].members:
            tensor = member.tensor
            shape = " x ".join(map(str, tensor.shape)) or "one value"
            lines.append(f"    {_TYPES[tensor.dtype]} {member.name}[{tensor.elements}]; /* {shape} */")
        return "typedef struct {\n" + "\n".join(lines) + f"\n}} sgsc_{self.name}_{kind};"

    def members(self) -> list[tuple[Kind, Member]]:
        """Of both structs."""
        return [(kind, member) for kind in KINDS for member in self.structs[kind].members]

    def samples(self, kind: Kind, values: Mapping[str, NDArray[Any]], declared: str) -> str:
        """An array of structs: ``values`` by tensor, each [n, ...]; ``declared`` is all before its size."""
        members = self.structs[kind].members
        rows = []
        for number in range(len(values[members[0].tensor.name])):
            texts = [
                numbers(values[each.tensor.name][number].reshape(-1), decimal_literal) for each in members
            ]
            rows.append("  {\n" + "\n".join(f"    {{\n{text}\n    }}," for text in texts) + "\n  },")
        joined = "\n".join(rows)
        return f"{declared}[{len(rows)}] = {{\n{joined}\n}};\n"

    def described(self, kind: Kind) -> list[dict[str, Any]]:
        """How a struct lies in memory and what its integers mean: for whoever feeds bytes."""
        described = []
        for member in self.structs[kind].members:
            found = grid(member.tensor)
            described.append(
                {
                    "tensor": member.tensor.name,
                    "member": member.name,
                    "type": str(member.tensor.dtype),
                    "shape": list(member.tensor.shape),
                    "offset": member.offset,
                    "bytes": member.bytes,
                    "scale": None if found is None else found[0],
                    "zero_point": None if found is None else found[1],
                }
            )
        return described


def grid(tensor: Tensor) -> tuple[float, int] | None:
    """Scale and zero point of an int8 input or output; None where it has none."""
    if tensor.quantization is None or tensor.dtype is not DType.INT8:
        return None
    return float(np.float32(tensor.quantization.scale[0])), int(tensor.quantization.zero_point[0])


def selftest_samples(graph: Graph) -> int:
    """How many samples a package holds: they lie in the device's flash, so their bytes are limited.

    At least one, but none where one alone takes more than 64 KiB: it would decide what fits a device.
    """
    values = [graph[name] for name in (*graph.inputs, *graph.outputs)]
    one = sum(tensor.elements * tensor.dtype.numpy.itemsize for tensor in values)
    return min(_SAMPLES, max(1, _SAMPLE_BYTES // one)) if one <= _LARGEST_SAMPLE else 0


def _members(graph: Graph, names: Sequence[str]) -> dict[str, Tensor]:
    """Tensors by the names that a struct has for them, each another one."""
    members: dict[str, Tensor] = {}
    for name in names:
        member = identifier(name)
        while member in members or member in RESERVED:
            member += "_"
        members[member] = graph[name]
    return members
