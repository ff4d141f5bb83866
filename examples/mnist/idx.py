"""Reads IDX files, the format of MNIST, plain or gzipped, and trusts nothing in them.

Layout (Y. LeCun, "The MNIST database", file formats): two zero bytes, one byte of element type
(0x08: unsigned byte), one byte of rank, then each dimension as a big-endian uint32, then the values in
row-major order.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.errors import FileFormatError

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"


def unpack(data: bytes, max_bytes: int, where: str) -> bytes:
    """The content of a gzip file, or ``data`` itself when it is not one.

    Raises
    ------
    FileFormatError: broken, truncated, followed by other bytes, or larger than ``max_bytes`` unpacked.
    """
    if not data.startswith(GZIP_MAGIC):
        return data
    inflater = zlib.decompressobj(wbits=31)  # gzip, header and checksum included
    try:
        content = inflater.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise FileFormatError(f"broken gzip data: {error}", where=where, remedy=_REMEDY) from None
    if len(content) > max_bytes:
        raise FileFormatError(f"unpacks to more than {max_bytes} bytes", where=where, remedy=_REMEDY)
    if not inflater.eof:
        raise FileFormatError("truncated gzip data", where=where, remedy=_REMEDY)
    if inflater.unused_data:
        raise FileFormatError("bytes after the end of the gzip data", where=where, remedy=_REMEDY)
    return content


def parse(content: bytes, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """The array in an unpacked IDX file that must hold unsigned bytes of exactly ``shape``.

    Raises
    ------
    FileFormatError: another type, rank or shape, or a length that does not fit them.
    """
    header = 4 + 4 * len(shape)
    if len(content) < header:
        raise FileFormatError(
            f"{len(content)} bytes, shorter than its header of {header}", where=where, remedy=_REMEDY
        )
    expected = struct.pack(">HBB", 0, UNSIGNED_BYTE, len(shape))
    if content[:4] != expected:
        raise FileFormatError(
            f"starts with {content[:4].hex()}, expected {expected.hex()} "
            f"(unsigned bytes of rank {len(shape)})",
            where=where,
            remedy=_REMEDY,
        )
    found = struct.unpack(f">{len(shape)}I", content[4:header])
    if found != shape:
        raise FileFormatError(f"shape {list(found)}, expected {list(shape)}", where=where, remedy=_REMEDY)
    values = int(np.prod(shape, dtype=np.int64))
    if len(content) != header + values:
        raise FileFormatError(
            f"{len(content) - header} values, expected {values}", where=where, remedy=_REMEDY
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


_REMEDY = "fetch the original MNIST file again"
