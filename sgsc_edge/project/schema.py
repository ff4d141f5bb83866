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

from sgsc_edge.config_text import Key, dotted, leaf_keys, parse_size
from sgsc_edge.hints import nearest

TASKS = ("classification", "language-model", "regression")
METRICS = ("accuracy", "loss", "mse", "auc")
CHECKPOINTS = (".safetensors", ".pt", ".pth")
_SPEC = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Budget:
    """Bytes of weights, scales and biases as the target stores them: absolute, or a ratio of the float size.

    Exactly one of ``bytes`` (> 0) and ``ratio`` (0 < ratio <= 1) is set.
    """

    bytes: int | None = None
    ratio: float | None = None

    def limit(self, float_bytes: int) -> int:
        """The budget in bytes for a model whose float parameters take ``float_bytes``."""
        return self.bytes if self.bytes is not None else int((self.ratio or 0.0) * float_bytes)


def parse_budget(value: object) -> object:
    """``"6 kB"`` (1 kB = 1000 bytes) or ``"0.1x"`` as a ``Budget``; ``ValueError`` otherwise.

    >>> parse_budget("6 kB"), parse_budget("0.1x")
    (Budget(bytes=6000, ratio=None), Budget(bytes=None, ratio=0.1))
    """
    if isinstance(value, Budget):
        return value
    if not isinstance(value, str):
        raise ValueError(
            f'write a size such as "6 kB", or a ratio of the float size such as "0.1x", not {value!r}'
        )
    if match := re.fullmatch(r"(\d*\.?\d+)[ ]?x", value.strip()):
        ratio = float(match[1])
        if not 0 < ratio <= 1:
            raise ValueError(f"a ratio of the float size lies in (0, 1], not {ratio:g}")
        return Budget(ratio=ratio)
    return Budget(bytes=parse_size(value))


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


Spec = Annotated[str, AfterValidator(_spec)]
Task = Annotated[str, AfterValidator(_one_of(TASKS))]
Metric = Annotated[str, AfterValidator(_one_of(METRICS))]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
PerChannel = Annotated[tuple[float, ...], BeforeValidator(_as_list), Field(min_length=1, strict=False)]


class _Section(BaseModel):
    """Base of the tables: immutable, unknown keys refused, no silent conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ProjectSection(_Section):
    """``[project]``. ``version``: of the model, in the user's counting; it goes into the shipped files."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=50)] | None = None


class InputSection(_Section):
    """``model.input``: one sample, channels first, without the batch dimension.

    ``mean`` and ``std`` hold one value or one a channel; ``range`` is the value range of the raw samples.
    """

    shape: Annotated[tuple[Positive, ...], Field(strict=False), AfterValidator(_rank)]
    dtype: Literal["float32"] = "float32"
    mean: PerChannel | None = None
    std: PerChannel | None = None
    range: Annotated[tuple[float, float], Field(strict=False)] | None = None
    color: Literal["gray", "rgb", "bgr"] | None = None

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
    """``[model]``.

    ``saw_pool``: whether float training saw the samples that the pool is taken from. ``final_softmax``: a
    Softmax at the end saturates in int8 and never changes the decision, so it is dropped unless kept.
    """

    factory: Spec
    checkpoint: Annotated[str, AfterValidator(_checkpoint)] | None = None
    input: InputSection
    task: Task = "classification"
    saw_pool: bool | None = None
    final_softmax: Literal["drop", "keep"] = "drop"


class DataSection(_Section):
    """``[data]``.

    ``augment``: a function that distorts a batch of training inputs; the other callables make data sets.
    """

    train: Spec
    test: Spec | None = None
    pool: Spec | None = None
    holdout: Spec | None = None
    augment: Spec | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2, strict=False)] | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> DataSection:
        names = self.classes or ()
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"classes named twice: {', '.join(twice)}")
        return self


class SharesSection(_Section):
    """``preservation.shares``: how much of the preservation set each criterion chooses, as weights."""

    saliency: Weight = 1.0
    uncertainty: Weight = 1.0
    diversity: Weight = 1.0

    @model_validator(mode="after")
    def _some(self) -> SharesSection:
        if not any(weight for _, weight in self):
            raise ValueError("at least one share must be greater than 0")
        return self


class PreservationSection(_Section):
    """``[preservation]``; both fractions are of the training data.

    ``method``: by the criteria of ``shares``, or at random for comparison. ``layer``: the convolution of
    Grad-CAM; without it the last one. ``must_keep``: samples whose right decision may never flip: a callable
    that names them, or how many of the guide samples with the lowest margins.
    """

    fraction: Fraction = 0.1
    pool_fraction: Fraction = 0.2
    method: Literal["critical", "random"] = "critical"
    shares: SharesSection = SharesSection()
    layer: Annotated[str, BeforeValidator(_as_name), Field(min_length=1)] | None = None
    must_keep: Annotated[str | int, PlainValidator(_must_keep)] | None = None

    def criteria(self) -> dict[str, float]:
        """Share of each criterion that chooses samples; they add up to 1."""
        weights = {"random": 1.0} if self.method == "random" else self.shares.model_dump()
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items() if weight}


class GateSection(_Section):
    """``[gate]``: thresholds have no defaults; the user decides what may be lost."""

    metric: Metric = "accuracy"
    max_drop: Annotated[float, Field(ge=0)]
    max_lowering_flips: Annotated[float, Field(ge=0, le=1)]
    reference: Literal["float", "control"] | None = None

    @model_validator(mode="after")
    def _drop_fits(self) -> GateSection:
        if self.metric == "accuracy" and self.max_drop > 1:
            raise ValueError(f"max_drop of an accuracy is a share (0.01 is one point), not {self.max_drop:g}")
        return self


Method = Literal["sgsc", "mixed", "qat8", "ptq"]


class CompressSection(_Section):
    """``[compress]``.

    ``method``: ``sgsc`` learns depths (the default where a budget or a fixed weight is given); otherwise
    ``mixed`` trains at the smallest widths that the watch set stands (the default where the target has any
    below 8 bits), and ``qat8`` at fixed 8 bits; ``ptq`` calibrates only. The last two are baselines that use
    no budget. ``controller``: whether channels get bits back when the watch set falls; with it off and
    ``lambda = 0`` nothing guards the compression (for comparison).
    """

    method: Method | None = None

    epochs: Positive = 8
    batch_size: Annotated[int, Field(ge=2)] = 128  # BatchNorm cannot train on a single sample
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    budget: Annotated[Budget, BeforeValidator(parse_budget)] | None = None
    alpha: Weight | None = None
    gamma: Weight | None = None
    lambda_: Annotated[Weight | None, Field(alias="lambda")] = None
    controller: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @model_validator(mode="after")
    def _goal_fits(self) -> CompressSection:
        if self.chosen_method() == "sgsc" and self.budget is None and self.gamma is None:
            raise ValueError(
                "alpha and lambda weigh terms of method 'sgsc', which also needs a budget or a fixed gamma"
                if self.method is None
                else "method 'sgsc' needs a budget, or a fixed gamma"
            )
        if self.chosen_method() == "sgsc" and self.epochs < 2:
            raise ValueError("method 'sgsc' needs 2 epochs at least: one to learn depths, one to settle")
        if self.budget is not None and self.gamma is not None:
            raise ValueError("budget and gamma exclude each other: one bounds the size, the other weighs it")
        return self

    def chosen_method(self, *, narrow: bool = False) -> Method:
        """The method in force; ``narrow``: whether the target stores weights in less than 8 bits."""
        if self.method is not None:
            return self.method
        given = (self.budget, self.alpha, self.gamma, self.lambda_)
        if all(value is None for value in given):
            return "mixed" if narrow else "qat8"
        return "sgsc"


class ExportSection(_Section):
    """``[export]``: what the ``.tflite`` holds beside what interpreters need (``graph.write_tflite.Form``).

    ``names`` of tensors: ``short`` numbers those that are neither input nor output. ``quantization``:
    ``shared`` stores equal scales and zero points once, ``needed`` also leaves out what no kernel reads; the
    file is then smaller than the budget counts. ``metadata``: the ``sgsc.`` entries and the runtime version.
    """

    names: Literal["full", "short", "none"] = "full"
    quantization: Literal["full", "shared", "needed"] = "full"
    metadata: Literal["full", "none"] = "full"


class Config(_Section):
    """A whole ``sgsc.toml``; ``targets`` holds the tables that override others for one target."""

    project: ProjectSection
    model: ModelSection
    data: DataSection
    preservation: PreservationSection = PreservationSection()
    gate: GateSection
    compress: CompressSection = CompressSection()
    export: ExportSection = ExportSection()
    targets: dict[str, Any] = Field(default={}, exclude=True)


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
        ("model", "task"), _other_than("classification"), "only 'classification' is supported in this version"
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
