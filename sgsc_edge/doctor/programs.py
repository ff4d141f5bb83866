"""Compilers, emulators, boards and serial ports: what is here, and how the rest is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from sgsc_edge.doctor.finding import Finding

_EXTRA = "pip install 'sgsc-edge[device]'"
# Package managers in the order in which they are looked for, and how each is told to install something.
_MANAGERS = {
    "apt-get": "sudo apt-get install {}",
    "dnf": "sudo dnf install {}",
    "pacman": "sudo pacman -S {}",
    "brew": "brew install {}",
}
# What the other managers call Debian's packages, where theirs has the program under the same name.
_ELSEWHERE = {
    "gcc": {"dnf": "gcc", "pacman": "gcc"},
    "gcc-arm-none-eabi": {
        "dnf": "arm-none-eabi-gcc-cs",
        "pacman": "arm-none-eabi-gcc",
        "brew": "arm-none-eabi-gcc",
    },
    "gcc-aarch64-linux-gnu": {"dnf": "gcc-aarch64-linux-gnu", "pacman": "aarch64-linux-gnu-gcc"},
    "qemu-system-arm": {"dnf": "qemu-system-arm", "pacman": "qemu-system-arm", "brew": "qemu"},
    "qemu-system-misc": {"dnf": "qemu-system-riscv", "pacman": "qemu-system-riscv", "brew": "qemu"},
    "qemu-user": {"dnf": "qemu-user", "pacman": "qemu-user"},
}


def compilers() -> list[Finding]:
    """C compilers: for this computer, and for the chips of boards."""
    from sgsc_edge.firmware.chip import CORTEX_M, LINUX_AARCH64, RISCV32
    from sgsc_edge.firmware.toolchain import gcc_version, zig_version

    chips = {CORTEX_M: "Cortex-M", RISCV32: "RISC-V", LINUX_AARCH64: "64-bit Arm under Linux"}
    zig = zig_version()
    rows = [
        _finding("compilers", "zig", zig, "firmware for every board", _EXTRA),
        *(
            _finding(
                "compilers",
                architecture.gcc,
                gcc_version(architecture),
                f"firmware for {chip}",
                install(architecture.package, otherwise=_EXTRA),
            )
            for architecture, chip in chips.items()
        ),
    ]
    host = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return [*rows, _finding("compilers", "cc", host, "packaged C code on this computer", install("gcc"))]


def emulators() -> list[Finding]:
    """What virtual boards run on."""
    from sgsc_edge.boards import linux, qemu

    rows = [
        _finding(
            "emulators", program.name, shutil.which(program.name), "qemu boards", install(program.package)
        )
        for program in qemu.PROGRAMS.values()
    ]
    here = next(filter(None, map(shutil.which, linux.EMULATORS)), None)
    linux_row = _finding("emulators", linux.EMULATORS[0], here, "board linux-aarch64", install(linux.PACKAGE))
    return [*rows, linux_row]


def boards() -> list[Finding]:
    """Which boards can be used."""
    from sgsc_edge.boards.available import available_boards

    return [
        Finding(
            "boards",
            row.board.name,
            "missing" if row.missing else "ok",
            f"without {', '.join(row.lacks)}" if row.lacks else row.toolchain or "",
            "flash, inspect --board",
            " and ".join(row.missing),
        )
        for row in available_boards()
    ]


def serial_ports() -> list[Finding]:
    """The serial ports that are here, and whether they may be opened."""
    return [_port(port) for port in sorted(_ports())]


def _ports() -> Iterable[str]:
    if find_spec("serial") is None:
        return (str(path) for pattern in ("ttyACM*", "ttyUSB*") for path in Path("/dev").glob(pattern))
    from serial.tools import list_ports

    return (info.device for info in list_ports.comports())


def _port(port: str) -> Finding:
    use = "a board of your own"
    path = Path(port)
    if not path.exists() or os.access(path, os.R_OK | os.W_OK):
        return Finding("serial ports", port, "ok", "", use)
    mend = f"sudo usermod -aG {path.group()} $USER, then log in again"
    return Finding("serial ports", port, "wrong", "you may not open it", use, mend)


def install(package: str, *, otherwise: str = "") -> str:
    """The command that installs a package of Debian's on this system.

    ``otherwise``: what to do where this system's package manager does not have it, or is not known.
    """
    manager = next(filter(shutil.which, _MANAGERS), None)
    name = package if manager == "apt-get" else _ELSEWHERE.get(package, {}).get(manager or "")
    if manager is None or name is None:
        return otherwise or f"install what Debian calls {package}"
    return _MANAGERS[manager].format(name)


def _finding(part: str, name: str, found: str | None, use: str, mend: str) -> Finding:
    if found is None:
        return Finding(part, name, "missing", "not installed", use, mend)
    return Finding(part, name, "ok", found.removeprefix(f"{name} "), use)
