"""The samples that a model is calibrated and judged on, from ``.npz`` files.

A file holds the inputs [n, ...] as the model takes them, under the name of its input, as ``inputs``, or as
the only array beside ``labels``; and, where there are any, ``labels`` int [n].
"""

from __future__ import annotations

import hashlib
import math
import struct
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.artifacts import MAX_NPZ_BYTES
from sgsc_edge.errors import ConfigError, DataError, FileFormatError
from sgsc_edge.hints import nearest

LABELS, INPUTS = "labels", "inputs"
HELD_OUT = 5
"""One sample of so many is kept apart from calibration, where no others are given to judge by."""

_MAGIC = b"\x93NUMPY"
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    OSError,
    RuntimeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    tokenize.TokenError,
    struct.error,
)
_ID_LENGTH = 16


@dataclass(frozen=True, eq=False)
class Data:
    """Samples, none twice.

    Parameters
    ----------
    inputs: float32 [n, ...].
    labels: int64 [n], or None.
    ids: text [n], of each sample's content.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    ids: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, chosen: NDArray[np.bool_]) -> Data:
        """Some of the samples, by a mask [n]."""
        labels = None if self.labels is None else self.labels[chosen]
        return Data(self.inputs[chosen], labels, self.ids[chosen])

    def none(self) -> Data:
        """No samples, of the same shape."""
        return self.take(np.zeros(len(self), np.bool_))

    def split(self) -> tuple[Data, Data]:
        """To calibrate on, and to judge by: chosen by content, whatever the order of the samples."""
        order = np.argsort(self.ids)
        judged = np.zeros(len(self), np.bool_)
        judged[order[::HELD_OUT]] = True
        return self.take(~judged), self.take(judged)


def read_data(path: Path, name: str, shape: tuple[int, ...]) -> Data:
    """The samples of a file for a model whose input is called ``name`` and has ``shape`` without the batch.

    Equal samples count once, the first of them.

    Raises
    ------
    FileFormatError: it cannot be read. ConfigError: it lacks the inputs, or they have another shape.
    DataError: it is empty, or a value is not finite, or a label is no class number.
    """
    arrays = _read(path)
    inputs = _inputs(arrays, path, name, shape)
    labels = _labels(arrays[LABELS], len(inputs), path) if LABELS in arrays else None
    ids = np.array([_digest(sample) for sample in inputs], "U16")
    first = np.zeros(len(inputs), np.bool_)
    first[np.unique(ids, return_index=True)[1]] = True
    return Data(inputs, labels, ids).take(first)


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise FileFormatError("is no file", where=str(path), remedy="give an .npz file of samples")
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                file.seek(0)
                return {INPUTS: _array(file, path.stat().st_size)}
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if sum(entry.file_size for entry in entries) > MAX_NPZ_BYTES:
                    raise FileFormatError(f"holds more than {MAX_NPZ_BYTES:,} bytes", where=str(path))
                arrays = {}
                for entry in entries:
                    with archive.open(entry) as member:
                        arrays[entry.filename.removesuffix(".npy")] = _array(member, entry.file_size)
                return arrays
    except _UNREADABLE as error:
        raise FileFormatError(
            f"is no .npz file that can be read: {error}",
            where=str(path),
            remedy="write one with numpy.savez(path, inputs=..., labels=...)",
        ) from error


def _array(file: IO[bytes], size: int) -> NDArray[np.generic]:
    """One array of ``size`` bytes with its header, which is believed where it fits them; ValueError else."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f".npy version {version} is not read")
    shape, fortran, dtype = readers[version](file)
    wanted = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + wanted != size:
        raise ValueError(f"shape {shape} of {dtype} does not fit its {size} bytes")
    data = file.read(wanted)
    if len(data) != wanted:
        raise ValueError("truncated")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _inputs(
    arrays: dict[str, NDArray[np.generic]], path: Path, name: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    others = [key for key in arrays if key != LABELS]
    chosen = next((key for key in (name, INPUTS) if key in arrays), others[0] if len(others) == 1 else None)
    if chosen is None:
        hint = nearest(name, others)
        raise ConfigError(
            f"has no array '{name}' or '{INPUTS}': it holds {', '.join(sorted(arrays)) or 'nothing'}{hint}",
            where=str(path),
            remedy=f"write the samples under one of these names, as {_shown(shape)}",
        )
    values = arrays[chosen]
    if values.dtype.kind not in "fiu":
        raise ConfigError(
            f"'{chosen}' is {values.dtype}, the model takes numbers", where=str(path), remedy="write float32"
        )
    if not values.ndim or values.shape[1:] != shape:
        raise ConfigError(
            f"'{chosen}' is {list(values.shape)}, the model takes {_shown(shape)}",
            where=str(path),
            remedy=_remedy(values.shape[1:], shape),
        )
    if not len(values):
        raise DataError("holds no samples", where=str(path), remedy="write some")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        real = np.ascontiguousarray(values, dtype=np.float32)
    finite = np.isfinite(real).reshape(len(real), -1).all(1)
    if not finite.all():
        raise DataError(
            f"sample {int(np.argmin(finite))} of '{chosen}' has a value that is NaN or infinite",
            where=str(path),
            remedy="repair or leave out the sample",
        )
    return real


def _remedy(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if len(given) == len(wanted) == 3 and (given[2], *given[:2]) == wanted:
        return "the channels lie last, and the model takes them first: transpose to [n, C, H, W]"
    if (1, *given) == wanted:
        return "add the axis of the channel: inputs[:, None]"
    return "write the samples as the model takes them, the first axis counts them"


def _labels(values: NDArray[np.generic], count: int, path: Path) -> NDArray[np.int64]:
    if values.dtype.kind not in "iu" or values.shape != (count,):
        raise ConfigError(
            f"'{LABELS}' is {values.dtype}{list(values.shape)}, expected integers [{count}]",
            where=str(path),
            remedy="write the number of each sample's class, from 0; or leave the labels out",
        )
    labels = np.asarray(values, np.int64)
    if (labels < 0).any():
        raise DataError(
            f"label {int(labels.min())} of sample {int(np.argmin(labels))} is no class number",
            where=str(path),
            remedy="count classes from 0",
        )
    return labels


def _digest(sample: NDArray[np.float32]) -> str:
    header = f"{sample.dtype.str}{list(sample.shape)}".encode()
    return hashlib.sha256(header + sample.tobytes()).hexdigest()[:_ID_LENGTH]


def _shown(shape: tuple[int, ...]) -> str:
    return f"float32 [n, {', '.join(map(str, shape))}]"
