"""The package's own code, as one hash: outputs of other code are not current."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path


def sources_hash(folder: Path, patterns: Sequence[str] = ("*.py",)) -> str:
    """SHA-256 over the paths (relative, POSIX) and the bytes of the files below ``folder`` of these names."""
    digest = hashlib.sha256()
    files = (path for pattern in patterns for path in folder.rglob(pattern))
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def package_hash() -> str:
    """:func:`sources_hash` of sgsc_edge itself, read once a process."""
    return sources_hash(Path(__file__).parents[1])
