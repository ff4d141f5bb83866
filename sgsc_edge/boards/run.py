"""Runs a C package on a board: builds the firmware, asks who it is, and has it compute samples."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgsc_edge.boards.available import require
from sgsc_edge.boards.description import Board
from sgsc_edge.boards.faults import Faults
from sgsc_edge.boards.link import Hello, Link, StackUse, Transport
from sgsc_edge.errors import BoardError, DataError, InternalError, LinkError
from sgsc_edge.firmware.chip import CPUS
from sgsc_edge.firmware.package import Package, read_package
from sgsc_edge.firmware.toolchain import Kind, find_toolchain

if TYPE_CHECKING:  # these need packages of the extra `device`
    from sgsc_edge.boards.process import BoardProcess
    from sgsc_edge.boards.serial_port import SerialBoard
    from sgsc_edge.boards.virtual import VirtualBoard
    from sgsc_edge.firmware.image import Image, Segment, Sizes

# Seconds for one answer of an emulated board: it loses nothing, and what hangs is waited for once.
_TIMEOUT_S = 120.0
# Over a UART a board is asked again: seconds for one answer, and for the first one; how often.
_UART_TIMEOUT_S, _UART_HELLO_S, _UART_ATTEMPTS = 10.0, 1.0, 5
# A byte is ten bits on the line of a UART.
_UART_BITS = 10
# Of what one inference took: so many times that may a self-test take on top of the time of an answer, and an
# inference whose instructions are counted. A self-test has up to eight samples.
_SELFTEST_TIMES, _COUNTED_TIMES = 16, 50
_WRITE_IT = "write the firmware's .elf to the board with its own tool, reset it, and run this again"
# What is wrong in flash is named by a block of so many bytes.
_BLOCK = 256


@dataclass(frozen=True)
class BoardRun:
    """What a board computed.

    ``outputs``: int8 [n, output_bytes], a row an inference. ``selftest``: 0 where the golden vectors in the
    package pass. ``instructions`` of the first sample's inference, None where the board does not count them.
    ``verified``: bytes of the image that the board has read back from its flash, and that are the ELF's.
    """

    board: str
    toolchain: str
    image_sha256: str
    outputs: NDArray[np.int8]
    selftest: int
    instructions: int | None
    stack: StackUse
    sizes: Sizes
    verified: int


def run_package(
    folder: Path,
    board: Board,
    inputs: NDArray[np.int8],
    *,
    toolchain: Kind | None = None,
    timeout_s: float | None = None,
) -> BoardRun:
    """Build the package in ``folder`` for ``board`` and run it over ``inputs``, int8 [n, input_bytes].

    ``toolchain`` names the cross-compiler; without it the system's is taken, else the pip-installed one.
    ``timeout_s``: seconds for one answer, that of the self-test apart, which is given what its samples need;
    None for as many as boards of this kind have. Raises ``BoardError``
    (the board, its firmware, the link, memory), ``FileFormatError`` (no package) and ``DataError`` (inputs of
    another size, or none).
    """
    package = read_package(folder)
    _check_inputs(inputs, package)
    require(board)
    from sgsc_edge.firmware.image import build_image

    compiler = find_toolchain(board.chip, toolchain)
    image = build_image(package, board.chip, compiler, board.link)
    return run_image(image, package, board, inputs, toolchain=compiler.version, timeout_s=timeout_s)


def run_image(
    image: Image,
    package: Package,
    board: Board,
    inputs: NDArray[np.int8],
    *,
    toolchain: str,
    timeout_s: float | None = None,
) -> BoardRun:
    """Run an image of ``package`` over ``inputs``, int8 [n, input_bytes]; raises as ``run_package`` does."""
    _check_inputs(inputs, package)
    device = open_board(image, board)
    try:
        link = _link(device, image, package, board, timeout_s)
        _check_identity(_greet(device, link, image, package, board), package, board)
        verified = check_written(link, image, board)
        started = time.monotonic()
        first = link.run(inputs[0].tobytes())
        took_s = time.monotonic() - started
        selftest = link.selftest(more_s=_SELFTEST_TIMES * took_s)
        rows = [first, *(link.run(row.tobytes()) for row in inputs[1:])]
        _check_stateless(rows[0], link.run(inputs[0].tobytes()), board)
        stack = link.stack()
        link.bye()
    finally:
        device.close()
    outputs = np.frombuffer(b"".join(rows), np.int8).reshape(len(inputs), package.output_bytes)
    instructions = None
    if board.reach.via == "unicorn":
        limit_s = max(timeout_s or _TIMEOUT_S, _COUNTED_TIMES * took_s)
        instructions = _count(image, package, board, inputs[0].tobytes(), rows[0], limit_s)
    return BoardRun(
        board.name, toolchain, image.sha256, outputs, selftest, instructions, stack, image.sizes, verified
    )


def _check_inputs(inputs: NDArray[np.int8], package: Package) -> None:
    if len(inputs) == 0:
        raise DataError("there are no samples to run")
    if inputs.dtype != np.int8 or inputs.shape[1:] != (package.input_bytes,):
        raise DataError(
            f"samples are {inputs.dtype} {list(inputs.shape[1:])}; "
            f"the model takes int8 [{package.input_bytes}]"
        )


def open_board(image: Image, board: Board) -> VirtualBoard | BoardProcess | SerialBoard:
    """``image`` on ``board``, from reset; whoever opens it closes it. Raises ``BoardError``."""
    if board.reach.machine is not None:
        from sgsc_edge.boards.qemu import QemuBoard

        return QemuBoard(image, board.chip, board.reach.machine, uart=board.link is not None)
    if board.reach.via == "linux":
        from sgsc_edge.boards.linux import LinuxBoard

        return LinuxBoard(image, board.name)
    if board.reach.port is not None and board.link is not None:
        from sgsc_edge.boards.serial_port import SerialBoard

        return SerialBoard(board.reach.port, board.link.baud, board.name)
    from sgsc_edge.boards.virtual import VirtualBoard

    return VirtualBoard(image, board.chip)


def _link(device: Transport, image: Image, package: Package, board: Board, timeout_s: float | None) -> Link:
    uart = board.link
    return Link(
        device,
        package.output_bytes,
        timeout_s=timeout_s or (_TIMEOUT_S if uart is None else _UART_TIMEOUT_S),
        byte_s=0.0 if uart is None else _UART_BITS / uart.baud,
        attempts=1 if uart is None else _UART_ATTEMPTS,
        faults=Faults(image, board.chip),
    )


def _greet(device: Transport, link: Link, image: Image, package: Package, board: Board) -> Hello:
    """What the firmware says of itself; over a UART there may be none, or one that waits for more bytes."""
    if board.link is None:
        return link.hello()
    try:
        link.settle(package.input_bytes)
        return _link(device, image, package, board, _UART_HELLO_S).hello()
    except LinkError as error:
        raise LinkError(error.message, where=board.name, remedy=_remedy(board)) from error


def _remedy(board: Board) -> str:
    """What helps where the board does not hold the firmware."""
    return _WRITE_IT if board.reach.via == "serial" else "package the model again"


def _check_identity(hello: Hello, package: Package, board: Board) -> None:
    """``BoardError`` where the board has another core than it should, or another model than the package."""
    wanted = CPUS[board.chip.cpu].number
    if wanted is not None and hello.core != wanted:
        known = {cpu.number: name for name, cpu in CPUS.items() if cpu.number is not None}
        raise BoardError(
            f"the core is {known.get(hello.core, f'number {hello.core:#05x}')}, not {board.chip.cpu}",
            where=board.name,
            remedy="give the file of the board that is connected",
        )
    found = (hello.hash, hello.input_bytes, hello.output_bytes)
    if found != (package.hash, package.input_bytes, package.output_bytes):
        raise BoardError(
            f"the firmware holds the model {hello.hash[:16]} ({hello.input_bytes} bytes in, "
            f"{hello.output_bytes} out), package.json says {package.hash[:16]} ({package.input_bytes} in, "
            f"{package.output_bytes} out)",
            where=board.name,
            remedy=_remedy(board),
        )


def check_written(link: Link, image: Image, board: Board) -> int:
    """How many bytes were compared; ``BoardError`` where the board's flash does not hold the image.

    Initial values of variables of a program are not compared: where they lie, they have changed.
    """
    compared = [part for part in image.segments if part.in_place or not board.chip.architecture.hosted]
    for part in compared:
        if not _differs(link, part, board):
            continue
        blocks = [
            replace(part, address=part.address + start, data=part.data[start : start + _BLOCK])
            for start in range(0, len(part.data), _BLOCK)
        ]
        wrong = [block for block in blocks if _differs(link, block, board)]
        where = (
            f", the first at address {wrong[0].address:#010x}" if wrong else ": not the same ones each time"
        )
        raise BoardError(
            f"the flash differs from the image in {len(wrong)} of {len(blocks)} blocks "
            f"of {_BLOCK} bytes{where}",
            where=board.name,
            remedy="write the image to the board again; where that does not help, its flash is worn",
        )
    return sum(len(part.data) for part in compared)


def _differs(link: Link, part: Segment, board: Board) -> bool:
    return link.check(part.address - board.chip.flash.origin, len(part.data)) != zlib.crc32(part.data)


def _count(
    image: Image, package: Package, board: Board, data: bytes, expected: bytes, timeout_s: float
) -> int:
    """Instructions of one inference, counted on a board of its own; the answer must be ``expected``."""
    from sgsc_edge.boards.virtual import VirtualBoard

    device = VirtualBoard(image, board.chip, counted=f"sgsc_{package.name}_invoke")
    _check_stateless(_link(device, image, package, board, timeout_s).run(data), expected, board)
    if device.instructions is None:
        raise InternalError(f"the inference was not counted on {board.name}")
    return device.instructions


def _check_stateless(first: bytes, again: bytes, board: Board) -> None:
    """``BoardError`` where one sample has two answers."""
    if first != again:
        raise BoardError(
            "one sample was answered differently from reset and after others",
            where=board.name,
            remedy="the model's code keeps something from one inference to the next: package it again",
        )
