"""The tables and keys of ``sgsc.toml``, and which known values this version does not execute yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from sgsc_edge.c_names import LONGEST_NAME
from sgsc_edge.config_text import Form, Key, Spelling, Unit, dotted, leaf_keys
from sgsc_edge.hints import nearest
from sgsc_edge.project.budgets import Budget, parse_budgets

TASKS = ("classification", "language-model", "regression")
METRICS = ("accuracy", "loss", "mse", "auc")
IGNORED = -100
"""The label of a token that has no next one; torch's cross-entropy ignores the same."""

CHECKPOINTS = (".safetensors", ".pt", ".pth")
_SPEC = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _spec(value: str) -> str:
    as_module = value.replace(".py:", ":").replace("/", ".")  # "model.py:build" is a file's name, no module's
    if value != as_module or not _SPEC.fullmatch(value):
        hint = nearest(value, [as_module]) if _SPEC.fullmatch(as_module) else ""
        raise ValueError(f'{value!r} is not of the form "module:function"{hint}')
    return value


def _checkpoint(value: str) -> str:
    if not value.endswith(CHECKPOINTS):
        raise ValueError(f"{value!r} is none of the checkpoints that can be read: {', '.join(CHECKPOINTS)}")
    return value


def _weights(value: str) -> str:
    if not value.endswith(".safetensors"):
        raise ValueError(f"{value!r} is no .safetensors file, as Compressor.save writes")
    return value


def _one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in names and not _SPEC.fullmatch(value):
            hint = nearest(value, names) or f'; known: {", ".join(names)}, or "module:function"'
            raise ValueError(f"unknown name {value!r}{hint}")
        return value

    return check


def _rank(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not 1 <= len(shape) <= 4:
        raise ValueError(f"a sample has 1 to 4 dimensions, not {len(shape)}")
    return shape


def _as_list(value: object) -> object:
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _as_name(value: object) -> object:
    """A layer of an ``nn.Sequential`` is called by its number: ``--set preservation.layer=3`` names one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _must_keep(value: object) -> str | int:
    """One validator for both forms: a union would report a mistake once a form."""
    if isinstance(value, str):
        return _spec(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            'give a "module:function" that names samples, or a number of guide samples, at least 1, '
            f"not {value!r}"
        )
    return value


_SPEC_FORM = '`"module:function"`'


def _names(names: tuple[str, ...]) -> Form:
    return Form(", ".join(f'`"{name}"`' for name in names) + f", {_SPEC_FORM}")


Spec = Annotated[str, AfterValidator(_spec), Form(_SPEC_FORM)]
Task = Annotated[str, AfterValidator(_one_of(TASKS)), _names(TASKS)]
Metric = Annotated[str, AfterValidator(_one_of(METRICS)), _names(METRICS)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
PerChannel = Annotated[
    tuple[float, ...], BeforeValidator(_as_list), Field(min_length=1, strict=False), Form("number, or a list")
]


class _Section(BaseModel):
    """Base of the tables: immutable, unknown keys refused, no silent conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ProjectSection(_Section):
    """``[project]``."""

    name: Annotated[
        str,
        Field(max_length=LONGEST_NAME),
        Spelling("letters, digits, `.`, `_` and `-`, a letter or digit first", r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    ] = Field(description="What the model is called in certificates and generated code.")
    version: (
        Annotated[
            str,
            Field(max_length=50),
            Spelling(
                "letters, digits, `.`, `_`, `+` and `-`, a letter or digit first",
                r"[A-Za-z0-9][A-Za-z0-9._+-]*",
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Of the model, in your counting; it goes into the shipped files. Without it "
        "generated code shows the first digits of the model's hash.",
    )


class InputSection(_Section):
    """``model.input``: one sample."""

    shape: Annotated[
        tuple[Positive, ...], Field(strict=False), AfterValidator(_rank), Form("list of 1 to 4 integers > 0")
    ] = Field(description="Shape of one sample, channels first, without the batch dimension: `[1, 28, 28]`.")
    dtype: Literal["float32", "int64"] = Field(
        default="float32",
        description="What the data sets give; `int64` are the tokens of a language model, shape `[T]`.",
    )
    mean: PerChannel | None = Field(
        default=None,
        description="What your data set subtracts from raw samples, for all channels or one each. It "
        "is not applied again: with `range` it sets the input's scale, and pictures of samples use it.",
    )
    std: PerChannel | None = Field(default=None, description="What your data set divides by afterwards, > 0.")
    range: Annotated[tuple[float, float], Field(strict=False), Form("`[low, high]`")] | None = Field(
        default=None,
        description="Value range of the raw samples (before `mean` and `std`). The input's scale and "
        "zero point then follow from it instead of from calibration.",
    )
    color: Literal["gray", "rgb", "bgr"] | None = Field(
        default=None, description="What the channels are, for pictures of samples."
    )

    @model_validator(mode="after")
    def _tokens_are_plain(self) -> InputSection:
        if self.dtype == "int64":
            if len(self.shape) != 1:
                raise ValueError(f"tokens (int64) have the shape [T], not {list(self.shape)}")
            for name in ("mean", "std", "range", "color"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is about real values: tokens (int64) have none")
        return self

    @model_validator(mode="after")
    def _fits(self) -> InputSection:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, self.shape[0]):
                raise ValueError(
                    f"{name} has {len(values)} values; give 1, or one for each of {self.shape[0]} channels"
                )
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be greater than 0")
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError("range must be [low, high] with low < high")
        return self


class ModelSection(_Section):
    """``[model]``."""

    factory: Spec = Field(
        description="Callable beside the project file that takes nothing and returns the float "
        "`torch.nn.Module`, whose output is one tensor of logits `[n, classes]`, of a language model "
        "`[n, T, tokens]`."
    )
    checkpoint: (
        Annotated[
            str,
            AfterValidator(_checkpoint),
            Form("path to a `.safetensors`, `.pt` or `.pth` file"),
        ]
        | None
    ) = Field(
        default=None,
        description="The trained weights, saved from `model.state_dict()`; relative to the project "
        "file. `.pt` files are read without running pickled code. Left out, the factory returns the "
        "trained model.",
    )
    input: InputSection = Field(description="What one sample is.")
    task: Task = Field(
        default="classification",
        description="What the model does. A `language-model` takes tokens int64 `[T]` and gives logits "
        "float32 `[n, T, V]` for the next ones; a sample is one sequence.",
    )
    saw_pool: bool | None = Field(
        default=None,
        description="Whether float training saw the samples that the pool is taken from. Unset: "
        "`false` where `data.pool` is given, else `true`, and the compression gate compares with a "
        "control.",
    )
    final_softmax: Literal["drop", "keep"] = Field(
        default="drop",
        description="A Softmax at the end saturates in int8 and never changes the decision: it is "
        "dropped unless kept.",
    )

    @model_validator(mode="after")
    def _task_fits_input(self) -> ModelSection:
        tokens = self.input.dtype == "int64"
        if self.is_text and not tokens:
            raise ValueError("task 'language-model' takes tokens: set input.dtype to 'int64'")
        if tokens and not self.is_text:
            raise ValueError("input.dtype 'int64' is for tokens: set task to 'language-model'")
        return self

    @property
    def is_text(self) -> bool:
        """Whether samples are sequences of tokens, with a decision for each next token."""
        return self.task == "language-model"


class DataSection(_Section):
    """``[data]``."""

    train: Spec = Field(
        description="Callable -> map-style `torch` data set of (input, label): float32 inputs of the "
        "stated shape, integer labels from 0; of a language model tokens int64 `[T]`, and as label the "
        "next tokens int64 `[T]`, -100 where there is none. The same each time: no random augmentation."
    )
    test: Spec | None = Field(
        default=None, description="Like `train`. Measured and shown; never trained on, never chosen from."
    )
    pool: Spec | None = Field(
        default=None,
        description="Like `train`: samples that float training has not seen, such as your validation "
        "set. Watch and certify samples come from here, instead of from a share of `train`.",
    )
    holdout: Spec | None = Field(
        default=None, description="An independent random sample, for statements about the population."
    )
    augment: Spec | None = Field(
        default=None,
        description="Function that gets each training batch, float32 `[n, ...]`, and returns one like "
        "it; its random generators are seeded.",
    )
    classes: (
        Annotated[tuple[str, ...], Field(min_length=2, strict=False), Form("list of at least 2 strings")]
        | None
    ) = Field(
        default=None,
        description="Names of the classes, for reports and shipped files; of a language model the tokens.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> DataSection:
        names = self.classes or ()
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"classes named twice: {', '.join(twice)}")
        return self


class SharesSection(_Section):
    """``preservation.shares``: how much of the preservation set each criterion chooses, as weights."""

    saliency: Weight = Field(default=1.0, description="Weight of samples with the strongest activations.")
    uncertainty: Weight = Field(default=1.0, description="Weight of samples with the closest decisions.")
    diversity: Weight = Field(
        default=1.0, description="Weight of samples that cover the clusters of features."
    )

    @model_validator(mode="after")
    def _some(self) -> SharesSection:
        if not any(weight for _, weight in self):
            raise ValueError("at least one share must be greater than 0")
        return self


class PreservationSection(_Section):
    """``[preservation]``."""

    fraction: Fraction = Field(
        default=0.1,
        description="Size of the preservation set, as a share of the training data (and `data.pool`): "
        "half of it guide, a quarter each watch and certify.",
    )
    pool_fraction: Fraction = Field(
        default=0.2,
        description="Share of the training data that is set apart as the pool, by content; without "
        "effect where `data.pool` is given. `sgsc_edge.pool_split` takes the same number.",
    )
    method: Literal["critical", "random"] = Field(
        default="critical", description="By the criteria of `shares`, or at random for comparison."
    )
    shares: SharesSection = Field(
        default=SharesSection(), description="How much of the set each criterion chooses."
    )
    layer: (
        Annotated[
            str, BeforeValidator(_as_name), Field(min_length=1), Form("a module's name, such as `features.3`")
        ]
        | None
    ) = Field(default=None, description="Convolution for Grad-CAM; unset: the last one.")
    must_keep: (
        Annotated[
            str | int,
            PlainValidator(_must_keep),
            Form(f"{_SPEC_FORM}, or integer ≥ 1"),
        ]
        | None
    ) = Field(
        default=None,
        description="Samples whose right decision may never flip: a callable like `data.train` that "
        "gives them, or how many of the guide samples with the lowest margins.",
    )

    def criteria(self) -> dict[str, float]:
        """Share of each criterion that chooses samples; they add up to 1."""
        weights = {"random": 1.0} if self.method == "random" else self.shares.model_dump()
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items() if weight}


class GateSection(_Section):
    """``[gate]``: thresholds have no defaults; the user decides what may be lost."""

    metric: Metric = Field(default="accuracy", description="What the compression gate measures.")
    max_drop: Annotated[float, Field(ge=0), Unit("the metric's: a share, or nats")] = Field(
        description="By how much the compressed model's metric may be worse than the reference's on "
        "the certify samples (for a loss: the allowed rise); 0.01 of an accuracy is one point."
    )
    min_agreement: Annotated[float, Field(ge=0, le=1), Unit("share of the certify decisions")] | None = Field(
        default=None,
        description="How many decisions of the compressed model must be the float model's, of a language "
        "model those about next tokens. Unset: shown, and not gated.",
    )
    max_lowering_flips: Annotated[float, Field(ge=0, le=1), Unit("share of the certify decisions")] = Field(
        description="How many decisions of each required runtime may differ from the compressed model's."
    )
    reference: Literal["float", "control"] | None = Field(
        default=None,
        description="What the compression gate compares with: the float model, or a control, the "
        "float model fine-tuned alike without the pool. Unset: `control` where float training saw the "
        "pool.",
    )

    @model_validator(mode="after")
    def _drop_fits(self) -> GateSection:
        if self.metric == "accuracy" and self.max_drop > 1:
            raise ValueError(f"max_drop of an accuracy is a share (0.01 is one point), not {self.max_drop:g}")
        return self


Method = Literal["sgsc", "mixed", "qat8", "ptq", "own"]

GOALS = ("budget", "floor", "gamma")
"""Keys of ``[compress]`` of which one at most is in force: where a layer of settings gives one, those of
the layers below it are out."""


class CompressSection(_Section):
    """``[compress]``."""

    method: Method | None = Field(
        default=None,
        description="`sgsc` learns bit depths and removes channels under a budget or down to a floor; "
        "`mixed` trains at the smallest widths that the target stores; `qat8` trains at 8 bits; `ptq` "
        "calibrates without training. Unset: `sgsc` where a budget, a floor or a fixed weight is given, "
        "else `mixed` on targets below 8 bits, else `qat8`. `own`: your own training loop has compressed "
        "it, see `weights`.",
    )
    weights: Annotated[str, AfterValidator(_weights), Form("path to a `.safetensors` file")] | None = Field(
        default=None,
        description="What `sgsc_edge.Compressor.save` wrote in a training loop of your own; relative to the "
        "project file. It is exported and certified as it is, nothing is trained; a budget must hold it.",
    )
    epochs: Positive = Field(default=8, description="Passes over the training data.")
    batch_size: Annotated[int, Field(ge=2), Unit("samples")] = Field(
        default=128, description="Of one training step."
    )  # BatchNorm cannot train on a single sample
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=1e-3, description="Of the weights; depths and ranges have rates of their own."
    )
    budget: (
        Annotated[
            tuple[Budget, ...],
            BeforeValidator(parse_budgets),
            Form('`"6 kB"` (B, kB, MB, KiB, MiB), or a ratio `"0.1x"`; several: a list, or `"3 kB, 6 kB"`'),
        ]
        | None
    ) = Field(
        default=None,
        description="Most bytes of weights, scales and biases as the target stores them (1 kB = 1000 "
        "bytes), or a ratio of the float parameters' bytes. Several: one compression downwards that leaves a "
        "certified model at each. Not with `floor` or `gamma`.",
    )
    floor: Annotated[float, Field(gt=0), Unit("the gate's metric: a share, or nats")] | None = Field(
        default=None,
        description="Instead of a budget: the smallest model whose watch metric stays at least here (for a "
        "loss: at most). Certify and test samples take no part in the search.",
    )
    alpha: Weight | None = Field(
        default=None, description="The paper's fixed weight on the mean magnitude of the weights; unset: 0."
    )
    gamma: Weight | None = Field(
        default=None,
        description="The paper's fixed weight on the mean bit depth, instead of a budget or a floor.",
    )
    lambda_: Weight | None = Field(
        default=None,
        alias="lambda",
        description="Fixed weight on the loss of guide samples; 0 leaves them out. Unset: it starts "
        "at 1, its most, falls while the watch metric is above its floor, and rises again below.",
    )
    controller: Annotated[Literal["random"] | bool | None, Form('`true`, `false`, `"random"`')] = Field(
        default=None,
        description="Whether channels get bits back when the watch set falls: the most sensitive ones "
        "(`true`), or for comparison any (`random`). Unset: with `gamma`, not under a budget, where other "
        "channels would pay for them. `false`: layers do not grow wider, either; together with `lambda = 0` "
        "nothing guards the compression: for comparison, too.",
    )
    bits: Annotated[tuple[float, float], Field(strict=False), Form("`[shallowest, deepest]`, in 1..16")] = (
        Field(
            default=(2.0, 8.0),
            description="Range in which bit depths are learned; they start at its upper end. What is stored "
            "are the target's widths. With `gamma` channels leave only where the lower end is 2 or less.",
        )
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="Of everything random; the same seed gives the same bytes."
    )

    @model_validator(mode="after")
    def _goal_fits(self) -> CompressSection:
        given = [name for name in GOALS if getattr(self, name) is not None]
        if self.chosen_method() == "sgsc" and not given:
            raise ValueError(
                "alpha and lambda weigh terms of method 'sgsc', which also needs a budget, a floor or a "
                "fixed gamma"
                if self.method is None
                else "method 'sgsc' needs a budget, a floor or a fixed gamma"
            )
        if self.chosen_method() == "sgsc" and self.epochs < 2:
            raise ValueError("method 'sgsc' needs 2 epochs at least: one to learn depths, one to settle")
        if (self.chosen_method() == "own") != (self.weights is not None):
            raise ValueError("method 'own' and weights belong together: what your own loop has saved")
        if not 1 <= self.bits[0] <= self.bits[1] <= 16:
            raise ValueError("bits must be [shallowest, deepest] with 1 <= shallowest <= deepest <= 16")
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)} exclude each other: a budget bounds the size, a floor the watch "
                "metric, gamma weighs the size; keep one"
            )
        return self

    def chosen_method(self, *, narrow: bool = False) -> Method:
        """The method in force; ``narrow``: whether the target stores weights in less than 8 bits."""
        if self.method is not None:
            return self.method
        if self.weights is not None:
            return "own"
        given = (*(getattr(self, name) for name in GOALS), self.alpha, self.lambda_)
        if all(value is None for value in given):
            return "mixed" if narrow else "qat8"
        return "sgsc"


class ExportSection(_Section):
    """``[export]``: the form of the ``.tflite`` (``graph.write_tflite.Form``)."""

    names: Literal["full", "short", "none"] = Field(
        default="full",
        description="Names of tensors: `short` numbers those that are neither input nor output, "
        "`none` drops all.",
    )
    quantization: Literal["full", "shared", "needed"] = Field(
        default="full",
        description="`shared` stores equal scales and zero points once; `needed` also leaves out what "
        "no kernel reads (LiteRT's XNNPACK then leaves per-channel layers to slower kernels). The file "
        "is then smaller than the budget counts.",
    )
    metadata: Literal["full", "none"] = Field(
        default="full", description="The `sgsc.` entries, such as class names, and the runtime version."
    )


class Config(_Section):
    """A whole ``sgsc.toml``."""

    project: ProjectSection = Field(description="What the model is called.")
    model: ModelSection = Field(description="The trained float model.")
    data: DataSection = Field(description="Your data sets, each made by a callable beside the project file.")
    preservation: PreservationSection = Field(
        default=PreservationSection(), description="The samples that guard the compression and judge it."
    )
    gate: GateSection = Field(description="What may be lost. Thresholds have no defaults: you decide.")
    compress: CompressSection = Field(default=CompressSection(), description="How the model is compressed.")
    export: ExportSection = Field(
        default=ExportSection(), description="What the `.tflite` holds beside what interpreters need."
    )
    targets: Annotated[dict[str, Any], Form("tables")] = Field(
        default={},
        exclude=True,
        description="`[targets.<name>.<section>]` overrides keys of that section for one target: "
        "`[targets.tflite-int4.compress]`.",
    )

    @model_validator(mode="after")
    def _must_keep_fits(self) -> Config:
        if self.model.is_text and isinstance(self.preservation.must_keep, int):
            raise ValueError(
                "preservation.must_keep: a number asks for samples that are decided rightly, and a sequence "
                "has many decisions: name sequences by a callable"
            )
        return self

    @model_validator(mode="after")
    def _floor_fits(self) -> Config:
        floor = self.compress.floor
        if self.gate.metric == "accuracy" and floor is not None and floor > 1:
            raise ValueError(
                f"compress.floor of an accuracy is a share (0.99 is 99 %), not {floor:g}; for the most "
                'that a loss may be, set gate.metric = "loss"'
            )
        return self


def setting_names() -> list[str]:
    """Every key of ``sgsc.toml`` that ``--set`` takes, in the order of the tables.

    >>> setting_names()[0], "preservation.shares.saliency" in setting_names()
    ('project.name', True)
    """
    return [dotted(key) for key in leaf_keys(Config) if key != ("targets",)]


# --- known, but not executed in this version: delete a row when its part arrives --------------------


@dataclass(frozen=True)
class NotYet:
    """A key whose values for which ``refused`` holds are valid but not executed yet."""

    key: Key
    refused: Callable[[object], bool]
    message: str


def _other_than(*executed: str) -> Callable[[object], bool]:
    known = {*TASKS, *METRICS} - {*executed}
    return lambda value: isinstance(value, str) and (value in known or bool(_SPEC.fullmatch(value)))


def _given(value: object) -> bool:
    return True


NOT_YET = (
    NotYet(
        ("model", "task"),
        _other_than("classification", "language-model"),
        "only 'classification' and 'language-model' are supported in this version",
    ),
    NotYet(
        ("gate", "metric"),
        _other_than("accuracy", "loss"),
        "only 'accuracy' and 'loss' are supported in this version",
    ),
    NotYet(
        ("data", "holdout"), _given, "statistics over an independent sample are not available in this version"
    ),
)


def not_yet(tables: Mapping[str, Any]) -> list[tuple[Key, str]]:
    """The keys of ``tables`` that this version does not execute, each with its message."""
    return [(row.key, row.message) for row in NOT_YET if _applies(row, tables)]


def _applies(row: NotYet, tables: Mapping[str, Any]) -> bool:
    value: Any = tables
    for part in row.key:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return row.refused(value)
