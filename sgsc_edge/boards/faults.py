"""Faults that a core reports, in words: which of its numbers and status bits means what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sgsc_edge.errors import TrapError
from sgsc_edge.firmware.chip import CORTEX_M, RISCV32, Chip

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
        self._describe = {CORTEX_M: _cortex_m, RISCV32: _riscv}[chip.architecture]

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
        return TrapError(f"{what}: it hangs, or is slow,", pc=pc, function=self._function(pc))

    def _function(self, address: int | None) -> str | None:
        return None if address is None else self._image.function_at(address & ~1)


def _cortex_m(fault: Fault, _: Chip) -> str | None:
    return next((text for bit, text in _CORTEX_M_STATUS.items() if fault.status >> bit & 1), None)


def _riscv(fault: Fault, chip: Chip) -> str | None:
    if fault.vector in (5, 7) and _below_stack(fault, chip):
        return "stack overflow"
    if fault.vector == 7 and _within(fault.address, chip.flash.origin, chip.flash.end):
        return "write to flash"
    if fault.vector == 1 and _within(fault.address, chip.ram.origin, chip.ram.end):
        return "jump into data"
    return _RISCV_CAUSES.get(fault.vector)


def _below_stack(fault: Fault, chip: Chip) -> bool:
    return _within(fault.address, chip.ram.origin - STACK_REACH, chip.ram.origin)


def _within(address: int | None, start: int, end: int) -> bool:
    return address is not None and start <= address < end
