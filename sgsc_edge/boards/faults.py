"""Faults that a core reports, in words: which of its numbers and status bits means what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sgsc_edge.errors import TrapError
from sgsc_edge.firmware.chip import CORTEX_M, LINUX_AARCH64, RISCV32, Chip

if TYPE_CHECKING:  # it needs a package of the extra `device`
    from sgsc_edge.firmware.image import Image

# What lies so many bytes below RAM at most was meant for the stack, which is at the bottom of RAM.
STACK_REACH = 2**16

# Bits of the fault status register (CFSR) of a Cortex-M, the telling ones first. The one region that the
# firmware closes to accesses (1, 4) lies below the stack.
_CORTEX_M_STATUS = {
    20: "stack overflow",
    12: "stack overflow",
    4: "stack overflow",
    1: "stack overflow",
    16: "undefined instruction",
    25: "division by zero",
    24: "unaligned access",
    19: "instruction of a coprocessor that is off",
    17: "invalid state",
    18: "invalid return address",
    8: "jump outside memory",
    0: "jump into data",
    9: "access outside memory",
    10: "access outside memory, noticed late",
}
# Causes of a trap (mcause) of RISC-V.
_RISCV_CAUSES = {
    0: "jump to an unaligned address",
    1: "jump outside memory",
    2: "undefined instruction",
    3: "breakpoint",
    4: "unaligned access",
    5: "read outside memory",
    6: "unaligned access",
    7: "write outside memory",
    11: "supervisor call",
}
_SIGNALS = {
    4: "undefined instruction",
    5: "breakpoint",
    7: "unaligned access",
    8: "arithmetic that is not allowed",
}
_SIGNAL_SEGV = 11
_CODE_PROTECTED = 2  # of that signal: there is memory, and it may not be accessed so


@dataclass(frozen=True)
class Fault:
    """A fault as the firmware reports it: the core's number for it, and bits of its fault status register.

    ``pc``: of the instruction; ``address``: the memory that was accessed; ``caller``: where the function
    returns to. What is not known is None.
    """

    vector: int
    status: int
    pc: int | None
    address: int | None
    caller: int | None


class Faults:
    """Makes errors of the faults of firmware ``image`` on ``chip``."""

    def __init__(self, image: Image, chip: Chip) -> None:
        self._image = image
        self._chip = chip
        self._describe = {CORTEX_M: _cortex_m, RISCV32: _riscv, LINUX_AARCH64: _linux}[chip.architecture]

    def trap(self, fault: Fault) -> TrapError:
        """Of a fault that the firmware reports."""
        return TrapError(
            self._describe(fault, self._chip) or f"exception {fault.vector}",
            pc=fault.pc,
            function=self._function(fault.pc) or self._function(fault.caller),
            address=fault.address,
        )

    def hang(self, what: str, pc: int) -> TrapError:
        """Of a firmware that gives no answer and is at ``pc``."""
        return TrapError(
            f"{what}: it hangs, or is slow,",
            pc=pc,
            function=self._function(pc),
            remedy="a slow board may need a longer time limit (--timeout)",
        )

    def _function(self, address: int | None) -> str | None:
        return None if address is None else self._image.function_at(address & ~1)


def _cortex_m(fault: Fault, _: Chip) -> str | None:
    return next((text for bit, text in _CORTEX_M_STATUS.items() if fault.status >> bit & 1), None)


def _riscv(fault: Fault, chip: Chip) -> str | None:
    place = _Place(fault.address, chip)
    if fault.vector in (5, 7) and place.below_stack:
        return "stack overflow"
    if fault.vector == 7 and place.in_flash:
        return "write to flash"
    if fault.vector == 1 and place.in_ram:
        return "jump into data"
    return _RISCV_CAUSES.get(fault.vector)


def _linux(fault: Fault, chip: Chip) -> str | None:
    if fault.vector != _SIGNAL_SEGV:
        return _SIGNALS.get(fault.vector)
    place = _Place(fault.address, chip)
    if fault.address == fault.pc:
        return "jump into data" if place.in_ram else "jump outside memory"
    if place.below_stack:
        return "stack overflow"
    return "write to flash" if fault.status == _CODE_PROTECTED and place.in_flash else "access outside memory"


class _Place:
    """Where an address lies in a chip's memory."""

    def __init__(self, address: int | None, chip: Chip) -> None:
        where = -1 if address is None else address
        self.below_stack = chip.ram.origin - STACK_REACH <= where < chip.ram.origin
        self.in_flash = chip.flash.origin <= where < chip.flash.end
        self.in_ram = chip.ram.origin <= where < chip.ram.end
