"""A model as C99: no interpreter, no allocation, nothing but ``<stdint.h>``.

``sgsc_<name>.h`` says how to use it, ``model.c`` holds the kernels that it needs and their calls,
``weights.c`` its constant data, ``selftest.c`` samples with the outputs that they must give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.c_code.calls import Call, calls, float_literal
from sgsc_edge.c_code.kernel_text import kernel_sources
from sgsc_edge.c_code.memory_plan import Layout
from sgsc_edge.c_code.schedule import Memory, Schedule, Step, arrange
from sgsc_edge.c_code.struct_layout import Struct
from sgsc_edge.c_names import RESERVED, header_name, identifier, model_name
from sgsc_edge.errors import UnsupportedError
from sgsc_edge.graph.ir import DType, Graph, Tensor

Array = NDArray[Any]

VERSION = "version"
"""A model's version in the user's counting: entry ``sgsc.version`` of its metadata, a JSON string."""
_VERSION = re.compile(r'"([A-Za-z0-9][A-Za-z0-9._+-]{0,49})"')
_HASH_DIGITS = 12

_SAMPLES = 8
_SAMPLE_BYTES = 16 * 1024
_LARGEST_SAMPLE = 64 * 1024

_TYPES = {DType.INT8: "int8_t", DType.INT32: "int32_t", DType.FLOAT32: "float"}
_WIDTH = 100
"""Characters of a line of numbers."""


@dataclass(frozen=True, eq=False)
class Written:
    """A step as it was written: its calls, and the bytes of constants that no step before it has."""

    step: Step
    calls: tuple[Call, ...]
    constant_bytes: int


@dataclass(frozen=True, eq=False)
class CCode:
    """The files of a package by name, and what they take.

    Parameters
    ----------
    name: of the model, as part of C names.
    inputs, outputs: the structs that the caller holds.
    steps: in the order in which they run.
    memory: where the values between steps lie.
    constant_bytes: of weights, biases, multipliers and tables.
    """

    name: str
    files: Mapping[str, str]
    inputs: Struct
    outputs: Struct
    steps: tuple[Written, ...]
    memory: Memory
    constant_bytes: int

    @property
    def input_bytes(self) -> int:
        """Size of the struct of inputs."""
        return self.inputs.bytes

    @property
    def output_bytes(self) -> int:
        """Size of the struct of outputs."""
        return self.outputs.bytes

    @property
    def calls(self) -> list[Call]:
        """Of all steps."""
        return [call for step in self.steps for call in step.calls]

    @property
    def arena(self) -> Layout:
        """The layout of the values between steps."""
        return self.memory.layout


def c_code(
    graph: Graph,
    *,
    name: str,
    model_hash: str,
    samples: tuple[Mapping[str, Array], Mapping[str, Array]] | None = None,
    learned: bool = False,
) -> CCode:
    """Write a device graph as C.

    Parameters
    ----------
    name: of the model; what C does not take in names becomes ``_``.
    model_hash: SHA-256 of the ``.tflite``, 64 hexadecimal digits.
    samples: inputs and outputs for the self-test, by tensor name, each [n, ...].
    learned: pack every filter at the smallest width that holds its weights.

    Raises
    ------
    UnsupportedError: an op or a type has no kernel in C.
    ConfigError: the name is too long.
    """
    writer = _Writer(graph, model_name(name), model_hash, learned)
    files = {
        header_name(writer.name): writer.header(),
        "model.c": writer.model(),
        "weights.h": writer.declarations(),
        "weights.c": writer.weights(),
        "selftest.c": writer.selftest(samples),
    }
    return CCode(
        writer.name,
        files,
        writer.structs["input"],
        writer.structs["output"],
        tuple(map(Written, writer.schedule.steps, map(tuple, writer.calls), writer.step_bytes)),
        writer.memory,
        writer.constant_bytes(),
    )


def selftest_samples(graph: Graph) -> int:
    """How many samples a self-test holds: they lie in the device's flash, so their bytes are limited.

    At least one, but none where one alone takes more than 64 KiB: it would decide what fits a device.
    """
    one = sum(_bytes(graph[name]) for name in (*graph.inputs, *graph.outputs))
    return min(_SAMPLES, max(1, _SAMPLE_BYTES // one)) if one <= _LARGEST_SAMPLE else 0


class _Writer:
    """Collects what the files share."""

    def __init__(self, graph: Graph, name: str, model_hash: str, learned: bool) -> None:
        self.graph, self.name, self.model_hash = graph, name, model_hash
        for tensor in [graph[name] for name in (*graph.inputs, *graph.outputs)]:
            if tensor.dtype not in _TYPES:
                raise UnsupportedError(
                    node=tensor.name,
                    op="input or output",
                    reason=f"it is {tensor.dtype}; the C code takes and gives int8, int32 and float32",
                    remedy="convert the model with int8 inputs and outputs",
                    wanted="written as C",
                )
        self.members = {
            **_members("input", graph.inputs),
            **_members("output", graph.outputs),
        }
        self.structs = {
            kind: Struct.of({self.members[kind, name]: graph[name] for name in names})
            for kind, names in (("input", graph.inputs), ("output", graph.outputs))
        }
        self.schedule = Schedule.of(graph)
        self.calls: list[list[Call]] = [
            calls(step, self.schedule.operands(step), graph[step.output], learned)
            for step in self.schedule.steps
        ]
        self.memory: Memory = arrange(
            self.schedule, [max(call.scratch for call in made) for made in self.calls]
        )
        self.constants: dict[str, Array] = {}
        self.parameters: list[str] = []
        self.step_bytes: list[int] = []
        self.body = self._body()

    # --- the header -------------------------------------------------------------------------------

    def header(self) -> str:
        guard = f"SGSC_{self.name.upper()}_H"
        structs = "\n\n".join(self._struct(kind) for kind in ("input", "output"))
        return f"""/* Made by sgsc-edge; do not edit. */
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* The project's version, or the first digits of the hash. */
#define SGSC_{self.name.upper()}_VERSION "{self._version()}"

/* RAM for the values between steps: static memory of model.c. */
#define SGSC_{self.name.upper()}_ARENA_BYTES {max(self.memory.layout.size, 1)}

{self._grids()}

{structs}

/* SHA-256 of the .tflite that this code computes, integer for integer. */
extern const uint8_t sgsc_{self.name}_hash[32];

/* Computes the output of an input. Uses static memory: not from two threads at once. */
void sgsc_{self.name}_invoke(const sgsc_{self.name}_input *input, sgsc_{self.name}_output *output);

/* Runs the samples of selftest.c, with `output` as room for what they give; 0, or the number of the first one
   (from 1) that differs. */
int sgsc_{self.name}_selftest(sgsc_{self.name}_output *output);

#ifdef __cplusplus
}}
#endif

#endif
"""

    def _version(self) -> str:
        stated = self.graph.metadata.get(f"sgsc.{VERSION}", b"").decode("utf-8", "replace")
        found = _VERSION.fullmatch(stated)
        return found[1] if found else self.model_hash[:_HASH_DIGITS]

    def _struct(self, kind: str) -> str:
        lines = []
        for member in self.structs[kind].members:
            tensor = member.tensor
            shape = " x ".join(map(str, tensor.shape)) or "one value"
            lines.append(f"    {_TYPES[tensor.dtype]} {member.name}[{tensor.elements}]; /* {shape} */")
        return "typedef struct {\n" + "\n".join(lines) + f"\n}} sgsc_{self.name}_{kind};"

    def _grids(self) -> str:
        """Shape and size of every input and output; the grid of those that are int8."""
        lines = ["/* Elements and shapes; real = SCALE * (integer - ZERO_POINT) */"]
        for kind, names in (("input", self.graph.inputs), ("output", self.graph.outputs)):
            for name in names:
                tensor = self.graph[name]
                macro = f"SGSC_{self.name}_{kind}_{self.members[kind, name]}".upper()
                lines.append(f"#define {macro}_SIZE {tensor.elements}")
                lines.append(f"#define {macro}_SHAPE {{{', '.join(map(str, tensor.shape or (1,)))}}}")
                if tensor.quantization is not None and tensor.dtype is DType.INT8:
                    scale = float(np.float32(tensor.quantization.scale[0]))
                    lines.append(f"#define {macro}_SCALE {scale:.9e}f")
                    lines.append(f"#define {macro}_ZERO_POINT ({int(tensor.quantization.zero_point[0])})")
        return "\n".join(lines)

    # --- model.c ----------------------------------------------------------------------------------

    def model(self) -> str:
        used = [kernel for made in self.calls for call in made for kernel in call.kernels]
        kernels = kernel_sources([*used, *(["move"] if self._copies() else [])])
        arena = self.memory.layout.size
        memory = (
            f"/* Values that are never alive at once share memory. */\n"
            f"#ifndef SGSC_ARENA_ATTRIBUTES\n#define SGSC_ARENA_ATTRIBUTES\n#endif\n"
            f"static union {{\n    int8_t bytes[SGSC_{self.name.upper()}_ARENA_BYTES];\n"
            f"    uint32_t aligned;\n}} arena SGSC_ARENA_ATTRIBUTES;\n\n"
            if arena
            else ""
        )
        digits = ", ".join(f"0x{self.model_hash[i : i + 2]}" for i in range(0, 64, 2))
        return (
            f'/* Made by sgsc-edge; do not edit. */\n#include "{header_name(self.name)}"\n'
            f'#include "weights.h"\n\n{self._size_checks()}\n'
            f"const uint8_t sgsc_{self.name}_hash[32] = {{{digits}}};\n\n{kernels}\n{memory}"
            + "\n\n".join(self.parameters)
            + f"\n\nvoid sgsc_{self.name}_invoke(const sgsc_{self.name}_input *input, "
            f"sgsc_{self.name}_output *output)\n{{\n{self.body}}}\n"
        )

    def _size_checks(self) -> str:
        """Types that a compiler refuses where a struct is not as long as the package says."""
        lines = ["/* Structs are as long as package.json says. */"]
        for kind, struct in self.structs.items():
            name = f"sgsc_{self.name}_{kind}"
            lines.append(f"typedef char {name}_size[sizeof({name}) == {struct.bytes} ? 1 : -1];")
        return "".join(f"{line}\n" for line in lines)

    def _body(self) -> str:
        lines = []
        for number, (step, made) in enumerate(zip(self.schedule.steps, self.calls, strict=True)):
            source = step.node.source or step.node.outputs[0]
            before = self.constant_bytes()
            for part, call in enumerate(made):
                made_call = f"{self._call(number, part, call, step.output)} /* {_comment(source)} */"
                if call.images == 1:
                    lines.append(f"    {made_call}")
                else:
                    repeat = f"    for (int32_t i = 0; i < {call.images}; i++) {{"
                    lines += [repeat, f"        {made_call}", "    }"]
            self.step_bytes.append(self.constant_bytes() - before)
        for name, source_name in self._copies():
            lines.append(f"    {self._copy(name, source_name)}")
        unused = [] if any("input->" in line for line in lines) else ["    (void)input;"]
        return "".join(f"{line}\n" for line in (*unused, *lines))

    def _call(self, number: int, part: int, call: Call, output: str) -> str:
        arguments = list(call.plain)
        if call.struct is not None:
            label = f"step_{number}" + (f"_{part}" if part else "")
            constants = {
                key: self._constant(f"{label}_{key}", array) for key, array in call.constants.items()
            }
            values = {key: _value(value) for key, value in call.parameters.items()}
            members = [f"    .{key} = {value}," for key, value in (constants | values).items()]
            text = "\n".join(members)
            self.parameters.append(f"static const sgsc_{call.struct} {label} = {{\n{text}\n}};")
            arguments.append(f"&{label}")
        read = [self._address(tensor, read=True) for tensor in call.operands]
        if call.start:
            read[0] += f" + {call.start}"
        if call.images > 1:
            read[0] += f" + i * {call.operands[0].elements // call.images}"
        arguments += read
        if call.scratch:
            arguments.append(f"arena.bytes + {self.memory.scratch[number]}")
        target = self._address(self.graph[output], read=False)
        if call.offset:
            target += f" + {call.offset}"
        if call.images > 1:
            target += f" + i * {self.graph[output].elements // call.images}"
        arguments.append(target)
        return f"sgsc_{call.function}({', '.join(arguments)});"

    def _address(self, tensor: Tensor, read: bool) -> str:
        """Where a value lies; constants that ops read like values become data of their own."""
        if tensor.data is not None:
            return self._constant(f"value_{tensor.name}", tensor.data.reshape(-1))
        if tensor.name in self.graph.inputs:
            return f"input->{self.members['input', tensor.name]}"
        outputs = [name for name in self.graph.outputs if self.schedule.value(name) == tensor.name]
        if outputs:
            return f"output->{self.members['output', outputs[0]]}"
        place = f"arena.bytes + {self.memory.place[tensor.name]}"
        if tensor.dtype is DType.FLOAT32:
            return f"(const float *)(const void *)({place})" if read else f"(float *)(void *)({place})"
        return place

    def _copies(self) -> list[tuple[str, str]]:
        """Outputs that no step writes: those that are inputs or constants, and further names of one value."""
        seen: set[str] = set()
        copies = []
        for name in self.graph.outputs:
            value = self.schedule.value(name)
            if value in self.graph.inputs or self.graph[value].is_constant or value in seen:
                copies.append((name, value))
            seen.add(value)
        return copies

    def _copy(self, name: str, value: str) -> str:
        tensor = self.graph[value]
        size = _bytes(tensor)
        label = f"copy_{self.members['output', name]}"
        self.parameters.append(
            f"static const sgsc_block {label} = {{\n    .size = {{1, 1, 1, 1, {size}}},\n"
            f"    .x_step = {{0, 0, 0, 0, 1}},\n    .y_step = {{0, 0, 0, 0, 1}},\n}};"
        )
        source = f"(const int8_t *)(const void *)({self._address(tensor, read=True)})"
        target = f"(int8_t *)(void *)output->{self.members['output', name]}"
        return f"sgsc_move(&{label}, {source}, {target});"

    # --- constants --------------------------------------------------------------------------------

    def _constant(self, label: str, array: Array) -> str:
        """The C name of constant data; equal data is stored once."""
        for name, known in self.constants.items():
            if known.dtype == array.dtype and np.array_equal(known, array):
                return name
        name = f"sgsc_{self.name}_{identifier(label)}"
        while name in self.constants:
            name += "_"
        self.constants[name] = array
        return name

    def constant_bytes(self) -> int:
        """Of all constant data so far."""
        return sum(array.nbytes for array in self.constants.values())

    def declarations(self) -> str:
        lines = [f"extern const {_c_type(a)} {name}[{a.size}];" for name, a in self.constants.items()]
        return "/* Made by sgsc-edge; do not edit. */\n#include <stdint.h>\n\n" + "".join(
            f"{line}\n" for line in lines
        )

    def weights(self) -> str:
        parts = [
            f"const {_c_type(array)} {name}[{array.size}] = {{\n{_numbers(array)}\n}};\n"
            for name, array in self.constants.items()
        ]
        return '/* Made by sgsc-edge; do not edit. */\n#include "weights.h"\n\n' + "\n".join(parts)

    # --- selftest.c -------------------------------------------------------------------------------

    def selftest(self, samples: tuple[Mapping[str, Array], Mapping[str, Array]] | None) -> str:
        inputs, outputs = samples if samples is not None else ({}, {})
        count = len(next(iter(inputs.values()))) if inputs else 0
        head = f'/* Made by sgsc-edge; do not edit. */\n#include "{header_name(self.name)}"\n\n'
        function = f"int sgsc_{self.name}_selftest(sgsc_{self.name}_output *output)\n{{\n"
        if not count:
            return f"{head}{function}    (void)output; /* there are no samples */\n    return 0;\n}}\n"

        def table(kind: str, names: Sequence[str], values: Mapping[str, Array]) -> str:
            rows = []
            for number in range(count):
                members = []
                for name in names:
                    numbers = _numbers(values[name][number].reshape(-1))
                    members.append(f"    .{self.members[kind, name]} = {{\n{numbers}\n    }},")
                rows.append("  {\n" + "\n".join(members) + "\n  },")
            joined = "\n".join(rows)
            return f"static const sgsc_{self.name}_{kind} {kind}s[{count}] = {{\n{joined}\n}};\n"

        # By member: bytes between them are nobody's.
        differs = "\n            || ".join(
            f"memcmp(output->{name}, outputs[i].{name}, sizeof output->{name}) != 0"
            for name in (member.name for member in self.structs["output"].members)
        )
        return (
            f"{head}#include <string.h>\n\n{table('input', self.graph.inputs, inputs)}\n"
            f"{table('output', self.graph.outputs, outputs)}\n"
            f"{function}    for (int i = 0; i < {count}; i++) {{\n"
            f"        sgsc_{self.name}_invoke(&inputs[i], output);\n"
            f"        if ({differs}) {{\n"
            f"            return i + 1;\n        }}\n    }}\n    return 0;\n}}\n"
        )


def _members(kind: str, names: Sequence[str]) -> dict[tuple[str, str], str]:
    """Members of a struct by (kind, tensor), each another one."""
    members: dict[tuple[str, str], str] = {}
    for name in names:
        member = identifier(name)
        while member in members.values() or member in RESERVED:
            member += "_"
        members[kind, name] = member
    return members


def _bytes(tensor: Tensor) -> int:
    return tensor.elements * tensor.dtype.numpy.itemsize


def _c_type(array: Array) -> str:
    return f"{array.dtype}_t" if array.dtype.kind in "iu" else "float"


def _value(value: int | Sequence[int]) -> str:
    if isinstance(value, int | np.integer):
        return str(int(value))
    return "{" + ", ".join(str(int(part)) for part in value) + "}"


def _numbers(array: Array) -> str:
    """Numbers in lines, as C reads them."""
    if array.dtype.kind == "f":
        texts = [float_literal(float(value)) for value in array]
    else:
        # INT32_MIN has no literal of its own type.
        texts = ["INT32_MIN" if value == -(2**31) else str(value) for value in array.tolist()]
    lines, line = [], ""
    for text in texts:
        if line and len(line) + len(text) + 2 > _WIDTH:
            lines.append(line)
            line = ""
        line += (" " if line else "    ") + text + ","
    return "\n".join([*lines, line])


def _comment(text: str) -> str:
    """Text that neither begins nor ends a comment, nor goes on in the next line."""
    return re.sub(r"[^\x20-\x7e]|[*\\?]", "_", text)
