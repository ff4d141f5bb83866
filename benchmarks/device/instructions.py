"""What do kernels take by core and compiler? Fits ``sgsc_edge/footprint/costs.csv`` and measures how well.

Many small networks are compiled for every core; the virtual boards count the instructions of an inference.
Counts are sums over the kernels' loops (``footprint.rounds``): non-negative least squares of relative errors
gives the instructions of a round, and of bytes the code of a kernel. Then networks that had no part in it are
estimated, and counted::

    python -m benchmarks.device.instructions [--core cortex-m4 ...] [--compiler gcc ...] [--keep]

``--core`` and ``--compiler`` renew parts of the table; ``--keep`` fits nothing and only measures.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from benchmarks.device.networks import inputs, networks
from benchmarks.record import ROOT, Row, finish
from sgsc_edge import api
from sgsc_edge.artifacts import write_bytes
from sgsc_edge.boards.description import UNICORN_CPUS, load_board
from sgsc_edge.boards.faults import Faults
from sgsc_edge.boards.link import Link, StackUse
from sgsc_edge.boards.virtual import VirtualBoard
from sgsc_edge.c_code.write import CCode
from sgsc_edge.firmware.chip import CPUS, Chip
from sgsc_edge.firmware.image import Image, Sizes
from sgsc_edge.firmware.toolchain import KINDS, Kind, Toolchain, find_toolchain
from sgsc_edge.footprint import costs
from sgsc_edge.footprint.costs import BASE, BOARD, CALL, STACK, VARIABLES, Costs, Kernel, kernels_of
from sgsc_edge.footprint.linking import link, write_code
from sgsc_edge.footprint.rounds import rounds
from sgsc_edge.graph.ir import Graph
from tests.c_code.networks import NETWORKS

BOARDS = {core: f"virtual-{core}" for core in UNICORN_CPUS} | {"cortex-m55": "qemu-mps3-an547"}
TABLE = ROOT / "sgsc_edge" / "footprint" / "costs.csv"
EXAMPLES = ("digits", "mnist")
LIMIT = 0.15
_TIMEOUT_S = 120.0
# Of int8 layers, these are measured at learned widths, too.
_LEARNED = ("conv-int8", "convs-int8", "depthwise-int8", "separable-int8")


@dataclass(frozen=True)
class Measured:
    """A network as an image for one core: what it takes, and what an inference does where that is counted."""

    name: str
    code: CCode
    sizes: Sizes
    instructions: int | None
    stack: StackUse | None

    @property
    def kernels(self) -> list[Kernel]:
        """Of each call."""
        return kernels_of(self.code.calls)

    @property
    def rounds(self) -> dict[tuple[Kernel, int], int]:
        """Rounds of each kernel's loops, of all its calls."""
        found: dict[tuple[Kernel, int], int] = defaultdict(int)
        for kernel, call in zip(self.kernels, self.code.calls, strict=True):
            for loop, count in enumerate(rounds(call)):
                found[kernel, loop] += count
        return found


@dataclass(frozen=True)
class Remembering(Toolchain):
    """A compiler that compiles the board's own sources once: all but main.c know nothing of the model."""

    kept: dict[str, bytes] = field(default_factory=dict)

    def compile(self, source: str, output: str, chip: Chip, options: Sequence[str], folder: Path) -> None:
        """As a compiler does; ``chip`` is always the same."""
        if output in self.kept:
            (folder / output).write_bytes(self.kept[output])
            return
        super().compile(source, output, chip, options, folder)
        if source.startswith("board/") and source != "board/main.c":
            self.kept[output] = (folder / output).read_bytes()


def main() -> int:
    """Renew the table, then measure the estimates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", nargs="*", choices=BOARDS, default=list(BOARDS))
    parser.add_argument("--compiler", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    if not args.keep:
        table = read_table()
        for core in args.core:
            for kind in args.compiler:
                print(core, kind, file=sys.stderr, flush=True)
                table[core, kind] = fitted(list(measure(core, kind, calibration())))
                write_table(table)
    return finish("device.instructions", *rows(args.core, args.compiler))


# --- measuring ------------------------------------------------------------------------------------


def calibration() -> Iterator[tuple[str, CCode, bytes]]:
    """The networks that the table is fitted to, as C, with a sample each."""
    for name, graph in networks().items():
        yield name, write_code(graph, "m"), inputs(graph)
        if name.startswith(_LEARNED):
            yield f"{name}-learned", write_code(graph, "m", learned=True), inputs(graph)


def measure(core: str, kind: Kind, codes: Iterator[tuple[str, CCode, bytes]]) -> Iterator[Measured]:
    """Compile networks for a core, and count an inference where a virtual board has it."""
    chip = load_board(BOARDS[core]).chip
    found = find_toolchain(chip, kind)
    compiler = Remembering(found.kind, found.command, found.version)
    for name, code, sample in codes:
        image = link(code, chip, compiler)
        counted = count(image, code, chip, sample) if core in UNICORN_CPUS else (None, None)
        yield Measured(name, code, image.sizes, *counted)


def count(image: Image, code: CCode, chip: Chip, sample: bytes) -> tuple[int | None, StackUse]:
    """Instructions and stack of one inference."""
    board = VirtualBoard(image, chip, counted=f"sgsc_{code.name}_invoke")
    host = Link(board, code.output_bytes, timeout_s=_TIMEOUT_S, attempts=1, faults=Faults(image, chip))
    host.run(sample)
    return board.instructions, host.stack()


# --- fitting --------------------------------------------------------------------------------------


def fitted(measured: Sequence[Measured]) -> Costs:
    """The costs that explain what was measured best."""
    parts = {
        BOARD: float(max(one.sizes.board for one in measured)),
        VARIABLES: float(max(variables(one) for one in measured)),
    }
    code: list[dict[object, float]] = []
    for one in measured:
        code.append({BASE: 1, CALL: len(one.kernels)} | dict.fromkeys(one.kernels, 1))
    sizes = solved(code, [one.sizes.code for one in measured])
    parts |= {BASE: sizes.pop(BASE), CALL: sizes.pop(CALL)}
    found = Costs(parts, {kernel: size for kernel, size in sizes.items() if isinstance(kernel, tuple)})
    counted = [one for one in measured if one.instructions is not None]
    if not counted:
        return found
    most = max(one.stack.total for one in counted if one.stack is not None)
    found.parts[STACK] = float(-(-most * 5 // 32) * 8)  # a quarter more, in steps of 8
    each = solved([one.rounds for one in counted], [one.instructions or 0 for one in counted])
    for kernel in dict.fromkeys(kernel for kernel, _ in each):
        loops = sorted(loop for other, loop in each if other == kernel)
        found.instructions[kernel] = tuple(each[kernel, loop] for loop in loops)
    return found


def variables(one: Measured) -> int:
    """RAM beside arena, input and output."""
    return one.sizes.ram - one.code.arena.size - one.code.input_bytes - one.code.output_bytes


def solved(rows: Sequence[Mapping[object, float]], totals: Sequence[int]) -> dict[object, float]:
    """Non-negative factors whose sums come closest to the totals, relative to each."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    matrix = np.array([[row.get(key, 0) for key in columns] for row in rows], float)
    weight = 1 / np.array(totals, float)
    factors, _ = nnls(matrix * weight[:, np.newaxis], np.ones(len(rows)), maxiter=100_000)
    return dict(zip(columns, map(float, factors), strict=True))


# --- the table ------------------------------------------------------------------------------------


def read_table() -> dict[tuple[str, str], Costs]:
    """What the file holds; nothing where there is none."""
    if not TABLE.is_file():
        return {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        return costs.read_rows(csv.DictReader(file))


def write_table(table: Mapping[tuple[str, str], Costs]) -> None:
    """A row a part and a kernel."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(costs.COLUMNS)
    for core, kind in sorted(table, key=lambda key: (list(CPUS).index(key[0]), key[1])):
        found = table[core, kind]
        for part, size in found.parts.items():
            writer.writerow((core, kind, part, "", f"{size:.0f}", ""))
        for kernel in sorted(found.code):
            each = " ".join(f"{cost:.4g}" for cost in found.instructions.get(kernel, ()))
            writer.writerow((core, kind, *kernel, f"{found.code[kernel]:.0f}", each))
    write_bytes(TABLE, text.getvalue().encode())
    costs.all_costs.cache_clear()


# --- how good it is -------------------------------------------------------------------------------


def rows(cores: Sequence[str], kinds: Sequence[Kind]) -> tuple[list[Row], dict[str, object]]:
    """The largest errors of networks that the table was not fitted to, by core; and all of them."""
    graphs = dict(NETWORKS) | {name: example(ROOT / "examples" / name) for name in EXAMPLES}
    codes = [(name, write_code(graph, "m"), inputs(graph)) for name, graph in graphs.items()]
    made: list[Row] = []
    detail: dict[str, object] = {}
    for core in cores:
        for kind in kinds:
            table = costs.costs_of(load_board(BOARDS[core]).chip, kind)
            assert table is not None
            measured = list(measure(core, kind, iter(codes)))
            compiler = find_toolchain(load_board(BOARDS[core]).chip, kind).version
            errors = {one.name: error(estimated(one, table), one.instructions) for one in measured}
            code = {one.name: error(code_of(one, table), one.sizes.code) for one in measured}
            detail[f"{core} {kind}"] = {"instructions": errors, "code": code, "compiler": compiler}
            what = f"{core}, {compiler}: largest error of {len(measured)} networks"
            if core in UNICORN_CPUS:
                most = max(abs(part) for part in errors.values() if part is not None)
                made.append(Row(f"{what}, instructions", f"{most:.0%}", f"≤ {LIMIT:.0%}", most <= LIMIT))
            most = max(abs(part) for part in code.values() if part is not None)
            made.append(Row(f"{what}, bytes of code", f"{most:.0%}"))
    return made, detail


def example(project: Path) -> Graph:
    """An example's network, calibrated and lowered, untrained."""
    return api.lowered(project)


def estimated(one: Measured, table: Costs) -> int | None:
    """Instructions by the table; None where it has none for the core."""
    each = list(map(table.instructions_of, one.code.calls, one.kernels))
    return None if None in each else sum(part or 0 for part in each)


def code_of(one: Measured, table: Costs) -> int | None:
    """Bytes of code by the table."""
    return table.code_bytes(one.code.calls)


def error(estimate: int | None, counted: int | None) -> float | None:
    """Of an estimate, as a share of what was counted; None where one of them is missing."""
    return None if estimate is None or counted is None else round(estimate / counted - 1, 4)


if __name__ == "__main__":
    sys.exit(main())
