"""Whatever stops a build, the one before it stays whole: full disk, read-only folder, two at once, kills."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pipeline.conftest import sgsc_edge

from sgsc_edge import api
from sgsc_edge.artifacts import FolderLock, sha256_file
from sgsc_edge.certification.verify import verify_folder
from sgsc_edge.errors import OutputError, SgscError
from sgsc_edge.pipeline import road

TARGET = "tflite-int8"
AGAIN = ("--set", "compress.epochs=1", "--set", "compress.learning_rate=0.02")
KEPT = (".lock", ".compress.checkpoint.pt", ".unfinished")


def files(folder: Path) -> dict[str, str]:
    """Everything but what the lock and training leave."""
    return {path.name: sha256_file(path) for path in folder.iterdir() if path.name not in KEPT}


def build(project: Path, out: Path) -> list[str]:
    """Arguments, with other settings than those of the shared build."""
    return ["build", str(project), "-t", TARGET, "--out", str(out), *AGAIN]


def command(*arguments: str) -> list[str]:
    """A process that is started from nothing."""
    return [sys.executable, "-m", "sgsc_edge.cli.main", *arguments]


def mount(*arguments: object) -> None:
    """Skips the test where mounting is not allowed."""
    line = ["mount", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")


def unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
    yield disk
    unmount(disk)


@pytest.fixture
def read_only(built: Path) -> Iterator[Path]:
    """The built project, on a read-only file system: permissions stop no root."""
    mount("--bind", built, built)
    mount("-o", "remount,bind,ro", built)
    yield built
    unmount(built)


@pytest.mark.needs("mount")
def test_a_full_disk_leaves_the_earlier_build_as_it_was(built: Path, small_disk: Path) -> None:
    """Full to the last byte, and with room for some of the files."""
    folder = Path(shutil.copytree(built / "build" / TARGET, small_disk / TARGET))
    before = files(folder)
    filler = small_disk / "filler"
    for room in (0, 40_000):
        filler.unlink(missing_ok=True)
        usage = shutil.disk_usage(small_disk)
        filler.write_bytes(bytes(max(0, usage.free - room)))
        ran = sgsc_edge(*build(built, small_disk))
        assert ran.code == 2, ran.err
        assert "No space left on device" in ran.err
        assert str(folder) in ran.err
        assert "free some space" in ran.err
        assert files(folder) == before
    assert sgsc_edge("verify", folder).code == 0
    filler.unlink()
    ran = sgsc_edge(*build(built, small_disk))
    assert ran.code == 0, ran.err
    assert files(folder) != before
    assert verify_folder(folder).verdict == "PASSED"
    assert not (folder / ".unfinished").exists()


def test_a_build_stopped_before_any_stage_ends_leaves_the_earlier_one(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage fails after it has written its files, one stage a run; at last nothing is made twice."""
    folder = built / "build" / TARGET
    before = files(folder)
    settings = [AGAIN[1], AGAIN[3]]
    walk, ended = road.make_current, []

    def failing(stage: road.Stage, *rest: object) -> None:
        walk(stage, *rest)  # type: ignore[arg-type]
        if stage.outputs and stage.name not in ended:
            ended.append(stage.name)
            raise OutputError("cannot write: No space left on device", where=str(folder))

    monkeypatch.setattr(road, "make_current", failing)
    for _ in range(6):
        with pytest.raises(SgscError):
            api.build(built, targets=[TARGET], out=built / "build", settings=settings)
        assert files(folder) == before
    assert ended == ["preserve", "compress", "export", "lower", "record", "certify"]
    monkeypatch.undo()
    api.build(built, targets=[TARGET], out=built / "build", settings=settings)
    assert files(folder) != before


@pytest.mark.needs("mount")
def test_a_read_only_build_verifies_and_is_not_changed(read_only: Path) -> None:
    folder = read_only / "build" / TARGET
    before = files(folder)
    assert sgsc_edge("verify", folder).code == 0
    for arguments in (
        ("build", read_only, "-t", TARGET, "--out", read_only / "build"),
        ("package", folder, "--format", "c-code"),
        ("flash", folder, "--board", "virtual-cortex-m0plus"),
    ):
        ran = sgsc_edge(*arguments)
        assert ran.code == 2, (arguments, ran.err)
        assert "Read-only file system" in ran.err, arguments
        assert str(folder) in ran.err
    assert files(folder) == before


def test_two_commands_at_once_on_one_folder(built: Path) -> None:
    """One works; the other writers say who does, readers read."""
    folder = built / "build" / TARGET
    before = files(folder)
    with FolderLock(folder):
        here = f"process {os.getpid()} on"
        for arguments in (
            ("build", built, "-t", TARGET, "--out", built / "build"),
            ("flash", folder, "--board", "virtual-cortex-m0plus"),
        ):
            ran = sgsc_edge(*arguments)
            assert ran.code == 2, ran.err
            assert "another sgsc-edge process is working in this folder" in ran.err
            assert here in ran.err
            assert str(folder) in ran.err
        assert sgsc_edge("verify", folder).code == 0
    assert files(folder) == before


def test_two_builds_started_at_once_end_with_one_build(project: Callable[..., Path]) -> None:
    folder = project()
    running = [
        subprocess.Popen(
            command("build", str(folder), "-t", TARGET, "--out", str(folder / "out")),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ended = [(process.communicate()[1], process.returncode) for process in running]
    codes = sorted(code for _, code in ended)
    assert codes in ([0, 2], [0, 0])  # the second may have started when the first was done
    for error, code in ended:
        assert code == 0 or "another sgsc-edge process is working in this folder" in error
    assert verify_folder(folder / "out" / TARGET).verdict == "PASSED"


def test_a_build_killed_while_it_replaces_another_goes_on(built: Path) -> None:
    """SIGKILL leaves files of both; the next build ends as it would have, or puts the earlier one back."""
    folder = built / "build" / TARGET
    before = files(folder)
    whole = built / "whole"
    assert sgsc_edge(*build(built, whole)).code == 0
    process = subprocess.Popen(
        command(*build(built, built / "build")), stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (folder / ".earlier").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (folder / ".earlier").exists()
    limited = subprocess.run(
        command(*build(built, built / "build")),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert limited.returncode == 2, limited.stderr
    assert files(folder) == before
    assert sgsc_edge(*build(built, built / "build")).code == 0
    assert files(folder) == files(whole / TARGET)
