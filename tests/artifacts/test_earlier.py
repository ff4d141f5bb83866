"""The earlier build of a folder survives the one that is stopped, and locks say who holds them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sgsc_edge.artifacts import Earlier, FolderLock, check_manifest, write_bytes, write_manifest
from sgsc_edge.errors import FileFormatError, FolderInUseError, OutputError

NAMES = ("a", "b", "c")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "ab":
        write_bytes(tmp_path / name, f"first {name}".encode())
    write_bytes(tmp_path / "notes", b"the user's own")
    return tmp_path


def stopped(folder: Path, error: type[BaseException] = KeyboardInterrupt) -> None:
    with pytest.raises(error), Earlier(folder, NAMES) as earlier:  # noqa: PT012 - a build in small
        earlier.keep()
        write_bytes(folder / "b", b"second b")
        write_bytes(folder / "c", b"second c")
        earlier.keep()
        raise error


def test_what_is_stopped_leaves_the_earlier_files_and_its_own_aside(folder: Path) -> None:
    before = contents(folder)
    for _ in range(2):
        stopped(folder)
        assert contents(folder) == before
        assert contents(folder / ".unfinished") == {"b": b"second b", "c": b"second c"}
        assert not (folder / ".earlier").exists()


def test_what_ends_well_leaves_nothing_of_before(folder: Path) -> None:
    stopped(folder)
    with Earlier(folder, NAMES) as earlier:
        earlier.keep()
        write_bytes(folder / "b", b"third b")
    assert contents(folder) == {"a": b"first a", "b": b"third b", "notes": b"the user's own"}
    assert not (folder / ".unfinished").exists()
    assert not (folder / ".earlier").exists()


@pytest.mark.parametrize("then", ["stopped", "whole"])
def test_a_killed_block_ends_with_the_next_one(folder: Path, then: str) -> None:
    before = contents(folder)
    earlier = Earlier(folder, NAMES)
    earlier.keep()
    write_bytes(folder / "b", b"second b")  # and a kill
    if then == "stopped":
        stopped(folder)
        assert contents(folder) == before
    else:
        with Earlier(folder, NAMES) as again:
            again.keep()
        assert contents(folder)["b"] == b"second b"
    assert not (folder / ".earlier").exists()


def test_a_killed_keep_is_begun_anew(folder: Path) -> None:
    (folder / ".earlier.making").mkdir()
    (folder / ".earlier.making" / "a").write_bytes(b"half")
    stopped(folder)
    assert contents(folder)["a"] == b"first a"


@pytest.mark.parametrize("lacking", ["links", "room for a folder"])
def test_it_works_without(folder: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    before, mkdir = contents(folder), Path.mkdir

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOTSUP, "no")

    def refuse_unfinished(self: Path, *arguments: object, **keys: object) -> None:
        if self.name == ".unfinished":
            raise OSError(errno.ENOSPC, "full")
        mkdir(self, *arguments, **keys)  # type: ignore[arg-type]

    if lacking == "links":
        monkeypatch.setattr(os, "link", refuse)
    else:
        monkeypatch.setattr(Path, "mkdir", refuse_unfinished)
    stopped(folder)
    assert contents(folder) == before
    assert not (folder / ".earlier").exists()


def test_without_room_to_keep_nothing_is_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(folder)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="No space"), Earlier(folder, NAMES) as earlier:  # noqa: PT012
        earlier.keep()
        write_bytes(folder / "b", b"second b")
    assert contents(folder) == before


class KilledError(BaseException):
    """Stands in for a kill: nothing handles it."""


STEPS = ("link", "replace", "unlink", "rmdir", "mkdir")


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``step`` changes of the file system happen, and end in front of the next one."""
    left = [step]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def changing(*arguments: Any, **keys: Any) -> Any:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return change(*arguments, **keys)

        return changing

    for name in STEPS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("ending", ["whole", "stopped"])
def test_killed_at_any_step_of_its_end_it_leaves_one_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """A build that replaces another, or is stopped; then comes one that is refused: it mixes nothing."""
    old = {"a": b"old a", "b": b"old b"}
    new = {"a": b"new a", "b": b"new b", "c": b"new c"}

    def replace(folder: Path) -> None:
        with Earlier(folder, NAMES) as earlier:
            earlier.keep()
            for name, data in new.items():
                write_bytes(folder / name, data)
            kill_at(step, monkeypatch)
            if ending == "stopped":
                raise OutputError("stopped")

    step, killed = 0, True
    while killed:
        folder = tmp_path / str(step)
        folder.mkdir()
        for name, data in old.items():
            write_bytes(folder / name, data)
        killed = False
        try:
            replace(folder)
        except OutputError:
            pass
        except KilledError:
            killed = True
        finally:
            monkeypatch.undo()
        for _ in range(2):
            with contextlib.suppress(OutputError), Earlier(folder, NAMES):
                raise OutputError("refused")
            found = {name: data for name, data in contents(folder).items() if name in NAMES}
            assert found in ((old,) if ending == "stopped" else (old, new)), step
        left = {path.name for path in folder.iterdir()} - {*NAMES, ".unfinished"}
        assert not left
        step += 1
    assert step > 3
    assert found == (old if ending == "stopped" else new)


def test_a_folder_that_was_left_half_way_says_so(folder: Path) -> None:
    write_manifest(folder, "ab", tools={}, seeds={}, inputs={}, code={})
    Earlier(folder, NAMES).keep()
    check_manifest(folder)
    write_bytes(folder / "b", b"second b")  # and a kill
    with pytest.raises(FileFormatError, match="was stopped here, or still runs: run `sgsc-edge build` again"):
        check_manifest(folder)
    with contextlib.suppress(OutputError), Earlier(folder, NAMES):
        raise OutputError("refused")
    check_manifest(folder)
    write_bytes(folder / "b", b"edited")
    with pytest.raises(FileFormatError, match="restore the file, or build again"):
        check_manifest(folder)


# --- locks ----------------------------------------------------------------------------------------

HOLD = """
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from sgsc_edge.artifacts import FolderLock
with FolderLock(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_works_there_and_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, "build", str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUseError) as caught, FolderLock(tmp_path):
            pass
        assert f"process {holder.pid} on " in str(caught.value)
        assert "build" in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert caught.value.exit_code == 2
    finally:
        holder.kill()
        holder.communicate()
    with FolderLock(tmp_path):
        assert f"process {os.getpid()} on ".encode() in (tmp_path / ".lock").read_bytes()


def test_a_lock_file_of_other_text_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(b"\xff\x00" * 1000)
    with FolderLock(tmp_path), pytest.raises(FolderInUseError) as caught, FolderLock(tmp_path):
        pass
    assert len(str(caught.value)) < 600


def test_a_lock_that_is_a_link_is_refused_and_what_it_names_stays(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"somebody's")
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / ".lock").symlink_to(other)
    with pytest.raises(OutputError, match="symbolic link"), FolderLock(folder):
        pass
    assert other.read_bytes() == b"somebody's"
