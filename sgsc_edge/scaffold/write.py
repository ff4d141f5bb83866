"""Writes the files of a new project: all or none, and none that is there already unless that is asked for."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sgsc_edge.artifacts import output_errors, write_bytes
from sgsc_edge.doctor.project import has_table
from sgsc_edge.errors import ConfigError, OutputError
from sgsc_edge.project.load import FILE_NAME

_PYPROJECT = "pyproject.toml"


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


def check_folder(folder: Path, names: Iterable[str], *, force: bool, otherwise: str = "") -> None:
    """Try a folder before anything takes long; it is left as it was.

    Raises
    ------
    ConfigError: a file is there that may not be overwritten, or a project; ``otherwise`` ends the remedy.
    OutputError: the folder cannot be made or written.
    """
    with _folder_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(
                "is a file", where=str(folder), remedy="give a folder, or the name of a new one"
            )
        there = [name for name in names if (folder / name).exists()]
        table = has_table(folder / _PYPROJECT)
    if there and not force:
        raise ConfigError(
            f"has {', '.join(there)} already",
            where=str(folder),
            remedy=f"give another folder, or --force to overwrite{otherwise}",
        )
    if table and not force:
        raise ConfigError(
            f"is a project already, by [tool.sgsc-edge] of {_PYPROJECT}",
            where=str(folder),
            remedy=f"give another folder, or --force: {FILE_NAME} is then read instead{otherwise}",
        )
    _try(folder)


def superseded(folder: Path) -> tuple[str, ...]:
    """The note about the settings that a new project file puts out of use; none where there are none."""
    if not has_table(folder / _PYPROJECT):
        return ()
    return (f"{FILE_NAME} is read from now on; [tool.sgsc-edge] of {_PYPROJECT} is not.",)


def _try(folder: Path) -> None:
    """``OutputError`` where files cannot be written to a folder; what was made to find out is removed."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _folder_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    finally:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    """``OutputError`` for what the system refuses; its remedy has no option: the folder is an argument."""
    try:
        with output_errors(folder):
            yield
    except OutputError as error:
        error.remedy = (error.remedy or "").replace(" with --out", "")
        raise


def write_files(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write each file atomically, the project file last: until then the folder is no project."""
    ordered = sorted(files, key=lambda name: (name == FILE_NAME, name))
    with _folder_errors(folder):
        for name in ordered:
            write_bytes(folder / name, files[name])
    return tuple(folder / name for name in ordered)
