"""Chips: a core and its memory, and what compilers call the core.

A ``Chip`` is the ``[chip]`` table of a board file. ``CPUS`` holds what is the same for every chip with a
core; a new core is a new row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sgsc_edge.config_text import nearest
from sgsc_edge.targets import Size

# The smallest unit in which flash and RAM are placed and counted, in bytes.
PAGE = 1024


@dataclass(frozen=True)
class Cpu:
    """A Cortex-M core by the names that compilers have for it.

    ``zig_float``, ``gcc_fpu``: what turns the single-precision FPU on; empty where the core has none.
    """

    gcc: str
    zig: str
    gcc_fpu: str = ""
    zig_float: str = ""


# zig's own rows of these cores leave out the FPU, and the DSP instructions of the M33.
CPUS = {
    "cortex-m0plus": Cpu("cortex-m0plus", "cortex_m0plus"),
    "cortex-m3": Cpu("cortex-m3", "cortex_m3"),
    "cortex-m4": Cpu("cortex-m4", "cortex_m4", "fpv4-sp-d16", "+vfp4d16sp"),
    "cortex-m7": Cpu("cortex-m7", "cortex_m7", "fpv5-sp-d16", "+fp_armv8d16sp"),
    "cortex-m33": Cpu("cortex-m33", "cortex_m33+dsp", "fpv5-sp-d16", "+fp_armv8d16sp"),
    "cortex-m55": Cpu("cortex-m55", "cortex_m55", "auto", "+mve_fp"),
}


def _cpu(name: str) -> str:
    if name not in CPUS:
        raise ValueError(f"'{name}' is no known core{nearest(name, CPUS)} (known: {', '.join(CPUS)})")
    return name


class Table(BaseModel):
    """Base of the tables of a board file: immutable, unknown keys refused, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Memory(Table):
    """A region of memory: its first address and its size in bytes, in whole kilobytes of 1024."""

    origin: Annotated[int, Field(ge=0, lt=2**32, multiple_of=PAGE)]
    size: Annotated[Size, Field(multiple_of=PAGE)]

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return self.origin + self.size

    @model_validator(mode="after")
    def _addressable(self) -> Memory:
        if self.end > 2**32:
            raise ValueError("ends behind the last address of 32 bits")
        return self


class Chip(Table):
    """The ``[chip]`` table: the core, its memory, and how much of the RAM is stack.

    ``fpu``: whether it has the core's FPU. ``stack``: bytes, a multiple of 8.
    """

    cpu: Annotated[str, AfterValidator(_cpu)]
    fpu: bool = False
    flash: Memory
    ram: Memory
    stack: Annotated[Size, Field(ge=512, multiple_of=8)] = 4096

    @model_validator(mode="after")
    def _consistent(self) -> Chip:
        if self.fpu and not CPUS[self.cpu].gcc_fpu:
            raise ValueError(f"a {self.cpu} has no FPU: leave fpu away")
        if self.flash.origin < self.ram.end and self.ram.origin < self.flash.end:
            raise ValueError("flash and ram overlap")
        if self.stack >= self.ram.size:
            raise ValueError(
                f"the stack of {self.stack} bytes does not fit into {self.ram.size} bytes of RAM"
            )
        return self
