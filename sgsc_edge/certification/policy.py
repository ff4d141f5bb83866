"""What a certificate is judged by: thresholds, and the runtimes that must have run.

A policy file (``verify --policy FILE``) is TOML with the keys of the two tables below; the keys that it
gives replace the recorded ones (``metric`` only together with ``max_drop``, which is in its unit)::

    [gate]
    metric = "accuracy"          # or "loss"
    max_drop = 0.01              # allowed drop (for loss: rise) on the certify set
    min_agreement = 0.95         # least share of decisions that must be float's; without it, not gated
    reference = "float"          # or "control"
    max_lowering_flips = 0.005   # allowed share of decisions that differ from the compressed model
    [runtimes]
    required = ["tflm"]
    optional = ["litert"]
    max_steps = { tflm = 0 }     # allowed difference from the compressed model's output integers
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sgsc_edge.artifacts import canonical_json, sha256_bytes
from sgsc_edge.certification.metrics import METRICS
from sgsc_edge.config_text import Form, TomlFile, Unit, read_toml, validate
from sgsc_edge.targets import RUNTIME_NAMES

STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class GatePolicy(BaseModel):
    """Thresholds of the two gates; the keys mean what ``[gate]`` of ``sgsc.toml`` means."""

    model_config = STRICT

    metric: Literal["accuracy", "loss"] = Field(
        description="What the compression gate measures; another one than recorded needs `max_drop`, too."
    )
    max_drop: Annotated[float, Field(ge=0), Unit("the metric's: a share, or nats")] = Field(
        description="By how much the metric may be worse than the reference's on the certify samples."
    )
    min_agreement: Annotated[float, Field(ge=0, le=1), Unit("share of the certify decisions")] | None = Field(
        default=None,
        description="How many decisions of the compressed model must be the float model's; unset: not gated.",
    )
    reference: Literal["float", "control"] = Field(
        description="What the compression gate compares with; a control must have been recorded."
    )
    max_lowering_flips: Annotated[float, Field(ge=0, le=1), Unit("share of the certify decisions")] = Field(
        description="How many decisions of each required runtime may differ from the compressed model's."
    )

    @model_validator(mode="after")
    def _drop_fits(self) -> Self:
        if self.metric == "accuracy" and self.max_drop > 1:
            raise ValueError(f"max_drop of an accuracy is a share (0.01 is one point), not {self.max_drop:g}")
        return self


class RuntimePolicy(BaseModel):
    """Runtimes by name: without a required one the verdict is NOT_MEASURED; optional ones are shown."""

    model_config = STRICT

    required: Annotated[tuple[str, ...], Field(min_length=1, strict=False), RUNTIME_NAMES] = Field(
        description="Who must have run, and passed; one that runs the model that ships is among them."
    )
    optional: Annotated[tuple[str, ...], Field(strict=False), RUNTIME_NAMES] = Field(
        default=(), description="Who is run and shown, and gates nothing."
    )
    max_steps: Annotated[
        dict[str, Annotated[int, Field(ge=0)]], Unit("output integers"), Form("`{ runtime = steps }`")
    ] = Field(
        default={},
        description="By how much the outputs of a required runtime may differ from the compressed model's; "
        "a runtime that is not named is held to its decisions alone.",
    )

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = (*self.required, *self.optional)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _steps_are_of_required_ones(self) -> Self:
        if unknown := sorted(set(self.max_steps) - set(self.required)):
            raise ValueError(f"max_steps names {', '.join(unknown)}, not among the required runtimes")
        return self


class Policy(BaseModel):
    """Everything that decides a verdict besides the measurements."""

    model_config = STRICT

    gate: GatePolicy = Field(description="The thresholds.")
    runtimes: RuntimePolicy = Field(description="The runtimes.")

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON: sorted keys, no spaces."""
        return sha256_bytes(canonical_json(self.model_dump(mode="json")))


def requiring(policy: Policy, names: Collection[str]) -> Policy:
    """``policy`` with these runtimes required beside its own, were they optional or not in it at all."""
    required = tuple(dict.fromkeys((*policy.runtimes.required, *names)))
    optional = tuple(name for name in policy.runtimes.optional if name not in required)
    runtimes = policy.runtimes.model_copy(update={"required": required, "optional": optional})
    return policy.model_copy(update={"runtimes": runtimes})


def read_policy(path: Path, base: Policy) -> Policy:
    """``base`` with the keys that the TOML file ``path`` gives.

    A runtime that the file requires is no longer optional. Raises ConfigError listing every problem.
    """
    file = read_toml(path)
    tables: dict[str, Any] = base.model_dump(mode="json")
    for section, given in file.tables.items():
        both = section in tables and isinstance(given, Mapping)
        tables[section] = {**tables[section], **given} if both else given
    given = file.tables.get("runtimes")
    if isinstance(given, Mapping) and isinstance(given.get("required"), list) and "optional" not in given:
        optional = base.runtimes.optional
        tables["runtimes"]["optional"] = [name for name in optional if name not in given["required"]]
        if "max_steps" not in given:
            steps = base.runtimes.max_steps
            tables["runtimes"]["max_steps"] = {n: s for n, s in steps.items() if n in given["required"]}
    gate = file.tables.get("gate")
    if isinstance(gate, Mapping) and "max_drop" not in gate:
        metric = gate.get("metric")
        if metric != base.gate.metric and metric in tuple(METRICS):
            tables["gate"].pop("max_drop")  # the recorded one is in the other metric's unit
    return validate(Policy, TomlFile(file.label, tables, file.lines), remedy="correct the policy file")
