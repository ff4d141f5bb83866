"""``flash`` that does not reach its end: firmware that hangs, Ctrl-C, kill, folders that take no file."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from firmware.built import needs

from sgsc_edge.artifacts import FolderLock
from sgsc_edge.boards.description import board_folder

VIRTUAL, QEMU = "virtual-cortex-m4", "qemu-mps2-an386"
COMMAND = [sys.executable, "-m", "sgsc_edge.cli.main"]
MAIN = "import sys; from sgsc_edge.cli.main import main; sys.exit(main())"
# The command itself, with a self-test that never ends.
HANGING = """
import sys
from sgsc_edge import flash
from sgsc_edge.cli.main import main

def hanging(source, out, write=flash.package_c_code):
    made = write(source, out)
    name = made.description["name"]
    loop = f"int sgsc_{name}_selftest(sgsc_{name}_output *output) {{ for (;;) {{ (void)output; }} }}"
    (out / "selftest.c").write_text(f'#include "sgsc_{name}.h"\\n{loop}\\n')
    return made

flash.package_c_code = hanging
sys.exit(main())
"""


def flash(
    folder: Path, board: str | Path, *options: str, prepare: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "flash", str(folder), "--board", str(board), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, preexec_fn=prepare
    )


# --- firmware that hangs --------------------------------------------------------------------------


def test_firmware_that_hangs_is_named(folder: Path) -> None:
    command = [sys.executable, "-c", HANGING, "flash", str(folder), "--board", VIRTUAL, "--timeout", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 4, done.stderr
    # 0.5 s for the answer, and more for its samples
    assert re.search(
        r"no answer to SELFTEST within (0\.[5-9]\d*|[1-9]\S*) s: it hangs, or is slow, in sgsc_", done.stderr
    )
    assert "--timeout" in done.stderr
    assert not list(folder.glob("certificate.v*"))


class Hanging:
    """A ``flash`` whose firmware hangs; ``scratch`` holds its temporary files."""

    def __init__(self, folder: Path, board: str) -> None:
        self.scratch = folder.parent / "scratch"
        self.scratch.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-c", HANGING, "flash", str(folder), "--board", board],
            env={**os.environ, "TMPDIR": str(self.scratch)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.startswith("firmware:"):
                break
        time.sleep(0.5)  # it has started by then, or is starting

    def end(self, number: signal.Signals) -> tuple[int, str, float]:
        """Exit code, what was said, and seconds until it was over."""
        assert self._process.poll() is None
        started = time.monotonic()
        self._process.send_signal(number)
        _, said = self._process.communicate(timeout=60)
        return self._process.returncode, said, time.monotonic() - started

    def children(self) -> list[str]:
        """Commands of processes that name a file in ``scratch``."""
        commands = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                commands.append(path.read_text(errors="replace"))
            except OSError:  # it has ended
                continue
        return [command for command in commands if str(self.scratch) in command]


@pytest.mark.parametrize("board", [VIRTUAL, pytest.param(QEMU, marks=needs(QEMU))])
def test_ctrl_c_ends_it_within_a_second_and_leaves_nothing(board: str, folder: Path) -> None:
    hanging = Hanging(folder, board)
    code, said, seconds = hanging.end(signal.SIGINT)
    assert code == 130
    assert "interrupted" in said
    assert (
        seconds < 1.0 if os.environ.get("CI") else seconds < 5.0
    )  # of a machine that has other things to do
    assert hanging.children() == []
    assert list(hanging.scratch.iterdir()) == []


@pytest.mark.needs("qemu-system-arm")
def test_after_a_kill_nothing_runs_on_and_the_next_time_works(folder: Path) -> None:
    hanging = Hanging(folder, QEMU)
    assert hanging.end(signal.SIGKILL)[0] == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while hanging.children():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    half_written = folder / "package" / f".firmware.{QEMU}.elf.123.0123abcd.tmp"
    half_written.touch()
    done = flash(folder, QEMU, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predicate"]["verdict"] == "PASSED"
    assert not half_written.exists()


# --- folders, and boards that are not there ----------------------------------------------------------


def test_a_folder_in_use(folder: Path) -> None:
    with FolderLock(folder):
        done = flash(folder, VIRTUAL)
    assert done.returncode == 2
    assert f"another sgsc-edge process is working in this folder (process {os.getpid()} on" in done.stderr
    assert "-> wait for it to end" in done.stderr


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / "package").write_text("a file where a folder is needed")
    done = flash(folder, VIRTUAL)
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "copy the build folder to where it can be written" in done.stderr


def test_a_disk_that_is_full(folder: Path) -> None:
    done = flash(folder, VIRTUAL, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)))
    assert done.returncode == 2, done.stderr
    assert "cannot write: File too large" in done.stderr
    assert not list(folder.glob("**/*.tmp"))


def test_temporary_files_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    absent = str(tmp_path / "no such folder")
    command = [sys.executable, "-c", f"import tempfile; tempfile.tempdir = {absent!r}\n{MAIN}", "flash"]
    done = subprocess.run(
        [*command, str(folder), "--board", VIRTUAL], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2
    assert "no such folder: cannot write temporary files" in done.stderr
    assert "point TMPDIR elsewhere" in done.stderr


def test_a_board_that_is_not_connected(folder: Path, tmp_path: Path) -> None:
    text = (board_folder() / "qemu-mps2-an386-uart.toml").read_text()
    mine = tmp_path / "mine.toml"
    at_port = 'via = "serial"\nport = "/dev/ttyNowhere7"'
    mine.write_text(
        text.replace('via = "qemu"\nmachine = "mps2-an386"', at_port).replace("qemu-mps2-an386-uart", "mine")
    )
    done = flash(folder, mine)
    assert done.returncode == 4
    assert "mine: is not connected: there is no port /dev/ttyNowhere7" in done.stderr
    assert "connect the board, or correct the port in its file" in done.stderr
    written = folder / "package" / "firmware.mine.elf"
    assert f"write {written} to the board with its own tool first" in done.stderr
    assert written.read_bytes()[:4] == b"\x7fELF"
    assert flash(folder, mine, "--dry-run").returncode == 0
