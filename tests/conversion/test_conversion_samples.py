"""Samples from .npz files: what is taken, what is refused, and what is kept apart."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgsc_edge.conversion.samples import HELD_OUT, Data, read_data
from sgsc_edge.errors import ConfigError, DataError, FileFormatError, InputError

SHAPE = (2, 3, 4)
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(7, *SHAPE)).astype(np.float32)


def read(path: Path, **arrays: np.ndarray) -> Data:
    np.savez(path, **arrays)
    return read_data(path, "image", SHAPE)


@pytest.mark.parametrize("name", ["image", "inputs", "anything"])
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int8, np.uint8])
def test_inputs_lie_under_one_of_three_names_in_any_type_of_numbers(
    tmp_path: Path, name: str, dtype: type
) -> None:
    values = (VALUES * 3).astype(dtype)
    data = read(tmp_path / "samples.npz", **{name: values}, labels=np.arange(7, dtype=np.uint8))
    assert data.inputs.dtype == np.float32
    assert (data.inputs == values.astype(np.float32)).all()
    assert data.labels is not None
    assert data.labels.tolist() == list(range(7))
    assert len(set(data.ids.tolist())) == len(data) == 7


def test_the_models_own_name_comes_first(tmp_path: Path) -> None:
    data = read(tmp_path / "samples.npz", image=VALUES, inputs=VALUES + 1)
    assert (data.inputs == VALUES).all()


def test_compressed_archives_and_bare_arrays_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "small.npz", VALUES)
    np.save(tmp_path / "bare.npy", np.asfortranarray(VALUES))
    for name in ("small.npz", "bare.npy"):
        assert (read_data(tmp_path / name, "image", SHAPE).inputs == VALUES).all()


def test_equal_samples_count_once_with_the_first_label(tmp_path: Path) -> None:
    twice = np.concatenate([VALUES, VALUES[2:4]])
    data = read(tmp_path / "samples.npz", inputs=twice, labels=np.arange(9))
    assert (data.inputs == VALUES).all()
    assert data.labels is not None
    assert data.labels.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("arrays", "kind", "says"),
    [
        ({"inputs": VALUES.transpose(0, 2, 3, 1)}, ConfigError, "transpose to"),
        ({"inputs": VALUES[:, 0]}, ConfigError, r"\[7, 3, 4\], the model takes float32 \[n, 2, 3, 4\]"),
        ({"a": VALUES, "b": VALUES}, ConfigError, "no array 'image' or 'inputs': it holds a, b"),
        ({"imag": VALUES, "b": VALUES}, ConfigError, "did you mean 'imag'"),
        ({"labels": np.arange(7)}, ConfigError, "it holds labels"),
        ({"inputs": VALUES > 0}, ConfigError, "is bool"),
        ({"inputs": VALUES.astype(complex)}, ConfigError, "complex128"),
        ({"inputs": VALUES[:0]}, DataError, "holds no samples"),
        ({"inputs": np.where(np.arange(7)[:, None, None, None] == 5, np.nan, VALUES)}, DataError, "sample 5"),
        ({"inputs": VALUES.astype(np.float64) * 1e300}, DataError, "NaN or infinite"),
        ({"inputs": VALUES, "labels": np.arange(6)}, ConfigError, r"int64\[6\], expected integers \[7\]"),
        ({"inputs": VALUES, "labels": np.ones(7)}, ConfigError, "float64"),
        ({"inputs": VALUES, "labels": np.array([0, 1, 2, -3, 0, 0, 0])}, DataError, "label -3 of sample 3"),
        ({"inputs": np.array([None] * 7)}, FileFormatError, "no .npz file that can be read"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, arrays: dict[str, np.ndarray], kind: type[InputError], says: str
) -> None:
    with pytest.raises(kind, match=says) as error:
        read(tmp_path / "samples.npz", **arrays)
    assert error.value.remedy
    assert "samples.npz" in str(error.value)


def test_the_axis_of_one_channel_is_missed_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", inputs=VALUES[:, 0])
    with pytest.raises(ConfigError, match=r"inputs\[:, None\]"):
        read_data(tmp_path / "samples.npz", "image", (1, 3, 4))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, inputs=VALUES)
    whole = path.read_bytes()
    with pytest.raises(FileFormatError, match="is no file"):
        read_data(tmp_path / "absent.npz", "image", SHAPE)
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileFormatError, match=r"no \.npz file"):
            read_data(path, "image", SHAPE)
    for place in range(0, len(whole), 17):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(InputError):  # anything else is a crash
            assert read_data(path, "image", SHAPE).inputs.shape == VALUES.shape


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=60, unique=True), st.randoms())
def test_what_is_kept_apart_follows_from_the_samples_and_not_from_their_order(
    numbers: list[int], random: object
) -> None:
    ids = np.array([f"{number:016x}" for number in numbers])
    inputs = np.array(numbers, np.float32)[:, None]
    data = Data(inputs, np.array(numbers), ids)
    kept, judged = data.split()
    assert sorted([*kept.ids, *judged.ids]) == sorted(ids)
    assert len(judged) == -(-len(numbers) // HELD_OUT)
    for part in (kept, judged):
        assert part.labels is not None
        assert (part.inputs[:, 0] == part.labels).all()
    shuffled = np.random.default_rng(len(numbers)).permutation(len(numbers))
    other = Data(inputs[shuffled], None, ids[shuffled]).split()
    assert [set(part.ids) for part in other] == [set(kept.ids), set(judged.ids)]


def test_headers_are_believed_where_they_fit_their_bytes(tmp_path: Path) -> None:
    """130 bytes may not ask for terabytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"shape": (10**13, 4), "fortran_order": False, "descr": "<f4"}
    )
    (tmp_path / "large.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as archive:
        archive.writestr("inputs.npy", header.getvalue())
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("inputs.npy", "no array at all")
    for name in ("large.npy", "large.npz", "text.npz"):
        with pytest.raises(FileFormatError, match=r"no \.npz file"):
            read_data(tmp_path / name, "image", SHAPE)
    np.savez(tmp_path / "single.npz", inputs=np.float32(1))
    with pytest.raises(ConfigError, match="the model takes"):
        read_data(tmp_path / "single.npz", "image", ())
