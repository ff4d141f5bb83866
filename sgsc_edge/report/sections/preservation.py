"""How the preservation set was chosen, and how large its parts are."""

from __future__ import annotations

from dataclasses import dataclass

from sgsc_edge.preservation.summary import ALL, Group, summarize
from sgsc_edge.report.build_folder import BuildFolder
from sgsc_edge.report.text import clean, percent


@dataclass(frozen=True)
class Criterion:
    """One criterion: its name, its share, and what it looks for."""

    name: str
    share: str
    meaning: str


@dataclass(frozen=True)
class GroupRow:
    """What one criterion (or all) chose for one part."""

    part: str
    criterion: str
    samples: int
    share: str
    classes: int
    clusters: int
    errors: int
    margin: str
    whole: bool


@dataclass(frozen=True)
class KeptView:
    """The must_keep samples: how many, trained on, and decided rightly by float."""

    samples: int
    trained_on: int
    right: int


@dataclass(frozen=True)
class PreservationView:
    """``rest`` and ``pool``: different samples that guide, and that watch and certify, were chosen from."""

    random: bool
    seed: int
    criteria: tuple[Criterion, ...]
    groups: tuple[GroupRow, ...]
    rest: int
    pool: int
    float_saw_pool: bool
    must_keep: KeptView | None
    uncovered: tuple[str, ...]


def preservation_view(build: BuildFolder) -> PreservationView | None:
    """From ``preservation.json``; None where the folder does not hold it."""
    selection = build.selection
    if selection is None:
        return None
    summary = summarize(selection)
    closest = (
        "the sequences of which it is least sure (mean of 1 − the largest probability)"
        if build.is_text
        else "its closest decisions (1 − the largest probability)"
    )
    meanings = {
        "saliency": f"the strongest evidence of the float model ({clean(selection.saliency_at)})",
        "uncertainty": closest,
        "diversity": f"every cluster of what {clean(selection.features)} is given, its centre first",
        "random": "by content hash and seed alone",
    }
    kept = summary.must_keep
    return PreservationView(
        random=selection.method == "random",
        seed=selection.seed,
        criteria=tuple(
            Criterion(clean(name), percent(share, 0), meanings.get(name, ""))
            for name, share in selection.shares.items()
        ),
        groups=tuple(map(_row, summary.groups)),
        rest=selection.rest.different,
        pool=selection.pool.different,
        float_saw_pool=build.certificate.predicate.reference_saw_certify,
        must_keep=KeptView(len(kept.samples), kept.trained_on, kept.right) if kept.samples else None,
        uncovered=tuple(f"{part}: {len(labels)}" for part, labels in summary.uncovered.items() if labels),
    )


def _row(group: Group) -> GroupRow:
    return GroupRow(
        part=group.part,
        criterion=clean(group.criterion),
        samples=group.samples,
        share=percent(group.share, 0),
        classes=group.classes,
        clusters=group.clusters,
        errors=group.errors,
        margin=f"{group.quantiles['margin'][1]:.3f}",
        whole=group.criterion == ALL,
    )
