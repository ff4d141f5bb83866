"""Atomic writes, hashes and JSON.

A file appears under its name only when all of its bytes are on disk: it is written beside its place, synced
and renamed. Whatever the operating system refuses (no space, no permission, read-only) is an ``OutputError``
with a remedy; whatever another hand has written is read with limits, and malformed it is a
``FileFormatError``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from sgsc_edge.errors import FileFormatError, InternalError, OutputError

MAX_JSON_BYTES = 64 * 2**20
_CHUNK = 2**20
_LEFTOVER = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")

_REMEDIES = {
    errno.ENOSPC: "free some space on that disk, or choose another folder with --out",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder with --out",
    errno.EACCES: "make the folder writable, or choose another one with --out",
    errno.EPERM: "make the folder writable, or choose another one with --out",
    errno.EROFS: "the file system is read-only: choose another folder with --out",
    errno.ENOTDIR: "a part of this path is a file: choose another folder with --out",
    errno.EEXIST: "a file is where a folder is needed: move it, or choose another folder with --out",
    errno.EISDIR: "a folder is where a file is to be written: move it, or choose another folder with --out",
    errno.ENAMETOOLONG: "choose a shorter path with --out",
}


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn any ``OSError`` inside the block into an ``OutputError`` about ``path``."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "check the disk, or choose another folder with --out")
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write: {reason}", where=str(path), remedy=remedy) from error


@contextlib.contextmanager
def scratch_errors() -> Iterator[None]:
    """Turn any ``OSError`` inside the block into an ``OutputError`` about temporary files."""
    folder = tempfile.gettempdir()
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write temporary files: {error.strerror or error}",
            where=folder,
            remedy="free some space there, or point TMPDIR elsewhere",
        ) from error


# --- hashes ---------------------------------------------------------------------------------------


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes; ``FileFormatError`` when it cannot be read."""
    digest = hashlib.sha256()
    with input_errors(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(document: object) -> bytes:
    """The one JSON text of ``document`` that is hashed: sorted keys, no spaces, ASCII, no NaN.

    >>> canonical_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return _dump(document, separators=(",", ":")).encode("ascii")


def content_key(*parts: object) -> str:
    """SHA-256 over JSON-like parts: the key under which a stage's outputs are current."""
    return sha256_bytes(canonical_json(parts))


# --- writing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a fresh path beside ``path``; when the block ends well, sync it and rename it to ``path``.

    For writers that want a file name. If the block raises, nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            if sys.platform != "win32":  # Windows cannot open a folder to sync it
                _sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left half-written in ``folder``; its lock must be held."""
    with output_errors(folder):
        for path in folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically, creating its folders; raises ``OutputError``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, document: object) -> None:
    """Write JSON atomically: sorted keys, two spaces, ASCII, a final newline; a NaN in it is our bug."""
    write_bytes(path, f"{_dump(document, indent=2)}\n".encode("ascii"))


# --- reading ---------------------------------------------------------------------------------------


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """A file's bytes; ``FileFormatError`` when it is missing, unreadable or longer than ``max_bytes``."""
    with input_errors(path), path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FileFormatError(f"is larger than {max_bytes} bytes", where=str(path))
    return data


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> object:
    """A JSON document; duplicate keys, NaN, infinities and absurd nesting are ``FileFormatError``."""
    data = read_bytes(path, max_bytes)
    try:
        return json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise FileFormatError(f"is not valid JSON: {reason}", where=str(path)) from error


# --- helpers ---------------------------------------------------------------------------------------


def _dump(document: object, **style: Any) -> str:
    try:
        return json.dumps(document, sort_keys=True, allow_nan=False, **style)
    except (TypeError, ValueError) as error:
        raise InternalError(f"a document cannot be written as JSON: {error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("an object has the same key twice")
    return table


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turn any ``OSError`` inside the block into a ``FileFormatError`` about ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileFormatError(f"cannot be read: {reason}", where=str(path)) from error
