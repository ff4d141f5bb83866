"""Chips: a core and its memory, and what compilers call the core.

A ``Chip`` is the ``[chip]`` table of a board file. ``CPUS`` holds what is the same for every chip with a
core; a new core is a new row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sgsc_edge.config_text import Form, Table, Unit
from sgsc_edge.hints import nearest
from sgsc_edge.targets import Size

# The smallest unit in which flash and RAM are placed and counted, in bytes.
PAGE = 1024
# The largest page that an operating system on Arm maps memory by, in bytes.
_HOST_PAGE = 65536


@dataclass(frozen=True)
class Architecture:
    """What cores of one kind share.

    ``name``: the folder of ``firmware/board/`` with the sources for it; ``link``: the file of its ``links/``
    that carries the link's bytes. ``gcc``: the system's cross-compiler, and ``package``: what to install for
    it. ``hosted``: the image is a program of an operating system, which gives it its memory page by page, and
    variables their first values.
    """

    name: str
    gcc: str
    package: str
    link: str = "semihosting"
    hosted: bool = False


CORTEX_M = Architecture("cortex_m", "arm-none-eabi-gcc", "gcc-arm-none-eabi")
RISCV32 = Architecture("riscv32", "riscv64-unknown-elf-gcc", "gcc-riscv64-unknown-elf")
LINUX_AARCH64 = Architecture(
    "linux_aarch64", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu", link="linux", hosted=True
)


@dataclass(frozen=True)
class Options:
    """How a compiler is told what core it compiles for: without its FPU, and with it where it has one."""

    plain: tuple[str, ...]
    fpu: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Cpu:
    """A core, the options that each compiler has for it, and the number that it has for itself, if any."""

    architecture: Architecture
    gcc: Options
    zig: Options
    number: int | None = None


def _cortex_m(name: str, number: int, *, fpu: tuple[str, str] | None = None, dsp: str = "") -> Cpu:
    """A Cortex-M.

    ``number``: of its part, as in CPUID. ``fpu``: what turns its FPU on for gcc and for zig. ``dsp``: what
    zig's row of the core leaves out.
    """

    def zig(abi: str, added: str) -> tuple[str, ...]:
        return ("-target", f"thumb-freestanding-{abi}", f"-mcpu={name.replace('-', '_')}{dsp}{added}")

    soft = "-mfloat-abi=soft"
    if fpu is None:
        gcc = Options(("-mthumb", f"-mcpu={name}", soft))
        return Cpu(CORTEX_M, gcc, Options(zig("eabi", "")), number)
    # Cores whose FPU is left out have it, for gcc, unless that is said.
    return Cpu(
        CORTEX_M,
        Options(
            ("-mthumb", f"-mcpu={name}+nofp", soft),
            ("-mthumb", f"-mcpu={name}", f"-mfpu={fpu[0]}", "-mfloat-abi=hard"),
        ),
        Options(zig("eabi", ""), zig("eabihf", fpu[1])),
        number,
    )


CPUS = {
    "cortex-m0plus": _cortex_m("cortex-m0plus", 0xC60),
    "cortex-m3": _cortex_m("cortex-m3", 0xC23),
    "cortex-m4": _cortex_m("cortex-m4", 0xC24, fpu=("fpv4-sp-d16", "+vfp4d16sp")),
    "cortex-m7": _cortex_m("cortex-m7", 0xC27, fpu=("fpv5-sp-d16", "+fp_armv8d16sp")),
    "cortex-m33": _cortex_m("cortex-m33", 0xD21, fpu=("fpv5-sp-d16", "+fp_armv8d16sp"), dsp="+dsp"),
    "cortex-m55": _cortex_m("cortex-m55", 0xD22, fpu=("auto", "+mve_fp")),
    "rv32imac": Cpu(
        RISCV32,
        Options(("-march=rv32imac", "-mabi=ilp32", "-msmall-data-limit=0")),
        Options(("-target", "riscv32-freestanding-none", "-mcpu=generic_rv32+m+a+c", "-mabi=ilp32")),
    ),
    "aarch64": Cpu(
        LINUX_AARCH64,
        Options(("-march=armv8-a", "-fno-pie", "-no-pie", "-static")),
        Options(("-target", "aarch64-freestanding-none", "-mcpu=generic")),
    ),
}


def _cpu(name: str) -> str:
    if name not in CPUS:
        raise ValueError(f"'{name}' is no known core{nearest(name, CPUS)} (known: {', '.join(CPUS)})")
    return name


class Memory(Table):
    """A region of memory: its first address and its size in bytes, in whole kilobytes of 1024."""

    origin: Annotated[int, Field(ge=0, lt=2**32, multiple_of=PAGE)] = Field(description="First address.")
    size: Annotated[Size, Field(multiple_of=PAGE)] = Field(description="How large it is.")

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.origin + self.size

    @model_validator(mode="after")
    def _addressable(self) -> Memory:
        if self.end > 2**32:
            raise ValueError("ends behind the last address of 32 bits")
        return self


class Uart(Table):
    """The ``[link]`` table: the device that carries the link, where its registers lie, and how fast it is."""

    driver: Literal["cmsdk-uart", "ns16550"] = Field(description="Which UART it is.")
    base: Annotated[int, Field(ge=0, lt=2**32, multiple_of=4)] = Field(
        description="Address of its first register."
    )
    clock: Annotated[int, Field(gt=0, lt=2**32), Unit("Hz")] = Field(description="Its clock.")
    baud: Annotated[int, Field(ge=300, le=4_000_000), Unit("bits a second")] = Field(
        default=115200, description="Its rate."
    )

    @property
    def source(self) -> str:
        """The name of the driver's C file."""
        return self.driver.replace("-", "_")

    @model_validator(mode="after")
    def _fast_enough(self) -> Uart:
        if self.clock < 16 * self.baud:
            raise ValueError(f"a clock of {self.clock} Hz is too slow for {self.baud} bits a second")
        return self


class Chip(Table):
    """The ``[chip]`` table: the core, its memory, and how much of the RAM is stack."""

    cpu: Annotated[str, AfterValidator(_cpu), Form(", ".join(f'`"{name}"`' for name in CPUS))] = Field(
        description="The core; `aarch64` for programs of Linux."
    )
    fpu: bool = Field(
        default=False,
        description="Whether it has the core's FPU, single precision (on a Cortex-M55 also Helium).",
    )
    flash: Memory = Field(description="Where code and constants lie.")
    ram: Memory = Field(description="Where variables and the stack lie.")
    stack: Annotated[Size, Field(ge=512, multiple_of=8)] = Field(
        default=4096, description="Set aside in RAM for the stack."
    )

    @property
    def architecture(self) -> Architecture:
        """What the core shares with others of its kind."""
        return CPUS[self.cpu].architecture

    @model_validator(mode="after")
    def _consistent(self) -> Chip:
        if self.fpu and CPUS[self.cpu].gcc.fpu is None:
            raise ValueError(f"{self.cpu} has no FPU: leave fpu away")
        if self.flash.origin < self.ram.end and self.ram.origin < self.flash.end:
            raise ValueError("flash and ram overlap")
        if self.architecture.hosted and any(
            value % _HOST_PAGE for value in (self.flash.origin, self.ram.origin, self.stack)
        ):
            raise ValueError(
                f"flash.origin, ram.origin and stack of {self.cpu} are multiples of {_HOST_PAGE}"
            )
        if self.stack >= self.ram.size:
            raise ValueError(
                f"the stack of {self.stack} bytes does not fit into {self.ram.size} bytes of RAM"
            )
        return self
