"""Linux boards: the image is a program of this machine where it has such a core, else of qemu-user.

The link is its standard input and output. The firmware reports its signals over the link; SIGALRM makes it
say where it is.
"""

from __future__ import annotations

import platform
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from sgsc_edge.boards.link import FAULT, Decoder, fault_of
from sgsc_edge.boards.process import BoardProcess
from sgsc_edge.errors import BoardError, LinkError, TrapError

if TYPE_CHECKING:  # it needs a package of the extra `device`
    from sgsc_edge.firmware.image import Image

MACHINE = "aarch64"
EMULATORS = ("qemu-aarch64", "qemu-aarch64-static")
PACKAGE = "qemu-user"
_ANSWER_S = 2.0


def missing() -> str | None:
    """What to install for programs of such a core; None where they run here."""
    return None if _runner() is not None else f"apt install {PACKAGE}"


def _runner() -> tuple[str, ...] | None:
    """What stands before the program's name in its command; None where it does not run here."""
    if sys.platform == "linux" and platform.machine() == MACHINE:
        return ()
    return next(((path,) for name in EMULATORS if (path := shutil.which(name))), None)


class LinuxBoard(BoardProcess):
    """An image as a process, from its start.

    Raises ``BoardError`` where neither this machine nor qemu-user runs it.
    """

    def __init__(self, image: Image, board: str) -> None:
        runner = _runner()
        if runner is None:
            raise BoardError(f"{EMULATORS[0]} is not installed", where=board, remedy=f"apt install {PACKAGE}")

        def ended(status: int, said: str) -> BoardError:
            if status < 0:
                return TrapError(f"ended by {signal.Signals(-status).name}", where=board)
            text = f"the program ended with status {status}"
            return LinkError(f"{text}: {said}" if said else text, where=board)

        super().__init__(image, lambda elf: (*runner, str(elf)), ended)

    def program_counter(self) -> int | None:
        """The instruction that was being executed: the program ends by saying it. None where it does not."""
        decoder = Decoder()
        try:
            self._process.send_signal(signal.SIGALRM)
            while data := self.read(_ANSWER_S):
                for frame in decoder.feed(data):
                    if frame.type == FAULT:
                        return fault_of(frame.payload).pc
        except BoardError:
            return None
        return None
