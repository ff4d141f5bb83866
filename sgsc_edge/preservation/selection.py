"""``preservation.json``: which samples were chosen, by what, and what the float model said about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sgsc_edge.artifacts import read_json, write_json
from sgsc_edge.errors import FileFormatError
from sgsc_edge.preservation.split import ChosenPart

SCHEMA = "sgsc-edge-preservation/3"
_MAX_BYTES = 2**30

Count = Annotated[int, Field(ge=0)]


class _Frozen(BaseModel):
    """Immutable, without unknown keys, silent conversions, NaN or infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SampleScores(_Frozen):
    """What the float model said about a sample.

    Parameters
    ----------
    saliency: Grad-CAM intensity, see ``sgsc_edge.preservation.saliency``.
    uncertainty, margin, entropy: 1 - max p, p of the first class minus the second, and nats; of a sequence
        the means over its labelled next tokens.
    cluster: of the penultimate features; numbered for the training data and for the pool on their own.
    """

    saliency: float
    uncertainty: float
    margin: float
    entropy: float
    cluster: Count


class Selected(_Frozen):
    """One sample of the preservation set.

    Parameters
    ----------
    hash: SHA-256 of the content; its first 16 digits are the id of reports.
    label, prediction: the class, and the float model's decision; of a sequence how many next tokens have a
        label, and how many of these the float model decides rightly.
    criterion: chose it.
    reasons: every criterion that had it among the first choices of its class.
    ranks: its rank within its class by each criterion, from 1.
    """

    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    part: ChosenPart
    label: Count
    prediction: Count
    criterion: str
    reasons: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    ranks: dict[str, Count]
    scores: SampleScores


class MustKept(_Frozen):
    """One sample whose right decision may never flip.

    Parameters
    ----------
    label, prediction: as of :class:`Selected`.
    margin: p of the float model's first class minus p of the second.
    reason: ``lowest_margin``: one of the closest right decisions of the guide part, as many as the user asked
        for; ``named``: by the user's callable.
    part: the part that has the sample too; None where none has.
    trained_on: whether it is among the samples that may enter a gradient.
    """

    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    label: Count
    prediction: Count
    margin: float
    reason: Literal["lowest_margin", "named"]
    part: ChosenPart | None
    trained_on: bool


class SideCounts(_Frozen):
    """What the samples were chosen from: all, different ones, and different ones of each label."""

    samples: Count
    different: Count
    labels: dict[str, Count]


class Selection(_Frozen):
    """A preservation set without its samples' contents.

    Parameters
    ----------
    task: of a language model, samples are sequences.
    shares: criterion -> its share; they add up to 1.
    grad_cam: the layer of Grad-CAM; None where gradient times activation took its place.
    features: the layer whose input was clustered.
    gradient: the layer whose output gradient times activation was taken of; None: the input of ``features``.
    rest, pool: what guide, and what watch and certify, were chosen from.
    samples: by part (guide, watch, certify), then as chosen: by class, the criteria in turn.
    must_keep: by margin, or as the user names them.
    """

    task: Literal["classification", "language-model"] = "classification"
    method: Literal["critical", "random"]
    shares: dict[str, float]
    seed: Count
    grad_cam: str | None
    features: str
    gradient: str | None = None
    rest: SideCounts
    pool: SideCounts
    samples: Annotated[tuple[Selected, ...], Field(strict=False)]
    must_keep: Annotated[tuple[MustKept, ...], Field(strict=False)]

    @property
    def is_text(self) -> bool:
        """Whether the samples are sequences of tokens."""
        return self.task == "language-model"

    @property
    def saliency_at(self) -> str:
        """What saliency is, and where it was taken."""
        if self.grad_cam is not None:
            return f"Grad-CAM at {self.grad_cam}"
        return f"gradient times activation at {self.gradient or self.features}"

    def part(self, name: str) -> tuple[Selected, ...]:
        """The samples of one part."""
        return tuple(sample for sample in self.samples if sample.part == name)


def write_selection(path: Path, selection: Selection) -> None:
    """Write ``preservation.json``; the same selection gives the same bytes."""
    document: Mapping[str, object] = selection.model_dump(mode="json")
    write_json(path, {"schema": SCHEMA, **document})


def read_selection(path: Path) -> Selection:
    """Read ``preservation.json``; ``FileFormatError`` where it is malformed."""
    document = read_json(path, _MAX_BYTES)
    if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
        raise FileFormatError(f"is no {SCHEMA} document", where=str(path), remedy="run preserve again")
    try:
        return Selection.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise FileFormatError(
            f"{place}: {first['msg']}", where=str(path), remedy="run preserve again"
        ) from error
