"""A model as C99: no interpreter, no allocation, nothing but ``<stdint.h>``.

``sgsc_<name>.h`` says how to use it, ``model.c`` holds the kernels that it needs and their calls,
``weights.c`` its constant data, ``selftest.c`` samples with the outputs that they must give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.c_code.calls import Call, calls
from sgsc_edge.c_code.interface import Interface, Kind
from sgsc_edge.c_code.kernel_text import kernel_sources
from sgsc_edge.c_code.memory_plan import Layout
from sgsc_edge.c_code.schedule import Memory, Schedule, Step, arrange
from sgsc_edge.c_code.text import braced, comment, numbers
from sgsc_edge.c_names import header_name, identifier
from sgsc_edge.graph.ir import DType, Graph, Tensor

Array = NDArray[Any]


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
    interface: the structs that the caller holds.
    steps: in the order in which they run.
    memory: where the values between steps lie.
    constant_bytes: of weights, biases, multipliers and tables.
    """

    name: str
    files: Mapping[str, str]
    interface: Interface
    steps: tuple[Written, ...]
    memory: Memory
    constant_bytes: int

    @property
    def input_bytes(self) -> int:
        """Size of the struct of inputs."""
        return self.interface.structs["input"].bytes

    @property
    def output_bytes(self) -> int:
        """Size of the struct of outputs."""
        return self.interface.structs["output"].bytes

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
    writer = _Writer(graph, name, model_hash, learned)
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
        writer.interface,
        tuple(map(Written, writer.schedule.steps, map(tuple, writer.calls), writer.step_bytes)),
        writer.memory,
        writer.constant_bytes(),
    )


class _Writer:
    """Collects what the files share."""

    def __init__(self, graph: Graph, name: str, model_hash: str, learned: bool) -> None:
        self.graph, self.model_hash = graph, model_hash
        self.interface = Interface.of(graph, name, model_hash)
        self.name = self.interface.name
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
        macro = self.interface.macro
        guard = macro("H")
        return f"""/* Made by sgsc-edge; do not edit. */
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* The project's version, or the first digits of the hash. */
#define {macro("VERSION")} "{self.interface.version}"

/* RAM for the values between steps: static memory of model.c. */
#define {macro("ARENA_BYTES")} {max(self.memory.layout.size, 1)}

{self.interface.constants()}

{self.interface.types()}

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

    # --- model.c ----------------------------------------------------------------------------------

    def model(self) -> str:
        used = [kernel for made in self.calls for call in made for kernel in call.kernels]
        kernels = kernel_sources([*used, *(["move"] if self._copies() else [])])
        arena = self.memory.layout.size
        memory = (
            f"/* Values that are never alive at once share memory. */\n"
            f"#ifndef SGSC_ARENA_ATTRIBUTES\n#define SGSC_ARENA_ATTRIBUTES\n#endif\n"
            f"static union {{\n    int8_t bytes[{self.interface.macro('ARENA_BYTES')}];\n"
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
        for kind, struct in self.interface.structs.items():
            name = f"sgsc_{self.name}_{kind}"
            lines.append(f"typedef char {name}_size[sizeof({name}) == {struct.bytes} ? 1 : -1];")
        return "".join(f"{line}\n" for line in lines)

    def _body(self) -> str:
        lines = []
        for number, (step, made) in enumerate(zip(self.schedule.steps, self.calls, strict=True)):
            source = step.node.source or step.node.outputs[0]
            before = self.constant_bytes()
            for part, call in enumerate(made):
                made_call = f"{self._call(number, part, call, step.output)} /* {comment(source)} */"
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
            values = {key: braced(value) for key, value in call.parameters.items()}
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
            return f"input->{self.interface.member('input', tensor.name)}"
        outputs = [name for name in self.graph.outputs if self.schedule.value(name) == tensor.name]
        if outputs:
            return f"output->{self.interface.member('output', outputs[0])}"
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
        size = tensor.elements * tensor.dtype.numpy.itemsize
        label = f"copy_{self.interface.member('output', name)}"
        self.parameters.append(
            f"static const sgsc_block {label} = {{\n    .size = {{1, 1, 1, 1, {size}}},\n"
            f"    .x_step = {{0, 0, 0, 0, 1}},\n    .y_step = {{0, 0, 0, 0, 1}},\n}};"
        )
        source = f"(const int8_t *)(const void *)({self._address(tensor, read=True)})"
        target = f"(int8_t *)(void *)output->{self.interface.member('output', name)}"
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
            f"const {_c_type(array)} {name}[{array.size}] = {{\n{numbers(array)}\n}};\n"
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

        def table(kind: Kind, values: Mapping[str, Array]) -> str:
            return self.interface.samples(kind, values, f"static const sgsc_{self.name}_{kind} {kind}s")

        # By member: bytes between them are nobody's.
        differs = "\n            || ".join(
            f"memcmp(output->{name}, outputs[i].{name}, sizeof output->{name}) != 0"
            for name in (member.name for member in self.interface.structs["output"].members)
        )
        return (
            f"{head}#include <string.h>\n\n{table('input', inputs)}\n{table('output', outputs)}\n"
            f"{function}    for (int i = 0; i < {count}; i++) {{\n"
            f"        sgsc_{self.name}_invoke(&inputs[i], output);\n"
            f"        if ({differs}) {{\n"
            f"            return i + 1;\n        }}\n    }}\n    return 0;\n}}\n"
        )


def _c_type(array: Array) -> str:
    return f"{array.dtype}_t" if array.dtype.kind in "iu" else "float"
