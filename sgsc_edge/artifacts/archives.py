"""Named arrays in ``.npz`` files, byte for byte reproducible and safe to read.

Entries lie uncompressed, in the order of their names and with one fixed time, so equal arrays give equal
bytes whatever zlib is installed. Reading believes no header: an entry's shape must fit its size, and the
entries the file's, so that no file takes more memory than it is long.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts.files import input_errors, write_bytes
from sgsc_edge.errors import FileFormatError

MAX_NPZ_BYTES = 4 * 2**30
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip entry can carry
# All that zipfile, zlib and NumPy's header reader raise on malformed bytes.
_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
    ValueError,
    OverflowError,
    EOFError,
    SyntaxError,
    RuntimeError,  # an encrypted entry; NotImplementedError for an unknown compression is one too
    UserWarning,  # a header as Python 2 wrote it
)


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as an ``.npz``: sorted names, C order, no compression, no times, no pickle."""
    write_bytes(path, npz_bytes(arrays))


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes that ``write_npz`` writes; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
            entry.create_system = 3  # or the bytes would tell the writer's operating system
            with archive.open(entry, "w", force_zip64=True) as file:
                array = np.asarray(arrays[name], order="C")
                np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_npz(path: Path, max_bytes: int = MAX_NPZ_BYTES) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` as ``write_npz`` makes them; no pickle, at most ``max_bytes`` in all.

    Any malformed, truncated, compressed, encrypted or oversized archive is a ``FileFormatError`` naming the
    entry.
    """
    with input_errors(path), path.open("rb") as file:
        max_bytes = min(max_bytes, os.fstat(file.fileno()).st_size)
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_entries(archive, path, max_bytes)
        except _MALFORMED as error:
            raise FileFormatError(f"is not a readable .npz archive: {error}", where=str(path)) from error


def _read_entries(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    left = max_bytes
    for entry in archive.infolist():
        name = entry.filename.removesuffix(".npy")
        if name == entry.filename or name in arrays:
            raise FileFormatError(f"entry '{entry.filename}' is not an array or comes twice", where=str(path))
        if entry.compress_type != zipfile.ZIP_STORED:
            raise FileFormatError(
                f"array '{name}' is compressed", where=str(path), remedy="sgsc-edge writes arrays as they are"
            )
        left -= entry.file_size
        if left < 0:
            raise FileFormatError(f"holds more than {max_bytes} bytes", where=str(path))
        try:
            with archive.open(entry) as file:
                arrays[name] = _read_array(file, entry.file_size)
        except (
            zipfile.BadZipFile,
            zlib.error,
            struct.error,
            ValueError,
            EOFError,
            SyntaxError,
            tokenize.TokenError,
        ) as error:
            raise FileFormatError(f"array '{name}' is malformed: {error}", where=str(path)) from error
    return arrays


def _read_array(file: IO[bytes], size: int) -> NDArray[Any]:
    """One ``.npy`` of ``size`` bytes; its header is believed only where it fits that size."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f".npy version {version} is not read")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        shape, fortran, dtype = readers[version](file)
    if dtype.hasobject or fortran:
        raise ValueError("pickled and Fortran-ordered arrays are not read")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or file.tell() + expected != size:
        raise ValueError(f"shape {shape} of {dtype} does not fit its {size} bytes")
    data = file.read(expected)
    if len(data) != expected:
        raise ValueError("truncated")
    # A copy, so that the result is writable and aligned.
    return np.frombuffer(data, dtype).reshape(shape).copy() if expected else np.empty(shape, dtype)
