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
        making = self._kept.with_suffix(".making")
        with output_errors(self._kept):
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            for name in self._names:
                if (self._folder / name).is_file():
                    _link(self._folder / name, making / name)
            making.replace(self._kept)

    def __enter__(self) -> Earlier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            for place in (self._kept, self.unfinished):
                shutil.rmtree(place, ignore_errors=True)
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
            gone = self._kept.with_suffix(".gone")
            shutil.rmtree(gone, ignore_errors=True)
            self._kept.replace(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """A second name for a file; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
