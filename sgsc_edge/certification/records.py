"""The certificate's JSON, as strict types: an in-toto Statement v1 with our predicate.

Unknown keys, missing keys, wrong types, NaN and other predicate versions are refused by the reader.
There are no times and no paths, so the same build gives the same bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sgsc_edge.certification.metrics import METRICS
from sgsc_edge.certification.policy import STRICT, Policy

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:sgsc-edge:certificate:v4"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Ids = Annotated[tuple[str, ...], Field(strict=False)]


def _every_metric(metrics: dict[str, float | None]) -> dict[str, float | None]:
    if metrics.keys() != METRICS.keys():
        raise ValueError(f"metrics are {', '.join(METRICS)}, each once")
    return metrics


class Verdict(StrEnum):
    """FAILED where a measured gate failed; else NOT_MEASURED where something required is missing."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_MEASURED = "NOT_MEASURED"


class Measurement(BaseModel):
    """One model or runtime on one set.

    ``samples`` have ``decided`` labelled decisions in all: as many, or of sequences one for each labelled
    next token; ``correct`` of them are right. ``metrics`` by name, None where not measured. ``agreeing``:
    decisions that are the float model's. ``negative_flips``: ids that the float model decides rightly and
    this one wrongly (``positive_flips`` the other way round), of sequences those with such a decision; all
    three are None where the float logits are not finite. ``differs_from_compressed``: ids decided otherwise
    than by the compressed model, ``differing`` decisions in all, and ``decisions``: what was decided on each
    of these instead, a class, or of a sequence the classes at its labelled tokens in order.
    ``max_lsb``: largest difference from its output integers, None for float models.
    ``outputs_sha256``: of the outputs' bytes, int8 or float32 [n, K] (sequences: [n, T, K]) in C order.
    """

    model_config = STRICT

    samples: Count
    decided: Count
    correct: Count
    metrics: Annotated[dict[str, float | None], AfterValidator(_every_metric)]
    agreeing: Count | None
    negative_flips: Ids | None
    positive_flips: Ids | None
    differs_from_compressed: Ids
    differing: Count
    decisions: dict[str, Count | Annotated[tuple[Count, ...], Field(strict=False)]]
    ties: Count
    max_lsb: Count | None
    outputs_sha256: Sha256

    @property
    def agreement(self) -> float | None:
        """Share of the decisions that are the float model's; None where that is not known."""
        return None if self.agreeing is None or not self.decided else self.agreeing / self.decided


class TestSummary(BaseModel):
    """One model or runtime on the test set: informational, counts only."""

    __test__ = False  # pytest: not a test class
    model_config = STRICT

    samples: Count
    decided: Count
    metrics: Annotated[dict[str, float | None], AfterValidator(_every_metric)]
    agreeing: Count | None
    negative_flips: Count | None
    positive_flips: Count | None
    differs_from_compressed: Count
    differing: Count
    ties: Count
    max_lsb: Count | None

    @classmethod
    def of(cls, measurement: Measurement) -> TestSummary:
        """The counts of ``measurement``."""
        negative, positive = measurement.negative_flips, measurement.positive_flips
        return cls(
            samples=measurement.samples,
            decided=measurement.decided,
            metrics=measurement.metrics,
            agreeing=measurement.agreeing,
            negative_flips=None if negative is None else len(negative),
            positive_flips=None if positive is None else len(positive),
            differs_from_compressed=len(measurement.differs_from_compressed),
            differing=measurement.differing,
            ties=measurement.ties,
            max_lsb=measurement.max_lsb,
        )


class RuntimeRow(BaseModel):
    """One runtime. ``status``: how the run ended, ``recorded`` for outputs that the build recorded.

    ``stand_in`` names the runtime that ran in its place. ``sets`` is empty unless it ran.
    """

    model_config = STRICT

    name: str
    required: bool
    status: Literal["ok", "not_run", "crashed", "timeout", "failed", "recorded"]
    version: str | None
    reason: str
    stand_in: str | None
    sets: dict[str, Measurement]

    @property
    def label(self) -> str:
        """``numpy stands in`` where another runtime ran; else nothing."""
        return f"{self.stand_in} stands in" if self.stand_in else ""


class Gate(BaseModel):
    """One condition: ``measured`` is ``bound`` the threshold. Negative margins fail."""

    model_config = STRICT

    name: Literal["compression", "agreement", "must_keep", "lowering", "outputs"]
    subject: str
    set: str
    quantity: str
    measured: float | None
    bound: Literal["at most", "at least"]
    threshold: float
    margin: float | None
    status: Literal["passed", "failed", "not_measured"]
    reason: str


class SetRow(BaseModel):
    """One set of samples: its size, the hash of its ids, labels and inputs, and whether it gates.

    ``decisions``: labelled ones, as many as samples, or of sequences as labelled next tokens. ``trained_on``:
    how many of them compression may have trained on; stated for must_keep, None for the parts whose name says
    it: of guide all, of watch and certify none.
    """

    model_config = STRICT

    samples: Count
    decisions: Count
    sha256: Sha256
    gated: bool
    trained_on: Count | None


class CoarseGate(BaseModel):
    """A warning: a set too small for a gate's threshold, which only a measured 0 can meet on it.

    ``decisions`` change in steps of 1/decisions, more than ``threshold``; ``needed`` of them would do.
    """

    model_config = STRICT

    gate: Literal["compression", "agreement", "lowering"]
    set: str
    decisions: Count
    threshold: float
    needed: Count
    message: str


class CertificationContext(BaseModel):
    """What judging needs beside files: the build hands it over, the certificate stores it.

    ``reference_saw_certify``: whether the float model was trained on samples of the certify set. ``labels``:
    ``float`` where the samples had none, and a decision is right where it is the float model's.
    ``inputs``: SHA-256 of what went into the build, by name. ``test``: test results by model or runtime.
    These are the build's own statements: the folder does not hold what it takes to recompute them.
    """

    model_config = STRICT

    target: str
    policy: Policy
    reference_saw_certify: bool
    labels: Literal["given", "float"] = "given"
    inputs: dict[str, Sha256] = Field(default_factory=dict)
    test: dict[str, TestSummary] = Field(default_factory=dict)


class Predicate(BaseModel):
    """What the statement says. ``digest`` is of the statement without it: it detects edits, not forgery."""

    model_config = STRICT

    verdict: Annotated[Verdict, Field(strict=False)]
    target: str
    policy: Policy
    policy_sha256: Sha256
    reference_saw_certify: bool
    labels: Literal["given", "float"]
    sets: dict[str, SetRow]
    gates: Annotated[tuple[Gate, ...], Field(strict=False)]
    warnings: Annotated[tuple[CoarseGate, ...], Field(strict=False)]
    references: dict[str, dict[str, Measurement | None]]
    runtimes: Annotated[tuple[RuntimeRow, ...], Field(strict=False)]
    test: dict[str, TestSummary]
    inputs: dict[str, Sha256]
    tools: dict[str, str]
    digest: str


class Digest(BaseModel):
    """An in-toto DigestSet with SHA-256 only."""

    model_config = STRICT

    sha256: Sha256


class Subject(BaseModel):
    """One file that the statement is about."""

    model_config = STRICT

    name: str
    digest: Digest


class Statement(BaseModel):
    """The whole document; ``_type`` and ``predicateType`` as in-toto spells them."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True
    )

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[Subject, ...], Field(strict=False)]
    predicate_type: Annotated[Literal["urn:sgsc-edge:certificate:v4"], Field(alias="predicateType")]
    predicate: Predicate
