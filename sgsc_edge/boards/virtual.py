"""Virtual boards: the image runs in Unicorn, with exactly the chip's flash and RAM and traps around them.

Flash can be read and executed, RAM read and written; any other access, an instruction that the core lacks, an
overflowing stack and a firmware that does not answer in time end in a ``TrapError`` with the instruction, the
C function and the address. The link's bytes go through semihosting. Nothing runs beside the caller: the
firmware advances while the host waits for an answer, so runs repeat exactly. Instructions are counted, not
cycles.
"""

from __future__ import annotations

import struct
import threading
import time
from typing import Any

import unicorn
from unicorn import arm_const as arm
from unicorn import unicorn_const as uc

from sgsc_edge.boards.faults import STACK_REACH
from sgsc_edge.errors import LinkError, TrapError
from sgsc_edge.firmware.chip import CPUS, Chip
from sgsc_edge.firmware.image import Image

_CPUS = {
    "cortex-m0plus": arm.UC_CPU_ARM_CORTEX_M0,
    "cortex-m3": arm.UC_CPU_ARM_CORTEX_M3,
    "cortex-m4": arm.UC_CPU_ARM_CORTEX_M4,
    "cortex-m7": arm.UC_CPU_ARM_CORTEX_M7,
    "cortex-m33": arm.UC_CPU_ARM_CORTEX_M33,
}
# Semihosting: operations, and what the two consoles are called.
_SYS_OPEN, _SYS_WRITE, _SYS_READ, _SYS_EXIT_EXTENDED = 0x01, 0x05, 0x06, 0x20
_HANDLE_IN, _HANDLE_OUT = 1, 2
_BKPT_SEMIHOSTING = b"\xab\xbe"
_FAILED = 0xFFFFFFFF
# The system control space, and the registers of it that a virtual board has: which core it is, where the
# vectors lie, coprocessor access, which is always on, and the type of the MPU: it has no regions.
_SYSTEM, _SYSTEM_BYTES = 0xE000E000, 0x1000
_CPUID, _VTOR, _CPACR, _MPU_TYPE = 0xD00, 0xD08, 0xD88, 0xD90
_PART = 4  # the lowest bit of the part's number in CPUID
# Seconds between two looks at the emulator's thread: Ctrl-C waits so long where it does not end the wait.
_LOOK_S = 0.2
_NOWHERE = 0xF0000000  # where execution would stop by itself: nothing lies there
# RAM begins with what it happens to hold: code that counts on zeros is found.
_GARBAGE = b"\xcd"
_ERASED = b"\xff"

_ACCESS = {
    uc.UC_MEM_READ_UNMAPPED: "read outside memory",
    uc.UC_MEM_WRITE_UNMAPPED: "write outside memory",
    uc.UC_MEM_FETCH_UNMAPPED: "jump outside memory",
    uc.UC_MEM_WRITE_PROT: "write to flash",
    uc.UC_MEM_READ_PROT: "read that is not allowed",
    uc.UC_MEM_FETCH_PROT: "jump into data",
}
_EXCEPTIONS = {
    1: "undefined instruction",
    2: "supervisor call",
    3: "jump that is not allowed",
    4: "access that is not allowed",
    7: "breakpoint",
    17: "instruction of a coprocessor that is off",
    18: "invalid state",
    19: "stack overflow",
    22: "unaligned access",
}


class VirtualBoard:
    """An image on a chip, from reset; a ``Transport``.

    ``counted``: a C function whose instructions, and those of what it calls, are counted each time that it is
    called (``instructions``, None before it has returned once). Counting makes the emulator several times
    slower.
    """

    def __init__(self, image: Image, chip: Chip, *, counted: str | None = None) -> None:
        self._image = image
        self._chip = chip
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._trap: TrapError | None = None
        self._exit_code: int | None = None
        self._waiting = False
        self._stopped = False
        part = (CPUS[chip.cpu].number or 0) << _PART
        self._system = {_CPUID: part, _VTOR: 0, _CPACR: 0, _MPU_TYPE: 0}
        self.instructions: int | None = None
        self._uc = self._reset()
        if counted is not None:
            self._count(image.address_of(counted))

    def write(self, data: bytes, timeout_s: float) -> None:
        """Bytes for the firmware to read; there is always room for them."""
        self._inbox += data

    def read(self, timeout_s: float) -> bytes:
        """What the firmware has written; it runs until there is something, or it waits for more to read.

        Empty where it does neither within ``timeout_s`` seconds, and from then on. Raises ``TrapError``, and
        ``LinkError`` where it has ended.
        """
        deadline = time.monotonic() + timeout_s
        self._waiting = False
        while not (self._outbox or self._waiting or self._stopped):
            if self._exit_code is not None:
                raise LinkError(f"the firmware ended with exit code {self._exit_code}")
            left = deadline - time.monotonic()
            self._stopped = left <= 0
            if not self._stopped:
                self._run(left)
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def program_counter(self) -> int | None:
        """The instruction that comes next; None where the firmware waits for bytes to read."""
        if self._waiting:
            return None
        pc: int = self._uc.reg_read(arm.UC_ARM_REG_PC)
        return pc

    def close(self) -> None:
        """Nothing is held open; here for what holds boards of every kind."""

    # --- set-up -----------------------------------------------------------------------------------

    def _reset(self) -> unicorn.Uc:
        machine = unicorn.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
        machine.ctl_set_cpu_model(_CPUS[self._chip.cpu])
        flash, ram = self._chip.flash, self._chip.ram
        machine.mem_map(flash.origin, flash.size, uc.UC_PROT_READ | uc.UC_PROT_EXEC)
        machine.mem_map(ram.origin, ram.size, uc.UC_PROT_READ | uc.UC_PROT_WRITE)
        machine.mmio_map(_SYSTEM, _SYSTEM_BYTES, self._read_system, None, self._write_system, None)
        machine.mem_write(flash.origin, _ERASED * flash.size)
        machine.mem_write(ram.origin, _GARBAGE * ram.size)
        for segment in self._image.segments:
            machine.mem_write(segment.address, segment.data)
        machine.hook_add(uc.UC_HOOK_MEM_INVALID, self._on_access)
        machine.hook_add(uc.UC_HOOK_INTR, self._on_exception)
        stack, entry = struct.unpack("<II", machine.mem_read(flash.origin, 8))
        machine.reg_write(arm.UC_ARM_REG_SP, stack)
        machine.reg_write(arm.UC_ARM_REG_PC, entry)
        return machine

    def _count(self, entry: int) -> None:
        """Count instructions from ``entry`` until it returns, block by block."""
        lengths: dict[tuple[int, int], int] = {}
        running = 0
        back: int | None = None

        def on_block(machine: unicorn.Uc, address: int, size: int, _: object) -> None:
            nonlocal running, back
            if address == entry and back is None:
                running, back = 0, machine.reg_read(arm.UC_ARM_REG_LR) & ~1
            elif address == back:
                self.instructions, back = running, None
            if back is not None:
                key = (address, size)
                if key not in lengths:
                    lengths[key] = _instructions(bytes(machine.mem_read(address, size)))
                running += lengths[key]

        self._uc.hook_add(uc.UC_HOOK_BLOCK, on_block)

    # --- running ----------------------------------------------------------------------------------

    def _run(self, seconds: float) -> None:
        """Go on until the firmware waits, writes, ends or is trapped, ``seconds`` at most.

        The emulator has a thread of its own, for it lets no signal through. Whoever stops it from outside, by
        Ctrl-C or because time is over, ends the run: it may stand amid a translated block, whose flags
        Unicorn (2.1.4) does not keep.
        """
        pc = self._uc.reg_read(arm.UC_ARM_REG_PC)
        failures: list[BaseException] = []

        def emulate() -> None:
            try:
                self._uc.emu_start(pc | 1, _NOWHERE, timeout=max(1, int(seconds * 1e6)))
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        # An event and no join: after a join that Ctrl-C interrupts, Python (3.11) takes the thread for ended.
        done = threading.Event()
        threading.Thread(target=emulate).start()
        try:
            while not done.wait(_LOOK_S):
                pass
        except BaseException:
            while not done.is_set():  # again: before it has started, it forgets that it is to stop
                self._uc.emu_stop()
                done.wait(_LOOK_S)
            raise
        for error in failures:
            if not isinstance(error, unicorn.UcError):
                raise error
            if self._trap is None:
                invalid = error.errno == uc.UC_ERR_INSN_INVALID
                self._trap = self._make_trap("undefined instruction" if invalid else str(error))
        if self._trap is not None:
            raise self._trap

    def _on_access(
        self, machine: unicorn.Uc, access: int, address: int, _size: int, _value: int, _: object
    ) -> bool:
        below = 0 < self._chip.ram.origin - address <= STACK_REACH
        overflow = below or machine.reg_read(arm.UC_ARM_REG_SP) < self._chip.ram.origin
        data = access in (uc.UC_MEM_READ_UNMAPPED, uc.UC_MEM_WRITE_UNMAPPED)
        kind = "stack overflow" if data and overflow else _ACCESS.get(access, "access that is not allowed")
        self._trap = self._make_trap(kind, address)
        return False

    def _on_exception(self, machine: unicorn.Uc, number: int, _: object) -> None:
        pc = machine.reg_read(arm.UC_ARM_REG_PC)
        try:
            is_call = number == 7 and bytes(machine.mem_read(pc, 2)) == _BKPT_SEMIHOSTING
        except unicorn.UcError:
            is_call = False
        if is_call:
            self._semihosting(machine, pc)
        else:
            self._stop(_EXCEPTIONS.get(number, f"exception {number}"))

    def _semihosting(self, machine: unicorn.Uc, pc: int) -> None:
        operation = machine.reg_read(arm.UC_ARM_REG_R0)
        try:
            block = struct.unpack("<III", machine.mem_read(machine.reg_read(arm.UC_ARM_REG_R1), 12))
            result = self._serve(machine, operation, *block)
        except unicorn.UcError:
            self._stop("semihosting call outside memory")
            return
        if result is not None:
            machine.reg_write(arm.UC_ARM_REG_R0, result)
            machine.reg_write(arm.UC_ARM_REG_PC, (pc + 2) | 1)

    def _serve(self, machine: unicorn.Uc, operation: int, first: int, second: int, third: int) -> int | None:
        """Carry out a semihosting call; None: not yet, it is made again when the firmware goes on."""
        if operation == _SYS_OPEN:
            return _HANDLE_OUT if second >= 4 else _HANDLE_IN
        if operation == _SYS_WRITE and first == _HANDLE_OUT:
            self._outbox += machine.mem_read(second, third)
            machine.emu_stop()
            return 0
        if operation == _SYS_READ and first == _HANDLE_IN:
            if not self._inbox:
                self._waiting = True
                machine.emu_stop()
                return None
            data = bytes(self._inbox[:third])
            machine.mem_write(second, data)
            del self._inbox[: len(data)]
            return third - len(data)
        if operation == _SYS_EXIT_EXTENDED:
            self._exit_code = second
            machine.emu_stop()
            return 0
        self._stop(f"semihosting call {operation:#x}")
        return _FAILED

    def _stop(self, kind: str) -> None:
        self._trap = self._make_trap(kind)
        self._uc.emu_stop()

    def _make_trap(self, kind: str, address: int | None = None) -> TrapError:
        pc = self._uc.reg_read(arm.UC_ARM_REG_PC)
        caller = self._uc.reg_read(arm.UC_ARM_REG_LR) & ~1
        function = self._image.function_at(pc) or self._image.function_at(caller)
        return TrapError(kind, pc=pc, function=function, address=address)

    # --- system registers ---------------------------------------------------------------------------

    def _read_system(self, _machine: unicorn.Uc, offset: int, _size: int, _: Any) -> int:
        if offset not in self._system:
            self._stop(f"read of a system register that the virtual board lacks ({_SYSTEM + offset:#010x})")
        return self._system.get(offset, 0)

    def _write_system(self, _machine: unicorn.Uc, offset: int, _size: int, value: int, _: Any) -> None:
        if offset not in self._system:
            self._stop(f"write of a system register that the virtual board lacks ({_SYSTEM + offset:#010x})")
        self._system[offset] = value


def _instructions(code: bytes) -> int:
    """Thumb instructions in ``code``: 4 bytes where the first halfword starts with 0b11101 or more.

    >>> _instructions(bytes.fromhex("00bf" "00f001f8" "7047"))
    3
    """
    count = position = 0
    while position < len(code):
        position += 4 if code[position + 1] >= 0b11101000 else 2
        count += 1
    return count
