"""The frontier: one compression downwards that leaves a certified model at each of several budgets.

Each point is a build of its own in a folder named by its budget. From the second on, compression starts from
what the learning phase of the next larger point left, in fewer epochs. A point that fails its gate, or does
not fit the board, costs the others nothing; one that cannot be compressed ends the way down.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sgsc_edge.artifacts import (
    FolderLock,
    content_key,
    output_errors,
    read_json,
    remove_leftovers,
    write_json,
)
from sgsc_edge.boards.description import Board
from sgsc_edge.certification import Certificate
from sgsc_edge.certification.metrics import METRICS, OutputGrid
from sgsc_edge.compression.compress import float_bytes
from sgsc_edge.compression.folding.fold import fold
from sgsc_edge.errors import Interrupted, OutputError, SgscError
from sgsc_edge.pipeline import road
from sgsc_edge.pipeline.context import MANIFEST, Build
from sgsc_edge.pipeline.recording import Judge, compressed_integers
from sgsc_edge.pipeline.stages import STAGES, Stage
from sgsc_edge.preservation.sets import Samples
from sgsc_edge.project import Budget, Project
from sgsc_edge.report import FRONTIER_PAGE, costs_only_the_report, render_frontier, write_page
from sgsc_edge.report.frontier import (
    FRONTIER,
    IN_8_BITS,
    Figures,
    Frontier,
    FrontierPoint,
    Reference,
    float_reference,
    point_of,
)
from sgsc_edge.targets import Target

log = logging.getLogger("sgsc_edge")

_REFERENCE = ".eight_bits.json"


@dataclass(frozen=True)
class Point:
    """One budget's outcome: a certificate, or the error that kept it from being built.

    ``budget``: bytes; ``label``: the budget as it was given, which is the folder's name.
    """

    label: str
    budget: int
    folder: Path
    certificate: Certificate | None = None
    error: SgscError | None = None

    @property
    def exit_code(self) -> int:
        """As a build of its own would have."""
        if self.certificate is not None:
            return self.certificate.exit_code
        return SgscError.exit_code if self.error is None else self.error.exit_code


@dataclass(frozen=True)
class Outcome:
    """A frontier.

    Parameters
    ----------
    overview: what was written; None where no point is certified.
    beside: build folders of earlier runs that lie there, too: of other budgets, or of one alone.
    """

    points: tuple[Point, ...]
    overview: Frontier | None
    beside: tuple[Path, ...]


def has_frontier(project: Project) -> bool:
    """Whether a project asks for several budgets, not all the same, and for the method that takes any."""
    settings = project.config.compress
    return settings.chosen_method() == "sgsc" and len(set(settings.budget or ())) > 1


def build_frontier(project: Project, target: Target, folder: Path, board: Board | None = None) -> Outcome:
    """Build every point of a project with several budgets into ``folder/<budget>/``.

    Points are built from the largest to the smallest; ``frontier.json`` and ``frontier.html`` in ``folder``
    are the overview.

    Raises
    ------
    SgscError: what keeps the first point from being compressed, such as a budget that cannot be met.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        remove_leftovers(folder)
        whole = Build(project, target, folder, board)
        builds = _builds(whole)
        (rehearse,) = (stage for stage in STAGES if stage.name == "rehearse")
        smallest = list(builds.values())[-1]
        with output_errors(smallest.folder):
            smallest.folder.mkdir(parents=True, exist_ok=True)
        with FolderLock(smallest.folder):
            road.make_current(rehearse, smallest)
        points = _descend(builds)
        return Outcome(points, _overview(whole, builds, points), _beside(folder, builds))


def _beside(folder: Path, builds: Mapping[str, Build]) -> tuple[Path, ...]:
    """The builds in a frontier's folder, and that folder itself, that are none of its points."""
    found = sorted(path.parent for path in (*folder.glob(MANIFEST), *folder.glob(f"*/{MANIFEST}")))
    points = {build.folder for build in builds.values()}
    return tuple(path for path in found if path not in points and not path.name.startswith("."))


def _builds(whole: Build) -> dict[str, Build]:
    """A build for each budget by its label, from the largest down; equal ones once."""
    total = float_bytes(whole.model)
    given = whole.project.config.compress.budget or ()
    by_bytes: dict[int, Budget] = {}
    for budget in given:
        first = by_bytes.setdefault(budget.limit(total), budget)
        if first is not budget:
            log.warning(
                "compress: the budgets %s and %s are the same %d bytes; one model is built",
                first.label,
                budget.label,
                budget.limit(total),
            )
    ordered = [by_bytes[limit] for limit in sorted(by_bytes, reverse=True)]
    return {
        budget.label: replace(
            whole,
            project=whole.project.under(budget),
            folder=whole.folder / budget.label,
            frontier=whole,
            rehearsed=budget is not ordered[-1],
        )
        for budget in ordered
    }


def _descend(builds: dict[str, Build]) -> tuple[Point, ...]:
    """Build point after point; after one that cannot be compressed the others are not tried."""
    points: list[Point] = []
    start: Path | None = None
    ended: SgscError | None = None
    for label, this in builds.items():
        budget = this.untrained.goal.budget
        assert budget is not None
        point = Point(label, budget, this.folder)
        if ended is not None:
            points.append(replace(point, error=ended))
            continue
        log.info("%s: %d bytes ...", label, budget)
        this = replace(this, start=start)
        try:
            points.append(replace(point, certificate=road.walk(this, views=False)))
            start = this.folder
        except Interrupted:
            raise
        except SgscError as error:
            start = None if isinstance(error, OutputError) else road.made("compress", this)
            if start is None and not points:
                raise
            log.error("%s: %s", label, error)
            points.append(replace(point, error=error))
            ended = error if start is None else None
    return tuple(points)


def _overview(whole: Build, builds: dict[str, Build], points: Sequence[Point]) -> Frontier | None:
    """Write the overview beside the points, and the curve into each of them, with its report."""
    certified = [point for point in points if point.certificate is not None]
    if not certified:
        return None
    first = builds[certified[0].label]
    references = [float_reference(first.folder), _in_8_bits(first)]
    overview = Frontier(
        project=whole.project.config.project.name,
        target=whole.target.name,
        metric=whole.project.config.gate.metric,
        references=tuple(one for one in references if one is not None),
        points=tuple(_figures(point) for point in points),
    )
    document = overview.model_dump(mode="json")
    for point in certified:
        write_json(point.folder / FRONTIER, document)
        road.show(builds[point.label])
    write_json(whole.folder / FRONTIER, document)
    with costs_only_the_report(whole.folder, FRONTIER_PAGE):
        write_page(whole.folder / FRONTIER_PAGE, render_frontier(overview))
    return overview


def _figures(point: Point) -> FrontierPoint:
    if point.certificate is not None:
        return point_of(point.folder, point.label, point.budget)
    message = None if point.error is None else point.error.message
    return FrontierPoint(label=point.label, budget=point.budget, exit_code=point.exit_code, error=message)


# --- the network in plain 8 bits --------------------------------------------------------------------


def _in_8_bits(build: Build) -> Reference:
    """The network as it is, its ranges calibrated and its weights rounded to 8 bits; measured once."""
    with FolderLock(build.folder):
        road.make_current(Stage("eight bits", (_REFERENCE,), _reference_key, _measure), build)
    return Reference.model_validate(read_json(build.folder / _REFERENCE))


def _reference_key(build: Build) -> str:
    test = build.samples.test.key() if build.samples.test else ""
    metric = build.project.config.gate.metric
    return content_key(
        build.project.source_hash(),
        build.project.config_hash("model"),
        list(build.data.rest.hashes),
        build.untrained.recipe.batch_size,  # of calibration
        build.samples_key,
        test,
        metric,
        {"torch": torch.__version__, "threads": torch.get_num_threads()},
    )


def _measure(build: Build, key: str) -> None:
    compression = build.untrained
    model = compression.calibrated()
    compressed = fold(model)
    grid = OutputGrid(
        float(compressed.output.scale), int(compressed.output.zero_point), model.ends_with_softmax
    )
    judge = Judge(METRICS[build.project.config.gate.metric], grid.probabilities)

    def figure(samples: Samples | None) -> float | None:
        if samples is None:
            return None
        inputs, labels = samples.tensors()
        return judge.value(grid.to_real(compressed_integers(compressed, inputs)), labels.numpy())

    parts = build.samples.parts
    figures = Figures(
        watch=figure(parts["watch"]), certify=figure(parts["certify"]), test=figure(build.samples.test)
    )
    reference = Reference(name=IN_8_BITS, bytes=compression.span()[0], figures=figures)
    write_json(build.folder / _REFERENCE, reference.model_dump(mode="json"))
