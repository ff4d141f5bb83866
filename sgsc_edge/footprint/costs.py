"""What kernels take by core and compiler: bytes of code, and instructions a round of each loop.

``costs.csv`` is fitted from images and their exact counts on the virtual boards by
``python -m benchmarks.device.instructions``; run it again when a kernel changes. A kernel that a model calls
once is compiled into the function that calls it, for the parameters of that call: its costs are others than
those of a kernel that is called several times.
"""

from __future__ import annotations

import csv
import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from sgsc_edge.c_code.calls import Call
from sgsc_edge.firmware.chip import CPUS, Chip
from sgsc_edge.firmware.toolchain import Kind
from sgsc_edge.footprint.rounds import rounds

COLUMNS = ("core", "compiler", "part", "calls", "bytes", "instructions")
_FILE = Path(__file__).with_name("costs.csv")

Entry = TypeVar("Entry")
Calls = Literal["once", "several"]
Kernel = tuple[str, Calls]
"""A kernel's function, and whether a model calls it once or several times."""

# Parts of an image that are no kernel: in flash the board's own, the model's code that every model has, and
# what each call adds; in RAM the board's variables (input and output apart) and the most that was seen of
# the stack.
BOARD, BASE, CALL, VARIABLES, STACK = "board", "base", "call", "variables", "stack"
# A core without its FPU computes with real numbers as this one does, which has none.
_NO_FPU = "cortex-m3"
_FLOAT_KERNELS = ("quantize", "dequantize")


@dataclass(frozen=True)
class Costs:
    """Of one core and compiler.

    Parameters
    ----------
    parts: bytes of the parts that are no kernel.
    code: bytes of each kernel's code.
    instructions: of one round of each of a kernel's loops; empty where no virtual board has the core.
    """

    parts: dict[str, float] = field(default_factory=dict)
    code: dict[Kernel, float] = field(default_factory=dict)
    instructions: dict[Kernel, tuple[float, ...]] = field(default_factory=dict)

    def code_bytes(self, calls: Sequence[Call]) -> int | None:
        """Estimated code of a model; None where a kernel is not in the table."""
        kernels = dict.fromkeys(kernels_of(calls))
        known = [_either(self.code, kernel) for kernel in kernels]
        if None in known:
            return None
        total = self.parts[BASE] + self.parts[CALL] * len(calls) + sum(size or 0 for size in known)
        return round(total)

    def instructions_of(self, call: Call, kernel: Kernel) -> int | None:
        """Estimated instructions of a call; None where its kernel is not in the table."""
        costs = _either(self.instructions, kernel)
        if costs is None:
            return None
        return round(sum(cost * count for cost, count in zip(costs, rounds(call), strict=True)))


def _either(table: Mapping[Kernel, Entry], kernel: Kernel) -> Entry | None:
    """A kernel's entry, else that of the same kernel called otherwise."""
    name, calls = kernel
    other: Kernel = (name, "once" if calls == "several" else "several")
    return table.get(kernel, table.get(other))


def kernels_of(calls: Sequence[Call]) -> list[Kernel]:
    """The kernel of each call of a model."""
    counts = Counter(call.function for call in calls)
    return [(call.function, "once" if counts[call.function] == 1 else "several") for call in calls]


def costs_of(chip: Chip, compiler: Kind) -> Costs | None:
    """The costs for a chip; None where the table has none."""
    table = all_costs()
    found = table.get((chip.cpu, compiler))
    if found is None or chip.fpu or CPUS[chip.cpu].gcc.fpu is None:
        return found
    soft = table[_NO_FPU, compiler]
    floats = {kernel for kernel in soft.code if kernel[0] in _FLOAT_KERNELS}
    return Costs(
        found.parts,
        found.code | {kernel: soft.code[kernel] for kernel in floats},
        found.instructions and found.instructions | {kernel: soft.instructions[kernel] for kernel in floats},
    )


@functools.cache
def all_costs() -> Mapping[tuple[str, str], Costs]:
    """The table by core and compiler."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return read_rows(csv.DictReader(file))


def read_rows(rows: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], Costs]:
    """The table by core and compiler."""
    table: dict[tuple[str, str], Costs] = {}
    for row in rows:
        costs = table.setdefault((row["core"], row["compiler"]), Costs())
        if not row["calls"]:
            costs.parts[row["part"]] = float(row["bytes"])
            continue
        kernel: Kernel = (row["part"], "once" if row["calls"] == "once" else "several")
        costs.code[kernel] = float(row["bytes"])
        if row["instructions"]:
            costs.instructions[kernel] = tuple(map(float, row["instructions"].split()))
    return table
