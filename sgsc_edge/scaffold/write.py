"""Writes the files of a new project: all or none, and none that is there already unless that is asked for."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sgsc_edge.artifacts import write_bytes
from sgsc_edge.errors import ConfigError
from sgsc_edge.project.load import FILE_NAME


@dataclass(frozen=True)
class Scaffolded:
    """A new project.

    Parameters
    ----------
    files: what was written.
    findings: what each setting was taken from, as (setting, value).
    notes: what the user should know, a sentence each.
    next: the commands that come next.
    """

    folder: Path
    files: tuple[Path, ...]
    findings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    next: tuple[str, ...]


def quoted(path: Path) -> str:
    """A path as a shell reads it."""
    return shlex.quote(str(path))


def build_command(folder: Path, target: str) -> str:
    """What builds the project in ``folder``."""
    return f"sgsc-edge build {quoted(folder)} --target {target}"


def refuse_existing(folder: Path, names: Iterable[str], *, force: bool, otherwise: str = "") -> None:
    """``ConfigError`` where a file is there that may not be overwritten; ``otherwise`` ends its remedy."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is a file", where=str(folder), remedy="give a folder, or the name of a new one")
    there = [name for name in names if (folder / name).exists()]
    if there and not force:
        raise ConfigError(
            f"has {', '.join(there)} already",
            where=str(folder),
            remedy=f"give another folder, or --force to overwrite{otherwise}",
        )


def write_files(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write each file atomically, the project file last: until then the folder is no project."""
    ordered = sorted(files, key=lambda name: (name == FILE_NAME, name))
    for name in ordered:
        write_bytes(folder / name, files[name])
    return tuple(folder / name for name in ordered)
