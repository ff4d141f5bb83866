"""The footprint of a model on a chip, from the C code that firmware would hold of it.

Weights and the arena are exact: the code is generated, as ``package`` does it. The rest of flash and RAM is
that of a linked image where there is a compiler, else an estimate from the table of ``costs``. Instructions
are always estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sgsc_edge.artifacts import sources_hash
from sgsc_edge.c_code.interface import selftest_samples
from sgsc_edge.c_code.memory_plan import rounded
from sgsc_edge.c_code.schedule import Memory
from sgsc_edge.c_code.write import CCode
from sgsc_edge.errors import ToolchainError
from sgsc_edge.firmware.chip import Chip, Uart
from sgsc_edge.firmware.toolchain import INSTALL, KINDS, Toolchain
from sgsc_edge.footprint.costs import BOARD, STACK, VARIABLES, Costs, costs_of, kernels_of
from sgsc_edge.footprint.linking import PACKAGE_FOLDER, compiler_for, link, write_code
from sgsc_edge.footprint.rounds import macs
from sgsc_edge.graph.ir import Graph

How = Literal["linked", "estimated"]
_WORD = 4
_HASH_BYTES = 32


@dataclass(frozen=True)
class Value:
    """A value in the arena, or what a step needs for itself; bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Layer:
    """A step of the model.

    Parameters
    ----------
    name, op: of the node, and of a pool that is taken with it.
    macs: products with weights or of two computed matrices, those with padding included.
    constant_bytes: weights, biases, multipliers and tables that no layer before it has.
    arena_bytes: of the values that are in the arena while it runs.
    values: these.
    instructions: estimated; None where the costs of the core are not known.
    """

    name: str
    op: str
    macs: int
    constant_bytes: int
    arena_bytes: int
    values: tuple[Value, ...]
    instructions: int | None


@dataclass(frozen=True)
class Flash:
    """Bytes of flash: the model's code, its weights, its other constants, start-up and link, and all of it.

    ``total`` is more than the sum by gaps of alignment.
    """

    code: int
    weights: int
    constants: int
    board: int
    total: int


@dataclass(frozen=True)
class Ram:
    """Bytes of RAM: of the model, and of the board's own variables; and what is set aside for the stack."""

    arena: int
    input: int
    output: int
    board: int
    stack: int

    @property
    def total(self) -> int:
        """Of all."""
        return self.arena + self.input + self.output + self.board + self.stack


@dataclass(frozen=True)
class Footprint:
    """What a model takes of a chip.

    Parameters
    ----------
    model: where it was read from.
    board: the board that has the chip.
    compiler: what linked the image; None where it was not linked.
    stack: bytes that are in use at most, estimated; None where the costs of the core are not known.
    """

    model: str
    board: str
    chip: Chip
    compiler: str | None
    layers: tuple[Layer, ...]
    flash: Flash
    ram: Ram
    stack: int | None

    @property
    def how(self) -> How:
        """Where code and the board's part come from."""
        return "estimated" if self.compiler is None else "linked"

    @property
    def instructions(self) -> int | None:
        """Estimated, of one inference; None where a layer's are not known."""
        known = [layer.instructions for layer in self.layers if layer.instructions is not None]
        return sum(known) if len(known) == len(self.layers) else None

    @property
    def fullest(self) -> Layer | None:
        """The layer with the most bytes in the arena; None where nothing lies there."""
        most = max(self.layers, key=lambda layer: layer.arena_bytes, default=None)
        return most if most is not None and most.arena_bytes else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "board": self.board,
            "chip": self.chip.model_dump(mode="json"),
            "compiler": self.compiler,
            "layers": [asdict(layer) for layer in self.layers],
            "flash": {**asdict(self.flash), "how": self.how, "limit": self.chip.flash.size},
            "ram": {
                **asdict(self.ram),
                "total": self.ram.total,
                "how": self.how,
                "limit": self.chip.ram.size,
                "stack_used": self.stack,
            },
            "macs": sum(layer.macs for layer in self.layers),
            "instructions": self.instructions,
        }


def footprint(
    graph: Graph,
    chip: Chip,
    *,
    model: str,
    board: str,
    compiler: Toolchain | None,
    uart: Uart | None = None,
    learned: bool = False,
) -> Footprint:
    """What a device graph takes of a chip.

    Parameters
    ----------
    model, board: what these are called.
    compiler: links the image; None: code and the board's part are estimated.
    uart: carries the link; None for the architecture's way. Estimates go by that way, too.
    learned: weights are packed at the smallest width that holds each filter.

    Raises
    ------
    UnsupportedError: an op or a type has no kernel in C.
    ToolchainError: without a compiler, and nothing is known of the core; or the compiler refused the code.
    """
    code = write_code(graph, "model", learned=learned)
    costs = costs_of(chip, KINDS[-1] if compiler is None else compiler.kind)
    samples = selftest_samples(graph)
    flash, ram = (
        _estimated(code, chip, costs, samples) if compiler is None else _linked(code, chip, compiler, uart)
    )
    return Footprint(
        model,
        board,
        chip,
        None if compiler is None else compiler.version,
        _layers(code, costs),
        flash,
        ram,
        None if costs is None or STACK not in costs.parts else round(costs.parts[STACK]),
    )


def follows_from(chip: Chip, uart: Uart | None) -> list[object]:
    """What a footprint follows from beside the graph, as JSON values: for keys of what rests on it."""
    compiler = compiler_for(chip)
    sources = sources_hash(PACKAGE_FOLDER, ("*.c", "*.h", "*.csv"))
    link = None if uart is None else uart.model_dump(mode="json")
    return [chip.model_dump(mode="json"), link, None if compiler is None else compiler.version, sources]


# --- flash and RAM --------------------------------------------------------------------------------


def _linked(code: CCode, chip: Chip, compiler: Toolchain, uart: Uart | None) -> tuple[Flash, Ram]:
    sizes = link(code, chip, compiler, uart).sizes
    board = sizes.ram - code.arena.size - code.input_bytes - code.output_bytes
    return (
        Flash(sizes.code, sizes.weights, sizes.constants, sizes.board, sizes.flash),
        Ram(code.arena.size, code.input_bytes, code.output_bytes, board, sizes.stack),
    )


def _estimated(code: CCode, chip: Chip, costs: Costs | None, samples: int) -> tuple[Flash, Ram]:
    calls = code.calls
    size = None if costs is None else costs.code_bytes(calls)
    if costs is None or size is None:
        raise ToolchainError(
            f"there is no compiler for {chip.cpu} here, and code for one is not estimated", remedy=INSTALL
        )
    parameters = sum(_words(call.parameters) + len(call.constants) for call in calls) * _WORD
    constants = parameters + samples * (code.input_bytes + code.output_bytes) + _HASH_BYTES
    parts = (size, code.constant_bytes, constants, round(costs.parts[BOARD]))
    board = round(costs.parts[VARIABLES])
    return (
        Flash(*parts, sum(parts)),
        Ram(code.arena.size, code.input_bytes, code.output_bytes, board, chip.stack),
    )


def _words(parameters: Mapping[str, Any]) -> int:
    """Numbers of a structure of parameters."""
    return sum(len(value) if isinstance(value, Sequence) else 1 for value in parameters.values())


# --- layers ---------------------------------------------------------------------------------------


def _layers(code: CCode, costs: Costs | None) -> tuple[Layer, ...]:
    kernels = iter(kernels_of(code.calls))
    layers = []
    for number, written in enumerate(code.steps):
        node, pool = written.step.node, written.step.pool
        each = [
            None if costs is None else costs.instructions_of(call, next(kernels)) for call in written.calls
        ]
        known = [count for count in each if count is not None]
        values = _values(code.memory, number)
        layers.append(
            Layer(
                node.source or node.outputs[0],
                node.kind if pool is None else f"{node.kind}, {pool.kind}",
                sum(map(macs, written.calls)),
                written.constant_bytes,
                sum(rounded(value.bytes) for value in values),
                values,
                sum(known) if len(known) == len(each) else None,
            )
        )
    return tuple(layers)


def _values(memory: Memory, number: int) -> tuple[Value, ...]:
    """What lies in the arena while a step runs, the largest first.

    Of values in one place (one is written over the other) the later one is named.
    """
    found = []
    for buffer in memory.buffers:
        if buffer.first <= number <= buffer.last:
            offset = memory.layout.offsets[buffer.name]
            names = [
                name
                for name, (first, last) in memory.lives.items()
                if memory.place[name] == offset and first <= number <= last
            ]
            found.append(Value(names[-1] if names else "scratch of its kernel", buffer.size))
    return tuple(sorted(found, key=lambda value: -value.bytes))
