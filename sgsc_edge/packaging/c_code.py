"""``--format c-code``: plain C99 that computes the model, with a build file and a desktop example."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgsc_edge.artifacts import is_inside, output_errors, read_json, write_bytes, write_json
from sgsc_edge.c_code.struct_layout import Struct
from sgsc_edge.c_code.write import c_code
from sgsc_edge.c_names import header_name
from sgsc_edge.errors import FileFormatError, OutputError
from sgsc_edge.packaging.source import Source

FORMAT = "c-code"
DESCRIPTION = "package.json"
SCHEMA = "sgsc-edge-package/1"


@dataclass(frozen=True, eq=False)
class Packaged:
    """A written package: its folder, and what its description says."""

    folder: Path
    description: dict[str, Any]

    def to_text(self) -> str:
        """For people."""
        d = self.description
        files = ", ".join(d["files"])
        checked = d["selftest_samples"]
        check = f"check with sgsc_{d['name']}_selftest() ({checked} samples)"
        return "\n".join(
            (
                f"{self.folder}: {files}",
                f"constants {d['constant_bytes']:,} bytes, arena {d['arena_bytes']:,} bytes "
                f"(at least {d['arena_lower_bound']:,}), input {d['input_bytes']:,}, "
                f"output {d['output_bytes']:,}",
                f"compute with sgsc_{d['name']}_invoke(), "
                + (check if checked else "no self-test: samples of more than 64 KiB are not held"),
            )
        )


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
        "schema": SCHEMA,
        "format": FORMAT,
        "name": code.name,
        "hash": source.model_hash,
        "weights": "learned" if learned else "stored",
        "input_bytes": code.input_bytes,
        "output_bytes": code.output_bytes,
        "inputs": _members(code.inputs),
        "outputs": _members(code.outputs),
        "selftest_samples": len(next(iter(source.inputs.values()))),
        "arena_bytes": code.arena.size,
        "arena_lower_bound": code.arena.bound,
        "constant_bytes": code.constant_bytes,
        "sgsc_edge": importlib.metadata.version("sgsc-edge"),
        "files": sorted(files),
    }
    earlier = _files_of_package(out)
    write_json(out / DESCRIPTION, description)  # first: whoever is killed here leaves a folder that is known
    for file, text in files.items():
        write_bytes(out / file, text.encode("utf-8"))
    for file in sorted(earlier - files.keys()):
        with output_errors(out / file):
            (out / file).unlink(missing_ok=True)
    return Packaged(out, description)


def _files_of_package(out: Path) -> set[str]:
    """What the package in ``out`` consists of; ``OutputError`` where files are in ``out`` that are none."""
    with output_errors(out):
        if not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir()):
            return set()
    try:
        document = read_json(out / DESCRIPTION)
    except FileFormatError:
        document = None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise OutputError(
            "holds files, and no package of sgsc-edge that they belong to",
            where=str(out),
            remedy="choose a new or an empty folder, a subfolder of this one for example",
        )
    listed = document.get("files")
    names = listed if isinstance(listed, list) else []
    return {name for name in names if isinstance(name, str) and is_inside(name)}


def _members(struct: Struct) -> list[dict[str, Any]]:
    """How a struct lies in memory: for whoever feeds bytes."""
    return [
        {
            "tensor": member.tensor.name,
            "member": member.name,
            "type": str(member.tensor.dtype),
            "shape": list(member.tensor.shape),
            "offset": member.offset,
            "bytes": member.bytes,
        }
        for member in struct.members
    ]


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
