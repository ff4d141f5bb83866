"""Which boards there are, and what is missing here to use them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from sgsc_edge.boards import linux, qemu
from sgsc_edge.boards.description import Board, board_names, load_board
from sgsc_edge.errors import BoardError, ToolchainError
from sgsc_edge.firmware.toolchain import INSTALL, find_toolchain

# Modules that a way to reach a board needs, and their packages; one extra brings them all.
_PACKAGES = {"unicorn": {"unicorn": "unicorn"}, "serial": {"serial": "pyserial"}}


@dataclass(frozen=True)
class AvailableBoard:
    """A board, the cross-compiler that would build for it, and what is missing to use it.

    ``toolchain`` is None where there is none; ``lacks`` names what is not here, and ``missing`` says how that
    is installed; both are empty where nothing is.
    """

    board: Board
    toolchain: str | None
    lacks: tuple[str, ...]
    missing: tuple[str, ...]


def available_boards() -> list[AvailableBoard]:
    """Every shipped board, by name."""
    return [examine(load_board(name)) for name in board_names()]


def examine(board: Board) -> AvailableBoard:
    """What there is and what is missing to use ``board``."""
    try:
        toolchain = find_toolchain(board.chip).version
    except ToolchainError:
        toolchain = None
    packages = {"elftools": "pyelftools", **_PACKAGES.get(board.reach.via, {})}
    lacks = [] if toolchain is not None else ["a cross-compiler"]
    lacks += [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    missing = [INSTALL] if lacks else []
    if board.reach.via == "qemu" and (install := qemu.missing(board.chip)):
        lacks.append(qemu.PROGRAMS[board.chip.architecture].name)
        missing.append(install)
    if board.reach.via == "linux" and (install := linux.missing()):
        lacks.append(linux.EMULATORS[0])
        missing.append(install)
    return AvailableBoard(board, toolchain, tuple(lacks), tuple(missing))


def require(board: Board) -> None:
    """``BoardError`` where something is missing here to use ``board``."""
    if missing := examine(board).missing:
        raise BoardError("cannot be used here", where=board.name, remedy=" and ".join(missing))
