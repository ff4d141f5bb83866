"""Finds the four MNIST files: in $SGSC_EDGE_DATA/mnist, in the user's cache, or on a public mirror.

Whatever the source, the unpacked content must have the SHA-256 of the original file. What a mirror sends
is written to the cache only after that check.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import idx
import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import read_bytes, write_bytes
from sgsc_edge.errors import DataError, FileFormatError, OutputError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class IdxFile:
    """One IDX file: its name (without .gz), the array's shape, SHA-256 of the unpacked content."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def nbytes(self) -> int:
        """Bytes of the unpacked file, header included."""
        return 4 + 4 * len(self.shape) + int(np.prod(self.shape, dtype=np.int64))

    @property
    def max_stored(self) -> int:
        """Bytes that a plain or gzipped copy may take; gzip grows what it cannot compress a little."""
        return self.nbytes + 65536


TRAIN_IMAGES = IdxFile(
    "train-images-idx3-ubyte",
    (60000, 28, 28),
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
)
TRAIN_LABELS = IdxFile(
    "train-labels-idx1-ubyte",
    (60000,),
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
)
TEST_IMAGES = IdxFile(
    "t10k-images-idx3-ubyte",
    (10000, 28, 28),
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
)
TEST_LABELS = IdxFile(
    "t10k-labels-idx1-ubyte",
    (10000,),
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)


def load(file: IdxFile) -> NDArray[np.uint8]:
    """The array of one file, from the first source that has it.

    Raises
    ------
    FileFormatError: the copy in $SGSC_EDGE_DATA/mnist cannot be read or is not the original.
    DataError: no source has the file; the message lists what each answered.
    """
    root = os.environ.get("SGSC_EDGE_DATA")
    if root and (path := _stored(Path(root) / "mnist", file)):
        return decode(read_bytes(path, file.max_stored), file, str(path))
    if path := _stored(cache_folder(), file):
        try:
            return decode(read_bytes(path, file.max_stored), file, str(path))
        except FileFormatError as error:
            print(f"{error.where}: {error.message}; downloading it again", file=sys.stderr)
    return download(file, mirrors(), cache_folder())


def decode(data: bytes, file: IdxFile, where: str) -> NDArray[np.uint8]:
    """The array in the bytes of a plain or gzipped file, after every check.

    Raises
    ------
    FileFormatError: malformed, or not the original content.
    """
    content = idx.unpack(data, file.nbytes, where)
    array = idx.parse(content, file.shape, where)
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise FileFormatError(
            f"SHA-256 {found}, expected {file.sha256}",
            where=where,
            remedy="the content differs from the original MNIST; fetch it again",
        )
    return array


def cache_folder() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/sgsc-edge/mnist, by default under ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sgsc-edge" / "mnist"


def mirrors() -> tuple[str, ...]:
    """The mirrors to try in order; SGSC_EDGE_MNIST_MIRRORS (URLs apart by spaces) replaces them."""
    return tuple(os.environ.get("SGSC_EDGE_MNIST_MIRRORS", "").split()) or MIRRORS


def download(file: IdxFile, mirrors: Iterable[str], cache: Path) -> NDArray[np.uint8]:
    """The array of one file from the first mirror that sends the original; kept in ``cache``.

    Raises
    ------
    DataError: no mirror did.
    """
    refusals = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{file.name}.gz"
        try:
            data = _fetch(url, max_bytes=file.max_stored)
            array = decode(data, file, url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            refusals.append(f"{url}: {error}")
        except FileFormatError as error:
            refusals.append(f"{url}: {error.message}")
        else:
            try:
                write_bytes(cache / f"{file.name}.gz", data)
            except OutputError as error:  # the data are at hand: go on without a cache
                print(f"{error.where}: {error.message}; the download is not kept", file=sys.stderr)
            return array
    raise DataError(
        "\n".join([f"{file.name} is not here and no mirror sent it", *refusals]),
        remedy="put the four MNIST files into a folder 'mnist' and set SGSC_EDGE_DATA to its parent",
    )


def _stored(folder: Path, file: IdxFile) -> Path | None:
    candidates = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _fetch(url: str, max_bytes: int) -> bytes:
    """The body of an HTTP answer; raises OSError, HTTPException or ValueError."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("a mirror is an http or https address")
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        data: bytes = answer.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ValueError(f"sent more than {max_bytes} bytes")
        declared = answer.headers.get("Content-Length")
        if declared is not None and int(declared) != len(data):  # read(n) does not check this itself
            raise ValueError(f"sent {len(data)} of {declared} bytes")
    return data
