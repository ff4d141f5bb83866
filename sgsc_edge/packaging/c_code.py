"""``--format c-code``: plain C99 that computes the model, with a build file and a desktop example."""

from __future__ import annotations

from pathlib import Path

from sgsc_edge.c_code.write import c_code
from sgsc_edge.c_names import header_name
from sgsc_edge.packaging.folder import Packaged, describe, write_package
from sgsc_edge.packaging.source import Source

FORMAT = "c-code"


def package_c_code(
    source: Source, out: Path, *, name: str | None = None, learned: bool | None = None
) -> Packaged:
    """Write a model as C into the folder ``out``, in place of an earlier package that it holds.

    Parameters
    ----------
    name: in C names; None for the source's own.
    learned: pack every filter at the smallest width that holds its weights; None for what its target says.

    Raises
    ------
    UnsupportedError: an op or a type has no kernel in C.
    ConfigError: the name is too long.
    OutputError: a file cannot be written, or ``out`` holds files and no package.
    """
    learned = source.learned if learned is None else learned
    code = c_code(
        source.graph,
        name=name or source.name,
        model_hash=source.model_hash,
        samples=(source.inputs, source.outputs),
        learned=learned,
    )
    files = {
        **code.files,
        "CMakeLists.txt": _cmake(code.name),
        "example/main.c": _example(code.name),
    }
    description = {
        **describe(FORMAT, source, code.interface),
        "weights": "learned" if learned else "stored",
        "input_bytes": code.input_bytes,
        "output_bytes": code.output_bytes,
        "arena_bytes": code.arena.size,
        "arena_lower_bound": code.arena.bound,
        "constant_bytes": code.constant_bytes,
    }
    checked = source.samples
    check = f"check with sgsc_{code.name}_selftest() ({checked} samples)"
    text = (
        f"constants {code.constant_bytes:,} bytes, arena {code.arena.size:,} bytes "
        f"(at least {code.arena.bound:,}), input {code.input_bytes:,}, output {code.output_bytes:,}",
        f"compute with sgsc_{code.name}_invoke(), "
        + (check if checked else "no self-test: samples of more than 64 KiB are not held"),
    )
    return write_package(out, files, description, text)


def _cmake(name: str) -> str:
    return f"""# Made by sgsc-edge. The library sgsc_{name}; on its own, the example, too.
cmake_minimum_required(VERSION 3.10)
project(sgsc_{name} C)

add_library(sgsc_{name} STATIC model.c weights.c selftest.c)
target_include_directories(sgsc_{name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
set_target_properties(sgsc_{name} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  add_executable(example example/main.c)
  target_link_libraries(example sgsc_{name})
endif()
"""


def _example(name: str) -> str:
    return f"""/* Made by sgsc-edge. Computes the model on a desktop.

   It checks the samples of selftest.c, then reads inputs as they lie in sgsc_{name}_input, and writes
   outputs as they lie in sgsc_{name}_output. */
#include <stdio.h>

#include "{header_name(name)}"

int main(void)
{{
    static sgsc_{name}_input input;
    static sgsc_{name}_output output;
    const int wrong = sgsc_{name}_selftest(&output);
    if (wrong != 0) {{
        fprintf(stderr, "self-test: sample %d differs\\n", wrong);
        return 1;
    }}
    fprintf(stderr, "self-test: passed\\n");
    while (fread(&input, sizeof input, 1, stdin) == 1) {{
        sgsc_{name}_invoke(&input, &output);
        if (fwrite(&output, sizeof output, 1, stdout) != 1) {{
            return 1;
        }}
    }}
    return 0;
}}
"""
