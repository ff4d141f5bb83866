"""Boards as data: a chip and how it is reached, read from ``targets/boards/<name>.toml``.

A new board with a known core is a new file; nothing in the code knows a board by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sgsc_edge.config_text import NamedTable, Spelling, Table, named_file
from sgsc_edge.firmware.chip import Chip, Uart
from sgsc_edge.targets import target_folder

# Cores that Unicorn emulates; its M0 executes what an M0+ does.
UNICORN_CPUS = ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33")


# A path, a Windows port, or the vendor's and the product's number of a USB device.
_PORT = r"/.+|COM[0-9]+|usb:[0-9a-f]{4}:[0-9a-f]{4}"


class Reach(Table):
    """How a board is reached."""

    via: Literal["unicorn", "qemu", "linux", "serial"] = Field(
        description="`unicorn`: virtual boards; `linux`: a program, for `aarch64` only; `serial`: a "
        "real board."
    )
    machine: Annotated[str, Spelling("a name such as `mps2-an386`", r"[a-z0-9][a-z0-9._-]*")] | None = Field(
        default=None, description="QEMU's name of the machine; for `qemu` only."
    )
    port: (
        Annotated[str, Spelling("a port such as `/dev/ttyACM0`, or a USB id `usb:0d28:0204`", _PORT)] | None
    ) = Field(default=None, description="Where the board is connected; for `serial` only.")

    @model_validator(mode="after")
    def _complete(self) -> Reach:
        if (self.via == "qemu") != (self.machine is not None):
            raise ValueError("machine is given exactly where via is 'qemu'")
        if (self.via == "serial") != (self.port is not None):
            raise ValueError("port is given exactly where via is 'serial'")
        return self


class Board(NamedTable):
    """A validated board file."""

    chip: Chip = Field(description="The core and its memory.")
    reach: Reach = Field(description="How the board is reached.")
    link: Uart | None = Field(
        default=None,
        description="The UART that carries the link: needed for `serial`, possible for `qemu`. Left "
        "out: semihosting, or standard input and output.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> Board:
        if self.reach.via == "unicorn" and self.chip.cpu not in UNICORN_CPUS:
            raise ValueError(f"Unicorn emulates no {self.chip.cpu}; it has {', '.join(UNICORN_CPUS)}")
        if (self.reach.via == "linux") != self.chip.architecture.hosted:
            raise ValueError(f"a board with {self.chip.cpu} cannot be reached via '{self.reach.via}'")
        if self.link is None and self.reach.via == "serial":
            raise ValueError("a board at a serial port has a [link]: the UART of the chip")
        if self.link is not None and self.reach.via not in ("serial", "qemu"):
            raise ValueError(f"a board that is reached via '{self.reach.via}' has no [link]")
        return self


def load_board(name_or_path: str | Path) -> Board:
    """A shipped board by name, or one of the user's own by path to its ``.toml``.

    Raises ``ConfigError``: unknown name (with the nearest), or every problem of the file at once.
    """
    return named_file(Board, name_or_path, board_folder(), kind="board")


def board_names() -> list[str]:
    """Names of the shipped boards, without reading them."""
    return sorted(path.stem for path in board_folder().glob("*.toml"))


def board_folder() -> Path:
    """Where the shipped boards lie: beside the targets."""
    return target_folder() / "boards"
