"""The link over a UART: QEMU's own, and a serial port as real boards have it; what is wrong with ports."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from firmware.built import PACKAGES, dense, faults, needs, package, samples
from serial.tools import list_ports
from serial.tools.list_ports_common import ListPortInfo

from sgsc_edge.boards import run as running
from sgsc_edge.boards.description import Board, Reach, load_board
from sgsc_edge.boards.faults import Faults
from sgsc_edge.boards.link import RUN, Frame, Link, encode
from sgsc_edge.boards.run import open_board, run_image
from sgsc_edge.boards.serial_port import SerialBoard, find_port
from sgsc_edge.errors import BoardError, LinkError, TrapError
from sgsc_edge.firmware.chip import Uart
from sgsc_edge.firmware.image import Image, build_image
from sgsc_edge.firmware.package import read_package
from sgsc_edge.firmware.toolchain import KINDS, Kind, find_toolchain

ARM = load_board("qemu-mps2-an386-uart")
RISCV = load_board("qemu-riscv32").model_copy(
    update={"link": Uart(driver="ns16550", base=0x10000000, clock=3_686_400)}
)


@functools.cache
def built(board: Board, kind: Kind | None = None, name: str = "dense") -> Image:
    return build_image(
        read_package(PACKAGES / name), board.chip, find_toolchain(board.chip, kind), board.link
    )


@pytest.mark.parametrize(
    ("board", "kind"),
    [
        pytest.param(board, kind, marks=needs(board.name, kind), id=f"{board.chip.cpu}-{kind}")
        for board in (ARM, RISCV)
        for kind in KINDS
    ],
)
def test_the_same_integers_over_a_uart(board: Board, kind: Kind) -> None:
    inputs = samples(5)
    run = run_image(built(board, kind), package("dense"), board, inputs, toolchain="any")
    np.testing.assert_array_equal(run.outputs, dense(inputs))
    assert run.selftest == 0
    assert run.verified > 1000


@pytest.mark.needs("qemu-system-arm")
def test_a_fault_is_reported_over_a_uart() -> None:
    device = open_board(built(ARM, name="traps"), ARM)
    try:
        link = Link(device, 4, timeout_s=20.0, attempts=3, faults=Faults(built(ARM, name="traps"), ARM.chip))
        with pytest.raises(TrapError, match="access outside memory at address 0xa0000010"):
            link.run(bytes([2]) + bytes(7))
    finally:
        device.close()


@pytest.mark.needs("qemu-system-arm")
def test_firmware_that_hangs_and_reads_no_more_does_not_hold_the_host() -> None:
    """A UART has room for a few bytes, and the pipe before it for 64 KiB."""
    image = built(ARM, name="traps")
    device = open_board(image, ARM)
    try:
        device.write(encode(Frame(RUN, 1, bytes([5]) + bytes(7))), 5.0)
        link = Link(device, 4, timeout_s=0.5, attempts=2, faults=Faults(image, ARM.chip))
        with pytest.raises(TrapError, match=r"no answer to RUN within 0\.5 s: it hangs, or is slow, in hang"):
            link.run(bytes(200_000))
    finally:
        device.close()


# --- a serial port --------------------------------------------------------------------------------


@pytest.fixture
def at_port(tmp_path: Path) -> Iterator[Board]:
    """A board that holds the firmware, at a serial port of this machine: QEMU with a pseudo-terminal."""
    elf = tmp_path / "firmware.elf"
    elf.write_bytes(built(ARM).elf)
    command = ["qemu-system-arm", "-machine", "mps2-an386", "-kernel", str(elf), "-nodefaults"]
    process = subprocess.Popen(
        [*command, "-display", "none", "-serial", "pty"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"/dev/\S+", process.stdout.readline())
        assert found is not None
        yield at(found[0])
    finally:
        process.kill()
        process.communicate()


def at(port: str) -> Board:
    return ARM.model_copy(update={"reach": Reach(via="serial", port=port)})


@pytest.mark.needs("qemu-system-arm")
def test_a_board_at_a_serial_port_runs_and_runs_again(at_port: Board) -> None:
    inputs = samples(5)
    for _ in range(2):
        run = run_image(built(ARM), package("dense"), at_port, inputs, toolchain="any")
        np.testing.assert_array_equal(run.outputs, dense(inputs))
        assert (run.selftest, run.instructions) == (0, None)
    assert at_port.reach.port is not None
    interrupted = SerialBoard(at_port.reach.port, 115200, "mine")
    interrupted.write(encode(Frame(RUN, 1, bytes(16)))[:20], 5.0)  # and no more of it, ever
    interrupted.close()
    run = run_image(built(ARM), package("dense"), at_port, inputs, toolchain="any")
    np.testing.assert_array_equal(run.outputs, dense(inputs))


@pytest.mark.needs("qemu-system-arm")
def test_a_port_in_use_is_said(at_port: Board) -> None:
    assert at_port.reach.port is not None
    first = SerialBoard(at_port.reach.port, 115200, "mine")
    try:
        with pytest.raises(BoardError, match="cannot be opened") as raised:
            SerialBoard(at_port.reach.port, 115200, "mine")
        assert raised.value.remedy == "another program has the port open: end it"
    finally:
        first.close()


@pytest.mark.needs("qemu-system-arm")
def test_a_board_with_other_firmware_is_refused_and_says_what_to_write(at_port: Board) -> None:
    """The same model by another compiler: only the flash tells."""
    with pytest.raises(BoardError, match="the flash differs from the image") as raised:
        run_image(built(ARM, "zig"), package("dense"), at_port, samples(1), toolchain="any")
    assert "write the image to the board" in str(raised.value)


@pytest.fixture
def silent() -> Iterator[tuple[int, str]]:
    """A port where nobody answers: its other end, and its name."""
    there, here = os.openpty()
    try:
        yield there, os.ttyname(here)
    finally:
        os.close(here)
        os.close(there)


def test_a_board_that_says_nothing(silent: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_UART_HELLO_S", 0.1)
    with pytest.raises(LinkError, match=r"no answer to HELLO within 0\.108 s, sent 5 times") as raised:
        run_image(built(ARM), package("dense"), at(silent[1]), samples(1), toolchain="any")
    assert "write the firmware's .elf to the board" in str(raised.value)


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_port_that_takes_no_more_bytes(size: int, silent: tuple[int, str]) -> None:
    """A tty takes a few kilobytes that nobody reads. What bytes take on the line is time to wait, too."""
    device = SerialBoard(silent[1], 115200, "mine")
    link = Link(device, 10, timeout_s=0.2, byte_s=1e-6, attempts=2, faults=faults("dense", ARM.name))
    started = time.monotonic()
    with pytest.raises(LinkError, match=r"no answer to RUN within 0\.[23] s, sent 2 times"):
        link.run(bytes(size))
    assert 0.4 <= time.monotonic() - started < 10
    device.close()


def test_a_port_that_goes_away() -> None:
    there, here = os.openpty()
    device = SerialBoard(os.ttyname(here), 115200, "mine")
    os.close(here)
    os.close(there)
    link = Link(device, 10, timeout_s=5.0, faults=faults("dense", ARM.name))
    with pytest.raises(BoardError, match=r"the port /dev/pts/.* has gone"):
        link.hello()
    device.close()


def test_a_board_that_is_not_connected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ports = [port("/dev/ttyACM3", 0x0D28, 0x0204), port("/dev/ttyUSB0", 0x10C4, 0xEA60)]
    monkeypatch.setattr(list_ports, "comports", lambda: ports)
    with pytest.raises(BoardError, match="is not connected: there is no port /dev/ttyACM9") as raised:
        find_port("/dev/ttyACM9", "mine")
    assert "serial ports here: /dev/ttyACM3, /dev/ttyUSB0" in str(raised.value)
    assert raised.value.exit_code == 4
    with pytest.raises(BoardError, match="is not connected: no port with usb:1234:5678"):
        find_port("usb:1234:5678", "mine")
    assert find_port("usb:0d28:0204", "mine") == "/dev/ttyACM3"
    ports.append(port("/dev/ttyACM4", 0x0D28, 0x0204))
    with pytest.raises(BoardError, match="several ports have usb:0d28:0204: /dev/ttyACM3, /dev/ttyACM4"):
        find_port("usb:0d28:0204", "mine")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(BoardError, match="cannot be opened"):
        SerialBoard(str(file), 115200, "mine")


def port(device: str, vendor: int, product: int) -> ListPortInfo:
    info = ListPortInfo(device)
    info.vid, info.pid = vendor, product
    return info
