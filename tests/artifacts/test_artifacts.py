"""Artifacts: what is written survives, what is read is not trusted."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgsc_edge import artifacts
from sgsc_edge.errors import FileFormatError, InternalError, OutputError, SgscError

ARRAYS = {
    "b_ids": np.array(["0a", "ff"], "<U16"),
    "a_inputs": np.arange(24, dtype=np.int8).reshape(2, 3, 4),
    "empty": np.zeros((0, 10), np.float32),
    "scalar": np.array(3, np.int64),
}


def test_hashes_are_sha256() -> None:
    assert artifacts.sha256_bytes(b"abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a396177a9c")


def test_sha256_file_equals_sha256_bytes_past_one_chunk(tmp_path: Path) -> None:
    data = os.urandom(2**20 + 17)
    (tmp_path / "x").write_bytes(data)
    assert artifacts.sha256_file(tmp_path / "x") == artifacts.sha256_bytes(data)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    artifacts.write_bytes(path, b"old")

    def interrupted() -> None:
        with artifacts.atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.bin"]


def test_a_full_disk_is_an_output_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        artifacts.write_bytes(tmp_path / "x", b"data")
    assert "free some space" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        artifacts.write_bytes(tmp_path / "build" / "x", b"data")
    with pytest.raises(OutputError), artifacts.FolderLock(tmp_path / "build"):
        pass


def test_new_files_have_the_users_permissions(tmp_path: Path) -> None:
    artifacts.write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- JSON -----------------------------------------------------------------------------------------


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "x.json", {"b": [1], "a": "é"})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": "\\u00e9",\n  "b": [\n    1\n  ]\n}\n'
    assert artifacts.read_json(tmp_path / "x.json") == {"a": "é", "b": [1]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_is_not_json_is_our_bug(tmp_path: Path, value: object) -> None:
    with pytest.raises(InternalError):
        artifacts.write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "same key twice"),
        ("[" * 200_000, "not valid JSON"),
        ("\xff", "not valid JSON"),
    ],
)
def test_malformed_json_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileFormatError, match=reason):
        artifacts.read_json(tmp_path / "x.json")


def test_reading_has_a_size_limit(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps("y" * 100))
    with pytest.raises(FileFormatError, match="larger than 50 bytes"):
        artifacts.read_json(tmp_path / "x.json", max_bytes=50)


def test_content_keys_tell_parts_apart() -> None:
    keys = {artifacts.content_key(*parts) for parts in [("ab",), ("a", "b"), (["a", "b"],), (1,), ("1",)]}
    assert len(keys) == 5


# --- archives -------------------------------------------------------------------------------------


def test_npz_round_trips_and_is_byte_deterministic(tmp_path: Path) -> None:
    artifacts.write_npz(tmp_path / "x.npz", ARRAYS)
    backwards = dict(reversed(ARRAYS.items()))
    assert artifacts.npz_bytes(backwards) == (tmp_path / "x.npz").read_bytes()
    loaded = artifacts.read_npz(tmp_path / "x.npz")
    assert loaded.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].flags.writeable
        np.testing.assert_array_equal(loaded[name], array)


def test_npz_is_what_numpy_reads_and_writes(tmp_path: Path) -> None:
    artifacts.write_npz(tmp_path / "ours.npz", ARRAYS)
    with np.load(tmp_path / "ours.npz") as theirs:
        np.testing.assert_array_equal(theirs["a_inputs"], ARRAYS["a_inputs"])
    np.savez(tmp_path / "theirs.npz", x=ARRAYS["a_inputs"])
    np.testing.assert_array_equal(artifacts.read_npz(tmp_path / "theirs.npz")["x"], ARRAYS["a_inputs"])


def test_fortran_order_is_written_as_c_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert artifacts.npz_bytes({"x": np.asfortranarray(array)}) == artifacts.npz_bytes({"x": array})


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileFormatError, match="pickled"):
        artifacts.read_npz(tmp_path / "x.npz")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(10**7, np.int8))
    assert (tmp_path / "x.npz").stat().st_size < 20_000
    with pytest.raises(FileFormatError, match="'x' is compressed"):
        artifacts.read_npz(tmp_path / "x.npz")


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    artifacts.write_npz(tmp_path / "x.npz", {"x": np.zeros(10**5, np.int8)})
    whole = (tmp_path / "x.npz").read_bytes()
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    entry = whole[start:end]
    twice = entry.replace(b"x.npy", b"y.npy")
    tail = bytearray(whole[end:])
    struct.pack_into("<HHI", tail, 8, 2, 2, 2 * len(entry))
    (tmp_path / "y.npz").write_bytes(whole[:start] + entry + twice + bytes(tail))
    with pytest.raises(FileFormatError, match="more than"):
        artifacts.read_npz(tmp_path / "y.npz")


def test_more_than_the_caller_allows_is_refused(tmp_path: Path) -> None:
    artifacts.write_npz(tmp_path / "x.npz", {"x": np.zeros(10**6, np.int8)})
    with pytest.raises(FileFormatError, match="more than 100000 bytes"):
        artifacts.read_npz(tmp_path / "x.npz", max_bytes=10**5)


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|i1", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + b"abc")
    with pytest.raises(FileFormatError, match="does not fit"):
        artifacts.read_npz(tmp_path / "x.npz")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_read_as_arrays_or_as_one_error(tmp_path: Path, data: st.DataObject) -> None:
    mutated = bytearray(artifacts.npz_bytes(ARRAYS))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.npz"
    path.write_bytes(
        mutated[: data.draw(st.integers(0, len(mutated)))] if data.draw(st.booleans()) else mutated
    )
    try:
        arrays = artifacts.read_npz(path, max_bytes=10**6)
    except SgscError:
        return
    assert all(array.nbytes <= 10**6 for array in arrays.values())


# --- manifest -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ["model.tflite", "package/readme.txt", "certificate.json", ".lock"]:
        artifacts.write_bytes(tmp_path / name, name.encode())
    artifacts.write_manifest(
        tmp_path,
        ["package/readme.txt", "model.tflite"],
        tools={"numpy": "2"},
        seeds={"build": 0},
        inputs={"model.py": "0" * 64},
        code={"weights": "learned"},
    )
    return tmp_path


def test_the_manifest_lists_the_named_files(folder: Path) -> None:
    manifest = artifacts.check_manifest(folder, required=["model.tflite"])
    assert manifest.files == {
        name: artifacts.sha256_bytes(name.encode()) for name in ["model.tflite", "package/readme.txt"]
    }
    assert (manifest.tools, manifest.seeds) == ({"numpy": "2"}, {"build": 0})
    assert manifest.code == {"weights": "learned"}


def test_an_edited_or_missing_file_is_named(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(b"edited")
    with pytest.raises(FileFormatError, match="has changed") as caught:
        artifacts.check_manifest(folder)
    assert "model.tflite" in str(caught.value)
    (folder / "model.tflite").unlink()
    with pytest.raises(FileFormatError, match="cannot be read") as caught:
        artifacts.check_manifest(folder)
    assert "model.tflite" in str(caught.value)


def test_a_file_that_must_be_listed_and_is_not_is_named(folder: Path) -> None:
    with pytest.raises(FileFormatError, match=r"does not list 'preservation.npz'"):
        artifacts.check_manifest(folder, required=["model.tflite", "preservation.npz"])


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"files": {"../secret": "0"}}, "not a path inside"),
        ({"files": {"/etc/passwd": "0"}}, "not a path inside"),
        ({"files": {"a\\b": "0"}}, "not a path inside"),
        ({"files": {"a": 1}}, "must map names to str"),
        ({"seeds": {"a": True}}, "must map names to int"),
        ({"schema": "sgsc-edge-manifest/9"}, "is no manifest that this version reads"),
        ({"extra": {}}, "written by another sgsc-edge: extra is not known"),
    ],
)
def test_a_malformed_manifest_is_refused(folder: Path, edit: dict[str, object], reason: str) -> None:
    document = artifacts.read_json(folder / "manifest.json")
    assert isinstance(document, dict)
    artifacts.write_json(folder / "manifest.json", document | edit)
    with pytest.raises(FileFormatError, match=reason):
        artifacts.check_manifest(folder)


def test_a_manifest_of_an_older_version_says_so_and_what_to_do(folder: Path) -> None:
    document = artifacts.read_json(folder / "manifest.json")
    assert isinstance(document, dict)
    del document["code"]
    artifacts.write_json(folder / "manifest.json", document)
    with pytest.raises(FileFormatError, match="written by an older sgsc-edge: it has no code") as caught:
        artifacts.check_manifest(folder)
    assert caught.value.remedy == "build again"


# --- resume and lock ------------------------------------------------------------------------------


def test_a_stage_is_current_only_for_its_key_and_unchanged_outputs(tmp_path: Path) -> None:
    stamps = artifacts.Stamps(tmp_path)
    assert not stamps.is_current("export", "k1")
    artifacts.write_bytes(tmp_path / "model.onnx", b"1")
    stamps.record("export", "k1", [tmp_path / "model.onnx"])
    stamps.record("other", "k2", [])
    assert artifacts.Stamps(tmp_path).is_current("export", "k1")
    assert not stamps.is_current("export", "k2")
    (tmp_path / "model.onnx").write_bytes(b"2")
    assert not stamps.is_current("export", "k1")
    (tmp_path / "model.onnx").unlink()
    assert not stamps.is_current("export", "k1")
    stamps.forget("other")
    assert not stamps.is_current("other", "k2")


def stamped(folder: Path) -> artifacts.Stamps:
    """A folder whose stage "train" is current under the key k."""
    for name in ("weights", "history"):
        artifacts.write_bytes(folder / name, name.encode())
    stamps = artifacts.Stamps(folder)
    stamps.record("train", "k", [folder / "weights", folder / "history"])
    return stamps


def test_outputs_of_another_folder_are_adopted_under_the_same_key(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    stamped(one)
    artifacts.write_bytes(two / "weights", b"stale")
    stamps = artifacts.Stamps(two)
    assert stamps.adopt("train", "k", ["weights", "history"], one)
    assert stamps.is_current("train", "k")
    assert (two / "weights").read_bytes() == b"weights"
    assert (two / "history").read_bytes() == b"history"


@pytest.mark.parametrize("why", ["key", "stage", "names", "edited", "lost", "no folder", "a file", "outside"])
def test_what_is_not_the_same_is_not_adopted(tmp_path: Path, why: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    stamped(one)
    stage, key, names, other = "train", "k", ["weights", "history"], one
    if why == "key":
        key = "another"
    elif why == "stage":
        stage = "another"
    elif why == "names":
        names = ["weights"]
    elif why == "edited":
        (one / "history").write_bytes(b"edited")
    elif why == "lost":
        (one / "weights").unlink()
    elif why == "no folder":
        other = tmp_path / "none"
    elif why == "a file":
        other = one / "weights"
    else:  # stamps that name a file of somebody else's
        text = (one / ".stamps.json").read_text()
        (one / ".stamps.json").write_text(text.replace('"weights"', '"../weights"'))
    stamps = artifacts.Stamps(two)
    assert not stamps.adopt(stage, key, names, other)
    assert not stamps.is_current(stage, key)
    assert not two.exists()


def test_only_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    kept = {"model.tmp", ".model.tmp", ".notes.12.tmp", ".a.12.ABCDEF01.tmp", "sub", "b.12.abcdef01.tmp"}
    for name in kept - {"sub"}:
        (tmp_path / name).write_bytes(b"")

    def killed() -> None:
        with artifacts.atomic_path(tmp_path / "weights") as temporary:
            temporary.write_bytes(b"half")
            os.link(temporary, tmp_path / "copy")
            (tmp_path / "name").write_text(temporary.name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    # The writer tidied up after itself; a killed one could not have.
    name = (tmp_path / "name").read_text()
    (tmp_path / "copy").rename(tmp_path / name)
    (tmp_path / "name").unlink()
    artifacts.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_the_sources_hash_follows_names_and_contents_of_python_files(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "a.py").write_text("x = 1")
    hashes = [artifacts.sources_hash(tmp_path)]
    (tmp_path / "room" / "a.pyc").write_text("compiled")
    assert artifacts.sources_hash(tmp_path) == hashes[0]
    (tmp_path / "room" / "a.py").write_text("x = 2")
    hashes.append(artifacts.sources_hash(tmp_path))
    (tmp_path / "room" / "a.py").rename(tmp_path / "a.py")
    hashes.append(artifacts.sources_hash(tmp_path))
    (tmp_path / "b.py").write_text("")
    hashes.append(artifacts.sources_hash(tmp_path))
    assert len(set(hashes)) == 4


@pytest.mark.parametrize("text", ["", "[]", '{"export": 1}', '{"export": {"key": "k1"}}'])
def test_damaged_stamps_count_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".stamps.json").write_text(text)
    assert not artifacts.Stamps(tmp_path).is_current("export", "k1")


HOLD = """
import sys, pathlib
from sgsc_edge.artifacts import FolderLock
with FolderLock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_kept_out_until_the_first_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another sgsc-edge process"), artifacts.FolderLock(tmp_path):
            pass
        holder.kill()
        holder.wait()
    with artifacts.FolderLock(tmp_path):
        pass
    with artifacts.FolderLock(tmp_path):
        pass


def test_a_folder_that_is_no_build_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"is no build folder: it has no manifest\.json") as refused:
        artifacts.check_manifest(tmp_path)
    assert "build/<target>" in (refused.value.remedy or "")
    (tmp_path / "tflite-int8").mkdir()
    with pytest.raises(FileFormatError, match=r"does not exist; did you mean 'tflite-int8'\?"):
        artifacts.check_manifest(tmp_path / "tflite-itn8")
