"""The earlier build of a folder, kept until the next one is whole.

Stages replace files one by one. What stops a build half-way (a full disk, a refusal, Ctrl-C) would leave
files of two builds side by side. So the earlier ones are kept as hard links in a folder beside them, which
takes no room, and put back; what the stopped build had finished is laid aside for the next one to go on with.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from sgsc_edge.artifacts.files import output_errors

_KEPT, _ASIDE = ".earlier", ".unfinished"
_MAKING, _GONE = ".making", ".gone"
"""Suffixes of what is kept while it is not whole yet, and while it is no more."""


def restoring(folder: Path, otherwise: str) -> str:
    """What to do where files of a build folder do not fit: ``otherwise``, unless an earlier build is kept."""
    if not (folder / _KEPT).is_dir():
        return otherwise
    return (
        "a build that replaces an earlier one was stopped here, or still runs: run `sgsc-edge build` again, "
        "which ends it, or puts the earlier build back where it cannot"
    )


class Earlier:
    """Context manager: what was kept is put back where the block raises, and forgotten where it does not.

    A process that was killed in the block leaves both builds' files; the next block ends the same way.

    Parameters
    ----------
    folder: whose lock is held.
    names: its files, paths relative to it: those that are there are one build.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._folder = folder
        self._names = tuple(names)
        self._kept = folder / _KEPT
        self.unfinished = folder / _ASIDE
        """The files of a build that was stopped, where there was one."""

    def keep(self) -> None:
        """Keep the files as they are, unless some are kept already; ``OutputError`` where that cannot be."""
        if self._kept.exists():
            return
        making = self._kept.with_suffix(_MAKING)
        with output_errors(self._kept):
            making.mkdir()
            for name in self._names:
                if (self._folder / name).is_file():
                    _link(self._folder / name, making / name)
            making.replace(self._kept)

    def __enter__(self) -> Earlier:
        for suffix in (_MAKING, _GONE):  # what a killed one left, of which nothing is whole
            shutil.rmtree(self._kept.with_suffix(suffix), ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            with contextlib.suppress(OSError):  # kept, it is whole, and forgotten by the next one
                self._forget()
            shutil.rmtree(self.unfinished, ignore_errors=True)
        elif self._kept.exists():
            self._put_back()

    def _put_back(self) -> None:
        """Each step can be repeated: whoever is killed in one leaves the next block all that was kept."""
        with contextlib.suppress(OSError):  # no room for a folder: then they are made again
            self.unfinished.mkdir(exist_ok=True)
        with output_errors(self._folder):
            for name in self._names:
                here, kept = self._folder / name, self._kept / name
                if kept.is_file() and here.is_file() and here.samefile(kept):
                    continue
                if here.is_file() and self.unfinished.is_dir():
                    here.replace(self.unfinished / name)
                here.unlink(missing_ok=True)
                if kept.is_file():
                    try:
                        os.link(kept, here)
                    except OSError:  # no hard links here, and perhaps no room for a copy
                        kept.replace(here)
            self._forget()

    def _forget(self) -> None:
        """Drop what is kept, at once: half of it must never be put back."""
        if self._kept.exists():
            gone = self._kept.with_suffix(_GONE)
            self._kept.replace(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
