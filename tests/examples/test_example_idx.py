"""The IDX reader of examples/mnist: exact on good files, a clear refusal on every other one."""

from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest
from example_modules import load_example
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sgsc_edge.errors import FileFormatError

mnist = load_example("mnist", "idx", "sources")
idx, sources = mnist.idx, mnist.sources

SHAPE = (5, 4, 3)


def encode(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


VALUES = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
CONTENT = encode(VALUES)
FILE = sources.IdxFile("tiny", SHAPE, hashlib.sha256(CONTENT).hexdigest())


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 999), packed=st.booleans()
)
def test_reads_back_what_was_written(shape: list[int], seed: int, packed: bool) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    content = encode(array)
    data = gzip.compress(content, mtime=0) if packed else content
    read = idx.parse(idx.unpack(data, len(content), "file"), tuple(shape), "file")
    np.testing.assert_array_equal(read, array, strict=True)


@settings(max_examples=200)
@given(position=st.integers(0, len(CONTENT) - 1), value=st.integers(0, 255))
def test_any_changed_byte_is_refused(position: int, value: int) -> None:
    mutated = bytearray(CONTENT)
    mutated[position] = value
    if bytes(mutated) == CONTENT:
        np.testing.assert_array_equal(sources.decode(CONTENT, FILE, "tiny"), VALUES)
        return
    with pytest.raises(FileFormatError) as caught:
        sources.decode(bytes(mutated), FILE, "tiny")
    assert caught.value.where == "tiny"
    assert caught.value.remedy


PACKED = gzip.compress(CONTENT, mtime=0)


@settings(max_examples=200)
@given(data=st.data())
def test_mutated_gzip_gives_the_original_or_is_refused(data: st.DataObject) -> None:
    mutated = bytearray(PACKED)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(PACKED) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(PACKED)))])
    try:
        read = sources.decode(cut, FILE, "tiny")
    except FileFormatError:
        return
    np.testing.assert_array_equal(read, VALUES)  # e.g. only gzip's time field differs


@settings(max_examples=100)
@given(noise=st.binary(max_size=200))
@example(noise=b"")
@example(noise=b"\x1f\x8b")
@example(noise=CONTENT[:4])
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(FileFormatError):
        sources.decode(noise, FILE, "noise")


@pytest.mark.parametrize("length", [0, 3, 15, 16, len(CONTENT) - 1])
def test_truncated_file(length: int) -> None:
    with pytest.raises(FileFormatError, match=r"shorter than its header|values, expected 60"):
        idx.parse(CONTENT[:length], SHAPE, "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT + b"\0", "61 values, expected 60"),
        (encode(VALUES.reshape(5, 12)) + b"\0" * 4, "expected 00000803"),
        (encode(VALUES.reshape(4, 5, 3)), r"shape \[4, 5, 3\], expected \[5, 4, 3\]"),
        (b"\0\0\x0d\x03" + CONTENT[4:], r"starts with 00000d03"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), r"shape \[4294967295"),
    ],
)
def test_wrong_file(content: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        idx.parse(content, SHAPE, "file")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PACKED[:-4], "truncated gzip"),
        (PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "broken gzip"),
        (PACKED + b"more", "bytes after the end"),
        (gzip.compress(bytes(50_000_000), mtime=0), f"unpacks to more than {len(CONTENT)} bytes"),
    ],
)
def test_bad_gzip(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        idx.unpack(data, len(CONTENT), "file")
