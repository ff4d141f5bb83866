"""QEMU boards: the virtual boards' own images, the same integers; faults are reported by the firmware."""

from __future__ import annotations

import numpy as np
import pytest
from firmware.built import dense, image, needs_qemu, package, samples

from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.link import Link
from sgsc_edge.boards.qemu import QemuBoard
from sgsc_edge.boards.run import run_image
from sgsc_edge.errors import BoardError, LinkError, TrapError

MACHINES = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547")
VIRTUAL_OF = {"mps2-an385": "m3", "mps2-an386": "m4", "mps2-an500": "m7", "mps2-an505": "m33"}


@needs_qemu
@pytest.mark.parametrize("machine", MACHINES)
def test_every_machine_computes_the_same_integers(machine: str) -> None:
    board = load_board(f"qemu-{machine}")
    core = VIRTUAL_OF.get(machine)
    built = image("dense", board.name if core is None else f"virtual-cortex-{core}")
    inputs = samples(20)
    run = run_image(built, package("dense"), board, inputs, toolchain="any")
    np.testing.assert_array_equal(run.outputs, dense(inputs))
    assert (run.selftest, run.instructions) == (0, None)
    assert 0 < run.stack.inference < run.stack.total < 1024


def provoke(machine: str, way: int, timeout_s: float = 60.0) -> None:
    built = image("traps", f"virtual-cortex-{VIRTUAL_OF[machine]}")
    device = QemuBoard(built, machine)
    try:
        link = Link(device, 4, timeout_s=timeout_s, attempts=1, function_at=built.function_at)
        link.run(bytes([way % 256]) + bytes(7))
    finally:
        device.close()
    assert device._process.poll() is not None


@needs_qemu
@pytest.mark.parametrize("machine", ["mps2-an385", "mps2-an505"])
def test_the_firmware_reports_its_faults(machine: str) -> None:
    with pytest.raises(TrapError, match="stack overflow"):
        provoke(machine, -1)
    with pytest.raises(TrapError) as raised:
        provoke(machine, 2)
    assert (raised.value.kind, raised.value.function) == ("access outside memory", "far_store")
    assert raised.value.address == 0xA0000010


@needs_qemu
def test_a_hang_is_ended() -> None:
    with pytest.raises(LinkError, match="no answer to RUN within 1 s"):
        provoke("mps2-an386", 5, timeout_s=1.0)


@needs_qemu
def test_a_machine_that_qemu_lacks_is_an_error() -> None:
    device = QemuBoard(image("dense", "virtual-cortex-m4"), "no-such-machine")
    try:
        with pytest.raises(LinkError, match="qemu-system-arm ended with status 1"):
            Link(device, 10, timeout_s=60.0, attempts=1).hello()
    finally:
        device.close()


def test_without_qemu_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    built = image("dense", "virtual-cortex-m4")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BoardError, match="apt install qemu-system-arm") as raised:
        QemuBoard(built, "mps2-an386")
    assert raised.value.exit_code == 4
