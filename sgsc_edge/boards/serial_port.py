"""Boards at a serial port: firmware that is on a board already, and its UART as the link.

Nothing is written to the board here: its own tool does that, and the board's answers say whether it holds
the image.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

import serial
from serial.tools import list_ports

from sgsc_edge.errors import BoardError

USB = re.compile(r"usb:([0-9a-f]{4}):([0-9a-f]{4})")
_REMEDIES = {
    errno.ENOENT: "connect the board, or correct the port in its file",
    errno.ENXIO: "connect the board, or correct the port in its file",
    errno.EACCES: "you may not open the port: join its group (often dialout) and log in again",
    errno.EAGAIN: "another program has the port open: end it",
    errno.EBUSY: "another program has the port open: end it",
}


def find_port(port: str, board: str) -> str:
    """The serial port that a board file names, also by USB id; ``BoardError`` where it is not there."""
    if (usb := USB.fullmatch(port)) is None:
        if not Path(port).exists():
            raise BoardError(f"is not connected: there is no port {port}", where=board, remedy=_connect())
        return port
    wanted = tuple(int(number, 16) for number in usb.groups())
    ports: list[tuple[str, int | None, int | None]]
    ports = [(info.device, info.vid, info.pid) for info in list_ports.comports()]
    found = sorted(device for device, *ids in ports if tuple(ids) == wanted)
    if not found:
        raise BoardError(f"is not connected: no port with {port}", where=board, remedy=_connect())
    if len(found) > 1:
        raise BoardError(
            f"several ports have {port}: {', '.join(found)}",
            where=board,
            remedy="name one of them as the port in a copy of the board file",
        )
    return found[0]


def _connect() -> str:
    ports = ", ".join(sorted(info.device for info in list_ports.comports())) or "none"
    return f"connect the board, or correct the port in its file (serial ports here: {ports})"


class SerialBoard:
    """A board at a serial port; a ``Transport``. Raises ``BoardError`` where the port cannot be opened."""

    def __init__(self, port: str, baud: int, board: str) -> None:
        self._board = board
        self._port = find_port(port, board)
        try:
            self._serial = serial.Serial(self._port, baud, exclusive=True)
            self._serial.reset_input_buffer()
        except (OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else None
            remedy = _REMEDIES.get(number or 0, "check the port and the baud rate in the board's file")
            raise BoardError(f"{self._port} cannot be opened: {error}", where=board, remedy=remedy) from error

    def write(self, data: bytes, timeout_s: float) -> None:
        """Bytes for the firmware to read; what is not sent within ``timeout_s`` seconds is dropped."""
        try:
            self._serial.write_timeout = timeout_s
            self._serial.write(data)
        except serial.SerialTimeoutException:
            self._serial.reset_output_buffer()
        except OSError as error:
            raise self._gone() from error

    def read(self, timeout_s: float) -> bytes:
        """What the firmware has written; ``BoardError`` where the port has gone."""
        try:
            self._serial.timeout = timeout_s
            first: bytes = self._serial.read(1)
            return first + self._serial.read(self._serial.in_waiting) if first else b""
        except OSError as error:
            raise self._gone() from error

    def program_counter(self) -> int | None:
        """Not known: there is no second way to the board."""
        return None

    def close(self) -> None:
        """Close the port."""
        self._serial.close()

    def _gone(self) -> BoardError:
        return BoardError(
            f"the port {self._port} has gone", where=self._board, remedy="check the cable, and run it again"
        )
