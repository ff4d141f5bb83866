"""A generated C package, as far as firmware needs it: ``package.json`` and the C files that it lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sgsc_edge.artifacts import is_inside
from sgsc_edge.c_names import MODEL_NAME, header_name
from sgsc_edge.config_text import dotted, findings
from sgsc_edge.errors import FileFormatError

_MAX_JSON_BYTES = 2**20
_Bytes = Annotated[int, Field(ge=0, lt=2**31)]


def _listed(name: str) -> str:
    if not is_inside(name):
        raise ValueError(f"'{name}' is not a path inside the folder")
    return name


class _Description(BaseModel):
    """What ``package.json`` says; keys that firmware does not need may stand beside these."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    # The name becomes part of C identifiers and of a compiler option: nothing else may be in it.
    name: Annotated[str, Field(pattern=MODEL_NAME)]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    input_bytes: Annotated[int, Field(gt=0, lt=2**31)]
    output_bytes: Annotated[int, Field(gt=0, lt=2**31)]
    arena_bytes: _Bytes
    files: list[Annotated[str, AfterValidator(_listed)]]


@dataclass(frozen=True)
class Package:
    """A package folder. ``name``: the model's C identifier; ``hash``: SHA-256 of its ``.tflite``, in hex.

    ``sources``, ``headers``: the ``.c`` and ``.h`` files at the folder's top that
    ``package.json`` lists, by name: others beside them, a project's own say, are none of the model's.
    """

    folder: Path
    name: str
    hash: str
    input_bytes: int
    output_bytes: int
    arena_bytes: int
    sources: tuple[Path, ...]
    headers: tuple[Path, ...]


def read_package(folder: Path) -> Package:
    """The package in ``folder``; ``FileFormatError`` where it is none."""
    path = folder / "package.json"
    description = _describe(path)
    names = {name for name in description.files if "/" not in name}
    if absent := sorted(name for name in names if not (folder / name).is_file()):
        raise FileFormatError(
            f"lists {', '.join(absent)}: not there", where=str(path), remedy="package the model again"
        )
    sources, headers = (
        tuple(folder / name for name in sorted(names) if name.endswith(end)) for end in (".c", ".h")
    )
    if missing := sorted({header_name(description.name), "model.c"} - names):
        raise FileFormatError(f"has no {' and no '.join(missing)}", where=str(folder), remedy=_REMEDY)
    return Package(folder, **description.model_dump(exclude={"files"}), sources=sources, headers=headers)


_REMEDY = "give a folder with a model as C code"


def _describe(path: Path) -> _Description:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise FileFormatError(f"cannot be read: {error.strerror}", where=str(path), remedy=_REMEDY) from None
    if len(data) > _MAX_JSON_BYTES:
        raise FileFormatError(f"is larger than {_MAX_JSON_BYTES} bytes", where=str(path))
    try:
        return _Description.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        reason = _first_finding(error) if isinstance(error, ValidationError) else f"is not JSON: {error}"
        raise FileFormatError(reason, where=str(path), remedy=_REMEDY) from None


def _first_finding(error: ValidationError) -> str:
    key, message = findings(_Description, error)[0]
    return f"{dotted(key)}: {message}" if key else message
