"""A preservation set in figures: by part and criterion, and its hardest samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sgsc_edge.preservation.ids import sample_id
from sgsc_edge.preservation.selection import MustKept, Selected, Selection

QUANTILES = (0.1, 0.5, 0.9)
HARDEST = 5
ALL = "all"

_QUANTITIES: Mapping[str, Callable[[Selected], float]] = {
    "saliency": lambda one: one.scores.saliency,
    "uncertainty": lambda one: one.scores.uncertainty,
    "margin": lambda one: one.scores.margin,
    "entropy": lambda one: one.scores.entropy,
}


@dataclass(frozen=True)
class Group:
    """What one criterion, or all of them, chose for one part.

    Parameters
    ----------
    share: of the part's samples.
    classes: labels among them, of sequences lengths; clusters: clusters among them.
    errors: samples that the float model decides wrongly; of sequences, next tokens.
    quantiles: score -> its 10 %, 50 % and 90 % quantiles.
    """

    part: str
    criterion: str
    samples: int
    share: float
    classes: int
    clusters: int
    errors: int
    quantiles: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Kept:
    """The must_keep samples, lowest margins first.

    ``trained_on`` of them may enter a gradient; ``right`` are decided rightly by the float model: only these
    can flip. Of sequences, ``right`` have a next token that is.
    """

    samples: tuple[MustKept, ...]
    is_text: bool

    @property
    def trained_on(self) -> int:
        """How many may enter a gradient."""
        return sum(one.trained_on for one in self.samples)

    @property
    def right(self) -> int:
        """How many the float model decides rightly."""
        if self.is_text:
            return sum(one.prediction > 0 for one in self.samples)
        return sum(one.label == one.prediction for one in self.samples)

    def to_json(self) -> dict[str, Any]:
        """JSON values; samples by hash and id."""
        return {
            "count": len(self.samples),
            "trained_on": self.trained_on,
            "right": self.right,
            "samples": [{**one.model_dump(mode="json"), "id": sample_id(one.hash)} for one in self.samples],
        }


@dataclass(frozen=True)
class Summary:
    """Groups by part and criterion, labels and lowest margins of each part, and the must_keep samples."""

    groups: tuple[Group, ...]
    labels: Mapping[str, Mapping[str, int]]
    uncovered: Mapping[str, tuple[int, ...]]
    hardest: Mapping[str, tuple[Selected, ...]]
    must_keep: Kept

    def to_json(self) -> dict[str, Any]:
        """JSON values; samples by id."""
        hardest = {
            part: [
                {**one.model_dump(mode="json", exclude={"hash", "part"}), "id": sample_id(one.hash)}
                for one in samples
            ]
            for part, samples in self.hardest.items()
        }
        return {
            "groups": [asdict(group) for group in self.groups],
            "labels": self.labels,
            "uncovered": self.uncovered,
            "hardest": hardest,
            "must_keep": self.must_keep.to_json(),
        }


def summarize(selection: Selection) -> Summary:
    """Count and order the samples of a selection.

    ``uncovered`` lists each part's missing labels: those that what it was chosen from has, but it has not.
    """
    parts = ("guide", "watch", "certify")
    labels: dict[str, dict[str, int]] = {}
    uncovered, hardest = {}, {}
    for part in parts:
        samples = selection.part(part)
        own = [one.label for one in samples]
        side = selection.rest if part == "guide" else selection.pool
        labels[part] = {str(label): own.count(label) for label in sorted(set(own))}
        uncovered[part] = tuple(sorted({int(label) for label in side.labels} - set(own)))
        hardest[part] = tuple(sorted(samples, key=lambda one: (one.scores.margin, one.hash))[:HARDEST])
    closest = sorted(selection.must_keep, key=lambda one: (one.margin, one.hash))
    kept = Kept(tuple(closest), selection.is_text)
    return Summary(tuple(_groups(selection, parts)), labels, uncovered, hardest, kept)


def _groups(selection: Selection, parts: Sequence[str]) -> Iterator[Group]:
    for part in parts:
        samples = selection.part(part)
        for criterion in selection.shares:
            chosen = [one for one in samples if one.criterion == criterion]
            if chosen:
                yield _group(part, criterion, chosen, len(samples), is_text=selection.is_text)
        if len(selection.shares) > 1:
            yield _group(part, ALL, samples, len(samples), is_text=selection.is_text)


def _group(part: str, criterion: str, samples: Sequence[Selected], total: int, *, is_text: bool) -> Group:
    quantiles = {
        name: tuple(np.quantile([value(one) for one in samples], QUANTILES).tolist())
        for name, value in _QUANTITIES.items()
    }
    return Group(
        part=part,
        criterion=criterion,
        samples=len(samples),
        share=len(samples) / total,
        classes=len({one.label for one in samples}),
        clusters=len({one.scores.cluster for one in samples}),
        errors=sum(one.label - one.prediction if is_text else one.label != one.prediction for one in samples),
        quantiles=quantiles,
    )
