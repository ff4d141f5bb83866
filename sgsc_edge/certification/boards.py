"""What a board computed of a build: the statement ``certificate.<board>.json`` that ``flash`` writes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgsc_edge.artifacts import canonical_json, read_json, sha256_bytes
from sgsc_edge.certification.records import Count, Ids, Verdict
from sgsc_edge.errors import FileFormatError

BOARD_PREDICATE_TYPE = "urn:sgsc-edge:board-certificate:v1"
_MAX_BYTES = 16 << 20


class _Part(BaseModel):
    """Immutable and strict; fields that a reader has no use for are left out."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class BoardChip(_Part):
    """The processor's name."""

    cpu: str


class BoardStack(_Part):
    """Bytes of stack that were used: by the inference, and in all."""

    inference: Count
    total: Count


class BoardSizes(_Part):
    """Bytes of flash and of RAM (without its stack), and what they are there for."""

    flash: Count
    code: Count
    weights: Count
    constants: Count
    board: Count
    ram: Count
    arena: Count
    stack: Count


class BoardLimits(_Part):
    """Bytes of flash and RAM that the board has."""

    flash: Count
    ram: Count


class BoardStatement(_Part):
    """What one board's certificate says; ``differing``: ids whose outputs are not the expected ones."""

    board: str
    chip: BoardChip
    verdict: Annotated[Verdict, Field(strict=False)]
    build_certificate_digest: str
    samples: Count
    expected_from: Literal["tflm", "numpy"]
    differing: Ids
    selftest: Count
    selftest_samples: Count
    instructions_per_inference: Count | None
    stack: BoardStack
    sizes: BoardSizes
    limits: BoardLimits
    toolchain: str


def board_digest(document: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a board's certificate without its digest."""
    bare = copy.deepcopy(document)
    bare["predicate"].pop("digest", None)
    return sha256_bytes(canonical_json(bare))


def read_board_certificate(path: Path) -> BoardStatement:
    """Read a board's certificate; FileFormatError where it is malformed, edited or of another version."""
    document = read_json(path, _MAX_BYTES)
    predicate = document.get("predicate") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(predicate, dict):
        raise FileFormatError("is not a board's certificate", where=str(path))
    if document.get("predicateType") != BOARD_PREDICATE_TYPE:
        raise FileFormatError("is of another version", where=str(path), remedy="flash again")
    if predicate.get("digest") != board_digest(document):
        raise FileFormatError("has been edited", where=str(path), remedy="flash again")
    try:
        return BoardStatement.model_validate(predicate)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FileFormatError(f"{place}: {first['msg']}", where=str(path), remedy="flash again") from None
