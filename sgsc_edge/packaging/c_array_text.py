"""The files of ``--format c-array``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from sgsc_edge.c_code.interface import KINDS, Interface, Kind, grid
from sgsc_edge.c_code.text import numbers, string_literal
from sgsc_edge.c_names import header_name
from sgsc_edge.graph.ir import DType
from sgsc_edge.packaging.source import Source

ALIGNMENT = 16
"""Bytes: of the array, as the file format asks for, and of the arena, as TFLite Micro does."""
_MADE = "/* Made by sgsc-edge; do not edit. */"
_FIELDS = {DType.INT8: "int8", DType.INT32: "i32", DType.FLOAT32: "f"}
"""Members of the union TfLitePtrUnion."""


@dataclass(frozen=True, eq=False)
class Texts:
    """What the files say.

    Parameters
    ----------
    ops: what the resolver adds, as its methods are called.
    classes: their names; empty where the file does not say them.
    arena: its bytes.
    origin: where that number comes from.
    """

    source: Source
    interface: Interface
    ops: tuple[str, ...]
    classes: tuple[str, ...]
    arena: int
    origin: str

    def files(self) -> Mapping[str, str]:
        """All of them by name."""
        made = {
            header_name(self.name): self.header(),
            "model.c": self.model(),
            f"sgsc_{self.name}_ops.h": self.resolver(),
            "example/main.cc": self.example(),
            "README.md": self.readme(),
        }
        return {**made, "samples.c": self.samples()} if self.source.samples else made

    @property
    def name(self) -> str:
        """Of the model, as part of C names."""
        return self.interface.name

    def macro(self, *parts: str) -> str:
        """The name of a constant."""
        return self.interface.macro(*parts)

    def header(self) -> str:
        """Constants, declarations and conversions, for C and C++."""
        guard, name, macro = self.macro("H"), self.name, self.macro
        return f"""{_MADE}
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

/* The project's version, or the first digits of the hash. */
#define {macro("VERSION")} "{self.interface.version}"

/* SHA-256 of the .tflite. */
#define {macro("HASH")} "{self.source.model_hash}"

/* RAM for the interpreter: {self.origin}. */
#ifndef {macro("ARENA_BYTES")}
#define {macro("ARENA_BYTES")} {self.arena}
#endif

{self.interface.constants()}
{self._class_names()}
{self.interface.types()}

/* The .tflite, at a multiple of {ALIGNMENT} bytes. */
#define {macro("MODEL_BYTES")} {len(self.source.data)}
extern const uint8_t sgsc_{name}_model[{macro("MODEL_BYTES")}];
{self._sample_declarations()}{self._conversions()}
#ifdef __cplusplus
}}
#endif

#endif
"""

    def _class_names(self) -> str:
        if not self.classes:
            return ""
        names = ", ".join(map(string_literal, self.classes))
        return (
            f"\n/* static const char *const classes[] = {self.macro('CLASSES')}; */\n"
            f"#define {self.macro('CLASSES')} {{{names}}}\n"
        )

    def _sample_declarations(self) -> str:
        if not self.source.samples:
            return ""
        count = self.macro("SAMPLES")
        lines = [f"extern const sgsc_{self.name}_{kind} sgsc_{self.name}_{kind}s[{count}];" for kind in KINDS]
        return (
            f"\n/* Samples, and the outputs that they must give. */\n#define {count} {self.source.samples}\n"
            + "\n".join(lines)
            + "\n"
        )

    def _conversions(self) -> str:
        """Functions between real values and integers, a pair of constants each."""
        written = []
        for kind, member in self.interface.members():
            if grid(member.tensor) is None:
                continue
            macro = self.macro(kind, member.name)
            if kind == "input":
                written.append(
                    f"""
/* The integer of a real value of `{member.name}`: ties away from zero, saturated; NaN becomes 127. */
static inline int8_t sgsc_{self.name}_quantize_{member.name}(float real)
{{
    const float steps = real / {macro}_SCALE;
    int32_t whole;
    if (!(steps < 256.0f)) {{
        return 127;
    }}
    if (steps < -256.0f) {{
        return -128;
    }}
    whole = (int32_t)steps;
    if (steps - (float)whole >= 0.5f) {{
        whole += 1;
    }} else if (steps - (float)whole <= -0.5f) {{
        whole -= 1;
    }}
    whole += {macro}_ZERO_POINT;
    return (int8_t)(whole > 127 ? 127 : whole < -128 ? -128 : whole);
}}
"""
                )
            else:
                written.append(
                    f"""
/* The real value of an integer of `{member.name}`. */
static inline float sgsc_{self.name}_dequantize_{member.name}(int8_t integer)
{{
    return {macro}_SCALE * (float)(integer - {macro}_ZERO_POINT);
}}
"""
                )
        return "".join(written)

    def model(self) -> str:
        """The aligned array."""
        data = np.frombuffer(self.source.data, np.uint8)
        return f"""{_MADE}
#include "{header_name(self.name)}"

#if defined(__cplusplus)
#define SGSC_ALIGNED alignas({ALIGNMENT})
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define SGSC_ALIGNED _Alignas({ALIGNMENT})
#elif defined(__GNUC__)
#define SGSC_ALIGNED __attribute__((aligned({ALIGNMENT})))
#else
#error "define how this compiler aligns an array to {ALIGNMENT} bytes"
#endif

/* A place for it: -DSGSC_MODEL_ATTRIBUTES='__attribute__((section(".rodata.model")))', for example. */
#ifndef SGSC_MODEL_ATTRIBUTES
#define SGSC_MODEL_ATTRIBUTES
#endif

SGSC_ALIGNED SGSC_MODEL_ATTRIBUTES const uint8_t sgsc_{self.name}_model[{self.macro("MODEL_BYTES")}] = {{
{numbers(data)}
}};
"""

    def resolver(self) -> str:
        """The op resolver, for C++."""
        guard = self.macro("OPS", "H")
        calls = "".join(
            f"    if (ops.Add{method}() != kTfLiteOk) {{\n        return kTfLiteError;\n    }}\n"
            for method in self.ops
        )
        unused = "" if self.ops else "    (void)ops;\n"
        return f"""// Made by sgsc-edge; do not edit.
#ifndef {guard}
#define {guard}

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// The ops of the model and no others.
using sgsc_{self.name}_op_resolver = tflite::MicroMutableOpResolver<{max(len(self.ops), 1)}>;

inline TfLiteStatus sgsc_{self.name}_add_ops(sgsc_{self.name}_op_resolver &ops)
{{
{unused}{calls}    return kTfLiteOk;
}}

#endif
"""

    def samples(self) -> str:
        """Inputs and the outputs that they must give."""
        values = {"input": self.source.inputs, "output": self.source.outputs}
        tables = [
            self.interface.samples(
                kind, values[kind], f"const sgsc_{self.name}_{kind} sgsc_{self.name}_{kind}s"
            )
            for kind in KINDS
        ]
        joined = "\n".join(tables)
        return f'{_MADE}\n#include "{header_name(self.name)}"\n\n{joined}'

    def example(self) -> str:
        """A program that sets the model up and computes the samples."""
        name, macro = self.name, self.macro
        run = (
            f"""    const int wrong = differing(interpreter);
    if (wrong != 0) {{
        MicroPrintf("sample %d differs", wrong);
        return 1;
    }}
    MicroPrintf("%d samples equal", {macro("SAMPLES")});
"""
            if self.source.samples
            else """    if (interpreter.Invoke() != kTfLiteOk) {
        return 1;
    }
"""
        )
        return f"""// Made by sgsc-edge. Sets the model up on TensorFlow Lite Micro and computes its samples.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "{header_name(name)}"
#include "sgsc_{name}_ops.h"

#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {{

alignas({ALIGNMENT}) uint8_t arena[{macro("ARENA_BYTES")}];
{self._comparison() if self.source.samples else ""}
}}  // namespace

int main()
{{
    tflite::InitializeTarget();
    const tflite::Model *model = tflite::GetModel(sgsc_{name}_model);
    if (model->version() != TFLITE_SCHEMA_VERSION) {{
        MicroPrintf("this TensorFlow Lite Micro reads another version of the schema");
        return 1;
    }}
    static sgsc_{name}_op_resolver ops;
    if (sgsc_{name}_add_ops(ops) != kTfLiteOk) {{
        return 1;
    }}
    static tflite::MicroInterpreter interpreter(model, ops, arena, sizeof arena);
    if (interpreter.AllocateTensors() != kTfLiteOk) {{
        MicroPrintf("set-up failed; is {macro("ARENA_BYTES")} too small?");
        return 1;
    }}
    MicroPrintf("%d of %d bytes of the arena used", static_cast<int>(interpreter.arena_used_bytes()),
                static_cast<int>(sizeof arena));
{run}    return 0;
}}
"""

    def _comparison(self) -> str:
        """Functions that compute the samples and compare."""

        def each(kind: Kind, call: str) -> str:
            return "".join(
                f"        if (!{call}(interpreter.{kind}({index}), {kind}.{member.name}, "
                f"sizeof {kind}.{member.name})) {{\n            return i + 1;\n        }}\n"
                for index, member in enumerate(self.interface.structs[kind].members)
            )

        return f"""
bool written(TfLiteTensor *tensor, const void *values, std::size_t bytes)
{{
    if (tensor == nullptr || tensor->bytes != bytes) {{
        return false;
    }}
    std::memcpy(tensor->data.raw, values, bytes);
    return true;
}}

bool equal(const TfLiteTensor *tensor, const void *values, std::size_t bytes)
{{
    return tensor != nullptr && tensor->bytes == bytes && std::memcmp(tensor->data.raw, values, bytes) == 0;
}}

// 0, or the number of the first sample (from 1) that differs.
int differing(tflite::MicroInterpreter &interpreter)
{{
    for (int i = 0; i < {self.macro("SAMPLES")}; i++) {{
        const sgsc_{self.name}_input &input = sgsc_{self.name}_inputs[i];
        const sgsc_{self.name}_output &output = sgsc_{self.name}_outputs[i];
{each("input", "written")}        if (interpreter.Invoke() != kTfLiteOk) {{
            return i + 1;
        }}
{each("output", "equal")}    }}
    return 0;
}}
"""

    def readme(self) -> str:
        """What to do with the files."""
        name, macro = self.name, self.macro
        samples = "| `samples.c` | samples and the outputs that they must give, for the example |\n"
        return f"""# {name} for TensorFlow Lite Micro

Made by sgsc-edge {version("sgsc-edge")} from the `.tflite` with SHA-256 `{self.source.model_hash}`.

| file | what it holds |
|---|---|
| `{header_name(name)}` | sizes, shapes, scales and zero points, conversions; C99 and C++11 |
| `model.c` | the `.tflite`, {len(self.source.data):,} bytes |
| `sgsc_{name}_ops.h` | an op resolver with the ops of this model and no others; C++ |
{samples if self.source.samples else ""}| `example/main.cc` | sets the model up and checks it |

Add this folder to the include path and its `.c` files to the sources of a project that has TensorFlow Lite
Micro. `samples.c` is for the example alone.

- Bare metal: build `example/main.cc` first. `main` returns 0 where all is right; `MicroPrintf` says more.
- PlatformIO: headers and `.c` files into a folder of `lib/`, `example/main.cc` as `src/main.cc`.
- Arduino: headers and `.c` files beside the sketch; what `main` does goes into `setup`.

```cpp
alignas({ALIGNMENT}) static uint8_t arena[{macro("ARENA_BYTES")}];
static sgsc_{name}_op_resolver ops;
sgsc_{name}_add_ops(ops);
static tflite::MicroInterpreter interpreter(tflite::GetModel(sgsc_{name}_model), ops, arena, sizeof arena);
interpreter.AllocateTensors();          // kTfLiteOk, or the arena is too small
{self._usage()}```

**Arena**: {self.arena:,} bytes ({self.origin}).
A 32-bit device takes less with these kernels; optimized ones (CMSIS-NN, ESP-NN) may take more. The example
prints what is used; compile with `-D{macro("ARENA_BYTES")}=...` for another size.
"""

    def _usage(self) -> str:
        """What is done for each inference."""
        lines = []
        for kind in KINDS:
            for index, member in enumerate(self.interface.structs[kind].members):
                place = f"interpreter.{kind}({index})->data.{_FIELDS[member.tensor.dtype]}[i]"
                plain = grid(member.tensor) is None
                if kind == "input":
                    value = "value" if plain else f"sgsc_{self.name}_quantize_{member.name}(real)"
                    lines.append(f"{place} = {value};")
                else:
                    lines.append(
                        f"{place};" if plain else f"sgsc_{self.name}_dequantize_{member.name}({place});"
                    )
            if kind == "input":
                lines.append("interpreter.Invoke();")
        return "".join(f"{line}\n" for line in lines)
