"""Targets: what a device's runtime stores and executes, read from ``targets/<name>.toml``.

A target ships a ``.tflite`` (``format = "tflite"``), or the QDQ ``.onnx`` as it is (``format = "onnx"``).

A target is data: which version of each op it executes, which weight widths each op may have and how they are
scaled, what activations look like, how constant data is aligned, which runtimes must agree before a
certificate says so and by how much they may differ, and the limits of the device where it has any. A new
target is a new file; nothing in the code knows a target by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sgsc_edge.config_text import Form, Name, NamedTable, Table, Unit, named_file, parse_size
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


DeviceOp = Annotated[str, AfterValidator(_device_op), Form("an op that `sgsc-edge targets` shows")]
"""An op's name in ``graph/ir.py``."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    Field(gt=0),
    Unit("bytes"),
    Form('`"256 kB"` (B, kB, MB, KiB, MiB) or integer'),
]

RUNTIME_NAMES = Form("list of names that `sgsc-edge runtimes` shows")


class Activations(Table):
    """Values between ops."""

    dtype: Literal["int8", "int16", "float32"] = Field(
        description="Of the values between ops; int8 is what can be lowered today, others are refused."
    )
    symmetric: bool = Field(default=False, description="Whether zero points are 0.")
    granularity: Granularity = Field(default="per-tensor", description="One scale, or one for each channel.")


def channel_axis(op: str) -> int:
    """The axis of a device op's weights along which its channels lie."""
    return 3 if op == "DepthwiseConv2D" else 0


class Weights(Table):
    """One legal storage of an op's weights; an op may have several rows."""

    op: Annotated[
        str, AfterValidator(_weighted_op), Form("`Conv2D`, `DepthwiseConv2D`, `FullyConnected`, ..")
    ] = Field(description="The op whose weights may be stored so.")
    bits: Literal[4, 8] = Field(
        description="8: integers in [-127, 127]; 4: in [-7, 7]. Zero points are 0. A row for 8 bits "
        "per channel is always there."
    )
    granularity: Granularity = Field(description="One scale for the tensor, or one for each output channel.")
    axis: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Along which channels lie, where scales are per channel: 3 for `DepthwiseConv2D`, "
        "else 0.",
    )
    unpacked: bool = Field(
        default=False,
        description="Whether the kernel unpacks them into the arena, a byte each, while the op runs.",
    )

    @model_validator(mode="after")
    def _axis_fits(self) -> Weights:
        if (self.axis is None) != (self.granularity == "per-tensor"):
            raise ValueError("axis is given exactly where granularity is 'per-channel'")
        if self.axis is not None and self.axis != (along := channel_axis(self.op)):
            raise ValueError(f"{self.op} has its channels along axis {along}")
        return self


class Runtimes(Table):
    """Who must execute the model (missing: not measured, exit 3) and who may."""

    required: Annotated[tuple[Name, ...], Field(min_length=1, strict=False), RUNTIME_NAMES] = Field(
        description="Who must certify; missing: not measured, exit code 3."
    )
    optional: Annotated[tuple[Name, ...], Field(strict=False), RUNTIME_NAMES] = Field(
        default=(), description="Who is run and shown where it is installed."
    )

    @model_validator(mode="after")
    def _named_once(self) -> Runtimes:
        names = [*self.required, *self.optional]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self


class Tolerance(Table):
    """By how much a runtime may differ, and why.

    Of a ``.tflite``: from the integer executor in some ops, on equal inputs. Of an ``.onnx``: from the
    compressed model, in the whole model's outputs. Where no row names a runtime (and an op), the two are
    equal.
    """

    runtime: Name = Field(description="One of `[runtimes]`.")
    ops: Annotated[tuple[DeviceOp, ...], Field(strict=False), Form("list of ops")] = Field(
        default=(),
        description="The ops that may differ from the integer executor on equal inputs. Left out where the "
        "format is `onnx`: the model's outputs may then differ from the compressed model's.",
    )
    steps: Annotated[int, Field(ge=1), Unit("output integers")] = Field(description="By how much at most.")
    reason: Annotated[str, Field(min_length=10)] = Field(description="Why, in a sentence.")


class Code(Table):
    """How weights are stored by what runs them: by generated C code, where the format is ``tflite``."""

    weights: Literal["learned", "stored"] = Field(
        default="stored",
        description="`learned` packs each output channel at a width of its own, 1 to 8 bits, and the "
        "model file holds the same integers in 8 bits; `stored` keeps the file's widths. C code does so; of "
        "an `.onnx` nothing packs, and `learned` counts the bytes that it would take.",
    )


class Limits(Table):
    """What the device has; absent means that the target sets no limit."""

    flash: Size | None = Field(
        default=None, description="For the `.tflite`, or with learned widths for the C code's constants."
    )
    arena: Size | None = Field(default=None, description="RAM for the values between ops.")


class Target(NamedTable):
    """A validated ``targets/<name>.toml``."""

    format: Literal["tflite", "onnx"] = Field(
        description="What is shipped: `model.tflite`, or `model.qdq.onnx` as it is, without lowering."
    )
    alignment: Annotated[Literal[16, 32, 64], Unit("bytes")] = Field(
        default=16, description="Constant data starts at multiples of it in the file; the format asks for 16."
    )
    activations: Activations = Field(description="Values between ops.")
    versions: Annotated[dict[DeviceOp, Annotated[int, Field(ge=1)]], Form("`Op = version`, one a line")] = (
        Field(
            default={},
            description="The newest version of each op that the target executes; others are refused. "
            "Required where the format is `tflite`, and only there.",
        )
    )
    weights: Annotated[tuple[Weights, ...], Field(min_length=1, strict=False)] = Field(
        description="The legal storages of weights; training chooses among them."
    )
    runtimes: Runtimes = Field(description="Who must execute the model, and who may.")
    tolerances: Annotated[tuple[Tolerance, ...], Field(strict=False)] = Field(
        default=(), description="By how much runtimes may differ from the integer executor, op by op."
    )
    limits: Limits = Field(default=Limits(), description="What the device has; what is larger is refused.")
    code: Code = Field(default=Code(), description="Where the device runs generated C code.")

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
    def _format_fits(self) -> Target:
        """Versions, limits and tolerances of single ops are of the device graph: an ``.onnx`` has none."""
        if self.is_lowered:
            if not self.versions:
                raise ValueError("format 'tflite' needs [versions]: which ops the target executes")
            if any(not row.ops for row in self.tolerances):
                raise ValueError("a tolerance of format 'tflite' names its ops")
            return self
        given = {"[versions]": bool(self.versions), "[limits]": self.limits != Limits()}
        for name in (name for name, there in given.items() if there):
            raise ValueError(f"{name} is about a .tflite, and format 'onnx' ships none: leave it out")
        if any(row.ops for row in self.tolerances):
            raise ValueError("a tolerance of format 'onnx' is about the model's outputs: leave ops out")
        names = [row.runtime for row in self.tolerances]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tolerances come twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _weighted_ops_are_executed(self) -> Target:
        for row in self.weights:
            if self.is_lowered and row.op not in self.versions:
                raise ValueError(f"{row.op} has weights and no version: give it one in [versions]")
        return self

    @model_validator(mode="after")
    def _tolerances_differ(self) -> Target:
        known = (*self.runtimes.required, *self.runtimes.optional)
        for row in self.tolerances:
            if row.runtime not in known:
                hint = nearest(row.runtime, known)
                raise ValueError(f"tolerances name '{row.runtime}', which is no runtime of the target{hint}")
        pairs = [(row.runtime, op) for row in self.tolerances for op in row.ops]
        for runtime, op in pairs:
            if pairs.count((runtime, op)) > 1:
                raise ValueError(f"tolerances of {runtime} for {op} come twice")
        return self

    @property
    def is_lowered(self) -> bool:
        """Whether the model becomes a device graph and a ``.tflite``; else its ``.onnx`` ships."""
        return self.format == "tflite"

    def executes(self, op: str) -> bool:
        """Whether the target executes a device op; of an ``.onnx``, which has none, every one."""
        return not self.is_lowered or op in self.versions

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

    @property
    def output_steps(self) -> dict[str, int]:
        """Output integers by which required runtimes of an ``.onnx`` may differ; of a ``.tflite`` none."""
        if self.is_lowered:
            return {}
        stated = {row.runtime: row.steps for row in self.tolerances}
        return {name: stated.get(name, 0) for name in self.runtimes.required}


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
