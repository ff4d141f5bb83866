"""Which boards there are, and what is missing here to use them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from sgsc_edge.boards import linux, qemu
from sgsc_edge.boards.description import Board, board_names, load_board
from sgsc_edge.errors import BoardError, ToolchainError
from sgsc_edge.firmware.toolchain import INSTALL, find_toolchain

# Python packages that a way to reach a board needs. All are of one extra: installing it brings all of them.
_PACKAGES = {"unicorn": ("unicorn",), "serial": ("serial",)}


@dataclass(frozen=True)
class AvailableBoard:
    """A board, the cross-compiler that would build for it, and what is missing to use it.

    ``toolchain`` is None where there is none; ``missing`` says what to install, empty where nothing.
    """

    board: Board
    toolchain: str | None
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
    missing = []
    if toolchain is None or not _installed("elftools", *_PACKAGES.get(board.reach.via, ())):
        missing.append(INSTALL)
    if board.reach.via == "qemu" and (install := qemu.missing(board.chip)):
        missing.append(install)
    if board.reach.via == "linux" and (install := linux.missing()):
        missing.append(install)
    return AvailableBoard(board, toolchain, tuple(missing))


def require(board: Board) -> None:
    """``BoardError`` where something is missing here to use ``board``."""
    if missing := examine(board).missing:
        raise BoardError("cannot be used here", where=board.name, remedy=" and ".join(missing))


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in packages)
