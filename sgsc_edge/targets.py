"""Targets: what a device's runtime stores and executes, read from ``targets/<name>.toml``.

A target is data: which version of each op it executes, which weight widths each op may have and how they are
scaled, what activations look like, how constant data is aligned, which runtimes must agree before a
certificate says so and by how much they may differ, and the limits of the device where it has any. A new
target is a new file; nothing in the code knows a target by name. ``docs/targets.md`` explains every key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sgsc_edge.config_text import Name, NamedTable, Table, named_file, parse_size
from sgsc_edge.graph.op_rules import OP_RULES
from sgsc_edge.hints import nearest
from sgsc_edge.shipped import shipped

Granularity = Literal["per-tensor", "per-channel"]


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _device_op(name: str) -> str:
    known = [kind.__name__ for kind in OP_RULES]
    if name not in known:
        raise ValueError(f"'{name}' is no device op{nearest(name, known)}")
    return name


def _weighted_op(name: str) -> str:
    known = [kind.__name__ for kind, rule in OP_RULES.items() if rule.weight_rank]
    if _device_op(name) not in known:
        raise ValueError(f"{name} has no weights; {', '.join(known)} do")
    return name


DeviceOp = Annotated[str, AfterValidator(_device_op)]
"""An op's name in ``graph/ir.py``."""

Size = Annotated[int, BeforeValidator(_size), Field(gt=0)]  # bytes; written "256 kB"


class Activations(Table):
    """Values between ops."""

    dtype: Literal["int8", "int16", "float32"]
    symmetric: bool = False
    granularity: Granularity = "per-tensor"


def channel_axis(op: str) -> int:
    """The axis of a device op's weights along which its channels lie."""
    return 3 if op == "DepthwiseConv2D" else 0


class Weights(Table):
    """One legal storage of an op's weights; an op may have several rows.

    ``axis`` is the channel axis of the device layout (OHWI 0, depthwise 1HWC 3), absent per tensor.
    ``bits`` 8 stands for integers in [-127, 127], 4 for [-7, 7]; zero points are 0. ``unpacked``: the kernel
    unpacks them into the arena, a byte each, while the op runs.
    """

    op: Annotated[str, AfterValidator(_weighted_op)]
    bits: Literal[4, 8]
    granularity: Granularity
    axis: Annotated[int, Field(ge=0)] | None = None
    unpacked: bool = False

    @model_validator(mode="after")
    def _axis_fits(self) -> Weights:
        if (self.axis is None) != (self.granularity == "per-tensor"):
            raise ValueError("axis is given exactly where granularity is 'per-channel'")
        if self.axis is not None and self.axis != (along := channel_axis(self.op)):
            raise ValueError(f"{self.op} has its channels along axis {along}")
        return self


class Runtimes(Table):
    """Who must execute the model (missing: not measured, exit 3) and who may."""

    required: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    optional: Annotated[tuple[Name, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _named_once(self) -> Runtimes:
        names = [*self.required, *self.optional]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self


class Tolerance(Table):
    """By how much a runtime may differ from the integer executor in some ops, on equal inputs, and why.

    ``steps`` counts output integers. Where no row names a runtime and an op, the two are equal.
    """

    runtime: Name
    ops: Annotated[tuple[DeviceOp, ...], Field(min_length=1, strict=False)]
    steps: Annotated[int, Field(ge=1)]
    reason: Annotated[str, Field(min_length=10)]


class Code(Table):
    """That the device runs generated C code, and how that stores weights.

    ``weights``: ``learned`` packs each output channel of every layer at a width of its own, 1 to 8 bits; the
    ``.tflite`` then holds the same integers in 8 bits. ``stored`` keeps the ``.tflite``'s widths.
    """

    weights: Literal["learned", "stored"] = "stored"


class Limits(Table):
    """What the device has, in bytes; absent means that the target sets no limit.

    ``flash``: for the ``.tflite``; ``arena``: RAM for the values between ops.
    """

    flash: Size | None = None
    arena: Size | None = None


class Target(NamedTable):
    """A validated ``targets/<name>.toml``.

    ``alignment``: constant data starts at multiples of so many bytes of the file; the format asks for 16.
    ``versions``: the newest version of each op that the target executes; ops without a row it does not.
    """

    format: Literal["tflite"]
    alignment: Literal[16, 32, 64] = 16
    activations: Activations
    versions: Annotated[dict[DeviceOp, Annotated[int, Field(ge=1)]], Field(min_length=1)]
    weights: Annotated[tuple[Weights, ...], Field(min_length=1, strict=False)]
    runtimes: Runtimes
    tolerances: Annotated[tuple[Tolerance, ...], Field(strict=False)] = ()
    limits: Limits = Limits()
    code: Code = Code()

    @model_validator(mode="after")
    def _rows_differ(self) -> Target:
        rows = [(row.op, row.bits, row.granularity) for row in self.weights]
        for row in rows:
            if rows.count(row) > 1:
                raise ValueError(f"weights of {row[0]} with {row[1]} bits {row[2]} come twice")
        return self

    @model_validator(mode="after")
    def _eight_bits_are_always_there(self) -> Target:
        for op in dict.fromkeys(row.op for row in self.weights):
            if not self.allows(op, 8, "per-channel"):
                raise ValueError(
                    f"{op} has no row for 8 bits per channel, which layers have where 4 bits cost too much"
                )
        return self

    @model_validator(mode="after")
    def _packed_weights_have_8_bits(self) -> Target:
        for row in self.weights:
            if self.packs and row.bits < 8:
                raise ValueError(
                    f"{row.op} has a row for {row.bits} bits, and code.weights is 'learned': the C code "
                    "packs what the .tflite holds in 8 bits"
                )
        return self

    @model_validator(mode="after")
    def _weighted_ops_are_executed(self) -> Target:
        for row in self.weights:
            if row.op not in self.versions:
                raise ValueError(f"{row.op} has weights and no version: give it one in [versions]")
        return self

    @model_validator(mode="after")
    def _tolerances_differ(self) -> Target:
        known = (*self.runtimes.required, *self.runtimes.optional)
        pairs = [(row.runtime, op) for row in self.tolerances for op in row.ops]
        for runtime, op in pairs:
            if runtime not in known:
                hint = nearest(runtime, known)
                raise ValueError(f"tolerances name '{runtime}', which is no runtime of the target{hint}")
            if pairs.count((runtime, op)) > 1:
                raise ValueError(f"tolerances of {runtime} for {op} come twice")
        return self

    @property
    def packs(self) -> bool:
        """Whether each output channel is stored at a width of its own."""
        return self.code.weights == "learned"

    @property
    def narrow(self) -> bool:
        """Whether some weights may be stored in less than 8 bits."""
        return self.packs or any(row.bits < 8 for row in self.weights)

    def weights_of(self, op: str) -> tuple[Weights, ...]:
        """The legal storages of an op's weights (op kinds as in ``graph/ir.py``); empty: the op has none."""
        return tuple(row for row in self.weights if row.op == op)

    def allows(self, op: str, bits: int, granularity: Granularity) -> bool:
        """Whether weights of ``op`` may have ``bits`` at this granularity."""
        return any(row.bits == bits and row.granularity == granularity for row in self.weights_of(op))

    def unpacks(self, op: str, bits: int) -> bool:
        """Whether the target unpacks weights of ``op`` with ``bits`` into the arena."""
        return any(row.bits == bits and row.unpacked for row in self.weights_of(op))

    @property
    def unpacks_any(self) -> bool:
        """Whether the target unpacks any weights into the arena."""
        return any(row.unpacked for row in self.weights)

    def tolerance(self, runtime: str, op: str) -> int:
        """Steps by which a runtime's output of one op may differ from the integer executor's."""
        rows = (row.steps for row in self.tolerances if row.runtime == runtime and op in row.ops)
        return next(rows, 0)


def load_target(name_or_path: str | Path) -> Target:
    """A shipped target by name, or one of the user's own by path to its ``.toml``.

    Raises ``ConfigError``: unknown name (with the nearest), or every problem of the file at once.
    """
    return named_file(Target, name_or_path, target_folder(), kind="target")


def available_targets() -> list[Target]:
    """Every shipped target, by name."""
    return [load_target(name) for name in target_names()]


def target_names() -> list[str]:
    """Names of the shipped targets, without reading them."""
    return sorted(path.stem for path in target_folder().glob("*.toml"))


def target_folder() -> Path:
    """Where the shipped targets lie."""
    return shipped("targets")
