"""Boards that are a process of this machine: the image is a file, the link its standard input and output."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sgsc_edge.artifacts import scratch_errors
from sgsc_edge.errors import BoardError

if TYPE_CHECKING:  # it needs a package of the extra `device`
    from sgsc_edge.firmware.image import Image

_LOG_BYTES = 2000
_CHUNK = 2**16
# Becomes the program that its arguments name, and ends with us even if we are killed (prctl 1: the signal
# that the kernel sends then).
_END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class BoardProcess:
    """A program that runs an image, from reset; a ``Transport``. ``close`` ends it.

    Parameters
    ----------
    command: makes the program's path and arguments of the path of the image.
    ended: the error where the program has ended by itself: of its status and of what it said.
    inherited: file descriptors that the program gets beside the standard ones.
    """

    def __init__(
        self,
        image: Image,
        command: Callable[[Path], Sequence[str]],
        ended: Callable[[int, str], BoardError],
        inherited: Sequence[int] = (),
    ) -> None:
        self._ended = ended
        with scratch_errors():
            self._scratch = tempfile.TemporaryDirectory(prefix="sgsc-edge-")
            elf = Path(self._scratch.name) / "firmware.elf"
            elf.write_bytes(image.elf)
            elf.chmod(0o700)
        self._log = (Path(self._scratch.name) / "log").open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, *command(elf)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches us, and we end it
            pass_fds=inherited,
        )

        os.set_blocking(_pipe(self._process.stdin), False)

    def write(self, data: bytes, timeout_s: float) -> None:
        """Bytes for the firmware to read; what is not taken within ``timeout_s`` seconds is dropped."""
        pipe = _pipe(self._process.stdin)
        deadline = time.monotonic() + timeout_s
        try:
            while data and select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
                data = data[os.write(pipe, data) :]
        except BrokenPipeError:
            raise self._end() from None

    def read(self, timeout_s: float) -> bytes:
        """What the firmware has written; ``BoardError`` where the program has ended."""
        pipe = _pipe(self._process.stdout)
        if not select.select([pipe], [], [], timeout_s)[0]:
            return b""
        if data := os.read(pipe, _CHUNK):
            return data
        raise self._end()

    def program_counter(self) -> int | None:
        """The instruction that is being executed; None where that cannot be told."""
        return None

    def close(self) -> None:
        """End the program, whatever it does, and remove its files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()
        self._scratch.cleanup()

    def _end(self) -> BoardError:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read(_LOG_BYTES).decode("utf-8", "replace").strip().splitlines()
        return self._ended(status, next((line for line in lines if "warning:" not in line), ""))


def _pipe(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return stream.fileno()
