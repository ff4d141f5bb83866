"""QEMU boards: the image runs on one of QEMU's machines, and the link is QEMU's standard input and output.

QEMU has whole machines: their memory is larger than the chip of a board file, so its limits are checked when
the image is built. Faults of the core reach the firmware, which reports them over the link. Where a firmware
hangs, QEMU is asked over its own protocol (QMP).
"""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sgsc_edge.boards.process import BoardProcess
from sgsc_edge.errors import BoardError, LinkError
from sgsc_edge.firmware.chip import CORTEX_M, RISCV32, Chip

if TYPE_CHECKING:  # it needs a package of the extra `device`
    from sgsc_edge.firmware.image import Image


@dataclass(frozen=True)
class Program:
    """QEMU for one architecture, the system package that it comes with, and options that it needs."""

    name: str
    package: str
    options: tuple[str, ...] = ()


PROGRAMS = {
    CORTEX_M: Program("qemu-system-arm", "qemu-system-arm"),
    # Without a BIOS the image has the machine to itself.
    RISCV32: Program("qemu-system-riscv32", "qemu-system-misc", ("-bios", "none")),
}
_OVER_UART = ("-serial", "stdio")
_OVER_SEMIHOSTING = ("-serial", "none", "-semihosting-config", "enable=on,target=native")
_MONITOR_TIMEOUT_S = 2.0
_MONITOR_BYTES = 2**16
_PROGRAM_COUNTER = re.compile(r"\b(?:R15|pc)\s*=?\s*([0-9a-f]{8})\b")


def missing(chip: Chip) -> str | None:
    """What to install for machines with such a core; None where QEMU is here."""
    program = PROGRAMS[chip.architecture]
    return None if shutil.which(program.name) else f"apt install {program.package}"


class QemuBoard(BoardProcess):
    """An image on a QEMU machine, from reset. ``uart``: the link is its first UART, else semihosting.

    Raises ``BoardError`` where QEMU is not installed.
    """

    def __init__(self, image: Image, chip: Chip, machine: str, *, uart: bool = False) -> None:
        program = PROGRAMS[chip.architecture]
        path = shutil.which(program.name)
        if path is None:
            raise BoardError(f"{program.name} is not installed", where=machine, remedy=missing(chip))

        def command(elf: Path) -> Sequence[str]:
            return (
                *(path, "-machine", machine, "-kernel", str(elf), *program.options),
                *("-display", "none", "-nodefaults", *(_OVER_UART if uart else _OVER_SEMIHOSTING)),
                *(
                    "-chardev",
                    f"socket,id=monitor,fd={theirs.fileno()}",
                    "-mon",
                    "chardev=monitor,mode=control",
                ),
            )

        def ended(status: int, said: str) -> LinkError:
            text = f"{program.name} ended with status {status}"
            return LinkError(f"{text}: {said}" if said else text, where=machine)

        self._monitor, theirs = socket.socketpair()
        with theirs:
            super().__init__(image, command, ended, inherited=(theirs.fileno(),))

    def program_counter(self) -> int | None:
        """The instruction that is being executed; None where QEMU does not say."""
        registers = {"command-line": "info registers"}
        requests = (
            {"execute": "qmp_capabilities"},
            {"execute": "human-monitor-command", "arguments": registers},
        )
        said = ""
        try:
            self._monitor.settimeout(_MONITOR_TIMEOUT_S)
            self._monitor.sendall(b"".join(json.dumps(request).encode() for request in requests))
            while not (found := _PROGRAM_COUNTER.search(said)):
                data = self._monitor.recv(_MONITOR_BYTES)
                if not data:
                    return None
                said += data.decode("utf-8", "replace")
        except OSError:
            return None
        return int(found[1], 16)

    def close(self) -> None:
        """End QEMU, whatever it does, and remove its files."""
        self._monitor.close()
        super().close()
