"""A build folder: its manifest, the stamps that let a build resume, and the lock that keeps others out."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, NoReturn

from sgsc_edge.artifacts.earlier import restoring
from sgsc_edge.artifacts.files import (
    output_errors,
    read_bytes,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from sgsc_edge.errors import FileFormatError, FolderInUseError, OutputError
from sgsc_edge.hints import nearest

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MANIFEST_NAME = "manifest.json"
STAMPS_NAME = ".stamps.json"
MANIFEST_SCHEMA = "sgsc-edge-manifest/1"
_MAX_COPIED = 1 << 31
_MAX_HOLDER = 200  # characters that name the holder of a lock


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``: what a build folder holds and where it came from.

    ``files`` maps paths relative to the folder (POSIX) to SHA-256; ``tools`` names to versions; ``seeds``
    names to integers; ``inputs`` the user's files to SHA-256; ``code`` says how the target has generated code
    written (``weights``: ``learned`` or ``stored``).
    """

    files: Mapping[str, str]
    tools: Mapping[str, str]
    seeds: Mapping[str, int]
    inputs: Mapping[str, str]
    code: Mapping[str, str]


def write_manifest(
    folder: Path,
    names: Iterable[str],
    *,
    tools: Mapping[str, str],
    seeds: Mapping[str, int],
    inputs: Mapping[str, str],
    code: Mapping[str, str],
) -> Manifest:
    """Hash the files ``names`` of ``folder`` (paths relative to it) and write ``manifest.json``."""
    files = {name: sha256_file(folder / name) for name in sorted(names)}
    manifest = Manifest(files, dict(tools), dict(seeds), dict(inputs), dict(code))
    write_json(folder / MANIFEST_NAME, {"schema": MANIFEST_SCHEMA, **_manifest_tables(manifest)})
    return manifest


def check_manifest(folder: Path, required: Collection[str] = ()) -> Manifest:
    """Read ``manifest.json`` and compare every listed file with its hash.

    ``required`` names files that must be listed. Raises ``FileFormatError`` naming the file that is missing,
    edited or not listed. Files that came later (a report, a package) need not be listed.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        absent = f"does not exist{nearest(folder.name, (other.name for other in folder.parent.glob('*')))}"
        raise FileFormatError(
            f"is no build folder: it has no {MANIFEST_NAME}" if folder.exists() else absent,
            where=str(folder),
            remedy="give the folder of a target, build/<target>; a project is built first",
        )
    manifest = _parse_manifest(read_json(path), path)
    for name in sorted(set(required) - manifest.files.keys()):
        raise FileFormatError(f"does not list '{name}'", where=str(path), remedy="build again")
    for name, digest in sorted(manifest.files.items()):
        if sha256_file(folder / name) != digest:
            raise FileFormatError(
                f"has changed since {MANIFEST_NAME} was written",
                where=str(folder / name),
                remedy=restoring(folder, "restore the file, or build again"),
            )
    return manifest


def is_inside(name: str) -> bool:
    """Whether ``name`` is the path of a file inside the folder that lists it, on every system.

    >>> is_inside("example/main.c"), is_inside("../main.c"), is_inside("/main.c")
    (True, False, False)
    """
    path = PurePosixPath(name)
    return bool(path.parts) and not (
        ".." in path.parts or "\\" in name or ":" in name or "\0" in name or path.is_absolute()
    )


def refuse_links(folder: Path, part: str) -> None:
    """Refuse that ``part``, the path of a folder in ``folder``, leads elsewhere through a symbolic link.

    For whoever writes or removes files there; ``folder`` itself may be one. Raises ``OutputError``.
    """
    path = PurePosixPath(part)
    for inner in (*reversed(path.parents), path):
        place = folder / inner
        if inner.parts and place.is_symlink():
            raise OutputError(
                "is a symbolic link: files would be written and removed in another folder",
                where=str(place),
                remedy="put a folder in its place",
            )


def _manifest_tables(manifest: Manifest) -> dict[str, Mapping[str, object]]:
    return {
        "files": manifest.files,
        "tools": manifest.tools,
        "seeds": manifest.seeds,
        "inputs": manifest.inputs,
        "code": manifest.code,
    }


def _parse_manifest(document: object, path: Path) -> Manifest:
    def refuse(reason: str) -> NoReturn:
        raise FileFormatError(reason, where=str(path), remedy="build again")

    tables: dict[str, type] = {"files": str, "tools": str, "seeds": int, "inputs": str, "code": str}
    keys = {"schema", *tables}
    if not isinstance(document, dict) or document.get("schema") != MANIFEST_SCHEMA:
        refuse(f"is no manifest that this version reads (schema {MANIFEST_SCHEMA})")
    if absent := sorted(keys - document.keys()):
        refuse(f"was written by an older sgsc-edge: it has no {', '.join(absent)}")
    if unknown := sorted(document.keys() - keys):
        refuse(f"was written by another sgsc-edge: {', '.join(unknown)} is not known")
    for key, kind in tables.items():
        table = document[key]
        if not isinstance(table, dict) or any(type(value) is not kind for value in table.values()):
            refuse(f"'{key}' must map names to {kind.__name__}")
    for name in document["files"]:
        if not is_inside(name):
            refuse(f"lists '{name}', which is not a path inside the folder")
    return Manifest(**{key: document[key] for key in tables})


class Stamps:
    """Which stages of a build folder are current, kept in ``.stamps.json``.

    A stage is current when it was recorded under the same key (``content_key`` of its inputs) and each of its
    outputs still has the bytes it had then. The file is a cache: damaged, it counts as empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / STAMPS_NAME

    def is_current(self, stage: str, key: str) -> bool:
        """Whether ``stage`` was recorded under ``key`` and its outputs are unchanged."""
        stamp = self._read().get(stage)
        if not isinstance(stamp, dict) or stamp.get("key") != key:
            return False
        outputs = stamp.get("outputs")
        if not isinstance(outputs, dict):
            return False
        return all(self._digest(name) == digest for name, digest in outputs.items())

    def record(self, stage: str, key: str, outputs: Iterable[Path]) -> None:
        """Note that ``stage`` made ``outputs`` (paths inside the folder) from the inputs behind ``key``."""
        digests = {path.relative_to(self._folder).as_posix(): sha256_file(path) for path in outputs}
        write_json(self._path, {**self._read(), stage: {"key": key, "outputs": digests}})

    def adopt(self, stage: str, key: str, names: Collection[str], other: Path) -> bool:
        """Copy the outputs ``names`` of the folder ``other`` if ``stage`` is current there under ``key``.

        The copies are recorded as if the stage had run here; False, and nothing is recorded, where ``other``
        has not made them, or has lost or changed one.
        """
        stamp = Stamps(other)._read().get(stage)
        if not isinstance(stamp, dict) or stamp.get("key") != key:
            return False
        digests = stamp.get("outputs")
        if not isinstance(digests, dict) or digests.keys() != set(names):
            return False
        try:
            files = {name: read_bytes(other / name, _MAX_COPIED) for name in names}
        except FileFormatError:
            return False
        if any(sha256_bytes(data) != digests[name] for name, data in files.items()):
            return False
        for name, data in files.items():
            write_bytes(self._folder / name, data)
        self.record(stage, key, [self._folder / name for name in names])
        return True

    def forget(self, stage: str) -> None:
        """Make ``stage`` run again the next time."""
        stamps = self._read()
        if stamps.pop(stage, None) is not None:
            write_json(self._path, stamps)

    def _read(self) -> dict[str, Any]:
        try:
            document = read_json(self._path)
        except FileFormatError:
            return {}
        return document if isinstance(document, dict) else {}

    def _digest(self, name: str) -> str | None:
        try:
            return sha256_file(self._folder / name)
        except FileFormatError:
            return None


class FolderLock:
    """Context manager: one process at a time works in ``folder``; the second gets a ``FolderInUseError``.

    The operating system drops the lock when its holder dies, so a killed build leaves none behind. The file
    names its last holder, for that error alone.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: IO[bytes] | None = None

    def __enter__(self) -> FolderLock:
        with output_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.is_symlink():  # a folder from elsewhere: the file behind it would be written
                raise OutputError(
                    "is a symbolic link",
                    where=str(self._path),
                    remedy="remove it; a lock is a file of its own",
                )
            file = self._path.open("a+b")
        holder = ""
        try:
            _lock(file)
        except OSError as error:
            with contextlib.suppress(OSError):  # Windows lets nobody read what is locked
                holder = self._path.read_text(encoding="utf-8", errors="replace")[:_MAX_HOLDER]
            file.close()
            named = f" ({holder})" if holder else ""
            raise FolderInUseError(
                f"another sgsc-edge process is working in this folder{named}",
                where=str(self._path.parent),
                remedy="wait for it to end, or choose another folder with --out",
            ) from error
        self._file = file
        with contextlib.suppress(OSError):  # a full disk: then it is not named
            file.truncate(0)
            file.write(_this_process().encode("utf-8"))
            file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()  # closing drops the lock
            self._file = None


def _this_process() -> str:
    """``process 4711 on host: build examples/digits``, in printable characters."""
    words = " ".join([f"process {os.getpid()} on {socket.gethostname()}:", *sys.argv[1:4]])
    return "".join(c for c in words if c.isprintable())[:_MAX_HOLDER]


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
