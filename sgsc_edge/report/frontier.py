"""``frontier.json``: what one compression left at each of several budgets, beside float and plain 8 bits.

It lies beside the folders of the points, and once more in each of them, so that each report has the curve.
Figures of points are those of their own files; nothing is certified by it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgsc_edge.artifacts import MANIFEST_NAME, read_json, sha256_file
from sgsc_edge.certification.certify import COMPRESSED
from sgsc_edge.certification.records import Gate, Measurement, Sha256, TestSummary
from sgsc_edge.errors import FileFormatError
from sgsc_edge.report.build_folder import BuildFolder, read_build
from sgsc_edge.report.sections.sizes import packed_bytes, stored_bytes

FRONTIER = "frontier.json"
FLOAT, IN_8_BITS = "float", "8 bits, calibrated only"
PARTS = ("watch", "certify", "test")

log = logging.getLogger("sgsc_edge")

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True)
_Bytes = Annotated[int, Field(gt=0, le=1 << 50)]
_Label = Annotated[str, Field(pattern=r"^[0-9][0-9.e-]{0,20}(B|kB|x)$")]


class Figures(BaseModel):
    """The gate's metric on the parts that say something, None where there is no such part."""

    model_config = _STRICT

    watch: float | None
    certify: float | None
    test: float | None


class Reference(BaseModel):
    """A model that no budget made; bytes of its parameters."""

    model_config = _STRICT

    name: str
    bytes: _Bytes
    figures: Figures


class FrontierPoint(BaseModel):
    """One budget. What follows ``exit_code`` is None where no model was certified, and ``error`` says why.

    ``label`` names the budget and its folder; ``bytes``: of the parameters as stored; ``flips``: right
    decisions on certify that were lost; ``manifest``: hash of the point's own when this was written;
    ``missed``: the gates that it did not pass, in words.
    """

    model_config = _STRICT

    label: _Label
    budget: _Bytes
    exit_code: Annotated[int, Field(ge=0, le=255)]
    bytes: _Bytes | None = None
    figures: Figures | None = None
    flips: Annotated[int, Field(ge=0)] | None = None
    verdict: Literal["PASSED", "FAILED", "NOT_MEASURED"] | None = None
    manifest: Sha256 | None = None
    error: str | None = None
    missed: Annotated[tuple[str, ...], Field(strict=False, max_length=1000)] = ()


class Frontier(BaseModel):
    """All of it; points from the largest budget to the smallest."""

    model_config = _STRICT

    schema_: Annotated[Literal["sgsc-edge-frontier/1"], Field(alias="schema")] = "sgsc-edge-frontier/1"
    project: str
    target: str
    metric: str
    references: Annotated[tuple[Reference, ...], Field(strict=False, max_length=10)]
    points: Annotated[tuple[FrontierPoint, ...], Field(strict=False, min_length=1, max_length=1000)]


def read_frontier(path: Path) -> Frontier:
    """Read ``frontier.json``; ``FileFormatError`` where it is none."""
    try:
        return Frontier.model_validate(read_json(path))
    except ValidationError as error:
        raise FileFormatError(
            f"is no frontier: {error.errors()[0]['msg']}", where=str(path), remedy="build it again"
        ) from error


def frontier_of(folder: Path) -> tuple[Frontier, str] | None:
    """The frontier that a build folder is a point of, and the hash of its own manifest.

    None where it is of none, or has changed since. A file that is no frontier is a warning: it is no part of
    the build.
    """
    if not (folder / FRONTIER).is_file():
        return None
    try:
        found = read_frontier(folder / FRONTIER)
    except FileFormatError as error:
        log.warning("report: the curve is left out: %s", error)
        return None
    own = sha256_file(folder / MANIFEST_NAME)
    return (found, own) if any(point.manifest == own for point in found.points) else None


def point_of(folder: Path, label: str, budget: int) -> FrontierPoint:
    """A certified point's figures, from its files."""
    build = read_build(folder)
    predicate = build.certificate.predicate
    row = next(row for row in predicate.runtimes if row.name == COMPRESSED)
    flips = row.sets["certify"].negative_flips
    stored = packed_bytes(build)
    return FrontierPoint(
        label=label,
        budget=budget,
        exit_code=build.certificate.exit_code,
        bytes=stored_bytes(build) if stored is None else stored,
        figures=_figures(build, row.sets, predicate.test.get(COMPRESSED)),
        flips=None if flips is None else len(flips),
        verdict=predicate.verdict.value,
        manifest=sha256_file(folder / MANIFEST_NAME),
        missed=tuple(_in_words(gate) for gate in build.certificate.gates if gate.status != "passed"),
    )


def _in_words(gate: Gate) -> str:
    """A gate that was missed, and by how much."""
    what = f"{gate.name} ({gate.subject}): {gate.quantity}"
    if gate.measured is None:
        return f"{what} not measured: {gate.reason}"
    return f"{what} {gate.measured:.4g}, {gate.bound} {gate.threshold:g}"


def float_reference(folder: Path) -> Reference | None:
    """The float model, from a certified point's files; None where these do not hold its bytes."""
    build = read_build(folder)
    if build.plan is None or build.plan.float_bytes is None:
        return None
    predicate = build.certificate.predicate
    figures = _figures(build, predicate.references.get(FLOAT, {}), predicate.test.get(FLOAT))
    return Reference(name=FLOAT, bytes=build.plan.float_bytes, figures=figures)


def _figures(
    build: BuildFolder, sets: dict[str, Measurement] | dict[str, Measurement | None], test: TestSummary | None
) -> Figures:
    name = build.certificate.predicate.policy.gate.metric
    found: dict[str, float | None] = {"test": None if test is None else test.metrics[name]}
    for part in ("watch", "certify"):
        measured = sets.get(part)
        found[part] = None if measured is None else measured.metrics[name]
    return Figures(**found)
