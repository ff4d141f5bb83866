"""A package's folder: its files, and the description of it that every format has."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sgsc_edge.artifacts import (
    is_inside,
    output_errors,
    read_json,
    refuse_links,
    write_bytes,
    write_json,
)
from sgsc_edge.c_code.interface import Interface
from sgsc_edge.errors import FileFormatError, OutputError
from sgsc_edge.packaging.source import Source

DESCRIPTION = "package.json"
SCHEMA = "sgsc-edge-package/1"


@dataclass(frozen=True, eq=False)
class Packaged:
    """A written package: its folder, what its description says, and more of that in lines for people."""

    folder: Path
    description: dict[str, Any]
    lines: tuple[str, ...]

    def to_text(self) -> str:
        """For people."""
        return "\n".join((f"{self.folder}: {', '.join(self.description['files'])}", *self.lines))


def describe(form: str, source: Source, interface: Interface) -> dict[str, Any]:
    """What the description of every package says."""
    return {
        "schema": SCHEMA,
        "format": form,
        "name": interface.name,
        "version": interface.version,
        "hash": source.model_hash,
        "inputs": interface.described("input"),
        "outputs": interface.described("output"),
        "selftest_samples": source.samples,
        "sgsc_edge": importlib.metadata.version("sgsc-edge"),
    }


def write_package(
    out: Path, files: Mapping[str, str], description: Mapping[str, Any], lines: Sequence[str]
) -> Packaged:
    """Write ``files``, texts by name, into the folder ``out``, in place of an earlier package there.

    Raises OutputError: a file cannot be written, ``out`` holds files and no package, or a folder in it is a
    symbolic link.
    """
    described = {**description, "files": sorted(files)}
    earlier = _files_of_package(out)
    for file in sorted(earlier | files.keys()):
        refuse_links(out, str(PurePosixPath(file).parent))
    write_json(out / DESCRIPTION, described)  # first: whoever is killed here leaves a folder that is known
    for file, text in files.items():
        write_bytes(out / file, text.encode("utf-8"))
    for file in sorted(earlier - files.keys()):
        with output_errors(out / file):
            (out / file).unlink(missing_ok=True)
    return Packaged(out, described, tuple(lines))


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
            remedy="move them away, or package into a new folder, a subfolder of this one for example",
        )
    listed = document.get("files")
    names = listed if isinstance(listed, list) else []
    return {name for name in names if isinstance(name, str) and is_inside(name)}
