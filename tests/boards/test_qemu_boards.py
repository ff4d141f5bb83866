"""QEMU boards: the virtual boards' own images, the same integers; faults are reported by the firmware."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from firmware.built import dense, faults, image, needs, package, provoked, samples

from sgsc_edge.boards.description import load_board
from sgsc_edge.boards.faults import Faults
from sgsc_edge.boards.link import Link
from sgsc_edge.boards.process import BoardProcess
from sgsc_edge.boards.qemu import QemuBoard
from sgsc_edge.boards.run import run_image
from sgsc_edge.errors import BoardError, LinkError, TrapError
from sgsc_edge.firmware.chip import Memory
from sgsc_edge.firmware.image import build_image
from sgsc_edge.firmware.toolchain import KINDS, Kind, find_toolchain

CORTEX_M = [f"qemu-{name}" for name in ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547")]
RISCV = "qemu-riscv32"
# The virtual boards' tests are with both compilers; RISC-V has none.
BOARDS = [(name, None) for name in CORTEX_M] + [(RISCV, kind) for kind in KINDS]


@pytest.mark.parametrize(
    ("name", "kind"), [pytest.param(name, kind, marks=needs(name, kind)) for name, kind in BOARDS]
)
def test_every_machine_computes_the_same_integers(name: str, kind: Kind | None) -> None:
    inputs = samples(20)
    run = run_image(image("dense", name, kind), package("dense"), load_board(name), inputs, toolchain="any")
    np.testing.assert_array_equal(run.outputs, dense(inputs))
    assert (run.selftest, run.instructions) == (0, None)
    assert 0 < run.stack.inference < run.stack.total < 1024


@pytest.mark.parametrize(
    "name",
    [pytest.param(f"qemu-mps2-{name}", marks=needs(f"qemu-mps2-{name}")) for name in ("an385", "an505")],
)
def test_the_firmware_reports_its_faults(name: str) -> None:
    assert isinstance(overflow := provoked(name, -1), TrapError)
    assert overflow.kind == "stack overflow"
    assert isinstance(trap := provoked(name, 2), TrapError)
    assert (trap.kind, trap.function, trap.address) == ("access outside memory", "far_store", 0xA0000010)


@pytest.mark.needs("qemu-system-arm")
def test_an_image_that_a_boot_loader_starts_reports_its_own_faults(tmp_path: Path) -> None:
    """At address 0 there is the loader's table: a stack, where the image starts, and no handler."""
    board = load_board("qemu-mps2-an385")
    chip = board.chip.model_copy(update={"flash": Memory(origin=0x10000, size=0x40000)})
    built = build_image(package("traps"), chip, find_toolchain(chip))
    (tmp_path / "boot.bin").write_bytes(built.segments[0].data[:8] + bytes(56))
    options = (
        "-display",
        "none",
        "-nodefaults",
        "-serial",
        "none",
        "-semihosting-config",
        "enable=on,target=native",
    )
    loader = ("-device", f"loader,file={tmp_path / 'boot.bin'},addr=0,force-raw=on")
    program = shutil.which("qemu-system-arm")
    assert program is not None
    device = BoardProcess(
        built,
        lambda elf: (program, "-machine", "mps2-an385", "-kernel", str(elf), *loader, *options),
        lambda status, said: BoardError(f"ended with {status}: {said}"),
    )
    try:
        link = Link(device, 4, timeout_s=60.0, attempts=1, faults=Faults(built, chip))
        with pytest.raises(TrapError) as raised:
            link.run(bytes([2]) + bytes(7))
    finally:
        device.close()
    trap = raised.value
    assert (trap.kind, trap.function, trap.address) == ("access outside memory", "far_store", 0xA0000010)


@pytest.mark.parametrize(
    ("way", "kind", "function"),
    [
        (-1, "stack overflow", "deep"),
        (1, "read outside memory", "far_load"),
        (2, "write outside memory", "far_store"),
        (3, "write to flash", "flash_store"),
        (4, "stack overflow", "large_frame"),
        (6, "jump into data", "run_data"),
        (7, "jump outside memory", "run_nothing"),
        (8, "undefined instruction", "undefined"),
        (11, "supervisor call", "supervisor"),
    ],
)
@pytest.mark.needs("qemu-system-riscv32")
def test_physical_memory_protection_traps_what_a_virtual_board_does(
    way: int, kind: str, function: str
) -> None:
    trap = provoked(RISCV, way)
    assert isinstance(trap, TrapError)
    assert (trap.kind, trap.function) == (kind, function)
    assert trap.pc is not None


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in ("qemu-mps2-an386", RISCV)]
)
def test_a_hang_is_ended_and_named(name: str) -> None:
    hang = provoked(name, 5, timeout_s=1.0)
    assert isinstance(hang, TrapError)
    assert "no answer to RUN within 1 s: it hangs" in str(hang)
    assert hang.function == "hang"


@pytest.mark.needs("qemu-system-arm")
def test_another_core_than_the_board_files_is_refused() -> None:
    board = load_board("qemu-mps2-an386")
    other = board.model_copy(update={"reach": load_board("qemu-mps2-an385").reach})
    with pytest.raises(BoardError, match="the core is cortex-m3, not cortex-m4"):
        run_image(image("dense", board.name), package("dense"), other, samples(1), toolchain="any")


@pytest.mark.needs("qemu-system-arm")
def test_a_board_that_holds_another_image_is_refused() -> None:
    """The same model and sizes: only what lies in flash tells."""
    name = "qemu-mps2-an386"
    built = image("dense", name)
    weights = built.elf.index(bytes([32, 256 - 62, 62, 256 - 36]))
    other = replace(built, elf=built.elf[:weights] + b"\x21" + built.elf[weights + 1 :])
    with pytest.raises(BoardError, match=r"the flash differs from the image in 1 of \d+ blocks"):
        run_image(other, package("dense"), load_board(name), samples(1), toolchain="any")


@pytest.mark.needs("qemu-system-arm")
def test_a_machine_that_qemu_lacks_is_an_error() -> None:
    name = "virtual-cortex-m4"
    device = QemuBoard(image("dense", name), load_board(name).chip, "no-such-machine")
    try:
        with pytest.raises(LinkError, match=r"qemu-system-arm ended with status 1: .*unsupported machine"):
            Link(device, 10, timeout_s=60.0, attempts=1, faults=faults("dense", name)).hello()
    finally:
        device.close()


@pytest.mark.parametrize(
    ("name", "package"), [("qemu-mps2-an386", "qemu-system-arm"), (RISCV, "qemu-system-misc")]
)
def test_without_qemu_the_error_says_what_to_install(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = load_board(name)
    built = image("dense", name)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BoardError, match=f"apt install {package}") as raised:
        QemuBoard(built, board.chip, "any")
    assert raised.value.exit_code == 4
