"""QEMU boards: the image runs in ``qemu-system-arm``, and the link is its standard input and output.

QEMU has whole machines: their memory is larger than the chip of a board file, so its limits are checked when
the image is built. Faults of the core reach the firmware, which reports them over the link.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from sgsc_edge.errors import BoardError, LinkError
from sgsc_edge.firmware.image import Image

PROGRAM = "qemu-system-arm"
INSTALL = "apt install qemu-system-arm"

_LOG_BYTES = 2000
_CHUNK = 2**16


class QemuBoard:
    """An image on a QEMU machine, from reset; a ``Transport``. ``close`` ends the process.

    Raises ``BoardError`` where QEMU is not installed.
    """

    def __init__(self, image: Image, machine: str) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise BoardError(f"{PROGRAM} is not installed", where=machine, remedy=INSTALL)
        self._machine = machine
        self._scratch = tempfile.TemporaryDirectory(prefix="sgsc-edge-")
        elf = Path(self._scratch.name) / "firmware.elf"
        elf.write_bytes(image.elf)
        self._log = (Path(self._scratch.name) / "log").open("w+b")
        self._process = subprocess.Popen(
            [
                program,
                *("-machine", machine, "-kernel", str(elf)),
                *("-display", "none", "-monitor", "none", "-serial", "none", "-nodefaults"),
                *("-semihosting-config", "enable=on,target=native"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches us, and we end it
        )

    def write(self, data: bytes) -> None:
        """Bytes for the firmware to read."""
        pipe = _pipe(self._process.stdin)
        try:
            while data:
                data = data[os.write(pipe, data) :]
        except BrokenPipeError:
            raise self._ended() from None

    def read(self, timeout_s: float) -> bytes:
        """What the firmware has written; ``LinkError`` where QEMU has ended."""
        pipe = _pipe(self._process.stdout)
        if not select.select([pipe], [], [], timeout_s)[0]:
            return b""
        if data := os.read(pipe, _CHUNK):
            return data
        raise self._ended()

    def close(self) -> None:
        """End QEMU, whatever it does, and remove its files."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()
        self._scratch.cleanup()

    def _ended(self) -> LinkError:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read(_LOG_BYTES).decode("utf-8", "replace").strip().splitlines()
        said = next((f": {line}" for line in reversed(lines) if "warning:" not in line), "")
        return LinkError(f"{PROGRAM} ended with status {status}{said}", where=self._machine)


def _pipe(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return stream.fileno()
