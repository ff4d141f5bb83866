"""``sgsc-edge preserve [PROJECT]``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sgsc_edge.cli.build import SET
from sgsc_edge.cli.output import Command, Result, command_options, table

if TYPE_CHECKING:
    from sgsc_edge.api import Preserved
    from sgsc_edge.preservation.selection import MustKept, Selected
    from sgsc_edge.preservation.summary import Group, Kept


@click.command("preserve", cls=Command)
@click.argument("project", default=".", type=click.Path(path_type=Path))
@click.option(
    "--out",
    default="build",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder for preservation.json and preservation.png.",
)
@click.option("--set", "settings", **SET)
@command_options
def command(project: Path, out: Path, settings: tuple[str, ...]) -> Result:
    """Choose PROJECT's preservation set, as a build does, and show it."""
    from sgsc_edge.api import preserve

    preserved = preserve(project, out=out, settings=settings)
    selection = preserved.selection
    document = {
        "files": [str(path) for path in preserved.files],
        **selection.model_dump(mode="json", exclude={"samples", "must_keep"}),
        **preserved.summary.to_json(),
    }
    return Result(document, _text(preserved))


def _text(preserved: Preserved) -> str:
    selection, summary = preserved.selection, preserved.summary
    head = (
        f"{selection.rest.different} training samples and a pool of {selection.pool.different}; "
        f"saliency: {selection.saliency_at}; clusters: input of {selection.features}"
    )
    text = selection.is_text
    groups = [_TEXT_HEADINGS if text else _HEADINGS, *(_group_row(group) for group in summary.groups)]
    hardest = [
        _TEXT_HARDEST if text else _HARDEST,
        *(_sample_row(one) for samples in summary.hardest.values() for one in samples),
    ]
    missing = [
        f"{part} has no sample of {'length' if text else 'label'} {', '.join(map(str, labels))}: "
        "raise preservation.fraction"
        for part, labels in summary.uncovered.items()
        if labels
    ]
    files = "\n".join(str(path) for path in preserved.files)
    return "\n\n".join([head, table(groups), table(hardest), *_must_keep(summary.must_keep), *missing, files])


_SHOWN_KEPT = 10
_KEPT = ("must_keep sample", "label", "decided", "margin", "part", "trained on", "reason")


def _must_keep(kept: Kept) -> list[str]:
    """How many there are, and the closest decisions among them."""
    count = len(kept.samples)
    if not count:
        return []
    head = (
        f"must_keep: {count} samples ({kept.trained_on} trained on), {kept.right} decided rightly by float; "
        f"the {min(count, _SHOWN_KEPT)} with the lowest margins:"
    )
    return [head, table([_KEPT, *(_kept_row(one) for one in kept.samples[:_SHOWN_KEPT])])]


def _kept_row(one: MustKept) -> tuple[str, ...]:
    decided = (str(one.label), str(one.prediction), f"{one.margin:.3f}")
    trained = "yes" if one.trained_on else "no"
    return (one.hash[:16], *decided, one.part or "-", trained, one.reason.replace("_", " "))


_HEADINGS = (
    *("part", "criterion", "samples", "share", "labels", "clusters", "float wrong"),
    *("1 - max p (10 %, 50 %, 90 %)", "saliency (10 %, 50 %, 90 %)"),
)
_TEXT_HEADINGS = (
    *("part", "criterion", "sequences", "share", "lengths", "clusters", "tokens wrong"),
    *("mean 1 - max p (10 %, 50 %, 90 %)", "saliency (10 %, 50 %, 90 %)"),
)
_TEXT_HARDEST = ("part", "hardest sequence", "tokens", "right", "mean 1 - max p", "mean margin", "chosen for")
_HARDEST = ("part", "hardest sample", "label", "decided", "1 - max p", "margin", "chosen for")


def _group_row(group: Group) -> tuple[str, ...]:
    counts = (group.samples, f"{group.share:.1%}", group.classes, group.clusters, group.errors)
    figures = (
        "  ".join(f"{value:.2g}" for value in group.quantiles[name]) for name in ("uncertainty", "saliency")
    )
    return (group.part, group.criterion, *map(str, counts), *figures)


def _sample_row(one: Selected) -> tuple[str, ...]:
    scores = (f"{one.scores.uncertainty:.3f}", f"{one.scores.margin:.3f}")
    return (one.part, one.hash[:16], str(one.label), str(one.prediction), *scores, ", ".join(one.reasons))
